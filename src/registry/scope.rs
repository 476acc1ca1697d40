//! Permissions of a token (distribution token specification, "scope").

/// A set of scopes, the most recently demanded first, since some token servers read only the first one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Scope(Vec<String>);

impl Scope {
    /// Creates the scope for reading a repository.
    pub(super) fn pull(repository: &str) -> Self {
        Self(vec![format!("repository:{repository}:pull")])
    }

    /// Creates the scope for writing to a repository.
    pub(super) fn push(repository: &str) -> Self {
        Self(vec![format!("repository:{repository}:pull,push")])
    }

    /// Creates the scope for mounting a blob from another repository.
    pub(super) fn mount(repository: &str, from: &str) -> Self {
        let mut scope = Self::push(repository);
        scope.0.push(format!("repository:{from}:pull"));
        scope
    }

    /// Returns whether the scope allows more than reading.
    pub(super) fn writes(&self) -> bool {
        self.iter().any(|scope| !scope.ends_with(":pull"))
    }

    /// Adds the scopes of a challenge; returns false if the set already covers all of them.
    pub(super) fn widen(&mut self, demanded: &[String]) -> bool {
        let before = self.0.len();
        for scope in demanded.iter().rev().take(8) {
            if scope.len() <= 1024 && !self.0.iter().any(|own| covers(own, scope)) {
                self.0.insert(0, scope.clone());
            }
        }
        self.0.len() > before
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Returns a key of the set, which does not depend on the order of the scopes.
    pub(super) fn key(&self) -> String {
        let mut sorted: Vec<&str> = self.iter().collect();
        sorted.sort_unstable();
        sorted.join(" ")
    }
}

/// Returns whether `own` allows everything that `other` does.
/// Both must have the same resource, and `own` all actions.
fn covers(own: &str, other: &str) -> bool {
    let (Some((resource, actions)), Some((wanted, needed))) = (own.rsplit_once(':'), other.rsplit_once(':')) else {
        return own == other;
    };
    let actions: Vec<&str> = actions.split(',').collect();
    resource == wanted && needed.split(',').all(|action| actions.contains(&action))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_newly_demanded_comes_first() {
        let mut scope = Scope::pull("a/b");
        assert!(!scope.widen(&["repository:a/b:pull".into()]));
        assert!(scope.widen(&["repository:a/b:push,pull".into()]));
        assert_eq!(
            scope.iter().collect::<Vec<_>>(),
            ["repository:a/b:push,pull", "repository:a/b:pull"]
        );
        let mut push = Scope::push("a/b");
        assert!(
            !push.widen(&["repository:a/b:push,pull".into()]),
            "the order of actions does not matter"
        );
        assert!(push.widen(&["registry:catalog:*".into()]));
    }

    #[test]
    fn the_key_is_that_of_the_set() {
        assert_eq!(Scope::mount("a", "b").key(), "repository:a:pull,push repository:b:pull");
    }
}
