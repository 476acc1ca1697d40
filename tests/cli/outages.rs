//! A host that is down, refuses every request or is not trusted is not asked again, and its cause is reported once for
//! all images.

use std::net::TcpListener;

use super::cli;
use super::support::cli::Output;
use super::support::fault::Canned;
use super::support::image::Style;
use super::support::images::{greeting, helm_chart, multi, without_platforms};
use super::support::tls::{Authority, ServerTls};
use super::support::{Action, Auth, Cli, Double, Options, When};

/// How many images each run has.
const IMAGES: usize = 30;

/// A port of this machine at which nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// A registry that fails in this way whatever it is asked.
fn failing(action: Action) -> Double {
    Double::start(Options::default().fault(When::any(), action))
}

fn images(host: &str) -> Vec<String> {
    (0..IMAGES).map(|number| format!("{host}/team/app{number}:1")).collect()
}

fn fill(registry: &Double) {
    for number in 0..IMAGES {
        helm_chart().push(registry, &format!("team/app{number}"), "1");
    }
}

fn export(cli: &Cli, images: &[String], flags: &[&str]) -> Output {
    let mut arguments = vec!["export", "-o", "b.tar", "--force", "--no-cache"];
    arguments.extend(flags);
    arguments.extend(images.iter().map(String::as_str));
    cli.run(&arguments)
}

/// Checks that standard error has at most this number of lines.
#[track_caller]
fn at_most(lines: usize, output: &Output) {
    let found = output.stderr.lines().count();
    assert!(found <= lines, "{found} lines: {}", output.everything());
}

/// Checks that a cause of all images is told once, with a hint.
#[track_caller]
fn told_once(output: Output, code: i32, cause: &str) -> Output {
    let line = format!("  {IMAGES} images: {cause}");
    let found = output.stderr.lines().filter(|text| text.starts_with(&line)).count();
    assert_eq!(found, 1, "no `{line}` in {}", output.everything());
    output
        .expect_code(code)
        .says(&[&format!("{IMAGES} of {IMAGES} images failed"), "hint: "])
}

#[test]
fn a_source_that_cannot_be_reached_is_told_once_for_all_images() {
    let host = nobody();
    let output = told_once(
        export(&cli(), &images(&host), &[]),
        1,
        &format!("`{host}` refused the connection"),
    );
    at_most(5, &output);
}

#[test]
fn a_source_that_only_answers_502_is_not_asked_for_each_image() {
    let registry = failing(Action::status(502));
    let host = registry.host();
    let output = told_once(
        export(&cli(), &images(&host), &["--retries", "1"]),
        1,
        &format!("`{host}` answered 502 Bad Gateway"),
    );
    at_most(6, &output);
    assert!(registry.requests().len() < IMAGES, "{}", registry.transcript());
}

#[test]
fn a_source_that_breaks_every_connection_is_not_asked_for_each_image() {
    let registry = failing(Action::End(super::support::End::Reset));
    let output = export(&cli(), &images(&registry.host()), &["--retries", "1"]).expect_code(1);
    at_most(6, &output);
    assert!(registry.requests().len() < IMAGES * 2, "{}", registry.transcript());
}

#[test]
fn a_certificate_that_is_not_trusted_is_told_once_for_all_images() {
    let authority = Authority::new("unknown");
    let registry = Double::start(Options::default().tls(ServerTls::new(authority.server(&["127.0.0.1"]))));
    let host = registry.host();
    let output = told_once(
        export(&cli(), &images(&host), &[]),
        1,
        &format!("the certificate of `{host}` is signed by an authority that is not trusted here"),
    );
    // Requests in flight at the moment when the host turned out to speak TLS are reported as well.
    at_most(12, &output);
}

#[test]
fn a_login_that_is_missing_or_wrong_is_told_once_for_all_images() {
    for auth in [Auth::basic("alice", "right"), Auth::bearer("alice", "right")] {
        let registry = Double::start(Options::default().auth(auth));
        fill(&registry);
        let host = registry.host();
        let mut cli = cli();
        let missing = told_once(
            export(&cli, &images(&host), &[]),
            3,
            &format!("`{host}` requires a login"),
        );
        at_most(4, &missing);
        cli.set("DOCKER_MIRROR_USERNAME", "alice");
        cli.set("DOCKER_MIRROR_PASSWORD", "wrong");
        let wrong = told_once(
            export(&cli, &images(&host), &[]),
            3,
            &format!("`{host}` rejected user `alice` (login from `DOCKER_MIRROR_USERNAME`)"),
        );
        at_most(4, &wrong);
    }
}

