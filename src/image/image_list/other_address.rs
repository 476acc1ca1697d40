//! Names that are no images of a registry, although most of them have the form of one: files, registries, web pages.

use crate::error::{Error, Kind};
use crate::image::destination::FILE_TRANSPORTS;
use crate::text::quote;

/// Returns the error for the name of something that is no image of a registry; `None` for any other name.
pub(super) fn refuse(name: &str) -> Option<Error> {
    let shown = quote(&name);
    let is_file = |transport: &&&str| {
        name.strip_prefix(**transport)
            .is_some_and(|file| !file.starts_with("//"))
    };
    let (what, hint) = if let Some(transport) = FILE_TRANSPORTS.iter().find(is_file) {
        (
            format!("`{transport}` does not belong to the name of an image in a registry"),
            "to a registry, the images of a file go with `docker-mirror import FILE -d REGISTRY`".to_owned(),
        )
    } else if let Some(image) = image_of_page(name) {
        (
            "it is the address of a web page, and not the name of an image".to_owned(),
            format!("write `{}`, with its tag", quote(&image)),
        )
    } else if is_registry(name) {
        (
            "it is a registry, and not the name of an image".to_owned(),
            format!("write `{shown}/REPOSITORY:TAG`"),
        )
    } else {
        return None;
    };
    Some(Error::new(Kind::Usage, format!("`{shown}`: {what}")).with_hint(hint))
}

/// Returns the image that a web page describes.
fn image_of_page(address: &str) -> Option<String> {
    let address = address.strip_prefix("https://").unwrap_or(address);
    let path = address.split(['?', '#']).next().unwrap_or_default();
    let parts: Vec<&str> = path.trim_end_matches('/').split('/').collect();
    Some(match parts.as_slice() {
        ["hub.docker.com", "_", name, ..] => format!("docker.io/library/{name}"),
        ["hub.docker.com", "r", owner, name, ..] => format!("docker.io/{owner}/{name}"),
        ["quay.io", "repository", owner, name, ..] => format!("quay.io/{owner}/{name}"),
        ["gallery.ecr.aws", owner, name, ..] => format!("public.ecr.aws/{owner}/{name}"),
        ["github.com", "orgs" | "users", owner, .., name] | ["github.com", owner, _, "pkgs", .., name] => {
            format!("ghcr.io/{owner}/{name}").to_lowercase()
        }
        _ => return None,
    })
}

/// Returns whether a name is `HOST:PORT` alone. A port after a name without a dot is taken for a tag, as in `redis:7`.
fn is_registry(name: &str) -> bool {
    let (host, port) = name.split_once(':').unwrap_or_default();
    (host == "localhost" || host.contains('.')) && !host.contains('/') && port.parse::<u16>().is_ok()
}
