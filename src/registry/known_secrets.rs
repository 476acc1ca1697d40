//! Secrets used in this run, so that messages do not show a secret that a server sends back.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::{PoisonError, RwLock};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use reqwest::Url;

/// Maximum number of remembered secrets; the oldest are dropped first, which are mostly expired tokens.
const MAX_KNOWN: usize = 512;

/// Minimum length of a secret in bytes: shorter texts would match in every sentence.
const SHORTEST: usize = 4;

/// Each secret in all forms in which it may come back, longest form first.
static KNOWN: RwLock<VecDeque<Vec<String>>> = RwLock::new(VecDeque::new());

/// Remembers a password or a token.
pub(crate) fn remember(secret: &str) {
    if secret.trim().len() < SHORTEST {
        return;
    }
    let forms = forms(secret);
    let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    if known.contains(&forms) {
        return;
    }
    if known.len() >= MAX_KNOWN {
        known.pop_front();
    }
    known.push_back(forms);
}

/// Returns a secret as it is, and as JSON, a URL and base64 write it.
fn forms(secret: &str) -> Vec<String> {
    let json = serde_json::Value::from(secret).to_string();
    let mut forms = vec![
        secret.to_owned(),
        json.trim_matches('"').to_owned(),
        STANDARD_NO_PAD.encode(secret),
        URL_SAFE_NO_PAD.encode(secret),
    ];
    if let Ok(mut url) = Url::parse("http://x/") {
        url.set_path(secret);
        forms.push(url.path().trim_start_matches('/').to_owned());
        url.query_pairs_mut().append_pair("x", secret);
        forms.extend(
            url.query()
                .and_then(|query| query.strip_prefix("x="))
                .map(str::to_owned),
        );
    }
    forms.retain(|form| form.len() >= SHORTEST);
    forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
    forms.dedup();
    forms
}

/// Replaces all remembered secrets in a text by `***`.
pub(super) fn hide(text: &str) -> Cow<'_, str> {
    let known = KNOWN.read().unwrap_or_else(PoisonError::into_inner);
    let mut text = Cow::Borrowed(text);
    for form in known.iter().flatten() {
        if text.contains(form.as_str()) {
            text = Cow::Owned(text.replace(form.as_str(), "***"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_hidden_in_every_form() {
        let secret = "p%q\"r /s~known-secrets";
        remember(secret);
        remember(secret);
        remember("ab");
        for form in forms(secret) {
            assert_eq!(
                hide(&format!("no access for {form}, ab")),
                "no access for ***, ab",
                "{form}"
            );
        }
        assert!(matches!(hide("nothing of it"), Cow::Borrowed(_)));
    }
}
