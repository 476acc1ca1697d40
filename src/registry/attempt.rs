//! State of a call that is being sent, and the possible consequences of a refusal.

use reqwest::header::HeaderValue;

use super::scope::Scope;
use crate::error::Error;

/// How a call is sent, and which alternatives were already tried for it.
pub(super) struct Attempt {
    pub(super) authorization: Option<HeaderValue>,
    pub(super) scope: Scope,
    /// Whether another authorization was tried since the last pause.
    pub(super) replayed: bool,
    /// Whether a wider scope was tried.
    pub(super) widened: bool,
    /// Whether the call was sent without any authorization.
    pub(super) bare: bool,
    /// Why the call is sent without a login.
    pub(super) without_login: Option<WithoutLogin>,
}

/// Reason to send a call without a login.
pub(super) struct WithoutLogin {
    /// Error of the login, or an error that there is no login.
    pub(super) error: Error,
    /// Whether a login is stored.
    pub(super) stored: bool,
}

/// Consequence of an answer.
pub(super) enum Renewal {
    /// The call is sent again with the attempt's current authorization.
    Again,
    /// The refusal may be transient: the call is sent again after a pause, or fails with this error.
    MayPass(Error),
    /// The answer is final.
    Stands,
}

/// Result of looking for another authorization after a refusal.
pub(super) enum Renewed {
    /// An authorization that was not tried yet.
    With(HeaderValue),
    /// No untried authorization is left.
    Nothing,
    /// The registry's challenge could not be read now; a later attempt may succeed.
    MayPass(Error),
}
