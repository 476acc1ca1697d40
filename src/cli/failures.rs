//! Prints the failures of several images, and each shared cause only once.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use docker_mirror::{Error, LISTED, few};

use super::printer::{self, Item};
use super::wording::counted;

/// Prints which of `total` images failed and why: each failure with the name of its image, followed by its hint.
pub(super) fn print(title: &str, total: usize, failed: &[(String, Error)]) {
    print_rest(title, total, failed, &AtOnce::default());
}

/// Prints the failures like [`print`], and only the image's name for each failure that `at_once` has already printed.
pub(super) fn print_rest(title: &str, total: usize, failed: &[(String, Error)], at_once: &AtOnce) {
    let printed = at_once.printed.lock().unwrap_or_else(PoisonError::into_inner);
    let is_printed = |error: &Error| printed.contains(&error.full());
    let names = few(failed
        .iter()
        .filter(|(_, error)| is_printed(error))
        .map(|(name, _)| name));
    match names.is_empty() {
        true => say(format!("error: {title}")),
        false => say(format!("error: {title}: {names}")),
    }
    let rest: Vec<(String, Error)> = failed.iter().filter(|(_, error)| !is_printed(error)).cloned().collect();
    let mut hints = Hints::new(&rest);
    for group in grouped(&rest) {
        match (group.as_slice(), group[0].1.shared_cause()) {
            ([_, _, ..], Some(cause)) => {
                let count = counted(group.len() as u64, "image", "images");
                // A cause that all images share needs no list of names.
                let names = match group.len() == total {
                    true => String::new(),
                    false => format!(": {}", few(group.iter().map(|(name, _)| name))),
                };
                say(format!("  {count}: {cause}{}{names}", said(&group, cause)));
                hints.below(&group);
            }
            _ => group.iter().for_each(|failure| {
                say(format!("  {}", failure.1.full()));
                hints.below(&[failure]);
            }),
        }
    }
    hints.rest();
}

/// Maximum number of failures that are printed as soon as they happen.
const AT_ONCE: usize = 10;

/// Prints the first [`AT_ONCE`] failures as soon as they happen, while other images continue.
///
/// Failures with a shared cause are printed as a group once all images are resolved: before the transfer of the other images, or
/// at the end of a run that transfers nothing.
#[derive(Debug, Default)]
pub(super) struct AtOnce {
    printed: Mutex<HashSet<String>>,
    hints: Mutex<HashSet<String>>,
    /// Failures with a shared cause that are not printed yet, each with the name of its image.
    waiting: Mutex<Vec<(String, Error)>>,
}

impl AtOnce {
    /// Prints the failure of an image, or stores it for [`print_waiting`](Self::print_waiting).
    pub(super) fn print(&self, image: String, error: &Error) {
        if error.shared_cause().is_some() {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push((image, error.clone()));
            return;
        }
        let mut printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
        if printed.len() < AT_ONCE && printed.insert(error.full()) {
            say(format!("error: {}", error.full()));
            let mut hints = self.hints.lock().unwrap_or_else(PoisonError::into_inner);
            // Advice is printed once; a fact about one repository may be true of another in the same words.
            if let Some(hint) = error.hint()
                && (hints.insert(hint.to_owned()) || hint.starts_with("existing tags: "))
            {
                say(format!("hint: {hint}"));
            }
        }
    }

    /// Prints the failures with a shared cause, in a run that goes on with other images.
    pub(super) fn print_waiting(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        if waiting.is_empty() {
            return;
        }
        let images = counted(waiting.len() as u64, "image", "images");
        // The images of each cause are named, since the number of all images is not known here.
        let title = format!("{images} cannot be resolved; the run goes on with the others");
        print(&title, usize::MAX, &waiting);
        let mut printed = self.printed.lock().unwrap_or_else(PoisonError::into_inner);
        printed.extend(waiting.iter().map(|(_, error)| error.full()));
    }
}

/// Prints a line for people on standard error.
fn say(line: String) {
    printer::put(Item::Said(line.into()));
}

