//! Sources that send wrong bytes, stall, break off or refuse: each run ends in a right bundle or a clear message, never
//! in a wrong bundle.

use super::tools::{Export, check, noise, put_image};
use crate::support::fault::{Action, When};
use crate::support::{Double, End, Options};

const MIB: usize = 1 << 20;

fn with(when: When, action: Action) -> (Double, Export, Vec<String>) {
    let registry = Double::start(Options::default().fault(when, action));
    let digests = put_image(&registry, "a/a", "1", &[noise(1, 3 * MIB), noise(2, 2000)]);
    let export = Export::new(&registry, &["a/a:1"]);
    (registry, export, digests)
}

#[test]
fn every_body_cut_after_some_bytes() {
    for end in [End::Close, End::Reset] {
        // Each answer has 700 KB more, of which a reset may destroy some: the rest is requested by range until all is
        // there.
        let (_registry, export, _) = with(When::get("/blobs/"), Action::Cut(700_000, end));
        export.bundle("b.tar", &["--retries", "50"]);
        check(&export.path("b.tar"));
    }
}

#[test]
fn a_body_that_stalls_is_asked_for_again() {
    let (_registry, export, _) = with(When::get("/blobs/").first(1), Action::stall(100_000));
    export.bundle("b.tar", &["--stall-timeout", "1"]);
    check(&export.path("b.tar"));
}

#[test]
fn a_body_that_always_stalls_is_given_up() {
    let layer = crate::support::sha256(&noise(1, 3 * MIB));
    let (registry, export, _) = with(When::get(&layer), Action::stall(0));
    let said = export.fails("b.tar", &["--stall-timeout", "1", "--retries", "1"], 1);
    assert!(
        said.contains(&layer) && said.contains(&registry.host()) && said.contains("nothing"),
        "{said}"
    );
}

#[test]
fn a_wrong_byte_once_is_mended() {
    let (_registry, export, _) = with(When::get("/blobs/").first(1), Action::FlipBit(10));
    export.bundle("b.tar", &[]);
    check(&export.path("b.tar"));
}

#[test]
fn a_wrong_byte_always_fails_that_image_by_name_and_digest() {
    let layer = noise(1, 3 * MIB);
    let digest = crate::support::sha256(&layer);
    let (registry, _, _) = with(When::get(&digest), Action::FlipBit(10));
    put_image(&registry, "b/b", "1", &[noise(5, 100)]);
    let export = Export::new(&registry, &["a/a:1", "b/b:1"]);
    let said = export.fails("b.tar", &[], 1);
    assert!(
        said.contains(&digest) && said.contains("a/a:1") && said.contains("1 of 2 images"),
        "{said}"
    );
    // Not again and again.
    assert!(registry.count("GET", &digest) <= 3, "{}", registry.transcript());
}

#[test]
fn a_body_of_another_length_than_the_manifest_says() {
    for action in [
        Action::Body(noise(9, 100)),
        Action::Body(noise(9, 5 * MIB)),
        Action::Overrun(1000),
    ] {
        let layer = noise(1, 3 * MIB);
        let digest = crate::support::sha256(&layer);
        let overrun = matches!(action, Action::Overrun(_));
        let (_registry, export, _) = with(When::get(&digest), action);
        if overrun {
            // Bytes behind the announced length belong to no answer; the blob itself is right.
            export.bundle("b.tar", &[]);
            check(&export.path("b.tar"));
        } else {
            let said = export.fails("b.tar", &["--retries", "1"], 1);
            assert!(said.contains(&digest), "{said}");
        }
    }
}

#[test]
fn a_body_without_a_length_is_taken_if_it_is_right() {
    let (_registry, export, _) = with(When::get("/blobs/"), Action::Chunked);
    export.bundle("b.tar", &[]);
    check(&export.path("b.tar"));
}

#[test]
fn a_web_page_instead_of_a_blob_or_manifest() {
    for place in ["/blobs/", "/manifests/"] {
        let (registry, export, _) = with(When::path(place), Action::html());
        let said = export.fails("b.tar", &["--retries", "1"], 1);
        assert!(said.contains("a/a:1") && said.contains(&registry.host()), "{said}");
        assert!(said.contains("web page") || said.contains("bytes"), "{said}");
    }
}

