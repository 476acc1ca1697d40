//! Verification of opened bundles: every blob against its digest, every image against what it names. All faults are found, not
//! only the first.
//!
//! Bytes come first ([`hash`], which reads each file once and also sums it up as a whole), then what the bytes mean ([`images`]),
//! and, where that is wanted, the content of the layers ([`layers`]).

mod faults;
mod hash;
mod images;
mod layers;
mod result;

use super::Bundle;
use super::stream::pipe::Incoming;
use crate::error::Result;
use crate::progress::Progress;
use faults::Faults;
pub use result::{Checked, Fault, FaultKind, Verification};

/// How bundles are verified.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// Whether layers are unpacked and compared with what the configs say of their content.
    pub deep: bool,
    /// Who is told how far it is.
    pub progress: Progress,
}

/// Reads everything through and compares it with what it should be. `rest` is what is still to come out of a pipe.
///
/// # Errors
/// If `rest` breaks the rules of its format, so that nothing behind that place can be read. What is wrong with the bundles
/// otherwise is in the result.
pub fn verify(bundle: &Bundle, rest: Option<Incoming>, options: &VerifyOptions) -> Result<Verification> {
    let mut faults = Faults::new(bundle.budget());
    faults.add_unreadable(bundle);
    let progress = &options.progress;
    let hashed = match rest {
        None => hash::read_all(hash::places(bundle), progress),
        Some(rest) => hash::read_pipe(bundle, rest, progress)?,
    };
    let mut checked = hashed.checked;
    checked.members += bundle.parts.documents;
    checked.images = bundle.parts.images.len() as u64;
    let mut files = bundle.parts.store.sums.clone();
    files.extend(hashed.files.iter().cloned());
    let (label, tar_faults) = &hashed.tar_faults;
    faults.add_tar(label, tar_faults);
    faults.add_wrong(&hashed.wrong);
    let content = images::check(bundle, &hashed, options.deep, &mut faults);
    if options.deep {
        let (layers, bytes) = layers::check(bundle, content, &mut faults, progress);
        checked.layers_unpacked = layers;
        checked.unpacked_bytes = bytes;
    }
    let mut warnings = bundle.parts.warnings.clone();
    warnings.append(hashed.warnings);
    let nameless = bundle.parts.broken.iter().filter(|image| faults::lacks_a_name(image));
    warnings.extend(nameless.map(|image| format!("{}; only its bytes were checked", image.error.full())));
    Ok(faults.into_verification(files, checked, warnings))
}
