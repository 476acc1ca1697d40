//! `--json` and `--report`: one document for each run, and the schema that every document follows.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::support::cli::{Output, wait_until};
use super::support::image::Style;
use super::support::images::{linux_and_windows, small, with_foreign_layer};
use super::support::layout::write_layout;
use super::support::{Action, Auth, Double, Gate, Options, When, referrers};
use super::{Cli, cli};

/// Checks a document against the part of JSON Schema that the schemas in `docs` use.
pub(super) struct Schema(Value);

impl Schema {
    fn read() -> Self {
        Self::named("report.schema.json")
    }

    pub(super) fn named(name: &str) -> Self {
        let path = format!("{}/docs/{name}", env!("CARGO_MANIFEST_DIR"));
        Self(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
    }

    /// Returns the faults of a document of one of the kinds that the schema defines.
    pub(super) fn check_as(&self, kind: &str, document: &Value) -> Vec<String> {
        let mut faults = Vec::new();
        self.visit(&self.0["$defs"][kind], document, kind, &mut faults);
        faults
    }

    fn check(&self, document: &Value) -> Vec<String> {
        let mut faults = Vec::new();
        self.visit(&self.0, document, "", &mut faults);
        faults
    }

    fn visit(&self, schema: &Value, value: &Value, place: &str, faults: &mut Vec<String>) {
        if let Some(name) = schema["$ref"].as_str() {
            return self.visit(&self.0["$defs"][name.rsplit('/').next().unwrap()], value, place, faults);
        }
        let fits = match schema["type"].as_str() {
            Some("object") => value.is_object(),
            Some("array") => value.is_array(),
            Some("string") => value.is_string(),
            Some("integer") => value.is_u64(),
            Some("number") => value.is_number(),
            Some("boolean") => value.is_boolean(),
            other => panic!("{place}: the schema has the type {other:?}"),
        };
        if !fits {
            faults.push(format!("{place}: {value} is no {}", schema["type"]));
        }
        if let Some(allowed) = schema["enum"].as_array().filter(|allowed| !allowed.contains(value)) {
            faults.push(format!("{place}: {value} is none of {allowed:?}"));
        }
        for name in schema["required"].as_array().into_iter().flatten() {
            if value.get(name.as_str().unwrap()).is_none() {
                faults.push(format!("{place}: no {name}"));
            }
        }
        for (name, inner) in value.as_object().into_iter().flatten() {
            match schema["properties"].get(name) {
                Some(known) => self.visit(known, inner, &format!("{place}/{name}"), faults),
                None if schema["additionalProperties"].is_object() => {
                    self.visit(
                        &schema["additionalProperties"],
                        inner,
                        &format!("{place}/{name}"),
                        faults,
                    );
                }
                None => faults.push(format!("{place}: `{name}` is not in the schema")),
            }
        }
        for inner in value.as_array().into_iter().flatten() {
            self.visit(&schema["items"], inner, &format!("{place}[]"), faults);
        }
    }
}

/// Runs the program. Returns the document on standard output, which has nothing else and equals that of the file except
/// for the time.
#[track_caller]
fn document(cli: &Cli, schema: &Schema, code: i32, arguments: &[&str]) -> Value {
    let _ = std::fs::remove_file(cli.path("r.json"));
    let output = cli
        .run(&[arguments, &["--json", "--report", "r.json"]].concat())
        .expect_code(code);
    let document: Value =
        serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", output.everything()));
    let faults = schema.check(&document);
    assert!(faults.is_empty(), "{faults:#?} in {document:#}");
    assert_eq!(document["exitCode"], code);
    if code != 2 {
        let file: Value = serde_json::from_slice(&std::fs::read(cli.path("r.json")).unwrap()).unwrap();
        assert_eq!(file["images"], document["images"]);
        assert_eq!(file["exitCode"], code);
    }
    document
}

#[test]
fn every_command_has_one_document_that_keeps_to_the_schema() {
    let (cli, schema) = (cli(), Schema::read());
    let (source, target) = (Double::new(), Double::new());
    linux_and_windows(Style::Oci).push(&source, "team/app", "1");
    with_foreign_layer().push(&source, "team/foreign", "1");
    let image = |name: &str| format!("{}/team/{name}", source.host());
    let (app, foreign, absent) = (image("app:1"), image("foreign:1"), image("absent:1"));

    let export = document(&cli, &schema, 0, &["export", &app, &foreign, "-o", "b.tar"]);
    assert_eq!(export["command"], "export");
    assert_eq!(export["images"][0]["outcome"], "exported");
    assert_eq!(export["bundle"]["committed"], true);
    assert_eq!(
        export["bundle"]["size"],
        std::fs::metadata(cli.path("b.tar")).unwrap().len()
    );
    let sum = |name: &str| super::support::sha256(&std::fs::read(cli.path(name)).unwrap());
    assert_eq!(export["bundle"]["sha256"], sum("b.tar"));
    let again = document(&cli, &schema, 0, &["export", &app, &foreign, "-o", "b.tar"]);
    assert_eq!(
        (&again["images"][0]["outcome"], &again["bundle"]["upToDate"]),
        (&"unchanged".into(), &true.into())
    );
    let none = document(&cli, &schema, 1, &["export", &app, &absent, "-o", "c.tar"]);
    assert_eq!(
        (&none["images"][0]["outcome"], &none["images"][1]["outcome"]),
        (&"notExported".into(), &"failed".into())
    );
    assert_eq!(none["images"][1]["error"]["kind"], "notFound");
    let partial = document(
        &cli,
        &schema,
        6,
        &["export", &app, &absent, "-o", "c.tar", "--allow-partial"],
    );
    assert_eq!(partial["bundle"]["committed"], true);

    let plan = document(
        &cli,
        &schema,
        0,
        &["export", &app, "-o", "new.tar", "--dry-run", "--reuse", "c.tar"],
    );
    let planned = &plan["bundle"]["planned"];
    assert_eq!(
        (&plan["dryRun"], &plan["images"][0]["outcome"]),
        (&true.into(), &"planned".into())
    );
    assert_eq!(
        (&planned["toFetch"], &planned["reusable"]),
        (&0.into(), &planned["bytes"])
    );
    assert!(planned["free"].is_u64() && !cli.path("new.tar.partial").exists());
    let zipped = document(&cli, &schema, 0, &["export", &app, "-o", "z.tar.gz"]);
    assert_eq!(zipped["bundle"]["sha256"], sum("z.tar.gz"));
    assert_eq!(partial["bundle"]["sha256"], sum("c.tar"));

    let import = document(&cli, &schema, 0, &["import", "b.tar", "-d", &target.host()]);
    assert_eq!(import["images"][0]["outcome"], "pushed");
    let file = |name: &str| {
        let bytes = std::fs::metadata(cli.path(name)).unwrap().len();
        let sum = sum(name).replace("sha256:", "");
        serde_json::json!([{"path": name, "bytes": bytes, "sha256": sum}])
    };
    assert_eq!(import["files"], file("b.tar"));
    let unpacked = document(&cli, &schema, 0, &["import", "z.tar.gz", "-d", &target.host()]);
    assert_eq!(unpacked["files"], file("z.tar.gz"));
    document(
        &cli,
        &schema,
        0,
        &["import", "c.tar", "-d", &target.host(), "--dry-run"],
    );
    let mirror = document(&cli, &schema, 1, &["-d", &target.host(), &app, &absent]);
    assert_eq!(
        (&mirror["command"], &mirror["images"][0]["outcome"]),
        (&"mirror".into(), &"unchanged".into())
    );
    let limits = document(&cli, &schema, 0, &["limits", &app]);
    assert_eq!(limits["quota"][0]["registry"], source.host());

    // What is refused has a document as well.
    let refused = document(&cli, &schema, 2, &["export", "UP/x", "also wrong", "-o", "d.tar"]);
    assert_eq!(refused["error"]["kind"], "usage");
    std::fs::write(cli.path("broken.tar"), "no archive").unwrap();
    let damaged = document(&cli, &schema, 5, &["import", "broken.tar", "-d", &target.host()]);
    assert_eq!(damaged["error"]["kind"], "malformed");
    cli.run(&["export", &app, "-o", "-", "--json"])
        .expect_code(2)
        .says(&["--report FILE.json"]);
    cli.run(&["export", &app, "-o", "-", "--report", "/dev/stdout"])
        .expect_code(2)
        .says(&["the bundle goes to standard output"]);
    // A report may replace a report, and nothing else.
    cli.run(&["export", &app, "-o", "d.tar", "--report", "b.tar"])
        .expect_code(2)
        .says(&["is not a report", "hint: name another file"]);
}

#[test]
fn a_line_that_is_refused_has_a_document() {
    let (mut cli, schema) = (cli(), Schema::read());
    for (line, command, words) in [
        (&["export", "a/b:1"][..], "export", "--output <BUNDLE.tar>"),
        (&["exprot", "a/b:1", "-o", "x.tar"], "mirror", "'-o'"),
        (&["import", "b.tar"], "import", "--dest"),
        (&["limits", "--foo"], "limits", "'--foo'"),
        (&["verify"], "verify", "<BUNDLE>"),
        (&["a/b:1"], "mirror", "--dest"),
        (
            &["export", "a/b:1", "-o", "x.tar", "-j", "many"],
            "export",
            "from 1 to 256",
        ),
        (&["-d", "h.example", "export"], "mirror", "is a command"),
    ] {
        let document = document(&cli, &schema, 2, line);
        assert_eq!(
            (&document["command"], &document["error"]["kind"]),
            (&command.into(), &"usage".into())
        );
        let message = document["error"]["message"].as_str().unwrap();
        assert!(message.contains(words) && !message.starts_with("error"), "{message}");
        let file: Value = serde_json::from_slice(&std::fs::read(cli.path("r.json")).unwrap()).unwrap();
        assert_eq!(file["error"], document["error"]);
    }
    // What stands behind `--` is no option.
    assert!(
        cli.run(&["verify", "--foo", "--", "--json"])
            .expect_code(2)
            .stdout
            .is_empty()
    );
    cli.set("DOCKER_MIRROR_JSON", "1");
    let printed = cli.run(&["export"]).expect_code(2).stdout;
    assert!(
        schema.check(&serde_json::from_str(&printed).unwrap()).is_empty(),
        "{printed}"
    );
}

#[test]
fn commands_without_a_registry_have_a_document_of_their_own_or_one_about_the_failure() {
    let (cli, schema, source) = (cli(), Schema::read(), Double::new());
    small(Style::Oci, "linux/amd64", "app").push(&source, "a/b", "1");
    cli.succeed(&["export", &format!("{}/a/b:1", source.host()), "-o", "b.tar"]);
    for (name, files, version) in [
        ("inspect", &["b.tar"][..], "inspectVersion"),
        ("verify", &["b.tar"], "verifyVersion"),
        ("diff", &["b.tar", "b.tar"], "diffVersion"),
    ] {
        let line = [&[name], files, &["--report", "r.json"]].concat();
        // A document of one kind may replace one of another.
        let shown = cli.succeed(&line).stdout;
        assert!(!shown.starts_with('{'), "{shown}");
        let printed = cli.succeed(&[&line[..], &["--json"]].concat()).stdout;
        assert_eq!(std::fs::read_to_string(cli.path("r.json")).unwrap(), printed);
        let found: Value = serde_json::from_str(&printed).unwrap();
        assert_eq!(found[version], 1, "{printed}");
        let line = [&[name], &vec!["none.tar"; files.len()][..]].concat();
        let failed = document(&cli, &schema, 2, &line);
        assert_eq!(failed["command"], name);
        assert!(
            failed["error"]["message"].as_str().unwrap().contains("none.tar"),
            "{failed}"
        );
    }
}

#[test]
fn a_report_pins_what_was_moved() {
    let (cli, schema, source, target) = (cli(), Schema::read(), Double::new(), Double::new());
    linux_and_windows(Style::Oci).push(&source, "a/multi", "1");
    let signed = small(Style::Oci, "linux/amd64", "signed");
    signed.push(&source, "a/signed", "1");
    referrers::refer(&source, "a/signed", &signed.root, referrers::BUNDLE, "signature");
    let image = |name: &str| format!("{}/a/{name}:1", source.host());
    let (multi, signed, absent) = (image("multi"), image("signed"), image("absent"));
    let export = [
        "export",
        &multi,
        &signed,
        "-o",
        "b.tar",
        "--no-cache",
        "--report",
        "r.json",
    ];
    cli.succeed(&export);
    cli.succeed(&["import", "b.tar", "-d", &target.host(), "--report", "i.json"]);
    document(&cli, &schema, 1, &["-d", &target.host(), &multi, &signed, &absent]);
    cli.run(&["-d", &target.host(), &multi, &signed, &absent, "--report", "m.json"])
        .expect_code(1);
    cli.succeed(&["inspect", "b.tar", "--lock", "l.json"]);
    // The tag moves and another signature is added: each of the three locks still gives the same bundle.
    small(Style::Oci, "linux/amd64", "other").push(&source, "a/multi", "1");
    let subject = super::support::images::small(Style::Oci, "linux/amd64", "signed").root;
    referrers::refer(&source, "a/signed", &subject, referrers::SBOM, "later");
    for lock in ["l.json", "r.json", "i.json", "m.json"] {
        let again = cli.succeed(&["export", "--lock", lock, "-o", "again.tar", "--no-cache", "--force"]);
        let same = std::fs::read(cli.path("again.tar")).unwrap() == std::fs::read(cli.path("b.tar")).unwrap();
        assert!(same, "{lock}: {}", again.everything());
        cli.succeed(&["diff", lock, "b.tar", "--exit-code"]);
    }
    // What came out of a pipe has its sum as well.
    let mut child = cli
        .command(&["import", "-", "-d", &target.host(), "--json"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let bytes = std::fs::read(cli.path("b.tar")).unwrap();
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    let piped: Value = serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap();
    let sum = super::support::sha256(&bytes).replace("sha256:", "");
    assert_eq!(
        piped["files"],
        serde_json::json!([{"path": "standard input", "bytes": bytes.len(), "sha256": sum}])
    );
}

#[test]
fn a_run_that_is_ended_from_outside_has_a_document() {
    let (cli, schema, source) = (cli(), Schema::read(), Double::new());
    small(Style::Oci, "linux/amd64", "app").push(&source, "a/b", "1");
    source.add_fault(super::support::When::get("/blobs/"), super::support::Action::stall(1));
    let image = format!("{}/a/b:1", source.host());
    let late = document(&cli, &schema, 124, &["export", &image, "-o", "b.tar", "--timeout", "1"]);
    assert_eq!(late["error"]["kind"], "cancelled");
}

#[test]
fn a_run_that_is_killed_leaves_a_report_that_says_so() {
    let (cli, schema, source) = (cli(), Schema::read(), Double::new());
    small(Style::Oci, "linux/amd64", "app").push(&source, "a/b", "1");
    let gate = Gate::closed();
    let fault = source.add_fault(When::get("/manifests/"), Action::Hold(gate.clone()));
    let image = format!("{}/a/b:1", source.host());
    let mut child = cli.spawn(&["export", &image, "-o", "b.tar", "--report", "new.json"]);
    wait_until("the run works", || fault.seen() > 0);
    child.kill().unwrap();
    child.wait().unwrap();
    gate.open();
    let left: Value = serde_json::from_slice(&std::fs::read(cli.path("new.json")).unwrap()).unwrap();
    assert_eq!(schema.check(&left), [""; 0], "{left:#}");
    assert_eq!(left["error"]["kind"], "cancelled", "{left:#}");
    // A command without reports writes none.
    for line in [&["man", "--json"][..], &["completions", "bash", "--json"]] {
        let refused = cli.run(&[line, &["--report", "none.json"]].concat()).expect_code(2);
        assert!(refused.stdout.is_empty() && !cli.path("none.json").exists(), "{line:?}");
    }
}

#[test]
fn an_import_that_is_ended_from_outside_says_what_it_sent() {
    let (cli, schema, gate) = (cli(), Schema::read(), Gate::closed());
    let target = Double::start(Options::default().fault(When::put("/manifests/"), Action::Hold(gate.clone())));
    write_layout(
        &cli.path("b.tar"),
        &[("docker.io/a/b:1", &small(Style::Oci, "linux/amd64", "app"))],
    );
    let arguments = ["import", "b.tar", "-d", &target.host(), "--report", "r.json"];
    let child = cli.spawn(&arguments);
    wait_until("a manifest after all blobs", || target.count("PUT", "/manifests/") > 0);
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(killed.unwrap().success());
    let output = Output::new(&child.wait_with_output().unwrap(), &arguments);
    gate.open();
    let sent = target.count("PUT", "/blobs/uploads/");
    assert!(sent > 1, "{}", target.transcript());
    let output = output.says(&[&format!("{sent} blobs ("), "uploaded"]);
    let document: Value = serde_json::from_slice(&std::fs::read(cli.path("r.json")).unwrap()).unwrap();
    assert_eq!(schema.check(&document), [""; 0], "{}", output.everything());
    assert_eq!(document["total"]["uploaded"]["blobs"], sent, "{document}");
}

#[test]
fn a_document_holds_no_secret() {
    let registry = Double::start(Options::default().auth(Auth::basic("somebody", "s3cret")));
    let cli = cli();
    cli.log_in(&registry.host(), "somebody", "wrong-s3cret");
    let image = format!("{}/a/b:1", registry.host());
    let output = cli
        .run(&["export", &image, "-o", "b.tar", "--json"])
        .expect_code(3)
        .hides(&["s3cret"]);
    assert!(output.stdout.contains("\"unauthorized\""), "{}", output.everything());
}
