//! The archives of other programs, from a file and from a pipe: both give the same complete images.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::handmade::assert_complete;
use super::support::cli::Output;
use super::support::{Cli, Double};

/// Every archive in the form in which its program wrote it, with the name that the user has to give, and the number of
/// images.
const ARCHIVES: [(&str, Option<&str>, usize); 42] = [
    ("buildkit-docker-provenance.tar", None, 1),
    ("buildkit-docker.tar", None, 1),
    ("buildkit-oci-multi-provenance.tar", None, 1),
    ("buildkit-oci-nameless.tar", Some("a/b:c"), 1),
    ("buildkit-oci-no-layers.tar", None, 1),
    ("buildkit-oci-two-names.tar", None, 2),
    ("crane-legacy-two.tar", None, 2),
    ("crane-legacy.tar", None, 1),
    ("crane-oci-annotated.tar", None, 1),
    ("crane-oci-two.tar", None, 2),
    ("crane-oci.tar", Some("a/b:c"), 1),
    ("crane-tarball.tar", None, 1),
    ("ctr-export.tar", None, 1),
    ("ctr-sparse.tar", None, 1),
    ("ctr2-sparse.tar", None, 1),
    ("docker-20-links.tar", None, 2),
    ("docker-20-nameless.tar", Some("a/b:c"), 1),
    ("docker-20.tar", None, 1),
    ("docker25-containerd-one.tar", None, 1),
    ("docker25-containerd-pulled-amd64.tar", None, 1),
    ("docker25-graphdriver-three-tags.tar", None, 3),
    ("docker25-graphdriver-two-images.tar", None, 2),
    ("docker29-containerd-multi.tar", None, 1),
    ("docker29-containerd-nameless.tar", Some("a/b:c"), 1),
    ("docker29-containerd-no-layers.tar", None, 1),
    ("docker29-containerd-pulled-amd64.tar", None, 1),
    ("docker29-containerd-pulled-attested.tar", None, 1),
    ("docker29-graphdriver-two-images.tar", None, 2),
    ("jib-docker.tar", None, 2),
    ("jib-oci.tar", None, 1),
    ("kaniko-two-tags.tar", None, 2),
    ("oras-backup-one-platform.tar", Some("a/b"), 1),
    ("oras-backup.tar", Some("a/b"), 1),
    ("podman-docker-archive.tar", None, 1),
    ("podman-multi.tar", None, 2),
    ("podman-oci-archive.tar", None, 1),
    ("regctl-export-arm64.tar", None, 1),
    ("skopeo-docker-archive-nameless.tar", Some("a/b:c"), 1),
    ("skopeo-docker-archive.tar", None, 1),
    ("skopeo-oci-archive-nameless.tar", Some("a/b:c"), 1),
    ("skopeo-oci-archive.tar", None, 1),
    ("umoci-layout.tar", Some("a/b"), 2),
];

/// Archives without a complete image, and what is said of them.
const BROKEN: [(&str, &str); 2] = [
    ("docker-export.tar", "not an image archive"),
    ("docker29-containerd-pulled-incomplete.tar", "missing"),
];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/archives")
        .join(name)
}

/// Imports into a new registry, from the file or from a pipe. Returns `NAME:TAG@DIGEST` of each image in the registry.
fn import(path: &Path, name: Option<&str>, piped: bool) -> (Vec<String>, Output) {
    let (cli, target) = (Cli::new(env!("CARGO_BIN_EXE_docker-mirror")), Double::new());
    let host = target.host();
    let file = path.to_str().unwrap();
    let mut arguments = vec!["import", if piped { "-" } else { file }, "-d", &host];
    arguments.extend(name.iter().flat_map(|name| ["--name", *name]));
    let mut command = cli.command(&arguments);
    if piped {
        // Like `cat FILE | ...`, where the program cannot know that the input could be read by offset.
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut file = File::open(path).unwrap();
        std::thread::spawn(move || std::io::copy(&mut file, &mut writer));
        command.stdin(reader);
    }
    let output = Output::new(&command.output().unwrap(), &arguments).expect_code(0);
    drop(command);
    let lines: Vec<String> = output
        .lines()
        .iter()
        .map(|line| line.strip_prefix(&format!("{host}/")).unwrap().to_owned())
        .collect();
    for line in &lines {
        let (name, digest) = line.split_once('@').unwrap();
        let (repository, tag) = name.rsplit_once(':').unwrap();
        assert_complete(&target, repository, tag, false);
        assert_complete(&target, repository, digest, false);
    }
    assert_eq!(target.store().open_uploads(), 0);
    assert_eq!(cli.files(), Vec::<String>::new(), "nothing is left behind");
    (lines, output)
}

#[test]
fn every_kind_arrives_complete_from_a_file_and_from_a_pipe() {
    for (file, name, images) in ARCHIVES {
        let (lines, output) = import(&fixture(file), name, false);
        assert_eq!(lines.len(), images, "{file}: {}", output.everything());
        let docker = [
            "docker-",
            "podman-docker",
            "podman-multi",
            "skopeo-docker",
            "crane-legacy",
            "crane-tarball",
            "jib-docker",
            "kaniko",
        ];
        let rebuilt = docker.iter().any(|start| file.starts_with(start));
        assert_eq!(
            output.stderr.contains("digest is new"),
            rebuilt,
            "{file}: {}",
            output.everything()
        );
        let (piped, told) = import(&fixture(file), name, true);
        assert_eq!(piped, lines, "{file}");
        if file == "docker29-containerd-pulled-amd64.tar" {
            output.says(&["left out linux/arm64; "]);
        }
        told.says(&["temporary file"]);
    }
    let all = std::fs::read_dir(fixture("")).unwrap();
    let all = all.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let unknown: Vec<String> = all
        .filter(|name| name.ends_with(".tar"))
        .filter(|name| !ARCHIVES.iter().any(|(file, ..)| file == name) && !BROKEN.iter().any(|(file, _)| file == name))
        .collect();
    assert!(unknown.is_empty(), "not in the table: {unknown:?}");
}

#[test]
fn archives_without_a_complete_image_leave_no_tag() {
    for (file, why) in BROKEN {
        let (cli, target) = (Cli::new(env!("CARGO_BIN_EXE_docker-mirror")), Double::new());
        let path = fixture(file);
        cli.run(&["import", path.to_str().unwrap(), "-d", &target.host()])
            .expect_code(5)
            .says(&[why]);
        let tagged = |name: &String| target.store().repository(name).is_some_and(|r| !r.tags.is_empty());
        assert!(!target.store().repositories().iter().any(tagged), "{file}");
    }
}

#[test]
fn an_outer_compression_is_seen_whatever_the_file_is_called() {
    let folder = tempfile::tempdir().unwrap();
    let plain = std::fs::read(fixture("skopeo-oci-archive.tar")).unwrap();
    let expected = import(&fixture("skopeo-oci-archive.tar"), None, false).0;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::copy(&mut plain.as_slice(), &mut gzip).unwrap();
    let packed = [
        ("a.tar", gzip.finish().unwrap()),
        ("b.tar.gz", zstd::encode_all(plain.as_slice(), 1).unwrap()),
    ];
    for (name, bytes) in packed {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        for piped in [false, true] {
            assert_eq!(import(&path, None, piped).0, expected, "{name}");
        }
    }
}
