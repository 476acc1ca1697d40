//! Blobs of referrers that the source lacks or the destination refuses: the image itself is carried, the loss is
//! reported, exit code 1. If signatures are required, the image fails before its tag is pushed.

use serde_json::Value;

use super::super::support::cli::Output;
use super::super::support::image::Style;
use super::super::support::images::multi;
use super::super::support::layout::{Tar, blob_name, write_members};
use super::super::support::{Action, Cli, Double, Options, When, sha256};
use super::{BUNDLE, Signed, cli, import_piped, names, refer, registry, signed};

/// The text of the SBOM whose blob is lost; the signature of the SBOM is lost with it.
const LOST: &str = "SBOM of a platform";

/// The hex digits of the lost blob, as they are in requests.
fn lost_blob() -> String {
    sha256(LOST.as_bytes()).replace("sha256:", "")
}

/// The report of the last run.
fn report(cli: &Cli) -> Value {
    serde_json::from_slice(&std::fs::read(cli.path("r.json")).unwrap()).unwrap()
}

/// Fails unless a run reports the SBOM and its signature as lost, and carries all else.
fn expect_loss(cli: &Cli, signed: &Signed, out: Output, about: &str) {
    let out = out.expect_code(1);
    let image = report(cli)["images"][0].clone();
    assert_eq!(image["referrersLost"], true, "{about}: {image}");
    let mut left: Vec<&str> = image["leftOutReferrers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|left| left["digest"].as_str().unwrap())
        .collect();
    let mut expected = [
        signed.belongings[2].digest.as_str(),
        signed.belongings[3].digest.as_str(),
    ];
    left.sort_unstable();
    expected.sort_unstable();
    assert_eq!(left, expected, "{about}: {image}");
    for digest in expected {
        assert!(
            out.stderr.contains(&format!("left out {digest}")),
            "{about}: {}",
            out.stderr
        );
    }
    let carried = image["referrers"]
        .as_object()
        .unwrap()
        .values()
        .filter_map(Value::as_u64);
    assert_eq!(carried.sum::<u64>(), 3, "{about}: {image}");
    out.says(&[
        &lost_blob(),
        "what it refers to is not carried",
        "without some referrers",
    ]);
}

/// Fails unless a destination has the image and all its referrers except the lost ones.
fn expect_rest(signed: &Signed, target: &Double, about: &str) {
    let about = format!("{about}: {}", target.transcript());
    assert_eq!(
        target.manifest("team/app", "1"),
        Some(signed.image.root.bytes.clone()),
        "{about}"
    );
    for (number, referrer) in signed.belongings.iter().enumerate() {
        assert_eq!(
            target.manifest("team/app", &referrer.digest).is_some(),
            number < 2,
            "{number} {about}"
        );
    }
    let tag = super::tag_of(&signed.image.root, ".sig");
    assert_eq!(
        target.manifest("team/app", &tag),
        Some(signed.signature.bytes.clone()),
        "{about}"
    );
}

#[test]
fn an_image_goes_without_a_referrer_whose_blob_the_source_lacks() {
    for (what, action) in [
        ("404", Action::error(404, "BLOB_UNKNOWN", "blob unknown to registry")),
        ("404 without a word", Action::status(404)),
        ("410", Action::status(410)),
        ("other bytes", Action::FlipBit(3)),
    ] {
        let (cli, source) = (cli(), registry(true));
        let signed = signed(&source);
        source.add_fault(When::get(&lost_blob()), action);
        let image = names(&source);
        let run = |arguments: &[&str]| cli.run(&[arguments, &["--retries", "0", "--report", "r.json"]].concat());
        // In every way if the blob is absent or wrong, and in two ways if only the message differs.
        let is_main = matches!(what, "404" | "other bytes");
        let files = if is_main {
            &["b.tar", "b.tar.zst"][..]
        } else {
            &["b.tar"]
        };
        for &file in files {
            let about = format!("{what} {file}");
            expect_loss(&cli, &signed, run(&["export", &image, "-o", file]), &about);
            cli.succeed(&["verify", file]);
            let target = registry(false);
            cli.succeed(&["import", file, "-d", &target.host()]);
            expect_rest(&signed, &target, &about);
        }
        let tar = Tar::open(&cli.path("b.tar"));
        assert!(tar.blob(&format!("sha256:{}", lost_blob())).is_none());
        let target = registry(true);
        expect_loss(&cli, &signed, run(&["-d", &target.host(), &image]), what);
        expect_rest(&signed, &target, what);
        if !is_main {
            continue;
        }
        // To a pipe, the front is written before the blobs are fetched, and has the same bytes.
        let arguments = ["export", &image, "-o", "-", "--retries", "0", "--report", "r.json"];
        let output = cli.command(&arguments).output().unwrap();
        assert!(output.stdout == std::fs::read(cli.path("b.tar")).unwrap(), "{what}");
        expect_loss(&cli, &signed, Output::new(&output, &arguments), what);
        // Where signatures are required, there is no bundle, and no tag.
        let required = ["--referrers", "require"];
        for file in ["c.tar", "c.tar.zst"] {
            let out = run(&[&["export", &image, "-o", file][..], &required].concat());
            let out = out.expect_code(1).says(&[&lost_blob()]);
            assert!(!cli.path(file).exists(), "{what}: {}", out.stderr);
        }
        let target = registry(true);
        run(&[&["-d", &target.host(), &image][..], &required].concat()).expect_code(1);
        assert_eq!(target.manifest("team/app", "1"), None, "{what}");
        run(&["export", &image, "-o", "d.tar", "--no-referrers"]).expect_code(0);
    }
    // An answer that says nothing about the referrer fails the image, with a hint about going on without referrers.
    for (action, code) in [
        (Action::status(503), 1),
        (Action::status(403), 3),
        (Action::status(429), 4),
    ] {
        let (cli, source) = (cli(), registry(true));
        signed(&source);
        source.add_fault(When::get(&lost_blob()), action);
        let (image, target) = (names(&source), registry(true));
        for file in ["b.tar", "b.tar.zst"] {
            let out = cli
                .run(&["export", &image, "-o", file, "--retries", "0"])
                .expect_code(code);
            out.says(&["--no-referrers"]);
            assert!(!cli.path(file).exists());
        }
        let out = cli
            .run(&["-d", &target.host(), &image, "--retries", "0"])
            .expect_code(code);
        out.says(&["--no-referrers"]);
        assert_eq!(target.manifest("team/app", "1"), None);
    }
}

#[test]
fn an_image_goes_without_a_referrer_whose_blob_the_destination_refuses() {
    let (cli, source) = (cli(), registry(true));
    let signed = signed(&source);
    let image = names(&source);
    cli.succeed(&["export", &image, "-o", "b.tar"]);
    for action in [
        Action::error(403, "DENIED", "no artifacts here"),
        Action::error(400, "UNSUPPORTED", "this type of layer is not taken"),
        Action::status(400),
        Action::status(413),
        Action::status(415),
        Action::status(422),
    ] {
        let about = format!("{action:?}");
        let ways: [(&[&str], bool); 3] = [
            (&["import", "b.tar"], false),
            (&[&image], false),
            (&["import", "b.tar", "--referrers", "require"], true),
        ];
        for (way, is_required) in ways {
            let target = Double::start(Options::default());
            target.add_fault(When::put(&lost_blob()), action.clone());
            let host = target.host();
            let out = cli.run(&[way, &["-d", &host, "--retries", "0", "--report", "r.json"]].concat());
            if is_required {
                assert_ne!(out.code, Some(0), "{about}");
                assert_eq!(
                    target.manifest("team/app", "1"),
                    None,
                    "{about} {}",
                    target.transcript()
                );
                continue;
            }
            expect_loss(&cli, &signed, out, &about);
            expect_rest(&signed, &target, &about);
        }
    }
    // A registry that refuses the manifest: the same.
    let target = registry(true);
    target.add_fault(When::put(&signed.belongings[0].digest), Action::status(400));
    let arguments = ["import", "b.tar", "-d", &target.host(), "--referrers", "require"];
    cli.run(&arguments).expect_code(1).says(&["--referrers require"]);
    assert_eq!(target.manifest("team/app", "1"), None, "{}", target.transcript());
    // And one that fails says nothing about the referrer: the image fails.
    let target = registry(true);
    target.add_fault(When::put(&lost_blob()), Action::status(503));
    let out = cli.run(&["import", "b.tar", "-d", &target.host(), "--retries", "0"]);
    out.expect_code(1).says(&["--no-referrers"]);
    assert_eq!(target.manifest("team/app", "1"), None);
}

#[test]
fn an_image_goes_without_a_referrer_whose_blob_a_bundle_lacks_or_has_wrongly() {
    let (cli, source) = (cli(), registry(true));
    let signed = signed(&source);
    cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    let tar = Tar::open(&cli.path("b.tar"));
    let lost = blob_name(&sha256(LOST.as_bytes()));
    tar.without(&lost, &cli.path("lacking.tar"));
    let members = tar.names().into_iter().map(|name| {
        let mut bytes = tar.bytes(name);
        if name == lost {
            bytes[3] ^= 1;
        }
        (name.to_owned(), bytes)
    });
    write_members(&cli.path("wrong.tar"), members.collect::<Vec<_>>());
    for file in ["lacking.tar", "wrong.tar"] {
        let target = registry(false);
        let out = cli.run(&["import", file, "-d", &target.host(), "--report", "r.json"]);
        expect_loss(&cli, &signed, out, file);
        expect_rest(&signed, &target, file);
        let target = registry(false);
        let host = target.host();
        let out = cli.run(&["import", file, "-d", &host, "--referrers", "require"]);
        assert_ne!(out.code, Some(0), "{file}");
        assert_eq!(target.manifest("team/app", "1"), None, "{file}");
    }
    // Out of a pipe the same, where the absence of a blob shows at the end.
    let target = registry(false);
    let arguments = ["import", "-", "-d", &target.host(), "--report", "r.json"];
    let piped = |arguments: &[&str], file: &str| {
        let mut command = cli.command(arguments);
        command.stdin(std::fs::File::open(cli.path(file)).unwrap());
        Output::new(&command.output().unwrap(), arguments)
    };
    expect_loss(&cli, &signed, piped(&arguments, "lacking.tar"), "pipe");
    expect_rest(&signed, &target, "pipe");
    let target = registry(false);
    let required = ["import", "-", "-d", &target.host(), "--referrers", "require"];
    piped(&required, "lacking.tar").expect_code(1);
    assert_eq!(target.manifest("team/app", "1"), None);
    // With wrong bytes in a pipe, nothing becomes visible, and the whole bundle is reported as damaged.
    let target = registry(false);
    let out = piped(&["import", "-", "-d", &target.host()], "wrong.tar");
    assert_ne!(out.code, Some(0), "{}", out.stderr);
    assert_eq!(target.manifest("team/app", &signed.belongings[2].digest), None);
    let target = registry(false);
    import_piped(&cli, "b.tar", &target.host());
}

#[test]
fn required_signatures_of_an_index_that_is_not_pushed_are_an_error() {
    let (cli, source) = (cli(), registry(true));
    let image = multi(Style::Oci, &["linux/amd64", "linux/arm64"], "signed");
    image.push(&source, "team/app", "1");
    refer(&source, "team/app", &image.root, BUNDLE, "signature of the index");
    let name = names(&source);
    let options = ["--referrers", "require"];
    let export = ["export", &name, "-o", "b.tar", "--platform", "linux/amd64"];
    // An export of signatures that no import would push is an error as well, unless they are to be pushed with a sparse index.
    let out = cli.run(&[&export[..], &options].concat()).expect_code(1);
    out.says(&["belongs to the unfiltered index", "--index sparse"]);
    assert!(!cli.path("b.tar").exists());
    cli.succeed(&[&export[..], &options, &["--index", "sparse"]].concat());
    cli.succeed(&[&export[..], &["--force"]].concat());
    for sparse in [false, true] {
        for way in [&["import", "b.tar"][..], &[&name, "--platform", "linux/amd64"]] {
            // The second one takes no sparse index, and would get the filtered one.
            let target = registry(true);
            let host = target.host();
            let index: &[&str] = if sparse { &["--index", "sparse"] } else { &[] };
            let out = cli.run(&[way, &["-d", &host], index, &options].concat());
            assert_ne!(out.code, Some(0), "{way:?} {index:?}: {}", out.stderr);
            assert!(out.stderr.contains("--referrers require"), "{}", out.stderr);
            assert_eq!(
                target.manifest("team/app", "1"),
                None,
                "{way:?} {}",
                target.transcript()
            );
        }
    }
}
