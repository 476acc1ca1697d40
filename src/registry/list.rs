//! Paged lists: tags of a repository, and referrers of a manifest.
//! See OCI distribution-spec, "Listing Tags" and "Listing Referrers".

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};

use super::Registry;
use super::call::Call;
use super::host::Host;
use super::link;
use super::refusal::Refusal;
use super::scope::Scope;
use super::similar_tags::nearest;
use super::types::Referrers;
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::head::check_media_type;
use crate::image::json::Capped;
use crate::image::media_type::{self, OCI_INDEX};
use crate::image::reference::{Target, is_tag};

/// Number of tags requested per page; some registries refuse more.
const PAGE: usize = 1000;

/// Maximum number of tags of a list that is read instead of asking for single tags.
const SHORT_LIST: usize = 500;

/// Maximum number of pages read of one list.
const MAX_PAGES: usize = 200;
/// Maximum number of bytes read of one page.
const MAX_PAGE: u64 = 4 << 20;

/// Maximum time to read all pages of a list.
const LIST_TIMEOUT: Duration = Duration::from_secs(600);

/// Maximum time to read the single page for an error's hint.
const HINT_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of entries kept of one list.
const MAX_ENTRIES: usize = 100_000;
/// Maximum number of bytes of all tags of one list.
const MAX_TAGS: usize = 8 << 20;

/// Codes by which a registry says that the subject does not exist, and not that it has no referrers API.
const UNKNOWN_SUBJECT: [&str; 3] = ["MANIFEST_UNKNOWN", "BLOB_UNKNOWN", "NAME_UNKNOWN"];

