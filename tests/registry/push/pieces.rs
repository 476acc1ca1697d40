//! Blobs in pieces that the registry acknowledges, and the end of an interrupted run.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use docker_mirror::{
    Stop,
    testing::{Descriptor, Pushed, Registry},
};

use super::upload;
use crate::client::{Memory, layer, noise, options, with};
use crate::support::fault::{Action, When};
use crate::support::{Double, End, Gate, Options};

/// Returns a client that saves its upload sessions in this folder, and the handle that stops it.
fn run(server: &Double, folder: &Path) -> (Registry, Stop) {
    let (mut options, _) = options();
    options.upload_sessions = Some(folder.to_owned());
    let stop = options.stop.clone();
    (with(options, &server.host()), stop)
}

fn holds(server: &Double, bytes: &Bytes) -> bool {
    let stored = server.store().blob("a", &layer(bytes).digest.to_string());
    stored.is_some_and(|content| content.all() == *bytes)
}

/// The ranges of the pieces that a server took.
fn taken(server: &Double) -> Vec<String> {
    let patches = server.requests_of("PATCH", "");
    let taken = patches.iter().filter(|patch| patch.status == 202);
    taken.map(|patch| patch.header("content-range")).collect()
}

/// The bytes of bodies that a server got.
fn sent(server: &Double) -> u64 {
    server.requests().iter().map(|request| request.bytes_in).sum()
}

