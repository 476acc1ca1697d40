//! Errors of this crate, sorted by what a caller can do about them.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::text::{Line, few_with, quote};

/// The result of every operation in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Kind of an [`Error`]: what a caller can do about the failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The request itself is wrong (a name, a flag, a combination): change the request.
    Usage,
    /// Bytes from outside break the rules of their format: get them from another source.
    Malformed,
    /// Bytes do not match their digest or size: fetch them again.
    Integrity,
    /// The request needs more memory than a run may take: split the request.
    TooLarge,
    /// The named image, blob or file was not found.
    NotFound,
    /// The registry requires credentials, or other credentials.
    Unauthorized,
    /// The registry accepted the credentials and refused access.
    Denied,
    /// A quota is used up: try again later.
    RateLimited,
    /// The connection failed, stalled or broke: try again.
    Network,
    /// The registry failed (5xx) or sent an invalid response.
    Server,
    /// The registry or the format does not support the request (a media type, a sparse index).
    Unsupported,
    /// The registry does not support range requests: ask for the whole blob.
    NoRanges,
    /// The local file system failed.
    Io,
    /// The disk has no room left for the output.
    NoSpace,
    /// The output file, or the tag, already exists.
    Exists,
    /// Another process holds the output.
    Busy,
    /// The user or a signal ended the run.
    Cancelled,
    /// Some of several operations failed; each failure was reported separately.
    Incomplete,
    /// A bug of this program: its own rules exclude this state.
    Internal,
}

/// The side of a transfer that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The registry or bundle that images are read from.
    Source,
    /// The registry that images are written to.
    Destination,
    /// This machine: its disk, its memory.
    Local,
}

/// One failure: what happened, where, and what to do about the failure.
///
/// `Display` shows the message alone. The [`hint`](Error::hint) and the [source](std::error::Error::source) are separate,
/// so that a front end decides how to lay them out and shows no text twice. No message holds a secret: a caller that
/// builds a message from a URL redacts the URL's query first. Message and hint are [`Line`]s: foreign text in them is
/// escaped.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: Kind,
    message: Line,
    hint: Option<Line>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    shared: Option<String>,
    side: Option<Side>,
    names_image: bool,
    parts: Vec<(String, Error)>,
}

impl Error {
    /// Creates an error.
    /// The message is in lower case, names what failed and where, and has no final period.
    pub fn new(kind: Kind, message: impl Into<Line>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            hint: None,
            source: None,
            shared: None,
            side: None,
            names_image: false,
            parts: Vec::new(),
        }))
    }

    /// Creates an error for a state that the rules of this program exclude.
    pub(crate) fn internal(message: impl Into<Line>) -> Self {
        Self::new(Kind::Internal, message).with_hint("this is a fault of docker-mirror: please report it")
    }

    /// Creates an error for a failed file system call on `path`; `action` is a verb (`read`,
    /// `create`).
    ///
    /// A full disk, a used-up quota and a file over the file system's limit become [`Kind::NoSpace`].
    pub fn io(action: &str, path: &Path, source: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match source.kind() {
            Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => Kind::NoSpace,
            Io::AlreadyExists => Kind::Exists,
            _ => Kind::Io,
        };
        let error = Self::new(kind, format!("cannot {action} `{}`", quote(path)));
        let error = match source.kind() {
            Io::PermissionDenied => error.with_hint(
                "this user has no right to do that: see who has (`ls -ld` of the file and its folder), have the right given \
                 (`chmod`, `chown`), or run as another user",
            ),
            Io::NotFound => error.with_hint(missing_path_hint(path)),
            Io::NotADirectory => error.with_hint("the path leads through a file as if it were a folder: check the path"),
            _ => error,
        };
        error.with_source(source).with_side(Side::Local)
    }

    /// Adds a hint: what the user can do about the failure.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Line>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds a hint, unless there is one.
    #[must_use]
    pub(crate) fn or_hint(self, hint: &str) -> Self {
        match self.0.hint {
            None => self.with_hint(hint),
            Some(_) => self,
        }
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// Marks a failure that concerns more than one image: an unreachable host, a refused login.
    ///
    /// The present message with its causes becomes the shared cause.
    /// A front end shows a cause that several failures share only once.
    #[must_use]
    pub fn with_shared_cause(self) -> Self {
        let cause = self.full();
        self.with_cause(&cause)
    }

    /// Like [`with_shared_cause`](Self::with_shared_cause), unless the failure is marked already.
    #[must_use]
    pub(crate) fn or_shared_cause(self) -> Self {
        match self.0.shared {
            None => self.with_shared_cause(),
            Some(_) => self,
        }
    }

    /// Like [`with_shared_cause`](Self::with_shared_cause), with the text of the cause given.
    #[must_use]
    pub(crate) fn with_cause(mut self, cause: &str) -> Self {
        self.0.shared = Some(cause.to_owned());
        self
    }

    /// Puts `what: ` before the message: context that only an outer caller knows.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.0.message = format!("{what}: {}", self.0.message).into();
        self
    }

    /// Puts the name of the image that the failure concerns before the message.
    #[must_use]
    pub(crate) fn for_image(self, what: impl fmt::Display) -> Self {
        let mut error = self.context(what);
        error.0.names_image = true;
        error
    }

    /// Sets the side that failed and replaces a side set earlier:
    /// the outermost caller knows best what it reads from.
    #[must_use]
    pub(crate) fn with_side(mut self, side: Side) -> Self {
        self.0.side = Some(side);
        self
    }

    /// Sets the side that failed, unless a side is already set.
    #[must_use]
    pub(crate) fn or_side(mut self, side: Side) -> Self {
        self.0.side.get_or_insert(side);
        self
    }

    /// Changes the kind:
    /// a malformed file becomes wrong usage, for example, where the user named the file for this run.
    #[must_use]
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self
    }

    /// What a caller can do about the failure.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Adds the failures that this error sums up,
    /// each with the name of the image or thing that failed.
    #[must_use]
    pub fn with_parts(mut self, parts: Vec<(String, Self)>) -> Self {
        self.0.parts = parts;
        self
    }

    /// The failures that this error sums up, each with the name of the image or thing that failed.
    pub fn parts(&self) -> &[(String, Self)] {
        &self.0.parts
    }

    /// Side that failed, if known.
    pub fn side(&self) -> Option<Side> {
        self.0.side
    }

    /// Whether the message names the image that the failure concerns.
    pub fn names_image(&self) -> bool {
        self.0.names_image
    }

    /// What the user can do about the failure, if known.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The cause that this failure shares with failures of other images, if any.
    pub fn shared_cause(&self) -> Option<&str> {
        self.0.shared.as_deref()
    }

    /// The message with all its causes on one line, for reports and logs.
    pub fn full(&self) -> String {
        let mut text = self.0.message.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            let words = cause.to_string();
            source = cause.source();
            // Some errors have no text, such as a refusal without a message.
            if words.is_empty() {
                continue;
            }
            text.push_str(": ");
            match cause.is::<Self>() {
                true => text.push_str(&words),
                false => text.push_str(&quote(&without_types(words)).to_string()),
            }
        }
        if !self.0.parts.is_empty() {
            let parts = self.0.parts.iter().map(|(_, part)| part.full());
            text.push_str(&format!(": {}", few_with(parts, "; ")));
        }
        Line::from(text).into()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.full())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|s| s as _)
    }
}

