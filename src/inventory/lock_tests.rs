//! Tests of writing a lock and reading it back.

use super::super::images::Piece;
use super::super::locked_referrer::LockedReferrer;
use super::*;
use crate::image::referrer::tag_beside;
use crate::image::tree::{Choice, PlatformRecord};

fn lock() -> Lock {
    let piece = |bytes: &[u8], media_type: &str| Piece {
        digest: Digest::sha256(bytes),
        size: bytes.len() as u64,
        media_type: media_type.into(),
    };
    let platform = |bytes: &[u8], platform: &str| PlatformRecord {
        platform: platform.to_owned(),
        digest: Digest::sha256(bytes),
    };
    let image = LockedImage {
        reference: "quay.io/a/b:1".parse().unwrap(),
        index: Choice::Filtered,
        original: Digest::sha256(b"index"),
        filtered: Some(Digest::sha256(b"smaller")),
        kept: vec![platform(b"amd", "linux/amd64")],
        dropped: vec![platform(b"win", "windows/amd64 (\"10\")")],
        left_out: Vec::new(),
        referrers: vec![LockedReferrer {
            digest: Digest::sha256(b"signature"),
            subject: Digest::sha256(b"amd"),
            tag: Some(tag_beside(&Digest::sha256(b"amd"), "sig")),
        }],
        left_out_referrers: Vec::new(),
        manifests: vec![
            piece(b"amd", "m"),
            piece(b"index", "i"),
            piece(b"smaller", "i"),
            piece(b"signature", "m"),
        ],
        blobs: vec![piece(b"layer", "l")],
    };
    Lock {
        docker_manifest: true,
        images: vec![image],
        missing: vec![Absent {
            reference: "docker.io/library/nope:latest".to_owned(),
            reason: "notfound".to_owned(),
        }],
        text: String::new(),
        place: 0..0,
        first_line: 0,
        by_name: HashMap::new(),
    }
}

#[test]
fn a_lock_that_was_written_is_read_back() {
    let text = lock().to_text();
    assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
    let read = Lock::parse(text.as_str()).unwrap();
    assert_eq!(read.images, lock().images);
    assert_eq!(read.to_text(), text);
    assert_eq!(read.line_of(&Digest::sha256(b"layer")), Some(26));
    let empty = Lock {
        images: Vec::new(),
        missing: Vec::new(),
        ..lock()
    };
    assert_eq!(Lock::parse(empty.to_text()).unwrap().to_text(), empty.to_text());
    // A report may contain a lock.
    let report = format!("{{\n\"reportVersion\": 1,\n\"lock\": {text}}}");
    assert_eq!(Lock::parse(report).unwrap().images, lock().images);
}

#[test]
fn a_lock_that_is_not_as_it_was_written_is_refused_with_the_line() {
    let text = lock().to_text();
    let says = |text: &str| Lock::parse(text).unwrap_err().full();
    assert_eq!(says(""), "line 1: the lock is cut off");
    let half = &text[..text.len() / 2];
    let lines = half.lines().count();
    assert_eq!(says(half), format!("line {lines}: the lock is cut off"));
    let sum = text.lines().count() - 1;
    let edited = format!("line {sum}: the check sum is that of another content: the lock was edited or damaged");
    assert_eq!(says(&text.replace("windows/amd64", "windows/arm64")), edited);
    assert_eq!(says(&text.replace("\"size\":5", "\"size\":6")), edited);
    for (other, hint) in [(1, "docker-mirror inspect BUNDLE --lock FILE"), (3, "use the version")] {
        let other_version = text.replace("\"lockVersion\": 2", &format!("\"lockVersion\": {other}"));
        let error = Lock::parse(other_version).unwrap_err();
        let what = format!("line 2: the lock has version {other}; only 2 is known");
        assert_eq!(error.full(), what);
        assert!(error.hint().is_some_and(|said| said.contains(hint)), "{error:?}");
    }
    assert!(says("{\"images\": []}").starts_with("line 1: this is no lock: missing field `lockVersion`"));
    assert!(says(&text.replace("\"index\"", "\"indx\"")).starts_with("line 7: this is no lock: unknown field `indx`"));
    let report = format!("{{\n\"lock\": {}\n}}", text.replace("quay.io", "quay,io"));
    assert!(
        says(&report).starts_with("line 7: this is no lock"),
        "{}",
        says(&report)
    );
    let unproved = Lock {
        images: vec![LockedImage {
            manifests: Vec::new(),
            ..lock().images[0].clone()
        }],
        ..lock()
    };
    let why = "line 6: image `quay.io/a/b:1`: its own manifest is not among its manifests";
    assert_eq!(says(&unproved.to_text()), why);
    let other = Digest::sha256(b"index");
    let known = &lock().images[0].referrers[0];
    for referrer in [
        LockedReferrer {
            digest: Digest::sha256(b"absent"),
            ..known.clone()
        },
        LockedReferrer {
            subject: Digest::sha256(b"absent"),
            tag: None,
            ..known.clone()
        },
        LockedReferrer {
            tag: Some(tag_beside(&other, "sig")),
            ..known.clone()
        },
        LockedReferrer {
            tag: Some("latest".to_owned()),
            ..known.clone()
        },
    ] {
        let mut edited = lock();
        edited.images[0].referrers = vec![referrer];
        let said = says(&edited.to_text());
        assert!(
            said.starts_with("line 6: image `quay.io/a/b:1`: a referrer or its subject"),
            "{said}"
        );
    }
}

#[test]
fn a_name_with_a_digest_is_that_of_its_image() {
    let named = |digest: &Digest| {
        let reference = format!("quay.io/a/b:1@{digest}").parse().unwrap();
        let images = vec![LockedImage {
            reference,
            ..lock().images[0].clone()
        }];
        Lock::parse(Lock { images, ..lock() }.to_text())
    };
    for own in [b"index".as_slice(), b"smaller"] {
        named(&Digest::sha256(own)).unwrap();
    }
    for other in [b"amd".as_slice(), b"layer", b"a well-known image"] {
        let error = named(&Digest::sha256(other)).unwrap_err();
        assert!(
            error.full().contains("the digest in its name is that of another image"),
            "{error:?}"
        );
    }
}
