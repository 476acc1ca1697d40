//! The tags of a repository that are most similar to a missing one, for hints.

/// Maximum number of tags compared with a missing tag.
const MAX_COMPARED: usize = 2000;

/// Maximum number of similar tags named in a hint.
const MAX_NAMED: usize = 3;

/// Returns the few tags that are most similar to the wanted tag, in backticks.
pub(super) fn nearest(wanted: &str, tags: Vec<String>) -> Vec<String> {
    let mut all: Vec<(usize, String)> = tags
        .into_iter()
        .filter(|tag| tag != wanted)
        .take(MAX_COMPARED)
        .map(|tag| (distance(wanted.as_bytes(), tag.as_bytes()), tag))
        .collect();
    all.sort();
    all.dedup();
    all.into_iter()
        .take(MAX_NAMED)
        .map(|(_, tag)| format!("`{tag}`"))
        .collect()
}

/// Returns the number of bytes to insert, delete or change (Levenshtein distance).
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_tags_come_first() {
        let tags = ["latest", "3.19", "3.20", "3.2", "edge"].map(str::to_owned).to_vec();
        assert_eq!(nearest("3.21", tags.clone()), ["`3.2`", "`3.20`", "`3.19`"]);
        assert_eq!(nearest("lates", tags)[0], "`latest`");
        assert_eq!(nearest("x", Vec::new()), Vec::<String>::new());
        assert_eq!(distance(b"kitten", b"sitting"), 3);
    }
}
