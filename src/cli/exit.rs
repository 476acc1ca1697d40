//! The outcome of a run and its exit code.

use docker_mirror::{Error, Kind, Side, Unusable, is_registry_full};

/// Exit code of a run that `--timeout` ended; timeout(1) uses the same code.
pub(super) const TIMED_OUT: u8 = 124;

/// The outcome of a command. The README lists the exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Everything is done.
    Success,
    /// Something failed, and the failure has been reported.
    Failure,
    /// The command line, or a file that it names, is wrong.
    Usage,
    /// Registries refused the login, or the rights of the account.
    Login,
    /// A pull limit or a quota of the destination is used up; running the same command later continues.
    Quota,
    /// The bundle is damaged.
    Damaged,
    /// The bundle was written without some images (`--allow-partial`).
    Partial,
}

impl Outcome {
    /// Returns the exit code.
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

    /// Returns the outcome of a run that one error ended. With `reads_bundle`, malformed or altered content counts as a damaged
    /// bundle.
    pub(super) fn from_error(error: &Error, reads_bundle: bool) -> Self {
        match error.kind() {
            // An output that exists is found before any other work.
            Kind::Usage | Kind::Exists => Self::Usage,
            _ => Self::from_errors([error], reads_bundle),
        }
    }

    /// Returns the outcome of a run with these errors: their common reason, or [`Self::Failure`] if the reasons differ.
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

    /// Returns the outcome of a command that looked at bundles, from the images and files of the bundles that cannot be used.
    /// `has_usable` says whether any image can be used.
    pub(super) fn from_unusable<'a>(unusable: impl Iterator<Item = &'a Unusable>, has_usable: bool) -> Self {
        let errors: Vec<&Error> = unusable.map(|unusable| &*unusable.error).collect();
        match errors.as_slice() {
            [] => Self::Success,
            errors if !has_usable && errors.iter().all(|error| error.kind() == Kind::Usage) => Self::Usage,
            errors => Self::from_errors(errors.iter().copied(), true),
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

/// Returns whether the error is not about the destination or a file of this machine.
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
    /// Returns the exit code that a shell shows for a program that died of this signal.
    pub(super) fn code(self) -> u8 {
        128 + self as u8
    }

    /// Ends this process by SIGINT; returns for other signals, and in the first process of a container.
    ///
    /// On Ctrl-C, a shell ends its loop only if the program in the loop died of SIGINT; an exit with code 130 lets the loop
    /// go on. The first process of a container cannot die of a signal.
    pub(super) fn end_process_by_signal(self) {
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
        assert_eq!(Outcome::from_error(&error(Kind::Exists), false).code(), 2);
        assert_eq!(Outcome::from_errors(&[error(Kind::Exists)], false).code(), 1);
        assert_eq!(Outcome::from_error(&error(Kind::Malformed), true).code(), 5);
        assert_eq!(
            [Signal::Interrupt, Signal::Terminate, Signal::HangUp].map(Signal::code),
            [130, 143, 129]
        );
    }
}
