//! Nested indexes: the attestations and nested indexes that are dropped if no entry of a nested index is wanted.

use docker_mirror::{
    Bundle, Choice, OpenOptions,
    testing::{ImageTree, View},
};

use super::tools::{Export, noise, put_image};
use crate::support::{Double, sha256};

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const REPOSITORY: &str = "a/a";

fn entry(media_type: &str, bytes: &[u8], more: &str) -> String {
    format!(
        r#"{{"mediaType":"{media_type}","digest":"{}","size":{}{more}}}"#,
        sha256(bytes),
        bytes.len()
    )
}

fn put_index(registry: &Double, tag: &str, entries: &[String]) -> Vec<u8> {
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{}]}}"#,
        entries.join(",")
    );
    registry
        .store()
        .put_manifest(REPOSITORY, Some(tag), OCI_INDEX, text.clone().into_bytes().into());
    text.into_bytes()
}

fn image(registry: &Double, tag: &str, number: u64) -> Vec<u8> {
    put_image(registry, REPOSITORY, tag, &[noise(number, 1000)]);
    registry.manifest(REPOSITORY, tag).unwrap().to_vec()
}

fn platform(text: &str) -> String {
    let (os, architecture) = text.split_once('/').unwrap();
    format!(r#","platform":{{"os":"{os}","architecture":"{architecture}"}}"#)
}

fn about(subject: &[u8]) -> String {
    format!(
        r#"{},"annotations":{{"vnd.docker.reference.type":"attestation-manifest","vnd.docker.reference.digest":"{}"}}"#,
        platform("unknown/unknown"),
        sha256(subject)
    )
}

fn exported(export: &Export, name: &str, flags: &[&str]) -> ImageTree {
    export.bundle(name, flags);
    let bundle = Bundle::open(&[export.path(name)], &OpenOptions::default()).unwrap();
    bundle.tree(&bundle.images()[0]).unwrap()
}

#[test]
fn an_index_of_which_nothing_is_wanted_goes_with_what_describes_it() {
    let registry = Double::new();
    let (amd64, windows) = (image(&registry, "amd64", 1), image(&registry, "windows", 2));
    let attestation = image(&registry, "attestation", 3);
    let wanted = put_index(
        &registry,
        "n1",
        &[entry(OCI_MANIFEST, &amd64, &platform("linux/amd64"))],
    );
    let unwanted = put_index(
        &registry,
        "n2",
        &[entry(OCI_MANIFEST, &windows, &platform("windows/amd64"))],
    );
    let empty = put_index(&registry, "n3", &[]);
    put_index(
        &registry,
        "1",
        &[
            entry(OCI_MANIFEST, &attestation, &about(&unwanted)),
            entry(OCI_INDEX, &unwanted, ""),
            entry(OCI_INDEX, &empty, ""),
            entry(OCI_INDEX, &wanted, ""),
        ],
    );
    let export = Export::new(&registry, &["a/a:1"]);
    let tree = exported(&export, "b.tar", &[]);
    assert_eq!(tree.choice, Choice::Filtered);
    let View::Index(index) = tree.pushed().root.view() else {
        panic!()
    };
    assert_eq!(index.entries.len(), 1);
    assert_eq!(index.entries[0].descriptor.digest.to_string(), sha256(&wanted));
    for lost in [&attestation, &unwanted, &empty, &windows] {
        let digest = sha256(lost);
        // Entries of an index that is not in the bundle itself are unknown there.
        let is_told = tree.dropped.iter().any(|d| d.digest.to_string() == digest);
        assert_eq!(is_told, lost != &windows, "{:?}", tree.dropped);
        assert!(tree.manifests().iter().all(|m| m.digest().to_string() != digest));
    }
    // Everything is everything.
    let tree = exported(&export, "all.tar", &["--platform", "all"]);
    assert_eq!((tree.choice, tree.dropped.len()), (Choice::Whole, 0));
    assert_eq!(tree.manifests().len(), 7);
}
