//! Safe display of URLs: no user information, and only harmless query parameters.

use reqwest::Url;

use super::known_secrets;

/// Number of bytes searched for secrets beyond the limit, since a secret may cross the limit.
const LOOKED_AT: usize = 16 << 10;

/// Query parameters whose values are shown. Every other parameter may be a signature or a session.
const HARMLESS: [&str; 8] = [
    "n",
    "last",
    "scope",
    "service",
    "mount",
    "from",
    "digest",
    "artifactType",
];

/// Returns a URL for messages and logs.
pub(super) fn shown(url: &Url) -> String {
    let mut text = origin(url);
    text.push_str(&printable(url.path(), 512));
    let mut separator = '?';
    let mut hidden = false;
    for pair in url
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|p| !p.is_empty())
        .take(16)
    {
        // A signature may be in a parameter's name, so no other name is shown either.
        let Some((key, value)) = pair.split_once('=').filter(|(key, _)| HARMLESS.contains(key)) else {
            hidden = true;
            continue;
        };
        text.push(separator);
        text.push_str(key);
        text.push('=');
        text.push_str(&printable(value, 256));
        separator = '&';
    }
    if hidden {
        text.push(separator);
        text.push('…');
    }
    text
}

/// Returns `SCHEME://HOST[:PORT]` of a URL, which is the same for all images of a host.
pub(super) fn origin(url: &Url) -> String {
    format!("{}://{}", url.scheme(), authority(url))
}

/// Returns `HOST[:PORT]` of a URL, without the scheme's default port.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Makes text from outside fit for one line of a terminal.
/// Hides the secrets of this run, escapes control characters, folds white space, and cuts at `limit` bytes.
pub(super) fn printable(text: &str, limit: usize) -> String {
    let mut out = String::new();
    let mut blank = false;
    let text = text.trim();
    // Only the part that may be shown is searched, with a margin for a secret at its end.
    let mut end = limit.saturating_add(LOOKED_AT).min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let text = known_secrets::hide(&text[..end]);
    for c in text.chars() {
        if out.len() >= limit {
            out.push('…');
            break;
        }
        if matches!(c, ' ' | '\t' | '\r' | '\n') {
            blank = true;
            continue;
        }
        if std::mem::take(&mut blank) {
            out.push(' ');
        }
        // Besides control characters, marks of the writing direction can disguise a text.
        if c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
        {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_no_secret() {
        let url = "https://user:pass@h.example:444/v2/a/blobs/x?X-Amz-Signature=sig&digest=sha256:ab&_state=s3cret&plain#frag";
        let url = Url::parse(url).unwrap();
        assert_eq!(shown(&url), "https://h.example:444/v2/a/blobs/x?digest=sha256:ab&…");
        assert_eq!(shown(&Url::parse("http://h/").unwrap()), "http://h/");
    }

    #[test]
    fn text_from_outside_cannot_drive_a_terminal() {
        assert_eq!(
            printable(" a\n\tb\u{1b}[31m\u{202e}c ", 100),
            "a b\\u{1b}[31m\\u{202e}c"
        );
        assert_eq!(printable(&"x".repeat(50), 10), format!("{}…", "x".repeat(10)));
    }
}
