//! Hints for lines that are written in the syntax of other formats: YAML, JSON, CSV, shell.

use crate::image::reference::Reference;

/// Hint for a line of a Kubernetes manifest, a compose file or the values of a chart.
pub(super) const YAML: &str = "this looks like YAML: write the name alone on its line, as `sed -n 's/^[- ]*image: *//p' FILE | tr -d \
     \"'\\\"\"` prints the images of Kubernetes and compose files";

/// Returns what to write instead of a refused line, if the line has the syntax of another format.
pub(super) fn hint(line: &str) -> Option<&'static str> {
    let line = line.trim();
    let is_yaml = line.starts_with("- ") || line.ends_with(':') || is_mapping(line);
    Some(match () {
        () if line.starts_with("//") || line.starts_with(';') => "a comment begins with `#`",
        () if line.starts_with(['/', '.', '~']) => {
            "this looks like a path: a list is given with `--images FILE`, and the images of a bundle go to a registry with \
             `docker-mirror import FILE -d REGISTRY`"
        }
        () if line.contains('$') => {
            "a variable or a command was not expanded: the shell expands none in single quotes, and none in a list"
        }
        () if line.starts_with('"') && line.ends_with('"') => {
            "omit the quotes, as `jq -r` does, or `tr -d '\"' < FILE`"
        }
        () if line.starts_with(['{', '[', '"']) && line.contains('"') => {
            "this looks like JSON: write one name on each line, without quotes, as `jq -r '.[]' FILE` prints an array of names"
        }
        () if is_item(line) => {
            "this looks like YAML: write the name alone on its line, as `sed 's/^[-* ]*//' FILE` prints a list"
        }
        () if is_yaml => YAML,
        () if line.contains(['"', '\'']) => "omit the quotes",
        () if line.contains(" -> ") => "a destination is written `SRC => DST`",
        () if line.ends_with([',', ';', '\\']) => "omit the last character: a line ends with the name or its options",
        () if line.matches('{').count() > line.matches('}').count() => {
            "a `{` is not closed: a choice of tags is written `NAME:{1.0,2.0}`, in quotes on the command line"
        }
        () if line.contains('|') => "a choice of tags is written `NAME:{1.0,2.0}`, in quotes on the command line",
        () if line.split(',').skip(1).any(is_name) => {
            "this looks like CSV with several names in a line: write one name on each line, as `tr -s ', ' '\\n' < FILE` does"
        }
        () if line.contains(',') => {
            "this looks like CSV: write one name on each line, as `cut -d, -f1 FILE` prints a column"
        }
        () if line.contains('#') => "a comment begins with white space and `#`",
        () => return newest_hint(line),
    })
}

/// Returns whether a line is an item of a YAML or Markdown list that is a name alone.
fn is_item(line: &str) -> bool {
    let item = line.strip_prefix("- ").or_else(|| line.strip_prefix("* "));
    item.is_some_and(|item| !item.contains([' ', '"', '\'']) && !item.ends_with(':'))
}

/// Returns whether a text is the name of an image, and not a word.
fn is_name(text: &str) -> bool {
    let text = text.trim();
    text.contains(['/', ':', '@']) && text.parse::<Reference>().is_ok()
}

/// Returns whether a line is a key of YAML that names an image, with its value.
pub(super) fn is_mapping(line: &str) -> bool {
    let (key, rest) = line.split_once(':').unwrap_or((line, ""));
    ["image", "images", "name"].contains(&key.trim_start_matches("- ").trim()) && rest.starts_with([' ', '\t'])
}

/// Returns the hint for a line that asks for the newest tags in other words.
fn newest_hint(line: &str) -> Option<&'static str> {
    let first = line.split_whitespace().next()?;
    let is_choice = line.contains(' ') && ["latest", "newest", "last"].contains(&first);
    is_choice.then_some("write `latest 3 of NAME` or `latest 3 of NAME:1.*`; of one tag, write `NAME:latest`")
}
