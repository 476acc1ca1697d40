//! Name overrides: the names that a user gives to images of an archive (`--name`).

use std::fmt;
use std::str::FromStr;

use super::broken::BrokenImage;
use super::contents::BundledImage;
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;
use crate::image::digest_tag::states_digest;
use crate::image::reference::Reference;
use crate::text::{few, quote};

/// The image that a name override applies to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The image without a name.
    Nameless,
    /// The image at this place of the archive, counted from 0.
    Place(usize),
    /// The image whose root has this digest.
    Digest(Digest),
}

/// A name override for an image: `NAME`, `@N=NAME` or `DIGEST=NAME`.
///
/// `NAME` alone applies to the image without a name. If the archive has only a tag for that image, the tag is appended to
/// the repository of `NAME`, unless `NAME` has a tag other than `latest`. With a place or a digest, the override replaces
/// every name of that image.
///
/// ```
/// use docker_mirror::{GivenName, Which};
/// let given: GivenName = "@2=quay.io/a/b:1".parse().unwrap();
/// assert_eq!((given.which, given.name.to_string().as_str()), (Which::Place(2), "quay.io/a/b:1"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenName {
    /// The image that the override applies to.
    pub which: Which,
    /// The name for the image.
    pub name: Reference,
}

impl FromStr for GivenName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let Some((which, name)) = text.split_once('=') else {
            return Ok(Self::from(text.parse::<Reference>()?));
        };
        let invalid = || {
            Error::new(
                Kind::Usage,
                format!(
                    "`{}` is neither a place (`@0`) nor a digest (`sha256:...`)",
                    quote(&which)
                ),
            )
            .with_hint("write `NAME`, `@N=NAME` or `sha256:...=NAME`")
        };
        let which = match which.trim().strip_prefix('@') {
            // `parse` alone would also accept a sign.
            Some(place) if place.bytes().all(|b| b.is_ascii_digit()) => {
                Which::Place(place.parse().map_err(|_| invalid())?)
            }
            Some(_) => return Err(invalid()),
            None => Which::Digest(which.trim().parse().map_err(|_| invalid())?),
        };
        Ok(Self {
            which,
            name: name.parse()?,
        })
    }
}

impl From<Reference> for GivenName {
    fn from(name: Reference) -> Self {
        Self {
            which: Which::Nameless,
            name,
        }
    }
}

impl fmt::Display for GivenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.which {
            Which::Nameless => {}
            Which::Place(place) => write!(f, "@{place}=")?,
            Which::Digest(digest) => write!(f, "{digest}=")?,
        }
        write!(f, "{}", self.name)
    }
}

/// All name overrides, with a note of which of them were used.
pub(super) struct NameOverrides<'a> {
    names: &'a [GivenName],
    used: Vec<bool>,
}

impl<'a> NameOverrides<'a> {
    /// Checks that the overrides are unambiguous; `archives` is the number of opened archives.
    pub(super) fn new(names: &'a [GivenName], archives: usize) -> Result<Self> {
        let alone: Vec<&GivenName> = names.iter().filter(|given| given.which == Which::Nameless).collect();
        if let [first, second, ..] = alone.as_slice() {
            return Err(Error::new(
                Kind::Usage,
                format!("`--name {first}` and `--name {second}` are both for the one image without a name"),
            )
            .with_hint("say which image each is for: `--name @N=NAME` or `--name sha256:...=NAME`"));
        }
        let placed = names.iter().find(|given| matches!(given.which, Which::Place(_)));
        if let Some(placed) = placed.filter(|_| archives > 1) {
            return Err(Error::new(
                Kind::Usage,
                format!("`--name {placed}` counts the images of one archive, and there are {archives}"),
            )
            .with_hint("say which image is meant by its digest (`--name sha256:...=NAME`), or import one by one"));
        }
        Ok(Self {
            names,
            used: vec![false; names.len()],
        })
    }

