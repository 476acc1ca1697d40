//! Pull quota of a registry.
//! Docker Hub counts GETs of manifests; a HEAD is free and reports the quota as well.

use std::time::Duration;

use reqwest::header::HeaderMap;

/// A pull quota as stated by the `ratelimit-*` headers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// Number of pulls per window.
    pub limit: Option<u64>,
    /// Number of pulls left in the current window.
    pub remaining: Option<u64>,
    /// Length of the window.
    pub window: Option<Duration>,
    /// The account or address that the registry counts.
    pub source: Option<String>,
}

impl RateLimit {
    /// Parses the headers; `None` if the registry sets none, as for images that it does not limit.
    pub(super) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let (limit, window) = read(headers, "ratelimit-limit");
        let (remaining, other_window) = read(headers, "ratelimit-remaining");
        let source = headers.get("docker-ratelimit-source").and_then(|v| v.to_str().ok());
        (limit.is_some() || remaining.is_some()).then(|| Self {
            limit,
            remaining,
            window: window.or(other_window),
            source: source.map(|text| super::redact::printable(text, 128)),
        })
    }
}

/// Parses `100;w=21600`: a count, and the window in seconds.
fn read(headers: &HeaderMap, name: &str) -> (Option<u64>, Option<Duration>) {
    let Some(text) = headers.get(name).and_then(|v| v.to_str().ok()) else {
        return (None, None);
    };
    let mut parts = text.split(';').map(str::trim);
    let count = parts.next().and_then(|count| count.parse().ok());
    let window = parts.find_map(|part| part.strip_prefix("w=")?.trim().parse().ok());
    (count, window.map(Duration::from_secs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_docker_hubs_headers() {
        let mut headers = HeaderMap::new();
        assert_eq!(RateLimit::from_headers(&headers), None);
        headers.insert("ratelimit-limit", "100;w=21600".parse().unwrap());
        headers.insert("ratelimit-remaining", "76;w=21600".parse().unwrap());
        headers.insert("docker-ratelimit-source", "192.0.2.1".parse().unwrap());
        let expected = RateLimit {
            limit: Some(100),
            remaining: Some(76),
            window: Some(Duration::from_secs(21600)),
            source: Some("192.0.2.1".into()),
        };
        assert_eq!(RateLimit::from_headers(&headers), Some(expected));
        headers.insert("ratelimit-limit", "many".parse().unwrap());
        headers.insert("ratelimit-remaining", "-1".parse().unwrap());
        assert_eq!(RateLimit::from_headers(&headers), None);
    }
}
