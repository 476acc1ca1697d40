//! The requests of a push to a registry: their number and order, and which bytes are sent once and which never.

use std::time::Duration;

use crate::handmade::{Maker, Opened, assert_complete, counts, digest, noise, request, run, run_well, run_with};
use crate::support;
use crate::support::fault::{Action, Canned, When};
use crate::support::{Double, End, Gate, Options};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_blob_costs_three_requests_and_an_image_that_is_there_costs_one_for_each_manifest() {
    let registry = Double::new();
    let mut maker = Maker::default();
    let layers = [noise(1, 300_000), noise(2, 5_000)];
    let amd64 = maker.image("linux/amd64", &[&layers[0]]);
    let arm64 = maker.image("linux/arm64", &[&layers[1], b""]);
    let index = maker.index(&[amd64, arm64]);
    maker.name("docker.io/library/app:1", &index);
    let bundle = maker.open();

    let report = run_well(&bundle, request(&registry)).await;
    let image = &report.images[0];
    assert_eq!(counts(image), (5, 0, 0));
    assert_eq!(
        image.destination.as_deref(),
        Some(format!("{}/mirror/library/app:1", registry.host()).as_str())
    );
    assert_eq!(image.pushed.as_ref().unwrap().to_string(), digest(&index));
    let log = registry.transcript();
    // The client asks for each blob before it sends the blob, and for the first blob also afterwards.
    for (method, expected) in [("HEAD", 5 + 1), ("POST", 5), ("PUT", 5), ("PATCH", 0), ("GET", 0)] {
        assert_eq!(registry.count(method, "/blobs/"), expected, "{method}\n{log}");
    }
    // Two children and the root; the HEAD of the tag comes before them, and the HEADs of the first child, of tag and
    // digest after them.
    assert_eq!(registry.count("PUT", "/manifests/"), 3, "{log}");
    assert_eq!(registry.count("HEAD", "/manifests/"), 4, "{log}");
    assert_eq!(registry.store().open_uploads(), 0);
    assert_complete(&registry, "mirror/library/app", "1", false);

    registry.forget_requests();
    let report = run_well(&bundle, request(&registry)).await;
    assert_eq!(counts(&report.images[0]), (0, 0, 5));
    let requests: Vec<String> = registry
        .requests()
        .iter()
        .map(|e| format!("{} {}", e.method, e.target()))
        .collect();
    let requests: Vec<&str> = requests
        .iter()
        .map(String::as_str)
        .filter(|r| !r.ends_with(" /v2/"))
        .collect();
    // The tag, and what is below it.
    let (tag, children) = requests.split_first().unwrap();
    assert_eq!(*tag, "HEAD /v2/mirror/library/app/manifests/1");
    assert_eq!(children.len(), 2, "{requests:?}");
    let head = "HEAD /v2/mirror/library/app/manifests/sha256:";
    assert!(children.iter().all(|child| child.starts_with(head)), "{requests:?}");

    // Blobs that are there, an image that is not: one request each.
    registry.store().change("mirror/library/app", |r| r.tags.clear());
    registry.forget_requests();
    let report = run_well(&bundle, request(&registry)).await;
    assert_eq!(counts(&report.images[0]), (0, 0, 5));
    assert_eq!(registry.count("*", "/blobs/"), 5, "{}", registry.transcript());
}

