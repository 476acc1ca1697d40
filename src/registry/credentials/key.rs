//! Keys of credential files, in all spellings that programs have used.

use crate::image::reference::DOCKER_HUB;

/// Key of Docker Hub, from the first registry protocol; helpers use it as well.
pub(super) const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// Host names of Docker Hub.
const DOCKER_HUB_NAMES: [&str; 3] = [DOCKER_HUB, "index.docker.io", "registry-1.docker.io"];

/// Returns `HOST[:PORT]` in lower case, with one name for Docker Hub.
pub(super) fn canonical(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    if DOCKER_HUB_NAMES.contains(&host.as_str()) {
        DOCKER_HUB.to_owned()
    } else {
        host
    }
}

/// Returns the server to ask a helper for, if the file states none.
pub(super) fn server_url(canonical_host: &str) -> &str {
    if canonical_host == DOCKER_HUB {
        DOCKER_HUB_KEY
    } else {
        canonical_host
    }
}

/// Meaning of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    /// A whole registry.
    Host(String),
    /// A repository, or all repositories below a path.
    Path {
        /// Host of the registry, in canonical form.
        host: String,
        /// Path components below the host; not empty, no slash at either end.
        path: String,
    },
    /// Any other key. Docker keeps entries for its own tokens beside the entry of Docker Hub.
    Foreign,
}

impl Key {
    /// Parses a key.
    /// A key with a scheme is always a whole registry, with or without an API version at its end; a key without a scheme
    /// may have a path. Legacy files have no paths.
    pub(super) fn parse(text: &str, legacy: bool) -> Self {
        let bare = ["https://", "http://"]
            .into_iter()
            .find_map(|scheme| text.get(..scheme.len())?.eq_ignore_ascii_case(scheme).then_some(scheme))
            .map(|scheme| &text[scheme.len()..]);
        let (host, path) = match bare.unwrap_or(text).split_once('/') {
            Some((host, path)) => (host, path.trim_end_matches('/')),
            None => (bare.unwrap_or(text), ""),
        };
        if host.is_empty() {
            Self::Foreign
        } else if path.is_empty() {
            Self::Host(canonical(host))
        } else if bare.is_some() || legacy {
            if matches!(path, "v1" | "v2") {
                Self::Host(canonical(host))
            } else {
                Self::Foreign
            }
        } else {
            Self::Path {
                host: canonical(host),
                path: path.to_owned(),
            }
        }
    }

    /// Returns how many bytes of the repository's path this key covers; `None` if it does not match.
    pub(super) fn covers(&self, canonical_host: &str, repository: &str) -> Option<usize> {
        match self {
            Self::Host(host) => (host == canonical_host).then_some(0),
            Self::Path { host, path } => (host == canonical_host
                && repository
                    .strip_prefix(path.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
            .then_some(path.len()),
            Self::Foreign => None,
        }
    }
}

/// Returns the rank of a key's spelling for a registry; a smaller number takes precedence.
pub(super) fn preference(text: &str, canonical_host: &str) -> usize {
    let forms = [
        server_url(canonical_host).to_owned(),
        canonical_host.to_owned(),
        format!("https://{canonical_host}"),
        format!("https://{canonical_host}/v1/"),
        format!("https://{canonical_host}/v2/"),
    ];
    forms.iter().position(|form| form == text).unwrap_or(forms.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_a_host() {
        for text in [
            "quay.io",
            "QUAY.io",
            "quay.io/",
            "https://quay.io",
            "http://quay.io/",
            "HTTPS://quay.io/v1/",
            "https://quay.io/v2",
        ] {
            assert_eq!(Key::parse(text, false), Key::Host("quay.io".into()), "{text}");
            assert_eq!(Key::parse(text, true), Key::Host("quay.io".into()), "{text}");
        }
        for text in [
            DOCKER_HUB_KEY,
            "docker.io",
            "registry-1.docker.io",
            "https://docker.io/v2/",
        ] {
            assert_eq!(Key::parse(text, false), Key::Host("docker.io".into()), "{text}");
        }
        for text in [
            "",
            "/",
            "https://",
            "https:///x",
            "https://index.docker.io/v1/access-token",
        ] {
            assert_eq!(Key::parse(text, false), Key::Foreign, "{text}");
        }
        assert_eq!(Key::parse("[::1]:5000", false), Key::Host("[::1]:5000".into()));
        assert_eq!(Key::parse("é/é", false).covers("é", "é"), Some("é".len()));
    }

    #[test]
    fn paths_end_at_components() {
        let key = Key::parse("quay.io/org", false);
        assert_eq!(key.covers("quay.io", "org/app"), Some(3));
        assert_eq!(key.covers("quay.io", "org"), Some(3));
        assert_eq!(key.covers("quay.io", "organisation/app"), None);
        assert_eq!(key.covers("quay.io:443", "org/app"), None);
        // Without a scheme, `v1` is a namespace like any other.
        assert_eq!(Key::parse("quay.io/v1", false).covers("quay.io", "v1/app"), Some(2));
        assert_eq!(Key::parse("quay.io/org", true), Key::Foreign);
    }
}
