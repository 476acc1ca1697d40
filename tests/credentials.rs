//! Credentials from real files and real helper programs (shell scripts).

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use base64::Engine as _;
use docker_mirror::error::{Error, Kind, Result};
use docker_mirror::registry::credentials::{
    Credential, CredentialFile, CredentialOptions, Credentials, FileFormat, Login, Secret,
};
use serde_json::{Value, json};

/// Stands for every secret in these tests; it must not be seen anywhere.
const SECRET: &str = "hunter2-very-secret";

/// The helpers, by name. Some write down their calls in a file beside them.
const HELPERS: &[(&str, &str)] = &[
    (
        "good",
        r#"read server; [ "$1" = get ] || exit 9
           echo "$server" >> "$0.calls"
           printf '{"ServerURL":"%s","Username":"user of %s","Secret":"hunter2-very-secret"}' "$server" "$server""#,
    ),
    (
        "token",
        r#"cat >/dev/null; echo '{"Username":"<token>","Secret":"hunter2-very-secret"}'"#,
    ),
    (
        "unread",
        r#"exec <&-; echo '{"Username":"u","Secret":"hunter2-very-secret"}'"#,
    ),
    (
        "empty",
        r#"cat >/dev/null; echo '{"ServerURL":"","Username":"","Secret":""}'"#,
    ),
    (
        "missing",
        r#"cat >/dev/null; echo "credentials not found in native keychain"; exit 1"#,
    ),
    (
        "failing",
        r#"cat >/dev/null; echo "hunter2-very-secret"; echo "hunter2-very-secret" >&2; exit 1"#,
    ),
    ("failing-counted", r#"cat >/dev/null; echo x >> "$0.calls"; exit 1"#),
    ("html", r#"cat >/dev/null; echo "<html>hunter2-very-secret</html>""#),
    (
        "wrong-type",
        r#"cat >/dev/null; echo '{"Username":"u","Secret":["hunter2-very-secret"]}'"#,
    ),
    ("silent", "cat >/dev/null"),
    ("binary", r"cat >/dev/null; printf '\377\376\000'"),
    ("hanging", r#"echo x >> "$0.calls"; exec sleep 600"#),
    ("endless", "exec yes hunter2-very-secret"),
    ("large", "head -c 10000000 /dev/zero"),
];

/// The folder with the helper programs. All are written before any is started, since a program whose file another
/// thread's child still has open for writing cannot be started.
fn helpers() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            for (name, body) in HELPERS {
                let path = folder.path().join(format!("docker-credential-{name}"));
                std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            }
            std::fs::write(folder.path().join("docker-credential-data"), "not a program").unwrap();
            folder
        })
        .path()
}

/// How often a helper that writes down its calls was asked.
fn calls(name: &str) -> Vec<String> {
    let path = helpers().join(format!("docker-credential-{name}.calls"));
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .lines()
        .map(str::to_owned)
        .collect()
}

fn auth(pair: &str) -> Value {
    json!({"auth": base64::engine::general_purpose::STANDARD.encode(pair)})
}

/// An `auth` value with the secret as password.
fn user(name: &str) -> Value {
    auth(&format!("{name}:{SECRET}"))
}

fn basic(username: &str) -> Credential {
    Credential::Basic {
        username: username.to_owned(),
        password: Secret::new(SECRET.to_owned()),
    }
}

/// Credential files in a folder of their own.
struct Files {
    folder: tempfile::TempDir,
    options: CredentialOptions,
}

impl Files {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            options: CredentialOptions {
                helper_directories: vec![PathBuf::from("/nonexistent"), helpers().to_owned()],
                ..CredentialOptions::default()
            },
        }
    }

    fn with(mut self, content: impl ToString) -> Self {
        let path = self.folder.path().join(format!("{}.json", self.options.files.len()));
        std::fs::write(&path, content.to_string()).unwrap();
        self.options.files.push(CredentialFile::named(path));
        self
    }

    fn credentials(&self) -> Credentials {
        Credentials::new(self.options.clone())
    }

    async fn lookup(&self, host: &str, repository: &str) -> Result<Credential> {
        self.credentials().lookup(host, repository).await
    }
}

