//! crane and cosign together with the program, and skopeo on a bundle with Docker's own media types.

use serde_json::Value;

use super::cli;
use super::support::Double;
use super::support::distribution::built_by_go;
use super::support::image::Style;
use super::support::images::{greeting, small};
use super::support::real::{RealRegistry, Setup, program, succeed};

#[test]
fn crane_validates_what_was_imported() {
    let what = "crane validate";
    let (Some(crane), Some(target)) = (built_by_go("crane", what), RealRegistry::start(Setup::default(), what)) else {
        return;
    };
    let (cli, source) = (cli(), Double::new());
    greeting().push(&source, "library/greeting", "1.0");
    cli.succeed(&[
        "export",
        &format!("{}/library/greeting:1.0", source.host()),
        "-o",
        "b.tar",
    ]);
    cli.succeed(&["import", "b.tar", "-d", &target.host()]);
    let name = format!("{}/library/greeting:1.0", target.host());
    succeed(
        &crane,
        &["validate", "--insecure", "--platform", "linux/amd64", "--remote", &name],
    );
    let digest = super::has_linux(&target.client(), &greeting(), "library/greeting", "1.0");
    assert_eq!(succeed(&crane, &["digest", "--insecure", &name]).trim(), digest);
}

#[test]
fn what_cosign_saves_goes_beside_its_image() {
    let what = "a layout of `cosign save`";
    let (Some(cosign), Some(target)) = (built_by_go("cosign", what), RealRegistry::start(Setup::default(), what))
    else {
        return;
    };
    let (cli, source) = (cli(), Double::new());
    let image = small(Style::Oci, "linux/amd64", "signed");
    image.push(&source, "src/app", "1");
    cli.succeed(&[&format!("{}/src/app:1", source.host()), "-d", &target.host()]);
    let digest = super::support::sha256(&image.root.bytes);
    let hex = digest.trim_start_matches("sha256:").to_owned();
    let run = |arguments: &[&str]| {
        let done = std::process::Command::new(&cosign)
            .args(arguments)
            .current_dir(cli.path(""))
            .env_clear()
            .env("HOME", cli.path(""))
            .env("COSIGN_PASSWORD", "x")
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
    };
    let insecure = ["--allow-insecure-registry", "--allow-http-registry"];
    let pinned = format!("{}/src/app@{digest}", target.host());
    run(&["generate-key-pair"]);
    run(&[
        &["sign", "--key", "cosign.key", "--tlog-upload=false", "-y"],
        &insecure[..],
        &[&pinned],
    ]
    .concat());
    let tagged = format!("{}/src/app:1", target.host());
    run(&[&["save", "--dir", "saved"], &insecure[..], &[&tagged]].concat());
    cli.succeed(&[
        "import",
        "saved",
        "-d",
        &format!("{}/m", target.host()),
        "--name",
        "team/app:1",
    ]);
    let client = target.client();
    assert_eq!(
        client.manifest("m/team/app", "1").as_deref(),
        Some(&image.root.bytes[..])
    );
    let signature = format!("sha256-{hex}.sig");
    assert!(client.manifest("src/app", &signature).is_some());
    assert_eq!(
        client.manifest("m/team/app", &signature),
        client.manifest("src/app", &signature)
    );
}

#[test]
fn skopeo_of_any_version_reads_a_single_image_of_docker_types() {
    let Some(skopeo) = program("skopeo", "a bundle with Docker's media types") else {
        return;
    };
    let (cli, source) = (cli(), Double::new());
    let image = small(Style::Docker, "linux/amd64", "docker");
    image.push(&source, "a/docker", "1");
    let name = format!("{}/a/docker:1", source.host());
    cli.succeed(&["export", &name, "-o", "b.tar"]);
    let bundle = cli.path("b.tar").display().to_string();
    // skopeo finds the image by its name in `index.json` only from version 5.35 of its library on.
    let raw = succeed(&skopeo, &["inspect", "--raw", &format!("oci-archive:{bundle}")]);
    assert_eq!(raw.as_bytes(), image.root.bytes);
    let loaded = succeed(&skopeo, &["inspect", &format!("docker-archive:{bundle}:{name}")]);
    let loaded: Value = serde_json::from_str(&loaded).unwrap();
    assert_eq!(loaded["Architecture"], "amd64");
}
