//! Text for people: escaped, on one line, and of bounded length.
//!
//! Names, annotations, error bodies, file names and arguments may hold anything: escape sequences that control a
//! terminal, line breaks that forge a line of output, bidirectional marks that reorder text. Every message is a [`Line`],
//! and a [`Line`] never holds any of these. A message wraps foreign text in [`quote`], which escapes the text and cuts it
//! to a bound; a list of several items goes through [`few`].

use std::borrow::Borrow;
use std::ffi::OsStr;
use std::fmt::{self, Display, Write};
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Serialize, Serializer};

/// Maximum number of bytes that [`quote`] shows of a text.
pub(crate) const MAX_QUOTE: usize = 512;

/// Maximum number of bytes of a [`Line`].
pub(crate) const MAX_LINE: usize = 4 << 10;

/// Formats a number with its noun: `1 blob`, `2 blobs`.
pub fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Returns a number of bytes in words.
pub(crate) fn byte_count(number: u64) -> String {
    counted(number, "byte", "bytes")
}

/// Maximum number of items that a message lists;
/// a message states only the number of further items.
pub const LISTED: usize = 10;

/// Maximum number of [`Warnings`] kept about one image or bundle.
pub(crate) const MAX_WARNINGS: usize = 100;

/// Returns whether a character controls a terminal, breaks a line, reorders text, or is invisible.
pub fn is_unsafe(c: char) -> bool {
    // Control characters; line and paragraph separators; Unicode's Default_Ignorable_Code_Point, which includes the
    // bidirectional marks, the joiners and the byte order mark; and the interlinear annotation marks.
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Escapes the [unsafe](is_unsafe) characters of a JSON text without line breaks. The values stay the same.
pub(crate) fn escape_json(text: String) -> String {
    if !text.contains(is_unsafe) {
        return text;
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if !is_unsafe(c) {
            out.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}");
        }
    }
    out
}

/// Appends a character, or the escape of an [unsafe](is_unsafe) character, such as `\n` or
/// `\u{1b}`.
///
/// Escaping an escaped text again changes nothing.
fn push(out: &mut String, c: char) {
    match c {
        '\n' | '\r' | '\t' => out.extend(c.escape_default()),
        c if is_unsafe(c) => out.extend(c.escape_unicode()),
        c => out.push(c),
    }
}

/// Quotes foreign text inside a message: a name, a path, a header.
///
/// The text is shown escaped, with bytes that are not UTF-8 as `\xff`. A long text is cut to about [`MAX_QUOTE`] bytes,
/// followed by the number of bytes that are not shown.
///
/// ```
/// use docker_mirror::quote;
/// assert_eq!(format!("`{}`", quote("a\nerror: b")), "`a\\nerror: b`");
/// ```
pub fn quote<T: AsRef<OsStr> + ?Sized>(text: &T) -> Quote<'_> {
    quote_bytes(text.as_ref().as_bytes())
}

/// Returns the whole path, escaped like a [`quote`]: two different paths never look the same.
pub(crate) fn path(path: &Path) -> String {
    bounded(path.as_os_str().as_bytes(), usize::MAX)
}

/// Returns the first [`MAX_QUOTE`] characters of a text, unescaped:
/// for documents whose format does the escaping.
pub(crate) fn shorten(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MAX_QUOTE) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Like [`quote`], for bytes that may not be text.
pub(crate) fn quote_bytes(text: &[u8]) -> Quote<'_> {
    Quote(text)
}

/// The return value of [`quote`].
#[derive(Debug, Clone, Copy)]
pub struct Quote<'a>(&'a [u8]);

impl Display for Quote<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bounded(self.0, MAX_QUOTE))
    }
}

