//! Other programs read a bundle with referrers like a bundle without, and programs that know referrers find them.

use std::os::unix::net::UnixStream;
use std::path::Path;

use super::support::Double;
use super::support::daemon::Daemon;
use super::support::distribution::built_by_go;
use super::support::images::greeting;
use super::support::layout::unpack;
use super::support::real::{RealRegistry, Setup, optional_program, program, run, skipped, succeed};
use super::support::referrers::{BUNDLE, SBOM, beside, refer};
use super::{Cli, cli};

/// Writes a bundle with the fixture, signed in both ways, and a signed SBOM of one platform. Returns the name of the
/// image, and the digests of the signature of the index, of the SBOM, and of the signature of the SBOM.
pub(super) fn signed_bundle(cli: &Cli) -> (Double, String, [String; 3]) {
    let (source, image) = (Double::new(), greeting());
    image.push(&source, "library/greeting", "1.0");
    let signature = refer(&source, "library/greeting", &image.root, BUNDLE, "signature");
    let sbom = refer(&source, "library/greeting", &image.below[0], SBOM, "SBOM");
    let of_sbom = refer(&source, "library/greeting", &sbom, BUNDLE, "signature of the SBOM");
    beside(&source, "library/greeting", &image.root, "sig", "by the source");
    let name = format!("{}/library/greeting:1.0", source.host());
    cli.succeed(&["export", &name, "-o", "bundle.tar", "--platform", "all"]);
    (source, name, [signature, sbom, of_sbom].map(|document| document.digest))
}

#[test]
fn skopeo_reads_and_copies_a_signed_image_by_its_name() {
    let what = "skopeo on a bundle with signatures";
    let (Some(skopeo), Some(target)) = (program("skopeo", what), RealRegistry::start(Setup::default(), what)) else {
        return;
    };
    let cli = cli();
    let (_source, name, _) = signed_bundle(&cli);
    let bundle = cli.path("bundle.tar").display().to_string();
    let from = format!("oci-archive:{bundle}:{name}");
    assert_eq!(
        succeed(&skopeo, &["inspect", "--raw", &from]).as_bytes(),
        greeting().root.bytes
    );
    succeed(&skopeo, &["inspect", &format!("docker-archive:{bundle}:{name}")]);
    let to = format!("docker://{}/by/skopeo:1", target.host());
    let copy = [
        "--insecure-policy",
        "copy",
        "--all",
        "--dest-tls-verify=false",
        &from,
        &to,
    ];
    succeed(&skopeo, &copy);
    assert_eq!(
        target.client().manifest("by/skopeo", "1").unwrap(),
        greeting().root.bytes
    );
}

#[test]
fn oras_and_regctl_find_referrers_in_a_bundle() {
    let cli = cli();
    let (_source, _, [signature, sbom, of_sbom]) = signed_bundle(&cli);
    let index = greeting().digest().to_owned();
    if let Some(oras) = built_by_go("oras", "oras discover on a bundle") {
        let bundle = cli.path("bundle.tar").display().to_string();
        for (subject, referrer) in [(&index, &signature), (&sbom, &of_sbom)] {
            let found = succeed(&oras, &["discover", "--oci-layout", &format!("{bundle}@{subject}")]);
            assert!(found.contains(referrer.as_str()), "{found}");
        }
        let amd64 = [
            "discover",
            "--oci-layout",
            "--platform",
            "linux/amd64",
            &format!("{bundle}@{index}"),
        ];
        let found = succeed(&oras, &amd64);
        assert!(found.contains(&sbom), "{found}");
    }
    if let Some(regctl) = built_by_go("regctl", "regctl artifact list on a bundle") {
        unpack(&cli.path("bundle.tar"), &cli.path("layout"));
        let layout = cli.path("layout").display().to_string();
        for (subject, referrer) in [(&index, &signature), (&sbom, &of_sbom)] {
            let subject = format!("ocidir://{layout}@{subject}");
            let found = succeed(&regctl, &["artifact", "list", "--slow-referrers", &subject]);
            assert!(found.contains(referrer.as_str()), "{found}");
        }
    }
}

/// Returns the configuration of a containerd that runs beside another one. Its garbage collector is delayed: a referrer
/// has no name there, and could be deleted before the test has seen it.
fn containerd_config(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "version = 2\nroot = \"{folder}/root\"\nstate = \"{folder}/state\"\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
         [grpc]\naddress = \"{folder}/socket\"\n[ttrpc]\naddress = \"{folder}/ttrpc\"\n[metrics]\naddress = \"127.0.0.1:PORT\"\n\
         [plugins.\"io.containerd.gc.v1.scheduler\"]\nstartup_delay = \"1h\"\nschedule_delay = \"1h\"\n"
    )
}

#[test]
fn containerd_imports_a_signed_image_and_makes_no_image_of_what_refers_to_it() {
    let what = "ctr images import";
    let (Some(containerd), Some(ctr)) = (optional_program("containerd", what), optional_program("ctr", what)) else {
        return;
    };
    if !rustix::process::geteuid().is_root() {
        return skipped(what, "containerd needs root");
    }
    let cli = cli();
    let (_source, name, [signature, sbom, of_sbom]) = signed_bundle(&cli);
    // containerd serves its metrics on the port, which shows the test that it has started.
    let daemon = Daemon::start(&containerd, |folder, port| {
        let config = folder.join("config.toml");
        let text = containerd_config(folder).replace("PORT", &port.to_string());
        std::fs::write(&config, text).unwrap();
        vec!["--config".to_owned(), config.display().to_string()]
    });
    let socket = daemon.folder().join("socket");
    super::support::cli::wait_until("containerd opens its socket", || UnixStream::connect(&socket).is_ok());
    let socket = socket.display().to_string();
    let bundle = cli.path("bundle.tar").display().to_string();
    let with = |arguments: &[&str]| run(&ctr, &[&["--address", &socket][..], arguments].concat());
    let imported = with(&["images", "import", "--no-unpack", "--all-platforms", &bundle]);
    let said = String::from_utf8_lossy(&imported.stderr).into_owned();
    assert!(imported.status.success(), "{said}{}", daemon.log());
    let listed = with(&["images", "list", "--quiet"]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let mut images = listed.lines();
    assert!(images.any(|image| image == name), "{listed}");
    // Only the signature beside the image has a name of its own.
    assert!(images.all(|image| image.ends_with(".sig")), "{listed}");
    let content = with(&["content", "list", "--quiet"]);
    let content = String::from_utf8_lossy(&content.stdout).into_owned();
    for referrer in [signature, sbom, of_sbom] {
        assert!(content.contains(&referrer), "{content}");
    }
}
