//! Files and names that are given for a bundle and are something else: the message says what they are and what to do.

use std::fs;
use std::io::Write as _;

use super::support::cli::Output;
use super::support::{Cli, Double};
use super::{cli, source};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[track_caller]
fn says(output: Output, words: &[&str], not: &[&str]) {
    for word in words {
        assert!(output.stderr.contains(word), "no `{word}` in {}", output.everything());
    }
    for word in not {
        assert!(!output.stderr.contains(word), "`{word}` in {}", output.everything());
    }
}

fn import(cli: &Cli, name: &str) -> Output {
    cli.run(&["import", name, "-d", "127.0.0.1:1"])
}

#[test]
fn documents_of_this_program_and_of_bundles_are_named_with_their_flag() {
    let (cli, registry) = (cli(), source());
    let image = format!("{}/library/greeting:1.0", registry.host());
    cli.succeed(&["export", &image, "-o", "b.tar", "--report", "report.json"]);
    cli.succeed(&["inspect", "b.tar", "--lock", "b.lock", "--html", "b.html"]);
    for (command, name) in [("inspect", "inspect.json"), ("verify", "verify.json")] {
        let output = cli.succeed(&[command, "b.tar", "--json"]);
        fs::write(cli.path(name), output.stdout).unwrap();
    }
    fs::write(
        cli.path("diff.json"),
        cli.succeed(&["diff", "b.tar", "b.tar", "--json"]).stdout,
    )
    .unwrap();
    cli.succeed(&["verify", "b.tar", "--want", "want.txt"]);
    fs::create_dir(cli.path("layout")).unwrap();
    let unpacked = std::process::Command::new("tar")
        .args(["-xf", "b.tar", "-C", "layout"])
        .current_dir(cli.folder())
        .status();
    assert!(unpacked.unwrap().success());
    fs::write(cli.path("error.json"), r#"{"errors":[{"code":"DENIED"}]}"#).unwrap();
    fs::write(cli.path("other.json"), r#"{"name":"x"}"#).unwrap();
    for (name, what, hint) in [
        (
            "b.lock",
            "a lock of docker-mirror",
            "`docker-mirror export --lock FILE -o BUNDLE.tar`",
        ),
        ("report.json", "the report of a run", "name the bundle itself"),
        (
            "inspect.json",
            "a document of `docker-mirror inspect`",
            "name the bundle itself",
        ),
        (
            "verify.json",
            "a document of `docker-mirror verify`",
            "name the bundle itself",
        ),
        (
            "diff.json",
            "a document of `docker-mirror diff`",
            "name the bundle itself",
        ),
        (
            "b.html",
            "a page of `docker-mirror inspect --html`",
            "name the bundle itself",
        ),
        (
            "want.txt",
            "a want-list of docker-mirror",
            "`docker-mirror export --want FILE -o SUPPLEMENT.tar`",
        ),
        (
            "layout/index.json",
            "an index or a manifest (such as `index.json`)",
            "name the folder that holds all of them",
        ),
        (
            "layout/oci-layout",
            "the file `oci-layout` of an image layout",
            "name the folder",
        ),
        (
            "layout/manifest.json",
            "the `manifest.json` of an archive",
            "name the folder",
        ),
        ("layout/docker-mirror.json", "the record of a bundle", "name the folder"),
        ("error.json", "a JSON document", "the download gave a page or a message"),
        ("other.json", "a JSON document", "this is not an archive of images"),
    ] {
        says(
            import(&cli, name).expect_code(5),
            &[&format!("`{name}` is not a tar archive but {what}"), "hint: ", hint],
            if name == "error.json" { &[] } else { &["download"] },
        );
    }
}

#[test]
fn images_of_discs_and_files_that_are_packed_twice_are_named() {
    let cli = cli();
    let mut iso = vec![0; 100 << 10];
    iso[0x8000..0x8006].copy_from_slice(b"\x01CD001");
    let mut hybrid = iso.clone();
    hybrid[..4].copy_from_slice(b"\x45\x52\x08\0");
    hybrid[510..512].copy_from_slice(b"\x55\xaa");
    let mut disk = vec![0; 100 << 10];
    disk[0x438..0x43a].copy_from_slice(b"\x53\xef");
    let tar = vec![0; 1024];
    let zip = b"PK\x03\x04\x14\0\0\0\0\0rest of a zip archive".to_vec();
    for (name, bytes, words) in [
        (
            "x.iso",
            iso.clone(),
            &["an ISO image", "mount it (`mount -o ro,loop FILE FOLDER`)"][..],
        ),
        ("hybrid.iso", hybrid, &["an image of a disk or a disc", "mount it"]),
        ("x.img", disk, &["an image of a disk (ext4)", "mount it"]),
        ("x.iso.gz", gzip(&iso), &["an ISO image", "mount it"]),
        (
            "x.tar.gz",
            gzip(&gzip(&tar)),
            &["a gzip file that was compressed again", "unpack it once"],
        ),
        ("x.zip", zip.clone(), &["compressed with zip", "unpack it with `unzip`"]),
        (
            "x.zip.gz",
            gzip(&zip),
            &["a zip archive that was compressed again", "unpack it once"],
        ),
        (
            "empty.zip",
            b"PK\x05\x06".iter().copied().chain([0; 18]).collect(),
            &["an empty zip archive"],
        ),
    ] {
        fs::write(cli.path(name), &bytes).unwrap();
        // The format of a zip archive is known, and what is in it may be good.
        let code = if name == "x.zip" { 2 } else { 5 };
        says(
            import(&cli, name).expect_code(code),
            words,
            &["was truncated", "the file is truncated"],
        );
        let piped = cli.command(&["import", "-", "-d", "127.0.0.1:1"]);
        says(
            piped_into(piped, &bytes),
            words,
            &["was truncated", "the file is truncated"],
        );
    }
}

/// Runs a command with these bytes in its standard input.
fn piped_into(mut command: std::process::Command, bytes: &[u8]) -> Output {
    let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    // The program may end before it has read all.
    let writer = std::thread::spawn(move || drop(input.write_all(&bytes)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    Output::new(&output, &["import -"])
}

#[test]
fn addresses_are_no_files() {
    let cli = cli();
    for command in [&["import", "-d", "127.0.0.1:1"][..], &["inspect"], &["verify"]] {
        for address in [
            "docker://quay.io/team/app:1",
            "https://example.com/b.tar",
            "http://example.com/b.tar",
            "oci://example.com/team/app",
        ] {
            let arguments = [command, &[address]].concat();
            says(
                cli.run(&arguments).expect_code(2),
                &[
                    "does not exist",
                    "hint: a bundle is a file or a folder, not an address: `docker-mirror -d REGISTRY IMAGE` copies from registry to registry",
                ],
                &["omit"],
            );
        }
        for engine in ["docker-daemon:app:1", "containers-storage:app:1"] {
            let arguments = [command, &[engine]].concat();
            says(
                cli.run(&arguments).expect_code(2),
                &["save the image with `docker save`", "app:1"],
                &["omit"],
            );
        }
    }
}

#[test]
fn an_output_with_the_ending_of_another_format_is_refused() {
    let (cli, registry) = (cli(), Double::new());
    let image = format!("{}/team/app:1", registry.host());
    for (output, flag) in [
        ("x.zip", None),
        ("x.ZIP", None),
        ("x.7z", None),
        ("x.tar.xz", None),
        ("x.txz", None),
        ("x.tar.bz2", None),
        ("x.tbz2", None),
        ("x.tar.lz4", None),
        ("x.iso", None),
        ("x.json", None),
        ("x.gz", None),
        ("x.zst", None),
        ("x.zip", Some("--gzip")),
    ] {
        let mut arguments = vec!["export", &image, "-o", output];
        arguments.extend(flag);
        says(
            cli.run(&arguments).expect_code(2),
            &[
                &format!("`-o {output}`: no bundle has the ending `."),
                "hint: the endings are `.tar`, `.tar.gz` or `.tgz` (gzip), and `.tar.zst` or `.tzst` (zstd)",
            ],
            &[],
        );
    }
    assert!(registry.requests().is_empty(), "{}", registry.transcript());
    assert!(cli.files().is_empty(), "{:?}", cli.files());
}

#[test]
fn the_ending_of_an_output_says_what_is_in_it() {
    let (cli, registry) = (cli(), source());
    let image = format!("{}/library/greeting:1.0", registry.host());
    for (output, flag, magic) in [
        ("a.tzst", None, &b"\x28\xb5\x2f\xfd"[..]),
        ("a.TAR.ZST", None, b"\x28\xb5\x2f\xfd"),
        ("a.TGZ", None, b"\x1f\x8b"),
        ("a.gz", Some("--gzip"), b"\x1f\x8b"),
        ("a.zst", Some("--zstd"), b"\x28\xb5\x2f\xfd"),
        ("a.oci", None, b"oci-layout"),
        ("a", None, b"oci-layout"),
    ] {
        let mut arguments = vec!["export", &image, "-o", output];
        arguments.extend(flag);
        cli.succeed(&arguments);
        assert!(fs::read(cli.path(output)).unwrap().starts_with(magic), "{output}");
    }
}

#[test]
fn a_want_list_is_offered_only_for_bundles_whose_blobs_can_be_fetched() {
    let cli = cli();
    fs::create_dir(cli.path("docker")).unwrap();
    let layer = format!("sha256:{}", "a".repeat(64));
    let config = serde_json::json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [layer, layer]}});
    let items = serde_json::json!([{"Config": "c.json", "RepoTags": ["quay.io/a/b:1"], "Layers": ["l.tar", "m.tar"]}]);
    fs::write(cli.path("docker/c.json"), config.to_string()).unwrap();
    fs::write(cli.path("docker/manifest.json"), items.to_string()).unwrap();
    let target = Double::new();
    let host = target.host();
    let import = ["import", "docker", "-d", &host];
    let output = cli.run(&import).expect_code(5);
    says(output, &["2 layers are not in the archive"], &["--want"]);
    let output = cli.run(&[&import[..], &["--verify"]].concat()).expect_code(5);
    says(output, &[], &["--want"]);
}
