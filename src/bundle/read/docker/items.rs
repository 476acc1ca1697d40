//! `manifest.json` of a docker-archive: the images that it lists, their names, and lookups.

use std::collections::HashMap;
use std::fmt;
use std::sync::OnceLock;

use serde::Deserialize;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::member::Configs;
use crate::bundle::read::archive::{Archive, ITEMS};
use crate::bundle::read::store::Store;
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::image::fields::fold;
use crate::image::json::Capped;
use crate::image::manifest::{MAX_ENTRIES, MAX_LAYERS};
use crate::image::reference::Reference;
use crate::text::quote;

/// Name of the document.
pub(in crate::bundle::read) const MEMBER: &str = ITEMS;

/// Maximum size of `manifest.json` in bytes. Docker's loader accepts less; podman accepts 1 MiB.
const MAX_MANIFEST_JSON: u64 = 16 << 20;

/// Maximum number of images in `manifest.json`: the same as in an index.
const MAX_ITEMS: usize = MAX_ENTRIES;

/// Maximum number of names, and of layer paths, of all images in `manifest.json` together: about
/// twenty layers for each of the images that an index may list.
const MAX_PATHS: usize = 200_000;

/// One image of `manifest.json`.
#[derive(Debug, Clone)]
pub(in crate::bundle::read) struct Item {
    /// Position in the list, counted from 0.
    pub(in crate::bundle::read) place: usize,
    /// Path of the config.
    pub(in crate::bundle::read) config: String,
    /// The names, as written.
    repo_tags: Vec<String>,
    /// Paths of the layers.
    pub(in crate::bundle::read) layers: Vec<String>,
}

impl Item {
    /// Returns the names, without the placeholder `<none>` for an image without a name.
    pub(in crate::bundle::read) fn repo_tags(&self) -> impl Iterator<Item = &str> {
        let tags = self.repo_tags.iter().map(String::as_str);
        tags.filter(|tag| !tag.contains("<none>"))
    }

    /// Valid references in RepoTags, and one error for each invalid entry.
    pub(in crate::bundle::read) fn names(&self) -> (Vec<Reference>, Vec<Error>) {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for tag in self.repo_tags() {
            match tag.parse() {
                Ok(name) => good.push(name),
                Err(error) => bad.push(error),
            }
        }
        (good, bad)
    }

    /// Returns the label of the image in messages.
    pub(in crate::bundle::read) fn label(&self) -> String {
        let name = self.repo_tags().next().unwrap_or(&self.config);
        quote(&name).to_string()
    }
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ItemVisitor)
    }
}

/// Reads an item. Field names are matched without regard to case, as Docker does: some programs
/// that write archives rely on that.
struct ItemVisitor;

impl<'de> Visitor<'de> for ItemVisitor {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an image")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Item, A::Error> {
        fn read<'de, A: MapAccess<'de>, T: Deserialize<'de>>(
            map: &mut A,
            name: &str,
            field: &mut Option<T>,
        ) -> Result<(), A::Error> {
            match field.replace(map.next_value()?) {
                None => Ok(()),
                Some(_) => Err(A::Error::custom(format_args!("the field `{name}` appears twice"))),
            }
        }
        let mut config = None;
        let mut repo_tags: Option<Option<Capped<String, MAX_ENTRIES>>> = None;
        let mut layers: Option<Option<Capped<String, MAX_LAYERS>>> = None;
        while let Some(name) = map.next_key::<String>()? {
            match fold(&name).as_str() {
                "config" => read(&mut map, "Config", &mut config)?,
                "repotags" => read(&mut map, "RepoTags", &mut repo_tags)?,
                "layers" => read(&mut map, "Layers", &mut layers)?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Item {
            place: 0,
            config: with_slashes(config.ok_or_else(|| A::Error::missing_field("Config"))?),
            repo_tags: repo_tags.flatten().unwrap_or_default().0,
            layers: layers
                .flatten()
                .unwrap_or_default()
                .0
                .into_iter()
                .map(with_slashes)
                .collect(),
        })
    }
}

