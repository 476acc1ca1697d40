use super::*;

/// Reads a list, and returns a line for each image, or the faults of the list.
fn read(bytes: &[u8]) -> String {
    let mut list = ImageList::default();
    list.add_file("l", bytes.to_vec());
    show(list)
}

fn show(list: ImageList) -> String {
    let checked = match list.check() {
        Ok(checked) => checked,
        Err((faults, more)) => {
            let mut faults: Vec<String> = faults.iter().map(Error::full).collect();
            faults.extend((more > 0).then(|| format!("{more} more")));
            return faults.join("\n");
        }
    };
    let shown = checked.entries.iter().map(|entry| {
        let sign = if entry.excluded { "!" } else { "" };
        let name = match &entry.names {
            Names::One(reference) => reference.to_string(),
            Names::Tags(repository, tags) => format!("{} [{tags}]", repository.name()),
        };
        let platforms = entry
            .platforms
            .as_ref()
            .map_or_else(String::new, |p| format!(" for {p}"));
        let to = entry
            .destination
            .as_ref()
            .map_or_else(String::new, |to| format!(" to {to}"));
        format!("{sign}{name}{platforms}{to}")
    });
    shown.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_line_is_a_name_a_pattern_or_a_comment() {
    let hub = "docker.io/library";
    let digest = format!("sha256:{}", "a".repeat(64));
    for (line, expected) in [
        ("nginx:1.27", format!("{hub}/nginx:1.27")),
        ("  docker://quay.io/a/b:1\t# why", "quay.io/a/b:1".to_owned()),
        ("r.io:5000/a/b#c:1 # no comment", "l:1: reference".to_owned()),
        (&format!("nginx@{digest} #x"), format!("{hub}/nginx@{digest}")),
        (
            "nginx --platform linux/arm64 --platform=linux/amd64",
            format!("{hub}/nginx:latest for linux/arm64,linux/amd64"),
        ),
        ("nginx:1 => web/front", format!("{hub}/nginx:1 to web/front")),
        (
            "nginx:1 => /web/front:stable --platform linux/arm64",
            format!("{hub}/nginx:1 for linux/arm64 to web/front:stable"),
        ),
        ("nginx:1=>web", format!("{hub}/nginx:1 to web")),
        ("acme/app:1.*", "docker.io/acme/app [1.*]".to_owned()),
        ("r.io:5000/app:~1.4", "r.io:5000/app [~1.4]".to_owned()),
        (
            "r.io/app:>=1.2 <2 --platform all => x",
            "r.io/app [>=1.2 <2] for all to x".to_owned(),
        ),
        ("r.io/app:>= 1.2  < 2", "r.io/app [>= 1.2 < 2]".to_owned()),
        ("latest 3 of r.io/app:1.*", "r.io/app [latest 3 of 1.*]".to_owned()),
        ("latest 3 of r.io/app", "r.io/app [latest 3 of *]".to_owned()),
        ("r.io/app:latest 3 of ~1", "r.io/app [latest 3 of ~1]".to_owned()),
        ("latest", format!("{hub}/latest:latest")),
        ("[::1]:5000/a:*", "[::1]:5000/a [*]".to_owned()),
        ("a:1\n!a:1", format!("{hub}/a:1\n!{hub}/a:1")),
        ("a:1\n! r.io/app:*-rc*", format!("{hub}/a:1\n!r.io/app [*-rc*]")),
        ("a:1\n!r.io/app", format!("{hub}/a:1\n!r.io/app [*]")),
        ("a:1\r\n\r\na:1\r\nb:1", format!("{hub}/a:1\n{hub}/b:1")),
        (
            "a:1\rb:1\u{b}c:1\u{2028}d:1\r",
            format!("{hub}/a:1\n{hub}/b:1\n{hub}/c:1\n{hub}/d:1"),
        ),
        ("\u{a0}a:1\u{a0}", format!("{hub}/a:1")),
        ("a", format!("{hub}/a:latest")),
    ] {
        let found = read(line.as_bytes());
        match expected.strip_prefix("l:1: ") {
            Some(_) => assert!(found.starts_with(&expected), "{line}: {found}"),
            None => assert_eq!(found, expected, "{line}"),
        }
    }
}

#[test]
fn every_faulty_line_is_told_with_its_number() {
    let lines = [
        "UPPER/case",
        "a b",
        "docker pull nginx",
        "a:1 --platform",
        "a:1 --platform mars",
        "a:1 --verbose",
        "a:1 =>",
        "a:1 => UP",
        "a:1 => http://r.io/x",
        "a:* => b:1",
        "latest 0 of a",
        "latest 3 of a:1",
        "a:~x",
        "!",
        "!a => b",
        "a@sha256:12",
        "a:1+build",
        "*/a:1",
        "a:1 --platform linux/arm64",
    ];
    // The line after these names `a:1` again without a platform, which contradicts the last of these lines.
    let text = format!("{}\na:1\n", lines.join("\n"));
    let found = read(text.as_bytes());
    let expected = (1..=18)
        .map(|number| format!("l:{number}: "))
        .chain(["l:20: ".to_owned()]);
    for (fault, begin) in found.lines().zip(expected) {
        assert!(fault.starts_with(&begin), "{begin} {fault}");
    }
    assert_eq!(found.lines().count(), 19, "{found}");
}

#[test]
fn lines_of_other_formats_are_refused_with_what_to_write() {
    let digest = format!("sha256:{}", "a".repeat(64));
    for (line, expected) in [
        ("image: 127.0.0.1:1/a:1", "this looks like YAML"),
        ("image: nginx", "this looks like YAML"),
        ("  - image: nginx:1", "this looks like YAML"),
        ("- nginx:1", "this looks like YAML"),
        ("images:", "this looks like YAML"),
        ("[\"nginx:1\"]", "this looks like JSON"),
        ("\"nginx:1\",", "this looks like JSON"),
        ("'nginx:1'", "omit the quotes"),
        ("\"r.io/a/nginx:1\"", "omit the quotes, as `jq -r`"),
        ("- r.io/a/nginx:1", "`sed 's/^[-* ]*//' FILE`"),
        ("* r.io/a/nginx:1", "`sed 's/^[-* ]*//' FILE`"),
        ("  - image: \"nginx:1\"", "| tr -d "),
        ("r.io/app:1.0,r.io/one:1", "`tr -s ', ' '\\n' < FILE`"),
        ("r.io/app:{1.0,2.0", "a `{` is not closed"),
        ("r.io/app:1.0|2.0", "a choice of tags is written `NAME:{1.0,2.0}`"),
        ("nginx:1,yes", "`cut -d, -f1 FILE`"),
        ("nginx:1,", "omit the last character"),
        ("nginx:1;", "omit the last character"),
        ("nginx:1 \\", "omit the last character"),
        ("nginx:1, golang:1", "this looks like CSV"),
        ("nginx:1,yes", "this looks like CSV"),
        ("// nginx", "a comment begins with `#`"),
        ("; nginx", "a comment begins with `#`"),
        ("a -> b", "a destination is written `SRC => DST`"),
        ("golang:alpine#why", "a comment begins with white space and `#`"),
        ("latest of nginx", "write `latest 3 of NAME`"),
        ("latest 3 nginx", "write `latest 3 of NAME`"),
        ("newest 3 of nginx", "write `latest 3 of NAME`"),
        ("nginx:~", "write a glob such as"),
        ("nginx:1.*/x", "write a glob such as"),
        (digest.as_str(), "write `NAME@sha256:…`"),
        ("two words", "has a line of its own in a list"),
        ("/tmp/b.tar", "this looks like a path"),
        ("./images.txt", "this looks like a path"),
        ("nginx:$TAG", "was not expanded"),
        ("${REG}/nginx", "was not expanded"),
        ("nginx@1.27", "a tag follows a `:`"),
        ("nginx@SHA256:12", "write `sha256:` in lower case"),
        ("ghcr.io/Org/App", "write `org/app`"),
        ("docker-archive:b.tar", "docker-mirror import FILE"),
        ("dir:/tmp/x", "docker-mirror import FILE"),
        ("containers-storage:x/y", "docker-mirror import FILE"),
        ("127.0.0.1:7441", "write `127.0.0.1:7441/REPOSITORY:TAG`"),
        ("hub.docker.com/r/grafana/grafana", "write `docker.io/grafana/grafana`"),
        ("https://hub.docker.com/_/nginx/tags", "write `docker.io/library/nginx`"),
        ("https://quay.io/repository/a/b?tab=tags", "write `quay.io/a/b`"),
        (
            "https://github.com/orgs/Org/packages/container/package/y",
            "write `ghcr.io/org/y`",
        ),
        ("github.com/Org/repo/pkgs/container/y", "write `ghcr.io/org/y`"),
        (
            "gallery.ecr.aws/docker/library",
            "write `public.ecr.aws/docker/library`",
        ),
    ] {
        let error = line::parse(line).expect_err(line);
        let hint = error.hint().unwrap_or_default();
        assert!(hint.contains(expected), "{line}: {error}: {hint}");
        assert_eq!(error.kind(), Kind::Usage, "{line}");
    }
}

#[test]
fn an_argument_with_an_empty_tag_asks_for_its_variable() {
    let mut list = ImageList::default();
    list.add_argument("r.io/nginx:");
    let (faults, _) = list.check().unwrap_err();
    assert!(
        faults[0].full().contains("the tag after the colon is empty"),
        "{}",
        faults[0]
    );
    assert!(faults[0].hint().unwrap().contains("variable"));
}

#[test]
fn a_manifest_of_kubernetes_is_told_apart_from_a_list() {
    let mut list = ImageList::default();
    let text = "apiVersion: apps/v1\nkind: Deployment\nspec:\n  image: nginx:1\n";
    list.add_file("l", text.into());
    let (faults, _) = list.check().unwrap_err();
    let said = faults[0].full();
    assert!(said.contains("a document of the kind `Deployment`"), "{said}");
    assert!(faults[0].hint().unwrap().contains("`sed -n"));
}

#[test]
fn files_that_are_no_lists_are_refused_as_a_whole() {
    for (bytes, expected) in [
        (b"\x7fELF\x02\x00\x00\xff".to_vec(), "l: it is no text"),
        (b"a\0b\n".to_vec(), "l: it is no text"),
        (b"".to_vec(), "l: it names no image"),
        (b"# nothing\n\n".to_vec(), "l: it names no image"),
        (b"!a:1\n".to_vec(), "no image is named"),
        (vec![b'a'; 5 << 20], "l: it has more than 4 MiB"),
        (vec![b'a'; 1 << 20], "l:1: the line has more than 4096 bytes"),
    ] {
        assert_eq!(read(&bytes), expected);
    }
    let many = read("UP\n".repeat(10_000).as_bytes());
    assert_eq!(many.lines().count(), 101);
    assert!(many.ends_with("9900 more"), "{many}");
    let long: String = (0..20_002).map(|number| format!("a:{number}\n")).collect();
    assert_eq!(read(long.as_bytes()), "more than 20000 lines name images");
}

#[test]
fn lists_of_other_programs_are_read_as_they_are() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let lock = format!(
        "---\napiVersion: imgpkg.carvel.dev/v1alpha1\nkind: ImagesLock\nimages:\n- image: index.docker.io/a/b@{digest}\n  \
         annotations:\n    kbld.carvel.dev/id: a/b:1\n"
    );
    let hauler = "apiVersion: content.hauler.cattle.io/v1\nkind: Images\nmetadata:\n  name: x\n  annotations:\n    \
                  hauler.dev/registry: r.io\nspec:\n  images:\n    - name: a/b:1.10\n      platform: linux/amd64\n    - name: \
                  quay.io/c:1\n---\napiVersion: content.hauler.cattle.io/v1\nkind: Charts\nspec: {charts: []}\n";
    let imageset = "kind: ImageSetConfiguration\napiVersion: mirror.openshift.io/v2alpha1\nmirror:\n  platform:\n    \
                    channels:\n    - name: stable\n  additionalImages:\n  - name: r.io/a:1\n  - name: r.io/b:1\n  \
                    blockedImages:\n  - name: r.io/b\n";
    for (text, expected) in [
        (lock.as_str(), format!("docker.io/a/b@{digest}")),
        (hauler, "r.io/a/b:1.10 for linux/amd64\nquay.io/c:1".to_owned()),
        (
            r#"{"lockVersion": 1, "dockerManifest": true, "images": [{"reference": "r.io/a:1", "original": "SUM", "kept": []}]}"#,
            format!("r.io/a:1@{digest}"),
        ),
        (imageset, "r.io/a:1\nr.io/b:1\n!r.io/b [*]".to_owned()),
        (
            "apiVersion: v1\nkind: Images\nspec:\n  images:\n  - name: UP\n  - name: a\n",
            "l:5: ".to_owned(),
        ),
        ("kind: Pod\napiVersion: v1\n", "l: it names no image".to_owned()),
        ("kind: Images\nspec: [\n", "l: line ".to_owned()),
        (
            r#"{"images": ["a:1"]}"#,
            "l: it is JSON, and none of the documents that name images".to_owned(),
        ),
        (
            "apiVersion: v1\n",
            "l: a document does not say of which kind it is".to_owned(),
        ),
    ] {
        let found = read(text.replace("SUM", &digest).as_bytes());
        assert!(found.starts_with(&expected), "{text}\n{found}");
    }
}
