//! Checks the source against the table of rooms: which room may use which, which crates may be used where, and further
//! rules that a program can check. Each breach is printed with its file and line.

mod cycles;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each room, and the rooms that it may use. `lib` is the path of `src/lib.rs`; `main` is the program.
const ROOMS: &[(&str, &[&str])] = &[
    ("text", &[]),
    ("error", &["text"]),
    ("files", &[]),
    ("lock", &[]),
    ("progress", &["error", "text"]),
    ("image", &["error", "text"]),
    ("inventory", &["image", "error", "text"]),
    (
        "bundle",
        &["image", "inventory", "progress", "files", "lock", "error", "text"],
    ),
    ("registry", &["image", "progress", "files", "lock", "error", "text"]),
    (
        "transfer",
        &[
            "image",
            "inventory",
            "bundle",
            "registry",
            "progress",
            "lock",
            "error",
            "text",
        ],
    ),
    ("fuzzing", &["image", "bundle", "registry", "error", "text"]),
    (
        "testing",
        &["image", "bundle", "registry", "transfer", "progress", "error"],
    ),
    ("lib", &[]),
];

/// The rooms of the program: they see the library from outside, through its public names.
const PROGRAM: &[&str] = &["cli", "main"];

/// Crates that only these rooms may use.
const CRATES: &[(&str, &[&str])] = &[
    ("reqwest", &["registry"]),
    ("rustls", &["registry"]),
    ("rustls_native_certs", &["registry"]),
    ("tar", &["bundle"]),
    ("clap", &["cli", "main"]),
    ("clap_complete", &["cli"]),
    ("clap_mangen", &["cli"]),
    ("tracing_subscriber", &["cli"]),
];

/// Words that only these rooms may say.
const WORDS: &[(&str, &[&str])] = &[
    ("process::exit", &["main"]),
    ("env::var", &["cli"]),
    ("env::var_os", &["cli"]),
    ("env::vars", &["cli"]),
    ("env::vars_os", &["cli"]),
    ("env::args", &["cli", "main"]),
    ("env::args_os", &["cli", "main"]),
    ("println!", &["cli"]),
    ("eprintln!", &["cli", "main"]),
    ("print!", &["cli"]),
    ("eprint!", &["cli"]),
    // A foreign text goes into a message by `text::quote`, which also bounds it. Bundles hold platforms in the other form.
    ("escape_debug", &["text", "image"]),
    ("display()", &["text"]),
    ("dbg!", &[]),
    ("todo!", &[]),
    ("unimplemented!", &[]),
];

/// Files that name standard output or standard error. The printer writes nothing but the type that escapes text; the other
/// files write documents and a bundle that were asked for there, and the message of a panic.
const WRITERS: &[&str] = &[
    "src/cli/printer.rs",
    "src/cli/output.rs",
    "src/cli/report.rs",
    "src/cli/export.rs",
    "src/cli/export_output.rs",
    "src/cli/generate.rs",
];

/// A file is one concern; above this it is several.
const MAX_LINES: usize = 500;

/// The same for a file of tests.
const MAX_TEST_LINES: usize = 600;

/// Tests that still have to be taken apart. Nothing is added here; what is done is taken out.
const LONG_TESTS: &[&str] = &[];

/// A source file.
struct Source {
    path: PathBuf,
    room: String,
    text: String,
    /// The text without comments and string literals, and without the in-file tests at its end.
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let relative = path.strip_prefix(&root).unwrap();
                let first = relative.components().next().unwrap().as_os_str().to_string_lossy();
                let text = fs::read_to_string(&path).unwrap();
                let code = strip(&text);
                // Tests in a file are at its end. Their start is searched in the text, since a path attribute is
                // blanked in the code.
                let tests = text
                    .rfind("#[cfg(test)]\nmod tests")
                    .or(text.rfind("#[cfg(test)]\n#[path"));
                let code = match tests {
                    Some(at) => code.chars().take(text[..at].chars().count()).collect(),
                    None => code,
                };
                let room = first.trim_end_matches(".rs").to_owned();
                let path = Path::new("src").join(relative);
                found.push(Source { path, room, text, code });
            }
        }
    }
    // A file that a test build alone declares is a test.
    let tests: BTreeSet<PathBuf> = found.iter().flat_map(test_files).collect();
    found.retain(|source| !tests.contains(&source.path));
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 10, "the source was not found");
    found
}

