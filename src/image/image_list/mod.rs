//! Lists of images: what stands on the command line and in files of `--images`.
//!
//! A line is a name, or a pattern of tags which is resolved later. Files may also be documents of other programs
//! ([`documents`]). All faults are collected, so that a user corrects them at once.

mod documents;
mod entry;
mod line;
mod tags;
mod version;

use std::collections::HashMap;

use crate::error::{Error, Kind, Result};
use crate::text::{Line, quote};

pub use entry::Rename;
pub(crate) use entry::{Entry, Names};

/// Maximum size of a list in bytes.
pub const MAX_LIST: u64 = 4 << 20;

/// Maximum number of lines that name images, of all lists together.
const MAX_ENTRIES: usize = 20_000;

/// Maximum number of faults that are told of all lists together.
const MAX_FAULTS: usize = 100;

/// The images that a run is asked for, as they were written.
#[derive(Debug, Default)]
pub struct ImageList {
    entries: Vec<Entry>,
    faults: Vec<Error>,
    more_faults: usize,
    /// Whether there were more entries than are kept.
    overflowed: bool,
    warnings: Vec<Line>,
}

impl ImageList {
    /// Reads an argument, which is of the form of a line.
    pub fn add_argument(&mut self, text: &str) {
        if text.contains(['\n', '\r']) {
            let why = format!(
                "`{}` is not the name of an image: there is a line break in it",
                quote(text)
            );
            return self
                .fault(Error::new(Kind::Usage, why).with_hint("a list of images is given with `--images FILE`"));
        }
        match line::parse(text) {
            Ok(Some(entry)) => self.add(entry),
            // What a shell hands over as one word may be empty, or begin with `#`.
            Ok(None) if text.trim().is_empty() => self.fault(Error::new(Kind::Usage, "the name of an image is empty")),
            Ok(None) => self.fault(Error::new(
                Kind::Usage,
                format!("`{}` is a comment, and no name of an image", quote(text)),
            )),
            Err(error) => self.fault(error),
        }
    }

    /// Reads the content of a file, in UTF-8 without a byte order mark; `name` stands for it in messages.
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
        match documents::parse(&text) {
            Some(document) => {
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
        if before == (self.entries.len(), self.faults.len()) {
            self.fault(Error::new(Kind::Usage, format!("{shown}: it names no image")));
        }
    }

    /// Notes that a file could not be read.
    pub fn add_unreadable(&mut self, error: Error) {
        self.fault(error.with_kind(Kind::Usage));
    }

    fn add_lines(&mut self, name: &str, text: &str) {
        for (number, line) in (1..).zip(text.lines()) {
            let origin = || format!("{name}:{number}");
            match line::parse(line) {
                Ok(None) => {}
                Ok(Some(entry)) => self.add(Entry {
                    origin: Some(origin()),
                    ..entry
                }),
                Err(error) => self.fault(error.context(origin())),
            }
        }
    }

    fn add(&mut self, entry: Entry) {
        if self.entries.len() < MAX_ENTRIES {
            self.entries.push(entry);
        } else if !std::mem::replace(&mut self.overflowed, true) {
            self.fault(
                Error::new(Kind::Usage, format!("more than {MAX_ENTRIES} lines name images"))
                    .with_hint("divide the list, and make several bundles"),
            );
        }
    }

    fn fault(&mut self, fault: Error) {
        match self.faults.len() < MAX_FAULTS {
            true => self.faults.push(fault),
            false => self.more_faults += 1,
        }
    }

    /// The list with each image once.
    ///
    /// # Errors
    /// All faults of all files and arguments, and how many more there are than are listed; among them an image that stands
    /// there twice with different platforms or destinations, and a list of which nothing is left.
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
                    let what = format!("{} is there twice, with different options", entry.label());
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

/// A list without faults. Patterns are still to be resolved.
#[derive(Debug, Default)]
pub struct CheckedList {
    pub(crate) entries: Vec<Entry>,
    /// What of the files is not used.
    pub warnings: Vec<Line>,
}

impl CheckedList {
    /// The hosts of all names, of those that are left out as well.
    pub fn hosts(&self) -> Vec<&str> {
        self.entries.iter().map(|entry| entry.reference().host()).collect()
    }
}

#[cfg(test)]
mod tests;
