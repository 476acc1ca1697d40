//! Lists of images: files of `--images`, and patterns of tags in them and on the command line.

use std::io::Write;
use std::process::Stdio;

use super::support::image::Style;
use super::support::images::{multi, small};
use super::support::{Cli, Double};
use super::{cli, digest_in};

/// Returns a registry with these tags of `acme/app`, each of the same small image, and `library/greeting:1.0`.
fn tagged(tags: &[&str]) -> Double {
    let registry = super::source();
    for tag in tags {
        small(Style::Oci, "linux/amd64", "app").push(&registry, "acme/app", tag);
    }
    registry
}

/// Exports with these arguments, and returns the names in the results without registry and digest.
fn names(cli: &Cli, registry: &Double, arguments: &[&str]) -> Vec<String> {
    let output = cli.succeed(&[&["export", "-o", "b.tar", "--force"], arguments].concat());
    let host = format!("{}/", registry.host());
    let short = |line: &&str| line.split('@').next().unwrap().replace(&host, "");
    output.lines().iter().map(short).collect()
}

#[test]
fn a_list_names_images_and_patterns_of_tags() {
    let registry = tagged(&["1.0", "1.2", "1.10", "1.10-rc1", "2.0", "latest", "edge"]);
    let (cli, host) = (cli(), registry.host());
    let list = format!(
        "\u{feff}# what the cluster runs\r\n\r\n  docker://{host}/library/greeting:1.0   # greets\r\n{host}/acme/app:1.*\r\n\
         !{host}/acme/app:*-rc*\r\n{host}/library/greeting:1.0\r\n"
    );
    std::fs::write(cli.path("images.txt"), &list).unwrap();
    let utf16: Vec<u8> = list.encode_utf16().flat_map(u16::to_le_bytes).collect();
    std::fs::write(cli.path("windows.txt"), utf16).unwrap();
    for file in ["images.txt", "windows.txt"] {
        let expected = ["library/greeting:1.0", "acme/app:1.0", "acme/app:1.2", "acme/app:1.10"];
        assert_eq!(names(&cli, &registry, &["-f", file]), expected, "{file}");
    }
    let app = |pattern: &str| format!("{host}/acme/app:{pattern}");
    for (arguments, expected) in [
        (vec![app(">=1.2 <2")], vec!["1.2", "1.10"]),
        (vec![app("~1.10")], vec!["1.10"]),
        (vec![format!("latest 2 of {host}/acme/app")], vec!["1.10", "2.0"]),
        (vec![app("{edge,latest}")], vec!["edge", "latest"]),
        (
            vec![app("1.*"), app("1.0"), format!("!{}", app("1.10*"))],
            vec!["1.0", "1.2"],
        ),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let found = names(&cli, &registry, &arguments);
        let expected: Vec<String> = expected.iter().map(|tag| format!("acme/app:{tag}")).collect();
        assert_eq!(found, expected, "{arguments:?}");
    }
    // A tag that several lines name is left out once.
    let (all, out) = (app("1.*"), format!("!{}", app("1.10*")));
    cli.succeed(&["export", &all, &app(">=1.2 <2"), &out, "-o", "d.tar"])
        .says(&["acme/app:1.10*`: 2 images left out"]);
    // The tags are told before anything is fetched.
    let output = cli.succeed(&["export", &app("1.*"), "-o", "c.tar"]);
    assert!(
        output
            .stderr
            .contains("acme/app:1.*`: 4 tags: 1.0, 1.2, 1.10-rc1, 1.10"),
        "{}",
        output.everything()
    );
}

