//! Registries that do not do as they should, and a real one.

use super::handmade::{Maker, assert_complete, counts, noise, request, run, run_well, why};
use super::images;
use super::sparse_index::sparse;
use super::support::fault::{Action, When};
use super::support::real::{RealRegistry, Setup};
use super::support::{Double, Options};
use docker_mirror::{
    Kind,
    push::{Form, Outcome, PushRequest},
};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_one_repository_refuses_still_reaches_the_others() {
    let registry =
        Double::start(Options::default().fault(When::post("team/a/"), Action::error(403, "DENIED", "not yours")));
    let mut maker = Maker::default();
    for name in ["docker.io/team/a:1", "docker.io/team/b:1", "docker.io/team/c:1"] {
        let image = maker.image("linux/amd64", &[&noise(9, 9000)]);
        maker.name(name, &image);
    }
    let report = run(&maker.open(), request(&registry)).await.unwrap();
    assert_eq!(report.images[0].outcome, Outcome::Failed);
    assert_eq!(
        (counts(&report.images[1]), counts(&report.images[2])),
        ((2, 0, 0), (0, 2, 0))
    );
    assert_complete(&registry, "mirror/team/c", "1", false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_server_that_says_yes_to_everything_is_found_out() {
    let registry = Double::start(Options::default().fault(When::any(), Action::html()));
    let result = run(&images(&["docker.io/team/app:1"]).open(), request(&registry)).await;
    let failed = match &result {
        Ok(report) => report.failed() && report.images[0].outcome == Outcome::Failed,
        Err(_) => true,
    };
    assert!(failed, "{result:?}\n{}", registry.transcript());

    // One that gives no web page away: every answer is an empty yes.
    for status in [200, 201] {
        let registry = Double::start(Options::default().fault(When::any(), Action::status(status)));
        let report = run(&images(&["docker.io/team/app:1"]).open(), request(&registry)).await;
        assert!(report.is_err() || report.as_ref().unwrap().failed(), "{report:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_alters_manifests_fails_the_image() {
    let other = format!("sha256:{}", "a".repeat(64));
    // It says so at once, and has it so when it is asked ...
    let registry = Double::start(
        Options::default()
            .fault(
                When::put("/manifests/"),
                Action::Header("docker-content-digest", Some(other.clone())),
            )
            .fault(
                When::head("/manifests/1").after(1),
                Action::Header("docker-content-digest", Some(other.clone())),
            ),
    );
    let bundle = images(&["docker.io/team/app:1"]).open();
    let report = run(&bundle, request(&registry)).await.unwrap();
    assert!(why(&report.images[0]).contains("altered"), "{report:?}");
    // ... or keeps quiet about it, and has something else in the end.
    let registry = Double::start(
        Options::default()
            .fault(When::put("/manifests/"), Action::Header("docker-content-digest", None))
            .fault(
                When::head("/manifests/1").after(1),
                Action::Header("docker-content-digest", Some(other.clone())),
            ),
    );
    let report = run(&bundle, request(&registry)).await.unwrap();
    assert!(report.failed() && why(&report.images[0]).contains(&other), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_forgets_what_it_accepted_fails_the_image() {
    let registry = Double::start(Options::default().fault(When::put("/manifests/"), Action::status(201)));
    let report = run(&images(&["docker.io/team/app:1"]).open(), request(&registry))
        .await
        .unwrap();
    assert!(
        report.failed() && why(&report.images[0]).contains("is not there"),
        "{report:?}"
    );

    // One that only lags behind does not.
    let registry = Double::new();
    registry.add_fault(When::head("/manifests/").after(1).first(3), Action::status(404));
    run_well(&images(&["docker.io/team/app:1"]).open(), request(&registry)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_that_do_not_answer_heads_of_manifests() {
    for status in [403, 405, 412] {
        let registry = Double::start(Options::default().fault(When::head("/manifests/"), Action::status(status)));
        let bundle = images(&["docker.io/team/app:1"]).open();
        run_well(&bundle, request(&registry)).await;
        assert_complete(&registry, "mirror/team/app", "1", false);
        assert_eq!(
            run_well(&bundle, request(&registry)).await.images[0].outcome,
            Outcome::Unchanged,
            "{status}"
        );
    }
    // A blob that may not be read cannot be checked, which causes a warning.
    for (status, code) in [(403, "DENIED"), (412, "PRECONDITION_FAILED")] {
        let registry = Double::start(
            Options::default()
                .fault(When::head("/manifests/"), Action::status(status))
                .fault(
                    When::get("/manifests/"),
                    Action::error(status, code, "not before it is scanned"),
                ),
        );
        let report = run_well(&images(&["docker.io/team/app:1"]).open(), request(&registry)).await;
        assert!(
            report.images[0].warnings[0].contains("cannot be read back"),
            "{report:?}"
        );
        assert_complete(&registry, "mirror/team/app", "1", false);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_without_a_registry_is_one_error() {
    let registry = Double::new();
    let mut wanted = request(&registry);
    let bundle = images(&["docker.io/team/a:1", "docker.io/team/b:1"]).open();
    wanted.destination = "127.0.0.1:1/mirror".parse().unwrap();
    let error = run(&bundle, wanted).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Network);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_registry_takes_what_the_double_takes() {
    let Some(registry) = RealRegistry::start(Setup::default(), "import into docker-registry") else {
        return;
    };
    let (sparse, original, filtered) = sparse();
    let wanted = || {
        let mut request = PushRequest::new(format!("{}/mirror", registry.host()).parse().unwrap());
        request.pause = Duration::from_millis(1);
        request
    };
    let report = run(&sparse, wanted()).await.unwrap();
    let image = &report.images[0];
    assert_eq!(
        (image.outcome, image.index),
        (Outcome::Pushed, Some(Form::Fallback)),
        "{report:#?}"
    );
    assert_eq!(image.original.as_ref().unwrap().to_string(), original);
    assert_eq!(image.pushed.as_ref().unwrap().to_string(), filtered);

    let mut maker = Maker::default();
    for n in 0..4 {
        let children: Vec<_> = (0..2)
            .map(|c| maker.image("linux/amd64", &[&noise(7, 500_000), &noise(n * 10 + c, 3000), b""]))
            .collect();
        let index = maker.index(&children);
        maker.name(&format!("docker.io/library/app{n}:1"), &index);
    }
    let bundle = maker.open();
    let report = run_well(&bundle, wanted()).await;
    let total = report.total;
    assert_eq!(
        (total.uploaded.blobs, total.mounted.blobs),
        (1 + 1 + 8 + 8, 3 + 3),
        "{report:#?}"
    );
    let report = run_well(&bundle, wanted()).await;
    assert!(report.images.iter().all(|i| i.outcome == Outcome::Unchanged));
    assert_eq!(report.total.uploaded.blobs + report.total.mounted.blobs, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_one_repository_alters_still_reaches_the_others() {
    let other = format!("sha256:{}", "a".repeat(64));
    let base = noise(9, 9000);
    let altered = Action::Header("docker-content-digest", Some(other.clone()));
    let registry = Double::start(Options::default().fault(When::put("team/a/blobs/"), altered));
    let mut maker = Maker::default();
    for name in ["a", "b"] {
        let image = maker.image("linux/amd64", &[&base]);
        maker.name(&format!("docker.io/team/{name}:1"), &image);
    }
    let report = run(&maker.open(), request(&registry)).await.unwrap();
    let error = report.images[0].error.as_ref().unwrap();
    assert_eq!(error.kind(), Kind::Server, "{error:?}");
    assert!(
        error.full().contains(&other) && error.full().contains("team/a"),
        "{error:?}"
    );
    assert!(
        !error.full().contains("bundle.tar"),
        "the bundle is not to blame: {error:?}"
    );
    assert_eq!(report.images[1].outcome, Outcome::Pushed, "{report:#?}");
    assert_complete(&registry, "mirror/team/b", "1", false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_may_refuse_a_long_path_is_told_with_the_way_to_a_shorter_one() {
    // A login that is missing, or has no right, is told as that: a shorter path would change nothing.
    for (status, code, is_about_paths) in [
        (401, "UNAUTHORIZED", false),
        (403, "DENIED", false),
        (404, "NAME_INVALID", true),
        (405, "UNSUPPORTED", false),
    ] {
        for refused in [When::post("/uploads/"), When::put("/manifests/")] {
            for (name, is_told) in [("docker.io/team/app:1", true), ("localhost:5000/app:1", false)] {
                let registry =
                    Double::start(Options::default().fault(refused.clone(), Action::error(status, code, "no")));
                let report = run(&images(&[name]).open(), request(&registry)).await.unwrap();
                let failure = report.images[0].error.clone().unwrap();
                let hint = failure.hint().unwrap_or_default();
                assert_eq!(
                    hint.contains("--map"),
                    is_told && is_about_paths,
                    "{status} {name}: {hint}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_keeps_a_part_of_each_blob_gets_no_tag() {
    let registry = Double::start(Options::default().fault(When::put("/blobs/uploads/"), Action::KeepOnly(7)));
    let bundle = images(&["docker.io/team/app:1"]).open();
    let report = run(&bundle, request(&registry)).await.unwrap();
    assert_eq!(report.images[0].outcome, Outcome::Failed, "{report:?}");
    assert!(why(&report.images[0]).contains("has 7 instead of"), "{report:?}");
    assert!(registry.manifest("mirror/team/app", "1").is_none());

    // The parts that are there are replaced once the registry works again.
    registry.clear_faults();
    run_well(&bundle, request(&registry)).await;
    assert_complete(&registry, "mirror/team/app", "1", false);
}
