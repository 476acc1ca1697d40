//! Requests for the pull quota of a registry.

use super::Registry;
use super::limits::RateLimit;
use super::retry::Backoff;
use super::types::Presence;
use crate::error::{Error, Kind, Result};
use crate::image::reference::Target;

impl Registry {
    /// Returns the pull quota, read from a HEAD of a manifest, which does not count as a pull.
    /// `None` for a registry without a quota.
    pub async fn rate_limit(&self, repository: &str, target: &Target) -> Result<Option<RateLimit>> {
        let host = self.origin(repository)?;
        // No retry: a registry whose quota is used up states so in its first answer.
        let found = match host
            .head_manifest_within(repository, target, &mut Backoff::none())
            .await
        {
            Err(error) if error.kind() == Kind::RateLimited && host.rate_limit().is_some() => {
                return Ok(host.rate_limit());
            }
            found => found?,
        };
        if let (Presence::Unknown, None) = (&found, host.rate_limit()) {
            let what = format!(
                "`{}` did not answer whether it has `{target}` in `{repository}`",
                host.name
            );
            return Err(Error::new(Kind::Server, what)
                .with_hint("ask the registry itself: `docker-mirror limits HOST`; `-vv` shows what it answers"));
        }
        if let Presence::Missing = found {
            return Err(Error::new(
                Kind::NotFound,
                format!("`{}/{repository}` has no `{target}`", self.host()),
            ));
        }
        Ok(host.rate_limit())
    }

    /// Returns the pull quota, read from the registry's root.
    /// `None` if the root states none; some registries, such as Docker Hub, state their quota only with a manifest.
    ///
    /// # Errors
    /// Those of an unreachable registry. A registry that wants credentials counts as reached.
    pub async fn rate_limit_of_root(&self) -> Result<Option<RateLimit>> {
        self.host.ping().await?;
        Ok(self.host.rate_limit())
    }

    /// Returns the pull quota that the registry last reported.
    pub fn last_rate_limit(&self) -> Option<RateLimit> {
        self.host.rate_limit()
    }
}
