//! Destinations that lost a part of an image whose tag still exists: the whole tree is checked, not only the tag.

use docker_mirror::push::{Outcome, PushRequest};

use super::handmade::{Maker, Opened, assert_complete, counts, digest, noise, request, run_well};
use super::support::cli::Cli;
use super::support::fault::{Action, When};
use super::support::{Double, Options};

const REPOSITORY: &str = "mirror/team/app";

/// An index of two images; returns their digests and that of a layer.
fn index() -> (Maker, [String; 2], String) {
    let mut maker = Maker::default();
    let children = [
        maker.image("linux/amd64", &[&noise(1, 9000)]),
        maker.image("linux/arm64", &[&noise(2, 5000)]),
    ];
    let index = maker.index(&children);
    maker.name("docker.io/team/app:1", &index);
    let layer = super::support::sha256(&noise(1, 9000));
    (maker, children.map(|child| digest(&child)), layer)
}

async fn outcome(bundle: &Opened, request: PushRequest) -> Outcome {
    run_well(bundle, request).await.images[0].outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_that_are_missing_below_a_tag_are_put_again() {
    let (maker, children, layer) = index();
    let bundle = maker.open();
    for lost in [&children[..1], &children[1..], &children[..]] {
        let registry = Double::new();
        outcome(&bundle, request(&registry)).await;
        // Like a garbage collection that keeps tagged manifests and deletes everything below them.
        registry.store().change(REPOSITORY, |r| {
            r.manifests.retain(|digest, _| !lost.contains(digest));
            r.blobs.remove(&layer);
        });
        registry.forget_requests();
        let report = run_well(&bundle, request(&registry)).await;
        assert_eq!(report.images[0].outcome, Outcome::Pushed);
        assert_eq!(counts(&report.images[0]), (1, 0, 3), "what is there is not sent again");
        assert!(report.images[0].replaced.is_none(), "{report:?}");
        assert_complete(&registry, REPOSITORY, "1", false);
        registry.forget_requests();
        assert_eq!(outcome(&bundle, request(&registry)).await, Outcome::Unchanged);
        assert_eq!(registry.count("HEAD", "/manifests/"), 3, "{}", registry.transcript());
        assert_eq!(registry.count("*", "/blobs/"), 0, "{}", registry.transcript());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_that_are_missing_are_looked_for_where_that_is_wanted() {
    let (maker, _, layer) = index();
    let bundle = maker.open();
    let registry = Double::new();
    let verified = || PushRequest {
        verify_existing: true,
        ..request(&registry)
    };
    outcome(&bundle, request(&registry)).await;
    assert_eq!(outcome(&bundle, verified()).await, Outcome::Unchanged);
    registry.store().change(REPOSITORY, |r| {
        r.blobs.remove(&layer);
    });
    assert_eq!(outcome(&bundle, request(&registry)).await, Outcome::Unchanged);
    assert_eq!(outcome(&bundle, verified()).await, Outcome::Pushed);
    assert_complete(&registry, REPOSITORY, "1", false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_does_not_say_what_it_has_is_believed() {
    let (maker, ..) = index();
    let bundle = maker.open();
    let registry = Double::start(Options::default());
    outcome(&bundle, request(&registry)).await;
    registry.add_fault(When::head("/manifests/sha256:"), Action::status(403));
    assert_eq!(outcome(&bundle, request(&registry)).await, Outcome::Unchanged);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_answer_to_head_does_not_say_is_asked_with_get() {
    let (maker, children, layer) = index();
    let bundle = maker.open();
    for action in [
        Action::status(400),
        Action::status(403),
        Action::status(405),
        Action::status(501),
        Action::html(),
    ] {
        let registry = Double::new();
        let verified = || PushRequest {
            verify_existing: true,
            ..request(&registry)
        };
        outcome(&bundle, request(&registry)).await;
        registry.add_fault(When::head("/manifests/sha256:"), action.clone());
        registry.add_fault(When::head("/blobs/"), action.clone());
        assert_eq!(outcome(&bundle, verified()).await, Outcome::Unchanged, "{action:?}");
        registry.store().change(REPOSITORY, |r| {
            r.manifests.remove(&children[0]);
        });
        assert_eq!(
            outcome(&bundle, request(&registry)).await,
            Outcome::Pushed,
            "{action:?}"
        );
        registry.store().change(REPOSITORY, |r| {
            r.blobs.remove(&layer);
        });
        assert_eq!(outcome(&bundle, verified()).await, Outcome::Pushed, "{action:?}");
        registry.clear_faults();
        assert_complete(&registry, REPOSITORY, "1", false);
    }
}

#[test]
fn images_that_cannot_be_checked_are_told_once() {
    let (cli, registry) = (Cli::new(env!("CARGO_BIN_EXE_docker-mirror")), Double::new());
    let (mut maker, ..) = index();
    let other = maker.image("linux/amd64", &[&noise(3, 100)]);
    let other = maker.index(&[other]);
    maker.name("docker.io/team/other:1", &other);
    std::fs::copy(maker.write().path, cli.path("b.tar")).unwrap();
    let host = format!("{}/mirror", registry.host());
    cli.succeed(&["import", "b.tar", "-d", &host]);
    registry.add_fault(When::path("/manifests/sha256:"), Action::status(403));
    let output = cli.run(&["import", "b.tar", "-d", &host]);
    let told = output.everything().matches("could not check").count();
    assert_eq!(told, 1, "{}", output.everything());
    output.says(&["2 images", "403"]);
}

#[test]
fn the_flag_is_passed_on() {
    let (cli, registry) = (Cli::new(env!("CARGO_BIN_EXE_docker-mirror")), Double::new());
    let (maker, _, layer) = index();
    std::fs::copy(maker.write().path, cli.path("b.tar")).unwrap();
    let host = format!("{}/mirror", registry.host());
    cli.succeed(&["import", "b.tar", "-d", &host]);
    registry.store().change(REPOSITORY, |r| {
        r.blobs.remove(&layer);
    });
    cli.succeed(&["import", "b.tar", "-d", &host, "--verify-existing"])
        .says(&["not all that is below it"]);
    assert_complete(&registry, REPOSITORY, "1", false);
}
