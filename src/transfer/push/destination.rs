//! Computes the name of each image at the destination, and rejects names that collide.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::request::{BlobOrigin, PushItem, PushRequest};
use crate::error::{Error, Kind, Result, Side};
use crate::image::destination::refuse_collisions;
use crate::image::digest::Digest;
use crate::image::digest_tag;
use crate::image::reference::{DOCKER_HUB, Reference};
use crate::image::tree::ImageTree;
use crate::progress::Progress;
use crate::registry::{Refusal, is_required_or_missing};
use crate::text::few;
use crate::transfer::referrers::check_pushed_referrers;

/// Returns the name of an image at the destination.
/// The longest matching mapping applies, or else the rule of the destination.
///
/// # Errors
/// [`Kind::Usage`] if the result is not a name that a registry accepts.
fn name_at_destination(request: &PushRequest, source: &Reference, original: &Digest) -> Result<Reference> {
    let destination = mapped(request, source, original)?;
    if destination.host() == DOCKER_HUB && destination.repository().split('/').count() > 2 {
        let what = format!("{source} would become `{destination}`, and names on Docker Hub have two components");
        return Err(Error::new(Kind::Usage, what).with_hint(
            "give `-d docker.io/ACCOUNT`, and `--map SRC=DST` for each image that has more than one component, such as \
             `--map docker.io/library/hello-world=hello-world`",
        ));
    }
    Ok(destination)
}

/// Returns the name at the destination of an image that was not read yet.
///
/// # Errors
/// Those of [`name_at_destination`].
pub(crate) fn name_of_reference(request: &PushRequest, source: &Reference) -> Result<Reference> {
    // The digest of the manifest decides only about an image with neither a tag nor a digest, and no reference is such.
    name_at_destination(request, source, &Digest::sha256(b""))
}

/// Returns the name at the destination of an image that was read.
///
/// # Errors
/// Those of [`name_at_destination`]; [`Kind::Integrity`] if the tag states the digest of another image.
pub(crate) fn name_of_tree(request: &PushRequest, tree: &ImageTree) -> Result<Reference> {
    let destination = name_at_destination(request, &tree.source, tree.original.root.digest())?;
    digest_tag::check_tree(&destination, tree)?;
    Ok(destination)
}

/// Returns the name of an image at the destination, before the check for Docker Hub.
fn mapped(request: &PushRequest, source: &Reference, original: &Digest) -> Result<Reference> {
    if let Some(rename) = request.destinations.get(source) {
        let context = |e: Error| e.context(format!("destination `{rename}` for {source}"));
        let tag = rename.tag.as_deref().or(source.tag());
        let renamed = Reference::new(source.host(), &rename.path, tag, source.digest().cloned()).map_err(context)?;
        let destination = request.destination.clone().keep_host(false);
        return destination.place(&renamed, original).map_err(context);
    }
    let mapped = request
        .mappings
        .iter()
        .filter_map(|mapping| Some((mapping, mapping.apply(source)?)))
        .max_by_key(|(mapping, _)| mapping.path.len());
    match mapped {
        None => request.destination.place(source, original),
        Some((mapping, path)) => {
            let context = |e: Error| e.context(format!("mapping `{mapping}` for {source}"));
            let renamed =
                Reference::new(source.host(), &path, source.tag(), source.digest().cloned()).map_err(context)?;
            request
                .destination
                .clone()
                .keep_host(false)
                .place(&renamed, original)
                .map_err(context)
        }
    }
}

/// Marks an error as one of the destination, unless it is marked as one of the source. So a response or login that cannot
/// be read does not count as a damaged bundle.
pub(super) fn with_destination_side(error: Error) -> Error {
    error.or_side(Side::Destination)
}

/// Adds a hint to an error that may be caused by a deep path.
///
/// Some registries allow one path component below an organization. They call a deeper path invalid, have no page for it, or
/// issue a token that does not allow it. A login that is missing or wrong, and a right that is missing, have other causes.
pub(crate) fn with_path_hint(error: Error, destination: &Reference) -> Error {
    const MAP: &str = "if the registry allows only two path components, shorten the path with `--map`, such as \
         `--map quay.io/prometheus=` or `--map docker.io/library=`";
    let is_deep = destination.repository().split('/').count() > 2;
    let may_be_why = match Refusal::in_error(&error) {
        Some(refusal) if refusal.has("NAME_INVALID") || refusal.status == 401 => true,
        Some(refusal) => matches!(refusal.status, 404 | 405) && refusal.codes.is_empty(),
        None => is_required_or_missing(&error),
    };
    if !is_deep || !may_be_why {
        return error;
    }
    let hint = match error.hint() {
        Some(hint) if hint.ends_with('?') => format!("{hint} {MAP}"),
        Some(hint) => format!("{hint}; {MAP}"),
        None => MAP.to_owned(),
    };
    error.with_hint(hint)
}

