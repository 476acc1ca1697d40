//! Logins from flags and environment variables, and how they combine with credential files.

use std::io::{IsTerminal as _, Read};
use std::path::Path;

use clap::Args;
use docker_mirror::{CredentialFile, CredentialOptions, Error, HostLogin, Kind, Login, Progress, Result, Secret, few};

use super::environment::{Side, is_set, variable, variables_with};

/// Maximum length of a password from standard input, in bytes.
const MAX_PASSWORD: u64 = 64 << 10;

/// Flags about the login at a registry.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct LoginFlags {
    /// User name at the registry; for several registries variables such as DOCKER_MIRROR_USERNAME_GHCR_IO and
    /// DOCKER_MIRROR_PASSWORD_GHCR_IO [default: from credential files and helpers]
    #[arg(long, value_name = "NAME")]
    username: Option<String>,

    /// Read the password from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,

    /// The password; others on this machine can see it, so rather use --password-stdin
    #[arg(
        long,
        value_name = "PASSWORD",
        requires = "username",
        conflicts_with = "password_stdin",
        hide = true
    )]
    password: Option<Password>,
}

/// A password from the command line; `Debug` does not show it.
#[derive(Clone)]
struct Password(String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(…)")
    }
}

impl From<String> for Password {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl LoginFlags {
    pub(super) fn new(username: Option<String>, password_stdin: bool) -> Self {
        Self {
            username,
            password_stdin,
            password: None,
        }
    }

    /// Returns whether the password is read from standard input.
    pub(super) fn reads_stdin(&self) -> bool {
        self.password_stdin
    }

    fn is_given(&self) -> bool {
        self.username.is_some()
    }
}

/// The login of one side, from flags and environment variables.
#[derive(Debug, Default)]
pub(super) struct Given {
    login: Option<GivenLogin>,
    /// Variables that are set but give no login, for the message that no login was found.
    remarks: Vec<String>,
}

/// A user name and a password.
#[derive(Debug)]
struct GivenLogin {
    username: String,
    password: Secret,
    /// Flag or variable that holds the user name, in backticks.
    origin: String,
}

impl Given {
    fn login(username: &str, password: Secret, origin: &str) -> Self {
        Self {
            login: Some(GivenLogin {
                username: username.to_owned(),
                password,
                origin: format!("`{origin}`"),
            }),
            remarks: Vec::new(),
        }
    }
}

/// Returns the login of one side, from the first of: its own flags, the general flags, its own variables, the general
/// variables. A command with two sides accepts no general login: a password must not reach the wrong registry.
pub(super) fn for_side(
    side: Side,
    general: &LoginFlags,
    own: &LoginFlags,
    two_sides: bool,
    progress: &Progress,
) -> Result<Given> {
    let prefix = match side {
        Side::Source => "DOCKER_MIRROR_SRC_",
        Side::Destination => "DOCKER_MIRROR_DEST_",
    };
    if two_sides && general.is_given() {
        return Err(Error::new(Kind::Usage, "`--username` does not say at which registry")
            .with_hint("give `--src-username` or `--dest-username`, each with its password"));
    }
    if two_sides && side == Side::Source {
        for name in ["DOCKER_MIRROR_USERNAME", "DOCKER_MIRROR_PASSWORD"] {
            if is_set(name) {
                progress.warn(format!(
                    "`{name}` does not say at which registry, and is not used; \
                     there are `DOCKER_MIRROR_SRC_…` and `DOCKER_MIRROR_DEST_…`"
                ));
            }
        }
    }
    let general_prefix = (!two_sides).then_some("DOCKER_MIRROR_");
    let prefixes = || std::iter::once(prefix).chain(general_prefix);
    let (flags, flag) = match own.is_given() {
        true => (own, side.flag("username")),
        false => (general, "--username".to_owned()),
    };
    let Some(username) = &flags.username else {
        return from_variables(prefixes(), progress);
    };
    if let Some(Password(password)) = &flags.password {
        progress.warn("a password on the command line can be seen by others; give `--password-stdin` instead");
        return Ok(Given::login(username, Secret::new(password.clone()), &flag));
    }
    if flags.password_stdin {
        return Ok(Given::login(username, read_password()?, &flag));
    }
    for prefix in prefixes() {
        if let Some(password) = text(&format!("{prefix}PASSWORD"))? {
            return Ok(Given::login(username, Secret::new(password), &flag));
        }
    }
    let stdin = flag.replace("username", "password-stdin");
    let prefix = general_prefix.unwrap_or(prefix);
    Err(
        Error::new(Kind::Usage, format!("`{flag}` is given, but no password")).with_hint(format!(
            "give it on standard input with `{stdin}`, or in the variable `{prefix}PASSWORD`"
        )),
    )
}

/// Returns the login from environment variables with the first of these prefixes that has a user name.
fn from_variables<'a>(prefixes: impl Iterator<Item = &'a str> + Clone, progress: &Progress) -> Result<Given> {
    for prefix in prefixes.clone() {
        let name = format!("{prefix}USERNAME");
        if let Some(username) = text(&name)? {
            let variable = format!("{prefix}PASSWORD");
            let password = text(&variable)?
                .ok_or_else(|| Error::new(Kind::Usage, format!("`{name}` is set, but `{variable}` is not")))?;
            return Ok(Given::login(&username, Secret::new(password), &name));
        }
    }
    let mut given = Given::default();
    for prefix in prefixes {
        if is_set(&format!("{prefix}PASSWORD")) {
            progress.warn(format!(
                "`{prefix}PASSWORD` is set, but no user name goes with it, so that it is not used; \
                 give it with `--username` or in `{prefix}USERNAME`"
            ));
        }
        let name = format!("{prefix}USERNAME");
        if variable(&name).is_some_and(|value| value.is_empty()) {
            given.remarks.push(format!("`{name}` (set, but empty)"));
        }
    }
    Ok(given)
}

