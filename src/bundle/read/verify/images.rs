//! Checks for each image that all its manifests and blobs are present and right.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::docker_list::DockerLists;
use super::faults::{Faults, User, lacks_a_name};
use super::hash::Hashed;
use super::result::{Fault, FaultKind};
use super::roots::Roots;
use super::wrong::AllWrong;
use crate::bundle::read::documents::KnownConfig;
use crate::bundle::read::{BrokenImage, Bundle, BundledImage, Referrer};
use crate::error::{Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::manifest::{RawManifest, View};
use crate::image::media_type::{self, Shape};
use crate::image::reference::Reference;
use crate::image::tree::{ImageTree, MAX_NODES};
use crate::text::{byte_count, counted};

/// A layer with the content that a config promises for the layer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct LayerContent {
    pub(super) layer: Digest,
    pub(super) diff_id: Digest,
}

/// The origin of a promise about a layer's content.
#[derive(Debug, Default)]
pub(super) struct ExpectedContent {
    /// The first config with this promise.
    pub(super) config: Option<Digest>,
    /// An image for each manifest that lists the layer, with its number.
    pub(super) images: Vec<(usize, String)>,
}

/// All promises about the content of layers.
pub(super) type Contents = HashMap<LayerContent, ExpectedContent>;

/// Maximum number of referrers of referrers between an image and a referrer.
const MAX_CHAIN: usize = 8;

/// Memory in bytes of a promise.
const PROMISE: u64 = 512;

/// The result of checking all images.
#[derive(Debug, Default)]
pub(super) struct CheckedImages {
    /// Number of images, without attachments.
    pub(super) images: u64,
    /// The promised content of the layers, each pair once with the images that share it.
    pub(super) contents: Contents,
    /// Number of encrypted layers, whose content cannot be compared.
    pub(super) encrypted: u64,
    /// Number and total size of the blobs that no document refers to.
    pub(super) unreferenced: (u64, u64),
}

/// An image under all its names. An image without a name is reported by its digest.
struct Group<'a> {
    images: Vec<&'a BundledImage>,
    names: Vec<String>,
    is_named: bool,
}

impl Group<'_> {
    fn user(&self, number: usize) -> User<'_> {
        let image = self.images.first().filter(|_| self.is_named);
        User {
            number,
            names: &self.names,
            source: image.map(|image| image.attached_to.as_ref().unwrap_or(&image.name)),
        }
    }
}

/// Checks every image.
pub(super) fn check(bundle: &Bundle, hashed: &Hashed, deep: bool, faults: &mut Faults<'_>) -> CheckedImages {
    let subjects = bundle.parts.referrers.iter().map(|referrer| &referrer.subject);
    let records = || bundle.parts.images.iter().filter_map(|image| image.record.as_deref());
    let originals: HashSet<&Digest> = records().map(|record| &record.original).collect();
    let filtered = records().filter_map(|record| record.filtered.as_ref());
    let mut check = Check {
        bundle,
        deep,
        wrong: &hashed.wrong,
        arrived: &hashed.arrived,
        faults,
        content: HashMap::new(),
        encrypted: HashSet::new(),
        subjects: subjects.collect(),
        owners: HashMap::new(),
        referenced: HashSet::new(),
        made_here: filtered.filter(|digest| !originals.contains(digest)).collect(),
    };
    let nameless = nameless(bundle);
    let named = bundle.parts.images.iter().chain(&bundle.parts.ambiguous);
    let images = named.clone().filter(|image| image.attached_to.is_none()).count() + nameless.len();
    let labelled = named.map(|image| (image, image.name.to_string(), true));
    let by_digest = nameless
        .iter()
        .map(|image| (image, image.root.digest.to_string(), false));
    // Images that differ only in their names are checked once.
    let mut places: HashMap<_, usize> = HashMap::new();
    let mut groups: Vec<Group<'_>> = Vec::new();
    for (image, name, is_named) in labelled.chain(by_digest) {
        let place = *places.entry((image.content(), is_named)).or_insert(groups.len());
        if place == groups.len() {
            groups.push(Group {
                images: Vec::new(),
                names: Vec::new(),
                is_named,
            });
        }
        groups[place].images.push(image);
        groups[place].names.push(name);
    }
    let mut lists = DockerLists::new(bundle);
    for (number, group) in groups.iter().enumerate() {
        let (Some(first), user) = (group.images.first(), group.user(number)) else {
            continue;
        };
        for referrer in first.record.iter().flat_map(|record| &record.referrers) {
            check.owners.entry(referrer.digest.clone()).or_insert(number);
        }
        match bundle.tree_of(first) {
            Ok(tree) => {
                check.tree(&tree, user);
                group
                    .images
                    .iter()
                    .for_each(|image| lists.compare(image, &tree, check.faults));
            }
            Err(error) => {
                if !check.survey(Roots::of_image(first), user) {
                    check.faults.add(Fault {
                        images: group.names.iter().take(1).map(|name| name.as_str().into()).collect(),
                        more_images: group.names.len() as u64 - 1,
                        file: Some(first.archive.as_str().into()),
                        ..Fault::from_error(FaultKind::Image, &error)
                    });
                }
            }
        }
    }
    lists.finish(bundle, check.faults);
    check.referrers(&groups);
    bundle.parts.listed.iter().for_each(|entry| check.refer(&entry.digest));
    CheckedImages {
        unreferenced: check.unreferenced(),
        images: images as u64,
        encrypted: check.encrypted.len() as u64,
        contents: check.content,
    }
}

