//! Small manifests and indexes for the tests of `image`.

use std::collections::HashMap;
use std::sync::Arc;

use super::digest::Digest;
use super::manifest::{RawManifest, View};
use super::platform::PlatformFilter;
use super::select::Graph;
use super::tree::{ImageTree, PlatformRecord, Variant, platform_label};

/// Manifests by digest.
#[derive(Default)]
pub(super) struct TestGraph(HashMap<Digest, Arc<RawManifest>>);

impl TestGraph {
    pub(super) fn add(&mut self, text: String) -> Arc<RawManifest> {
        let manifest = Arc::new(RawManifest::new(text.into_bytes().into(), None, None).unwrap());
        self.0.insert(manifest.digest().clone(), manifest.clone());
        manifest
    }

    pub(super) fn image(&mut self, name: &str) -> Arc<RawManifest> {
        let blob = Digest::sha256(name.as_bytes());
        self.add(format!(
            r#"{{"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{blob}","size":{}}},"layers":[]}}"#,
            name.len()
        ))
    }

    pub(super) fn index(&mut self, entries: &[String]) -> Arc<RawManifest> {
        self.add(format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(",")))
    }

    pub(super) fn tree(&self, source: &str, root: &Arc<RawManifest>) -> ImageTree {
        let mut below = Vec::new();
        let mut kept = Vec::new();
        self.walk(root, &mut below, &mut kept);
        below.pop();
        let original = Variant {
            root: root.clone(),
            below: below.into(),
        };
        ImageTree {
            kept: kept.into(),
            ..ImageTree::new(source.parse().unwrap(), original)
        }
    }

    /// Returns all manifests as a graph for `select`.
    pub(super) fn graph(&self) -> Graph {
        let mut graph = Graph::default();
        for manifest in self.0.values() {
            graph.add(manifest.clone());
        }
        graph
    }

    fn walk(&self, node: &Arc<RawManifest>, below: &mut Vec<Arc<RawManifest>>, kept: &mut Vec<PlatformRecord>) {
        if let View::Index(index) = node.view() {
            for entry in &index.entries {
                let child = &self.0[&entry.descriptor.digest];
                if !matches!(child.view(), View::Index(_)) {
                    kept.push(PlatformRecord {
                        platform: platform_label(entry.platform.as_ref(), entry.attested().is_some()),
                        digest: child.digest().clone(),
                    });
                }
                self.walk(child, below, kept);
            }
        }
        below.push(node.clone());
    }
}

pub(super) fn entry(child: &RawManifest, platform: &str) -> String {
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

pub(super) fn attestation(child: &RawManifest, of: &RawManifest) -> String {
    entry(child, "unknown/unknown").trim_end_matches('}').to_owned()
        + &format!(
            r#"}},"annotations":{{"vnd.docker.reference.type":"attestation-manifest","vnd.docker.reference.digest":"{}"}}}}"#,
            of.digest()
        )
}

pub(super) fn filter(text: &str) -> PlatformFilter {
    PlatformFilter::from_flags(&[text]).unwrap()
}
