//! Registries with the referrers API that answer for some manifests as if they had none: signatures may exist that no list shows.

use super::super::support::cli::{Output, wait_until};
use super::super::support::image::Style;
use super::super::support::images::{multi, small};
use super::super::support::{Action, Cli, Double, Gate, When};
use super::{BUNDLE, OCI_INDEX, Signed, beside, cli, names, refer, registry, signed};

/// Words of the error of an image.
const WORDS: &str = "although the registry lists what refers to other manifests of this repository";

/// Answers of registries without the referrers API.
fn refusals() -> impl Iterator<Item = Action> {
    let refusals = [400, 404, 405, 406, 410, 204].map(Action::status);
    refusals.into_iter().chain([Action::html()])
}

fn asked(source: &Double, digest: &str) -> usize {
    let path = format!("/referrers/{digest}");
    source
        .discovery()
        .iter()
        .filter(|entry| entry.path.ends_with(&path))
        .count()
}

#[test]
fn a_registry_that_lists_the_referrers_of_some_manifests_alone_fails_the_image() {
    for action in refusals() {
        let (cli, source) = (cli(), registry(true));
        let signed = signed(&source);
        let target = registry(true);
        let (image, host) = (names(&source), target.host());
        // For a platform, and for one of its referrers.
        for document in [&signed.image.below[0], &signed.belongings[2]] {
            let lists = || When::get("/referrers/").and(&document.digest);
            source.clear_faults();
            source.add_fault(lists(), action.clone());
            for way in [
                &["export", "-o", "b.tar"][..],
                &["export", "-o", "b.tar", "--referrers", "require"],
                &["-d", &host],
            ] {
                source.forget_requests();
                let out = cli.run(&[way, &[&*image]].concat());
                let about = format!("{action:?} {way:?}: {}{}", out.stderr, source.transcript());
                assert_eq!(out.code, Some(1), "{about}");
                let words = [WORDS, "could not be read", "--no-referrers"];
                assert!(words.iter().all(|words| out.stderr.contains(words)), "{about}");
                assert_eq!(asked(&source, &document.digest), 2, "{about}");
            }
            // An answer that passes is no loss.
            source.clear_faults();
            source.add_fault(lists().first(1), action.clone());
            let out = cli.succeed(&["export", &image, "-o", "b.tar", "--force"]);
            assert!(out.stderr.contains("5 referrers:"), "{action:?}: {}", out.stderr);
        }
        assert_eq!(target.manifest("team/app", "1"), None, "{action:?}");
    }
    // A registry without the API is no contradiction, nor is one that does not know a subject.
    let source = registry(false);
    signed(&source);
    let unknown = registry(true);
    let platform = signed(&unknown).image.below[1].digest.clone();
    let about_subject = Action::error(404, "MANIFEST_UNKNOWN", "manifest unknown");
    unknown.add_fault(When::get("/referrers/").and(&platform), about_subject);
    for source in [&source, &unknown] {
        let out = cli().succeed(&["export", &names(source), "-o", "b.tar"]);
        assert!(!out.stderr.contains(WORDS), "{}", out.stderr);
    }
}

#[test]
fn one_answer_that_is_no_404_does_not_decide_that_a_registry_has_no_lists() {
    for action in refusals().filter(|action| !format!("{action:?}").contains("404")) {
        for passes in [true, false] {
            let (cli, source) = (cli(), registry(true));
            let root = signed(&source).image.root;
            let when = When::get("/referrers/").and(&root.digest);
            source.add_fault(if passes { when.first(1) } else { when }, action.clone());
            let out = cli.run(&["export", &names(&source), "-o", "b.tar"]);
            let about = format!("{action:?} {passes}: {}{}", out.stderr, source.transcript());
            assert_eq!(out.code, Some(i32::from(!passes)), "{about}");
            assert_eq!(out.stderr.contains("5 referrers:"), passes, "{about}");
            assert_eq!(out.stderr.contains(WORDS), !passes, "{about}");
        }
        // A registry without the API is asked for two manifests of a repository.
        let (cli, source) = (cli(), registry(false));
        signed(&source);
        source.add_fault(When::get("/referrers/"), action.clone());
        let out = cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
        let about = format!("{action:?}: {}{}", out.stderr, source.transcript());
        assert!(out.stderr.contains("5 referrers:"), "{about}");
        let asked = source.discovery().into_iter();
        let asked = asked.filter(|entry| entry.path.contains("/referrers/"));
        assert_eq!(asked.count(), 2, "{about}");
    }
}

/// Exports an image of `team/app` and one of another repository, whose list of referrers comes after the image of `team/app` was
/// searched.
fn export_both(cli: &Cli, source: &Double, signed: &Signed) -> Output {
    let other = small(Style::Oci, "linux/amd64", "other");
    other.push(source, "team/other", "1");
    refer(source, "team/other", &other.root, BUNDLE, "of the other");
    let gate = Gate::closed();
    source.add_fault(When::get("/team/other/referrers/").first(1), Action::Hold(gate.clone()));
    let both = [names(source), format!("{}/team/other:1", source.host())];
    let last = super::tag_of(&signed.image.below[1], ".sbom");
    std::thread::scope(|scope| {
        let export = scope.spawn(|| cli.run(&["export", "-o", "b.tar", &both[0], &both[1]]));
        wait_until("the first image is searched", || {
            let asked = source.discovery();
            gate.arrived() > 0 && asked.iter().any(|entry| entry.path.ends_with(&last))
        });
        gate.open();
        export.join().unwrap()
    })
}

