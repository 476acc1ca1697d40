//! Flags that say how registries are reached, shared by all commands.

use clap::Args;
use docker_mirror::error::Result;
use docker_mirror::progress::Progress;
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
    #[arg(long)]
    pub(super) plain_http: bool,
}

impl Shared {
    pub(super) fn jobs(&self) -> usize {
        usize::from(self.jobs)
    }

    pub(super) fn registries(&self, progress: Progress) -> Result<Registries> {
        Registries::new(Options {
            plain_http: self.plain_http,
            jobs: Some(self.jobs()),
            progress,
            ..Options::default()
        })
    }
}
