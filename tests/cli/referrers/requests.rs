//! The number of requests that referrers cost, as an exact table. Docker Hub counts each GET of a manifest as a pull,
//! and no HEAD.

use serde_json::json;

use super::super::support::image::Style;
use super::super::support::images::multi;
use super::super::support::log::Entry;
use super::super::support::{Double, Options, When};
use super::discovery::answer;
use super::{beside, cli, names, registry, signed, tag_of};

/// Numbers of requests: for lists of referrers, for the list of tags, HEADs of tags made of a digest, and GETs of
/// manifests other than those of the image.
type Row = [usize; 4];

fn row(source: &Double, image: &super::Image) -> Row {
    let all: Vec<Entry> = source.requests().into_iter().chain(source.discovery()).collect();
    let of_image: Vec<&str> = image.documents().map(|document| document.digest.as_str()).collect();
    let count = |method: &str, meant: &dyn Fn(&Entry) -> bool| {
        all.iter()
            .filter(|entry| entry.method == method && meant(entry))
            .count()
    };
    let last = |entry: &Entry| entry.path.rsplit('/').next().unwrap().to_owned();
    [
        count("GET", &|entry| entry.path.contains("/referrers/")),
        count("GET", &|entry| entry.path.ends_with("/tags/list")),
        count("HEAD", &|entry| last(entry).starts_with("sha256-")),
        count("GET", &|entry| {
            entry.path.contains("/manifests/sha256") && !of_image.contains(&last(entry).as_str())
        }),
    ]
}

