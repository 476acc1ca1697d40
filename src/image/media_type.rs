//! Media types of manifests and blobs: OCI image-spec, media-types.md, and Docker Image Manifest V2 Schema 2.

use std::borrow::Cow;

/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// OCI layer, uncompressed tar.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// OCI layer, tar with gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// OCI layer, tar with zstd.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// The withdrawn OCI artifact manifest, still found in registries.
pub const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
/// Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker image manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker image configuration.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker layer, tar with gzip.
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Docker layer, uncompressed tar.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// Docker image manifest, schema 1, signed.
pub const DOCKER_SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
/// Docker image manifest, schema 1.
pub const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";

/// Media types of most descriptors, for which [`shared`] allocates nothing.
const COMMON: [&str; 11] = [
    OCI_INDEX,
    OCI_MANIFEST,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_LAYER,
];

/// Returns a media type for a descriptor, without an allocation of its own if the type is common: a run holds very many
/// descriptors.
pub(crate) fn shared(media_type: String) -> Cow<'static, str> {
    let common = COMMON.into_iter().find(|common| *common == media_type);
    common.map_or(Cow::Owned(media_type), Cow::Borrowed)
}

/// Value of the `Accept` header of a manifest request: all manifest types.
pub const ACCEPT_MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
application/vnd.oci.image.manifest.v1+json, \
application/vnd.docker.distribution.manifest.list.v2+json, \
application/vnd.docker.distribution.manifest.v2+json, \
application/vnd.docker.distribution.manifest.v1+prettyjws, \
application/vnd.docker.distribution.manifest.v1+json, \
application/vnd.oci.artifact.manifest.v1+json";

/// The kind of document that a media type stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A list of manifests.
    Index,
    /// A manifest with a config and layers.
    Image,
    /// Docker schema 1, which is recognised but not carried.
    Schema1,
    /// Anything else.
    Other,
}

/// Returns the kind of document that a media type stands for.
pub fn shape(media_type: &str) -> Shape {
    match media_type {
        OCI_INDEX | DOCKER_LIST => Shape::Index,
        OCI_MANIFEST | DOCKER_MANIFEST => Shape::Image,
        DOCKER_SCHEMA1 | DOCKER_SCHEMA1_SIGNED => Shape::Schema1,
        _ => Shape::Other,
    }
}

/// Returns whether a blob of this type is the config of a container image, which holds the platform and the diff IDs.
pub(crate) fn is_image_config(media_type: &str) -> bool {
    matches!(media_type, OCI_CONFIG | DOCKER_CONFIG)
}

/// Returns whether a blob of this type is a file system layer. Signatures may have an image config as well, and never such
/// layers.
pub(crate) fn is_layer(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.")
}

/// Returns whether content of this type is not a manifest: a layer, or the config of an image or a build cache.
pub(crate) fn is_no_manifest(media_type: &str) -> bool {
    const PARTS: [&str; 4] = [
        ".layer.",
        ".rootfs.diff",
        ".rootfs.foreign.diff",
        "vnd.buildkit.cacheconfig",
    ];
    is_image_config(media_type) || PARTS.iter().any(|part| media_type.contains(part))
}

/// Returns whether a layer of this type may be absent from registries (OCI image-spec, layer.md, "Non-Distributable Layers").
pub(crate) fn is_nondistributable(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    )
}

/// Returns a media type for comparison: in lower case, without parameters and white space.
pub(crate) fn essence(content_type: &str) -> String {
    content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}
