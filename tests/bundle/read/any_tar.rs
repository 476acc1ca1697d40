//! Random tars: each blob is found, and random bytes are refused.

use std::collections::BTreeMap;

use docker_mirror::Digest;
use proptest::prelude::*;

use crate::archives::{Tar, check, open_bytes, path, two_platforms};

/// One member of a random tar.
#[derive(Debug, Clone)]
enum Part {
    Blob { content: Vec<u8>, how: u8 },
    Stranger(String, Vec<u8>),
    Directory(String),
    Comment,
    Head,
}

fn part() -> impl Strategy<Value = Part> {
    let name = "[a-z]{1,10}(/[a-z.]{1,40}x){0,6}";
    prop_oneof![
        4 => (proptest::collection::vec(any::<u8>(), 0..3000), 0..4_u8).prop_map(|(content, how)| Part::Blob { content, how }),
        1 => (name, proptest::collection::vec(any::<u8>(), 0..600)).prop_map(|(name, content)| Part::Stranger(name, content)),
        1 => name.prop_map(Part::Directory),
        1 => Just(Part::Comment),
        1 => Just(Part::Head),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every blob of a tar is found with its bytes, whatever other members the tar has, in any order and with any
    /// spelling of names.
    #[test]
    fn every_blob_of_any_tar_is_found(parts in proptest::collection::vec(part(), 0..30), marked: bool) {
        let (layout, _) = two_platforms();
        let mut expected: BTreeMap<Digest, Vec<u8>> = layout.blobs.clone();
        let mut strangers: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut tar = Tar::default();
        for part in &parts {
            tar = match part {
                Part::Blob { content, how } => {
                    let digest = Digest::sha256(content);
                    let name = path(&digest);
                    expected.insert(digest, content.clone());
                    match how {
                        0 => tar.file(&name, content),
                        1 => tar.file(&format!("./{name}"), content),
                        2 => tar.pax(b'x', &[("path", &name), ("size", &content.len().to_string())]).file("x", content),
                        _ => tar.long_name(&name).file("x", content),
                    }
                }
                Part::Stranger(name, content) => {
                    // The same name twice is another test's matter.
                    if strangers.insert(name.clone(), content.clone()).is_some() {
                        return Ok(());
                    }
                    tar.file(name, content)
                }
                Part::Directory(name) => tar.directory(&format!("{name}/")),
                Part::Comment => tar.pax(b'g', &[("comment", "any")]),
                Part::Head => tar.raw(&layout.head().0),
            };
        }
        tar = tar.raw(&layout.tar().0);
        let bytes = if marked { tar.end() } else { tar.0 };
        let bundle = open_bytes(&bytes).unwrap();
        prop_assert_eq!(bundle.warnings().iter().any(|w| w.contains("mark its end")), !marked);
        check(&bundle).unwrap();
        for (digest, content) in &expected {
            prop_assert_eq!(bundle.size_of(digest), Some(content.len() as u64));
        }
    }

    /// No bytes at all make the reader panic.
    #[test]
    fn random_blocks_are_refused_in_words(blocks in proptest::collection::vec(any::<u8>(), 1..5000)) {
        prop_assert!(open_bytes(&blocks).is_err());
    }
}
