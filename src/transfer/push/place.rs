//! Which name each image gets at the destination, and the refusal of names that collide.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{Origin, PushItem, PushRequest};
use crate::error::{Error, Kind, Result};
use crate::image::destination::refuse_collisions;
use crate::image::digest::Digest;
use crate::image::reference::{DOCKER_HUB, Reference};
use crate::image::tree::ImageTree;
use crate::progress::Progress;

/// `SRC=DST`: images below one source path go below another path at the destination.
///
/// `SRC` is a host, or a host and the first components of a path; without a host it is a name as it is typed for an
/// image (`nginx` is `docker.io/library/nginx`). It fits whole components only. `DST` is a path below the destination;
/// it may be empty where `SRC` is no whole image name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    host: String,
    path: Vec<String>,
    to: String,
}

impl Mapping {
    /// The path of this source below the destination, if the mapping fits it.
    fn apply(&self, source: &Reference) -> Option<String> {
        if source.host() != self.host {
            return None;
        }
        let components: Vec<&str> = source.repository().split('/').collect();
        let rest = components.get(self.path.len()..)?;
        if components.iter().zip(&self.path).any(|(a, b)| a != b) {
            return None;
        }
        let to = (!self.to.is_empty()).then_some(self.to.as_str());
        Some(to.into_iter().chain(rest.iter().copied()).collect::<Vec<_>>().join("/"))
    }
}

impl FromStr for Mapping {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = |why: &str| {
            Error::new(Kind::Usage, format!("invalid mapping `{}`: {why}", text.escape_debug()))
                .with_hint("write `SRC=DST`, such as `quay.io/prometheus=monitoring` or `nginx=web/nginx`")
        };
        let (from, to) = text.split_once('=').ok_or_else(|| invalid("there is no `=`"))?;
        let (from, to) = (from.trim().trim_end_matches('/'), to.trim().trim_matches('/'));
        if from.is_empty() {
            return Err(invalid("nothing stands before the `=`"));
        }
        let last = from.rsplit('/').next().unwrap_or(from);
        if from.contains('@') || (from.contains('/') && last.contains(':')) {
            return Err(invalid("a tag or digest cannot be mapped; leave it out"));
        }
        let is_host = |first: &str| first == "localhost" || first.contains('.') || first.contains(':');
        let (host, path) = match from.split_once('/') {
            None if is_host(from) => (from.to_owned(), Vec::new()),
            // Whatever stands behind the host is only there to have it checked and folded like that of an image.
            Some((first, path)) if is_host(first) => (first.to_owned(), path.split('/').map(str::to_owned).collect()),
            None => (DOCKER_HUB.to_owned(), vec!["library".to_owned(), from.to_owned()]),
            Some(_) => (DOCKER_HUB.to_owned(), from.split('/').map(str::to_owned).collect()),
        };
        let probe = |path: &str| {
            Reference::new(&host, path, None, None)
                .map_err(|e| invalid("it breaks the grammar of names").with_source(e))
        };
        let host = match path.is_empty() {
            true => probe("any")?,
            false => probe(&path.join("/"))?,
        }
        .host()
        .to_owned();
        if !to.is_empty() {
            Reference::new(DOCKER_HUB, to, None, None)
                .map_err(|e| invalid("the path behind the `=` breaks the grammar of names").with_source(e))?;
        }
        Ok(Self {
            host,
            path,
            to: to.to_owned(),
        })
    }
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        for component in &self.path {
            write!(f, "/{component}")?;
        }
        write!(f, "={}", self.to)
    }
}

/// The name of one image at the destination: by the longest mapping that fits, else by the rule of the destination.
///
/// # Errors
/// [`Kind::Usage`] if that is no name that a registry accepts.
pub fn place(request: &PushRequest, source: &Reference, original: &Digest) -> Result<Reference> {
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

/// Gives an image its form and its name.
///
/// # Errors
/// Those of [`place`].
pub(crate) fn item(
    request: &PushRequest,
    mut tree: ImageTree,
    blobs: Arc<dyn Origin>,
    rebuilt: bool,
) -> Result<PushItem> {
    if let Some(mode) = request.index {
        tree.choose(mode);
    }
    // They are many and served to decide about platforms; as blobs they are read again.
    tree.configs.clear();
    Ok(PushItem {
        destination: place(request, &tree.source, tree.original.root.digest())?,
        tree: Arc::new(tree),
        blobs,
        rebuilt,
    })
}

/// Warns about mappings that no image uses: most likely they are misspelt.
pub(crate) fn check_mappings<'a>(
    request: &PushRequest,
    sources: impl Iterator<Item = &'a Reference> + Clone,
    progress: &Progress,
) {
    for mapping in &request.mappings {
        if !sources.clone().any(|source| mapping.apply(source).is_some()) {
            progress.warn(format!("no image is below the source of the mapping `{mapping}`"));
        }
    }
}

/// Takes out images that stand there twice, and refuses names that collide.
///
/// # Errors
/// [`Kind::Usage`] that names the destination and both images.
pub(crate) fn settle(items: Vec<PushItem>) -> Result<Vec<PushItem>> {
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
                "`{}` is there twice with different content: {} and {}",
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

    fn placed(mappings: &[&str], source: &str) -> String {
        let mut request = PushRequest::new("r.example/mirror".parse().unwrap());
        request.mappings = mappings.iter().map(|m| m.parse().unwrap()).collect();
        place(&request, &source.parse().unwrap(), &Digest::sha256(b"")).map_or_else(|e| e.full(), |r| r.to_string())
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
