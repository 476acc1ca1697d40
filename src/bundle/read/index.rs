//! Reads the images and referrers that `index.json` of an archive lists (OCI image-spec, image-layout.md).

use std::collections::HashSet;

use super::archive::Archive;
use super::attached::{self, Attached, PinnedNames, Role};
use super::broken::BrokenImage;
use super::contents::{BundledImage, Contents, Referrer};
use super::docker::items::Items;
use super::identity;
use super::name_override::NameOverrides;
use super::names;
use super::no_archive::if_cut_off;
use super::record_check::{self, TaggedReferrers};
use super::store::Store;
use crate::bundle::record::Recorded;
use crate::error::{Error, Kind, Result};
use crate::image::budget::NAME;
use crate::image::digest::Digest;
use crate::image::listing::{self, FaultyEntry};
use crate::image::manifest::annotation::CONTAINERD_SUBJECT;
use crate::image::manifest::{Entry, MAX_MANIFEST, View};
use crate::image::reference::Reference;
use crate::text::quote;

/// Reads the images and referrers of `index.json`, and compares them with the record of the bundle, if there is one.
///
/// `items` are the entries of `manifest.json`, which may name an image that has no name in the index. `given` are the names
/// from the user.
///
/// # Errors
/// [`Kind::Malformed`] if `index.json` is no index, or absent where the archive has a record or no `manifest.json`.
/// [`Kind::TooLarge`] if its entries take more memory than the budget has left.
pub(super) fn read(archive: &Archive, store: &Store, items: &Items, given: &mut NameOverrides<'_>) -> Result<Contents> {
    let recorded = record_check::read(archive, store.budget())?;
    let member = archive.describe("index.json");
    let in_index = |error: Error| error.context(&member);
    let Some(bytes) = archive.read("index.json", MAX_MANIFEST)? else {
        let what = format!("`{}` has no `index.json`", quote(&archive.label));
        let error = if_cut_off(archive, Error::new(Kind::Malformed, what));
        return match items.is_empty() || recorded.is_some() {
            true => Err(error),
            false => Ok(Contents::default()),
        };
    };
    let listed = listing::entries(&bytes).map_err(in_index)?;
    // The names and references of the entries take no more memory than their text.
    let _held = store.budget().hold(bytes.len() as u64).map_err(in_index)?;
    let bad_documents = recorded
        .iter()
        .flat_map(|recorded| record_check::changed_documents(archive, recorded, &bytes));
    let bad_documents = bad_documents.collect();
    drop(bytes);

    let mut contents = Contents {
        places: listed.len(),
        bad_documents,
        ..Contents::default()
    };
    let mut entries = Vec::with_capacity(listed.len());
    for (place, listed) in listed.into_iter().enumerate() {
        match listed {
            Ok(entry) => entries.push((place, entry)),
            Err(faulty) => contents.broken.extend(broken_entry(archive, place, faulty, given)),
        }
    }
    let mut reader = Reader {
        archive,
        store,
        items,
        repository: given.nameless(),
        recorded: recorded.as_ref(),
        contents,
    };
    let (images, attached) = reader.add_all(&entries, given)?;
    let mut contents = reader.contents;
    attached::add(archive, store, &images, &attached, given.nameless(), &mut contents).map_err(in_index)?;
    match recorded {
        Some(recorded) => {
            let listed = entries.iter().map(|(_, entry)| &entry.descriptor.digest).collect();
            record_check::compare(archive, &recorded, &listed, &mut contents);
            contents.lost_referrers = record_check::lost_referrers(archive, &recorded, &listed);
            contents.missing = recorded.missing;
        }
        None => {
            let is_twice_named = |(_, entry): &&(usize, Entry)| {
                let name = entry.annotations.get(names::CONTAINERD_NAME);
                name.is_some() && name == entry.annotations.get(names::REF_NAME)
            };
            // Signatures and other referrers have one name or none.
            let is_referrer = |(_, entry): &(usize, Entry)| {
                entry.annotations.contains_key(CONTAINERD_SUBJECT) || attached::tagged(entry, None).is_some()
            };
            let (named, others): (Vec<_>, Vec<_>) = entries.iter().partition(is_twice_named);
            // A truncated bundle is reported as truncated, not as a bundle without a record.
            contents.lacks_record = archive.whole && !named.is_empty() && others.into_iter().all(is_referrer);
        }
    }
    contents.listed = entries.into_iter().map(|(_, entry)| entry.descriptor).collect();
    let others = contents.broken.len() + contents.referrers.len();
    store.budget().take(others as u64 * NAME).map_err(in_index)?;
    Ok(contents)
}

