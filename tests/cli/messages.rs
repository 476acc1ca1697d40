//! `docs/messages.md` has each message as the program prints it: this test makes the page by running the program.
//!
//! After an intended change: `INSTA_UPDATE=always cargo test --test cli messages`, then read the difference.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::support::cli::{Output, wait_until};
use super::support::fault::{Action, When};
use super::support::image::Style;
use super::support::images::{greeting, helm_chart, linux_and_windows, small};
use super::support::layout::{Tar, blob_name, write_layout};
use super::support::tls::{Authority, ServerTls};
use super::support::{Auth, Double, Gate, Immutable, Options, PullLimit};
use super::{Cli, cli};

/// What stands before the first section.
const HEAD: &str = "\
# Messages

What the program says when something is not as it should be, and what to do then. This page is made by running the program
(`tests/cli/messages.rs`), so each message stands here as it is shown. Hosts and folders are examples, digests are shortened.

A line begins with what it is: `error:` (something was not done), `warning:` (it was done, and you should know), `note:` (for your
information), `hint:` (what you can do). Of several images that fail, each has a line of its own below the error, with its hint
below that; what has the same cause is told once. Results go to standard output, messages to standard error. Search this page
for words of the message that do not name an image or a host. The last section has the texts of all warnings.
";

/// A page under construction, and a user whose runs are on it.
struct Page {
    text: String,
    cli: Cli,
    /// Texts of this run, and what stands on the page for them.
    names: Vec<(String, String)>,
}

impl Page {
    fn new() -> Self {
        let cli = cli();
        let names = vec![(cli.folder().display().to_string(), "~".to_owned())];
        Self {
            text: HEAD.to_owned(),
            cli,
            names,
        }
    }

    /// Starts a registry that stands on the page by this name.
    fn registry(&mut self, name: &str, options: Options) -> Double {
        let registry = Double::start(options);
        self.names.push((registry.host(), name.to_owned()));
        registry
    }

    fn section(&mut self, title: &str) {
        self.text += &format!("\n## {title}\n");
    }

    /// A message: what it means, and a run that says it.
    fn message(&mut self, title: &str, meaning: &str, arguments: &[&str]) {
        let output = self.cli.run(arguments);
        self.shown(title, meaning, arguments, &output);
        // Each export is one of its own.
        for left in ["b.tar.partial", "b.tar.partial.journal"] {
            let _ = fs::remove_file(self.cli.path(left));
        }
    }

    fn shown(&mut self, title: &str, meaning: &str, arguments: &[&str], output: &Output) {
        assert!(!output.stderr.is_empty(), "{title}: {}", output.everything());
        // A run that a signal ended has the code that a shell makes of it.
        let code = output.code.unwrap_or(130);
        let line = format!("$ docker-mirror {}\n{}", arguments.join(" "), output.stderr);
        let text: String = self.plain(&line).lines().map(|line| format!("    {line}\n")).collect();
        self.text += &format!("\n### {title}\n\n{text}\nExit code {code}. {meaning}\n");
    }

    /// Without what differs from run to run.
    fn plain(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (found, name) in &self.names {
            text = text.replace(found, name);
        }
        let mut plain = String::new();
        let mut rest = text.as_str();
        while let Some(at) = rest.find("sha256:") {
            let end = at + "sha256:".len();
            let digits = rest[end..].chars().take_while(char::is_ascii_hexdigit).count();
            plain += &rest[..end + digits.min(12)];
            plain += if digits > 12 { "…" } else { "" };
            rest = &rest[end + digits..];
        }
        plain += rest;
        let line = |line: &str| match line.rsplit_once(" in ") {
            Some((what, time)) if time.ends_with(" s") && time.len() < 8 => {
                // The checksum of a bundle depends on the port of the registry, which the bundle contains.
                let (what, sum) = match what.split_once(", sha256:") {
                    Some((what, _)) if what.starts_with("wrote ") => (what, ", sha256:0123456789ab…"),
                    _ => (what, ""),
                };
                format!("{what}{sum} in 0.1 s\n")
            }
            _ => format!("{line}\n"),
        };
        plain.lines().map(line).collect()
    }

