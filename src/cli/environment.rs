//! What the command line takes from its surroundings, and which side of a transfer it is for.

use std::ffi::OsString;
use std::path::PathBuf;

use super::plugin;

/// Which end of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Where images are read.
    Source,
    /// Where images are put.
    Destination,
}

impl Side {
    /// The flag of this name that is for this side alone.
    pub(super) fn flag(self, name: &str) -> String {
        match self {
            Self::Source => format!("--src-{name}"),
            Self::Destination => format!("--dest-{name}"),
        }
    }
}

/// An environment variable; the one place that reads it. `docker --config FOLDER mirror` stands for `DOCKER_CONFIG`.
pub(super) fn variable(name: &str) -> Option<OsString> {
    match name {
        "DOCKER_CONFIG" => plugin::config_folder()
            .map(OsString::from)
            .or_else(|| std::env::var_os(name)),
        _ => std::env::var_os(name),
    }
}

/// The names of the environment variables that begin like this, in order.
pub(super) fn variables_with(prefix: &str) -> Vec<String> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
    names.sort();
    names
}

/// Whether an environment variable is set and not empty.
pub(super) fn is_set(name: &str) -> bool {
    variable(name).is_some_and(|value| !value.is_empty())
}

/// Whether a variable that stands for a switch turns it on.
pub(super) fn is_true(name: &str) -> bool {
    let value = variable(name).map(|value| value.to_string_lossy().to_lowercase());
    value.is_some_and(|value| !["", "0", "n", "no", "f", "false", "off"].contains(&&*value))
}

/// The path in a variable that is set and not empty.
pub(super) fn set_path(name: &str) -> Option<PathBuf> {
    variable(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// `$XDG_CACHE_HOME/docker-mirror`, else `~/.cache/docker-mirror`.
pub(super) fn cache_folder() -> Option<PathBuf> {
    set_path("XDG_CACHE_HOME")
        .or_else(|| set_path("HOME").map(|home| home.join(".cache")))
        .map(|folder| folder.join("docker-mirror"))
}
