//! Lists of the referrers of a manifest. See OCI distribution-spec, "Listing Referrers".

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::Registry;
use super::host::Host;
use super::list::{Pages, Seen};
use super::types::Referrers;
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::head::check_media_type;
use crate::image::json::Capped;
use crate::image::reference::Target;

impl Registry {
    /// Returns at most `at_most` referrers of a manifest (signatures, attestations), each once.
    ///
    /// Returns `None` if the registry has no referrers API; that is remembered for each repository, until the registry answers
    /// for another manifest. Mirrors are asked as well as the registry, since the list of a cache may be older.
    ///
    /// # Errors
    /// Those of [`tags`](Self::tags): a refusal or failure does not mean that the manifest has no referrers.
    pub async fn referrers(&self, repository: &str, subject: &Digest, at_most: usize) -> Result<Option<Referrers>> {
        self.list_referrers(repository, subject, at_most, false).await
    }

    /// Returns the referrers of a manifest as [`referrers`](Self::referrers) does, for a copy that may lose none of them.
    ///
    /// After the run, [`doubt_about_referrers`](Self::doubt_about_referrers) says whether `None` was right.
    ///
    /// # Errors
    /// Those of [`referrers`](Self::referrers); [`Kind::Unsupported`] if the registry answers twice as if it had no such list, and
    /// lists the referrers of other manifests of the repository.
    pub(crate) async fn all_referrers(
        &self,
        repository: &str,
        subject: &Digest,
        at_most: usize,
    ) -> Result<Option<Referrers>> {
        self.list_referrers(repository, subject, at_most, true).await
    }

    /// Returns whether the referrers of the manifests of a repository have to be requested again, since the registry turned out
    /// to have the referrers API after [`all_referrers`](Self::all_referrers) returned `None` for one of them.
    ///
    /// `since` is 0 for manifests that were requested once, or else what the last call returned before they were requested again.
    /// Returns `None` without doubt.
    ///
    /// # Errors
    /// [`Kind::Denied`] if the configuration blocks the repository.
    pub(crate) fn doubt_about_referrers(&self, repository: &str, subject: &Digest, since: u64) -> Result<Option<u64>> {
        let places = self.places(repository, &Target::Digest(subject.clone()))?;
        let last = places.back();
        Ok(last.and_then(|place| place.host.referrers_answers.doubt(&place.repository, since)))
    }

    async fn list_referrers(
        &self,
        repository: &str,
        subject: &Digest,
        at_most: usize,
        is_strict: bool,
    ) -> Result<Option<Referrers>> {
        let mut places = self.places(repository, &Target::Digest(subject.clone()))?;
        let mut known: Option<Referrers> = None;
        let mut any_answer = false;
        while let Some(place) = places.pop_front() {
            // What a mirror does not list may be listed by the registry behind it.
            let is_strict = is_strict && places.is_empty();
            let list = place.host.referrers(&place.repository, subject, at_most, is_strict);
            let error = match list.await {
                Ok(found) => {
                    any_answer = true;
                    match (&mut known, found) {
                        (Some(known), Some(found)) => known.add(found, at_most),
                        (known, found) => *known = known.take().or(found),
                    }
                    continue;
                }
                Err(error) => error,
            };
            match places.front() {
                Some(next) => place.host.warn_about_fallback(&error, &next.host.name),
                None if any_answer && error.kind() == Kind::Network => {
                    // Without the name of the manifest, so that the warning is the same for all manifests of all images.
                    let full = error.full();
                    self.host.context.warn_once(format!(
                        "`{}` cannot be asked for signatures, so that images may lack those that its mirrors do not list: {}; \
                         `--no-referrers` asks for none",
                        self.host.name,
                        error.shared_cause().unwrap_or(&full)
                    ));
                }
                None => return Err(error),
            }
        }
        Ok(known)
    }
}

/// Answer of a host to a request for referrers.
enum Answer {
    List(Referrers),
    /// The host does not have the subject.
    NoSubject,
    /// The host answers as if it had no referrers API: the reason, and whether that is a 404.
    NoList(Error, bool),
}

