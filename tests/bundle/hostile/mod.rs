//! Hostile archives through the library and through an import.
//!
//! Nothing may panic, no wrong content may be accepted, and a message names the file, the member and, for a fault of
//! the tar itself, the offset.

mod audited;
mod files;
mod folders;
mod imported;
mod random_damage;

use docker_mirror::{Bundle, Result, testing::media_type::OCI_LAYER};

use crate::archives::*;
use crate::cases::Expect::{self, Blob, Fine, Open, Refused, Tree, Warning};
use crate::cases::*;

fn run(cases: Vec<Case>) {
    let mut wrong = Vec::new();
    for (name, generate, expect) in cases {
        let saved = save("bundle.tar", &generate());
        let opened = open(&saved.path, None);
        let error = match (&expect, opened) {
            (Open(parts), Err(e)) => has(&text(&e), parts),
            (Open(_), Ok(bundle)) => Some(format!("was opened: {bundle:?} {:?}", bundle.warnings())),
            (_, Err(e)) => Some(format!("was not opened: {}", text(&e))),
            (Tree(parts), Ok(bundle)) => match trees(&bundle) {
                Ok(()) => Some("gave trees".to_owned()),
                Err(e) => has(&text(&e), parts),
            },
            (Blob(parts), Ok(bundle)) => match trees(&bundle).and_then(|()| check(&bundle)) {
                Ok(()) => Some("was read".to_owned()),
                Err(e) if trees(&bundle).is_err() => Some(format!("gave no trees: {}", text(&e))),
                Err(e) => has(&text(&e), parts),
            },
            (Warning(part), Ok(bundle)) => match check(&bundle) {
                Err(e) => Some(format!("was refused: {}", text(&e))),
                Ok(()) => has(&bundle.warnings().join("; "), &[part]),
            },
            (Fine | Refused(_), Ok(bundle)) => match check(&bundle) {
                Err(e) => Some(format!("was refused: {}", text(&e))),
                Ok(()) if !bundle.warnings().is_empty() => Some(format!("warned: {:?}", bundle.warnings())),
                Ok(()) => None,
            },
        };
        if let Some(error) = error {
            wrong.push(format!("{name}: {error}"));
        }
        wrong.extend(imported::faults(name, generate, &expect));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn has(text: &str, parts: &[&str]) -> Option<String> {
    let all = parts.iter().all(|part| text.contains(part)) && !text.contains('\u{1b}');
    (!all).then(|| format!("said: {text}"))
}

fn trees(bundle: &Bundle) -> Result<()> {
    bundle
        .images()
        .iter()
        .try_for_each(|image| bundle.tree(image).map(drop))
}

#[test]
fn faults_of_the_tar() {
    run(tar_faults::cases());
}

#[test]
fn faults_of_the_listing() {
    run(listing_faults::cases());
}

#[test]
fn faults_of_the_content() {
    run(content_faults::cases());
}

#[test]
fn odd_images() {
    run(image_faults::cases());
    // Deeper than the registry of the tests reads.
    check_bytes(&image_faults::deep_json(100_000)).unwrap();
}

#[test]
fn what_must_not_be_fetched_or_unpacks_to_much() {
    run(packed_faults::cases());
}

#[test]
fn every_kind_of_bad_input_has_an_archive() {
    let all = all();
    for kind in 1..=34 {
        let kind = format!("r{kind:02} ");
        assert!(
            all.iter().any(|(name, ..)| name.starts_with(&kind)),
            "no archive of {kind}"
        );
    }
}

#[test]
fn sizes_that_cannot_be_summed_up_are_refused_before_the_layers_of_a_pipe_come() {
    let ran = imported::once(&as_ours(image_faults::endless), imported::From::Pipe);
    let said = ran.said().unwrap();
    assert!(said.contains("its manifests state impossible sizes"), "{said}");
    assert!(ran.registry.requests().is_empty(), "{}", ran.registry.transcript());
}

#[test]
fn addresses_in_an_archive_are_never_asked() {
    const FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let content = save("layer", b"not to be read");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let urls = [
        format!("file://{}", content.path.display()),
        format!("http://{}/layer", listener.local_addr().unwrap()),
        "http://169.254.169.254/latest/meta-data".to_owned(),
    ];
    for (media_type, whole) in [(FOREIGN, true), (OCI_LAYER, false)] {
        let (archive, layer) = image_faults::elsewhere(media_type, b"not to be read", &urls);
        for from in [imported::From::File, imported::From::Pipe] {
            let ran = imported::once(&archive, from);
            assert_eq!(ran.said().is_none(), whole, "{:?}", ran.said());
            assert_eq!(ran.tags().is_empty(), !whole);
            assert!(ran.registry.store().content(&layer.to_string()).is_none());
            if whole {
                let report = ran.result.unwrap();
                assert_eq!(report.images[0].left_out[0].digest, layer, "{report:?}");
            } else {
                assert!(ran.said().unwrap().contains(&layer.to_string()));
                assert_eq!(ran.changes(), 0);
            }
        }
    }
    let nobody = listener.accept().unwrap_err();
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn every_case_that_a_table_lists_is_there() {
    let all = all();
    let names: Vec<&str> = all.iter().map(|case| case.0).collect();
    imported::check_tables(&names);
}
