//! The file of a bundle: its final name, its file system, and other writers of it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::tools::{Export, blob_bytes_sent, check, noise, one_image, put_image, text};
use crate::support::cli::wait_until;
use crate::support::fault::{Action, When};
use crate::support::real::skipped;
use crate::support::{Allowance, Cli, Double};

const MIB: usize = 1 << 20;

#[test]
fn an_existing_file_is_refused_and_kept() {
    let (registry, export) = one_image();
    std::fs::write(export.path("b.tar"), b"precious").unwrap();
    let done = export.run("b.tar", &[]);
    let said = text(&done);
    assert_eq!(done.status.code(), Some(2), "{said}");
    assert!(said.contains("b.tar") && said.contains("--force"), "{said}");
    assert_eq!(std::fs::read(export.path("b.tar")).unwrap(), b"precious");
    assert_eq!(registry.requests().len(), 0, "the network was used first");
    export.bundle("b.tar", &["--force"]);
    check(&export.path("b.tar"));
}

#[test]
fn with_force_the_old_file_stays_until_the_new_one_is_whole() {
    let (registry, export) = one_image();
    std::fs::write(export.path("b.tar"), b"precious").unwrap();
    registry.add_fault(When::get("/blobs/"), Action::error(500, "UNKNOWN", "broken"));
    let done = export.run("b.tar", &["--force", "--retries", "0"]);
    assert_eq!(done.status.code(), Some(1), "{}", text(&done));
    assert_eq!(std::fs::read(export.path("b.tar")).unwrap(), b"precious");
}

#[test]
fn a_folder_that_is_not_there_and_one_that_is_the_output() {
    let (_registry, export) = one_image();
    let said = export.fails("no/such/folder/b.tar", &[], 2);
    assert!(said.contains("no/such/folder"), "{said}");
    std::fs::create_dir(export.path("folder")).unwrap();
    let done = export.run("folder", &["--force"]);
    assert_eq!(done.status.code(), Some(2), "{}", text(&done));
}

/// The registry sends one MiB of blobs and then no more.
fn stop_after_one_mib(registry: &Double) -> Allowance {
    stop_after(registry, MIB as u64)
}

fn stop_after(registry: &Double, bytes: u64) -> Allowance {
    let allowance = Allowance::new(bytes);
    registry.add_fault(When::get("/blobs/"), Action::Allow(allowance.clone()));
    allowance
}

#[test]
fn two_runs_on_one_output_exclude_each_other() {
    let (registry, export) = one_image();
    let allowance = stop_after_one_mib(&registry);
    let mut first = export.command("b.tar", &[]).spawn().unwrap();
    wait_until("the first run has begun", || allowance.is_spent());
    let said = export.fails("b.tar", &[], 1);
    assert!(said.contains("another run") && said.contains("b.tar.partial"), "{said}");
    allowance.lift();
    assert!(first.wait().unwrap().success());
    check(&export.path("b.tar"));
}

