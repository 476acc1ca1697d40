//! Determines the type of a manifest: from its own media type, else from the declared type, else from its fields.

use std::borrow::Cow;

use super::fields::{self, Object};
use super::json::Members;
use super::media_type::{self, Shape};
use crate::error::{Error, Kind, Result};
use crate::text::quote;

/// Maximum size of a manifest from any source, in bytes. Registries accept at least 4 MiB, and few accept more
/// (distribution and containers/image do not).
pub(crate) const MAX_MANIFEST: u64 = 16 << 20;

/// Refuses a document with fields that programs read differently.
pub(super) fn check_fields(text: &[u8], object: Object) -> Result<()> {
    let malformed = |why: &str| Error::new(Kind::Malformed, why);
    fields::check(text, object).map_err(|e| match e.is_data() {
        true => malformed("programs read its JSON in different ways")
            .with_source(e)
            .with_hint("such a document means different things to different readers and is refused"),
        false => malformed("it cannot be read").with_source(e),
    })
}

/// Maximum length of a media type in bytes: two names of 127 bytes and a slash (RFC 6838, section 4.2).
const MAX_MEDIA_TYPE: usize = 255;

pub(crate) fn check_media_type(media_type: Option<&str>) -> Result<()> {
    match media_type.map_or(0, str::len) {
        0..=MAX_MEDIA_TYPE => Ok(()),
        length => Err(Error::new(
            Kind::Malformed,
            format!("a media type has {length} bytes; at most {MAX_MEDIA_TYPE} are accepted"),
        )),
    }
}

/// Returns the manifest type that a header or a parent declares, or `None` for a generic type.
///
/// A generic type such as `application/octet-stream` says nothing about the document, and so cannot contradict the document.
pub(crate) fn declared_type(declared: &str) -> Option<String> {
    Some(media_type::essence(declared)).filter(|essence| essence.contains("vnd.") || essence.contains("+json"))
}

/// Returns whether a declared type and the type that the document states are of different kinds, such as index and image.
fn contradicts(declared: &str, stated: &str) -> bool {
    let promised = media_type::shape(declared);
    matches!(promised, Shape::Index | Shape::Image) && promised != media_type::shape(stated)
}

/// The fields of a document, its media type and its kind.
pub(super) struct Head<'a> {
    pub(super) members: Members<'a>,
    pub(super) media_type: Cow<'static, str>,
    pub(super) shape: Shape,
}

/// Determines the type of a document, and refuses a document that programs could read differently. `object` selects the
/// fields to check.
pub(super) fn head<'a>(bytes: &'a [u8], declared: Option<&str>, object: Object) -> Result<Head<'a>> {
    if bytes.len() as u64 > MAX_MANIFEST {
        return Err(Error::new(
            Kind::Malformed,
            format!("it has {} bytes; at most {MAX_MANIFEST} are accepted", bytes.len()),
        ));
    }
    let malformed = |why: String| Error::new(Kind::Malformed, why);
    let text = std::str::from_utf8(bytes).map_err(|e| malformed("it is not UTF-8".into()).with_source(e))?;
    let members: Members<'_> =
        serde_json::from_str(text).map_err(|e| malformed("it is not a JSON object".into()).with_source(e))?;
    check_fields(bytes, object)?;

    check_media_type(declared)?;
    let declared = declared.and_then(declared_type);
    let stated: Option<String> = members.field("mediaType")?;
    check_media_type(stated.as_deref())?;
    let structure = match (
        members.get("manifests").is_some(),
        members.get("config").is_some() || members.get("layers").is_some(),
        members.get("fsLayers").is_some(),
    ) {
        (true, true, _) => {
            return Err(malformed("it has both `manifests` and `config` or `layers`".into())
                .with_hint("such a document means different things to different readers and is refused"));
        }
        (true, false, _) => Shape::Index,
        (false, true, _) => Shape::Image,
        (false, false, true) => Shape::Schema1,
        (false, false, false) => Shape::Other,
    };
    // If a document is declared as a Docker manifest and states that it is an OCI manifest (or the reverse), its own type
    // counts. An image declared as an index (or the reverse) is refused, since programs might read it differently.
    if let (Some(stated), Some(declared)) = (&stated, &declared)
        && contradicts(declared, stated)
    {
        return Err(malformed(format!(
            "it says that it is `{}`, but it was announced as `{}`",
            quote(&stated),
            quote(&declared)
        )));
    }
    // The fields of a document outweigh an unknown declared type: otherwise, the blobs and manifests that the document
    // lists would not be carried.
    let declared = declared.filter(|declared| match media_type::shape(declared) {
        Shape::Index | Shape::Image => true,
        shape => structure == Shape::Other || shape == structure,
    });
    let media_type = stated.or(declared).unwrap_or_else(|| {
        match structure {
            Shape::Index => media_type::OCI_INDEX,
            Shape::Image => media_type::OCI_MANIFEST,
            Shape::Schema1 => media_type::DOCKER_SCHEMA1,
            Shape::Other => "application/json",
        }
        .to_owned()
    });
    let shape = match (media_type::shape(&media_type), structure) {
        (Shape::Other, Shape::Index | Shape::Image) => structure,
        (shape, _) => shape,
    };
    if shape == Shape::Schema1 || (shape == Shape::Other && structure == Shape::Schema1) {
        return Err(Error::new(
            Kind::Unsupported,
            "it is a Docker schema 1 manifest, which is not carried",
        )
        .with_hint("push the image again with a current client; every version since 2016 writes schema 2"));
    }
    match shape {
        Shape::Index if structure == Shape::Image => Err(malformed(format!(
            "it is typed `{media_type}`, but has the fields of an image"
        ))),
        Shape::Image if structure != Shape::Image => Err(malformed(format!(
            "it is typed `{media_type}`, but has no config and layers"
        ))),
        shape => Ok(Head {
            members,
            media_type: media_type::shared(media_type),
            shape,
        }),
    }
}