impl Host {
    /// Returns the referrers that this host lists. With `is_strict`, a host that lists those of other manifests of the repository
    /// has to list these as well.
    async fn referrers(
        &self,
        repository: &str,
        subject: &Digest,
        at_most: usize,
        is_strict: bool,
    ) -> Result<Option<Referrers>> {
        if self.referrers_answers.is_without_api(repository) {
            return Ok(None);
        }
        let mut is_repeated = false;
        loop {
            let (why, is_not_found) = match self.request_referrers(repository, subject, at_most).await? {
                Answer::List(list) => {
                    self.referrers_answers.add_list(repository);
                    return Ok(Some(list));
                }
                Answer::NoSubject => return Ok(None),
                Answer::NoList(why, is_not_found) => (why, is_not_found),
            };
            let contradicts = self
                .referrers_answers
                .add_no_list(repository, is_not_found || !is_strict);
            if !contradicts || !is_strict {
                return Ok(None);
            }
            if is_repeated {
                let hint = "run again later, or ask the registry's operator";
                return Err(why.with_hint(hint));
            }
            is_repeated = true;
        }
    }

    async fn request_referrers(&self, repository: &str, subject: &Digest, at_most: usize) -> Result<Answer> {
        let mut found = Seen::default();
        let mut pages = Pages::referrers(self, repository, subject);
        let (mut any, mut unusable) = (false, 0);
        while let Some(page) = pages.next().await? {
            let entries = page.and_then(|page| referrers_of(&page));
            let (entries, skipped) = match entries {
                Ok(entries) => entries,
                // Only the first page decides: if it is not an index, the registry has no referrers API.
                Err(error) if !any && error.kind() == Kind::Unsupported => {
                    // A 404 about the subject says nothing about the API.
                    return Ok(match pages.is_about_subject {
                        true => Answer::NoSubject,
                        false => {
                            let what = "although the registry lists what refers to other manifests of this repository";
                            let error = error.context(format!("{}, {what}", pages.action));
                            Answer::NoList(error, pages.is_not_found)
                        }
                    });
                }
                Err(error) => return Err(error.context(&pages.action)),
            };
            any = true;
            unusable += skipped;
            for entry in entries {
                if found.list.len() == at_most && !found.new.contains(&entry) {
                    return Ok(Answer::List(Referrers::new(found.list, true, unusable)));
                }
                found.add(entry, &pages)?;
            }
        }
        Ok(Answer::List(Referrers::new(found.list, false, unusable)))
    }
}

/// Returns the descriptors in a page of referrers, and the number of entries without a usable digest.
///
/// # Errors
/// [`Kind::Unsupported`] for an empty page, and [`Kind::Server`] for a page that is not a list.
fn referrers_of(page: &[u8]) -> Result<(Vec<Descriptor>, usize)> {
    #[derive(Deserialize)]
    struct Wire {
        #[serde(default)]
        manifests: Option<Descriptors>,
    }
    struct Descriptors(Vec<Descriptor>, usize);
    impl<'de> Deserialize<'de> for Descriptors {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let mut skipped = 0;
            let read = |entry: &RawValue| {
                let found = descriptor(entry.get());
                skipped += usize::from(found.is_none());
                found
            };
            // A page has room for few descriptors, but for very many entries that are none.
            let list = Capped::<_, { usize::MAX }>::from_each(deserializer, read)?;
            Ok(Self(list.0, skipped))
        }
    }
    if page.trim_ascii().is_empty() {
        return Err(Error::new(Kind::Unsupported, "the answer is empty"));
    }
    let wire: Wire = serde_json::from_slice(page)
        .map_err(|e| Error::new(Kind::Server, "the answer is no list of referrers").with_source(e))?;
    Ok(wire.manifests.map_or_else(Default::default, |list| (list.0, list.1)))
}

fn descriptor(entry: &str) -> Option<Descriptor> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Entry<'a> {
        #[serde(borrow, default)]
        media_type: Option<&'a RawValue>,
        digest: Digest,
        #[serde(borrow, default)]
        size: Option<&'a RawValue>,
    }
    let entry: Entry<'_> = serde_json::from_str(entry).ok()?;
    let media_type = entry
        .media_type
        .and_then(|text| serde_json::from_str::<String>(text.get()).ok());
    let media_type = media_type.filter(|media_type| check_media_type(Some(media_type)).is_ok());
    let size = entry.size.and_then(|text| serde_json::from_str::<u64>(text.get()).ok());
    Some(Descriptor {
        media_type: media_type.unwrap_or_default().into(),
        digest: entry.digest,
        // The digest alone says what the manifest is; its size only warns of one that is too large.
        size: size.unwrap_or_default(),
    })
}
