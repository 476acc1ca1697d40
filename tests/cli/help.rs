//! Help, the variables of flags, completions, man pages, and the program as a plugin of Docker's command line.

use super::support::image::Style;
use super::support::images::linux_and_windows;
use super::support::{Auth, Double, Options};
use super::{Cli, cli, digest_in, source};

/// The commands that the help lists.
fn commands(cli: &Cli) -> Vec<String> {
    let help = cli.succeed(&["-h"]).stdout;
    let (_, list) = help.split_once("Commands:\n").unwrap();
    let names = list.lines().take_while(|line| line.starts_with("  "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn the_short_help_of_each_command_fits_on_a_screen() {
    let cli = cli();
    let names = commands(&cli);
    assert!(names.len() >= 5, "{names:?}");
    for name in names.iter().map(String::as_str).chain([""]) {
        let words = |flag| {
            [name, flag]
                .into_iter()
                .filter(|word| !word.is_empty())
                .collect::<Vec<_>>()
        };
        let short = cli.succeed(&words("-h")).stdout;
        assert!(short.lines().count() <= 40, "{} lines: {short}", short.lines().count());
        assert!(!short.contains("[env: "), "{short}");
        assert_eq!(
            short.contains("-f, --images"),
            ["", "export"].contains(&name),
            "{short}"
        );
        let long = cli.succeed(&words("--help")).stdout;
        assert!(long.len() >= short.len(), "{long}");
    }
    let mirror = cli.succeed(&["help", "mirror"]).stdout;
    assert!(
        mirror.contains("--keep-host") && mirror.contains("[env: DOCKER_MIRROR_KEEP_HOST]"),
        "{mirror}"
    );
    let version = cli.succeed(&["--version"]).stdout;
    assert!(
        version.starts_with(concat!("docker-mirror ", env!("CARGO_PKG_VERSION"))),
        "{version}"
    );
}

#[test]
fn a_flag_beats_its_variable_which_beats_the_default() {
    let source = source();
    let image = format!("{}/library/greeting:1.0", source.host());
    let run = |variables: &[(&str, &str)], flags: &[&str]| {
        let mut cli = cli();
        variables.iter().for_each(|(name, value)| cli.set(name, *value));
        let output = cli.run(&[&["export", &image], flags].concat());
        (output, cli.files())
    };
    let output = ("DOCKER_MIRROR_OUTPUT", "of-variable.tar");
    let (done, files) = run(&[output], &[]);
    assert_eq!(files, ["of-variable.tar"], "{}", done.everything());
    let (done, files) = run(&[output], &["-o", "of-flag.tar"]);
    assert_eq!(files, ["of-flag.tar"], "{}", done.everything());
    // Set but empty is as good as not set.
    run(&[("DOCKER_MIRROR_OUTPUT", "")], &[]).0.expect_code(2);
    let empty: Vec<(&str, &str)> = [
        "PLATFORM", "JOBS", "FORCE", "VERBOSE", "TIMEOUT", "REUSE", "CA_FILE", "INDEX",
    ]
    .iter()
    .map(|name| (&*format!("DOCKER_MIRROR_{name}").leak(), ""))
    .collect();
    run(&empty, &["-o", "a.tar"]).0.expect_code(0);
    // Lists, switches and counts.
    let two = [
        ("DOCKER_MIRROR_PLATFORM", "linux/amd64,linux/arm64"),
        ("DOCKER_MIRROR_VERBOSE", "1"),
    ];
    run(&two, &["-o", "a.tar"])
        .0
        .expect_code(0)
        .says(&["resolved ", "left out linux/"]);
    for (value, code) in [("1", 0), ("true", 0), ("yes", 0), ("0", 0), ("false", 0), ("maybe", 2)] {
        run(&[("DOCKER_MIRROR_GZIP", value)], &["-o", "a.tar"])
            .0
            .expect_code(code);
    }
    // What a flag contradicts does not count.
    let loud = run(&[("DOCKER_MIRROR_QUIET", "1")], &["-o", "a.tar", "-v"])
        .0
        .expect_code(0);
    loud.says(&["resolved "]);
    run(&[], &["-o", "a.tar", "-v", "-q"]).0.expect_code(2);
    // A value that is refused is told with its variable.
    run(&[("DOCKER_MIRROR_JOBS", "many")], &["-o", "a.tar"])
        .0
        .expect_code(2)
        .says(&[
            "from 1 to 256",
            "hint: the value comes from the variable `DOCKER_MIRROR_JOBS`",
        ]);
    // Variables of other commands do no harm.
    run(
        &[("DOCKER_MIRROR_DEST", "127.0.0.1:1"), ("DOCKER_MIRROR_ONLY", "x")],
        &["-o", "a.tar"],
    )
    .0
    .expect_code(0);
}

#[test]
fn each_registry_has_a_login_in_variables_of_its_own() {
    let closed = |user: &str, password: &str| Double::start(Options::default().auth(Auth::basic(user, password)));
    let (one, two, target) = (
        closed("ann", "secret-1"),
        closed("bob", "secret-2"),
        closed("carl", "secret-3"),
    );
    for source in [&one, &two] {
        linux_and_windows(Style::Oci).push(source, "team/app", "1");
    }
    let variable = |what: &str, registry: &Double| {
        let host = registry.host().replace(['.', ':'], "_");
        format!("DOCKER_MIRROR_{what}_{host}")
    };
    let mut cli = cli();
    for (registry, user, password) in [(&one, "ann", "secret-1"), (&target, "carl", "secret-3")] {
        cli.set(&variable("USERNAME", registry), user);
        cli.set(&variable("PASSWORD", registry), password);
    }
    let [first, second] = [&one, &two].map(|source| format!("{}/team/app:1", source.host()));
    let host = target.host();
    cli.succeed(&["-d", &host, &first]).hides(&["secret-1", "secret-3"]);
    // The general login is for the one registry that has none of its own.
    cli.set("DOCKER_MIRROR_USERNAME", "bob");
    cli.set("DOCKER_MIRROR_PASSWORD", "secret-2");
    cli.succeed(&["export", &first, &second, "-o", "b.tar"]);
    cli.succeed(&["import", "b.tar", "-d", &host, "--keep-host"]);
    cli.set(&variable("USERNAME", &two), "eve");
    cli.run(&["export", &second, "-o", "c.tar"])
        .expect_code(2)
        .says(&[&variable("PASSWORD", &two), "is not"]);
    cli.set(&variable("PASSWORD", &two), "wrong-one");
    cli.run(&["export", &second, "-o", "c.tar", "--no-cache"])
        .says(&["`eve`", &variable("USERNAME", &two)])
        .hides(&["wrong-one"]);
}

#[test]
fn words_that_are_no_commands_are_met_with_what_was_meant() {
    let cli = cli();
    for (arguments, words) in [
        (
            &["exprot", "hello-world", "-o", "a.tar"][..],
            "did you mean `docker-mirror export`?",
        ),
        (
            &["login", "registry.example.com"],
            "`docker login REGISTRY` or `podman login REGISTRY`",
        ),
        (&["logout"], "`docker logout REGISTRY` or `podman logout REGISTRY`"),
        (&["completion", "bash"], "docker-mirror completions"),
    ] {
        cli.run(arguments).expect_code(2).says(&["hint: ", words]);
    }
}

/// What a shell would offer behind these words.
fn offered(cli: &Cli, words: &[&str]) -> Vec<String> {
    let mut command = cli.command(&[&["--", "docker-mirror"], words].concat());
    let output = command.env("DOCKER_MIRROR_COMPLETE", "fish").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| line.split('\t').next().unwrap().to_owned())
        .collect()
}

#[test]
fn shells_complete_commands_flags_and_images_of_a_bundle() {
    let (cli, source) = (cli(), source());
    let image = format!("{}/library/greeting:1.0", source.host());
    cli.succeed(&["export", &image, "-o", "b.tar"]);
    assert_eq!(offered(&cli, &["ex"]), ["export"]);
    assert!(offered(&cli, &["import", "--dr"]).contains(&"--dry-run".to_owned()));
    assert_eq!(offered(&cli, &["import", "b.tar", "--only", "127"]), [image.as_str()]);
    assert!(offered(&cli, &["import", "none.tar", "--only", "127"]).is_empty());
    for (shell, word) in [
        ("bash", "complete "),
        ("zsh", "#compdef docker-mirror"),
        ("fish", "complete --keep-order"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let script = cli.succeed(&["completions", shell]).stdout;
        assert!(
            script.contains(word) && script.contains("DOCKER_MIRROR_COMPLETE"),
            "{shell}: {script}"
        );
    }
    // As docker asks its plugins: candidates with what they mean, and what a shell does with them.
    let asked = |words: &[&str]| cli.succeed(&[&["__complete", "mirror"], words].concat()).stdout;
    assert_eq!(
        asked(&["ex"]),
        "export\tFetch images from their registries into one file\n:4\n"
    );
    assert!(asked(&["import", "--dr"]).starts_with("--dry-run\t"));
    assert_eq!(asked(&["import", "b.t"]), "b.tar\n:4\n");
    assert_eq!(asked(&["import", "b.tar", "--only", "127"]), format!("{image}\n:4\n"));
    std::fs::create_dir(cli.path("folder")).unwrap();
    assert_eq!(asked(&["inspect", "fol"]), "folder/\n:6\n");
    assert!(asked(&[]).contains("export\t"));
    cli.run(&["completions", "tcsh"]).expect_code(2).says(&["bash"]);
    let script = cli.succeed(&["completions", "bash"]).stdout;
    std::fs::write(cli.path("script"), script).unwrap();
    let bash = std::process::Command::new("bash")
        .args(["--norc", "-c", "source ./script && complete -p docker-mirror"])
        .current_dir(cli.folder())
        .output();
    if let Ok(bash) = bash {
        assert!(bash.status.success(), "{}", String::from_utf8_lossy(&bash.stderr));
    }
}

#[test]
fn man_pages_are_made_of_the_same_definition() {
    let cli = cli();
    let page = cli.succeed(&["man"]).stdout;
    assert!(
        page.contains(".TH docker-mirror 1") && page.contains("keep\\-host"),
        "{page}"
    );
    cli.succeed(&["man", "pages"]);
    for name in commands(&cli) {
        let page = std::fs::read_to_string(cli.path(&format!("pages/docker-mirror-{name}.1"))).unwrap();
        assert!(page.contains(&format!(".TH docker-mirror-{name} 1")), "{page}");
    }
    std::fs::write(cli.path("file"), "").unwrap();
    cli.run(&["man", "file/pages"]).expect_code(2).says(&["file/pages"]);
}

#[test]
fn docker_finds_a_plugin_and_passes_its_own_flags() {
    let (mut cli, source) = (cli(), source());
    let metadata = cli.succeed(&["docker-cli-plugin-metadata"]).stdout;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    assert_eq!(metadata["SchemaVersion"], "0.1.0");
    assert!(
        !metadata["Vendor"].as_str().unwrap().is_empty() && !metadata["ShortDescription"].as_str().unwrap().is_empty()
    );
    let help = cli.succeed(&["--help"]).stdout;
    assert!(!help.contains("plugin-metadata"), "{help}");
    let image = format!("{}/library/greeting:1.0", source.host());
    let direct = cli.succeed(&["export", &image, "-o", "a.tar"]).stdout;
    cli.set("DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND", "/usr/bin/docker");
    let plugin = cli.succeed(&["--context", "x", "-D", "mirror", "export", &image, "-o", "b.tar"]);
    assert_eq!(digest_in(plugin.lines()[0]), digest_in(direct.lines().next().unwrap()));
    let usage = cli.succeed(&["mirror", "export", "--help"]).stdout;
    assert!(usage.contains("Usage: docker mirror export "), "{usage}");
    // The logins of that configuration are used.
    let closed = Double::start(Options::default().auth(Auth::basic("ann", "secret")));
    linux_and_windows(Style::Oci).push(&closed, "team/app", "1");
    cli.log_in(&closed.host(), "ann", "secret");
    std::fs::rename(cli.path(".docker"), cli.path("elsewhere")).unwrap();
    let image = format!("{}/team/app:1", closed.host());
    let folder = cli.path("elsewhere").display().to_string();
    cli.run(&["mirror", "export", &image, "-o", "c.tar"]).expect_code(3);
    cli.succeed(&["--config", &folder, "mirror", "export", &image, "-o", "c.tar"]);
}
