//! `--platform-tags`: each platform under a tag of its own.

use super::support::image::Style;
use super::support::images::{multi, small};
use super::support::{Double, sha256};
use super::{cli, digest_in};

#[test]
fn each_platform_gets_a_tag_by_import_and_by_mirror() {
    let (cli, source) = (cli(), Double::new());
    multi(Style::Oci, &["linux/amd64", "linux/arm/v7"], "app").push(&source, "team/app", "1");
    small(Style::Oci, "linux/amd64", "one").push(&source, "team/one", "1");
    let image = |name: &str| format!("{}/team/{name}:1", source.host());
    cli.succeed(&["export", &image("app"), &image("one"), "-o", "b.tar"]);
    let bundle = std::fs::File::open(cli.path("b.tar")).unwrap();
    let (imported, mirrored, piped) = (Double::new(), Double::new(), Double::new());
    let output = cli.succeed(&["import", "b.tar", "-d", &imported.host(), "--platform-tags"]);
    assert_eq!(output.lines().len(), 5, "{}", output.everything());
    cli.succeed(&["-d", &mirrored.host(), &image("app"), &image("one"), "--platform-tags"]);
    let mut command = cli.command(&["import", "-", "-d", &piped.host(), "--platform-tags"]);
    let output = command.stdin(bundle).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for target in [&imported, &mirrored, &piped] {
        let index: serde_json::Value = serde_json::from_slice(&target.manifest("team/app", "1").unwrap()).unwrap();
        for (number, tag) in ["1_amd64", "1_arm_v7"].iter().enumerate() {
            let found = target
                .manifest("team/app", tag)
                .unwrap_or_else(|| panic!("{tag}: {}", target.transcript()));
            assert_eq!(index["manifests"][number]["digest"], sha256(&found), "{tag}");
        }
        assert_eq!(target.manifest("team/one", "1_amd64"), target.manifest("team/one", "1"));
    }
    // A second run changes nothing, and without the flag no such tags are pushed.
    imported.forget_requests();
    let again = cli.succeed(&["import", "b.tar", "-d", &imported.host(), "--platform-tags"]);
    assert_eq!(imported.count("PUT", ""), 0, "{}", imported.transcript());
    assert!(digest_in(again.lines()[1]).starts_with("sha256:"));
    let plain = Double::new();
    cli.succeed(&["import", "b.tar", "-d", &plain.host()]);
    assert!(plain.manifest("team/app", "1_amd64").is_none());
}

#[test]
fn a_tag_that_is_another_images_is_refused_before_anything_is_sent() {
    let (cli, source, target) = (cli(), Double::new(), Double::new());
    multi(Style::Oci, &["linux/amd64", "linux/arm64"], "app").push(&source, "team/app", "1");
    small(Style::Oci, "linux/amd64", "other").push(&source, "team/app", "1_amd64");
    let image = |tag: &str| format!("{}/team/app:{tag}", source.host());
    cli.run(&["-d", &target.host(), &image("1"), &image("1_amd64"), "--platform-tags"])
        .expect_code(2)
        .says(&["--platform-tags", "team/app:1_amd64", "omit `--platform-tags`"]);
    assert!(target.requests().is_empty(), "{}", target.transcript());
    // So is one that stands there, by itself.
    cli.succeed(&["-d", &target.host(), &image("1_amd64")]);
    let output = cli.run(&[
        "-d",
        &target.host(),
        &image("1"),
        "--platform-tags",
        "--on-existing",
        "error",
    ]);
    assert_eq!(output.code, Some(1), "{}", output.everything());
    assert!(output.stderr.contains("1_amd64"), "{}", output.everything());
}

#[test]
fn only_tags_of_the_same_image_are_replaced() {
    let (cli, source, target) = (cli(), Double::new(), Double::new());
    let (host, name) = (target.host(), format!("{}/team/app:1", source.host()));
    let push = |content: &str| {
        multi(Style::Oci, &["linux/amd64", "linux/arm64"], content).push(&source, "team/app", "1");
        small(Style::Oci, "linux/amd64", content).push(&source, "team/one", "1");
    };
    let one = name.replace("app", "one");
    let mirror = |flags: &[&str]| cli.run(&[&["-d", &host, &name, &one, "--platform-tags"], flags].concat());
    let child = |number: usize| {
        let index = target.manifest("team/app", "1").unwrap();
        let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
        index["manifests"][number]["digest"].as_str().unwrap().to_owned()
    };
    let held = |tag: &str| sha256(&target.manifest("team/app", tag).unwrap());
    // A tag of another image, before the image is there: the image and its other platforms are pushed.
    small(Style::Oci, "linux/amd64", "foreign").push(&target, "team/app", "1_amd64");
    let foreign = held("1_amd64");
    push("first");
    for flags in [&["--dry-run"][..], &[]] {
        mirror(flags).expect_code(1).says(&[
            &format!("team/app:1_amd64` holds {foreign}"),
            "may be another image, and is not overwritten",
            "`--on-existing overwrite` moves the tag",
        ]);
        assert_eq!(held("1_amd64"), foreign, "{flags:?}");
    }
    assert_eq!(held("1_arm64"), child(1));
    // Once the image is there, a tag of something else is still foreign.
    push("second");
    mirror(&[]).expect_code(1).says(&["which is no platform of the image"]);
    assert_eq!((held("1_amd64"), held("1_arm64")), (foreign.clone(), child(1)));
    mirror(&["--on-existing", "skip"]).expect_code(0);
    assert_eq!(held("1_amd64"), foreign);
    mirror(&["--on-existing", "overwrite"]).expect_code(0);
    // A newer image moves the tags of the one before it.
    for content in ["third", "fourth"] {
        push(content);
        mirror(&[]).expect_code(0);
        assert_eq!((held("1_amd64"), held("1_arm64")), (child(0), child(1)), "{content}");
        assert_eq!(target.manifest("team/one", "1_amd64"), target.manifest("team/one", "1"));
    }
}

#[test]
fn an_image_whose_platforms_give_no_tags_fails_alone() {
    let long = format!("linux/{}", "a".repeat(200));
    for (platforms, said) in [
        (["linux/amd64", &long], "128"),
        (["linux/amd64", "linux/\u{c4}"], "gives no tag"),
        (["linux/a b", "linux/a_b"], "two platforms would become"),
    ] {
        let (cli, source, target) = (cli(), Double::new(), Double::new());
        multi(Style::Oci, &platforms, "app").push(&source, "team/app", "1");
        small(Style::Oci, "linux/amd64", "one").push(&source, "team/one", "1");
        let image = |name: &str| format!("{}/team/{name}:1", source.host());
        cli.succeed(&[
            "export",
            &image("app"),
            &image("one"),
            "-o",
            "b.tar",
            "--platform",
            "all",
        ]);
        let host = target.host();
        for arguments in [
            &["import", "b.tar", "-d", &host, "--platform-tags"][..],
            &[
                "-d",
                &host,
                &image("app"),
                &image("one"),
                "--platform-tags",
                "--platform",
                "all",
            ],
        ] {
            cli.run(arguments).expect_code(1).says(&[
                "1 of 3 images failed",
                "`--platform-tags` for",
                said,
                "without `--platform-tags`",
            ]);
            assert!(target.manifest("team/app", "1").is_none(), "{}", target.transcript());
            assert!(
                target.manifest("team/one", "1_amd64").is_some(),
                "{}",
                target.transcript()
            );
        }
    }
}
