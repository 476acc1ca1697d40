//! The want-list: the blobs that a damaged bundle lacks, as a text that a person can read and type.
//!
//! ```text
//! docker-mirror want-list 1: 2 blobs
//! sha256:1f… 7045 docker.io/library/alpine:3.20
//! sha256:c2… 3628891 docker.io/library/alpine:3.20
//! check 5d41402a b7
//! ```
//!
//! The lines are sorted by digest. An unknown size is `?`. The last line holds two checks: the first eight hex digits of
//! the SHA-256 of all lines above, each with a line feed; then one digit for each line between the first and the last,
//! the first hex digit of that line's SHA-256, so that a message can name a mistyped line.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::error::{Error, Kind, Result};
use crate::image::digest::{Algorithm, Digest, Hasher};
use crate::image::reference::Reference;
use crate::text::{counted, few, quote};

/// The start of every want-list.
const TITLE: &str = "docker-mirror want-list ";

/// Version of the format that this program writes; a reader refuses any other version.
const VERSION: &str = "1";

/// Maximum size of a want-list in bytes.
pub const MAX_WANT_LIST: u64 = 32 << 20;

/// Maximum number of blobs in a want-list.
const MAX_BLOBS: usize = 100_000;

/// Number of hex digits of the checksum of all lines.
const SUM_DIGITS: usize = 8;

/// Maximum length of a line in bytes. A reference has about four hundred at most.
const MAX_LINE: usize = 2000;

/// Hint for a want-list that was changed after it was written.
const COPY_AGAIN: &str = "compare the line with the original, or copy the list again";

/// The damaged or missing blobs of a bundle.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WantList {
    blobs: BTreeMap<Digest, WantedBlob>,
    /// Total length of the lines with blobs, in bytes.
    length: usize,
}

/// A damaged or missing blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedBlob {
    /// Digest of the blob.
    pub digest: Digest,
    /// Size of the blob in bytes, if known.
    pub size: Option<u64>,
    /// An image that the blob belongs to.
    pub reference: Reference,
}

impl WantList {
    /// Adds a blob, unless the list already has it. Returns `false` if the list is full.
    pub fn add(&mut self, blob: WantedBlob) -> bool {
        if self.contains(&blob.digest) {
            return true;
        }
        let length = self.length + line(&blob).len() + 1;
        // The last line has one digit for each blob.
        if self.len() >= MAX_BLOBS || (length + self.len() + MAX_LINE) as u64 > MAX_WANT_LIST {
            return false;
        }
        self.length = length;
        self.blobs.insert(blob.digest.clone(), blob);
        true
    }

    /// Returns the blobs, sorted by digest.
    pub fn blobs(&self) -> impl Iterator<Item = &WantedBlob> {
        self.blobs.values()
    }