/// Escapes text until about `limit` bytes are written,
/// then adds the number of bytes that are not shown.
fn bounded(text: &[u8], limit: usize) -> String {
    let mut out = String::new();
    let mut left = text.len();
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            if out.len() >= limit {
                break;
            }
            push(&mut out, c);
            left -= c.len_utf8();
        }
        for byte in chunk.invalid() {
            if out.len() >= limit {
                break;
            }
            out.push_str(&format!("\\x{byte:02x}"));
            left -= 1;
        }
        if out.len() >= limit {
            break;
        }
    }
    match left {
        0 => {}
        1 => out.push_str("… (1 byte more)"),
        left => out.push_str(&format!("… ({} more)", byte_count(left as u64))),
    }
    out
}

/// Joins the first [`LISTED`] items with commas, and adds the number of further items.
///
/// ```
/// use docker_mirror::few;
/// assert_eq!(few(["a", "b"]), "a, b");
/// assert!(few(0..300).ends_with("9 and 290 more"));
/// ```
pub fn few<T: Display>(things: impl IntoIterator<Item = T>) -> String {
    few_with(things, ", ")
}

/// Like [`few`], with another separator.
pub fn few_with<T: Display>(things: impl IntoIterator<Item = T>, separator: &str) -> String {
    let mut things = things.into_iter();
    let first: Vec<String> = things.by_ref().take(LISTED).map(|thing| thing.to_string()).collect();
    let text = first.join(separator);
    match things.count() {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

/// Text that is safe to show: one line without [unsafe](is_unsafe) characters, of about
/// [`MAX_LINE`] bytes at most.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Line(String);

impl From<&str> for Line {
    fn from(text: &str) -> Self {
        Self::from(text.to_owned())
    }
}

impl From<&String> for Line {
    fn from(text: &String) -> Self {
        Self::from(text.clone())
    }
}

impl From<String> for Line {
    fn from(text: String) -> Self {
        // The note about cut bytes makes a cut text longer than `MAX_LINE`:
        // without the tolerance the text would be cut again.
        let fits = text.len() <= MAX_LINE + 32;
        if fits && !text.contains(is_unsafe) {
            return Self(text);
        }
        Self(bounded(text.as_bytes(), MAX_LINE))
    }
}

impl From<Line> for String {
    fn from(line: Line) -> Self {
        line.0
    }
}

impl Deref for Line {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Line {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl PartialEq<str> for Line {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<&str> for Line {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

impl Serialize for Line {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Warnings about one image or bundle:
/// the first [`MAX_WARNINGS`], then one line with the number of further warnings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Warnings {
    lines: Vec<Line>,
    more: usize,
}

impl Warnings {
    /// Adds a warning.
    pub fn push(&mut self, line: impl Into<Line>) {
        if self.lines.len() < MAX_WARNINGS {
            self.lines.push(line.into());
        } else {
            self.count(1);
        }
    }

    /// Adds the warnings of another list.
    pub fn append(&mut self, other: Self) {
        // The last line of a full list only states the number of further warnings, and is not a warning.
        let more = other.more;
        let kept = other.lines.len() - usize::from(more > 0);
        other.lines.into_iter().take(kept).for_each(|line| self.push(line));
        self.count(more);
    }

    fn count(&mut self, more: usize) {
        if more == 0 {
            return;
        }
        if self.more > 0 {
            self.lines.pop();
        }
        self.more += more;
        self.lines.push(
            counted(
                self.more as u64,
                "more warning is not shown",
                "more warnings are not shown",
            )
            .into(),
        );
    }
}

impl Deref for Warnings {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        &self.lines
    }
}

impl<L: Into<Line>> Extend<L> for Warnings {
    fn extend<I: IntoIterator<Item = L>>(&mut self, lines: I) {
        lines.into_iter().for_each(|line| self.push(line));
    }
}

impl<L: Into<Line>> FromIterator<L> for Warnings {
    fn from_iter<I: IntoIterator<Item = L>>(lines: I) -> Self {
        let mut warnings = Self::default();
        warnings.extend(lines);
        warnings
    }
}

impl Serialize for Warnings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.lines.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One character of each kind that is always escaped.
    const UNSAFE: &str = "\u{0}\t\n\r\u{1b}\u{7f}\u{85}\u{9b}\u{9f}\u{ad}\u{61c}\u{200b}\u{200e}\u{200f}\u{2028}\u{2029}\
                          \u{202a}\u{202e}\u{2060}\u{2066}\u{2069}\u{feff}\u{e0041}";

    fn escape(text: &str) -> String {
        let mut out = String::new();
        text.chars().for_each(|c| push(&mut out, c));
        out
    }

    #[test]
    fn json_is_escaped_and_means_the_same() {
        let value = "a\u{202e}b\u{9b}\u{e0041}\u{7f} \"é\"";
        let escaped = escape_json(serde_json::to_string(value).unwrap());
        assert_eq!(escaped, r#""a\u202eb\u009b\udb40\udc41\u007f \"é\"""#);
        assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), value);
    }

    #[test]
    fn nothing_unsafe_is_left_and_nothing_else_is_touched() {
        for c in UNSAFE.chars() {
            assert!(is_unsafe(c), "{c:?}");
            let escaped = escape(&c.to_string());
            assert!(escaped.starts_with('\\') && escaped.is_ascii(), "{escaped}");
            assert_eq!(escape(&escaped), escaped, "a second pass changes nothing");
        }
        let plain = "quay.io/é/日本:1 `'\"\\ …";
        assert_eq!(escape(plain), plain);
        assert_eq!(Line::from(plain), *plain);
        assert!(!Line::from(UNSAFE).contains(is_unsafe));
        assert_eq!(Line::from("a\nerror: b\r\u{202e}"), *"a\\nerror: b\\r\\u{202e}");
    }

    #[test]
    fn names_of_files_show_the_bytes_that_are_no_text() {
        let name = OsStr::from_bytes(b"a\xff\xc3\n\xed\xa0\x80b");
        assert_eq!(quote(name).to_string(), "a\\xff\\xc3\\n\\xed\\xa0\\x80b");
    }

    #[test]
    fn long_texts_are_cut_and_counted() {
        let long = "é".repeat(30_000);
        let shown = quote(&long).to_string();
        assert!(shown.ends_with("é… (59488 bytes more)"), "{shown}");
        let line = Line::from(long);
        assert!(line.ends_with("é… (55904 bytes more)"), "{line}");
        assert_eq!(Line::from(&*line), line, "a second pass changes nothing");
        for c in UNSAFE.chars() {
            let hostile = c.to_string().repeat(100_000);
            assert!(quote(&hostile).to_string().len() < MAX_QUOTE + 40);
            assert!(Line::from(hostile).len() < MAX_LINE + 40);
        }
        let short = "x".repeat(MAX_QUOTE);
        assert_eq!(quote(&short).to_string(), short);
        assert!(quote(&format!("{short}x")).to_string().ends_with("x… (1 byte more)"));
    }

    #[test]
    fn lists_name_some_and_count_the_others() {
        assert_eq!(few::<&str>([]), "");
        assert_eq!(few(0..10), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9");
        assert_eq!(few_with(0..11, "; "), "0; 1; 2; 3; 4; 5; 6; 7; 8; 9 and 1 more");
    }

    #[test]
    fn warnings_beyond_a_number_are_counted() {
        let mut warnings = Warnings::default();
        for number in 0..500_000 {
            warnings.push(format!("{number}"));
        }
        assert_eq!(warnings.len(), MAX_WARNINGS + 1);
        assert_eq!(warnings[MAX_WARNINGS], "499900 more warnings are not shown");
        let mut all: Warnings = ["one", "two"].into_iter().collect();
        all.append(warnings);
        assert_eq!((all.len(), &*all[0]), (MAX_WARNINGS + 1, "one"));
        assert_eq!(all[MAX_WARNINGS], "499902 more warnings are not shown");
        let mut one_more: Warnings = (0..MAX_WARNINGS).map(|number| number.to_string()).collect();
        one_more.push("x".to_owned());
        assert_eq!(one_more[MAX_WARNINGS], "1 more warning is not shown");
    }
}
