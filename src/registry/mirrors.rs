//! Placeholder with the agreed signatures; the mirrors room replaces it.

/// Where else than at the origin a pull may go.
#[derive(Debug, Clone, Default)]
pub struct Mirrors {}

/// One mirror of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Scheme, host and port.
    pub base: reqwest::Url,
    /// What stands before the repository on the mirror, without slashes at its ends; may be empty.
    pub path_prefix: String,
}

impl Mirrors {
    /// The mirrors to try for a repository, best first.
    pub fn of(&self, _host: &str, _repository: &str) -> Vec<Endpoint> {
        Vec::new()
    }
}
