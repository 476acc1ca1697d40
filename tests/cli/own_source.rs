//! A push to the very name that an image came from: the source loses no platform.

use super::cli;
use super::support::images::greeting;
use super::support::{Cli, Double};

/// Runs a command that is to be refused, and checks that it sent nothing and that the tag stays.
#[track_caller]
fn refused(cli: &Cli, registry: &Double, arguments: &[&str]) {
    let sent = || registry.count("PUT", "") + registry.count("POST", "") + registry.count("PATCH", "");
    let before = sent();
    let out = cli.run(arguments).expect_code(2);
    out.says(&[
        "/library/greeting:1.0` is the source itself",
        greeting().digest(),
        "`-d`",
    ]);
    assert_eq!(sent(), before, "{arguments:?}");
    let held = registry.store().repository("library/greeting").unwrap();
    assert_eq!(held.tags["1.0"], greeting().digest());
}

#[test]
fn an_index_is_not_replaced_by_the_filtered_one_made_from_it() {
    let (cli, registry) = (cli(), super::source());
    let name = format!("{}/library/greeting:1.0", registry.host());
    let other = format!("{}/team/other:1", registry.host());
    greeting().push(&registry, "team/other", "1");
    for more in [&[][..], &["--dry-run"], &["--platform-tags"]] {
        let arguments = [
            &[
                "-d",
                &registry.host(),
                &other,
                &name,
                "--map",
                &format!("{}/team=elsewhere", registry.host()),
            ],
            more,
        ];
        refused(&cli, &registry, &arguments.concat());
    }
    cli.succeed(&["export", &name, "-o", "b.tar"]);
    refused(&cli, &registry, &["import", "b.tar", "-d", &registry.host()]);
    let piped = format!(
        "{} import - -d {} < b.tar",
        env!("CARGO_BIN_EXE_docker-mirror"),
        registry.host()
    );
    let status = std::process::Command::new("sh")
        .args(["-c", &piped])
        .current_dir(cli.folder())
        .status();
    assert_eq!(status.unwrap().code(), Some(2));
}

#[test]
fn what_takes_nothing_from_the_source_is_done() {
    let (cli, registry) = (cli(), super::source());
    let (host, name) = (registry.host(), format!("{}/library/greeting:1.0", registry.host()));
    cli.succeed(&["export", &name, "-o", "b.tar"]);
    // Every platform: the tag holds this index already.
    cli.succeed(&["-d", &host, &name, "--platform", "all"]);
    cli.succeed(&["-d", &host, &name, "--on-existing", "skip"]);
    cli.succeed(&["-d", &format!("{host}/mirror"), &name]);
    let tag = || registry.store().repository("library/greeting").unwrap().tags["1.0"].clone();
    assert_eq!(tag(), greeting().digest());
    // A registry of the same name on the other side, which holds something else under the tag, or nothing.
    super::support::images::helm_chart().push(&registry, "library/greeting", "1.0");
    cli.succeed(&["import", "b.tar", "-d", &host]);
    let filtered = tag();
    cli.succeed(&["import", "b.tar", "-d", &host]);
    cli.succeed(&["-d", &host, &name]);
    assert_eq!(tag(), filtered);
}
