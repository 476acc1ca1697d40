//! File systems that fill gaps with zeros, as FAT does: through the library, which accepts such a file system as an
//! option.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use docker_mirror::{
    Kind, Options, Progress, Registries, Result, Wanted,
    export::{self, Compression, Output, Report, Request},
    testing::FileSystem,
};

use super::tools::{Export, check, noise, put_image};
use crate::support::fault::{Action, When};
use crate::support::{Allowance, Double};

const MIB: usize = 1 << 20;

fn run(registry: &Double, path: &std::path::Path, file_system: FileSystem) -> Result<Report> {
    let request = Request {
        images: vec![format!("{}/a/a:1", registry.host()).parse().unwrap()],
        wanted: Wanted::default(),
        output: Output::File {
            path: path.to_owned(),
            force: false,
            fresh: false,
        },
        compression: Compression::None,
        jobs: 6,
        allow_partial: false,
        dry_run: false,
        docker_manifest: true,
        with_lock: false,
        reuse: Vec::new(),
        read_ahead: 1 << 20,
        budget: docker_mirror::Budget::default(),
        file_system: Some(file_system),
    };
    let registries = Registries::new(Options::default()).unwrap();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(export::export(request, &registries, &Progress::silent()))
}

#[test]
fn nobody_writes_far_ahead_of_what_has_arrived() {
    let registry = Double::new();
    let mut layers = vec![noise(1, 90 * MIB)];
    layers.extend((2..8).map(|n| noise(n, 2 * MIB)));
    let digests = put_image(&registry, "a/a", "1", &layers);
    let export = Export::new(&registry, &["a/a:1"]);
    let plain = export.bundle("plain.tar", &[]);
    registry.forget_requests();
    // The first layer stops after 30 MiB: layers that begin within the next 64 MiB may be written, and no others.
    let allowance = Allowance::new(30 * MIB as u64);
    registry.add_fault(When::get(&digests[0]).first(1), Action::Allow(allowance.clone()));
    let path = export.path("b.tar");
    let partial = export.path("b.tar.partial");
    let (done, farthest) = (AtomicBool::new(false), AtomicU64::new(0));
    let fat = FileSystem {
        process_limit: None,
        max_file: Some((1 << 32) - 1),
        sparse: false,
        free: 1 << 40,
        size: 1 << 40,
    };
    let report = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                // The length is read first: bytes that arrive between both reads only make the gap appear smaller.
                let length = std::fs::metadata(&partial).map_or(0, |m| m.len());
                let sent = super::tools::blob_bytes_sent(&registry);
                farthest.fetch_max(length.saturating_sub(sent), Ordering::SeqCst);
                // One behind the first layer is being written.
                if length >= 90 * MIB as u64 {
                    allowance.lift();
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let report = run(&registry, &path, fat);
        done.store(true, Ordering::SeqCst);
        report.unwrap()
    });
    assert!(report.committed);
    assert!(std::fs::read(&path).unwrap() == plain, "other bytes");
    check(&path);
    let farthest = farthest.load(Ordering::SeqCst);
    // 64 MiB, and what one part brings at once.
    assert!(farthest <= 66 * MIB as u64, "{} MiB ahead", farthest >> 20);
    assert!(farthest > 0);
}

#[test]
fn a_bundle_over_the_limit_of_a_file_is_refused_before_the_first_layer() {
    let registry = Double::new();
    let digests = put_image(&registry, "a/a", "1", &[noise(1, 2 * MIB)]);
    let folder = tempfile::tempdir().unwrap();
    let small = FileSystem {
        process_limit: None,
        max_file: Some(MIB as u64),
        sparse: false,
        free: 1 << 40,
        size: 1 << 40,
    };
    let error = run(&registry, &folder.path().join("b.tar"), small).unwrap_err();
    assert_eq!(error.kind(), Kind::NoSpace);
    assert!(error.to_string().contains("holds no file over 1.0 MiB"), "{error}");
    assert!(error.hint().unwrap().contains("several bundles"), "{error}");
    assert_eq!(registry.count("GET", &digests[0]), 0, "{}", registry.transcript());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
