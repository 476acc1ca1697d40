//! Environment variables, and the side of a transfer that a setting is for.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::OnceLock;

use super::plugin;

/// One end of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The registries that images are read from.
    Source,
    /// The registry that images are pushed to.
    Destination,
}

impl Side {
    /// Returns the form of the flag `name` for this side alone, such as `--src-cert`.
    pub(super) fn flag(self, name: &str) -> String {
        match self {
            Self::Source => format!("--src-{name}"),
            Self::Destination => format!("--dest-{name}"),
        }
    }
}

/// Reads an environment variable. `docker --config FOLDER mirror` takes precedence over `DOCKER_CONFIG`.
pub(super) fn variable(name: &str) -> Option<OsString> {
    match name {
        "DOCKER_CONFIG" => plugin::config_folder()
            .map(OsString::from)
            .or_else(|| std::env::var_os(name)),
        _ => std::env::var_os(name),
    }
}

/// Returns the names of the environment variables that begin with `prefix`, sorted.
pub(super) fn variables_with(prefix: &str) -> Vec<String> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
    names.sort();
    names
}

/// Returns whether an environment variable is set and not empty.
pub(super) fn is_set(name: &str) -> bool {
    variable(name).is_some_and(|value| !value.is_empty())
}

/// Returns whether an environment variable holds a true value: anything but an empty string, `0`, `no`, `false` or `off`.
pub(super) fn is_true(name: &str) -> bool {
    let value = variable(name).map(|value| value.to_string_lossy().to_lowercase());
    value.is_some_and(|value| !["", "0", "n", "no", "f", "false", "off"].contains(&&*value))
}

/// Returns the path in an environment variable, if the variable is set and not empty.
pub(super) fn set_path(name: &str) -> Option<PathBuf> {
    variable(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Returns `$XDG_CACHE_HOME/docker-mirror`, or `~/.cache/docker-mirror` if the variable is unset.
pub(super) fn cache_folder() -> Option<PathBuf> {
    set_path("XDG_CACHE_HOME")
        .or_else(|| set_path("HOME").map(|home| home.join(".cache")))
        .map(|folder| folder.join("docker-mirror"))
}

/// A flag whose value comes from its environment variable.
#[derive(Debug)]
pub(super) struct FromVariable {
    /// The flag, with its dashes.
    pub(super) flag: String,
    pub(super) variable: String,
    pub(super) values: Vec<String>,
}

/// The flags of this process whose values come from variables.
static FROM_VARIABLES: OnceLock<Vec<FromVariable>> = OnceLock::new();

/// Sets the flags of this process whose values come from variables, once.
pub(super) fn set_from_variables(all: Vec<FromVariable>) {
    let _ = FROM_VARIABLES.set(all);
}

/// Returns the flags of this process whose values come from variables.
pub(super) fn from_variables() -> &'static [FromVariable] {
    FROM_VARIABLES.get().map(Vec::as_slice).unwrap_or_default()
}
