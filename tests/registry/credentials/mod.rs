//! Credentials from real files and real helper programs (shell scripts).

mod files;
mod programs;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use base64::Engine as _;
use docker_mirror::{
    CredentialFile, CredentialOptions, Error, Kind, Login, Result, Secret,
    testing::{Credential, Credentials, FileFormat, Found},
};
use serde_json::{Value, json};

/// Stands for every secret in these tests; it must not be seen anywhere.
const SECRET: &str = "hunter2-very-secret";

/// The helpers, by name. Some record their calls in a file beside them.
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
    // What it leaves behind keeps its standard output open.
    (
        "agent",
        r#"cat >/dev/null; sleep 90 & echo '{"Username":"u","Secret":"hunter2-very-secret"}'"#,
    ),
    ("endless", "exec yes hunter2-very-secret"),
    ("large", "head -c 10000000 /dev/zero"),
];

/// Returns the folder with the helper programs. All are written before any is started: a program whose file is still
/// open for writing in a child of another thread cannot be started.
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
            let lost = folder.path().join("docker-credential-lost");
            std::fs::write(&lost, "#!/no/such/interpreter\n").unwrap();
            std::fs::set_permissions(&lost, std::fs::Permissions::from_mode(0o755)).unwrap();
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

/// Returns the credential of a search in which nothing was wrong.
fn certain(found: Found) -> Result<Credential> {
    match found.faults.into_iter().next() {
        Some(fault) => Err(fault),
        None => Ok(found.credential),
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
        self.options
            .files
            .push(CredentialFile::ordinary(path, FileFormat::Config));
        self
    }

    fn credentials(&self) -> Credentials {
        Credentials::new(self.options.clone()).unwrap()
    }

    async fn lookup(&self, host: &str, repository: &str) -> Result<Credential> {
        certain(self.find(host, repository).await)
    }

    async fn find(&self, host: &str, repository: &str) -> Found {
        self.credentials().lookup(host, repository).await
    }
}

/// Returns all text that an error can show, after a check that it has no secret.
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
    // The plain host takes precedence over the spellings with a scheme, in any order.
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
    // Docker stores tokens of its own beside the entry; they are not credentials of the registry.
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
async fn login_beats_files_for_the_host_that_it_is_for() {
    let mut files = Files::new().with(json!({"auths": {"h.io": user("file")}}));
    let login = |host: Option<&str>| Login {
        host: host.map(str::to_owned),
        username: "me".into(),
        password: Secret::new(SECRET.into()),
        origin: "`--username`".into(),
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
async fn debug_shows_no_secret() {
    let mut files = Files::new().with(json!({
        "auths": {"h.io": {"username": "u", "password": SECRET}, "t.io": {"identitytoken": SECRET}},
        "credHelpers": {"g.io": "good"},
    }));
    let credentials = files.credentials();
    for host in ["h.io", "t.io", "g.io"] {
        let found = credentials.lookup(host, "a").await;
        assert_ne!(found.credential, Credential::Anonymous);
        assert!(!format!("{found:?} {found:#?}").contains("hunter2"));
    }
    assert!(!format!("{credentials:?} {credentials:#?}").contains("hunter2"));
    files.options.login = Some(Login {
        host: None,
        username: "u".into(),
        password: Secret::new(SECRET.into()),
        origin: "`--username`".into(),
    });
    assert!(!format!("{:?} {:?}", files.options, files.credentials()).contains("hunter2"));
}
