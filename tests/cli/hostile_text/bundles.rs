//! Hostile text in bundles, their file names and reports.

use super::registries::{image, manifests};
use super::*;
use crate::support::layout::write_members;

/// A layout of one image, with its index and its record changed.
fn layout(change: impl FnOnce(&mut Value, &mut Value)) -> Vec<(&'static str, Vec<u8>)> {
    let (manifest, config) = image(|_, _| ());
    let digest = sha256(&manifest);
    let mut index = json!({"schemaVersion": 2, "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest, "size": manifest.len(), "annotations": {"org.opencontainers.image.ref.name": "quay.io/a/b:1"}}]});
    let mut record = json!({"formatVersion": 1, "images": [{"reference": "quay.io/a/b:1", "index": "whole",
        "original": digest, "kept": [{"platform": "linux/amd64", "digest": digest}], "dropped": []}]});
    change(&mut index, &mut record);
    let blob = |bytes: &[u8]| -> &'static str { format!("blobs/{}", sha256(bytes).replace(':', "/")).leak() };
    let mut members = vec![
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json", index.to_string().into_bytes()),
    ];
    if !record.is_null() {
        members.push(("docker-mirror.json", record.to_string().into_bytes()));
    }
    members.extend([(blob(&manifest), manifest.clone()), (blob(&config), config)]);
    members
}

#[test]
fn bundles() {
    const NAME: &str = "org.opencontainers.image.ref.name";
    let mut lab = Lab::new();
    let target = Double::new();
    let annotate = |index: &mut Value, annotations: Value| index["manifests"][0]["annotations"] = annotations;
    let long = || "y".repeat(60_000);
    let mut cases = vec![
        (
            "a name",
            layout(|i, r| (annotate(i, json!({NAME: HOSTILE})), *r = Value::Null).1),
        ),
        (
            "a name in the bundle's own",
            layout(|i, _| annotate(i, json!({NAME: HOSTILE}))),
        ),
        (
            "a name of containerd",
            layout(|i, r| {
                (
                    annotate(i, json!({"io.containerd.image.name": HOSTILE})),
                    *r = Value::Null,
                )
                    .1
            }),
        ),
        (
            "the name of a base",
            layout(|i, r| {
                (
                    annotate(i, json!({"org.opencontainers.image.base.name": HOSTILE})),
                    *r = Value::Null,
                )
                    .1
            }),
        ),
        (
            "a long name",
            layout(|i, r| (annotate(i, json!({NAME: long()})), *r = Value::Null).1),
        ),
        (
            "the type of an entry",
            layout(|i, _| i["manifests"][0]["mediaType"] = json!(HOSTILE)),
        ),
        (
            "the long type of an entry",
            layout(|i, _| i["manifests"][0]["mediaType"] = json!(long())),
        ),
        (
            "the digest of an entry",
            layout(|i, _| i["manifests"][0]["digest"] = json!(HOSTILE)),
        ),
        (
            "the platform of an entry",
            layout(|i, r| {
                (
                    i["manifests"][0]["platform"] = json!({"os": HOSTILE, "architecture": long()}),
                    *r = Value::Null,
                )
                    .1
            }),
        ),
        (
            "a recorded name",
            layout(|_, r| r["images"][0]["reference"] = json!(HOSTILE)),
        ),
        (
            "a recorded digest",
            layout(|_, r| r["images"][0]["original"] = json!(HOSTILE)),
        ),
        (
            "a recorded mode",
            layout(|_, r| r["images"][0]["index"] = json!(HOSTILE)),
        ),
        (
            "a recorded platform",
            layout(|_, r| r["images"][0]["kept"][0]["platform"] = json!(HOSTILE)),
        ),
        (
            "a dropped platform",
            layout(|_, r| r["images"][0]["dropped"] = json!([{"platform": HOSTILE, "digest": sha256(b"x")}])),
        ),
        (
            "a blob that was left out",
            layout(|_, r| {
                r["images"][0]["leftOut"] = json!([{"digest": sha256(b"x"), "mediaType": HOSTILE, "reason": HOSTILE}])
            }),
        ),
        (
            "an image that is missing",
            layout(|_, r| r["missing"] = json!([{"reference": HOSTILE, "reason": format!("{HOSTILE}{}", long())}])),
        ),
        (
            "many that are missing",
            layout(|_, r| {
                r["missing"] = (0..5000)
                    .map(|n| json!({"reference": format!("a{n}"), "reason": HOSTILE}))
                    .collect()
            }),
        ),
        (
            "many that are not in the index",
            layout(|_, r| {
                let one = r["images"][0].clone();
                let more = (0..5000).map(|n| {
                    let mut one = one.clone();
                    one["reference"] = json!(format!("{BIDI}{n}"));
                    one
                });
                r["images"].as_array_mut().unwrap().extend(more);
            }),
        ),
        (
            "many that are not in the record",
            layout(|i, _| {
                let mut one = i["manifests"][0].clone();
                let more = (0..200).map(|n| {
                    one["annotations"] = json!({NAME: format!("quay.io/a/b:t{n}")});
                    one.clone()
                });
                let more: Vec<Value> = more.collect();
                i["manifests"].as_array_mut().unwrap().extend(more);
            }),
        ),
        (
            "a version of the format",
            layout(|_, r| r["formatVersion"] = json!(HOSTILE)),
        ),
    ];
    let with = |name: &'static str, bytes: Vec<u8>| {
        let mut members = layout(|_, r| *r = Value::Null);
        members.retain(|(other, _)| *other != name);
        members.push((name, bytes));
        members
    };
    let docker = |items: Value| {
        vec![
            ("manifest.json", items.to_string().into_bytes()),
            ("c.json", b"{}".to_vec()),
        ]
    };
    cases.extend([
        (
            "a version of the layout",
            with(
                "oci-layout",
                json!({"imageLayoutVersion": HOSTILE}).to_string().into_bytes(),
            ),
        ),
        (
            "a layout that is no JSON",
            with("oci-layout", HOSTILE.as_bytes().to_vec()),
        ),
        (
            "an index that is no JSON",
            with("index.json", HOSTILE.as_bytes().to_vec()),
        ),
        ("a member", with(HOSTILE, b"x".to_vec())),
        (
            "a member in the place of a blob",
            with("blobs/sha256/\u{202e}\nerror: forged", b"x".to_vec()),
        ),
        (
            "a member that leads out",
            with("a\u{202e}\nerror: forged\\b", b"x".to_vec()),
        ),
        (
            "a name of docker",
            docker(json!([{"Config": "c.json", "RepoTags": [HOSTILE, BIDI], "Layers": []}])),
        ),
        (
            "a config of docker",
            docker(json!([{"Config": HOSTILE, "RepoTags": ["a:1"], "Layers": []}])),
        ),
        (
            "layers of docker",
            docker(json!([{"Config": "c.json", "RepoTags": ["a:1"], "Layers": vec![HOSTILE; 1000]}])),
        ),
        ("an item of docker", docker(json!([HOSTILE]))),
        ("items of docker", docker(json!(HOSTILE))),
        (
            "many items of docker",
            docker(json!(vec![json!({"Config": HOSTILE, "Layers": [long()]}); 2000])),
        ),
    ]);
    // A registry does not find a manifest by such a long type, and is asked for it several times.
    let is_long = |name: &str| name.contains("long type");
    for (name, (manifest, config)) in manifests().into_iter().filter(|(name, _)| !is_long(name)) {
        let mut members = layout(|index, record| {
            *record = Value::Null;
            let entry = &mut index["manifests"][0];
            (entry["digest"], entry["size"]) = (json!(sha256(&manifest)), json!(manifest.len()));
            entry.as_object_mut().unwrap().remove("mediaType");
        });
        for bytes in [manifest, config] {
            members.push((format!("blobs/{}", sha256(&bytes).replace(':', "/")).leak(), bytes));
        }
        cases.push((name, members));
    }
    let host = format!("{}/mirror", target.host());
    for (what, members) in cases {
        write_members(&lab.cli.path("b.tar"), members);
        for more in [
            &["-v"][..],
            &["--dry-run", "-vv", "--platform", "linux/s390x"],
            &["--only", "none", "--name", "@7=a:1"],
        ] {
            lab.say(
                what,
                &[&["import", "b.tar", "-d", host.as_str()][..], more].concat(),
                None,
            );
        }
        // Shown without a registry. A lock and a page are for people and other programs to read.
        let page = ["inspect", "b.tar", "--layers", "--lock", "lock", "--html", "page.html"];
        lab.most = MOST_SHOWN;
        for looks in [
            &page[..],
            &["inspect", "b.tar", "--json"],
            &["verify", "b.tar", "--deep"],
        ] {
            lab.say(what, looks, None);
        }
        lab.say(what, &["diff", "b.tar", "b.tar"], None);
        lab.most = MOST;
        for file in ["lock", "page.html"] {
            let Ok(text) = std::fs::read_to_string(lab.cli.path(file)) else {
                continue;
            };
            if let Some(c) = text.chars().find(|c| is_unsafe(*c) && *c != '\n') {
                lab.faults.push(format!("{what}: {c:?} in {file}"));
            }
        }
        // Again out of a pipe, as `import -` reads it.
        let mut command = lab.cli.command(&["import", "-", "-d", host.as_str(), "-v"]);
        let output = command
            .stdin(std::fs::File::open(lab.cli.path("b.tar")).unwrap())
            .output()
            .unwrap();
        lab.judge(what, &output, None);
    }
    lab.conclude();
}

#[test]
fn headers_and_names_of_files() {
    let mut lab = Lab::new();
    let target = Double::new();
    let host = format!("{}/mirror", target.host());
    // Bytes that are not text, in the name of a member, in the target of a link and in a record of a PAX header.
    let block = |name: &[u8], kind: u8, link: &[u8], body: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link);
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_size(body.len() as u64);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(body);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    };
    let wild = b"x\xff\n\x1b[31m\xe2\x80\xae\nerror: forged";
    let pax = b"30 path=x\xff\n\x1b[31m\xe2\x80\xae\nerror: f\n";
    for bytes in [
        block(wild, b'0', b"", b"x"),
        block(b"a\xff/../b", b'0', b"", b"x"),
        block(b"/\xe2\x80\xae\nerror: forged", b'0', b"", b"x"),
        block(b"a", b'2', b"/\xe2\x80\xae\nerror: forged", b""),
        block(b"a", b'1', wild, b""),
        block(wild, 0x9b, b"", b""),
        block(b"a", b'x', b"", pax),
        block(b"a", b'x', b"", b"20 \xe2\x80\xae\nerror: f=1\n"),
        block(b"a", b'x', b"", b"11 \x1b[31m=1\n11 \x1b[31m=2\n"),
        [
            block(b"index.json", b'0', b"", b"{}"),
            block(b"index.json", b'0', b"", wild),
        ]
        .concat(),
    ] {
        std::fs::write(lab.cli.path("b.tar"), [&bytes[..], &[0; 1024]].concat()).unwrap();
        lab.say(
            &bytes.escape_ascii().to_string(),
            &["import", "b.tar", "-d", &host],
            None,
        );
    }
    // Folders: of bundles, and a layout.
    let good = source();
    let image = format!("{}/library/greeting:1.0", good.host());
    lab.cli.succeed(&["export", &image, "-o", "good.tar"]);
    let folder = lab.cli.path("folder");
    std::fs::create_dir(&folder).unwrap();
    for end in [".tar", ".partial", ".tar.xz", ".zip"] {
        let mut name = no_text();
        name.push(format!("\u{202e}{end}"));
        let content: &[u8] = if end == ".partial" {
            b""
        } else {
            b"\x28\xb5\x2f\xfd\x00\xa8"
        };
        std::fs::write(folder.join(name), content).unwrap();
    }
    lab.say("a folder of bundles", &["import", "folder", "-d", &host], Some("\\xff"));
    let layout = lab.cli.path("layout");
    crate::support::layout::unpack(&lab.cli.path("good.tar"), &layout);
    std::fs::write(layout.join(no_text()), "x").unwrap();
    std::fs::write(layout.join("a\nerror: forged\u{202e}"), "x").unwrap();
    std::os::unix::fs::symlink("/\n\u{202e}", layout.join("link\nerror: forged")).unwrap();
    lab.say("a layout", &["import", "layout", "-d", &host, "-v"], None);
    // Everything works with a name like this, too, and says it in one line.
    let mut odd = no_text();
    odd.push("\u{202e}.tar");
    std::fs::rename(lab.cli.path("good.tar"), lab.cli.folder().join(&odd)).unwrap();
    lab.run(
        "a bundle",
        &["import".as_ref(), &odd, "-d".as_ref(), host.as_ref()],
        &[],
        Some("greeting:1.0@sha256:"),
    );
    let arguments = [OsStr::new("export"), image.as_ref(), "-o".as_ref(), &odd];
    lab.run(
        "an output",
        &arguments,
        &[],
        Some("\\xff\\xed\\xa0\\x80\\nerror: forged"),
    );
    lab.conclude();
}

