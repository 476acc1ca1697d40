//! Flags that say how registries are reached, shared by all commands.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use docker_mirror::error::Result;
use docker_mirror::progress::Progress;
use docker_mirror::registry::credentials::{CredentialFile, CredentialOptions};
use docker_mirror::registry::tls::TlsOptions;
use docker_mirror::registry::{Options, Registries};

/// Flags of every command.
#[derive(Debug, Clone, Args)]
pub(super) struct Shared {
    /// Say more: finished blobs and digests; twice: every request and answer
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,

    /// Transfers in flight
    #[arg(short, long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) jobs: u16,

    /// Talk http to registries (localhost and 127.0.0.1 need no flag)
    #[arg(long, help_heading = "Connection")]
    pub(super) plain_http: bool,

    /// Accept any certificate of a registry
    #[arg(long, help_heading = "Connection")]
    insecure: bool,

    /// Trust this certificate authority too, or this very certificate (PEM); repeatable
    #[arg(long, value_name = "FILE", help_heading = "Connection")]
    ca_file: Vec<PathBuf>,

    /// The certificate (PEM) to show to registries that ask for one
    #[arg(long, value_name = "FILE", requires = "key", help_heading = "Connection")]
    cert: Option<PathBuf>,

    /// The key (PEM) of that certificate
    #[arg(long, value_name = "FILE", requires = "cert", help_heading = "Connection")]
    key: Option<PathBuf>,

    /// Look credentials up in this file only, of the form of ~/.docker/config.json
    #[arg(long, value_name = "FILE", help_heading = "Connection")]
    auth_file: Option<PathBuf>,

    /// How often a request is tried again that failed for a passing reason
    #[arg(long, value_name = "N", default_value_t = 5, help_heading = "Connection")]
    retries: u32,

    /// How long a connection may take to come about, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, help_heading = "Connection",
          value_parser = clap::value_parser!(u64).range(1..))]
    connect_timeout: u64,

    /// How long a transfer may go without a byte, in seconds; the whole may take as long as it takes
    #[arg(long, value_name = "SECONDS", default_value_t = 60, help_heading = "Connection",
          value_parser = clap::value_parser!(u64).range(1..))]
    stall_timeout: u64,

    /// Keep no manifests from run to run (they save pulls where a registry counts them)
    #[arg(long, help_heading = "Connection")]
    no_cache: bool,
}

impl Shared {
    pub(super) fn jobs(&self) -> usize {
        usize::from(self.jobs)
    }

    pub(super) fn registries(&self, progress: Progress) -> Result<Registries> {
        Registries::new(Options {
            plain_http: self.plain_http,
            credentials: self.credentials(),
            tls: TlsOptions {
                ca_files: self.ca_file.clone(),
                client_certificate: self.cert.clone().zip(self.key.clone()),
                certs_dirs: TlsOptions::standard_certs_dirs(&variable),
                insecure: self.insecure,
                ..TlsOptions::default()
            },
            jobs: Some(self.jobs()),
            retries: Some(self.retries),
            connect_timeout: Some(Duration::from_secs(self.connect_timeout)),
            stall_timeout: Some(Duration::from_secs(self.stall_timeout)),
            manifest_cache: if self.no_cache { None } else { cache_folder() },
            progress,
            ..Options::default()
        })
    }

    fn credentials(&self) -> CredentialOptions {
        let standard = CredentialOptions::standard(&variable);
        match &self.auth_file {
            Some(path) => CredentialOptions {
                files: vec![CredentialFile::named(path)],
                ..standard
            },
            None => standard,
        }
    }
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// `$XDG_CACHE_HOME/docker-mirror`, else `~/.cache/docker-mirror`.
fn cache_folder() -> Option<PathBuf> {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("XDG_CACHE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".cache")))
        .map(|folder| folder.join("docker-mirror"))
}