impl Registry {
    /// Returns the tags of a repository, each once, in the order of the registry's list.
    /// Invalid tags are skipped (some registries list digests or null).
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::Unauthorized`] and so on, as the registry answers; [`Kind::Server`] if the pages never
    /// end, lead to another server or list more than 100,000 tags.
    pub async fn tags(&self, repository: &str) -> Result<Vec<String>> {
        let mut tags = Seen::default();
        let mut pages = Pages::tags(&self.host, repository, PAGE);
        let mut length = 0;
        while let Some(page) = pages.next().await? {
            let page = page.map_err(|error| error.context(&pages.action))?;
            for tag in tags_of(&page).map_err(|error| error.context(&pages.action))? {
                length += tag.len();
                if length > MAX_TAGS {
                    return Err(pages.refused(&format!("its tags have more than {MAX_TAGS} bytes")));
                }
                tags.add(tag, &pages)?;
            }
        }
        Ok(tags.list)
    }

    /// Returns at most `at_most` referrers of a manifest (signatures, attestations), each once.
    ///
    /// Returns `None` if the registry has no referrers API; that is remembered for each repository, unless the registry
    /// answered for another manifest. Mirrors are asked as well as the registry, since the list of a cache may be older.
    ///
    /// # Errors
    /// Those of [`tags`](Self::tags): a refusal or failure does not mean that the manifest has no referrers.
    pub async fn referrers(&self, repository: &str, subject: &Digest, at_most: usize) -> Result<Option<Referrers>> {
        let mut places = self.places(repository, &Target::Digest(subject.clone()))?;
        let mut known: Option<Referrers> = None;
        let mut any_answer = false;
        while let Some(place) = places.pop_front() {
            let error = match place.host.referrers(&place.repository, subject, at_most).await {
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

    /// Returns the tags of a repository that begin like a digest, if all its tags fit one page; `None` if not, if there are none,
    /// or on any failure. A list without `existing`, a tag that exists, is not complete either. A pull-through cache that
    /// cannot read the list of its origin lists the tags that were pulled, so even such a list may be incomplete.
    pub(crate) async fn digest_tags(&self, repository: &str, existing: Option<&str>) -> Option<HashSet<String>> {
        let host = self.origin(repository).ok()?;
        let mut pages = Pages::tags(&host, repository, SHORT_LIST);
        pages.patient = false;
        pages.until = Instant::now() + HINT_TIMEOUT;
        let page = pages.next().await.ok()??.ok()?;
        let is_all = pages.next.is_none();
        let tags = tags_of(&page).ok().filter(|tags| is_all && !tags.is_empty())?;
        if existing.is_some_and(|existing| tags.iter().all(|tag| tag != existing)) {
            return None;
        }
        Some(tags.into_iter().filter(|tag| tag.starts_with("sha")).collect())
    }
}

impl Host {
    async fn referrers(&self, repository: &str, subject: &Digest, at_most: usize) -> Result<Option<Referrers>> {
        if self.no_referrers.lock().contains(repository) {
            return Ok(None);
        }
        let mut found = Seen::default();
        let mut pages = Pages::referrers(self, repository, subject);
        let (mut any, mut unusable) = (false, 0);
        while let Some(page) = pages.next().await? {
            let entries = page.and_then(|page| referrers_of(&page));
            let (entries, skipped) = match entries {
                Ok(entries) => entries,
                // Only the first page decides: if it is not an index, the registry has no referrers API.
                Err(error) if !any && error.kind() == Kind::Unsupported => {
                    // A registry that answered once has the API, and a 404 about the subject says nothing about the API.
                    if !pages.is_about_subject {
                        if !self.has_referrers.load(Ordering::Relaxed) {
                            self.no_referrers.lock().insert(repository.to_owned());
                        }
                        self.note_referrers_answer(repository, false);
                    }
                    return Ok(None);
                }
                Err(error) => return Err(error.context(&pages.action)),
            };
            if !any {
                self.has_referrers.store(true, Ordering::Relaxed);
                self.note_referrers_answer(repository, true);
            }
            any = true;
            unusable += skipped;
            for entry in entries {
                if found.list.len() == at_most && !found.new.contains(&entry) {
                    return Ok(Some(Referrers::new(found.list, true, unusable)));
                }
                found.add(entry, &pages)?;
            }
        }
        Ok(Some(Referrers::new(found.list, false, unusable)))
    }

    /// Records an answer to a request for referrers, and warns, once, if the answers for a repository contradict each other. What
    /// a mirror does not list may be listed by the registry behind it.
    fn note_referrers_answer(&self, repository: &str, is_list: bool) {
        let mut answers = self.referrers_answers.lock();
        let of_repository = answers.entry(repository.to_owned()).or_default();
        of_repository[usize::from(is_list)] = true;
        let contradict = *of_repository == [true, true];
        drop(answers);
        if contradict && !self.is_mirror {
            self.context.warn_once(format!(
                "`{}/{repository}` lists what refers to some manifests, and answers for others as if it had no such lists, so that \
                 signatures may be missing; run again later, or ask the registry's operator",
                self.name
            ));
        }
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

impl Host {
    /// Adds a hint with similar tags to the error for a missing tag.
    /// Takes one request, whose failures are ignored.
    pub(super) async fn with_near_tags(&self, error: Error, repository: &str, target: &Target) -> Error {
        let Target::Tag(wanted) = target else { return error };
        // A missing repository, or a server that is not a registry, has no tags to list.
        let hopeless = Refusal::in_error(&error).is_some_and(|refusal| refusal.has("NAME_UNKNOWN") || refusal.web_page);
        if error.kind() != Kind::NotFound || hopeless {
            return error;
        }
        let mut pages = Pages::tags(self, repository, PAGE);
        pages.patient = false;
        pages.until = Instant::now() + HINT_TIMEOUT;
        let Ok(Some(Ok(page))) = pages.next().await else {
            return error;
        };
        let Ok(tags) = tags_of(&page) else { return error };
        let count = tags.len();
        let near = nearest(wanted, tags);
        if near.is_empty() {
            return error;
        }
        let rest = match (count - near.len().min(count), pages.next.is_some()) {
            (0, false) => String::new(),
            (more, false) => format!(" and {more} more"),
            (more, true) => format!(" and more than {more} more"),
        };
        // Other programs write `1.x` for what is a pattern here.
        let pattern = match wanted.strip_suffix(".x").or_else(|| wanted.strip_suffix(".X")) {
            Some(versions) => format!("; for all tags of {versions}, write `{versions}.*`"),
            None => String::new(),
        };
        error.with_hint(format!("existing tags: {}{rest}{pattern}", near.join(", ")))
    }
}

/// Pages of a list, read one after the other.
struct Pages<'a> {
    host: &'a Host,
    repository: &'a str,
    action: String,
    next: Option<Url>,
    visited: HashSet<Url>,
    /// Required media type of a page, if any.
    media_type: Option<&'static str>,
    /// Whether a 404 said that the subject of the referrers, or its repository, does not exist.
    is_about_subject: bool,
    /// Whether to retry after transient failures.
    patient: bool,
    /// Time at which reading the list is given up.
    until: Instant,
}

impl<'a> Pages<'a> {
    fn tags(host: &'a Host, repository: &'a str, at_once: usize) -> Self {
        let mut url = host.url(repository, "tags/list");
        url.set_query(Some(&format!("n={at_once}")));
        let action = format!("cannot list the tags of `{}/{repository}`", host.name);
        Self::new(host, repository, action, url, None)
    }

    fn referrers(host: &'a Host, repository: &'a str, subject: &Digest) -> Self {
        let url = host.url(repository, &format!("referrers/{subject}"));
        let action = format!("cannot list what refers to {subject} in `{}/{repository}`", host.name);
        Self::new(host, repository, action, url, Some(OCI_INDEX))
    }

    fn new(host: &'a Host, repository: &'a str, action: String, url: Url, media_type: Option<&'static str>) -> Self {
        Self {
            host,
            repository,
            action,
            next: Some(url),
            visited: HashSet::new(),
            media_type,
            is_about_subject: false,
            patient: true,
            until: Instant::now() + LIST_TIMEOUT,
        }
    }

    /// Returns the next page, or the registry's refusal to serve it; `None` after the last page.
    async fn next(&mut self) -> Result<Option<Result<Bytes>>> {
        // One list may take all its time, but not one for each image.
        let is_slow = &self.host.lists_slowly[usize::from(self.media_type.is_some())];
        if self.patient && is_slow.load(Ordering::Relaxed) {
            return Err(self.refused("the registry did not list others in time, and is not asked again in this run"));
        }
        let in_time = timeout_at(self.until, self.read()).await;
        in_time.unwrap_or_else(|_| {
            is_slow.fetch_or(self.patient, Ordering::Relaxed);
            Err(self.refused("the registry does not list them in time"))
        })
    }

    async fn read(&mut self) -> Result<Option<Result<Bytes>>> {
        let Some(url) = self.next.take() else { return Ok(None) };
        if self.visited.len() == MAX_PAGES || !self.visited.insert(url.clone()) {
            return Err(self.refused("it has too many pages, or repeats a page"));
        }
        let scope = Scope::pull(self.repository);
        let mut call = Call::new(Method::GET, url, self.repository, scope, self.action.clone());
        if let Some(media_type) = self.media_type {
            call = call.header(ACCEPT, HeaderValue::from_static(media_type));
        }
        call.repeat = self.patient;
        let mut answer = self.host.exchange(&call).await?;
        // These statuses mean that the registry does not know the referrers API; a 404 does not mean an empty list (OCI
        // distribution-spec).
        let is_unknown = matches!(
            answer.status().as_u16(),
            201..=299 | 400 | 404 | 405 | 406 | 410 | 415 | 501
        );
        if answer.status() != StatusCode::OK && !(is_unknown && self.media_type.is_some()) {
            return Ok(Some(Err(answer.into_error("the list was refused").await)));
        }
        let stated = answer
            .header(&CONTENT_TYPE)
            .map(media_type::essence)
            .unwrap_or_default();
        if answer.status() != StatusCode::OK
            || answer.is_web_page()
            || self.media_type.is_some_and(|wanted| wanted != stated)
        {
            if answer.status() == StatusCode::NOT_FOUND {
                let refusal = answer.refusal().await;
                let refusal = Refusal::in_error(&refusal);
                self.is_about_subject = refusal.is_some_and(|it| UNKNOWN_SUBJECT.iter().any(|code| it.has(code)));
            }
            // Without a referrers API a registry may answer anything; but every registry lists tags.
            let kind = self.media_type.map_or(Kind::Server, |_| Kind::Unsupported);
            return Ok(Some(Err(Error::new(kind, "the answer is not such a list"))));
        }
        self.next = link::next(answer.headers(), &answer.url).map_err(|e| e.context(&self.action))?;
        if self
            .next
            .as_ref()
            .is_some_and(|next| !answer.from_registry || !self.host.owns(next))
        {
            return Err(self.refused("a page served by another server may not name the next page"));
        }
        match answer.json(MAX_PAGE).await {
            Ok(bytes) => Ok(Some(Ok(bytes))),
            Err(Some(failure)) => Err(failure.error.context(&self.action)),
            Err(None) => Err(self.refused(&format!("a page has more than {MAX_PAGE} bytes"))),
        }
    }

    fn refused(&self, why: &str) -> Error {
        Error::new(Kind::Server, format!("{}: {why}", self.action))
    }
}

/// A list without duplicates.
struct Seen<T> {
    list: Vec<T>,
    /// Entries of `list`, to find duplicates.
    new: HashSet<T>,
}

impl<T> Default for Seen<T> {
    fn default() -> Self {
        Self {
            list: Vec::new(),
            new: HashSet::new(),
        }
    }
}

impl<T: Clone + Eq + std::hash::Hash> Seen<T> {
    fn add(&mut self, item: T, pages: &Pages<'_>) -> Result<()> {
        if self.new.insert(item.clone()) {
            if self.list.len() == MAX_ENTRIES {
                return Err(pages.refused(&format!("it has more than {MAX_ENTRIES} entries")));
            }
            self.list.push(item);
        }
        Ok(())
    }
}

/// Returns the valid tags of a page. `tags` may be null, and so may its elements.
fn tags_of(page: &[u8]) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Wire {
        #[serde(default)]
        tags: Option<Tags>,
    }
    struct Tags(Vec<String>);
    impl<'de> Deserialize<'de> for Tags {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let mut count = 0;
            // One more than there may be shows that there are too many.
            let keep = |tag: Option<String>| {
                let tag = tag.filter(|tag| count <= MAX_ENTRIES && is_tag(tag))?;
                count += 1;
                Some(tag)
            };
            Ok(Self(Capped::<_, { usize::MAX }>::from_each(deserializer, keep)?.0))
        }
    }
    let wire: Wire = serde_json::from_slice(page)
        .map_err(|e| Error::new(Kind::Server, "the answer is no list of tags").with_source(e))?;
    let tags = wire.tags.map_or_else(Vec::new, |tags| tags.0);
    match tags.len() > MAX_ENTRIES {
        true => Err(Error::new(
            Kind::Server,
            format!("it has more than {MAX_ENTRIES} entries"),
        )),
        false => Ok(tags),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_tags_are_read_leniently() {
        for (page, expected) in [
            (r#"{"name":"a","tags":["1","2"]}"#, Some(vec!["1", "2"])),
            (r#"{"tags":null}"#, Some(vec![])),
            (r#"{}"#, Some(vec![])),
            (r#"{"tags":[null,"1","sha256:ab","../x",""]}"#, Some(vec!["1"])),
            (r#"{"tags":"1"}"#, None),
            ("<html>", None),
        ] {
            let found = tags_of(page.as_bytes()).ok();
            assert_eq!(
                found,
                expected.map(|tags| tags.into_iter().map(str::to_owned).collect()),
                "{page}"
            );
        }
    }
}
