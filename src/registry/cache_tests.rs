//! Tests of the cache of manifests: damage, limits, size, and several processes.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Barrier;

use super::*;

fn manifest(n: usize) -> RawManifest {
    let text = format!(
        r#"{{"mediaType":"application/vnd.oci.image.index.v1+json","schemaVersion":2,"manifests":[],"n":{n}}}"#
    );
    RawManifest::new(Bytes::from(text), None, None).unwrap()
}

fn cache(folder: &Path) -> ManifestCache {
    ManifestCache::new(folder.to_owned())
}

/// Returns which of the first `count` manifests a new process finds.
fn found(folder: &Path, count: usize) -> Vec<usize> {
    let cache = cache(folder);
    (0..count)
        .filter(|n| cache.get(manifest(*n).digest()).is_some())
        .collect()
}

#[test]
fn a_manifest_is_kept_once_in_one_file_that_only_the_owner_reads() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("deep/er");
    let first = manifest(1);
    assert!(cache(&deep).get(first.digest()).is_none());
    let stored = cache(&deep);
    stored.put(&first);
    assert!(stored.is_new(first.digest()));
    let size = deep.join(NAME).metadata().unwrap().len();
    let (this, other) = (cache(&deep), cache(&deep));
    this.put(&first);
    other.put(&first);
    assert!(
        !this.is_new(first.digest()) && !other.is_new(first.digest()),
        "an earlier run had it"
    );
    let second = manifest(2);
    let unwritable = cache(Path::new("/proc/nowhere"));
    unwritable.put(&second);
    assert!(unwritable.is_new(second.digest()), "no earlier run had it");
    let back = this.get(first.digest()).unwrap();
    assert_eq!((back.bytes(), back.media_type()), (first.bytes(), first.media_type()));
    let metadata = deep.join(NAME).metadata().unwrap();
    assert_eq!((metadata.len(), metadata.permissions().mode() & 0o777), (size, 0o600));
    assert_eq!(deep.read_dir().unwrap().count(), 1);
}

#[test]
fn a_manifest_whose_type_is_only_in_a_header_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = Bytes::from_static(br#"{"schemaVersion":2,"manifests":[]}"#);
    let manifest = RawManifest::new(
        bytes,
        Some("application/vnd.docker.distribution.manifest.list.v2+json"),
        None,
    )
    .unwrap();
    cache(folder.path()).put(&manifest);
    assert!(cache(folder.path()).get(manifest.digest()).is_none());
}

#[test]
fn a_file_that_is_cut_at_any_byte_keeps_its_whole_records_and_grows_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(NAME);
    // Offsets of the ends of the records.
    let ends = [0, 1, 2].map(|n| {
        cache(folder.path()).put(&manifest(n));
        path.metadata().unwrap().len() as usize
    });
    let whole = std::fs::read(&path).unwrap();
    let record = ends[0];
    for length in (0..whole.len()).step_by(13).chain([record - 1, record, record + 1]) {
        for rest in [&b""[..], b"\0\0\0", b"sha256:0 9\nxx", b"\xff\n"] {
            std::fs::write(&path, [&whole[..length], rest].concat()).unwrap();
            // The line feed behind a manifest may be any byte.
            let has = length + usize::from(!rest.is_empty());
            let complete = ends.iter().filter(|end| **end <= has).count();
            assert_eq!(found(folder.path(), 3), (0..complete).collect::<Vec<_>>(), "{length}");
        }
        let cache = cache(folder.path());
        for manifest in (0..3).map(manifest) {
            if cache.get(manifest.digest()).is_none() {
                cache.put(&manifest);
            }
        }
        assert_eq!(found(folder.path(), 3), [0, 1, 2], "{length}");
        assert!(
            path.metadata().unwrap().len() <= (whole.len() + record) as u64,
            "{length}"
        );
    }
}

#[test]
fn a_damaged_byte_costs_at_most_pulls_and_what_is_pulled_is_kept_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(NAME);
    (0..3).for_each(|n| cache(folder.path()).put(&manifest(n)));
    let whole = std::fs::read(&path).unwrap();
    for at in (0..whole.len()).step_by(11) {
        for flip in [0x01, 0x80] {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            std::fs::write(&path, bytes).unwrap();
            let cache = cache(folder.path());
            for n in 0..3 {
                let manifest = manifest(n);
                match cache.get(manifest.digest()) {
                    Some(back) => assert_eq!(back.bytes(), manifest.bytes()),
                    None => cache.put(&manifest),
                }
            }
            assert_eq!(found(folder.path(), 3), [0, 1, 2], "{at}");
        }
    }
}

