//! Layout folders that somebody writes to while they are imported.

use std::os::unix::fs::symlink;

use super::archives::{Layout, path};
use super::handmade::noise;
use super::support::cli::wait_until;
use super::support::fault::{Action, When};
use super::support::{Cli, Double, Gate};

/// What nobody may see who can read the registry.
const SECRET: u8 = b'S';

#[test]
fn bytes_of_another_file_are_never_sent() {
    let mut layout = Layout::default();
    let image = layout.image("amd64", &noise(1, 300_000), false);
    layout.name(image, "example.com/a/b:1");
    let (digest, layer) = layout.blobs.iter().max_by_key(|(_, bytes)| bytes.len()).unwrap();
    let registry = Double::new();
    let cli = Cli::new(env!("CARGO_BIN_EXE_docker-mirror"));
    tar::Archive::new(&layout.tar().end()[..])
        .unpack(cli.path("layout"))
        .unwrap();
    std::fs::write(cli.path("secret"), vec![SECRET; layer.len()]).unwrap();
    // The first request to the registry comes after all archives are indexed, and before anything is sent.
    let gate = Gate::closed();
    registry.add_fault(When::head("/v2/"), Action::Hold(gate.clone()));
    let mut child = cli
        .command(&["import", "layout", "-d", &format!("{}/m", registry.host())])
        .spawn()
        .unwrap();
    wait_until("the registry is asked", || gate.arrived() > 0);
    assert!(child.try_wait().unwrap().is_none());
    let file = cli.path("layout").join(path(digest));
    std::fs::remove_file(&file).unwrap();
    symlink(cli.path("secret"), &file).unwrap();
    gate.open();
    let done = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(5), "{said}");
    assert!(said.contains("was replaced"), "{said}");
    for request in registry.requests() {
        assert!(
            !request.body.windows(8).any(|bytes| bytes == [SECRET; 8]),
            "{}",
            registry.transcript()
        );
    }
    assert_eq!(registry.count("PUT", "/manifests/"), 0, "{}", registry.transcript());
}
