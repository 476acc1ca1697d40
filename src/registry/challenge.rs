//! Parser of `WWW-Authenticate` (RFC 9110, section 11): schemes, and the token server's address.
//!
//! The parser is lenient: registries send challenges with several spaces, with token68 data of other schemes in between,
//! with a quote that never closes. Unreadable parts are skipped; nothing in here fails or panics.

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

use super::link::quoted;
use crate::text::few;

/// Maximum number of bytes read of all `WWW-Authenticate` lines together.
const MAX_HEADER: usize = 16 << 10;

/// Maximum number of bytes of a line in which unsupported schemes are looked for.
const MAX_LINE: usize = 4 << 10;

/// Registered schemes that this client cannot answer. Other words may be the data of a scheme.
const SCHEMES: [&str; 8] = [
    "Negotiate",
    "NTLM",
    "Kerberos",
    "Digest",
    "Mutual",
    "HOBA",
    "DPoP",
    "AWS4-HMAC-SHA256",
];

/// A scheme that this client can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Name and password with each request.
    Basic,
    /// A token from the server named by the realm.
    Bearer(Bearer),
}

/// The parameters of a Bearer challenge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bearer {
    /// Address of the token server, as sent; never empty.
    pub(super) realm: String,
    /// Name under which the token server knows the registry.
    pub(super) service: Option<String>,
    /// Scopes to request, separated by white space in the header.
    pub(super) scopes: Vec<String>,
    /// Reason for rejecting the token of the request.
    pub(super) error: Option<String>,
}

/// Parses all supported challenges of a server in order of preference: Bearer before Basic.
pub(super) fn parse(headers: &HeaderMap) -> Vec<Challenge> {
    let mut budget = MAX_HEADER;
    let mut found = Vec::new();
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let bytes = value.as_bytes();
        let bytes = &bytes[..bytes.len().min(budget)];
        budget -= bytes.len();
        found.extend(schemes(&String::from_utf8_lossy(bytes)).into_iter().filter_map(known));
    }
    // The sort is stable: among several Bearer challenges the first stays first.
    found.sort_by_key(|challenge| matches!(challenge, Challenge::Basic));
    found
}

/// Returns what a server asks for, in words, if it asks only for what this client cannot answer.
pub(super) fn unsupported(headers: &HeaderMap) -> Option<String> {
    if !parse(headers).is_empty() {
        return None;
    }
    let lines = headers.get_all(WWW_AUTHENTICATE).into_iter();
    let lines = lines.map(|value| String::from_utf8_lossy(&value.as_bytes()[..value.len().min(MAX_LINE)]).into_owned());
    let schemes: Vec<Scheme> = lines.flat_map(|line| schemes(&line)).collect();
    if schemes.iter().any(|scheme| scheme.name == "bearer") {
        return Some("asks for a token (Bearer), and does not say where to get one (`realm`)".to_owned());
    }
    let known = |name: &&str| schemes.iter().any(|scheme| scheme.name.eq_ignore_ascii_case(name));
    let names = few(SCHEMES.iter().filter(|name| known(name)));
    (!names.is_empty()).then(|| format!("asks for {names}, which is not supported (Basic and Bearer are)"))
}

struct Scheme {
    name: String,
    parameters: Vec<(String, String)>,
}

fn known(scheme: Scheme) -> Option<Challenge> {
    let get = |name: &str| {
        let found = scheme.parameters.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
    };
    match scheme.name.as_str() {
        "basic" => Some(Challenge::Basic),
        "bearer" => Some(Challenge::Bearer(Bearer {
            realm: get("realm")?,
            service: get("service"),
            scopes: get("scope").map_or_else(Vec::new, |scopes| {
                scopes.split_whitespace().map(str::to_owned).collect()
            }),
            error: get("error"),
        })),
        _ => None,
    }
}

/// Parses `scheme key=value, key="value", scheme token68, scheme`.
/// A word followed by `=` is a parameter of the scheme before it, every other word is a scheme; the rest of token68 data is
/// skipped.
fn schemes(text: &str) -> Vec<Scheme> {
    let mut found: Vec<Scheme> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let Some(first) = rest.chars().next() else { return found };
        let end = rest.find(|c: char| !is_token(c)).unwrap_or(rest.len());
        if end == 0 {
            rest = if first == '"' {
                quoted(rest).1
            } else {
                &rest[first.len_utf8()..]
            };
            continue;
        }
        let (word, after) = rest.split_at(end);
        let padded = after.trim_start_matches([' ', '\t']);
        match padded.strip_prefix('=') {
            Some(value) if !value.starts_with('=') => {
                let value = value.trim_start_matches([' ', '\t']);
                let (value, after) = if value.starts_with('"') {
                    quoted(value)
                } else {
                    unquoted(value)
                };
                rest = after;
                if let Some(scheme) = found.last_mut()
                    && scheme.parameters.len() < 32
                {
                    scheme.parameters.push((word.to_ascii_lowercase(), value));
                }
            }
            // `abc==`: the padding of token68 data.
            Some(_) => rest = padded.trim_start_matches('='),
            None => {
                rest = after;
                found.push(Scheme {
                    name: word.to_ascii_lowercase(),
                    parameters: Vec::new(),
                });
            }
        }
    }
}

