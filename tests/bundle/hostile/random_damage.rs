//! Random damage to good archives: noticed, or without effect.

use docker_mirror::{Bundle, Error, Kind, Result};

use super::{docker, nothing};
use crate::archives::{open, open_bytes, two_platforms};

/// Xorshift: the same sequence on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

/// Returns the digests that would be pushed, unless a fault is reported. No digest covers `index.json`, so names may be
/// damaged.
fn pushed(bundle: &Bundle) -> Result<Vec<Vec<String>>> {
    if let Some(broken) = bundle.broken().first() {
        return Err(Error::new(Kind::Malformed, broken.error.full()));
    }
    let mut all = Vec::new();
    for image in bundle.images() {
        let tree = bundle.tree(image)?;
        let mut digests: Vec<String> = tree
            .pushed()
            .all()
            .map(|m| format!("{} {}", m.media_type(), m.digest()))
            .collect();
        for blob in tree.blobs() {
            bundle.verify_blob(&blob.descriptor.digest)?;
            digests.push(blob.descriptor.digest.to_string());
        }
        all.push(digests);
    }
    all.sort();
    Ok(all)
}

#[test]
fn random_damage_is_noticed_or_harmless() {
    let (mut layout, _) = two_platforms();
    let other = layout.image("amd64", b"another", true);
    layout.name(other, "quay.io/test/other:1");
    let originals = [layout.tar().end(), docker(|_, _| (), nothing)];
    for (which, original) in originals.iter().enumerate() {
        let expected = pushed(&open_bytes(original).unwrap()).unwrap();
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("damaged.tar");
        let (mut refused, mut same) = (0, 0);
        for round in 0..1500 {
            let mut damaged = original.clone();
            match random.below(4) {
                0 => damaged.truncate(random.below(original.len())),
                1 => {
                    let from = random.below(original.len());
                    let to = (from + random.below(2048)).min(original.len());
                    damaged.drain(from..to);
                }
                _ => {
                    for _ in 0..=random.below(4) {
                        let at = random.below(damaged.len());
                        damaged[at] = random.below(256) as u8;
                    }
                }
            }
            std::fs::write(&file, &damaged).unwrap();
            match open(&file, None).and_then(|bundle| pushed(&bundle)) {
                Err(_) => refused += 1,
                Ok(found) => {
                    assert_eq!(found, expected, "archive {which}, round {round}");
                    same += 1;
                }
            }
        }
        assert!(refused > 100 && same > 20, "refused {refused}, same {same}");
    }
}