/// Returns a path with `/` in place of the `\` that Docker on Windows writes. The members of an archive never have a `\`.
fn with_slashes(path: String) -> String {
    match path.contains('\\') {
        true => path.replace('\\', "/"),
        false => path,
    }
}

/// The whole `manifest.json`.
#[derive(Debug, Default)]
pub(in crate::bundle::read) struct Items {
    /// The items in order; an error for an invalid item.
    listed: Vec<Result<Item>>,
    lookup: OnceLock<Lookup>,
}

/// Positions of items in the list, in order.
#[derive(Debug, Default)]
struct Lookup {
    by_name: HashMap<Reference, usize>,
    by_config: HashMap<Digest, Vec<usize>>,
}

/// Returns whether imgpkg wrote an item: it has a list of images in `manifest.json` as well, in a form of its own.
fn is_of_imgpkg(item: &RawValue) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Form {
        image: Option<IgnoredAny>,
        image_index: Option<IgnoredAny>,
        config: Option<IgnoredAny>,
    }
    let form = serde_json::from_str::<Form>(item.get());
    form.is_ok_and(|form| form.config.is_none() && (form.image.is_some() || form.image_index.is_some()))
}

impl Items {
    /// Reads `manifest.json`; returns `None` if the archive has none.
    pub(in crate::bundle::read) fn read(archive: &Archive) -> Result<Option<Self>> {
        let Some(bytes) = archive.read(MEMBER, MAX_MANIFEST_JSON)? else {
            return Ok(None);
        };
        let place = archive.describe(MEMBER);
        let wrong = |what: String, e: serde_json::Error| {
            Error::new(Kind::Malformed, format!("{place}: {what} as `docker save` writes it")).with_source(e)
        };
        // Some programs write an empty list as `null`, which says nothing beside an index.
        if bytes.trim_ascii() == b"null" && archive.files.contains_key("index.json") {
            return Ok(Some(Self::default()));
        }
        let items: Capped<&RawValue, MAX_ITEMS> =
            serde_json::from_slice(&bytes).map_err(|e| wrong("no list of images".to_owned(), e))?;
        if !items.0.is_empty() && items.0.iter().all(|item| is_of_imgpkg(item)) {
            let why = format!("{place}: it was written by imgpkg, whose archives are not supported");
            return Err(Error::new(Kind::Unsupported, why).with_hint(
                "put it into a registry with `imgpkg copy --tar FILE --to-repo REPOSITORY`, and export from there",
            ));
        }
        let mut listed = Vec::new();
        let (mut names, mut paths) = (0, 0);
        for (at, item) in items.0.into_iter().enumerate() {
            let item = serde_json::from_str::<Item>(item.get());
            if let Ok(item) = &item {
                names += item.repo_tags.len();
                paths += item.layers.len();
            }
            if names > MAX_ENTRIES || paths > MAX_PATHS {
                return Err(Error::new(
                    Kind::TooLarge,
                    format!(
                        "{place}: too large to handle: at most {MAX_ENTRIES} names and {MAX_PATHS} layers are accepted"
                    ),
                )
                .with_hint("save the images into several archives"));
            }
            listed.push(match item {
                Ok(item) => Ok(Item { place: at, ..item }),
                Err(e) => Err(wrong(format!("its entry {at} is no image"), e)),
            });
        }
        Ok(Some(Self {
            listed,
            lookup: OnceLock::new(),
        }))
    }

    pub(in crate::bundle::read) fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// Returns every item with its position.
    pub(in crate::bundle::read) fn all(&self) -> impl Iterator<Item = (usize, Result<&Item>)> {
        let all = self.listed.iter().enumerate();
        all.map(|(place, item)| (place, item.as_ref().map_err(Error::clone)))
    }

