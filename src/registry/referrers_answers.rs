//! What a host has answered to requests for referrers, by repository.
//! A registry without the referrers API may answer anything; one with the API answers with a list for each manifest (OCI
//! distribution-spec, "Listing Referrers").

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::lock::Mutex;

/// Number of answers without a list after which a repository counts as one without the API, unless one of them is a 404, as most
/// registries without the API send it. Another answer for one manifest may come from a proxy in between.
const ENOUGH: u32 = 2;

/// The answers of one host.
#[derive(Debug, Default)]
pub(super) struct ReferrersAnswers {
    /// Set when the host answered with a list of referrers, of any repository.
    has_api: AtomicBool,
    repositories: Mutex<HashMap<String, Answers>>,
}

/// The answers for one repository.
#[derive(Debug, Default, Clone, Copy)]
struct Answers {
    is_list: bool,
    /// Number of answers without a list; a 404 counts as [`ENOUGH`].
    no_lists: u32,
    /// Whether a manifest was taken for one without a list since the last call of [`ReferrersAnswers::take_doubt`].
    is_used: bool,
    /// Whether [`ReferrersAnswers::take_doubt`] returned `true` before.
    was_doubted: bool,
}

impl ReferrersAnswers {
    /// Returns whether the host is not asked for referrers in a repository, since it seems to have no referrers API.
    pub(super) fn is_without_api(&self, repository: &str) -> bool {
        let mut repositories = self.repositories.lock();
        let answers = repositories.get_mut(repository);
        let answers = answers.filter(|answers| answers.no_lists >= ENOUGH && !self.has_api.load(Ordering::Relaxed));
        answers.is_some_and(|answers| {
            answers.is_used = true;
            true
        })
    }

    /// Records an answer with a list.
    pub(super) fn add_list(&self, repository: &str) {
        self.has_api.store(true, Ordering::Relaxed);
        let mut repositories = self.repositories.lock();
        repositories.entry(repository.to_owned()).or_default().is_list = true;
    }

    /// Records an answer as if the host had no referrers API. Returns whether the host has answered with a list for the repository
    /// before.
    pub(super) fn add_no_list(&self, repository: &str, is_not_found: bool) -> bool {
        let mut repositories = self.repositories.lock();
        let answers = repositories.entry(repository.to_owned()).or_default();
        let count = if is_not_found { ENOUGH } else { 1 };
        answers.no_lists = answers.no_lists.saturating_add(count);
        answers.is_used = true;
        answers.is_list
    }

    /// Returns whether manifests of a repository have to be asked for again, since the host turned out to have the referrers API
    /// after one of them was taken for a manifest without a list.
    pub(super) fn take_doubt(&self, repository: &str) -> bool {
        let mut repositories = self.repositories.lock();
        let Some(answers) = repositories.get_mut(repository) else {
            return false;
        };
        let is_new = self.has_api.load(Ordering::Relaxed) && !answers.was_doubted;
        let is_doubtful = std::mem::take(&mut answers.is_used) && (answers.is_list || is_new);
        answers.was_doubted |= is_doubtful;
        is_doubtful
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_that_turns_out_to_have_the_api_is_asked_again() {
        let answers = ReferrersAnswers::default();
        assert!(!answers.take_doubt("a") && !answers.is_without_api("a"));
        assert!(!answers.add_no_list("a", false) && !answers.is_without_api("a"));
        assert!(!answers.add_no_list("a", false) && answers.is_without_api("a"));
        assert!(!answers.add_no_list("b", true) && answers.is_without_api("b"));
        assert!(!answers.take_doubt("a"));
        // Another repository has the API, so that all manifests of this one are asked for, once more.
        assert!(answers.is_without_api("a"));
        answers.add_list("c");
        assert!(!answers.is_without_api("a"));
        assert!(answers.take_doubt("a") && answers.take_doubt("b") && !answers.take_doubt("c"));
        answers.add_no_list("a", true);
        assert!(!answers.take_doubt("a"));
        // A list of the repository itself contradicts.
        answers.add_no_list("a", true);
        answers.add_list("a");
        assert!(answers.add_no_list("a", true));
        assert!(answers.take_doubt("a") && !answers.take_doubt("a"));
    }
}
