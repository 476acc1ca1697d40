//! Fewer platforms of an image whose manifests are at hand: what `--platform` does to an image that comes out of a bundle.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::image::config::Config;
use crate::image::digest::Digest;
use crate::image::filter::{self, Fate};
use crate::image::manifest::{Entry, Index, RawManifest, View};
use crate::image::platform::{Platform, PlatformFilter, PlatformPattern};
use crate::image::tree::{ImageTree, IndexMode, MAX_DEPTH, PlatformRecord, Variant, platform_label};

/// Drops the platforms that the filter does not mean. What the tree lacks already stays dropped, and a tree that loses
/// nothing more is returned as it is. The smaller index is made from the original, so that it is the same as that of an
/// export with both filters at once.
///
/// # Errors
/// [`Kind::NotFound`] if nothing is left.
pub fn refilter(tree: ImageTree, filter: &PlatformFilter) -> Result<ImageTree> {
    let mut walk = Walk {
        manifests: tree
            .original
            .below
            .iter()
            .map(|m| (m.digest().clone(), m.clone()))
            .collect(),
        labels: tree.kept.iter().map(|k| (&k.digest, k.platform.as_str())).collect(),
        tree: &tree,
        filter,
        kept: Vec::new(),
        dropped: Vec::new(),
    };
    let root = &tree.original.root;
    let View::Index(index) = root.view() else {
        let platform = walk.platform_behind(root);
        return match platform {
            Some(platform) if !filter.matches(&platform) => Err(nothing_left(&tree, filter)),
            _ => Ok(tree),
        };
    };
    let Some(level) = walk.index(root, index, 0)? else {
        return Err(nothing_left(&tree, filter));
    };
    let (kept, dropped) = (walk.kept, walk.dropped);
    let had = tree.filtered.as_ref().map(|variant| variant.root.digest());
    if level.filtered.as_ref().map(|root| root.digest()) == had {
        return Ok(tree);
    }
    let had_filtered = tree.filtered.is_some();
    let mut smaller = ImageTree {
        original: Variant::new(root.clone(), level.original),
        filtered: level.filtered.map(|root| Variant::new(root, level.carried)),
        kept,
        dropped,
        source: tree.source,
        choice: tree.choice,
        left_out: tree.left_out,
        configs: tree.configs,
    };
    if !had_filtered {
        smaller.choose(IndexMode::Auto);
    }
    let named: HashSet<Digest> = smaller
        .manifests()
        .iter()
        .flat_map(|m| m.blobs())
        .map(|d| d.digest.clone())
        .collect();
    smaller.left_out.retain(|blob| named.contains(&blob.digest));
    smaller.configs.retain(|digest, _| named.contains(digest));
    Ok(smaller)
}

fn nothing_left(tree: &ImageTree, filter: &PlatformFilter) -> Error {
    let platforms: BTreeMap<&str, ()> = tree.kept.iter().map(|k| (k.platform.as_str(), ())).collect();
    Error::new(Kind::NotFound, format!("no platform of the image is `{filter}`")).with_hint(format!(
        "it has {}",
        platforms.into_keys().collect::<Vec<_>>().join(", ")
    ))
}

struct Walk<'a> {
    tree: &'a ImageTree,
    manifests: HashMap<Digest, Arc<RawManifest>>,
    labels: HashMap<&'a Digest, &'a str>,
    filter: &'a PlatformFilter,
    kept: Vec<PlatformRecord>,
    dropped: Vec<PlatformRecord>,
}

/// What is left of an index.
#[derive(Default)]
struct Level {
    /// The smaller index, if it lost something.
    filtered: Option<Arc<RawManifest>>,
    /// What is below the original, as far as it is carried; children first.
    original: Vec<Arc<RawManifest>>,
    /// What is below the smaller one.
    carried: Vec<Arc<RawManifest>>,
}

