//! Parser of credential files.
//! Known files are `config.json` of Docker, `auth.json` of Podman, and the old `.dockercfg`.

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::path::Path;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use serde_json::Value;

use super::key::{self, Key};
use super::options::{CredentialFile, FileFormat, FileLocation};
use super::secret::{Credential, Secret};
use crate::error::{Error, Kind, Result};
use crate::files::encoding;
use crate::files::{self, Pipes};
use crate::image::fields::fold;
use crate::text::quote;

/// Maximum size of a credential file in bytes.
const MAX_FILE: u64 = 4 << 20;

/// Base64 with optional padding: users write these values by hand.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A parsed credential file.
/// Entries are decoded when they are used, so that a broken entry does not affect the rest.
#[derive(Default)]
pub(super) struct AuthFile {
    /// Whether the file is a `.dockercfg`, whose keys have no paths.
    legacy: bool,
    entries: BTreeMap<String, Value>,
    /// Helpers of single hosts (`credHelpers`).
    helpers: BTreeMap<String, Value>,
    /// Helper of all other hosts (`credsStore`).
    store: Option<Value>,
}

/// One value of `auths`.
#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    #[serde(rename = "identitytoken")]
    identity_token: Option<String>,
    #[serde(rename = "registrytoken")]
    registry_token: Option<String>,
}

/// An entry or helper of a file that may have a credential.
pub(super) enum Source<'a> {
    /// An entry of the file itself.
    Entry { key: &'a str, entry: &'a Value },
    /// A helper program.
    Helper {
        /// Name of the helper without `docker-credential-`.
        name: &'a str,
        /// Server that the helper is asked for.
        server: String,
        /// Field of the file that names the helper.
        field: &'static str,
    },
    /// A helper whose name is not a text.
    NoName {
        /// Field of the file that names the helper.
        field: String,
    },
}

impl AuthFile {
    /// Reads a file or a variable; `None` for an absent file at a default path.
    pub(super) fn read(file: &CredentialFile) -> Result<Option<Self>> {
        let (path, pipes) = match &file.place {
            FileLocation::Ordinary(path) => (path, Pipes::Refused),
            FileLocation::Named { path, .. } => (path, Pipes::Allowed),
            FileLocation::Variable { text, .. } => return Self::read_variable(file, text).map(Some),
        };
        let bytes = match files::read(path, MAX_FILE, pipes) {
            Ok(bytes) => bytes,
            Err(error) => {
                let missing = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
                return match (missing, &file.place) {
                    (true, FileLocation::Ordinary(_)) => Ok(None),
                    (true, _) => Err(Error::new(Kind::NotFound, format!("{} does not exist", file.title()))
                        .with_hint("it was named for this run; log in to create it, or name another")),
                    (false, _) => Err(cannot_read(path, error)),
                };
            }
        };
        if bytes.len() as u64 > MAX_FILE {
            return Err(Error::new(
                Kind::Malformed,
                format!("{} has more than {MAX_FILE} bytes", file.title()),
            ));
        }
        Self::parse(&encoding::utf8(bytes), file.format).map(Some).map_err(|e| {
            e.context(file.title())
                .with_hint("correct the file, or remove it and log in again")
        })
    }

    fn read_variable(file: &CredentialFile, text: &Secret) -> Result<Self> {
        let text = text.expose().trim_start_matches('\u{feff}');
        Self::parse(text.as_bytes(), file.format).map_err(|e| {
            e.context(file.title()).with_hint(
                "it has to hold the content of a `config.json`, such as {\"auths\": …}, and not the path of one (in GitLab \
                 CI: a variable of type Variable, not File)",
            )
        })
    }

