//! Patterns of tags: `1.*` (glob), `~1.4` or `>=1.2 <2` (range of versions), `latest 3 of 1.*` (newest versions).

use std::fmt;

use globset::{GlobBuilder, GlobMatcher};
use semver::VersionReq;

use super::version::{Version, sort};
use crate::error::{Error, Kind, Result};
use crate::text::quote;

/// Maximum length of a pattern in bytes.
const MAX_PATTERN: usize = 512;

/// A pattern that selects tags of a repository.
#[derive(Debug, Clone)]
pub(crate) struct TagPattern {
    /// Pattern as written.
    text: String,
    /// Number of newest versions to select; `None` selects all matching tags.
    newest: Option<usize>,
    matcher: Matcher,
}

#[derive(Debug, Clone)]
enum Matcher {
    All,
    Glob(GlobMatcher),
    /// Versions in at least one of the ranges.
    Ranges(Vec<VersionReq>),
}

impl TagPattern {
    /// Returns the pattern for all tags of a repository.
    pub(crate) fn all() -> Self {
        Self {
            text: "*".to_owned(),
            newest: None,
            matcher: Matcher::All,
        }
    }

    /// Returns whether the text after the colon of a name is a pattern and not a tag.
    pub(super) fn is_pattern(text: &str) -> bool {
        text.starts_with(['~', '^', '<', '>', '=', '|', '!'])
            || text.contains(['*', '?', '[', ']', '{', '}'])
            || text.contains(char::is_whitespace)
    }

    /// Parses the text after the colon of a name as a pattern.
    ///
    /// # Errors
    /// [`Kind::Usage`] if the text is neither a glob nor a range of versions.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let invalid = |why: &str| {
            Error::new(Kind::Usage, format!("invalid pattern `{}`: {why}", quote(text))).with_hint(
                "write a glob such as `1.*`, a range of versions such as `~1.4` or `>=1.2 <2`, or `latest 3 of 1.*`",
            )
        };
        if text.len() > MAX_PATTERN {
            return Err(invalid(&format!("it has more than {MAX_PATTERN} characters")));
        }
        if let Some(rest) = text.strip_prefix("latest ") {
            let (count, inner) = rest.split_once(" of ").unwrap_or((rest, "*"));
            let count = newest(count).map_err(|why| invalid(&why))?;
            return Ok(Self::parse(inner.trim())?.newest(count));
        }
        let matcher = if text == "*" {
            Matcher::All
        } else if text.starts_with(['~', '^', '<', '>', '=']) {
            Matcher::Ranges(ranges(text).map_err(|why| invalid(&why))?)
        } else if text.starts_with(['!', '|']) {
            return Err(invalid("it begins with a character that begins no pattern").with_hint(
                "to leave tags out, give a line of its own that begins with `!`, such as `!acme/app:*-rc*`",
            ));
        } else if text.contains(char::is_whitespace) {
            return Err(invalid("there is a space in it"));
        } else if text.contains(['/', ':']) {
            return Err(invalid("a tag has neither `/` nor `:`"));
        } else {
            let glob = GlobBuilder::new(text).backslash_escape(false).build();
            Matcher::Glob(glob.map_err(|e| invalid(&e.kind().to_string()))?.compile_matcher())
        };
        Ok(Self {
            text: text.to_owned(),
            newest: None,
            matcher,
        })
    }

    /// Limits the pattern to the `count` newest versions.
    pub(super) fn newest(self, count: usize) -> Self {
        Self {
            newest: Some(count),
            ..self
        }
    }

    /// Returns whether the pattern matches every tag, and therefore also images without a tag.
    pub(crate) fn is_all(&self) -> bool {
        matches!(self.matcher, Matcher::All) && self.newest.is_none()
    }

    /// Returns whether the pattern is a compiled glob.
    pub(super) fn is_glob(&self) -> bool {
        matches!(self.matcher, Matcher::Glob(_))
    }

    /// Returns how many newest versions were asked for, if more than these `found` ones.
    pub(crate) fn asks_for_more_than(&self, found: usize) -> Option<usize> {
        self.newest.filter(|count| *count > found)
    }

    /// Returns whether a tag matches the pattern, without regard to the limit on newest versions.
    pub(crate) fn matches(&self, tag: &str) -> bool {
        match &self.matcher {
            Matcher::All => !is_attached(tag),
            Matcher::Glob(glob) => glob.is_match(tag) && (!is_attached(tag) || self.text.starts_with("sha")),
            Matcher::Ranges(ranges) => {
                let version = Version::parse(tag).and_then(|version| version.semantic());
                version.is_some_and(|version| ranges.iter().any(|range| range.matches(&version)))
            }
        }
    }

    /// Returns the matching tags of a repository, sorted by version.
    pub(crate) fn select<'a>(&self, tags: impl IntoIterator<Item = &'a String>) -> Vec<String> {
        let counts = |tag: &&String| match self.newest {
            None => true,
            // The newest versions are releases: a version with a suffix (`-rc1`, `-alpine`) counts only if the pattern has a `-`.
            Some(_) => Version::parse(tag).is_some_and(|version| !version.has_suffix() || self.text.contains('-')),
        };
        let meant = tags.into_iter().filter(|tag| self.matches(tag)).filter(counts);
        let mut meant: Vec<String> = meant.cloned().collect();
        sort(&mut meant);
        if let Some(count) = self.newest {
            meant.drain(..meant.len().saturating_sub(count));
        }
        meant
    }
}

