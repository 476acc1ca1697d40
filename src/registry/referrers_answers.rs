//! What a host has answered to requests for referrers, by repository.
//! A registry without the referrers API may answer anything; one with the API answers with a list for each manifest (OCI
//! distribution-spec, "Listing Referrers").

use std::collections::HashMap;

use crate::lock::Mutex;

/// Number of answers without a list after which a repository counts as one without the API, unless one of them is a 404, as most
/// registries without the API send it. Another answer may come from a proxy in between, so that one of them does not decide.
const MIN_NO_LISTS: u32 = 2;

/// The answers of one host.
#[derive(Debug, Default)]
pub(super) struct ReferrersAnswers(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Set when the host answered with a list of referrers, of any repository.
    has_api: bool,
    /// Number of times that a manifest was taken for one without a list.
    without_list: u64,
    repositories: HashMap<String, Answers>,
}

/// The answers for one repository.
#[derive(Debug, Default, Clone, Copy)]
struct Answers {
    is_list: bool,
    /// Number of answers without a list; a 404 counts as [`MIN_NO_LISTS`].
    no_lists: u32,
    /// The number in [`State::without_list`] of the last manifest of the repository that was taken for one without a list before
    /// the host answered with a list for the repository; 0 without such a manifest.
    last_without_list: u64,
}

impl ReferrersAnswers {
    /// Returns whether the host is not asked for referrers in a repository, since it seems to have no referrers API.
    pub(super) fn is_without_api(&self, repository: &str) -> bool {
        let state = &mut *self.0.lock();
        let answers = state.repositories.get_mut(repository);
        let answers = answers.filter(|answers| answers.no_lists >= MIN_NO_LISTS && !state.has_api);
        answers.is_some_and(|answers| {
            state.without_list += 1;
            answers.last_without_list = state.without_list;
            true
        })
    }

    /// Records an answer with a list.
    pub(super) fn add_list(&self, repository: &str) {
        let state = &mut *self.0.lock();
        state.has_api = true;
        state.repositories.entry(repository.to_owned()).or_default().is_list = true;
    }

    /// Records an answer as if the host had no referrers API. Returns whether the host has answered with a list for the repository
    /// before.
    pub(super) fn add_no_list(&self, repository: &str, is_not_found: bool) -> bool {
        let state = &mut *self.0.lock();
        let answers = state.repositories.entry(repository.to_owned()).or_default();
        let count = if is_not_found { MIN_NO_LISTS } else { 1 };
        answers.no_lists = answers.no_lists.saturating_add(count);
        if !answers.is_list {
            state.without_list += 1;
            answers.last_without_list = state.without_list;
        }
        answers.is_list
    }

    /// Returns a number if manifests of a repository have to be asked for again, since the host turned out to have the referrers
    /// API after one of them was taken for a manifest without a list. `since` is the number that was returned before the manifests
    /// were asked for the last time, or 0.
    pub(super) fn doubt(&self, repository: &str, since: u64) -> Option<u64> {
        let state = self.0.lock();
        let answers = state.repositories.get(repository)?;
        // Lists of other repositories alone are a reason to ask once more.
        let has_api = answers.is_list || (state.has_api && since == 0);
        (has_api && answers.last_without_list > since).then_some(state.without_list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_that_turns_out_to_have_the_api_is_asked_again() {
        let answers = ReferrersAnswers::default();
        assert!(answers.doubt("a", 0).is_none() && !answers.is_without_api("a"));
        assert!(!answers.add_no_list("a", false) && !answers.is_without_api("a"));
        assert!(!answers.add_no_list("a", false) && answers.is_without_api("a"));
        assert!(!answers.add_no_list("b", true) && answers.is_without_api("b"));
        assert!(answers.doubt("a", 0).is_none());
        // Another repository has the API, so that all manifests of this one are asked for, once more. That the doubt was asked for
        // before the list came changes nothing.
        answers.add_list("c");
        assert!(!answers.is_without_api("a"));
        assert!(answers.doubt("b", 0).is_some() && answers.doubt("c", 0).is_none());
        let since = answers.doubt("a", 0).unwrap();
        answers.add_no_list("a", true);
        assert!(answers.doubt("a", since).is_none());
        // A list of the repository itself contradicts.
        answers.add_no_list("a", true);
        answers.add_list("a");
        let last = answers.doubt("a", since).unwrap();
        assert!(answers.add_no_list("a", true));
        assert!(last > since && answers.doubt("a", last).is_none());
        // Images that were asked for once are still in doubt.
        assert!(answers.doubt("a", 0).is_some());
    }
}
