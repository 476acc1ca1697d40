//! What must not be fetched, and what unpacks to more than it looks like.

use std::io::{Read, Write};
use std::sync::OnceLock;

use docker_mirror::{
    Digest,
    testing::media_type::{OCI_CONFIG, OCI_LAYER, OCI_LAYER_ZSTD, OCI_MANIFEST},
};
use serde_json::json;

use super::Expect::{Fine, Open, Tree, Warning};
use super::image_faults::elsewhere;
use super::{Case, docker, good};
use crate::archives::{Layout, descriptor, header};

/// How many zeros a layer unpacks to.
const ZEROS: usize = 16 << 20;

/// The layer of zeros, and the digest of its content.
fn zeros() -> &'static (Vec<u8>, String) {
    static MADE: OnceLock<(Vec<u8>, String)> = OnceLock::new();
    MADE.get_or_init(|| {
        let zeros = vec![0; ZEROS];
        let packed = zstd::encode_all(zeros.as_slice(), 1).unwrap();
        (packed, Digest::sha256(&zeros).to_string())
    })
}

/// An archive that is compressed as a whole, of one member of 600 MiB.
fn bomb() -> Vec<u8> {
    static MADE: OnceLock<Vec<u8>> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let mut bomb = zstd::Encoder::new(Vec::new(), 1).unwrap();
        bomb.write_all(&header(b"blobs/bomb", 600 << 20, b'0', b"")).unwrap();
        std::io::copy(&mut std::io::repeat(0).take((600 << 20) + 1024), &mut bomb).unwrap();
        bomb.finish().unwrap()
    });
    made.clone()
}

/// Addresses of a file, of this machine and of a cloud's secrets.
fn addresses() -> Vec<String> {
    let all = [
        "file:///etc/passwd",
        "http://127.0.0.1:1/layer",
        "http://169.254.169.254/latest/meta-data",
    ];
    all.map(str::to_owned).into()
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        // A foreign layer may be absent: `addresses_in_an_archive_are_never_asked`.
        (
            "r24 addresses of a missing layer",
            || elsewhere(OCI_LAYER, b"not to be read", &addresses()).0,
            Tree(&["1 blob is missing"]),
        ),
        (
            "r25 layer of zeros",
            || {
                let mut layout = Layout::default();
                let (packed, content) = zeros();
                let config = json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [content]}});
                let config = layout.document(OCI_CONFIG, &config);
                layout.blob(packed.as_slice());
                let layer = descriptor(OCI_LAYER_ZSTD, packed);
                let image = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
                let image = layout.document(OCI_MANIFEST, &image);
                layout.name(image, "quay.io/test/one:1");
                layout.tar().end()
            },
            Fine,
        ),
        (
            "r25 layer of zeros in an archive of docker",
            || {
                docker(
                    |items, config| {
                        items[0]["Layers"][0] = json!("zeros.tar");
                        config["rootfs"]["diff_ids"][0] = json!(zeros().1);
                    },
                    |tar| tar.file("zeros.tar", &zeros().0),
                )
            },
            Warning("digests are new"),
        ),
        ("r26 bomb around all", bomb, Open(&["decompression bomb"])),
        (
            "r26 gzip under the name of a tar",
            || {
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gzip.write_all(&good().tar().end()).unwrap();
                gzip.finish().unwrap()
            },
            Fine,
        ),
    ]
}
