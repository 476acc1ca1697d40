//! Certificates per registry in `certs.d`, in the layout of Docker and containers-certs.d(5).
//!
//! In a folder named `HOST[:PORT]`, `*.crt` are certificate authorities, `NAME.cert` is a client certificate and `NAME.key`
//! its key.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::text::quote;

/// Equivalent names of Docker Hub's folder.
const DOCKER_HUB_NAMES: [&str; 3] = ["docker.io", "registry-1.docker.io", "index.docker.io"];

/// Files for one host.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct HostFiles {
    /// Certificate authorities, from all folders of the host.
    pub(super) authorities: Vec<PathBuf>,
    /// Client certificates and their keys, from the first folder that has any.
    pub(super) pairs: Vec<(PathBuf, PathBuf)>,
}

/// Searches the folders; folders that are absent, or that this user may not list, add nothing.
pub(super) fn find(directories: &[PathBuf], host: &str) -> Result<HostFiles> {
    let mut found = HostFiles::default();
    let names = if DOCKER_HUB_NAMES.contains(&host) {
        &DOCKER_HUB_NAMES[..]
    } else {
        &[host][..]
    };
    // A name must be a single folder, and must not lead out of `certs.d`.
    let names: Vec<&&str> = names
        .iter()
        .filter(|name| !name.is_empty() && !name.contains(['/', '\\', '\0']) && !name.starts_with('.'))
        .collect();
    for directory in directories {
        for name in &names {
            add(&directory.join(name), &mut found)?;
        }
    }
    Ok(found)
}

fn add(folder: &Path, found: &mut HostFiles) -> Result<()> {
    let listed = std::fs::read_dir(folder).and_then(|entries| {
        entries
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<Vec<PathBuf>>>()
    });
    let mut paths = match listed {
        Ok(paths) => paths,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
        Err(e) if e.kind() == ErrorKind::PermissionDenied => {
            tracing::debug!("certificates in `{}` are not for this user", quote(&folder));
            return Ok(());
        }
        Err(e) => return Err(Error::io("list", folder, e)),
    };
    paths.sort();
    let first_with_pairs = found.pairs.is_empty();
    for path in &paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => found.authorities.push(path.clone()),
            Some("cert") => {
                let key = path.with_extension("key");
                if !paths.contains(&key) {
                    return Err(Error::new(
                        Kind::NotFound,
                        format!("the client certificate `{}` has no key `{}`", quote(&path), quote(&key)),
                    )
                    .with_hint("put the key there; a certificate authority has to be named `*.crt`"));
                }
                if first_with_pairs {
                    found.pairs.push((path.clone(), key));
                }
            }
            Some("key") if !paths.contains(&path.with_extension("cert")) => {
                return Err(Error::new(
                    Kind::NotFound,
                    format!(
                        "the key `{}` has no client certificate `{}`",
                        quote(&path),
                        quote(&path.with_extension("cert"))
                    ),
                ));
            }
            _ => (),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            path
        };
        let a = write("one/h.io:5000/a.crt");
        let b = write("one/h.io:5000/b.crt");
        write("one/h.io:5000/README");
        let cert = write("one/h.io:5000/client.cert");
        let key = write("one/h.io:5000/client.key");
        let c = write("two/h.io:5000/c.crt");
        write("two/h.io:5000/other.cert");
        write("two/h.io:5000/other.key");
        let hub = write("two/docker.io/ca.crt");
        write("one/alone.io/x.cert");
        write("one/reverse.io/x.key");
        let directories = ["absent", "one", "two"].map(|name| root.path().join(name));

        let found = find(&directories, "h.io:5000").unwrap();
        assert_eq!(found.authorities, [a, b, c]);
        assert_eq!(found.pairs, [(cert, key)]);
        assert_eq!(find(&directories, "registry-1.docker.io").unwrap().authorities, [hub]);
        for nothing in ["h.io", "", ".", "..", "../one/h.io:5000", "/"] {
            assert_eq!(find(&directories, nothing).unwrap(), HostFiles::default(), "{nothing}");
        }
        let error = find(&directories, "alone.io").unwrap_err().to_string();
        assert!(error.contains("x.cert") && error.contains("no key"), "{error}");
        let error = find(&directories, "reverse.io").unwrap_err().to_string();
        assert!(
            error.contains("x.key") && error.contains("no client certificate"),
            "{error}"
        );
    }
}
