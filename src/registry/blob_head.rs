//! Whether a repository has a blob: HEAD requests, and a GET where HEAD states another size than the descriptor.
//! Some proxies state wrong sizes in answers to HEAD, and some registries keep a part of an upload: only a GET tells which it is.

use std::sync::atomic::Ordering;

use reqwest::header::{HeaderValue, RANGE};
use reqwest::{Method, StatusCode};

use super::call::Call;
use super::content_range;
use super::head_sizes::MAX_CONFIRMED;
use super::host::Host;
use super::pull::MAX_SMALL_BLOB;
use super::redirect;
use super::retry::Backoff;
use super::scope::Scope;
use super::types::Presence;
use crate::error::Result;
use crate::image::descriptor::Descriptor;

impl Host {
    /// Returns whether a repository has a blob.
    pub(super) async fn head_blob(
        &self,
        repository: &str,
        descriptor: &Descriptor,
        scope: Scope,
    ) -> Result<Presence<()>> {
        let mut backoff = Backoff::new(&self.context.options);
        self.head_blob_within(repository, descriptor, scope, &mut backoff).await
    }

    /// Sends a HEAD for a blob within a retry budget that is already in use.
    pub(super) async fn head_blob_within(
        &self,
        repository: &str,
        descriptor: &Descriptor,
        scope: Scope,
        backoff: &mut Backoff,
    ) -> Result<Presence<()>> {
        let call = self.blob_call(Method::HEAD, repository, descriptor, scope.clone());
        let call = call.staying();
        let mut answer = self.exchange_within(&call, backoff).await?;
        let led_away = redirect::is_redirect(answer.status().as_u16());
        if led_away {
            answer = match self.ask_store(answer).await {
                Some(answer) => answer,
                None => return Ok(Presence::Unknown),
            };
        }
        match answer.status() {
            // The length of an encoded body says nothing about the blob.
            StatusCode::OK if answer.is_web_page() => Ok(Presence::Unknown),
            StatusCode::OK if answer.encoding().is_some() => Ok(Presence::Present(())),
            StatusCode::OK => match answer.length().filter(|length| *length != descriptor.size) {
                None => Ok(Presence::Present(())),
                Some(length) => {
                    let get = self.blob_call(Method::GET, repository, descriptor, scope);
                    Ok(self.check_size(get, descriptor, length, backoff).await)
                }
            },
            StatusCode::NOT_FOUND => Ok(Presence::Missing),
            StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS if !led_away => {
                Err(answer.into_error(&call.action).await)
            }
            _ => Ok(Presence::Unknown),
        }
    }

    fn blob_call<'a>(&self, method: Method, repository: &'a str, descriptor: &Descriptor, scope: Scope) -> Call<'a> {
        let action = format!(
            "cannot look for blob {} in `{}/{repository}`",
            descriptor.digest, self.name
        );
        let url = self.url(repository, &format!("blobs/{}", descriptor.digest));
        Call::new(method, url, repository, scope, action)
    }

    /// Finds out by a GET, if necessary, whether a blob has the size `stated` in an answer to HEAD, which is not the
    /// descriptor's.
    async fn check_size(
        &self,
        call: Call<'_>,
        descriptor: &Descriptor,
        stated: u64,
        backoff: &mut Backoff,
    ) -> Presence<()> {
        let sizes = &self.head_sizes;
        let mut confirmed = sizes.confirmed.lock().await;
        if let Some(known) = sizes.known() {
            return known;
        }
        let found = match *confirmed < MAX_CONFIRMED {
            true => self.size_by_get(&call, descriptor, backoff).await,
            false => Presence::Unknown,
        };
        let size = match found {
            Presence::Present(()) => {
                sizes.are_wrong.store(true, Ordering::Relaxed);
                self.context.warn_once(format!(
                    "`{}` states wrong sizes of blobs in answers to HEAD, as a proxy in front of it may make it do: a blob that was \
                     read has the right size, so the sizes in these answers are ignored from now on",
                    self.name
                ));
                return found;
            }
            Presence::Missing => {
                sizes.are_invented.store(true, Ordering::Relaxed);
                return found;
            }
            Presence::OtherSize(size) => size,
            Presence::Unknown => stated,
        };
        *confirmed = confirmed.saturating_add(1);
        drop(confirmed);
        let progress = &self.context.options.progress;
        progress.note(format!(
            "`{}/{}` has blob {} with {size} instead of {} bytes",
            self.name, call.repository, descriptor.digest, descriptor.size
        ));
        self.context.warn_once(format!(
            "`{}` has blobs with other sizes than their manifests state (`-v` lists them), which count as missing: its storage is \
             damaged, or a proxy in front of it changes them",
            self.name
        ));
        Presence::OtherSize(size)
    }

    /// Reads the size of a blob with a GET of its last byte, or of as much as is needed where the server sends no ranges.
    /// Returns [`Presence::Unknown`] if the answer does not say.
    async fn size_by_get(&self, call: &Call<'_>, descriptor: &Descriptor, backoff: &mut Backoff) -> Presence<()> {
        let size = descriptor.size;
        let last = size.checked_sub(1).map(|last| format!("bytes={last}-{size}"));
        let ranges = last.and_then(|range| HeaderValue::try_from(range).ok());
        // A server without ranges may refuse a request that has one.
        for range in [ranges, None] {
            let mut call = call.clone();
            if let Some(range) = range {
                call = call.header(RANGE, range);
            }
            let Ok(answer) = self.exchange_within(&call, backoff).await else {
                return Presence::Unknown;
            };
            let found = match answer.status() {
                StatusCode::NOT_FOUND => return Presence::Missing,
                StatusCode::PARTIAL_CONTENT => {
                    let part = content_range::parse_answer(answer.headers());
                    part.map(|(_, last, total)| total.unwrap_or(last + 1))
                }
                StatusCode::RANGE_NOT_SATISFIABLE => content_range::parse_refusal(answer.headers()),
                StatusCode::OK if answer.is_web_page() => None,
                StatusCode::OK if answer.encoding().is_some() => return Presence::Present(()),
                StatusCode::OK => match answer.length() {
                    None if size > MAX_SMALL_BLOB => None,
                    None => answer.bytes(size).await.ok().map(|bytes| bytes.len() as u64),
                    length => length,
                },
                _ => None,
            };
            match found {
                Some(found) if found == size => return Presence::Present(()),
                Some(found) => return Presence::OtherSize(found),
                None => {}
            }
        }
        Presence::Unknown
    }
}