/// Returns the broken images for an index entry whose descriptor is invalid.
fn broken_entry(
    archive: &Archive,
    place: usize,
    faulty: FaultyEntry,
    given: &mut NameOverrides<'_>,
) -> Vec<BrokenImage> {
    let mut names = given.names_for(place, None);
    if names.is_empty() {
        names = names::entry_names(&faulty.annotations, &[], None, place).unwrap_or_default();
    }
    let error = faulty
        .error
        .context(format!("{}: entry @{place}", archive.describe("index.json")))
        .with_hint("the archive is damaged or was edited: copy it again, or have it made again");
    BrokenImage::named(archive, place, names, error)
}

/// What an index entry holds.
enum EntryKind<'a> {
    Image,
    /// A referrer, by its annotation and its manifest.
    Referrer,
    /// A list of referrers (referrers tag schema), whose referrers were read.
    ReferrersList,
    Attached(Attached<'a>),
    /// An attachment by the tag of its name, or an image if no image of the repository is in the archive.
    AttachedByTag(Attached<'a>),
}

/// Converts index entries to images and referrers.
struct Reader<'a> {
    archive: &'a Archive,
    store: &'a Store,
    items: &'a Items,
    /// The name from the user for an image without a name.
    repository: Option<&'a Reference>,
    recorded: Option<&'a Recorded>,
    contents: Contents,
}

/// Image entries with their positions.
type ImageEntries<'a> = Vec<(usize, &'a Entry)>;

impl<'a> Reader<'a> {
    /// Adds all entries except attachments, which need the images. Returns the entries of images and the attachments.
    fn add_all(
        &mut self,
        entries: &'a [(usize, Entry)],
        given: &mut NameOverrides<'_>,
    ) -> Result<(ImageEntries<'a>, Vec<Attached<'a>>)> {
        let (mut images, mut nameless) = (ImageEntries::new(), ImageEntries::new());
        let (mut attached, mut attached_by_tag) = (Vec::new(), Vec::new());
        let mut named: HashSet<&Digest> = HashSet::new();
        let mut repositories: HashSet<String> = HashSet::new();
        let pinned = PinnedNames::new(entries);
        let tagged = self
            .recorded
            .map(|recorded| Ok::<_, Error>((TaggedReferrers::from_record(recorded, self.store.budget())?, recorded)))
            .transpose()?;
        for (place, entry) in entries {
            let (place, digest) = (*place, &entry.descriptor.digest);
            let exact = given.names_for(place, Some(digest));
            if exact.is_empty()
                && let Some((tagged, recorded)) = &tagged
                && let Err(error) = tagged.check(self.archive, recorded, entry)
            {
                let names = names::entry_names(&entry.annotations, &[], None, place).unwrap_or_default();
                let broken = BrokenImage::misnamed(self.archive, place, names, error);
                self.contents.broken.extend(broken);
                continue;
            }
            match self.kind_of(place, entry, &exact, &pinned)? {
                EntryKind::Image => {
                    images.push((place, entry));
                    let own = names::entry_names(&entry.annotations, &[], None, place).unwrap_or_default();
                    repositories.extend(own.first().or(self.repository).map(Reference::name));
                    match own.first().or(exact.first()) {
                        Some(name) => {
                            named.insert(digest);
                            // The record lists an image under its own name, even if the user gave it another name.
                            self.add_image(place, entry, name, &exact)?;
                        }
                        None => nameless.push((place, entry)),
                    }
                }
                EntryKind::Referrer => nameless.push((place, entry)),
                EntryKind::ReferrersList => {}
                EntryKind::Attached(it) => attached.push(it),
                EntryKind::AttachedByTag(it) => attached_by_tag.push(it),
            }
        }
        for it in attached_by_tag {
            match &it.by_tag {
                Some((Some(name), _)) if !repositories.contains(&name.name()) => {
                    images.push((it.place, it.entry));
                    named.insert(&it.entry.descriptor.digest);
                    self.add_image(it.place, it.entry, name, &[])?;
                }
                _ => attached.push(it),
            }
        }
        let below = match nameless.is_empty() {
            true => HashSet::new(),
            false => children(self.store, entries)?,
        };
        for (place, entry) in nameless {
            let digest = &entry.descriptor.digest;
            // oras also lists the children of an index as entries beside the index.
            let is_child = !names::is_named(&entry.annotations) && below.contains(digest);
            let refers = entry.annotations.contains_key(CONTAINERD_SUBJECT);
            if !is_child && (!named.contains(digest) || refers) {
                self.add_nameless(place, entry)?;
            }
        }
        Ok((images, attached))
    }

