//! Hostile text in the answers and manifests of registries.

use super::*;

/// Answers of a registry or a token server, each with the requests that get it.
fn answers() -> Vec<(&'static str, When, Action)> {
    let error = |status| Canned::error(status, HOSTILE, &format!("{HOSTILE}{}", "y".repeat(60_000)));
    let body = |status, body: Value| Canned {
        status,
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        body: body.to_string().into_bytes(),
    };
    let plain = |text: &str| Canned {
        status: 400,
        headers: vec![("content-type".to_owned(), "text/plain".to_owned())],
        body: text.as_bytes().to_vec(),
    };
    let any = When::any;
    let manifest = || When::path("/manifests/");
    vec![
        ("an error", any(), Action::Answer(error(400))),
        ("an error of the registry's own", any(), Action::Answer(error(403))),
        ("not found", manifest(), Action::Answer(error(404))),
        ("an error in between", When::path("/blobs/"), Action::Answer(error(400))),
        (
            "an error of an upload",
            When::post("/uploads/"),
            Action::Answer(error(400)),
        ),
        ("an error of a body", When::put("/uploads/"), Action::Answer(error(400))),
        (
            "a refused manifest",
            When::put("/manifests/"),
            Action::Answer(error(400)),
        ),
        (
            "a detail",
            any(),
            Action::Answer(body(
                400,
                json!({"errors": [{"code": "X", "detail": {HOSTILE: [HOSTILE]}}]}),
            )),
        ),
        (
            "a message alone",
            any(),
            Action::Answer(body(400, json!({"message": HOSTILE, "details": HOSTILE}))),
        ),
        (
            "many errors",
            any(),
            Action::Answer(body(
                400,
                json!({"errors": vec![json!({"code": BIDI, "message": HOSTILE}); 1000]}),
            )),
        ),
        ("a body that is no JSON", any(), Action::Answer(plain(HOSTILE))),
        (
            "a large body",
            any(),
            Action::Answer(plain(&format!("{BIDI}\n").repeat(5000))),
        ),
        (
            "a type",
            manifest(),
            Action::Header("content-type", Some(format!("application/vnd.{BIDI}+json"))),
        ),
        (
            "a long type",
            manifest(),
            Action::Header(
                "content-type",
                Some(format!("application/vnd.{}+json", "y".repeat(30_000))),
            ),
        ),
        (
            "a digest",
            any(),
            Action::Header("docker-content-digest", Some(BIDI.to_owned())),
        ),
        (
            "a version",
            any(),
            Action::Header("docker-distribution-api-version", Some(BIDI.to_owned())),
        ),
        (
            "a warning",
            any(),
            Action::Header("warning", Some(format!("299 - \"{BIDI}\""))),
        ),
        (
            "a limit",
            any(),
            Action::Header("ratelimit-limit", Some(format!("1;w={BIDI}"))),
        ),
        (
            "who is limited",
            any(),
            Action::Header("docker-ratelimit-source", Some(BIDI.to_owned())),
        ),
        (
            "a range",
            When::path("/blobs/"),
            Action::Header("content-range", Some(BIDI.to_owned())),
        ),
        (
            "a redirect",
            manifest(),
            Action::redirect(307, &format!("http://127.0.0.1:1/{BIDI}?a={BIDI}")),
        ),
        ("a redirect to no address", manifest(), Action::redirect(307, BIDI)),
        (
            "a redirect to a name",
            manifest(),
            Action::redirect(307, &format!("http://{BIDI}.invalid/")),
        ),
        (
            "an address of an upload",
            When::post("/uploads/"),
            Action::Header("location", Some(format!("http://{BIDI}.invalid/"))),
        ),
        (
            "a challenge",
            any(),
            Action::challenge(&[&format!("Bearer realm=\"{BIDI}\",service=\"{BIDI}\"")]),
        ),
        (
            "a challenge of a kind",
            any(),
            Action::challenge(&[&format!("{BIDI} realm=\"{BIDI}\"")]),
        ),
        (
            "a token server",
            any(),
            Action::challenge(&[&format!("Bearer realm=\"http://127.0.0.1:1/{BIDI}\",error=\"{BIDI}\"")]),
        ),
        (
            "no HTTP",
            any(),
            Action::Raw(HOSTILE.as_bytes().to_vec(), crate::support::End::Close),
        ),
        (
            "a status line",
            any(),
            Action::Raw(
                format!("HTTP/1.1 400 {BIDI}\r\ncontent-length: 0\r\n\r\n").into_bytes(),
                crate::support::End::Close,
            ),
        ),
        (
            "a header that is none",
            any(),
            Action::Raw(
                format!("HTTP/1.1 200 OK\r\n{BIDI}\u{1b}[31m\r\n\r\n").into_bytes(),
                crate::support::End::Close,
            ),
        ),
        (
            "a list of tags",
            When::path("/tags/list"),
            Action::Body(
                json!({"tags": [BIDI, HOSTILE, "1.0\nerror: forged"]})
                    .to_string()
                    .into_bytes(),
            ),
        ),
    ]
}

