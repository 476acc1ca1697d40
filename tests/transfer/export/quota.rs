//! Registries that count pulls: a HEAD is free, a GET of a manifest is not.

use super::tools::{Export, noise, put_image, text};
use crate::support::{Double, Options, PullLimit};

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An index of three linux platforms.
fn put_index(registry: &Double, repository: &str) {
    let mut entries = Vec::new();
    for (number, architecture) in ["amd64", "arm64", "s390x"].iter().enumerate() {
        put_image(registry, repository, architecture, &[noise(number as u64, 500)]);
        let bytes = registry.manifest(repository, architecture).unwrap();
        entries.push(format!(
            r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":{},"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#,
            crate::support::sha256(&bytes),
            bytes.len()
        ));
    }
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{}]}}"#,
        entries.join(",")
    );
    registry
        .store()
        .put_manifest(repository, Some("1"), OCI_INDEX, index.into_bytes().into());
}

fn limited(remaining: u64) -> Double {
    Double::start(Options {
        pull_limit: Some(PullLimit {
            limit: 100,
            remaining,
            window: 21_600,
        }),
        ..Options::default()
    })
}

#[test]
fn too_few_pulls_are_told_beforehand_and_end_in_a_state_that_goes_on() {
    let registry = limited(4);
    put_index(&registry, "a/a");
    put_index(&registry, "b/b");
    let export = Export::new(&registry, &["a/a:1", "b/b:1"]);
    let said = export.fails("b.tar", &["-j", "1"], 4);
    // Two roots are pulled when it is known that six more are needed.
    assert!(
        said.contains("6 pulls needed, 2 of 100 left in this window of 6 hours"),
        "{said}"
    );
    assert!(said.contains("log in") || said.contains("Logging in"), "{said}");
    assert!(
        said.contains("pull limit") || said.contains("pull rate limit"),
        "{said}"
    );
    // No hours of waiting, and what was pulled is not pulled again.
    registry.forget_requests();
    export.fails("b.tar", &["-j", "1"], 4);
    assert!(
        registry
            .requests_of("GET", "/manifests/")
            .iter()
            .all(|r| r.status == 429),
        "{}",
        registry.transcript()
    );
}

#[test]
fn an_unchanged_image_costs_no_pull_the_next_time() {
    let registry = limited(50);
    put_index(&registry, "a/a");
    let export = Export::new(&registry, &["a/a:1"]);
    let first = export.bundle("b.tar", &[]);
    assert_eq!(registry.count("GET", "/manifests/"), 4, "{}", registry.transcript());
    registry.forget_requests();
    assert!(export.bundle("c.tar", &[]) == first);
    assert_eq!(registry.count("GET", "/manifests/"), 0, "{}", registry.transcript());
    registry.forget_requests();
    export.bundle("d.tar", &["--no-cache"]);
    assert_eq!(registry.count("GET", "/manifests/"), 4, "{}", registry.transcript());
    for (flags, words) in [
        (&["--dry-run"][..], "0 pulls needed, "),
        (&["--dry-run", "--no-cache"], "4 pulls needed, "),
    ] {
        let said = text(&export.run("e.tar", flags));
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn what_is_left_is_shown_without_a_pull() {
    let registry = limited(77);
    put_index(&registry, "a/a");
    let done = super::tools::cli()
        .command(&["limits", &format!("{}/a/a:1", registry.host())])
        .output()
        .unwrap();
    let said = text(&done);
    assert!(
        done.status.success() && said.contains("77 of 100 pulls are left in 6h"),
        "{said}"
    );
    assert_eq!(registry.count("GET", "/manifests/"), 0);
}
