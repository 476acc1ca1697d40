//! What went wrong, sorted by what a caller can do about it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::text::{Line, few_with, quote};

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The request itself is wrong (a name, a flag, a combination): say it differently.
    Usage,
    /// Bytes from outside break the rules of their format: get them from elsewhere.
    Malformed,
    /// Bytes are not the ones that their digest or size promises: fetch them again.
    Integrity,
    /// It needs more memory than a run may take: do it in parts.
    TooLarge,
    /// The named thing is not there.
    NotFound,
    /// The registry wants (other) credentials.
    Unauthorized,
    /// The registry knows who asks and refuses.
    Denied,
    /// A quota is used up: come back later.
    RateLimited,
    /// The connection failed, stalled or broke: try again.
    Network,
    /// The registry failed (5xx) or answered nonsense.
    Server,
    /// The other side cannot do what was asked (a media type, a sparse index), or the format cannot.
    Unsupported,
    /// The other side does not serve parts of a blob: ask for all of it.
    NoRanges,
    /// The local file system failed.
    Io,
    /// No room is left for the output.
    NoSpace,
    /// The output, or the tag, is already there.
    Exists,
    /// Something else holds the output at this moment.
    Busy,
    /// The user, or a signal, ended it.
    Cancelled,
    /// Some of several things failed; each was reported by itself.
    Incomplete,
    /// A fault of this program: it did what its own rules exclude.
    Internal,
}

/// Which side of a transfer failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Where images are read from: a registry or a bundle.
    Source,
    /// The registry that images are written to.
    Destination,
    /// This machine: its disk, its memory.
    Local,
}

/// One failure: what happened, where, and what to do about it.
///
/// `Display` shows the message alone. The [`hint`](Error::hint) and the [source](std::error::Error::source) are
/// separate, so that a front end decides how to lay them out and nothing is said twice. No message holds a secret:
/// a caller that builds one from a URL redacts its query first. Message and hint are [`Line`]s: foreign text in them
/// is escaped.
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
    /// A failure of this kind; the message is lower-case, names the thing and the place, and has no final period.
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

    /// A state that the rules of this program exclude.
    pub(crate) fn internal(message: impl Into<Line>) -> Self {
        Self::new(Kind::Internal, message).with_hint("this is a fault of docker-mirror: please report it")
    }

    /// A failed file system call: `action` is a verb (`read`, `create`), `path` what it was applied to.
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
            _ => error,
        };
        error.with_source(source).with_side(Side::Local)
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Line>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// Marks a failure that has nothing to do with one image alone: a host that cannot be reached, a login that is refused.
    /// Failures with the same message so far, causes included, have this one cause, which a front end tells once.
    #[must_use]
    pub fn with_shared_cause(self) -> Self {
        let cause = self.full();
        self.with_cause(&cause)
    }

    /// The same with the cause in words.
    #[must_use]
    pub(crate) fn with_cause(mut self, cause: &str) -> Self {
        self.0.shared = Some(cause.to_owned());
        self
    }

    /// Puts `what: ` before the message, for the place that only an outer caller knows.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.0.message = format!("{what}: {}", self.0.message).into();
        self
    }

    /// Says which image the failure is about, before the message.
    #[must_use]
    pub(crate) fn for_image(self, what: impl fmt::Display) -> Self {
        let mut error = self.context(what);
        error.0.names_image = true;
        error
    }

    /// Says which side failed, in place of what was known so far: the outermost caller knows best what it reads from.
    #[must_use]
    pub(crate) fn with_side(mut self, side: Side) -> Self {
        self.0.side = Some(side);
        self
    }

    /// Says which side failed, where that is not known yet.
    #[must_use]
    pub(crate) fn or_side(mut self, side: Side) -> Self {
        self.0.side.get_or_insert(side);
        self
    }

    /// The same failure, sorted differently: what is malformed is wrong usage where the user named it for this run.
    #[must_use]
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Says which failures this one sums up, each with the name of what it is about.
    #[must_use]
    pub fn with_parts(mut self, parts: Vec<(String, Self)>) -> Self {
        self.0.parts = parts;
        self
    }

    /// The failures that this one sums up.
    pub fn parts(&self) -> &[(String, Self)] {
        &self.0.parts
    }

    /// Which side failed, where that is known.
    pub fn side(&self) -> Option<Side> {
        self.0.side
    }

    /// Whether the message says which image it is about.
    pub fn names_image(&self) -> bool {
        self.0.names_image
    }

    /// What the user can do about it, where that is known.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The cause that it shares with failures of other images, where it has such a one.
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
            // A refusal without a word.
            if words.is_empty() {
                continue;
            }
            text.push_str(": ");
            match cause.is::<Self>() {
                true => text.push_str(&words),
                false => text.push_str(&quote(&words).to_string()),
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

/// For reports: what a caller can do about it, the message with all its causes, and the hint.
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
    fn a_fault_of_the_program_asks_for_a_report() {
        let error = Error::internal("no candidate");
        assert_eq!(error.kind(), Kind::Internal);
        assert!(error.hint().is_some_and(|hint| hint.contains("report")));
    }
}
