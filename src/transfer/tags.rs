//! Expands image lists into references by matching patterns against the tags of a registry.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};

use futures_util::stream::{self, StreamExt};

use crate::error::{Error, Kind, Result};
use crate::image::budget::Budget;
use crate::image::image_list::{CheckedList, Entry, Names, Rename, TagPattern};
use crate::image::platform::PlatformFilter;
use crate::image::reference::Reference;
use crate::image::referrer::is_referrers_tag;
use crate::registry::Registries;
use crate::text::{counted, few};

/// Maximum number of images that the patterns of a run may match together: no more fit into its memory.
const MAX_IMAGES: usize = 50_000;

/// Maximum number of lists of tags that are read at the same time, of which each may take some memory.
const MAX_AT_ONCE: usize = 4;

/// Memory in bytes that all lists of tags take together, and one tag beside its text.
const MAX_TAGS: u64 = 48 << 20;
const TAG: u64 = 48;

/// Reason for leaving out the tags that list the referrers of a manifest.
const LISTS: &str = "a list of referrers is not an image; its referrers are copied with the image";

/// An image that the user requests.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Reference of the image.
    pub reference: Reference,
    /// Platforms of the image, if they differ from those of the run.
    pub platforms: Option<PlatformFilter>,
    /// Destination of the image, if it differs from the rule of the run.
    pub destination: Option<Rename>,
}

/// Result of expanding an image list.
#[derive(Debug, Default)]
pub struct Expanded {
    /// Requested images without duplicates, in the order of the list.
    /// The tags that match a pattern are sorted by version.
    pub images: Vec<Asked>,
    /// Patterns that failed or matched no tag, each with its error.
    pub failed: Vec<(String, Error)>,
    /// Notes for the user: the matched tags of each pattern, and the number of excluded images.
    pub notes: Vec<String>,
    /// Warnings about entries that are most likely mistakes.
    pub warnings: Vec<String>,
}

/// Matches the patterns of a list against the tags of their repositories.
/// The tags of each repository are listed once.
///
/// # Errors
/// [`Kind::Usage`] if a pattern matches more than `max_tags` tags.
pub async fn expand(list: CheckedList, registries: &Registries, max_tags: usize, jobs: usize) -> Result<Expanded> {
    let (excluded, wanted): (Vec<Entry>, Vec<Entry>) = list.entries.into_iter().partition(|entry| entry.excluded);
    let mut leaving_out = Exclusions::new(excluded);
    let tags = list_tags(&wanted, registries, jobs).await;
    let mut expanded = Expanded::default();
    let mut images = Images::new(&wanted);
    for entry in &wanted {
        let (repository, pattern) = match &entry.names {
            Names::One(reference) => {
                if !leaving_out.excludes(reference) {
                    images.add(reference.clone(), entry, true);
                }
                continue;
            }
            Names::Tags(repository, pattern) => (repository, pattern),
        };
        let found = match &tags[&repository.name()] {
            Ok(listed) => {
                let lists = listed
                    .iter()
                    .filter(|tag| is_referrers_tag(tag) && pattern.matches(tag));
                if let count @ 1.. = lists.count() as u64 {
                    let lists = counted(count, "tag", "tags");
                    let label = entry.label();
                    expanded.notes.push(format!("{label}: {lists} left out: {LISTS}"));
                }
                matching_tags(entry, repository, pattern, listed, &mut leaving_out)?
            }
            Err(error) => Err(error.clone().context(entry.label())),
        };
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                expanded.failed.push((entry.text.clone(), error));
                continue;
            }
        };
        if found.len() > max_tags {
            let what = format!(
                "{} matches {} tags, and at most {max_tags} are taken",
                entry.label(),
                found.len()
            );
            return Err(Error::new(Kind::Usage, what)
                .with_hint("narrow the pattern (`latest 3 of …`, `!` leaves tags out), or raise `--max-tags`"));
        }
        let count = match pattern.asks_for_more_than(found.len()) {
            Some(asked) => format!(
                "{} of the {asked} asked for",
                counted(found.len() as u64, "tag", "tags")
            ),
            None => counted(found.len() as u64, "tag", "tags"),
        };
        expanded
            .notes
            .push(format!("{}: {count}: {}", entry.label(), few(&found)));
        for tag in &found {
            images.add(with_tag(repository, tag)?, entry, false);
        }
        if images.list.len() > MAX_IMAGES {
            let what = format!("{}: the patterns match more than {MAX_IMAGES} images", entry.label());
            return Err(Error::new(Kind::Usage, what).with_hint("narrow the patterns, or divide the list"));
        }
    }
    expanded.images = images.list;
    leaving_out.report_to(&mut expanded);
    expanded.warnings.extend(images.contradictions);
    Ok(expanded)
}