#[test]
fn what_refers_to_an_image_costs_few_requests_and_no_pull_for_nothing() {
    // An image of three manifests. If it is signed, it has five referrers, and a list names a referrer of three of the
    // eight manifests. A listed tag is read without a HEAD first, unless the cache may have its manifest. A list of
    // tags that lacks the tags of the index and of the first platform is not trusted: each tag is then asked for once.
    let table: [(bool, bool, bool, Row, Row); 8] = [
        // Whether the registry has the API, has many tags, and the image is signed; the first export, and another one
        // with the cache.
        (true, false, false, [3, 1, 8, 0], [3, 1, 8, 0]),
        (false, false, false, [1, 1, 8, 0], [1, 1, 8, 0]),
        (true, true, false, [3, 1, 12, 0], [3, 1, 12, 0]),
        (false, true, false, [1, 1, 12, 0], [1, 1, 12, 0]),
        (true, false, true, [8, 1, 7, 5], [8, 1, 8, 0]),
        (false, false, true, [1, 1, 5, 8], [1, 1, 9, 0]),
        (true, true, true, [8, 1, 32, 5], [8, 1, 32, 0]),
        (false, true, true, [1, 1, 32, 8], [1, 1, 32, 0]),
    ];
    let mut wrong = Vec::new();
    for (has_list, many_tags, is_signed, first, again) in table {
        let (cli, source) = (cli(), registry(has_list));
        let image = match is_signed {
            true => signed(&source).image,
            false => {
                let image = multi(Style::Oci, &["linux/amd64", "linux/arm64"], "plain");
                image.push(&source, "team/app", "1");
                image
            }
        };
        for number in 0..if many_tags { 501 } else { 0 } {
            source.store().change("team/app", |repository| {
                repository.tags.insert(format!("v{number}"), image.root.digest.clone())
            });
        }
        for (file, expected) in [("b.tar", first), ("c.tar", again)] {
            source.forget_requests();
            cli.succeed(&["export", &names(&source), "-o", file]);
            let found = row(&source, &image);
            if found != expected {
                let about = source.transcript();
                wrong.push(format!(
                    "{has_list} {many_tags} {is_signed} {file}: {found:?}, not {expected:?}\n{about}"
                ));
            }
            // At most five for each possible subject, and one list of tags for each repository.
            let subjects = if is_signed { 8 } else { 3 };
            assert!(found[0] + found[2] <= 5 * subjects, "{found:?}");
        }
        source.forget_requests();
        cli.succeed(&["export", &names(&source), "-o", "d.tar", "--no-referrers"]);
        assert_eq!(row(&source, &image), [0; 4], "{}", source.transcript());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn several_tags_and_images_of_a_repository_share_what_was_asked() {
    let (cli, source) = (cli(), registry(false));
    let image = signed(&source).image;
    image.push(&source, "team/app", "2");
    image.push(&source, "team/app", "3");
    let host = source.host();
    let images = ["1", "2", "3"].map(|tag| format!("{host}/team/app:{tag}"));
    let arguments = ["export", "-o", "b.tar", "--jobs", "1"];
    cli.succeed(&[&arguments[..], &images.each_ref().map(String::as_str)].concat());
    assert_eq!(row(&source, &image), [1, 1, 5, 8], "{}", source.transcript());
}

#[test]
fn what_belongs_to_an_image_is_put_once_and_nothing_the_second_time() {
    let (cli, source) = (cli(), registry(true));
    let image = signed(&source).image;
    cli.succeed(&["export", &names(&source), "-o", "b.tar"]);
    // PUTs of manifests by digest, of lists, of the signature and of the tag; GETs of lists by tag. A second run puts nothing.
    for (has_list, puts, reads) in [(true, [7, 0, 1, 1], 0), (false, [7, 3, 1, 1], 9)] {
        let target = Double::start(Options {
            no_referrers: !has_list,
            ..Options::default()
        });
        cli.succeed(&["import", "b.tar", "-d", &target.host()]);
        let all = target.requests_of("PUT", "/manifests/");
        let (signature, list) = (tag_of(&image.root, ".sig"), "/sha256-");
        let count = |meant: &dyn Fn(&str) -> bool| all.iter().filter(|put| meant(&put.path)).count();
        let found = [
            count(&|path| path.contains("/manifests/sha256:")),
            count(&|path| path.contains(list) && !path.ends_with(".sig")),
            count(&|path| path.ends_with(&signature)),
            count(&|path| path.ends_with("/1")),
        ];
        assert_eq!(found, puts, "{has_list}: {}", target.transcript());
        let lists = target.discovery();
        let lists = lists
            .iter()
            .filter(|entry| entry.method == "GET" && entry.path.contains(list));
        assert_eq!(lists.count(), reads, "{has_list}: {}", target.transcript());
        target.forget_requests();
        cli.succeed(&["import", "b.tar", "-d", &target.host()]);
        assert!(super::puts_nothing(&target), "{}", target.transcript());
    }
}

#[test]
fn the_first_platforms_of_some_images_show_whether_lists_lack_tags() {
    let image = multi(Style::Oci, &["linux/amd64", "linux/arm64"], "many");
    // Four tags of each index, and four of the first platform of 16 images, or of all. Where the list is found to lack a tag,
    // twelve more: those of the first platform once more, of the second one, and of the signature.
    for (is_hidden, heads) in [(false, 20 * 4 + 16 * 4), (true, 20 * 8 + 12)] {
        let (cli, source) = (cli(), registry(false));
        let host = source.host();
        let mut names: Vec<String> = (0..20).map(|number| format!("{host}/team/app{number}:1")).collect();
        for number in 0..20 {
            image.push(&source, &format!("team/app{number}"), "1");
        }
        if is_hidden {
            beside(&source, "team/app0", &image.below[0], "sig", "of a platform");
            let list = json!({"name": "team/app0", "tags": ["1"]}).to_string();
            source.add_fault(When::get("/team/app0/tags/list"), answer("application/json", &list));
        }
        // The image with the hidden tag is the first that is resolved.
        names.splice(0..0, ["export", "-o", "b.tar", "--jobs", "1"].map(str::to_owned));
        let arguments: Vec<&str> = names.iter().map(String::as_str).collect();
        cli.succeed(&arguments);
        assert_eq!(row(&source, &image)[2], heads, "{}", source.transcript());
    }
}
