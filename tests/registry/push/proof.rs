//! Registries that accept a blob and do not store it: after the first upload and the first mount, the client checks
//! that the blob is there.

use crate::client::{Memory, by_digest, client, index, layer, noise, tag};
use crate::support::fault::{Action, When};
use crate::support::{Double, Options};
use bytes::Bytes;
use docker_mirror::{
    Error, Kind,
    testing::{BlobSource, BlobStream, Descriptor, Presence, Pushed, RawManifest, Registry},
};
use futures_util::future::{BoxFuture, join_all};

/// Blobs of different content.
fn blobs(count: usize) -> Vec<(Descriptor, Bytes)> {
    let of = |n: usize| noise(1000 + n);
    (0..count).map(|n| (layer(&of(n)), of(n))).collect()
}

async fn push(
    registry: &Registry,
    repository: &str,
    blob: &(Descriptor, Bytes),
    from: Option<&str>,
) -> Result<Pushed, Error> {
    registry
        .push_blob(repository, &blob.0, &Memory(blob.1.clone()), from)
        .await
}

fn holds(server: &Double, repository: &str, blob: &(Descriptor, Bytes)) -> bool {
    server.store().blob(repository, &blob.0.digest.to_string()).is_some()
}

#[tokio::test]
async fn a_registry_that_keeps_what_it_accepts_is_asked_twice_in_all() {
    let server = Double::new();
    let (registry, told) = client(&server.host());
    let blobs = blobs(5);
    for blob in &blobs {
        assert_eq!(push(&registry, "a", blob, None).await.unwrap(), Pushed::Uploaded);
    }
    assert_eq!(server.count("HEAD", ""), 1, "{}", server.transcript());
    for blob in &blobs {
        assert_eq!(push(&registry, "b", blob, Some("a")).await.unwrap(), Pushed::Mounted);
    }
    assert_eq!(server.count("HEAD", ""), 2, "{}", server.transcript());
    assert_eq!(told.warnings(), Vec::<String>::new());
}

#[tokio::test]
async fn many_uploads_at_once_wait_for_the_answer_about_the_first() {
    let server = Double::new();
    let (registry, _) = client(&server.host());
    let blobs = blobs(6);
    let pushed = join_all(blobs.iter().map(|blob| push(&registry, "a", blob, None))).await;
    assert!(pushed.iter().all(Result::is_ok), "{pushed:?}");
    assert_eq!(server.count("HEAD", ""), 1, "{}", server.transcript());
}

#[tokio::test]
async fn an_upload_that_is_lost_once_is_sent_again_and_all_others_are_looked_for() {
    let lost = When::put("/blobs/uploads/").first(1);
    let server = Double::start(Options::default().fault(lost, Action::Lose));
    let (registry, told) = client(&server.host());
    let blobs = blobs(3);
    for blob in &blobs {
        assert_eq!(push(&registry, "a", blob, None).await.unwrap(), Pushed::Uploaded);
        assert!(holds(&server, "a", blob));
    }
    let log = server.transcript();
    assert_eq!(server.count("PUT", ""), 4, "{log}");
    // Four for the one that is lost, one for each that is there.
    assert_eq!(server.count("HEAD", ""), 4 + 3, "{log}");
    let warnings = told.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("does not have it") && warnings[0].contains(&server.host()));
    // Nothing is mounted at such a host.
    assert_eq!(
        push(&registry, "b", &blobs[0], Some("a")).await.unwrap(),
        Pushed::Uploaded
    );
    assert_eq!(server.count("POST", "mount="), 0, "{}", server.transcript());
}

