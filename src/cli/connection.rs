//! Flags about the connection to registries, and the options that they give for one side of a transfer.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use docker_mirror::{
    Authorities, ClientCertificate, Error, Kind, MOST_JOBS, Mirrors, Options, Progress, Proxies, Registries, Result,
    Stop, SystemAuthorities, TlsOptions, parse_mirror,
};

use super::environment::{Side, cache_folder, set_path, variable};
use super::login::{self, LoginFlags};
use super::memory;
use super::terminal::Color;
use super::values::whole;

/// Flags of every command.
#[derive(Debug, Clone, Args)]
pub(super) struct Shared {
    /// More output (-v: blobs and digests; -vv: every HTTP request)
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,

    /// Less output: errors, warnings and results only
    #[arg(short, long, conflicts_with_all = ["verbose", "debug"])]
    quiet: bool,

    /// Colours in messages: auto, always or never
    #[arg(
        long,
        value_name = "WHEN",
        value_enum,
        default_value = "auto",
        hide_possible_values = true
    )]
    pub(super) color: Color,

    /// Log every request and answer, as -vv does
    #[arg(long)]
    pub(super) debug: bool,

    /// Most requests to a registry at a time, of every kind; a registry that is source and destination gets N of each side
    /// [default: as many as help, with at most 64 blobs]
    #[arg(short, long, value_name = "N", value_parser = whole::<u16>(1, 256))]
    jobs: Option<u16>,

    /// Asks running uploads to stop cleanly when the run is interrupted.
    #[arg(skip)]
    pub(super) stop: Stop,

    #[command(flatten, next_help_heading = "Connection")]
    connection: Connection,
}

/// Flags about the connection to registries, for both sides of a transfer.
#[derive(Debug, Clone, Args)]
struct Connection {
    /// Use http for registries (localhost and 127.0.0.1 need no flag)
    #[arg(long)]
    plain_http: bool,

    /// Skip TLS certificate verification (insecure)
    #[arg(long)]
    insecure: bool,

    /// Additional CA or server certificate to trust (PEM); repeatable
    #[arg(long, value_name = "FILE")]
    ca_file: Vec<PathBuf>,

    /// Client certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,

    /// Key of the client certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,

    /// Read credentials only from this file (docker config.json format)
    #[arg(long, value_name = "FILE")]
    auth_file: Option<PathBuf>,

    #[command(flatten)]
    login: LoginFlags,

    /// Retries per request after transient errors
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = whole::<u32>(0, u32::MAX.into()))]
    retries: u32,

    /// Connect timeout, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = whole::<u64>(1, u64::MAX))]
    connect_timeout: u64,

    /// Time to wait for the whole head of a response, in seconds; for an upload, the same time again for each unsent MiB, up to 6
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = whole::<u64>(1, u64::MAX))]
    header_timeout: u64,

    /// Abort a transfer after this long without data, in seconds; extended for uploads like --header-timeout
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = whole::<u64>(1, u64::MAX))]
    stall_timeout: u64,

    /// Overall time limit, in seconds [default: none]
    #[arg(long, value_name = "SECONDS", value_parser = whole::<u64>(1, u64::MAX))]
    timeout: Option<u64>,

    /// Allow a token server on a loopback or link-local address even if the registry is not on one
    #[arg(long)]
    any_token_server: bool,

    /// Do not use the cache in ~/.cache/docker-mirror (manifests, which save pulls where a registry counts them, and resumable
    /// upload URLs)
    #[arg(long)]
    no_cache: bool,
}

/// Flags about mirrors of registries, for commands that pull.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct MirrorFlags {
    /// Pull from a mirror or pull-through cache first, such as docker.io=https://cache.example.com; repeatable
    #[arg(long, value_name = "HOST=URL")]
    mirror: Vec<String>,
}

