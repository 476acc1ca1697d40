//! The two fields of a certificate that the TLS library does not hand out: its issuer and its period (RFC 5280, 4.1).

use std::time::Duration;

use rustls::CertificateError;
use rustls::pki_types::UnixTime;

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// The issuer's name, as the DER element that a server lists for the authorities that it accepts.
pub(super) fn issuer(certificate: &[u8]) -> Option<&[u8]> {
    Some(fields(certificate)?.0)
}

/// Whether the certificate is valid at this moment; both ends of the period belong to it.
pub(super) fn check_period(certificate: &[u8], now: UnixTime) -> Result<(), CertificateError> {
    let (not_before, not_after) = fields(certificate)
        .and_then(|(_, validity)| {
            let mut rest = validity;
            let not_before = time(next(&mut rest)?)?;
            let not_after = time(next(&mut rest)?)?;
            rest.is_empty().then_some((not_before, not_after))
        })
        .ok_or(CertificateError::BadEncoding)?;
    if now < not_before {
        Err(CertificateError::NotValidYetContext { time: now, not_before })
    } else if now > not_after {
        Err(CertificateError::ExpiredContext { time: now, not_after })
    } else {
        Ok(())
    }
}

/// One DER element.
#[derive(Clone, Copy)]
struct Element<'a> {
    tag: u8,
    whole: &'a [u8],
    content: &'a [u8],
}

/// Takes the first element off.
fn next<'a>(rest: &mut &'a [u8]) -> Option<Element<'a>> {
    let input = *rest;
    let (&tag, &first) = (input.first()?, input.get(1)?);
    let (header, length) = match first {
        0..=0x7f => (2, usize::from(first)),
        // A certificate has less than 16 MiB (RFC 8446, 4.4.2).
        0x81..=0x83 => {
            let count = usize::from(first & 0x7f);
            let bytes = input.get(2..2 + count)?;
            let length = bytes.iter().fold(0_usize, |sum, &byte| (sum << 8) | usize::from(byte));
            (2 + count, length)
        }
        _ => return None,
    };
    let content = input.get(header..header + length)?;
    *rest = &input[header + length..];
    Some(Element {
        tag,
        whole: &input[..header + length],
        content,
    })
}

fn expect<'a>(rest: &mut &'a [u8], tag: u8) -> Option<Element<'a>> {
    next(rest).filter(|element| element.tag == tag)
}

/// The issuer as a whole, and the content of the validity.
fn fields(mut certificate: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut certificate = expect(&mut certificate, SEQUENCE)?.content;
    let mut rest = expect(&mut certificate, SEQUENCE)?.content;
    if rest.first() == Some(&VERSION) {
        next(&mut rest)?;
    }
    expect(&mut rest, INTEGER)?;
    expect(&mut rest, SEQUENCE)?; // signature algorithm
    let issuer = expect(&mut rest, SEQUENCE)?.whole;
    let validity = expect(&mut rest, SEQUENCE)?.content;
    Some((issuer, validity))
}

/// A point in time, always in UTC and with seconds (RFC 5280, 4.1.2.5). One before 1970 counts as 1970.
fn time(element: Element<'_>) -> Option<UnixTime> {
    let digits = element.content.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |digits: &[u8]| {
        digits
            .iter()
            .fold(0_i64, |sum, digit| sum * 10 + i64::from(digit - b'0'))
    };
    let (year, rest) = match (element.tag, digits.len()) {
        (UTC_TIME, 12) => {
            let year = number(&digits[..2]);
            (if year >= 50 { 1900 + year } else { 2000 + year }, &digits[2..])
        }
        (GENERALIZED_TIME, 14) => (number(&digits[..4]), &digits[4..]),
        _ => return None,
    };
    let [month, day, hour, minute, second] = [0, 2, 4, 6, 8].map(|at| number(&rest[at..at + 2]));
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days since 1970 in the Gregorian calendar, with years that start in March so that the leap day comes last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days =
        365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + (153 * month + 2) / 5 + day
            - 719_469;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    Some(UnixTime::since_unix_epoch(Duration::from_secs(
        u64::try_from(seconds).unwrap_or(0),
    )))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(tag: u8, text: &str) -> Option<u64> {
        let element = Element {
            tag,
            whole: &[],
            content: text.as_bytes(),
        };
        time(element).map(|time| time.as_secs())
    }

    #[test]
    fn times() {
        assert_eq!(seconds(UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(seconds(UTC_TIME, "000229123456Z"), Some(951_827_696));
        assert_eq!(seconds(UTC_TIME, "491231235959Z"), Some(2_524_607_999));
        assert_eq!(seconds(UTC_TIME, "500101000000Z"), Some(0));
        assert_eq!(seconds(GENERALIZED_TIME, "20500101000000Z"), Some(2_524_608_000));
        assert_eq!(seconds(GENERALIZED_TIME, "99991231235959Z"), Some(253_402_300_799));
        assert_eq!(seconds(GENERALIZED_TIME, "00000101000000Z"), Some(0));
        for bad in [
            "",
            "Z",
            "7001010000Z",
            "700101000000",
            "70010100000+Z",
            "701301000000Z",
            "700100000000Z",
        ] {
            assert_eq!(seconds(UTC_TIME, bad), None, "{bad}");
        }
        assert_eq!(seconds(INTEGER, "700101000000Z"), None);
    }

    #[test]
    fn fields_of_a_certificate() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["h.io".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2001, 2, 3);
        params.not_after = rcgen::date_time_ymd(2051, 2, 3);
        let certificate = params.self_signed(&key).unwrap();
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let (start, end) = (981_158_400, 2_558_995_200);
        assert_eq!(check_period(certificate.der(), at(start)), Ok(()));
        assert_eq!(check_period(certificate.der(), at(end)), Ok(()));
        assert!(matches!(
            check_period(certificate.der(), at(start - 1)),
            Err(CertificateError::NotValidYetContext { .. })
        ));
        assert!(matches!(
            check_period(certificate.der(), at(end + 1)),
            Err(CertificateError::ExpiredContext { .. })
        ));
        assert_eq!(issuer(certificate.der()).map(|name| name[0]), Some(SEQUENCE));
        for cut in 0..certificate.der().len() {
            let _ = check_period(&certificate.der()[..cut], at(start));
        }
        assert_eq!(check_period(b"", at(start)), Err(CertificateError::BadEncoding));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = issuer(&bytes);
            let _ = check_period(&bytes, UnixTime::since_unix_epoch(Duration::ZERO));
        }

        #[test]
        fn any_time_is_read_or_refused(digits in "[0-9]{10,16}Z?") {
            let _ = seconds(UTC_TIME, &digits);
            let _ = seconds(GENERALIZED_TIME, &digits);
        }
    }
}