#[tokio::test]
async fn a_registry_that_loses_all_uploads_is_told_so_for_each_blob() {
    let server = Double::start(Options::default().fault(When::put("/blobs/uploads/"), Action::Lose));
    let (registry, _) = client(&server.host());
    let blobs = blobs(4);
    // All were accepted before the check of the first one: none of them counts as stored.
    let pushed = join_all(blobs.iter().map(|blob| push(&registry, "a/b", blob, None))).await;
    for (result, blob) in pushed.into_iter().zip(&blobs) {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), Kind::Server, "{error:?}");
        let text = error.to_string();
        assert!(text.contains("accepted it twice and does not have it"), "{text}");
        assert!(text.contains(&blob.0.digest.to_string()), "{text}");
        assert!(text.contains(&format!("{}/a/b", server.host())), "{text}");
        assert!(error.hint().is_some());
    }
    assert_eq!(server.count("PUT", ""), 8, "{}", server.transcript());
}

#[tokio::test]
async fn a_registry_that_keeps_a_part_of_an_upload_has_lost_it() {
    for kept in [7, 0] {
        let server = Double::start(Options::default().fault(When::put("/blobs/uploads/"), Action::KeepOnly(kept)));
        let (registry, told) = client(&server.host());
        let blobs = blobs(4);
        for blob in &blobs {
            let error = push(&registry, "a/b", blob, None).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Server, "{error:?}");
            let sizes = format!(
                "accepted it twice and has {kept} instead of {} bytes of it",
                blob.0.size
            );
            assert!(error.to_string().contains(&sizes), "{error}");
        }
        let log = server.transcript();
        assert_eq!(server.count("PUT", ""), 8, "{log}");
        // Once three blobs that were read had the size of the HEAD, the sizes of HEADs are believed.
        assert_eq!(server.count("GET", "/blobs/"), 3, "{log}");
        let warnings = told.warnings();
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(
            warnings[0].contains("other sizes") && warnings[1].contains("every further blob"),
            "{warnings:?}"
        );
    }
    // If only the first one is cut, the blob is sent again.
    let server = Double::start(Options::default().fault(When::put("/blobs/uploads/").first(1), Action::KeepOnly(7)));
    let (registry, _) = client(&server.host());
    let blob = blobs(1).remove(0);
    assert_eq!(push(&registry, "a", &blob, None).await.unwrap(), Pushed::Uploaded);
    assert_eq!(
        server.store().blob("a", &blob.0.digest.to_string()).unwrap().all(),
        blob.1
    );
}

#[tokio::test]
async fn sizes_in_answers_to_head_are_ignored_once_a_blob_was_read() {
    let length = |text: &str| Action::Header("content-length", Some(text.to_owned()));
    let get = || When::get("/blobs/");
    for (wrong, answers_to_get, gets) in [
        (length("0"), vec![], 1),
        (length("5000000"), vec![], 1),
        (Action::ContentLength(-7), vec![], 1),
        // Without ranges, the length of the whole blob counts, or else the number of its bytes.
        (length("0"), vec![(get(), Action::NoRange)], 1),
        (length("0"), vec![(get().with_header("range"), Action::status(400))], 2),
        (length("0"), vec![(get(), Action::IgnoreRange)], 1),
        (
            length("0"),
            vec![(get(), Action::IgnoreRange), (get(), Action::Chunked)],
            1,
        ),
    ] {
        let mut options = Options::default().fault(When::head("/blobs/"), wrong.clone());
        for (when, action) in &answers_to_get {
            options = options.fault(when.clone(), action.clone());
        }
        let server = Double::start(options);
        let (registry, told) = client(&server.host());
        for blob in &blobs(3) {
            assert_eq!(registry.head_blob("a", &blob.0).await.unwrap(), Presence::Missing);
            assert_eq!(push(&registry, "a", blob, None).await.unwrap(), Pushed::Uploaded);
            assert_eq!(registry.head_blob("a", &blob.0).await.unwrap(), Presence::Present(()));
        }
        let log = format!("{wrong:?} {answers_to_get:?}\n{}", server.transcript());
        assert_eq!(
            (server.count("PUT", ""), server.count("GET", "/blobs/")),
            (3, gets),
            "{log}"
        );
        let warnings = told.warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(
            warnings[0].contains("wrong sizes") && warnings[0].contains(&server.host()),
            "{warnings:?}"
        );
    }
}

