//! Reads the images of one archive: an OCI image layout (OCI image-spec, image-layout.md) or Docker's `manifest.json`.

use std::collections::HashSet;

use oci_spec::image::OciLayout;

use super::archive::Archive;
use super::attached::{self, Attached, Role};
use super::broken::{BrokenArchive, BrokenImage};
use super::contents::{BadDocument, BundledImage, Contents, DockerList, Referrer};
use super::docker::items::{self, Items};
use super::docker::rebuild;
use super::identity;
use super::name_override::NameOverrides;
use super::names;
use super::no_archive::{if_cut_off, no_archive, warn_of_others};
use super::record_check;
use super::store::Store;
use super::unlisted;
use crate::bundle::layout::index_json;
use crate::bundle::record::{self, Recorded};
use crate::error::{Error, Kind, Result};
use crate::image::budget::{Budget, NAME};
use crate::image::digest::Digest;
use crate::image::listing::{self, FaultyEntry};
use crate::image::manifest::annotation::CONTAINERD_SUBJECT;
use crate::image::manifest::{Entry, MAX_MANIFEST, View};
use crate::image::reference::Reference;
use crate::text::quote;

/// The only known version of the layout.
const LAYOUT_VERSION: &str = "1.0.0";

/// Maximum size of `oci-layout` in bytes; the file has about thirty.
const MAX_LAYOUT: u64 = 64 << 10;

/// Reads the images that an archive lists. `given` are the names from the user.
///
/// The OCI layout takes precedence.
/// `manifest.json` is used if there is no OCI layout, and for an image whose OCI manifest is wrong.
pub(super) fn read(archive: &mut Archive, store: &mut Store, given: &mut NameOverrides<'_>) -> Result<Contents> {
    archive.check_documents()?;
    let is_own = archive.files.contains_key(record::MEMBER);
    let mut bad_documents = Vec::new();
    let layout = version(archive)?;
    let layout_is_known = layout.is_ok();
    let is_archive = layout_is_known || archive.files.contains_key(items::MEMBER);
    if let Some(bad_link) = archive.bad_link.take_if(|_| is_archive) {
        return Err(bad_link.error);
    }
    let items = match Items::read(archive) {
        // `manifest.json` of a bundle repeats what `index.json` says, for other programs.
        Err(why) if is_own && layout_is_known && why.kind() == Kind::Malformed => {
            bad_documents.push(BadDocument::new(archive, items::MEMBER, why));
            None
        }
        items => items?,
    };
    let mut contents = match (layout, items) {
        (Ok(()), items) => {
            let items = items.unwrap_or_default();
            let mut contents = read_index(archive, store, &items, given)?;
            // In bundles of this program `manifest.json` lists only one platform of each image, so the index alone counts.
            if !archive.files.contains_key(record::MEMBER) {
                let listed = std::mem::take(&mut contents.listed);
                unlisted::add(archive, store, &items, &listed, given, &mut contents)?;
                contents.listed = listed;
            }
            rebuild::rebuild_contradicted(archive, store, &items, &mut contents);
            record_check::warn(archive, &contents);
            contents.docker_list = DockerList::new(archive, store, items)?;
            contents
        }
        // A bundle of this program always has a layout: without one the bundle is damaged, and `manifest.json` lists only
        // some of its images, with one platform each.
        (Err(why), _) if archive.files.contains_key(record::MEMBER) && why.kind() != Kind::Unsupported => {
            return Err(why.with_hint("the bundle is damaged; copy it again, or export it again"));
        }
        (Err(why), Some(items)) => {
            if archive.files.contains_key("oci-layout") {
                archive
                    .warnings
                    .push(format!("{why}; its `{}` is used instead", items::MEMBER));
            }
            rebuild::read_items(archive, store, &items, given)?
        }
        (Err(why), None) => return Err(why),
    };
    contents.bad_documents = bad_documents;
    take_out_misnamed(archive, store, &mut contents);
    if contents.images.is_empty() && contents.broken.is_empty() {
        let mut error = Error::new(Kind::Malformed, format!("`{}` holds no image", quote(&archive.label)));
        if !contents.missing.is_empty() {
            error = error.with_hint("every image that was asked for failed when it was made; export it again");
        } else if layout_is_known && !archive.files.contains_key(record::MEMBER) && archive.has_blobs {
            contents.is_supplement = is_supplement(archive)?;
            // Nothing is wrong with a supplement that is given alone.
            let error = match contents.is_supplement {
                true => error.with_kind(Kind::Usage),
                false => error,
            };
            let error =
                error.with_hint("it has blobs alone, which complete a damaged bundle: give it together with that one");
            contents.holds_only_blobs = Some(BrokenArchive::new(&archive.label, error));
            return Ok(contents);
        }
        return Err(error);
    }
    warn_of_others(archive);
    Ok(contents)
}

