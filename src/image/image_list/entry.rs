//! The parsed form of one line of a list.

use std::fmt;

use super::tags::TagPattern;
use crate::image::platform::PlatformFilter;
use crate::image::reference::Reference;
use crate::text::quote;

/// A path below the destination that replaces the path of an image's source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rename {
    /// Path below the destination.
    pub path: String,
    /// Tag at the destination; `None` keeps the tag of the source.
    pub tag: Option<String>,
}

impl fmt::Display for Rename {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tag {
            Some(tag) => write!(f, "{}:{tag}", self.path),
            None => f.write_str(&self.path),
        }
    }
}

/// The image or images that a line names.
#[derive(Debug, Clone)]
pub(crate) enum Names {
    /// One image.
    One(Reference),
    /// Tags of a repository that match a pattern. The tag of the reference has no meaning.
    Tags(Reference, TagPattern),
}

/// A line of a list, or an argument of the command line.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// File and line, such as `images.txt:17`; `None` for an argument.
    pub origin: Option<String>,
    /// Name or pattern as written, with single spaces between words.
    pub text: String,
    /// Image or images that the entry names.
    pub names: Names,
    /// Whether the entry excludes its images.
    pub excluded: bool,
    /// Platforms of these images; `None` for the platforms of the run.
    pub platforms: Option<PlatformFilter>,
    /// Destination of these images; `None` for the rule of the run.
    pub destination: Option<Rename>,
}

impl Entry {
    /// Returns the reference of the image, or of the repository whose tags match.
    pub(crate) fn reference(&self) -> &Reference {
        match &self.names {
            Names::One(reference) | Names::Tags(reference, _) => reference,
        }
    }

    /// Returns the name of this entry in messages: its place in the list, and its text.
    pub(crate) fn label(&self) -> String {
        let text = quote(&self.text);
        match &self.origin {
            Some(origin) => format!("{origin}: `{text}`"),
            None => format!("`{text}`"),
        }
    }

    pub(super) fn same_options(&self, other: &Self) -> bool {
        self.platforms == other.platforms && self.destination == other.destination
    }
}
