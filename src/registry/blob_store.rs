//! Store to which a registry redirects for its blobs.

use std::sync::atomic::Ordering;

use reqwest::Method;
use reqwest::header::HeaderMap;

use super::answer::Answer;
use super::context::Trust;
use super::host::Host;
use super::redirect::{self, Outgoing, REDIRECTS};

impl Host {
    /// Sends a HEAD for a blob to the store to which the registry redirected it.
    /// `None` if the store cannot be reached; the store is then not asked again, since a blob that exists can simply be
    /// sent again.
    pub(super) async fn ask_store(&self, answer: Answer) -> Option<Answer> {
        if self.store_unreachable.load(Ordering::Relaxed) {
            return None;
        }
        let asked = match redirect::target(&answer, &self.base()) {
            Err(failure) => Err(failure),
            Ok(url) => {
                let trust = Trust::stranger(answer.zone());
                answer.finish().await;
                let outgoing = Outgoing {
                    method: &Method::HEAD,
                    url,
                    headers: &HeaderMap::new(),
                    authorization: None,
                    body: None,
                    trust,
                    stays: false,
                    stores: None,
                };
                redirect::send(&self.context, outgoing).await
            }
        };
        match asked {
            Ok(answer) => Some(answer),
            Err(failure) => {
                if !self.store_unreachable.swap(true, Ordering::Relaxed) {
                    self.context.options.progress.warn(format!(
                        "`{}` redirects the question whether it has a blob to another server, which cannot be asked: {}; blobs are \
                         sent though they may be there; {REDIRECTS}",
                        self.name,
                        failure.error.full()
                    ));
                }
                None
            }
        }
    }
}