    /// Compares the page with the file, or writes it.
    fn check(self, path: &Path) {
        if std::env::var("INSTA_UPDATE").is_ok_and(|value| value == "always") {
            return fs::write(path, self.text).unwrap();
        }
        let there = fs::read_to_string(path).unwrap_or_default();
        let differs = there.lines().zip(self.text.lines()).find(|(old, new)| old != new);
        assert!(
            there == self.text,
            "docs/messages.md is not what the program says: {differs:?}; `INSTA_UPDATE=always cargo test --test cli messages` \
             writes it anew"
        );
    }
}

fn command_lines(page: &mut Page) {
    page.section("The command line");
    page.message(
        "no such command",
        "The first word is a command, or else an image.",
        &["exprot", "hello-world", "-o", "b.tar"],
    );
    page.message(
        "no login of its own",
        "Logins are those of docker and podman.",
        &["login", "registry.example.com"],
    );
    page.message(
        "a flag of another command",
        "Nothing was done.",
        &["export", "hello-world", "-o", "b.tar", "--only", "x"],
    );
    page.message(
        "a command behind options",
        "The command comes first.",
        &["-v", "export", "hello-world", "-o", "b.tar"],
    );
    page.message(
        "not the name of an image",
        "Nothing was done.",
        &["export", "Not/A/Name", "-o", "b.tar"],
    );
    page.message(
        "no number",
        "The message names the numbers that are possible.",
        &["export", "hello-world", "-o", "b.tar", "-j", "many"],
    );
    page.cli.set("DOCKER_MIRROR_JOBS", "many");
    page.message(
        "a variable with a wrong value",
        "A flag beats its variable.",
        &["export", "hello-world", "-o", "b.tar"],
    );
    page.cli.set("DOCKER_MIRROR_JOBS", "");
    page.message(
        "no such folder",
        "Nothing was fetched.",
        &["export", "hello-world", "-o", "none/b.tar"],
    );
    page.message(
        "no such file of certificates",
        "Files that flags name are read before the first request.",
        &["export", "hello-world", "-o", "b.tar", "--ca-file", "none.pem"],
    );
    fs::write(page.cli.path("there.tar"), "x").unwrap();
    page.message(
        "an output that exists",
        "Nothing was fetched.",
        &["export", "hello-world", "-o", "there.tar"],
    );
}