    /// Returns whether a blob is in the list.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.blobs.contains_key(digest)
    }

    /// Returns the number of blobs.
    pub fn len(&self) -> usize {
        self.blobs.len()
    }

    /// Returns whether the list has no blobs.
    pub fn is_empty(&self) -> bool {
        self.blobs.is_empty()
    }

    /// Returns the sum of all known sizes in bytes.
    pub fn bytes(&self) -> u64 {
        let sizes = self.blobs().filter_map(|blob| blob.size);
        sizes.fold(0, u64::saturating_add)
    }

    /// Returns the number of the line with a blob, counted from 1, for messages.
    pub fn line_of(&self, digest: &Digest) -> Option<usize> {
        let place = self.blobs.keys().position(|known| known == digest)?;
        // Places count from 0, lines from 1, and the title is line 1.
        Some(place + 2)
    }

    /// Formats the whole list.
    pub fn to_text(&self) -> String {
        let mut text = head(self.len()) + "\n";
        let mut sums = Sums::new(self.len());
        for blob in self.blobs() {
            let line = line(blob);
            sums.add(&line);
            let _ = writeln!(text, "{line}");
        }
        let _ = writeln!(text, "check {}", sums.finish());
        text
    }

    /// Parses a want-list. White space, empty lines, line endings and the case of letters do not matter, except the case of tags.
    ///
    /// # Errors
    /// [`Kind::Malformed`], with the line, if the list is cut off, was changed, or is not a want-list;
    /// [`Kind::Unsupported`] if its version is unknown.
    pub fn parse(text: &str) -> Result<Self> {
        // Files of old Macs end their lines with a carriage return alone.
        let text = match text.contains('\n') {
            true => Cow::Borrowed(text),
            false => Cow::Owned(text.replace('\r', "\n")),
        };
        let numbered = text.trim_start_matches('\u{feff}').lines().enumerate();
        let mut lines = numbered
            .map(|(number, line)| (number + 1, line.trim()))
            .filter(|(_, line)| !line.is_empty());
        let expected = match lines.next() {
            Some((number, line)) => parse_head(number, &words(number, line)?)?,
            None => return Err(fault(1, "the list is empty")),
        };
        let mut list = Self::default();
        let mut right = Sums::new(expected);
        let mut numbers: Vec<usize> = Vec::new();
        let mut last: Option<Digest> = None;
        for (number, text) in lines.by_ref() {
            if let Some(stated) = text
                .get(.."check ".len())
                .filter(|start| start.eq_ignore_ascii_case("check "))
            {
                let stated = text[stated.len()..].trim().to_lowercase();
                check(number, &stated, right, &numbers, expected)?;
                if let Some((number, _)) = lines.next() {
                    return Err(fault(number, "unexpected text after the line with the checksums"));
                }
                return Ok(list);
            }
            let blob = words(number, text).and_then(|text| {
                parse_line(&text).map_err(|e| e.context(format!("line {number}")).with_hint(COPY_AGAIN))
            })?;
            if last.as_ref().is_some_and(|last| *last >= blob.digest) {
                return Err(fault(
                    number,
                    "the lines are not sorted by digest, or a line appears twice",
                ));
            }
            last = Some(blob.digest.clone());
            right.add(&line(&blob));
            numbers.push(number);
            if !list.add(blob) {
                let what = format!("a list has at most {MAX_BLOBS} blobs, and {MAX_WANT_LIST} bytes");
                return Err(fault(number, &what));
            }
        }
        let (last, count) = (text.lines().count().max(1), numbers.len());
        let what = format!("the list is cut off: it has {count} of {expected} blobs, and no line with check sums");
        Err(fault(last, &what))
    }
}

/// Normalizes the white space of a line: one blank between two words.
fn words(number: usize, line: &str) -> Result<String> {
    if line.len() > MAX_LINE {
        return Err(fault(number, &format!("a line has at most {MAX_LINE} bytes")));
    }
    Ok(line.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn head(count: usize) -> String {
    format!("{TITLE}{VERSION}: {}", counted(count as u64, "blob", "blobs"))
}

fn line(blob: &WantedBlob) -> String {
    let size = blob.size.map_or_else(|| "?".to_owned(), |size| size.to_string());
    format!("{} {size} {}", blob.digest, blob.reference)
}

/// The checksums of a list, extended line by line.
struct Sums {
    hasher: Hasher,
    digits: String,
}

impl Sums {
    fn new(count: usize) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update((head(count) + "\n").as_bytes());
        let digits = String::new();
        Self { hasher, digits }
    }

    fn add(&mut self, line: &str) {
        self.hasher.update(line.as_bytes());
        self.hasher.update(b"\n");
        self.digits.push(digit(line));
    }

    /// Returns the first digits of the checksum of all lines, then the digits of the single lines.
    fn finish(self) -> String {
        let mut sums = self.hasher.finish().hex();
        sums.truncate(SUM_DIGITS);
        if !self.digits.is_empty() {
            sums.push(' ');
            sums.push_str(&self.digits);
        }
        sums
    }
}

/// Returns the check digit of a line.
fn digit(line: &str) -> char {
    Digest::sha256(line.as_bytes()).hex().chars().next().unwrap_or('0')
}

fn fault(number: usize, why: &str) -> Error {
    Error::new(Kind::Malformed, format!("line {number}: {why}")).with_hint(COPY_AGAIN)
}

fn parse_head(number: usize, line: &str) -> Result<usize> {
    let line = &line.to_lowercase();
    let rest = line.strip_prefix(TITLE).and_then(|rest| rest.split_once(": "));
    let Some((version, count)) = rest else {
        return Err(Error::new(
            Kind::Malformed,
            format!("line {number}: this is no want-list: it begins with `{}`", quote(line)),
        )
        .with_hint("name a file that `docker-mirror verify --want FILE` wrote"));
    };
    if version != VERSION {
        let what = format!(
            "line {number}: the want-list has version `{}`; only {VERSION} is known",
            quote(version)
        );
        return Err(Error::new(Kind::Unsupported, what).with_hint("use the version of docker-mirror that wrote it"));
    }
    let count = count.strip_suffix(" blobs").or(count.strip_suffix(" blob"));
    let count = count.and_then(|count| count.parse().ok());
    count.ok_or_else(|| fault(number, "how many blobs there are is no number"))
}

fn parse_line(text: &str) -> Result<WantedBlob> {
    let mut words = text.split(' ');
    let (Some(digest), Some(size), Some(reference), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Error::new(Kind::Malformed, "a line has a digest, a size and an image"));
    };
    let size = match size {
        "?" => None,
        size => match size.parse().ok().filter(|size| i64::try_from(*size).is_ok()) {
            Some(size) => Some(size),
            None => {
                return Err(Error::new(
                    Kind::Malformed,
                    format!("`{}` is not a size in bytes", quote(size)),
                ));
            }
        },
    };
    Ok(WantedBlob {
        digest: digest.to_lowercase().parse()?,
        size,
        reference: in_lower_case(reference)
            .parse::<Reference>()
            .map_err(|e| e.with_kind(Kind::Malformed))?,
    })
}

