//! Sound and faulty contents of bundles: nothing wrong is sent, and nothing twice.

use super::handmade::{Maker, assert_complete, digest, noise, open, registries, request, run, run_well, run_with, why};
use super::images;
use super::support::fault::{Action, When};
use super::support::{Double, Gate, Options};
use super::tags;
use docker_mirror::{
    Kind, PlatformFilter, Progress,
    import::{Selection, import},
    push::{Form, Outcome, PushRequest},
};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_blob_never_ends_in_an_upload_or_a_tag() {
    let registry = Double::new();
    let mut maker = images(&["docker.io/team/good:1"]);
    let bad = noise(50, 700_000);
    for name in ["docker.io/team/bad:1", "docker.io/team/worse:1"] {
        let image = maker.image("linux/amd64", &[&bad, name.as_bytes()]);
        maker.name(name, &image);
    }
    let bad = super::support::sha256(&bad);
    maker.corrupt(&bad);
    let report = run(&maker.open(), request(&registry)).await.unwrap();
    assert!(report.failed());
    assert_eq!(report.images[0].outcome, Outcome::Pushed);
    assert_complete(&registry, "mirror/team/good", "1", false);
    for image in &report.images[1..] {
        let error = image.error.as_ref().unwrap();
        assert_eq!(
            (image.outcome, error.kind()),
            (Outcome::Failed, Kind::Integrity),
            "{error:?}"
        );
        for part in ["bundle.tar", &bad.replace(':', "/"), "at offset ", &bad] {
            assert!(error.full().contains(part), "{part} in {}", error.full());
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
async fn nothing_is_sent_for_an_image_that_lacks_a_blob() {
    let registry = Double::new();
    let mut maker = Maker::default();
    let layers: Vec<Vec<u8>> = (50..53).map(|seed| noise(seed, 7000)).collect();
    let lost: Vec<String> = layers.iter().map(|layer| super::support::sha256(layer)).collect();
    for (name, layers) in [("bad", &layers[..2]), ("worse", &layers[2..])] {
        let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
        let image = maker.image("linux/amd64", &layers);
        maker.name(&format!("docker.io/team/{name}:1"), &image);
    }
    lost.iter().for_each(|digest| maker.remove(digest));
    let report = run(&maker.open(), request(&registry)).await.unwrap();
    assert!(registry.requests().is_empty(), "{}", registry.transcript());
    assert_eq!(report.images.len(), 2);
    for (image, lost) in report.images.iter().zip([&lost[..2], &lost[2..]]) {
        assert!(image.error.as_ref().unwrap().hint().is_some());
        let why = why(image);
        assert!(why.contains(&image.source), "{why}");
        lost.iter().for_each(|digest| assert!(why.contains(digest), "{why}"));
    }

    // What is whole goes its way.
    let good = maker.image("linux/amd64", &[b"good"]);
    maker.name("docker.io/team/good:1", &good);
    let report = run(&maker.open(), request(&registry)).await.unwrap();
    let outcomes: Vec<Outcome> = report.images.iter().map(|image| image.outcome).collect();
    assert_eq!(outcomes, [Outcome::Failed, Outcome::Failed, Outcome::Pushed]);
    assert!(report.failed());
    assert_complete(&registry, "mirror/team/good", "1", false);
    assert!(!registry.transcript().contains("team/bad") && !registry.transcript().contains("team/worse"));

    // Unless the first failure is to end it.
    let registry = Double::new();
    let mut strict = request(&registry);
    strict.fail_fast = true;
    assert!(run(&maker.open(), strict).await.unwrap().failed());
    assert!(registry.requests().is_empty(), "{}", registry.transcript());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_good_copy_of_a_blob_is_taken_from_whichever_bundle_has_it() {
    let base = noise(77, 900_000);
    let mut good = Maker::default();
    let image = good.image("linux/amd64", &[&base]);
    good.name("docker.io/team/a:1", &image);
    let mut bad = Maker::default();
    let image = bad.image("linux/amd64", &[&base, b"more"]);
    bad.name("docker.io/team/b:1", &image);
    let manifest = digest(&bad.image("linux/amd64", &[&base]));
    bad.corrupt(&manifest);
    bad.corrupt(&super::support::sha256(&base));
    for tars in [vec![bad.write(), good.write()], vec![good.write(), bad.write()]] {
        let registry = Double::new();
        run_well(&open(tars), request(&registry)).await;
        assert_complete(&registry, "mirror/team/a", "1", false);
        assert_complete(&registry, "mirror/team/b", "1", false);
    }
    let registry = Double::new();
    let report = run(&open(vec![bad.write(), bad.write()]), request(&registry))
        .await
        .unwrap();
    assert!(why(&report.images[0]).contains("other bytes"), "{report:#?}");
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
        report.images[1].error.as_ref().unwrap().kind(),
        Kind::Denied,
        "{report:?}"
    );
    assert!(tags(&registry, "mirror/team/b").is_empty());

    let registry = Double::start(denied());
    let mut wanted = request(&registry);
    wanted.fail_fast = true;
    let report = run_with(&bundle, wanted, 1).await.unwrap();
    let outcomes: Vec<Outcome> = report.images.iter().map(|i| i.outcome).collect();
    let first = outcomes.iter().filter(|outcome| **outcome == Outcome::Pushed).count();
    assert!(first < 2 && report.images[1].error.is_some(), "{report:?}");
    let tagged = registry.store().repositories();
    let tagged = tagged.iter().filter(|r| !tags(&registry, r).is_empty()).count();
    assert_eq!(tagged, first, "images that were complete before it");
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
    second.remove(&super::support::sha256(&base));
    run_well(&open(vec![first.write(), second.write()]), request(&registry)).await;
    assert_complete(&registry, "mirror/team/a", "1", false);
    assert_complete(&registry, "mirror/team/b", "1", false);
    // Alone the second one is not whole.
    assert!(run(&second.open(), request(&Double::new())).await.unwrap().failed());
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
            referrers: Default::default(),
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
async fn a_referrer_that_stays_behind_is_named() {
    let registry = Double::new();
    let mut maker = Maker::default();
    let image = maker.image("linux/amd64", &[b"layer"]);
    maker.name("docker.io/team/app:1", &image);
    let signature = maker.referrer(&image);
    let report = run_well(&maker.open(), request(&registry)).await;
    let left_out = &report.images[0].left_out_referrers;
    assert_eq!(left_out.len(), 1, "{report:#?}");
    assert_eq!(left_out[0].digest.to_string(), digest(&signature));
    assert!(left_out[0].reason.contains(&digest(&image)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_whose_tag_is_there_when_another_one_fails_is_told_to_be_there() {
    // The second image fails while the first one is read back, or while its tag is put.
    for slow in [
        When::head("team/a/manifests/").after(1),
        When::put("team/a/manifests/1"),
    ] {
        let registry = Double::new();
        // The request arrives, then the second image fails, and then the request is answered, a moment later.
        let (asked, failed) = (Gate::closed(), Gate::closed());
        let seen = registry.add_fault(slow.clone(), Action::Open(asked.clone()));
        registry.add_fault(slow.clone(), Action::Hold(failed.clone()));
        registry.add_fault(slow, Action::Delay(Duration::from_millis(200)));
        registry.add_fault(When::post("team/b/"), Action::Hold(asked));
        registry.add_fault(When::post("team/b/"), Action::Open(failed));
        registry.add_fault(When::post("team/b/"), Action::error(403, "DENIED", "not yours"));
        let bundle = images(&["docker.io/team/a:1", "docker.io/team/b:1", "docker.io/team/b:2"]).open();
        let mut wanted = request(&registry);
        wanted.fail_fast = true;
        let report = run(&bundle, wanted).await.unwrap();
        assert!(seen.seen() > 0);
        let outcomes: Vec<Outcome> = report.images.iter().map(|i| i.outcome).collect();
        assert_eq!(
            outcomes,
            [Outcome::Pushed, Outcome::Failed, Outcome::Failed],
            "{report:#?}"
        );
        assert_complete(&registry, "mirror/team/a", "1", false);
        assert!(tags(&registry, "mirror/team/b").is_empty());
    }
}