impl Walk<'_> {
    /// `None` if nothing of the index is left.
    fn index(&mut self, raw: &RawManifest, index: &Index, depth: usize) -> Result<Option<Level>> {
        if depth == MAX_DEPTH {
            return Err(Error::new(
                Kind::Malformed,
                format!("its indexes nest deeper than {MAX_DEPTH} levels"),
            ));
        }
        let platforms: Vec<Option<Platform>> = index.entries.iter().map(|e| self.platform_of(e)).collect();
        let keep = filter::decide(&index.entries, &platforms, self.filter);
        let mut level = Level::default();
        let mut fates = Vec::with_capacity(keep.len());
        let mut something = depth > 0 && *self.filter == PlatformFilter::All;
        let first = self.kept.len();
        let mut gone = HashSet::new();
        for ((entry, platform), keep) in index.entries.iter().zip(&platforms).zip(keep) {
            let digest = &entry.descriptor.digest;
            let attests = entry.attests().is_some();
            let record = PlatformRecord {
                platform: platform_label(platform.as_ref(), attests),
                digest: digest.clone(),
            };
            let Some(child) = self.manifests.get(digest).filter(|_| keep).cloned() else {
                self.dropped.push(record);
                fates.push(Fate::Drop);
                continue;
            };
            match child.view() {
                View::Index(nested) => match self.nested(&child, nested, depth + 1)? {
                    None => {
                        // The index itself is absent as well.
                        gone.insert(digest.to_string());
                        self.dropped.push(record);
                        fates.push(Fate::Drop);
                        continue;
                    }
                    Some(below) => {
                        level.original.extend(below.original);
                        level.original.push(child.clone());
                        level.carried.extend(below.carried);
                        match below.filtered {
                            Some(smaller) => {
                                fates.push(Fate::Replace(smaller.descriptor().clone()));
                                level.carried.push(smaller);
                            }
                            None => {
                                fates.push(Fate::Keep);
                                level.carried.push(child);
                            }
                        }
                    }
                },
                _ => {
                    fates.push(Fate::Keep);
                    self.kept.push(record);
                    level.original.push(child.clone());
                    level.carried.push(child);
                }
            }
            something |= !attests;
        }
        if !something {
            return Ok(None);
        }
        for (entry, fate) in index.entries.iter().zip(&mut fates) {
            // What describes a nested index goes with it.
            if *fate == Fate::Keep && entry.attests().is_some_and(|subject| gone.contains(subject)) {
                *fate = Fate::Drop;
                let digest = &entry.descriptor.digest;
                level.original.retain(|manifest| manifest.digest() != digest);
                level.carried.retain(|manifest| manifest.digest() != digest);
                if let Some(at) = self.kept[first..].iter().position(|k| k.digest == *digest) {
                    let record = self.kept.remove(first + at);
                    self.dropped.push(record);
                }
            }
        }
        if fates.iter().any(|fate| *fate != Fate::Keep) {
            let bytes = filter::rewrite(raw.bytes(), &fates)?;
            level.filtered = Some(Arc::new(RawManifest::new(bytes.into(), Some(raw.media_type()), None)?));
        }
        Ok(Some(level))
    }

    /// An index inside another. One of which nothing is left goes with all that was kept of it, its attestations.
    fn nested(&mut self, raw: &RawManifest, index: &Index, depth: usize) -> Result<Option<Level>> {
        let before = self.kept.len();
        let level = self.index(raw, index, depth)?;
        if level.is_none() {
            let lost = self.kept.split_off(before);
            self.dropped.extend(lost);
        }
        Ok(level)
    }

    /// What an entry runs on: what it says itself, else what its image config says, else what was found out when the image
    /// was fetched.
    fn platform_of(&self, entry: &Entry) -> Option<Platform> {
        match &entry.platform {
            Some(platform) if !platform.os.is_empty() => Some(platform.clone()),
            _ if entry.attests().is_some() => None,
            _ => self.platform_behind(self.manifests.get(&entry.descriptor.digest)?),
        }
    }

    fn platform_behind(&self, manifest: &RawManifest) -> Option<Platform> {
        let View::Image(image) = manifest.view() else {
            return None;
        };
        let config = self.tree.configs.get(&image.config.digest);
        let stated = config
            .and_then(|bytes| Config::parse(bytes).ok())
            .map(|config| config.platform);
        if let Some(platform) = stated.filter(|p| !p.os.is_empty()) {
            return Some(platform);
        }
        let label = self.labels.get(manifest.digest())?;
        let pattern: PlatformPattern = label.split(" (").next()?.parse().ok()?;
        Some(pattern.platform().clone())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::image::tree::Choice;

    #[derive(Default)]
    struct Made(HashMap<Digest, Arc<RawManifest>>);

    impl Made {
        fn add(&mut self, text: String) -> Arc<RawManifest> {
            let manifest = Arc::new(RawManifest::new(text.into_bytes().into(), None, None).unwrap());
            self.0.insert(manifest.digest().clone(), manifest.clone());
            manifest
        }

        fn image(&mut self, name: &str) -> Arc<RawManifest> {
            let blob = Digest::sha256(name.as_bytes());
            self.add(format!(
                r#"{{"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{blob}","size":{}}},"layers":[]}}"#,
                name.len()
            ))
        }

        fn index(&mut self, entries: &[String]) -> Arc<RawManifest> {
            self.add(format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(",")))
        }

        fn tree(&self, source: &str, root: &Arc<RawManifest>) -> ImageTree {
            let mut below = Vec::new();
            let mut kept = Vec::new();
            self.walk(root, &mut below, &mut kept);
            below.pop();
            ImageTree {
                source: source.parse().unwrap(),
                original: Variant {
                    root: root.clone(),
                    below,
                },
                filtered: None,
                choice: Choice::Whole,
                kept,
                dropped: Vec::new(),
                left_out: Vec::new(),
                configs: BTreeMap::new(),
            }
        }

        fn walk(&self, node: &Arc<RawManifest>, below: &mut Vec<Arc<RawManifest>>, kept: &mut Vec<PlatformRecord>) {
            if let View::Index(index) = node.view() {
                for entry in &index.entries {
                    let child = &self.0[&entry.descriptor.digest];
                    if !matches!(child.view(), View::Index(_)) {
                        kept.push(PlatformRecord {
                            platform: platform_label(entry.platform.as_ref(), entry.attests().is_some()),
                            digest: child.digest().clone(),
                        });
                    }
                    self.walk(child, below, kept);
                }
            }
            below.push(node.clone());
        }
    }

    fn entry(child: &RawManifest, platform: &str) -> String {
        let d = child.descriptor();
        let platform = match platform.split_once('/') {
            Some((os, architecture)) => format!(r#","platform":{{"os":"{os}","architecture":"{architecture}"}}"#),
            None => String::new(),
        };
        format!(
            r#"{{"mediaType":"{}","digest":"{}","size":{}{platform}}}"#,
            d.media_type, d.digest, d.size
        )
    }

    fn attestation(child: &RawManifest, of: &RawManifest) -> String {
        entry(child, "unknown/unknown").trim_end_matches('}').to_owned()
            + &format!(
                r#"}},"annotations":{{"vnd.docker.reference.type":"attestation-manifest","vnd.docker.reference.digest":"{}"}}}}"#,
                of.digest()
            )
    }

    fn filter(text: &str) -> PlatformFilter {
        PlatformFilter::from_flags(&[text]).unwrap()
    }

    #[test]
    fn two_filters_in_a_row_are_one_and_attestations_follow_their_image() {
        let mut made = Made::default();
        let names = ["amd64", "arm64", "s390x"];
        let images = names.map(|name| made.image(name));
        let attests = names.map(|name| made.image(&format!("about {name}")));
        let mut entries: Vec<String> = images
            .iter()
            .zip(names)
            .map(|(i, n)| entry(i, &format!("linux/{n}")))
            .collect();
        entries.extend(attests.iter().zip(&images).map(|(a, i)| attestation(a, i)));
        let root = made.index(&entries);
        let tree = made.tree("team/app:1", &root);
        assert_eq!(tree.kept.len(), 6);

        let all = refilter(tree.clone(), &PlatformFilter::All).unwrap();
        assert_eq!((all.choice, all.filtered.is_some()), (Choice::Whole, false));
        let two = refilter(tree.clone(), &filter("linux/amd64,linux/arm64")).unwrap();
        assert_eq!(
            (two.choice, two.kept.len(), two.dropped.len()),
            (Choice::Filtered, 4, 2)
        );
        let one = refilter(two, &filter("linux/amd64")).unwrap();
        let direct = refilter(tree.clone(), &filter("linux/amd64")).unwrap();
        assert_eq!(one.pushed().root.bytes(), direct.pushed().root.bytes());
        assert_eq!(one.kept, direct.kept);
        assert_eq!((one.kept.len(), one.original.below.len()), (2, 2));
        assert_eq!(one.original.root.digest(), root.digest());
        let error = refilter(tree, &filter("windows/amd64")).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(error.hint().unwrap().contains("linux/s390x"));
    }

    #[test]
    fn nested_indexes_shrink_from_within_or_go_as_a_whole() {
        let mut made = Made::default();
        let (amd64, arm64, other) = (made.image("amd64"), made.image("arm64"), made.image("other"));
        let both = made.index(&[entry(&amd64, "linux/amd64"), entry(&arm64, "linux/arm64")]);
        let about = made.image("about");
        let gone = made.index(&[entry(&other, "linux/s390x"), attestation(&about, &other)]);
        let about_gone = made.image("about gone");
        let empty = made.index(&[]);
        let root = made.index(&[
            entry(&both, ""),
            attestation(&about_gone, &gone),
            entry(&gone, ""),
            entry(&empty, ""),
        ]);
        let whole = refilter(made.tree("team/app:1", &root), &PlatformFilter::All).unwrap();
        assert_eq!(
            (whole.choice, whole.dropped.len()),
            (Choice::Whole, 0),
            "all is all, empty indexes too"
        );
        let pinned = format!("team/app@{}", root.digest());
        let tree = refilter(made.tree(&pinned, &root), &filter("linux/amd64")).unwrap();
        assert_eq!(tree.choice, Choice::Sparse, "it is pinned by digest");
        // One platform; an image with its attestation, their index, its attestation, and the empty one.
        assert_eq!((tree.kept.len(), tree.dropped.len()), (1, 6));
        for lost in [&gone, &about_gone, &empty, &other, &about] {
            assert!(tree.dropped.iter().any(|d| d.digest == *lost.digest()));
        }
        let filtered = tree.filtered.as_ref().unwrap();
        let View::Index(index) = filtered.root.view() else {
            panic!()
        };
        assert_eq!(index.entries.len(), 1);
        let inner = &index.entries[0].descriptor;
        assert_ne!(inner.digest, *both.digest());
        assert_eq!(filtered.below.len(), 2);
        assert_eq!(filtered.below[0].digest(), amd64.digest(), "children first");
        assert_eq!(filtered.below[1].descriptor(), inner);
        assert_eq!(
            tree.original.below.iter().map(|m| m.digest()).collect::<Vec<_>>(),
            [amd64.digest(), both.digest()]
        );
    }

    #[test]
    fn a_single_image_goes_by_what_was_found_out_about_it() {
        let mut made = Made::default();
        let image = made.image("x");
        let mut tree = made.tree("team/app:1", &image);
        assert!(
            refilter(tree.clone(), &filter("linux/arm64")).is_ok(),
            "nothing is known about it"
        );
        tree.kept = vec![PlatformRecord {
            platform: "linux/amd64/v3".to_owned(),
            digest: image.digest().clone(),
        }];
        assert!(refilter(tree.clone(), &filter("linux/amd64")).is_ok());
        assert!(refilter(tree, &filter("linux/arm64")).is_err());
    }
}
