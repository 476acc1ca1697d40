//! What a message says a user can do is true and helps: it names commands, options and causes that there are.

use serde_json::json;

use super::request_words::WORDS_OF_REQUESTS;
use super::support::cli::Output;
use super::support::fault::{Action, Canned, When};
use super::support::images::{helm_chart, sized};
use super::support::tls::{Authority, ServerTls};
use super::support::{Auth, Cli, Double, Options, sha256};
use super::{cli, source};

/// What a registry does, and what is done with it.
pub(super) struct Condition {
    pub(super) name: &'static str,
    pub(super) registry: fn() -> Options,
    /// Whether it is pushed to; else it is pulled from.
    pub(super) push: bool,
    /// The exit code.
    pub(super) code: i32,
    pub(super) says: &'static [&'static str],
    pub(super) not: &'static [&'static str],
    /// Lines on standard error, at most.
    pub(super) lines: usize,
}

pub(super) fn with(when: When, action: Action) -> Options {
    Options::default().fault(when, action)
}

pub(super) fn answer(status: u16, body: &str) -> Action {
    Action::Answer(Canned {
        status,
        headers: vec![("content-type".into(), "text/plain".into())],
        body: body.into(),
    })
}

const CONDITIONS: &[Condition] = &[
    Condition {
        name: "an unknown tag",
        registry: || {
            let answer = json!({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown", "detail": {"Tag": "1"}}]});
            with(When::get("/manifests/1"), answer_json(404, &answer.to_string()))
        },
        push: false,
        code: 1,
        says: &[
            "there is no tag `1` in ",
            "404 Not Found: MANIFEST_UNKNOWN: manifest unknown",
        ],
        not: &["{", "Tag\""],
        lines: 4,
    },
    Condition {
        name: "an unknown repository",
        registry: || {
            with(
                When::get("/manifests/1"),
                Action::error(404, "NAME_UNKNOWN", "repository name not known"),
            )
        },
        push: false,
        code: 1,
        says: &["there is no repository `team/app0` on ", "hint: check the name"],
        not: &["{}"],
        lines: 4,
    },
    Condition {
        name: "a blob that the registry lost",
        registry: || with(When::get("/blobs/"), Action::error(404, "BLOB_UNKNOWN", "blob unknown")),
        push: false,
        code: 1,
        says: &[
            "BLOB_UNKNOWN",
            "does not have a blob that its manifest lists: have the image pushed there again",
        ],
        not: &["check the name and the tag"],
        lines: 5,
    },
    Condition {
        name: "a server that is no registry",
        registry: || with(When::any(), answer(404, "404 page not found\n")),
        push: false,
        code: 1,
        says: &["404 page not found", "whether this address is a registry"],
        not: &["and the tag"],
        lines: 4,
    },
    Condition {
        name: "a destination that is no registry",
        registry: || with(When::any(), answer(404, "404 page not found\n")),
        push: true,
        code: 1,
        says: &["404 page not found", "whether this address is a registry"],
        not: &["and the tag"],
        lines: 6,
    },
    Condition {
        name: "a web page in place of a destination",
        registry: || with(When::any(), Action::html()),
        push: true,
        code: 1,
        says: &["is a web page", "hint: is this address a registry"],
        not: &["warning", "instead of", "does not have the blob"],
        lines: 5,
    },
    Condition {
        name: "a registry without room",
        registry: || {
            with(
                When::path("/blobs/uploads/").but_not("mount"),
                Action::error(507, "DENIED", "quota exceeded"),
            )
        },
        push: true,
        code: 4,
        says: &["507", "quota exceeded", "hint: the registry has no more room"],
        not: &[
            "lacks permission for this",
            ": cannot upload blob sha256:3: cannot upload",
        ],
        lines: 5,
    },
    Condition {
        name: "a registry that finds out at the end that it has no room",
        registry: || {
            with(
                When::put("/blobs/uploads/"),
                Action::error(507, "DENIED", "quota exceeded"),
            )
        },
        push: true,
        code: 4,
        says: &["507", "hint: the registry has no more room"],
        not: &["lacks permission for this"],
        lines: 5,
    },
    Condition {
        name: "a registry that is read-only",
        registry: || {
            with(
                When::post("/blobs/uploads/"),
                Action::error(405, "UNSUPPORTED", "The operation is unsupported."),
            )
        },
        push: true,
        code: 1,
        says: &["405", "it may be read-only"],
        not: &[],
        lines: 5,
    },
    Condition {
        name: "a limit of requests for an hour",
        registry: || with(When::get("/manifests/"), Action::throttled(Some("3600"))),
        push: false,
        code: 4,
        says: &["429", "asks for a pause of 1h"],
        not: &["trying again"],
        lines: 4,
    },
    Condition {
        name: "plain http to https",
        registry: || {
            with(
                When::any(),
                answer(400, "Client sent an HTTP request to an HTTPS server.\n"),
            )
        },
        push: false,
        code: 1,
        says: &["400", "omit `--plain-http`"],
        not: &[],
        lines: 4,
    },
    Condition {
        name: "plain http to https, answered with a web page",
        registry: || {
            with(
                When::any(),
                answer(
                    400,
                    "<html>\r\n<head><title>400 The plain HTTP request was sent to HTTPS port</title></head>\r\n</html>\r\n",
                ),
            )
        },
        push: true,
        code: 1,
        says: &["400", "a web page", "omit `--plain-http`"],
        not: &["is this address a registry"],
        lines: 4,
    },
    Condition {
        name: "other bytes than the manifest states",
        registry: || {
            with(
                When::get("/blobs/"),
                Action::Body(b"other bytes, and more of them".to_vec()),
            )
        },
        push: false,
        code: 1,
        says: &[
            "its manifest promises",
            "hint: the manifest and the blob do not belong together: have the image pushed there again",
        ],
        not: &[],
        lines: 5,
    },
    Condition {
        name: "requests that something on the way refuses as too large",
        registry: || {
            with(When::put("/blobs/uploads/"), answer(413, "too large"))
                .fault(When::patch("/blobs/uploads/"), answer(413, "too large"))
        },
        push: true,
        code: 1,
        says: &["413", "client_max_body_size"],
        not: &[],
        lines: 5,
    },
];

const NONE: &[&str] = &[];

/// What Harbor, ECR, Nexus and others say, in forms of their own.
const OTHER_WORDS: &[Condition] = &[
    Condition {
        name: "a login of a cloud provider that has expired",
        registry: || {
            let words = "Your authorization token has expired. Reauthenticate and try again.";
            with(When::get("/manifests/"), Action::error(403, "DENIED", words))
        },
        push: false,
        code: 3,
        says: &["token has expired", "hint: the login has expired: log in again"],
        not: &["lacks permission"],
        lines: 4,
    },
    Condition {
        name: "a policy on vulnerable images",
        registry: || {
            let words = "current image with 5 vulnerabilities cannot be pulled due to configured policy";
            with(
                When::get("/manifests/"),
                Action::error(412, "PROJECTPOLICYVIOLATION", words),
            )
        },
        push: false,
        code: 1,
        says: &["5 vulnerabilities", "hint: a policy of the registry forbids this"],
        not: NONE,
        lines: 4,
    },
    Condition {
        name: "the words of a web framework (RFC 9457)",
        registry: || {
            let body = r#"{"type":"about:blank","title":"Not Found","status":404,"detail":"no such image here"}"#;
            with(When::get("/manifests/1"), answer_json(404, body))
        },
        push: false,
        code: 1,
        says: &["404 Not Found: no such image here"],
        not: &["about:blank"],
        lines: 4,
    },
    Condition {
        name: "a repository that is archived",
        registry: || {
            with(
                When::post("/blobs/uploads/"),
                Action::error(403, "DENIED", "This repository was archived so it is read-only."),
            )
        },
        push: true,
        code: 3,
        says: &["was archived", "it may be read-only"],
        not: &["lacks permission"],
        lines: 5,
    },
    Condition {
        name: "a project that does not exist",
        registry: || {
            with(
                When::post("/blobs/uploads/"),
                Action::error(404, "NOT_FOUND", "project team not found"),
            )
        },
        push: true,
        code: 1,
        says: &[
            "project team not found",
            "hint: create the project at the registry first",
        ],
        not: &["check the name and the tag"],
        lines: 5,
    },
    Condition {
        name: "an address for uploads that leads nowhere",
        registry: || {
            with(
                When::post("/blobs/uploads/"),
                Action::Answer(Canned {
                    status: 202,
                    headers: vec![("location".into(), "http://127.0.0.1:1/v2/x/blobs/uploads/1".into())],
                    body: "".into(),
                }),
            )
        },
        push: true,
        code: 1,
        says: &[
            "refused the connection",
            "the registry sends uploads to `http://127.0.0.1:1`: have it told the address by which it is reached",
        ],
        not: &["check host and port"],
        lines: 20,
    },
    Condition {
        name: "an address for uploads with a certificate of an unknown authority",
        registry: || {
            let tls = ServerTls::new(Authority::new("elsewhere").server(&["127.0.0.1"]));
            let elsewhere = Double::start(Options::default().tls(tls));
            let location = format!("https://{}/v2/x/blobs/uploads/1", elsewhere.host());
            // It runs until the end of the tests.
            std::mem::forget(elsewhere);
            with(
                When::post("/blobs/uploads/"),
                Action::Answer(Canned {
                    status: 202,
                    headers: vec![("location".into(), location)],
                    body: "".into(),
                }),
            )
        },
        push: true,
        code: 1,
        says: &[
            "is signed by an authority that is not trusted here",
            "hint: give its authority with `--ca-file`",
        ],
        not: &["have it told the address"],
        lines: 20,
    },
];

fn answer_json(status: u16, body: &str) -> Action {
    Action::Answer(Canned {
        status,
        headers: vec![("content-type".into(), "application/json".into())],
        body: body.into(),
    })
}

/// How many images each run has.
const IMAGES: usize = 5;

fn names(host: &str) -> Vec<String> {
    (0..IMAGES).map(|number| format!("{host}/team/app{number}:1")).collect()
}

fn fill(registry: &Double) {
    for number in 0..IMAGES {
        sized(number as u64, "linux/amd64", &[40]).push(registry, &format!("team/app{number}"), "1");
    }
}

fn export(cli: &Cli, host: &str, flags: &[&str]) -> Output {
    let names = names(host);
    let mut arguments = vec![
        "export",
        "-o",
        "x.tar",
        "--force",
        "--fresh",
        "--no-cache",
        "--retries",
        "1",
    ];
    arguments.extend(flags);
    arguments.extend(names.iter().map(String::as_str));
    cli.run(&arguments)
}

#[test]
fn what_a_registry_answers_is_explained_once_and_truly() {
    let cli = cli();
    let good = Double::new();
    fill(&good);
    export(&cli, &good.host(), &[]).expect_code(0);
    std::fs::rename(cli.path("x.tar"), cli.path("b.tar")).unwrap();
    for condition in CONDITIONS.iter().chain(OTHER_WORDS).chain(WORDS_OF_REQUESTS) {
        let registry = Double::start((condition.registry)());
        fill(&registry);
        let output = match condition.push {
            true => {
                let empty = Double::start((condition.registry)());
                let output = cli.run(&["import", "b.tar", "-d", &empty.host(), "--retries", "1", "--no-cache"]);
                drop(empty);
                output
            }
            false => export(&cli, &registry.host(), &[]),
        };
        let output = output.expect_code(condition.code);
        for word in condition.says {
            assert!(
                output.stderr.contains(word),
                "{}: no `{word}` in {}",
                condition.name,
                output.everything()
            );
        }
        for word in condition.not {
            assert!(
                !output.stderr.contains(word),
                "{}: `{word}` in {}",
                condition.name,
                output.everything()
            );
        }
        let lines = output.stderr.lines().count();
        assert!(
            lines <= condition.lines + IMAGES,
            "{}: {lines} lines: {}",
            condition.name,
            output.everything()
        );
        // What was tried is said once in a line.
        for line in output.stderr.lines() {
            assert!(
                line.matches("cannot upload blob").count() <= 1,
                "{}: {line}",
                condition.name
            );
        }
    }
}

#[test]
fn a_refused_sparse_index_takes_three_lines_and_one_digest() {
    let (cli, registry, target) = (cli(), source(), Double::new());
    let image = format!("{}/library/greeting:1.0", registry.host());
    let flags = ["--platform", "linux/amd64", "--index", "sparse"];
    cli.succeed(&[&["export", &image, "-o", "b.tar"], &flags[..]].concat());
    let output = cli.run(&["import", "b.tar", "-d", &target.host()]).expect_code(1);
    let about: Vec<&str> = output
        .stderr
        .lines()
        .filter(|line| {
            ["warning: ", "note: ", "error: ", "hint: ", "  "]
                .iter()
                .any(|start| line.starts_with(start))
        })
        .collect();
    assert_eq!(about.len(), 3, "{}", output.everything());
    assert_eq!(output.stderr.matches("sha256:").count(), 1, "{}", output.everything());
    let original = sha256(&registry.manifest("library/greeting", "1.0").unwrap());
    output.says(&[
        "rejects an index with missing platforms",
        &original,
        "1 of 1 images pushed with a filtered index, since the registry rejects the original one without all its platforms: ",
        "hint: have everything in the bundle",
    ]);
}

#[test]
fn a_hint_stands_below_its_image() {
    let (cli, registry) = (cli(), Double::new());
    fill(&registry);
    for number in 0..30 {
        helm_chart().push(&registry, "many/tags", &format!("1.{number}"));
    }
    let host = registry.host();
    let (typo, gone) = (format!("{host}/many/tags:1.99"), format!("{host}/no/such:1"));
    let missing = format!("{host}/no/such:2");
    let output = cli.run(&[
        "export",
        "-o",
        "x.tar",
        &typo,
        &gone,
        &missing,
        &format!("{host}/team/app0:1"),
    ]);
    let output = output.expect_code(1).says(&[" and 27 more"]);
    let lines: Vec<&str> = output.stderr.lines().collect();
    let place = lines
        .iter()
        .position(|line| line.starts_with(&format!("error: {typo}: ")));
    let below = lines[place.unwrap_or_else(|| panic!("{}", output.everything())) + 1];
    assert!(below.starts_with("hint: existing tags: `1."), "{}", output.everything());
    // One that several have is told once.
    let hint = "hint: check the name";
    assert_eq!(output.stderr.matches(hint).count(), 1, "{}", output.everything());
    // Where it is for all, no names are needed.
    cli.run(&["export", "-o", "y.tar", &gone])
        .expect_code(1)
        .says(&["\nhint: check the name"]);
}

#[test]
fn a_port_that_nobody_typed_is_named() {
    // Nobody listens at the port of https on this address of this machine.
    cli()
        .run(&["export", "127.0.0.251/a/b:1", "-o", "x.tar", "--retries", "0"])
        .expect_code(1)
        .says(&["on port "]);
}

#[test]
fn the_limit_is_told_at_once_while_it_is_used_up() {
    let registry = Double::start(with(
        When::path("/manifests/"),
        Action::Answer(
            Canned::error(429, "TOOMANYREQUESTS", "too many requests")
                .with_header("ratelimit-limit", "100;w=21600")
                .with_header("ratelimit-remaining", "0;w=21600"),
        ),
    ));
    let image = format!("{}/a/b:1", registry.host());
    cli().run(&["limits", &image]).expect_code(0);
    let bare = Double::start(with(When::path("/manifests/"), Action::throttled(None)));
    let image = format!("{}/a/b:1", bare.host());
    let output = cli().run(&["limits", &image]).expect_code(4).says(&["429"]);
    assert!(!output.stderr.contains("trying again"), "{}", output.everything());
    assert_eq!(bare.requests().len(), 1, "{}", bare.transcript());
}

#[test]
fn platforms_that_are_listed_are_platforms() {
    let (cli, registry, target) = (cli(), source(), Double::new());
    let image = format!("{}/library/greeting:1.0", registry.host());
    let output = cli
        .run(&["export", &image, "-o", "x.tar", "--platform", "plan9/amd64"])
        .expect_code(1)
        .says(&["linux/amd64"]);
    assert!(!output.stderr.contains("attestation"), "{}", output.everything());
    cli.succeed(&["export", &image, "-o", "b.tar", "--platform", "all"]);
    let output = cli
        .run(&["import", "b.tar", "-d", &target.host(), "--platform", "plan9/amd64"])
        .expect_code(1)
        .says(&["linux/amd64"]);
    assert!(!output.stderr.contains("attestation"), "{}", output.everything());
}

#[test]
fn a_pattern_that_matches_nothing_is_explained() {
    let (cli, registry) = (cli(), source());
    let image = format!("{}/library/greeting:1.0", registry.host());
    cli.succeed(&["export", &image, "-o", "b.tar"]);
    cli.run(&["import", "b.tar", "-d", "127.0.0.1:1", "--only", "greeting"])
        .expect_code(1)
        .says(&[
            "no image of the bundle matches `greeting`",
            "held against the whole reference",
            &image,
        ]);
}

#[test]
fn an_expired_token_is_told_in_the_words_of_the_registry() {
    let registry = Double::start(
        with(
            When::path("/v2/").with_header("authorization"),
            Action::Answer(
                Canned::error(401, "UNAUTHORIZED", "token is expired")
                    .with_header("www-authenticate", "Basic realm=\"x\""),
            ),
        )
        .auth(Auth::basic("alice", "right")),
    );
    fill(&registry);
    let mut cli = cli();
    cli.set("DOCKER_MIRROR_USERNAME", "alice");
    cli.set("DOCKER_MIRROR_PASSWORD", "right");
    export(&cli, &registry.host(), &[])
        .expect_code(3)
        .says(&["rejected user `alice`", "token is expired"]);
}