/// Splits off a bare value: up to the next comma or blank.
/// Accepts more than the grammar, since realms come without quotes too.
fn unquoted(text: &str) -> (String, &str) {
    let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
    (text[..end].to_owned(), &text[end..])
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Vec<Challenge> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(
                WWW_AUTHENTICATE,
                reqwest::header::HeaderValue::from_bytes(line.as_bytes()).unwrap(),
            );
        }
        parse(&headers)
    }

    fn bearer(realm: &str, service: Option<&str>, scopes: &[&str]) -> Challenge {
        Challenge::Bearer(Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scopes: scopes.iter().map(|s| (*s).to_owned()).collect(),
            error: None,
        })
    }

    #[test]
    fn reads_what_registries_send() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        let expected = bearer(
            "https://auth.docker.io/token",
            Some("registry.docker.io"),
            &["repository:a/b:pull,push"],
        );
        assert_eq!(read(&[hub]), vec![expected.clone()]);
        assert_eq!(read(&["Basic realm=\"x\"", hub]), [expected.clone(), Challenge::Basic]);
        assert_eq!(
            read(&[&format!("Basic realm=\"a, b\", {hub}")]),
            [expected.clone(), Challenge::Basic]
        );
        assert_eq!(
            read(&[&format!("Negotiate, NTLM abc==, {hub}")]),
            vec![expected.clone()]
        );
        assert_eq!(read(&[&hub.replace("Bearer realm", "bEARER   REALM")]), [expected]);
        assert_eq!(read(&["Basic"]), [Challenge::Basic]);
        assert_eq!(
            read(&["Bearer realm=https://h/t , service = s"]),
            [bearer("https://h/t", Some("s"), &[])]
        );
        assert_eq!(
            read(&[r#"Bearer realm="/t",scope="a b""#]),
            [bearer("/t", None, &["a", "b"])]
        );
        assert_eq!(read(&[r#"Bearer realm="h\"t\\""#]), [bearer("h\"t\\", None, &[])]);
    }

    #[test]
    fn schemes_that_no_login_can_answer_are_named() {
        let said = |line: &str| {
            let headers = HeaderMap::from_iter([(WWW_AUTHENTICATE, line.parse().unwrap())]);
            unsupported(&headers).unwrap_or_default()
        };
        assert!(said("Negotiate").starts_with("asks for Negotiate, which"));
        assert!(said("NTLM TlRMTVNT==, Negotiate").starts_with("asks for Negotiate, NTLM, which"));
        assert!(said("digest realm=\"x\", nonce=\"y\"").starts_with("asks for Digest"));
        assert!(said("Bearer service=\"x\"").contains("`realm`"));
        for answerable in [
            "",
            "Basic",
            "Negotiate, Basic realm=\"x\"",
            "Bearer realm=\"/t\"",
            "abc",
        ] {
            assert_eq!(said(answerable), "", "{answerable}");
        }
    }

    #[test]
    fn survives_what_nobody_should_send() {
        assert_eq!(read(&[]), []);
        for nothing in [
            "",
            ",",
            "Negotiate",
            "Bearer",
            "Bearer service=x",
            "Bearer realm=",
            "=",
            "\"",
            "Digest realm=\"x\"",
            "\u{fffd}",
        ] {
            assert_eq!(read(&[nothing]), [], "{nothing:?}");
        }
        assert_eq!(
            read(&[r#"Bearer realm="https://h/t"#]),
            [bearer("https://h/t", None, &[])],
            "quote never closed"
        );
        assert_eq!(
            read(&[r#"Bearer realm="a",realm="b""#]),
            [bearer("a", None, &[])],
            "the first of two counts"
        );
        assert_eq!(
            read(&[r#"Bearer realm="a", Bearer realm="b""#]),
            [bearer("a", None, &[]), bearer("b", None, &[])]
        );
        assert_eq!(read(&[r#"Bearer realm="a\"#]), [bearer("a", None, &[])]);
        let huge = format!("Bearer realm=\"{}\"", "x".repeat(64 << 10));
        assert!(matches!(&read(&[&huge])[..], [Challenge::Bearer(b)] if b.realm.len() < MAX_HEADER));
        let _ = read(&[&"a=b,".repeat(10_000), "Basic"]);
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,200}", marks in r#"[ ,="\\a-zB]{0,80}"#) {
            schemes(&text);
            schemes(&marks);
        }
    }
}
