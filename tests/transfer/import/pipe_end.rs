//! A bundle in a pipe whose end turns out to be wrong after its images are complete.

use serde_json::Value;

use super::handmade::assert_complete;
use super::pipe::{bundle, cli, pipe};
use super::support::images::sized;
use super::support::{Cli, Double};

/// Exports one image to `bundle.tar`. Returns the bytes of the file without the two zero blocks at its end.
fn open_ended(cli: &Cli) -> Vec<u8> {
    let image = sized(3, "linux/amd64", &[3 << 20, 1000]);
    bundle(cli, &[("x", &image)]);
    let mut bytes = std::fs::read(cli.path("bundle.tar")).unwrap();
    assert!(bytes[bytes.len() - 1024..].iter().all(|b| *b == 0));
    bytes.truncate(bytes.len() - 1024);
    bytes
}

/// The same with an empty member of this name at the end.
fn with_member(mut bytes: Vec<u8>, name: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_size(0);
    header.set_mode(0o644);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn report(cli: &Cli) -> Value {
    serde_json::from_slice(&std::fs::read(cli.path("r.json")).unwrap()).unwrap()
}

#[test]
fn a_fault_behind_the_last_blob_is_no_success_though_the_images_are_there() {
    let cli = cli();
    let whole = open_ended(&cli);
    let intact = gzip(&[&whole[..], &[0; 1024]].concat());
    let mut wrong_sum = intact.clone();
    let sum = intact.len() - 8;
    wrong_sum[sum] ^= 1;
    for (name, bytes, why) in [
        ("outside", with_member(whole.clone(), b"../x"), "../x"),
        ("sum", wrong_sum, "standard input"),
        ("cut", intact[..intact.len() - 3].to_vec(), "standard input"),
        ("half a header", [&whole[..], &[7; 100]].concat(), "inside a header"),
    ] {
        std::fs::write(cli.path("b"), &bytes).unwrap();
        let target = Double::new();
        let said = pipe(&cli, "b", &target, &["--report", "r.json"]).expect_code(5);
        let said = said.says(&[
            "error: the bundle is faulty: ",
            why,
            "hint: ",
            "note: the images",
            "complete",
        ]);
        assert_complete(&target, "team/x", "1", false);
        assert_eq!(said.lines().len(), 1, "{}", said.everything());
        let report = report(&cli);
        assert_eq!(report["images"][0]["outcome"], "pushed", "{name}");
        assert!(report["images"][0]["error"].is_null(), "{name}");
        let told = report["bundleError"]["message"].as_str().unwrap();
        assert!(told.contains(why), "{name}: {told}");
        assert!(said.stderr.contains(told), "{name}: {}", said.everything());
        // The same if nothing is left to do, and in a dry run.
        let again = pipe(&cli, "b", &target, &[])
            .expect_code(5)
            .says(&["the bundle is faulty"]);
        assert_eq!(again.lines().len(), 1, "{}", again.everything());
        let planned = pipe(&cli, "b", &Double::new(), &["--dry-run"]).expect_code(5);
        assert!(!planned.stderr.contains("complete"), "{}", planned.everything());
        // From a file nothing is sent, since all of it is seen before.
        let fresh = Double::new();
        cli.run(&["import", "b", "-d", &fresh.host()]).expect_code(5);
        assert!(fresh.requests().is_empty(), "{name}: {}", fresh.transcript());
    }
}

#[test]
fn an_image_that_lacks_something_for_it_says_it_once() {
    let (cli, target) = (cli(), Double::new());
    let whole = open_ended(&cli);
    // The last layer is missing, and a forbidden member is in its place.
    std::fs::write(
        cli.path("b"),
        with_member(whole[..whole.len() - 1536].to_vec(), b"../x"),
    )
    .unwrap();
    let said = pipe(&cli, "b", &target, &["--report", "r.json"]).expect_code(5);
    assert_eq!(said.stderr.matches("../x").count(), 1, "{}", said.everything());
    assert!(!said.stderr.contains("faulty"), "{}", said.everything());
    assert!(target.manifest("team/x", "1").is_none());
    let report = report(&cli);
    assert_eq!(report["images"][0]["error"], report["bundleError"]);
}

#[test]
fn a_missing_end_alone_is_no_fault() {
    let (cli, target) = (cli(), Double::new());
    let mut bytes = open_ended(&cli);
    std::fs::write(cli.path("b"), &bytes).unwrap();
    for _ in 0..2 {
        // As with a file.
        let said = pipe(&cli, "b", &target, &["--report", "r.json"]).expect_code(0);
        said.says(&["warning: ", "lacks the blocks that mark its end"]);
        assert_complete(&target, "team/x", "1", false);
        assert!(report(&cli)["bundleError"].is_null());
    }
    cli.succeed(&["import", "b", "-d", &target.host()])
        .says(&["lacks the blocks that mark its end"]);
    // It is sound for `verify` as well; without its last blob it is neither sound nor imported.
    let sound = cli
        .succeed(&["verify", "b"])
        .says(&["lacks the blocks that mark its end"]);
    assert!(
        sound.stdout.contains("SOUND: ") && sound.stdout.contains("1 warning"),
        "{}",
        sound.everything()
    );
    bytes.truncate(bytes.len() - 1536);
    std::fs::write(cli.path("b"), bytes).unwrap();
    for arguments in [&["verify", "b"][..], &["import", "b", "-d", &Double::new().host()]] {
        cli.run(arguments).expect_code(5);
    }
}
