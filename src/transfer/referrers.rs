//! Which of the manifests that refer to an image travel with it.

use globset::{GlobBuilder, GlobMatcher};

use crate::error::{Error, Kind, Result, Side};
use crate::registry::Refusal;
use crate::text::quote;

/// Which signatures, attestations, SBOMs and other referrers are carried. The default is none.
#[derive(Debug, Clone, Default)]
pub struct ReferrerChoice {
    carried: bool,
    required: bool,
    /// The texts of the patterns, by which two choices are compared.
    texts: Vec<String>,
    types: Vec<GlobMatcher>,
}

impl ReferrerChoice {
    /// Everything that refers to a manifest that is carried.
    pub fn all() -> Self {
        Self {
            carried: true,
            ..Self::default()
        }
    }

    /// What the user says: `require`, and patterns (`*`, `?`, `[…]`, `{a,b}`) on artifact types. Without a pattern all types are
    /// carried.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a pattern that is none.
    pub fn from_flags(flags: &[String]) -> Result<Self> {
        let mut choice = Self::all();
        for flag in flags {
            if flag == "require" {
                choice.required = true;
                continue;
            }
            let shown = quote(flag);
            if flag.is_empty() {
                return Err(Error::new(Kind::Usage, "the artifact type of referrers is empty")
                    .with_hint("write a type such as `application/vnd.dev.sigstore.*`, or `require`"));
            }
            let glob = GlobBuilder::new(flag).build().map_err(|e| {
                Error::new(Kind::Usage, format!("invalid pattern for artifact types `{shown}`")).with_source(e)
            })?;
            choice.types.push(glob.compile_matcher());
            choice.texts.push(flag.clone());
        }
        Ok(choice)
    }

    /// Whether any are carried.
    pub fn is_any(&self) -> bool {
        self.carried
    }

    /// Whether an image without a signature is an error, and one that loses a signature.
    pub fn is_required(&self) -> bool {
        self.required
    }

    /// Whether a referrer of this artifact type is carried.
    pub(crate) fn takes(&self, artifact_type: &str) -> bool {
        self.carried && (self.types.is_empty() || self.types.iter().any(|glob| glob.is_match(artifact_type)))
    }

    /// What two choices that carry the same have in common.
    pub(crate) fn identity(&self) -> String {
        format!("{} {} {:?}", self.carried, self.required, self.texts)
    }
}

/// Whether an error with a blob or a manifest of a referrer is about that referrer alone: the source lacks it or has other bytes, or
/// the destination refuses it. Then the image goes without it. Any other error says nothing about it: the image fails.
pub(super) fn is_loss(error: &Error) -> bool {
    if matches!(error.kind(), Kind::RateLimited | Kind::Unauthorized | Kind::Network) {
        return false;
    }
    // A source that refuses to tell is no source that lacks it.
    let may_be_denied = error.side() != Some(Side::Source);
    match Refusal::in_error(error).map(|refusal| refusal.status) {
        Some(401 | 407 | 408 | 425 | 429) => false,
        Some(403) => may_be_denied,
        Some(status) => (400..500).contains(&status),
        None => match error.kind() {
            Kind::Malformed | Kind::Integrity | Kind::NotFound | Kind::Unsupported | Kind::Exists => true,
            Kind::Denied => may_be_denied,
            _ => false,
        },
    }
}

/// An error with a blob that only referrers of an image need, for which the image fails.
pub(super) fn context_of_referrer(error: Error) -> Error {
    with_way_without(error.context("what refers to it (signatures, attestations) cannot be carried"))
}

/// Adds the way to carry an image without what cannot be read or sent of its referrers.
pub(super) fn with_way_without(error: Error) -> Error {
    const WITHOUT: &str = "`--no-referrers` carries the image without signatures";
    let hint = match error.hint() {
        Some(hint) => format!("{hint}; {WITHOUT}"),
        None => WITHOUT.to_owned(),
    };
    error.with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_on_artifact_types_choose() {
        let bundle = "application/vnd.dev.sigstore.bundle.v0.3+json";
        let sbom = "application/spdx+json";
        for (flags, expected) in [
            (&[][..], [true, true]),
            (&["require"], [true, true]),
            (&["application/vnd.dev.sigstore.*"], [true, false]),
            (&["*spdx*", "require"], [false, true]),
            (&["*/vnd.*", "application/spdx+json"], [true, true]),
            (&["text/*"], [false, false]),
        ] {
            let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
            let choice = ReferrerChoice::from_flags(&flags).unwrap();
            assert_eq!([choice.takes(bundle), choice.takes(sbom)], expected, "{flags:?}");
            assert_eq!(choice.is_required(), flags.contains(&"require".to_owned()));
        }
        assert!(!ReferrerChoice::default().takes(sbom));
        for bad in ["", "["] {
            let error = ReferrerChoice::from_flags(&[bad.to_owned()]).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{bad}");
        }
    }
}
