//! Watches the tags of a registry during a run: everything below each tag must exist.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::support::http::{ACCEPT, Client};
use super::support::sha256;

/// What a tag names, as far as it was looked at.
#[derive(Debug, Default)]
pub(crate) struct Watcher {
    /// Roots that were found whole, by repository and digest.
    whole: HashSet<(String, String)>,
    /// What was wrong.
    pub(crate) faults: Vec<String>,
}

impl Watcher {
    /// Looks at every tag once.
    pub(crate) fn look(&mut self, client: &Client, tags: &[(String, String)]) {
        for (repository, tag) in tags {
            // A registry that is writing a tag at this moment may answer that it cannot read it.
            let target = format!("/v2/{repository}/manifests/{tag}");
            let answer = client.request("GET", &target, &[("accept", ACCEPT)], b"");
            let Some(root) = answer.ok().filter(|a| a.status == 200).map(|a| a.body) else {
                continue;
            };
            let digest = sha256(&root);
            if self.whole.contains(&(repository.clone(), digest.clone())) {
                continue;
            }
            let missing = missing(client, repository, &root);
            if missing.is_empty() {
                self.whole.insert((repository.clone(), digest));
            } else {
                self.faults
                    .push(format!("{repository}:{tag} is {digest}, and {missing:?} is not there"));
            }
        }
    }

    /// Looks until told to stop, and once more.
    pub(crate) fn watch(mut self, client: &Client, tags: &[(String, String)], stop: &AtomicBool) -> Self {
        while !stop.load(Ordering::SeqCst) {
            self.look(client, tags);
            std::thread::sleep(Duration::from_millis(40));
        }
        self.look(client, tags);
        self
    }
}

/// The digests below a manifest that a repository does not have.
pub(crate) fn missing(client: &Client, repository: &str, manifest: &[u8]) -> Vec<String> {
    let json: Value = serde_json::from_slice(manifest).unwrap_or_default();
    let list = |name: &str| json[name].as_array().cloned().unwrap_or_default();
    let digest = |value: &Value| value["digest"].as_str().map(str::to_owned);
    let mut found = Vec::new();
    for child in list("manifests").iter().filter_map(digest) {
        match client.manifest(repository, &child) {
            Some(bytes) => found.extend(missing(client, repository, &bytes)),
            None => found.push(child),
        }
    }
    let config = json.get("config").and_then(digest);
    for blob in config.into_iter().chain(list("layers").iter().filter_map(digest)) {
        let target = format!("/v2/{repository}/blobs/{blob}");
        if client.request("HEAD", &target, &[], b"").is_ok_and(|a| a.status != 200) {
            found.push(blob);
        }
    }
    found
}
