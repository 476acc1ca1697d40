//! Parsing of an upload session's `Location`, in all the forms that registries send.

use reqwest::Url;

use super::context::same_origin;
use super::failure::OUT_OF_REACH_HINT;
use super::reach::{Reach, Zone};
use super::redact::{authority, origin, printable, shown};
use crate::error::{Error, Kind, Result};
use crate::image::digest::Digest;

/// Parses a `Location`: absolute, a path, or a host without a scheme.
///
/// `from` is the address that sent the header, `registry` the root of the registry, `zone` the zone of the sender. The query
/// is kept unchanged, since it may be signed.
pub(super) fn resolve(text: &str, from: &Url, registry: &Url, zone: Zone) -> Result<Url> {
    let refused = |to: &str, why: &str| {
        let what = format!("`{}` sends an upload to {to}, {why}", authority(from));
        Error::new(Kind::Server, what)
            .with_hint("a proxy in front of the registry may have to be told the registry's public address")
    };
    // The cause has no path, so that it is the same for all images.
    let unusable = |url: &Url, why: &str| {
        let cause = format!("`{}` sends uploads to `{}`, {why}", authority(from), origin(url));
        refused(&shown(url), why).with_cause(&cause)
    };
    let text = text.trim();
    let without_scheme = !text.starts_with('/')
        && !text.contains("://")
        && text
            .split_once('/')
            .is_some_and(|(host, _)| host == "localhost" || host.contains(['.', ':']) && !host.starts_with('.'));
    let text = if without_scheme {
        format!("{}://{text}", from.scheme())
    } else {
        text.to_owned()
    };
    let mut url = from.join(&text).map_err(|e| {
        refused(
            &format!("`{}`", printable(&text, 128)),
            &format!("which is not an address: {e}"),
        )
    })?;
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_fragment(None);
    match url.scheme() {
        "https" => {}
        "http" if from.scheme() == "http" => {}
        "http" if url.host() == from.host() => {
            // The registry does not know of the TLS proxy in front of it. The registry's port differs from the proxy's.
            let port = if url.port().is_none() { from.port() } else { url.port() };
            let _ = url.set_scheme("https");
            let _ = url.set_port(port);
            tracing::debug!("upload location of {} raised to https", authority(from));
        }
        "http" => return Err(unusable(&url, "which is not encrypted")),
        _ => return Err(unusable(&url, "which is not http")),
    }
    if !same_origin(&url, registry) && !Reach::From(zone).allows_url(&url) {
        let why = "an address of this machine or of its local link";
        return Err(unusable(&url, why).with_hint(OUT_OF_REACH_HINT));
    }
    Ok(url)
}

/// Adds the digest to the query, unless the query already contains it.
pub(super) fn with_digest(url: &Url, digest: &Digest) -> Url {
    let own = format!("digest={digest}");
    let escaped = own.replace(':', "%3A");
    let mut url = url.clone();
    let query = match url.query() {
        None | Some("") => escaped,
        Some(query)
            if query
                .split('&')
                .any(|pair| pair == own || pair.eq_ignore_ascii_case(&escaped)) =>
        {
            return url;
        }
        Some(query) => format!("{query}&{escaped}"),
    };
    url.set_query(Some(&query));
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn every_form_of_location_is_read() {
        let from = url("https://r.example/v2/a/blobs/uploads/");
        for (text, expected) in [
            (
                "/v2/a/blobs/uploads/1?_state=x%2By&z",
                "https://r.example/v2/a/blobs/uploads/1?_state=x%2By&z",
            ),
            ("https://r.example:443/u", "https://r.example/u"),
            ("https://other.example/u", "https://other.example/u"),
            ("http://r.example/u", "https://r.example/u"),
            ("r.example/v2/u", "https://r.example/v2/u"),
            ("r.example:5000/v2/u", "https://r.example:5000/v2/u"),
            ("1234-5678", "https://r.example/v2/a/blobs/uploads/1234-5678"),
            ("https://user:pass@r.example/u#x", "https://r.example/u"),
        ] {
            assert_eq!(
                resolve(text, &from, &from, Zone::Network).unwrap().as_str(),
                expected,
                "{text}"
            );
        }
        for bad in [
            "http://other.example/u",
            "file:///etc/passwd",
            "https://127.0.0.1/u",
            "https://169.254.169.254/u",
            "https://",
            "https://[x",
        ] {
            assert!(resolve(bad, &from, &from, Zone::Network).is_err(), "{bad}");
        }
        let local = url("http://localhost:5000/v2/");
        assert_eq!(
            resolve("http://127.0.0.1:5000/u", &local, &local, Zone::Machine)
                .unwrap()
                .as_str(),
            "http://127.0.0.1:5000/u"
        );
        let behind = url("https://r.example:8443/v2/");
        assert_eq!(
            resolve("http://r.example/u", &behind, &behind, Zone::Network)
                .unwrap()
                .as_str(),
            "https://r.example:8443/u"
        );
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_never_gives_up_encryption(text in "[ -~]{0,80}") {
            let from = url("https://r.example/v2/a/blobs/uploads/");
            if let Ok(found) = resolve(&text, &from, &from, Zone::Network) {
                assert_eq!(found.scheme(), "https");
                with_digest(&found, &Digest::sha256(b""));
            }
        }
    }

    #[test]
    fn the_digest_joins_the_query() {
        let digest = Digest::sha256(b"");
        let hex = digest.hex();
        let with = |text: &str| with_digest(&url(text), &digest).to_string();
        assert_eq!(with("http://h/u"), format!("http://h/u?digest=sha256%3A{hex}"));
        assert_eq!(
            with("http://h/u?b=2&a=%2F+"),
            format!("http://h/u?b=2&a=%2F+&digest=sha256%3A{hex}")
        );
        let there = format!("http://h/u?digest=sha256:{hex}&sig=1");
        assert_eq!(with(&there), there);
    }
}
