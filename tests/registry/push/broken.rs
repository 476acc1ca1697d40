//! Uploads that break, stall or are throttled.

use super::client::{Memory, layer, noise, options, with};
use super::support::fault::{Action, Canned, When};
use super::support::{Double, End, Options};
use super::{pushed, refused, upload};
use docker_mirror::Kind;
use std::time::Duration;

/// Uploads that break in the middle continue at the offset that the registry states.
#[tokio::test]
async fn broken_uploads_go_on_where_they_broke() {
    for end in [End::Close, End::Reset] {
        let options = Options::default().fault(upload("PUT").first(1), Action::CutRequest(3 << 20, end));
        let (server, told) = pushed(options, 8 << 20).await;
        assert_eq!(told.retries().len(), 1, "{end:?}: {:?}", told.retries());
        let patch = &server.requests_of("PATCH", "")[0];
        assert_eq!(
            patch.header("content-range"),
            format!("{}-{}", 3 << 20, (8 << 20) - 1),
            "{end:?}"
        );
        assert_eq!(patch.bytes_in, 5 << 20, "what was there is not sent again");
    }
}

#[tokio::test]
async fn progress_renews_patience() {
    // Eight breaks with progress in between, although five without progress would end the upload.
    let options = Options::default()
        .fault(upload("PUT").first(1), Action::CutRequest(2 << 20, End::Close))
        .fault(upload("PATCH").first(7), Action::CutRequest(2 << 20, End::Close));
    let (server, told) = pushed(options, 20 << 20).await;
    assert_eq!(told.retries().len(), 8, "{:?}", told.retries());
    let sent: u64 = server.requests().iter().map(|request| request.bytes_in).sum();
    assert_eq!(sent, 20 << 20, "no byte twice: {}", server.transcript());
    let hopeless = Options::default().fault(
        When::path("/blobs/uploads/")
            .but_not("uploads/?")
            .with_header("content-type"),
        Action::CutRequest(1000, End::Close),
    );
    let (_, error) = refused(hopeless, 4 << 20).await;
    assert_eq!(error.kind(), Kind::Network, "{error:?}");
}

#[tokio::test]
async fn an_offset_that_says_nothing_starts_anew() {
    let options = Options::default()
        .fault(upload("PUT").first(1), Action::CutRequest(3 << 20, End::Close))
        .fault(upload("GET"), Action::ZeroStatus);
    let (server, _) = pushed(options, 4 << 20).await;
    assert_eq!(server.count("POST", ""), 2, "{}", server.transcript());
    assert_eq!(server.requests_of("PUT", "").last().unwrap().bytes_in, 4 << 20);
}

/// What the status of a broken upload may say without being believed.
#[tokio::test]
async fn an_offset_that_cannot_be_is_not_believed() {
    for (name, action) in [
        ("more than was sent", Action::Header("range", Some("0-99999999".into()))),
        ("absent", Action::Header("range", None)),
        ("not from the start", Action::Header("range", Some("5-100".into()))),
        ("nonsense", Action::Header("range", Some("bytes".into()))),
        ("session gone", Action::error(404, "BLOB_UPLOAD_UNKNOWN", "gone")),
    ] {
        let options = Options::default()
            .fault(upload("PUT").first(1), Action::CutRequest(1 << 20, End::Close))
            .fault(upload("GET"), action);
        let (server, _) = pushed(options, 2 << 20).await;
        assert_eq!(server.count("POST", ""), 2, "{name}: {}", server.transcript());
    }
}

#[tokio::test]
async fn an_upload_whose_answer_was_lost_is_found() {
    let options = Options::default().fault(upload("PUT").first(1), Action::Status(503));
    let (server, _) = pushed(options, 1 << 20).await;
    assert_eq!(server.count("PUT", ""), 1, "the blob is there: {}", server.transcript());
}

#[tokio::test]
async fn bursts_of_errors_are_waited_out() {
    for status in [408, 429, 499, 500, 502, 503, 504, 522] {
        let options = Options::default()
            .fault(upload("POST").first(2), Action::status(status))
            .fault(upload("PUT").first(2), Action::status(status));
        let (_, told) = pushed(options, 100_000).await;
        assert!(told.retries().len() >= 4, "{status}: {:?}", told.retries());
        assert!(
            told.retries()[0].contains(&status.to_string()),
            "{status}: {:?}",
            told.retries()
        );
    }
    let (server, error) = refused(Options::default().fault(upload("POST"), Action::status(503)), 10).await;
    assert_eq!(error.kind(), Kind::Server);
    assert_eq!(server.requests().len(), 6, "five repetitions");
}

#[tokio::test]
async fn a_throttled_chunk_goes_on_in_its_session() {
    let options = Options::default()
        .fault(upload("PUT").first(1), Action::status(405))
        .fault(upload("PATCH").without_header("content-range"), Action::status(405))
        .fault(
            upload("PATCH").with_header("content-range").nth(2),
            Action::Answer(Canned::error(429, "TOOMANYREQUESTS", "slow down").with_header("retry-after", "1")),
        );
    let (server, told) = pushed(options, 10 << 20).await;
    assert!(told.pauses().contains(&Duration::from_secs(1)), "{:?}", told.pauses());
    assert_eq!(
        server.count("POST", ""),
        3,
        "one session for each strategy: {}",
        server.transcript()
    );
}

#[tokio::test]
async fn a_stalled_upload_is_given_up() {
    let server = Double::start(Options::default().fault(upload("PUT").first(1), Action::CutRequest(1000, End::Stall)));
    let (mut options, told) = options();
    options.stall_timeout = Some(Duration::from_millis(300));
    options.header_timeout = Some(Duration::from_millis(600));
    let registry = with(options, &server.host());
    let bytes = noise(30 << 20);
    registry
        .push_blob("a", &layer(&bytes), &Memory(bytes.clone()), None)
        .await
        .unwrap();
    assert!(told.retries()[0].contains("took no byte"), "{:?}", told.retries());
}

/// Replicas without a common secret: only every other request reaches a replica that knows the session.
#[tokio::test]
async fn a_registry_that_forgets_sessions_is_tried_again_as_often_as_any_other() {
    for code in ["BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID"] {
        for status in [400, 404] {
            let forgets = || Action::error(status, code, "unknown to this replica");
            let (server, _) = pushed(Options::default().fault(upload("PUT").first(4), forgets()), 10_000).await;
            assert_eq!(server.count("PUT", ""), 5, "{}", server.transcript());
            assert_eq!(server.count("PATCH", ""), 0, "{}", server.transcript());
            let (server, error) = refused(Options::default().fault(upload("PUT"), forgets()), 10_000).await;
            assert!(server.count("PUT", "") <= 7, "{}", server.transcript());
            let hint = error.hint().unwrap_or_default();
            assert!(hint.contains("http.secret") && hint.contains("sticky"), "{error:?}");
        }
    }
}
