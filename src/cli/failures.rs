//! The failures of several images: a cause that several of them have is told once.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use docker_mirror::{Error, LISTED, few};

use super::printer::{self, Item};
use super::wording::counted;

/// Tells which of `total` images failed and why. Each failure stands beside the name of its image.
pub(super) fn tell(title: &str, total: usize, failed: &[(String, Error)]) {
    tell_rest(title, total, failed, &AtOnce::default());
}

/// The same where some of it was told at once: of these, the names are enough.
pub(super) fn tell_rest(title: &str, total: usize, failed: &[(String, Error)], at_once: &AtOnce) {
    let told = at_once.told.lock().unwrap_or_else(PoisonError::into_inner);
    let is_told = |error: &Error| told.contains(&error.full());
    let names = few(failed.iter().filter(|(_, error)| is_told(error)).map(|(name, _)| name));
    match names.is_empty() {
        true => say(format!("error: {title}")),
        false => say(format!("error: {title}: {names}")),
    }
    let rest: Vec<(String, Error)> = failed.iter().filter(|(_, error)| !is_told(error)).cloned().collect();
    for group in grouped(&rest) {
        match (group.as_slice(), group[0].1.shared_cause()) {
            ([_, _, ..], Some(cause)) => {
                let count = counted(group.len() as u64, "image", "images");
                // Where all images fail for it, their names say nothing.
                let names = match group.len() == total {
                    true => String::new(),
                    false => format!(": {}", few(group.iter().map(|(name, _)| name))),
                };
                say(format!("  {count}: {cause}{}{names}", said(&group, cause)));
            }
            _ => group.iter().for_each(|(_, error)| say(format!("  {}", error.full()))),
        }
    }
    hints(failed);
}

/// Number of failures that are told the moment they happen.
const AT_ONCE: usize = 10;

/// Tells failures the moment they happen, while other work goes on: the first few, and none that has its cause in common with
/// others, which the end of the run tells together.
#[derive(Debug, Default)]
pub(super) struct AtOnce {
    told: Mutex<HashSet<String>>,
}

impl AtOnce {
    pub(super) fn tell(&self, error: &Error) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if error.shared_cause().is_none() && told.len() < AT_ONCE && told.insert(error.full()) {
            say(format!("error: {}", error.full()));
        }
    }
}

/// A line for people on standard error.
fn say(line: String) {
    printer::put(Item::Said(line.into()));
}

/// What else all failures of a group say behind their cause.
fn said(group: &[&(String, Error)], cause: &str) -> String {
    let behind = |error: &Error| error.full().split_once(cause).map(|(_, rest)| rest.to_owned());
    let first = behind(&group[0].1);
    match first {
        Some(rest) if group.iter().all(|(_, error)| behind(error).as_ref() == Some(&rest)) => rest,
        _ => String::new(),
    }
}

/// Failures of one cause together, in the order in which each cause comes first. A failure without a shared cause stands alone.
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

/// Each hint once, with the images that it is for, unless all failures have the same one.
fn hints(failed: &[(String, Error)]) {
    let mut hints: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut more: u64 = 0;
    for (name, error) in failed {
        let Some(hint) = error.hint() else { continue };
        match hints.iter().position(|(known, _)| *known == hint) {
            Some(place) => hints[place].1.push(name),
            None if hints.len() < LISTED => hints.push((hint, vec![name])),
            None => more += 1,
        }
    }
    for (hint, names) in hints {
        match names.len() == failed.len() {
            true => say(format!("hint: {hint}")),
            false => say(format!("hint: for {}: {hint}", first_few(&names))),
        }
    }
    if more > 0 {
        say(format!(
            "hint: {} have hints of their own; import or export them alone to see them",
            counted(more, "more failure", "more failures")
        ));
    }
}

/// The first names of a list, which a line of text has room for.
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
