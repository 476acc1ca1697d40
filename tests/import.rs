//! Import: what becomes of images, good and bad, at registries that do as they should and at others.

mod handmade;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use docker_mirror::error::Kind;
use docker_mirror::image::platform::PlatformFilter;
use docker_mirror::image::tree::IndexMode;
use docker_mirror::progress::Progress;
use docker_mirror::transfer::import::{Selection, import};
use docker_mirror::transfer::push::report::{Form, Outcome};
use docker_mirror::transfer::push::{OnExisting, PushRequest};
use handmade::{
    Maker, Opened, assert_complete, counts, digest, incomplete, noise, open, registries, request, run, run_well, why,
};
use support::fault::{Action, When};
use support::real::{RealRegistry, Setup};
use support::{Double, Immutable, Options};

/// One image of one layer under each of these names.
fn images(names: &[&str]) -> Maker {
    let mut maker = Maker::default();
    for (n, name) in names.iter().enumerate() {
        let image = maker.image("linux/amd64", &[&noise(n as u64, 4000)]);
        maker.name(name, &image);
    }
    maker
}

fn tags(registry: &Double, repository: &str) -> Vec<String> {
    let found = registry.store().repository(repository).unwrap_or_default();
    found.tags.keys().cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_blob_never_ends_in_an_upload_or_a_tag() {
    let registry = Double::new();
    let mut maker = images(&["docker.io/team/good:1"]);
    let bad = noise(50, 700_000);
    for name in ["docker.io/team/bad:1", "docker.io/team/worse:1"] {
        let image = maker.image("linux/amd64", &[&bad, name.as_bytes()]);
        maker.name(name, &image);
    }
    let bad = support::sha256(&bad);
    maker.corrupt(&bad);
    let report = run(&maker.open(), request(&registry)).await.unwrap();
    assert!(report.failed());
    assert_eq!(report.images[0].outcome, Outcome::Pushed);
    assert_complete(&registry, "mirror/team/good", "1", false);
    for image in &report.images[1..] {
        let error = image.error.as_ref().unwrap();
        assert_eq!(
            (image.outcome, error.kind),
            (Outcome::Failed, Kind::Integrity),
            "{error:?}"
        );
        for part in ["bundle.tar", &bad.replace(':', "/"), "at offset ", &bad] {
            assert!(error.message.contains(part), "{part} in {}", error.message);
        }
    }
    assert!(registry.store().content(&bad).is_none());
    for repository in ["mirror/team/bad", "mirror/team/worse"] {
        assert!(tags(&registry, repository).is_empty());
        assert_eq!(registry.count("PUT", &format!("{repository}/manifests/")), 0);
    }
    assert!(
        registry
            .requests_of("*", "mirror/team/worse")
            .iter()
            .all(|e| !e.target().contains(&bad))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_for_a_bundle_that_lacks_a_blob() {
    let registry = Double::new();
    let mut maker = images(&["docker.io/team/good:1"]);
    let layer = noise(50, 7000);
    let image = maker.image("linux/amd64", &[&layer]);
    maker.name("docker.io/team/bad:1", &image);
    maker.remove(&support::sha256(&layer));
    let bundle = maker.open();
    let error = run(&bundle, request(&registry)).await.unwrap_err();
    assert!(
        error.full().contains(&support::sha256(&layer)) && error.full().contains("team/bad:1"),
        "{error:?}"
    );
    assert!(error.hint().is_some());
    assert!(registry.requests().is_empty(), "{}", registry.transcript());

    // What is whole can still be chosen.
    let select = Selection {
        only: vec!["team/good*".to_owned()],
        platforms: None,
    };
    let report = import(
        bundle.bundle.clone(),
        select,
        request(&registry),
        &registries(),
        Progress::silent(),
    )
    .await;
    assert_eq!(report.unwrap().images.len(), 1);
    assert_complete(&registry, "mirror/team/good", "1", false);
    assert_eq!(registry.store().repository("mirror/team/bad").map(|r| r.blobs), None);
}

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
    assert_eq!(report.images[0].error.as_ref().unwrap().kind, Kind::Exists);
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
        assert_eq!(error.kind, Kind::Exists);
        assert!(
            error.message.contains(&held) && error.message.contains("tag `1`"),
            "{error:?}"
        );
        assert!(error.hint.as_ref().unwrap().contains("immutable"));
        assert_eq!(registry.store().repository("mirror/team/app").unwrap().tags["1"], held);
    }
}

/// A pinned image of which windows is absent.
fn sparse() -> (Opened, String, String) {
    let mut maker = Maker::default();
    let kept = [
        maker.image("linux/amd64", &[&noise(1, 3000)]),
        maker.image("linux/arm64", &[&noise(2, 3000)]),
    ];
    let dropped = [maker.image("windows/amd64", &[&noise(3, 3000)])];
    // The name is pinned to what is only known when the index is made.
    let mut probe = maker.clone();
    let (original, _) = probe.name_sparse("docker.io/team/app:1", &kept, &dropped);
    let (original, filtered) = maker.name_sparse(&format!("docker.io/team/app:1@{original}"), &kept, &dropped);
    (maker.open(), original, filtered)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sparse_index_goes_as_it_is_where_it_is_accepted() {
    let (bundle, original, _) = sparse();
    let registry = Double::start(Options {
        accept_sparse: true,
        ..Options::default()
    });
    let report = run_well(&bundle, request(&registry)).await;
    let image = &report.images[0];
    assert_eq!((image.index, image.pinned_digest_missing), (Some(Form::Sparse), false));
    assert_eq!(image.pushed.as_ref().unwrap().to_string(), original);
    assert_eq!((image.kept.len(), image.dropped.len()), (2, 1));
    assert_complete(&registry, "mirror/team/app", "1", true);
    assert!(registry.manifest("mirror/team/app", &original).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_sparse_index_gives_way_to_the_filtered_one_and_the_report_says_so() {
    let (bundle, original, filtered) = sparse();
    let refusals = [
        None,
        Some(Action::error(400, "MANIFEST_INVALID", "child not found")),
        Some(Action::error(404, "MANIFEST_UNKNOWN", "not found")),
    ];
    for refusal in refusals {
        let registry = Double::new();
        if let Some(refusal) = refusal {
            registry.add_fault(When::put("/manifests/1").first(1), refusal);
        }
        let report = run(&bundle, request(&registry)).await.unwrap();
        assert!(
            report.failed(),
            "the exit code says that the pinned digest is not there"
        );
        let image = &report.images[0];
        assert_eq!((image.index, image.pinned_digest_missing), (Some(Form::Fallback), true));
        assert_eq!((image.outcome, &image.error), (Outcome::Pushed, &None));
        assert_eq!(image.pushed.as_ref().unwrap().to_string(), filtered);
        assert!(image.warnings[0].contains(&original) && image.warnings[0].contains(&filtered));
        assert_complete(&registry, "mirror/team/app", "1", false);
        assert_eq!(registry.manifest("mirror/team/app", &original), None);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["images"][0]["pinnedDigestMissing"], true);
        assert_eq!(json["images"][0]["index"], "fallback");

        // Again: the sparse index is tried again, no blob is asked for.
        registry.clear_faults();
        registry.forget_requests();
        let report = run(&bundle, request(&registry)).await.unwrap();
        assert!(report.images[0].pinned_digest_missing);
        assert_eq!(registry.count("*", "/blobs/"), 0, "{}", registry.transcript());
        assert_complete(&registry, "mirror/team/app", "1", false);

        let mut wanted = request(&registry);
        wanted.index = Some(IndexMode::Filtered);
        let report = run_well(&bundle, wanted).await;
        assert_eq!(
            (report.images[0].index, report.images[0].outcome),
            (Some(Form::Filtered), Outcome::Unchanged)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_image_that_fails_does_not_stop_the_others_unless_that_is_wanted() {
    let denied = || Options::default().fault(When::post("team/b/"), Action::error(403, "DENIED", "not yours"));
    let bundle = images(&["docker.io/team/a:1", "docker.io/team/b:1", "docker.io/team/c:1"]).open();
    let registry = Double::start(denied());
    let report = run(&bundle, request(&registry)).await.unwrap();
    let outcomes: Vec<Outcome> = report.images.iter().map(|i| i.outcome).collect();
    assert_eq!(outcomes, [Outcome::Pushed, Outcome::Failed, Outcome::Pushed]);
    assert_eq!(
        report.images[1].error.as_ref().unwrap().kind,
        Kind::Denied,
        "{report:?}"
    );
    assert!(tags(&registry, "mirror/team/b").is_empty());

    let registry = Double::start(denied());
    let mut wanted = request(&registry);
    wanted.fail_fast = true;
    wanted.jobs = 1;
    let report = run(&bundle, wanted).await.unwrap();
    assert_eq!(
        report.images.iter().filter(|i| i.error.is_some()).count(),
        3,
        "{report:?}"
    );
    assert!(
        registry
            .store()
            .repositories()
            .iter()
            .all(|r| tags(&registry, r).is_empty())
    );
}

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
    // What may not be read at all cannot be checked, which is worth a warning.
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
async fn two_bundles_share_their_blobs() {
    let registry = Double::new();
    let base = noise(77, 9000);
    let mut first = Maker::default();
    let image = first.image("linux/amd64", &[&base]);
    first.name("docker.io/team/a:1", &image);
    let mut second = Maker::default();
    let image = second.image("linux/amd64", &[&base, b"more"]);
    second.name("docker.io/team/b:1", &image);
    second.remove(&support::sha256(&base));
    run_well(&open(vec![first.write(), second.write()]), request(&registry)).await;
    assert_complete(&registry, "mirror/team/a", "1", false);
    assert_complete(&registry, "mirror/team/b", "1", false);
    // Alone the second one is not whole.
    assert!(run(&second.open(), request(&Double::new())).await.is_err());
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
async fn fewer_platforms_than_the_bundle_has() {
    let mut maker = Maker::default();
    let children = ["linux/amd64", "linux/arm64", "linux/s390x"].map(|p| maker.image(p, &[p.as_bytes()]));
    let index = maker.index(&children);
    maker.name("docker.io/team/app:1", &index);
    let single = maker.image("linux/arm64", &[b"single"]);
    maker.name("docker.io/team/single:1", &single);
    let bundle = maker.open();
    let registry = Double::new();
    let clients = registries();
    let run = |platform: &str, index| {
        let select = Selection {
            only: Vec::new(),
            platforms: Some(PlatformFilter::from_flags(&[platform]).unwrap()),
        };
        let request = PushRequest {
            index,
            ..request(&registry)
        };
        import(bundle.bundle.clone(), select, request, &clients, Progress::silent())
    };
    let report = run("linux/amd64", None).await.unwrap();
    let image = &report.images[0];
    assert_eq!(
        (image.index, image.kept.len(), image.dropped.len()),
        (Some(Form::Filtered), 1, 2)
    );
    assert_eq!(image.original.as_ref().unwrap().to_string(), digest(&index));
    assert_ne!(image.original, image.pushed);
    assert_complete(&registry, "mirror/team/app", "1", false);
    assert_eq!(registry.store().repository("mirror/team/app").unwrap().blobs.len(), 2);
    // An image without that platform fails by itself.
    assert!(why(&report.images[1]).contains("linux/amd64"), "{report:?}");
    assert_eq!(report.images[1].outcome, Outcome::Failed);

    let report = run("all", None).await.unwrap();
    assert_eq!(report.images[0].index, Some(Form::Whole));
    assert_eq!(report.images[0].pushed.as_ref().unwrap().to_string(), digest(&index));
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
async fn a_referrer_that_stays_behind_is_named() {
    let registry = Double::new();
    let mut maker = Maker::default();
    let image = maker.image("linux/amd64", &[b"layer"]);
    maker.name("docker.io/team/app:1", &image);
    let signature = maker.referrer(&image);
    let report = run_well(&maker.open(), request(&registry)).await;
    let left_out = &report.images[0].left_out;
    assert_eq!(left_out.len(), 1, "{report:#?}");
    assert_eq!(left_out[0].digest.to_string(), digest(&signature));
    assert!(left_out[0].reason.contains(&digest(&image)));
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

/// Looks at every tag again and again while something is pushed.
struct Watcher {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Result<u32, String>>,
}

impl Watcher {
    fn start(registry: &Arc<Double>, names: &[String]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (registry, names, stopped) = (registry.clone(), names.to_vec(), stop.clone());
        let watch = move || {
            let mut seen = 0;
            loop {
                let last = stopped.load(Ordering::SeqCst);
                for name in &names {
                    if !tags(&registry, name).is_empty() {
                        incomplete(&registry, name, "1", false).map_err(|what| format!("{name}: {what}"))?;
                        seen += 1;
                    }
                }
                if last {
                    return Ok(seen);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        Self {
            stop,
            thread: std::thread::spawn(watch),
        }
    }

    /// How often it saw a tag; all of them were complete.
    fn end(self) -> u32 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_no_tag_is_ever_incomplete() {
    let mut maker = Maker::default();
    let mut names = Vec::new();
    for n in 0..5 {
        let children: Vec<_> = (0..3)
            .map(|c| maker.image("linux/amd64", &[&noise(5, 300_000), &noise(1000 + n * 10 + c, 40_000)]))
            .collect();
        let index = maker.index(&children);
        maker.name(&format!("docker.io/team/app{n}:1"), &index);
        names.push(format!("mirror/team/app{n}"));
    }
    let bundle = maker.open();
    let (mut killed, mut finished, mut lives) = (0, 0, 0);
    while killed < 50 || finished < 2 {
        // A registry that would take an index before its children, so that it is the push that keeps the order.
        let registry = Arc::new(Double::start(Options {
            accept_sparse: true,
            ..Options::default()
        }));
        let watcher = Watcher::start(&registry, &names);
        loop {
            // A life ends after another number of requests, which may fall anywhere in a push.
            lives += 1;
            assert!(lives < 500, "it does not get on");
            let end = registry.requests().len() as u64 + 1 + support::fault::scatter(42, lives) % 140;
            let report = tokio::select! {
                report = run(&bundle, request(&registry)) => report.unwrap(),
                () = async {
                    while (registry.requests().len() as u64) < end {
                        tokio::time::sleep(Duration::from_micros(50)).await;
                    }
                } => {
                    killed += 1;
                    continue;
                }
            };
            assert!(!report.failed(), "{report:?}");
            finished += 1;
            break;
        }
        assert!(watcher.end() > 0);
        for name in &names {
            assert_complete(&registry, name, "1", false);
        }
    }
}
