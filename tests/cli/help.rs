//! Help, environment variables of flags, completions, man pages, and the program as a plugin of Docker's command line.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::Command;

use super::support::cli::{Output, wait_until};
use super::support::image::Style;
use super::support::images::{greeting, linux_and_windows};
use super::support::layout::write_layout;
use super::support::{Action, Auth, Double, Gate, Options, When};
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
    let mut cli = cli();
    cli.set("COLUMNS", "80");
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
    for (name, value) in [
        ("PLATFORM", "linux"),
        ("IMAGES", "no-such.txt"),
        ("CA_FILE", "no-such.pem"),
        ("CERT", "no-such.pem"),
        ("REUSE", "no-such.tar"),
        ("MIRROR", "no-url"),
        ("REPORT", "no-such/report.json"),
        ("VERBOSE", "loud"),
    ] {
        let variable = format!("DOCKER_MIRROR_{name}");
        // A certificate needs its key.
        let variables = [(&*variable, value), ("DOCKER_MIRROR_KEY", "no-such.key")];
        let variables = &variables[..if name == "CERT" { 2 } else { 1 }];
        let refused = run(variables, &["-o", "a.tar"]).0.expect_code(2);
        refused.says(&[&format!("the variable `{variable}`")]);
    }
    let refused = run(&[("DOCKER_MIRROR_JOBS", "2")], &["-o", "a.tar", "--platform", "linux"]).0;
    refused.expect_code(2).hides(&["variable"]);
    run(&[("DOCKER_MIRROR_LOG", "docker_mirror=loud")], &["-o", "a.tar"])
        .0
        .expect_code(0)
        .says(&["warning: the variable `DOCKER_MIRROR_LOG` is not used"]);
    let two = [("DOCKER_MIRROR_QUIET", "1"), ("DOCKER_MIRROR_VERBOSE", "true")];
    run(&two, &["-o", "a.tar"])
        .0
        .expect_code(2)
        .says(&["`DOCKER_MIRROR_QUIET`", "`DOCKER_MIRROR_VERBOSE`"]);
    run(&two[1..], &["-o", "a.tar"]).0.expect_code(0).says(&["resolved "]);
    // Variables of other commands do no harm.
    run(
        &[("DOCKER_MIRROR_DEST", "127.0.0.1:1"), ("DOCKER_MIRROR_ONLY", "x")],
        &["-o", "a.tar"],
    )
    .0
    .expect_code(0);
}

#[test]
fn a_variable_that_is_nearly_one_of_the_program_is_told() {
    let source = source();
    let image = format!("{}/library/greeting:1.0", source.host());
    for (name, meant) in [
        ("PLATFROM", Some("PLATFORM")),
        ("IMAGE", Some("IMAGES")),
        ("DEST_USERNAM", Some("DEST_USERNAME")),
        ("PASWORD", Some("PASSWORD")),
        ("WRITE_WNAT", Some("WRITE_WANT")),
        ("LGO", Some("LOG")),
        // A service of Kubernetes, and a login of another registry.
        ("PORT", None),
        ("SERVICE_HOST", None),
        ("PASSWORD_GHCR_IO", None),
        ("OUTPUT_FOLDER", None),
    ] {
        let mut cli = cli();
        let variable = format!("DOCKER_MIRROR_{name}");
        cli.set(&variable, "s3cret");
        let run = cli.succeed(&["export", &image, "-o", "a.tar"]).hides(&["s3cret"]);
        match meant {
            Some(meant) => run.says(&[&format!(
                "warning: the variable `{variable}` has no meaning and is not used; did you mean `DOCKER_MIRROR_{meant}`?"
            )]),
            None => run.hides(&["warning"]),
        };
        cli.set(&variable, "");
        cli.succeed(&["export", &image, "-o", "b.tar"]).hides(&["warning"]);
    }
    let mut cli = cli();
    cli.set("DOCKER_MIRROR_OUPTUT", "a.tar");
    cli.run(&["export", &image])
        .expect_code(2)
        .says(&["did you mean `DOCKER_MIRROR_OUTPUT`?", "--output"]);
}

