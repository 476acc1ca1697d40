//! A headless Chromium, driven through its DevTools protocol over two pipes: no port, no client library.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use base64::Engine;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::real::{optional_program, skipped};

/// How long an answer may take. Only a hang takes longer.
const PATIENCE: Duration = Duration::from_secs(90);

/// A browser with one page. It ends when it is dropped.
pub(crate) struct Browser {
    process: Child,
    commands: ChildStdin,
    messages: Receiver<Value>,
    /// Events that no wait took up, in the order of their arrival.
    pub(crate) events: VecDeque<Value>,
    session: Option<String>,
    last: u64,
    _profile: TempDir,
}

impl Browser {
    /// Starts a browser. Reports and returns `None` if there is none or it does not start on this machine.
    pub(crate) fn start(what: &str) -> Option<Self> {
        let program = optional_program("chromium", what)?;
        let profile = tempfile::tempdir().unwrap();
        let mut process = Command::new("/bin/sh")
            // Commands are read from descriptor 3, and answers are written to 4.
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1"])
            .arg(program)
            .args([
                "--headless=new",
                "--remote-debugging-pipe",
                "--no-first-run",
                "--disable-gpu",
            ])
            // The sandbox requires a user other than root; only the page under test is opened.
            .args([
                "--no-sandbox",
                "--disable-extensions",
                "--disable-background-networking",
                "--disable-sync",
            ])
            .args(["--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1280,1000"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .env("HOME", profile.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (commands, answers) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let (send, messages) = channel();
        std::thread::spawn(move || {
            for message in BufReader::new(answers).split(0).map_while(Result::ok) {
                if send.send(serde_json::from_slice(&message).unwrap()).is_err() {
                    return;
                }
            }
        });
        let mut browser = Self {
            process,
            commands,
            messages,
            events: VecDeque::new(),
            session: None,
            last: 0,
            _profile: profile,
        };
        let Some(made) = browser.try_call("Target.createTarget", &json!({"url": "about:blank"})) else {
            skipped(what, "chromium does not start on this machine");
            return None;
        };
        let attach = json!({"targetId": made["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", &attach);
        browser.session = Some(session["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        Some(browser)
    }

    /// Calls a method and returns its result.
    pub(crate) fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.try_call(method, parameters)
            .unwrap_or_else(|| panic!("{method}: the browser ended, or does not answer"))
    }

    fn try_call(&mut self, method: &str, parameters: &Value) -> Option<Value> {
        self.last += 1;
        let mut message = json!({"id": self.last, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let written = self.commands.write_all(format!("{message}\0").as_bytes());
        written.and_then(|()| self.commands.flush()).ok()?;
        loop {
            let mut answer = self.messages.recv_timeout(PATIENCE).ok()?;
            if answer["id"] == self.last {
                assert!(answer["error"].is_null(), "{method} {parameters}: {answer}");
                return Some(answer["result"].take());
            }
            self.events.push_back(answer);
        }
    }

    /// Opens a file and waits until it is loaded.
    pub(crate) fn open(&mut self, path: &Path) {
        let url = format!("file://{}", path.display());
        let opened = self.call("Page.navigate", &json!({"url": url}));
        assert!(opened["errorText"].is_null(), "{opened}");
        // A call that the page itself answers: it waits for the end of the load.
        let loaded =
            "document.readyState === 'complete' || new Promise(done => addEventListener('load', () => done(true)))";
        assert_eq!(self.value(loaded), true);
    }

    /// The value of an expression in the page.
    #[track_caller]
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let parameters = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut result = self.call("Runtime.evaluate", &parameters);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].take()
    }

    /// Presses a key and lets it go.
    pub(crate) fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            _ => panic!("unknown key {key}"),
        };
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code});
            if kind == "keyDown" && !text.is_empty() {
                event["text"] = json!(text);
            }
            self.call("Input.dispatchKeyEvent", &event);
        }
    }

    /// Types a text into what has the focus.
    pub(crate) fn type_in(&mut self, text: &str) {
        self.call("Input.insertText", &json!({"text": text}));
    }

    /// Shows the page on a `screen`, light or dark, or on paper (`print`).
    pub(crate) fn show_as(&mut self, media: &str, scheme: &str, width: u32) {
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call(
            "Emulation.setEmulatedMedia",
            &json!({"media": media, "features": features}),
        );
        let size = json!({"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", &size);
    }

    /// Takes a picture of the whole page.
    pub(crate) fn picture(&mut self, path: &Path) {
        let picture = self.call(
            "Page.captureScreenshot",
            &json!({"format": "png", "captureBeyondViewport": true}),
        );
        write_base64(path, &picture["data"]);
    }

    /// Prints the page.
    pub(crate) fn print(&mut self, path: &Path) {
        let paper = json!({"paperWidth": 8.27, "paperHeight": 11.69, "printBackground": false});
        let printed = self.call("Page.printToPDF", &paper);
        write_base64(path, &printed["data"]);
    }
}

fn write_base64(path: &Path, data: &Value) {
    let bytes = base64::engine::general_purpose::STANDARD.decode(data.as_str().unwrap());
    std::fs::write(path, bytes.unwrap()).unwrap();
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.session = None;
        let close = json!({"id": self.last + 1, "method": "Browser.close"});
        let _ = self.commands.write_all(format!("{close}\0").as_bytes());
        // Its answers end when it ends.
        while self.messages.recv_timeout(Duration::from_secs(20)).is_ok() {}
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