    /// Finds out what an entry holds, and reads a list of referrers. `exact` are the names that the user gives to this entry.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if the referrers of a list take more memory than the budget has left.
    fn kind_of(
        &mut self,
        place: usize,
        entry: &'a Entry,
        exact: &[Reference],
        pinned: &PinnedNames<'_>,
    ) -> Result<EntryKind<'a>> {
        let attachment = |suffix, by_tag| Attached {
            place,
            entry,
            suffix,
            by_tag,
        };
        // A name that the user gives takes precedence over the names in the archive. An entry with a name that states another
        // digest is read as an image, which fails: its name must not become the tag of a signature.
        let may_attach = exact.is_empty() && identity::has_own_digest(entry);
        let Contents {
            referrers, warnings, ..
        } = &mut self.contents;
        if may_attach && attached::listed_referrers(self.store, self.archive, entry, referrers, warnings)? {
            return Ok(EntryKind::ReferrersList);
        }
        // An entry with a role has the very names of its image, which may state the digest of that image.
        let may_have_role = may_attach || (exact.is_empty() && pinned.are_of(entry));
        match attached::role(entry).filter(|_| may_have_role) {
            Some(Role::Attached(suffix)) => return Ok(EntryKind::Attached(attachment(suffix, None))),
            Some(Role::Referrer) if attached::subject(self.store, entry).is_some() => return Ok(EntryKind::Referrer),
            _ => {}
        }
        if !may_attach {
            return Ok(EntryKind::Image);
        }
        // If the record lists an image of this name, the user requested it by name:
        // then it is an image and not an attachment.
        let is_recorded = |name: &Reference| self.recorded.is_some_and(|recorded| recorded.find(name).is_some());
        if let Some((name, subject, suffix)) = attached::tagged(entry, self.repository)
            && !is_recorded(&name)
        {
            let by_tag = Some((Some(name), subject));
            return Ok(EntryKind::AttachedByTag(attachment(suffix, by_tag)));
        }
        Ok(match attached::bare_tag(entry).filter(|_| self.repository.is_none()) {
            Some((subject, suffix)) => EntryKind::Attached(attachment(suffix, Some((None, subject)))),
            None => EntryKind::Image,
        })
    }

    /// Adds an entry without a name: a referrer, or an image that `manifest.json` or the user names.
    fn add_nameless(&mut self, place: usize, entry: &Entry) -> Result<()> {
        let (archive, store) = (self.archive, self.store);
        if let Some(subject) = attached::subject(store, entry) {
            return self.add_referrer(place, entry, subject);
        }
        if let Err(error) = identity::check_bare(&entry.annotations, &entry.descriptor.digest, None) {
            let names = self.repository.cloned().into_iter().collect();
            let broken = BrokenImage::misnamed(archive, place, names, error);
            self.contents.broken.extend(broken);
            return Ok(());
        }
        let repo_tags = repo_tags(archive, store, self.items, entry);
        let names_with = |given| names::entry_names(&entry.annotations, &repo_tags, given, place);
        let found = match names_with(None) {
            Ok(names) => Ok((names, false)),
            Err(_) => names_with(self.repository).map(|names| (names, true)),
        };
        match found {
            Ok((names, are_given)) => {
                for name in names {
                    let exact = if are_given { std::slice::from_ref(&name) } else { &[] };
                    self.add_image(place, entry, &name, exact)?;
                }
            }
            Err(why) => self.contents.broken.push(names::nameless(
                archive,
                store,
                place,
                &entry.descriptor,
                entry.platform.as_ref(),
                why,
            )),
        }
        Ok(())
    }

    /// Adds a referrer. With a tag of its own it is also an image, if the user gives the repository.
    fn add_referrer(&mut self, place: usize, entry: &Entry, subject: Digest) -> Result<()> {
        let contradiction = attached::contradiction(self.archive, place, entry, &subject);
        self.contents.warnings.extend(contradiction);
        self.contents.referrers.push(Referrer {
            subject,
            root: entry.descriptor.clone(),
            archive: self.archive.label.clone(),
        });
        // An entry with a role has the name of its image instead of one of its own.
        let has_own_tag = entry.annotations.contains_key(names::REF_NAME) && attached::role(entry).is_none();
        if let Some(repository) = self.repository.filter(|_| has_own_tag) {
            for name in names::entry_names(&entry.annotations, &[], Some(repository), place).unwrap_or_default() {
                self.add_image(place, entry, &name, std::slice::from_ref(&name))?;
            }
        }
        Ok(())
    }

    /// Adds an entry under its own name, or under the names that the user gives.
    /// A fault affects this image alone.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if the names take more memory than the budget has left.
    fn add_image(&mut self, place: usize, entry: &Entry, name: &Reference, given: &[Reference]) -> Result<()> {
        let names = if given.is_empty() {
            std::slice::from_ref(name)
        } else {
            given
        };
        let taken = self.store.budget().take(names.len() as u64 * NAME);
        taken.map_err(|e| e.context(self.archive.describe("index.json")))?;
        match self.image(place, entry, name, given.is_empty()) {
            Ok(image) if given.is_empty() => self.contents.images.push(image),
            Ok(image) => {
                let renamed = |name: &Reference| BundledImage {
                    name: name.clone(),
                    ..image.clone()
                };
                self.contents.images.extend(given.iter().map(renamed));
            }
            Err(error) => {
                let broken = BrokenImage::misnamed(self.archive, place, names.to_vec(), error);
                self.contents.broken.extend(broken);
            }
        }
        Ok(())
    }

    fn image(&self, place: usize, entry: &Entry, name: &Reference, is_own_name: bool) -> Result<BundledImage> {
        let root = entry.descriptor.clone();
        let record = match self.recorded {
            Some(recorded) => recorded
                .find(name)
                .map(|found| found.as_ref().map_err(Error::clone))
                .transpose()?,
            None => None,
        };
        if let Some(record) = record {
            record_check::check_root(self.archive, name, record, &root.digest)?;
            record_check::check_names(self.archive, name, &entry.annotations)?;
        }
        if is_own_name {
            identity::check_annotations(&entry.annotations, &root.digest, record.map(|record| &**record))?;
        }
        // The layout names an image by its tag alone, even if the user requested it by tag and digest; the record has both.
        let full_name = record.and_then(|record| record.reference.parse().ok());
        Ok(BundledImage {
            name: full_name.unwrap_or_else(|| name.clone()),
            root,
            record: record.cloned(),
            rebuilt: false,
            archive: self.archive.label.clone(),
            place,
            attached_to: None,
            may_be_sparse: self.archive.whole
                && self.recorded.is_none()
                && entry.annotations.contains_key(names::CONTAINERD_NAME),
        })
    }
}

