//! Pushes with a single place for requests: no request waits for a place that its own upload holds.

use std::time::Duration;

use docker_mirror::testing::Pushed;

use super::upload;
use crate::client::{Memory, layer, noise, options, with};
use crate::support::fault::{Action, When};
use crate::support::{Auth, Double, End, Options};

/// Longest time that a push may take, which only a hang exceeds.
const LONGEST: Duration = Duration::from_secs(60);

#[tokio::test]
async fn every_way_to_send_a_blob_again_ends() {
    let unknown = |status| Action::error(status, "BLOB_UPLOAD_UNKNOWN", "unknown");
    let first = |method: &str| upload(method).first(1);
    let ways: [(&str, &[(When, Action)]); 14] = [
        ("a session that is unknown", &[(first("PUT"), unknown(404))]),
        (
            "wrong bytes",
            &[(first("PUT"), Action::error(400, "DIGEST_INVALID", "no"))],
        ),
        ("a wrong offset", &[(first("PUT"), Action::error(416, "RANGE", "no"))]),
        (
            "a host that fails",
            &[(first("PUT"), Action::error(500, "UNKNOWN", "no"))],
        ),
        ("a host that throttles", &[(first("PUT"), Action::throttled(None))]),
        (
            "a connection that breaks",
            &[(first("PUT"), Action::CutRequest(9, End::Reset))],
        ),
        ("a limit on bodies", &[(first("PUT"), Action::error(413, "SIZE", "no"))]),
        (
            "a body that is not suited",
            &[(first("PUT"), Action::error(405, "UNSUPPORTED", "no"))],
        ),
        ("a success that is none", &[(first("PUT"), Action::Status(200))]),
        ("a blob that is lost", &[(first("PUT"), Action::Lose)]),
        ("a blob that is kept in part", &[(first("PUT"), Action::KeepOnly(9))]),
        ("a session that throttles", &[(first("POST"), Action::throttled(None))]),
        (
            "pieces, and an end that breaks",
            &[
                (first("PUT"), Action::error(405, "UNSUPPORTED", "no")),
                (upload("PUT").nth(2), Action::End(End::Reset)),
            ],
        ),
        (
            "pieces, and an end that is unknown",
            &[
                (first("PUT"), Action::error(405, "UNSUPPORTED", "no")),
                (upload("PUT").nth(2), unknown(404)),
            ],
        ),
    ];
    for saves_sessions in [false, true] {
        for (what, faults) in &ways {
            let folder = tempfile::tempdir().unwrap();
            let server = Double::start(Options::default());
            for (when, action) in *faults {
                server.add_fault(when.clone(), action.clone());
            }
            let (mut options, _) = options();
            options.jobs = Some(1);
            options.upload_sessions = saves_sessions.then(|| folder.path().to_owned());
            let registry = with(options, &server.host());
            let pushes = [1, 2, 3].map(|n| {
                let registry = &registry;
                async move {
                    let bytes = noise((n << 20) + 5);
                    let source = Memory(bytes.clone());
                    registry.push_blob("a/b", &layer(&bytes), &source, None).await
                }
            });
            let all = futures_util::future::join_all(pushes);
            let ended = tokio::time::timeout(LONGEST, all).await;
            let ended = ended.unwrap_or_else(|_| panic!("{what} hangs:\n{}", server.transcript()));
            for pushed in ended {
                let pushed = pushed.map_err(|error| error.full());
                assert_eq!(pushed, Ok(Pushed::Uploaded), "{what}:\n{}", server.transcript());
            }
            assert_eq!(server.peak(), 1, "{what}:\n{}", server.transcript());
        }
    }
}

#[tokio::test]
async fn tokens_of_the_registry_itself_count() {
    let server = Double::start(Options::default().auth(Auth::bearer("user", "s3cret")));
    let (mut options, _) = crate::client::logged_in("user", "s3cret");
    options.jobs = Some(1);
    let registry = with(options, &server.host());
    let bytes = noise(70_000);
    let (blob, source) = (layer(&bytes), Memory(bytes.clone()));
    let names = ["a/a", "a/b", "a/c"];
    let pushes = names.map(|name| registry.push_blob(name, &blob, &source, None));
    let ended = tokio::time::timeout(LONGEST, futures_util::future::join_all(pushes)).await;
    for pushed in ended.expect("a push hangs") {
        pushed.unwrap();
    }
    assert!(server.count("*", "/token") > 0, "{}", server.transcript());
    assert_eq!(server.peak(), 1, "{}", server.transcript());
}