/// Flags about the connection to one side only, for the one-step command.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Connection, where source and destination differ")]
pub(super) struct Sides {
    /// Use http for source registries
    #[arg(long)]
    src_plain_http: bool,
    /// Use http for the destination
    #[arg(long)]
    dest_plain_http: bool,
    /// Skip TLS certificate verification of source registries (insecure)
    #[arg(long)]
    src_insecure: bool,
    /// Skip TLS certificate verification of the destination (insecure)
    #[arg(long)]
    dest_insecure: bool,
    /// Additional CA or server certificate to trust for source registries; repeatable
    #[arg(long, value_name = "FILE")]
    src_ca_file: Vec<PathBuf>,
    /// Additional CA or server certificate to trust for the destination; repeatable
    #[arg(long, value_name = "FILE")]
    dest_ca_file: Vec<PathBuf>,
    /// Client certificate for source registries
    #[arg(long, value_name = "FILE", requires = "src_key")]
    src_cert: Option<PathBuf>,
    /// The key of that certificate
    #[arg(long, value_name = "FILE", requires = "src_cert")]
    src_key: Option<PathBuf>,
    /// Client certificate for the destination
    #[arg(long, value_name = "FILE", requires = "dest_key")]
    dest_cert: Option<PathBuf>,
    /// The key of that certificate
    #[arg(long, value_name = "FILE", requires = "dest_cert")]
    dest_key: Option<PathBuf>,
    /// The user name at the source registry
    #[arg(long, value_name = "NAME")]
    src_username: Option<String>,
    /// Read the source's password from standard input
    #[arg(long, requires = "src_username")]
    src_password_stdin: bool,
    /// The user name at the destination
    #[arg(long, value_name = "NAME")]
    dest_username: Option<String>,
    /// Read the destination's password from standard input
    #[arg(long, requires = "dest_username", conflicts_with = "src_password_stdin")]
    dest_password_stdin: bool,
}

impl Shared {
    /// Returns the maximum number of parallel transfers.
    pub(super) fn jobs(&self) -> usize {
        let jobs = self.jobs.map(usize::from).or_else(memory::jobs);
        jobs.unwrap_or(MOST_JOBS)
    }

    /// Returns the number of `-v` flags; `--debug` counts as at least two.
    pub(super) fn verbosity(&self) -> u8 {
        if self.debug { self.verbose.max(2) } else { self.verbose }
    }

    /// Returns whether only errors, warnings and results are shown.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Returns whether a password is read from standard input.
    pub(super) fn reads_password(&self) -> bool {
        self.connection.login.reads_stdin()
    }

    /// Returns the time limit for the whole run, if `--timeout` sets one.
    pub(super) fn timeout(&self) -> Option<Duration> {
        self.connection.timeout.map(Duration::from_secs)
    }

    /// Returns the registries to pull images from. `hosts` are the hosts that the run will contact: a login from a flag or a
    /// variable is for one host, so it requires that `hosts` has exactly one. `sides` is set by the one-step mirror alone.
    ///
    /// # Errors
    /// [`Kind::Usage`] if a file that a flag or variable names cannot be used. This function reads all such files.
    pub(super) fn sources(
        &self,
        hosts: &[&str],
        mirrors: &MirrorFlags,
        sides: Option<&Sides>,
        progress: &Progress,
    ) -> Result<Registries> {
        let mirrors = mirrors.read()?;
        let options = self.options(Side::Source, hosts, sides, progress)?;
        Registries::new(Options {
            mirrors,
            manifest_cache: self.cache_folder(),
            login_is_optional: true,
            ..options
        })
    }

    /// Returns the registry to push images to.
    ///
    /// # Errors
    /// The same errors as [`sources`](Self::sources).
    pub(super) fn destination(&self, host: &str, sides: Option<&Sides>, progress: &Progress) -> Result<Registries> {
        let options = self.options(Side::Destination, &[host], sides, progress)?;
        Registries::new(Options {
            upload_sessions: self.cache_folder().map(|folder| folder.join("uploads")),
            stop: self.stop.clone(),
            ..options
        })
    }

    fn cache_folder(&self) -> Option<PathBuf> {
        if self.connection.no_cache { None } else { cache_folder() }
    }

