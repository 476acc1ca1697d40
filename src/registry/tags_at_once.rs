//! Several tags of one manifest in one request, which some registries support.
//! See OCI distribution-spec, "Pushing Manifests", end-7b.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU8, Ordering};

use super::answer::Answer;

/// Maximum number of tags in one request.
/// A registry that supports several should accept ten (OCI distribution-spec).
pub(crate) const TAGS_AT_ONCE: usize = 10;

/// Minimum number of tags to try a host whose support is unknown.
/// On a host without support, the try costs one request.
const WORTH_A_TRY: usize = 4;

const UNKNOWN: u8 = 0;
/// The first request is in flight; until its answer, other requests have one tag each.
const ASKED: u8 = 1;
const YES: u8 = 2;
const NO: u8 = 3;

/// Whether a host accepts several tags in one request.
#[derive(Debug, Default)]
pub(super) struct TagsAtOnce(AtomicU8);

impl TagsAtOnce {
    /// Returns whether to try a request with this many tags.
    /// After `true` the caller has to call [`learn`](Self::learn).
    pub(super) fn may_try(&self, tags: usize) -> bool {
        if tags < 2 || (tags < WORTH_A_TRY && self.0.load(Ordering::Relaxed) != YES) {
            return false;
        }
        let first = self
            .0
            .compare_exchange(UNKNOWN, ASKED, Ordering::Relaxed, Ordering::Relaxed);
        first.is_ok() || first == Err(YES)
    }

    /// Records whether the host accepted several tags; `None` if the answer says nothing about that.
    pub(super) fn learn(&self, takes: Option<bool>) {
        let state = match takes {
            Some(true) => YES,
            Some(false) => NO,
            None => UNKNOWN,
        };
        self.0.store(state, Ordering::Relaxed);
    }
}

/// Returns the tags of a request that the answer confirms in `OCI-Tag`.
/// There may be one or several headers, each with one or several tags (RFC 9110, section 5).
pub(super) fn confirmed(answer: &Answer, sent: &[&str]) -> Vec<String> {
    let lines = answer.headers().get_all("oci-tag").into_iter();
    let stated: HashSet<&str> = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(',').map(str::trim))
        .collect();
    let sent = sent.iter().filter(|tag| stated.contains(**tag));
    sent.map(|tag| (*tag).to_owned()).collect()
}
