//! No two files of the source may need each other, directly or in a circle, `mod.rs` files included. A circle means that
//! none of its files can be understood, moved or tested without the others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use super::{Source, line_of, places, report, sources};

/// Files that still are in a circle. Nothing is added here; a file that has left its circle is taken out.
const STILL_IN_A_CIRCLE: &[&str] = &[];

/// Files that still hold methods of a type of another file. Nothing is added here.
const STILL_SPREAD: &[&str] = &[];

/// Types whose methods are spread over several files on purpose: façades that group requests by verb.
const FACADES: &[&str] = &["Registry", "Host"];

/// The module path of a file: `src/a/mod.rs` and `src/a.rs` are both `a`; `lib.rs` and `main.rs` are the empty path.
fn module_of(path: &Path) -> Vec<String> {
    let mut parts: Vec<String> = path
        .iter()
        .skip(1)
        .map(|part| part.to_string_lossy().trim_end_matches(".rs").to_owned())
        .collect();
    if parts
        .last()
        .is_some_and(|last| matches!(last.as_str(), "mod" | "lib" | "main"))
    {
        parts.pop();
    }
    parts
}

/// Every path that begins with `crate`, `super`, `self` or a child module, with use trees opened, as `(segments, line)`.
fn paths_in(source: &Source, children: &BTreeSet<String>) -> Vec<(Vec<String>, usize)> {
    let code = &source.code;
    let mut found = Vec::new();
    let starts = ["crate", "super", "self"]
        .into_iter()
        .chain(children.iter().map(String::as_str));
    for start in starts {
        for at in places(code, start) {
            let before = code[..at].trim_end();
            let follows_path = before.ends_with("::") || before.ends_with('.');
            let says_who_may_see = before.ends_with("(in");
            if follows_path || says_who_may_see || !code[at + start.len()..].trim_start().starts_with("::") {
                continue;
            }
            let line = line_of(code, at);
            for path in open_tree(&code[at..]) {
                found.push((path, line));
            }
        }
    }
    found
}

/// The paths of a use tree, or the one path of an expression: `a::{b, c::d}` gives `a::b` and `a::c::d`.
fn open_tree(text: &str) -> Vec<Vec<String>> {
    fn walk(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, prefix: &[String], found: &mut Vec<Vec<String>>) {
        let mut path = prefix.to_vec();
        loop {
            while chars.next_if(|c| c.is_whitespace()).is_some() {}
            if chars.next_if_eq(&'{').is_some() {
                loop {
                    walk(chars, &path, found);
                    while chars.next_if(|c| c.is_whitespace()).is_some() {}
                    match chars.next() {
                        Some(',') => {
                            while chars.next_if(|c| c.is_whitespace()).is_some() {}
                            if chars.next_if_eq(&'}').is_some() {
                                return;
                            }
                        }
                        _ => return,
                    }
                }
            }
            let mut name = String::new();
            while let Some(c) = chars.next_if(|c| c.is_alphanumeric() || *c == '_') {
                name.push(c);
            }
            if name.is_empty() {
                break;
            }
            path.push(name);
            while chars.next_if(|c| c.is_whitespace()).is_some() {}
            if chars.peek() != Some(&':') {
                break;
            }
            chars.next();
            if chars.next_if_eq(&':').is_none() {
                break;
            }
        }
        // `a as b` names `a`.
        if chars.peek() == Some(&'a') {
            while chars.next_if(|c| !matches!(c, ',' | '}' | ';' | '\n')).is_some() {}
        }
        found.push(path);
    }
    let mut found = Vec::new();
    walk(&mut text.chars().peekable(), &[], &mut found);
    found
}

/// What each file needs of others: file, needed file, line and path for the report.
fn edges(sources: &[Source]) -> Vec<(String, String, usize, String)> {
    let program = |source: &Source| matches!(source.room.as_str(), "cli" | "main");
    let mut files: HashMap<(bool, Vec<String>), String> = HashMap::new();
    for source in sources {
        files.insert(
            (program(source), module_of(&source.path)),
            source.path.display().to_string(),
        );
    }
    let mut edges = Vec::new();
    for source in sources {
        let module = module_of(&source.path);
        let children: BTreeSet<String> = files
            .keys()
            .filter(|(side, path)| {
                *side == program(source) && path.len() == module.len() + 1 && path.starts_with(&module)
            })
            .map(|(_, path)| path[module.len()].clone())
            .collect();
        let from = source.path.display().to_string();
        for (path, line) in paths_in(source, &children) {
            let mut at = Vec::new();
            let mut rest = path.iter().peekable();
            match path[0].as_str() {
                "crate" => {
                    rest.next();
                }
                "self" | "super" => {
                    at = module.clone();
                    if rest.next_if(|part| *part == "self").is_none() {
                        while rest.next_if(|part| *part == "super").is_some() {
                            at.pop();
                        }
                    }
                }
                _ => at = module.clone(),
            }
            let mut target = files.get(&(program(source), at.clone()));
            for part in rest {
                at.push(part.clone());
                match files.get(&(program(source), at.clone())) {
                    Some(file) => target = Some(file),
                    None => break,
                }
            }
            if let Some(target) = target
                && *target != from
            {
                edges.push((from.clone(), target.clone(), line, path.join("::")));
            }
        }
    }
    edges
}

