//! Manifests that may be absent: signatures of an image, and lists of referrers.

use super::Registry;
use super::pull::manifest_of;
use super::types::TagLookup;
use crate::error::{Error, Kind, Result};
use crate::image::manifest::RawManifest;
use crate::image::reference::Target;

impl Registry {
    /// Reads a manifest that may be absent; `None` if no source has it.
    /// Mirrors are asked before the registry.
    ///
    /// # Errors
    /// Those of [`manifest`](Self::manifest), except [`Kind::NotFound`].
    pub(crate) async fn find_manifest(
        &self,
        repository: &str,
        target: &Target,
        lookup: TagLookup,
    ) -> Result<Option<RawManifest>> {
        let cache = self.host.context.cache.as_ref();
        if let (Some(cache), Target::Digest(digest)) = (cache, target)
            && let Some(manifest) = cache.get(digest)
        {
            return Ok(Some(manifest));
        }
        let (mut found, error) = self.read_places(repository, target, lookup, 1).await?;
        match (found.pop(), error) {
            (Some(manifest), _) => Ok(Some(manifest)),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(None),
        }
    }

    /// Reads a tag from all sources of a repository, since each may have other content under it. Returns the different manifests,
    /// those of mirrors first, and the error of the last source, if it cannot be read.
    ///
    /// # Errors
    /// [`Kind::Denied`] if this machine's configuration blocks the repository.
    pub(crate) async fn find_manifests(
        &self,
        repository: &str,
        tag: &Target,
    ) -> Result<(Vec<RawManifest>, Option<Error>)> {
        self.read_places(repository, tag, TagLookup::HeadFirst, usize::MAX)
            .await
    }

    /// Reads a tag from one source after the other until `most` different manifests are found. The error is that of the last source.
    async fn read_places(
        &self,
        repository: &str,
        target: &Target,
        lookup: TagLookup,
        most: usize,
    ) -> Result<(Vec<RawManifest>, Option<Error>)> {
        let mut found: Vec<RawManifest> = Vec::new();
        let mut any_answer = false;
        let mut places = self.places(repository, target)?;
        while found.len() < most
            && let Some(place) = places.pop_front()
        {
            let read = match lookup {
                TagLookup::HeadFirst => manifest_of(&place, target).await,
                TagLookup::Direct => place.host.manifest(&place.repository, target).await,
            };
            let error = match read {
                Ok(manifest) => {
                    any_answer = true;
                    if let Some(cache) = &self.host.context.cache {
                        cache.put(&manifest);
                    }
                    if found.iter().all(|known| known.digest() != manifest.digest()) {
                        found.push(manifest);
                    }
                    continue;
                }
                Err(error) if error.kind() == Kind::NotFound => {
                    any_answer = true;
                    continue;
                }
                Err(error) => error,
            };
            match places.front() {
                Some(next) => place.host.warn_about_fallback(&error, &next.host.name),
                // The request for the referrers already reported that the registry behind the mirror is unreachable.
                None if any_answer && error.kind() == Kind::Network => {}
                None => return Ok((found, Some(error))),
            }
        }
        Ok((found, None))
    }

    /// Reads a tag's manifest from the registry itself, with its `ETag`; `None` if the tag does not exist.
    ///
    /// # Errors
    /// Those of [`manifest`](Self::manifest), except [`Kind::NotFound`].
    pub(crate) async fn manifest_and_etag(
        &self,
        repository: &str,
        target: &Target,
    ) -> Result<Option<(RawManifest, Option<String>)>> {
        match self.origin(repository)?.manifest_and_etag(repository, target).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns whether manifests of a repository are also read from hosts other than the registry.
    pub(crate) fn has_mirrors(&self, repository: &str, target: &Target) -> Result<bool> {
        let places = self.places(repository, target)?;
        Ok(places.len() > 1 || places.iter().any(|place| place.host.name != self.host.name))
    }
}
