//! Texts of an image config for people (OCI image-spec, config.md): labels, history, time of creation.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::text::byte_count;

/// Maximum number of labels, and of history steps, that are kept of one config.
const MAX_TEXTS: usize = 200;

/// Maximum length in characters of a label, a label's name, or a history step.
const MAX_TEXT: usize = 2000;

/// The texts of a config, unescaped and cut to a bound.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    /// Time of creation, as the config states it.
    pub created: Option<String>,
    /// Labels, by name.
    pub labels: BTreeMap<String, String>,
    /// The build steps, the oldest first.
    pub history: Vec<String>,
    /// Number of labels and build steps beyond the limits of this list.
    pub more: usize,
}

impl Details {
    /// Parses the texts of a config; returns `None` if the document is not an image config.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Document {
            created: Option<String>,
            config: Option<Config>,
            history: Option<Vec<Step>>,
        }
        #[derive(Deserialize)]
        struct Config {
            #[serde(rename = "Labels")]
            labels: Option<BTreeMap<String, Option<String>>>,
        }
        #[derive(Deserialize)]
        struct Step {
            created_by: Option<String>,
            comment: Option<String>,
        }
        let document: Document = serde_json::from_slice(bytes).ok()?;
        let labels = document.config.and_then(|config| config.labels).unwrap_or_default();
        let history = document.history.unwrap_or_default();
        let more = labels.len().saturating_sub(MAX_TEXTS) + history.len().saturating_sub(MAX_TEXTS);
        let text_of = |step: Step| step.created_by.or(step.comment).unwrap_or_default();
        let labels = labels.into_iter().take(MAX_TEXTS);
        Some(Self {
            created: document.created.map(cut),
            labels: labels
                .map(|(name, value)| (cut(name), cut(value.unwrap_or_default())))
                .collect(),
            history: history
                .into_iter()
                .take(MAX_TEXTS)
                .map(|step| cut(text_of(step)))
                .collect(),
            more,
        })
    }

    /// Returns the memory that these texts take, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        const ALLOCATION: usize = 80;
        let labels = self
            .labels
            .iter()
            .map(|(name, value)| name.len() + value.len() + 2 * ALLOCATION);
        let history = self.history.iter().map(|step| step.len() + ALLOCATION);
        (size_of::<Self>() + labels.chain(history).sum::<usize>()) as u64
    }
}

/// Cuts a text to its first [`MAX_TEXT`] characters, and adds the number of bytes cut off.
fn cut(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MAX_TEXT) {
        let more = text.len() - end;
        text.truncate(end);
        text.push_str(&format!("… ({} more)", byte_count(more as u64)));
        text.shrink_to_fit();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_a_config_are_kept_as_they_are_and_cut() {
        let long = "é".repeat(100_000);
        let config = serde_json::json!({
            "created": "2026-01-01T00:00:00Z",
            "config": {"Labels": {"a": "<script>\u{202e}", "b": null, "c": long}},
            "history": [{"created_by": "RUN x"}, {"comment": "imported"}, {"empty_layer": true}],
        });
        let details = Details::parse(&serde_json::to_vec(&config).unwrap()).unwrap();
        assert_eq!(details.labels["a"], "<script>\u{202e}");
        assert_eq!(details.labels["b"], "");
        assert!(details.labels["c"].ends_with("é… (196000 bytes more)"));
        assert_eq!(details.history, ["RUN x", "imported", ""]);
        assert_eq!(Details::parse(b"{\"config\":null}"), Some(Details::default()));
        assert_eq!(Details::parse(b"[]"), None);
        let many: BTreeMap<String, String> = (0..1000).map(|n| (n.to_string(), String::new())).collect();
        let config = serde_json::json!({"config": {"Labels": many}});
        let details = Details::parse(config.to_string().as_bytes()).unwrap();
        assert_eq!((details.labels.len(), details.more), (200, 800));
    }
}
