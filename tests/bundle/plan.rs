//! The plan of a bundle: pure, ordered, and the tar that it promises.

use std::sync::Arc;

use bytes::Bytes;
use docker_mirror::{
    Choice, Digest, Kind, PlatformRecord,
    testing::{Extras, ImageTree, Plan, RawManifest, Variant},
};

const EXTRAS: Extras = Extras {
    missing: Vec::new(),
    docker_manifest: true,
};

const PIN: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// Everything before the first blob.
fn front_of(plan: &Plan) -> Vec<u8> {
    let pieces: Vec<_> = plan.front().map(Result::unwrap).collect();
    let all = pieces.concat();
    assert_eq!(all.len() as u64, plan.front_len());
    all
}

#[test]
fn large_documents_come_in_pieces_and_in_the_same_bytes_each_time() {
    let names = (0..1500).map(|number| format!("example.com/team/application-{number}:1"));
    let trees: Vec<_> = names.map(|name| image(&name, &[b"config"])).collect();
    let plan = Plan::new(&trees, &EXTRAS).unwrap();
    let front = front_of(&plan);
    assert!(plan.front().all(|piece| piece.unwrap().len() <= 256 << 10));
    assert_eq!(front_of(&plan), front);
    let mut archive = tar::Archive::new(front.as_slice());
    let sizes = archive.entries().unwrap().map(|member| member.unwrap().size());
    let large = sizes.filter(|size| *size > 256 << 10);
    assert_eq!(large.count(), 3, "`index.json`, `manifest.json` and the record");
}

fn blob(content: &[u8]) -> String {
    let digest = Digest::sha256(content);
    format!(
        r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{digest}","size":{}}}"#,
        content.len()
    )
}

/// An image of one platform; the first blob is its config.
fn image(name: &str, blobs: &[&[u8]]) -> ImageTree {
    let config = blob(blobs[0]).replace("layer.v1.tar", "config.v1+json");
    let layers: Vec<String> = blobs[1..].iter().map(|content| blob(content)).collect();
    let text = format!(
        r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#,
        layers.join(",")
    );
    let root = Arc::new(RawManifest::new(Bytes::from(text), None, None).unwrap());
    ImageTree {
        source: name.parse().unwrap(),
        kept: Arc::new([PlatformRecord {
            platform: "linux/amd64".into(),
            digest: root.digest().clone(),
        }]),
        original: Variant {
            root,
            below: Arc::default(),
        },
        filtered: None,
        choice: Choice::Whole,
        dropped: Arc::default(),
        left_out: Arc::default(),
        attachments: Arc::default(),
        left_out_referrers: Arc::default(),
        lacks_referrers: false,
        configs: Default::default(),
    }
}

/// The same image with another size for its 512-byte layer.
fn resized(mut tree: ImageTree, size: u64) -> ImageTree {
    let text = String::from_utf8(tree.original.root.bytes().to_vec()).unwrap();
    let text = text.replace("\"size\":512", &format!("\"size\":{size}"));
    tree.original.root = Arc::new(RawManifest::new(Bytes::from(text), None, None).unwrap());
    tree
}

