//! Lists that come in pages: the tags of a repository, and what refers to a manifest (OCI distribution-spec, "Listing
//! Tags" and "Listing Referrers").

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::Registry;
use super::call::Call;
use super::host::Host;
use super::link;
use super::refusal::Refusal;
use super::scope::Scope;
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::manifest::{RawManifest, View};
use crate::image::media_type::{self, OCI_INDEX};
use crate::image::reference::{Target, is_tag};

/// Tags asked for at once; some registries refuse more.
const PAGE: usize = 1000;

/// Pages read of one list, and bytes of each.
const MAX_PAGES: usize = 200;
const MAX_PAGE: u64 = 4 << 20;

/// How long reading all pages of a list may take together.
const LIST_TIMEOUT: Duration = Duration::from_secs(600);

/// How long the one page may take that is read for the hint of an error.
const HINT_TIMEOUT: Duration = Duration::from_secs(10);

/// Entries kept of one list.
const MAX_ENTRIES: usize = 100_000;

/// Tags of which the nearest to a missing one are looked for, and how many are named.
const MAX_COMPARED: usize = 2000;
const MAX_NAMED: usize = 3;

impl Registry {
    /// The tags of a repository, each once, in the order in which the registry lists them. What is no tag (some registries
    /// list digests, or nothing at all) is passed over.
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::Unauthorized`] and so on as the registry answers; [`Kind::Server`] where its pages have
    /// no end, lead to another server or list more than 100,000 tags.
    pub async fn tags(&self, repository: &str) -> Result<Vec<String>> {
        let mut tags = Seen::default();
        let mut pages = Pages::of_tags(&self.host, repository);
        while let Some(page) = pages.next().await? {
            let page = page.map_err(|error| error.context(&pages.action))?;
            for tag in tags_of(&page).map_err(|error| error.context(&pages.action))? {
                tags.add(tag, &pages)?;
            }
        }
        Ok(tags.list)
    }

    /// What refers to a manifest (signatures, attestations), each once. Where a registry has no such list, what stands
    /// under the tag `ALGORITHM-HEX` is read, as the specification wants it; where there is neither, there is nothing.
    ///
    /// # Errors
    /// As [`tags`](Self::tags).
    pub async fn referrers(&self, repository: &str, subject: &Digest) -> Result<Vec<Descriptor>> {
        let mut found = Seen::default();
        let mut pages = Pages::of_referrers(&self.host, repository, subject);
        let mut any = false;
        while let Some(page) = pages.next().await? {
            let index = match page {
                Ok(page) => RawManifest::new(page, Some(OCI_INDEX), None).map_err(|e| e.context(&pages.action))?,
                Err(error) if matches!(error.kind(), Kind::Unauthorized | Kind::Denied | Kind::RateLimited) => {
                    return Err(error.context(&pages.action));
                }
                // Later pages belong to a list that began; a first one that is no index means that there is none.
                Err(error) if any => return Err(error.context(&pages.action)),
                Err(_) => return self.tagged_referrers(repository, subject).await,
            };
            any = true;
            for entry in entries(&index) {
                found.add(entry, &pages)?;
            }
        }
        Ok(found.list)
    }

    async fn tagged_referrers(&self, repository: &str, subject: &Digest) -> Result<Vec<Descriptor>> {
        match self.host.manifest(repository, &Target::Tag(subject.as_tag())).await {
            Ok(manifest) => {
                let mut found = Seen::default();
                for entry in entries(&manifest) {
                    if found.new.insert(entry.clone()) {
                        found.list.push(entry);
                    }
                }
                Ok(found.list)
            }
            Err(error) if error.kind() == Kind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

impl Host {
    /// Adds to the error about a tag that is not there which ones are: one request, and none of its failures matters.
    pub(super) async fn with_near_tags(&self, error: Error, repository: &str, target: &Target) -> Error {
        let Target::Tag(wanted) = target else { return error };
        // Of a repository that is not there, or on what is no registry, there is nothing to list.
        let hopeless = Refusal::of(&error).is_some_and(|refusal| refusal.has("NAME_UNKNOWN") || refusal.web_page);
        if error.kind() != Kind::NotFound || hopeless {
            return error;
        }
        let mut pages = Pages::of_tags(self, repository);
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
        error.with_hint(format!("tags that are there: {}{rest}", near.join(", ")))
    }
}

/// The pages of a list, one after the other.
struct Pages<'a> {
    host: &'a Host,
    repository: &'a str,
    action: String,
    next: Option<Url>,
    visited: HashSet<Url>,
    /// The type that a page must have to be one.
    media_type: Option<&'static str>,
    /// Whether to try again what may pass.
    patient: bool,
    /// When reading the list is given up.
    until: Instant,
}

impl<'a> Pages<'a> {
    fn of_tags(host: &'a Host, repository: &'a str) -> Self {
        let mut url = host.url(repository, "tags/list");
        url.set_query(Some(&format!("n={PAGE}")));
        let action = format!("cannot list the tags of `{}/{repository}`", host.name);
        Self::new(host, repository, action, url, None)
    }

    fn of_referrers(host: &'a Host, repository: &'a str, subject: &Digest) -> Self {
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
            patient: true,
            until: Instant::now() + LIST_TIMEOUT,
        }
    }

    /// The next page, or in its place why the registry has none; `None` after the last one.
    async fn next(&mut self) -> Result<Option<Result<Bytes>>> {
        let in_time = timeout_at(self.until, self.read()).await;
        in_time.unwrap_or_else(|_| Err(self.refused("the registry does not list them in time")))
    }

    async fn read(&mut self) -> Result<Option<Result<Bytes>>> {
        let Some(url) = self.next.take() else { return Ok(None) };
        if self.visited.len() == MAX_PAGES || !self.visited.insert(url.clone()) {
            return Err(self.refused("its pages have no end"));
        }
        let scope = Scope::pull(self.repository);
        let mut call = Call::new(Method::GET, url, self.repository, scope, self.action.clone());
        if let Some(media_type) = self.media_type {
            call = call.header(ACCEPT, HeaderValue::from_static(media_type));
        }
        call.repeat = self.patient;
        let answer = self.host.exchange(&call).await?;
        if answer.status() != StatusCode::OK {
            return Ok(Some(Err(answer.into_error("the list was refused").await)));
        }
        let stated = answer
            .header(&CONTENT_TYPE)
            .map(media_type::essence)
            .unwrap_or_default();
        if answer.is_web_page() || self.media_type.is_some_and(|wanted| wanted != stated) {
            return Ok(Some(Err(Error::new(Kind::Server, "the answer is no such list"))));
        }
        self.next = link::next(answer.headers(), &answer.url).map_err(|e| e.context(&self.action))?;
        if self
            .next
            .as_ref()
            .is_some_and(|next| !answer.from_registry || !self.host.owns(next))
        {
            return Err(self.refused("a page that came from another server does not lead the way to the next"));
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

/// A list without repetitions.
struct Seen<T> {
    list: Vec<T>,
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

fn entries(manifest: &RawManifest) -> Vec<Descriptor> {
    match manifest.view() {
        View::Index(index) => index.entries.iter().map(|entry| entry.descriptor.clone()).collect(),
        _ => Vec::new(),
    }
}

/// The tags of a page. `tags` may be null, and so may each of them.
fn tags_of(page: &[u8]) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Wire {
        #[serde(default)]
        tags: Option<Vec<Option<String>>>,
    }
    let wire: Wire = serde_json::from_slice(page)
        .map_err(|e| Error::new(Kind::Server, "the answer is no list of tags").with_source(e))?;
    Ok(wire
        .tags
        .unwrap_or_default()
        .into_iter()
        .flatten()
        .filter(|tag| is_tag(tag))
        .collect())
}

/// The few tags that look most like the wanted one, in backticks.
fn nearest(wanted: &str, tags: Vec<String>) -> Vec<String> {
    let mut all: Vec<(usize, String)> = tags
        .into_iter()
        .filter(|tag| tag != wanted)
        .take(MAX_COMPARED)
        .map(|tag| (distance(wanted.as_bytes(), tag.as_bytes()), tag))
        .collect();
    all.sort();
    all.dedup();
    all.into_iter()
        .take(MAX_NAMED)
        .map(|(_, tag)| format!("`{tag}`"))
        .collect()
}

/// How many bytes have to be put in, taken out or changed (Levenshtein).
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_tags_come_first() {
        let tags = ["latest", "3.19", "3.20", "3.2", "edge"].map(str::to_owned).to_vec();
        assert_eq!(nearest("3.21", tags.clone()), ["`3.2`", "`3.20`", "`3.19`"]);
        assert_eq!(nearest("lates", tags)[0], "`latest`");
        assert_eq!(nearest("x", Vec::new()), Vec::<String>::new());
        assert_eq!(distance(b"kitten", b"sitting"), 3);
    }

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