/// The files behind `#[cfg(test)] mod name;` and `#[path = "…"]` in a file.
fn test_files(source: &Source) -> Vec<PathBuf> {
    let folder = source.path.parent().unwrap();
    let mut found = Vec::new();
    let mut lines = source.text.lines();
    while let Some(line) = lines.next() {
        if line != "#[cfg(test)]" {
            continue;
        }
        let next = lines.next().unwrap_or_default();
        if let Some(path) = next.strip_prefix("#[path = \"") {
            found.push(folder.join(path.trim_end_matches("\"]")));
        } else if let Some(name) = next.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) {
            found.push(folder.join(format!("{name}.rs")));
        }
    }
    found
}

/// Blanks comments, strings and character literals; lines stay where they are.
fn strip(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    let blank = |out: &mut String, part: &[char]| out.extend(part.iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
    while at < chars.len() {
        let rest = &chars[at..];
        let before = at.checked_sub(1).map(|i| chars[i]);
        let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let length = if rest.starts_with(&['/', '/']) {
            rest.iter().position(|c| *c == '\n').unwrap_or(rest.len())
        } else if rest.starts_with(&['/', '*']) {
            block_comment(rest)
        } else if !in_word && (rest[0] == 'r' || rest.starts_with(&['b', 'r'])) && raw_string(rest).is_some() {
            raw_string(rest).unwrap()
        } else if rest[0] == '"' {
            let mut i = 1;
            while i < rest.len() && rest[i] != '"' {
                i += if rest[i] == '\\' { 2 } else { 1 };
            }
            (i + 1).min(rest.len())
        } else if rest[0] == '\'' && rest.get(1) == Some(&'\\') {
            2 + rest[2..].iter().skip(1).position(|c| *c == '\'').map_or(0, |i| i + 2)
        } else if rest[0] == '\'' && rest.get(2) == Some(&'\'') {
            3
        } else {
            out.push(rest[0]);
            at += 1;
            continue;
        };
        blank(&mut out, &rest[..length]);
        at += length;
    }
    out
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut i) = (0, 0);
    while i < rest.len() {
        match (rest[i], rest.get(i + 1)) {
            ('/', Some('*')) => (depth, i) = (depth + 1, i + 2),
            ('*', Some('/')) => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    rest.len()
}

/// The length of a raw string that begins here.
fn raw_string(rest: &[char]) -> Option<usize> {
    let start = rest.iter().position(|c| *c == 'r')? + 1;
    let hashes = rest[start..].iter().take_while(|c| **c == '#').count();
    if rest.get(start + hashes) != Some(&'"') {
        return None;
    }
    let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let body = start + hashes + 1;
    let length = rest[body..].windows(end.len()).position(|w| w == end)?;
    Some(body + length + end.len())
}

/// Every place where a word stands by itself, as byte offsets.
fn places(code: &str, word: &str) -> Vec<usize> {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(|at| !code[..*at].ends_with(part) && !code[at + word.len()..].starts_with(part))
        .collect()
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// The first components of every path that begins with `prefix::`, braces opened: `crate::{a, b::c}` gives a and b.
fn used(code: &str, prefix: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for at in places(code, prefix) {
        let rest = &code[at + prefix.len()..];
        let Some(rest) = rest.trim_start().strip_prefix("::") else {
            continue;
        };
        let line = line_of(code, at);
        let name = |text: &str| -> String {
            text.trim_start()
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect()
        };
        match rest.trim_start().strip_prefix('{') {
            None => found.push((name(rest), line)),
            Some(list) => {
                let mut depth = 0;
                let mut item = String::new();
                for c in list.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => {
                            found.push((name(&item), line));
                            item.clear();
                            continue;
                        }
                        _ => {}
                    }
                    item.push(c);
                }
                found.push((name(&item), line));
            }
        }
    }
    found.retain(|(name, _)| !name.is_empty());
    found
}

/// The rooms that a file uses, with the line.
fn rooms_used(source: &Source) -> Vec<(String, usize)> {
    let mut found = used(&source.code, "crate");
    // `super::` leaves the room only from its top file.
    let top = source.path.components().count() == 2 || source.path.ends_with(format!("{}/mod.rs", source.room));
    if top {
        found.extend(used(&source.code, "super"));
    }
    found
}

fn report(breaches: Vec<String>) {
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}

#[test]
fn rooms_use_only_whom_they_may() {
    let allowed: BTreeMap<&str, &[&str]> = ROOMS.iter().copied().collect();
    let mut breaches = Vec::new();
    for source in sources() {
        let place = source.path.display();
        if PROGRAM.contains(&source.room.as_str()) {
            for (name, line) in rooms_used(&source) {
                if allowed.contains_key(name.as_str()) {
                    breaches.push(format!(
                        "{place}:{line}: the program reaches into `{name}`; use `docker_mirror::{name}`"
                    ));
                }
            }
            continue;
        }
        let Some(may) = allowed.get(source.room.as_str()) else {
            breaches.push(format!("{place}: `{}` is no room of the table", source.room));
            continue;
        };
        for (name, line) in rooms_used(&source) {
            if name == source.room {
                continue;
            }
            if !allowed.contains_key(name.as_str()) {
                breaches.push(format!(
                    "{place}:{line}: `crate::{name}` is no room: import from the module that defines it"
                ));
            } else if !may.contains(&name.as_str()) {
                breaches.push(format!("{place}:{line}: `{}` may not use `{name}`", source.room));
            }
        }
        for (_, line) in used(&source.code, "docker_mirror") {
            breaches.push(format!("{place}:{line}: the library names itself; use `crate::`"));
        }
    }
    report(breaches);
}

#[test]
fn the_table_has_no_circle() {
    let table: BTreeMap<&str, &[&str]> = ROOMS.iter().copied().collect();
    fn visit<'a>(room: &'a str, table: &BTreeMap<&'a str, &'a [&'a str]>, on_the_way: &mut Vec<&'a str>) {
        assert!(!on_the_way.contains(&room), "a circle: {on_the_way:?} and again {room}");
        on_the_way.push(room);
        for next in table[room] {
            visit(next, table, on_the_way);
        }
        on_the_way.pop();
    }
    for room in table.keys() {
        visit(room, &table, &mut Vec::new());
    }
}

#[test]
fn text_reaches_the_terminal_through_the_type_that_escapes_it() {
    let mut breaches = Vec::new();
    for source in sources() {
        let place = source.path.display();
        let may_write = WRITERS.iter().any(|writer| source.path == Path::new(writer));
        for word in ["io::stdout", "io::stderr", "println!", "eprintln!", "print!", "eprint!"] {
            for at in places(&source.code, word).into_iter().filter(|_| !may_write) {
                let line = line_of(&source.code, at);
                breaches.push(format!("{place}:{line}: `{word}`: give the text to the printer"));
            }
        }
        if source.path.ends_with("cli/printer.rs") {
            let items = &source.code[source.code.find("enum Item").unwrap()..];
            let items = &items[..items.find("\n}").unwrap()];
            assert_eq!(items.matches("(Line)").count(), 3, "{items}");
            for raw in ["String", "str", "Vec<", "fmt::"] {
                if items.contains(raw) {
                    breaches.push(format!("{place}: the printer takes a `{raw}`, which may hold anything"));
                }
            }
        }
    }
    report(breaches);
}

#[test]
fn crates_stay_in_their_rooms() {
    let mut breaches = Vec::new();
    for source in sources() {
        for (name, rooms) in CRATES {
            if rooms.contains(&source.room.as_str()) {
                continue;
            }
            for at in places(&source.code, name) {
                let before = source.code[..at].trim_end();
                let is_path = source.code[at + name.len()..].trim_start().starts_with("::");
                let is_import = before.ends_with("use") || before.ends_with("crate");
                if (is_path || is_import) && !before.ends_with("::") {
                    let line = line_of(&source.code, at);
                    let owners = rooms.join(", ");
                    breaches.push(format!(
                        "{}:{line}: `{name}` belongs to {owners}",
                        source.path.display()
                    ));
                }
            }
        }
    }
    report(breaches);
}

#[test]
fn every_dependency_is_used_and_accounted_for() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let decision = fs::read_to_string(root.join("docs/decisions/0001-dependencies.md")).unwrap();
    let sources = sources();
    let (mut section, mut seen, mut breaches) = ("", 0, Vec::new());
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        }
        let Some((name, _)) = line.split_once(" = ") else {
            continue;
        };
        if section != "[dependencies]" && section != "[dev-dependencies]" {
            continue;
        }
        seen += 1;
        if places(&decision, name).is_empty() {
            breaches.push(format!("docs/decisions/0001-dependencies.md: nothing about `{name}`"));
        }
        let path = match name {
            "rustls-webpki" => "webpki".to_owned(),
            _ => name.replace('-', "_"),
        };
        let used = sources.iter().any(|source| {
            places(&source.code, &path)
                .iter()
                .any(|at| source.code[at + path.len()..].starts_with("::"))
        });
        if section == "[dependencies]" && !used {
            breaches.push(format!("Cargo.toml: nothing in src uses `{name}`"));
        }
    }
    assert!(seen > 10, "the dependencies were not found");
    report(breaches);
}

