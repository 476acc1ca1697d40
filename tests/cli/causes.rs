//! The hint of a failure belongs to its cause: a registry that lost content, a store behind it, a login, a path that is too deep.

use serde_json::json;

use super::cli;
use super::support::cli::Output;
use super::support::fault::{Action, Canned, When};
use super::support::image::Style;
use super::support::images::{multi, sized, small};
use super::support::{Auth, Cli, Double, Options};

/// A bundle with the image `library/app:1`, in `b.tar`.
fn bundle(cli: &Cli) {
    let source = Double::new();
    sized(1, "linux/amd64", &[40]).push(&source, "library/app", "1");
    cli.succeed(&["export", &format!("{}/library/app:1", source.host()), "-o", "b.tar"]);
}

fn import(cli: &Cli, target: &str) -> Output {
    cli.run(&["import", "b.tar", "-d", target, "--retries", "1", "--no-cache"])
}

fn export(cli: &Cli, image: &str) -> Output {
    cli.run(&[
        "export",
        image,
        "-o",
        "x.tar",
        "--retries",
        "1",
        "--no-cache",
        "--fresh",
        "--force",
    ])
}

/// Says these words, and none of the others.
#[track_caller]
fn says(output: Output, words: &[&str], not: &[&str]) {
    let output = output.says(words);
    for word in not {
        assert!(!output.stderr.contains(word), "`{word}` in {}", output.everything());
    }
}

#[test]
fn a_manifest_that_is_lost_below_its_index_is_no_wrong_name() {
    let (cli, registry) = (cli(), Double::new());
    let image = multi(Style::Oci, &["linux/amd64", "linux/arm64/v8"], "x");
    image.push(&registry, "team/app", "1");
    small(Style::Oci, "linux/amd64", "other").push(&registry, "team/other", "1");
    let lost = multi(Style::Oci, &["linux/arm64/v8"], "x").documents_of("linux")[0]
        .digest
        .clone();
    registry
        .store()
        .change("team/app", |there| there.manifests.remove(&lost));
    let name = |repository: &str| format!("{}/{repository}:1", registry.host());
    for other in [None, Some(name("team/other"))] {
        let mut arguments = vec!["export", "-o", "x.tar", "--no-cache"];
        let lost = name("team/app");
        arguments.push(&lost);
        arguments.extend(other.as_deref());
        let output = cli.run(&arguments).expect_code(1);
        says(
            output,
            &[
                "there is no manifest `sha256:",
                "hint: the registry does not have a manifest that its index lists: have the image pushed there again, or choose other \
                 platforms with `--platform`",
            ],
            &["check the name", "correct the names"],
        );
    }
    cli.succeed(&[
        "export",
        "-o",
        "x.tar",
        "--no-cache",
        &name("team/app"),
        "--platform",
        "linux/amd64",
    ]);
    // A digest that the user typed is a name.
    let typed = format!("{}/team/app@sha256:{}", registry.host(), "a".repeat(64));
    says(
        export(&cli, &typed).expect_code(1),
        &[
            "there is no manifest `sha256:aaaa",
            "hint: check the name and the digest",
        ],
        &["tag"],
    );
}