/// Returns the names that `manifest.json` has for an image manifest, found by its config.
fn repo_tags(archive: &Archive, store: &Store, items: &Items, entry: &Entry) -> Vec<String> {
    if items.is_empty() {
        return Vec::new();
    }
    let root = &entry.descriptor;
    let Ok(manifest) = store.manifest(&root.digest, &root.media_type) else {
        return Vec::new();
    };
    match manifest.view() {
        View::Image(image) => items.repo_tags(&image.config.digest, archive, store),
        _ => Vec::new(),
    }
}

/// Returns the digests of the direct children of the indexes among these entries.
///
/// # Errors
/// [`Kind::TooLarge`] if the digests take more memory than the budget has left.
fn children(store: &Store, entries: &[(usize, Entry)]) -> Result<HashSet<Digest>> {
    let mut below = HashSet::new();
    let mut seen = HashSet::new();
    let mut held = store.budget().hold(0)?;
    let entries = entries.iter().map(|(_, entry)| entry);
    for entry in entries.filter(|entry| seen.insert(&entry.descriptor.digest)) {
        let root = &entry.descriptor;
        let Ok(manifest) = store.manifest(&root.digest, &root.media_type) else {
            continue;
        };
        if let View::Index(index) = manifest.view() {
            below.extend(index.entries.iter().map(|child| child.descriptor.digest.clone()));
            held.resize((below.capacity() * 2 * size_of::<Digest>()) as u64)?;
        }
    }
    Ok(below)
}
