//! The failures of several images: a cause that several of them have is told once.

use docker_mirror::{Error, LISTED, few};

use super::output::{counted, say};

/// Tells which of `total` images failed and why. Each failure stands beside the name of its image.
pub(super) fn tell(title: &str, total: usize, failed: &[(String, Error)]) {
    say(format!("error: {title}"));
    for group in grouped(failed) {
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