#[tokio::test]
async fn a_head_without_a_length_needs_no_get() {
    let server = Double::start(Options::default().fault(When::head("/blobs/"), Action::Chunked));
    let (registry, told) = client(&server.host());
    for blob in &blobs(2) {
        assert_eq!(push(&registry, "a", blob, None).await.unwrap(), Pushed::Uploaded);
        assert_eq!(registry.head_blob("a", &blob.0).await.unwrap(), Presence::Present(()));
    }
    assert_eq!(server.count("GET", ""), 0, "{}", server.transcript());
    assert_eq!(told.warnings(), Vec::<String>::new());
}

#[tokio::test]
async fn blobs_that_only_a_head_finds_are_sent() {
    let server = Double::start(
        Options::default()
            .fault(When::head("/blobs/"), Action::PretendPresent)
            .fault(
                When::head("/blobs/"),
                Action::Header("content-length", Some("0".to_owned())),
            ),
    );
    let (registry, _) = client(&server.host());
    for (n, blob) in blobs(3).iter().enumerate() {
        let head = registry.head_blob("a", &blob.0).await.unwrap();
        let expected = if n == 0 { Presence::Missing } else { Presence::Unknown };
        assert_eq!(head, expected, "{}", server.transcript());
        assert_eq!(push(&registry, "a", blob, None).await.unwrap(), Pushed::Uploaded);
        assert!(holds(&server, "a", blob));
    }
    assert_eq!(server.count("GET", "/blobs/"), 2, "{}", server.transcript());
}

#[tokio::test]
async fn a_size_that_no_get_confirms_is_believed() {
    let server = Double::start(
        Options::default()
            .fault(When::head("/blobs/"), Action::ContentLength(-7))
            .fault(When::get("/blobs/"), Action::status(403)),
    );
    let (registry, _) = client(&server.host());
    let blob = blobs(1).remove(0);
    let error = push(&registry, "a", &blob, None).await.unwrap_err();
    assert!(error.to_string().contains("has 993 instead of 1000 bytes"), "{error}");
}

#[tokio::test]
async fn a_mount_that_is_lost_becomes_an_upload() {
    let server = Double::start(Options::default().fault(When::post("mount="), Action::Lose));
    let (registry, told) = client(&server.host());
    let blobs = blobs(3);
    for blob in &blobs {
        push(&registry, "a", blob, None).await.unwrap();
    }
    // Several mounts that were accepted at once, and one after them.
    let mounts = join_all(blobs[..2].iter().map(|blob| push(&registry, "b", blob, Some("a")))).await;
    for result in mounts {
        assert_eq!(result.unwrap(), Pushed::Uploaded);
    }
    server.forget_requests();
    assert_eq!(
        push(&registry, "b", &blobs[2], Some("a")).await.unwrap(),
        Pushed::Uploaded
    );
    assert_eq!(server.count("POST", "mount="), 0, "{}", server.transcript());
    assert_eq!(
        server.count("HEAD", ""),
        1,
        "the upload is looked for: {}",
        server.transcript()
    );
    assert!(blobs.iter().all(|blob| holds(&server, "b", blob)));
    assert_eq!(told.warnings().len(), 1, "{:?}", told.warnings());
}

#[tokio::test]
async fn a_blob_that_appears_late_is_no_lost_one() {
    let late = When::head("/blobs/").first(3);
    let server = Double::start(Options::default().fault(late, Action::error(404, "BLOB_UNKNOWN", "not yet")));
    let (registry, told) = client(&server.host());
    let blobs = blobs(2);
    for blob in &blobs {
        push(&registry, "a", blob, None).await.unwrap();
    }
    assert_eq!(
        (server.count("HEAD", ""), server.count("PUT", "")),
        (4, 2),
        "{}",
        server.transcript()
    );
    push(&registry, "b", &blobs[0], Some("a")).await.unwrap();
    assert_eq!(server.count("POST", "mount="), 1);
    assert_eq!(told.warnings(), Vec::<String>::new());
}

