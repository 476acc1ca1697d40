//! `--only`: selects the images of a bundle that match the user's patterns.

use std::collections::HashSet;

use globset::GlobBuilder;

use crate::error::{Error, Kind, Result};
use crate::image::reference::Reference;
use crate::text::{few, quote};

/// An image that patterns can select.
pub(super) enum Candidate<'a> {
    /// An image with a reference.
    Named(&'a Reference),
    /// An image without a reference, identified by a label.
    Nameless(&'a str),
}

impl Candidate<'_> {
    /// Returns the name or label that messages show for the image.
    fn label(&self) -> String {
        match self {
            Self::Named(name) => name.to_string(),
            Self::Nameless(label) => (*label).to_owned(),
        }
    }

    /// Returns all spellings of the image that a pattern may match.
    fn forms(&self) -> Vec<String> {
        match self {
            Self::Named(name) => forms(name),
            Self::Nameless(label) => vec![(*label).to_owned()],
        }
    }
}

/// Returns for each image whether any of the patterns selects it. No patterns select all images.
///
/// # Errors
/// [`Kind::NotFound`] if `images` is empty or a pattern matches no image, and [`Kind::Usage`] for an invalid pattern.
pub(super) fn choose(images: &[Candidate<'_>], patterns: &[String]) -> Result<Vec<bool>> {
    if images.is_empty() {
        return Err(Error::new(Kind::NotFound, "the bundle holds no image"));
    }
    if patterns.is_empty() {
        return Ok(vec![true; images.len()]);
    }
    let mut chosen = vec![false; images.len()];
    for pattern in patterns {
        let shown = quote(&pattern);
        let matcher = GlobBuilder::new(pattern)
            .build()
            .map_err(|e| Error::new(Kind::Usage, format!("invalid pattern `{shown}`")).with_source(e))?
            .compile_matcher();
        let fits = |image: &Candidate<'_>| image.forms().iter().any(|form| matcher.is_match(form));
        let fits: Vec<bool> = images.iter().map(fits).collect();
        if !fits.contains(&true) {
            // Signatures are selected by the names of their images.
            let mut seen = HashSet::new();
            let labels = images.iter().map(Candidate::label);
            let known = few(labels
                .filter(|label| seen.insert(label.clone()))
                .map(|label| format!("`{}`", quote(&label))));
            return Err(
                Error::new(Kind::NotFound, format!("no image of the bundle matches `{shown}`")).with_hint(format!(
                    "a pattern is held against the whole reference, so `*` may be missing at its start or its end; the bundle \
                     contains {known}"
                )),
            );
        }
        chosen.iter_mut().zip(fits).for_each(|(chosen, fits)| *chosen |= fits);
    }
    Ok(chosen)
}

/// Returns every spelling of a reference that a user may type.
fn forms(name: &Reference) -> Vec<String> {
    let full = name.to_string();
    let bare = name.name();
    let tagged = name.tag().map(|tag| format!("{bare}:{tag}"));
    let mut forms = Vec::new();
    for form in [Some(full), tagged, Some(bare)].into_iter().flatten() {
        let short = form.strip_prefix("docker.io/").map(str::to_owned);
        let shorter = form.strip_prefix("docker.io/library/").map(str::to_owned);
        forms.extend([Some(form), short, shorter].into_iter().flatten());
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_what_a_user_types() {
        let names: Vec<Reference> = ["hello-world", "golang:alpine", "quay.io/a/golang:1", "b/c"]
            .iter()
            .map(|name| name.parse().unwrap())
            .collect();
        let images: Vec<Candidate<'_>> = names.iter().map(Candidate::Named).collect();
        let chosen = |patterns: &[&str]| {
            let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
            match choose(&images, &patterns) {
                Ok(chosen) => {
                    let chosen = names.iter().zip(chosen).filter(|(_, chosen)| *chosen);
                    chosen.map(|(name, _)| name.to_string()).collect::<Vec<_>>().join(" ")
                }
                Err(error) => error.full(),
            }
        };
        assert_eq!(chosen(&["hello-world"]), "docker.io/library/hello-world:latest");
        assert_eq!(chosen(&["golang:*"]), "docker.io/library/golang:alpine");
        assert_eq!(
            chosen(&["*golang:*"]),
            "docker.io/library/golang:alpine quay.io/a/golang:1"
        );
        assert_eq!(chosen(&["quay.io/*", "b/c"]), "quay.io/a/golang:1 docker.io/b/c:latest");
        assert_eq!(chosen(&[]).split(' ').count(), 4);
        assert_eq!(chosen(&["b/c", "nothing"]), "no image of the bundle matches `nothing`");
        assert!(chosen(&["["]).starts_with("invalid pattern"));
    }
}
