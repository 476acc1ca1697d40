//! Resolves references to image trees: fetches manifests, selects platforms and finds referrers.

mod absent;
mod cache;
mod discovered;
mod fetch;
mod found_referrer;
mod permits;
mod quota;
pub(crate) mod referrers;
mod repository_referrers;
mod resolver;
mod sizes;
mod wanted;

pub use self::fetch::LOST_MANIFEST;
pub use self::wanted::Wanted;
pub(super) use absent::{absent, warn_of_absent};
pub use resolver::Resolver;