#[tokio::test]
async fn a_registry_that_does_not_say_what_it_has_is_believed() {
    for status in [400, 403, 405, 500] {
        let server = Double::start(Options::default().fault(When::head("/blobs/"), Action::status(status)));
        let (mut options, told) = crate::client::options();
        options.retries = Some(0);
        let registry = crate::client::with(options, &server.host());
        for blob in &blobs(6) {
            assert_eq!(push(&registry, "a", blob, None).await.unwrap(), Pushed::Uploaded);
        }
        assert_eq!(server.count("HEAD", ""), 3, "{status}: {}", server.transcript());
        assert_eq!(told.warnings(), Vec::<String>::new());
    }
}

/// Bytes that can be read once.
struct Once(Memory);

impl BlobSource for Once {
    fn can_replay(&self, _: &Descriptor) -> bool {
        false
    }

    fn open<'a>(&'a self, descriptor: &'a Descriptor, offset: u64) -> BoxFuture<'a, Result<BlobStream, Error>> {
        self.0.open(descriptor, offset)
    }
}

#[tokio::test]
async fn bytes_that_can_be_read_once_are_not_asked_for_again() {
    let server = Double::start(Options::default().fault(When::put("/blobs/uploads/"), Action::Lose));
    let (registry, _) = client(&server.host());
    let (blob, bytes) = blobs(1).remove(0);
    let source = Once(Memory(bytes));
    let error = registry.push_blob("a", &blob, &source, None).await.unwrap_err();
    assert!(
        error.to_string().contains("accepted it and does not have it"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("pipe"), "{error:?}");
    assert_eq!(server.count("POST", ""), 1, "{}", server.transcript());
}

/// Two manifests without blobs, to be put by digest.
fn children() -> Vec<RawManifest> {
    ["1", "2"]
        .into_iter()
        .map(|text| index(&[&layer(text.as_bytes())]))
        .collect()
}

/// Returns a registry that answers 201 to the first `manifests` manifests that are put by digest, and stores none of
/// them.
fn losing(manifests: u64) -> Double {
    let lost = When::put("/manifests/sha256:").first(manifests);
    let options = Options {
        accept_sparse: true,
        ..Options::default()
    };
    Double::start(options.fault(lost, Action::status(201)))
}

#[tokio::test]
async fn the_first_manifest_below_an_index_is_looked_for() {
    let server = losing(0);
    let (registry, told) = client(&server.host());
    for child in &children() {
        registry.put_manifest("a", &by_digest(child), child).await.unwrap();
        registry.put_manifest("a", &tag("1"), child).await.unwrap();
    }
    assert_eq!(server.count("HEAD", ""), 1, "{}", server.transcript());
    assert_eq!(told.warnings(), Vec::<String>::new());
}

#[tokio::test]
async fn a_manifest_that_is_lost_once_is_put_again_and_all_others_are_looked_for() {
    let server = losing(1);
    let (registry, told) = client(&server.host());
    for child in &children() {
        registry.put_manifest("a", &by_digest(child), child).await.unwrap();
        assert!(server.manifest("a", &child.digest().to_string()).is_some());
    }
    let log = server.transcript();
    assert_eq!(server.count("PUT", ""), 3, "{log}");
    // Four for the one that is lost, one for each that is there.
    assert_eq!(server.count("HEAD", ""), 4 + 2, "{log}");
    let warnings = told.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("does not have it"), "{warnings:?}");
}

#[tokio::test]
async fn a_registry_that_loses_all_manifests_is_told_so() {
    let server = losing(u64::MAX);
    let (registry, _) = client(&server.host());
    for child in &children() {
        let error = registry.put_manifest("a", &by_digest(child), child).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Server, "{error:?}");
        assert!(error.to_string().contains("accepted it twice"), "{error}");
        assert!(error.hint().is_some());
    }
}
