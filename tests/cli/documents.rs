//! The README and the guides: every command in them is run, or marked with the reason why not, and every flag exists.
//!
//! A block that begins with three backticks and `sh` is run by bash, one block after the other in one folder for each
//! document. `skip="reason"` behind `sh` marks a block that is not run, and `exit=any` one that may fail. Blocks in
//! other languages are not run.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::support::image::Style;
use super::support::tls::{ServerTls, self_signed};
use super::support::{Double, Options, images};

const GUIDES: [&str; 10] = [
    "README.md",
    "docs/getting-started.md",
    "docs/air-gap.md",
    "docs/monthly-updates.md",
    "docs/registries.md",
    "docs/image-lists.md",
    "docs/what-is-copied.md",
    "docs/inspect.md",
    "docs/report.md",
    "docs/signatures.md",
];

struct Block {
    script: String,
    may_fail: bool,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The blocks that are to be run, and how many others are marked.
fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else { continue };
        let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        let is_command = info == "sh" || info.starts_with("sh ");
        if is_command && !info.contains("skip=\"") {
            blocks.push(Block {
                script: body.join("\n"),
                may_fail: info.contains("exit=any"),
            });
        }
    }
    blocks
}

/// Returns a registry with the images that the guides name, and a `registries.conf` that maps their registries to it.
fn source(folder: &Path) -> Double {
    // What takes the place of a registry is spoken to in TLS.
    let tls = ServerTls::new(self_signed(&["127.0.0.1"]));
    let registry = Double::start(Options::default().tls(tls));
    let platforms = ["linux/amd64", "linux/arm64", "windows/amd64"];
    for (repository, tags) in [
        ("library/hello-world", &["latest"][..]),
        ("library/golang", &["alpine", "1.24-alpine", "1.25-alpine"]),
        ("prometheus/node-exporter", &["v1.7.0", "v1.8.1", "v1.9.0"]),
    ] {
        for tag in tags {
            images::multi(Style::Oci, &platforms, &format!("{repository}:{tag}")).push(&registry, repository, tag);
        }
    }
    let place = |from: &str| {
        let host = registry.host();
        format!("[[registry]]\nprefix = \"{from}\"\nlocation = \"{host}\"\ninsecure = true\n")
    };
    fs::write(folder.join("registries.conf"), place("docker.io") + &place("quay.io")).unwrap();
    registry
}

