//! Registries that answer every request but those that write.

use super::client::{Memory, layer, manifest, noise, options, tag, with};
use super::support::fault::{Action, When};
use super::support::{Double, End, Options};
use super::{client, upload};
use docker_mirror::testing::{Presence, Registry};

/// Number of images that fail before the rest is given up.
const FAILED: usize = 10;

fn registry(server: &Double, retries: u32) -> (Registry, client::Told) {
    let (mut options, told) = options();
    options.retries = Some(retries);
    (with(options, &server.host()), told)
}

/// Returns the warnings that something is no longer sent to a registry.
fn given_up(told: &client::Told) -> Vec<String> {
    let warnings = told.warnings().into_iter();
    warnings.filter(|text| text.contains("no further")).collect()
}

#[tokio::test]
async fn a_registry_that_takes_no_manifests_is_not_asked_for_each_image() {
    let image = manifest(&layer(b"{}"), &[]);
    for (retries, action) in [
        (0, Action::status(503)),
        (2, Action::status(503)),
        (1, Action::End(End::Reset)),
    ] {
        let server = Double::start(Options::default().fault(When::put("/manifests/"), action));
        let (registry, told) = registry(&server, retries);
        for number in 0..40 {
            let repository = format!("team/app{number}");
            let put = registry.put_manifest(&repository, &tag("1"), &image).await;
            assert!(put.unwrap_err().shared_cause().is_some());
        }
        let puts = server.count("PUT", "/manifests/");
        assert_eq!(puts, FAILED * (retries as usize + 1), "{}", server.transcript());
        let words = format!("; no further manifests are sent to `{}` for a while", server.host());
        let told = given_up(&told);
        assert!(told.len() == 1 && told[0].ends_with(&words), "{told:?}");
        // Other requests are still sent.
        let blob = layer(b"{}");
        server.store().put_blob("a", "{}");
        assert_eq!(registry.head_blob("a", &blob).await.unwrap(), Presence::Present(()));
    }
}

#[tokio::test]
async fn a_registry_that_takes_no_blobs_is_not_asked_for_each_blob() {
    for (retries, when, action) in [
        (0, upload("PUT"), Action::status(503)),
        (1, upload("PUT"), Action::status(500)),
        (1, upload("POST"), Action::status(503)),
        (1, upload("PUT"), Action::End(End::Reset)),
    ] {
        let about = format!("{when:?} {action:?}");
        let server = Double::start(Options::default().fault(when, action));
        let (registry, told) = registry(&server, retries);
        for number in 0..40 {
            let bytes = noise(100 + number);
            let (repository, blob) = (format!("team/app{number}"), layer(&bytes));
            assert_ne!(
                registry.head_blob(&repository, &blob).await.unwrap(),
                Presence::Present(())
            );
            let pushed = registry.push_blob(&repository, &blob, &Memory(bytes), None).await;
            pushed.unwrap_err();
            let is_given_up = !given_up(&told).is_empty();
            assert_eq!(
                is_given_up,
                number + 1 >= FAILED,
                "{number} {about}: {}",
                server.transcript()
            );
            if is_given_up {
                server.forget_requests();
            }
        }
        assert_eq!(server.count("POST", ""), 0, "{about}: {}", server.transcript());
        let words = format!("; no further blobs are sent to `{}` for a while", server.host());
        let told = given_up(&told);
        assert!(told.len() == 1 && told[0].ends_with(&words), "{about}: {told:?}");
    }
}

#[tokio::test]
async fn a_registry_that_takes_nothing_for_one_repository_gets_what_is_for_others() {
    let image = manifest(&layer(b"{}"), &[]);
    let server = Double::start(Options::default().fault(When::put("/v2/bad/"), Action::status(503)));
    server.store().put_blob("good/app", "{}");
    let (registry, told) = registry(&server, 0);
    for number in 0..2 * FAILED {
        let bytes = noise(100 + number);
        let pushed = registry
            .push_blob("bad/app", &layer(&bytes), &Memory(bytes), None)
            .await;
        pushed.unwrap_err();
        let put = registry
            .put_manifest("bad/app", &tag(&number.to_string()), &image)
            .await;
        put.unwrap_err();
    }
    let bytes = noise(50);
    let pushed = registry
        .push_blob("good/app", &layer(&bytes), &Memory(bytes), None)
        .await;
    pushed.unwrap();
    registry.put_manifest("good/app", &tag("1"), &image).await.unwrap();
    assert_eq!(given_up(&told), Vec::<String>::new());
}

#[tokio::test]
async fn what_a_registry_takes_in_between_resets_the_count() {
    let image = manifest(&layer(b"{}"), &[]);
    let server = Double::start(Options::default().fault(When::put("/v2/bad"), Action::status(503)));
    server.store().put_blob("good", "{}");
    let (registry, told) = registry(&server, 0);
    for number in 0..4 * FAILED {
        let (repository, bytes) = (format!("bad{number}"), noise(100 + number));
        let (blob, source) = (layer(&bytes), Memory(bytes));
        let pushed = registry.push_blob(&repository, &blob, &source, None).await;
        pushed.unwrap_err();
        registry.put_manifest(&repository, &tag("1"), &image).await.unwrap_err();
        if number % (FAILED - 1) == FAILED - 2 {
            registry.push_blob("good", &blob, &source, None).await.unwrap();
            registry.put_manifest("good", &tag("1"), &image).await.unwrap();
        }
    }
    assert_eq!(given_up(&told), Vec::<String>::new());
}
