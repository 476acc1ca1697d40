//! Destinations that accept blobs without storing them, and store manifests unchecked: no incomplete image is reported
//! as pushed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::handmade::{Maker, assert_complete, counts, incomplete, noise, request, run, run_well, run_with, why};
use crate::import::pipe::{bundle, cli};
use crate::mirror::{mirror_all, stock, trees};
use crate::support::fault::{Action, When};
use crate::support::images::shared_base;
use crate::support::{Double, Options};
use docker_mirror::{
    Bundle, OpenOptions, Progress, Registries,
    import::{Selection, import_pipe},
    push::PushReport,
};

const IMAGES: usize = 4;

fn destination(when: When) -> Double {
    let options = Options {
        unchecked: true,
        ..Options::default()
    };
    Double::start(options.fault(when, Action::Lose))
}

/// Images `team/app0:1` and so on at this host, on one base.
fn images(maker: &mut Maker, host: &str) {
    for n in 0..IMAGES {
        let image = maker.image("linux/amd64", &[&noise(7, 200_000), &noise(100 + n as u64, 1000)]);
        maker.name(&format!("{host}/team/app{n}:1"), &image);
    }
}

fn assert_all_complete(target: &Double) {
    for n in 0..IMAGES {
        assert_complete(target, &format!("mirror/team/app{n}"), "1", false);
    }
}

/// Every image failed, says why, and has no tag.
fn assert_all_failed(report: &PushReport, target: &Double) {
    assert!(report.failed());
    // If a blob is no longer available from the pipe, the images after the first one report that.
    let reasons = ["does not have it", "no longer available from the pipe"];
    assert!(why(&report.images[0]).contains(reasons[0]), "{report:#?}");
    for (n, image) in report.images.iter().enumerate() {
        assert!(reasons.iter().any(|reason| why(image).contains(reason)), "{image:#?}");
        assert!(incomplete(target, &format!("mirror/team/app{n}"), "1", false).is_err());
    }
    assert_eq!(target.count("PUT", "/manifests/"), 0, "{}", target.transcript());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_fails_where_every_upload_is_lost() {
    let mut maker = Maker::default();
    images(&mut maker, "docker.io");
    let target = destination(When::put("/blobs/uploads/"));
    let report = run(&maker.open(), request(&target)).await.unwrap();
    assert_all_failed(&report, &target);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_sends_again_what_was_lost() {
    let mut maker = Maker::default();
    images(&mut maker, "docker.io");
    let target = destination(When::put("/blobs/uploads/").first(1));
    // One upload at a time, so that the lost upload is the one that is checked.
    let report = run_with(&maker.open(), request(&target), 1).await.unwrap();
    assert!(!report.failed(), "{report:#?}");
    assert_all_complete(&target);
    assert_eq!(target.count("POST", "mount="), 0, "{}", target.transcript());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_uploads_what_was_mounted_and_lost() {
    let mut maker = Maker::default();
    images(&mut maker, "docker.io");
    let target = destination(When::post("mount="));
    let report = run_well(&maker.open(), request(&target)).await;
    assert_all_complete(&target);
    assert_eq!(target.count("POST", "mount="), 1, "{}", target.transcript());
    assert!(
        report.images.iter().all(|image| counts(image) == (3, 0, 0)),
        "{report:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_one_step_mirror_reports_no_incomplete_image() {
    let source = Double::new();
    let mut maker = Maker::default();
    images(&mut maker, &source.host());
    let bundle = maker.open();
    stock(&[&source], &bundle);
    let target = destination(When::put("/blobs/uploads/"));
    let report = mirror_all(trees(&bundle), request(&target)).await.unwrap();
    assert_all_failed(&report, &target);
    let target = destination(When::post("mount="));
    let report = mirror_all(trees(&bundle), request(&target)).await.unwrap();
    assert!(!report.failed(), "{report:#?}");
    assert_all_complete(&target);
}

/// Imports a bundle from a pipe.
async fn pipe(file: &Path, target: &Double, temp_dir: Option<PathBuf>) -> PushReport {
    let (file, options) = (File::open(file).unwrap(), OpenOptions::default());
    let opened = tokio::task::spawn_blocking(move || Bundle::from_pipe(file, "a pipe", &options));
    let (bundle, rest) = opened.await.unwrap().unwrap();
    let mut request = request(target);
    request.temp_dir = temp_dir;
    let rest = rest.expect("a bundle of this program is not copied");
    let (select, progress) = (Selection::default(), Progress::silent());
    let registries = Registries::new(docker_mirror::Options {
        jobs: Some(1),
        retry_pause: Some(Duration::from_millis(1)),
        ..docker_mirror::Options::default()
    });
    import_pipe(Arc::new(bundle), rest, select, request, &registries.unwrap(), progress)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_is_sent_again_as_far_as_it_is_kept() {
    let cli = cli();
    for (size, name) in [(200_000, "small.tar"), (20 << 20, "large.tar")] {
        let images = shared_base(IMAGES as u64, size);
        let names: Vec<String> = (0..IMAGES).map(|n| format!("app{n}")).collect();
        let named: Vec<_> = names.iter().map(String::as_str).zip(&images).collect();
        bundle(&cli, &named);
        std::fs::rename(cli.path("bundle.tar"), cli.path(name)).unwrap();
    }
    let (small, large) = (cli.path("small.tar"), cli.path("large.tar"));
    let room = cli.path("room");
    std::fs::create_dir_all(&room).unwrap();

    // A blob that fits into memory is sent again, like a blob that several repositories may need.
    let target = destination(When::put("/blobs/uploads/").first(1));
    assert!(!pipe(&small, &target, None).await.failed());
    assert_all_complete(&target);
    let target = destination(When::post("mount="));
    assert!(!pipe(&large, &target, Some(room)).await.failed());
    assert_all_complete(&target);

    // A large blob that has gone by is not.
    for file in [&small, &large] {
        let target = destination(When::put("/blobs/uploads/"));
        let report = pipe(file, &target, None).await;
        assert_all_failed(&report, &target);
    }
}
