//! What belongs to the images of a bundle: manifests that refer to theirs, and what has a tag of cosign beside them.

use std::collections::{HashMap, HashSet};

use super::referrers::ReferrerChoice;
use super::resolve::referrers::{MAX_CHAIN, MAX_REFERRERS};
use crate::bundle::read::{Bundle, BundledImage, Referrer};
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::referrer::{artifact_type, parse_tag_beside, subject};
use crate::image::tree::{Attachment, ImageTree, LeftOut, Lookup, Variant, is_attached};

/// Gives the images of a bundle what belongs to them.
pub(super) struct Attacher<'a> {
    bundle: &'a Bundle,
    choice: &'a ReferrerChoice,
    /// By what they refer to.
    referrers: HashMap<&'a Digest, Vec<&'a Referrer>>,
    /// What stands beside images, by repository and by what it belongs to; with its place in the bundle.
    beside: HashMap<(String, Digest), Vec<Beside<'a>>>,
    /// Places of what was given to an image.
    claimed: HashSet<usize>,
}

/// An image with a tag beside another one: its place in the bundle, and how its tag ends.
type Beside<'a> = (usize, &'a BundledImage, &'static str);

/// Something that belongs to a manifest.
#[derive(Clone, Copy)]
enum Found<'a> {
    Referrer(&'a Referrer),
    Beside(usize, &'a BundledImage, &'static str),
}

impl<'a> Attacher<'a> {
    pub(super) fn new(bundle: &'a Bundle, choice: &'a ReferrerChoice) -> Self {
        let mut attacher = Self {
            bundle,
            choice,
            referrers: HashMap::new(),
            beside: HashMap::new(),
            claimed: HashSet::new(),
        };
        for referrer in bundle.referrers() {
            attacher.referrers.entry(&referrer.subject).or_default().push(referrer);
        }
        for (place, image) in bundle.images().iter().enumerate() {
            if choice.is_any()
                && image.attached_to.is_some()
                && let Some((subject, suffix)) = image.name.tag().and_then(parse_tag_beside)
            {
                let key = (image.name.name(), subject);
                attacher.beside.entry(key).or_default().push((place, image, suffix));
            }
        }
        attacher
    }

    /// Whether what belongs to an image depends on its repository.
    pub(super) fn depends_on_repository(&self) -> bool {
        !self.beside.is_empty()
    }

    /// Whether something that has a name of its own was given to an image, so that it is none itself.
    pub(super) fn is_claimed(&self, place: usize) -> bool {
        self.claimed.contains(&place)
    }