#[test]
fn a_registry_that_is_busy_for_a_while() {
    let (_registry, export, _) = with(When::path("/v2/a/").first(3), Action::status(503));
    export.bundle("b.tar", &[]);
    check(&export.path("b.tar"));
}

#[test]
fn an_image_that_is_not_there() {
    let registry = Double::new();
    put_image(&registry, "a/a", "1", &[noise(1, 100)]);
    for (image, needle) in [("a/a:2", "a/a:2"), ("no/such:1", "no/such:1")] {
        let said = Export::new(&registry, &[image]).fails("b.tar", &[], 1);
        assert!(said.contains(needle) && said.contains("hint: "), "{said}");
    }
}

#[test]
fn a_wrong_address() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    drop(listener);
    let image = format!("{host}/a/a:1");
    let cli = super::tools::cli();
    let done = cli
        .command(&["export", &image, "-o", "b.tar", "--retries", "1"])
        .output()
        .unwrap();
    let said = super::tools::text(&done);
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains(&host) && said.contains("hint: "), "{said}");
    assert!(cli.files().is_empty(), "left behind: {:?}", cli.files());
}

#[test]
fn wrong_usage_is_told_before_anything_is_asked() {
    let registry = Double::new();
    put_image(&registry, "a/a", "1", &[noise(1, 100)]);
    let export = Export::new(&registry, &["a/a:1"]);
    for flags in [
        &["--platform", "linux"][..],
        &["-j", "0"],
        &["--index", "round"],
        &["--gzip", "--zstd"],
        &["-x"],
    ] {
        let said = export.fails("b.tar", flags, 2);
        assert!(said.contains("error: "), "{said}");
    }
    let said = Export::new(&registry, &["UPPER:1", "b:"]).fails("b.tar", &[], 2);
    assert!(said.contains("UPPER") && said.contains("b:"), "{said}");
    assert_eq!(registry.requests().len(), 0);
}

#[test]
fn a_manifest_that_names_one_blob_with_two_sizes() {
    let registry = Double::new();
    let digests = put_image(&registry, "a/a", "1", &[noise(1, 1000), noise(1, 1000)]);
    let manifest = String::from_utf8(registry.manifest("a/a", "1").unwrap().to_vec()).unwrap();
    let lying = manifest.replacen("\"size\":1000", "\"size\":999", 1);
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    registry
        .store()
        .put_manifest("a/a", Some("1"), media_type, lying.into_bytes().into());
    let said = Export::new(&registry, &["a/a:1"]).fails("b.tar", &[], 1);
    assert!(said.contains(&digests[0]) && said.contains("two sizes"), "{said}");
}

#[test]
fn a_local_failure_about_one_registry_ends_only_its_images() {
    // The registry requires credentials for a layer, and the helper that has them cannot be started.
    let (closed, open) = (Double::new(), Double::new());
    let layers = put_image(&closed, "a/a", "1", &[noise(1, 1000)]);
    closed.add_fault(When::get(&layers[0]), Action::challenge(&["Basic realm=\"x\""]));
    put_image(&open, "b/b", "1", &[noise(2, 1000)]);
    let cli = super::tools::cli();
    let home = cli.folder();
    std::fs::create_dir(home.join(".docker")).unwrap();
    std::fs::write(
        home.join(".docker/config.json"),
        format!(r#"{{"credHelpers":{{"{}":"unfit"}}}}"#, closed.host()),
    )
    .unwrap();
    std::fs::write(home.join("docker-credential-unfit"), "not executable").unwrap();
    let done = cli
        .command(&["export", "--allow-partial"])
        .arg(format!("{}/a/a:1", closed.host()))
        .arg(format!("{}/b/b:1", open.host()))
        .arg("-o")
        .arg(home.join("b.tar"))
        .env("PATH", home)
        .output()
        .unwrap();
    let said = super::tools::text(&done);
    assert!(
        said.contains("1 of 2 images failed") && said.contains("cannot be started"),
        "{said}"
    );
    assert_eq!(check(&home.join("b.tar")), 1);
}