fn pulls(page: &mut Page, source: &Double) {
    page.section("Sources");
    let image = |registry: &Double, name: &str| format!("{}/{name}", registry.host());
    for number in 0..30 {
        helm_chart().push(source, "team/chart", &format!("1.{number}"));
    }
    let (tag, name, good) = (
        image(source, "team/chart:1.99"),
        image(source, "no/such:1"),
        image(source, "library/greeting:1.0"),
    );
    page.message(
        "no such tag",
        "Nothing is fetched while a name is wrong, unless `--allow-partial` is given.",
        &["export", &tag, &good, "-o", "b.tar"],
    );
    page.message(
        "no such repository",
        "Some registries say this also of what an account may not see.",
        &["export", &name, &good, "-o", "b.tar"],
    );
    page.message(
        "no such platform",
        "The image has others.",
        &["export", &good, "-o", "b.tar", "--platform", "linux/mips64"],
    );
    let closed = page.registry(
        "private.example.com",
        Options::default().auth(Auth::basic("ann", "secret")),
    );
    let private = image(&closed, "team/app:1");
    page.message(
        "a registry that requires a login",
        "No credentials were found for it.",
        &["export", &private, "-o", "b.tar"],
    );
    page.cli.set("DOCKER_MIRROR_USERNAME", "eve");
    page.cli.set("DOCKER_MIRROR_PASSWORD", "wrong");
    page.message(
        "a login that is rejected",
        "The message says where the login came from.",
        &["export", &private, "-o", "b.tar"],
    );
    page.cli.set("DOCKER_MIRROR_USERNAME", "");
    page.cli.set("DOCKER_MIRROR_PASSWORD", "");
    let down = page.registry(
        "down.example.com",
        Options::default().fault(When::any(), Action::status(502)),
    );
    page.message(
        "a gateway that is down",
        "It is tried again `--retries` times.",
        &["export", &image(&down, "team/app:1"), "-o", "b.tar", "--retries", "0"],
    );
    let web = page.registry("www.example.com", Options::default().fault(When::any(), Action::html()));
    page.message(
        "a web site",
        "The address is not that of a registry.",
        &["export", &image(&web, "team/app:1"), "-o", "b.tar"],
    );
    let authority = Authority::new("Example CA");
    let secure = page.registry(
        "tls.example.com",
        Options::default().tls(ServerTls::new(authority.server(&["127.0.0.1"]))),
    );
    page.message(
        "an unknown authority",
        "The certificate is not signed by one that this machine trusts.",
        &["export", &image(&secure, "team/app:1"), "-o", "b.tar", "--retries", "0"],
    );
    let limit = PullLimit {
        limit: 100,
        remaining: 0,
        window: 21600,
    };
    let limited = page.registry(
        "limited.example.com",
        Options {
            pull_limit: Some(limit),
            ..Options::default()
        },
    );
    greeting().push(&limited, "library/greeting", "1.0");
    page.message(
        "a pull limit",
        "What is fetched by then stays, and the next run resumes.",
        &["export", &image(&limited, "library/greeting:1.0"), "-o", "b.tar"],
    );
    let throttled = Options::default().fault(When::get("/manifests/"), Action::throttled(Some("3600")));
    let throttled = page.registry("busy.example.com", throttled);
    page.message(
        "a registry that asks for a long pause",
        "A pause of up to two minutes is kept; a much longer one ends the run.",
        &["export", &image(&throttled, "team/app:1"), "-o", "b.tar"],
    );
    page.message(
        "platforms left out",
        "Nothing is wrong: only Linux platforms are included unless `--platform` says otherwise.",
        &["export", &good, "-o", "good.tar"],
    );
    let lost = Options::default().fault(When::get("/blobs/"), Action::error(404, "BLOB_UNKNOWN", "blob unknown"));
    let lost = page.registry("lossy.example.com", lost);
    helm_chart().push(&lost, "team/chart", "1");
    page.message(
        "a blob that the registry lost",
        "The registry has the manifest, and not all that it lists.",
        &[
            "export",
            &image(&lost, "team/chart:1"),
            "-o",
            "lost.tar",
            "--retries",
            "0",
            "-j",
            "1",
        ],
    );
}

/// Mirrors an image whose registry begins to list referrers only after the image was pushed.
fn late_referrers(page: &mut Page, target: &Double) {
    let late = page.registry("late.example.com", Options::default());
    let gate = Gate::closed();
    small(Style::Oci, "linux/amd64", "early").push(&late, "team/app", "1");
    small(Style::Oci, "linux/amd64", "late").push(&late, "team/late", "1");
    late.add_fault(When::get("/team/app/referrers/").first(1), Action::status(404));
    late.add_fault(When::path("/team/late/manifests/1"), Action::Hold(gate.clone()));
    let (host, images) = (
        target.host(),
        ["app", "late"].map(|name| format!("{}/team/{name}:1", late.host())),
    );
    let arguments = ["-d", &host, &images[0], &images[1]];
    let child = page.cli.spawn(&arguments);
    wait_until("the first image is pushed", || {
        target.manifest("team/app", "1").is_some()
    });
    gate.open();
    let output = Output::new(&child.wait_with_output().unwrap(), &arguments);
    let meaning = "Run it again: the referrers are pushed then.";
    page.shown("a registry that begins to list referrers", meaning, &arguments, &output);
}

/// Lists the texts of the warnings in the source. What a run puts into a text is shown as `…`.
fn warnings(page: &mut Page) {
    page.section("All warnings");
    page.text += "\nA warning names what was done although something was wrong. These are the texts, with `…` for names, numbers and causes.\n\n";
    let mut found = BTreeSet::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.to_string_lossy().ends_with("_tests.rs") => {}
                false => found.extend(warnings_in(&fs::read_to_string(&path).unwrap())),
            }
        }
    }
    assert!(found.len() > 50, "{found:#?}");
    found.into_iter().for_each(|text| page.text += &format!("- {text}\n"));
}