/// Everything that an error can show, after a look whether a secret is in it.
fn shown(error: &Error) -> String {
    let hint = error.hint().unwrap_or("no hint");
    let all = format!("{error} | {error:?} | {} | {hint}", error.full());
    assert!(!all.contains("hunter2"), "a secret is shown: {all}");
    all
}

#[tokio::test]
async fn longest_key_wins() {
    let files = Files::new().with(json!({"auths": {
        "quay.io": user("host"),
        "quay.io/org": user("org"),
        "quay.io/org/team": user("team"),
        "quay.io/org/team/app": user("app"),
        "quay.io:8443": user("port"),
    }}));
    for (host, repository, expected) in [
        ("quay.io", "other/app", "host"),
        ("quay.io", "organisation/app", "host"),
        ("quay.io", "org/app", "org"),
        ("quay.io", "org", "org"),
        ("quay.io", "org/teams/app", "org"),
        ("quay.io", "org/team/other", "team"),
        ("quay.io", "org/team/app", "app"),
        ("quay.io", "org/team/app/sub", "app"),
        ("QUAY.io", "x", "host"),
        ("quay.io:8443", "org/app", "port"),
    ] {
        let found = files.lookup(host, repository).await.unwrap();
        assert_eq!(found, basic(expected), "{host}/{repository}");
    }
    for host in ["quay.io:443", "io", "docker.io", "evil-quay.io", "quay.io.evil.com"] {
        let found = files.lookup(host, "org/app").await.unwrap();
        assert_eq!(found, Credential::Anonymous, "{host}");
    }
}

#[tokio::test]
async fn every_spelling_of_a_host() {
    for key in [
        "r.example.com:5000",
        "https://r.example.com:5000",
        "https://r.example.com:5000/",
        "https://r.example.com:5000/v1/",
        "https://r.example.com:5000/v2/",
        "http://r.example.com:5000",
    ] {
        let files = Files::new().with(json!({"auths": {key: user("u")}}));
        let found = files.lookup("r.example.com:5000", "a/b").await.unwrap();
        assert_eq!(found, basic("u"), "{key}");
    }
    // The plain host is meant before the spellings with a scheme, in whatever order they stand.
    let files = Files::new().with(json!({"auths": {
        "https://r.example.com/v2/": user("v2"),
        "http://r.example.com": user("http"),
        "r.example.com": user("plain"),
        "https://r.example.com": user("https"),
    }}));
    assert_eq!(files.lookup("r.example.com", "a").await.unwrap(), basic("plain"));
}

#[tokio::test]
async fn docker_hub_has_one_entry_under_many_names() {
    for key in [
        "https://index.docker.io/v1/",
        "docker.io",
        "index.docker.io",
        "registry-1.docker.io",
        "https://registry-1.docker.io/v2/",
        "docker.io/library",
        "index.docker.io/library/golang",
    ] {
        let files = Files::new().with(json!({"auths": {key: user("u")}}));
        for host in ["docker.io", "index.docker.io", "registry-1.docker.io"] {
            let found = files.lookup(host, "library/golang").await.unwrap();
            assert_eq!(found, basic("u"), "{key} {host}");
        }
    }
    // Docker keeps its own tokens beside the entry; they are no credentials of the registry.
    let files = Files::new().with(json!({"auths": {
        "https://index.docker.io/v1/access-token": user("wrong"),
        "https://index.docker.io/v1/refresh-token": user("wrong"),
    }}));
    assert_eq!(
        files.lookup("docker.io", "library/x").await.unwrap(),
        Credential::Anonymous
    );
}

#[tokio::test]
async fn every_kind_of_entry() {
    let identity = Credential::IdentityToken(Secret::new(SECRET.to_owned()));
    let registry = Credential::RegistryToken(Secret::new(SECRET.to_owned()));
    for (entry, expected) in [
        (user("u"), basic("u")),
        (auth(&format!("u:{SECRET}\0\0")), basic("u")),
        (user("<token>"), identity.clone()),
        (json!({"username": "u", "password": SECRET}), basic("u")),
        (json!({"username": "<token>", "password": SECRET}), identity.clone()),
        (json!({"identitytoken": SECRET, "auth": "dTo="}), identity.clone()),
        (json!({"registrytoken": SECRET, "identitytoken": "other"}), registry),
        (
            json!({"identitytoken": format!("{SECRET}\n"), "email": null, "x": [1]}),
            identity,
        ),
        (json!({}), Credential::Anonymous),
        (Value::Null, Credential::Anonymous),
        (json!({"auth": "", "username": null}), Credential::Anonymous),
        (json!({"auth": "dTo="}), Credential::Anonymous),
        (json!({"username": "u"}), Credential::Anonymous),
    ] {
        let files = Files::new().with(json!({"auths": {"h.io": entry}}));
        assert_eq!(files.lookup("h.io", "a").await.unwrap(), expected, "{entry}");
    }
    let colons = Files::new().with(json!({"auths": {"h.io": auth("u:a:b:")}}));
    let Credential::Basic { password, .. } = colons.lookup("h.io", "a").await.unwrap() else {
        panic!("no password");
    };
    assert_eq!(password.expose(), "a:b:");
}

