//! Registries that support no ranges, or only some, and several repositories with the same blob.

use super::tools::{Export, blob_bytes_sent, check, noise, put_image};
use crate::support::fault::{Action, When};
use crate::support::{Double, End, sha256};

const MIB: usize = 1 << 20;

fn one_layer(size: usize) -> (Double, Export, Vec<u8>, String) {
    let registry = Double::new();
    let digests = put_image(&registry, "a/a", "1", &[noise(1, size)]);
    let export = Export::new(&registry, &["a/a:1"]);
    let plain = export.bundle("plain.tar", &[]);
    (registry, export, plain, digests[0].clone())
}

#[test]
fn no_ranges_and_a_body_that_breaks() {
    // A small layer, and one that is fetched in parts if the registry supports ranges.
    for size in [3 * MIB, 70 * MIB] {
        let (registry, export, plain, layer) = one_layer(size);
        registry.add_fault(When::get(&layer), Action::IgnoreRange);
        registry.add_fault(When::get(&layer).first(1), Action::Cut(700_000, End::Close));
        registry.forget_requests();
        assert!(export.bundle("b.tar", &[]) == plain, "{size}: other bytes");
        // One probe for each connection at the start, one that breaks, and one that reads the whole layer.
        let most = 2 * size as u64 + 20 * MIB as u64;
        assert!(blob_bytes_sent(&registry) < most, "{size}: {}", registry.transcript());
    }
}

#[test]
fn another_place_that_serves_no_ranges_takes_over_in_the_middle() {
    let registry = Double::new();
    let layer = noise(1, 3 * MIB);
    let digest = sha256(&layer);
    put_image(&registry, "a/a", "1", std::slice::from_ref(&layer));
    put_image(&registry, "b/b", "1", std::slice::from_ref(&layer));
    let export = Export::new(&registry, &["a/a:1", "b/b:1"]);
    let plain = export.bundle("plain.tar", &[]);
    let first = When::get("/v2/a/a/blobs/").and(&digest);
    registry.add_fault(
        first.clone().after(1),
        Action::error(404, "BLOB_UNKNOWN", "blob unknown"),
    );
    registry.add_fault(first, Action::Cut(1_500_000, End::Close));
    registry.add_fault(When::get("/v2/b/b/blobs/").and(&digest), Action::IgnoreRange);
    assert!(export.bundle("b.tar", &[]) == plain, "other bytes");
}

#[test]
fn each_of_three_places_gets_a_chance() {
    let registry = Double::new();
    let layer = noise(1, MIB);
    let digest = sha256(&layer);
    let images = ["a/a", "b/b", "c/c"];
    for image in images {
        put_image(&registry, image, "1", std::slice::from_ref(&layer));
    }
    let export = Export::new(&registry, &["a/a:1", "b/b:1", "c/c:1"]);
    let plain = export.bundle("plain.tar", &[]);
    for good in images {
        for bad in images.iter().filter(|image| **image != good) {
            let there = When::get(&format!("/v2/{bad}/blobs/")).and(&digest);
            registry.add_fault(there, Action::FlipBit(1000));
        }
        let name = format!("{}.tar", &good[..1]);
        assert!(export.bundle(&name, &[]) == plain, "{good}: other bytes");
        registry.clear_faults();
    }
    // The repository that sent wrong bytes is asked again if the other repositories send none.
    registry.add_fault(When::get("/v2/a/a/blobs/").and(&digest).first(1), Action::FlipBit(1000));
    for bad in ["b/b", "c/c"] {
        let there = When::get(&format!("/v2/{bad}/blobs/")).and(&digest);
        registry.add_fault(there, Action::error(404, "BLOB_UNKNOWN", "blob unknown"));
    }
    assert!(export.bundle("again.tar", &[]) == plain, "other bytes");
    check(&export.path("again.tar"));
}
