//! The program against real servers in common configurations: client certificates, tokens that expire in seconds,
//! pull-through caches, nginx in front, a proxy with a password, and distribution 3.
//!
//! A missing part is reported; `tests/run` installs what it can and makes any other missing part a failure.

mod behind_nginx;
mod caches;
mod certificates;
mod interrupted;
mod proxies;
mod secrets;
mod tokens;
mod versions;

use std::sync::OnceLock;

use crate::support;
use crate::support::Cli;
use crate::support::http::Client;
use crate::support::image::{Image, Layer, Style, attestation, index, platform, single};

/// The images: repository, tag, image. Some megabytes, with shared blobs and several platforms.
fn corpus() -> &'static [(&'static str, &'static str, Image)] {
    static CORPUS: OnceLock<Vec<(&str, &str, Image)>> = OnceLock::new();
    CORPUS.get_or_init(|| {
        let base = Layer::noise(1, 300_000);
        let on = |style, os: &str, seed, size| {
            let layers = [base.clone(), Layer::noise(seed, size)];
            single(style, &platform(os), &layers, &["/x"])
        };
        let amd64 = on(Style::Oci, "linux/amd64", 2, 2_600_000);
        let windows = on(Style::Oci, "windows/amd64", 3, 900);
        let about = attestation(&amd64);
        let arm64 = on(Style::Oci, "linux/arm64/v8", 4, 40_000);
        let list = [
            on(Style::Docker, "linux/amd64", 5, 90_000).into(),
            on(Style::Docker, "linux/ppc64le", 6, 10).into(),
        ];
        vec![
            (
                "library/alpha",
                "1",
                index(Style::Oci, &[amd64.into(), windows.into(), arm64.into(), about]),
            ),
            ("team/beta", "2.0", index(Style::Docker, &list)),
            ("team/gamma", "latest", on(Style::Oci, "linux/amd64", 7, 500_000)),
        ]
    })
}

fn cli() -> Cli {
    Cli::new(env!("CARGO_BIN_EXE_docker-mirror"))
}

/// Puts all images into a registry.
fn fill(client: &Client) {
    for (repository, tag, image) in corpus() {
        client.push(image, repository, tag);
    }
}

/// The images as a user names them.
fn names(host: &str) -> Vec<String> {
    let name = |(repository, tag, _): &(&str, &str, Image)| format!("{host}/{repository}:{tag}");
    corpus().iter().map(name).collect()
}

/// These arguments, and then the images of a registry.
fn with_names<'a>(arguments: &[&'a str], names: &'a [String]) -> Vec<&'a str> {
    arguments
        .iter()
        .copied()
        .chain(names.iter().map(String::as_str))
        .collect()
}

/// Checks that a registry has every image under a prefix: the same bytes of every tag, linux manifest and blob.
#[track_caller]
fn has_all(client: &Client, prefix: &str) {
    for (repository, tag, image) in corpus() {
        let repository = format!("{prefix}{repository}");
        let root = client.manifest(&repository, tag).expect("a tag is not there");
        let mut documents = image.documents_of("linux");
        if image.below.is_empty() {
            documents = vec![image.root.clone()];
        }
        if documents.len() >= image.below.len() {
            assert_eq!(root, image.root.bytes, "{repository}");
        } else {
            let text = String::from_utf8(root).unwrap();
            for document in &image.below {
                assert_eq!(
                    text.contains(&document.digest),
                    documents.contains(document),
                    "{repository}"
                );
            }
        }
        for document in &documents {
            let found = client.manifest(&repository, &document.digest);
            assert_eq!(found.as_deref(), Some(&document.bytes[..]), "{repository}");
        }
        for digest in Image::blobs_of(&documents) {
            let found = client.blob(&repository, &digest).expect("a blob is not there");
            assert!(found == image.blobs[&digest], "{repository}: {digest} has other bytes");
        }
    }
}

/// Exports from one registry, imports into another, and mirrors in one step. `more` are flags of all three, `source` and
/// `target` what the user types, `client` gets at what arrives.
#[track_caller]
fn both_ways(cli: &Cli, source: &str, target: &str, more: &[&str], client: &Client) {
    let names = names(source);
    let mut export = with_names(&["export", "-o", "b.tar", "--force"], &names);
    export.extend(more);
    cli.succeed(&export);
    let two_steps = format!("{target}/two");
    let mut import = vec!["import", "b.tar", "-d", &two_steps];
    import.extend(more);
    cli.succeed(&import);
    has_all(client, "two/");
    let one_step = format!("{target}/one");
    let mut mirror = with_names(&["-d", &one_step], &names);
    mirror.extend(more);
    cli.succeed(&mirror);
    has_all(client, "one/");
}
