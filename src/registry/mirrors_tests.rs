//! Tests of the mirrors: flags, files, and precedence of rules.

use proptest::prelude::*;

use super::*;

fn shown(mirrors: &Mirrors, host: &str, repository: &str) -> Vec<String> {
    mirrors
        .endpoints(host, repository)
        .into_iter()
        .map(|e| {
            let scheme = if e.scheme_https { "https" } else { "http" };
            let insecure = if e.insecure { " insecure" } else { "" };
            let origin = if e.replaces_origin { " origin" } else { "" };
            let pull = match e.pull {
                Pull::All => "",
                Pull::DigestOnly => " digest",
                Pull::TagOnly => " tag",
            };
            format!("{scheme}://{}/{}{insecure}{origin}{pull}", e.host, e.repository)
        })
        .collect()
}

fn flags(values: &[&str]) -> Mirrors {
    Mirrors::new(values.iter().map(|value| parse_mirror(value).unwrap()).collect())
}

fn conf(text: &str) -> Mirrors {
    Mirrors {
        flags: Vec::new(),
        registries: parse_conf(text).unwrap(),
    }
}

#[test]
fn flags_by_longest_prefix() {
    let mirrors = flags(&[
        "docker.io=https://cache.example.com",
        "index.docker.io=http://localhost:5000/hub/",
        "docker.io/library=cache.example.com/official",
        "quay.io/org/app=https://[::1]:5000/mine",
    ]);
    assert_eq!(
        shown(&mirrors, "docker.io", "area51/jenkins"),
        [
            "https://cache.example.com/area51/jenkins",
            "http://localhost:5000/hub/area51/jenkins"
        ]
    );
    assert_eq!(
        shown(&mirrors, "docker.io", "library/golang"),
        ["https://cache.example.com/official/golang"]
    );
    assert_eq!(
        shown(&mirrors, "docker.io", "library2/x"),
        [
            "https://cache.example.com/library2/x",
            "http://localhost:5000/hub/library2/x"
        ]
    );
    assert_eq!(shown(&mirrors, "quay.io", "org/app"), ["https://[::1]:5000/mine"]);
    assert_eq!(
        shown(&mirrors, "quay.io", "org/app/sub"),
        ["https://[::1]:5000/mine/sub"]
    );
    assert_eq!(shown(&mirrors, "quay.io", "org/apple"), [""; 0]);
    assert_eq!(shown(&mirrors, "quay.io:443", "org/app"), [""; 0]);
}

#[test]
fn flags_that_are_wrong() {
    for bad in [
        "",
        "docker.io",
        "=",
        "docker.io=",
        "=cache.example.com",
        "docker.io=ftp://x.io",
        "docker.io=https://",
        "docker.io=https://x.io#a",
        "docker.io=https://x.io/UPPER",
        "docker.io=https://x.io//y",
        "docker.io/..=https://x.io",
    ] {
        let error = parse_mirror(bad).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage, "{bad}");
        assert!(
            error.to_string().contains(&format!("`{bad}`")) && error.hint().is_some(),
            "{bad}: {error}"
        );
    }
    for secret in [
        "docker.io=https://user:hunter2@x.io",
        "docker.io=https://x.io?t=hunter2",
    ] {
        let error = parse_mirror(secret).unwrap_err();
        assert!(!format!("{error:?} {:?}", error.hint()).contains("hunter2"));
    }
}

#[test]
fn registries_conf() {
    let mirrors = conf(
        r#"
        unqualified-search-registries = ["docker.io"]
        short-name-mode = "enforcing"
        [[registry]]
        location = "docker.io"
        unknown = { a = 1 }
        [[registry.mirror]]
        location = "one.example.com/hub"
        [[registry.mirror]]
        location = "two.example.com:5000"
        insecure = true
        pull-from-mirror = "digest-only"
        [[registry.mirror]]
        location = "three.example.com"
        pull-from-mirror = "tag-only"

        [[registry]]
        prefix = "quay.io/org"
        location = "internal.example.com/quay"
        insecure = true
        mirror-by-digest-only = true
        [[registry.mirror]]
        location = "cache.example.com"

        [[registry]]
        prefix = "quay.io/org/secret"
        blocked = true

        [[registry]]
        prefix = "*.corp.example"
        insecure = true
        [[registry.mirror]]
        location = "corp-cache.example.com"
        "#,
    );
    assert_eq!(
        shown(&mirrors, "docker.io", "library/x"),
        [
            "https://one.example.com/hub/library/x",
            "https://two.example.com:5000/library/x insecure digest",
            "https://three.example.com/library/x tag",
        ]
    );
    assert_eq!(
        shown(&mirrors, "quay.io", "org/app"),
        [
            "https://cache.example.com/app digest",
            "https://internal.example.com/quay/app insecure origin",
        ]
    );
    assert!(mirrors.is_blocked("quay.io", "org/secret/x"));
    assert!(!mirrors.is_blocked("quay.io", "org/secrets"));
    assert!(!mirrors.is_blocked("quay.io", "other"));
    assert!(mirrors.origin_is_insecure("a.b.corp.example", "x"));
    assert!(!mirrors.origin_is_insecure("corp.example", "x"));
    assert!(!mirrors.origin_is_insecure("notcorp.example", "x"));
    assert_eq!(
        shown(&mirrors, "a.corp.example", "x/y"),
        ["https://corp-cache.example.com/x/y"]
    );
    let endpoints = mirrors.endpoints("docker.io", "library/x");
    let digest = Target::Digest(crate::image::digest::Digest::sha256(b""));
    let tag = Target::Tag("1".to_owned());
    let serves = |target| endpoints.iter().map(|e| e.serves(target)).collect::<Vec<_>>();
    assert_eq!(serves(&digest), [true, true, false]);
    assert_eq!(serves(&tag), [true, false, true]);
}

