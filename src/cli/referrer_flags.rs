//! Flags that select signatures, attestations, SBOMs and other referrers, shared by the commands that move images.

use clap::Args;
use docker_mirror::{ReferrerChoice, Result};

/// Flags that select referrers.
#[derive(Debug, Clone, Args)]
pub(super) struct ReferrerFlags {
    /// Leave out what belongs to images: signatures, attestations, SBOMs and whatever else refers to them
    #[arg(long, conflicts_with = "referrers")]
    no_referrers: bool,

    /// Of what belongs to images carry only artifacts of this type, such as 'application/vnd.dev.sigstore.*'; repeatable.
    /// `require` makes it an error if there is nothing [default: everything]
    #[arg(long, value_name = "TYPE")]
    referrers: Vec<String>,
}

impl ReferrerFlags {
    pub(super) fn choice(&self) -> Result<ReferrerChoice> {
        match self.no_referrers {
            true => Ok(ReferrerChoice::default()),
            false => ReferrerChoice::from_flags(&self.referrers),
        }
    }
}
