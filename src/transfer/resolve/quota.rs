//! Warnings about rate limits: compares the pulls that a run needs with the remaining pulls.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::wanted::Wanted;
use crate::image::digest::Digest;
use crate::image::manifest::RawManifest;
use crate::image::reference::Reference;
use crate::image::select::{Graph, Need, SelectResult, select};
use crate::progress::Progress;
use crate::registry::Registries;
use crate::text::counted;

/// Warns once for each registry whose rate limit allows fewer pulls than the run needs.
///
/// The needed pulls are the selected manifests directly below `roots` that are not in the cache; nested indexes may need
/// more. Registries state the remaining pulls in each response, so this function sends no request.
pub(super) fn warn<'a>(
    roots: impl Iterator<Item = (&'a Reference, &'a Arc<RawManifest>)>,
    registries: &Registries,
    wanted: &Wanted,
    progress: &Progress,
) {
    let mut needed: BTreeMap<&str, HashSet<Digest>> = BTreeMap::new();
    for (reference, root) in roots {
        let Ok(registry) = registries.host(reference.host()) else {
            continue;
        };
        // A single image needs its config, which is a blob and no pull. An invalid index is reported later.
        let Ok(SelectResult::Needs(needs)) = select(&Graph::default(), root, wanted.platforms_of(reference)) else {
            continue;
        };
        let manifests = needs.into_iter().filter_map(|need| match need {
            Need::Manifest(descriptor) => Some(descriptor.digest),
            Need::Platform { .. } => None,
        });
        let absent = manifests.filter(|digest| !registry.has_cached(digest));
        needed.entry(reference.host()).or_default().extend(absent);
    }
    for (host, digests) in needed {
        let Ok(registry) = registries.host(host) else { continue };
        let Some(limit) = registry.last_rate_limit() else {
            continue;
        };
        let Some(remaining) = limit.remaining else { continue };
        let needed = digests.len() as u64;
        let all = limit.limit.map_or_else(String::new, |limit| format!(" of {limit}"));
        let window = limit.window.map_or_else(String::new, |window| {
            let hours = (window.as_secs() / 3600).max(1);
            format!(" in this window of {}", counted(hours, "hour", "hours"))
        });
        let needed_pulls = counted(needed, "pull", "pulls");
        let state = format!("{host}: {needed_pulls} needed, {remaining}{all} left{window}");
        if needed > remaining {
            progress.warn(format!(
                "{state}; the run stops when they are used up, and the same command resumes later. Log in for a higher limit"
            ));
        } else {
            progress.note(state);
        }
    }
}
