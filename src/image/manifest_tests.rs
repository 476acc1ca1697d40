use super::*;

fn new(text: &str, declared: Option<&str>) -> Result<RawManifest> {
    RawManifest::new(Bytes::copy_from_slice(text.as_bytes()), declared, None)
}

fn descriptor(c: char) -> String {
    format!(
        r#"{{"mediaType":"x","digest":"sha256:{}","size":3}}"#,
        c.to_string().repeat(64)
    )
}

#[test]
fn type_from_body_then_header_then_structure() {
    let image = format!(r#"{{"schemaVersion":2,"config":{},"layers":[]}}"#, descriptor('a'));
    assert_eq!(new(&image, None).unwrap().media_type(), media_type::OCI_MANIFEST);
    let docker = new(
        &image,
        Some("application/vnd.docker.distribution.manifest.v2+json; charset=utf-8"),
    );
    assert_eq!(docker.unwrap().media_type(), media_type::DOCKER_MANIFEST);
    let typed = image.replacen('{', r#"{"mediaType":"application/vnd.oci.image.manifest.v1+json","#, 1);
    assert_eq!(
        new(&typed, Some("text/plain")).unwrap().media_type(),
        media_type::OCI_MANIFEST
    );
    let renamed = new(&typed, Some(media_type::DOCKER_MANIFEST)).unwrap();
    assert_eq!(renamed.media_type(), media_type::OCI_MANIFEST, "its own type counts");
    let error = new(&typed, Some(media_type::OCI_INDEX)).unwrap_err();
    assert!(error.full().contains(media_type::OCI_INDEX) && error.full().contains(media_type::OCI_MANIFEST));
    assert!(new(&image, Some(media_type::OCI_INDEX)).is_err());
}

#[test]
fn refuses_documents_with_two_meanings() {
    let d = descriptor('a');
    for bad in [
        format!(r#"{{"manifests":[],"config":{d},"layers":[]}}"#),
        format!(r#"{{"config":{d},"layers":[],"layers":[{d}]}}"#),
        format!(r#"{{"config":{d},"config":{d},"layers":[]}}"#),
        format!(
            r#"{{"manifests":[{}]}}"#,
            d.replace("\"size\":3", "\"size\":3,\"size\":4")
        ),
        format!(r#"{{"manifests":[{}]}}"#, d.replace("\"size\":3", "\"size\":-3")),
        format!(
            r#"{{"manifests":[{}]}}"#,
            d.replace("\"size\":3", "\"size\":9223372036854775808")
        ),
        format!(r#"{{"manifests":[{}]}}"#, d.replace(",\"size\":3", "")),
        format!(r#"{{"manifests":[{}]}}"#, d.replace("sha256:a", "sha256:A")),
        format!(r#"{{"mediaType":"{}","manifests":[]}}"#, media_type::OCI_MANIFEST),
        "\u{feff}{}".to_owned(),
        r#"{"manifests":NaN}"#.to_owned(),
        "[]".to_owned(),
        String::new(),
        "<html>".to_owned(),
    ] {
        assert_eq!(new(&bad, None).unwrap_err().kind(), Kind::Malformed, "{bad}");
    }
    assert_eq!(
        new(r#"{"schemaVersion":1,"fsLayers":[]}"#, None).unwrap_err().kind(),
        Kind::Unsupported
    );
    let deep = format!(r#"{{"manifests":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert!(new(&deep, None).is_err());
}

#[test]
fn a_media_type_is_bounded_wherever_it_stands() {
    let long = format!("application/vnd.{}", "x".repeat(60_000));
    for (text, declared) in [
        (format!(r#"{{"mediaType":"{long}"}}"#), None),
        ("{}".to_owned(), Some(long.as_str())),
        (
            format!(
                r#"{{"manifests":[{{"mediaType":"{long}","digest":"sha256:{}","size":1}}]}}"#,
                "c".repeat(64)
            ),
            None,
        ),
    ] {
        let error = new(&text, declared).unwrap_err();
        assert_eq!(error.kind(), Kind::Malformed);
        assert!(error.full().to_string().len() < 500, "{error:?}");
    }
}

#[test]
fn proves_the_digest() {
    let expected = Digest::sha256(b"{}");
    assert_eq!(
        RawManifest::new(Bytes::from_static(b"{ }"), None, Some(&expected))
            .unwrap_err()
            .kind(),
        Kind::Integrity
    );
}

#[test]
fn attestation_entries() {
    let text = format!(
        r#"{{"manifests":[{{"mediaType":"m","digest":"sha256:{}","size":1,"platform":{{"os":"unknown","architecture":"unknown"}},
        "annotations":{{"vnd.docker.reference.type":"attestation-manifest","vnd.docker.reference.digest":"sha256:ab"}}}}]}}"#,
        "c".repeat(64)
    );
    let manifest = new(&text, None).unwrap();
    let View::Index(index) = manifest.view() else { panic!() };
    assert_eq!(index.entries[0].attested(), Some("sha256:ab"));
    assert_eq!(index.entries[0].platform.as_ref().unwrap().os, "unknown");
}