/// Returns the words of a JSON parser without the name of a type in the source of this program.
fn without_types(words: String) -> String {
    match words.split_once("expected struct ") {
        Some((before, name)) => {
            let behind = name.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
            format!("{before}expected an object{behind}")
        }
        None => words,
    }
}

/// Returns the hint for a path that does not exist.
pub fn missing_path_hint(path: &Path) -> &'static str {
    match path.is_absolute() {
        true => "check the path, and whether the drive that holds it is mounted",
        false => "check the name: a relative path starts at the folder where the command runs",
    }
}

/// Writes an object for reports: the kind, the message with all its causes, and the hint.
impl Serialize for Error {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let kind = format!("{:?}", self.0.kind);
        let (first, rest) = kind.split_at(1);
        let mut object = serializer.serialize_map(None)?;
        object.serialize_entry("kind", &(first.to_ascii_lowercase() + rest))?;
        object.serialize_entry("message", &self.full())?;
        if let Some(hint) = &self.0.hint {
            object.serialize_entry("hint", hint)?;
        }
        object.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_keeps_hint_cause_and_side() {
        let io = std::io::Error::other("no such device");
        let error = Error::io("read", Path::new("x"), io).with_hint("plug it in");
        assert_eq!(error.side(), Some(Side::Local));
        let copy = error.clone().with_side(Side::Source).for_image("a/b:1");
        assert_eq!(copy.full(), "a/b:1: cannot read `x`: no such device");
        assert_eq!((copy.hint(), copy.side()), (Some("plug it in"), Some(Side::Source)));
        assert!(copy.names_image() && !error.names_image());
    }

    #[test]
    fn a_file_that_this_user_may_not_read_comes_with_a_way_to_the_right() {
        let denied = std::io::ErrorKind::PermissionDenied.into();
        let error = Error::io("open", Path::new("b.tar"), denied);
        assert!(
            error
                .hint()
                .is_some_and(|hint| hint.contains("chmod") && hint.contains("ls -ld"))
        );
    }

    #[test]
    fn no_type_of_the_source_is_named() {
        #[derive(Debug, serde::Deserialize)]
        struct Wire2 {}
        let cause = serde_json::from_str::<Vec<Wire2>>("[null]").unwrap_err();
        let error = Error::new(Kind::Malformed, "no list").with_source(cause);
        assert_eq!(
            error.full(),
            "no list: invalid type: null, expected an object at line 1 column 5"
        );
    }

    #[test]
    fn a_fault_of_the_program_asks_for_a_report() {
        let error = Error::internal("no candidate");
        assert_eq!(error.kind(), Kind::Internal);
        assert!(error.hint().is_some_and(|hint| hint.contains("report")));
    }
}
