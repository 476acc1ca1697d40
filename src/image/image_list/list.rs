//! The list of images, from arguments and files.

use std::collections::HashMap;

use super::documents;
use super::entry::{Entry, Names};
use super::line;
use super::line_hint;
use crate::error::{Error, Kind, Result};
use crate::image::platform::PlatformFilter;
use crate::text::{Line, few_with, quote};

/// Maximum size of a list in bytes.
pub const MAX_LIST: u64 = 4 << 20;

/// Maximum number of lines that name images, in all lists together.
const MAX_ENTRIES: usize = 20_000;

/// Maximum number of globs of tags among them: each takes some tens of kilobytes when it is compiled.
const MAX_GLOBS: usize = 2000;

/// Maximum number of platforms that the lines state together.
const MAX_PLATFORMS: usize = 50_000;

/// Maximum number of reported faults of all lists together; further faults are only counted.
const MAX_FAULTS: usize = 100;

/// The images and patterns that the user asked for, as written.
#[derive(Debug, Default)]
pub struct ImageList {
    entries: Vec<Entry>,
    faults: Vec<Error>,
    more_faults: usize,
    globs: usize,
    platforms: usize,
    /// Whether there were more entries than are kept.
    overflowed: bool,
    warnings: Vec<Line>,
}

impl ImageList {
    /// Adds an argument, which has the syntax of a line.
    pub fn add_argument(&mut self, text: &str) {
        if text.contains(['\n', '\r']) {
            let why = format!(
                "`{}` is not the name of an image: there is a line break in it",
                quote(text)
            );
            return self
                .fault(Error::new(Kind::Usage, why).with_hint("a list of images is given with `--images FILE`"));
        }
        let name = text.trim();
        if name.ends_with(':') && !name.contains(' ') {
            let why = format!(
                "`{}` is not the name of an image: the tag after the colon is empty",
                quote(name)
            );
            return self
                .fault(Error::new(Kind::Usage, why).with_hint("a variable that is to hold the tag may not be set"));
        }
        match line::parse(text) {
            Ok(Some(entry)) => self.add(entry),
            // Unlike a line of a file, an argument that is empty or a comment is a mistake, such as an unset variable.
            Ok(None) if text.trim().is_empty() => self.fault(Error::new(Kind::Usage, "the name of an image is empty")),
            Ok(None) => self.fault(Error::new(
                Kind::Usage,
                format!("`{}` is a comment, and no name of an image", quote(text)),
            )),
            Err(error) => self.fault(error),
        }
    }

