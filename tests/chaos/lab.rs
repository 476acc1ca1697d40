//! Two real registries with a proxy in front of each, and runs of the program, one for each seed.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use docker_mirror::{Bundle, OpenOptions};

use super::corpus;
use super::support::chaos::Schedule;
use super::support::fault::scatter;
use super::support::layout;
use super::support::proxy::Proxy;
use super::support::real::{RealRegistry, Setup};
use super::support::{Cli, sha256};
use super::watcher::Watcher;

/// A run that takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(240);

pub(crate) struct Registries {
    source: RealRegistry,
    target: RealRegistry,
}

/// Both registries, the source with the images; `None` if a program for them is missing, which was reported.
pub(crate) fn registries() -> Option<Registries> {
    let start = || RealRegistry::start(Setup::default(), "chaos between two docker-registry");
    let (source, target) = (start()?, start()?);
    corpus::push(&source.client());
    Some(Registries { source, target })
}

/// How the disturbed run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Right,
    Failed,
}

/// What came of a seed.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) seed: u64,
    pub(crate) operation: &'static str,
    pub(crate) ending: Ending,
    /// What must not be.
    pub(crate) faults: Vec<String>,
    /// What the proxies did.
    pub(crate) tally: BTreeMap<&'static str, u64>,
    details: String,
}

impl Outcome {
    pub(crate) fn report(&self) -> String {
        format!(
            "== seed {} ({}): {:?}\n{}\n{}",
            self.seed,
            self.operation,
            self.ending,
            self.faults.iter().map(|f| format!("WRONG: {f}\n")).collect::<String>(),
            self.details
        )
    }
}

/// What a run of the program came to.
struct Done {
    code: Option<i32>,
    text: String,
    took: Duration,
}

/// What one worker has for itself.
pub(crate) struct Lab<'a> {
    registries: &'a Registries,
    source: Proxy,
    target: Proxy,
    home: Cli,
    /// The undisturbed bundle.
    bundle: Vec<u8>,
    /// The manifest under each tag, without disturbance.
    roots: Vec<Vec<u8>>,
}

impl<'a> Lab<'a> {
    pub(crate) fn new(registries: &'a Registries, worker: usize) -> Self {
        let mut lab = Self {
            registries,
            source: Proxy::start(&registries.source.host()),
            target: Proxy::start(&registries.target.host()),
            home: user(),
            bundle: Vec::new(),
            roots: Vec::new(),
        };
        let mut export = vec!["export".to_owned(), "-o".to_owned(), "right.tar".to_owned()];
        export.extend(lab.names());
        lab.home.succeed(&strings(&export));
        lab.bundle = std::fs::read(lab.home.path("right.tar")).unwrap();
        let prefix = format!("right{worker}");
        let destination = format!("{}/{prefix}", registries.target.host());
        lab.home.succeed(&["import", "right.tar", "-d", &destination]);
        let client = registries.target.client();
        lab.roots = lab
            .tags(&prefix)
            .iter()
            .map(|(repository, tag)| client.manifest(repository, tag).expect("the undisturbed run"))
            .collect();
        assert_eq!(lab.wrong_at(&prefix), [""; 0], "the undisturbed run");
        lab
    }

    fn names(&self) -> Vec<String> {
        let name = |(repository, tag, _): &corpus::Named| format!("{}/{repository}:{tag}", self.source.host());
        corpus::images().iter().map(name).collect()
    }

    fn tags(&self, prefix: &str) -> Vec<(String, String)> {
        let place = |(repository, tag, _): &corpus::Named| (format!("{prefix}/{repository}"), (*tag).to_owned());
        corpus::images().iter().map(place).collect()
    }

