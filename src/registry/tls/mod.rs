//! TLS: trusted servers, and client certificates.
//!
//! The configuration is built here and passed to the HTTP client as a whole, so that a machine without any certificate
//! authority still reaches registries over http, and nothing is installed for the whole process.

mod certs_d;
mod client_auth;
mod config;
mod pem;
mod system;
mod verify;

pub use self::system::SystemAuthorities;
pub use config::{Authorities, ClientCertificate, TlsOptions, client_config};
