//! A proxy with a password in front of the registry: tinyproxy. Requests to loopback addresses never go through a
//! proxy; 0.0.0.0, which Linux routes to this machine as well, is not a loopback address, and stands for a registry
//! elsewhere.

use super::support::daemon::Daemon;
use super::support::distribution::Distribution;
use super::support::nginx::tinyproxy;
use super::support::proxy::Proxy;
use super::support::tls::{Authority, write_pem};
use super::{Cli, both_ways, cli, fill, names};

const WHAT: &str = "docker-registry behind tinyproxy";
const USER: &str = "somebody";
const PASSWORD: &str = "hunter2-very-secret";

fn elsewhere(port: u16) -> String {
    format!("0.0.0.0:{port}")
}

/// Returns a user with a proxy. The variable for http is in lower case, as curl and other programs require.
fn user(variable: &str, proxy: &Daemon, credentials: &str) -> Cli {
    let mut cli = cli();
    cli.set(variable, format!("http://{credentials}{}", proxy.host()));
    cli
}

fn requests(proxy: &Daemon) -> usize {
    let log = std::fs::read_to_string(proxy.folder().join("access")).unwrap_or_default();
    log.lines().filter(|line| line.contains("Request (")).count()
}

#[test]
fn plain_requests_by_way_of_a_proxy() {
    let start = || Distribution::start(WHAT, |_| Default::default());
    let (Some(source), Some(target)) = (start(), start()) else {
        return;
    };
    let Some(proxy) = tinyproxy(WHAT, USER, PASSWORD) else {
        return;
    };
    fill(&source.client());
    let (from, to) = (elsewhere(source.front.port), elsewhere(target.front.port));
    let login = format!("{USER}:{PASSWORD}@");
    let known = user("http_proxy", &proxy, &login);
    both_ways(&known, &from, &to, &["--plain-http"], &target.client());
    assert!(
        requests(&proxy) > 20,
        "{} requests went by way of the proxy",
        requests(&proxy)
    );

    let image = &names(&from)[0];
    let export = ["export", image, "-o", "none.tar", "--plain-http", "-vv"];
    user("http_proxy", &proxy, "")
        .run(&export)
        .expect_code(1)
        .says(&["407", &from]);
    // tinyproxy answers a wrong password as if it were the registry, by 401.
    user("http_proxy", &proxy, &format!("{USER}:wrong-word@"))
        .run(&export)
        .expect_code(3)
        .says(&["requires a login", &from])
        .hides(&["wrong-word"]);
    known.succeed(&export).hides(&[PASSWORD]);

    // NO_PROXY: straight there, though the proxy lets nobody in.
    let before = requests(&proxy);
    let mut straight = user("http_proxy", &proxy, "");
    straight.set("NO_PROXY", "example.com,0.0.0.0");
    straight.succeed(&export);
    assert_eq!(requests(&proxy), before);
}

#[test]
fn a_tunnel_through_a_proxy() {
    let authority = Authority::new("authority of a test");
    let start = || {
        Distribution::start(WHAT, |folder| {
            let pair = authority.server(&["127.0.0.1", "localhost", "0.0.0.0"]);
            let certificate = write_pem(folder, "server.pem", &pair.certificate);
            let key = write_pem(folder, "server.key", &pair.key);
            let tls = format!(
                "  tls:\n    certificate: {}\n    key: {}\n",
                certificate.display(),
                key.display()
            );
            (String::new(), tls)
        })
    };
    let (Some(source), Some(target)) = (start(), start()) else {
        return;
    };
    let Some(proxy) = tinyproxy(WHAT, USER, PASSWORD) else {
        return;
    };
    fill(&source.client());
    let (from, to) = (elsewhere(source.front.port), elsewhere(target.front.port));
    let login = format!("{USER}:{PASSWORD}@");
    let known = user("HTTPS_PROXY", &proxy, &login);
    let file = write_pem(known.folder(), "authority.pem", &authority.pem());
    let more = ["--ca-file", file.to_str().unwrap()];
    both_ways(&known, &from, &to, &more, &target.client());
    assert!(requests(&proxy) > 0, "nothing went by way of the proxy");
    let image = &names(&from)[0];
    let export = [
        "export",
        image,
        "-o",
        "none.tar",
        "-vv",
        "--ca-file",
        file.to_str().unwrap(),
    ];
    user("HTTPS_PROXY", &proxy, "")
        .run(&export)
        .expect_code(1)
        .says(&[&from, "proxy"]);
}

#[test]
fn the_proxys_password_does_not_reach_the_registry() {
    let Some(source) = Distribution::start(WHAT, |_| Default::default()) else {
        return;
    };
    let Some(proxy) = tinyproxy(WHAT, USER, PASSWORD) else {
        return;
    };
    fill(&source.client());
    // The registry is reached directly; its token server and all other servers would be reached through the proxy.
    let mut known = user("http_proxy", &proxy, &format!("{USER}:{PASSWORD}@"));
    known.set("no_proxy", "0.0.0.0");
    let record = Proxy::recording(&source.host());
    let port: u16 = record.host().rsplit_once(':').unwrap().1.parse().unwrap();
    let image = &names(&elsewhere(port))[0];
    known.succeed(&["export", image, "-o", "b.tar", "--plain-http"]);
    super::secrets::hold_nothing(&record.record(), &[USER, PASSWORD]);
    assert_eq!(requests(&proxy), 0);
}
