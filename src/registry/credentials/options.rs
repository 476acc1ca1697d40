//! Sources of credentials.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::key::canonical;
use super::secret::Secret;
use crate::text::quote;

/// Sources of credentials in lookup order: the login, then each file.
#[derive(Debug, Clone, Default)]
pub struct CredentialOptions {
    /// User name and password that take precedence over every file.
    pub login: Option<Login>,
    /// Logins of single hosts; each takes precedence over every file.
    pub host_logins: Vec<HostLogin>,
    /// Credential files in lookup order; the first file with a credential wins.
    pub files: Vec<CredentialFile>,
    /// Folders with credential helper programs. Empty: the system's program search path.
    pub helper_directories: Vec<PathBuf>,
    /// Time limit of a credential helper; 60 seconds if `None`.
    pub helper_timeout: Option<Duration>,
    /// Reasons for the absence of an expected login, for the message that no login was found.
    pub remarks: Vec<String>,
}

/// A user name and password given for this run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The only `HOST[:PORT]` that may receive the login; `None` for every host.
    pub host: Option<String>,
    /// User name.
    pub username: String,
    /// Password.
    pub password: Secret,
    /// Flag or variable that gave the login, for messages.
    pub origin: String,
}

/// The login of one host.
/// The host's name is spelled as in an environment variable: `REGISTRY_EXAMPLE_COM_5000`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLogin {
    /// Host.
    pub host: String,
    /// User name.
    pub username: String,
    /// Password.
    pub password: Secret,
    /// Variable that gave the login, for messages.
    pub origin: String,
}

impl HostLogin {
    /// Returns whether the login is for this `HOST[:PORT]`.
    pub fn is_for(&self, host: &str) -> bool {
        Self::spell(host) == self.host.to_ascii_uppercase()
    }

    /// Returns a `HOST[:PORT]` as environment variables spell it: `GHCR_IO` for `ghcr.io`.
    pub fn spell(host: &str) -> String {
        let spell = |c: char| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_uppercase()
            } else {
                '_'
            }
        };
        canonical(host).chars().map(spell).collect()
    }
}

/// A file with credentials, or a variable with the content of such a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialFile {
    pub(super) place: FileLocation,
    pub(super) format: FileFormat,
}

/// Location of a credential file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FileLocation {
    /// A file at a default path: it may be absent, and is read when a credential is first looked up.
    Ordinary(PathBuf),
    /// A file named by a flag or variable: it must exist, and is read before the first request.
    Named { path: PathBuf, by: String },
    /// A variable with the content of a file.
    Variable { name: String, text: Secret },
}

/// Format of a credential file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
    /// `config.json` of Docker and `auth.json` of Podman: `auths`, `credHelpers`, `credsStore`.
    Config,
    /// `.dockercfg`: only the content of `auths`.
    Legacy,
}

impl CredentialFile {
    /// Creates a file named by a flag or variable, which must exist.
    pub fn named(path: impl Into<PathBuf>, by: impl Into<String>) -> Self {
        Self {
            place: FileLocation::Named {
                path: path.into(),
                by: by.into(),
            },
            format: FileFormat::Config,
        }
    }

    /// Creates a file at a default path, which may be absent.
    pub fn ordinary(path: impl Into<PathBuf>, format: FileFormat) -> Self {
        Self {
            place: FileLocation::Ordinary(path.into()),
            format,
        }
    }

    /// Creates a variable with the content of a `config.json`.
    pub fn variable(name: impl Into<String>, text: Secret) -> Self {
        Self {
            place: FileLocation::Variable {
                name: name.into(),
                text,
            },
            format: FileFormat::Config,
        }
    }

    fn path(&self) -> Option<&Path> {
        match &self.place {
            FileLocation::Ordinary(path) | FileLocation::Named { path, .. } => Some(path),
            FileLocation::Variable { .. } => None,
        }
    }

    /// Returns the path, or the variable's name, as the source of a login in messages.
    pub(super) fn name(&self) -> String {
        match &self.place {
            FileLocation::Ordinary(path) | FileLocation::Named { path, .. } => format!("`{}`", quote(&path)),
            FileLocation::Variable { name, .. } => format!("`{name}`"),
        }
    }

    /// Returns the name with a noun, for messages about a fault of the file.
    pub(super) fn title(&self) -> String {
        let noun = match &self.place {
            FileLocation::Variable { .. } => "the variable",
            _ => "credential file",
        };
        format!("{noun} {}", self.name())
    }
}