/// Returns the images of which only the name is missing, each once.
fn nameless(bundle: &Bundle) -> Vec<BundledImage> {
    // The name is not shown: the image is reported by its digest.
    let Ok(name) = "unnamed".parse::<Reference>() else {
        return Vec::new();
    };
    let named: HashSet<&Digest> = bundle.parts.images.iter().map(|image| &image.root.digest).collect();
    let mut seen = HashSet::new();
    let broken = bundle.parts.broken.iter().filter(|image| lacks_a_name(image));
    let roots = broken.filter_map(|image| Some((image, image.root.as_ref()?)));
    let new = roots.filter(|(_, root)| !named.contains(&root.digest) && seen.insert(&root.digest));
    let image = |(broken, root): (&BrokenImage, &Descriptor)| BundledImage {
        name: name.clone(),
        root: root.clone(),
        record: None,
        rebuilt: false,
        archive: broken.archive.clone(),
        place: 0,
        attached_to: None,
        may_be_sparse: false,
    };
    new.map(image).collect()
}

struct Check<'a, 'b> {
    bundle: &'a Bundle,
    deep: bool,
    wrong: &'a AllWrong,
    arrived: &'a HashMap<Digest, u64>,
    faults: &'a mut Faults<'b>,
    content: Contents,
    /// Encrypted layers.
    encrypted: HashSet<Digest>,
    /// Subjects of referrers that are listed on their own.
    subjects: HashSet<&'a Digest>,
    /// Images by the digests of their referrers and of the subjects of referrers.
    owners: HashMap<Digest, usize>,
    /// Blobs of the bundle or the pipe that a document refers to.
    referenced: HashSet<&'a Digest>,
    /// Filtered indexes, which an export made, so that no registry has them.
    made_here: HashSet<&'a Digest>,
}

impl Check<'_, '_> {
    /// Notes that a document refers to a blob.
    fn refer(&mut self, digest: &Digest) {
        let stored = self.bundle.store.stored(digest);
        let arrived = || self.arrived.get_key_value(digest).map(|(digest, _)| digest);
        self.referenced.extend(stored.or_else(arrived));
    }

    /// Returns the number and the total size of the blobs that no document refers to.
    fn unreferenced(&self) -> (u64, u64) {
        let arrived = self.arrived.iter().map(|(digest, size)| (digest, *size));
        let arrived = arrived.filter(|(digest, _)| self.bundle.store.stored(digest).is_none());
        let all = self.bundle.stored().chain(arrived);
        let unreferenced = all.filter(|(digest, _)| !self.referenced.contains(digest));
        unreferenced.fold((0, 0), |(blobs, bytes): (u64, u64), (_, size)| {
            (blobs + 1, bytes.saturating_add(size))
        })
    }

    /// Returns the size of a blob, if the bundle or the pipe has the blob.
    fn size_of(&self, digest: &Digest) -> Option<u64> {
        self.bundle
            .size_of(digest)
            .or_else(|| self.arrived.get(digest).copied())
    }

    /// Checks an image whose documents are all readable.
    fn tree(&mut self, tree: &ImageTree, user: User<'_>) {
        let read: HashSet<&Digest> = tree.original.all().map(|manifest| manifest.digest()).collect();
        for manifest in tree.manifests() {
            self.note_owner(manifest.digest(), user);
            self.refer(manifest.digest());
            // The manifest was read, or was made from a manifest that was read.
            let (digest, size) = (manifest.digest(), manifest.descriptor().size);
            let is_lost = self.made_here.contains(digest) && self.size_of(digest).is_none();
            match self.wrong.everywhere(digest) {
                Some(kind) if !read.contains(digest) => {
                    self.faults.add_user(kind, digest, user);
                    self.faults.remade(digest);
                }
                Some(_) => {
                    self.blob(digest, Some(size), user);
                }
                None if is_lost => {
                    self.blob(digest, Some(size), user);
                    self.faults.remade(digest);
                }
                None => {}
            }
            self.config(manifest, user);
        }
        for blob in tree.blobs() {
            self.blob(&blob.descriptor.digest, Some(blob.descriptor.size), user);
        }
    }

