//! Determines the name of an image in an archive: different programs store the name in different places.

use super::archive::Archive;
use super::broken::BrokenImage;
use super::store::Store;
use crate::error::{Error, Kind, Result};
use crate::image::annotations::Annotations;
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::manifest::View;
use crate::image::media_type;
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::text::{few, quote};

pub(super) use crate::image::manifest::annotation::{BASE_NAME, CONTAINERD_NAME, REF_NAME};

/// Returns whether an index entry has a name, or a part of a name.
pub(super) fn is_named(annotations: &Annotations) -> bool {
    [CONTAINERD_NAME, REF_NAME, BASE_NAME]
        .iter()
        .any(|key| annotations.contains_key(key))
}

/// Maximum number of entries of an index that are examined for platforms.
const LOOKED_AT: usize = 100;

/// Returns the names of an index entry; more than one only if they come from `manifest.json`.
///
/// `given` is the user's name for the image without a name. `place` is the position of the entry in the index.
///
/// # Errors
/// [`Kind::Usage`] if there is no name, with a hint.
pub(super) fn entry_names(
    annotations: &Annotations,
    repo_tags: &[String],
    given: Option<&Reference>,
    place: usize,
) -> Result<Vec<Reference>> {
    let mut unreadable = None;
    // Some programs put a bare digest where a name belongs: it identifies the image, but is not a name.
    let annotation = |key: &str| annotations.get(key).filter(|text| !is_digest(text));
    let mut read = |text: &str| match text.parse::<Reference>() {
        Ok(name) => Some(name),
        Err(e) => {
            unreadable.get_or_insert(e);
            None
        }
    };
    if let Some(name) = annotation(CONTAINERD_NAME).and_then(&mut read) {
        return Ok(vec![name]);
    }
    let ref_name = annotation(REF_NAME).filter(|text| !text.is_empty());
    if let Some(name) = ref_name.filter(|text| is_full(text)).and_then(&mut read) {
        return Ok(vec![name]);
    }
    let names: Vec<Reference> = repo_tags.iter().filter_map(|text| read(text)).collect();
    if !names.is_empty() {
        return Ok(names);
    }
    let tag = ref_name.filter(|text| !is_full(text));
    if let Some(given) = given {
        return Ok(vec![under(given, tag)?]);
    }
    Err(match (tag, unreadable) {
        (Some(text), _) if format!("a:{text}").parse::<Reference>().is_err() => {
            let why = format!(
                "it has no usable name: `{}` is neither a reference nor a tag",
                quote(&text)
            );
            Error::new(Kind::Usage, why).with_hint(how_to_name(place))
        }
        (Some(tag), _) => Error::new(
            Kind::Usage,
            format!("it has only a tag, `{}`, and no name", quote(&tag)),
        )
        .with_hint(format!(
            "give its repository with `--name REPOSITORY`, or its whole name with `--name @{place}=REPOSITORY:TAG`"
        )),
        (None, Some(unreadable)) => unusable(unreadable, place),
        (None, None) => {
            let error = no_name(place);
            match (annotations.get(BASE_NAME), error.hint().map(str::to_owned)) {
                (Some(base), Some(hint)) => error.with_hint(format!(
                    "{hint}; the archive says that it is based on `{}`",
                    quote(base)
                )),
                _ => error,
            }
        }
    })
}

/// Returns the error for an image without a name.
pub(super) fn no_name(place: usize) -> Error {
    Error::new(Kind::Usage, "it has no name").with_hint(how_to_name(place))
}

/// Returns the error for an image with an invalid name.
pub(super) fn unusable(why: Error, place: usize) -> Error {
    why.context("it has no usable name").with_hint(how_to_name(place))
}

fn how_to_name(place: usize) -> String {
    format!(
        "give it one with `--name REPOSITORY:TAG`, or, where others have none either, `--name @{place}=REPOSITORY:TAG`"
    )
}

/// Creates the entry of an image without a usable name, described by place, digest and platform;
/// `why` is the cause.
pub(super) fn nameless(
    archive: &Archive,
    store: &Store,
    place: usize,
    root: &Descriptor,
    platform: Option<&Platform>,
    why: Error,
) -> BrokenImage {
    let platforms = platform.map_or_else(|| runs_on(store, root), |platform| Some(platform.to_string()));
    let platforms = platforms.map(|platforms| format!(", {platforms}")).unwrap_or_default();
    let error = why.context(format!(
        "`{}`: image @{place} ({}{platforms})",
        quote(&archive.label),
        root.digest
    ));
    BrokenImage::nameless(archive, place, error).with_root(root)
}