#[tokio::test]
async fn pieces_meet_and_begin_small() {
    let (server, folder) = (Double::new(), tempfile::tempdir().unwrap());
    let (registry, _) = run(&server, folder.path());
    let bytes = noise(5 << 20);
    registry
        .push_blob("a", &layer(&bytes), &Memory(bytes.clone()), None)
        .await
        .unwrap();
    assert!(holds(&server, &bytes));
    let ranges = taken(&server);
    assert_eq!(ranges[0], "0-1048575");
    let mut next = 0;
    for range in &ranges {
        let (first, last) = range.split_once('-').unwrap();
        assert_eq!(first.parse::<u64>().unwrap(), next, "{ranges:?}");
        next = last.parse::<u64>().unwrap() + 1;
    }
    assert_eq!(next, 5 << 20);
    assert_eq!(server.count("PUT", ""), 1, "{}", server.transcript());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_blob_goes_in_one_request_where_nothing_is_kept_for_the_next_run() {
    let server = Double::new();
    let bytes = noise(5 << 20);
    let registry = with(options().0, &server.host());
    registry
        .push_blob("a", &layer(&bytes), &Memory(bytes.clone()), None)
        .await
        .unwrap();
    assert!(holds(&server, &bytes));
    assert_eq!(server.count("PATCH", ""), 0, "{}", server.transcript());
}

/// Registries that refuse pieces in different ways: every piece, every piece but the first, or the end; by a status or
/// by the connection.
#[tokio::test]
async fn a_registry_that_refuses_pieces_gets_blobs_in_one_request() {
    let ranged = || upload("PATCH").with_header("content-range");
    let statuses = [400, 401, 403, 404, 405, 409, 411, 413, 415, 416, 500, 501, 503];
    let mut actions: Vec<Box<dyn Fn() -> Action>> = Vec::new();
    for status in statuses {
        actions.push(Box::new(move || Action::status(status)));
    }
    for end in [End::Close, End::Reset] {
        actions.push(Box::new(move || Action::End(end)));
    }
    let mut faults = Vec::new();
    for action in &actions {
        faults.push((ranged(), action()));
        faults.push((ranged().after(1), action()));
    }
    for (status, code) in [(400, "DIGEST_INVALID"), (404, "BLOB_UPLOAD_UNKNOWN")] {
        faults.push((
            upload("PUT").first(1),
            Action::error(status, code, "the pieces do not meet"),
        ));
    }
    // It keeps only the last piece, and says so.
    let only_last = Action::Header("range", Some("0-2097151".to_owned()));
    faults.push((ranged().after(1), only_last));
    for (number, (when, action)) in faults.into_iter().enumerate() {
        let server = Double::start(Options::default().fault(when, action));
        let folder = tempfile::tempdir().unwrap();
        let (registry, _) = run(&server, folder.path());
        for size in [3 << 20, (3 << 20) + 1] {
            let bytes = noise(size);
            let pushed = registry
                .push_blob("a", &layer(&bytes), &Memory(bytes.clone()), None)
                .await;
            let pushed = pushed.map_err(|error| error.full().to_string());
            assert_eq!(pushed, Ok(Pushed::Uploaded), "{number}: {}", server.transcript());
            assert!(holds(&server, &bytes), "{number}");
        }
        let whole = server.requests_of("PUT", "").into_iter().filter(|put| put.bytes_in > 0);
        assert_eq!(whole.count(), 2, "{number}: {}", server.transcript());
        assert!(server.count("PATCH", "") <= 5, "{number}: {}", server.transcript());
    }
}

#[tokio::test]
async fn a_registry_that_hangs_over_pieces_gets_blobs_in_one_request() {
    for retries in [0, 5] {
        let server = Double::start(Options::default().fault(upload("PATCH"), Action::End(End::Stall)));
        let folder = tempfile::tempdir().unwrap();
        let (mut options, _) = options();
        options.upload_sessions = Some(folder.path().to_owned());
        options.retries = Some(retries);
        options.header_timeout = Some(Duration::from_secs(2));
        let registry = with(options, &server.host());
        let bytes = noise(3 << 20);
        let (blob, source) = (layer(&bytes), Memory(bytes.clone()));
        registry.push_blob("a", &blob, &source, None).await.unwrap();
        assert!(holds(&server, &bytes));
        assert!(server.count("PATCH", "") <= 2, "{}", server.transcript());
    }
}

#[tokio::test]
async fn a_registry_that_limits_pieces_is_not_asked_again() {
    let server = Double::start(Options {
        max_chunk: Some(600 << 10),
        ..Options::default()
    });
    let folder = tempfile::tempdir().unwrap();
    let (registry, _) = run(&server, folder.path());
    for size in [3 << 20, (3 << 20) + 1] {
        let bytes = noise(size);
        registry
            .push_blob("a", &layer(&bytes), &Memory(bytes.clone()), None)
            .await
            .unwrap();
        assert!(holds(&server, &bytes));
    }
    // The first refusal may have come as a connection that broke.
    assert!(server.count("PATCH", "") <= 2, "{}", server.transcript());
}

#[tokio::test]
async fn a_run_that_is_interrupted_loses_nothing_that_it_sent() {
    // A quarter of a second for each piece, so that the second piece is not the last.
    let slow = Action::Delay(Duration::from_millis(250));
    let gate = Gate::closed();
    let server = Double::start(
        Options::default()
            .fault(When::patch("/blobs/uploads/"), slow)
            .fault(When::patch("/blobs/uploads/").nth(2), Action::Hold(gate.clone())),
    );
    let folder = tempfile::tempdir().unwrap();
    let bytes = noise(24 << 20);
    let (registry, stop) = run(&server, folder.path());
    let (blob, source) = (layer(&bytes), Memory(bytes.clone()));
    let push = registry.push_blob("a", &blob, &source, None);
    let end = async {
        server
            .until("the second piece", || server.count("PATCH", "") == 2)
            .await;
        let end = stop.wind_up();
        gate.open();
        end.await;
    };
    tokio::select! {
        () = end => {}
        pushed = push => panic!("{pushed:?}"),
    }
    assert_eq!(taken(&server).len(), 2, "{}", server.transcript());
    let before = sent(&server);
    server.forget_requests();
    server.clear_faults();

    let (registry, _) = run(&server, folder.path());
    let (blob, source) = (layer(&bytes), Memory(bytes.clone()));
    registry.push_blob("a", &blob, &source, None).await.unwrap();
    assert!(holds(&server, &bytes));
    assert_eq!(before + sent(&server), 24 << 20, "{}", server.transcript());
}

/// Drops a push while the registry holds its second piece, like a kill of the process.
async fn kill_in_second_piece(server: &Double, registry: &Registry, blob: &Descriptor, source: &Memory) {
    let push = registry.push_blob("a", blob, source, None);
    let killed = async {
        server
            .until("the second piece", || server.count("PATCH", "") == 2)
            .await;
    };
    tokio::select! {
        () = killed => {}
        pushed = push => panic!("{pushed:?}"),
    }
}

#[tokio::test]
async fn a_session_that_the_registry_no_longer_has_is_told_and_the_blob_is_sent_from_the_start() {
    let bytes = noise(4 << 20);
    let (blob, source) = (layer(&bytes), Memory(bytes.clone()));
    let gate = Gate::closed();
    let second = When::patch("/blobs/uploads/").nth(2);
    let server = Double::start(Options::default().fault(second, Action::Hold(gate.clone())));
    let folder = tempfile::tempdir().unwrap();
    let (registry, _) = run(&server, folder.path());
    kill_in_second_piece(&server, &registry, &blob, &source).await;
    gate.open();
    server.clear_faults();
    server.add_fault(When::get("/blobs/uploads/"), Action::status(404));
    let (mut options, told) = options();
    options.upload_sessions = Some(folder.path().to_owned());
    let registry = with(options, &server.host());
    registry.push_blob("a", &blob, &source, None).await.unwrap();
    assert!(holds(&server, &bytes));
    let told = told.told();
    assert!(told.len() == 1 && told[0].contains("sent from the start"), "{told:?}");
}

#[tokio::test]
async fn the_session_of_a_run_that_was_killed_goes_on_once_nothing_more_of_it_arrives() {
    let bytes = noise(24 << 20);
    let piece = || When::patch("/blobs/uploads/");
    let gate = Gate::closed();
    let server = Double::start(Options::default().fault(piece().nth(2), Action::Hold(gate.clone())));
    let folder = tempfile::tempdir().unwrap();
    let (blob, source) = (layer(&bytes), Memory(bytes.clone()));
    let (registry, _) = run(&server, folder.path());
    kill_in_second_piece(&server, &registry, &blob, &source).await;
    let kept = taken(&server).len();
    assert_eq!(kept, 1, "{}", server.transcript());
    gate.open();
    server.forget_requests();
    server.clear_faults();
    // The registry has more bytes than it stated: neither the first nor the second piece fits.
    server.add_fault(
        piece().first(2),
        Action::error(416, "RANGE_INVALID", "invalid content range"),
    );
    let (registry, _) = run(&server, folder.path());
    registry.push_blob("a", &blob, &source, None).await.unwrap();
    assert!(holds(&server, &bytes));
    let log = server.transcript();
    assert_eq!(server.count("POST", ""), 0, "{log}");
    assert_eq!(server.count("DELETE", ""), 0, "{log}");
    assert!(!taken(&server)[0].starts_with("0-"), "{log}");
}

#[tokio::test]
async fn a_body_that_takes_long_is_not_waited_for() {
    let server = Double::start(Options::default().fault(upload("PUT"), Action::Hold(Gate::closed())));
    let bytes = noise(5 << 20);
    // Without sessions it goes in one request.
    let (options, _) = options();
    let stop = options.stop.clone();
    let registry = with(options, &server.host());
    let (blob, source) = (layer(&bytes), Memory(bytes.clone()));
    let push = registry.push_blob("a", &blob, &source, None);
    let end = async {
        server.until("the body", || server.count("PUT", "") > 0).await;
        stop.wind_up().await;
    };
    tokio::select! {
        () = end => {}
        pushed = push => panic!("{pushed:?}"),
    }
}
