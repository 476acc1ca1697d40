//! Builds OCI manifests for Docker's own archive format, where `manifest.json` lists a config and layers for each image.
//!
//! The bytes of the archive are used unchanged: no layer is compressed again, so the same archive gives the same digest
//! every time, and layers are sent from their place in the archive. The config's list of layers is checked, never
//! changed.

use std::collections::HashMap;

use bytes::Bytes;
use oci_spec::image::{DescriptorBuilder, ImageManifestBuilder, MediaType};

use super::items::{Item, MEMBER};
use super::layer::{self, Layer};
use super::member::{Configs, resolve};
use crate::bundle::read::archive::Archive;
use crate::bundle::read::broken::remembered;
use crate::bundle::read::store::Store;
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::manifest::RawManifest;
use crate::image::media_type;
use crate::text::{Warnings, counted, few, quote};

/// Builds manifests from one archive. A layer that several images share is read once.
pub(in crate::bundle::read) struct Builder<'a> {
    archive: &'a Archive,
    layers: HashMap<(String, u64), Result<Layer>>,
    configs: Configs<'a>,
    /// Finished manifests by the place of their image in the list: an image may have many names.
    built: HashMap<usize, Result<Descriptor>>,
    /// Number of bytes that layers may still unpack to beyond the usual ratio.
    beyond: u64,
}

impl<'a> Builder<'a> {
    pub(in crate::bundle::read) fn new(archive: &'a Archive) -> Self {
        Self {
            archive,
            layers: HashMap::new(),
            configs: Configs::new(archive),
            built: HashMap::new(),
            beyond: archive.max_unpacked,
        }
    }

    /// Builds the manifest of an image, adds the manifest and its blobs to the store,
    /// and returns the manifest's descriptor.
    pub(in crate::bundle::read) fn build(&mut self, item: &Item, store: &mut Store) -> Result<Descriptor> {
        if let Some(built) = self.built.get(&item.place) {
            return remembered(built);
        }
        let built = self.try_build(item, store).map_err(|e| {
            let place = self.archive.describe(MEMBER);
            e.context(format!("{place}: image `{}`", item.label()))
        });
        remembered(self.built.entry(item.place).or_insert(built))
    }

    fn try_build(&mut self, item: &Item, store: &mut Store) -> Result<Descriptor> {
        let (place, digest) = self.configs.find(&item.config, store)?;
        store.add_proved(digest.clone(), place.clone())?;
        let known = store
            .config(&digest)
            .map_err(|e| e.context(place.describe(&item.config)))?;
        let paths = item.layers.as_slice();
        let diff_ids = &known.config.diff_ids;
        if paths.len() != diff_ids.len() {
            return Err(Error::new(
                Kind::Malformed,
                format!(
                    "it names {}, its config {}",
                    counted(paths.len() as u64, "layer", "layers"),
                    diff_ids.len()
                ),
            ));
        }
        self.all_there(paths, store)?;
        let mut layers = Vec::with_capacity(paths.len());
        for (path, diff_id) in paths.iter().zip(diff_ids) {
            layers.push(self.layer(path, diff_id, store)?);
        }
        let config = Descriptor {
            media_type: media_type::OCI_CONFIG.into(),
            digest: digest.clone(),
            size: place.size,
        };
        let manifest = manifest(&config, &layers)?;
        store.add_built(&manifest)?;
        Ok(manifest.descriptor().clone())
    }

    /// Returns warnings about the images built so far.
    pub(in crate::bundle::read) fn warnings(&self) -> Warnings {
        self.configs.warnings()
    }

    /// Returns the digest of an image's config.
    pub(in crate::bundle::read) fn config_digest(&mut self, item: &Item, store: &Store) -> Result<Digest> {
        Ok(self.configs.find(&item.config, store)?.1)
    }

    /// Reports all missing layers at once, if two or more are missing.
    fn all_there(&self, paths: &[String], store: &Store) -> Result<()> {
        let missing: Vec<String> = paths
            .iter()
            .filter(|path| resolve(self.archive, path, store).is_err())
            .map(|path| format!("`{}`", quote(path)))
            .collect();
        if missing.len() < 2 {
            return Ok(());
        }
        Err(Error::new(
            Kind::Malformed,
            format!("{} layers are not in the archive: {}", missing.len(), few(&missing)),
        )
        .with_hint("the archive is incomplete: copy it again, or save the image again"))
    }

    fn layer(&mut self, path: &str, diff_id: &Digest, store: &mut Store) -> Result<Descriptor> {
        let place = resolve(self.archive, path, store)?;
        let key = (place.source.label().to_owned(), place.offset);
        // Errors are cached as well: a list may name the same bad layer many times.
        let (layers, beyond) = (&mut self.layers, &mut self.beyond);
        let layer = remembered(
            layers
                .entry(key)
                .or_insert_with(|| layer::examine(&place, path, beyond, store.budget())),
        )?;
        // In theory the config may state diff IDs in another algorithm than SHA-256; no program writes such a config.
        if layer.diff_id != *diff_id {
            return Err(Error::new(
                Kind::Integrity,
                format!(
                    "{}: the layer's content hashes to {}, the config says {diff_id}",
                    place.describe(path),
                    layer.diff_id
                ),
            )
            .with_hint("the archive is damaged or was edited; save the image again"));
        }
        store.add_proved(layer.descriptor.digest.clone(), place)?;
        Ok(layer.descriptor)
    }
}

/// Builds the OCI manifest of a config and layers. oci-spec writes fields in the order of its
/// structs, so the bytes depend on the arguments alone.
fn manifest(config: &Descriptor, layers: &[Descriptor]) -> Result<RawManifest> {
    let wrong = |e: oci_spec::OciSpecError| Error::new(Kind::Malformed, "no manifest can be made").with_source(e);
    let descriptor = |d: &Descriptor| {
        let digest: oci_spec::image::Digest = d.digest.to_string().parse()?;
        DescriptorBuilder::default()
            .media_type(MediaType::from(&*d.media_type))
            .digest(digest)
            .size(d.size)
            .build()
    };
    let manifest = ImageManifestBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageManifest)
        .config(descriptor(config).map_err(wrong)?)
        .layers(
            layers
                .iter()
                .map(descriptor)
                .collect::<Result<Vec<_>, _>>()
                .map_err(wrong)?,
        )
        .build()
        .map_err(wrong)?;
    let bytes = manifest.to_string().map_err(wrong)?;
    RawManifest::new(Bytes::from(bytes), Some(media_type::OCI_MANIFEST), None)
}