/// Forty repositories on one base layer, each with a layer of its own.
fn forty(maker: &mut Maker) -> String {
    let base = noise(7, 200_000);
    for n in 0..40 {
        let image = maker.image("linux/amd64", &[&base, &noise(100 + n, 1000)]);
        maker.name(&format!("docker.io/team/app{n}:1"), &image);
    }
    support::sha256(&base)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_forty_repositories_share_crosses_the_wire_once() {
    let registry = Double::new();
    let mut maker = Maker::default();
    let base = forty(&mut maker).replace("sha256:", "");
    let report = run_well(&maker.open(), request(&registry)).await;
    assert_eq!(report.images.len(), 40);
    let log = registry.transcript();
    let sent: u64 = registry
        .requests()
        .iter()
        .filter(|e| e.target().contains(&base))
        .map(|e| e.bytes_in)
        .sum();
    assert_eq!(sent, 200_000, "{log}");
    // The client asks for the base, 40 layers and 40 configs before it sends them, and for the first upload and the
    // first mount also afterwards. It does not ask for other mounted blobs.
    assert_eq!(registry.count("HEAD", "/blobs/"), 81 + 2, "{log}");
    assert_eq!(registry.count("POST", &format!("mount=sha256:{base}")), 39, "{log}");
    assert!(
        registry
            .requests_of("POST", "mount=")
            .iter()
            .all(|e| e.query.contains("from="))
    );
    assert_eq!(
        report.total.uploaded.blobs, 81,
        "the base, and of each image its own layer and config"
    );
    for n in 0..40 {
        assert_complete(&registry, &format!("mirror/team/app{n}"), "1", false);
    }

    // One more repository on the same base, in a later run: the base is mounted from an image whose tag was found.
    let image = maker.image("linux/amd64", &[&noise(7, 200_000), b"new"]);
    maker.name("docker.io/team/late:1", &image);
    registry.forget_requests();
    let report = run_well(&maker.open(), request(&registry)).await;
    assert_eq!(counts(&report.images[40]), (2, 1, 0));
    let log = registry.transcript();
    assert_eq!(
        (registry.count("POST", &base), registry.count("HEAD", &base)),
        (1, 1),
        "{log}"
    );
    assert_eq!(registry.count("*", &base), 2, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_mount_becomes_an_upload() {
    let refusals = [
        Action::IgnoreMount,
        Action::error(404, "NAME_UNKNOWN", "project not found"),
        Action::error(401, "UNAUTHORIZED", "no"),
        Action::error(405, "UNSUPPORTED", "no mounts"),
    ];
    for refusal in refusals {
        let registry = Double::start(Options::default().fault(When::post("mount="), refusal.clone()));
        let mut maker = Maker::default();
        for n in 0..3 {
            let image = maker.image("linux/amd64", &[&noise(7, 20_000)]);
            maker.name(&format!("docker.io/team/app{n}:1"), &image);
        }
        let report = run_well(&maker.open(), request(&registry)).await;
        assert_eq!(report.total.uploaded.blobs, 6, "{refusal:?}");
        assert_eq!(report.total.mounted.blobs, 0);
        for n in 0..3 {
            assert_complete(&registry, &format!("mirror/team/app{n}"), "1", false);
        }
        assert_eq!(registry.store().open_uploads(), 0, "{}", registry.transcript());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_ignores_mounts_is_asked_before_it_is_sent_the_same_again() {
    let registry = Double::start(Options::default().fault(When::post("mount="), Action::IgnoreMount));
    let mut maker = Maker::default();
    for n in 0..4 {
        let image = maker.image("linux/amd64", &[&noise(7, 20_000)]);
        maker.name(&format!("docker.io/team/app{n}:1"), &image);
    }
    let bundle = maker.open();
    run_well(&bundle, request(&registry)).await;
    for n in 0..4 {
        registry
            .store()
            .change(&format!("mirror/team/app{n}"), |r| r.tags.clear());
    }
    // The refused mount of the largest blob costs one upload; from then on, the client asks for each blob first.
    let report = run_well(&bundle, request(&registry)).await;
    assert!(report.total.uploaded.blobs <= 2, "{:?}", report.total);
}

#[tokio::test(flavor = "multi_thread")]
async fn children_before_their_index_and_the_tag_last() {
    let registry = Double::new();
    let mut maker = Maker::default();
    let children: Vec<_> = (0..4).map(|n| maker.image("linux/amd64", &[&noise(n, 3000)])).collect();
    let nested = maker.index(&children[..2]);
    let index = maker.index(&[nested.clone(), children[2].clone(), children[3].clone()]);
    maker.name("docker.io/library/app:1", &index);
    maker.name("docker.io/library/app:latest", &index);
    run_well(&maker.open(), request(&registry)).await;
    let puts: Vec<String> = registry
        .requests_of("PUT", "/")
        .iter()
        .map(|e| e.path.clone())
        .collect();
    let first_manifest = puts.iter().position(|p| p.contains("/manifests/")).unwrap();
    assert!(
        puts[first_manifest..].iter().all(|p| p.contains("/manifests/")),
        "{puts:#?}"
    );
    let at = |what: &str| {
        let found: Vec<usize> = (0..puts.len())
            .filter(|&i| puts[i].ends_with(&format!("/manifests/{what}")))
            .collect();
        assert_eq!(found.len(), 1, "{what} once in {puts:#?}");
        found[0]
    };
    for child in &children[..2] {
        assert!(at(&digest(child)) < at(&digest(&nested)));
    }
    for tag in ["1", "latest"] {
        assert!(at(tag) > at(&digest(&nested)) && at(tag) > at(&digest(&children[3])));
    }
    // The second tag needs nothing but itself.
    assert_eq!(puts.len() - first_manifest, 7, "{puts:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_than_the_jobs_are_in_flight_and_the_largest_go_first() {
    let registry = Double::start(Options {
        latency: std::time::Duration::from_millis(2),
        ..Options::default()
    });
    let mut maker = Maker::default();
    let layers: Vec<Vec<u8>> = (1..20).map(|n| noise(n, n as usize * 1000)).collect();
    let all: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let image = maker.image("linux/amd64", &all);
    maker.name("docker.io/library/app:1", &image);
    let bundle = maker.open();
    assert!(!run_with(&bundle, request(&registry), 1).await.unwrap().failed());
    let sizes: Vec<u64> = registry
        .requests_of("PUT", "/blobs/")
        .iter()
        .map(|e| e.bytes_in)
        .collect();
    assert!(sizes.is_sorted_by(|a, b| a >= b), "{sizes:?}");
    assert_eq!(sizes.len(), 20);

    // Sent bodies whose answers never come take all places. The sessions of further blobs may be open by then.
    let stalled = When::put("/blobs/");
    let registry = Double::start(Options::default().fault(stalled.clone(), Action::End(End::Stall)));
    stalls(&bundle, &registry, 3).await;

    // So do bodies of which the registry reads a little and no more.
    let registry = Double::start(Options::default().fault(stalled, Action::CutRequest(10, End::Stall)));
    let images = (0..7).map(|n| noise(n, 10 << 20)).collect::<Vec<_>>();
    let mut maker = Maker::default();
    let image = maker.image("linux/amd64", &images.iter().map(Vec::as_slice).collect::<Vec<_>>());
    maker.name("docker.io/library/app:1", &image);
    stalls(&maker.open(), &registry, 3).await;

    // One at a time is one request at a time.
    let registry = Double::start(Options::default().fault(When::put("/blobs/"), Action::End(End::Stall)));
    stalls(&bundle, &registry, 1).await;
}

/// Runs until `jobs` bodies were sent, which never end, and checks that no more requests follow.
async fn stalls(bundle: &Opened, registry: &Double, jobs: usize) {
    let sent = || registry.count("PUT", "/blobs/");
    tokio::select! {
        report = run_with(bundle, request(registry), jobs) => panic!("{report:?}"),
        () = async {
            registry.until("all places are taken by bodies", || sent() >= jobs).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        } => {}
    }
    let opened = registry.count("POST", "/blobs/");
    assert_eq!(sent(), jobs, "{}", registry.transcript());
    assert!((jobs..=3 * jobs - 2).contains(&opened), "{}", registry.transcript());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_registry_lost_after_saying_it_has_it_is_sent_again() {
    // The HEAD reports a layer as present, and the manifest is refused because of the layer: it is sent although it "is
    // present".
    let mut maker = Maker::default();
    let layer = noise(3, 9000);
    let image = maker.image("linux/amd64", &[&layer]);
    maker.name("docker.io/library/app:1", &image);
    let pretended = When::head(&support::sha256(&layer));
    let registry = Double::start(Options::default().fault(pretended, Action::PretendPresent));
    let report = run_well(&maker.open(), request(&registry)).await;
    assert_complete(&registry, "mirror/library/app", "1", false);
    assert_eq!(report.images[0].counts.uploaded.blobs, 2);

    // A registry that needs a moment to see what it has.
    let lag = Action::error(400, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry");
    let registry = Double::start(Options::default().fault(When::put("/manifests/").first(2), lag.clone()));
    run_well(&maker.open(), request(&registry)).await;
    assert_complete(&registry, "mirror/library/app", "1", false);

    // One that never sees it: a failure, after a handful of attempts.
    let registry = Double::start(Options::default().fault(When::put("/manifests/"), lag));
    let report = run(&maker.open(), request(&registry)).await.unwrap();
    assert!(report.failed());
    assert!(registry.count("PUT", "/manifests/") <= 6, "{}", registry.transcript());
    assert_eq!(registry.manifest("mirror/library/app", "1"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_finds_out_about_a_child_that_the_registry_lost() {
    let mut maker = Maker::default();
    let children: Vec<_> = (0..3).map(|n| maker.image("linux/amd64", &[&noise(n, 3000)])).collect();
    let index = maker.index(&children);
    maker.name("docker.io/library/app:1", &index);
    let lost = digest(&children[1]);
    // The first PUT of the child has no effect, although it is answered with 201.
    let answer = Action::Answer(Canned {
        status: 201,
        ..Canned::default()
    });
    let registry = Double::start(Options::default().fault(When::put(&lost).first(1), answer));
    run_well(&maker.open(), request(&registry)).await;
    assert_complete(&registry, "mirror/library/app", "1", false);
    assert_eq!(registry.count("PUT", &lost), 2, "{}", registry.transcript());
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_of_one_repository_follow_one_another_and_repositories_go_side_by_side() {
    // The first of each repository are under way together.
    let together = Action::Hold(Gate::meeting_of(2));
    let first = |repository: &str| When::put(repository).and("/manifests/").first(1);
    let options = Options::default()
        .fault(first("/team/a/"), together.clone())
        .fault(first("/team/b/"), together);
    let registry = Double::start(options);
    let mut maker = Maker::default();
    for (n, name) in ["a:1", "b:1", "a:2", "b:2", "a:3", "b:3"].iter().enumerate() {
        let child = maker.image("linux/amd64", &[&noise(n as u64, 3000)]);
        let index = maker.index(&[child]);
        maker.name(&format!("docker.io/team/{name}"), &index);
    }
    run_well(&maker.open(), request(&registry)).await;
    let of = |repository: &str| registry.requests_of("PUT", &format!("/team/{repository}/manifests/"));
    let (a, b) = (of("a"), of("b"));
    assert_eq!((a.len(), b.len()), (6, 6), "{}", registry.transcript());
    for puts in [&a, &b] {
        for (n, one) in puts.iter().enumerate() {
            let meets = puts[n + 1..].iter().filter(|other| one.overlaps(other)).count();
            assert_eq!(meets, 0, "{}", one.target());
        }
    }
    let meets = a
        .iter()
        .flat_map(|one| b.iter().filter(|other| one.overlaps(other)))
        .count();
    assert!(meets >= 1, "{}", registry.transcript());

    // Two tags of one digest: while the first tag is read back, the second is not written.
    let registry = Double::start(Options::default().fault(When::any(), Action::Delay(Duration::from_millis(20))));
    let mut maker = Maker::default();
    let image = maker.image("linux/amd64", &[&noise(1, 3000)]);
    for tag in ["1", "2", "3"] {
        maker.name(&format!("docker.io/team/a:{tag}"), &image);
    }
    run_well(&maker.open(), request(&registry)).await;
    let puts = registry.requests_of("PUT", "/team/a/manifests/");
    assert_eq!(puts.len(), 3, "{}", registry.transcript());
    let heads = registry.requests_of("HEAD", &digest(&image));
    assert_eq!(heads.len(), 3, "{}", registry.transcript());
    for head in &heads {
        assert!(!puts.iter().any(|put| put.overlaps(head)), "{}", registry.transcript());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_what_is_sent_mounted_and_there_apart() {
    let cli = support::Cli::new(env!("CARGO_BIN_EXE_docker-mirror"));
    let registry = Double::new();
    let mut maker = Maker::default();
    let there = maker.image("linux/amd64", &[&noise(1, 3 << 20)]);
    maker.name("docker.io/team/a:1", &there);
    run_well(&maker.open(), {
        let mut request = request(&registry);
        request.destination = registry.host().parse().unwrap();
        request
    })
    .await;
    // The layer that exists is mounted into the second repository; a new layer is sent to the first of two.
    for name in ["b", "c"] {
        let image = maker.image(
            "linux/amd64",
            &[&noise(1, 3 << 20), &noise(2, 2 << 20), name.as_bytes()],
        );
        maker.name(&format!("docker.io/team/{name}:1"), &image);
    }
    let again = maker.image("linux/amd64", &[&noise(1, 3 << 20), &noise(3, 1 << 20)]);
    maker.name("docker.io/team/a:2", &again);
    std::fs::copy(maker.write().path, cli.path("b.tar")).unwrap();
    let host = registry.host();
    registry.forget_requests();
    let planned = cli.succeed(&["import", "b.tar", "-d", &host, "--dry-run"]);
    let line =
        |name: &str, tag: u32, state: &str| format!("docker.io/team/{name}:{tag} -> {host}/team/{name}:{tag}  {state}");
    // Beside the layers there are configs of some hundred bytes.
    assert_eq!(
        planned.lines(),
        [
            line("a", 1, "is there already"),
            line("b", 1, "2.0 MiB to send, 3.0 MiB to reuse, 0 bytes already there"),
            line("c", 1, "300 bytes to send, 5.0 MiB to reuse, 0 bytes already there"),
            line("a", 2, "1.0 MiB to send, 0 bytes to reuse, 3.0 MiB already there"),
        ]
    );
    let total = "7 blobs (3.0 MiB) to upload, 3 blobs (8.0 MiB) to reuse from other repositories, 3 blobs (6.0 MiB) already there";
    assert!(planned.stderr.contains(total), "{}", planned.everything());
    assert_eq!(registry.count("POST", ""), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_appear_during_the_whole_run() {
    let registry = Double::new();
    let mut maker = Maker::default();
    for n in 0..40u64 {
        // From 4 KiB to 512 KiB, and one that takes long.
        let size = if n == 20 { 2 << 20 } else { 4096 << (n * 5 % 8) };
        let image = maker.image("linux/amd64", &[&noise(2 * n, size), &noise(2 * n + 1, size / 2)]);
        maker.name(&format!("docker.io/library/app{n}:1"), &image);
    }
    // With more at a time, all of so few images would be under way at once.
    let report = run_with(&maker.open(), request(&registry), 6).await.unwrap();
    assert!(!report.failed(), "{report:?}");
    let log = registry.requests();
    let total: u64 = log.iter().map(|entry| entry.bytes_in).sum();
    let (mut bytes, mut tags) = (0, 0);
    for entry in &log {
        bytes += entry.bytes_in;
        if bytes > total / 2 {
            break;
        }
        tags += usize::from(entry.method == "PUT" && entry.path.ends_with("/manifests/1"));
    }
    assert!(
        tags >= 10,
        "{tags} of 40 when half of the bytes were sent\n{}",
        registry.transcript()
    );
}