#[test]
fn a_report_to_a_terminal_holds_the_text_in_escapes() {
    let (cli, target) = (cli(), Double::new());
    let dropped = json!([{"platform": HOSTILE, "digest": sha256(b"x")}]);
    let missing = json!([{"reference": BIDI, "reason": HOSTILE}]);
    write_members(
        &cli.path("b.tar"),
        layout(|_, r| (r["images"][0]["dropped"], r["missing"]) = (dropped, missing.clone())),
    );
    let host = target.host();
    let output = cli
        .command(&["import", "b.tar", "-d", &host, "--report", "/dev/stdout"])
        .output()
        .unwrap();
    assert_eq!(faults("a report", &output, MOST), [""; 0]);
    let text = String::from_utf8(output.stdout).unwrap();
    let report: Value = serde_json::from_str(&text[text.find('{').unwrap()..]).unwrap();
    assert_eq!(report["missing"], missing, "the text itself is the same");
}

#[test]
fn three_hundred_names_are_no_flood() {
    let (cli, target) = (cli(), Double::new());
    // A manifest that lacks a thousand layers, under many names: each image reports the loss, and none lists all
    // layers.
    let (manifest, config) = image(|m, _| {
        m["layers"] = (0..1000u32)
            .map(|n| json!({"mediaType": "x", "digest": sha256(&n.to_be_bytes()), "size": 7}))
            .collect();
    });
    let entry = |n: u32| {
        json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": sha256(&manifest),
        "size": manifest.len(), "annotations": {"org.opencontainers.image.ref.name": format!("quay.io/a/b:{n}")}})
    };
    let mut members = layout(|index, record| {
        *record = Value::Null;
        index["manifests"] = (0..300).map(entry).collect();
    });
    for bytes in [manifest.clone(), config] {
        members.push((format!("blobs/{}", sha256(&bytes).replace(':', "/")).leak(), bytes));
    }
    write_members(&cli.path("b.tar"), members);
    let output = cli.run(&["import", "b.tar", "-d", &target.host()]).expect_code(5);
    let (text, lines) = (&output.stderr, output.stderr.lines().count());
    assert!(
        text.len() < 300 * 1500 && lines < 310,
        "{} bytes, {lines} lines",
        text.len()
    );
    assert!(
        text.contains("1000 blobs are missing: sha256:") && text.contains(" and 990 more"),
        "{}",
        &text[..3000]
    );
}
