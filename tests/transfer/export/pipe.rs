//! `-o -`: the same bytes, in order.

use std::io::Read;
use std::process::Stdio;

use super::tools::{Export, noise, put_image, text};
use crate::support::fault::{Action, When};
use crate::support::{Double, sha256};

const MIB: usize = 1 << 20;

fn images(registry: &Double) -> Export {
    put_image(registry, "a/a", "1", &[noise(1, 5 * MIB), noise(2, 100)]);
    put_image(registry, "b/b", "1", &[noise(3, 3 * MIB), noise(2, 100)]);
    Export::new(registry, &["a/a:1", "b/b:1"])
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
    let registry = Double::new();
    let export = images(&registry);
    let plain = export.run("-", &[]).stdout;
    // The last byte of the largest layer is wrong in every answer: all bytes before it may be in the pipe by then.
    let layer = noise(1, 5 * MIB);
    let digest = sha256(&layer);
    let last = 5 * MIB as u64 - 1;
    registry.add_fault(When::get(&digest), Action::FlipBit(last));
    let done = export.run("-", &[]);
    assert_eq!(done.status.code(), Some(1), "{}", text(&done));
    assert!(
        text(&done).contains(&digest["sha256:".len()..][..12]),
        "{}",
        text(&done)
    );

    // The output is the beginning of the right bundle, and ends before the layer does.
    assert!(plain.starts_with(&done.stdout), "other bytes");
    let end = layer.len() + plain.windows(64).position(|part| part == &layer[..64]).unwrap();
    assert!(done.stdout.len() < end, "the wrong layer is whole in the pipe");
}

#[test]
fn nothing_is_written_when_an_image_fails() {
    let registry = Double::new();
    put_image(&registry, "a/a", "1", &[noise(1, 1000)]);
    let export = Export::new(&registry, &["a/a:1", "no/such:1"]);
    let done = export.run("-", &[]);
    assert_eq!(done.status.code(), Some(1));
    assert!(done.stdout.is_empty());
    let done = export.run("-", &["--allow-partial"]);
    assert!(!done.stdout.is_empty());
    assert!(String::from_utf8_lossy(&done.stderr).contains("no/such"));
}

/// Six layers that are larger than what is read ahead of them.
fn six_layers(registry: &Double) -> Export {
    let layers: Vec<Vec<u8>> = (0..6).map(|n| noise(n, 8 * MIB)).collect();
    put_image(registry, "a/a", "1", &layers);
    Export::new(registry, &["a/a:1"])
}

#[test]
fn a_registry_that_throttles_does_not_stop_the_pipe() {
    let registry = Double::new();
    let export = six_layers(&registry);
    let plain = export.bundle("b.tar", &[]);
    for flags in [&[][..], &["--gzip"], &["--zstd"]] {
        // Two troubles leave one connection, and the blob in front must get it.
        registry.add_fault(When::path("/manifests/").first(2), Action::status(503));
        let flags = [flags, &["--read-ahead", "1", "--timeout", "60", "--no-cache"]].concat();
        let piped = export.run("-", &flags);
        registry.clear_faults();
        let said = String::from_utf8_lossy(&piped.stderr);
        assert!(piped.status.success(), "{flags:?}: {said}");
        let mut unpacked = Vec::new();
        match flags[0] {
            "--gzip" => {
                flate2::read::GzDecoder::new(piped.stdout.as_slice())
                    .read_to_end(&mut unpacked)
                    .unwrap();
            }
            "--zstd" => unpacked = zstd::decode_all(piped.stdout.as_slice()).unwrap(),
            _ => unpacked = piped.stdout,
        }
        assert!(unpacked == plain, "{flags:?}: other bytes");
    }
}

#[test]
fn the_blob_in_front_gets_a_connection_from_those_behind_it() {
    // Two repositories have the first layer. The first repository breaks off for good once the layers behind it hold
    // all permits.
    let registry = Double::new();
    let layers: Vec<Vec<u8>> = (0..4).map(|n| noise(n, (9 - n as usize) * MIB)).collect();
    let digests = put_image(&registry, "a/a", "1", &layers);
    put_image(&registry, "b/b", "1", &layers[..1]);
    let export = Export::new(&registry, &["a/a:1", "b/b:1"]);
    let plain = export.bundle("b.tar", &[]);
    let broken = When::get("/v2/a/a/blobs/").and(&digests[0]);
    registry.add_fault(
        broken.clone().after(1),
        Action::error(404, "BLOB_UNKNOWN", "blob unknown"),
    );
    registry.add_fault(broken, Action::cut(3 * MIB as u64));
    let piped = export.run("-", &["-j", "3", "--read-ahead", "1", "--timeout", "60"]);
    let said = String::from_utf8_lossy(&piped.stderr);
    assert!(piped.status.success() && said.contains("going on with"), "{said}");
    assert!(piped.stdout == plain, "other bytes");
}

#[test]
fn what_is_read_ahead_is_bounded() {
    let registry = Double::new();
    let layers: Vec<Vec<u8>> = (0..4).map(|n| noise(n, 20 * MIB)).collect();
    put_image(&registry, "a/a", "1", &layers);
    let export = Export::new(&registry, &["a/a:1"]);
    let mut child = export
        .command("-", &["--read-ahead", "1", "-j", "6"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Without a reader, the sent bytes fill the buffers of the program and of the sockets, and then no more are sent.
    let mut before = u64::MAX;
    loop {
        std::thread::sleep(std::time::Duration::from_millis(300));
        let sent = super::tools::blob_bytes_sent(&registry);
        if sent == before && sent > 0 {
            break;
        }
        before = sent;
    }
    // The buffers of sockets are the system's: some MiB each at most.
    assert!(before < 40 * MIB as u64, "{}", registry.transcript());
    let mut all = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut all).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(all == export.bundle("b.tar", &[]), "other bytes");
}

#[test]
fn a_failure_leaves_no_trailer_of_a_compressed_bundle() {
    let registry = Double::new();
    let export = images(&registry);
    registry.add_fault(When::get("/blobs/"), Action::FlipBit(50_000));
    for flag in ["--gzip", "--zstd"] {
        let piped = export.run("-", &[flag]);
        assert_eq!(piped.status.code(), Some(1));
        let mut unpacked = Vec::new();
        let read = match flag {
            "--gzip" => flate2::read::GzDecoder::new(piped.stdout.as_slice()).read_to_end(&mut unpacked),
            _ => zstd::Decoder::new(piped.stdout.as_slice()).and_then(|mut d| d.read_to_end(&mut unpacked)),
        };
        assert!(read.is_err(), "{flag}: it looks whole");
    }
}