/// The whole bundle, from its plan.
fn bundle(plan: &Plan, contents: &[&[u8]]) -> Vec<u8> {
    let mut bytes = front_of(plan);
    for slot in plan.blobs() {
        assert_eq!(bytes.len() as u64, slot.header_offset);
        bytes.extend(slot.header().unwrap());
        assert_eq!(bytes.len() as u64, slot.offset);
        let content = contents.iter().find(|c| Digest::sha256(c) == slot.blob.digest).unwrap();
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len() + slot.padding() as usize, 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    assert_eq!(bytes.len() as u64, plan.total());
    bytes
}

#[test]
fn the_tar_is_what_the_plan_says_and_each_blob_is_there_once() {
    let contents: [&[u8]; 5] = [b"config a", b"config b", &[1; 512], &[2; 5000], &[3; 700]];
    let a = image("a.io/a:1", &[contents[0], contents[2], contents[3]]);
    let b = image(&format!("b.io/b@{PIN}"), &[contents[1], contents[3], contents[4]]);
    let plan = Plan::new(&[b.clone(), a.clone()], &EXTRAS).unwrap();
    let bytes = bundle(&plan, &contents);
    let mut archive = tar::Archive::new(bytes.as_slice());
    let names: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert_eq!(
        names[..4],
        ["oci-layout", "index.json", "manifest.json", "docker-mirror.json"]
    );
    assert_eq!(names.len(), 4 + 2 + 5);
    // Two manifests, two configs sorted by digest, then layers, the largest first.
    let path = |content: &[u8]| format!("blobs/sha256/{}", Digest::sha256(content).hex());
    let mut configs = [path(contents[0]), path(contents[1])];
    configs.sort();
    assert_eq!(names[6..8], configs);
    assert_eq!(names[8..], [path(contents[3]), path(contents[4]), path(contents[2])]);

    // The order in which images are named changes nothing.
    let other = Plan::new(&[a, b], &EXTRAS).unwrap();
    assert_eq!(bytes, bundle(&other, &contents));
}

#[test]
fn only_tagged_images_are_in_the_docker_manifest() {
    let contents: [&[u8]; 2] = [b"config", &[1; 512]];
    let tagless = image(&format!("b.io/b@{PIN}"), &contents);
    let plan = Plan::new(std::slice::from_ref(&tagless), &EXTRAS).unwrap();
    assert!(!String::from_utf8_lossy(&front_of(&plan)).contains("manifest.json"));
    let plan = Plan::new(&[tagless, image("a.io/a:1", &contents)], &EXTRAS).unwrap();
    assert!(String::from_utf8_lossy(&front_of(&plan)).contains("RepoTags"));
}

#[test]
fn one_blob_of_two_sizes_is_refused() {
    let a = image("a.io/a:1", &[b"config", &[1; 512]]);
    let b = resized(image("a.io/b:1", &[b"config", &[1; 512]]), 513);
    let error = Plan::new(&[a, b], &EXTRAS).unwrap_err();
    assert_eq!(error.kind(), Kind::Malformed);
    assert!(
        error.to_string().contains("512") && error.to_string().contains("513"),
        "{error}"
    );
}

#[test]
fn sizes_that_overflow_are_refused() {
    let a = resized(image("a.io/a:1", &[b"config a", &[1; 512]]), i64::MAX as u64);
    let b = resized(image("a.io/b:1", &[b"config b", &[2; 512]]), i64::MAX as u64);
    assert_eq!(Plan::new(&[a, b], &EXTRAS).unwrap_err().kind(), Kind::Malformed);
}

#[test]
fn one_name_for_two_images_is_refused() {
    let a = image("a.io/a:1", &[b"config a", &[1; 512]]);
    let b = image(&format!("a.io/a:1@{PIN}"), &[b"config b", &[1; 512]]);
    assert_eq!(Plan::new(&[a, b], &EXTRAS).unwrap_err().kind(), Kind::Unsupported);
}

#[test]
fn one_image_by_tag_and_by_tag_and_digest_is_there_once_in_either_order() {
    let contents: [&[u8]; 2] = [b"config", &[1; 512]];
    let short = image("a.io/a:1", &contents);
    let full = image(&format!("a.io/a:1@{}", short.original.root.digest()), &contents);
    let one = Plan::new(&[short.clone(), full.clone()], &EXTRAS).unwrap();
    let other = Plan::new(&[full, short], &EXTRAS).unwrap();
    assert_eq!(front_of(&one), front_of(&other));
    assert_eq!(bundle(&one, &contents), bundle(&other, &contents));
    // The fuller name is the one that is recorded.
    let front = String::from_utf8_lossy(&front_of(&one)).into_owned();
    assert_eq!(front.matches(r#""reference": "a.io/a:1@sha256:"#).count(), 1, "{front}");
    assert_eq!(front.matches(r#""reference":"#).count(), 1, "{front}");
}

#[test]
fn what_is_missing_is_recorded_in_order_of_names() {
    use docker_mirror::testing::Missing;
    let missing = |names: [&str; 2]| Extras {
        missing: names
            .map(|name| Missing {
                reference: name.to_owned(),
                reason: "denied".to_owned(),
            })
            .into(),
        docker_manifest: true,
    };
    let trees = [image("a.io/a:1", &[b"config"])];
    let one = Plan::new(&trees, &missing(["b.io/b:1", "c.io/c:1"])).unwrap();
    let other = Plan::new(&trees, &missing(["c.io/c:1", "b.io/b:1"])).unwrap();
    assert_eq!(front_of(&one), front_of(&other));
    assert_ne!(front_of(&one), front_of(&Plan::new(&trees, &EXTRAS).unwrap()));
}

#[test]
fn a_docker_manifest_that_its_readers_refuse_is_left_out_with_a_word() {
    let layers: Vec<Vec<u8>> = (0..1000u32).map(|n| n.to_be_bytes().to_vec()).collect();
    let mut blobs: Vec<&[u8]> = vec![b"config"];
    blobs.extend(layers.iter().map(Vec::as_slice));
    let trees =
        |count: usize| -> Vec<ImageTree> { (0..count).map(|n| image(&format!("a.io/a:{n}"), &blobs)).collect() };
    let plan = Plan::new(&trees(2), &EXTRAS).unwrap();
    assert!(plan.warnings().is_empty());
    let few = plan.front_len();
    let plan = Plan::new(&trees(20), &EXTRAS).unwrap();
    assert!((plan.front_len()) < few, "it is there");
    let said = plan.warnings().join("");
    assert!(
        said.contains("no `manifest.json`") && said.contains("20 images"),
        "{said}"
    );
    let without = Extras {
        missing: Vec::new(),
        docker_manifest: false,
    };
    assert!(Plan::new(&trees(20), &without).unwrap().warnings().is_empty());
}

/// Returns the config that `manifest.json` names for an image of these platforms, as the position of its platform.
fn chosen_for_docker(platforms: &[&str]) -> Option<usize> {
    let configs: Vec<String> = platforms
        .iter()
        .map(|platform| format!("config of {platform}"))
        .collect();
    let mut tree = image("a.io/a:1", &[b"x"]);
    let images: Vec<ImageTree> = configs.iter().map(|c| image("a.io/a:1", &[c.as_bytes()])).collect();
    tree.original.below = images.iter().map(|image| image.original.root.clone()).collect();
    tree.kept = platforms
        .iter()
        .zip(&images)
        .map(|(platform, image)| PlatformRecord {
            platform: (*platform).to_owned(),
            digest: image.original.root.digest().clone(),
        })
        .collect();
    let plan = Plan::new(&[tree], &EXTRAS).unwrap();
    let front = String::from_utf8_lossy(&front_of(&plan)).into_owned();
    let named = |config: &String| {
        let path = format!(
            r#""Config": "blobs/sha256/{}""#,
            Digest::sha256(config.as_bytes()).hex()
        );
        front.contains(&path)
    };
    configs.iter().position(named)
}

#[test]
fn the_docker_manifest_names_amd64_and_nothing_that_only_begins_like_it() {
    for (platforms, expected) in [
        (&["linux/arm64", "linux/amd64"][..], Some(1)),
        (&["linux/amd64/v3", "linux/amd64"], Some(1)),
        (&["linux/arm64", "linux/amd64/v2"], Some(1)),
        (&["linux/arm64", "linux/amd64p32"], Some(0)),
        (&["windows/amd64", "linux/s390x"], Some(1)),
        (&["windows/amd64"], None),
    ] {
        assert_eq!(chosen_for_docker(platforms), expected, "{platforms:?}");
    }
}
