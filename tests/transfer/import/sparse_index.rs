//! An index of which platforms are absent.

use super::handmade::{Maker, Opened, assert_complete, digest, noise, registries, request, run, run_well};
use super::support::fault::{Action, When};
use super::support::{Double, Options};
use docker_mirror::{
    IndexMode, Progress, ReferrerChoice,
    import::{Selection, import},
    push::{Form, Outcome},
};

/// A pinned image of which windows is absent.
pub(super) fn sparse() -> (Opened, String, String) {
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
        assert!(image.error.is_none() && image.outcome == Outcome::Pushed);
        assert_eq!(image.pushed.as_ref().unwrap().to_string(), filtered);
        assert!(
            image.warnings[0].contains("the tag has the smaller index"),
            "{:?}",
            image.warnings
        );
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
async fn the_signature_of_an_absent_platform_is_pushed_although_another_tag_is_broken() {
    let mut maker = Maker::default();
    let broken = maker.image("linux/amd64", &[&noise(4, 3000)]);
    maker.name("docker.io/team/app:2", &broken);
    let kept = [maker.image("linux/amd64", &[&noise(1, 3000)])];
    let dropped = [maker.image("windows/amd64", &[&noise(3, 3000)])];
    let tag_of = |subject: &str| format!("{}.sig", subject.replace(':', "-"));
    let signed = [digest(&dropped[0]), digest(&broken)].map(|subject| tag_of(&subject));
    maker.name_sparse("docker.io/team/app:1", &kept, &dropped);
    for (number, tag) in signed.iter().enumerate() {
        let signature = maker.image("linux/amd64", &[&noise(5 + number as u64, 100)]);
        maker.name(&format!("docker.io/team/app:{tag}"), &signature);
    }
    let is_whole = maker.clone();
    maker.remove_layer(&broken);
    for (maker, is_broken) in [(is_whole, false), (maker, true)] {
        let registry = Double::new();
        let select = Selection {
            referrers: ReferrerChoice::all(),
            ..Selection::default()
        };
        let (opened, registries, progress) = (maker.open(), registries(), Progress::silent());
        let report = import(opened.bundle.clone(), select, request(&registry), &registries, progress);
        let report = report.await.unwrap();
        let failed = report.images.iter().filter(|image| image.error.is_some());
        assert_eq!(failed.count(), usize::from(is_broken), "{report:#?}");
        let tags = super::tags(&registry, "mirror/team/app");
        let has = |tag: &str| tags.iter().any(|there| there == tag);
        // The signature of the broken image is not pushed without it.
        assert!(has("1") && has(&signed[0]), "{tags:?} {report:#?}");
        assert_eq!((has("2"), has(&signed[1])), (!is_broken, !is_broken), "{tags:?}");
    }
}
