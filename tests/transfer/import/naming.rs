//! `--name`: images without a name, and images whose name is ambiguous.

use super::archives::{Layout, digest, fixture};
use super::handmade::{Maker, assert_complete, request, run};
use super::support::{Cli, Double};
use docker_mirror::Kind;
use docker_mirror::push::Outcome;

fn cli() -> Cli {
    Cli::new(env!("CARGO_BIN_EXE_docker-mirror"))
}

/// Returns a layout with three images: two without a name, and one called `quay.io/test/named:1`.
fn nameless() -> Layout {
    let mut layout = Layout::default();
    let (a, b) = (layout.image("amd64", b"a", true), layout.image("arm64", b"b", true));
    let named = layout.image("amd64", b"c", true);
    layout.entries.extend([a, b]);
    layout.name(named, "quay.io/test/named:1");
    layout
}

#[test]
fn several_images_without_a_name_are_listed_and_named_by_place_or_digest() {
    let (cli, registry) = (cli(), Double::new());
    let mut layout = nameless();
    let digests: Vec<String> = layout.entries.iter().map(|entry| digest(entry).to_string()).collect();
    layout.entries.pop();
    std::fs::write(cli.path("b.tar"), layout.tar().end()).unwrap();
    let host = registry.host();
    let import = |more: &[&str]| cli.run(&[&["import", "b.tar", "-d", &host], more].concat());
    import(&[]).expect_code(2).says(&[
        "2 images have no name",
        &format!("@0 ({}, linux/amd64)", digests[0]),
        &format!("@1 ({}, linux/arm64)", digests[1]),
        "--name @N=REPOSITORY:TAG",
        "--name sha256:...=REPOSITORY:TAG",
    ]);
    import(&["--name", "team/x"]).expect_code(5).says(&[
        "two images are called `docker.io/team/x:latest`",
        &digests[0],
        &digests[1],
        "--name @1=REPOSITORY:TAG",
    ]);
    assert!(registry.requests().is_empty(), "{}", registry.transcript());
    let by_digest = format!("{}=team/b:2", digests[1]);
    let output = import(&["--name", "@0=team/a:1", "--name", &by_digest]).expect_code(0);
    assert_eq!(
        output.lines(),
        [
            format!("{host}/team/a:1@{}", digests[0]),
            format!("{host}/team/b:2@{}", digests[1])
        ]
    );
    assert_complete(&registry, "team/a", "1", false);
    assert_complete(&registry, "team/b", "2", false);
    // One by its place, and the only other one by a name alone.
    let fresh = Double::new();
    let names = ["--name", "@1=team/b:2", "--name", "team/a:1"];
    let output = cli.run(&[&["import", "b.tar", "-d", &fresh.host()], &names[..]].concat());
    output.expect_code(0);
    assert_complete(&fresh, "team/a", "1", false);
}

#[test]
fn a_place_or_digest_renames_what_has_a_name() {
    let (cli, registry) = (cli(), Double::new());
    std::fs::write(cli.path("b.tar"), nameless().tar().end()).unwrap();
    let host = registry.host();
    let names = ["--name", "@0=a", "--name", "@1=b", "--name", "@2=other/name:3"];
    cli.run(&[&["import", "b.tar", "-d", &host], &names[..]].concat())
        .expect_code(0);
    assert_complete(&registry, "other/name", "3", false);
    assert!(registry.store().repository("test/named").is_none());
}

#[test]
fn one_name_for_two_images_has_a_way_out() {
    let (cli, registry) = (cli(), Double::new());
    let mut layout = Layout::default();
    let (a, b) = (layout.image("amd64", b"a", true), layout.image("amd64", b"b", true));
    layout.name(a.clone(), "quay.io/test/one:1");
    layout.name(b.clone(), "quay.io/test/one:1");
    std::fs::write(cli.path("b.tar"), layout.tar().end()).unwrap();
    let host = registry.host();
    let (a, b) = (digest(&a).to_string(), digest(&b).to_string());
    cli.run(&["import", "b.tar", "-d", &host]).expect_code(5).says(&[
        "two images are called `quay.io/test/one:1`",
        &a,
        &b,
        "(@0)",
        "--name @1=REPOSITORY:TAG",
    ]);
    assert!(registry.requests().is_empty());
    let name = format!("{b}=quay.io/test/one:2");
    for name in ["@1=quay.io/test/one:2", &name] {
        cli.succeed(&["import", "b.tar", "-d", &host, "--name", name]);
        let found = registry.store().repository("test/one").unwrap();
        assert_eq!((&found.tags["1"], &found.tags["2"]), (&a, &b));
    }
}

#[test]
fn names_that_fit_nothing_or_anything_are_refused() {
    let (cli, registry) = (cli(), Double::new());
    std::fs::write(cli.path("b.tar"), nameless().tar().end()).unwrap();
    std::fs::copy(fixture("skopeo-oci-archive.tar"), cli.path("c.tar")).unwrap();
    let host = registry.host();
    let none = format!("sha256:{}=a", "a".repeat(64));
    for (bundles, name, said) in [
        (&["b.tar"][..], "@3=a", "the archive has no image at this position"),
        (&["b.tar"], &none, "no image has this digest"),
        (&["c.tar"], "a", "every image has a name of its own"),
        (
            &["b.tar", "c.tar"],
            "@0=a",
            "counts the images of one archive, and there are 2",
        ),
        (&["b.tar"], "@x=a", "neither a place"),
        (&["b.tar"], "b=a", "neither a place"),
    ] {
        let arguments = [&["import", "-d", &host, "--name", name], bundles].concat();
        cli.run(&arguments).expect_code(2).says(&[said]);
    }
    let twice = ["import", "-d", &host, "--name", "a", "--name", "b", "b.tar"];
    cli.run(&twice)
        .expect_code(2)
        .says(&["both for the one image without a name", "@N=NAME"]);
    assert!(registry.requests().is_empty(), "{}", registry.transcript());
}

#[test]
fn a_bundle_of_our_own_can_be_renamed_and_keeps_its_record() {
    use super::sparse_index::sparse;
    let (bundle, original, _) = sparse();
    let path = bundle.bundle.images()[0].archive.clone();
    let (cli, registry) = (cli(), Double::new());
    let name = "@0=docker.io/team/renamed:1";
    let host = registry.host();
    let output = cli.run(&["import", &path, "-d", &host, "--name", name, "--index", "filtered"]);
    // The platforms are known from the record, which lists the image under its own name.
    output.expect_code(0).says(&["left out ", &original]);
    assert_complete(&registry, "team/renamed", "1", false);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_named_at_the_destination_fails_alone() {
    let registry = Double::new();
    let mut maker = Maker::default();
    for name in [
        "quay.io/good/app:1".to_owned(),
        format!("quay.io/{}:1", "x".repeat(245)),
    ] {
        let image = maker.image("linux/amd64", &[b"layer"]);
        maker.name(&name, &image);
    }
    let report = run(&maker.open(), request(&registry)).await.unwrap();
    let outcomes: Vec<Outcome> = report.images.iter().map(|image| image.outcome).collect();
    assert_eq!(outcomes, [Outcome::Pushed, Outcome::Failed], "{report:?}");
    assert_complete(&registry, "mirror/good/app", "1", false);

    // Where it is so of all of them, the command line is wrong.
    let mut maker = Maker::default();
    let image = maker.image("linux/amd64", &[b"layer"]);
    maker.name(&format!("quay.io/{}:1", "x".repeat(245)), &image);
    let registry = Double::new();
    let error = run(&maker.open(), request(&registry)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(registry.requests().is_empty(), "{}", registry.transcript());
}
