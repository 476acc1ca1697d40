//! Credential files: which are read, and what may be wrong with them.

use super::*;

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
async fn an_entry_of_a_wrong_type_affects_no_other() {
    let good = user("u");
    for other in [
        r#""auths": {"bad.io": {"auth": 123}, "good.io": GOOD}"#,
        r#""auths": {"bad.io": "hunter2", "good.io": GOOD}"#,
        r#""auths": {"bad.io": [], "good.io": GOOD}"#,
        r#""auths": {"bad.io": {"username": "u", "password": 12345}, "good.io": GOOD}"#,
        r#""auths": {"good.io": GOOD}, "credHelpers": {"bad.io": 1}"#,
        r#""auths": {"good.io": GOOD}, "credHelpers": {"bad.io": null}"#,
        r#""auths": {"good.io": GOOD}, "credsStore": 1"#,
        // Docker takes the last of two.
        r#""auths": {"good.io": "hunter2", "good.io": GOOD}"#,
        r#""auths": {"good.io": {"auth": "JSUl"}}, "auths": {"good.io": GOOD}"#,
    ] {
        let content = format!("{{{other}}}").replace("GOOD", &good.to_string());
        let files = Files::new().with(&content);
        assert_eq!(files.lookup("good.io", "a").await.unwrap(), basic("u"), "{content}");
        if !other.contains("null") && (other.contains("bad.io") || other.contains("credsStore")) {
            let text = shown(&files.lookup("bad.io", "a").await.unwrap_err());
            assert!(text.contains("bad.io") || text.contains("credsStore"), "{text}");
            assert!(text.contains("wrong type"), "{text}");
        }
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
            "the entry of `h.io`",
        ),
        (
            format!("{{\n\"auths\": {{\"h.io\": {{\"auth\": \"{SECRET}\"}},}}}}"),
            "line 2",
        ),
        (format!(r#"{{"auths": {{"h.io": "{SECRET}"}}}}"#), "wrong type"),
        (format!(r#"{{"auths": ["{SECRET}"]}}"#), "`auths`"),
        (
            format!(r#"{{"credHelpers": {{"h.io": ["{SECRET}"]}}}}"#),
            "`credHelpers` of `h.io`",
        ),
        (format!(r#"{{"credsStore": {{"{SECRET}": 1}}}}"#), "wrong type"),
        (format!("\"{SECRET}\""), "wrong type"),
        (SECRET.to_owned(), "JSON"),
    ] {
        let error = Files::new().with(&content).lookup("h.io", "a").await.unwrap_err();
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
        let ordinary = with(CredentialFile::ordinary(&path, FileFormat::Config)).unwrap();
        let found = ordinary.lookup("h.io", "a").await;
        assert_eq!(found.absent, [format!("`{}`", path.display())]);
        assert_eq!(certain(found).unwrap(), Credential::Anonymous);
    }
    let error = with(CredentialFile::named(&absent, "--auth-file")).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(shown(&error).contains("`--auth-file`") && shown(&error).contains("absent.json") && error.hint().is_some());
    // A folder is there, but cannot be read as a file.
    let error = with(CredentialFile::named(folder.path(), "--auth-file")).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    let ordinary = with(CredentialFile::ordinary(folder.path(), FileFormat::Config)).unwrap();
    let error = certain(ordinary.lookup("h.io", "a").await).unwrap_err();
    assert_eq!(error.kind(), Kind::Io);
    assert!(error.hint().unwrap().contains("folder"));
}

#[tokio::test]
async fn legacy_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(".dockercfg");
    let content = json!({"https://h.io/v1/": user("u"), "h.io/path": auth("wrong:x")});
    std::fs::write(&path, content.to_string()).unwrap();
    let credentials = Credentials::new(CredentialOptions {
        files: vec![CredentialFile::ordinary(path, FileFormat::Legacy)],
        ..CredentialOptions::default()
    })
    .unwrap();
    assert_eq!(credentials.lookup("h.io", "path/x").await.credential, basic("u"));
}
