//! Registries behind nginx: limits on bodies, TLS that the registry does not know of, redirects, and a registry that
//! restarts.

use std::io::{BufRead, BufReader};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::support::chaos::{Mishap, Schedule};
use super::support::cli::wait_until;
use super::support::daemon::Daemon;
use super::support::distribution::Distribution;
use super::support::nginx::{nginx, pass_to};
use super::support::proxy::Proxy;
use super::support::tls::{Authority, write_pem};
use super::{both_ways, cli, fill, has_all, names, with_names};

const WHAT: &str = "docker-registry behind nginx";

fn plain() -> Option<Distribution> {
    Distribution::start(WHAT, |_| Default::default())
}

/// nginx in front of a registry, with further lines.
fn in_front(of: &Distribution, lines: &str) -> Option<Daemon> {
    nginx(
        WHAT,
        &format!("listen 127.0.0.1:{{port}};\n{lines}\n{}", pass_to(&of.host())),
    )
}

/// A registry with images, and an empty one.
fn source_and_target() -> Option<(Distribution, Distribution)> {
    let (source, target) = (plain()?, plain()?);
    fill(&source.client());
    Some((source, target))
}

#[test]
fn buffered_in_both_directions() {
    let Some((source, target)) = source_and_target() else {
        return;
    };
    // nginx buffers whole uploads and downloads before it passes them on.
    let lines =
        "client_max_body_size 0; proxy_request_buffering on; proxy_buffering on; proxy_max_temp_file_size 100m;";
    let (Some(first), Some(second)) = (in_front(&source, lines), in_front(&target, lines)) else {
        return;
    };
    both_ways(&cli(), &first.host(), &second.host(), &[], &target.client());
}

#[test]
fn unbuffered_in_both_directions() {
    let Some((source, target)) = source_and_target() else {
        return;
    };
    let lines = "client_max_body_size 0; proxy_request_buffering off; proxy_buffering off;";
    let (Some(first), Some(second)) = (in_front(&source, lines), in_front(&target, lines)) else {
        return;
    };
    both_ways(&cli(), &first.host(), &second.host(), &[], &target.client());
}

#[test]
fn a_limit_on_bodies_is_got_round_by_chunks() {
    let Some((source, target)) = source_and_target() else {
        return;
    };
    // nginx's own default.
    let Some(front) = in_front(&target, "client_max_body_size 1m;") else {
        return;
    };
    both_ways(&cli(), &source.host(), &front.host(), &[], &target.client());
}