    /// One run under a seed, and what has to follow.
    pub(crate) fn run(&self, seed: u64) -> Outcome {
        let operation = ["export", "import", "mirror"][(seed % 3) as usize];
        let schedules = [2 * seed, 2 * seed + 1].map(|n| Arc::new(Schedule::new(n)));
        // A mirror is disturbed on one side or on both.
        let sides = match (operation, scatter(seed, 9) % 3) {
            ("export", _) | ("mirror", 0) => [true, false],
            ("import", _) | ("mirror", 1) => [false, true],
            _ => [true, true],
        };
        let user = user();
        let prefix = format!("seed{seed}");
        let arguments = self.arguments(operation, seed, &prefix, &user);
        let tags = self.tags(&prefix);
        let client = self.registries.target.client();

        for ((proxy, schedule), side) in [&self.source, &self.target].into_iter().zip(&schedules).zip(sides) {
            proxy.follow(side.then(|| schedule.clone()));
        }
        let stop = AtomicBool::new(false);
        let (disturbed, watcher) = std::thread::scope(|scope| {
            let watcher = scope.spawn(|| Watcher::default().watch(&client, &tags, &stop));
            let done = start(&user, &arguments);
            stop.store(true, Ordering::SeqCst);
            (done, watcher.join().unwrap())
        });
        let logs = [self.source.log(), self.target.log()].join("\n");
        self.source.follow(None);
        self.target.follow(None);

        let mut faults = watcher.faults;
        let ending = match disturbed.code {
            Some(0) => Ending::Right,
            _ => Ending::Failed,
        };
        faults.extend(self.unsaid(&disturbed));
        let state = self.wrong(operation, &user, &prefix);
        match ending {
            Ending::Right => faults.extend(state.into_iter().map(|w| format!("it ended well, but {w}"))),
            Ending::Failed if user.path("b.tar").exists() && operation == "export" => {
                faults.push("it failed, and the bundle has its final name".to_owned());
            }
            Ending::Failed => {}
        }
        let mut details = format!(
            "{}\n{}\n{logs}\n--- disturbed: {:?} in {:?}\n{}",
            schedules[0].describe(),
            schedules[1].describe(),
            disturbed.code,
            disturbed.took,
            disturbed.text
        );
        if ending == Ending::Failed {
            let again = start(&user, &arguments);
            if again.code != Some(0) {
                faults.push(format!("the run without faults ended with {:?}", again.code));
            }
            let state = self.wrong(operation, &user, &prefix);
            faults.extend(state.into_iter().map(|w| format!("after the run without faults {w}")));
            details.push_str(&format!("--- again: {:?}\n{}", again.code, again.text));
        }
        let mut tally = schedules[0].tally();
        for (name, count) in schedules[1].tally() {
            *tally.entry(name).or_default() += count;
        }
        Outcome {
            seed,
            operation,
            ending,
            faults,
            tally,
            details,
        }
    }

    fn arguments(&self, operation: &str, seed: u64, prefix: &str, user: &Cli) -> Vec<String> {
        let mut arguments: Vec<String> = match operation {
            "export" => ["export", "-o", "b.tar"].map(str::to_owned).to_vec(),
            "import" => {
                std::fs::write(user.path("b.tar"), &self.bundle).unwrap();
                ["import", "b.tar"].map(str::to_owned).to_vec()
            }
            _ => Vec::new(),
        };
        if operation != "export" {
            arguments.extend(["-d".to_owned(), format!("{}/{prefix}", self.target.host())]);
        }
        if operation != "import" {
            arguments.extend(self.names());
            if seed.is_multiple_of(2) {
                arguments.push("--no-cache".to_owned());
            }
        }
        let retries = (1 + scatter(seed, 1) % 5).to_string();
        let jobs = (1 + scatter(seed, 2) % 6).to_string();
        let flags = ["--stall-timeout", "1", "--retries", &retries, "-j", &jobs, "-v"];
        arguments.extend(flags.map(str::to_owned));
        arguments
    }

    /// What a run must have said and did not, or said and must not.
    fn unsaid(&self, done: &Done) -> Vec<String> {
        let mut wrong = Vec::new();
        if done.text.contains("panicked") {
            wrong.push("it panicked".to_owned());
        }
        match done.code {
            Some(0) => {}
            Some(1 | 3..=6) => {
                let about = [self.source.host(), self.target.host()];
                let mut lines = done.text.lines().skip_while(|line| !line.starts_with("error: "));
                if !lines.any(|line| about.iter().any(|host| line.contains(host)) || line.contains("sha256:")) {
                    wrong.push("its message names neither a registry nor a digest".to_owned());
                }
            }
            None => wrong.push(format!("it did not end within {DEADLINE:?}")),
            Some(code) => wrong.push(format!("it ended with {code}")),
        }
        wrong
    }