/// Returns the texts of the warnings in a source file: the literals in calls that warn, and those that begin with `warning: `.
fn warnings_in(source: &str) -> Vec<String> {
    const CALLS: [&str; 4] = [".warn(", "warn_once(", "warnings.push(", "\"warning: "];
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let mut texts = Vec::new();
    for (at, call) in CALLS.iter().flat_map(|call| source.match_indices(call)) {
        let literal = match call.strip_prefix('"') {
            Some(_) => Some(&source[at + call.len()..]),
            None => {
                let (before, literal) = source[at + call.len()..].split_once('"').unwrap_or_default();
                // Other calls before the literal mean that the text comes from elsewhere.
                let is_own = matches!(before.trim(), "" | "format!(");
                is_own.then_some(literal)
            }
        };
        texts.extend(literal.and_then(template));
    }
    texts
}

/// Returns the text of a literal of Rust from behind its first quote, with `…` in place of each placeholder; `None` if it has no words.
fn template(literal: &str) -> Option<String> {
    let mut text = String::new();
    let mut characters = literal.chars().peekable();
    loop {
        match characters.next()? {
            '"' => break,
            '\\' => match characters.next()? {
                '\n' => while characters.next_if(|next| next.is_whitespace()).is_some() {},
                other => text.push(other),
            },
            '{' if characters.next_if_eq(&'{').is_none() => {
                while characters.next()? != '}' {}
                text.push('…');
            }
            other => text.push(other),
        }
    }
    text.chars().filter(|c| c.is_ascii_lowercase()).nth(10)?;
    Some(text)
}

fn bundles(page: &mut Page) {
    page.section("Bundles");
    let import = |file: &'static str| ["import", file, "-d", "registry.example.com/mirror"];
    page.message("no such file", "Nothing was done.", &import("none.tar"));
    fs::write(page.cli.path("list.tar"), "hello-world\n").unwrap();
    page.message("not an archive", "The file is something else.", &import("list.tar"));
    let whole = fs::read(page.cli.path("good.tar")).unwrap();
    fs::write(page.cli.path("cut.tar"), &whole[..whole.len() / 2 + 100]).unwrap();
    page.message("a truncated file", "It was not copied to its end.", &import("cut.tar"));
    fs::write(page.cli.path("early.tar.partial"), "").unwrap();
    page.message(
        "an unfinished export",
        "Only a finished bundle has the final name.",
        &import("early.tar"),
    );
}

