//! A Docker engine loads a bundle, and pulls and runs what was imported.

use super::support::Double;
use super::support::images::greeting;
use super::support::real::{Engine, RealRegistry, Setup};
use super::support::referrers::{BUNDLE, beside, refer};
use super::{cli, has_linux};

#[test]
fn docker_loads_the_bundle_and_runs_what_was_imported() {
    let what = "a Docker engine";
    let (Some(engine), Some(target)) = (Engine::start(what), RealRegistry::start(Setup::default(), what)) else {
        return;
    };
    let (cli, source) = (cli(), Double::new());
    let image = greeting();
    image.push(&source, "library/greeting", "1.0");
    // Signatures are no images to it.
    refer(&source, "library/greeting", &image.root, BUNDLE, "signature");
    beside(&source, "library/greeting", &image.root, "sig", "by the source");
    let name = format!("{}/library/greeting:1.0", source.host());
    cli.succeed(&["export", &name, "-o", "bundle.tar"]);

    let file = cli.path("bundle.tar").display().to_string();
    let loaded = engine.succeed(&["load", "-i", &file]);
    assert!(loaded.contains(&name), "{loaded}");
    let hello = "Hello from the docker-mirror fixture on linux/amd64";
    let runs_here = cfg!(target_arch = "x86_64");
    if runs_here {
        let said = engine.succeed(&["run", "--rm", "--network", "none", &name]);
        assert_eq!(said.trim(), hello);
    }

    cli.succeed(&["import", "bundle.tar", "-d", &format!("{}/mirror", target.host())]);
    let digest = has_linux(&target.client(), &greeting(), "mirror/library/greeting", "1.0");
    let mirrored = format!("{}/mirror/library/greeting", target.host());
    let pulled = engine.succeed(&["pull", "--platform", "linux/amd64", &format!("{mirrored}:1.0")]);
    assert!(pulled.contains(&digest), "{pulled}");
    if runs_here {
        let said = engine.succeed(&["run", "--rm", "--network", "none", &format!("{mirrored}@{digest}")]);
        assert_eq!(said.trim(), hello);
    }
    // Another platform of the same image.
    engine.succeed(&["pull", "--platform", "linux/s390x", &format!("{mirrored}:1.0")]);
    let inspected = engine.succeed(&["inspect", "--format", "{{.Architecture}}", &format!("{mirrored}:1.0")]);
    assert_eq!(inspected.trim(), "s390x");
}