    /// Returns the names for the image at this place or with this digest,
    /// and marks their overrides as used.
    pub(super) fn names_for(&mut self, place: usize, digest: Option<&Digest>) -> Vec<Reference> {
        let mut found = Vec::new();
        for (given, used) in self.names.iter().zip(&mut self.used) {
            let fits = match &given.which {
                Which::Nameless => false,
                Which::Place(wanted) => *wanted == place,
                Which::Digest(wanted) => Some(wanted) == digest,
            };
            if fits {
                *used = true;
                found.push(given.name.clone());
            }
        }
        found
    }

    /// Returns the name for the image without a name.
    pub(super) fn nameless(&self) -> Option<&'a Reference> {
        let alone = self.names.iter().find(|given| given.which == Which::Nameless);
        alone.map(|given| &given.name)
    }

    /// Checks that every override was applied to an image. An override without effect would leave
    /// an image under a name that the user does not expect.
    pub(super) fn check(&self, images: &[BundledImage], broken: &[BrokenImage]) -> Result<()> {
        let names = || {
            let broken = broken.iter().filter_map(|image| image.name.as_ref());
            images.iter().map(|image| &image.name).chain(broken)
        };
        for given in self.names.iter().filter(|given| states_digest(&given.name)) {
            let is_false = |image: &&BrokenImage| {
                image.error.kind() == Kind::Integrity && image.name.as_ref() == Some(&given.name)
            };
            if let Some(image) = broken.iter().filter(|image| image.is_misnamed).find(is_false) {
                let error = Error::clone(&image.error).with_kind(Kind::Usage);
                return Err(error
                    .context(format!("`--name {given}`"))
                    .with_hint("give the digest that the image has, or a name without a digest"));
            }
        }
        for (given, used) in self.names.iter().zip(&self.used) {
            let repository = |name: &Reference| (name.host().to_owned(), name.repository().to_owned());
            let is_used = match given.which {
                Which::Nameless => names().any(|name| repository(name) == repository(&given.name)),
                _ => *used,
            };
            if is_used {
                continue;
            }
            let known = images
                .iter()
                .map(|image| format!("`{}` (@{}, {})", image.name, image.place, image.root.digest));
            let known = few(known.chain(broken.iter().map(|image| format!("`{}`", image.label))));
            let why = match given.which {
                Which::Nameless => "every image has a name of its own",
                Which::Place(_) => "the archive has no image at this position",
                Which::Digest(_) => "no image has this digest",
            };
            return Err(Error::new(
                Kind::Usage,
                format!("`--name {given}` has no effect, since {why}: {known}"),
            )
            .with_hint(match given.which {
                Which::Nameless => "omit it; `--map` puts images elsewhere",
                _ => "name one of these, by its place (`@0` is the first one) or its digest",
            }));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammar() {
        let digest = Digest::sha256(b"x");
        for (text, shown) in [
            ("a", "docker.io/library/a:latest".to_owned()),
            ("@0=a:1", "@0=docker.io/library/a:1".to_owned()),
            (" @12 =quay.io/a/b", "@12=quay.io/a/b:latest".to_owned()),
            (&format!("{digest}=a"), format!("{digest}=docker.io/library/a:latest")),
        ] {
            let given: GivenName = text.parse().unwrap();
            assert_eq!(given.to_string(), shown);
            assert_eq!(shown.parse::<GivenName>().unwrap(), given);
        }
        for wrong in [
            "@=a",
            "@x=a",
            "@-1=a",
            "@+1=a",
            "=a",
            "b=a",
            "sha256:1=a",
            "@1=",
            "@1=A B",
            "@1",
        ] {
            assert!(wrong.parse::<GivenName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let names: Vec<GivenName> = ["a", "b"].map(|text| text.parse().unwrap()).into();
        assert!(NameOverrides::new(&names, 1).is_err());
        let names: Vec<GivenName> = ["a", "@1=b"].map(|text| text.parse().unwrap()).into();
        assert!(NameOverrides::new(&names, 1).is_ok());
        let error = NameOverrides::new(&names, 2).err().unwrap();
        assert!(error.to_string().contains("@1=docker.io/library/b:latest"), "{error}");
    }
}