/// Returns whether the documents of an archive without images are those of a supplement, byte by byte.
fn is_supplement(archive: &Archive) -> Result<bool> {
    let index = archive.read("index.json", MAX_LAYOUT)?;
    Ok(index.is_some_and(|index| index_json(&[]).is_ok_and(|empty| empty == index)))
}

/// Moves images whose name states another digest than their own to the broken images.
fn take_out_misnamed(archive: &Archive, store: &Store, contents: &mut Contents) {
    for image in std::mem::take(&mut contents.images) {
        match identity::check(&image.name, &image.root.digest, image.record.as_deref())
            .and_then(|()| identity::check_tag(&image, store))
        {
            Ok(()) => contents.images.push(image),
            Err(error) => {
                let broken = BrokenImage::misnamed(archive, image.place, vec![image.name], error);
                contents.broken.extend(broken);
            }
        }
    }
}

/// Checks that the archive has a known version of the image layout. The inner error says why not.
fn version(archive: &Archive) -> Result<Result<(), Error>> {
    let Some(bytes) = archive.read("oci-layout", MAX_LAYOUT)? else {
        return Ok(Err(no_archive(archive)));
    };
    let place = archive.describe("oci-layout");
    Ok(match serde_json::from_slice::<OciLayout>(&bytes) {
        Ok(layout) if layout.image_layout_version() == LAYOUT_VERSION => Ok(()),
        Ok(layout) => Err(Error::new(
            Kind::Unsupported,
            format!(
                "{place}: unknown layout version `{}`; only `{LAYOUT_VERSION}` is known",
                quote(&layout.image_layout_version())
            ),
        )),
        Err(e) => Err(Error::new(Kind::Malformed, format!("{place}: no such JSON document")).with_source(e)),
    })
}