impl fmt::Display for TagPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.newest {
            Some(count) => write!(f, "latest {count} of {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// Parses the number in `latest 3 of`.
pub(super) fn newest(text: &str) -> Result<usize, String> {
    let number: Option<usize> = text.trim().parse().ok();
    number
        .filter(|number| (1..=100_000).contains(number))
        .ok_or_else(|| "after `latest` comes the number of tags, from 1 to 100000".to_owned())
}

/// Returns whether a tag belongs to a signature or another attachment of an image (`sha256-HEX.sig`).
fn is_attached(tag: &str) -> bool {
    let rest = tag.strip_prefix("sha256-").or_else(|| tag.strip_prefix("sha512-"));
    rest.is_some_and(|hex| hex.len() >= 64 && hex.bytes().take(64).all(|byte| byte.is_ascii_hexdigit()))
}

/// Parses ranges of versions, separated by `||`. The comparisons of one range are separated by spaces or commas.
fn ranges(text: &str) -> Result<Vec<VersionReq>, String> {
    text.split("||")
        .map(|range| match range.trim_matches([' ', '~', '^', '<', '>', '=']) {
            "" => Err("a version is missing".to_owned()),
            _ => Ok(range),
        })
        .map(|range| VersionReq::parse(&comparisons(range?)).map_err(|e| e.to_string()))
        .collect()
}

/// Normalises comparisons for the `semver` crate: commas between comparisons, no `v`, no leading zeros.
fn comparisons(range: &str) -> String {
    let is_operator = |c: char| matches!(c, '~' | '^' | '<' | '>' | '=');
    let mut all: Vec<String> = Vec::new();
    for word in range.split([' ', '\t', ',', '\u{a0}']).filter(|word| !word.is_empty()) {
        let (operator, version) = word.split_at(word.find(|c| !is_operator(c)).unwrap_or(word.len()));
        let version = version.strip_prefix(['v', 'V']).unwrap_or(version);
        let (numbers, suffix) = version.split_at(version.find(['-', '+']).unwrap_or(version.len()));
        let plain = |number: &str| match number.trim_start_matches('0') {
            "" if !number.is_empty() => "0".to_owned(),
            digits if number.bytes().all(|byte| byte.is_ascii_digit()) => digits.to_owned(),
            _ => number.to_owned(),
        };
        let numbers: Vec<String> = numbers.split('.').map(plain).collect();
        let version = format!("{}{suffix}", numbers.join("."));
        match all.last_mut() {
            // In `>= 1.2`, the operator is a word of its own, and the version is appended to it.
            Some(last) if operator.is_empty() && last.ends_with(is_operator) => last.push_str(&version),
            _ => all.push(format!("{operator}{version}")),
        }
    }
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAGS: [&str; 16] = [
        "latest",
        "1.2",
        "1.4.0",
        "1.4.1",
        "1.4.10",
        "1.4.2",
        "v1.5.0",
        "1.5.0-rc1",
        "1.5.0-alpine",
        "2.0.0-rc1",
        "2.0.0",
        "1.10",
        "1",
        "edge",
        "2024.01",
        "nightly-1",
    ];

    fn select(pattern: &str) -> String {
        let mut tags: Vec<String> = TAGS.iter().map(|tag| (*tag).to_owned()).collect();
        tags.push(format!("sha256-{}.sig", "ab".repeat(32)));
        match TagPattern::parse(pattern) {
            Ok(pattern) => pattern.select(&tags).join(" "),
            Err(error) => error.full(),
        }
    }

    #[test]
    fn patterns_select_tags_in_the_order_of_versions() {
        for (pattern, expected) in [
            ("1.4.*", "1.4.0 1.4.1 1.4.2 1.4.10"),
            ("1.?", "1.2"),
            ("{1.2,latest}", "1.2 latest"),
            ("[l]*", "latest"),
            ("*-rc*", "1.5.0-rc1 2.0.0-rc1"),
            ("~1.4", "1.4.0 1.4.1 1.4.2 1.4.10"),
            ("~v1.4.2", "1.4.2 1.4.10"),
            ("^1.5", "v1.5.0 1.10"),
            (">=1.4.2 <2", "1.4.2 1.4.10 v1.5.0 1.10"),
            (">=1.4.2,<2", "1.4.2 1.4.10 v1.5.0 1.10"),
            (">= 1.4.2 < 2", "1.4.2 1.4.10 v1.5.0 1.10"),
            ("=1.2 || ~2", "1.2 2.0.0"),
            (">=2024.01", "2024.01"),
            (">=2.0.0-rc1 <2024", "2.0.0-rc1 2.0.0"),
            ("latest 2 of *", "2.0.0 2024.01"),
            ("latest 2", "2.0.0 2024.01"),
            ("latest 2 of <2", "v1.5.0 1.10"),
            ("latest 1 of *-rc*", "2.0.0-rc1"),
            ("latest 5 of *-alpine", "1.5.0-alpine"),
            ("latest 90 of 1.4.*", "1.4.0 1.4.1 1.4.2 1.4.10"),
            (">=3 <4", ""),
            ("sha256-*.sig", &format!("sha256-{}.sig", "ab".repeat(32))),
        ] {
            assert_eq!(select(pattern), expected, "{pattern}");
        }
        assert_eq!(select("*").split(' ').count(), TAGS.len());
    }

    #[test]
    fn what_is_no_pattern_says_why() {
        let long = "*".repeat(600);
        for pattern in [
            "~",
            ">=",
            ">=1.2 <",
            "~1.4.x.y",
            ">=one",
            "[",
            "{1",
            "latest 0 of *",
            "latest x",
            "latest -1 of *",
            "a b",
            "!1.2",
            "|| 1",
            &long,
        ] {
            assert!(TagPattern::is_pattern(pattern), "{pattern}");
            let error = TagPattern::parse(pattern).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{pattern}");
            assert!(error.hint().is_some(), "{pattern}");
        }
        for tag in ["1.2", "latest", "v1-rc.1", "1.x", ""] {
            assert!(!TagPattern::is_pattern(tag), "{tag}");
        }
    }
}
