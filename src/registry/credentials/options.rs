//! Where credentials are looked for.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::secret::Secret;

/// Where credentials are looked for, and in which order: the login, then each file.
#[derive(Debug, Clone, Default)]
pub struct CredentialOptions {
    /// A user name and password that beat every file.
    pub login: Option<Login>,
    /// Credential files in lookup order; the first that has a credential wins.
    pub files: Vec<CredentialFile>,
    /// Folders with credential helper programs. Empty: where the system finds programs.
    pub helper_directories: Vec<PathBuf>,
    /// How long a credential helper may take; 60 seconds where `None`.
    pub helper_timeout: Option<Duration>,
}

/// A user name and password that somebody gave for this run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The only `HOST[:PORT]` that may see it; `None` for every host that is asked for.
    pub host: Option<String>,
    /// The user name.
    pub username: String,
    /// The password.
    pub password: Secret,
}

/// One credential file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialFile {
    /// Where it is.
    pub path: PathBuf,
    /// How it is written.
    pub format: FileFormat,
    /// Whether somebody named it: then it is an error that it is missing.
    pub required: bool,
}

/// How a credential file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
    /// `config.json` of Docker and `auth.json` of Podman: `auths`, `credHelpers`, `credsStore`.
    Config,
    /// `.dockercfg`: the content of `auths` alone.
    Legacy,
}

impl CredentialFile {
    /// A file that somebody named: it has to be there.
    pub fn named(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            format: FileFormat::Config,
            required: true,
        }
    }

    /// A file at an ordinary place: it may be missing.
    pub fn ordinary(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            format: FileFormat::Config,
            required: false,
        }
    }
}

impl CredentialOptions {
    /// The files that container tools ordinarily use, as this environment names them.
    ///
    /// In this order: `$DOCKER_MIRROR_AUTH_FILE` and `$REGISTRY_AUTH_FILE`, which have to exist where they are set;
    /// Podman's `containers/auth.json` in the run-time and the configuration folder; Docker's `config.json` in
    /// `$DOCKER_CONFIG`, else in `~/.docker`; and `~/.dockercfg`. A variable that is empty counts as not set.
    pub fn standard(env: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let path = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = path("HOME");
        let in_home = |below: &str| home.as_ref().map(|home| home.join(below));
        let podman = |folder: PathBuf| folder.join("containers/auth.json");

        let mut ordinary = Vec::new();
        match (path("XDG_RUNTIME_DIR"), user_id()) {
            (Some(folder), _) => ordinary.push(podman(folder)),
            // Podman falls back to the first of these; the second is where a session of the same user has it.
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

        let named = ["DOCKER_MIRROR_AUTH_FILE", "REGISTRY_AUTH_FILE"]
            .into_iter()
            .filter_map(path);
        let mut files: Vec<CredentialFile> = Vec::new();
        for file in named
            .map(CredentialFile::named)
            .chain(ordinary.into_iter().map(CredentialFile::ordinary))
            .chain(in_home(".dockercfg").map(|path| CredentialFile {
                path,
                format: FileFormat::Legacy,
                required: false,
            }))
        {
            if !files.iter().any(|known| known.path == file.path) {
                files.push(file);
            }
        }
        Self {
            files,
            ..Self::default()
        }
    }
}

/// The number of the user that runs this, where the system shows it in its file system (Linux).
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
            .map(|file| (file.path.display().to_string(), file.required, file.format))
            .collect()
    }

    #[test]
    fn order_of_files() {
        let all = standard(&[
            ("DOCKER_MIRROR_AUTH_FILE", "/own.json"),
            ("REGISTRY_AUTH_FILE", "/registry.json"),
            ("XDG_RUNTIME_DIR", "/run/user/7"),
            ("XDG_CONFIG_HOME", "/xdg"),
            ("DOCKER_CONFIG", "/docker"),
            ("HOME", "/home/u"),
        ]);
        let expected = [
            ("/own.json", true),
            ("/registry.json", true),
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
