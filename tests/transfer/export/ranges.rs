//! Registries that support no ranges, or only some, and several repositories with the same blob.

use super::tools::{Export, blob_bytes_sent, check, noise, put_image};
use crate::support::fault::{Action, When};
use crate::support::{Double, End, Gate, sha256};

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
        // A request that breaks, and one that reads the whole layer.
        let most = 2 * size as u64 + 20 * MIB as u64;
        assert!(blob_bytes_sent(&registry) < most, "{size}: {}", registry.transcript());
    }
}

#[test]
fn a_registry_that_ignores_ranges_gets_one_request_for_a_huge_layer() {
    let (registry, export, plain, layer) = one_layer(100 * MIB);
    registry.add_fault(When::get(&layer), Action::IgnoreRange);
    registry.forget_requests();
    assert!(export.bundle("b.tar", &["-j", "8"]) == plain, "other bytes");
    assert_eq!(registry.count("GET", &layer), 1, "{}", registry.transcript());
}

#[test]
fn a_first_range_request_that_fails_or_hangs_holds_up_no_others() {
    let (registry, export, plain, layer) = one_layer(100 * MIB);
    let first = When::get(&layer).first(1);
    let answered = Gate::closed();
    for (name, fault) in [
        ("refused", Action::status(503)),
        ("broken", Action::End(End::Close)),
        ("silent", Action::Hold(answered.clone())),
    ] {
        registry.clear_faults();
        registry.add_fault(first.clone(), fault);
        // The silent request is answered when another one has come.
        registry.add_fault(When::get(&layer).nth(2), Action::Open(answered.clone()));
        registry.forget_requests();
        let file = format!("{name}.tar");
        assert!(export.bundle(&file, &["-j", "8"]) == plain, "{name}: other bytes");
        let layers = registry.requests_of("GET", &layer);
        let sent: u64 = layers.iter().filter(|r| r.status == 206).map(|r| r.bytes_out).sum();
        assert_eq!(sent, 100 * MIB as u64, "{name}: {}", registry.transcript());
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
