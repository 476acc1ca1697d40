//! Parser of `Link` (RFC 8288), which has the URL of a list's next page.
//! See OCI distribution-spec, "Listing Tags" and "Listing Referrers".

use reqwest::Url;
use reqwest::header::{HeaderMap, LINK};

use super::context::same_origin;
use super::redact::{authority, printable};
use crate::error::{Error, Kind, Result};

/// Maximum number of bytes read of all `Link` lines together.
const MAX_HEADER: usize = 16 << 10;

/// Returns the URL of the page after `page`; `None` after the last page.
///
/// # Errors
/// [`Kind::Server`] if the target is not a URL, or is on another server: a registry must serve its own lists.
pub(super) fn next(headers: &HeaderMap, page: &Url) -> Result<Option<Url>> {
    let mut budget = MAX_HEADER;
    let mut target = None;
    for value in headers.get_all(LINK) {
        let bytes = value.as_bytes();
        let bytes = &bytes[..bytes.len().min(budget)];
        budget -= bytes.len();
        target = target.or_else(|| next_of_line(&String::from_utf8_lossy(bytes)));
    }
    let Some(target) = target else { return Ok(None) };
    let refused = |why: String| Error::new(Kind::Server, format!("`{}` {why}", authority(page)));
    let mut url = page.join(&target).map_err(|e| {
        let target = printable(&target, 128);
        refused(format!("names a next page that is not a URL, `{target}`")).with_source(e)
    })?;
    if !same_origin(page, &url) {
        let elsewhere = format!("{}://{}", url.scheme(), authority(&url));
        return Err(refused(format!("names a next page on another server, `{elsewhere}`"))
            .with_hint("a proxy in front of the registry that hides its scheme, host or port does this"));
    }
    // User information in a link is not meant for this server. Neither call fails, since the URL has a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_fragment(None);
    Ok(Some(url))
}

/// Returns the first target whose `rel` contains the word `next`.
/// The form is `<target>; name=value; name="value", <target>`.
fn next_of_line(text: &str) -> Option<String> {
    let mut rest = text;
    loop {
        let (target, after) = rest[rest.find('<')? + 1..].split_once('>')?;
        rest = after;
        let mut rel: Option<String> = None;
        while let Some(parameter) = rest.trim_start().strip_prefix(';') {
            let end = parameter.find(['=', ';', ',']).unwrap_or(parameter.len());
            let (name, after) = parameter.split_at(end);
            rest = after;
            if let Some(value) = after.strip_prefix('=') {
                let value = value.trim_start();
                let (value, after) = if value.starts_with('"') {
                    quoted(value)
                } else {
                    let end = value.find([';', ',']).unwrap_or(value.len());
                    (value[..end].to_owned(), &value[end..])
                };
                rest = after;
                if name.trim().eq_ignore_ascii_case("rel") {
                    // Of several `rel` parameters, the first counts (RFC 8288, section 3.3).
                    rel.get_or_insert(value);
                }
            }
        }
        if rel.is_some_and(|rel| rel.split_whitespace().any(|word| word.eq_ignore_ascii_case("next"))) {
            return Some(target.trim().to_owned());
        }
    }
}

/// Splits off a quoted string from its opening quote on.
/// A string without a closing quote ends with the header.
pub(super) fn quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Option<String> {
        let page = Url::parse("https://r.example:444/v2/a/tags/list?n=2").unwrap();
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(LINK, line.parse().unwrap());
        }
        next(&headers, &page)
            .map(|url| url.map(String::from))
            .unwrap_or_else(|e| Some(e.to_string()))
    }

    #[test]
    fn the_next_page_is_found_and_resolved() {
        let expected = Some("https://r.example:444/v2/a/tags/list?n=2&last=b".to_owned());
        for line in [
            r#"</v2/a/tags/list?n=2&last=b>; rel="next""#,
            r#"<?n=2&last=b>;REL=Next"#,
            r#"<https://r.example:444/v2/a/tags/list?n=2&last=b> ; title="a, <b>; rel=prev" ; rel = "prev next""#,
            r#"</x>; rel=prev, </y>, <list?n=2&last=b#f>; rel=next; rel=prev"#,
            r#"<https://u:p@r.example:444/v2/a/tags/list?n=2&last=b>; rel="next"#,
        ] {
            assert_eq!(read(&[line]), expected, "{line}");
            assert_eq!(read(&["</x>; rel=last", line]), expected, "{line}");
        }
    }

    #[test]
    fn anything_else_is_the_last_page() {
        assert_eq!(read(&[]), None);
        for line in [
            "",
            "<",
            "<>",
            "</x>",
            "</x>; rel",
            "</x>; rel=prev",
            "/x; rel=next",
            "</x; rel=next",
            "</x>; nofollow=next",
            "</x>; rel=\"nextest\"",
            "</x>; rel=prev; rel=next",
            ";,=\"",
        ] {
            assert_eq!(read(&[line]), None, "{line:?}");
        }
        let late = format!("<{}>; rel=next", "x".repeat(64 << 10));
        assert_eq!(read(&[&late]), None);
    }

    #[test]
    fn another_server_is_refused() {
        for target in [
            "https://evil.example:444/v2/",
            "http://r.example:444/v2/",
            "https://r.example/v2/",
            "//evil.example/",
            "file:///etc/passwd",
        ] {
            let said = read(&[&format!("<{target}>; rel=next")]).unwrap();
            assert!(said.contains("on another server"), "{target}: {said}");
        }
        assert!(read(&["<https://[>; rel=next"]).unwrap().contains("not a URL"));
    }
}