    /// Adds the content of a file, in UTF-8 without a byte order mark. Messages call the file `name`.
    pub fn add_file(&mut self, name: &str, bytes: Vec<u8>) {
        let shown = quote(name).to_string();
        let mut fault = |why: &str, hint: &str| {
            self.fault(Error::new(Kind::Usage, format!("{shown}: {why}")).with_hint(hint.to_owned()));
        };
        if bytes.len() as u64 > MAX_LIST {
            let why = format!("it has more than {} MiB", MAX_LIST >> 20);
            return fault(
                &why,
                "is this a list of images? a long one is divided into several files",
            );
        }
        let text = match String::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => text,
            _ => return fault("it is no text", "a list has one image on each line, in UTF-8 or UTF-16"),
        };
        let before = (self.entries.len(), self.faults.len());
        let mut skipped = Vec::new();
        match documents::parse(&text) {
            Some(document) => {
                skipped.clone_from(&document.warnings);
                for fault in document.faults {
                    self.fault(fault.context(&shown));
                }
                self.warnings.extend(
                    document
                        .warnings
                        .iter()
                        .map(|warning| Line::from(format!("{shown}: {warning}"))),
                );
                for (line, entry) in document.entries {
                    match entry {
                        Ok(entry) => self.add(Entry {
                            origin: Some(format!("{shown}:{line}")),
                            ..entry
                        }),
                        Err(error) => self.fault(error.context(format!("{shown}:{line}"))),
                    }
                }
            }
            None => self.add_lines(&shown, &text),
        }
        if before == (self.entries.len(), self.faults.len()) && !self.overflowed {
            let error = match skipped.as_slice() {
                [] => Error::new(Kind::Usage, format!("{shown}: it names no image")),
                skipped => Error::new(
                    Kind::Usage,
                    format!("{shown}: it names no image: {}", few_with(skipped, "; ")),
                )
                .with_hint(line_hint::YAML),
            };
            self.fault(error);
        }
    }

    /// Adds the error of a file that could not be read to the faults.
    pub fn add_unreadable(&mut self, error: Error) {
        self.fault(error.with_kind(Kind::Usage));
    }

    fn add_lines(&mut self, name: &str, text: &str) {
        // Old editors end a line with CR alone, and texts that were copied from a page may have separators of Unicode.
        let text = text.replace("\r\n", "\n");
        let lines = text.split(['\n', '\r', '\u{b}', '\u{c}', '\u{85}', '\u{2028}', '\u{2029}']);
        for (number, line) in (1..).zip(lines) {
            let origin = || format!("{name}:{number}");
            match line::parse(line) {
                Ok(None) => {}
                Ok(Some(entry)) => self.add(Entry {
                    origin: Some(origin()),
                    ..entry
                }),
                Err(error) => self.fault(error.context(origin())),
            }
            if self.overflowed {
                return;
            }
        }
    }

    fn add(&mut self, entry: Entry) {
        let is_glob = matches!(&entry.names, Names::Tags(_, pattern) if pattern.is_glob());
        self.globs += usize::from(is_glob);
        if let Some(PlatformFilter::Only(platforms)) = &entry.platforms {
            self.platforms += platforms.len();
        }
        let what = match () {
            () if self.entries.len() == MAX_ENTRIES => format!("more than {MAX_ENTRIES} lines name images"),
            () if self.globs > MAX_GLOBS => format!("more than {MAX_GLOBS} lines have a pattern of tags"),
            () if self.platforms > MAX_PLATFORMS => format!("lines state more than {MAX_PLATFORMS} platforms"),
            () => return self.entries.push(entry),
        };
        if !std::mem::replace(&mut self.overflowed, true) {
            self.fault(Error::new(Kind::Usage, what).with_hint("divide the list, and make several bundles"));
        }
    }

    fn fault(&mut self, fault: Error) {
        match self.faults.len() < MAX_FAULTS {
            true => self.faults.push(fault),
            false => self.more_faults += 1,
        }
    }

    /// Returns the list with each image once.
    ///
    /// # Errors
    /// The faults of all files and arguments, and the number of further faults. A list without images is a fault, and so is
    /// an image that appears twice with different platforms or destinations.
    pub fn check(mut self) -> Result<CheckedList, (Vec<Error>, usize)> {
        let mut known: HashMap<(bool, String), usize> = HashMap::new();
        let mut entries: Vec<Entry> = Vec::new();
        for entry in std::mem::take(&mut self.entries) {
            let name = match &entry.names {
                Names::One(reference) => reference.to_string(),
                Names::Tags(repository, tags) => format!("{}:{tags}", repository.name()),
            };
            match known.get(&(entry.excluded, name.clone())) {
                None => {
                    known.insert((entry.excluded, name), entries.len());
                    entries.push(entry);
                }
                Some(&first) if entries[first].same_options(&entry) => {}
                Some(&first) => {
                    let what = format!("{} appears twice, with different options", entry.label());
                    let hint = match &entries[first].origin {
                        Some(origin) => format!("the other one is {origin}: correct one of them"),
                        None => "correct one of them".to_owned(),
                    };
                    self.fault(Error::new(Kind::Usage, what).with_hint(hint));
                }
            }
        }
        if self.faults.is_empty() && !entries.iter().any(|entry| !entry.excluded) {
            self.fault(
                Error::new(Kind::Usage, "no image is named").with_hint("a line that begins with `!` leaves images out"),
            );
        }
        match self.faults.is_empty() {
            true => Ok(CheckedList {
                entries,
                warnings: self.warnings,
            }),
            false => Err((self.faults, self.more_faults)),
        }
    }
}

/// A list without faults, whose patterns are not resolved yet.
#[derive(Debug, Default)]
pub struct CheckedList {
    pub(crate) entries: Vec<Entry>,
    /// Warnings about parts of the files that are not used.
    pub warnings: Vec<Line>,
}

impl CheckedList {
    /// Returns the hosts of all entries, including excluded entries.
    pub fn hosts(&self) -> Vec<&str> {
        self.entries.iter().map(|entry| entry.reference().host()).collect()
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
