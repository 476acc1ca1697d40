//! Hints for lines that are written in the syntax of other formats: YAML, JSON, CSV, shell.

/// Returns what to write instead of a refused line, if the line has the syntax of another format.
pub(super) fn hint(line: &str) -> Option<&'static str> {
    let line = line.trim();
    let is_yaml = line.starts_with("- ") || line.ends_with(':') || is_mapping(line);
    Some(match () {
        () if line.starts_with("//") || line.starts_with(';') => "a comment begins with `#`",
        () if line.starts_with(['{', '[', '"']) && line.contains('"') => {
            "this looks like JSON: write one name on each line, without quotes, as `jq -r '.[]' FILE` prints an array of names"
        }
        () if is_yaml => {
            "this looks like YAML: write the name alone on its line, as `sed -n 's/^[- ]*image: *//p' FILE` prints the images of \
             Kubernetes and compose files"
        }
        () if line.contains(['"', '\'']) => "omit the quotes",
        () if line.contains(" -> ") => "a destination is written `SRC => DST`",
        () if line.ends_with([',', ';', '\\']) => "omit the last character: a line ends with the name or its options",
        () if line.contains(',') => {
            "this looks like CSV: write one name on each line, as `cut -d, -f1 FILE` prints a column"
        }
        () if line.contains('#') => "a comment begins with white space and `#`",
        () => return newest_hint(line),
    })
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
