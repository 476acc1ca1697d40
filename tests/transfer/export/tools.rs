//! What the tests of export share.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use docker_mirror::{Bundle, OpenOptions, testing::View};

use crate::support::image::{Document, Layer, Style, with_config};
pub(crate) use crate::support::noise;
use crate::support::{Action, Allowance, Cli, Double, When};

/// Stores a linux/amd64 image with these layers in a registry, and returns the digests of the layers.
pub(crate) fn put_image(registry: &Double, repository: &str, tag: &str, layers: &[Vec<u8>]) -> Vec<String> {
    // Each image has a config of its own.
    let config = format!(
        r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":[]}},"x":"{repository}:{tag}"}}"#
    );
    let plain = |bytes: &Vec<u8>| Layer {
        media_type: Some("application/vnd.oci.image.layer.v1.tar".to_owned()),
        ..Layer::plain(bytes.clone())
    };
    let layers: Vec<Layer> = layers.iter().map(plain).collect();
    let mut image = with_config(Style::Oci, Style::Oci.config(), config.into(), &layers);
    // On one line, for tests that replace a part of it.
    image.root = Document::new(Style::Oci.manifest(), image.root.json().to_string());
    image.push(registry, repository, tag);
    layers.into_iter().map(|layer| layer.diff_id).collect()
}

/// A registry with one image of one layer of 6 MiB, and its export.
pub(crate) fn one_image() -> (Double, Export) {
    let registry = Double::new();
    put_image(&registry, "a/a", "1", &[noise(1, 6 << 20)]);
    let export = Export::new(&registry, &["a/a:1"]);
    (registry, export)
}

/// A user of the program under test.
pub(crate) fn cli() -> Cli {
    Cli::new(env!("CARGO_BIN_EXE_docker-mirror"))
}

/// A folder, and an export of images from one registry into a file in it.
pub(crate) struct Export {
    pub(crate) cli: Cli,
    images: Vec<String>,
}

impl Export {
    pub(crate) fn new(registry: &Double, images: &[&str]) -> Self {
        Self {
            cli: cli(),
            images: images
                .iter()
                .map(|image| format!("{}/{image}", registry.host()))
                .collect(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.cli.path(name)
    }

    pub(crate) fn command(&self, output: &str, flags: &[&str]) -> Command {
        let mut command = self.cli.command(&["export"]);
        command.args(&self.images).args(["-o", output]).args(flags);
        command
    }

    pub(crate) fn run(&self, output: &str, flags: &[&str]) -> Output {
        self.command(output, flags).output().unwrap()
    }

    /// Runs it, which must succeed, and returns the bundle.
    pub(crate) fn bundle(&self, output: &str, flags: &[&str]) -> Vec<u8> {
        let done = self.run(output, flags);
        assert!(done.status.success(), "{}", text(&done));
        assert!(!self.path(&format!("{output}.partial")).exists());
        assert!(!self.path(&format!("{output}.partial.journal")).exists());
        std::fs::read(self.path(output)).unwrap()
    }

    /// Runs the export, which must fail with this exit code and leave nothing under the final name.
    #[track_caller]
    pub(crate) fn fails(&self, output: &str, flags: &[&str], code: i32) -> String {
        let done = self.run(output, flags);
        assert_eq!(done.status.code(), Some(code), "{}", text(&done));
        assert!(!self.path(output).exists(), "there is a bundle under its final name");
        let text = text(&done);
        assert!(!text.contains("panicked"), "{text}");
        text
    }

    /// Starts the export, and kills it when the registry has sent exactly this number of bytes of blobs and most of
    /// them are written.
    pub(crate) fn kill_after(&self, registry: &Double, output: &str, flags: &[&str], bytes: u64) {
        registry.forget_requests();
        let allowance = Allowance::new(bytes);
        registry.add_fault(When::get("/blobs/"), Action::Allow(allowance.clone()));
        // Sent bytes may not have arrived yet. If the system does not report written bytes, they count as written.
        let written = |pid| bytes_written(pid).is_none_or(|written| written >= bytes - bytes / 8);
        self.kill_once(output, flags, |pid| allowance.is_spent() && written(pid));
        registry.clear_faults();
    }

    /// Starts it, and kills it as soon as `enough` is true.
    pub(crate) fn kill_when(&self, output: &str, flags: &[&str], enough: impl Fn() -> bool) {
        self.kill_once(output, flags, |_| enough());
    }

    fn kill_once(&self, output: &str, flags: &[&str], enough: impl Fn(u32) -> bool) {
        let mut child = self
            .command(output, flags)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while !enough(child.id()) {
            assert!(start.elapsed() < Duration::from_secs(60), "it never got that far");
            assert!(
                child.try_wait().unwrap().is_none(),
                "it ended before it could be killed"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// Returns the number of bytes that a process wrote by system calls; `None` if the system does not report them.
pub(crate) fn bytes_written(pid: u32) -> Option<u64> {
    let counts = std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    let line = counts.lines().find_map(|line| line.strip_prefix("wchar: "))?;
    line.trim().parse().ok()
}

/// Everything that a program said.
pub(crate) fn text(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Opens a bundle with the reader and hashes every blob of every image. Returns the number of images.
pub(crate) fn check(path: &Path) -> usize {
    let bundle = Bundle::open(&[path.to_owned()], &OpenOptions::default()).unwrap();
    for image in bundle.images() {
        let tree = bundle.tree(image).unwrap();
        assert!(matches!(tree.original.root.view(), View::Image(_) | View::Index(_)));
        for blob in tree.blobs() {
            bundle.verify_blob(&blob.descriptor.digest).unwrap();
        }
    }
    bundle.images().len()
}

/// Bytes of blobs that a registry has sent.
pub(crate) fn blob_bytes_sent(registry: &Double) -> u64 {
    registry
        .requests_of("GET", "/blobs/")
        .iter()
        .map(|request| request.bytes_out)
        .sum()
}
