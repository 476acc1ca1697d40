//! Bundles with signatures that were edited, truncated or damaged outside of their layers: `verify` finds the fault and
//! gives a hint.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use super::super::support::cli::Output;
use super::super::support::image::{Image, Style};
use super::super::support::images::small;
use super::super::support::layout::{Tar, blob_name, marker, write_members};
use super::super::support::{Cli, Double, sha256};
use super::{BUNDLE, cli, names, refer, registry, signed};

/// The document of a verification.
fn verified(cli: &Cli, arguments: &[&str], code: i32) -> Value {
    let output = cli.run(&[&["verify", "--json"], arguments].concat()).expect_code(code);
    serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", output.everything()))
}

/// The kinds of the faults, with the first image of each.
fn faults(document: &Value) -> Vec<String> {
    let faults = document["faults"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    faults
        .map(|fault| format!("{} {}", text(&fault["kind"]), text(&fault["images"][0])))
        .collect()
}

/// Writes a copy of a bundle in which one document is changed, as an author would: without the checksums of the record.
fn edit(bundle: &Tar, to: &std::path::Path, name: &str, change: impl FnOnce(&mut Value)) {
    let mut change = Some(change);
    let members = bundle.members.iter().map(|member| {
        let mut bytes = bundle.bytes(&member.name);
        if member.name == name
            && let Some(change) = change.take()
        {
            let mut document = bundle.json(name);
            change(&mut document);
            bytes = document.to_string().into_bytes();
        }
        if member.name == "docker-mirror.json" {
            let mut document: Value = serde_json::from_slice(&bytes).unwrap();
            for checksum in ["indexChecksum", "checksum"] {
                document.as_object_mut().unwrap().remove(checksum);
            }
            bytes = document.to_string().into_bytes();
        }
        (member.name.clone(), bytes)
    });
    write_members(to, members.collect::<Vec<_>>());
}

/// Writes a layout with one image that lacks some of its blobs; without a `name`, the image has none.
fn write_lacking(cli: &Cli, image: &Image, name: Option<&str>, gone: &[&str]) {
    let mut entry = Value::Object(image.root.descriptor());
    if let Some(name) = name {
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    }
    let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    let documents = image.documents().map(|d| (d.digest.clone(), d.bytes.to_vec()));
    let blobs = image
        .blobs
        .iter()
        .map(|(digest, bytes)| (digest.to_string(), bytes.to_vec()));
    let there = documents
        .chain(blobs)
        .filter(|(digest, _)| !gone.contains(&digest.as_str()));
    let there = there.map(|(digest, bytes)| (blob_name(&digest), bytes));
    let all = [marker(), ("index.json".to_owned(), index.into_bytes())]
        .into_iter()
        .chain(there);
    write_members(&cli.path("f.tar"), all.collect::<Vec<_>>());
}

#[test]
fn an_image_without_a_usable_name_is_checked_as_any_other() {
    let cli = cli();
    let image = small(Style::Oci, "linux/amd64", "x");
    let config = image.root.json()["config"]["digest"].as_str().unwrap().to_owned();
    let layer = image.root.json()["layers"][0]["digest"].as_str().unwrap().to_owned();
    for name in [None, Some("q.io/UPPER:1"), Some("1.0")] {
        for gone in [&layer, &config, &image.root.digest] {
            write_lacking(&cli, &image, name, &[gone]);
            let found = verified(&cli, &["f.tar", "--deep"], 5);
            assert_eq!(
                faults(&found),
                [format!("missing {}", image.root.digest)],
                "{name:?}: {found}"
            );
            assert!(
                found["faults"][0]["hint"].as_str().unwrap().contains("--name"),
                "{found}"
            );
        }
        write_lacking(&cli, &image, name, &[]);
        let found = verified(&cli, &["f.tar", "--deep"], 0);
        let checked = &found["checked"];
        assert_eq!(
            (&checked["images"], &checked["layersUnpacked"]),
            (&json!(1), &json!(1)),
            "{found}"
        );
        assert!(
            found["warnings"][0]
                .as_str()
                .unwrap()
                .contains("cannot be imported without a name"),
            "{found}"
        );
    }
    // With a name the blob can be fetched.
    write_lacking(&cli, &image, None, &[&layer]);
    assert_eq!(
        verified(&cli, &["f.tar", "--name", "q.io/a:1"], 5)["wanted"][0]["digest"],
        json!(layer)
    );
}

#[test]
fn a_damaged_signature_or_sbom_is_fetched_again_for_its_image() {
    let (cli, source, target) = (cli(), registry(true), registry(true));
    let signed = signed(&source);
    let name = names(&source);
    cli.succeed(&["export", &name, "-o", "b.tar"]);
    let good = fs::read(cli.path("b.tar")).unwrap();
    let of = |document: &Value| document["layers"][0]["digest"].as_str().unwrap().to_owned();
    // The SBOM of a platform, its layer, the signature of the SBOM by its subject, and the signature under a tag.
    let sbom = &signed.belongings[2];
    let blobs = [
        sbom.digest.clone(),
        of(&sbom.json()),
        signed.belongings[3].digest.clone(),
        signed.signature.digest.clone(),
    ];
    for (number, digest) in blobs.iter().enumerate() {
        for header in [true, false] {
            fs::write(cli.path("b.tar"), &good).unwrap();
            let bundle = Tar::open(&cli.path("b.tar"));
            match header {
                true => bundle.flip_header(&blob_name(digest)),
                false => bundle.flip(&blob_name(digest)),
            }
            let found = verified(&cli, &["b.tar", "--want", "w.txt"], 5);
            let about = found["faults"].as_array().unwrap().iter();
            let about: Vec<&Value> = about.filter(|fault| fault["digest"] == **digest).collect();
            assert_eq!(about.len(), 1, "{digest} {header}: {found}");
            let image = about[0]["images"][0].as_str().unwrap();
            assert!(image == name || image.ends_with(".sig"), "{found}");
            assert_eq!(
                found["wanted"],
                json!([{"digest": digest, "size": found["wanted"][0]["size"], "reference": name}])
            );
            cli.succeed(&["export", "--want", "w.txt", "-o", "s.tar", "--force"]);
            assert_eq!(verified(&cli, &["b.tar", "s.tar"], 0)["sound"], json!(true));
            if number % 2 == 0 {
                let destination = format!("{}/{number}{header}", target.host());
                cli.succeed(&["import", "b.tar", "s.tar", "-d", &destination]);
                assert_eq!(
                    signed.missing(&target, &format!("{number}{header}/team/app")),
                    Vec::<String>::new()
                );
            }
        }
    }
    // The supplement is sound on its own, and no image is missed.
    let shown = cli.succeed(&["verify", "s.tar"]);
    assert!(
        shown.lines().last().unwrap().starts_with("SOUND as a supplement"),
        "{}",
        shown.everything()
    );
    assert_eq!(verified(&cli, &["s.tar"], 0)["supplement"], json!(true));
}

#[test]
fn documents_that_contradict_each_other_are_faults() {
    let (cli, source, target) = (cli(), registry(true), registry(true));
    let signed = signed(&source);
    small(Style::Oci, "linux/amd64", "other").push(&source, "team/other", "1");
    let (name, other) = (names(&source), format!("{}/team/other:1", source.host()));
    cli.succeed(&["export", &name, &other, "-o", "b.tar"]);
    let bundle = Tar::open(&cli.path("b.tar"));
    let whole = verified(&cli, &["b.tar"], 0);
    // The signature under a tag is no image.
    assert_eq!(whole["checked"]["images"], json!(2), "{whole}");
    // Referrers that the record promises.
    edit(&bundle, &cli.path("e.tar"), "index.json", |index| {
        index["manifests"].as_array_mut().unwrap().truncate(2);
    });
    let found = verified(&cli, &["e.tar"], 5);
    assert_eq!(faults(&found), vec![format!("image {name}"); 5], "{found}");
    let destination = target.host();
    let said = cli.succeed(&["import", "e.tar", "-d", &destination]).stderr;
    assert!(
        said.contains(&format!("left out {}", signed.belongings[0].digest)),
        "{said}"
    );
    cli.run(&["import", "e.tar", "-d", &destination, "--referrers", "require"])
        .expect_code(1);
    assert!(
        cli.succeed(&["inspect", "e.tar"])
            .stdout
            .contains(&signed.belongings[0].digest)
    );
    // Two bundles make up for each other.
    verified(&cli, &["e.tar", "b.tar"], 0);
    type Change<'a> = &'a dyn Fn(&mut Value);
    let of_manifest: [(&str, Change<'_>); 5] = [
        ("config", &|list| list[1]["Config"] = list[0]["Config"].clone()),
        ("layers", &|list| list[1]["Layers"] = list[0]["Layers"].clone()),
        ("absent", &|list| list[1]["Layers"][0] = json!("../etc/passwd")),
        ("name", &|list| list[1]["RepoTags"][0] = json!("evil.example/x:1")),
        ("gone", &|list| list.as_array_mut().unwrap().truncate(1)),
    ];
    for (what, change) in of_manifest {
        edit(&bundle, &cli.path("e.tar"), "manifest.json", change);
        let found = verified(&cli, &["e.tar"], 5);
        let first = &found["faults"][0];
        assert_eq!(
            (&first["kind"], &first["member"]),
            (&json!("document"), &json!("manifest.json")),
            "{what}: {found}"
        );
        assert!(first["offset"].is_u64() && first["hint"].is_string(), "{what}: {found}");
    }
    edit(&bundle, &cli.path("e.tar"), "index.json", |index| {
        index["manifests"][1]["annotations"]["org.opencontainers.image.ref.name"] = json!(name);
    });
    assert_eq!(faults(&verified(&cli, &["e.tar"], 5))[0], format!("image {other}"));
    // What the bundle says is missing.
    edit(&bundle, &cli.path("e.tar"), "docker-mirror.json", |record| {
        record["missing"] = json!([{"reference": "q.io/a:1", "reason": "gone"}]);
    });
    let shown = cli.succeed(&["verify", "e.tar"]);
    assert!(
        shown.lines().last().unwrap().contains("it lacks 1 image"),
        "{}",
        shown.everything()
    );
    shown.says(&["q.io/a:1"]);
    assert_eq!(
        verified(&cli, &["e.tar"], 0)["missing"][0]["reference"],
        json!("q.io/a:1")
    );
    // Documents that follow from others: the import goes on without them.
    {
        let member = "manifest.json";
        let members = bundle.members.iter().map(|it| {
            let mut bytes = bundle.bytes(&it.name);
            if it.name == member {
                bytes[0] ^= 1;
            }
            (it.name.clone(), bytes)
        });
        write_members(&cli.path("e.tar"), members.collect::<Vec<_>>());
        let shown = cli.run(&["verify", "e.tar"]).expect_code(5);
        assert!(shown.stdout.contains(member), "{}", shown.everything());
        shown.says(&["hint: the bundle is damaged or was edited: copy it again, or export it again"]);
        let said = cli.succeed(&["import", "e.tar", "-d", &destination]).stderr;
        assert!(said.contains(member) && said.contains("it is ignored"), "{said}");
    }
}

#[test]
fn signatures_stay_signatures_and_the_loss_is_told_if_the_record_is_lost() {
    let (cli, source) = (cli(), registry(true));
    let signed = signed(&source);
    cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    let bundle = Tar::open(&cli.path("b.tar"));
    let blob = bundle.members.last().unwrap().name.clone();
    let lost = "has no `docker-mirror.json`";
    // Without the member, and with a header that hides it.
    bundle.without("docker-mirror.json", &cli.path("e.tar"));
    let found = verified(&cli, &["e.tar"], 0);
    assert_eq!(found["checked"]["images"], 1, "{found}");
    assert!(found["warnings"].to_string().contains(lost), "{found}");
    let shown = cli.succeed(&["inspect", "e.tar", "--json"]);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(shown["images"].as_array().unwrap().len(), 1, "{shown}");
    assert_eq!(shown["images"][0]["referrers"].as_array().unwrap().len(), 5, "{shown}");
    bundle.flip_header("docker-mirror.json");
    let found = verified(&cli, &["b.tar"], 5);
    assert_eq!(
        (&found["checked"]["images"], faults(&found)),
        (&json!(1), vec!["tar ".to_owned()]),
        "{found}"
    );
    assert!(found["warnings"].to_string().contains(lost), "{found}");
    // Together with a supplement the bundle is imported: the signature is in place before the tag.
    bundle.without(&blob, &cli.path("e.tar"));
    verified(&cli, &["e.tar", "--want", "w.txt"], 5);
    cli.succeed(&["export", "--want", "w.txt", "-o", "s.tar"]);
    let target = registry(true);
    let out = cli.succeed(&["import", "b.tar", "s.tar", "-d", &target.host()]);
    out.says(&[lost]);
    assert_eq!(
        signed.missing(&target, "team/app"),
        Vec::<String>::new(),
        "{}",
        target.transcript()
    );
    let puts = super::puts(&target);
    assert!(puts.last().unwrap().ends_with("/manifests/1"), "{puts:?}");
}

/// Verifies bytes from a pipe.
fn piped(cli: &Cli, bytes: &[u8], arguments: &[&str]) -> Output {
    let arguments = [&["verify", "-"], arguments].concat();
    let mut child = cli.command(&arguments).stdin(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(bytes);
    Output::new(&child.wait_with_output().unwrap(), &arguments)
}

#[test]
fn what_is_cut_off_or_cannot_be_unpacked_gets_a_verdict_and_a_want_list() {
    let (cli, source) = (cli(), Double::new());
    let images = super::super::support::images::shared_base(2, 300_000);
    let names: Vec<String> = (0..2).map(|number| format!("{}/b/{number}:1", source.host())).collect();
    for (number, image) in images.iter().enumerate() {
        image.push(&source, &format!("b/{number}"), "1");
    }
    cli.succeed(&["export", &names[0], &names[1], "-o", "b.tar"]);
    let whole = fs::read(cli.path("b.tar")).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&whole).unwrap();
    let packed = gzip.finish().unwrap();
    let mut flipped = packed.clone();
    let middle = flipped.len() * 3 / 4;
    flipped[middle] ^= 0x55;
    let last = Tar::open(&cli.path("b.tar")).members.last().unwrap().clone();
    let cut = &whole[..usize::try_from(last.offset + last.size / 2).unwrap()];
    for (what, bytes) in [
        ("cut", cut),
        ("cut gzip", &packed[..middle]),
        ("flipped gzip", &flipped),
    ] {
        fs::write(cli.path("f.tar"), bytes).unwrap();
        let sum = sha256(bytes).replace("sha256:", "");
        for deep in [&[][..], &["--deep"]] {
            for arguments in [&["f.tar"][..], &["-"]] {
                let about = format!("{what} {deep:?} {arguments:?}");
                let arguments = [deep, &["--json", "--want", "w.txt"]].concat();
                let output = match about.contains("\"-\"") {
                    true => piped(&cli, bytes, &arguments),
                    false => cli.run(&[&["verify", "f.tar"], &arguments[..]].concat()),
                };
                let output = output.expect_code(5);
                let found: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{about}: {e}"));
                assert_eq!(
                    (&found["verifyVersion"], &found["sound"]),
                    (&json!(1), &json!(false)),
                    "{about}: {found}"
                );
                assert_eq!(found["files"][0]["sha256"], json!(sum), "{about}: {found}");
                assert_eq!(found["checked"]["images"], json!(2), "{about}: {found}");
                let wanted = found["wanted"].as_array().unwrap();
                assert!(!wanted.is_empty(), "{about}: {found}");
                let list = fs::read_to_string(cli.path("w.txt")).unwrap();
                assert_eq!(list.lines().count(), wanted.len() + 2, "{about}: {list}");
                let of_end = found["faults"].as_array().unwrap().iter();
                let of_end = of_end.filter(|fault| fault["kind"] == "tar" || fault["kind"] == "archive");
                // A flipped bit may also shift the bytes of the tar behind it.
                assert!(
                    matches!((of_end.count(), what), (1, _) | (2, "flipped gzip")),
                    "{about}: {found}"
                );
            }
        }
    }
    let shown = piped(&cli, cut, &[]).expect_code(5);
    assert!(
        shown.lines().last().unwrap().starts_with("DAMAGED: "),
        "{}",
        shown.everything()
    );
    shown.says(&["export --want FILE"]);
    // A refused import says in its report what was wrong with which file.
    fs::write(cli.path("f.tar"), cut).unwrap();
    let target = Double::new();
    cli.run(&[
        "import",
        "f.tar",
        "-d",
        &target.host(),
        "--verify",
        "--report",
        "r.json",
    ])
    .expect_code(5);
    let report: Value = serde_json::from_slice(&fs::read(cli.path("r.json")).unwrap()).unwrap();
    assert_eq!(
        report["files"][0]["sha256"],
        json!(sha256(cut).replace("sha256:", "")),
        "{report}"
    );
    let error = report["error"].to_string();
    assert!(
        error.contains("f.tar") && error.contains("faults were found"),
        "{report}"
    );
    assert!(target.requests().is_empty());
    // Two right bundles with one name for two images are no damage.
    small(Style::Oci, "linux/amd64", "moved").push(&source, "b/0", "1");
    cli.succeed(&["export", &names[0], "-o", "n.tar"]);
    let found = verified(&cli, &["b.tar", "n.tar"], 0);
    assert!(
        found["warnings"].to_string().contains("two images are called"),
        "{found}"
    );
    // A lock of what is left would look like one of the whole.
    Tar::open(&cli.path("b.tar")).without(&last.name, &cli.path("f.tar"));
    let said = cli.run(&["inspect", "f.tar", "--lock", "f.lock"]).expect_code(5).stderr;
    assert!(
        said.contains("the lock was not written") && !cli.path("f.lock").exists(),
        "{said}"
    );
    // Members that break the rules in a row are all named.
    let members = Tar::open(&cli.path("b.tar"));
    let members = members
        .members
        .iter()
        .map(|member| (member.name.clone(), members.bytes(&member.name)));
    write_raw_names(&cli, &members.collect::<Vec<_>>(), &["../a", "x/../../d"]);
    let found = verified(&cli, &["f.tar"], 5);
    assert_eq!(found["faults"].as_array().unwrap().len(), 2, "{found}");
}

/// Writes members, with a few whose names no archive may have before the last one.
fn write_raw_names(cli: &Cli, members: &[(String, Vec<u8>)], names: &[&str]) {
    let mut builder = tar::Builder::new(fs::File::create(cli.path("f.tar")).unwrap());
    let (last, first) = members.split_last().unwrap();
    let add = |builder: &mut tar::Builder<fs::File>, name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append(&header, bytes).unwrap();
    };
    first.iter().for_each(|(name, bytes)| add(&mut builder, name, bytes));
    names.iter().for_each(|name| add(&mut builder, name, b"1"));
    add(&mut builder, &last.0, &last.1);
    builder.finish().unwrap();
}

#[test]
fn a_signature_under_another_name_than_the_record_states_is_a_fault_and_no_image() {
    let (cli, source) = (cli(), registry(true));
    signed(&source);
    cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    let bundle = Tar::open(&cli.path("b.tar"));
    let key = "org.opencontainers.image.ref.name";
    let is_signature = |entry: &&Value| {
        entry["annotations"][key]
            .as_str()
            .is_some_and(|name| name.ends_with(".sig"))
    };
    let entries = bundle.json("index.json")["manifests"].as_array().unwrap().clone();
    let name = entries.iter().find(is_signature).unwrap()["annotations"][key]
        .as_str()
        .unwrap()
        .to_owned();
    // One bit in a digit of the tag, in its suffix and in the repository: an image, another attachment, another place.
    let digits = name.rfind(':').unwrap() + 10;
    for (at, bit) in [
        (digits, 0x40),
        (name.len() - 1, 0x02),
        (name.find("team").unwrap(), 0x01),
    ] {
        let mut wrong = name.clone().into_bytes();
        wrong[at] ^= bit;
        let wrong = String::from_utf8(wrong).unwrap();
        edit(&bundle, &cli.path("e.tar"), "index.json", |index| {
            let entries = index["manifests"].as_array_mut().unwrap().iter_mut();
            let mut signatures = entries.filter(|entry| is_signature(&&**entry));
            signatures.next().unwrap()["annotations"][key] = json!(wrong);
        });
        let found = verified(&cli, &["e.tar"], 5);
        assert_eq!(faults(&found).len(), 1, "{wrong}: {found}");
        assert!(found.to_string().contains(&name), "{wrong}: {found}");
        let target = registry(true);
        let said = cli.run(&["import", "e.tar", "-d", &target.host()]);
        assert_ne!(said.code, Some(0), "{wrong}: {}", said.everything());
        let tags: Vec<String> = super::puts(&target)
            .into_iter()
            .filter(|path| !path.contains("/sha256:"))
            .collect();
        assert!(
            tags.iter().all(|path| path.ends_with("/team/app/manifests/1")),
            "{wrong}: {tags:?}"
        );
    }
}

#[test]
fn every_byte_of_the_documents_of_a_bundle_is_checked() {
    let (cli, source) = (cli(), registry(true));
    signed(&source);
    cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    let sound = fs::read(cli.path("b.tar")).unwrap();
    let bundle = Tar::open(&cli.path("b.tar"));
    for name in ["index.json", "docker-mirror.json"] {
        let member = bundle.member(name).unwrap();
        // Bits all over the document, and in its last field.
        let spread = (0..16).map(|part| member.size * part / 16 + 7 * part % 11);
        for at in spread.chain([member.size - 20, member.size - 80]) {
            let mut bytes = sound.clone();
            bytes[(member.offset + at) as usize] ^= 1 << (at % 3);
            fs::write(cli.path("e.tar"), bytes).unwrap();
            let found = cli.run(&["verify", "e.tar"]);
            assert_eq!(found.code, Some(5), "{name} {at}: {}", found.everything());
        }
    }
    // A flipped bit in an annotation, which no digest shows: the import says so and goes on.
    let index = bundle.member("index.json").unwrap();
    let text = String::from_utf8(bundle.bytes("index.json")).unwrap();
    let at = text.find("signature of the index").unwrap();
    let mut bytes = sound.clone();
    bytes[index.offset as usize + at] ^= 1;
    fs::write(cli.path("e.tar"), bytes).unwrap();
    let found = verified(&cli, &["e.tar"], 5);
    let fault = &found["faults"][0];
    assert_eq!(
        (
            &fault["kind"],
            &fault["member"],
            found["faults"].as_array().unwrap().len()
        ),
        (&json!("document"), &json!("index.json"), 1),
        "{found}"
    );
    let target = registry(true);
    cli.succeed(&["import", "e.tar", "-d", &target.host()]).says(&[
        "warning: ",
        "`index.json`",
        "it has other bytes than when the bundle was written",
    ]);
}

#[test]
fn a_fault_names_each_image_once_also_for_what_refers_to_them() {
    let (cli, source) = (cli(), registry(true));
    let images = ["a", "b", "c"].map(|tag| {
        let image = small(Style::Oci, "linux/amd64", tag);
        image.push(&source, "team/app", tag);
        for text in ["first", "second"] {
            refer(&source, "team/app", &image.root, BUNDLE, &format!("{tag} {text}"));
        }
        format!("{}/team/app:{tag}", source.host())
    });
    let named = images.each_ref().map(String::as_str);
    cli.succeed(&[&["export", "-o", "b.tar"][..], &named].concat());
    // All six referrers have this config.
    Tar::open(&cli.path("b.tar")).flip(&blob_name(&sha256(b"{}")));
    let document = verified(&cli, &["b.tar"], 5);
    let faults = document["faults"].as_array().unwrap();
    assert_eq!(faults.len(), 1, "{document}");
    let mut images = faults[0]["images"].as_array().unwrap().clone();
    images.sort_by_key(Value::to_string);
    assert_eq!(images, named, "{document}");
    assert!(faults[0].get("moreImages").is_none_or(|more| more == 0), "{document}");
}