impl CredentialOptions {
    /// Returns the files that container tools use by default in this environment.
    ///
    /// In this order: `$DOCKER_MIRROR_AUTH_FILE` and `$REGISTRY_AUTH_FILE`, which must exist if they are set; the variable
    /// `DOCKER_AUTH_CONFIG`, which contains a file's content (GitLab CI, Docker); Podman's `containers/auth.json` in the
    /// run-time folder and the configuration folder; Docker's `config.json` in `$DOCKER_CONFIG`, or else in `~/.docker`; and
    /// `~/.dockercfg`. An empty variable counts as not set. Credential helpers are looked for in the folders of `PATH`.
    pub fn standard(env: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let path = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = path("HOME");
        let in_home = |below: &str| home.as_ref().map(|home| home.join(below));
        let podman = |folder: PathBuf| folder.join("containers/auth.json");

        let mut ordinary = Vec::new();
        match (path("XDG_RUNTIME_DIR"), user_id()) {
            (Some(folder), _) => ordinary.push(podman(folder)),
            // Podman falls back to the first of these paths; a session of the same user has its file at the second.
            (None, Some(user)) => {
                ordinary.push(PathBuf::from(format!("/run/containers/{user}/auth.json")));
                ordinary.push(podman(PathBuf::from(format!("/run/user/{user}"))));
            }
            (None, None) => (),
        }
        ordinary.extend(path("XDG_CONFIG_HOME").map(podman));
        ordinary.extend(in_home(".config").map(podman));
        ordinary.extend(
            path("DOCKER_CONFIG")
                .or_else(|| in_home(".docker"))
                .map(|folder| folder.join("config.json")),
        );

        let named = ["DOCKER_MIRROR_AUTH_FILE", "REGISTRY_AUTH_FILE"];
        let named = named
            .into_iter()
            .filter_map(|name| Some(CredentialFile::named(path(name)?, name)));
        let variable = "DOCKER_AUTH_CONFIG";
        let text = env(variable).filter(|value| !value.is_empty());
        // Text that is not UTF-8 is not valid JSON either, and the parser refuses it.
        let text = text.map(|text| Secret::new(text.to_string_lossy().into_owned()));
        let mut files: Vec<CredentialFile> = Vec::new();
        for file in named
            .chain(text.map(|text| CredentialFile::variable(variable, text)))
            .chain(
                ordinary
                    .into_iter()
                    .map(|path| CredentialFile::ordinary(path, FileFormat::Config)),
            )
            .chain(in_home(".dockercfg").map(|path| CredentialFile::ordinary(path, FileFormat::Legacy)))
        {
            if !files
                .iter()
                .any(|known| known.path().is_some() && known.path() == file.path())
            {
                files.push(file);
            }
        }
        let path = env("PATH").unwrap_or_default();
        Self {
            files,
            helper_directories: std::env::split_paths(&path)
                .filter(|folder| !folder.as_os_str().is_empty())
                .collect(),
            ..Self::default()
        }
    }
}

/// Returns the user ID of this process, if `/proc` shows it (Linux).
fn user_id() -> Option<u32> {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata("/proc/self").ok().map(|metadata| metadata.uid())
    }
    #[cfg(not(target_os = "linux"))]
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standard(env: &[(&str, &str)]) -> Vec<(String, bool, FileFormat)> {
        let options = CredentialOptions::standard(&|name| {
            env.iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| OsString::from(value))
        });
        assert_eq!(options.login, None);
        options
            .files
            .into_iter()
            .map(|file| match file.place {
                FileLocation::Ordinary(path) => (path.display().to_string(), false, file.format),
                FileLocation::Named { path, .. } => (path.display().to_string(), true, file.format),
                FileLocation::Variable { name, .. } => (name, false, file.format),
            })
            .collect()
    }

    #[test]
    fn order_of_files() {
        let all = standard(&[
            ("DOCKER_MIRROR_AUTH_FILE", "/own.json"),
            ("REGISTRY_AUTH_FILE", "/registry.json"),
            ("DOCKER_AUTH_CONFIG", "{}"),
            ("XDG_RUNTIME_DIR", "/run/user/7"),
            ("XDG_CONFIG_HOME", "/xdg"),
            ("DOCKER_CONFIG", "/docker"),
            ("HOME", "/home/u"),
        ]);
        let expected = [
            ("/own.json", true),
            ("/registry.json", true),
            ("DOCKER_AUTH_CONFIG", false),
            ("/run/user/7/containers/auth.json", false),
            ("/xdg/containers/auth.json", false),
            ("/home/u/.config/containers/auth.json", false),
            ("/docker/config.json", false),
            ("/home/u/.dockercfg", false),
        ];
        assert_eq!(all.len(), expected.len(), "{all:?}");
        for ((path, required, format), (expected_path, expected_required)) in all.iter().zip(expected) {
            assert_eq!((path.as_str(), *required), (expected_path, expected_required));
            assert_eq!(*format == FileFormat::Legacy, path.ends_with(".dockercfg"));
        }
    }

    #[test]
    fn what_is_not_set_or_empty_or_the_same_adds_nothing() {
        let paths = |env: &[(&str, &str)]| -> Vec<String> {
            standard(env)
                .into_iter()
                .map(|(path, ..)| path)
                .filter(|path| !path.starts_with("/run/"))
                .collect()
        };
        assert_eq!(paths(&[]), [""; 0]);
        assert_eq!(
            paths(&[
                ("HOME", "/h"),
                ("XDG_CONFIG_HOME", "/h/.config"),
                ("DOCKER_CONFIG", ""),
                ("DOCKER_AUTH_CONFIG", ""),
                ("REGISTRY_AUTH_FILE", "")
            ]),
            [
                "/h/.config/containers/auth.json",
                "/h/.docker/config.json",
                "/h/.dockercfg"
            ]
        );
    }
}
