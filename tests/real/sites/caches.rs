//! A `docker-registry` that is a pull-through cache of another, used by `--mirror`.

use super::support::distribution::Distribution;
use super::support::proxy::Proxy;
use super::{cli, fill, names, with_names};

const WHAT: &str = "docker-registry as a pull-through cache";

#[test]
fn a_cache_is_asked_and_the_origin_is_not() {
    let Some(origin) = Distribution::start(WHAT, |_| Default::default()) else {
        return;
    };
    fill(&origin.client());
    let upstream = origin.host();
    let Some(mut cache) = Distribution::start(WHAT, |_| {
        (format!("proxy: {{remoteurl: \"http://{upstream}\"}}\n"), String::new())
    }) else {
        return;
    };
    // The address that the images are named by.
    let known = Proxy::recording(&origin.host());
    let cli = cli();
    let names = names(&known.host());
    cli.succeed(&with_names(&["export", "-o", "straight.tar", "--no-cache"], &names));
    let straight = std::fs::read(cli.path("straight.tar")).unwrap();
    let before = known.record().len();
    assert!(before > 0);

    let mirror = format!("{}=http://{}", known.host(), cache.host());
    // What a cache does not list of referrers, the origin is asked for.
    let flags = ["--mirror", &mirror, "--no-cache", "--no-referrers"];
    let export = |name: &'static str| {
        let mut all = with_names(&["export", "-o", name], &names);
        all.extend(flags);
        all.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let run = |arguments: &[String]| cli.succeed(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    run(&export("cached.tar"));
    assert!(
        std::fs::read(cli.path("cached.tar")).unwrap() == straight,
        "other bytes by way of the cache"
    );
    assert_eq!(known.record().len(), before, "the origin was asked");

    // Gone: the origin serves, and the user is told.
    cache.front.stop();
    let out = run(&export("origin.tar"));
    let cache = cache.host();
    let out = out.says(&[&cache, &known.host()]);
    assert!(
        std::fs::read(cli.path("origin.tar")).unwrap() == straight,
        "{}",
        out.everything()
    );
    assert!(known.record().len() > before);
}