#[test]
fn a_blob_that_the_registry_lost_is_told_by_the_code_whatever_the_status_is() {
    let cli = cli();
    bundle(&cli);
    for status in [400, 404] {
        let target = Double::start(Options::default().fault(
            When::put("/manifests/"),
            Action::error(status, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry"),
        ));
        says(
            import(&cli, &target.host()).expect_code(1),
            &[
                "MANIFEST_BLOB_UNKNOWN",
                "hint: the registry lost a blob that it had accepted; run again",
            ],
            &["check the name"],
        );
    }
}

#[test]
fn a_path_is_called_too_deep_where_the_answer_suggests_it() {
    const MAP: &str = "shorten the path with `--map`";
    let cli = cli();
    bundle(&cli);
    let uploads = || When::post("/blobs/uploads/");
    let page = Action::Answer(Canned {
        status: 405,
        headers: vec![("content-type".into(), "text/html".into())],
        body: "<html><title>405 Method Not Allowed</title></html>".into(),
    });
    let basic = || Auth::basic("alice", "right");
    let cases: Vec<(&str, Options, bool)> = vec![
        (
            "invalid",
            Options::default().fault(uploads(), Action::error(404, "NAME_INVALID", "invalid name")),
            true,
        ),
        (
            "invalid, 400",
            Options::default().fault(uploads(), Action::error(400, "NAME_INVALID", "invalid name")),
            true,
        ),
        ("no such page", Options::default().fault(uploads(), page), true),
        (
            "a token that does not allow it",
            Options::default().auth(Auth::anonymous()).fault(
                uploads().with_header("authorization"),
                Action::error(401, "UNAUTHORIZED", "insufficient scope"),
            ),
            true,
        ),
        (
            "denied",
            Options::default().fault(uploads(), Action::error(403, "DENIED", "no")),
            false,
        ),
        (
            "read-only",
            Options::default().fault(uploads(), Action::error(405, "UNSUPPORTED", "no")),
            false,
        ),
        (
            "no such blob",
            Options::default().fault(uploads(), Action::error(404, "BLOB_UNKNOWN", "no")),
            false,
        ),
        (
            "no repository",
            Options::default().fault(uploads(), Action::error(404, "NAME_UNKNOWN", "no")),
            false,
        ),
        ("no login", Options::default().auth(basic()), false),
    ];
    for (name, options, suggests) in cases {
        let target = Double::start(options);
        let deep = import(&cli, &format!("{}/org", target.host()));
        assert_ne!(deep.code, Some(0), "{name}");
        assert_eq!(deep.stderr.contains(MAP), suggests, "{name}: {}", deep.everything());
        let shallow = import(&cli, &target.host());
        assert!(!shallow.stderr.contains(MAP), "{name}: {}", shallow.everything());
    }
    let target = Double::start(Options::default().auth(basic()));
    cli.log_in(&target.host(), "alice", "wrong");
    says(
        import(&cli, &format!("{}/org", target.host())).expect_code(3),
        &["rejected user `alice`"],
        &[MAP],
    );
}

/// A registry that redirects its blobs to a store, which does this.
fn behind(action: Action) -> (Double, Double) {
    let (registry, store) = (
        Double::new(),
        Double::start(Options::default().fault(When::any(), action)),
    );
    sized(2, "linux/amd64", &[40]).push(&registry, "team/app", "1");
    sized(2, "linux/amd64", &[40]).push(&store, "team/app", "1");
    let to = format!("{}{{target}}", store.url());
    registry.add_fault(When::get("/blobs/"), Action::redirect(307, &to));
    (registry, store)
}

#[test]
fn a_store_behind_a_registry_is_named_when_it_fails() {
    let cli = cli();
    let xml = Action::Answer(Canned {
        status: 404,
        headers: vec![("content-type".into(), "application/xml".into())],
        body: "<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code></Error>".into(),
    });
    for (name, action, words, not) in [
        (
            "an outage",
            Action::status(503),
            &[
                "had redirected, answered 503",
                "hint: the store to which the registry redirects, or a proxy",
            ][..],
            "the registry, or a proxy in front of it",
        ),
        (
            "a lost blob",
            xml,
            &[
                "NoSuchKey",
                "hint: the registry has this, and the store to which it redirects does not",
            ],
            "whether this address is a registry",
        ),
        (
            "a page",
            Action::Answer(Canned {
                status: 407,
                headers: vec![("content-type".into(), "text/html".into())],
                body: "<html>proxy</html>".into(),
            }),
            &[
                "407",
                "hint: the registry redirects to this address, which answers with a web page",
            ],
            "is this address a registry?",
        ),
        (
            "other bytes",
            Action::Body(b"other bytes, and more of them, so that the length differs".to_vec()),
            &["to which the registry redirects, sends 57 bytes"],
            "the registry sends",
        ),
    ] {
        let (registry, store) = behind(action);
        let output = export(&cli, &format!("{}/team/app:1", registry.host())).expect_code(1);
        assert!(output.stderr.contains(&store.host()), "{name}: {}", output.everything());
        says(output, words, &[not]);
    }
}

#[test]
fn a_login_that_no_challenge_asks_for_is_named_with_its_source() {
    let mut cli = cli();
    let registry = Double::start(Options::default().fault(When::any(), Action::error(401, "UNAUTHORIZED", "log in")));
    let image = format!("{}/team/app:1", registry.host());
    says(
        export(&cli, &image).expect_code(3),
        &["wants credentials, but does not say in which form\n", "hint: log in to"],
        &["the login of this run"],
    );
    cli.log_in(&registry.host(), "bob", "hunter2");
    says(
        export(&cli, &image).expect_code(3).hides(&["hunter2"]),
        &[
            "user `bob` (login from `",
            "config.json",
            "hint: a registry states the form in `WWW-Authenticate`",
        ],
        &["hint: log in to"],
    );
    cli.set("DOCKER_MIRROR_USERNAME", "alice");
    cli.set("DOCKER_MIRROR_PASSWORD", "hunter2");
    says(
        export(&cli, &image).expect_code(3).hides(&["hunter2"]),
        &["user `alice` (login from `DOCKER_MIRROR_USERNAME`)"],
        &["hint: log in to"],
    );
}

#[test]
fn a_registry_that_does_not_say_what_it_has_is_no_web_server() {
    let cli = cli();
    bundle(&cli);
    for status in [400, 503] {
        let target = Double::start(
            Options::default()
                .fault(When::put("/blobs/uploads/"), Action::Status(204))
                .fault(When::head("/blobs/"), Action::status(status)),
        );
        says(
            import(&cli, &target.host()).expect_code(1),
            &[
                "answered 204 in place of 201, and does not say whether it has the blob",
                "hint: run the same command again",
            ],
            &["is this address a registry"],
        );
    }
}

#[test]
fn sizes_that_a_registry_states_wrongly_are_told_once_with_a_next_step() {
    let cli = cli();
    bundle(&cli);
    let target = Double::new();
    let zero = target.add_fault(When::head("/blobs/"), Action::PretendPresent);
    target.add_fault(
        When::head("/blobs/"),
        Action::Header("content-length", Some("0".to_owned())),
    );
    let output = import(&cli, &target.host()).expect_code(0);
    assert!(zero.seen() > 1, "{}", target.transcript());
    assert_eq!(output.stderr.matches("warning: ").count(), 1, "{}", output.everything());
    says(
        output,
        &[
            "2 blobs (309 bytes) uploaded",
            "states wrong sizes of blobs in answers to HEAD, as a proxy in front of it may make it do",
            "the sizes in these answers are ignored from now on",
        ],
        &[" with 0 instead of "],
    );
}

#[test]
fn descriptors_that_break_the_rules_come_with_a_next_step() {
    let (cli, registry) = (cli(), Double::new());
    let good = small(Style::Oci, "linux/amd64", "x");
    good.push(&registry, "team/app", "good");
    let manifest = good.root.json();
    let entry = |size: serde_json::Value| {
        json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": good.digest(), "size": size,
            "platform": {"os": "linux", "architecture": "amd64"}})
    };
    let with_size = |size: serde_json::Value| {
        let mut manifest = manifest.clone();
        manifest["layers"][0]["size"] = size;
        manifest
    };
    let index = |size| json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry(size)]});
    let large = {
        let mut manifest = manifest.clone();
        manifest["config"]["size"] = json!(100 << 20);
        json!({"schemaVersion": 2, "config": manifest["config"], "layers": manifest["layers"]})
    };
    for (name, document) in [
        ("negative", with_size(json!(-1))),
        ("fraction", with_size(json!(1.5))),
        ("text", with_size(json!("12"))),
        ("too-large", with_size(json!(u64::MAX))),
        ("config", large),
        ("entry", index(json!(7))),
        ("negative-entry", index(json!(-7))),
    ] {
        let media_type = match document.get("manifests") {
            Some(_) => "application/vnd.oci.image.index.v1+json",
            None => "application/vnd.oci.image.manifest.v1+json",
        };
        registry
            .store()
            .put_manifest("team/app", Some(name), media_type, document.to_string().into());
        let output = export(&cli, &format!("{}/team/app:{name}", registry.host())).expect_code(1);
        assert!(
            output
                .stderr
                .contains("hint: the image is broken: have it built or pushed again"),
            "{name}: {}",
            output.everything()
        );
    }
}