/// Returns the sources of credentials. A login from flags or variables is used for the only host in `hosts`.
pub(super) fn credentials(file: Option<&Path>, given: Given, hosts: &[&str]) -> Result<CredentialOptions> {
    let mut options = CredentialOptions::standard(&variable);
    options.host_logins = host_logins_from_variables()?;
    if let Some(path) = file {
        options.files = vec![CredentialFile::named(path, "--auth-file")];
    }
    options.remarks = given.remarks;
    if let Some(login) = given.login {
        let mut hosts = hosts.to_vec();
        hosts.sort_unstable();
        hosts.dedup();
        // A variable for one registry takes precedence over a general variable.
        let is_flag = login.origin.starts_with("`--");
        if !is_flag || hosts.len() > 1 {
            hosts.retain(|host| !options.host_logins.iter().any(|own| own.is_for(host)));
        }
        if hosts.is_empty() && !is_flag {
            return Ok(options);
        }
        let [host] = hosts.as_slice() else {
            return Err(Error::new(
                Kind::Usage,
                format!(
                    "one login is given, but there are several registries: {}",
                    few(hosts.iter())
                ),
            )
            .with_hint(format!(
                "set a pair of variables for each, such as `DOCKER_MIRROR_USERNAME_{0}` and `DOCKER_MIRROR_PASSWORD_{0}`, log in to \
                 each with `docker login` or `podman login`, or name a file with `--auth-file`",
                HostLogin::spell(hosts.first().unwrap_or(&"ghcr.io")),
            )));
        };
        options.login = Some(Login {
            host: Some((*host).to_owned()),
            username: login.username,
            password: login.password,
            origin: login.origin,
        });
    }
    Ok(options)
}

/// Returns logins for single registries: `DOCKER_MIRROR_USERNAME_GHCR_IO` and `DOCKER_MIRROR_PASSWORD_GHCR_IO` for `ghcr.io`.
fn host_logins_from_variables() -> Result<Vec<HostLogin>> {
    const USERNAME: &str = "DOCKER_MIRROR_USERNAME_";
    let mut logins = Vec::new();
    for name in variables_with(USERNAME) {
        let host = &name[USERNAME.len()..];
        let Some(username) = text(&name)? else { continue };
        let variable = format!("DOCKER_MIRROR_PASSWORD_{host}");
        let password = text(&variable)?
            .ok_or_else(|| Error::new(Kind::Usage, format!("`{name}` is set, but `{variable}` is not")))?;
        logins.push(HostLogin {
            host: host.to_owned(),
            username,
            password: Secret::new(password),
            origin: format!("`{name}`"),
        });
    }
    Ok(logins)
}

/// Returns a variable with a user name or password, without a line end at its end; `None` if nothing is left. A secret that was
/// made with `echo` has a line end.
fn text(name: &str) -> Result<Option<String>> {
    let Some(value) = variable(name) else { return Ok(None) };
    // The message does not quote the value, which may be a password.
    let value = value
        .into_string()
        .map_err(|_| Error::new(Kind::Usage, format!("the variable `{name}` is not UTF-8")))?;
    let value = without_line_end(&value);
    Ok((!value.is_empty()).then(|| value.to_owned()))
}

/// Returns a text without one line end at its end.
fn without_line_end(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

fn read_password() -> Result<Secret> {
    let stdin = std::io::stdin();
    // A terminal would show the password, and the end of the line would not end it.
    if stdin.is_terminal() {
        let what = "the password is read from standard input, which is a terminal";
        return Err(Error::new(Kind::Usage, what)
            .with_hint("write `... --password-stdin < FILE`, or log in with `docker login` or `podman login`"));
    }
    let mut text = String::new();
    stdin
        .take(MAX_PASSWORD)
        .read_to_string(&mut text)
        .map_err(|e| Error::new(Kind::Io, "cannot read the password from standard input").with_source(e))?;
    // Windows shells write a byte order mark at the start of a pipe.
    let password = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let password = without_line_end(password);
    if password.is_empty() {
        return Err(Error::new(Kind::Usage, "standard input has no password"));
    }
    Ok(Secret::new(password.to_owned()))
}
