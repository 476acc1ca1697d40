//! Sparse files and members, whose size nobody states: a fault before a byte of them is read.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::support::Double;
use super::support::layout::{Tar, blob_name, unpack, write_members};
use super::verify::{document, exported, pieces};
use crate::support::Cli;

/// Makes an archive whose last member is a sparse blob of this size.
fn with_sparse_blob(cli: &Cli, bundle: &str, digest: &str, size: u64, target: &str) {
    Tar::open(&cli.path(bundle)).without(&blob_name(digest), &cli.path(target));
    append_sparse(&cli.path(target), &blob_name(digest), size);
}

/// Puts a sparse member of this size at the end of an archive.
fn append_sparse(archive: &Path, name: &str, size: u64) {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).unwrap();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    let mut bytes = fs::read(archive).unwrap();
    while bytes.ends_with(&[0; 512]) {
        bytes.truncate(bytes.len() - 512);
    }
    bytes.extend_from_slice(header.as_bytes());
    let length = bytes.len() as u64 + size + 1024;
    fs::write(archive, bytes).unwrap();
    fs::File::options()
        .write(true)
        .open(archive)
        .unwrap()
        .set_len(length)
        .unwrap();
}

/// A file of this size without a byte of data, or false where the file system knows no holes.
fn is_sparse(path: &Path, size: u64) -> bool {
    let file = fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).is_err()
}

#[test]
fn a_sparse_file_of_which_nobody_states_the_size_is_a_fault_before_it_is_read() {
    const SIZE: u64 = 1 << 40;
    let (cli, registry) = exported();
    let name = format!("{}/b/one:1", registry.host());
    unpack(&cli.path("b.tar"), &cli.path("folder"));
    let digest = format!("sha256:{}", "a".repeat(64));
    if !is_sparse(&cli.path(&format!("folder/{}", blob_name(&digest))), SIZE) {
        return;
    }
    // A blob that no manifest names.
    for deep in [&[][..], &["--deep"]] {
        let found = document(&cli, &[&["folder"], deep].concat(), 5);
        let faults = found["faults"].as_array().unwrap();
        assert_eq!((faults.len(), &faults[0]["digest"]), (1, &json!(digest)), "{found}");
        assert!(faults[0]["message"].as_str().unwrap().contains("sparse"), "{found}");
    }
    let target = Double::new();
    let host = target.host();
    cli.succeed(&["import", "folder", "-d", &host, "--report", "r.json"]);
    cli.succeed(&["inspect", "folder"]);
    // A bundle with a tail of holes.
    fs::copy(cli.path("b.tar"), cli.path("tail.tar")).unwrap();
    fs::File::options()
        .write(true)
        .open(cli.path("tail.tar"))
        .unwrap()
        .set_len(SIZE)
        .unwrap();
    document(&cli, &["tail.tar"], 0);
    cli.succeed(&["import", "tail.tar", "-d", &host, "--report", "s.json"]);
    // A layer in Docker's own format, whose size stands nowhere; in a folder and in a tar.
    let config = json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [digest]}});
    let items = json!([{"Config": "c.json", "RepoTags": ["quay.io/a/b:1"], "Layers": ["l.tar"]}]);
    let documents = [("c.json", config.to_string()), ("manifest.json", items.to_string())];
    fs::create_dir(cli.path("docker")).unwrap();
    for (name, text) in &documents {
        fs::write(cli.path(&format!("docker/{name}")), text).unwrap();
    }
    assert!(is_sparse(&cli.path("docker/l.tar"), SIZE));
    let members = documents.map(|(name, text)| (name.to_owned(), text.into_bytes()));
    write_members(&cli.path("docker.tar"), members);
    append_sparse(&cli.path("docker.tar"), "l.tar", SIZE);
    for bundle in ["docker", "docker.tar"] {
        for command in [
            &["inspect"][..],
            &["verify"],
            &["import", "-d", &host],
            &["import", "--verify", "-d", &host],
        ] {
            let output = cli.run(&[command, &[bundle]].concat());
            assert_ne!(output.code, Some(0), "{}", output.everything());
            assert!(output.everything().contains("sparse file"), "{}", output.everything());
        }
    }
    cli.succeed(&["export", &name, "--reuse", "folder", "-o", "again.tar"]);
}

#[test]
fn a_blob_of_a_size_that_nobody_states_is_a_fault_before_a_byte_of_it_is_read() {
    const SIZE: u64 = 1 << 40;
    let (cli, registry) = exported();
    let (layers, manifest) = pieces(&cli, "b/one:1");
    let name = format!("{}/b/one:1", registry.host());
    for digest in [&layers[1], &manifest] {
        let path = blob_name(digest);
        unpack(&cli.path("b.tar"), &cli.path("folder"));
        let file = fs::File::create(cli.path(&format!("folder/{path}"))).unwrap();
        // The disk of this machine may refuse such a file, but reading it would take minutes.
        file.set_len(SIZE).unwrap();
        with_sparse_blob(&cli, "b.tar", digest, SIZE, "sparse.tar");
        for bundle in ["folder", "sparse.tar"] {
            for deep in [&[][..], &["--deep"]] {
                let found = document(&cli, &[&[bundle], deep].concat(), 5);
                let faults = found["faults"].as_array().unwrap();
                assert_eq!(faults.len(), 1, "{found}");
                let fault = &faults[0];
                assert_eq!((&fault["kind"], &fault["digest"]), (&json!("size"), &json!(digest)));
                assert_eq!(fault["images"], json!([name]));
                assert!(fault["message"].as_str().unwrap().contains(&SIZE.to_string()));
                assert_eq!(found["wanted"].as_array().unwrap().len(), 1);
                // The other blobs are read.
                assert!(found["checked"]["bytes"].as_u64().unwrap() > 3 << 20, "{found}");
            }
            // A bundle that has the right blob completes the images, in any order.
            for both in [["b.tar", bundle], [bundle, "b.tar"]] {
                let found = document(&cli, &both, 0);
                assert_eq!(found["replaced"].as_array().unwrap().len(), 1, "{found}");
            }
            let target = Double::new();
            cli.run(&["import", "--verify", bundle, "-d", &target.host()])
                .expect_code(5);
            assert_eq!(target.requests().len(), 0);
            cli.run(&["import", bundle, "-d", &target.host()]).expect_code(5);
            cli.succeed(&["import", "b.tar", bundle, "-d", &target.host()]);
            for looks in [&["inspect"][..], &["diff", "b.tar"]] {
                let output = cli.run(&[looks, &[bundle]].concat());
                assert!(output.everything().contains("hint:"), "{}", output.everything());
            }
            cli.succeed(&["export", &name, "--reuse", bundle, "-o", "again.tar"]);
        }
        fs::remove_dir_all(cli.path("folder")).unwrap();
    }
}
