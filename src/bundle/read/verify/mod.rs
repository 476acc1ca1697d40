//! Verification of opened bundles: every blob against its digest, every image against its references.
//! All faults are found, not only the first.
//!
//! The bytes are checked first ([`hash`], which reads each file once and also computes the SHA-256 of the whole file),
//! then the images ([`images`]), and on request the content of the layers ([`layers`]).

mod docker_list;
mod faults;
mod hash;
mod images;
mod layers;
mod options;
mod result;
mod roots;
mod run;
mod sizes;
mod wrong;

pub use options::VerifyOptions;
pub use result::{Checked, Fault, FaultKind, Verification};
pub use run::verify;