#[test]
fn a_token_server_that_is_down_is_not_asked_for_each_image() {
    let registry = Double::start(
        Options::default()
            .auth(Auth::anonymous())
            .fault(When::path("/token"), Action::status(503)),
    );
    fill(&registry);
    let host = registry.host();
    let output = told_once(
        export(&cli(), &images(&host), &["--retries", "1"]),
        1,
        &format!("cannot get a token for `{host}`"),
    );
    at_most(30, &output);
    assert!(registry.count("GET", "/token") < IMAGES, "{}", registry.transcript());
}

#[test]
fn the_destination_is_told_of_once_for_all_images() {
    let source = Double::new();
    fill(&source);
    let cli = cli();
    export(&cli, &images(&source.host()), &[]).expect_code(0);
    let closed = Double::start(Options::default().auth(Auth::basic("alice", "right")));
    let output = told_once(
        cli.run(&["import", "b.tar", "-d", &closed.host()]),
        3,
        &format!("`{}` requires a login", closed.host()),
    );
    at_most(5, &output);

    let broken = failing(Action::status(502));
    let output = told_once(
        cli.run(&["import", "b.tar", "-d", &broken.host(), "--retries", "1"]),
        1,
        &format!("`{}` answered 502 Bad Gateway", broken.host()),
    );
    at_most(10, &output);

    let mut arguments = vec!["-d", &*closed.host().leak()];
    let images = images(&source.host());
    arguments.extend(images.iter().map(String::as_str));
    let output = told_once(cli.run(&arguments), 3, &format!("`{}` requires a login", closed.host()));
    at_most(5, &output);
}

#[test]
fn a_destination_that_refuses_what_is_pushed_alone_is_told_once_for_all_images() {
    let (cli, source) = (cli(), Double::new());
    fill(&source);
    export(&cli, &images(&source.host()), &[]).expect_code(0);
    for (refused, kind) in [("/manifests/", "manifests"), ("/blobs/uploads/", "blobs")] {
        let target = Double::start(Options::default().fault(When::put(refused), Action::status(503)));
        let arguments = ["import", "b.tar", "-d", &target.host(), "--retries", "1", "-j", "2"];
        let cause = format!("`{}` answered 503 Service Unavailable", target.host());
        let words = format!("{cause}; no further {kind} are sent to `{}` for a while", target.host());
        let output = told_once(cli.run(&arguments), 1, &cause).says(&[&words]);
        // Ten images fail before, with one retry each, and some more are begun.
        let puts = target.count("PUT", refused);
        assert!(puts < 2 * IMAGES, "{puts}: {}", output.everything());
    }
}

#[test]
fn a_store_to_which_a_registry_redirects_is_told_once_for_all_images() {
    let stores = [
        (nobody(), None, "refused the connection"),
        (String::new(), Some(Action::End(super::support::End::Reset)), "broke"),
        (
            String::new(),
            Some(Action::status(503)),
            "answered 503 Service Unavailable",
        ),
        (String::new(), Some(Action::status(403)), "answered 403 Forbidden"),
    ];
    for (closed, action, cause) in stores {
        let store = action.map(failing);
        let address = store.as_ref().map_or(closed, Double::host);
        let registry = Double::new();
        for number in 0..IMAGES {
            let platforms = ["linux/amd64", "linux/arm64"];
            multi(Style::Oci, &platforms, &number.to_string()).push(&registry, &format!("team/app{number}"), "1");
        }
        let to = format!("http://{address}{{target}}");
        registry.add_fault(When::get("/blobs/"), Action::redirect(307, &to));
        let output = export(&cli(), &images(&registry.host()), &["--retries", "2"]);
        at_most(10, &output);
        let line = output.stderr.lines().find(|line| line.starts_with("  30 images: "));
        let line = line.unwrap_or_else(|| panic!("{cause}: {}", output.everything()));
        for words in [cause, &address, &registry.host()] {
            assert!(line.contains(words), "no `{words}` in {line}");
        }
        output.says(&["30 of 30 images failed", "hint: "]);
    }
}

#[test]
fn a_destination_that_breaks_connections_for_one_repository_gets_the_other_images() {
    let (cli, source) = (cli(), Double::new());
    fill(&source);
    let images = &images(&source.host())[..3];
    export(&cli, images, &[]).expect_code(0);
    let target = Double::new();
    // The tag of the first image is asked for first.
    target.add_fault(When::path("/v2/team/app0/"), Action::End(super::support::End::Reset));
    let host = target.host();
    let mirror: Vec<&str> = ["-d", &host]
        .into_iter()
        .chain(images.iter().map(String::as_str))
        .collect();
    for arguments in [&["import", "b.tar", "-d", &host][..], &mirror] {
        let output = cli.run(&[arguments, &["--retries", "0"]].concat());
        let output = output.expect_code(1).says(&["1 of 3 images failed", "team/app0"]);
        assert_eq!(output.lines().len(), 2, "{}", output.everything());
    }
}

