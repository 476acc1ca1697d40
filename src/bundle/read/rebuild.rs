//! Images whose manifests are made here: those of archives in Docker's own format, and those that an OCI layout describes
//! wrongly.

use super::BundledImage;
use super::archive::Archive;
use super::docker_archive::{self, Builder, Item};
use super::layout::Contents;
use super::store::Store;
use crate::error::{Error, Result};
use crate::image::config::{Config, MAX_CONFIG};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::manifest::{MAX_MANIFEST, RawManifest, View};
use crate::image::media_type;
use crate::image::reference::Reference;

/// Reads an archive in Docker's own format.
pub(super) fn read_items(
    archive: &mut Archive,
    store: &mut Store,
    items: &[Item],
    given: Option<&Reference>,
) -> Result<Contents> {
    let mut contents = Contents::default();
    let mut builder = Builder::new(archive);
    let mut faults = Vec::new();
    for item in items {
        let names = docker_archive::names(archive, item, given)?;
        match builder.build(item, store) {
            Ok(root) => contents
                .images
                .extend(names.into_iter().map(|name| rebuilt(archive, name, root.clone()))),
            Err(fault) => faults.push(fault),
        }
    }
    if faults.len() > 1 {
        let lines: String = faults.iter().map(|fault| format!("\n  {}", fault.full())).collect();
        let error = Error::new(
            faults[0].kind(),
            format!("{} images are not whole:{lines}", faults.len()),
        );
        return Err(match faults[0].hint() {
            Some(hint) => error.with_hint(hint.to_owned()),
            None => error,
        });
    }
    if let Some(fault) = faults.pop() {
        return Err(fault);
    }
    let count = contents.images.len();
    archive.warnings.push(format!(
        "`{}` has no OCI manifests: those of its {count} images were made from its configs and layers, so their digests \
         are new",
        archive.label.escape_debug()
    ));
    Ok(contents)
}

/// Makes the manifest anew for an image whose OCI manifest does not fit its config: some versions of Docker listed layers
/// in a wrong order, or not all of them, and were right in `manifest.json`.
pub(super) fn mend(archive: &mut Archive, store: &mut Store, items: &[Item], contents: &mut Contents) -> Result<()> {
    if items.is_empty() {
        return Ok(());
    }
    let mut warnings = Vec::new();
    let mut builder = Builder::new(archive);
    for image in &mut contents.images {
        if image.record.is_some() {
            continue;
        }
        let (config, incomplete) = match soundness(store, &image.root)? {
            Soundness::Sound => continue,
            Soundness::Incomplete(config) => (config, true),
            Soundness::Contradicts(config) => (Some(config), false),
        };
        let same = |item: &&Item| {
            item.repo_tags()
                .iter()
                .any(|tag| tag.parse::<Reference>().is_ok_and(|name| name == image.name))
                || config
                    .as_ref()
                    .is_some_and(|config| builder.config_digest(item, store).is_ok_and(|digest| digest == *config))
        };
        let Some(item) = items.iter().find(same) else { continue };
        let root = match builder.build(item, store) {
            Ok(root) => root,
            // Incomplete either way: the tree will tell all that is missing.
            Err(_) if incomplete => continue,
            Err(e) => return Err(e),
        };
        warnings.push(format!(
            "`{}`: the manifest of `{}` does not fit its config, so it was made anew from `{}`; its digest is new",
            archive.label.escape_debug(),
            image.name,
            docker_archive::MEMBER
        ));
        *image = rebuilt(archive, image.name.clone(), root);
    }
    archive.warnings.append(&mut warnings);
    Ok(())
}

/// What is to be said of an OCI manifest.
enum Soundness {
    /// Everything that can be seen fits.
    Sound,
    /// Something is not there; the config's digest where it is known.
    Incomplete(Option<Digest>),
    /// The manifest and its config, of this digest, do not fit each other.
    Contradicts(Digest),
}

fn soundness(store: &Store, root: &Descriptor) -> Result<Soundness> {
    if store.size_of(&root.digest) != Some(root.size) {
        return Ok(Soundness::Incomplete(None));
    }
    let bytes = store.read_all(&root.digest, MAX_MANIFEST)?;
    let manifest = RawManifest::new(bytes, Some(&root.media_type), Some(&root.digest))
        .map_err(|e| e.context(store.describe(&root.digest)))?;
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
    let bytes = store.read_all(&image.config.digest, MAX_CONFIG)?;
    let Ok(config) = Config::parse(&bytes) else {
        return Ok(Soundness::Contradicts(config_digest));
    };
    let diff_ids = &config.rootfs.diff_ids;
    let fits = image.layers.len() == diff_ids.len()
        && image.layers.iter().zip(diff_ids).all(|(layer, diff_id)| {
            // The digest of a compressed layer says nothing about its content.
            let plain = matches!(
                layer.media_type.as_str(),
                media_type::OCI_LAYER | media_type::DOCKER_LAYER
            );
            !plain || layer.digest == *diff_id
        });
    Ok(if fits {
        Soundness::Sound
    } else {
        Soundness::Contradicts(config_digest)
    })
}

fn rebuilt(archive: &Archive, name: Reference, root: Descriptor) -> BundledImage {
    BundledImage {
        name,
        root,
        record: None,
        rebuilt: true,
        archive: archive.label.clone(),
        may_be_sparse: false,
    }
}
