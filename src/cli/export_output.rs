//! The output of an export: its name, its compression, and standard output in place of a file.

use std::fs::{self, File};
use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use docker_mirror::export::Compression;
use docker_mirror::{Error, Kind, Result, quote};

use super::environment::from_variables;
use super::values::TRANSPORTS;

/// Returns the compression of a bundle. A flag takes precedence over the extension of the output, and the extension over the
/// variable of a flag.
pub(super) fn compression(output: &Path, gzip: bool, zstd: bool) -> Compression {
    let name = output.to_string_lossy().to_ascii_lowercase();
    let ends = |endings: [&str; 2]| endings.iter().any(|ending| name.ends_with(ending));
    let named = match () {
        () if ends([".tar.zst", ".tzst"]) => Compression::Zstd,
        () if ends([".tar.gz", ".tgz"]) => Compression::Gzip,
        () => Compression::None,
    };
    let counts = |flag: &str| named == Compression::None || from_variables().iter().all(|from| from.flag != flag);
    match () {
        () if gzip && counts("--gzip") => Compression::Gzip,
        () if zstd && counts("--zstd") => Compression::Zstd,
        () => named,
    }
}

/// Checks that the name of the output does not contradict its compression.
///
/// # Errors
/// [`Kind::Usage`] if it does.
pub(super) fn check_compression(output: &Path, compression: Compression) -> Result<()> {
    let name = output.to_string_lossy().to_ascii_lowercase();
    let (flag, says) = match compression {
        Compression::Gzip if name.ends_with(".zst") || name.ends_with(".tzst") => ("--gzip", "zstd"),
        Compression::Zstd if name.ends_with(".gz") || name.ends_with(".tgz") => ("--zstd", "gzip"),
        _ => return Ok(()),
    };
    let what = format!(
        "`{flag}` and `-o {}`, whose name says {says}, contradict each other",
        quote(output)
    );
    Err(Error::new(Kind::Usage, what).with_hint(format!("omit `{flag}`, or choose another name with `-o`")))
}

/// Refuses an output with the transport prefix of other programs, such as `docker-archive:`.
pub(super) fn check_name(output: &Path) -> Result<()> {
    let name = output.to_string_lossy();
    let Some((transport, file)) = name
        .split_once(':')
        .filter(|(transport, _)| TRANSPORTS.contains(transport))
    else {
        return Ok(());
    };
    let why = format!("`{transport}:` does not belong to the name of an output");
    Err(Error::new(Kind::Usage, why).with_hint(format!(
        "write `-o {}`: every bundle is an OCI archive which `docker load` reads as well",
        quote(&file)
    )))
}

/// Endings of files that are no tar, or are compressed by a program that this one does not write.
const FOREIGN_ENDINGS: [&str; 15] = [
    ".zip", ".7z", ".rar", ".iso", ".json", ".xz", ".txz", ".bz2", ".tbz2", ".tbz", ".lz4", ".lz", ".lzma", ".gz",
    ".zst",
];

/// Refuses an output whose name states another format than the bundle will have.
///
/// # Errors
/// [`Kind::Usage`] if it does.
pub(super) fn check_ending(output: &Path, compression: Compression) -> Result<()> {
    let name = output.to_string_lossy().to_ascii_lowercase();
    let ending = FOREIGN_ENDINGS.iter().find(|ending| name.ends_with(*ending));
    match (ending, compression) {
        (None, _) | (Some(&".gz"), Compression::Gzip) | (Some(&".zst"), Compression::Zstd) => Ok(()),
        (Some(ending), _) => {
            let what = format!("`-o {}`: no bundle has the ending `{ending}`", quote(output));
            Err(Error::new(Kind::Usage, what)
                .with_hint("the endings are `.tar`, `.tar.gz` or `.tgz` (gzip), and `.tar.zst` or `.tzst` (zstd)"))
        }
    }
}

/// Returns standard output without the line buffering of [`std::io::Stdout`], which would scan binary data for newlines.
///
/// # Errors
/// [`Kind::Usage`] if standard output is a terminal or closed.
pub(super) fn stdout() -> Result<File> {
    const HINT: &str = "send standard output into a file or a pipe, or name a file with `-o`";
    let stdout = std::io::stdout();
    if stdout.is_terminal() {
        return Err(Error::new(Kind::Usage, "the bundle is not written to a terminal").with_hint(HINT));
    }
    let stdout = stdout
        .as_fd()
        .try_clone_to_owned()
        .map(File::from)
        .map_err(|e| Error::new(Kind::Io, "cannot write to standard output").with_source(e))?;
    if is_closed(&stdout) {
        let what = "the bundle cannot be written, since standard output is closed";
        return Err(Error::new(Kind::Usage, what).with_hint(HINT));
    }
    Ok(stdout)
}

/// Returns whether the caller closed standard output. Rust opens `/dev/null` in its place, and for reading as well.
fn is_closed(stdout: &File) -> bool {
    let null = fs::metadata("/dev/null").map(|null| null.rdev());
    let is_null = stdout
        .metadata()
        .is_ok_and(|there| there.file_type().is_char_device() && null.is_ok_and(|null| there.rdev() == null));
    is_null && rustix::fs::fcntl_getfl(stdout).is_ok_and(|flags| flags.contains(rustix::fs::OFlags::RDWR))
}