#[test]
fn a_registry_that_turns_out_to_have_the_api_is_asked_again_for_what_it_did_not_list() {
    for action in refusals() {
        for passes in [true, false] {
            let (cli, source) = (cli(), registry(true));
            let signed = signed(&source);
            // Each tag is asked for, so that the end of a search can be seen.
            source.add_fault(When::get("/tags/list"), Action::status(404));
            let when = When::get("/referrers/").and(&signed.image.root.digest);
            source.add_fault(if passes { when.first(1) } else { when }, action.clone());
            let out = export_both(&cli, &source, &signed);
            let about = format!("{action:?} {passes}: {}{}", out.stderr, source.transcript());
            assert_eq!(out.code, Some(i32::from(!passes)), "{about}");
            assert_eq!(out.stderr.contains("5 referrers:"), passes, "{about}");
            assert_eq!(out.stderr.contains(WORDS), !passes, "{about}");
        }
    }
}

#[test]
fn a_repository_that_lists_nothing_beside_one_that_does_is_asked_once_more_for_each_manifest() {
    let (cli, source) = (cli(), registry(true));
    let image = multi(Style::Oci, &["linux/amd64", "linux/arm64"], "signed");
    image.push(&source, "team/app", "1");
    let signature = beside(&source, "team/app", &image.root, "sig", "by the source");
    let signed = Signed {
        belongings: Vec::new(),
        signature,
        image,
    };
    source.add_fault(When::get("/tags/list"), Action::status(404));
    source.add_fault(When::get("/team/app/referrers/"), Action::status(404));
    let out = export_both(&cli, &source, &signed);
    let about = format!("{}{}", out.stderr, source.transcript());
    assert_eq!(out.code, Some(0), "{about}");
    assert_eq!(out.stderr.matches("1 referrer:").count(), 2, "{about}");
    assert_eq!(asked(&source, &signed.image.root.digest), 2, "{about}");
    for document in &signed.image.below {
        assert_eq!(asked(&source, &document.digest), 1, "{about}");
    }
}

/// Waits until the destination has an image, while the gate is closed.
fn wait_for(target: &Double, repository: &str, gate: &Gate) {
    wait_until("the first images are pushed", || {
        target.manifest(repository, "1").is_some()
    });
    assert!(!gate.is_open());
}

#[test]
fn an_image_pushed_before_its_registry_lists_referrers_is_no_success() {
    let (cli, source, target, gate) = (cli(), registry(true), registry(true), Gate::closed());
    let image = small(Style::Oci, "linux/amd64", "signed");
    image.push(&source, "team/app", "1");
    let signature = refer(&source, "team/app", &image.root, BUNDLE, "by the source");
    small(Style::Oci, "linux/amd64", "late").push(&source, "team/late", "1");
    source.add_fault(When::get("/team/app/referrers/").first(1), Action::status(404));
    source.add_fault(When::path("/team/late/manifests/1"), Action::Hold(gate.clone()));
    let (host, late) = (target.host(), format!("{}/team/late:1", source.host()));
    let image = names(&source);
    let arguments = ["-d", &host, &image, &late, "--report", "r.json"];
    let child = cli.spawn(&arguments);
    wait_for(&target, "team/app", &gate);
    gate.open();
    let output = Output::new(&child.wait_with_output().unwrap(), &arguments);
    output
        .expect_code(1)
        .says(&[&format!("`{image}` may lack referrers"), "without some referrers"]);
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(cli.path("r.json")).unwrap()).unwrap();
    assert_eq!(report["images"][0]["referrersLost"], true, "{report}");
    assert_eq!(
        report["images"][1]["referrersLost"],
        serde_json::Value::Null,
        "{report}"
    );
    assert_eq!(target.manifest("team/app", &signature.digest), None);
    cli.succeed(&arguments);
    assert!(target.manifest("team/app", &signature.digest).is_some());
}

#[test]
fn an_image_in_doubt_is_searched_again_although_a_tag_of_its_repository_is_silent() {
    let (cli, source, good, target, gate) = (cli(), registry(true), registry(true), registry(true), Gate::closed());
    let signed = signed(&source);
    small(Style::Oci, "linux/amd64", "late").push(&source, "team/app", "3");
    small(Style::Oci, "linux/amd64", "good").push(&good, "team/good", "1");
    let of_root = When::get("/referrers/").and(&signed.image.root.digest);
    source.add_fault(of_root.first(1), Action::status(400));
    source.add_fault(When::path("/team/app/manifests/3"), Action::Hold(gate.clone()));
    let (host, image) = (target.host(), names(&source));
    let (late, good) = (
        format!("{}/team/app:3", source.host()),
        format!("{}/team/good:1", good.host()),
    );
    let arguments = ["-d", &host, &image, &late, &good];
    let child = cli.spawn(&arguments);
    wait_for(&target, "team/good", &gate);
    gate.open();
    Output::new(&child.wait_with_output().unwrap(), &arguments).expect_code(0);
    assert_eq!(
        signed.missing(&target, "team/app"),
        Vec::<String>::new(),
        "{}",
        source.transcript()
    );
}

#[test]
fn an_image_under_the_tag_of_a_list_is_no_list_that_a_registry_may_lack() {
    let (cli, source) = (cli(), registry(true));
    let signed = signed(&source);
    let root = &signed.image.root;
    source.add_fault(When::get("/referrers/").and(&root.digest), Action::status(400));
    let tag = super::tag_of(root, "");
    for image in [&signed.image, &small(Style::Oci, "linux/amd64", "no list")] {
        image.push(&source, "team/app", &tag);
        let out = cli.run(&["export", &names(&source), "-o", "b.tar"]);
        assert_eq!(out.code, Some(1), "{}", out.stderr);
        assert!(out.stderr.contains(WORDS), "{}", out.stderr);
    }
    let empty = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[]}}"#);
    source
        .store()
        .put_manifest("team/app", Some(&tag), OCI_INDEX, empty.into());
    cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
}
