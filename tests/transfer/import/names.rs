//! Names and tags at the destination: collisions, existing tags, and the output of a dry run.

use super::handmade::{Maker, assert_complete, digest, noise, request, run, run_well, why};
use super::images;
use super::support::fault::{Action, When};
use super::support::{Double, Immutable, Options};
use docker_mirror::{
    Kind,
    push::{OnExisting, Outcome, PushRequest},
};

#[tokio::test(flavor = "multi_thread")]
async fn names_that_meet_are_refused_before_anything_is_sent() {
    let registry = Double::new();
    let bundle = images(&["quay.io/a/b:1", "docker.io/x/y:1", "ghcr.io/a/b:1"]).open();
    let error = run(&bundle, request(&registry)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    for part in ["`quay.io/a/b:1`", "`ghcr.io/a/b:1`", "mirror/a/b:1`"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(registry.requests().is_empty());

    let mut apart = request(&registry);
    apart.destination = apart.destination.keep_host(true);
    run_well(&bundle, apart).await;
    assert_complete(&registry, "mirror/ghcr.io/a/b", "1", false);

    let mut mapped = request(&registry);
    mapped.mappings = vec!["ghcr.io/a=other/team".parse().unwrap()];
    run_well(&bundle, mapped).await;
    assert_complete(&registry, "mirror/other/team/b", "1", false);
    assert_complete(&registry, "mirror/a/b", "1", false);

    let mut clash = request(&registry);
    clash.mappings = vec!["docker.io/x/y=a/b".parse().unwrap(), "ghcr.io=c".parse().unwrap()];
    registry.forget_requests();
    let error = run(&bundle, clash).await.unwrap_err();
    assert!(error.to_string().contains("`docker.io/x/y:1`"), "{error}");
    assert!(registry.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_that_hold_something_else() {
    let registry = Double::new();
    let old = images(&["docker.io/team/app:1"]).open();
    run_well(&old, request(&registry)).await;
    let held = registry.store().repository("mirror/team/app").unwrap().tags["1"].clone();
    let mut maker = Maker::default();
    let image = maker.image("linux/amd64", &[b"newer"]);
    maker.name("docker.io/team/app:1", &image);
    let new = maker.open();
    let with = |on_existing| PushRequest {
        on_existing,
        ..request(&registry)
    };

    registry.forget_requests();
    let report = run(&new, with(OnExisting::Error)).await.unwrap();
    assert_eq!(report.images[0].error.as_ref().unwrap().kind(), Kind::Exists);
    assert!(why(&report.images[0]).contains(&held), "{report:?}");
    let report = run_well(&new, with(OnExisting::Skip)).await;
    assert_eq!(report.images[0].outcome, Outcome::LeftAlone);
    assert_eq!(report.images[0].pushed.as_ref().unwrap().to_string(), held);
    assert_eq!(
        registry.count("*", "/blobs/") + registry.count("PUT", ""),
        0,
        "{}",
        registry.transcript()
    );
    // The same digest is a success in every mode.
    for mode in [OnExisting::Error, OnExisting::Skip, OnExisting::Overwrite] {
        assert_eq!(run_well(&old, with(mode)).await.images[0].outcome, Outcome::Unchanged);
    }

    let report = run_well(&new, with(OnExisting::Overwrite)).await;
    assert_eq!(report.images[0].replaced.as_ref().unwrap().to_string(), held);
    assert_eq!(
        registry.store().repository("mirror/team/app").unwrap().tags["1"],
        digest(&image)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn immutable_tags_are_named_as_such_and_the_same_digest_is_success() {
    for immutable in [Immutable::Other, Immutable::Any] {
        let registry = Double::start(Options {
            immutable_tags: Some(immutable),
            ..Options::default()
        });
        let old = images(&["docker.io/team/app:1"]).open();
        run_well(&old, request(&registry)).await;
        let held = registry.store().repository("mirror/team/app").unwrap().tags["1"].clone();
        assert_eq!(
            run_well(&old, request(&registry)).await.images[0].outcome,
            Outcome::Unchanged
        );
        let mut maker = Maker::default();
        let image = maker.image("linux/amd64", &[b"newer"]);
        maker.name("docker.io/team/app:1", &image);
        let report = run(&maker.open(), request(&registry)).await.unwrap();
        let error = report.images[0].error.as_ref().unwrap();
        assert_eq!(error.kind(), Kind::Exists);
        assert!(
            error.full().contains(&held) && error.full().contains("tag `1`"),
            "{error:?}"
        );
        assert!(error.hint().unwrap().contains("immutable"));
        assert_eq!(registry.store().repository("mirror/team/app").unwrap().tags["1"], held);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_asks_and_changes_nothing() {
    let registry = Double::new();
    let mut maker = images(&["docker.io/team/a:1"]);
    run_well(&maker.open(), request(&registry)).await;
    let image = maker.image("linux/amd64", &[&noise(0, 4000), &noise(60, 500)]);
    maker.name("docker.io/team/a:2", &image);
    maker.name("docker.io/team/b:1", &image);
    let bundle = maker.open();
    registry.forget_requests();
    let mut dry = request(&registry);
    dry.dry_run = true;
    let report = run_well(&bundle, dry).await;
    assert!(report.dry_run);
    assert!(
        registry
            .requests()
            .iter()
            .all(|e| e.method == "HEAD" || e.path == "/v2/"),
        "{}",
        registry.transcript()
    );
    assert_eq!(registry.store().repository("mirror/team/b").map(|r| r.blobs), None);
    let outcomes: Vec<Outcome> = report.images.iter().map(|i| i.outcome).collect();
    assert_eq!(outcomes, [Outcome::Unchanged, Outcome::Planned, Outcome::Planned]);
    let foreseen: Vec<_> = report.images.iter().map(|i| i.counts).collect();
    let done = run_well(&bundle, request(&registry)).await;
    assert_eq!(
        done.images.iter().map(|i| i.counts).collect::<Vec<_>>(),
        foreseen,
        "it said what would happen"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_of_which_the_registry_does_not_tell_is_only_overwritten() {
    let registry = Double::new();
    run_well(&images(&["docker.io/team/app:1"]).open(), request(&registry)).await;
    let held = registry.store().repository("mirror/team/app").unwrap().tags["1"].clone();
    registry.add_fault(When::head("/manifests/"), Action::status(403));
    registry.add_fault(When::get("/manifests/"), Action::error(403, "DENIED", "not for you"));
    let mut maker = Maker::default();
    let image = maker.image("linux/amd64", &[b"newer"]);
    maker.name("docker.io/team/app:1", &image);
    let new = maker.open();
    for on_existing in [OnExisting::Skip, OnExisting::Error] {
        registry.forget_requests();
        let wanted = PushRequest {
            on_existing,
            ..request(&registry)
        };
        let report = run(&new, wanted).await.unwrap();
        let error = report.images[0].error.as_ref().unwrap();
        assert_eq!(error.kind(), Kind::Denied, "{report:?}");
        for part in ["cannot tell what", "/mirror/team/app:1` holds", "not for you"] {
            assert!(error.full().contains(part), "{error:?}");
        }
        assert!(error.hint().unwrap().contains("--on-existing overwrite"), "{error:?}");
        assert_eq!(
            registry.count("POST", "") + registry.count("PUT", ""),
            0,
            "{}",
            registry.transcript()
        );
        assert_eq!(registry.store().repository("mirror/team/app").unwrap().tags["1"], held);
    }
    let report = run_well(&new, request(&registry)).await;
    assert_eq!(report.images[0].outcome, Outcome::Pushed);
    assert_eq!(
        registry.store().repository("mirror/team/app").unwrap().tags["1"],
        digest(&image)
    );
}
