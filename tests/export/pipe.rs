//! `-o -`: the same bytes, in order.

use std::io::Read;
use std::process::Stdio;

use crate::support::fault::{Action, When};
use crate::support::{Double, Options};
use crate::tools::{Export, noise, put_image, text};

const MIB: usize = 1 << 20;

fn images(registry: &Double) -> Export {
    put_image(registry, "a/a", "1", &[noise(1, 5 * MIB), noise(2, 100)]);
    put_image(registry, "b/b", "1", &[noise(3, 3 * MIB), noise(2, 100)]);
    Export::of(registry, &["a/a:1", "b/b:1"])
}

#[test]
fn the_same_bytes_as_in_a_file() {
    let registry = Double::new();
    let export = images(&registry);
    let file = export.bundle("b.tar", &[]);
    let piped = export.run("-", &["--read-ahead", "1"]);
    assert!(piped.status.success(), "{}", String::from_utf8_lossy(&piped.stderr));
    assert!(piped.stdout == file, "the pipe has other bytes than the file");
    // The result lines are on stderr now.
    assert!(String::from_utf8_lossy(&piped.stderr).contains("a/a:1@sha256:"));
}

#[test]
fn a_closed_pipe_is_a_clean_error() {
    let registry = Double::new();
    let export = images(&registry);
    let mut child = export
        .command("-", &[])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut some = [0; 1000];
    let mut pipe = child.stdout.take().unwrap();
    pipe.read_exact(&mut some).unwrap();
    drop(pipe);
    let done = child.wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(1), "{}", text(&done));
    let said = text(&done);
    assert!(said.contains("pipe") && !said.contains("panicked"), "{said}");
}

#[test]
fn a_wrong_blob_is_never_whole_in_the_pipe() {
    let registry = Double::start(Options::default().fault(When::get("/blobs/"), Action::FlipBit(50)));
    let export = images(&registry);
    let done = export.run("-", &[]);
    assert_eq!(done.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&done.stderr).contains("sha256:"),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
}

#[test]
fn nothing_is_written_when_an_image_fails() {
    let registry = Double::new();
    put_image(&registry, "a/a", "1", &[noise(1, 1000)]);
    let export = Export::of(&registry, &["a/a:1", "no/such:1"]);
    let done = export.run("-", &[]);
    assert_eq!(done.status.code(), Some(1));
    assert!(done.stdout.is_empty());
    let done = export.run("-", &["--allow-partial"]);
    assert!(!done.stdout.is_empty());
    assert!(String::from_utf8_lossy(&done.stderr).contains("no/such"));
}
