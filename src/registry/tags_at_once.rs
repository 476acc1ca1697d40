//! Several tags of one manifest in one request, which a registry may know (OCI distribution-spec, "Pushing Manifests", end-7b).

use std::collections::HashSet;
use std::sync::atomic::{AtomicU8, Ordering};

use super::answer::Answer;

/// Maximum number of tags in one request: a registry that takes several should take ten (OCI distribution-spec).
pub(crate) const TAGS_AT_ONCE: usize = 10;

/// Number of tags from which on a host of which nothing is known is tried. A registry that does not know such requests is sent
/// one too many by that, which has to be worth it.
const WORTH_A_TRY: usize = 4;

const UNKNOWN: u8 = 0;
/// The first request is on its way; others do without until it is answered.
const ASKED: u8 = 1;
const YES: u8 = 2;
const NO: u8 = 3;

/// Whether a host takes several tags in one request.
#[derive(Debug, Default)]
pub(super) struct TagsAtOnce(AtomicU8);

impl TagsAtOnce {
    /// Whether to try it with so many tags. A `true` while nothing is known is followed by [`learn`](Self::learn).
    pub(super) fn may_try(&self, tags: usize) -> bool {
        if tags < 2 || (tags < WORTH_A_TRY && self.0.load(Ordering::Relaxed) != YES) {
            return false;
        }
        let first = self
            .0
            .compare_exchange(UNKNOWN, ASKED, Ordering::Relaxed, Ordering::Relaxed);
        first.is_ok() || first == Err(YES)
    }

    /// Takes note of the answer; `None` where it says nothing about it.
    pub(super) fn learn(&self, takes: Option<bool>) {
        let state = match takes {
            Some(true) => YES,
            Some(false) => NO,
            None => UNKNOWN,
        };
        self.0.store(state, Ordering::Relaxed);
    }
}

/// The tags of a request that an answer confirms, in `OCI-Tag` (RFC 9110, section 5: one header or several, each with one tag
/// or several).
pub(super) fn confirmed(answer: &Answer, sent: &[&str]) -> Vec<String> {
    let lines = answer.headers().get_all("oci-tag").into_iter();
    let stated: HashSet<&str> = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(',').map(str::trim))
        .collect();
    let sent = sent.iter().filter(|tag| stated.contains(**tag));
    sent.map(|tag| (*tag).to_owned()).collect()
}