    /// Adds to a tree what belongs to its manifests, and what belongs to that. What is not whole is left out.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if it does not fit into memory.
    pub(super) fn attach(&mut self, tree: &mut ImageTree, repository: &str) -> Result<()> {
        let mut subjects: Vec<Digest> = tree.own_manifests().map(|manifest| manifest.digest().clone()).collect();
        let mut seen: HashSet<Digest> = subjects.iter().cloned().collect();
        let mut attachments: Vec<Attachment> = Vec::new();
        let mut left_out = Vec::new();
        let mut lost: HashSet<Digest> = HashSet::new();
        for depth in 0..=MAX_CHAIN {
            let mut next = Vec::new();
            for subject in std::mem::take(&mut subjects) {
                for found in self.referrers_of(&subject, repository) {
                    if let Found::Beside(place, ..) = found {
                        self.claimed.insert(place);
                    }
                    let (root, lookup) = (found.root(), found.lookup());
                    // One that states its subject and has a tag beside it is carried by both.
                    let is_new = seen.insert(root.digest.clone());
                    let is_twin = lookup != Lookup::Subject
                        || attachments.iter().any(|it| *it.variant.root.digest() == root.digest);
                    if is_attached(&attachments, &root.digest, &subject, lookup) || (!is_new && !is_twin) {
                        continue;
                    }
                    let mut leave = |media_type: &str, reason: String| {
                        if left_out.iter().any(|left: &LeftOut| left.digest == root.digest) {
                            return;
                        }
                        left_out.push(LeftOut {
                            digest: root.digest.clone(),
                            media_type: media_type.to_owned(),
                            reason,
                        });
                    };
                    if !self.choice.is_any() {
                        leave(
                            &root.media_type,
                            format!("it refers to {subject}, and referrers are not carried"),
                        );
                        continue;
                    }
                    let variant = match lost.contains(&subject) {
                        true => Err(Error::new(Kind::NotFound, "what it refers to is not carried")),
                        false => self.variant(found, &subject),
                    };
                    let variant = match variant {
                        Ok(variant) => variant,
                        Err(error) if error.kind() == Kind::TooLarge => return Err(error),
                        Err(error) => {
                            tree.lacks_referrers = true;
                            leave(
                                &root.media_type,
                                format!("it refers to {subject}, and {}", error.full()),
                            );
                            // What refers to it is lost with it.
                            if is_new && depth < MAX_CHAIN {
                                lost.insert(root.digest.clone());
                                next.push(root.digest.clone());
                            }
                            continue;
                        }
                    };
                    let kind = artifact_type(&variant.root, matches!(found, Found::Beside(..)));
                    if !self.choice.takes(&kind) {
                        continue;
                    }
                    if attachments.len() == MAX_REFERRERS || depth == MAX_CHAIN {
                        tree.lacks_referrers = true;
                        leave(
                            &kind,
                            format!(
                                "more than {MAX_REFERRERS} manifests, or a chain of more than {MAX_CHAIN}, refer to the image"
                            ),
                        );
                        continue;
                    }
                    if is_new {
                        next.push(root.digest.clone());
                    }
                    attachments.push(Attachment {
                        variant,
                        subject: subject.clone(),
                        lookup,
                    });
                }
            }
            subjects = next;
        }
        if self.choice.is_required() {
            let lost = left_out.first().filter(|_| tree.lacks_referrers);
            let what = match lost {
                Some(lost) => Some(format!("{} cannot be carried: {}", lost.digest, lost.reason)),
                None => {
                    let nothing = "nothing that is wanted refers to it: it has no signature";
                    attachments.is_empty().then(|| nothing.to_owned())
                }
            };
            if let Some(what) = what {
                let hint = "omit `--referrers require` to push it without";
                return Err(Error::new(Kind::NotFound, what).with_hint(hint));
            }
        }
        tree.attachments = attachments.into();
        tree.left_out_referrers = left_out.into();
        Ok(())
    }

    fn referrers_of(&self, subject: &Digest, repository: &str) -> Vec<Found<'a>> {
        let referrers = self.referrers.get(subject).into_iter().flatten();
        let key = (repository.to_owned(), subject.clone());
        let beside = self.beside.get(&key).into_iter().flatten();
        let beside = beside.map(|(place, image, suffix)| Found::Beside(*place, image, suffix));
        referrers
            .map(|referrer| Found::Referrer(referrer))
            .chain(beside)
            .collect()
    }

    fn variant(&self, found: Found<'_>, of: &Digest) -> Result<Variant> {
        match found {
            Found::Beside(_, image, _) => Ok(self.bundle.tree_of(image)?.original),
            Found::Referrer(referrer) => {
                let variant = self.bundle.referrer_tree(referrer)?;
                if subject(&variant.root).as_ref() != Some(of) {
                    let what = "its own manifest does not say so, by which a registry would find it";
                    return Err(Error::new(Kind::Malformed, what));
                }
                Ok(variant)
            }
        }
    }
}

impl<'a> Found<'a> {
    fn lookup(self) -> Lookup {
        match self {
            Self::Referrer(_) => Lookup::Subject,
            Self::Beside(_, _, suffix) => Lookup::Tag(suffix),
        }
    }

    fn root(self) -> &'a Descriptor {
        match self {
            Self::Referrer(referrer) => &referrer.root,
            Self::Beside(_, image, _) => &image.root,
        }
    }
}