fn read_index(archive: &Archive, store: &Store, items: &Items, given: &mut NameOverrides<'_>) -> Result<Contents> {
    let recorded = record_check::read(archive, store.budget())?;
    let member = archive.describe("index.json");
    let Some(bytes) = archive.read("index.json", MAX_MANIFEST)? else {
        let what = format!("`{}` has no `index.json`", quote(&archive.label));
        let error = if_cut_off(archive, Error::new(Kind::Malformed, what));
        return match items.is_empty() || recorded.is_some() {
            true => Err(error),
            false => Ok(Contents::default()),
        };
    };
    let listed = listing::entries(&bytes).map_err(|e| e.context(&member))?;
    // The names and references of the entries take no more memory than their text.
    let _held = store
        .budget()
        .hold(bytes.len() as u64)
        .map_err(|e| e.context(&member))?;
    drop(bytes);

    let mut contents = Contents {
        places: listed.len(),
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
        recorded: recorded.as_ref(),
        budget: store.budget(),
        contents,
    };
    let mut nameless = Vec::new();
    let mut named: HashSet<&Digest> = HashSet::new();
    let mut images: Vec<(usize, &Entry)> = Vec::new();
    let mut attached: Vec<Attached<'_>> = Vec::new();
    let mut beside: Vec<Attached<'_>> = Vec::new();
    let mut repositories: HashSet<String> = HashSet::new();
    let pinned = attached::PinnedNames::new(&entries);
    for (place, entry) in &entries {
        let (place, digest) = (*place, &entry.descriptor.digest);
        let exact = given.names_for(place, Some(digest));
        // A name that the user gives takes precedence over the names in the archive. An entry with a name that states another
        // digest is read as an image, which fails: its name must not become the tag of a signature.
        let may_attach = exact.is_empty() && identity::has_own_digest(entry);
        let Contents {
            referrers, warnings, ..
        } = &mut reader.contents;
        if may_attach && attached::listed_referrers(store, archive, entry, referrers, warnings)? {
            continue;
        }
        // An entry with a role has the very names of its image, which may state the digest of that image.
        let may_have_role = may_attach || (exact.is_empty() && pinned.are_of(entry));
        match attached::role(entry).filter(|_| may_have_role) {
            Some(Role::Attached(suffix)) => {
                attached.push(Attached {
                    place,
                    entry,
                    suffix,
                    by_tag: None,
                });
                continue;
            }
            Some(Role::Referrer) if attached::subject(store, entry).is_some() => {
                nameless.push((place, entry));
                continue;
            }
            _ => {}
        }
        let own = names::entry_names(&entry.annotations, &[], None, place).unwrap_or_default();
        // If the record lists an image of this name, the user requested it by name:
        // then it is an image and not an attachment.
        let is_recorded = |name: &Reference| reader.recorded.is_some_and(|recorded| recorded.find(name).is_some());
        if may_attach
            && let Some((name, subject, suffix)) = attached::tagged(entry, given.nameless())
            && !is_recorded(&name)
        {
            beside.push(Attached {
                place,
                entry,
                suffix,
                by_tag: Some((Some(name), subject)),
            });
            continue;
        }
        if may_attach
            && given.nameless().is_none()
            && let Some((subject, suffix)) = attached::bare_tag(entry)
        {
            let by_tag = Some((None, subject));
            attached.push(Attached {
                place,
                entry,
                suffix,
                by_tag,
            });
            continue;
        }
        images.push((place, entry));
        repositories.extend(own.first().or(given.nameless()).map(Reference::name));
        let Some(name) = own.first().or(exact.first()) else {
            nameless.push((place, entry));
            continue;
        };
        named.insert(digest);
        // The record lists an image under its own name, even if the user gave it another name.
        reader.add(place, entry, name, &exact)?;
    }
    // If no image of the repository is in the archive, an entry with such a tag counts as an image.
    for beside in beside {
        match &beside.by_tag {
            Some((Some(name), _)) if !repositories.contains(&name.name()) => {
                images.push((beside.place, beside.entry));
                named.insert(&beside.entry.descriptor.digest);
                reader.add(beside.place, beside.entry, name, &[])?;
            }
            _ => attached.push(beside),
        }
    }
    let below = if nameless.is_empty() {
        HashSet::new()
    } else {
        below(store, &entries)?
    };
    for (place, entry) in nameless {
        // oras also lists the children of an index as entries beside the index.
        let part = !names::is_named(&entry.annotations) && below.contains(&entry.descriptor.digest);
        let refers = entry.annotations.contains_key(CONTAINERD_SUBJECT);
        if part || (named.contains(&entry.descriptor.digest) && !refers) {
            continue;
        }
        if let Some(subject) = attached::subject(store, entry) {
            reader
                .contents
                .warnings
                .extend(attached::contradiction(archive, place, entry, &subject));
            reader.contents.referrers.push(Referrer {
                subject,
                root: entry.descriptor.clone(),
                archive: archive.label.clone(),
            });
            // A referrer with a tag of its own is also an image, if the user gives the repository. An entry with a role has
            // the name of its image instead.
            let has_own = attached::role(entry).is_none();
            let tag = entry.annotations.get(names::REF_NAME).and(given.nameless());
            let tag = tag.filter(|_| has_own);
            for name in names::entry_names(&entry.annotations, &[], tag, place).unwrap_or_default() {
                if tag.is_some() {
                    reader.add(place, entry, &name, std::slice::from_ref(&name))?;
                }
            }
            continue;
        }
        if let Err(error) = identity::check_bare(&entry.annotations, &entry.descriptor.digest, None) {
            let names = given.nameless().cloned().into_iter().collect();
            let broken = BrokenImage::misnamed(archive, place, names, error);
            reader.contents.broken.extend(broken);
            continue;
        }
        let repo_tags = repo_tags(archive, store, items, entry);
        let found = match names::entry_names(&entry.annotations, &repo_tags, None, place) {
            Ok(names) => Ok((names, false)),
            Err(_) => {
                names::entry_names(&entry.annotations, &repo_tags, given.nameless(), place).map(|names| (names, true))
            }
        };
        match found {
            Ok((names, are_given)) => {
                for name in names {
                    let exact = if are_given { std::slice::from_ref(&name) } else { &[] };
                    reader.add(place, entry, &name, exact)?;
                }
            }
            Err(why) => reader.contents.broken.push(names::nameless(
                archive,
                store,
                place,
                &entry.descriptor,
                entry.platform.as_ref(),
                why,
            )),
        }
    }
    let mut contents = reader.contents;
    attached::add(archive, store, &images, &attached, given.nameless(), &mut contents)
        .map_err(|e| e.context(&member))?;
    match recorded {
        Some(recorded) => {
            record_check::compare(archive, &recorded, &mut contents);
            let listed = entries.iter().map(|(_, entry)| &entry.descriptor.digest).collect();
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
    store
        .budget()
        .take(others as u64 * NAME)
        .map_err(|e| e.context(&member))?;
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

/// Converts index entries to images.
struct Reader<'a> {
    archive: &'a Archive,
    recorded: Option<&'a Recorded>,
    budget: &'a Budget,
    contents: Contents,
}

impl Reader<'_> {
    /// Adds an entry under its own name, or under the names that the user gives.
    /// A fault affects this image alone.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if the names take more memory than the budget has left.
    fn add(&mut self, place: usize, entry: &Entry, name: &Reference, given: &[Reference]) -> Result<()> {
        let names = if given.is_empty() {
            std::slice::from_ref(name)
        } else {
            given
        };
        let taken = self.budget.take(names.len() as u64 * NAME);
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
        }
        if record.is_some() {
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

/// Returns the digests of all children of the indexes among these entries.
///
/// # Errors
/// [`Kind::TooLarge`] if the digests take more memory than the budget has left.
fn below(store: &Store, entries: &[(usize, Entry)]) -> Result<HashSet<Digest>> {
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