#[test]
fn words_stay_in_their_rooms() {
    let mut breaches = Vec::new();
    for source in sources() {
        for (word, rooms) in WORDS {
            let (stem, bang) = (word.trim_end_matches('!'), word.ends_with('!'));
            for at in places(&source.code, stem) {
                let is_macro = source.code[at + stem.len()..].starts_with('!');
                if is_macro == bang && !rooms.contains(&source.room.as_str()) {
                    let line = line_of(&source.code, at);
                    breaches.push(format!(
                        "{}:{line}: `{word}` has no place in `{}`",
                        source.path.display(),
                        source.room
                    ));
                }
            }
        }
    }
    report(breaches);
}

#[test]
fn every_module_says_what_it_is_and_stays_small() {
    let mut breaches = Vec::new();
    for source in sources() {
        let place = source.path.display();
        if !source.text.starts_with("//!") {
            breaches.push(format!("{place}:1: does not open with a `//!` paragraph"));
        }
        let lines = source.text.lines().count();
        if lines > MAX_LINES {
            breaches.push(format!(
                "{place}: {lines} lines; more than {MAX_LINES} are several concerns"
            ));
        }
    }
    report(breaches);
}

#[test]
fn tests_stay_small() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut breaches, mut seen) = (Vec::new(), 0);
    let mut folders = vec![root.join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if !path.extension().is_some_and(|e| e == "rs" || e == "py") {
                continue;
            }
            seen += 1;
            let name = path.strip_prefix(root).unwrap();
            let lines = fs::read_to_string(&path).unwrap().lines().count();
            if lines > MAX_TEST_LINES && !LONG_TESTS.iter().any(|long| name == Path::new(long)) {
                breaches.push(format!(
                    "{}: {lines} lines; more than {MAX_TEST_LINES} are several concerns",
                    name.display()
                ));
            }
        }
    }
    assert!(seen > 10, "the tests were not found");
    report(breaches);
}