#[test]
fn answers_of_registries() {
    let mut lab = Lab::new();
    let calm = source();
    let good = format!("{}/library/greeting:1.0", calm.host());
    lab.cli.succeed(&["export", &good, "-o", "good.tar"]);
    for (what, when, action) in answers() {
        let registry = source();
        registry.add_fault(when, action);
        let host = registry.host();
        let image = format!("{host}/library/greeting:1.0");
        let (absent, dest) = (format!("{host}/library/greeting:1.1"), host.as_str());
        std::fs::remove_dir_all(lab.cli.path(".cache")).ok();
        let retries = ["--retries", "1", "-j", "6", "-vv"];
        for arguments in [
            &["export", image.as_str(), "-o", "b.tar", "--fresh", "--force"][..],
            &["export", absent.as_str(), "-o", "c.tar", "--fresh", "--force"],
            &["import", "good.tar", "-d", dest, "--report", "/dev/stderr"],
            &["-d", dest, good.as_str()],
            &["limits", image.as_str()],
        ] {
            lab.say(what, &[arguments, &retries].concat(), None);
        }
    }
    lab.conclude();
}

/// The bytes of a manifest and of its config.
pub(super) type Image = (Vec<u8>, Vec<u8>);

/// A manifest for one platform, changed.
pub(super) fn image(change: impl FnOnce(&mut Value, &mut Value)) -> Image {
    let mut config = json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}});
    let mut manifest =
        json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": []});
    change(&mut manifest, &mut config);
    let config = config.to_string().into_bytes();
    if manifest.get("config").is_none() {
        manifest["config"] = json!({"mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": sha256(&config), "size": config.len()});
    }
    (manifest.to_string().into_bytes(), config)
}

