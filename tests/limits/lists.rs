//! Lists of images that are made to cost much: very long lists, lines and patterns without bounds, documents that grow
//! while they are parsed.

use std::fmt::Write as _;

use crate::measured::{Lab, Measured};
use crate::support::{Action, Canned, Double, When, images};

/// Returns the largest list that is accepted, of lines in which `#` stands for their number.
fn lines(line: &str) -> String {
    let mut text = String::new();
    for number in 0.. {
        let line = line.replace('#', &number.to_string());
        if text.len() + line.len() >= 4 << 20 {
            break;
        }
        text.push_str(&line);
        text.push('\n');
    }
    text
}

#[track_caller]
fn check(name: &str, run: &Measured, images: u64, code: i32) {
    println!("{}", run.line(name));
    let faults = run.faults(images);
    assert!(faults.is_empty(), "{name}: {}", faults.join("\n"));
    assert_eq!(run.ended, Ok(code), "{name}: {}", run.stderr);
}

#[test]
fn lists_that_are_no_lists_are_refused() {
    let lab = Lab::new();
    let lock = |text: &str| format!("kind: ImagesLock\nimages:\n{text}");
    let bomb: String = (1..20).fold("a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned(), |mut text, n| {
        let before = format!("*a{},", n - 1).repeat(9);
        writeln!(text, "a{n}: &a{n} [{before}]").unwrap();
        text
    });
    let mut files: Vec<(&str, Vec<u8>)> = vec![
        ("10 MB of names", "a/b:1\n".repeat(10_000_000 / 6).into()),
        ("a line of 10 MB", "a".repeat(10_000_000).into()),
        ("a line of 4 MB", "a".repeat(4_000_000).into()),
        ("10^6 names", "a:1\n".repeat(1_000_000).into()),
        ("10^6 other names", lines("a#").into()),
        ("names that are none", lines("\u{1b}[2J#\u{202e}")[..300_000].into()),
        ("lines of spaces", " \n".repeat(2_000_000).into()),
        ("comments alone", "#\n".repeat(2_000_000).into()),
        ("patterns alone", lines("!a/b:#*").into()),
        (
            "a program",
            std::fs::read(env!("CARGO_BIN_EXE_docker-mirror")).unwrap()[..3 << 20].to_vec(),
        ),
        (
            "bytes of all values",
            (0..3 << 20).map(|n: u32| ((n * 7) >> 3) as u8).collect(),
        ),
        ("zeros", vec![0; 3 << 20]),
        (
            "UTF-16 of nothing else",
            [0xff, 0xfe].into_iter().chain(vec![0x31; 4 << 20]).collect(),
        ),
        (
            "half of UTF-16",
            [&[0xff, 0xfe][..], &[0, 0xd8].repeat(2 << 20)].concat(),
        ),
        (
            "brackets",
            "kind: Images\n"
                .to_owned()
                .into_bytes()
                .into_iter()
                .chain(vec![b'['; 3 << 20])
                .collect(),
        ),
        ("braces", vec![b'{'; 4 << 20]),
        ("anchors that grow", (bomb + "kind: Images\n").into()),
        ("documents without a kind", "---\na: 1\n".repeat(400_000).into()),
        ("documents of another kind", "---\nkind: A\n".repeat(300_000).into()),
        (
            "a lock of names that are none",
            lock(&"- image: UP\n".repeat(300_000)).into(),
        ),
        (
            "a lock of 10^5 names",
            lock(&lines("- image: a/b:#")[..2_000_000]).into(),
        ),
        (
            "a lock with a key of 3 MB",
            lock(&format!("- ? {}\n  : 1\n", "k".repeat(3 << 20))).into(),
        ),
        (
            "a destination of 4 KB",
            lines(&format!("a/b:# => {}", "x/".repeat(1900))).into(),
        ),
    ];
    files.push((
        "nested braces of a pattern",
        format!("a/b:{}\n", "{a,".repeat(1300)).into(),
    ));
    for (name, bytes) in files {
        std::fs::write(lab.path("images.txt"), bytes).unwrap();
        let run = lab.run(&["export", "-f", "images.txt", "-o", "b.tar"], None);
        check(name, &run, 100, 2);
    }
    // Several, of which each is as large as one may be.
    let options = format!("b.invalid/a:# {}", "--platform linux/amd64 ".repeat(150));
    std::fs::write(lab.path("images.txt"), lines(&options)).unwrap();
    let arguments = [&["export", "-o", "b.tar"][..], &["-f", "images.txt"].repeat(20)].concat();
    check("20 lists of long lines", &lab.run(&arguments, None), 1000, 2);
}