#[test]
fn interrupted_by_the_user() {
    let (registry, export) = one_image();
    for signal in ["-INT", "-TERM"] {
        registry.clear_faults();
        let allowance = stop_after_one_mib(&registry);
        let child = export
            .command("b.tar", &[])
            .stderr(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        wait_until("a part is sent", || allowance.is_spent());
        let killed = Command::new("kill")
            .args([signal, &child.id().to_string()])
            .status()
            .unwrap();
        assert!(killed.success());
        let done = child.wait_with_output().unwrap();
        let said = text(&done);
        assert!(crate::support::cli::was_cut_off(done.status), "{said}");
        assert!(said.contains("run the same command again"), "{said}");
        assert!(!export.path("b.tar").exists());
        assert!(export.path("b.tar.partial").exists());
    }
    registry.clear_faults();
    export.bundle("b.tar", &[]);
}

/// A small mounted file system. Reports and returns `None` if this machine does not allow a test to mount one.
struct Mounted {
    at: tempfile::TempDir,
    _image: tempfile::TempDir,
}

impl Mounted {
    fn tmpfs(size: &str) -> Option<Self> {
        let at = tempfile::tempdir().unwrap();
        let _image = tempfile::tempdir().unwrap();
        let option = format!("size={size}");
        Self::mount(&["-t", "tmpfs", "-o", &option, "tmpfs"], at, _image)
    }

    /// A USB stick: vfat, or exFAT through FUSE if the kernel has no vfat, as in many virtual machines.
    fn stick(mib: u64) -> Option<Self> {
        let at = tempfile::tempdir().unwrap();
        let image = tempfile::tempdir().unwrap();
        let file = image.path().join("stick.img");
        std::fs::File::create(&file).unwrap().set_len(mib << 20).unwrap();
        let file = file.to_str().unwrap().to_owned();
        let vfat = std::fs::read_to_string("/proc/filesystems").is_ok_and(|known| known.contains("\tvfat"));
        let mkfs: &[&str] = if vfat {
            &["mkfs.vfat", "-F", "32"]
        } else {
            &["mkfs.exfat"]
        };
        let made = Command::new(mkfs[0]).args(&mkfs[1..]).arg(&file).output();
        if !made.is_ok_and(|done| done.status.success()) {
            skipped(
                "a real USB stick's file system",
                &format!("there is no working {}", mkfs[0]),
            );
            return None;
        }
        if vfat {
            return Self::mount_by("mount", &["-t", "vfat", "-o", "loop", &file], at, image);
        }
        // The FUSE driver wants a device; it is let go when the file system is.
        let device = Command::new("losetup").args(["--find", "--show", &file]).output();
        let device = device.map_or(String::new(), |done| {
            String::from_utf8_lossy(&done.stdout).trim().to_owned()
        });
        let mounted = Self::mount_by("mount.exfat-fuse", &[&device], at, image);
        let _ = Command::new("losetup").args(["--detach", &device]).output();
        mounted
    }

    /// An ext2 of blocks of 1 KiB, which holds no file over about 16 GiB.
    fn ext2() -> Option<Self> {
        let at = tempfile::tempdir().unwrap();
        let image = tempfile::tempdir().unwrap();
        let file = image.path().join("ext2.img");
        std::fs::File::create(&file).unwrap().set_len(16 << 20).unwrap();
        let made = Command::new("mkfs.ext2")
            .args(["-q", "-F", "-b", "1024"])
            .arg(&file)
            .output();
        if !made.is_ok_and(|done| done.status.success()) {
            skipped("a real file system with a limit on files", "there is no mkfs.ext2");
            return None;
        }
        let file = file.to_str().unwrap().to_owned();
        Self::mount(&["-t", "ext2", "-o", "loop", &file], at, image)
    }

    fn mount(arguments: &[&str], at: tempfile::TempDir, image: tempfile::TempDir) -> Option<Self> {
        Self::mount_by("mount", arguments, at, image)
    }

    fn mount_by(program: &str, arguments: &[&str], at: tempfile::TempDir, _image: tempfile::TempDir) -> Option<Self> {
        let done = Command::new(program).args(arguments).arg(at.path()).output();
        match done {
            Ok(done) if done.status.success() => Some(Self { at, _image }),
            other => {
                let why = other.map_or_else(
                    |e| e.to_string(),
                    |done| String::from_utf8_lossy(&done.stderr).into_owned(),
                );
                let what = format!("`{program} {}`", arguments.join(" "));
                skipped(&what, &format!("this machine does not let a test run it: {why}"));
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.at.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.at.path()).status();
    }
}

fn export_to(registry: &Double, cli: &Cli, output: &Path) -> std::process::Output {
    cli.command(&["export", &format!("{}/a/a:1", registry.host()), "-o"])
        .arg(output)
        .output()
        .unwrap()
}

#[test]
fn too_little_room_is_told_before_the_first_blob() {
    let Some(small) = Mounted::tmpfs("4m") else { return };
    let (registry, export) = one_image();
    let done = export_to(&registry, &export.cli, &small.path().join("b.tar"));
    let said = text(&done);
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains("are missing") && said.contains("MiB"), "{said}");
    // The config, which tells the platform, and no layer.
    assert!(blob_bytes_sent(&registry) < 1000, "{}", registry.transcript());
    assert_eq!(
        std::fs::read_dir(small.path()).unwrap().count(),
        0,
        "something was left behind"
    );
}

/// Before the layout is known, while the config is on its way, and in the middle of the layer.
/// Starts an export of `a/a:1`.
fn start(export: &Export, registry: &Double, output: &Path) -> Child {
    let mut command = export
        .cli
        .command(&["export", &format!("{}/a/a:1", registry.host()), "-o"]);
    command.arg(output).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn a_disk_that_fills_up_on_the_way() {
    for bytes in [1, MIB as u64] {
        let Some(small) = Mounted::tmpfs("8m") else { return };
        let (registry, export) = one_image();
        let allowance = stop_after(&registry, bytes);
        let output = small.path().join("b.tar");
        let child = start(&export, &registry, &output);
        wait_until("a part is sent", || allowance.is_spent());
        // Where space can be reserved, another writer cannot take it; elsewhere, the export may run out of space.
        let taken = std::fs::write(small.path().join("neighbour"), vec![1; 8 * MIB]);
        allowance.lift();
        let done = child.wait_with_output().unwrap();
        let said = text(&done);
        if done.status.success() {
            assert!(taken.is_err());
        } else {
            assert!(
                said.contains("make room") && !output.exists(),
                "after {bytes} bytes: {said}"
            );
            std::fs::remove_file(small.path().join("neighbour")).unwrap();
            registry.clear_faults();
            let again = text(&export_to(&registry, &export.cli, &output));
            assert!(output.exists(), "after {bytes} bytes: {said}\nagain: {again}");
        }
        check(&output);
    }
}

#[test]
fn a_read_only_file_system() {
    let Some(fs) = Mounted::tmpfs("8m") else { return };
    let done = Command::new("mount")
        .args(["-o", "remount,ro"])
        .arg(fs.path())
        .status()
        .unwrap();
    assert!(done.success());
    let (registry, export) = one_image();
    let done = export_to(&registry, &export.cli, &fs.path().join("b.tar"));
    let said = text(&done);
    assert_eq!(done.status.code(), Some(2), "{said}");
    assert!(
        said.contains("b.tar") && said.to_lowercase().contains("read-only"),
        "{said}"
    );
}

/// A file system that fills gaps with zeros: nothing is written far ahead of the fetched bytes.
#[test]
fn a_usb_stick() {
    let Some(stick) = Mounted::stick(300) else { return };
    // The largest blob comes first in the queue; small blobs behind it in the file would fill it with zeros.
    let registry = Double::new();
    let layers: Vec<_> = [100, 20, 20, 20]
        .iter()
        .zip(1..)
        .map(|(mib, n)| noise(n, mib * MIB))
        .collect();
    put_image(&registry, "a/a", "1", &layers);
    let export = Export::new(&registry, &["a/a:1"]);
    registry.add_fault(When::get("/blobs/"), Action::Drip(4 << 20, Duration::from_millis(10)));
    let output = stick.path().join("b.tar");
    let partial = stick.path().join("b.tar.partial");
    let mut child = start(&export, &registry, &output);
    let mut ahead = 0;
    while child.try_wait().unwrap().is_none() {
        if let Ok(there) = std::fs::metadata(&partial) {
            ahead = ahead.max(there.len().saturating_sub(blob_bytes_sent(&registry)));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", text(&done));
    check(&output);
    assert!(ahead < 80 << 20, "{ahead} bytes were filled with zeros");
}

#[test]
fn a_file_over_the_limit_of_the_file_system_is_refused_before_the_first_blob() {
    let Some(small) = Mounted::ext2() else { return };
    let (registry, export) = one_image();
    let manifest = registry.manifest("a/a", "1").unwrap();
    let claim = String::from_utf8(manifest.to_vec()).unwrap();
    let claim = claim.replace(&format!("\"size\":{}", 6 * MIB), &format!("\"size\":{}", 20_u64 << 30));
    registry.store().put_manifest(
        "a/a",
        Some("1"),
        "application/vnd.oci.image.manifest.v1+json",
        claim.into_bytes().into(),
    );
    let done = export_to(&registry, &export.cli, &small.path().join("b.tar"));
    let said = text(&done);
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(
        said.contains("holds no file over 16.") && said.contains("exFAT, NTFS or ext4"),
        "{said}"
    );
}

#[test]
fn a_file_over_the_limit_of_the_process_is_refused_before_the_first_blob() {
    let (registry, export) = one_image();
    let reference = format!("{}/a/a:1", registry.host());
    let command = format!(
        "ulimit -f 100; exec {} export {reference} -o b.tar",
        env!("CARGO_BIN_EXE_docker-mirror")
    );
    let mut shell = Command::new("sh");
    shell
        .env_clear()
        .env("HOME", export.cli.folder())
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let done = shell
        .arg("-c")
        .arg(command)
        .current_dir(export.cli.folder())
        .output()
        .unwrap();
    let said = text(&done);
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(
        said.contains("may write no file over") && said.contains("ulimit -f"),
        "{said}"
    );
    assert!(!export.path("b.tar.partial").exists());
}