    /// Notes that a manifest belongs to an image, if referrers have the manifest as their subject.
    fn note_owner(&mut self, digest: &Digest, user: User<'_>) {
        if self.subjects.contains(digest) {
            self.owners.entry(digest.clone()).or_insert(user.number);
        }
    }

    /// Checks the referrers that are listed on their own, each for the image that it belongs to.
    fn referrers(&mut self, groups: &[Group<'_>]) {
        let bundle = self.bundle;
        let referrers = &bundle.parts.referrers;
        let by_root: HashMap<&Digest, &Referrer> = referrers
            .iter()
            .map(|referrer| (&referrer.root.digest, referrer))
            .collect();
        let mut seen = HashSet::new();
        let new = referrers.iter().filter(|referrer| seen.insert(&referrer.root.digest));
        for (place, referrer) in new.enumerate() {
            let mut owner = None;
            let mut link = Some(referrer);
            for _ in 0..MAX_CHAIN {
                let Some(of) = link.filter(|_| owner.is_none()) else {
                    break;
                };
                owner = self
                    .owners
                    .get(&of.root.digest)
                    .or_else(|| self.owners.get(&of.subject))
                    .copied();
                link = by_root.get(&of.subject).copied();
            }
            let names = [referrer.root.digest.to_string()];
            let alone = User {
                number: groups.len() + place,
                names: &names,
                source: None,
            };
            let user = owner
                .and_then(|number| Some(groups.get(number)?.user(number)))
                .unwrap_or(alone);
            if !self.survey(Roots::of_referrer(&referrer.root), user)
                && let Err(error) = bundle.referrer_tree(referrer)
            {
                self.faults.add(Fault {
                    file: Some(referrer.archive.as_str().into()),
                    digest: Some(referrer.root.digest.clone()),
                    images: user.names.iter().take(1).map(|name| name.as_str().into()).collect(),
                    ..Fault::from_error(FaultKind::Image, &error)
                });
            }
        }
    }

    /// Checks that a blob is present and right; returns the result.
    fn blob(&mut self, digest: &Digest, size: Option<u64>, user: User<'_>) -> bool {
        self.refer(digest);
        let kind = match (self.wrong.everywhere(digest), self.size_of(digest)) {
            (Some(kind), _) => kind,
            (None, Some(actual)) => match size.filter(|size| *size != actual) {
                None => return true,
                Some(stated) => {
                    let what = format!("blob {digest} has {}, where {stated} are stated", byte_count(actual));
                    self.faults.about(digest, Fault::new(FaultKind::Size, what));
                    FaultKind::Size
                }
            },
            (None, None) => {
                let what = match self.bundle.store.refusal(digest) {
                    Some(why) => format!("blob {digest} cannot be read: {why}"),
                    None => format!("blob {digest} is missing"),
                };
                self.faults.about(digest, Fault::new(FaultKind::Missing, what));
                FaultKind::Missing
            }
        };
        self.faults.add_user(kind, digest, user);
        match user.source {
            _ if self.made_here.contains(digest) => self.faults.cannot_want(
                kind,
                digest,
                "an export made this index, and no registry has it: an import makes it again once the rest of the image is \
                 intact; if nothing else of the image is damaged, export the image again",
            ),
            Some(name) => self.faults.want(digest, size, name),
            None => self.faults.cannot_want(
                kind,
                digest,
                "a want-list has only blobs of images with a name: give this image one with `--name`",
            ),
        }
        false
    }

    /// Checks everything below these manifests, as far as the documents are readable. Returns
    /// whether a fault was found that makes the image unusable.
    fn survey(&mut self, roots: Roots<'_>, user: User<'_>) -> bool {
        let bundle = self.bundle;
        let Roots {
            mut open,
            mut kept,
            dropped,
            may_be_sparse,
            needs_configs,
        } = roots;
        let tops: HashSet<Digest> = open.iter().map(|(digest, ..)| digest.clone()).collect();
        let states_children = kept.iter().any(|kept| !tops.contains(kept));
        let (mut seen, mut explained) = (HashSet::new(), false);
        while let Some((digest, size, media_type)) = open.pop() {
            if !seen.insert(digest.clone()) || seen.len() > MAX_NODES {
                continue;
            }
            self.note_owner(&digest, user);
            if !self.blob(&digest, size, user) {
                match tops.contains(&digest) && states_children {
                    true => open.extend(kept.drain(..).map(|kept| (kept, None, "".into()))),
                    false if self.made_here.contains(&digest) => {}
                    false => self.faults.unread(&digest),
                }
                explained = true;
                continue;
            }
            let manifest = match bundle.store.manifest(&digest, &media_type) {
                Ok(manifest) => manifest,
                Err(error) if error.kind() == Kind::TooLarge => return false,
                Err(error) => {
                    self.faults
                        .about(&digest, Fault::from_error(FaultKind::Manifest, &error));
                    self.faults.add_user(FaultKind::Manifest, &digest, user);
                    explained = true;
                    continue;
                }
            };
            let is_image = match manifest.view() {
                View::Index(index) => {
                    for entry in &index.entries {
                        let child = &entry.descriptor;
                        let is_absent = self.size_of(&child.digest).is_none();
                        // Absent platforms are no fault if the record lists them as dropped, or the image may be sparse. The
                        // record does not list those of a dropped index, which may be present for another image.
                        let may_lack = is_absent || media_type::shape(&child.media_type) == Shape::Index;
                        if (may_lack && dropped.contains(&child.digest)) || (is_absent && may_be_sparse) {
                            continue;
                        }
                        open.push((child.digest.clone(), Some(child.size), child.media_type.clone()));
                    }
                    false
                }
                View::Image(image) => {
                    explained |= needs_configs && self.known_config(&image.config, user).is_err();
                    true
                }
                View::Other { .. } => false,
            };
            for (position, blob) in manifest.blobs().into_iter().enumerate() {
                let is_layer = position > 0 || !is_image;
                // As in an import: only layers that may not be distributed may be absent.
                if is_layer && blob.is_nondistributable() && self.size_of(&blob.digest).is_none() {
                    continue;
                }
                explained |= !self.blob(&blob.digest, Some(blob.size), user);
            }
        }
        explained
    }

    /// Reads the config of an image. Returns `None` for a config of another type, and for one that another fault is about.
    ///
    /// # Errors
    /// The error of a config that breaks the rules of its format, which is a fault of the config.
    fn known_config(&mut self, config: &Descriptor, user: User<'_>) -> Result<Option<Arc<KnownConfig>>> {
        let digest = &config.digest;
        if !media_type::is_image_config(&config.media_type)
            || self.wrong.everywhere(digest).is_some()
            || self.bundle.size_of(digest) != Some(config.size)
        {
            return Ok(None);
        }
        let known = self.bundle.store.config(digest);
        known.map(Some).inspect_err(|error| {
            self.faults.about(digest, Fault::from_error(FaultKind::Config, error));
            self.faults.add_user(FaultKind::Config, digest, user);
        })
    }

    /// Compares the config of an image with its manifest.
    fn config(&mut self, manifest: &RawManifest, user: User<'_>) {
        let View::Image(image) = manifest.view() else { return };
        let digest = &image.config.digest;
        let Ok(Some(known)) = self.known_config(&image.config, user) else {
            return;
        };
        let diff_ids = &known.config.diff_ids;
        if diff_ids.len() != image.layers.len() {
            // Programs that store other artifacts than images in registries use the media type of an image config for
            // `{}`.
            if diff_ids.is_empty() && known.config.platform.os.is_empty() {
                return;
            }
            let what = format!(
                "manifest {} lists {}, and its config {digest} describes {}",
                manifest.digest(),
                counted(image.layers.len() as u64, "layer", "layers"),
                diff_ids.len()
            );
            self.faults
                .about(manifest.digest(), Fault::new(FaultKind::LayerCount, what));
            self.faults.add_user(FaultKind::LayerCount, manifest.digest(), user);
            return;
        }
        if !self.deep {
            return;
        }
        for (layer, diff_id) in image.layers.iter().zip(diff_ids) {
            if self.wrong.everywhere(&layer.digest).is_some() || self.bundle.size_of(&layer.digest) != Some(layer.size)
            {
                continue;
            }
            if layer.media_type.ends_with("+encrypted") {
                if !self.encrypted.contains(&layer.digest) && self.bundle.budget().take(PROMISE).is_ok() {
                    self.encrypted.insert(layer.digest.clone());
                }
                continue;
            }
            let content = LayerContent {
                layer: layer.digest.clone(),
                diff_id: diff_id.clone(),
            };
            if !self.content.contains_key(&content)
                && let Err(error) = self.bundle.budget().take(PROMISE)
            {
                self.faults
                    .about(digest, Fault::from_error(FaultKind::LayerContent, &error));
                return;
            }
            let promise = self.content.entry(content).or_default();
            promise.config.get_or_insert_with(|| digest.clone());
            promise
                .images
                .extend(user.names.iter().take(1).map(|name| (user.number, name.clone())));
        }
    }
}