/// The strongly connected components of more than one file.
fn circles(edges: &[(String, String, usize, String)]) -> Vec<BTreeSet<String>> {
    let mut next: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (from, to, ..) in edges {
        next.entry(from).or_default().insert(to);
    }
    let reach = |start: &str| -> BTreeSet<String> {
        let (mut seen, mut stack) = (BTreeSet::new(), vec![start.to_owned()]);
        while let Some(file) = stack.pop() {
            for to in next.get(file.as_str()).into_iter().flatten() {
                if seen.insert((*to).to_owned()) {
                    stack.push((*to).to_owned());
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&str, BTreeSet<String>> = next.keys().map(|file| (*file, reach(file))).collect();
    let mut found: BTreeSet<BTreeSet<String>> = BTreeSet::new();
    for (file, set) in &reached {
        if set.contains(*file) {
            let back = |other: &&String| reached.get(other.as_str()).is_some_and(|set| set.contains(*file));
            found.insert(set.iter().filter(back).cloned().collect());
        }
    }
    found.into_iter().collect()
}

#[test]
fn no_files_need_each_other_in_a_circle() {
    let edges = edges(&sources());
    assert!(edges.len() > 100, "the imports were not read");
    let circles = circles(&edges);
    let mut breaches = Vec::new();
    for circle in &circles {
        if circle.iter().all(|file| STILL_IN_A_CIRCLE.contains(&file.as_str())) {
            continue;
        }
        breaches.push(format!("a circle of {} files:", circle.len()));
        let mut told = BTreeSet::new();
        for (from, to, line, path) in &edges {
            if circle.contains(from) && circle.contains(to) && told.insert((from, to)) {
                breaches.push(format!("  {from}:{line} needs {to} (`{path}`)"));
            }
        }
    }
    for file in STILL_IN_A_CIRCLE {
        if !circles.iter().any(|circle| circle.contains(*file)) {
            breaches.push(format!("{file} is in no circle any more: take it off the list"));
        }
    }
    report(breaches);
}

#[test]
fn the_methods_of_a_type_stand_in_the_file_of_the_type() {
    let mut breaches = Vec::new();
    for source in sources() {
        for (number, line) in source.code.lines().enumerate() {
            let Some(rest) = line.strip_prefix("impl") else {
                continue;
            };
            if line.contains(" for ") {
                continue;
            }
            let rest = match rest.strip_prefix('<') {
                Some(generic) => generic.split_once("> ").map_or("", |(_, rest)| rest),
                None => rest,
            };
            let name: String = rest
                .trim_start()
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            let defines = |kind: &str| places(&source.code, &format!("{kind} {name}")).len() == 1;
            if name.is_empty() || FACADES.contains(&name.as_str()) || defines("struct") || defines("enum") {
                continue;
            }
            if STILL_SPREAD.iter().any(|file| Path::new(file) == source.path) {
                continue;
            }
            breaches.push(format!(
                "{}:{}: methods of `{name}`, which another file defines",
                source.path.display(),
                number + 1
            ));
        }
    }
    report(breaches);
}

#[test]
fn each_mod_file_is_a_table_of_contents() {
    let mut breaches = Vec::new();
    for source in sources() {
        if source.path.file_name().is_none_or(|name| name != "mod.rs") {
            continue;
        }
        // Attributes have no end of their own.
        let lines = source.code.lines().map(str::trim);
        let code: String = lines
            .filter(|line| !line.starts_with("#["))
            .collect::<Vec<_>>()
            .join(" ");
        for item in code.split(';').map(str::trim).filter(|item| !item.is_empty()) {
            let item = match item.strip_prefix("pub") {
                Some(rest) if rest.starts_with('(') => rest.split_once(')').map_or(rest, |(_, rest)| rest),
                Some(rest) => rest,
                None => item,
            };
            if !["mod ", "use "]
                .iter()
                .any(|start| item.trim_start().starts_with(start))
                || item.contains(" {")
            {
                let start: String = item.chars().take(60).collect();
                breaches.push(format!(
                    "{}: only `mod` and `use` belong here, not `{}`",
                    source.path.display(),
                    start.trim()
                ));
            }
        }
    }
    report(breaches);
}

#[test]
fn use_trees_are_opened() {
    let join = |paths: Vec<Vec<String>>| paths.iter().map(|path| path.join("::")).collect::<Vec<_>>();
    assert_eq!(
        join(open_tree("crate::{a::{b as c, d}, e};")),
        ["crate::a::b", "crate::a::d", "crate::e"]
    );
    assert_eq!(join(open_tree("super::f(x)")), ["super::f"]);
}

#[test]
fn a_circle_of_three_is_found() {
    let edge = |from: &str, to: &str| (from.to_owned(), to.to_owned(), 1, String::new());
    let found = circles(&[edge("a", "b"), edge("b", "c"), edge("c", "a"), edge("d", "a")]);
    assert_eq!(
        found,
        [BTreeSet::from(["a".to_owned(), "b".to_owned(), "c".to_owned()])]
    );
}
