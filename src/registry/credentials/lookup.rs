//! The search for the login of a registry.

use tokio::sync::OnceCell;

use super::file::{AuthFile, Source, credential, wrong_type};
use super::helper::{Helpers, program_name};
use super::key;
use super::options::FileLocation;
use super::options::{CredentialFile, CredentialOptions, HostLogin, Login};
use super::secret::Credential;
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use crate::text::{few, quote};

/// Lookup of credentials for repositories.
///
/// Each file is read once, and each credential helper is asked once per server, whatever it answers: a helper that hangs
/// costs its timeout once per run, not once per image.
#[derive(Debug)]
pub struct Credentials {
    login: Option<Login>,
    host_logins: Vec<HostLogin>,
    files: Vec<(CredentialFile, OnceCell<Option<AuthFile>>)>,
    helpers: Helpers,
    remarks: Vec<String>,
}

/// The result of a search for a credential.
#[derive(Debug)]
pub struct Found {
    /// The credential; [`Credential::Anonymous`] if nothing was found.
    pub credential: Credential,
    /// Source of the credential.
    pub origin: Option<Origin>,
    /// Errors of sources with a higher precedence than the origin.
    /// Examples are unreadable files, broken entries and failing helpers.
    pub faults: Vec<Error>,
    /// Notes for the user about oddities that had no effect.
    pub notes: Vec<String>,
    /// Sources that were searched, in words.
    pub searched: Vec<String>,
    /// Default paths without a file.
    pub absent: Vec<String>,
}

/// Source of a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Flag, variable, file or helper, in words.
    pub place: String,
    /// Whether the credential was given for this run alone, not found among stored logins.
    pub given: bool,
}

impl Credentials {
    /// Reads the files that were named for this run.
    /// Files at default paths are read when they are first needed.
    ///
    /// # Errors
    /// [`Kind::Usage`] if a named file is missing, unreadable or broken.
    pub fn new(options: CredentialOptions) -> Result<Self> {
        let read_named = |file: CredentialFile| match &file.place {
            FileLocation::Named { by, .. } => {
                let content = AuthFile::read(&file).map_err(|e| e.with_kind(Kind::Usage).context(format!("`{by}`")))?;
                Ok((file, OnceCell::new_with(Some(content))))
            }
            _ => Ok((file, OnceCell::new())),
        };
        Ok(Self {
            login: options.login,
            host_logins: options.host_logins,
            files: options.files.into_iter().map(read_named).collect::<Result<_>>()?,
            helpers: Helpers::new(options.helper_directories, options.helper_timeout),
            remarks: options.remarks,
        })
    }

    /// Tells about slow credential helpers through `progress`.
    #[must_use]
    pub(crate) fn reporting_to(mut self, progress: Progress) -> Self {
        self.helpers.report_to(progress);
        self
    }

    /// Returns the credential for a repository.
    /// `host` is `HOST[:PORT]` as in references; the three names of Docker Hub are equivalent.
    ///
    /// The login of the options comes first, then the files in their order. Within a file the order is: an entry for the
    /// repository or the longest part of its path, the host's own helper (`credHelpers`), an entry for the host, and the
    /// general helper (`credsStore`) if the host has no helper of its own. The first credential wins; entries without
    /// content, and helpers without a credential, are skipped. A source that cannot be searched is skipped and recorded as a
    /// fault.
    pub async fn lookup(&self, host: &str, repository: &str) -> Found {
        let host = key::canonical(host);
        let mut found = Found {
            credential: Credential::Anonymous,
            origin: None,
            faults: Vec::new(),
            notes: Vec::new(),
            searched: self.remarks.clone(),
            absent: Vec::new(),
        };
        let is_for = |login: &&Login| login.host.as_deref().is_none_or(|only| key::canonical(only) == host);
        let of_run = self.login.as_ref().filter(is_for);
        let of_run = of_run.map(|login| (&login.username, &login.password, &login.origin));
        let of_host = || self.host_logins.iter().find(|login| login.is_for(&host));
        let given = of_run.or_else(|| of_host().map(|login| (&login.username, &login.password, &login.origin)));
        if let Some((username, password, origin)) = given {
            found.credential = Credential::basic(username.clone(), password.clone());
            found.origin = Some(Origin {
                place: origin.clone(),
                given: true,
            });
            return found;
        }
        if !self.host_logins.is_empty() {
            let spelled = HostLogin::spell(&host);
            let others = few(self.host_logins.iter().map(|login| &login.origin));
            found
                .searched
                .push(format!("{others} (`{}` is spelled `{spelled}`)", quote(&host)));
        }
        for (file, cell) in &self.files {
            match cell.get_or_try_init(|| async { AuthFile::read(file) }).await {
                Ok(Some(content)) => {
                    // A Kubernetes Secret or an old `.dockercfg` under this name has its logins elsewhere.
                    let what = if content.is_empty() {
                        " (it has no entry in `auths`)"
                    } else {
                        ""
                    };
                    found.searched.push(format!("{}{what}", file.name()));
                    if self.search(file, content, &host, repository, &mut found).await {
                        return found;
                    }
                }
                Ok(None) => found.absent.push(file.name()),
                Err(fault) => found.faults.push(fault),
            }
        }
        found
    }

    /// Searches one file; returns whether it has a credential.
    async fn search(
        &self,
        file: &CredentialFile,
        content: &AuthFile,
        host: &str,
        repository: &str,
        found: &mut Found,
    ) -> bool {
        for source in content.sources(host, repository) {
            let (answer, place) = match source {
                Source::Entry { key, entry } => (credential(entry, &file.title(), key), file.name()),
                Source::NoName { field } => (Err(wrong_type(&file.title(), &field)), file.name()),
                Source::Helper { name, server, field } => {
                    let program = program_name(name);
                    let place = format!("credential helper `{program}`, which {} names", file.name());
                    let answer = self.helpers.ask(name, &server, &file.name(), field).await;
                    let answer = answer.map(|has| {
                        if has.talkative {
                            found.notes.push(format!(
                                "credential helper `{program}` prints more than its answer for `{}`; the rest is ignored",
                                quote(&server)
                            ));
                        }
                        has.credential
                    });
                    if matches!(answer, Ok(None)) {
                        found.searched.push(place.clone());
                    }
                    (answer, place)
                }
            };
            match answer {
                Ok(Some(credential)) => {
                    found.credential = credential;
                    found.origin = Some(Origin { place, given: false });
                    return true;
                }
                Ok(None) => (),
                Err(fault) => found.faults.push(fault),
            }
        }
        false
    }
}