fn pushes(page: &mut Page) {
    page.section("Destinations");
    let target = page.registry("registry.example.com", Options::default());
    let host = format!("{}/mirror", target.host());
    write_layout(
        &page.cli.path("one.tar"),
        &[("docker.io/library/greeting:1.0", &greeting())],
    );
    let damaged = page.cli.path("damaged.tar");
    fs::copy(page.cli.path("one.tar"), &damaged).unwrap();
    let blobs = super::support::image::Image::blobs_of(&greeting().below);
    Tar::open(&damaged).flip(&blob_name(&blobs[0]));
    page.message(
        "a damaged bundle",
        "What is wrong gets no tag.",
        &["import", "damaged.tar", "-d", &host, "-j", "1"],
    );
    page.message(
        "all is well",
        "What was pushed, and what was there already.",
        &["import", "one.tar", "-d", &host],
    );
    page.message(
        "nothing to do",
        "A repeated import is quick.",
        &["import", "one.tar", "-d", &host],
    );
    write_layout(
        &page.cli.path("other.tar"),
        &[("docker.io/library/greeting:1.0", &helm_chart())],
    );
    page.message(
        "a tag that is to stay",
        "`--on-existing skip` was given.",
        &["import", "other.tar", "-d", &host, "--on-existing", "skip"],
    );
    page.message(
        "a tag that must not be there",
        "`--on-existing error` was given.",
        &["import", "other.tar", "-d", &host, "--on-existing", "error"],
    );
    page.message(
        "a tag that was updated",
        "It had another digest.",
        &["import", "other.tar", "-d", &host],
    );
    page.message(
        "no image matches",
        "The pattern is for the whole reference.",
        &["import", "one.tar", "-d", &host, "--only", "hello"],
    );
    let immutable = Options {
        immutable_tags: Some(Immutable::Other),
        ..Options::default()
    };
    let immutable = page.registry("immutable.example.com", immutable);
    page.cli.succeed(&["import", "one.tar", "-d", &immutable.host()]);
    page.message(
        "an immutable tag",
        "The registry lets no tag be moved.",
        &["import", "other.tar", "-d", &immutable.host()],
    );
    let full = Options::default().fault(
        When::path("/blobs/uploads/"),
        Action::error(507, "DENIED", "quota exceeded"),
    );
    let full = page.registry("full.example.com", full);
    page.message(
        "a registry without room",
        "Nothing gets a tag that is not complete.",
        &["import", "one.tar", "-d", &full.host(), "-j", "1"],
    );
    let read_only = Options::default().fault(
        When::post("/blobs/uploads/"),
        Action::error(405, "UNSUPPORTED", "The operation is unsupported."),
    );
    let read_only = page.registry("readonly.example.com", read_only);
    page.message(
        "a registry that is read-only",
        "Nothing was pushed.",
        &["import", "one.tar", "-d", &read_only.host(), "-j", "1"],
    );
    let partial = Options::default().fault(When::put("/blobs/uploads/"), Action::KeepOnly(7));
    let partial = page.registry("partial.example.com", partial);
    page.message(
        "a registry that keeps a part of a blob",
        "The first upload is checked: the tag was not written.",
        &["import", "one.tar", "-d", &partial.host(), "-j", "1"],
    );
    late_referrers(page, &target);
    let limited = Options {
        max_body: Some(10),
        ..Options::default()
    };
    let nginx = page.registry("nginx.example.com", limited);
    page.message(
        "a proxy with a limit for bodies",
        "Smaller pieces were tried before.",
        &["import", "one.tar", "-d", &nginx.host(), "-j", "1"],
    );
}

fn ends(page: &mut Page) {
    page.section("Runs that end early");
    let gate = Gate::closed();
    let slow = page.registry(
        "slow.example.com",
        Options::default().fault(When::path("/manifests/"), Action::Hold(gate.clone())),
    );
    let image = format!("{}/team/app:1", slow.host());
    page.message(
        "a time limit",
        "`--timeout` was given.",
        &["export", &image, "-o", "slow.tar", "--timeout", "1"],
    );
    for (title, signal, meaning) in [
        ("Ctrl-C", "INT", "What is there stays, and the next run resumes."),
        ("a supervisor that ends the run", "TERM", "The same."),
        ("a terminal that was closed", "HUP", "The same."),
    ] {
        let arguments = ["export", &image, "-o", "slow.tar"];
        let before = slow.count("GET", "/manifests/") + slow.count("HEAD", "/manifests/");
        let child = page.cli.spawn(&arguments);
        wait_until("a request", || {
            slow.count("GET", "/manifests/") + slow.count("HEAD", "/manifests/") > before
        });
        let pid = child.id().to_string();
        assert!(
            Command::new("kill")
                .args([&format!("-{signal}"), &pid])
                .status()
                .unwrap()
                .success()
        );
        let output = Output::new(&child.wait_with_output().unwrap(), &arguments);
        page.shown(title, meaning, &arguments, &output);
    }
    gate.open();
}

#[test]
fn the_page_of_messages_is_what_the_program_says() {
    let mut page = Page::new();
    let source = page.registry("source.example.com", Options::default());
    linux_and_windows(Style::Oci).push(&source, "library/greeting", "1.0");
    command_lines(&mut page);
    pulls(&mut page, &source);
    bundles(&mut page);
    pushes(&mut page);
    ends(&mut page);
    warnings(&mut page);
    page.check(&Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/messages.md"));
}
