//! Registries that hold more than fits into memory.

use docker_mirror::testing::media_type::{OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST};

use crate::measured::Lab;
use crate::shapes::{fields, layers};
use crate::support::{Double, images};

/// Stores an index of this many images, each with 10,000 layers of its own. Only the documents exist.
fn index(registry: &Double, repository: &str, children: usize) {
    let config = fields(OCI_CONFIG, b"{}");
    let mut entries = Vec::new();
    for n in 0..children {
        let layers = layers(OCI_LAYER, 10_000, &format!("{repository}{n}/"), "");
        let text =
            format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{{config}}},"layers":[{layers}]}}"#);
        let entry = fields(OCI_MANIFEST, text.as_bytes());
        entries.push(format!(
            r#"{{{entry},"platform":{{"os":"linux","architecture":"a{n}"}}}}"#
        ));
        registry
            .store()
            .put_manifest(repository, None, OCI_MANIFEST, text.into());
    }
    let entries = entries.join(",");
    let text = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{entries}]}}"#);
    registry
        .store()
        .put_manifest(repository, Some("1"), OCI_INDEX, text.into());
}

#[test]
fn an_image_that_does_not_fit_fails_alone() {
    let (lab, source, destination) = (Lab::new(), Double::new(), Double::new());
    images::greeting().push(&source, "library/greeting", "1.0");
    index(&source, "large", 44);
    let names = ["large:1", "library/greeting:1.0"].map(|name| format!("{}/{name}", source.host()));
    let run = lab.run(
        &["export", &names[0], &names[1], "-o", "b.tar", "--allow-partial"],
        None,
    );
    println!("{}", run.line("export of 44 x 10,000 layers"));
    assert_eq!(run.faults(2), Vec::<String>::new());
    assert_eq!(run.ended, Ok(6), "{}", run.stderr);
    assert!(run.stderr.contains("too large to handle"), "{}", run.stderr);
    assert!(lab.path("b.tar").exists(), "{}", run.stderr);
    let host = destination.host();
    let run = lab.run(&["-d", &host, "--report", "report.json", &names[0], &names[1]], None);
    println!("{}", run.line("mirror of 44 x 10,000 layers"));
    assert_eq!(run.faults(2), Vec::<String>::new());
    assert_eq!(run.ended, Ok(1), "{}", run.stderr);
    assert!(run.stderr.contains("too large to handle"), "{}", run.stderr);
    let there = destination.store().repository("library/greeting").unwrap_or_default();
    assert!(there.tags.contains_key("1.0"), "{}", run.stderr);
}

#[test]
fn manifests_of_the_greatest_size_are_read_a_few_at_a_time() {
    let (lab, source) = (Lab::new(), Double::new());
    let padding = "x".repeat(15 << 20);
    let mut arguments = vec![
        "export".to_owned(),
        "-o".to_owned(),
        "b.tar".to_owned(),
        "-j".to_owned(),
        "32".to_owned(),
    ];
    source.store().put_blob("a/b", &b"{}"[..]);
    for n in 0..12 {
        let config = fields(OCI_CONFIG, b"{}");
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{{config}}},"layers":[],"x":"{n}{padding}"}}"#
        );
        source
            .store()
            .put_manifest("a/b", Some(&n.to_string()), OCI_MANIFEST, text.into());
        arguments.push(format!("{}/a/b:{n}", source.host()));
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let run = lab.run(&arguments, None);
    println!("{}", run.line("export of 12 manifests of 15 MB"));
    assert_eq!(run.faults(12), Vec::<String>::new());
    assert!(run.stderr.contains("too large to handle"), "{}", run.stderr);
}
