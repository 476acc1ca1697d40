//! HTTP clients of registries, one per host (OCI distribution-spec).
//! They have credentials, TLS, retries and limits.
//!
//! [`Registries`] is one side of a transfer. It hands out one [`Registry`] per host; all clones of a [`Registry`] share
//! their connections, tokens and limits. Content from a registry is checked here as far as possible: manifests against their
//! digest, blobs against the length in their descriptor. The reader of a blob checks its digest; for uploads the digest is
//! checked here.

mod answer;
mod attempt;
mod auth;
mod blob;
mod blob_body;
mod blob_head;
mod blob_store;
mod breaker;
mod cache;
mod cache_record;
mod call;
mod candidate;
mod challenge;
mod content_encoding;
mod content_range;
mod context;
pub(crate) mod credentials;
mod exchange;
mod failure;
mod find;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
mod head_sizes;
mod host;
pub(crate) mod known_secrets;
mod limiter;
mod limits;
mod link;
mod list;
mod list_referrers;
mod location;
mod login;
pub(crate) mod mirrors;
mod options;
mod outage;
mod pace;
mod proof;
pub(crate) mod proxy;
mod pull;
mod push;
mod quota;
mod reach;
mod redact;
mod redirect;
mod referrers_answers;
mod refusal;
mod registries;
mod renewal;
mod retry;
mod scheme;
mod scope;
mod send_queue;
mod similar_tags;
mod stop;
mod stores;
mod tags_at_once;
pub(crate) mod tls;
mod token;
mod tunnel;
mod types;
pub(crate) mod upload;

pub use blob::{BlobReader, WithoutRange};
pub(crate) use candidate::{Candidate, ReadPlace};
pub(crate) use limiter::Lines;
pub use limits::RateLimit;
pub(crate) use login::is_required_or_missing;
pub use options::{MOST_JOBS, Options};
pub use refusal::Refusal;
pub use registries::{Registries, Registry, is_full};
pub use stop::Stop;
pub(crate) use tags_at_once::TAGS_AT_ONCE;
pub(crate) use types::TagLookup;
pub use types::{AcceptedManifest, Presence, Pushed, Referrers};
pub use upload::source::{BlobSource, BlobStream};
