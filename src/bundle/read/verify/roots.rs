//! Where the survey of an image with unreadable documents starts.

use std::borrow::Cow;
use std::collections::HashSet;

use crate::bundle::read::BundledImage;
use crate::image::descriptor::Descriptor;
use crate::image::digest::Digest;

/// The manifests at which a survey starts, and what may be absent below them.
pub(super) struct Roots<'a> {
    /// Digest, stated size and media type.
    pub(super) open: Vec<(Digest, Option<u64>, Cow<'static, str>)>,
    /// Manifests of the platforms that the record states. They are surveyed in place of an index that cannot be read.
    pub(super) kept: Vec<Digest>,
    pub(super) dropped: HashSet<&'a Digest>,
    pub(super) may_be_sparse: bool,
    /// Whether configs have to be readable: the platforms of an image are read from its configs.
    pub(super) needs_configs: bool,
}

impl<'a> Roots<'a> {
    pub(super) fn of_image(image: &'a BundledImage) -> Self {
        let record = image.record.as_deref();
        let dropped = record.iter().flat_map(|record| &record.dropped);
        let root = &image.root;
        let both = record
            .into_iter()
            .flat_map(|record| std::iter::once(&record.original).chain(&record.filtered));
        let both = both.map(|digest| (digest.clone(), None, root.media_type.clone()));
        let own = (root.digest.clone(), Some(root.size), root.media_type.clone());
        Self {
            open: std::iter::once(own).chain(both).collect(),
            kept: record
                .into_iter()
                .flat_map(|record| &record.kept)
                .map(|kept| kept.digest.clone())
                .collect(),
            dropped: dropped.map(|dropped| &dropped.digest).collect(),
            may_be_sparse: image.may_be_sparse,
            needs_configs: true,
        }
    }

    pub(super) fn of_referrer(root: &Descriptor) -> Self {
        Self {
            open: vec![(root.digest.clone(), Some(root.size), root.media_type.clone())],
            kept: Vec::new(),
            dropped: HashSet::new(),
            may_be_sparse: false,
            needs_configs: false,
        }
    }
}