#[test]
fn a_limit_that_nothing_gets_round_is_told() {
    let Some((source, target)) = source_and_target() else {
        return;
    };
    let Some(front) = in_front(&target, "client_max_body_size 20k;") else {
        return;
    };
    let cli = cli();
    cli.succeed(&with_names(&["export", "-o", "b.tar"], &names(&source.host())));
    // The cause of all images is told once; which blobs were refused stands in the report.
    let output = cli.run(&["import", "b.tar", "-d", &front.host(), "--report", "r.json"]);
    output
        .expect_code(1)
        .says(&["3 images: ", "413", &front.host(), "client_max_body_size"]);
    let report = std::fs::read(cli.folder().join("r.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    for image in report["images"].as_array().unwrap() {
        let error = image["error"].to_string();
        assert!(error.contains("413") && error.contains("blob sha256:"), "{error}");
    }
    let tags: Vec<String> = ["library/alpha", "team/beta", "team/gamma"]
        .iter()
        .flat_map(|repository| target.client().tags(repository))
        .collect();
    assert!(tags.is_empty(), "{tags:?}");
}

/// nginx with TLS in front of a registry.
fn encrypted(of: &Distribution, authority: &Authority) -> Option<Daemon> {
    let folder = tempfile::tempdir().unwrap();
    let pair = authority.server(&["127.0.0.1", "localhost"]);
    let certificate = write_pem(folder.path(), "server.pem", &pair.certificate);
    let key = write_pem(folder.path(), "server.key", &pair.key);
    let server = format!(
        "listen 127.0.0.1:{{port}} ssl; ssl_certificate {}; ssl_certificate_key {}; client_max_body_size 0;\n{}",
        certificate.display(),
        key.display(),
        pass_to(&of.host())
    );
    nginx(WHAT, &server)
}

#[test]
fn encryption_that_the_registry_does_not_know_of() {
    let Some((source, target)) = source_and_target() else {
        return;
    };
    let authority = Authority::new("authority of a test");
    // The registry says http in every Location, since nginx does not tell it about TLS.
    let (Some(first), Some(second)) = (encrypted(&source, &authority), encrypted(&target, &authority)) else {
        return;
    };
    let cli = cli();
    let file = write_pem(cli.folder(), "authority.pem", &authority.pem());
    let more = ["--ca-file", file.to_str().unwrap()];
    both_ways(&cli, &first.host(), &second.host(), &more, &target.client());
}

#[test]
fn a_redirect_to_https() {
    let Some((source, target)) = source_and_target() else {
        return;
    };
    let authority = Authority::new("authority of a test");
    let (Some(first), Some(second)) = (encrypted(&source, &authority), encrypted(&target, &authority)) else {
        return;
    };
    let redirect = |to: &Daemon| {
        let to = to.host();
        nginx(
            WHAT,
            &format!("listen 127.0.0.1:{{port}};\nreturn 301 https://{to}$request_uri;"),
        )
    };
    let (Some(old_source), Some(old_target)) = (redirect(&first), redirect(&second)) else {
        return;
    };
    let cli = cli();
    let file = write_pem(cli.folder(), "authority.pem", &authority.pem());
    let more = ["--ca-file", file.to_str().unwrap()];
    let old = names(&old_source.host());
    let mut export = with_names(&["export", "-o", "b.tar"], &old);
    export.extend(more);
    cli.succeed(&export);
    // An upload is not sent again after a redirect that may have changed its method: the message names the address.
    let mut import = vec!["import", "b.tar", "-d"];
    let old = old_target.host();
    import.push(&old);
    import.extend(more);
    cli.run(&import)
        .expect_code(1)
        .says(&[&old_target.host(), &second.host(), "redirect"]);
    let new = second.host();
    import[3] = &new;
    cli.succeed(&import);
    has_all(&target.client(), "");
}

#[test]
fn a_registry_that_restarts() {
    let (Some(mut source), Some(mut target)) = (plain(), plain()) else {
        return;
    };
    fill(&source.client());
    let lines = "client_max_body_size 0; proxy_connect_timeout 2s;";
    let (Some(first), Some(second)) = (in_front(&source, lines), in_front(&target, lines)) else {
        return;
    };
    // Slow enough that the restart falls into the middle of the run: the first requests are six of many.
    let slow = || Some(Arc::new(Schedule::always(Mishap::Late(Duration::from_millis(60)))));
    let (near, far) = (Proxy::start(&first.host()), Proxy::start(&second.host()));
    near.follow(slow());
    far.follow(slow());
    let cli = cli();
    let names = names(&near.host());
    let export = with_names(&["export", "-o", "b.tar", "-j", "2", "-v"], &names);
    let import = ["import", "b.tar", "-d", &far.host(), "-j", "2", "-v"];
    let runs = [(&export[..], &near, &mut source), (&import[..], &far, &mut target)];
    for (arguments, line, registry) in runs {
        let mut run = cli.spawn(arguments);
        let stderr = run.stderr.take().unwrap();
        let text = Arc::new(Mutex::new(String::new()));
        let reader = std::thread::spawn({
            let text = text.clone();
            move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    *text.lock().unwrap() += &(line + "\n");
                }
            }
        });
        // In the middle, and for as long as it takes to be noticed.
        wait_until("the first requests", || line.log().lines().count() >= 6);
        registry.front.stop();
        wait_until("the answer of nginx", || text.lock().unwrap().contains("502"));
        assert!(registry.front.restart());
        let status = run.wait().unwrap();
        reader.join().unwrap();
        assert!(status.success(), "{arguments:?}\n{}", text.lock().unwrap());
    }
    has_all(&target.client(), "");
}