#[test]
fn the_name_of_the_output_beats_a_variable_and_a_half_certificate_is_named() {
    let (mut cli, source) = (cli(), source());
    let image = format!("{}/library/greeting:1.0", source.host());
    cli.set("DOCKER_MIRROR_GZIP", "1");
    for (output, magic) in [
        ("a.tar.zst", [0x28, 0xb5]),
        ("a.tar.gz", [0x1f, 0x8b]),
        ("a.tar", [0x1f, 0x8b]),
    ] {
        cli.succeed(&["export", &image, "-o", output]);
        assert_eq!(std::fs::read(cli.path(output)).unwrap()[..2], magic, "{output}");
    }
    cli.run(&["export", &image, "-o", "b.tar.zst", "--gzip"])
        .expect_code(2)
        .says(&["contradict each other"])
        .hides(&["variable"]);
    for (variable, given, missing) in [
        ("DOCKER_MIRROR_CERT", "--cert", "--key"),
        ("DOCKER_MIRROR_KEY", "--key", "--cert"),
    ] {
        let mut cli = super::cli();
        cli.set(variable, "a.pem");
        cli.run(&["export", &image, "-o", "b.tar"])
            .expect_code(2)
            .says(&[&format!(
                "`{given}` comes from the variable `{variable}`, and needs `{missing}`"
            )]);
    }
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
    let mut general = super::cli();
    general.set("DOCKER_MIRROR_USERNAME", "ann");
    general.set("DOCKER_MIRROR_PASSWORD", "secret-1");
    let refused = general.run(&["export", &first, &second, "-o", "b.tar"]).expect_code(2);
    refused.says(&[
        "several registries",
        "`DOCKER_MIRROR_USERNAME_127_0_0_1_",
        "`DOCKER_MIRROR_PASSWORD_127_0_0_1_",
    ]);
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
    // Asks as docker asks its plugins: the answer has candidates with their help, and a number of flags for the shell.
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
    let bash = Command::new("bash")
        .args(["--norc", "-c", "source ./script && complete -p docker-mirror"])
        .current_dir(cli.folder())
        .output();
    if let Ok(bash) = bash {
        assert!(bash.status.success(), "{}", String::from_utf8_lossy(&bash.stderr));
    }
}