    fn options(&self, side: Side, hosts: &[&str], sides: Option<&Sides>, progress: &Progress) -> Result<Options> {
        let flags = &self.connection;
        let own = sides.cloned().unwrap_or_default().for_side(side);
        let given = login::for_side(side, &flags.login, &own.login, sides.is_some(), progress)?;
        let of_side = own.certificate.map(|pair| (pair, side.flag("cert"), side.flag("key")));
        let general = flags.cert.clone().zip(flags.key.clone());
        let general = general.map(|pair| (pair, "--cert".to_owned(), "--key".to_owned()));
        let client_certificate = of_side.or(general).map(|((certificate, key), cert_flag, key_flag)| {
            ClientCertificate::read(&certificate, &key)
                .map_err(|e| wrong_file(e, &format!("{cert_flag}` and `{key_flag}")))
        });
        let mut authorities = read_authorities(&flags.ca_file, "--ca-file")?;
        authorities.extend(read_authorities(&own.ca_files, &side.flag("ca-file"))?);
        Ok(Options {
            plain_http: flags.plain_http || own.plain_http,
            credentials: login::credentials(flags.auth_file.as_deref(), given, hosts)?,
            tls: TlsOptions {
                authorities,
                client_certificate: client_certificate.transpose()?,
                certs_dirs: TlsOptions::standard_certs_dirs(&variable),
                system: SystemAuthorities::standard(&variable),
                insecure: flags.insecure || own.insecure,
                ..TlsOptions::default()
            },
            proxies: Proxies::standard(&variable)?,
            jobs: self.jobs.map(usize::from),
            bodies: memory::jobs(),
            retries: Some(flags.retries),
            connect_timeout: Some(Duration::from_secs(flags.connect_timeout)),
            header_timeout: Some(Duration::from_secs(flags.header_timeout)),
            stall_timeout: Some(Duration::from_secs(flags.stall_timeout)),
            any_token_server: flags.any_token_server,
            progress: progress.clone(),
            ..Options::default()
        })
    }
}

fn read_authorities(files: &[PathBuf], flag: &str) -> Result<Vec<Authorities>> {
    files
        .iter()
        .map(|file| Authorities::read(file).map_err(|e| wrong_file(e, flag)))
        .collect()
}

/// Turns an error about a file that a flag names into wrong usage, since the file is read before the first request.
fn wrong_file(error: Error, flag: &str) -> Error {
    error.with_kind(Kind::Usage).context(format!("`{flag}`"))
}

impl MirrorFlags {
    /// Reads the mirrors from the flags and from this machine's containers-registries.conf(5).
    fn read(&self) -> Result<Mirrors> {
        let flags = self
            .mirror
            .iter()
            .map(|text| parse_mirror(text))
            .collect::<Result<_>>()?;
        let mut mirrors = Mirrors::new(flags);
        let wrong = |e: Error| e.with_kind(Kind::Usage);
        if let Some(path) = set_path("CONTAINERS_REGISTRIES_CONF") {
            mirrors
                .read_named_file(&path)
                .map_err(|e| wrong_file(e, "CONTAINERS_REGISTRIES_CONF"))?;
            return Ok(mirrors);
        }
        // A file in the home directory replaces the system's file and its drop-in folder.
        let own = set_path("HOME").map(|home| home.join(".config/containers"));
        let own = own.filter(|folder| folder.join("registries.conf").exists());
        let folder = own.unwrap_or_else(|| PathBuf::from("/etc/containers"));
        mirrors.read_file(&folder.join("registries.conf")).map_err(wrong)?;
        mirrors
            .read_directory(&folder.join("registries.conf.d"))
            .map_err(wrong)?;
        Ok(mirrors)
    }
}

/// Connection settings of one side, from the `--src-…` or `--dest-…` flags.
#[derive(Debug, Default)]
struct SideSettings {
    plain_http: bool,
    insecure: bool,
    ca_files: Vec<PathBuf>,
    certificate: Option<(PathBuf, PathBuf)>,
    login: LoginFlags,
}

impl Sides {
    /// Returns whether a password is read from standard input.
    pub(super) fn reads_password(&self) -> bool {
        self.src_password_stdin || self.dest_password_stdin
    }

    fn for_side(self, side: Side) -> SideSettings {
        match side {
            Side::Source => SideSettings {
                plain_http: self.src_plain_http,
                insecure: self.src_insecure,
                ca_files: self.src_ca_file,
                certificate: self.src_cert.zip(self.src_key),
                login: LoginFlags::new(self.src_username, self.src_password_stdin),
            },
            Side::Destination => SideSettings {
                plain_http: self.dest_plain_http,
                insecure: self.dest_insecure,
                ca_files: self.dest_ca_file,
                certificate: self.dest_cert.zip(self.dest_key),
                login: LoginFlags::new(self.dest_username, self.dest_password_stdin),
            },
        }
    }
}

/// Ends a run that takes longer than `limit`.
pub(super) async fn within<T>(limit: Option<Duration>, hint: &str, run: impl Future<Output = Result<T>>) -> Result<T> {
    let Some(limit) = limit else { return run.await };
    tokio::time::timeout(limit, run).await.unwrap_or_else(|_| {
        let late = format!("timed out after {} s (`--timeout`)", limit.as_secs());
        Err(Error::new(Kind::Cancelled, late).with_hint(hint))
    })
}
