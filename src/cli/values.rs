//! Parsers and constants for options that several commands share.

use std::num::ParseIntError;

/// Transport prefixes that other programs expect before a file name, as in `oci-archive:FILE`.
pub(super) const TRANSPORTS: [&str; 6] = ["oci", "oci-archive", "docker-archive", "docker-daemon", "dir", "docker"];

/// Returns a parser of whole numbers from `least` to `most`. The error message for other values names the range.
pub(super) fn whole<N: TryFrom<u64>>(
    least: u64,
    most: u64,
) -> impl Fn(&str) -> Result<N, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number: Result<u64, ParseIntError> = text.trim().parse();
        let number = number.ok().filter(|number| (least..=most).contains(number));
        number
            .and_then(|number| N::try_from(number).ok())
            .ok_or_else(|| match most {
                u64::MAX => format!("a whole number of at least {least} is needed"),
                _ => format!("a whole number from {least} to {most} is needed"),
            })
    }
}

/// Parses the variable of a flag that is counted, such as `-v`: a number, or whether the flag is given once.
pub(super) fn verbosity(text: &str) -> Result<u8, String> {
    match text.trim().to_lowercase().as_str() {
        "true" | "t" | "yes" | "y" | "on" => Ok(1),
        "false" | "f" | "no" | "n" | "off" => Ok(0),
        number => number
            .parse()
            .map_err(|_| "a number such as 2, `true` or `false` is needed".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_range_are_told_the_range() {
        let jobs = whole::<u16>(1, 256);
        assert_eq!(jobs(" 7 "), Ok(7));
        for text in ["0", "257", "many", "-1", "", "99999999999999999999"] {
            assert_eq!(jobs(text).unwrap_err(), "a whole number from 1 to 256 is needed");
        }
        assert_eq!(
            whole::<u64>(1, u64::MAX)("0").unwrap_err(),
            "a whole number of at least 1 is needed"
        );
    }
}
