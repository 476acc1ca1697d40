//! The one-step mirror: blobs from several registries are streamed into one, and failures of a source.

use crate::handmade::{Maker, Opened, assert_complete, noise, registries, request, why};
use crate::support::fault::{Action, When};
use crate::support::{Double, Options, sha256};
use docker_mirror::{
    Error, Event, Kind, Progress, Reference, Result,
    mirror::mirror,
    push::{Outcome, PushReport, PushRequest},
    testing::ImageTree,
};

/// Returns the trees of a bundle whose images are named after source registries, and those registries with all of the
/// blobs.
pub(crate) fn trees(bundle: &Opened) -> Vec<(Reference, Result<ImageTree>)> {
    let images = bundle.bundle.images().iter();
    images
        .map(|image| (image.name.clone(), bundle.bundle.tree(image)))
        .collect()
}

/// Puts the blobs of every tree where its reference says they are.
pub(crate) fn stock(sources: &[&Double], bundle: &Opened) {
    for (reference, tree) in trees(bundle) {
        let source = sources.iter().find(|s| s.host() == reference.host()).unwrap();
        for blob in tree.unwrap().blobs() {
            let mut bytes = vec![0; blob.descriptor.size as usize];
            let mut at = 0;
            while at < bytes.len() {
                at += bundle
                    .bundle
                    .read_at(&blob.descriptor.digest, at as u64, &mut bytes[at..])
                    .unwrap();
            }
            source.store().put_blob(reference.repository(), bytes);
        }
    }
}

pub(crate) async fn mirror_all(trees: Vec<(Reference, Result<ImageTree>)>, request: PushRequest) -> Result<PushReport> {
    mirror(trees, &registries(), request, &registries(), Progress::silent()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_piped_from_several_hosts_each_once() {
    let (one, two, destination) = (Double::new(), Double::new(), Double::new());
    let mut maker = Maker::default();
    let base = noise(1, 2_000_000);
    for (host, name) in [(&one, "a"), (&one, "b"), (&two, "c")] {
        let image = maker.image("linux/amd64", &[&base, name.as_bytes(), b""]);
        maker.name(&format!("{}/team/{name}:1", host.host()), &image);
    }
    let bundle = maker.open();
    stock(&[&one, &two], &bundle);
    let mut all = trees(&bundle);
    let lost: Reference = format!("{}/team/lost:1", one.host()).parse().unwrap();
    all.insert(1, (lost.clone(), Err(Error::new(Kind::NotFound, "no such image"))));

    let told = std::sync::Arc::new(std::sync::Mutex::new((0_i64, 0_u64, 0)));
    let listener = told.clone();
    let progress = Progress::new(move |event| {
        let mut told = listener.lock().unwrap();
        match event {
            Event::Bytes(n) => told.0 += n,
            Event::Planned { bytes, .. } => told.1 = bytes,
            Event::ImageDone { .. } => told.2 += 1,
            _ => {}
        }
    });
    let request = request(&destination);
    let report = mirror(all, &registries(), request, &registries(), progress)
        .await
        .unwrap();
    assert!(report.failed());
    let outcomes: Vec<Outcome> = report.images.iter().map(|i| i.outcome).collect();
    assert_eq!(
        outcomes,
        [Outcome::Pushed, Outcome::Failed, Outcome::Pushed, Outcome::Pushed]
    );
    assert_eq!(
        (report.images[1].source.as_str(), why(&report.images[1]).as_str()),
        (lost.to_string().as_str(), "no such image")
    );
    for name in ["a", "b", "c"] {
        assert_complete(&destination, &format!("mirror/team/{name}"), "1", false);
    }
    let hex = sha256(&base).replace("sha256:", "");
    assert_eq!(one.count("GET", &hex) + two.count("GET", &hex), 1);
    let told = told.lock().unwrap();
    assert_eq!(
        (told.0, told.2),
        (told.1 as i64, 3),
        "the bytes that were told are those that were planned"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_fails_is_replaced_by_another_that_has_the_blob() {
    let faults = [
        Action::error(403, "DENIED", "no"),
        Action::error(404, "BLOB_UNKNOWN", "gone"),
        Action::cut(0),
        Action::FlipBit(150_000),
    ];
    for fault in faults {
        let base = noise(1, 1_000_000);
        let one = Double::start(Options::default().fault(When::get(&sha256(&base)), fault.clone()));
        let (two, destination) = (Double::new(), Double::new());
        let mut maker = Maker::default();
        for (host, name) in [(&one, "a"), (&two, "b")] {
            let image = maker.image("linux/amd64", &[&base, name.as_bytes()]);
            maker.name(&format!("{}/team/{name}:1", host.host()), &image);
        }
        let bundle = maker.open();
        stock(&[&one, &two], &bundle);
        let report = mirror_all(trees(&bundle), request(&destination)).await.unwrap();
        assert!(!report.failed(), "{fault:?}: {report:#?}");
        assert_complete(&destination, "mirror/team/a", "1", false);
        assert_complete(&destination, "mirror/team/b", "1", false);
        assert!(two.count("GET", &sha256(&base)) > 0, "{fault:?}");

        // Without another source the image fails, and nothing of it is tagged.
        let alone = Double::new();
        let report = mirror_all(trees(&bundle).into_iter().take(1).collect(), request(&alone))
            .await
            .unwrap();
        assert!(report.failed(), "{fault:?}");
        assert!(why(&report.images[0]).contains(&one.host()), "{report:#?}");
        assert_eq!(alone.count("PUT", "/manifests/"), 0);
        assert!(alone.store().content(&sha256(&base)).is_none());
    }
}
