//! Attachments of the images of a bundle: referrers, and images with a cosign tag.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use super::referrers::ReferrerChoice;
use super::resolve::referrers::{MAX_CHAIN, MAX_REFERRERS, TOO_LONG, TOO_MANY};
use crate::bundle::read::{Bundle, BundledImage, Referrer};
use crate::error::{Error, Kind, Result};
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;
use crate::image::manifest::View;
use crate::image::platform::PlatformFilter;
use crate::image::referrer::{artifact_type, parse_tag_beside, subject};
use crate::image::tree::{Attachment, ImageTree, LeftOut, Lookup, Variant, is_attached, shared};

/// Finds the attachments of the images of a bundle.
pub(super) struct Attacher<'a> {
    bundle: &'a Bundle,
    choice: &'a ReferrerChoice,
    /// Referrers of the bundle, by the digest of their subject.
    referrers: HashMap<&'a Digest, Vec<&'a Referrer>>,
    /// Referrers that the record of an image lists. Each belongs to the images whose records list it: an image of the same
    /// digest in another repository may lack it.
    recorded: HashSet<&'a Digest>,
    /// Images with a cosign tag, by their repository and the referrers tag of their subject.
    beside: HashMap<(String, String), Vec<Beside<'a>>>,
    /// Positions in the bundle of the images that were attached to another image.
    claimed: HashSet<usize>,
}

/// An image with a cosign tag: its position in the bundle, the image, and the suffix of its tag.
type Beside<'a> = (usize, &'a BundledImage, &'static str);

/// An attachment of a manifest, before its manifests are read.
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
            recorded: HashSet::new(),
            beside: HashMap::new(),
            claimed: HashSet::new(),
        };
        for referrer in bundle.referrers() {
            attacher.referrers.entry(&referrer.subject).or_default().push(referrer);
        }
        for (place, image) in bundle.images().iter().enumerate() {
            let recorded = image.record.iter().flat_map(|record| &record.referrers);
            attacher.recorded.extend(recorded.map(|referrer| &referrer.digest));
            if image.attached_to.is_some()
                && let Some((subject, suffix)) = image.name.tag().and_then(parse_tag_beside)
            {
                let key = (image.name.name(), subject.to_owned());
                attacher.beside.entry(key).or_default().push((place, image, suffix));
            }
        }
        attacher
    }

    /// Returns whether the attachments of an image depend on its repository.
    pub(super) fn depends_on_repository(&self) -> bool {
        !self.beside.is_empty()
    }

    /// Returns whether the image at this position is an image of its own, after the images it may belong to were read.
    ///
    /// An image with a cosign tag is none if it was attached to an image, or if the user may have left out what it belongs
    /// to: with a selection of platforms, or without referrers.
    pub(super) fn is_separate(&self, place: usize, image: &BundledImage, platforms: Option<&PlatformFilter>) -> bool {
        let is_left_out = platforms.is_some() || !self.choice.is_any();
        !(self.claimed.contains(&place) || image.attached_to.is_some() && is_left_out)
    }

    /// Adds the attachments of all manifests to the tree, and the attachments of these attachments.
    /// Incomplete attachments are left out, with the reason.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] if the attachments exceed the memory limit, and [`Kind::NotFound`] if referrers are required and
    /// the image has none.
    pub(super) fn attach(&mut self, tree: &mut ImageTree, image: &BundledImage) -> Result<()> {
        let repository = image.name.name();
        let own: Option<HashSet<&Digest>> = image
            .record
            .as_ref()
            .map(|record| record.referrers.iter().map(|referrer| &referrer.digest).collect());
        let is_of_others =
            |digest: &Digest| own.as_ref().is_some_and(|own| !own.contains(digest)) && self.recorded.contains(digest);
        let mut subjects: Vec<Digest> = tree.own_manifests().map(|manifest| manifest.digest().clone()).collect();
        let mut search = Search::new(&subjects);
        for depth in 0..=MAX_CHAIN {
            let mut next = Vec::new();
            for subject in std::mem::take(&mut subjects) {
                for found in self.referrers_of(&subject, &repository) {
                    if matches!(found, Found::Referrer(referrer) if is_of_others(&referrer.root.digest)) {
                        continue;
                    }
                    if let Found::Beside(place, ..) = found {
                        self.claimed.insert(place);
                    }
                    next.extend(self.add(&mut search, found, &subject, depth)?);
                }
            }
            subjects = next;
        }
        let Search {
            attachments,
            mut left_out,
            seen,
            mut searched,
            ..
        } = search;
        tree.lacks_referrers |= search.lacks_referrers;
        searched.extend(seen);
        let unlisted = self.unlisted(&searched);
        if self.choice.is_required() {
            let lost = left_out.first().filter(|_| tree.lacks_referrers);
            check_required(unlisted.first().or(lost), !attachments.is_empty())?;
        }
        left_out.extend(unlisted);
        tree.attachments = shared(attachments);
        tree.left_out_referrers = shared(left_out);
        Ok(())
    }

    /// Adds an attachment of `subject` to the search, unless it is there already, or records why it is left out.
    /// Returns the manifests whose attachments are searched next.
    fn add(&self, search: &mut Search, found: Found<'_>, subject: &Digest, depth: usize) -> Result<Vec<Digest>> {
        let (root, lookup) = (found.root(), found.lookup());
        // An image that states its subject and also has a cosign tag is attached in both ways.
        let is_new = search.seen.insert(root.digest.clone());
        let is_known = |attachment: &Attachment| *attachment.variant.root.digest() == root.digest;
        let is_twin = lookup != Lookup::Subject || search.attachments.iter().any(is_known);
        if is_attached(&search.attachments, &root.digest, subject, lookup) || (!is_new && !is_twin) {
            return Ok(Vec::new());
        }
        if !self.choice.is_any() {
            let reason = format!("it refers to {subject}, and referrers are not carried");
            search.leave_out(root, &root.media_type, reason);
            return Ok(Vec::new());
        }
        let variant = match search.lost.contains(subject) {
            true => Err(Error::new(Kind::NotFound, "what it refers to is not carried")),
            false => self.variant(found, subject),
        };
        let variant = match variant {
            Ok(variant) => variant,
            Err(error) if error.kind() == Kind::TooLarge => return Err(error),
            Err(error) => {
                search.lacks_referrers = true;
                let reason = format!("it refers to {subject}, and {}", error.full());
                search.leave_out(root, &root.media_type, reason);
                if !is_new || depth == MAX_CHAIN {
                    return Ok(Vec::new());
                }
                // Referrers of a lost referrer are lost as well, and are recorded in the next round.
                search.lost.insert(root.digest.clone());
                search.searched.insert(root.digest.clone());
                return Ok(vec![root.digest.clone()]);
            }
        };
        let kind = artifact_type(&variant.root, matches!(found, Found::Beside(..)));
        if !self.choice.takes(&kind) {
            return Ok(Vec::new());
        }
        if search.attachments.len() == MAX_REFERRERS || depth == MAX_CHAIN {
            // A limit of this program is no fault of the bundle, so that only users who require all referrers get an error.
            search.lacks_referrers |= self.choice.is_required();
            let reason = if depth == MAX_CHAIN { TOO_LONG } else { TOO_MANY };
            search.leave_out(root, &kind, reason.to_owned());
            return Ok(Vec::new());
        }
        // A referrer that is an index has manifests below it, which others may refer to.
        let manifests = variant.all().map(|manifest| manifest.digest());
        let new = manifests.filter(|digest| search.searched.insert((*digest).clone()));
        let new = new.cloned().collect();
        search.attachments.push(Attachment {
            variant,
            subject: subject.clone(),
            lookup,
        });
        Ok(new)
    }

    /// Returns the referrers of these manifests that the record of a bundle has and its `index.json` lacks.
    fn unlisted(&self, carried: &HashSet<Digest>) -> Vec<LeftOut> {
        let lost = self.bundle.lost_referrers().iter().filter(|lost| {
            let is_wanted = self.choice.is_any() && self.choice.takes(&lost.artifact_type);
            is_wanted && carried.contains(&lost.subject) && !carried.contains(&lost.digest)
        });
        let left_out = lost.map(|lost| LeftOut {
            digest: lost.digest.clone(),
            media_type: lost.artifact_type.clone(),
            reason: format!(
                "it refers to {}, and `index.json` of the bundle does not list it",
                lost.subject
            ),
        });
        left_out.collect()
    }

    /// Returns the possible attachments of a subject in a repository.
    fn referrers_of(&self, subject: &Digest, repository: &str) -> Vec<Found<'a>> {
        let referrers = self.referrers.get(subject).into_iter().flatten();
        let key = (repository.to_owned(), subject.referrers_tag());
        let mut beside: Vec<Beside<'a>> = self.beside.get(&key).cloned().unwrap_or_default();
        // Two bundles may have the signatures of two moments under one tag. The one with more signatures goes first: it may
        // contain the others.
        if beside.len() > 1 {
            beside.sort_by_cached_key(|(_, image, _)| Reverse(self.layers_of(image)));
        }
        let beside = beside
            .into_iter()
            .map(|(place, image, suffix)| Found::Beside(place, image, suffix));
        referrers
            .map(|referrer| Found::Referrer(referrer))
            .chain(beside)
            .collect()
    }

    fn layers_of(&self, image: &BundledImage) -> usize {
        match self.bundle.tree_of(image).map(|tree| tree.original.root) {
            Ok(root) => match root.view() {
                View::Image(image) => image.layers.len(),
                _ => 0,
            },
            Err(_) => 0,
        }
    }

    /// Reads the manifests of an attachment, and checks that a referrer states `of` as its subject.
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

