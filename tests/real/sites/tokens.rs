//! Token authentication: a real registry that trusts a token server of the test.

use std::sync::Arc;
use std::time::Duration;

use super::support::chaos::{Mishap, Schedule};
use super::support::distribution::Distribution;
use super::support::proxy::Proxy;
use super::support::token_server::TokenServer;
use super::{both_ways, cli, fill, has_all, names, with_names};

const WHAT: &str = "docker-registry with token authentication";
const USER: &str = "somebody";
const PASSWORD: &str = "hunter2-very-secret";

fn registry(tokens: &TokenServer) -> Option<Distribution> {
    Distribution::start(WHAT, |folder| (tokens.configuration(folder), String::new()))
}

fn credentials(hosts: &[String]) -> serde_json::Value {
    let one = |host: &String| {
        (
            host.clone(),
            serde_json::json!({"username": USER, "password": PASSWORD}),
        )
    };
    let auths: serde_json::Map<_, _> = hosts.iter().map(one).collect();
    serde_json::json!({"auths": auths})
}

#[test]
fn tokens_for_both_sides() {
    let tokens = TokenServer::start(USER, PASSWORD, 300);
    let (Some(source), Some(target)) = (registry(&tokens), registry(&tokens)) else {
        return;
    };
    fill(&source.client());
    let cli = cli();
    let image = &names(&source.host())[0];
    cli.run(&["export", image, "-o", "none.tar"])
        .expect_code(3)
        .says(&[&source.host()]);
    assert_eq!(tokens.issued(), 0);
    cli.docker_config(&credentials(&[source.host(), target.host()]));
    both_ways(&cli, &source.host(), &target.host(), &[], &target.client());
    // Three images and three commands: one token for each repository and kind of access, not one for each request.
    assert!(tokens.issued() <= 40, "{} tokens", tokens.issued());
    cli.docker_config(&serde_json::json!({"auths": {source.host(): {"username": USER, "password": "wrong-word"}}}));
    cli.run(&["export", image, "-o", "none.tar", "-vv"])
        .expect_code(3)
        .says(&[&source.host()])
        .hides(&["wrong-word"]);
}

#[test]
fn tokens_that_expire_in_the_middle() {
    let tokens = TokenServer::start(USER, PASSWORD, 3);
    let (Some(source), Some(target)) = (registry(&tokens), registry(&tokens)) else {
        return;
    };
    fill(&source.client());
    // Every answer is delayed, so that a run lasts several times as long as its tokens.
    let slow = || Some(Arc::new(Schedule::always(Mishap::Late(Duration::from_millis(250)))));
    let (near_source, near_target) = (Proxy::start(&source.host()), Proxy::start(&target.host()));
    near_source.follow(slow());
    near_target.follow(slow());
    let cli = cli();
    cli.docker_config(&credentials(&[near_source.host(), near_target.host()]));
    let names = names(&near_source.host());
    let export = with_names(&["export", "-o", "b.tar", "-j", "1", "-vv", "--no-cache"], &names);
    let secrets = [PASSWORD, "c29tZWJvZHk6"];
    cli.succeed(&export).hides(&secrets);
    let after_export = tokens.issued();
    assert!(after_export > 3, "{after_export} tokens");
    let import = ["import", "b.tar", "-d", &near_target.host(), "-j", "1", "-vv"];
    let out = cli.succeed(&import).hides(&secrets);
    assert!(tokens.issued() > after_export + 3, "{} tokens", tokens.issued());
    has_all(&target.client(), "");
    let said = out.everything();
    assert!(tokens.tokens().iter().all(|token| !said.contains(token)));
}