#[test]
fn every_command_of_the_guides_runs() {
    let mut failures = Vec::new();
    for guide in GUIDES {
        let home = tempfile::tempdir().unwrap();
        let work = home.path().join("work");
        fs::create_dir(&work).unwrap();
        let _source = source(home.path());
        let target = Double::new();
        fs::write(work.join("images.txt"), "hello-world\ngolang:alpine\n").unwrap();
        let program = Path::new(env!("CARGO_BIN_EXE_docker-mirror"));
        let path = std::env::var("PATH").unwrap_or_default();
        let text = fs::read_to_string(root().join(guide)).unwrap();
        for block in blocks(&text) {
            let script = block.script.replace("docker.example.com", &target.host());
            let output = Command::new("bash")
                .args(["-e", "-u", "-c", &script])
                .env_clear()
                .env("PATH", format!("{}:{path}", program.parent().unwrap().display()))
                .env("HOME", home.path())
                .env("CONTAINERS_REGISTRIES_CONF", home.path().join("registries.conf"))
                .current_dir(&work)
                .stdin(Stdio::null())
                .output()
                .unwrap();
            let said = [output.stdout, output.stderr].concat();
            if !output.status.success() && !block.may_fail {
                let said = String::from_utf8_lossy(&said).into_owned();
                failures.push(format!("{guide}:\n{}\n{said}", block.script));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn commands_of_the_documents_are_in_blocks_of_guides() {
    let mut run = 0;
    for page in pages(&root().join("docs"))
        .into_iter()
        .chain([root().join("README.md")])
    {
        let text = fs::read_to_string(&page).unwrap();
        let is_guide = GUIDES.iter().any(|guide| page == root().join(guide));
        let count = if is_guide { blocks(&text).len() } else { 0 };
        run += count;
        // Messages are checked by a test of their own; a want-list begins with the name of the program.
        let is_command = |line: &&str| line.starts_with("    docker-mirror ") && !line.contains(": 1 blob");
        let loose = text.lines().find(is_command);
        assert_eq!(loose, None, "{}", page.display());
        assert!(is_guide || !text.contains("```sh\n"), "{} is no guide", page.display());
    }
    assert!(run > 20, "only {run} blocks were found");
}

/// All pages below a folder that are there for readers.
fn pages(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let here = files
        .into_iter()
        .filter(|path| path.extension().is_some_and(|end| end == "md"));
    here.chain(folders.iter().flat_map(|folder| pages(folder))).collect()
}

/// The anchors that the headings of a page have.
fn anchors(page: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(page).unwrap();
    let headings = text.lines().filter_map(|line| line.strip_prefix('#'));
    let anchor = |heading: &str| {
        let words = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        words
            .chars()
            .filter(|c| c.is_alphanumeric() || "-_".contains(*c))
            .collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn links_lead_somewhere() {
    let names = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "tests/README.md"].map(|name| root().join(name));
    for page in names.into_iter().chain(pages(&root().join("docs"))) {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.contains(char::is_whitespace) {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() {
                page.clone()
            } else {
                page.parent().unwrap().join(path)
            };
            assert!(target.exists(), "{}: {link}", page.display());
            let is_there = anchor.is_empty() || anchors(&target).contains(anchor);
            assert!(is_there, "{}: {link} is no heading", page.display());
        }
    }
}

/// The long flags in a text.
fn flags(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    let words = words.filter(|word| word.starts_with("--") && !word.starts_with("---") && word.len() > 3);
    words.map(str::to_owned).collect()
}

#[test]
fn every_flag_of_the_documents_exists() {
    let cli = super::cli();
    let commands = ["", "export", "import", "inspect", "verify", "diff", "limits"];
    let help = commands.map(|command| match command {
        "" => cli.succeed(&["--help"]).stdout,
        command => cli.succeed(&[command, "--help"]).stdout,
    });
    let known = flags(&help.concat());
    // Those of cargo, tar, sha256sum, curl and others.
    let foreign = [
        "--all",
        "--check",
        "--continue-at",
        "--delete",
        "--differential",
        "--exclude",
        "--fail",
        "--header",
        "--ignore-errors",
        "--locked",
        "--location",
        "--output",
        "--path",
        "--retry",
        "--show-error",
        "--silent",
        "--upload-file",
    ];
    let documents = [
        "docs/air-gap.md",
        "docs/comparison.md",
        "docs/troubleshooting.md",
        "docs/ci/README.md",
    ];
    for document in GUIDES.iter().chain(&documents) {
        let text = fs::read_to_string(root().join(document)).unwrap();
        let unknown: Vec<String> = flags(&text).difference(&known).cloned().collect();
        let unknown: Vec<&String> = unknown
            .iter()
            .filter(|flag| !foreign.contains(&flag.as_str()))
            .collect();
        assert!(unknown.is_empty(), "{document}: {unknown:?}");
    }
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for code in ["0", "1", "2", "3", "4", "5", "6", "124"] {
        assert!(readme.contains(&format!("| {code} |")), "no exit code {code}");
    }
}

#[test]
fn a_ci_file_names_the_checksum_that_is_not_set() {
    for name in [
        "github-actions.yml",
        "gitlab-ci.yml",
        "gitlab-ci-packages.yml",
        "Jenkinsfile",
    ] {
        let text = fs::read_to_string(root().join("docs/ci").join(name)).unwrap();
        let lines = text.lines().map(|line| line.trim().trim_start_matches("- "));
        let checks: Vec<&str> = lines
            .filter(|line| line.contains("sha256sum --check --quiet"))
            .collect();
        assert!(!checks.is_empty(), "{name}");
        for check in checks {
            let output = Command::new("sh")
                .args(["-c", check])
                .env("TOOL_SHA256", "")
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(
                !output.status.success() && text.contains("TOOL_SHA256: set it"),
                "{name}: {text}"
            );
        }
    }
}

/// Returns the Rust source without comments, with texts that span several lines joined.
fn sources(folder: &Path) -> String {
    let mut all = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all += &sources(&path);
        } else {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.lines().map(str::trim).filter(|line| !line.starts_with("//"));
            all += &code.collect::<Vec<_>>().join(" ").replace("\\ ", "");
        }
    }
    all
}

#[test]
fn what_troubleshooting_quotes_is_what_the_program_says() {
    let text = fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let code = sources(&root().join("src"));
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let seen = rows.map(|row| row.split('|').nth(1).unwrap());
    let quoted = seen.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let mut count = 0;
    for part in quoted.flat_map(|quote| quote.split(['…', '_'])) {
        let words = part
            .trim()
            .trim_end_matches(|c: char| c.is_ascii_digit() || " .GiB".contains(c));
        // Status codes and error codes are those of registries.
        if words.len() > 3 && words.chars().any(char::is_lowercase) {
            assert!(code.contains(words), "the program never says `{words}`");
            count += 1;
        }
    }
    assert!(count > 8, "{count}");
}