#[test]
fn the_program_declares_the_command_line_and_the_library_does_not() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let library = strip(&fs::read_to_string(root.join("lib.rs")).unwrap());
    assert!(
        places(&library, "cli").is_empty(),
        "src/lib.rs declares the command line"
    );
    for line in library.lines().filter(|line| !line.trim().is_empty()) {
        let declares = ["mod ", "pub mod ", "pub use ", "#["]
            .iter()
            .any(|start| line.starts_with(start));
        assert!(declares, "src/lib.rs holds code: {line}");
    }
}

/// Documents that lead a reader through the source. A path in them is one of the repository, of `src`, or of `tests`; a name
/// alone is that of a file somewhere below.
const GUIDES: &[&str] = &[
    "docs/ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "tests/README.md",
    "docs/decisions",
];

#[test]
fn guides_name_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names: BTreeSet<String> = ["src", "tests"]
        .iter()
        .flat_map(|folder| files_below(&root.join(folder)))
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .collect();
    let (mut seen, mut breaches) = (0, Vec::new());
    for guide in GUIDES.iter().flat_map(|guide| files_below(&root.join(guide))) {
        let text = fs::read_to_string(&guide).unwrap();
        for (number, line) in text.lines().enumerate() {
            let is_path = |quoted: &&str| {
                let ending = Path::new(quoted).extension().is_some_and(|ending| ending == "rs");
                let below = ["src/", "tests/", "fuzz/", "docs/"]
                    .iter()
                    .any(|folder| quoted.starts_with(folder));
                (ending || below) && !quoted.contains([' ', '*', '(']) && !quoted.contains("NAME")
            };
            for path in line.split('`').skip(1).step_by(2).filter(is_path) {
                seen += 1;
                let is_there = ["", "src", "tests"]
                    .iter()
                    .any(|folder| root.join(folder).join(path).exists());
                if !is_there && !names.contains(path) {
                    let guide = guide.strip_prefix(root).unwrap().display();
                    breaches.push(format!("{guide}:{}: there is no `{path}`", number + 1));
                }
            }
        }
    }
    assert!(seen > 50, "the guides were not read");
    report(breaches);
}

/// All files below a folder, or the file itself.
fn files_below(path: &Path) -> Vec<PathBuf> {
    match fs::read_dir(path) {
        Ok(entries) => entries.flat_map(|entry| files_below(&entry.unwrap().path())).collect(),
        Err(_) => vec![path.to_owned()],
    }
}

#[test]
fn the_reader_of_sources_sees_what_it_must() {
    let code = strip(
        "use crate::{a::{x, y}, b}; // crate::c\nlet s = \"crate::d\"; crate :: e::f(r#\"crate::\"g\"#, 'x', '\\'');",
    );
    let rooms: BTreeSet<String> = used(&code, "crate").into_iter().map(|(name, _)| name).collect();
    assert_eq!(rooms, ["a", "b", "e"].map(str::to_owned).into());
    assert_eq!(used(&code, "crate").last().unwrap().1, 2);
    assert!(places("my_process::exit", "process::exit").is_empty());
    assert_eq!(places("std::process::exit(1)", "process::exit").len(), 1);
}