    /// Returns the names of the images with this config.
    pub(in crate::bundle::read) fn repo_tags(&self, config: &Digest, archive: &Archive, store: &Store) -> Vec<String> {
        let places = self.lookup(archive, store).by_config.get(config);
        let items = places.into_iter().flatten().filter_map(|place| self.at(*place));
        items.flat_map(Item::repo_tags).map(str::to_owned).collect()
    }

    /// Returns the first item with this name or this config.
    pub(in crate::bundle::read) fn find(
        &self,
        name: &Reference,
        config: Option<&Digest>,
        archive: &Archive,
        store: &Store,
    ) -> Option<&Item> {
        let lookup = self.lookup(archive, store);
        let named = lookup.by_name.get(name).copied();
        let places = config.and_then(|config| lookup.by_config.get(config));
        let first = named.into_iter().chain(places.into_iter().flatten().copied()).min()?;
        self.at(first)
    }

    fn at(&self, place: usize) -> Option<&Item> {
        self.listed.get(place)?.as_ref().ok()
    }

    /// Builds the lookup once:
    /// an archive may list many images, and building it reads and hashes every config.
    fn lookup(&self, archive: &Archive, store: &Store) -> &Lookup {
        self.lookup.get_or_init(|| {
            let mut configs = Configs::new(archive);
            let mut lookup = Lookup::default();
            let mut digests: HashMap<&str, Option<Digest>> = HashMap::new();
            for (place, item) in self.listed.iter().enumerate() {
                let Ok(item) = item else { continue };
                for name in item.names().0 {
                    lookup.by_name.entry(name).or_insert(place);
                }
                let config = digests
                    .entry(&item.config)
                    .or_insert_with(|| Some(configs.find(&item.config, store).ok()?.1));
                if let Some(config) = config {
                    lookup.by_config.entry(config.clone()).or_default().push(place);
                }
            }
            lookup
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;

    use super::*;
    use crate::bundle::read::source::{Extent, Source};

    #[test]
    fn paths_of_windows_are_read() {
        let text = r#"{"Config":"a\\b.json","RepoTags":null,"Layers":["a1\\layer.tar","b2/layer.tar"]}"#;
        let item: Item = serde_json::from_str(text).unwrap();
        assert_eq!(item.config, "a/b.json");
        assert_eq!(item.layers, ["a1/layer.tar", "b2/layer.tar"]);
    }

    #[test]
    fn configs_are_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("archive.tar");
        let list =
            br#"[{"Config":"a.json","RepoTags":["a:1"]},7,{"Config":"a.json","RepoTags":["a:2","<none>:<none>"]}]"#;
        std::fs::write(&path, [b"{\"os\":1}", &list[..]].concat()).unwrap();
        let source = Arc::new(Source::open(&path).unwrap());
        let mut archive = Archive::new("archive.tar");
        for (name, offset, size) in [("a.json", 0, 8), (MEMBER, 8, list.len() as u64)] {
            let place = Extent {
                source: source.clone(),
                member: Some(name.into()),
                offset,
                size,
            };
            archive.files.insert(name.to_owned(), place);
        }
        let store = Store::default();
        let items = Items::read(&archive).unwrap().unwrap();
        assert!(items.all().nth(1).unwrap().1.is_err());
        let config = Digest::sha256(b"{\"os\":1}");
        assert_eq!(items.repo_tags(&config, &archive, &store), ["a:1", "a:2"]);
        // Other bytes of the same length, so that the next read computes another digest.
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(b"{\"os\":2}", 0).unwrap();
        assert_eq!(items.repo_tags(&config, &archive, &store), ["a:1", "a:2"]);
        let found = items.find(&"b".parse().unwrap(), Some(&config), &archive, &store);
        assert_eq!(found.unwrap().label(), "a:1");
        let found = items.find(&"a:2".parse().unwrap(), None, &archive, &store);
        assert_eq!(found.unwrap().label(), "a:2");
    }
}