#[tokio::test]
async fn broken_entries_are_named_and_only_matter_when_used() {
    for (value, what) in [("%%%hunter2", "base64"), ("aHVudGVyMg==", "no `:`"), ("/zph", "UTF-8")] {
        let files = Files::new().with(json!({"auths": {"bad.io": {"auth": value}, "good.io": user("u")}}));
        assert_eq!(files.lookup("good.io", "a").await.unwrap(), basic("u"));
        let error = files.lookup("bad.io", "a").await.unwrap_err();
        let text = shown(&error);
        assert_eq!(error.kind(), Kind::Malformed);
        assert!(
            text.contains("0.json") && text.contains("bad.io") && text.contains(what),
            "{text}"
        );
        assert!(!text.contains(value), "{text}");
    }
}

#[tokio::test]
async fn files_are_tried_in_order() {
    let files = Files::new()
        .with(json!({"auths": {"a.io": user("first"), "b.io": {}}}))
        .with(" \n")
        .with(json!({"auths": null, "HttpHeaders": {"X": "y"}}))
        .with(json!({"auths": {"a.io": user("last"), "b.io": user("last")}}))
        .with("{ broken");
    assert_eq!(files.lookup("a.io", "x").await.unwrap(), basic("first"));
    assert_eq!(files.lookup("b.io", "x").await.unwrap(), basic("last"));
    // Only who gets as far as the broken file hears of it.
    assert!(shown(&files.lookup("c.io", "x").await.unwrap_err()).contains("4.json"));
}

