//! What one line of a list asks for.

use std::fmt;

use super::tags::TagPattern;
use crate::image::platform::PlatformFilter;
use crate::image::reference::Reference;
use crate::text::quote;

/// Where an image goes below the destination, in place of the path that its source has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rename {
    /// The path below the destination.
    pub path: String,
    /// The tag; without it, that of the source is kept.
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

/// What one line names.
#[derive(Debug, Clone)]
pub(crate) enum Names {
    /// One image.
    One(Reference),
    /// Tags of a repository. The tag of the reference means nothing.
    Tags(Reference, TagPattern),
}

/// One line of a list, or one argument.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// File and line, such as `images.txt:17`; nothing for an argument.
    pub origin: Option<String>,
    /// The name or pattern as it was written, with one space between its words.
    pub text: String,
    /// What it names.
    pub names: Names,
    /// Whether that is left out.
    pub excluded: bool,
    /// The platforms of these images, where they are others than those of the run.
    pub platforms: Option<PlatformFilter>,
    /// Where they go, where it is another place than the rule of the run says.
    pub destination: Option<Rename>,
}

impl Entry {
    /// The name of the repository, `HOST/PATH`, and its host.
    pub(crate) fn reference(&self) -> &Reference {
        match &self.names {
            Names::One(reference) | Names::Tags(reference, _) => reference,
        }
    }

    /// The name that messages give this entry: its place in the list, and its text.
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
