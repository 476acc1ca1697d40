//! Credential helpers: programs named `docker-credential-NAME` that store passwords.
//!
//! The protocol is that of docker/docker-credential-helpers: `get` as the only argument, the server on standard input, a
//! JSON object on standard output. A failing helper prints the reason on standard output too, so its output is never quoted:
//! it may contain the secret. Some helpers print notices around their answer; such output is accepted if it has exactly one answer.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::OnceCell;

use super::file::folded;
use super::secret::Credential;
use crate::error::{Error, Kind, Result};
use crate::files::encoding;
use crate::lock::Mutex;
use crate::progress::Progress;
use crate::text::quote;

/// Maximum size of an answer in bytes; tokens of cloud providers have a few KiB.
const MAX_ANSWER: u64 = 64 << 10;

/// Default time limit of a helper: some helpers prompt the user or ask a cloud service.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// Time after which the user is told about a helper that has not answered.
const PATIENCE: Duration = Duration::from_secs(5);

/// Time to read what a helper printed, once it has exited: those bytes are in the pipe already.
const AFTER_EXIT: Duration = Duration::from_millis(200);

/// Output of a failing helper that has no credential for the server.
const NOT_FOUND: &str = "credentials not found";

/// Helper programs, and their answers in this run.
#[derive(Debug)]
pub(super) struct Helpers {
    directories: Vec<PathBuf>,
    timeout: Duration,
    patience: Duration,
    progress: Progress,
    answers: Mutex<HashMap<Question, Arc<OnceCell<Answer>>>>,
}

/// Name of a helper, and the server that it is asked for.
type Question = (String, String);

/// The answer of a helper: a credential, or an error.
type Answer = std::result::Result<Has, Failure>;

/// A helper's credential for a server.
#[derive(Debug, Clone)]
pub(super) struct Has {
    /// The credential; `None` if the helper has none for the server.
    pub(super) credential: Option<Credential>,
    /// Whether the helper printed more than its answer.
    pub(super) talkative: bool,
}

/// An error that can be returned more than once.
#[derive(Debug, Clone)]
struct Failure {
    kind: Kind,
    what: String,
    hint: Hint,
}

#[derive(Debug, Clone, Copy)]
enum Hint {
    /// The program is missing, or its name in the file is wrong.
    Configuration,
    /// The program is there, and what runs it is not.
    Interpreter,
    /// The program runs, but fails.
    TryByHand,
}

#[derive(Deserialize)]
struct Wire {
    username: Option<String>,
    secret: Option<String>,
}

impl Wire {
    /// Reads an answer. The case of its field names does not matter, as in Docker.
    fn new(object: serde_json::Map<String, Value>) -> Option<Self> {
        serde_json::from_value(folded(object).into()).ok()
    }
}

impl Helpers {
    pub(super) fn new(directories: Vec<PathBuf>, timeout: Option<Duration>) -> Self {
        Self {
            directories,
            timeout: timeout.unwrap_or(DEFAULT_TIMEOUT),
            patience: PATIENCE,
            progress: Progress::silent(),
            answers: Mutex::default(),
        }
    }

    /// Tells about slow helpers through `progress`.
    pub(super) fn report_to(&mut self, progress: Progress) {
        self.progress = progress;
    }

    /// Returns the credential of the helper `name` for `server`; the helper is named by `field` of `file`.
    ///
    /// Concurrent callers with the same question share one run of the program.
    pub(super) async fn ask(&self, name: &str, server: &str, file: &str, field: &str) -> Result<Has> {
        let cell = {
            let mut answers = self.answers.lock();
            Arc::clone(answers.entry((name.to_owned(), server.to_owned())).or_default())
        };
        // Boxed, since the compiler limits how deep futures may be nested.
        let answer = cell.get_or_init(|| Box::pin(self.run(name, server))).await;
        answer.clone().map_err(|failure| {
            let program = program_name(name);
            let hint = match failure.hint {
                Hint::Configuration => {
                    format!("install it, or correct `{field}` in {file}")
                }
                Hint::Interpreter => {
                    "see what it needs with `head -n 1` or `ldd`: a script needs its interpreter, and a program for \
                                      another C library does not run here (as one for glibc in Alpine)"
                        .to_owned()
                }
                Hint::TryByHand => {
                    format!("`echo {} | {program} get` shows what it says", quote(&server))
                }
            };
            Error::new(
                failure.kind,
                format!(
                    "credential helper `{program}` for `{}` {}",
                    quote(&server),
                    failure.what
                ),
            )
            .with_hint(hint)
        })
    }

