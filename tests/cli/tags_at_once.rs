//! All tags of an image in one request if the destination supports it (OCI distribution-spec, "Pushing Manifests"), and
//! otherwise one request for each tag, without a warning.

use super::cli;
use super::support::image::{Image, Style};
use super::support::images::{multi, small};
use super::support::referrers::{BUNDLE, beside, refer};
use super::support::{Action, Double, Options, When};

fn takes(tags_at_once: usize) -> Options {
    Options {
        tags_at_once,
        ..Options::default()
    }
}

/// Returns the tags of requests that put several, and the tags that are put alone.
fn puts(registry: &Double, repository: &str, image: &Image) -> (Vec<String>, Vec<String>) {
    let puts = registry.requests_of("PUT", &format!("/{repository}/manifests/"));
    let together = puts.iter().filter(|put| !put.query.is_empty());
    let together = together.inspect(|put| assert!(put.path.ends_with(image.digest()), "{}", put.target()));
    let alone = puts.iter().filter(|put| !put.path.contains("sha256:"));
    let tag = |path: &str| path.rsplit('/').next().unwrap().to_owned();
    (
        together.map(|put| put.query.clone()).collect(),
        alone.map(|put| tag(&put.path)).collect(),
    )
}

#[test]
fn the_tags_of_an_image_go_in_one_request_where_the_registry_says_which_it_took() {
    let (cli, source) = (cli(), Double::new());
    let image = multi(Style::Oci, &["linux/amd64", "linux/arm64"], "app");
    let other = small(Style::Oci, "linux/amd64", "other");
    let tags = ["1", "1.2", "1.2.3", "latest"];
    let mut names = Vec::new();
    for tag in tags {
        image.push(&source, "team/app", tag);
        names.push(format!("{}/team/app:{tag}", source.host()));
    }
    other.push(&source, "team/app", "other");
    names.push(format!("{}/team/app:other", source.host()));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    cli.succeed(&[&["export", "-o", "b.tar"][..], &names].concat());
    let all = "tag=1&tag=1.2&tag=1.2.3&tag=latest";
    let refuses = |action| takes(10).fault(When::put("?tag="), action);
    for (options, together, alone) in [
        (takes(10), &[all][..], &["other"][..]),
        // It takes no more than two, and says so.
        (takes(2), &[all, "tag=1.2.3&tag=latest"], &["other"]),
        // It takes one, the rest has to be put.
        (
            takes(1),
            &[all, "tag=1.2&tag=1.2.3&tag=latest", "tag=1.2.3&tag=latest"],
            &["latest", "other"],
        ),
        // It does not look at the query.
        (takes(0), &[all], &["1", "1.2", "1.2.3", "latest", "other"]),
        (
            refuses(Action::status(404)),
            &[all],
            &["1", "1.2", "1.2.3", "latest", "other"],
        ),
        (
            refuses(Action::status(405)),
            &[all],
            &["1", "1.2", "1.2.3", "latest", "other"],
        ),
        (
            refuses(Action::status(414)),
            &[all],
            &["1", "1.2", "1.2.3", "latest", "other"],
        ),
        (
            refuses(Action::error(400, "NAME_INVALID", "no query here")),
            &[all],
            &["1", "1.2", "1.2.3", "latest", "other"],
        ),
        (
            refuses(Action::error(403, "DENIED", "no query here")),
            &[all],
            &["1", "1.2", "1.2.3", "latest", "other"],
        ),
    ] {
        for way in ["import", "one step"] {
            let about = format!("{way} {together:?} {alone:?} {:?}", options.tags_at_once);
            let target = Double::start(Options {
                tags_at_once: options.tags_at_once,
                ..Options::default()
            });
            for fault in &options.faults {
                target.add_fault(When::put("?tag="), fault.action.clone());
            }
            let said = match way {
                "import" => cli.succeed(&["import", "b.tar", "-d", &target.host()]),
                _ => cli.succeed(&[&["-d", &target.host()][..], &names].concat()),
            };
            let about = format!("{about}: {}{}", said.stderr, target.transcript());
            let (mut sent, mut single) = puts(&target, "team/app", &image);
            if way == "one step" {
                // Its images become ready one by one, so that a request may have fewer tags.
                sent.retain(|tags| all.contains(tags.as_str()));
                assert!(
                    sent.len() <= together.len() && single.len() <= tags.len() + 1,
                    "{about}"
                );
            } else {
                single.sort();
                assert_eq!((sent, single), (to_strings(together), to_strings(alone)), "{about}");
            }
            for tag in tags {
                assert_eq!(
                    target.manifest("team/app", tag),
                    Some(image.root.bytes.clone()),
                    "{about}"
                );
            }
            assert_eq!(target.manifest("team/app", "other"), Some(other.root.bytes.clone()));
            assert!(!said.stderr.contains("warning"), "{about}");
        }
    }
}

fn to_strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn signatures_are_in_place_before_many_tags_and_a_registry_is_asked_once() {
    let (cli, source) = (cli(), Double::new());
    let image = small(Style::Oci, "linux/amd64", "app");
    let mut names = Vec::new();
    for (repository, number) in [("team/a", 23), ("team/b", 3)] {
        for tag in 0..number {
            image.push(&source, repository, &format!("v{tag}"));
            names.push(format!("{}/{repository}:v{tag}", source.host()));
        }
        refer(&source, repository, &image.root, BUNDLE, "signature");
        beside(&source, repository, &image.root, "sig", "by the source");
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    cli.succeed(&[&["export", "-o", "b.tar"][..], &names].concat());
    for at_once in [10, 0] {
        let target = Double::start(Options {
            tags_at_once: at_once,
            no_referrers: true,
            ..Options::default()
        });
        cli.succeed(&["import", "b.tar", "-d", &target.host(), "--jobs", "1"]);
        let about = target.transcript();
        let (a, b) = (puts(&target, "team/a", &image), puts(&target, "team/b", &image));
        let sizes = |sent: &[String]| sent.iter().map(|tags| tags.matches("tag=").count()).collect::<Vec<_>>();
        match at_once {
            10 => assert_eq!((sizes(&a.0), sizes(&b.0)), (vec![10, 10, 3], vec![3]), "{about}"),
            _ => assert_eq!(a.0.len() + b.0.len(), 1, "{about}"),
        }
        for repository in ["team/a", "team/b"] {
            let all = target.requests_of("PUT", &format!("/{repository}/manifests/"));
            let first = all
                .iter()
                .position(|put| put.path.contains("/manifests/v") || !put.query.is_empty());
            let last = all.iter().rposition(|put| put.path.contains("/manifests/sha256-"));
            assert!(last < first, "{about}");
            // One writer for each list, and one write.
            let lists = all
                .iter()
                .filter(|put| put.path.contains("/manifests/sha256-") && !put.path.ends_with(".sig"));
            assert_eq!(lists.count(), 1, "{about}");
        }
        assert_eq!(target.store().repository("team/a").unwrap().tags.len(), 25);
    }
    // Where one failure is to be the end, each image has its turn.
    let target = Double::start(takes(10));
    cli.succeed(&["import", "b.tar", "-d", &target.host(), "--fail-fast"]);
    assert_eq!(puts(&target, "team/b", &image).0, Vec::<String>::new());
}
