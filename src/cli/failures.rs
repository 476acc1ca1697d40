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
                say(format!("  {count}: {cause}{names}"));
            }
            _ => group.iter().for_each(|(_, error)| say(format!("  {}", error.full()))),
        }
    }
    hints(failed.iter().filter_map(|(_, error)| error.hint()));
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

/// Each hint once.
fn hints<'a>(all: impl Iterator<Item = &'a str>) {
    let mut hints: Vec<&str> = Vec::new();
    let mut more: u64 = 0;
    for hint in all {
        if hints.contains(&hint) {
            continue;
        }
        match hints.len() < LISTED {
            true => hints.push(hint),
            false => more += 1,
        }
    }
    for hint in hints {
        say(format!("hint: {hint}"));
    }
    if more > 0 {
        say(format!(
            "hint: {} have hints of their own; import or export them alone to see them",
            counted(more, "more failure", "more failures")
        ));
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
