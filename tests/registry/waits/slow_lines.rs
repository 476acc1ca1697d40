//! Slow lines: the client waits for a body that is still on its way, and sends it once.

use std::time::Duration;

use docker_mirror::{Kind, Result, testing::Registry};
use rustix::net::sockopt::tcp_user_timeout;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use super::clock;
use super::downloads::by_default;
use super::scripted::{Asked, Server, Step, answer};
use super::uploads::{SESSION, registry};
use crate::client::{Memory, layer, manifest, noise, tag, with};

const SECOND: Duration = Duration::from_secs(1);

/// Returns a registry that reads bodies as the steps say, and then answers that it has them. It does not tell which blobs it has.
async fn taking(steps: Vec<Step>) -> (Server, Registry) {
    registry(
        |_| Some(0),
        move |asked: &Asked| match asked.method.as_str() {
            "PUT" | "PATCH" => Some([steps.clone(), vec![answer(201, &[], 0)]].concat()),
            "HEAD" => Some(vec![answer(403, &[], 0)]),
            _ => None,
        },
    )
    .await
}

/// Pushes a blob of this size to a registry that reads its body as the steps say.
async fn push(size: usize, steps: Vec<Step>) -> (Server, Result<()>) {
    let (server, registry) = taking(steps).await;
    let bytes = noise(size);
    let (blob, source) = (layer(&bytes), Memory(bytes));
    let pushed = clock::run(registry.push_blob("a/b", &blob, &source, None)).await;
    (server, pushed.map(|_| ()))
}

#[tokio::test(start_paused = true)]
async fn a_body_over_a_slow_line_is_sent_once() {
    let at = |rate: usize| Step::TakeSlowly(rate, SECOND);
    for (what, size, steps) in [
        // Four megabytes fit into the buffers of this machine, twelve do not.
        ("20 kB/s", 4 << 20, vec![at(20_000)]),
        ("10 kB/s", 4 << 20, vec![at(10_000)]),
        ("4 kB/s", 4 << 20, vec![Step::TakeSlowly(40_000, SECOND * 10)]),
        ("more than the buffers hold", 12 << 20, vec![at(20_000)]),
        ("a long answer", 4 << 20, vec![at(20_000), Step::Pause(SECOND * 110)]),
        (
            "a pause in the middle",
            4 << 20,
            vec![Step::TakeSome(1 << 20), Step::Pause(SECOND * 45), at(100_000)],
        ),
        (
            "a line that is ten times slower after a while",
            24 << 20,
            vec![Step::TakeSome(12 << 20), at(100_000)],
        ),
    ] {
        let (server, pushed) = push(size, steps).await;
        assert!(pushed.is_ok(), "{what}: {pushed:?}");
        assert_eq!(server.count("PUT", SESSION), 1, "{what}: {}", server.transcript());
        assert_eq!(server.count("PATCH", SESSION), 0, "{what}: {}", server.transcript());
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_trickles_away_or_stops_is_given_up() {
    for (what, steps) in [
        ("a trickle", vec![Step::TakeSlowly(100, SECOND * 10)]),
        ("a stop", vec![Step::TakeSome(1 << 20), Step::Hang]),
        ("no answer", vec![Step::Take, Step::Hang]),
        ("a pause of half an hour", vec![Step::Pause(SECOND * 1800), Step::Take]),
    ] {
        let (server, pushed) = push(2 << 20, steps).await;
        assert_eq!(pushed.unwrap_err().kind(), Kind::Network, "{what}");
        let bodies = server.count("PUT", SESSION) + server.count("PATCH", SESSION);
        assert_eq!(bodies, 6, "{what}: {}", server.transcript());
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_manifest_over_a_slow_line_is_sent_once() {
    let blob = layer(b"x");
    let root = manifest(&blob, &vec![blob.clone(); 9_000]);
    let server = Server::start(|asked| {
        let put = asked.method == "PUT";
        let slowly = if put {
            Step::TakeSlowly(10_000, SECOND)
        } else {
            Step::Take
        };
        vec![slowly, answer(201, &[], 0)]
    })
    .await;
    let registry = with(by_default(), &server.host);
    assert!(root.bytes().len() > 10_000 * 120, "{}", root.bytes().len());
    clock::run(registry.put_manifest("a/b", &tag("1"), &root))
        .await
        .unwrap();
    assert_eq!(server.count("PUT", "/manifests/"), 1, "{}", server.transcript());
}

/// Returns the times in milliseconds after which the kernel would end connections of the client to this server; 0 for
/// none.
fn kernel_limits(server: &Server) -> Vec<u32> {
    let me = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let numbers = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let ours = numbers.filter_map(|number: i32| {
        // A copy of the descriptor, since its number may belong to another file a moment later.
        let copy = pidfd_getfd(&me, number, PidfdGetfdFlags::empty()).ok()?;
        let peer = std::net::SocketAddr::try_from(rustix::net::getpeername(&copy).ok()??).ok()?;
        (peer.to_string() == server.host).then(|| tcp_user_timeout(&copy).unwrap())
    });
    ours.collect()
}

#[tokio::test(start_paused = true)]
async fn the_kernel_ends_no_connection_before_the_documented_limits() {
    let (server, registry) = taking(vec![Step::Hang]).await;
    let bytes = noise(4 << 20);
    let (blob, source) = (layer(&bytes), Memory(bytes));
    let pushing = clock::run(registry.push_blob("a/b", &blob, &source, None));
    let looking = async {
        loop {
            tokio::task::yield_now().await;
            let limits = kernel_limits(&server);
            if !limits.is_empty() && server.count("PUT", SESSION) > 0 {
                return limits;
            }
        }
    };
    let limits = tokio::select! {
        limits = looking => limits,
        _ = pushing => panic!("it ended"),
    };
    assert!(limits.iter().all(|limit| *limit == 0), "{limits:?}");
}