    /// Parses the content of a file. A file with nothing but white space has no entries, as in Docker.
    ///
    /// Of a field that appears twice, the last one counts, and the case of its name does not matter, as in Docker.
    pub(super) fn parse(bytes: &[u8], format: FileFormat) -> Result<Self> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        // The parser's message quotes the text that it failed on, which may be a password: only the position is shown.
        let content: Value = serde_json::from_slice(bytes).map_err(|e| {
            let (line, column) = (e.line(), e.column());
            malformed(format!("no valid JSON at line {line}, column {column}"))
        })?;
        let Value::Object(fields) = content else {
            return Err(malformed(
                "a value of the wrong type, where a JSON object was expected".to_owned(),
            ));
        };
        let legacy = format == FileFormat::Legacy;
        if legacy {
            return Ok(Self {
                legacy,
                entries: not_null(fields),
                ..Self::default()
            });
        }
        let mut fields = folded(fields);
        let mut object = |field: &str| match fields.remove(&fold(field)) {
            None | Some(Value::Null) => Ok(BTreeMap::new()),
            Some(Value::Object(members)) => Ok(not_null(members)),
            Some(_) => Err(malformed(format!(
                "`{field}` has a value of the wrong type: it is no JSON object"
            ))),
        };
        Ok(Self {
            legacy,
            entries: object("auths")?,
            helpers: object("credHelpers")?,
            store: fields.remove("credsstore").filter(|name| !name.is_null() && name != ""),
        })
    }

    /// Returns whether the file has neither entries nor helpers.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.helpers.is_empty() && self.store.is_none()
    }

    /// Returns the entries and helpers that may have a repository's credential, in the order to try them.
    pub(super) fn sources(&self, canonical_host: &str, repository: &str) -> Vec<Source<'_>> {
        let mut entries: Vec<(usize, &str, &Value)> = self
            .entries
            .iter()
            .filter_map(|(key, entry)| {
                let covered = Key::parse(key, self.legacy).covers(canonical_host, repository)?;
                Some((covered, key.as_str(), entry))
            })
            .collect();
        entries.sort_by_key(|(covered, key, _)| (std::cmp::Reverse(*covered), key::preference(key, canonical_host)));
        let paths = entries.iter().filter(|(covered, ..)| *covered > 0).count();
        let mut sources: Vec<Source<'_>> = entries
            .into_iter()
            .map(|(_, key, entry)| Source::Entry { key, entry })
            .collect();

        let own = self
            .helpers
            .iter()
            .filter(|(key, _)| Key::parse(key, false).covers(canonical_host, "") == Some(0))
            .min_by_key(|(key, _)| key::preference(key, canonical_host));
        match (own, &self.store) {
            // An empty name says that this host has no helper, not even the general helper.
            (Some((_, name)), _) if name == "" => (),
            // Docker and Podman ask a helper with the key as it is spelled, and store the login under that spelling.
            (Some((key, name)), _) => sources.insert(paths, helper(name, key, "credHelpers", key)),
            (None, Some(name)) => {
                sources.push(helper(name, key::server_url(canonical_host), "credsStore", ""));
            }
            (None, None) => (),
        }
        sources
    }
}

impl fmt::Debug for AuthFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthFile")
            .field("entries", &self.entries.len())
            .finish_non_exhaustive()
    }
}

fn malformed(what: String) -> Error {
    Error::new(Kind::Malformed, what)
}

/// Returns the members of an object with their names in the case that [`fold`] gives them.
pub(super) fn folded(members: serde_json::Map<String, Value>) -> serde_json::Map<String, Value> {
    members.into_iter().map(|(name, value)| (fold(&name), value)).collect()
}

/// Returns the members of an object that are not null; the last one of each name.
fn not_null(members: serde_json::Map<String, Value>) -> BTreeMap<String, Value> {
    members.into_iter().filter(|(_, value)| !value.is_null()).collect()
}

/// Returns the helper of a name that a field of the file states. `key` is the member of the field, if it has members.
fn helper<'a>(name: &'a Value, server: &str, field: &'static str, key: &str) -> Source<'a> {
    match name.as_str() {
        Some(name) => Source::Helper {
            name,
            server: server.to_owned(),
            field,
        },
        None if key.is_empty() => Source::NoName {
            field: format!("`{field}`"),
        },
        None => Source::NoName {
            field: format!("the `{field}` of `{}`", quote(&key)),
        },
    }
}

/// Returns the error for a field of the file `title` whose value is of the wrong type. The value may be a password, and is not
/// shown.
pub(super) fn wrong_type(title: &str, field: &str) -> Error {
    malformed(format!("{title}: {field} has a value of the wrong type"))
        .with_hint("correct or remove it, or log in again with `docker login` or `podman login`")
}

/// Returns the credential of an entry.
/// `None` if the entry only marks that a helper has the credential.
///
/// # Errors
/// The entry has another form, or its `auth` cannot be decoded; `title` names the file in the error.
pub(super) fn credential(entry: &Value, title: &str, key: &str) -> Result<Option<Credential>> {
    let of_entry = || format!("the entry of `{}`", quote(&key));
    let fields = entry
        .as_object()
        .cloned()
        .ok_or_else(|| wrong_type(title, &of_entry()))?;
    let entry = Entry::deserialize(Value::from(folded(fields))).map_err(|_| wrong_type(title, &of_entry()))?;
    let token = |field: &Option<String>| {
        field
            .as_deref()
            .map(str::trim)
            .filter(|token| !token.is_empty())
            .map(|token| Secret::new(token.to_owned()))
    };
    if let Some(token) = token(&entry.registry_token) {
        return Ok(Some(Credential::RegistryToken(token)));
    }
    if let Some(token) = token(&entry.identity_token) {
        return Ok(Some(Credential::IdentityToken(token)));
    }
    if let Some(auth) = entry.auth.as_deref().filter(|auth| !auth.trim().is_empty()) {
        let (username, password) = decode_auth(auth).map_err(|why| {
            malformed(format!("{title}: the `auth` of `{}` {why}", quote(&key)))
                .with_hint("log in again, or write base64 of `user:password`")
        })?;
        return Ok(Credential::stored(&username, &password));
    }
    Ok(Credential::stored(
        entry.username.as_deref().unwrap_or_default(),
        entry.password.as_deref().unwrap_or_default(),
    ))
}

