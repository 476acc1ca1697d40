//! Text from outside, from any source, is shown as text: it does not control the terminal, cannot forge a line, and is
//! truncated.

mod bundles;
mod documents;
mod registries;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::Output;

use docker_mirror::is_unsafe;
use serde_json::{Value, json};

use super::support::fault::{Action, Canned, When};
use super::support::{Double, sha256};
use super::{Cli, cli, source};

/// A line break with a forged line, a carriage return, a tab, an escape sequence, C1 in both encodings of CSI, marks of
/// direction, a line separator, and invisible characters.
const HOSTILE: &str = "x\nerror: forged\r\n  hint: forged\t\u{1b}[31m\u{9b}31m\u{85}\u{7f}\u{61c}\u{200e}\u{202e}\u{2066}\u{2028}\u{200b}\u{feff}";

/// The same without characters that a JSON text or a header line cannot contain unescaped.
const BIDI: &str = "x\u{202e}forged\u{2069}\u{200f}\u{9b}31m";

/// Maximum number of bytes that any of these runs may write, although its input has many more.
const MOST: usize = 64 << 10;

/// Maximum number of bytes that a command may write that shows the content of a bundle, or up to a thousand faults of
/// it.
const MOST_SHOWN: usize = 1 << 20;

/// What is wrong with the output of a run, if anything.
fn faults(what: &str, output: &Output, most: usize) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        let Ok(text) = std::str::from_utf8(bytes) else {
            faults.push(format!("{what}: {name} is not UTF-8: {}", bytes.escape_ascii()));
            continue;
        };
        if let Some(c) = text.chars().find(|c| is_unsafe(*c) && *c != '\n') {
            faults.push(format!("{what}: {c:?} on {name}: {text:?}"));
        }
        if text.lines().any(|line| {
            let line = line.trim_start();
            line.starts_with("error: forged") || line.starts_with("hint: forged")
        }) {
            faults.push(format!("{what}: a forged line on {name}: {text}"));
        }
        if text.len() > most {
            faults.push(format!(
                "{what}: {} bytes on {name}: {}…",
                text.len(),
                &text[..2000.min(text.len())]
            ));
        }
    }
    if output.status.code().is_none() || String::from_utf8_lossy(&output.stderr).contains("panicked") {
        faults.push(format!(
            "{what}: {:?} {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    faults
}

/// Runs the program, and fails if its output is unsafe. If `shows` gives the escaped form of the text, the output must
/// contain it.
struct Lab {
    cli: Cli,
    faults: Vec<String>,
    runs: usize,
    most: usize,
}

impl Lab {
    fn new() -> Self {
        Self {
            cli: cli(),
            faults: Vec::new(),
            runs: 0,
            most: MOST,
        }
    }

    fn run(&mut self, what: &str, arguments: &[&OsStr], environment: &[(&str, &OsStr)], shows: Option<&str>) {
        let mut command = self.cli.command(&[]);
        let output = command
            .args(arguments)
            .envs(environment.iter().copied())
            .output()
            .unwrap();
        self.judge(what, &output, shows);
    }

    fn judge(&mut self, what: &str, output: &Output, shows: Option<&str>) {
        self.runs += 1;
        self.faults.extend(faults(what, output, self.most));
        let all = [&output.stdout[..], &output.stderr[..]].concat();
        let all = String::from_utf8_lossy(&all);
        if let Some(shown) = shows.filter(|shown| !all.contains(shown)) {
            self.faults.push(format!("{what}: no `{shown}` in: {all}"));
        }
    }

    fn say(&mut self, what: &str, arguments: &[&str], shows: Option<&str>) {
        let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        self.run(what, &arguments, &[], shows);
    }

    #[track_caller]
    fn conclude(self) {
        assert!(self.runs > 3);
        assert!(
            self.faults.is_empty(),
            "{} faults:\n{}",
            self.faults.len(),
            self.faults.join("\n")
        );
    }
}

/// Returns bytes that are not UTF-8, and a lone surrogate as some systems write one into the name of a file.
fn no_text() -> OsString {
    OsString::from_vec(b"x\xff\xed\xa0\x80\nerror: forged\x9b31m".to_vec())
}

#[test]
fn arguments() {
    let mut lab = Lab::new();
    let long = "y".repeat(60_000);
    std::fs::write(lab.cli.path("there.tar"), "no bundle").unwrap();
    let shapes: &[&[&str]] = &[
        &["export", "@", "-o", "b.tar"],
        &["export", "@", "@", "-o", "b.tar"],
        &["export", "127.0.0.1:1/a/b:@", "-o", "b.tar"],
        &["export", "127.0.0.1:1/a/b:1", "-o", "no-such-folder/@"],
        &["export", "127.0.0.1:1/a/b:1", "-o", "@"],
        &["export", "a", "-o", "b.tar", "--platform", "@"],
        &["export", "a", "-o", "b.tar", "--index", "@"],
        &["export", "127.0.0.1:1/a/b:1", "-o", "b.tar", "--reuse", "@"],
        &["export", "a", "-o", "b.tar", "--jobs", "@"],
        &["export", "a", "-o", "b.tar", "--mirror", "@"],
        &["export", "a", "-o", "b.tar", "--mirror", "a=@"],
        &["export", "a", "-o", "b.tar", "--ca-file", "@"],
        &["export", "a", "-o", "b.tar", "--cert", "@", "--key", "@"],
        &["export", "a", "-o", "b.tar", "--auth-file", "@"],
        &["export", "a", "-o", "b.tar", "--timeout", "@"],
        &["export", "a", "-o", "b.tar", "--@"],
        &["export", "a", "-o", "b.tar", "-@"],
        &["export", "a", "-o", "b.tar", "--gzip=@"],
        &["--debug", "export", "@"],
        &["-d", "@", "a"],
        &["-d", "127.0.0.1:1/@", "a"],
        &["-d", "127.0.0.1:1", "@"],
        &["-d", "127.0.0.1:1", "127.0.0.1:1/a/b:1", "--map", "@"],
        &["-d", "127.0.0.1:1", "127.0.0.1:1/a/b:1", "--map", "a=@"],
        &["-d", "127.0.0.1:1", "a", "--on-existing", "@"],
        &["-d", "127.0.0.1:1", "127.0.0.1:1/a/b:1", "--report", "no-such-folder/@"],
        &["-d", "127.0.0.1:1", "127.0.0.1:1/a/b:1", "-vv", "--report", "@"],
        &["import", "@", "-d", "127.0.0.1:1"],
        &["import", "there.tar", "@", "-d", "127.0.0.1:1"],
        &["import", "there.tar", "-d", "127.0.0.1:1", "--only", "["],
        &["import", "there.tar", "-d", "127.0.0.1:1", "--name", "@"],
        &["import", "there.tar", "-d", "127.0.0.1:1", "--name", "@=a"],
        &["import", "there.tar", "-d", "127.0.0.1:1", "--platform", "@"],
        &["limits", "@"],
        &["limits", "127.0.0.1:1/a/b:1", "@"],
        &["help", "@"],
        &["@"],
    ];
    for payload in [OsStr::new(HOSTILE), OsStr::new(BIDI), OsStr::new(&long), &no_text()] {
        for shape in shapes {
            let filled: Vec<OsString> = shape
                .iter()
                .map(|part| {
                    let parts: Vec<&[u8]> = part.as_bytes().split(|b| *b == b'@').collect();
                    OsString::from_vec(parts.join(payload.as_bytes()))
                })
                .collect();
            let filled: Vec<&OsStr> = filled.iter().map(OsString::as_os_str).collect();
            lab.run(&shape.join(" "), &filled, &[], None);
        }
    }
    lab.say("a flag", &["export", "--a\nerror: forged"], Some("--a\\nerror: forged"));
    lab.say(
        "an image",
        &["export", "a\nerror: forged", "-o", "b"],
        Some("a\\nerror: forged"),
    );
    lab.say(
        "a bundle",
        &["import", "a\nerror: forged", "-d", "h"],
        Some("a\\nerror: forged"),
    );
    lab.conclude();
}

#[test]
fn what_the_program_is_called() {
    use std::os::unix::process::CommandExt;
    let mut lab = Lab::new();
    for arguments in [&["--help"][..], &["export", "--help"], &["--version"], &["import"], &[]] {
        let output = lab.cli.command(arguments).arg0(HOSTILE).output().unwrap();
        lab.judge("argv[0]", &output, None);
    }
    lab.conclude();
}

#[test]
fn variables() {
    let mut lab = Lab::new();
    let image = format!("{}/library/greeting:1.0", source().host());
    let arguments = ["export", image.as_str(), "-o", "b.tar", "-vv"].map(OsStr::new);
    let no_text = no_text();
    for name in [
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "DOCKER_MIRROR_LOG",
        "DOCKER_MIRROR_USERNAME",
        "DOCKER_AUTH_CONFIG",
        "DOCKER_CONFIG",
        "REGISTRY_AUTH_FILE",
        "CONTAINERS_REGISTRIES_CONF",
        "XDG_CACHE_HOME",
        "XDG_RUNTIME_DIR",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "TMPDIR",
        "HOME",
    ] {
        for value in [
            HOSTILE,
            BIDI,
            &format!("http://{BIDI}:80"),
            &format!("/{HOSTILE}"),
            &"y/".repeat(30_000),
        ] {
            lab.run(name, &arguments, &[(name, OsStr::new(value))], None);
        }
        lab.run(name, &arguments, &[(name, &no_text)], None);
    }
    lab.conclude();
}

#[test]
fn files_of_settings() {
    let mut lab = Lab::new();
    let image = format!("{}/library/greeting:1.0", source().host());
    let host = image.split('/').next().unwrap().to_owned();
    let arguments = ["export", image.as_str(), "-o", "b.tar", "-vv"].map(OsStr::new);
    let toml = |text: &str| serde_json::to_string(text).unwrap();
    let conf = lab.cli.path("registries.conf");
    for text in [
        format!("[[registry]]\nprefix = {}\nlocation = \"a\"\n", toml(BIDI)),
        format!(
            "[[registry]]\nprefix = {}\nlocation = \"a\"\n",
            toml(HOSTILE).replace("\\u007f", "\\u007F")
        ),
        format!("[[registry]]\nlocation = {}\n", toml(&"y".repeat(60_000))),
        format!("[[registry]]\nprefix = \"{host}\"\nlocation = {}\n", toml(HOSTILE)),
        format!("{BIDI} {HOSTILE}"),
        format!("[{BIDI}"),
        format!("a = {BIDI}"),
        format!("[[registry]]\npull-from-mirror = {}\n", toml(HOSTILE)),
    ] {
        std::fs::write(&conf, &text).unwrap();
        lab.run(
            &text,
            &arguments,
            &[("CONTAINERS_REGISTRIES_CONF", conf.as_os_str())],
            None,
        );
    }
    let auth = lab.cli.path("auth.json");
    for value in [
        json!({"auths": {HOSTILE: {"auth": "no base64"}, host.clone(): {"auth": HOSTILE}}}),
        json!({"credHelpers": {host.clone(): HOSTILE}}),
        json!({"credHelpers": {host.clone(): "y".repeat(60_000)}}),
        json!({"credsStore": BIDI, "auths": {host.clone(): {}}}),
        json!({"auths": {host.clone(): {"identitytoken": HOSTILE}}}),
        json!({"auths": HOSTILE}),
        json!({"auths": {host.clone(): HOSTILE}}),
        json!(HOSTILE),
    ] {
        std::fs::write(&auth, value.to_string()).unwrap();
        lab.run(
            &value.to_string(),
            &arguments,
            &[("REGISTRY_AUTH_FILE", auth.as_os_str())],
            None,
        );
    }
    for broken in [HOSTILE.to_owned(), format!("{{\"{BIDI}\":"), "y".repeat(60_000)] {
        std::fs::write(&auth, &broken).unwrap();
        lab.run(&broken, &arguments, &[("REGISTRY_AUTH_FILE", auth.as_os_str())], None);
    }
    // A folder of certificates whose files have hostile names.
    let folder = lab.cli.path(&format!(".config/containers/certs.d/{host}"));
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["crt", "cert", "key"] {
        let mut file = no_text();
        file.push(format!("\u{202e}.{name}"));
        std::fs::write(folder.join(file), "no certificate").unwrap();
    }
    lab.run("certs.d", &arguments, &[], None);
    lab.conclude();
}
