//! Parsing of ranges in downloads and upload sessions.
//! Downloads have `Content-Range` (RFC 9110, section 14.4), upload sessions have `Range`.

use reqwest::header::{CONTENT_RANGE, HeaderMap};

/// Parses the `Content-Range` of a 206: first byte, last byte and, if stated, the size of the whole.
/// `None` unless the answer has exactly one well-formed header.
pub(super) fn parse_answer(headers: &HeaderMap) -> Option<(u64, u64, Option<u64>)> {
    let mut all = headers.get_all(CONTENT_RANGE).iter();
    let text = all.next()?.to_str().ok()?;
    if all.next().is_some() {
        return None;
    }
    let (unit, rest) = text.trim().split_once(' ')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (range, total) = rest.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let total = match total.trim() {
        "*" => None,
        total => Some(number(total)?),
    };
    (first <= last && total.is_none_or(|total| last < total)).then_some((first, last, total))
}

/// Returns the size of the whole in the `Content-Range` of a 416: `bytes */SIZE`.
pub(super) fn parse_refusal(headers: &HeaderMap) -> Option<u64> {
    let (unit, rest) = headers.get(CONTENT_RANGE)?.to_str().ok()?.trim().split_once(' ')?;
    let total = rest.trim().strip_prefix("*/")?;
    unit.eq_ignore_ascii_case("bytes").then(|| number(total))?
}

/// Returns the number of bytes of an upload session, from its `Range: 0-LAST`.
/// `None` if the header is missing or ambiguous: registries send `0-0` both for no byte and for one byte.
pub(super) fn parse_session(text: Option<&str>) -> Option<u64> {
    let text = text?.trim();
    let text = text
        .strip_prefix("bytes=")
        .or_else(|| text.strip_prefix("bytes "))
        .unwrap_or(text);
    let (first, last) = text.split_once('-')?;
    match (number(first)?, number(last)?) {
        (0, 1..) => number(last)?.checked_add(1),
        _ => None,
    }
}

/// Parses digits only: the standard parser accepts a sign too.
fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Option<(u64, u64, Option<u64>)> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CONTENT_RANGE, line.parse().unwrap());
        }
        parse_answer(&headers)
    }

    #[test]
    fn one_well_formed_range_or_none() {
        assert_eq!(read(&["bytes 0-9/10"]), Some((0, 9, Some(10))));
        assert_eq!(read(&["Bytes 5-9/*"]), Some((5, 9, None)));
        for bad in [
            "",
            "bytes",
            "bytes 9-5/10",
            "bytes 0-10/10",
            "bytes */10",
            "bytes -5/10",
            "bytes +1-5/10",
            "items 0-9/10",
            "bytes 0-9",
            "bytes 0-99999999999999999999/*",
        ] {
            assert_eq!(read(&[bad]), None, "{bad:?}");
        }
        assert_eq!(read(&["bytes 0-9/10", "bytes 0-9/10"]), None);
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn a_session_without_bytes_is_not_to_be_told_from_one_with_one() {
        assert_eq!(parse_session(Some("0-99")), Some(100));
        assert_eq!(parse_session(Some("bytes=0-99")), Some(100));
        for unknown in ["0-0", "5-9", "", "-", "0--1", "0-x", "0-18446744073709551615"] {
            assert_eq!(parse_session(Some(unknown)), None, "{unknown:?}");
        }
        assert_eq!(parse_session(None), None);
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "[ -~]{0,60}") {
            read(&[&text]);
            parse_session(Some(&text));
        }
    }
}
