//! The program as a plugin of Docker's command line: `docker mirror export …`. Docker calls the same binary from
//! `~/.docker/cli-plugins/docker-mirror` as `docker-mirror [FLAGS OF DOCKER] mirror export …`.

use std::ffi::OsString;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;

use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;

/// Hidden command with which Docker asks a plugin for its metadata.
pub(super) const METADATA: &str = "docker-cli-plugin-metadata";

/// Flags of Docker, before the name of the plugin, that take the next argument as their value.
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

/// Returns the plugin's metadata for Docker, as JSON.
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

/// Returns whether Docker started this process as its plugin.
fn is_plugin() -> bool {
    std::env::var_os("DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND").is_some_and(|value| !value.is_empty())
}

/// Returns the name by which the user called the program: `docker mirror` or `docker-mirror`.
pub(super) fn name() -> &'static str {
    if is_plugin() { "docker mirror" } else { "docker-mirror" }
}

/// Connects to the socket that Docker opens for its plugin: an abstract one (`@NAME`) on Linux, else a file. Returns `None` if
/// there is none, or an older Docker that knows none.
///
/// Requires the context of a tokio runtime.
pub(super) fn connect() -> Option<UnixStream> {
    let address = std::env::var_os("DOCKER_CLI_PLUGIN_SOCKET").filter(|address| !address.is_empty())?;
    #[cfg(target_os = "linux")]
    let stream = match address.as_encoded_bytes().strip_prefix(b"@") {
        Some(name) => {
            use std::os::linux::net::SocketAddrExt as _;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name);
            address.and_then(|address| StdUnixStream::connect_addr(&address))
        }
        None => StdUnixStream::connect(address),
    };
    #[cfg(not(target_os = "linux"))]
    let stream = StdUnixStream::connect(address);
    let stream = stream.ok()?;
    stream.set_nonblocking(true).ok()?;
    UnixStream::from_std(stream).ok()
}

/// Waits until Docker closes its socket: Docker does not pass on SIGTERM and SIGINT, and closes the socket instead. Waits for
/// ever without a socket.
pub(super) async fn wait_for_close(socket: Option<UnixStream>) {
    let Some(mut socket) = socket else {
        return std::future::pending().await;
    };
    // Docker sends nothing; an error means that the other end is gone as well.
    while let Ok(1..) = socket.read(&mut [0]).await {}
}

/// Returns the arguments of this process, with the program's name first and without the flags of Docker.
pub(super) fn arguments() -> Vec<OsString> {
    let all: Vec<OsString> = std::env::args_os().collect();
    without_mirror(if is_plugin() { without_docker(&all).0 } else { all })
}

/// Removes the word `mirror` where it is written as a command: a mirror in one step is no command of its own. The image of this
/// name is written `library/mirror`.
fn without_mirror(mut arguments: Vec<OsString>) -> Vec<OsString> {
    if arguments.len() > 2 && arguments[1] == "mirror" {
        arguments.remove(1);
    }
    arguments
}

/// Returns the folder of `docker --config FOLDER mirror …`, which holds the logins to use.
pub(super) fn config_folder() -> Option<PathBuf> {
    let all: Vec<OsString> = std::env::args_os().collect();
    if is_plugin() { without_docker(&all).1 } else { None }
}

/// Returns the arguments after the name of the plugin, and the value of `--config` before that name.
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
        } else if text == "help" {
            // `docker help mirror …`
            let behind = rest.skip(1).cloned();
            let name = all.first().cloned().unwrap_or_default();
            return ([name, word.clone()].into_iter().chain(behind).collect(), config);
        } else if !text.starts_with('-') {
            // The first word that is not a flag of Docker is the name of the plugin.
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
            ("p help mirror", "p help", None),
            ("p --config /c help mirror export", "p help export", Some("/c")),
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