/// Returns a registry with this many tags in `acme/many`, whose manifests do not exist.
fn many_tags(count: usize) -> Double {
    let registry = Double::new();
    images::greeting().push(&registry, "library/greeting", "1.0");
    registry.store().change("acme/many", |repository| {
        let tag = |number| (format!("1.{number}"), format!("sha256:{}", "0".repeat(64)));
        repository.tags = (0..count).map(tag).collect();
    });
    registry
}

#[test]
fn patterns_and_tags_without_bounds() {
    let (lab, registry) = (Lab::new(), many_tags(500));
    let host = registry.host();
    let good = format!("{host}/library/greeting:1.0\n");
    for (name, list, flags, images, code) in [
        ("every tag", format!("{good}{host}/acme/many:*"), &[][..], 1, 2),
        (
            "every tag, as many as there are",
            format!("{good}{host}/acme/many:*"),
            &["--max-tags", "100000"],
            3000,
            1,
        ),
        (
            "2,000 long patterns",
            (0..2000)
                .map(|n| format!("{host}/acme/many:{}*x{n}\n", "{a,?}".repeat(95)))
                .collect(),
            &[],
            2000,
            1,
        ),
        (
            "patterns of one tag each",
            lines(&format!("{host}/acme/many:1.#?"))[..100_000].to_owned(),
            &[],
            4000,
            2,
        ),
        (
            "patterns of many stars",
            format!("{host}/acme/many:{}b", "*a".repeat(200)),
            &[],
            1,
            1,
        ),
        (
            "exclusions",
            good.clone() + &lines(&format!("!{host}/acme/many:1.#*"))[..60_000],
            &[],
            4000,
            0,
        ),
    ] {
        let list = list
            .rsplit_once('\n')
            .filter(|_| list.len() > 1000)
            .map_or(list.as_str(), |(whole, _)| whole);
        std::fs::write(lab.path("images.txt"), list).unwrap();
        let run = lab.run(
            &[&["export", "-f", "images.txt", "-o", "b.tar", "--force"], flags].concat(),
            None,
        );
        check(name, &run, images, code);
    }
}

#[test]
fn lists_of_tags_without_bounds() {
    let (lab, registry) = (Lab::new(), Double::new());
    let mut names = Vec::new();
    for number in 0..32 {
        images::greeting().push(&registry, &format!("library/a{number}"), "1.0");
        names.push(format!("{}/library/a{number}:1.0", registry.host()));
    }
    let tags: Vec<String> = (0..450_000).map(|number| format!(r#""{number:x}""#)).collect();
    for (name, tags, code) in [
        ("450,000 tags in a page", tags.join(","), 0),
        ("10^6 tags that are null", vec!["null"; 800_000].join(","), 0),
    ] {
        let body = format!(r#"{{"tags":[{tags}]}}"#).into_bytes();
        assert!(body.len() < 4 << 20, "{}", body.len());
        registry.clear_faults();
        let canned = Canned {
            status: 200,
            body,
            ..Canned::default()
        }
        .with_header("content-type", "application/json");
        registry.add_fault(When::get("/tags/list"), Action::Answer(canned));
        let mut arguments = vec!["export", "-o", "b.tar", "--force", "-j", "32"];
        arguments.extend(names.iter().map(String::as_str));
        check(name, &lab.run(&arguments, None), 40, code);
        let patterns: Vec<String> = names.iter().map(|name| name.replace(":1.0", ":*")).collect();
        let mut arguments = vec!["export", "-o", "b.tar", "--force", "-j", "32"];
        arguments.extend(patterns.iter().map(String::as_str));
        check(name, &lab.run(&arguments, None), 40, 1);
    }
    // As many tags as a list may have, of many repositories.
    let tags: Vec<String> = (0..20_000).map(|number| format!(r#""{number:060}""#)).collect();
    registry.clear_faults();
    for page in (0..5).rev() {
        let tags = tags.join(",").replace(r#""0"#, &format!(r#""{page}"#));
        let canned = Canned {
            status: 200,
            body: format!(r#"{{"tags":[{tags}]}}"#).into_bytes(),
            ..Canned::default()
        };
        let next = format!("<?page={}>; rel=\"next\"", page + 1);
        let canned = canned.with_header("content-type", "application/json");
        let canned = if page < 4 {
            canned.with_header("link", &next)
        } else {
            canned
        };
        let when = When::get("/tags/list");
        registry.add_fault(
            if page == 0 {
                when.but_not("page")
            } else {
                when.and(&format!("page={page}"))
            },
            Action::Answer(canned),
        );
    }
    let patterns: Vec<String> = names[..12].iter().map(|name| name.replace(":1.0", ":*x")).collect();
    let mut arguments = vec!["export", "-o", "b.tar", "--force", "-j", "32"];
    arguments.extend(patterns.iter().map(String::as_str));
    let run = lab.run(&arguments, None);
    check("100,000 tags of 12 repositories", &run, 40, 1);
    assert!(run.stderr.contains("too large to handle"), "{}", run.stderr);
}
