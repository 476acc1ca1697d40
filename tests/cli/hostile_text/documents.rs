//! Hostile text in files that a user gets from others: lists of images, locks, want-lists, and the output of a
//! credential helper.

use super::*;

/// Lists of images in every form, with a place for the text.
const LISTS: &[&str] = &[
    "@",
    "a/b:1 --platform @",
    "a/b:1 => @",
    "a/b:1 --@",
    "@:1.*",
    "latest 3 of @",
    "latest @ of a/b",
    "!@",
    "kind: ImagesLock\nimages:\n- image: \"@\"\n",
    "kind: \"@\"\nimages:\n- image: a\n",
    "apiVersion: mirror.openshift.io/v1alpha2\nkind: ImageSetConfiguration\nmirror:\n  additionalImages:\n  - name: \"@\"\n",
    "spec:\n  images:\n  - name: \"@\"\n    \"@\": x\n",
    "kind: ImagesLock\n\"@\": [",
    "{\"lockVersion\": 2, \"@\": 1}",
    "{\"lockVersion\": 2, \"dockerManifest\": true, \"images\": [{\"reference\": \"@\"}], \"checksum\": \"@\"}",
    "{\"lockVersion\": \"@\"}",
    "docker-mirror want-list @: 1 blobs\n",
    "docker-mirror want-list 1: 1 blobs\n@ 1 a/b:1\ncheck 5d41402a b\n",
    "docker-mirror want-list 1: 1 blobs\nsha256:@ 1 @\ncheck @\n",
];

#[test]
fn lists_locks_and_want_lists() {
    let mut lab = Lab::new();
    let json = serde_json::to_string(HOSTILE).unwrap();
    for text in [HOSTILE, BIDI, json.trim_matches('"'), &"y".repeat(1500)] {
        for list in LISTS {
            std::fs::write(lab.cli.path("list"), list.replace('@', text)).unwrap();
            for flag in ["-f", "--lock", "--want"] {
                lab.say(list, &["export", flag, "list", "-o", "b.tar"], None);
            }
            lab.say(list, &["diff", "list", "list"], None);
        }
    }
    lab.conclude();
}

#[test]
fn what_a_credential_helper_says() {
    use std::os::unix::fs::PermissionsExt;
    let closed =
        Double::start(crate::support::Options::default().auth(crate::support::Auth::basic("user", "password")));
    let mut lab = Lab::new();
    let folder = lab.cli.path("helpers");
    std::fs::create_dir(&folder).unwrap();
    let helper = folder.join("docker-credential-odd");
    let image = format!("{}/a/b:1", closed.host());
    let config = json!({"credHelpers": {closed.host(): "odd"}});
    std::fs::write(lab.cli.path("auth.json"), config.to_string()).unwrap();
    std::fs::write(lab.cli.path("said"), format!("{HOSTILE}{BIDI}{}", "y".repeat(60_000))).unwrap();
    let user = json!({"Username": HOSTILE, "Secret": "wrong"});
    std::fs::write(lab.cli.path("login"), user.to_string()).unwrap();
    for script in ["cat said; exit 1", "cat said >&2; exit 1", "cat said", "cat login"] {
        std::fs::write(
            &helper,
            format!("#!/bin/sh\ncd {}\n{script}\n", lab.cli.folder().display()),
        )
        .unwrap();
        std::fs::set_permissions(&helper, PermissionsExt::from_mode(0o755)).unwrap();
        let arguments = ["export", &image, "-o", "b.tar", "--auth-file", "auth.json", "-vv"].map(OsStr::new);
        let path = format!("{}:/usr/bin:/bin", folder.display());
        lab.run(script, &arguments, &[("PATH", path.as_ref())], None);
    }
    lab.conclude();
}
