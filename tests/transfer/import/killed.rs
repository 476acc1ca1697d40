//! Runs that are killed, and what others see of the registry meanwhile.

use super::handmade::{Maker, assert_complete, incomplete, noise, request, run};
use super::support::{Double, Options};
use super::tags;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Looks at every tag again and again while something is pushed.
struct Watcher {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Result<u32, String>>,
}

impl Watcher {
    fn start(registry: &Arc<Double>, names: &[String]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (registry, names, stopped) = (registry.clone(), names.to_vec(), stop.clone());
        let watch = move || {
            let mut seen = 0;
            loop {
                let last = stopped.load(Ordering::SeqCst);
                for name in &names {
                    if !tags(&registry, name).is_empty() {
                        incomplete(&registry, name, "1", false).map_err(|what| format!("{name}: {what}"))?;
                        seen += 1;
                    }
                }
                if last {
                    return Ok(seen);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        Self {
            stop,
            thread: std::thread::spawn(watch),
        }
    }

    /// How often it saw a tag; all of them were complete.
    fn end(self) -> u32 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_no_tag_is_ever_incomplete() {
    let mut maker = Maker::default();
    let mut names = Vec::new();
    for n in 0..5 {
        let children: Vec<_> = (0..3)
            .map(|c| maker.image("linux/amd64", &[&noise(5, 300_000), &noise(1000 + n * 10 + c, 40_000)]))
            .collect();
        let index = maker.index(&children);
        maker.name(&format!("docker.io/team/app{n}:1"), &index);
        names.push(format!("mirror/team/app{n}"));
    }
    let bundle = maker.open();
    let (mut killed, mut finished, mut lives) = (0, 0, 0);
    while killed < 50 || finished < 2 {
        // A registry that would accept an index before its children, so that only the push ensures the order.
        let registry = Arc::new(Double::start(Options {
            accept_sparse: true,
            ..Options::default()
        }));
        let watcher = Watcher::start(&registry, &names);
        loop {
            // Each run ends after another number of requests, at any point of a push.
            lives += 1;
            assert!(lives < 500, "it does not get on");
            let end = registry.requests().len() as u64 + 1 + super::support::fault::scatter(42, lives) % 140;
            let report = tokio::select! {
                report = run(&bundle, request(&registry)) => report.unwrap(),
                () = async {
                    while (registry.requests().len() as u64) < end {
                        tokio::time::sleep(Duration::from_micros(50)).await;
                    }
                } => {
                    killed += 1;
                    continue;
                }
            };
            assert!(!report.failed(), "{report:?}");
            finished += 1;
            break;
        }
        assert!(watcher.end() > 0);
        for name in &names {
            assert_complete(&registry, name, "1", false);
        }
    }
}
