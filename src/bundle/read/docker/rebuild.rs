//! Images with manifests that this program builds: images of docker-archives, and images whose OCI manifest is wrong.

use std::collections::HashMap;

use super::builder::Builder;
use super::items::{Items, MEMBER};
use crate::bundle::read::archive::Archive;
use crate::bundle::read::broken::BrokenImage;
use crate::bundle::read::contents::{BundledImage, Contents};
use crate::bundle::read::name_override::NameOverrides;
use crate::bundle::read::names;
use crate::bundle::read::store::Store;
use crate::error::{Kind, Result};
use crate::image::budget::NAME;
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::manifest::View;
use crate::image::media_type;
use crate::image::reference::Reference;
use crate::text::{Warnings, quote};

/// Reads an archive in Docker's own format.
/// An incomplete image, or an image without a name, does not affect other images.
pub(in crate::bundle::read) fn read_items(
    archive: &mut Archive,
    store: &mut Store,
    items: &Items,
    given: &mut NameOverrides<'_>,
) -> Result<Contents> {
    let mut contents = Contents::default();
    let mut builder = Builder::new(archive);
    for (place, item) in items.all() {
        let item = match item {
            Ok(item) => item,
            Err(error) => {
                let names = given.names_for(place, None);
                contents.broken.extend(BrokenImage::named(archive, place, names, error));
                continue;
            }
        };
        // Built before its names are known: a name override may select an image by its digest.
        let built = builder.build(item, store);
        let (mut names, mut unusable) = (
            given.names_for(place, built.as_ref().ok().map(|root| &root.digest)),
            Vec::new(),
        );
        if names.is_empty() {
            (names, unusable) = item.names();
        }
        if let (true, Some(name)) = (names.is_empty(), given.nameless()) {
            names.push(name.clone());
            unusable.clear();
        }
        let root = match built {
            Ok(root) => root,
            Err(fault) => {
                contents.broken.extend(BrokenImage::named(archive, place, names, fault));
                continue;
            }
        };
        if names.is_empty() && unusable.is_empty() {
            let why = names::no_name(place);
            contents
                .broken
                .push(names::nameless(archive, store, place, &root, None, why));
        }
        for name in unusable {
            let why = names::unusable(name, place);
            contents
                .broken
                .push(names::nameless(archive, store, place, &root, None, why));
        }
        let images = names
            .into_iter()
            .map(|name| rebuilt(archive, place, name, root.clone()));
        contents.images.extend(images);
    }
    let warnings = builder.warnings();
    archive.warnings.append(warnings);
    let names = contents.images.len() + contents.broken.len();
    let taken = store.budget().take(names as u64 * NAME);
    taken.map_err(|e| e.context(archive.describe(MEMBER)))?;
    if !contents.images.is_empty() {
        archive.warnings.push(format!(
            "`{}` has no OCI manifests: those of its images were made from its configs and layers, so their digests \
             are new",
            quote(&archive.label)
        ));
    }
    Ok(contents)
}

/// Rebuilds the manifest of each image whose OCI manifest does not match its config.
///
/// Some versions of Docker listed layers in a wrong order or omitted some in the OCI manifest, while their
/// `manifest.json` was correct.
pub(in crate::bundle::read) fn rebuild_contradicted(
    archive: &mut Archive,
    store: &mut Store,
    items: &Items,
    contents: &mut Contents,
) {
    if items.is_empty() {
        return;
    }
    let mut warnings = Warnings::default();
    let mut builder = Builder::new(archive);
    let images = std::mem::take(&mut contents.images);
    // An image may have many names: the check runs once per root.
    let mut known: HashMap<Descriptor, Soundness> = HashMap::new();
    for image in images {
        let sound = match &image.record {
            Some(_) => Soundness::Sound,
            None => match known.get(&image.root) {
                Some(sound) => sound.clone(),
                None => {
                    // A blob that cannot be read fails this image alone, when its tree is built.
                    let sound = soundness(store, &image.root).unwrap_or(Soundness::Sound);
                    known.entry(image.root.clone()).or_insert(sound).clone()
                }
            },
        };
        let (config, incomplete) = match sound {
            Soundness::Sound => {
                contents.images.push(image);
                continue;
            }
            Soundness::Incomplete(config) => (config, true),
            Soundness::Contradicts(config) => (Some(config), false),
        };
        let Some(item) = items.find(&image.name, config.as_ref(), archive, store) else {
            contents.images.push(image);
            continue;
        };
        match builder.build(item, store) {
            Ok(root) => {
                warnings.push(format!(
                    "`{}`: the manifest of `{}` does not fit its config, so it was made anew from `{MEMBER}`; its digest is \
                     new",
                    quote(&archive.label),
                    image.name,
                ));
                contents.images.push(rebuilt(archive, image.place, image.name, root));
            }
            // The image is incomplete in both forms: building its tree reports everything that is missing.
            Err(_) if incomplete => contents.images.push(image),
            Err(fault) => {
                let names = vec![image.name];
                contents
                    .broken
                    .extend(BrokenImage::named(archive, image.place, names, fault));
            }
        }
    }
    warnings.append(builder.warnings());
    archive.warnings.append(warnings);
}

/// Result of comparing an OCI manifest with its config and blobs.
#[derive(Clone)]
enum Soundness {
    /// No contradiction was found.
    Sound,
    /// A blob is missing or has another size; with the config's digest, if known.
    Incomplete(Option<Digest>),
    /// The manifest and its config, of this digest, contradict each other.
    Contradicts(Digest),
}

fn soundness(store: &Store, root: &Descriptor) -> Result<Soundness> {
    if store.size_of(&root.digest) != Some(root.size) {
        return Ok(Soundness::Incomplete(None));
    }
    let manifest = store.manifest(&root.digest, &root.media_type)?;
    let View::Image(image) = manifest.view() else {
        return Ok(Soundness::Sound);
    };
    if !media_type::is_image_config(&image.config.media_type) {
        return Ok(Soundness::Sound);
    }
    let config_digest = image.config.digest.clone();
    let is_there = |blob: &Descriptor| store.size_of(&blob.digest) == Some(blob.size) || blob.is_nondistributable();
    if !manifest.blobs().into_iter().all(is_there) {
        return Ok(Soundness::Incomplete(Some(config_digest)));
    }
    let known = match store.config(&image.config.digest) {
        Ok(known) => known,
        Err(error) if error.kind() == Kind::Malformed => return Ok(Soundness::Contradicts(config_digest)),
        Err(error) => return Err(error),
    };
    let diff_ids = &known.config.diff_ids;
    let fits = image.layers.len() == diff_ids.len()
        && image.layers.iter().zip(diff_ids).all(|(layer, diff_id)| {
            // The diff ID of a compressed layer cannot be compared without decompressing the layer.
            let plain = matches!(&*layer.media_type, media_type::OCI_LAYER | media_type::DOCKER_LAYER);
            !plain || layer.digest == *diff_id
        });
    Ok(if fits {
        Soundness::Sound
    } else {
        Soundness::Contradicts(config_digest)
    })
}

/// Returns an image whose manifest was built by this program.
pub(in crate::bundle::read) fn rebuilt(
    archive: &Archive,
    place: usize,
    name: Reference,
    root: Descriptor,
) -> BundledImage {
    BundledImage {
        name,
        root,
        record: None,
        rebuilt: true,
        archive: archive.label.clone(),
        place,
        attached_to: None,
        may_be_sparse: false,
    }
}
