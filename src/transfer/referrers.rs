//! Selection of the referrers that are carried with an image.

use globset::{GlobBuilder, GlobMatcher};

use crate::error::{Error, Kind, Result, Side};
use crate::image::tree::{ImageTree, attachments_of_manifests};
use crate::registry::Refusal;
use crate::text::quote;

/// The signatures, attestations, SBOMs and other referrers to carry. The default carries none.
#[derive(Debug, Clone, Default)]
pub struct ReferrerChoice {
    carried: bool,
    required: bool,
    /// Texts of the patterns, for comparing two choices.
    texts: Vec<String>,
    types: Vec<GlobMatcher>,
}

impl ReferrerChoice {
    /// Carries every referrer of every carried manifest.
    pub fn all() -> Self {
        Self {
            carried: true,
            ..Self::default()
        }
    }

    /// Parses the user's flags:
    /// `require`, and patterns (`*`, `?`, `[…]`, `{a,b}`) for artifact types. Without a pattern, all types are carried.
    ///
    /// # Errors
    /// [`Kind::Usage`] for an empty or invalid pattern, and for a word that can be no type, such as a mistyped `require`.
    pub fn from_flags(flags: &[String]) -> Result<Self> {
        let mut choice = Self::all();
        for flag in flags {
            if flag == "require" {
                choice.required = true;
                continue;
            }
            let shown = quote(flag);
            let problem = match flag.contains(['/', '*', '?', '[', '{']) {
                _ if flag.is_empty() => Some("the artifact type of referrers is empty".to_owned()),
                false => Some(format!("`{shown}` is no artifact type of referrers: a type has a `/`")),
                true => None,
            };
            if let Some(problem) = problem {
                return Err(Error::new(Kind::Usage, problem)
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

    /// Returns whether referrers are carried at all.
    pub fn is_any(&self) -> bool {
        self.carried
    }

    /// Returns whether an image without a signature, or with a lost signature, is an error.
    pub fn is_required(&self) -> bool {
        self.required
    }

    /// Returns whether referrers of this artifact type are carried.
    pub(crate) fn takes(&self, artifact_type: &str) -> bool {
        self.carried && (self.types.is_empty() || self.types.iter().any(|glob| glob.is_match(artifact_type)))
    }

    /// Returns the patterns for artifact types.
    pub(crate) fn patterns(&self) -> impl Iterator<Item = &str> {
        self.texts.iter().map(String::as_str)
    }

    /// Returns the patterns that match this artifact type.
    pub(crate) fn patterns_of(&self, artifact_type: &str) -> impl Iterator<Item = &str> {
        let all = self.patterns().zip(&self.types);
        all.filter(move |(_, glob)| glob.is_match(artifact_type))
            .map(|(text, _)| text)
    }

    /// Returns a text that is equal for two choices that carry the same referrers.
    pub(crate) fn identity(&self) -> String {
        format!("{} {} {:?}", self.carried, self.required, self.texts)
    }
}

/// Checks that an image keeps one of its referrers in the form in which it is pushed.
///
/// # Errors
/// [`Kind::NotFound`] if all referrers belong to the unfiltered index, which is not pushed.
pub(super) fn check_pushed_referrers(tree: &ImageTree) -> Result<()> {
    let pushed = attachments_of_manifests(&tree.attachments, tree.pushed().all());
    if tree.attachments.is_empty() || !pushed.is_empty() {
        return Ok(());
    }
    let what = "what refers to it belongs to the unfiltered index, which is not pushed";
    Err(Error::new(Kind::NotFound, what)
        .with_hint("push that index, by `--index sparse` or with all platforms, or omit `--referrers require`"))
}

/// Returns whether an error concerns a single referrer, so that the image is carried without it. Such an error means that
/// the source lacks a blob or manifest of the referrer or has wrong bytes, or that the destination refuses it. The image
/// fails after any other error.
pub(super) fn is_loss(error: &Error) -> bool {
    if matches!(error.kind(), Kind::RateLimited | Kind::Unauthorized | Kind::Network) {
        return false;
    }
    // A source that denies access may still have the referrer.
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

/// Adds context to an error of a referrer's blob that fails the image, and the hint how to omit referrers, which an image of a
/// lock cannot be carried without.
pub(super) fn context_of_referrer(error: Error, is_locked: bool) -> Error {
    let error = about_referrers(error, "what refers to it (signatures, attestations) cannot be carried");
    match is_locked {
        true => error,
        false => with_no_referrers_hint(error),
    }
}

/// Adds context to an error that fails an image because of its referrers. The context is also part of the cause that
/// the error shares with errors of other images: the images themselves could be read.
pub(super) fn about_referrers(error: Error, what: &str) -> Error {
    let cause = error.shared_cause().map(|cause| format!("{what}: {cause}"));
    let error = error.context(what);
    match cause {
        Some(cause) => error.with_cause(&cause),
        None => error,
    }
}

/// Adds the hint that an image can be carried without its referrers.
pub(super) fn with_no_referrers_hint(error: Error) -> Error {
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
        for bad in ["", "[", "Require", "required", "spdx"] {
            let error = ReferrerChoice::from_flags(&[bad.to_owned()]).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{bad}");
        }
    }
}
