//! Header parsers for the fuzz targets, each with the guarantees for any input.

use reqwest::Url;
use reqwest::header::{CONTENT_RANGE, HeaderMap, HeaderName, HeaderValue, LINK, WWW_AUTHENTICATE};

use super::challenge::{self, Challenge};
use super::context::same_origin;
use super::{content_range, link};

/// Returns one header line for each line of the input that a header can hold.
fn headers(name: &HeaderName, data: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(64) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(name, value);
        }
    }
    headers
}

/// Checks `WWW-Authenticate`: Bearer comes before Basic, and never without a realm.
pub fn challenge(data: &[u8]) {
    let found = challenge::parse(&headers(&WWW_AUTHENTICATE, data));
    assert!(found.len() <= data.len());
    let mut basic = false;
    for challenge in found {
        match challenge {
            Challenge::Basic => basic = true,
            Challenge::Bearer(bearer) => {
                assert!(!basic, "Bearer comes first");
                assert!(!bearer.realm.is_empty());
                assert!(bearer.scopes.iter().all(|s| !s.is_empty() && !s.contains(' ')));
            }
        }
    }
}

/// Checks `Content-Range` of an answer and `Range` of an upload session.
/// Parsed values are plausible, and parse the same again.
pub fn content_range(data: &[u8]) {
    if let Some((first, last, total)) = content_range::parse_answer(&headers(&CONTENT_RANGE, data)) {
        assert!(first <= last && total.is_none_or(|total| last < total));
        let total = total.map_or_else(|| "*".to_owned(), |total| total.to_string());
        let again = headers(&CONTENT_RANGE, format!("bytes {first}-{last}/{total}").as_bytes());
        assert_eq!(
            content_range::parse_answer(&again).map(|(a, b, _)| (a, b)),
            Some((first, last))
        );
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Some(bytes) = content_range::parse_session(Some(text))
    {
        assert!(bytes >= 2, "one byte and none are not to be told apart");
    }
}

/// Checks `Link`: the first line is the page, the other lines are its headers.
/// The next page is on the same server.
pub fn link(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let Some(page) = std::str::from_utf8(&data[..end])
        .ok()
        .and_then(|text| Url::parse(text).ok())
    else {
        return;
    };
    if !matches!(page.scheme(), "http" | "https") {
        return;
    }
    if let Ok(Some(next)) = link::next(&headers(&LINK, &data[end..]), &page) {
        assert!(same_origin(&page, &next));
        assert!(next.username().is_empty() && next.password().is_none() && next.fragment().is_none());
    }
}