#[test]
fn a_list_comes_from_standard_input_or_a_pipe() {
    let registry = super::source();
    let (cli, list) = (cli(), format!("{}/library/greeting:1.0\n", registry.host()));
    for name in ["-", "/dev/stdin"] {
        let mut command = cli.command(&["export", "--images", name, "-o", "b.tar", "--force"]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(list.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    cli.run(&["export", "-f", "-", "-f", "-", "-o", "b.tar"])
        .expect_code(2)
        .says(&["twice"]);
    cli.run(&[
        "export",
        "-f",
        "-",
        "-o",
        "b.tar",
        "--username",
        "a",
        "--password-stdin",
    ])
    .expect_code(2)
    .says(&["both read standard input", "list to a file"]);
}

#[test]
fn all_faults_of_all_lists_are_told_before_the_first_request() {
    let registry = tagged(&["1.0"]);
    let (cli, host) = (cli(), registry.host());
    let good = format!("{host}/acme/app:1.0");
    std::fs::write(
        cli.path("a.txt"),
        format!("{good}\nUPPER/x\n# fine\n{good} --platform mars\n"),
    )
    .unwrap();
    std::fs::write(cli.path("b.txt"), format!("{good} => UP\n")).unwrap();
    std::fs::write(cli.path("binary"), b"\x7fELF\0\0\xff").unwrap();
    std::fs::write(cli.path("large"), vec![b'a'; 10 << 20]).unwrap();
    std::fs::create_dir(cli.path("folder")).unwrap();
    cli.run(&[
        "export", "a:b:c", "-f", "a.txt", "-f", "b.txt", "-f", "binary", "-f", "large", "-f", "folder", "-f", "absent",
        "-o", "b.tar",
    ])
    .expect_code(2)
    .says(&[
        "8 names or lines are wrong; nothing was done",
        "a.txt:2: ",
        "a.txt:4: invalid platform `mars`",
        "b.txt:1: invalid destination",
        "binary: it is no text",
        "large: it has more than 4 MiB",
        "it is a folder",
        "absent",
        "a:b:c",
        "\n  hint: write `OS/ARCH`",
    ]);
    assert!(registry.requests().is_empty(), "{}", registry.transcript());
    assert!(!cli.path("b.tar.partial").exists());
}

#[test]
fn a_pattern_that_matches_nothing_or_too_much_stops_the_run() {
    let registry = tagged(&["1.0", "1.1"]);
    let (cli, host) = (cli(), registry.host());
    registry.store().change("acme/many", |repository| {
        repository.tags = (0..10_000)
            .map(|number| (format!("1.{number}"), "sha256:0".to_owned()))
            .collect();
    });
    let many = format!("{host}/acme/many:*");
    cli.run(&["export", &many, "-o", "b.tar"]).expect_code(2).says(&[
        "matches 10000 tags",
        "at most 100",
        "hint: narrow the pattern",
    ]);
    assert!(registry.count("GET", "/tags/list") >= 10, "{}", registry.transcript());
    let none = format!("{host}/acme/app:2.*");
    cli.run(&["export", &format!("{host}/acme/app:1.0"), &none, "-o", "b.tar"])
        .expect_code(1)
        .says(&[
            "acme/app:2.*` matches none of the 2 tags",
            "existing tags: `1.0`, `1.1`",
        ]);
    assert_eq!(registry.count("GET", "/blobs/"), 0, "{}", registry.transcript());
    cli.run(&["export", &format!("{host}/no/such:*"), "-o", "b.tar"])
        .expect_code(1)
        .says(&["no/such:*", "list the tags"]);
    let output = cli.run(&[
        "export",
        &format!("{host}/acme/app:1.*"),
        &format!("!{host}/acme/app"),
        "-o",
        "b.tar",
    ]);
    output
        .expect_code(1)
        .says(&["matches 2 tags, and lines that begin with `!` leave all of them out"]);
    cli.succeed(&["export", &format!("latest 9 of {host}/acme/app"), "-o", "n.tar"])
        .says(&["2 tags of the 9 asked for: 1.0, 1.1"]);
    // Two repositories may have the same tags.
    let other = tagged(&["1.0", "1.1"]);
    let wrong = [format!("{host}/acme/app:9.x"), format!("{}/acme/app:9", other.host())];
    let output = cli.run(&["export", &wrong[0], &wrong[1], "-o", "b.tar"]).expect_code(1);
    let hints = output.stderr.matches("hint: existing tags: `1.").count();
    assert_eq!(hints, 2, "{}", output.everything());
    output.says(&["for all tags of 9, write `9.*`"]);
    // With `--allow-partial`, the images that were found are exported, and the others are still reported.
    let target = Double::new();
    let output = cli.run(&["-d", &target.host(), &format!("{host}/acme/app:1.*"), &none]);
    assert_ne!(output.code, Some(0), "{}", output.everything());
    assert_eq!(output.lines().len(), 2, "{}", output.everything());
    let left = format!("!{host}/acme/app");
    cli.run(&["export", &format!("{host}/acme/app:1.0"), &left, "-o", "b.tar"])
        .expect_code(2)
        .says(&["no image is left"]);
}

#[test]
fn a_line_has_platforms_and_a_destination_of_its_own() {
    let (registry, target) = (Double::new(), Double::new());
    for name in ["a/one", "a/two"] {
        multi(Style::Oci, &["linux/amd64", "linux/arm64"], name).push(&registry, name, "1");
    }
    let (cli, host) = (cli(), registry.host());
    let list = format!("{host}/a/one:1 --platform linux/arm64 => web/one:stable\n{host}/a/two:* => two\n");
    std::fs::write(cli.path("images.txt"), list).unwrap();
    let output = cli.succeed(&[
        "-d",
        &format!("{}/m", target.host()),
        "-f",
        "images.txt",
        "--map",
        &format!("{host}/a=x"),
    ]);
    let lines = output.lines();
    assert!(
        lines[0].starts_with(&format!("{}/m/web/one:stable@", target.host())),
        "{}",
        output.everything()
    );
    assert!(
        lines[1].starts_with(&format!("{}/m/two:1@", target.host())),
        "{}",
        output.everything()
    );
    assert_ne!(
        registry.manifest("a/one", "1").unwrap(),
        target.manifest("m/web/one", "stable").unwrap()
    );
    assert_eq!(
        registry.manifest("a/two", "1").unwrap(),
        target.manifest("m/two", "1").unwrap()
    );
    assert!(digest_in(lines[1]).starts_with("sha256:"));
    // Two lines that would give two images one name are refused.
    let list = format!("{host}/a/one:1 => x:1\n{host}/a/two:1 => x:1\n");
    std::fs::write(cli.path("images.txt"), list).unwrap();
    cli.run(&["-d", &target.host(), "-f", "images.txt"])
        .expect_code(2)
        .says(&["two images would become"]);
    cli.succeed(&["export", "-f", "images.txt", "-o", "b.tar"])
        .says(&["the destination of", "--map SRC=DST"]);
}

#[test]
fn a_carvel_lock_is_a_list() {
    let registry = super::source();
    let (cli, host) = (cli(), registry.host());
    let digest = super::support::sha256(&registry.manifest("library/greeting", "1.0").unwrap());
    let lock = format!(
        "apiVersion: imgpkg.carvel.dev/v1alpha1\nkind: ImagesLock\nimages:\n- image: {host}/library/greeting@{digest}\n"
    );
    std::fs::write(cli.path("images.yml"), lock).unwrap();
    cli.succeed(&["export", "-f", "images.yml", "-o", "b.tar"]);
    std::fs::write(
        cli.path("images.yml"),
        "kind: ImagesLock\nimages:\n- image: UP\n- image: [\n",
    )
    .unwrap();
    cli.run(&["export", "-f", "images.yml", "-o", "c.tar"])
        .expect_code(2)
        .says(&["images.yml: line "]);
}

#[test]
fn lists_and_globs_are_named_where_something_else_was_written() {
    let registry = super::source();
    let cli = cli();
    cli.run(&["export", "-o", "b.tar"])
        .expect_code(2)
        .says(&["hint: a list of images in a file is given with `--images FILE`"]);
    let pattern = format!("{}/library/greeting:.*", registry.host());
    cli.run(&["export", &pattern, "-o", "b.tar"])
        .expect_code(1)
        .says(&["hint: a pattern is a glob: `*` stands for any characters"]);
}
