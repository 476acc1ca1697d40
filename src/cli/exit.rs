//! How a run ended, and the exit code that says so.

use docker_mirror::{Error, Kind, Side, is_registry_full};

/// The exit code of a run that `--timeout` ended: that of timeout(1).
pub(super) const TIMED_OUT: u8 = 124;

/// How a command ended. The README lists the codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Everything is done.
    Success,
    /// Something failed; it has been reported.
    Failure,
    /// The command line, or a file that it names, is wrong.
    Usage,
    /// Registries refused the login, or the rights of the account.
    Login,
    /// A pull limit or a quota of the destination is used up; the same command continues later.
    Quota,
    /// The bundle is damaged.
    Damaged,
    /// The bundle was written without some images, as allowed.
    Partial,
}

impl Outcome {
    /// The exit code.
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Login => 3,
            Self::Quota => 4,
            Self::Damaged => 5,
            Self::Partial => 6,
        }
    }

    /// The outcome of a run that one error ended. `reads_bundle` says that what is malformed or altered is a bundle, and not what
    /// a registry has.
    pub(super) fn from_error(error: &Error, reads_bundle: bool) -> Self {
        match error.kind() {
            Kind::Usage => Self::Usage,
            _ => Self::from_errors([error], reads_bundle),
        }
    }

    /// The outcome of a run in which these errors came up: the reason, if all of them have the same.
    pub(super) fn from_errors<'a>(errors: impl IntoIterator<Item = &'a Error>, reads_bundle: bool) -> Self {
        let mut reasons = errors.into_iter().map(|error| Self::reason(error, reads_bundle));
        let Some(first) = reasons.next() else {
            return Self::Failure;
        };
        match reasons.all(|reason| reason == first) {
            true => first,
            false => Self::Failure,
        }
    }

    fn reason(error: &Error, reads_bundle: bool) -> Self {
        match error.kind() {
            _ if is_registry_full(error) => Self::Quota,
            Kind::Unauthorized | Kind::Denied => Self::Login,
            Kind::RateLimited => Self::Quota,
            Kind::Integrity | Kind::Malformed if reads_bundle && is_about_source(error) => Self::Damaged,
            _ => Self::Failure,
        }
    }
}

/// Whether it is not the destination or a file of this machine that is malformed.
fn is_about_source(error: &Error) -> bool {
    !matches!(error.side(), Some(Side::Destination | Side::Local))
}

/// A signal that ends a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    Interrupt = 2,
    Terminate = 15,
    HangUp = 1,
}

impl Signal {
    /// The exit code that a shell shows for a program that died of it.
    pub(super) fn code(self) -> u8 {
        128 + self as u8
    }

    /// Dies by it where that makes a difference: a shell ends its loop at Ctrl-C only if the program in it died of the signal,
    /// and goes on if the program exits with the same code. The first process of a container cannot die by a signal.
    pub(super) fn die(self) {
        if self == Self::Interrupt && std::process::id() != 1 {
            let _ = signal_hook::low_level::emulate_default_handler(self as i32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outcome_names_the_reason_that_all_failures_have() {
        let error = |kind| Error::new(kind, "x");
        for (kinds, code) in [
            (&[Kind::NotFound][..], 1),
            (&[], 1),
            (&[Kind::Unauthorized, Kind::Denied], 3),
            (&[Kind::Unauthorized, Kind::NotFound], 1),
            (&[Kind::RateLimited, Kind::RateLimited], 4),
            (&[Kind::RateLimited, Kind::Unauthorized], 1),
            (&[Kind::Integrity], 1),
            (&[Kind::Usage], 1),
        ] {
            let errors: Vec<Error> = kinds.iter().copied().map(error).collect();
            assert_eq!(Outcome::from_errors(&errors, false).code(), code, "{kinds:?}");
        }
        assert_eq!(Outcome::from_error(&error(Kind::Usage), false).code(), 2);
        assert_eq!(Outcome::from_error(&error(Kind::Malformed), true).code(), 5);
        assert_eq!(
            [Signal::Interrupt, Signal::Terminate, Signal::HangUp].map(Signal::code),
            [130, 143, 129]
        );
    }
}