/// Builds the push item of an image, with its final index form and its name at the destination.
///
/// # Errors
/// Errors of [`name_of_tree`].
pub(crate) fn item(
    request: &PushRequest,
    mut tree: ImageTree,
    blobs: Arc<dyn BlobOrigin>,
    rebuilt: bool,
) -> Result<PushItem> {
    if let Some(mode) = request.index {
        tree.choose(mode);
    }
    if request.require_referrers {
        check_pushed_referrers(&tree).map_err(|error| error.context(format!("`{}`", tree.source)))?;
    }
    tree.set_aside_unused_attachments();
    // Configs can take much memory and only served to select platforms; as blobs they are read again.
    tree.configs.clear();
    Ok(PushItem {
        destination: name_of_tree(request, &tree)?,
        tree: Arc::new(tree),
        blobs,
        rebuilt,
        platform_of: None,
    })
}

/// Fails if no image at all has a usable name, since then the destination or a mapping is wrong.
/// Otherwise an image without a usable name fails alone.
///
/// # Errors
/// The error of the first unusable name.
pub(crate) fn check_any_is_usable(images: usize, unusable: Vec<Error>) -> Result<()> {
    if unusable.len() == images
        && let Some(first) = unusable.into_iter().next()
    {
        return Err(first);
    }
    Ok(())
}

/// Warns about mappings that match no image: most likely they are misspelt.
pub(crate) fn check_mappings<'a>(
    request: &PushRequest,
    sources: impl Iterator<Item = &'a Reference> + Clone,
    progress: &Progress,
) {
    for mapping in &request.mappings {
        if !sources.clone().any(|source| mapping.apply(source).is_some()) {
            progress.warn(format!(
                "no image is below the source of the mapping `{mapping}`; the images are {}",
                few(sources.clone().map(|source| format!("`{source}`")))
            ));
        }
    }
}

/// Removes duplicate images, and rejects names that collide.
///
/// # Errors
/// [`Kind::Usage`], with the destination and both images.
pub(crate) fn dedupe_and_check_collisions(items: Vec<PushItem>) -> Result<Vec<PushItem>> {
    let mut settled: Vec<PushItem> = Vec::with_capacity(items.len());
    let mut taken: BTreeMap<Reference, usize> = BTreeMap::new();
    for item in items {
        let Some(&other) = taken.get(&item.destination) else {
            taken.insert(item.destination.clone(), settled.len());
            settled.push(item);
            continue;
        };
        let other = &settled[other];
        let digests = (other.tree.pushed().root.digest(), item.tree.pushed().root.digest());
        if other.tree.source.name() == item.tree.source.name() && digests.0 == digests.1 {
            continue;
        }
        refuse_collisions([
            (&other.tree.source, &other.destination),
            (&item.tree.source, &item.destination),
        ])?;
        return Err(Error::new(
            Kind::Usage,
            format!(
                "`{}` appears twice with different content: {} and {}",
                item.tree.source, digests.0, digests.1
            ),
        )
        .with_hint("import the bundles one after the other, the newer one last"));
    }
    Ok(settled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transfer::push::request::Mapping;

    fn placed(mappings: &[&str], source: &str) -> String {
        let mut request = PushRequest::new("r.example/mirror".parse().unwrap());
        request.mappings = mappings.iter().map(|m| m.parse().unwrap()).collect();
        name_at_destination(&request, &source.parse().unwrap(), &Digest::sha256(b""))
            .map_or_else(|e| e.full(), |r| r.to_string())
    }

    #[test]
    fn the_longest_prefix_of_whole_components_decides() {
        let mappings = [
            "quay.io=q",
            "quay.io/prometheus=monitoring",
            "nginx=web/front",
            "docker.io/library=",
        ];
        for (source, expected) in [
            ("quay.io/prometheus/node:v1", "r.example/mirror/monitoring/node:v1"),
            ("quay.io/prometheus2/node:v1", "r.example/mirror/q/prometheus2/node:v1"),
            ("quay.io/x", "r.example/mirror/q/x:latest"),
            ("nginx:1", "r.example/mirror/web/front:1"),
            ("nginx2:1", "r.example/mirror/nginx2:1"),
            ("a/b", "r.example/mirror/a/b:latest"),
            ("ghcr.io/a/b", "r.example/mirror/a/b:latest"),
        ] {
            assert_eq!(placed(&mappings, source), expected, "{source}");
        }
        assert!(placed(&["nginx="], "nginx").contains("mapping `docker.io/library/nginx=`"));
    }

    #[test]
    fn mappings_that_are_none() {
        for bad in [
            "",
            "a",
            "=a",
            "a=UP",
            "quay.io/a:1=b",
            "a@sha256:0=b",
            "a=b:1",
            "a//b=c",
            "quay.io/A=b",
        ] {
            assert!(bad.parse::<Mapping>().is_err(), "{bad}");
        }
        for (good, shown) in [
            ("localhost:5000=x", "localhost:5000=x"),
            ("index.docker.io/a/=b/", "docker.io/a=b"),
        ] {
            assert_eq!(good.parse::<Mapping>().unwrap().to_string(), shown);
        }
    }
}