#[tokio::test]
async fn broken_files_are_errors_that_quote_nothing() {
    for (content, what) in [
        (format!(r#"{{"auths": {{"h.io": {{"auth": "{SECRET}"}}"#), "line 1"),
        (
            format!("{{\n\"auths\": {{\"h.io\": {{\"auth\": [\"{SECRET}\"]}}}}}}"),
            "line 2",
        ),
        (format!(r#"{{"auths": {{"h.io": "{SECRET}"}}}}"#), "wrong type"),
        (format!(r#"{{"credsStore": {{"{SECRET}": 1}}}}"#), "wrong type"),
        (format!("\"{SECRET}\""), "wrong type"),
        (SECRET.to_owned(), "JSON"),
    ] {
        let error = Files::new().with(&content).lookup("x.io", "a").await.unwrap_err();
        let text = shown(&error);
        assert_eq!(error.kind(), Kind::Malformed, "{text}");
        assert!(text.contains("0.json") && text.contains(what), "{content}: {text}");
    }
    let large = Files::new().with(" ".repeat((4 << 20) + 1));
    assert!(shown(&large.lookup("x.io", "a").await.unwrap_err()).contains("more than"));
}

#[tokio::test]
async fn missing_files() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent.json");
    std::fs::write(folder.path().join("file"), "{}").unwrap();
    let with = |file| {
        Credentials::new(CredentialOptions {
            files: vec![file],
            ..CredentialOptions::default()
        })
    };
    for path in [absent.clone(), folder.path().join("file/below.json")] {
        let ordinary = with(CredentialFile::ordinary(&path));
        assert_eq!(ordinary.lookup("h.io", "a").await.unwrap(), Credential::Anonymous);
    }
    let error = with(CredentialFile::named(&absent))
        .lookup("h.io", "a")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(shown(&error).contains("absent.json") && error.hint().is_some());
    // A folder is there, but cannot be read as a file.
    let error = with(CredentialFile::ordinary(folder.path()))
        .lookup("h.io", "a")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Io);
}

#[tokio::test]
async fn legacy_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(".dockercfg");
    let content = json!({"https://h.io/v1/": user("u"), "h.io/path": auth("wrong:x")});
    std::fs::write(&path, content.to_string()).unwrap();
    let credentials = Credentials::new(CredentialOptions {
        files: vec![CredentialFile {
            path,
            format: FileFormat::Legacy,
            required: true,
        }],
        ..CredentialOptions::default()
    });
    assert_eq!(credentials.lookup("h.io", "path/x").await.unwrap(), basic("u"));
}

#[tokio::test]
async fn login_beats_files_for_the_host_that_it_is_for() {
    let mut files = Files::new().with(json!({"auths": {"h.io": user("file")}}));
    let login = |host: Option<&str>| Login {
        host: host.map(str::to_owned),
        username: "me".into(),
        password: Secret::new(SECRET.into()),
    };
    files.options.login = Some(login(None));
    assert_eq!(files.lookup("h.io", "a").await.unwrap(), basic("me"));
    assert_eq!(files.lookup("other.io", "a").await.unwrap(), basic("me"));
    files.options.login = Some(login(Some("index.docker.io")));
    assert_eq!(files.lookup("h.io", "a").await.unwrap(), basic("file"));
    assert_eq!(files.lookup("docker.io", "a").await.unwrap(), basic("me"));
    assert_eq!(files.lookup("other.io", "a").await.unwrap(), Credential::Anonymous);
}

#[tokio::test]
async fn helpers_answer() {
    let identity = Credential::IdentityToken(Secret::new(SECRET.to_owned()));
    for (name, expected) in [
        ("good", basic("user of h.io")),
        ("unread", basic("u")),
        ("token", identity),
        ("missing", Credential::Anonymous),
        ("empty", Credential::Anonymous),
    ] {
        let store = Files::new().with(json!({"credsStore": name, "auths": {"h.io": {}}}));
        assert_eq!(store.lookup("h.io", "a").await.unwrap(), expected, "credsStore {name}");
        let own = Files::new().with(json!({"credHelpers": {"h.io": name}}));
        assert_eq!(own.lookup("h.io", "a").await.unwrap(), expected, "credHelpers {name}");
        assert_eq!(own.lookup("other.io", "a").await.unwrap(), Credential::Anonymous);
    }
}

#[tokio::test]
async fn which_helper_and_what_it_is_asked() {
    // The host's own helper is asked instead of the general one, in the spelling of its key.
    let files = Files::new().with(json!({"credsStore": "failing", "credHelpers": {"https://h.io": "good"}}));
    let found = files.lookup("h.io", "a").await.unwrap();
    assert_eq!(found, basic("user of https://h.io"));
    // Docker Hub goes by its old name.
    let files = Files::new().with(json!({"credsStore": "good"}));
    let found = files.lookup("docker.io", "library/x").await.unwrap();
    assert_eq!(found, basic("user of https://index.docker.io/v1/"));
    let files = Files::new().with(json!({"credHelpers": {"docker.io": "good"}}));
    let found = files.lookup("docker.io", "library/x").await.unwrap();
    assert_eq!(found, basic("user of docker.io"));
    // An empty name means that the host has no helper at all.
    let files = Files::new().with(json!({"credsStore": "failing", "credHelpers": {"h.io": ""}}));
    assert_eq!(files.lookup("h.io", "a").await.unwrap(), Credential::Anonymous);
    // The host's helper knows nothing: the general one is still not asked, but the rest of the search goes on.
    let files = Files::new()
        .with(json!({"credsStore": "failing", "credHelpers": {"h.io": "missing"}}))
        .with(json!({"auths": {"h.io": user("second")}}));
    assert_eq!(files.lookup("h.io", "a").await.unwrap(), basic("second"));
    // An entry with content beats the general helper; an entry for a path beats the host's own one as well.
    let files = Files::new().with(json!({
        "credsStore": "failing",
        "credHelpers": {"own.io": "good"},
        "auths": {"h.io": user("entry"), "own.io": user("host"), "own.io/org": user("path")},
    }));
    assert_eq!(files.lookup("h.io", "a").await.unwrap(), basic("entry"));
    assert_eq!(files.lookup("own.io", "org/a").await.unwrap(), basic("path"));
    let found = files.lookup("own.io", "other/a").await.unwrap();
    assert_eq!(found, basic("user of own.io"));
}

#[tokio::test]
async fn bad_helpers_are_named() {
    for (name, kind, what) in [
        ("failing", Kind::Unauthorized, "exit status: 1"),
        ("html", Kind::Malformed, "JSON"),
        ("wrong-type", Kind::Malformed, "JSON"),
        ("silent", Kind::Malformed, "JSON"),
        ("binary", Kind::Malformed, "JSON"),
        ("large", Kind::Malformed, "more than 65536 bytes"),
        ("endless", Kind::Malformed, "more than 65536 bytes"),
        ("absent", Kind::NotFound, "not installed"),
        ("data", Kind::Io, "cannot be started"),
        ("../good", Kind::Malformed, "impossible name"),
        ("/bin/sh", Kind::Malformed, "impossible name"),
        ("a\\b", Kind::Malformed, "impossible name"),
        ("a\0b", Kind::Malformed, "impossible name"),
    ] {
        let files = Files::new().with(json!({"credHelpers": {"h.io": name}}));
        let error = files.lookup("h.io", "a").await.unwrap_err();
        let text = shown(&error);
        assert_eq!(error.kind(), kind, "{text}");
        let program = format!("docker-credential-{}", name.escape_debug());
        assert!(text.contains(&program) && text.contains(what), "{name}: {text}");
        assert!(text.contains("h.io") && error.hint().is_some(), "{name}: {text}");
    }
}

#[tokio::test]
async fn a_hanging_helper_costs_its_timeout_once() {
    let mut files = Files::new().with(json!({"credsStore": "hanging"}));
    files.options.helper_timeout = Some(Duration::from_millis(300));
    let credentials = Arc::new(files.credentials());
    let start = Instant::now();
    let tasks: Vec<_> = (0..8)
        .map(|i| {
            let credentials = Arc::clone(&credentials);
            tokio::spawn(async move { credentials.lookup("hang.io", &format!("image{i}")).await })
        })
        .collect();
    for task in tasks {
        let error = task.await.unwrap().unwrap_err();
        assert!(shown(&error).contains("no answer within 0.3 s"), "{error:?}");
    }
    // Far below the 600 seconds of the helper, far above what a slow machine needs.
    assert!(start.elapsed() < Duration::from_secs(60));
    assert!(credentials.lookup("hang.io", "later").await.is_err());
    // On a slow machine it may have been stopped before it could write down even the first call.
    assert!(calls("hanging").len() <= 1);
}

#[tokio::test]
async fn a_helper_is_asked_once_per_server() {
    let files =
        Files::new().with(json!({"credHelpers": {"one.io": "good", "two.io": "good", "bad.io": "failing-counted"}}));
    let credentials = Arc::new(files.credentials());
    let tasks: Vec<_> = (0..18)
        .map(|i| {
            let credentials = Arc::clone(&credentials);
            let host = ["one.io", "two.io", "bad.io"][i % 3];
            tokio::spawn(async move { (host, credentials.lookup(host, &format!("image{i}")).await) })
        })
        .collect();
    for task in tasks {
        let (host, found) = task.await.unwrap();
        assert_eq!(found.is_err(), host == "bad.io");
    }
    for host in ["one.io", "two.io"] {
        assert_eq!(calls("good").iter().filter(|line| *line == host).count(), 1, "{host}");
    }
    assert_eq!(calls("failing-counted").len(), 1);
}

#[tokio::test]
async fn debug_shows_no_secret() {
    let mut files = Files::new().with(json!({
        "auths": {"h.io": {"username": "u", "password": SECRET}, "t.io": {"identitytoken": SECRET}},
        "credHelpers": {"g.io": "good"},
    }));
    let credentials = files.credentials();
    for host in ["h.io", "t.io", "g.io"] {
        let found = credentials.lookup(host, "a").await.unwrap();
        assert_ne!(found, Credential::Anonymous);
        assert!(!format!("{found:?} {found:#?}").contains("hunter2"));
    }
    assert!(!format!("{credentials:?} {credentials:#?}").contains("hunter2"));
    files.options.login = Some(Login {
        host: None,
        username: "u".into(),
        password: Secret::new(SECRET.into()),
    });
    assert!(!format!("{:?} {:?}", files.options, files.credentials()).contains("hunter2"));
}
