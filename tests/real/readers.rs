//! Other programs read a bundle.

use serde_json::Value;

use super::signed_bundle::signed_bundle;
use super::support::Double;
use super::support::image::{Image, Style};
use super::support::images::{greeting, small};
use super::support::layout::{Tar, unpack};
use super::support::real::{RealRegistry, Setup, optional_program, program, run, succeed};
use super::{Cli, cli, has_linux};

/// A bundle with the fixture; gives the name of the image in it.
fn bundle(cli: &Cli) -> (Double, String) {
    let source = Double::new();
    greeting().push(&source, "library/greeting", "1.0");
    let name = format!("{}/library/greeting:1.0", source.host());
    cli.succeed(&["export", &name, "-o", "bundle.tar"]);
    (source, name)
}

#[test]
fn skopeo_inspects_what_was_imported() {
    let what = "skopeo inspect";
    let (Some(skopeo), Some(target)) = (program("skopeo", what), RealRegistry::start(Setup::default(), what)) else {
        return;
    };
    let cli = cli();
    bundle(&cli);
    cli.succeed(&["import", "bundle.tar", "-d", &format!("{}/mirror", target.host())]);
    let name = format!("docker://{}/mirror/library/greeting:1.0", target.host());
    let raw = succeed(&skopeo, &["inspect", "--raw", "--tls-verify=false", &name]);
    assert_eq!(
        raw.as_bytes(),
        target.client().manifest("mirror/library/greeting", "1.0").unwrap()
    );
    for arch in ["amd64", "s390x"] {
        let text = succeed(
            &skopeo,
            &["--override-arch", arch, "inspect", "--tls-verify=false", &name],
        );
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (json["Os"].as_str(), json["Architecture"].as_str()),
            (Some("linux"), Some(arch))
        );
    }
}

#[test]
fn skopeo_copies_from_the_bundle_to_a_registry() {
    let what = "skopeo copy oci-archive:";
    let (Some(skopeo), Some(target)) = (program("skopeo", what), RealRegistry::start(Setup::default(), what)) else {
        return;
    };
    let cli = cli();
    let (_source, name) = bundle(&cli);
    let from = format!("oci-archive:{}:{name}", cli.path("bundle.tar").display());
    let to = format!("docker://{}/by/skopeo:1", target.host());
    succeed(
        &skopeo,
        &[
            "--insecure-policy",
            "copy",
            "--all",
            "--dest-tls-verify=false",
            &from,
            &to,
        ],
    );
    let digest = has_linux(&target.client(), &greeting(), "by/skopeo", "1");
    let index = Tar::open(&cli.path("bundle.tar")).json("index.json");
    assert_eq!(index["manifests"][0]["digest"], digest);
}

#[test]
fn skopeo_picks_an_image_of_several_by_its_name() {
    let Some(skopeo) = program("skopeo", "skopeo inspect of a bundle with several images") else {
        return;
    };
    let (cli, source) = (cli(), Double::new());
    let images = [
        small(Style::Oci, "linux/amd64", "one"),
        small(Style::Oci, "linux/amd64", "two"),
    ];
    let names = ["a/one:1", "b/two:2"].map(|name| format!("{}/{name}", source.host()));
    images[0].push(&source, "a/one", "1");
    images[1].push(&source, "b/two", "2");
    cli.succeed(&["export", &names[0], &names[1], "-o", "b.tar"]);
    for (image, name) in images.iter().zip(&names) {
        let from = format!("oci-archive:{}:{name}", cli.path("b.tar").display());
        assert_eq!(
            succeed(&skopeo, &["inspect", "--raw", &from]).as_bytes(),
            image.root.bytes
        );
    }
}

#[test]
fn umoci_lists_and_unpacks_after_extraction() {
    let Some(umoci) = program("umoci", "umoci") else {
        return;
    };
    let cli = cli();
    let (_source, name) = bundle(&cli);
    unpack(&cli.path("bundle.tar"), &cli.path("layout"));
    let layout = cli.path("layout").display().to_string();
    assert_eq!(succeed(&umoci, &["list", "--layout", &layout]).trim(), name);

    // umoci reads one platform of an image; for an index it says that the tag is ambiguous.
    let source = Double::new();
    let entries = greeting();
    let amd64 = entries.documents_of("linux")[0].clone();
    let single = Image {
        root: amd64,
        below: Vec::new(),
        blobs: entries.blobs.clone(),
        platform: Value::Null,
    };
    single.push(&source, "a/single", "1");
    let name = format!("{}/a/single:1", source.host());
    cli.succeed(&["export", &name, "-o", "single.tar"]);
    unpack(&cli.path("single.tar"), &cli.path("single"));
    let image = format!("{}:{name}", cli.path("single").display());
    let stat: Value = serde_json::from_str(&succeed(&umoci, &["stat", "--image", &image, "--json"])).unwrap();
    assert_eq!(stat["history"].as_array().unwrap().len(), 2, "{stat}");
    let target = cli.path("unpacked").display().to_string();
    succeed(&umoci, &["unpack", "--rootless", "--image", &image, &target]);
    let program = std::fs::read(cli.path("unpacked/rootfs/greeting")).unwrap();
    assert_eq!(program, include_bytes!("../../fixtures/greeting/greeting"));
}

#[test]
fn podman_loads() {
    let what = "podman load";
    let Some(podman) = optional_program("podman", what) else {
        return;
    };
    let cli = cli();
    let (_source, name, _) = signed_bundle(&cli);
    let storage: Vec<String> = ["--root", "--runroot"]
        .iter()
        .flat_map(|flag| {
            [
                (*flag).to_owned(),
                cli.path(flag.trim_start_matches('-')).display().to_string(),
            ]
        })
        .collect();
    let mut global: Vec<&str> = storage.iter().map(String::as_str).collect();
    global.extend([
        "--storage-driver",
        "vfs",
        "--cgroup-manager",
        "cgroupfs",
        "--events-backend",
        "none",
    ]);
    let with = |arguments: &[&str]| {
        let mut all = global.clone();
        all.extend(arguments);
        run(&podman, &all)
    };
    let info = with(&["info"]);
    if !info.status.success() {
        let why = String::from_utf8_lossy(&info.stderr).into_owned();
        return super::support::real::skipped(what, &format!("podman does not work here: {}", why.trim()));
    }
    let file = cli.path("bundle.tar").display().to_string();
    let loaded = with(&["load", "-i", &file]);
    let text = String::from_utf8_lossy(&loaded.stdout).into_owned() + &String::from_utf8_lossy(&loaded.stderr);
    assert!(loaded.status.success() && text.contains(&name), "{text}");
    let inspected = with(&["image", "inspect", &name]);
    let json: Value = serde_json::from_slice(&inspected.stdout).unwrap();
    assert_eq!(
        (json[0]["Os"].as_str(), json[0]["Architecture"].as_str()),
        (Some("linux"), Some("amd64"))
    );
    assert_eq!(json[0]["Config"]["Entrypoint"][0], "/greeting");
    let _ = with(&["rmi", "--all", "--force"]);
}