    async fn run(&self, name: &str, server: &str) -> Answer {
        // The name becomes part of a path, so it must not lead to another folder.
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'+');
        if name.is_empty() || !name.bytes().all(plain) {
            return Err(Failure::configuration(
                Kind::Malformed,
                "has an impossible name".to_owned(),
            ));
        }
        let program = program_name(name);
        // Otherwise the silence would look like that of the registry.
        let _in_flight = self.progress.in_flight(&program);
        let exchange = async {
            let mut exchange = std::pin::pin!(self.exchange(name, server));
            if let Ok(answer) = tokio::time::timeout(self.patience, &mut exchange).await {
                return answer;
            }
            self.progress.info(format!(
                "waiting for credential helper `{program}`, which has not answered for `{}` yet: it may be asking a person or another \
                 server",
                quote(&server)
            ));
            exchange.await
        };
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(Ok((status, output))) => read_answer(status, output),
            Ok(Err(failure)) => Err(failure),
            // The program is killed when the future that owns it is dropped.
            Err(_) => Err(Failure::by_hand(
                Kind::Unauthorized,
                format!("gave no answer within {} s", self.timeout.as_secs_f32()),
            )),
        }
    }

    /// Runs the program until it exits, or until it has printed too much.
    async fn exchange(&self, name: &str, server: &str) -> std::result::Result<(ExitStatus, Vec<u8>), Failure> {
        let program = self.program(name);
        let mut child = Command::new(&program)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound if program.is_file() => Failure {
                    kind: Kind::Io,
                    what: format!(
                        "cannot be started, although `{}` exists: its interpreter or loader is missing",
                        quote(&program)
                    ),
                    hint: Hint::Interpreter,
                },
                std::io::ErrorKind::NotFound => Failure::configuration(Kind::NotFound, "is not installed".to_owned()),
                _ => Failure::configuration(Kind::Io, format!("cannot be started: {e}")),
            })?;
        let broken = |e: std::io::Error| Failure::by_hand(Kind::Io, format!("failed to communicate: {e}"));
        if let Some(mut stdin) = child.stdin.take() {
            // A helper that does not read its input may still answer: a closed pipe is not an error.
            match stdin.write_all(server.as_bytes()).await {
                Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => return Err(broken(e)),
                _ => drop(stdin),
            }
        }
        let mut output = Vec::new();
        let mut exited = None;
        if let Some(stdout) = child.stdout.take() {
            let mut stdout = stdout.take(MAX_ANSWER + 1);
            let mut reading = std::pin::pin!(stdout.read_to_end(&mut output));
            let end = tokio::select! {
                biased;
                end = &mut reading => Some(end),
                status = child.wait() => {
                    exited = Some(status.map_err(broken)?);
                    // A program that the helper left behind, such as an agent, may keep the pipe open.
                    tokio::time::timeout(AFTER_EXIT, reading).await.ok()
                }
            };
            end.transpose().map_err(broken)?;
        }
        if output.len() as u64 > MAX_ANSWER {
            return Err(Failure::by_hand(
                Kind::Malformed,
                format!("printed more than {MAX_ANSWER} bytes"),
            ));
        }
        let status = match exited {
            Some(status) => status,
            None => child.wait().await.map_err(broken)?,
        };
        Ok((status, output))
    }

    /// Returns the path of a helper: the first program of that name in the folders, else the first file, as in execvp(3).
    fn program(&self, name: &str) -> PathBuf {
        let file = PathBuf::from(format!("docker-credential-{name}"));
        let candidates = || self.directories.iter().map(|directory| directory.join(&file));
        let found = candidates().find(|path| is_program(path));
        let found = found.or_else(|| candidates().find(|path| path.is_file()));
        found.or_else(|| candidates().next()).unwrap_or(file)
    }
}

impl Failure {
    fn configuration(kind: Kind, what: String) -> Self {
        Self {
            kind,
            what,
            hint: Hint::Configuration,
        }
    }

    fn by_hand(kind: Kind, what: String) -> Self {
        Self {
            kind,
            what,
            hint: Hint::TryByHand,
        }
    }
}

