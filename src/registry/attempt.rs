//! The state of a call that is being sent, and what may follow a refusal of it.

use reqwest::header::HeaderValue;

use super::scope::Scope;
use crate::error::Error;

/// How a call goes out, and what was tried for it.
pub(super) struct Attempt {
    pub(super) authorization: Option<HeaderValue>,
    pub(super) scope: Scope,
    /// Whether another authorization was tried since the last pause.
    pub(super) replayed: bool,
    /// Whether a wider scope was tried.
    pub(super) widened: bool,
    /// Whether it went out without any authorization.
    pub(super) bare: bool,
    /// Why it goes out without a login.
    pub(super) without_login: Option<WithoutLogin>,
}

/// Why a call goes out without a login.
pub(super) struct WithoutLogin {
    /// The fault of the login, or that there is none.
    pub(super) error: Error,
    /// Whether there is one.
    pub(super) stored: bool,
}

/// What follows an answer.
pub(super) enum Renewal {
    /// The call is sent again, with the authorization that the attempt has now.
    Again,
    /// The refusal may pass: the call is sent again after a pause, or ends with this error.
    MayPass(Error),
    /// The answer stands.
    Stands,
}

/// What there is after a refusal.
pub(super) enum Renewed {
    /// Another authorization.
    With(HeaderValue),
    /// Nothing that was not tried.
    Nothing,
    /// What the registry wants is not known yet, and may be found out later.
    MayPass(Error),
}
