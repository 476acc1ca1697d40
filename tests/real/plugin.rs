//! The program as a plugin of a real docker command line, which needs no daemon for it.

use std::process::{Command, Output};

use super::support::cli::copy_program;
use super::support::images::greeting;
use super::support::{Double, real};

#[test]
fn docker_runs_it_as_a_plugin() {
    let Some(docker) = real::optional_program("docker", "the plugin of docker's command line") else {
        return;
    };
    let config = tempfile::tempdir().unwrap();
    let plugins = config.path().join("cli-plugins");
    std::fs::create_dir(&plugins).unwrap();
    copy_program(env!("CARGO_BIN_EXE_docker-mirror"), plugins.join("docker-mirror"));
    let source = Double::new();
    greeting().push(&source, "library/greeting", "1.0");
    let run = |arguments: &[&str]| -> Output {
        let mut command = Command::new(&docker);
        command.arg("--config").arg(config.path()).args(arguments);
        command
            .current_dir(config.path())
            .env("HOME", config.path())
            .output()
            .unwrap()
    };
    let text = |output: &Output| {
        let all = [&output.stdout[..], &output.stderr].concat();
        String::from_utf8_lossy(&all).into_owned()
    };
    let help = text(&run(&["--help"]));
    assert!(
        help.contains("mirror*") || help.contains("mirror "),
        "docker does not list it: {help}"
    );
    let image = format!("{}/library/greeting:1.0", source.host());
    let export = run(&["mirror", "export", &image, "-o", "b.tar"]);
    assert!(export.status.success(), "{}", text(&export));
    assert!(config.path().join("b.tar").is_file());
    let wrong = run(&["mirror", "exprot", &image, "-o", "c.tar"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong));
    let offered = text(&run(&["__complete", "mirror", "ex"]));
    assert!(offered.starts_with("export\tFetch images"), "{offered}");
    let offered = text(&run(&["__complete", "mirror", "import", "b.tar", "--only", ""]));
    assert!(offered.starts_with(&image), "{offered}");
    let usage = text(&run(&["mirror", "import", "--help"]));
    assert!(usage.contains("Usage: docker mirror import "), "{usage}");
}