/// The search for the attachments of one image.
struct Search {
    attachments: Vec<Attachment>,
    left_out: Vec<LeftOut>,
    /// Manifests of the image, and all attachments that were found.
    seen: HashSet<Digest>,
    /// Manifests whose attachments are searched.
    searched: HashSet<Digest>,
    /// Attachments that cannot be read.
    lost: HashSet<Digest>,
    /// Whether a wanted attachment is left out.
    lacks_referrers: bool,
}

impl Search {
    /// Begins with the manifests of the image.
    fn new(manifests: &[Digest]) -> Self {
        let seen: HashSet<Digest> = manifests.iter().cloned().collect();
        Self {
            attachments: Vec::new(),
            left_out: Vec::new(),
            searched: seen.clone(),
            seen,
            lost: HashSet::new(),
            lacks_referrers: false,
        }
    }

    /// Records why an attachment is left out. Only its first reason counts.
    fn leave_out(&mut self, root: &Descriptor, media_type: &str, reason: String) {
        if self.left_out.iter().all(|left| left.digest != root.digest) {
            self.left_out.push(LeftOut {
                digest: root.digest.clone(),
                media_type: media_type.to_owned(),
                reason,
            });
        }
    }
}

/// Returns an error if an image that requires referrers lost one, or has none.
fn check_required(lost: Option<&LeftOut>, has_any: bool) -> Result<()> {
    let what = match (lost, has_any) {
        (Some(lost), _) => format!("{} cannot be carried: {}", lost.digest, lost.reason),
        (None, false) => "it has no signature or other referrer of the requested types".to_owned(),
        (None, true) => return Ok(()),
    };
    Err(Error::new(Kind::NotFound, what).with_hint("omit `--referrers require` to push it without"))
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
