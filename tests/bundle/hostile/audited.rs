//! The hostile archives through `inspect`, `verify` and `diff`: each fault is reported once, and nothing else follows
//! from it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use docker_mirror::{
    Bundle, Difference, Incoming, Inventory, Lock, OpenOptions, ReferrerChoice, Result, Sharing, Verification,
    VerifyOptions, WantList, import::Selection, inspect, verify,
};

use super::Expect::{Fine, Refused, Warning};
use super::imported::From;
use super::{Case, all, good};
use crate::archives::{as_ours, save};

/// Images whose only fault is an unusable name, which is no damage: their bytes are verified.
const NAMELESS: &[&str] = &["r29 upper case name", "r29 escape codes", "r29 tag too long"];

/// Images that an import accepts although their configs do not match; a verification reports the mismatch.
const DOUBTFUL: &[&str] = &[
    "r17 other type inside",
    "r23 huge data field",
    "r23 wrong data field",
    "r34 opaque layers",
];

/// How many archives are looked at at the same time.
const SIDE_BY_SIDE: usize = 3;

fn options() -> OpenOptions {
    OpenOptions {
        temp_dir: Some(std::env::temp_dir()),
        allow_none: true,
        continue_after_faults: true,
        sum: true,
        ..OpenOptions::default()
    }
}

fn opened(path: &Path, from: From, options: &OpenOptions) -> Result<(Bundle, Option<Incoming>)> {
    match from {
        From::File => Ok((Bundle::open(&[path.to_owned()], options)?, None)),
        From::Pipe => Bundle::from_pipe(std::fs::File::open(path).unwrap(), "bundle.tar", options),
    }
}

fn inventory(path: &Path, from: From) -> Result<Inventory> {
    let options = OpenOptions {
        continue_after_faults: false,
        ..options()
    };
    let select = Selection {
        referrers: ReferrerChoice::all(),
        ..Selection::default()
    };
    inspect(&opened(path, from, &options)?.0, &select, true)
}

/// What is wrong with a verification.
fn misjudged(name: &str, expect: &super::Expect, found: &Verification) -> Option<String> {
    let sound = matches!(expect, Fine | Warning(_) | Refused(_)) && !DOUBTFUL.contains(&name);
    let sound = sound || NAMELESS.contains(&name);
    if found.is_sound() != sound {
        return Some(format!(
            "sound: {}, {:?} {:?}",
            found.is_sound(),
            found.faults,
            found.warnings
        ));
    }
    let mut seen = HashSet::new();
    for fault in &found.faults {
        if !seen.insert((
            fault.kind,
            fault.file.clone(),
            fault.offset,
            fault.digest.clone(),
            fault.message.clone(),
        )) {
            return Some(format!("a fault twice: {fault:?}"));
        }
    }
    let text = format!("{:?}", found.faults);
    if found.faults.len() > Verification::MAX_FAULTS || text.contains('\u{1b}') {
        return Some(format!("too much, or unsafe: {text}"));
    }
    let list = found.wanted.to_text();
    match WantList::parse(&list).is_ok_and(|read| read == found.wanted) {
        true => None,
        false => Some(format!("its want-list is not read back: {list}")),
    }
}

/// What is wrong with an inventory.
fn miscounted(found: &Inventory, other: &Inventory) -> Option<String> {
    let totals = Sharing::new(found).totals();
    if totals.images != found.images.len() || totals.bytes > totals.separate_bytes {
        return Some(format!("totals {totals:?}"));
    }
    let (same, old, new) = (
        Difference::new(found, found),
        Difference::new(other, found),
        Difference::new(found, other),
    );
    if !same.is_empty() || old.added.len() != new.removed.len() || old.changed.len() != new.changed.len() {
        return Some(format!("differences {same:?} {old:?} {new:?}"));
    }
    let lock = Lock::new(found).map(|lock| lock.to_text());
    match lock.and_then(|text| Ok(Lock::parse(&text)?.to_text() == text)) {
        Ok(true) => None,
        other => Some(format!("its lock is not read back: {other:?}")),
    }
}

fn faults(case: &Case, path: &Path, from: From, other: &Inventory) -> Vec<String> {
    let (name, _, expect) = case;
    let options = VerifyOptions {
        deep: true,
        ..VerifyOptions::default()
    };
    let verified = opened(path, from, &self::options()).and_then(|(bundle, rest)| verify(&bundle, rest, &options));
    let verified = match verified {
        Ok(found) => misjudged(name, expect, &found),
        Err(error) => Some(format!("not verified: {error}")),
    };
    let inspected = inventory(path, from).map(|found| miscounted(&found, other));
    let inspected = inspected.unwrap_or_else(|error| Some(format!("not inspected: {error}")));
    let all = [verified, inspected].into_iter().flatten();
    all.map(|what| format!("{name} ({from:?}): {what}")).collect()
}

/// Returns whether a page has all of its fixed elements and exactly one script.
fn is_page(page: &str) -> bool {
    let known = "html meta title link style main h1 h2 h3 p br dl div dt dd span label input table thead tbody tr th td button code \
                 details summary pre svg text rect ul li script doctype";
    let names = page.split('<').skip(1).map(|tag| tag.trim_start_matches(['/', '!']));
    let names = names.map(|tag| {
        tag.split(|c: char| !c.is_ascii_alphanumeric())
            .next()
            .unwrap_or_default()
    });
    let mut names = names.filter(|name| !name.is_empty());
    page.matches("<script").count() == 1
        && page.trim_end().ends_with("</script>")
        && names.all(|name| known.split_whitespace().any(|known| known == name))
}

#[test]
fn every_archive_is_inspected_verified_and_compared() {
    let sound = save("good.tar", &good().tar().end());
    let other = inventory(&sound.path, From::File).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let cases = all();
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                while let Some((number, case)) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|number| Some((number, cases.get(number)?)))
                {
                    // A bundle of this program is read from a pipe in a single pass; any other archive is read like a
                    // file.
                    for (from, bytes) in [(From::File, (case.1)()), (From::Pipe, as_ours(case.1))] {
                        let path = folder.path().join(format!("{number}-{from:?}.tar"));
                        std::fs::write(&path, bytes).unwrap();
                        let found = faults(case, &path, from, &other);
                        wrong.lock().unwrap().extend(found);
                    }
                }
            });
        }
    });
    let mut wrong = wrong.into_inner().unwrap();
    // The page of all archives together shows each usable image, and the reason for each unusable one.
    let page = folder.path().join("page.html");
    let paths: Vec<PathBuf> = (0..cases.len())
        .map(|number| folder.path().join(format!("{number}-File.tar")))
        .collect();
    for paths in paths.chunks(24) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_docker-mirror"));
        let command = command.env_clear().arg("inspect").arg("--html").arg(&page).args(paths);
        let output = command.output().unwrap();
        let text = std::fs::read_to_string(&page).unwrap_or_default();
        if !matches!(output.status.code(), Some(0 | 1 | 5)) || !is_page(&text) {
            let said = String::from_utf8_lossy(&output.stderr);
            wrong.push(format!("page of {paths:?}: {}: {said}", output.status));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