/// Returns the tags of a repository that match the pattern of an entry and are not excluded. The inner error says why there is
/// none.
fn matching_tags(
    entry: &Entry,
    repository: &Reference,
    pattern: &TagPattern,
    listed: &[String],
    leaving_out: &mut Exclusions,
) -> Result<Result<Vec<String>>> {
    let mut left = Vec::new();
    let mut excluded = 0;
    for tag in listed
        .iter()
        .filter(|tag| pattern.matches(tag) && !is_referrers_tag(tag))
    {
        if !leaving_out.excludes(&with_tag(repository, tag)?) {
            left.push(tag);
        } else {
            excluded += 1;
        }
    }
    let found = pattern.select(left);
    if !found.is_empty() {
        return Ok(Ok(found));
    }
    if excluded > 0 {
        let what = format!(
            "{} matches {}, and lines that begin with `!` leave all of them out",
            entry.label(),
            counted(excluded, "tag", "tags")
        );
        let hint = "narrow the lines that begin with `!`, or omit this pattern";
        return Ok(Err(Error::new(Kind::NotFound, what).with_hint(hint)));
    }
    let tags = match listed.len() {
        1 => "does not match the only tag".to_owned(),
        count => format!("matches none of the {count} tags"),
    };
    let what = format!("{} {tags} of `{}`", entry.label(), repository.name());
    let error = no_match(&what, listed);
    Ok(Err(match entry.text.contains(":.*") {
        true => error
            .with_hint("a pattern is a glob: `*` stands for any characters, so write `NAME:*` instead of `NAME:.*`"),
        false => error,
    }))
}

/// Returns the image of a repository with this tag.
fn with_tag(repository: &Reference, tag: &str) -> Result<Reference> {
    Reference::new(repository.host(), repository.repository(), Some(tag), None)
}

/// Returns the error for a pattern that matches no tag.
fn no_match(what: &str, listed: &[String]) -> Error {
    let error = Error::new(Kind::NotFound, what);
    match listed {
        [] => error.with_hint("check the name of the repository"),
        _ => error.with_hint(format!(
            "existing tags: {}",
            few(TagPattern::all().select(listed).iter().map(|tag| format!("`{tag}`")))
        )),
    }
}

/// Lists the tags of every repository that has a pattern.
/// The key of the result is the repository's name.
async fn list_tags(wanted: &[Entry], registries: &Registries, jobs: usize) -> BTreeMap<String, Result<Vec<String>>> {
    let patterns = wanted.iter().filter(|entry| matches!(entry.names, Names::Tags(..)));
    let repositories: BTreeMap<String, &Reference> = patterns
        .map(|entry| (entry.reference().name(), entry.reference()))
        .collect();
    let budget = &Budget::new(MAX_TAGS);
    let lists: Vec<_> = repositories
        .into_iter()
        .map(|(name, repository)| async move {
            let tags = async {
                let tags = registries
                    .host(repository.host())?
                    .tags(repository.repository())
                    .await?;
                budget.take(tags.iter().map(|tag| TAG + tag.len() as u64).sum())?;
                Ok(tags)
            };
            (name, tags.await)
        })
        .collect();
    let at_once = jobs.clamp(1, MAX_AT_ONCE);
    stream::iter(lists).buffer_unordered(at_once).collect().await
}

/// The exclusion entries of a list, each with hashes of the images that it excluded.
struct Exclusions(Vec<(Entry, HashSet<u64>)>);

impl Exclusions {
    fn new(entries: Vec<Entry>) -> Self {
        Self(entries.into_iter().map(|entry| (entry, HashSet::new())).collect())
    }

    /// Returns whether an exclusion entry matches an image, and records the match.
    fn excludes(&mut self, image: &Reference) -> bool {
        let hash = BuildHasherDefault::<DefaultHasher>::default();
        let mut any = false;
        for (entry, images) in &mut self.0 {
            let fits = match &entry.names {
                Names::One(reference) => reference == image,
                Names::Tags(repository, tags) => {
                    repository.name() == image.name() && image.tag().map_or(tags.is_all(), |tag| tags.matches(tag))
                }
            };
            // Several lines may name the same image.
            if fits {
                images.insert(hash.hash_one(image));
            }
            any |= fits;
        }
        any
    }

    /// Adds a note or a warning for each exclusion entry.
    fn report_to(self, expanded: &mut Expanded) {
        for (entry, images) in self.0 {
            match (entry.label(), images.len() as u64) {
                (label, 0) => expanded.warnings.push(format!("{label} leaves nothing out")),
                (label, count) => {
                    let images = counted(count, "image", "images");
                    expanded.notes.push(format!("{label}: {images} left out"));
                }
            }
        }
    }
}

/// The requested images collected so far, without duplicates.
/// The options of a single-image entry take precedence over the options of a pattern that matches the same image.
struct Images<'a> {
    list: Vec<Asked>,
    known: HashMap<Reference, usize>,
    /// Entries that name a single image, by its reference.
    by_name: HashMap<&'a Reference, &'a Entry>,
    contradictions: Vec<String>,
}

impl<'a> Images<'a> {
    fn new(wanted: &'a [Entry]) -> Self {
        let single = wanted.iter().filter_map(|entry| match &entry.names {
            Names::One(reference) => Some((reference, entry)),
            Names::Tags(..) => None,
        });
        Self {
            list: Vec::new(),
            known: HashMap::new(),
            by_name: single.collect(),
            contradictions: Vec::new(),
        }
    }

    /// Adds an image, or a warning if it is already listed with other options.
    fn add(&mut self, reference: Reference, entry: &Entry, by_name: bool) {
        let entry = match by_name {
            true => entry,
            false => self.by_name.get(&reference).copied().unwrap_or(entry),
        };
        match self.known.get(&reference) {
            None => {
                self.known.insert(reference.clone(), self.list.len());
                self.list.push(Asked {
                    reference,
                    platforms: entry.platforms.clone(),
                    destination: entry.destination.clone(),
                });
            }
            Some(&first) => {
                let first = &self.list[first];
                if first.platforms != entry.platforms || first.destination != entry.destination {
                    let label = entry.label();
                    self.contradictions.push(format!(
                        "{label}: the options of {reference} are those of an earlier line, which matches it as well"
                    ));
                }
            }
        }
    }
}
