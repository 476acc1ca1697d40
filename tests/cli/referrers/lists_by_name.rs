//! Lists of referrers that are requested by their names: they are no images, and what they list travels with the image.

use serde_json::{Value, json};

use super::super::support::Double;
use super::super::support::image::{Document, Style};
use super::super::support::images::multi;
use super::super::support::layout::{Tar, blob_name, marker, write_members};
use super::{BUNDLE, OCI_INDEX, beside, cli, listed, names, refer, registry, tag_of};

/// An image whose registry keeps a list of referrers for it under a tag. Returns the root of the image and the referrer.
fn with_list() -> (Double, [Document; 2]) {
    let source = registry(false);
    let image = multi(Style::Oci, &["linux/amd64", "linux/arm64"], "signed");
    image.push(&source, "team/app", "1");
    let referrer = refer(&source, "team/app", &image.root, BUNDLE, "signature");
    beside(&source, "team/app", &image.root, "sig", "by the source");
    (source, [image.root, referrer])
}

#[test]
fn a_list_of_referrers_is_no_image_to_export_or_to_copy() {
    let (cli, (source, [root, _])) = (cli(), with_list());
    let (image, target) = (names(&source), registry(false));
    let list = format!("{}/team/app:{}", source.host(), tag_of(&root, ""));
    let host = target.host();
    let hint = format!("name the image, `{}/team/app@{}`", source.host(), root.digest);
    for way in [&["export", "-o", "b.tar"][..], &["-d", &host]] {
        for images in [&[&*list][..], &[&list, &image]] {
            source.forget_requests();
            let out = cli.run(&[way, images].concat()).expect_code(1);
            out.says(&["this tag is no image", &hint]);
            assert_eq!(source.count("GET", "/blobs/") > 0, way[0] == "-d" && images.len() == 2);
            assert!(!cli.path("b.tar").exists());
        }
    }
    // The other image goes.
    assert_eq!(target.manifest("team/app", "1"), Some(root.bytes.clone()));
    let partial = ["export", "-o", "b.tar", "--allow-partial", &list, &image];
    cli.run(&partial).expect_code(6);
    cli.succeed(&["import", "b.tar", "-d", &registry(false).host()]);
}

#[test]
fn a_pattern_leaves_out_lists_of_referrers() {
    let (cli, (source, [root, _])) = (cli(), with_list());
    let host = source.host();
    let signature = tag_of(&root, ".sig");
    let out = cli.succeed(&["export", "-o", "b.tar", &format!("{host}/team/app:sha256-*")]);
    out.says(&["1 tag left out: a list of referrers is not an image", &signature]);
    cli.succeed(&["verify", "b.tar"]);
    cli.succeed(&["export", "-o", "c.tar", &format!("{host}/team/app:*")]);
    let record = Tar::open(&cli.path("c.tar")).json("docker-mirror.json");
    assert_eq!(record["images"].as_array().map(Vec::len), Some(1), "{record}");
    source.store().change("team/app", |it| it.tags.remove(&signature));
    let out = cli.run(&["export", "-o", "d.tar", &format!("{host}/team/app:sha256-*")]);
    out.expect_code(1).says(&["matches", "of the"]);
}

#[test]
fn a_list_that_an_earlier_version_exported_by_its_name_is_read_as_a_list() {
    let (cli, (source, [root, referrer])) = (cli(), with_list());
    cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    let (bundle, tag) = (Tar::open(&cli.path("b.tar")), tag_of(&root, ""));
    let list = Document::new(OCI_INDEX, source.manifest("team/app", &tag).unwrap());
    let name = format!("{}/team/app:{tag}", source.host());
    let mut members: Vec<(String, Vec<u8>)> = Vec::new();
    for member in bundle.names() {
        let mut bytes = bundle.bytes(member);
        let mut change = |change: &dyn Fn(&mut Value)| {
            let mut document = bundle.json(member);
            change(&mut document);
            bytes = document.to_string().into_bytes();
        };
        let push = |array: &mut Value, entry: Value| array.as_array_mut().unwrap().push(entry);
        match member {
            "index.json" => change(&|index| {
                let mut entry = Value::Object(list.descriptor());
                for key in ["org.opencontainers.image.ref.name", "io.containerd.image.name"] {
                    entry["annotations"][key] = Value::from(&*name);
                }
                push(&mut index["manifests"], entry);
            }),
            "docker-mirror.json" => change(&|record| {
                let mut image = record["images"][0].clone();
                image["reference"] = Value::from(&*name);
                image["original"] = Value::from(&*list.digest);
                for key in ["kept", "referrers"] {
                    image[key] = Value::Array(Vec::new());
                }
                push(&mut record["images"], image);
                for checksum in ["indexChecksum", "checksum"] {
                    record.as_object_mut().unwrap().remove(checksum);
                }
            }),
            _ => {}
        }
        members.push((member.to_owned(), bytes));
    }
    members.push((blob_name(&list.digest), list.bytes.to_vec()));
    write_members(&cli.path("old.tar"), members);
    cli.succeed(&["verify", "old.tar"]);
    let target = registry(false);
    let out = cli.succeed(&["import", "old.tar", "-d", &target.host()]);
    let there = listed(&target, "team/app", &root);
    assert_eq!(there.len(), 1, "{}", out.stderr);
    assert_eq!(there[0]["digest"], referrer.digest);
}

#[test]
fn a_list_of_a_layout_that_gets_its_name_replaces_no_other_list() {
    let (cli, (source, [root, _]), target) = (cli(), with_list(), registry(false));
    cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    let (bundle, tag) = (Tar::open(&cli.path("b.tar")), tag_of(&root, ""));
    let list = Document::new(OCI_INDEX, source.manifest("team/app", &tag).unwrap());
    let index = json!({"schemaVersion": 2, "manifests": [list.descriptor()]}).to_string();
    let blobs = bundle.names().into_iter().filter(|name| name.starts_with("blobs/"));
    let mut members: Vec<(String, Vec<u8>)> = blobs.map(|name| (name.to_owned(), bundle.bytes(name))).collect();
    members.extend([marker(), ("index.json".to_owned(), index.into_bytes())]);
    members.push((blob_name(&list.digest), list.bytes.to_vec()));
    write_members(&cli.path("list.tar"), members);
    refer(&target, "team/app", &root, BUNDLE, "by the site");
    let before = listed(&target, "team/app", &root);
    let name = format!("@0=team/app:{tag}");
    let out = cli.run(&["import", "list.tar", "-d", &target.host(), "--name", &name]);
    out.expect_code(1).says(&["is not overwritten"]);
    assert_eq!(listed(&target, "team/app", &root), before);
}