/// Returns the text after the cause, if it is the same in all failures of the group.
fn said(group: &[&(String, Error)], cause: &str) -> String {
    // In the text of an error, other words may stand between the context of the cause and the rest of the cause.
    let bare = cause.rsplit_once(": ").map_or(cause, |(_, bare)| bare);
    let behind = |error: &Error| {
        let text = error.full();
        let found = text.split_once(cause).or_else(|| text.split_once(bare));
        found.map(|(_, rest)| rest.to_owned())
    };
    let first = behind(&group[0].1);
    match first {
        Some(rest) if group.iter().all(|(_, error)| behind(error).as_ref() == Some(&rest)) => rest,
        _ => String::new(),
    }
}

/// Groups failures by their shared cause, in order of first occurrence. A failure without a shared cause is its own group.
fn grouped(failed: &[(String, Error)]) -> Vec<Vec<&(String, Error)>> {
    let mut groups: Vec<Vec<&(String, Error)>> = Vec::new();
    for failure in failed {
        let cause = failure.1.shared_cause();
        let known = groups
            .iter_mut()
            .find(|group| cause.is_some() && group[0].1.shared_cause() == cause);
        match known {
            Some(group) => group.push(failure),
            None => groups.push(vec![failure]),
        }
    }
    groups
}

/// Prints each hint once: below its failure, or at the end if separate failures share the hint.
struct Hints<'a> {
    /// Hints in the order of the failures, each with the names of its images.
    hints: Vec<(&'a str, Vec<&'a str>)>,
    /// Number of all failures.
    all: usize,
}

impl<'a> Hints<'a> {
    fn new(failed: &'a [(String, Error)]) -> Self {
        let mut hints: Vec<(&str, Vec<&str>)> = Vec::new();
        let mut places: HashMap<&str, usize> = HashMap::new();
        for (name, error) in failed {
            let Some(hint) = error.hint() else { continue };
            let place = *places.entry(hint).or_insert_with(|| {
                hints.push((hint, Vec::new()));
                hints.len() - 1
            });
            hints[place].1.push(name);
        }
        let all = failed.len();
        Self { hints, all }
    }

    /// Prints the hint of these failures, if no other failure has the same hint.
    fn below(&mut self, failures: &[&(String, Error)]) {
        let Some(hint) = failures[0].1.hint() else { return };
        let own = self.hints.iter_mut().find(|(known, _)| *known == hint);
        if let Some((_, names)) = own
            && names.len() == failures.len()
            && names.len() < self.all
        {
            say(format!("  hint: {hint}"));
            names.clear();
        }
    }

    /// Prints the hints that are still unprinted: hints of all failures, and hints that separate groups share.
    fn rest(&self) {
        let left = self.hints.iter().filter(|(_, names)| !names.is_empty());
        for (hint, names) in left.take(LISTED) {
            match names.len() == self.all {
                true => say(format!("hint: {hint}")),
                false => say(format!("hint: for {}: {hint}", first_few(names))),
            }
        }
    }
}

/// Returns the first three names of a list and the number of further names.
fn first_few(names: &[&str]) -> String {
    const ROOM: usize = 3;
    let shown = names.iter().take(ROOM).map(|name| format!("`{name}`"));
    let shown = shown.collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(ROOM) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use docker_mirror::Kind;

    use super::*;

    #[test]
    fn failures_of_one_cause_stand_together() {
        let down = |name: &str| {
            let error = Error::new(Kind::Network, "down").with_shared_cause().context(name);
            (name.to_owned(), error)
        };
        let alone = |name: &str| (name.to_owned(), Error::new(Kind::NotFound, "absent"));
        let failed = [down("a"), alone("b"), down("c"), alone("d"), down("e")];
        let groups: Vec<Vec<&str>> = grouped(&failed)
            .into_iter()
            .map(|group| group.into_iter().map(|(name, _)| name.as_str()).collect())
            .collect();
        assert_eq!(groups, [vec!["a", "c", "e"], vec!["b"], vec!["d"]]);
    }
}