#[test]
fn one_small_image_through_a_gateway_that_is_down_costs_few_lines() {
    let source = super::source();
    let cli = cli();
    cli.succeed(&[
        "export",
        &format!("{}/library/greeting:1.0", source.host()),
        "-o",
        "b.tar",
    ]);
    let broken = failing(Action::status(502));
    let output = cli
        .run(&["import", "b.tar", "-d", &broken.host(), "--retries", "1"])
        .expect_code(1)
        .says(&["answered 502 Bad Gateway"]);
    at_most(8, &output);
}

#[test]
fn images_of_a_host_that_works_are_not_taken_down_by_one_that_does_not() {
    let good = Double::new();
    fill(&good);
    let bad = nobody();
    let mut all = images(&good.host());
    all.extend(images(&bad));
    let output = export(&cli(), &all, &["--allow-partial"]).expect_code(6).says(&[
        "30 of 60 images failed",
        &format!("  30 images: `{bad}` refused the connection"),
        // The images that it concerns are named, where it does not concern all.
        &format!("{bad}/team/app0:1, {bad}/team/app1:1"),
        "and 20 more",
    ]);
    assert_eq!(output.lines().len(), IMAGES, "{}", output.everything());
}

#[test]
fn a_cause_of_some_images_is_told_before_the_others_are_transferred() {
    let (good, target, bad) = (Double::new(), Double::new(), nobody());
    fill(&good);
    let mut all = images(&good.host());
    all.extend(images(&bad));
    let host = target.host();
    let mut mirror = vec!["-d", &host];
    mirror.extend(all.iter().map(String::as_str));
    for (output, transfer) in [
        (export(&cli(), &all, &["--allow-partial"]), "fetching "),
        (cli().run(&mirror), "pushing "),
    ] {
        let place = |begin: &str| {
            let place = output.stderr.lines().position(|line| line.starts_with(begin));
            place.unwrap_or_else(|| panic!("no `{begin}`: {}", output.everything()))
        };
        let cause = format!("  30 images: `{bad}` refused the connection");
        assert!(place(&cause) < place(transfer), "{}", output.everything());
        // Notes tell of retries before.
        let told = output.stderr.lines().filter(|line| !line.starts_with("note: "));
        let told = told.filter(|line| line.contains("refused the connection")).count();
        assert_eq!(told, 1, "{}", output.everything());
        output.says(&[
            "30 images cannot be resolved; the run goes on with the others",
            "30 of 60 images failed",
        ]);
    }
}

#[test]
fn an_image_whose_blobs_fail_takes_no_other_image_down() {
    let registry = Double::new();
    fill(&registry);
    greeting().push(&registry, "broken/app", "1");
    registry.add_fault(When::path("/v2/broken/app/blobs/"), Action::status(500));
    let mut all = vec![format!("{}/broken/app:1", registry.host())];
    all.extend(images(&registry.host()));
    for jobs in ["1", "6"] {
        let flags = ["--allow-partial", "--retries", "0", "--jobs", jobs];
        let output = export(&cli(), &all, &flags)
            .expect_code(6)
            .says(&["1 of 31 images failed", "broken/app", "500"]);
        assert_eq!(output.lines().len(), IMAGES, "{}", output.everything());
    }
}

#[test]
fn a_mirror_that_is_down_is_left_after_its_first_refusal() {
    let origin = Double::new();
    fill(&origin);
    let busy = failing(Action::status(503));
    let broken = failing(Action::End(super::support::End::Close));
    for (mirror, words) in [
        (nobody(), "refused the connection"),
        (busy.host(), "answered 503"),
        (broken.host(), "closed the connection"),
    ] {
        let flag = format!("{}=http://{mirror}", origin.host());
        let output = export(&cli(), &images(&origin.host()), &["--mirror", &flag, "--retries", "1"])
            .expect_code(0)
            .says(&[words, &format!("`{mirror}` is not asked again in this run")]);
        let told = output.stderr.lines().filter(|line| line.contains(&mirror)).count();
        assert!(told <= 3, "{told}: {}", output.everything());
    }
    assert!(busy.requests().len() < IMAGES, "{}", busy.transcript());
}

#[test]
fn a_mirror_that_wants_a_login_is_told_once() {
    let origin = Double::new();
    fill(&origin);
    let mirror = Double::start(Options::default().auth(Auth::basic("alice", "right")));
    fill(&mirror);
    let flag = format!("{}=http://{}", origin.host(), mirror.host());
    let output = export(&cli(), &images(&origin.host()), &["--mirror", &flag]).expect_code(0);
    let told = output.stderr.lines().filter(|line| line.contains(&mirror.host()));
    assert_eq!(told.count(), 1, "{}", output.everything());
}

