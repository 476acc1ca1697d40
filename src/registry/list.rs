//! Paged lists, and the tags of a repository as such a list.
//! See OCI distribution-spec, "Listing Tags".

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde::{Deserialize, Deserializer};
use tokio::time::{Instant, timeout_at};

use super::Registry;
use super::call::Call;
use super::host::Host;
use super::link;
use super::refusal::Refusal;
use super::scope::Scope;
use super::similar_tags::nearest;
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
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
pub(super) struct Pages<'a> {
    host: &'a Host,
    repository: &'a str,
    pub(super) action: String,
    next: Option<Url>,
    visited: HashSet<Url>,
    /// Required media type of a page, if any.
    media_type: Option<&'static str>,
    /// Whether the answer was a 404.
    pub(super) is_not_found: bool,
    /// Whether a 404 said that the subject of the referrers, or its repository, does not exist.
    pub(super) is_about_subject: bool,
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

    pub(super) fn referrers(host: &'a Host, repository: &'a str, subject: &Digest) -> Self {
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
            is_not_found: false,
            is_about_subject: false,
            patient: true,
            until: Instant::now() + LIST_TIMEOUT,
        }
    }

    /// Returns the next page, or the registry's refusal to serve it; `None` after the last page.
    pub(super) async fn next(&mut self) -> Result<Option<Result<Bytes>>> {
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
        let status = answer.status();
        if status != StatusCode::OK || answer.is_web_page() || self.media_type.is_some_and(|wanted| wanted != stated) {
            self.is_not_found = status == StatusCode::NOT_FOUND;
            if self.is_not_found {
                let refusal = answer.refusal().await;
                let refusal = Refusal::in_error(&refusal);
                self.is_about_subject = refusal.is_some_and(|it| UNKNOWN_SUBJECT.iter().any(|code| it.has(code)));
            }
            // Without a referrers API a registry may answer anything; but every registry lists tags.
            return Ok(Some(Err(match self.media_type {
                None => Error::new(Kind::Server, "the answer is not such a list"),
                Some(_) => Error::new(
                    Kind::Unsupported,
                    format!("the answer, of status {status}, is not such a list"),
                ),
            })));
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
pub(super) struct Seen<T> {
    pub(super) list: Vec<T>,
    /// Entries of `list`, to find duplicates.
    pub(super) new: HashSet<T>,
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
    pub(super) fn add(&mut self, item: T, pages: &Pages<'_>) -> Result<()> {
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