#[test]
fn a_file_of_any_content_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(NAME);
    let digest = manifest(0).digest().clone();
    for content in [
        format!("{digest} 18446744073709551615\n"),
        format!("{digest} {}\n{{}}\n", i64::MAX),
        format!("{digest} -1\n"),
        format!("{digest} 4194305\n"),
        format!("{digest} 0\n\n"),
        format!("{:016x} 18446744073709551615 1\n", key(&digest)),
        format!("{:016x} {} 1\n{{}}\n", key(&digest), i64::MAX),
        format!("{:016x} 2 4194305\n{{}}\n", key(&digest)),
        format!("{:016x} 2 4194304\n{{}}\n", key(&digest)),
        format!("{:016x} 2 0\n{{}}\n", key(&digest)),
        format!("{:016x} 2 2 2\n{{}}\n", key(&digest)),
        format!("{:016x} 0 1\n\n", key(&digest)),
        format!("{:016x} 2\n{{}}\n", key(&digest)),
        format!("{digest} 2 2\n{{}}\n"),
        format!("{digest} 2\n{{}}\n").repeat(500),
        "x".repeat(100_000),
        "\n".repeat(100_000),
    ] {
        std::fs::write(&path, content).unwrap();
        assert!(cache(folder.path()).get(&digest).is_none());
        cache(folder.path()).put(&manifest(1));
        assert_eq!(found(folder.path(), 2), [1]);
    }
}

#[test]
fn a_file_that_is_a_link_or_a_pipe_is_not_used_and_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (inside, elsewhere) = (folder.path().join("cache"), folder.path().join("elsewhere"));
    let (path, manifest) = (inside.join(NAME), manifest(1));
    cache(&inside).put(&manifest);
    let content = std::fs::read(&path).unwrap();
    let plant: [&dyn Fn(); 4] = [
        &|| std::fs::hard_link(&elsewhere, &path).unwrap(),
        &|| std::os::unix::fs::symlink(&elsewhere, &path).unwrap(),
        &|| std::os::unix::fs::symlink("nowhere", &path).unwrap(),
        &|| rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap(),
    ];
    for plant in plant {
        std::fs::write(&elsewhere, &content).unwrap();
        std::fs::remove_file(&path).unwrap();
        plant();
        assert!(cache(&inside).get(manifest.digest()).is_none());
        cache(&inside).put(&manifest);
        assert!(cache(&inside).get(manifest.digest()).is_some());
        assert_eq!(std::fs::read(&elsewhere).unwrap(), content, "another file was changed");
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    cache(&inside).put(&manifest);
    assert!(cache(&inside).get(manifest.digest()).is_none());
}

#[test]
fn a_file_beyond_its_limits_keeps_the_newer_half() {
    for (bytes, records, left) in [(u64::MAX, 10, 5..=10), (500, 1000, 5..=10)] {
        let folder = tempfile::tempdir().unwrap();
        // A process that was killed while it wrote the new file.
        std::fs::write(folder.path().join(NEW_NAME), "x").unwrap();
        let limits = Limits { bytes, records };
        let with_limits = || ManifestCache {
            limits,
            ..cache(folder.path())
        };
        let (this, other, reader) = (with_limits(), with_limits(), with_limits());
        this.put(&manifest(0));
        assert!(reader.get(manifest(0).digest()).is_some());
        for n in 1..40 {
            if n % 2 == 0 { &this } else { &other }.put(&manifest(n));
            assert!(folder.path().join(NAME).metadata().unwrap().len() <= 600);
        }
        assert!(reader.get(manifest(0).digest()).is_some(), "the old file is still open");
        let found = found(folder.path(), 40);
        assert!(left.contains(&found.len()), "{found:?}");
        assert_eq!(found, (40 - found.len()..40).collect::<Vec<_>>(), "not the newest");
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    }
}

#[test]
fn a_file_that_was_removed_emptied_or_replaced_meanwhile_is_found_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(NAME);
    let this = cache(folder.path());
    this.put(&manifest(0));
    let change: [&dyn Fn(); 3] = [
        &|| std::fs::remove_file(&path).unwrap(),
        &|| std::fs::write(&path, "").unwrap(),
        &|| {
            std::fs::remove_file(&path).unwrap();
            cache(folder.path()).put(&manifest(7));
        },
    ];
    for (n, change) in change.into_iter().enumerate() {
        change();
        this.put(&manifest(n + 1));
        assert!(found(folder.path(), 8).contains(&(n + 1)), "{n}");
    }
}

#[test]
fn several_writers_lose_nothing_of_each_other() {
    let folder = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let cache = cache(folder.path());
            cache.state.lock().patience = u32::MAX;
            scope.spawn(move || {
                for n in 0..50 {
                    cache.put(&manifest(n * 4 + writer));
                    // Each of these is written by all.
                    cache.put(&manifest(200 + n));
                }
            });
        }
    });
    assert_eq!(found(folder.path(), 250).len(), 250);
    let cache = cache(folder.path());
    let store = cache.open(&Folder::open(folder.path()).unwrap()).unwrap();
    let sum: u64 = (store.records.values())
        .map(|record| record.bytes - record.start + record.line.stored() as u64 + 1)
        .sum();
    let length = folder.path().join(NAME).metadata().unwrap().len();
    assert_eq!((sum, store.end), (length, length), "a manifest is there twice");
}

