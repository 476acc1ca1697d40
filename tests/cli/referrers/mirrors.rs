//! Referrers of a registry with a mirror: the lists of both count, since the list of a cache may be older.

use super::super::support::image::{Image, Style};
use super::super::support::images::small;
use super::super::support::{Action, Double, When};
use super::{BUNDLE, SBOM, beside, cli, list, names, refer, registry, tag_of};

/// Stores the image in both registries. The mirror lists its signature alone; the registry lists an SBOM as well, and has
/// a signature under a tag of cosign.
fn with_older_mirror(mirror_lists: bool, origin_lists: bool) -> (Double, Double, Image) {
    let (mirror, origin) = (registry(mirror_lists), registry(origin_lists));
    let image = small(Style::Oci, "linux/amd64", "mirrored");
    for registry in [&mirror, &origin] {
        image.push(registry, "team/app", "1");
        refer(registry, "team/app", &image.root, BUNDLE, "signature");
    }
    refer(&origin, "team/app", &image.root, SBOM, "SBOM");
    beside(&origin, "team/app", &image.root, "sig", "signature");
    (mirror, origin, image)
}

#[test]
fn the_list_of_a_mirror_hides_no_referrer_that_the_registry_lists() {
    for (mirror_lists, origin_lists) in [(true, true), (true, false), (false, true), (false, false)] {
        let (mirror, origin, image) = with_older_mirror(mirror_lists, origin_lists);
        let cli = cli();
        let there = format!("{}=http://{}", origin.host(), mirror.host());
        for file in ["b.tar", "c.tar"] {
            // The second export has the manifests in its cache.
            let out = cli.succeed(&["export", &names(&origin), "-o", file, "--mirror", &there]);
            let about = format!(
                "{mirror_lists} {origin_lists} {file}: {}{}{}",
                out.stderr,
                mirror.transcript(),
                origin.transcript()
            );
            assert!(out.stderr.contains("3 referrers:"), "{about}");
            assert!(!out.stderr.contains("left out"), "{about}");
        }
        // What both have comes from the mirror.
        let root = &image.root.digest;
        assert_eq!(origin.requests_of("GET", &format!("/manifests/{root}")).len(), 0);
        assert_eq!(origin.requests_of("GET", "/manifests/1").len(), 0);
    }
}

#[test]
fn a_registry_that_refuses_to_list_referrers_behind_a_mirror_that_lists_some_fails_the_image() {
    for lists in [true, false] {
        let (mirror, origin, image) = with_older_mirror(lists, lists);
        // The tag of the list of a registry without the API is a place of the same kind.
        let place = match lists {
            true => "/referrers/".to_owned(),
            false => format!("/manifests/{}", tag_of(&image.root, "")),
        };
        origin.add_fault(
            When::path(&place).but_not(".s").but_not(".att"),
            Action::error(403, "DENIED", "no"),
        );
        let cli = cli();
        let there = format!("{}=http://{}", origin.host(), mirror.host());
        let out = cli.run(&[
            "export",
            &names(&origin),
            "-o",
            "b.tar",
            "--mirror",
            &there,
            "--retries",
            "0",
        ]);
        out.expect_code(3).says(&["could not be read", "--no-referrers"]);
    }
}

#[test]
fn an_image_under_the_tag_of_the_list_at_one_of_both_hides_no_list_of_the_other() {
    for at_mirror in [true, false] {
        let (mirror, origin) = (registry(false), registry(false));
        let image = small(Style::Oci, "linux/amd64", "mirrored");
        for registry in [&mirror, &origin] {
            image.push(registry, "team/app", "1");
        }
        let signature = refer(&origin, "team/app", &image.root, BUNDLE, "signature");
        if at_mirror {
            image.push(&mirror, "team/app", &tag_of(&image.root, ""));
        } else {
            list(&mirror, "team/app", &image.root, &signature);
            image.push(&origin, "team/app", &tag_of(&image.root, ""));
        }
        let cli = cli();
        let there = format!("{}=http://{}", origin.host(), mirror.host());
        let out = cli.succeed(&["export", &names(&origin), "-o", "b.tar", "--mirror", &there]);
        let about = format!("{at_mirror}: {}", out.stderr);
        assert!(out.stderr.contains("1 referrer:"), "{about}");
        assert!(out.stderr.contains("no list of referrers"), "{about}");
    }
}