/// Manifests whose every text is hostile.
pub(super) fn manifests() -> Vec<(&'static str, Image)> {
    let long = || "y".repeat(60_000);
    let digest = sha256(b"absent");
    let entry = |platform: Value| json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 2, "platform": platform});
    let index = |entries: Vec<Value>| {
        move |m: &mut Value, _: &mut Value| {
            *m = json!({"schemaVersion": 2, "config": null, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries});
        }
    };
    let bare = |(bytes, config): (Vec<u8>, Vec<u8>)| {
        let mut value: Value = serde_json::from_slice(&bytes).unwrap();
        value.as_object_mut().unwrap().remove("config");
        (value.to_string().into_bytes(), config)
    };
    let many: Vec<Value> = (0..500)
        .map(|n| entry(json!({"os": format!("{HOSTILE}{n}"), "architecture": long()})))
        .take(20)
        .collect();
    vec![
        ("its type", image(|m, _| m["mediaType"] = json!(HOSTILE))),
        ("its long type", image(|m, _| m["mediaType"] = json!(long()))),
        (
            "a long type of the right kind",
            image(|m, _| m["mediaType"] = json!(format!("application/vnd.{}+json", long()))),
        ),
        (
            "the type of a config",
            image(|m, _| m["config"] = json!({"mediaType": HOSTILE, "digest": digest, "size": 7})),
        ),
        (
            "a digest",
            image(|m, _| m["config"] = json!({"mediaType": "x", "digest": HOSTILE, "size": 7})),
        ),
        (
            "a size",
            image(|m, _| m["config"] = json!({"mediaType": "x", "digest": digest, "size": HOSTILE})),
        ),
        (
            "a layer",
            image(|m, _| m["layers"] = json!([{"mediaType": HOSTILE, "digest": digest, "size": 7}])),
        ),
        (
            "layers that are not carried",
            image(|m, _| {
                let layer = |n: u32| {
                    json!({"mediaType": format!("application/vnd.oci.image.layer.nondistributable.v1.tar{BIDI}"),
                        "digest": sha256(&n.to_be_bytes()), "size": 7, "urls": [HOSTILE]})
                };
                m["layers"] = (0..1000).map(layer).collect();
            }),
        ),
        (
            "many missing layers",
            image(|m, _| {
                m["layers"] = (0..1000u32)
                    .map(|n| json!({"mediaType": "x", "digest": sha256(&n.to_be_bytes()), "size": 7}))
                    .collect()
            }),
        ),
        ("a system", image(|_, c| c["os"] = json!(HOSTILE))),
        ("a long system", image(|_, c| c["os"] = json!(long()))),
        ("a version", image(|_, c| c["os.version"] = json!(HOSTILE))),
        ("a field", image(|m, _| m[HOSTILE] = json!([HOSTILE]))),
        (
            "an annotation",
            image(|m, _| m["annotations"] = json!({HOSTILE: HOSTILE})),
        ),
        (
            "a version of the schema",
            image(|m, _| m["schemaVersion"] = json!(HOSTILE)),
        ),
        (
            "a list that is none",
            image(|m, _| m["layers"] = json!({HOSTILE: HOSTILE})),
        ),
        ("no JSON", (HOSTILE.as_bytes().to_vec(), Vec::new())),
        (
            "a field twice",
            (format!("{{{0}:1,{0}:2}}", json!(HOSTILE)).into_bytes(), Vec::new()),
        ),
        (
            "the platform of an entry",
            bare(image(index(vec![entry(
                json!({"os": HOSTILE, "architecture": HOSTILE, "variant": BIDI, "os.version": HOSTILE}),
            )]))),
        ),
        ("many platforms", bare(image(index(many)))),
        ("no platform", bare(image(index(vec![entry(json!(HOSTILE))])))),
        (
            "an attestation",
            bare(image(index(vec![
                json!({"mediaType": "x", "digest": digest, "size": 1, "annotations":
            {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": HOSTILE}}),
            ]))),
        ),
    ]
}

#[test]
fn manifests_of_registries() {
    let mut lab = Lab::new();
    let target = Double::new();
    for (what, (manifest, config)) in manifests() {
        let registry = Double::new();
        let stated: Option<Value> = serde_json::from_slice(&manifest).ok();
        let stated = stated.and_then(|v| Some(v.get("mediaType")?.as_str()?.to_owned()));
        let media_type = stated.filter(|t| t.is_ascii() && t.len() < 100 && !t.contains(char::is_control));
        let media_type = media_type.unwrap_or_else(|| "application/vnd.oci.image.manifest.v1+json".to_owned());
        registry.store().put_blob("a/b", config);
        registry
            .store()
            .put_manifest("a/b", Some("1"), &media_type, manifest.into());
        let image = format!("{}/a/b:1", registry.host());
        for platform in ["all", "linux/amd64", "linux/s390x"] {
            let common = ["--platform", platform, "--retries", "0", "-v"];
            lab.say(
                what,
                &[
                    &["export", image.as_str(), "-o", "b.tar", "--force", "--fresh"][..],
                    &common,
                ]
                .concat(),
                None,
            );
            lab.say(
                what,
                &[&["-d", target.host().as_str(), image.as_str()][..], &common].concat(),
                None,
            );
        }
    }
    lab.conclude();
}