#[test]
fn writers_that_create_the_file_at_the_same_moment_lose_nothing() {
    for _ in 0..100 {
        let folder = tempfile::tempdir().unwrap();
        let start = Barrier::new(4);
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let (cache, start) = (cache(folder.path()), &start);
                cache.state.lock().patience = u32::MAX;
                scope.spawn(move || {
                    start.wait();
                    (0..3).for_each(|n| cache.put(&manifest(n * 4 + writer)));
                });
            }
        });
        assert_eq!(found(folder.path(), 12).len(), 12);
    }
}

#[test]
fn a_file_that_may_only_be_read_still_saves_pulls() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(NAME);
    cache(folder.path()).put(&manifest(0));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
    let this = cache(folder.path());
    assert!(this.get(manifest(0).digest()).is_some());
    this.put(&manifest(1));
    assert!(this.get(manifest(0).digest()).is_some());
}

#[test]
fn a_writer_that_holds_the_file_for_ever_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let this = cache(folder.path());
    this.put(&manifest(0));
    let held = File::open(folder.path().join(NAME)).unwrap();
    held.lock().unwrap();
    this.state.lock().patience = 2;
    (0..10).for_each(|n| this.put(&manifest(n)));
    assert!(this.get(manifest(0).digest()).is_some());
    drop(held);
    assert_eq!(found(folder.path(), 10), [0]);
}

#[test]
fn entries_of_earlier_versions_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("sha256");
    std::fs::create_dir(&old).unwrap();
    std::fs::write(old.join(manifest(0).digest().hex()), "x\n{}").unwrap();
    cache(folder.path()).put(&manifest(1));
    assert!(!old.exists());
    assert_eq!(found(folder.path(), 2), [1]);
}

/// Returns an index of three platforms and its manifests, each of a base layer and a layer of its own.
fn image(n: u64) -> Vec<RawManifest> {
    let digest = |part: u64| Digest::sha256(&(4 * n + part).to_le_bytes());
    let children: Vec<_> = (1..4)
        .map(|platform| {
            let (base, config, layer) = (digest(1 << 40), digest(1 << 50 | platform), digest(1 << 60 | platform));
            format!(
                r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":299}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{base}","size":206374}},{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{layer}","size":26135}}]}}"#
            )
        })
        .collect();
    let entries = children.iter().zip(["amd64", "arm64", "s390x"]).map(|(child, architecture)| {
        let (digest, size) = (Digest::sha256(child.as_bytes()), child.len());
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":{size},"platform":{{"architecture":"{architecture}","os":"linux"}}}}"#
        )
    });
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{}]}}"#,
        entries.collect::<Vec<_>>().join(",")
    );
    let all = std::iter::once(index).chain(children);
    all.map(|text| RawManifest::new(Bytes::from(text), None, None).unwrap())
        .collect()
}

#[test]
fn a_manifest_takes_a_third_of_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let manifests: Vec<_> = (0..20).flat_map(image).collect();
    let this = cache(folder.path());
    manifests.iter().for_each(|manifest| this.put(manifest));
    let size: usize = manifests.iter().map(|manifest| manifest.bytes().len()).sum();
    let stored = folder.path().join(NAME).metadata().unwrap().len() as usize;
    assert!(3 * stored < size, "{stored} of {size}");
    let later = cache(folder.path());
    for manifest in &manifests {
        let back = later.get(manifest.digest()).unwrap();
        assert_eq!(
            (back.bytes(), back.media_type()),
            (manifest.bytes(), manifest.media_type())
        );
    }
}

#[test]
fn records_of_earlier_versions_are_read_and_stay() {
    let folder = tempfile::tempdir().unwrap();
    let old = |n| {
        let manifest = manifest(n);
        let text = std::str::from_utf8(manifest.bytes()).unwrap().to_owned();
        format!("{} {}\n{text}\n", manifest.digest(), text.len())
    };
    std::fs::write(folder.path().join(NAME), old(0) + &old(1)).unwrap();
    let this = cache(folder.path());
    assert_eq!(this.get(manifest(1).digest()).unwrap().bytes(), manifest(1).bytes());
    (0..4).for_each(|n| this.put(&manifest(n)));
    assert!(!this.is_new(manifest(1).digest()) && this.is_new(manifest(2).digest()));
    assert_eq!(found(folder.path(), 4), [0, 1, 2, 3]);
}