/// What bash offers for a line whose words it has split like this, of which the last is under the cursor. `current` is what it
/// replaces.
fn offered_by_bash(cli: &Cli, line: &str, words: &[&str], current: &str) -> Vec<String> {
    const ASK: &str = r#"
        source ./script
        COMP_LINE=$1 COMP_POINT=${#1} current=$2
        shift 2
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        _docker_mirror docker-mirror "$current"
        ((${#COMPREPLY[@]} == 0)) || printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let folder = Path::new(env!("CARGO_BIN_EXE_docker-mirror")).parent().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("bash");
    command
        .args(["--norc", "--noprofile", "-c", ASK, "bash", line, current])
        .args(words)
        .current_dir(cli.folder())
        .env("PATH", format!("{}:{path}", folder.display()));
    let output = Output::new(&command.output().unwrap(), &[line]).expect_code(0);
    output.lines().into_iter().map(str::to_owned).collect()
}

#[test]
fn bash_completes_behind_colons_and_equals_signs() {
    let cli = cli();
    let image = greeting();
    let names = ["docker.io/library/alpine:3.20", "docker.io/library/alpine:3.21"];
    write_layout(&cli.path("b.tar"), &names.map(|name| (name, &image)));
    let script = cli.succeed(&["completions", "bash"]).stdout;
    std::fs::write(cli.path("script"), script).unwrap();
    let only = "docker-mirror import b.tar --only";
    let start = ["docker-mirror", "import", "b.tar", "--only"];
    for (typed, words, current, offered) in [
        ("alpine:3", &["alpine", ":", "3"][..], "3", &["3.20", "3.21"][..]),
        ("alpine:", &["alpine", ":"], "", &["3.20", "3.21"]),
        ("  alp", &["alp"], "alp", &["alpine:3.20", "alpine:3.21"]),
        ("\"alpine:3.21", &["\"alpine:3.21"], "alpine:3.21", &["alpine:3.21"]),
        (
            "docker.io/library/alpine:3.20",
            &["docker.io/library/alpine", ":", "3.20"],
            "3.20",
            &["3.20"],
        ),
        ("", &[""], "", &names),
        ("x --index ", &["x", "--index", ""], "", &["auto", "filtered", "sparse"]),
        (
            "x --on-existing=sk",
            &["x", "--on-existing", "=", "sk"],
            "sk",
            &["skip"],
        ),
        (
            "x --on-existing=",
            &["x", "--on-existing", "="],
            "",
            &["overwrite", "skip", "error"],
        ),
        (
            "x --platform linux/amd",
            &["x", "--platform", "linux/amd"],
            "linux/amd",
            &["linux/amd64"],
        ),
    ] {
        let line = format!("{only} {typed}");
        let found = offered_by_bash(&cli, &line, &[&start, words].concat(), current);
        assert_eq!(found, offered, "{line}");
    }
}

#[test]
fn man_pages_are_made_of_the_same_definition() {
    let cli = cli();
    let page = cli.succeed(&["man"]).stdout;
    assert!(
        page.contains(".TH DOCKER-MIRROR 1 ") && page.contains("keep\\-host"),
        "{page}"
    );
    let pages = commands(&cli).len() + 1;
    cli.succeed(&["man", "pages"]).says(&[&format!(
        "wrote {pages} pages to the folder `pages`; `man -l pages/docker-mirror.1` shows one"
    )]);
    for name in commands(&cli) {
        let page = std::fs::read_to_string(cli.path(&format!("pages/docker-mirror-{name}.1"))).unwrap();
        let title = format!(".TH DOCKER-MIRROR-{} 1 ", name.to_uppercase());
        assert!(page.contains(&title), "{page}");
    }
    assert!(
        !page.contains("EXTRA") && page.contains(".SH EXIT STATUS\n.TP\n0\n"),
        "{page}"
    );
    let synopsis = "\\fBdocker\\-mirror\\fR [OPTIONS] \\-\\-dest <REGISTRY[/PREFIX]> [IMAGE]...\n.br\n";
    assert!(page.contains(synopsis), "{page}");
    assert!(page.contains(".nf\n    docker\\-mirror export hello"), "{page}");
    assert!(page.contains("Images, such as golang:alpine"), "{page}");
    let checked = Command::new("mandoc")
        .args(["-T", "lint", "-W", "warning"])
        .args(
            commands(&cli)
                .iter()
                .map(|name| format!("pages/docker-mirror-{name}.1")),
        )
        .arg("pages/docker-mirror.1")
        .current_dir(cli.folder())
        .output();
    if let Ok(checked) = checked {
        let found = String::from_utf8_lossy(&checked.stdout);
        // Two builds of one version make the same page.
        let found: Vec<&str> = found.lines().filter(|line| !line.contains("missing date")).collect();
        assert!(found.is_empty(), "{found:?}");
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

#[test]
fn a_plugin_ends_when_docker_closes_its_socket() {
    let (mut cli, source) = (cli(), source());
    let image = format!("{}/library/greeting:1.0", source.host());
    cli.set("DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND", "/usr/bin/docker");
    let gate = Gate::closed();
    source.add_fault(When::path("/manifests/"), Action::Hold(gate.clone()));
    let name = format!("docker_cli_test_{}", std::process::id());
    let hidden = SocketAddr::from_abstract_name(&name).unwrap();
    let file = cli.path("socket").display().to_string();
    for (address, listener) in [
        (format!("@{name}"), UnixListener::bind_addr(&hidden)),
        (file.clone(), UnixListener::bind(&file)),
    ] {
        let listener = listener.unwrap();
        listener.set_nonblocking(true).unwrap();
        let before = gate.arrived();
        let mut command = cli.command(&["mirror", "export", &image, "-o", "b.tar"]);
        let plugin = command.env("DOCKER_CLI_PLUGIN_SOCKET", &address).spawn().unwrap();
        let mut connection = None;
        wait_until("the plugin connects", || {
            connection = listener.accept().ok();
            connection.is_some()
        });
        wait_until("the plugin works", || gate.arrived() > before);
        drop(connection);
        let ended = Output::new(&plugin.wait_with_output().unwrap(), &[&address]);
        ended
            .expect_code(143)
            .says(&["terminated by docker", "hint: run the same command again"]);
    }
    // A socket that is left from an earlier command is of no use.
    gate.open();
    cli.set("DOCKER_CLI_PLUGIN_SOCKET", "@docker_cli_nobody");
    cli.succeed(&["mirror", "export", &image, "-o", "b.tar"]);
}
