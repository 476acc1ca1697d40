//! Gateways and proxies in front of a registry that answer 200 with a page of their own, or declare every answer as a
//! web page.

use super::cli;
use super::support::fault::{Action, Canned, When};
use super::support::image::Style;
use super::support::images::small;
use super::support::{Double, Options};

fn answer(content_type: &str, body: impl Into<Vec<u8>>) -> Action {
    Action::Answer(Canned {
        status: 200,
        headers: vec![("content-type".into(), content_type.into())],
        body: body.into(),
    })
}

#[test]
fn json_that_is_no_manifest_does_not_become_an_image() {
    let cli = cli();
    let source = Double::new();
    let image = small(Style::Oci, "linux/amd64", "app");
    image.push(&source, "team/app", "1");
    let name = format!("{}/team/app:1", source.host());
    for (content_type, body) in [
        (
            "application/json",
            r#"{"errors":[{"code":"UNAUTHORIZED","message":"log in"}]}"#,
        ),
        ("text/plain", r#"{"status":"ok"}"#),
        ("application/octet-stream", "{}"),
    ] {
        let gateway = Double::start(Options::default().fault(When::path("/manifests/"), answer(content_type, body)));
        let of_gateway = format!("{}/team/app:1", gateway.host());
        cli.run(&["export", &of_gateway, "-o", "b.tar", "--no-cache", "--retries", "0"])
            .expect_code(1)
            .says(&[
                "is JSON that is no manifest",
                &body[..2],
                "does a gateway stand in front of it?",
            ]);
        assert!(!cli.path("b.tar").exists());
        // A mirror that does so is left, and the registry is asked.
        let mirror = format!("{}=http://{}", source.host(), gateway.host());
        cli.succeed(&[
            "export",
            &name,
            "-o",
            "m.tar",
            "--force",
            "--no-cache",
            "--mirror",
            &mirror,
        ]);
        let listed = cli.succeed(&["inspect", "m.tar", "--json"]).stdout;
        assert!(listed.contains(&image.root.digest), "{listed}");
    }
}

#[test]
fn a_manifest_that_is_called_a_web_page_is_read() {
    let cli = cli();
    let image = small(Style::Oci, "linux/amd64", "app");
    let registry = Double::start(Options::default().fault(
        When::get("/manifests/"),
        answer("text/html; charset=utf-8", image.root.bytes.to_vec()),
    ));
    image.push(&registry, "team/app", "1");
    for reference in [":1".to_owned(), format!("@{}", image.root.digest)] {
        let name = format!("{}/team/app{reference}", registry.host());
        cli.succeed(&[
            "export",
            &name,
            "-o",
            "b.tar",
            "--force",
            "--no-cache",
            "--no-referrers",
        ]);
    }
    let page = Double::start(Options::default().fault(When::get("/manifests/"), answer("text/html", "<html></html>")));
    let name = format!("{}/team/app:1", page.host());
    cli.run(&["export", &name, "-o", "p.tar", "--no-cache", "--no-referrers"])
        .expect_code(1)
        .says(&["is a web page"]);
}