/// Returns the error for an unreadable file.
/// This is often a file of root left behind by `sudo`, or a folder that a container engine created for a mount of a missing
/// file.
fn cannot_read(path: &Path, error: std::io::Error) -> Error {
    let hint = match error.kind() {
        ErrorKind::PermissionDenied => {
            "check whose file it is and what its permissions are; it may have been made with `sudo`"
        }
        ErrorKind::IsADirectory => "this is a folder; a mount of a file that did not exist may have made it",
        _ => "name another file with `--auth-file`",
    };
    Error::io("read credential file", path, error).with_hint(hint)
}

/// Decodes an `auth` value; the error describes the fault without quoting the value.
///
/// The password may contain colons, the user name cannot. Some versions of Podman's library append NUL bytes to the
/// password.
fn decode_auth(auth: &str) -> std::result::Result<(String, String), &'static str> {
    let text: String = auth.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let bytes = BASE64.decode(text).map_err(|_| "is not base64")?;
    let pair = String::from_utf8(bytes).map_err(|_| "is not UTF-8")?;
    let (username, password) = pair.split_once(':').ok_or("has no `:` behind the user name")?;
    Ok((username.to_owned(), password.trim_matches('\0').to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(text: &str) -> String {
        base64::engine::general_purpose::STANDARD.encode(text)
    }

    #[test]
    fn auth_values() {
        let good = |text: &str| decode_auth(text).unwrap();
        assert_eq!(good(&encode("u:p")), ("u".into(), "p".into()));
        assert_eq!(good(&encode("u:p:q::")), ("u".into(), "p:q::".into()));
        assert_eq!(good(&encode("u:p\0\0\0")), ("u".into(), "p".into()));
        assert_eq!(good(encode("u:p").trim_end_matches('=')), ("u".into(), "p".into()));
        assert_eq!(good(&format!("{}\n", encode("u:p"))), ("u".into(), "p".into()));
        assert!(decode_auth("!").is_err());
        assert!(decode_auth(&encode("nocolon")).is_err());
        assert!(decode_auth(&base64::engine::general_purpose::STANDARD.encode([255, b':', 1])).is_err());
    }

    #[test]
    fn the_case_of_the_fields_does_not_matter() {
        let text = serde_json::json!({"Auths": {"h.io": {"Auth": encode("u:p")}}, "CREDHELPERS": {"g.io": "x"}});
        let file = AuthFile::parse(text.to_string().as_bytes(), FileFormat::Config).unwrap();
        let sources = file.sources("h.io", "a");
        let [Source::Entry { key, entry }] = sources.as_slice() else {
            panic!("one entry");
        };
        assert_eq!(credential(entry, "f", key).unwrap(), Credential::stored("u", "p"));
        assert!(matches!(
            file.sources("g.io", "a").as_slice(),
            [Source::Helper { name: "x", .. }]
        ));
    }

    proptest! {
        #[test]
        fn any_auth_is_decoded_or_refused(text in ".*") {
            let _ = decode_auth(&text);
        }

        #[test]
        fn what_was_encoded_comes_back(user in "[^:\0]+", password in "[^\0]*") {
            prop_assert_eq!(decode_auth(&encode(&format!("{user}:{password}"))).unwrap(), (user, password));
        }

        #[test]
        fn any_file_is_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), legacy: bool) {
            let format = if legacy { FileFormat::Legacy } else { FileFormat::Config };
            if let Ok(file) = AuthFile::parse(&bytes, format) {
                let _ = file.sources("docker.io", "library/x");
            }
        }

        #[test]
        fn any_key_is_understood(key in ".*", host in "[a-z.:]{1,12}", repository in "[a-z/]{0,12}") {
            let text = serde_json::json!({"auths": {(key.clone()): {"auth": "dTpw"}}, "credHelpers": {(key): "x"}});
            let file = AuthFile::parse(text.to_string().as_bytes(), FileFormat::Config).unwrap();
            let _ = file.sources(&host, &repository);
        }
    }
}