/// Returns a reference with everything but its tag in lower case.
fn in_lower_case(reference: &str) -> String {
    let (name, digest) = reference.split_once('@').unwrap_or((reference, ""));
    // A colon before the last slash belongs to the port of the host.
    let path = name.rfind('/').map_or(0, |slash| slash + 1);
    let tag = name[path..].find(':').map_or(name.len(), |colon| path + colon);
    let at = if digest.is_empty() { "" } else { "@" };
    let (name, tag) = name.split_at(tag);
    format!("{}{tag}{at}{}", name.to_lowercase(), digest.to_lowercase())
}

/// Compares the stated checksums with those of the lines;
/// the error names the line that differs, if known.
fn check(number: usize, stated: &str, right: Sums, numbers: &[usize], expected: usize) -> Result<()> {
    if numbers.len() != expected {
        let what = format!(
            "the list has {} where its first line says {expected}",
            counted(numbers.len() as u64, "blob", "blobs")
        );
        return Err(fault(number, &what));
    }
    let without_blanks = |text: &str| text.split_whitespace().collect::<String>();
    let (stated, right) = (without_blanks(stated), without_blanks(&right.finish()));
    let parts = |text: &'_ str| {
        text.split_at_checked(SUM_DIGITS)
            .map(|(sum, digits)| (sum.to_owned(), digits.to_owned()))
    };
    let (stated_sum, stated) = parts(&stated).unwrap_or_default();
    let (right_sum, right) = parts(&right).unwrap_or_default();
    // The sum alone proves all lines.
    if stated_sum == right_sum {
        return Ok(());
    }
    if stated.chars().count() != right.len() {
        let what = format!(
            "the check sums have {} where {} are expected: this line is cut off or mistyped",
            counted(stated.chars().count() as u64, "digit of a line", "digits of lines"),
            right.len()
        );
        return Err(fault(number, &what));
    }
    let digits = right.chars().zip(stated.chars()).zip(numbers);
    let wrong = digits.filter(|((right, stated), _)| right != stated);
    let wrong: Vec<usize> = wrong.map(|(_, number)| *number).collect();
    const MISTYPED: &str = "this line was changed or mistyped: its check digit is another";
    Err(match wrong.as_slice() {
        [line] => fault(*line, MISTYPED),
        [first, rest @ ..] => fault(*first, &format!("{MISTYPED}; the same is true of line {}", few(rest))),
        [] => fault(
            number,
            "the check sum differs though the digit of each line is right: this line or another one was changed or mistyped",
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> WantList {
        let mut list = WantList::default();
        for (name, size) in [
            ("one", Some(1)),
            ("two", Some(1 << 40)),
            ("three", None),
            ("four", Some(0)),
        ] {
            list.add(WantedBlob {
                digest: Digest::sha256(name.as_bytes()),
                size,
                reference: format!("quay.io/a/{name}:1").parse().unwrap(),
            });
        }
        list
    }

    #[test]
    fn a_list_that_was_written_is_read_back_also_as_a_person_types_it() {
        let text = list().to_text();
        assert_eq!(text.lines().count(), 6);
        assert!(
            text.starts_with("docker-mirror want-list 1: 4 blobs\nsha256:"),
            "{text}"
        );
        assert_eq!(WantList::parse(&text).unwrap(), list());
        let typed = text.replace('\n', "  \r\n\r\n").replace(' ', "   ");
        assert_eq!(WantList::parse(&format!("\u{feff}\n{typed}")).unwrap(), list());
        assert_eq!(WantList::parse(&text.replace('\n', "\r")).unwrap(), list());
        // Tags alone are the same whether letters are large or small.
        assert_eq!(WantList::parse(&text.to_uppercase()).unwrap(), list());
        let tagged = text.replace(":1\n", ":V1-rc\n");
        let refused = WantList::parse(&tagged).unwrap_err().full();
        assert!(refused.starts_with("line 2: this line was changed"), "{refused}");
        assert_eq!(
            WantList::parse(&WantList::default().to_text()).unwrap(),
            WantList::default()
        );
        let first = list().blobs().next().unwrap().digest.clone();
        assert_eq!(list().line_of(&first), Some(2));
    }

    #[test]
    fn a_list_that_is_not_as_it_was_written_is_refused_with_the_line() {
        let text = list().to_text();
        let says = |text: &str| WantList::parse(text).unwrap_err().full();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(says(""), "line 1: the list is empty");
        assert!(says("{}").starts_with("line 1: this is no want-list"));
        let newer = text.replace("want-list 1", "want-list 2");
        assert_eq!(says(&newer), "line 1: the want-list has version `2`; only 1 is known");
        let cut = lines[..3].join("\n");
        assert_eq!(
            says(&cut),
            "line 3: the list is cut off: it has 2 of 4 blobs, and no line with check sums"
        );
        let shorter = [&lines[..3], &lines[5..]].concat().join("\n");
        assert_eq!(
            says(&shorter),
            "line 4: the list has 2 blobs where its first line says 4"
        );
        assert!(says(&text.replace("sha256:", "sha256:g")).starts_with("line 2: invalid digest"));
        assert!(says(&format!("{text}more")).starts_with("line 7: unexpected text after the line"));
        let swapped = [lines[0], lines[2], lines[1], lines[3], lines[4], lines[5]].join("\n");
        assert!(says(&swapped).starts_with("line 3: the lines are not sorted"));
        // A mistyped size: in most cases the digits identify the line, and the checksum catches the remaining cases.
        let found = says(&text.replace(" 1099511627776 ", " 1099511627766 "));
        assert!(found.contains("mistyped"), "{found}");
        let third = lines[2].to_owned() + "0";
        let found = says(&text.replace(lines[2], &third));
        assert!(found.starts_with("line 3: this line was changed"), "{found}");
        let two = text
            .replace(lines[2], &third)
            .replace(lines[4], &(lines[4].to_owned() + "0"));
        let found = says(&two);
        assert!(
            found.starts_with("line 3: ") && found.ends_with("the same is true of line 5"),
            "{found}"
        );
        let (sum, digits) = (&lines[5][6..14], &lines[5][15..]);
        for last in [
            "check 00000000".to_owned(),
            format!("check 00000000 {digits}0"),
            format!("check 00000000 {digits}"),
        ] {
            let found = says(&text.replace(lines[5], &last));
            assert!(found.starts_with("line 6: the check sum"), "{last}: {found}");
        }
        // The sum proves the lines, whatever their digits say; blanks do not matter.
        let (start, end) = sum.split_at(4);
        for last in [
            format!("check {sum}"),
            format!("check {sum} 0000"),
            format!("check {start} {end} {digits}"),
        ] {
            assert_eq!(
                WantList::parse(&text.replace(lines[5], &last)).unwrap(),
                list(),
                "{last}"
            );
        }
    }
}