    /// What is not as it must be after a run that ended well.
    fn wrong(&self, operation: &str, user: &Cli, prefix: &str) -> Vec<String> {
        if operation == "export" {
            self.wrong_in(user)
        } else {
            self.wrong_at(prefix)
        }
    }

    /// The same of a bundle.
    fn wrong_in(&self, user: &Cli) -> Vec<String> {
        let path = user.path("b.tar");
        if !path.exists() {
            return vec!["there is no bundle".to_owned()];
        }
        let mut wrong = Vec::new();
        if layout::read(&path) != self.bundle {
            wrong.push("the bundle has other bytes than the undisturbed one".to_owned());
            wrong.extend(unverified(&path));
        }
        if user.files() != ["b.tar"] {
            wrong.push(format!("there is more than the bundle: {:?}", user.files()));
        }
        wrong
    }

    /// Checks the destination in the same way: every tag, every manifest below it and every blob, by its bytes.
    fn wrong_at(&self, prefix: &str) -> Vec<String> {
        let client = self.registries.target.client();
        let mut wrong = Vec::new();
        for ((_, _, image), ((repository, tag), root)) in
            corpus::images().iter().zip(self.tags(prefix).iter().zip(&self.roots))
        {
            let found = client.manifest(repository, tag);
            if found.as_ref() != Some(root) {
                let found = found.map(|bytes| sha256(&bytes));
                wrong.push(format!("{repository}:{tag} is {found:?} instead of {}", sha256(root)));
                continue;
            }
            let text = String::from_utf8_lossy(root).into_owned();
            let mut documents: Vec<_> = image
                .below
                .iter()
                .filter(|d| text.contains(&d.digest))
                .cloned()
                .collect();
            for document in &documents {
                if client.manifest(repository, &document.digest).as_deref() != Some(&document.bytes[..]) {
                    wrong.push(format!("{repository} has not manifest {}", document.digest));
                }
            }
            if image.below.is_empty() {
                documents.push(image.root.clone());
            }
            for digest in super::support::image::Image::blobs_of(&documents) {
                if client.blob(repository, &digest).as_deref() != Some(&image.blobs[&digest][..]) {
                    wrong.push(format!("{repository} has not blob {digest}"));
                }
            }
        }
        wrong
    }
}

/// What the reader of bundles says of one.
fn unverified(path: &Path) -> Vec<String> {
    let bundle = match Bundle::open(&[path.to_owned()], &OpenOptions::default()) {
        Ok(bundle) => bundle,
        Err(error) => return vec![format!("it cannot be read: {}", error.full())],
    };
    let mut wrong = Vec::new();
    for image in bundle.images() {
        match bundle.tree(image) {
            Err(error) => wrong.push(format!("{} cannot be read: {}", image.name, error.full())),
            Ok(tree) => {
                for blob in tree.blobs() {
                    if let Err(error) = bundle.verify_blob(&blob.descriptor.digest) {
                        wrong.push(error.full());
                    }
                }
            }
        }
    }
    wrong
}

/// The program under test, or another build of it.
fn user() -> Cli {
    let other = std::env::var("DOCKER_MIRROR_CHAOS_PROGRAM").ok();
    Cli::new(other.as_deref().unwrap_or(env!("CARGO_BIN_EXE_docker-mirror")))
}

fn strings(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// Runs the program to its end, or kills it at the deadline.
fn start(user: &Cli, arguments: &[String]) -> Done {
    let file = tempfile::tempfile().unwrap();
    let mut command: Command = user.command(&strings(arguments));
    command.stdout(Stdio::null()).stderr(file.try_clone().unwrap());
    let begun = Instant::now();
    let mut child = command.spawn().unwrap();
    let code = loop {
        if let Some(status) = child.try_wait().unwrap() {
            // The only signal that is sent here is that of the deadline, so an end by a signal is a failure.
            break Some(status.code().unwrap_or(-1));
        }
        if begun.elapsed() > DEADLINE {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let mut bytes = Vec::new();
    let mut file = file;
    std::io::Seek::rewind(&mut file).unwrap();
    std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
    Done {
        code,
        text: String::from_utf8_lossy(&bytes).into_owned(),
        took: begun.elapsed(),
    }
}