#[test]
fn a_mirror_that_never_serves_anything_is_left() {
    let origin = Double::new();
    fill(&origin);
    let loops = Double::new();
    let target = format!("http://{}/login", loops.host());
    loops.add_fault(When::any(), Action::redirect(302, &target));
    for (mirror, requests) in [
        (failing(Action::status(204)), IMAGES),
        (failing(Action::status(401)), IMAGES),
        (failing(Action::status(403)), IMAGES),
        (failing(Action::html()), IMAGES),
        (loops, 11 * IMAGES / 2),
    ] {
        let flag = format!("{}=http://{}", origin.host(), mirror.host());
        let output = export(&cli(), &images(&origin.host()), &["--mirror", &flag, "-j", "4"]).expect_code(0);
        let told = output
            .stderr
            .lines()
            .filter(|line| line.contains(&mirror.host()))
            .count();
        assert!((1..=4).contains(&told), "{told}: {}", output.everything());
        assert!(mirror.requests().len() <= requests, "{}", mirror.transcript());
    }
}

#[test]
fn a_mirror_with_damaged_blobs_is_replaced_by_the_registry_itself() {
    let (cli, origin, mirror) = (cli(), Double::new(), Double::new());
    // The configs, without a platform in the index, are read to select platforms.
    let image = without_platforms();
    image.push(&origin, "team/app", "1");
    image.push(&mirror, "team/app", "1");
    mirror.add_fault(When::get("/blobs/"), Action::FlipBit(3));
    let name = format!("{}/team/app:1", origin.host());
    let flag = format!("{}=http://{}", origin.host(), mirror.host());
    let target = Double::new();
    for arguments in [["-o", "b.tar"], ["-d", &target.host()]] {
        let command: &[&str] = if arguments[0] == "-o" { &["export"] } else { &[] };
        let all = [
            command,
            &[name.as_str(), "--mirror", &flag, "--platform", "all"],
            &arguments,
        ]
        .concat();
        let output = cli.succeed(&all);
        assert!(
            mirror.count("GET", "/blobs/") > 0 && origin.count("GET", "/blobs/") > 0,
            "{}",
            output.everything()
        );
        origin.forget_requests();
        mirror.forget_requests();
    }
    cli.succeed(&["verify", "b.tar"]);
    // If the registry itself is damaged as well, the image fails.
    origin.add_fault(When::get("/blobs/"), Action::FlipBit(3));
    let arguments = ["export", &name, "--mirror", &flag, "--platform", "all", "-o", "c.tar"];
    cli.run(&arguments).expect_code(1).says(&["has other bytes"]);
}

#[test]
fn answers_that_no_registry_gives_are_told_once_for_all_images() {
    let canned = |status: u16, content_type: &str, body: &str| {
        Action::Answer(Canned {
            status,
            headers: vec![("content-type".into(), content_type.into())],
            body: body.into(),
        })
    };
    let loops = Double::new();
    let target = format!("http://{}/login", loops.host());
    loops.add_fault(When::any(), Action::redirect(302, &target));
    for (source, code, cause) in [
        (failing(Action::status(401)), 3, "wants credentials"),
        (
            failing(canned(404, "text/html", "<html>nothing here</html>")),
            1,
            "answered 404",
        ),
        (failing(Action::status(204)), 1, "answered 204"),
        (failing(Action::status(400)), 1, "answered 400"),
        (failing(Action::status(451)), 1, "answered 451"),
        (
            failing(canned(200, "application/json", "{}")),
            1,
            "is JSON that is no manifest",
        ),
        (loops, 1, "redirects more than 10 times"),
    ] {
        let output = export(&cli(), &images(&source.host()), &["--retries", "0"]).expect_code(code);
        at_most(8, &output);
        let host = source.host();
        let line = format!("  {IMAGES} images: ");
        let group = output.stderr.lines().find(|text| text.starts_with(&line));
        assert!(
            group.is_some_and(|text| text.contains(cause)),
            "{cause} {host}: {}",
            output.everything()
        );
    }
}

#[test]
fn a_registry_behind_a_mirror_that_cannot_be_asked_for_signatures_is_told_once() {
    let (cli, mirror, upstream) = (cli(), Double::new(), nobody());
    for name in ["a/one", "a/two"] {
        greeting().push(&mirror, name, "1");
    }
    let there = format!("{upstream}=http://{}", mirror.host());
    let images = ["a/one", "a/two"].map(|name| format!("{upstream}/{name}:1"));
    let output = export(&cli, &images, &["--mirror", &there, "--retries", "0"]).expect_code(0);
    let told = output.stderr.matches("cannot be asked for signatures").count();
    assert_eq!(told, 1, "{}", output.everything());
    output.says(&["`--no-referrers` asks for none"]);
}
