//! Decodes text files of other systems' editors and shells: with a byte order mark, or in UTF-16.

/// The byte order mark U+FEFF in UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// Converts the content of a text file to UTF-8, without a byte order mark at its start.
///
/// UTF-16 is recognized by its byte order mark, or by a NUL byte beside the first character, which is ASCII in every
/// format that this program reads. Bytes that are not text in any of these encodings are returned unchanged: the parser
/// of the file reports the error.
pub fn utf8(bytes: Vec<u8>) -> Vec<u8> {
    if let Some(rest) = bytes.strip_prefix(MARK) {
        return rest.to_vec();
    }
    let decode: fn([u8; 2]) -> u16 = match *bytes.as_slice() {
        [0xff, 0xfe, ..] | [1..=0x7f, 0, ..] => u16::from_le_bytes,
        [0xfe, 0xff, ..] | [0, 1..=0x7f, ..] => u16::from_be_bytes,
        _ => return bytes,
    };
    let (pairs, rest) = bytes.as_chunks::<2>();
    let units = pairs.iter().map(|pair| decode(*pair));
    match char::decode_utf16(units).collect::<Result<String, _>>() {
        Ok(text) if rest.is_empty() => text.trim_start_matches('\u{feff}').to_owned().into_bytes(),
        _ => bytes,
    }
}

/// Converts the content of a PEM file. Also removes byte order marks inside the file, which come
/// from concatenating marked files.
pub(crate) fn pem(bytes: Vec<u8>) -> Vec<u8> {
    let bytes = utf8(bytes);
    if !bytes.windows(MARK.len()).any(|window| window == MARK) {
        return bytes;
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes.as_slice();
    while let Some((first, after)) = rest.split_first() {
        rest = match rest.strip_prefix(MARK) {
            Some(behind) => behind,
            None => {
                out.push(*first);
                after
            }
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, order: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(order).collect()
    }

    #[test]
    fn text_is_read_in_every_encoding() {
        let text = "{\"é\u{1f40b}\": 1}\r\n";
        let marked = format!("\u{feff}{text}");
        for bytes in [
            text.as_bytes().to_vec(),
            marked.as_bytes().to_vec(),
            utf16(&marked, u16::to_le_bytes),
            utf16(&marked, u16::to_be_bytes),
            utf16(text, u16::to_le_bytes),
            utf16(text, u16::to_be_bytes),
        ] {
            assert_eq!(utf8(bytes), text.as_bytes());
        }
    }

    #[test]
    fn what_is_no_text_stays_as_it_is() {
        for bytes in [
            &b""[..],
            b"x",
            b"\xff\xfe{",
            b"\xff\xfe\x00\xd8",
            b"{\0\0\xd8",
            b"\x30\x82\x01\x00",
            b"\0\0",
        ] {
            assert_eq!(utf8(bytes.to_vec()), bytes, "{bytes:?}");
        }
        assert_eq!(utf8(MARK.to_vec()), b"");
    }

    #[test]
    fn marks_inside_a_pem_file_go() {
        assert_eq!(pem(b"\xef\xbb\xbfa\n\xef\xbb\xbfb\xef\xbb".to_vec()), b"a\nb\xef\xbb");
        assert_eq!(pem(b"a".to_vec()), b"a");
    }
}
