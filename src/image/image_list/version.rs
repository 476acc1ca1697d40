//! Tags as version numbers, and their order.

use std::cmp::Ordering;

/// Maximum number of dotted numbers in a version.
const MAX_NUMBERS: usize = 8;

/// A tag read as a version: dotted numbers, and a suffix.
///
/// ```text
/// v1.25.3-alpine   numbers 1 25 3, suffix `alpine`
/// 2024.01          numbers 2024 1, no suffix
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    numbers: Vec<u64>,
    suffix: String,
}

impl Version {
    /// Parses a tag as a version. Returns `None` if the tag does not begin with a number (or `v` and a number).
    pub(super) fn parse(tag: &str) -> Option<Self> {
        let mut rest = tag.strip_prefix(['v', 'V']).unwrap_or(tag);
        let mut numbers = Vec::new();
        loop {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            numbers.push(rest[..end].parse().ok()?);
            rest = &rest[end..];
            match rest.strip_prefix('.') {
                Some(next) if next.starts_with(|c: char| c.is_ascii_digit()) && numbers.len() < MAX_NUMBERS => {
                    rest = next;
                }
                _ => break,
            }
        }
        Some(Self {
            numbers,
            suffix: rest.trim_start_matches(['-', '_', '.', '+']).to_owned(),
        })
    }

    /// Returns whether the version has a suffix, such as `rc1` or `alpine`.
    pub(super) fn has_suffix(&self) -> bool {
        !self.suffix.is_empty()
    }

    /// Returns the version as a semantic version, with missing numbers as zero. Returns `None` if the version has more than
    /// three numbers, or a suffix that semantic versions do not allow.
    pub(super) fn semantic(&self) -> Option<semver::Version> {
        if self.numbers.len() > 3 {
            return None;
        }
        let number = |place: usize| self.numbers.get(place).copied().unwrap_or(0);
        let mut version = semver::Version::new(number(0), number(1), number(2));
        version.pre = semver::Prerelease::new(&self.suffix).ok()?;
        Some(version)
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let length = self.numbers.len().max(other.numbers.len());
        let number = |version: &Self, place: usize| version.numbers.get(place).copied().unwrap_or(0);
        let numbers = (0..length).map(|place| number(self, place).cmp(&number(other, place)));
        // As in semantic versions, a version with a suffix (`1.2-rc1`) comes before the release.
        numbers
            .fold(Ordering::Equal, Ordering::then)
            .then_with(|| other.suffix.is_empty().cmp(&self.suffix.is_empty()).reverse())
            .then_with(|| natural(&self.suffix, &other.suffix))
            .then_with(|| self.numbers.len().cmp(&other.numbers.len()))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Compares texts, with digits compared as numbers: `rc2` comes before `rc10`.
fn natural(mut a: &str, mut b: &str) -> Ordering {
    let is_digit = |c: char| c.is_ascii_digit();
    loop {
        if a.is_empty() || b.is_empty() {
            return a.len().cmp(&b.len());
        }
        let digits = a.starts_with(is_digit) && b.starts_with(is_digit);
        let end = |text: &str| text.find(|c| is_digit(c) != digits).unwrap_or(text.len()).max(1);
        let (x, y) = (&a[..end(a)], &b[..end(b)]);
        let order = match digits {
            true => {
                let (x, y) = (x.trim_start_matches('0'), y.trim_start_matches('0'));
                x.len().cmp(&y.len()).then_with(|| x.cmp(y))
            }
            false => x.cmp(y),
        };
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (&a[end(a)..], &b[end(b)..]);
    }
}

/// Sorts tags: versions from the oldest to the newest, then all other tags alphabetically.
pub(super) fn sort(tags: &mut Vec<String>) {
    let mut keyed: Vec<(Option<Version>, String)> = tags.drain(..).map(|tag| (Version::parse(&tag), tag)).collect();
    keyed.sort_by(|(a, x), (b, y)| match (a, b) {
        (Some(a), Some(b)) => a.cmp(b).then_with(|| x.cmp(y)),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => x.cmp(y),
    });
    tags.extend(keyed.into_iter().map(|(_, tag)| tag));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_sorted_by_their_numbers() {
        let expected = [
            "v0.9",
            "1",
            "1.2-rc2",
            "1.2-rc10",
            "1.2",
            "1.2.0",
            "v1.2.0",
            "1.2.0.1",
            "1.9",
            "1.10-alpine3.9",
            "1.10-alpine3.18",
            "1.10.0",
            "2.0.0",
            "2024.01.05",
            "20240110",
            "edge",
            "latest",
        ];
        let mut tags: Vec<String> = expected.iter().rev().map(|tag| (*tag).to_owned()).collect();
        sort(&mut tags);
        assert_eq!(tags, expected);
    }

    #[test]
    fn what_begins_with_no_number_is_no_version() {
        for tag in [
            "latest",
            "v",
            "alpine3.18",
            "sha256-ab",
            "",
            "vv1",
            "99999999999999999999999",
        ] {
            assert_eq!(Version::parse(tag), None, "{tag}");
        }
        let semantic = |tag: &str| Version::parse(tag)?.semantic().map(|version| version.to_string());
        assert_eq!(semantic("v1.2").as_deref(), Some("1.2.0"));
        assert_eq!(semantic("1.2.3-rc.1").as_deref(), Some("1.2.3-rc.1"));
        assert_eq!(semantic("1.2.3.4"), None);
    }
}