#[test]
fn files_that_are_wrong_name_their_line() {
    for (text, line, what) in [
        ("[[registry]\n", "line 1", ""),
        ("\n\nx = \n", "line 3", ""),
        ("[[registry]]\nlocation = 5\n", "line 2", "string"),
        ("\n[[registry]]\ninsecure = true\n", "line 2", "neither"),
        ("[[registry]]\nlocation = \"a.io/UPPER\"\n", "line 1", "lower-case"),
        (
            "\n[[registry]]\nprefix = \"a.io\"\n[[registry.mirror]]\nlocation = \"\"\n",
            "line 4",
            "invalid name",
        ),
        (
            "[[registry]]\nprefix = \"a.io\"\n[[registry.mirror]]\ninsecure = true\n",
            "line 3",
            "location",
        ),
        (
            "[[registry]]\nprefix = \"a.io\"\n[[registry.mirror]]\nlocation = \"b.io\"\npull-from-mirror = \"x\"",
            "line 5",
            "x",
        ),
        ("[[registry]]\nprefix = \"a b\"\n", "line 1", "not a host name"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registries.conf");
        std::fs::write(&path, text).unwrap();
        let error = Mirrors::default().read_file(&path).unwrap_err();
        let full = error.full();
        assert_eq!(error.kind(), Kind::Malformed, "{full}");
        assert!(
            full.contains("registries.conf") && full.contains(line) && full.contains(what),
            "{text:?}: {full}"
        );
        assert!(!full.contains('\n'), "{full:?}");
    }
}

#[test]
fn files_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, mirror: &str| {
        let text = format!("[[registry]]\nprefix = \"a.io\"\n[[registry.mirror]]\nlocation = \"{mirror}\"\n");
        std::fs::write(folder.path().join(name), text).unwrap();
    };
    let mut mirrors = flags(&["a.io/x=flag.io"]);
    mirrors.read_file(&folder.path().join("absent.conf")).unwrap();
    mirrors.read_directory(&folder.path().join("absent.d")).unwrap();
    assert_eq!(shown(&mirrors, "a.io", "y"), [""; 0]);
    write("registries.conf", "first.io");
    mirrors.read_file(&folder.path().join("registries.conf")).unwrap();
    assert_eq!(shown(&mirrors, "a.io", "y"), ["https://first.io/y"]);
    std::fs::remove_file(folder.path().join("registries.conf")).unwrap();
    write("20.conf", "third.io");
    write("10.conf", "second.io");
    write("30.conf.bak", "never.io");
    mirrors.read_directory(folder.path()).unwrap();
    assert_eq!(shown(&mirrors, "a.io", "y"), ["https://third.io/y"]);
    assert_eq!(
        shown(&mirrors, "a.io", "x/y"),
        ["https://flag.io/y", "https://third.io/x/y"]
    );
    std::fs::write(folder.path().join("40.conf"), "x").unwrap();
    assert!(
        mirrors
            .read_directory(folder.path())
            .unwrap_err()
            .full()
            .contains("40.conf")
    );
}

proptest! {
    #[test]
    fn any_flag_is_read_or_refused(text in ".*") {
        let _ = parse_mirror(&text);
    }

    #[test]
    fn any_file_is_read_or_refused(text in ".*", value in "[a-z.:/*]{0,12}", host in "[a-z.]{1,6}", repository in "[a-z/]{0,9}") {
        let _ = parse_conf(&text);
        for key in ["prefix", "location", "location = \"m.io\"\nprefix"] {
            if let Ok(registries) = parse_conf(&format!("[[registry]]\n{key} = \"{value}\"\n")) {
                let _ = Mirrors { flags: Vec::new(), registries }.endpoints(&host, &repository);
            }
        }
    }
}
