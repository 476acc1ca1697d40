//! The program as a plugin of Docker's command line: `docker mirror export …`. The same binary, copied to
//! `~/.docker/cli-plugins/docker-mirror`, is called as `docker-mirror [FLAGS OF DOCKER] mirror export …` then.

use std::ffi::OsString;
use std::path::PathBuf;

/// What Docker asks a plugin for what it is by.
pub(super) const METADATA: &str = "docker-cli-plugin-metadata";

/// Docker's flags before the name of a plugin that have a value behind them.
const WITH_VALUE: [&str; 10] = [
    "--config",
    "-c",
    "--context",
    "-H",
    "--host",
    "-l",
    "--log-level",
    "--tlscacert",
    "--tlscert",
    "--tlskey",
];

/// What the plugin says of itself.
pub(super) fn metadata() -> String {
    let about = "Mirror container images through a file or from registry to registry";
    let metadata = serde_json::json!({
        "SchemaVersion": "0.1.0",
        "Vendor": "docker-mirror",
        "Version": env!("DOCKER_MIRROR_VERSION"),
        "ShortDescription": about,
    });
    metadata.to_string()
}

/// Whether Docker started this process.
fn is_plugin() -> bool {
    std::env::var_os("DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND").is_some_and(|value| !value.is_empty())
}

/// What a user types to get here.
pub(super) fn name() -> &'static str {
    if is_plugin() { "docker mirror" } else { "docker-mirror" }
}

/// The arguments of this process, with its name at the front, and without what Docker puts before those of its plugin.
pub(super) fn arguments() -> Vec<OsString> {
    let all: Vec<OsString> = std::env::args_os().collect();
    if is_plugin() { without_docker(&all).0 } else { all }
}

/// The folder of `docker --config FOLDER mirror …`, whose logins are used then.
pub(super) fn config_folder() -> Option<PathBuf> {
    let all: Vec<OsString> = std::env::args_os().collect();
    if is_plugin() { without_docker(&all).1 } else { None }
}

/// The arguments behind the name of the plugin, and the value of `--config` before it.
fn without_docker(all: &[OsString]) -> (Vec<OsString>, Option<PathBuf>) {
    let mut rest = all.iter().skip(1);
    let mut config = None;
    while let Some(word) = rest.next() {
        let text = word.to_string_lossy();
        if let Some(value) = text.strip_prefix("--config=") {
            config = Some(PathBuf::from(value));
        } else if WITH_VALUE.contains(&&*text) {
            let value = rest.next();
            if text == "--config" {
                config = value.map(PathBuf::from);
            }
        } else if !text.starts_with('-') {
            // The name of the plugin.
            break;
        }
    }
    let name = all.first().cloned().unwrap_or_default();
    (std::iter::once(name).chain(rest.cloned()).collect(), config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_docker_are_not_those_of_the_plugin() {
        for (line, expected, config) in [
            ("p mirror export a -o b", "p export a -o b", None),
            ("p mirror", "p", None),
            ("p --config /c mirror import b", "p import b", Some("/c")),
            ("p --config=/c -D --context x mirror --help", "p --help", Some("/c")),
            (
                "p --tlsverify --tls -H tcp://h mirror mirror:1 -d r",
                "p mirror:1 -d r",
                None,
            ),
            ("p --log-level debug mirror --config-like", "p --config-like", None),
        ] {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let (arguments, folder) = without_docker(&words);
            let arguments: Vec<String> = arguments.into_iter().map(|word| word.into_string().unwrap()).collect();
            assert_eq!(arguments.join(" "), expected, "{line}");
            assert_eq!(folder, config.map(PathBuf::from), "{line}");
        }
    }
}