fn is_program(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// Returns the name of a helper's program for messages.
pub(super) fn program_name(name: &str) -> String {
    format!("docker-credential-{}", quote(&name))
}

fn read_answer(status: ExitStatus, output: Vec<u8>) -> Answer {
    let output = encoding::utf8(output);
    if !status.success() {
        let text = String::from_utf8_lossy(&output).to_ascii_lowercase();
        if text.contains(NOT_FOUND) {
            return Ok(Has {
                credential: None,
                talkative: false,
            });
        }
        return Err(Failure::by_hand(Kind::Unauthorized, format!("failed ({status})")));
    }
    // The parser's message could quote the secret.
    let wrong = |what: &str| Err(Failure::by_hand(Kind::Malformed, what.to_owned()));
    if output.iter().all(u8::is_ascii_whitespace) {
        return wrong("printed nothing, where a JSON object with `Username` and `Secret` was expected");
    }
    let whole = serde_json::from_slice(&output).ok().and_then(Wire::new);
    let talkative = whole.is_none();
    let mut found = match whole {
        Some(answer) => vec![answer],
        None => answers_within(&output),
    };
    match (found.pop(), found.pop()) {
        (Some(answer), None) => Ok(Has {
            credential: Credential::stored(
                answer.username.as_deref().unwrap_or_default(),
                answer.secret.as_deref().unwrap_or_default(),
            ),
            talkative,
        }),
        (None, _) => wrong("did not print a JSON object with `Username` and `Secret`"),
        (Some(_), Some(_)) => wrong("printed more than one JSON object with `Username` and `Secret`"),
    }
}

/// Returns the answers in an output with other text, such as a notice about a newer version.
/// An answer is a JSON object with both fields.
fn answers_within(output: &[u8]) -> Vec<Wire> {
    let mut found = Vec::new();
    let mut rest = output;
    while let Some(start) = rest.iter().position(|byte| *byte == b'{') {
        rest = &rest[start..];
        let mut objects = serde_json::Deserializer::from_slice(rest).into_iter::<serde_json::Map<String, Value>>();
        let skip = match objects.next() {
            Some(Ok(object)) => {
                let answer = Wire::new(object);
                found.extend(answer.filter(|wire| wire.username.is_some() && wire.secret.is_some()));
                objects.byte_offset()
            }
            _ => 1,
        };
        rest = &rest[skip..];
    }
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use proptest::prelude::*;

    use super::*;
    use crate::progress::Event;

    const ANSWER: &str = r#"{"ServerURL":"x","Username":"u","Secret":"p"}"#;

    fn read(output: impl Into<Vec<u8>>) -> Answer {
        read_answer(ExitStatus::from_raw(0), output.into())
    }

    #[test]
    fn an_answer_is_found_among_other_text() {
        for output in [
            format!("A new version is available: run update\n{ANSWER}\n"),
            format!("{ANSWER}\nnext time use {{braces}}"),
            format!("{{\"level\":\"info\",\"Username\":\"log\"}}\n{ANSWER}"),
            format!("\u{1b}[32m{ANSWER}\u{1b}[0m"),
            format!("notice\n{}", ANSWER.replace(',', ",\n  ")),
        ] {
            let has = read(output.as_str()).unwrap();
            assert_eq!(has.credential, Credential::stored("u", "p"), "{output}");
            assert!(has.talkative, "{output}");
        }
    }

    #[test]
    fn the_case_of_the_fields_does_not_matter() {
        let has = read(r#"{"username":"u","SECRET":"p"}"#).unwrap();
        assert_eq!(has.credential, Credential::stored("u", "p"));
        assert!(!has.talkative);
    }

    #[test]
    fn byte_order_marks_and_line_ends_are_no_other_text() {
        let utf16: Vec<u8> = format!("\u{feff}{ANSWER}")
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        for output in [format!("\u{feff}{ANSWER}\r\n").into_bytes(), utf16] {
            let has = read(output).unwrap();
            assert_eq!(has.credential, Credential::stored("u", "p"));
            assert!(!has.talkative);
        }
    }

    #[test]
    fn an_answer_that_is_not_clear_is_refused() {
        for (output, what) in [
            (format!("{ANSWER}\n{ANSWER}"), "more than one JSON object"),
            (" \r\n".to_owned(), "printed nothing"),
            ("{\"Username\":\"u\"} and more".to_owned(), "did not print"),
            (ANSWER[..20].to_owned(), "did not print"),
        ] {
            let failure = read(output.as_str()).unwrap_err();
            assert!(failure.what.contains(what), "{output}: {}", failure.what);
            assert!(!failure.what.contains("\"p\""), "{}", failure.what);
        }
    }

    #[tokio::test]
    async fn a_slow_helper_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (program, told) = (folder.path().join("docker-credential-slow"), folder.path().join("told"));
        // It answers once the user was told.
        let script = format!(
            "#!/bin/sh\nuntil [ -e {} ]; do sleep 0.01; done\necho '{ANSWER}'\n",
            told.display()
        );
        // Another process writes it: a program cannot be started while a child of another test has it open for writing.
        let write = r#"printf %s "$1" >"$0" && chmod +x "$0""#;
        let mut writer = std::process::Command::new("sh");
        let written = writer.arg("-c").arg(write).arg(&program).arg(script).status();
        assert!(written.unwrap().success());
        let mut helpers = Helpers::new(vec![folder.path().to_owned()], None);
        helpers.patience = Duration::ZERO;
        helpers.report_to(Progress::new(move |event| {
            if let Event::Info(line) = event {
                std::fs::write(&told, &*line).unwrap();
            }
        }));
        let has = helpers.ask("slow", "h.io", "`a.json`", "credsStore").await.unwrap();
        assert_eq!(has.credential, Credential::stored("u", "p"));
        let said = std::fs::read_to_string(folder.path().join("told")).unwrap();
        assert!(said.contains("credential helper `docker-credential-slow`"), "{said}");
        assert!(said.contains("`h.io`"), "{said}");
    }

    proptest! {
        #[test]
        fn any_output_is_read_or_refused(output in prop::collection::vec(any::<u8>(), 0..200), text in "[{}\"a: ,\\[]{0,60}") {
            let _ = read(output);
            let _ = read(text);
        }
    }
}