/// Returns the platforms of an image for messages, if they can be found with few reads.
fn runs_on(store: &Store, root: &Descriptor) -> Option<String> {
    let manifest = store.manifest(&root.digest, &root.media_type).ok()?;
    match manifest.view() {
        View::Index(index) => {
            let platforms = index.entries.iter().take(LOOKED_AT);
            let platforms = platforms.filter(|entry| entry.attested().is_none());
            let platforms = few(platforms.filter_map(|entry| entry.platform.as_ref()));
            (!platforms.is_empty()).then_some(platforms)
        }
        View::Image(image) if media_type::is_image_config(&image.config.media_type) => {
            Some(store.config(&image.config.digest).ok()?.config.platform.to_string())
        }
        View::Image(_) | View::Other { .. } => None,
    }
}

fn is_digest(text: &str) -> bool {
    text.parse::<Digest>().is_ok()
}

/// Returns whether a `ref.name` is a whole name: with a `/`, or `REPOSITORY:TAG`.
/// Any other text is a tag.
fn is_full(text: &str) -> bool {
    text.contains('/') || (text.contains(':') && text.parse::<Reference>().is_ok())
}

/// Returns the user's name, with the archive's tag unless the user's name has a tag of its own.
fn under(given: &Reference, tag: Option<&str>) -> Result<Reference> {
    match tag {
        Some(tag) if given.digest().is_none() && given.tag() == Some("latest") => {
            Reference::new(given.host(), given.repository(), Some(tag), None)
        }
        _ => Ok(given.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(annotations: &[(&str, &str)], repo_tags: &[&str], given: Option<&str>) -> String {
        let annotations: serde_json::Map<_, _> = annotations
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).into()))
            .collect();
        let annotations = serde_json::from_str(&serde_json::Value::from(annotations).to_string()).unwrap();
        let repo_tags: Vec<String> = repo_tags.iter().map(|t| (*t).to_owned()).collect();
        let given: Option<Reference> = given.map(|text| text.parse().unwrap());
        match entry_names(&annotations, &repo_tags, given.as_ref(), 3) {
            Ok(names) => names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            Err(e) => format!("error: {e}"),
        }
    }

    #[test]
    fn order_of_places() {
        let full = (REF_NAME, "quay.io/a/b:1");
        let tag = (REF_NAME, "1.2");
        let containerd = (CONTAINERD_NAME, "quay.io/c/d:2");
        let base = (BASE_NAME, "quay.io/base:3");
        assert_eq!(names(&[full, containerd], &["x:1"], Some("y")), "quay.io/c/d:2");
        assert_eq!(names(&[full], &["x:1"], Some("y")), "quay.io/a/b:1");
        assert_eq!(
            names(&[(REF_NAME, "alpine:3")], &[], None),
            "docker.io/library/alpine:3"
        );
        assert_eq!(
            names(&[tag], &["x:1", "x:2"], Some("y")),
            "docker.io/library/x:1 docker.io/library/x:2"
        );
        assert_eq!(names(&[tag], &[], Some("quay.io/y/z")), "quay.io/y/z:1.2");
        assert_eq!(names(&[tag], &[], Some("quay.io/y/z:own")), "quay.io/y/z:own");
        assert_eq!(names(&[base], &[], Some("y:4")), "docker.io/library/y:4");
        assert_eq!(names(&[tag], &[], None), "error: it has only a tag, `1.2`, and no name");
        for text in ["v1.0+build", "image:tag:x", "@1"] {
            let said = names(&[(REF_NAME, text)], &[], None);
            assert!(said.contains("is neither a reference nor a tag"), "{said}");
        }
        assert_eq!(names(&[base], &[], None), "error: it has no name");
        assert!(names(&[(CONTAINERD_NAME, "UPPER/\u{1b}[31mx")], &[], None).contains("\\u{1b}"));
        assert_eq!(names(&[(CONTAINERD_NAME, "UPPER/x"), full], &[], None), "quay.io/a/b:1");
        assert!(names(&[(REF_NAME, "not a tag")], &[], Some("y")).starts_with("error: invalid name"));
    }
}
