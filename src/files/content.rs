//! Reads a small file as a whole, and writes to pipes and devices.
//!
//! No call waits without end: a named pipe or a terminal in place of a file is refused or has a time limit.

use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::regular::{irregular, regular};

/// Flags for every opened file: a named pipe without a writer does not block, and a terminal does
/// not become the controlling terminal.
pub(super) const FLAGS: OFlags = OFlags::CLOEXEC.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// Maximum time for all bytes of a pipe that is read in place of a file,
/// and for the next byte of a pipe that is written.
const PIPE_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause before another attempt on a pipe that has no bytes to read or no room to write.
const PIPE_PAUSE: Duration = Duration::from_millis(5);

/// Whether a pipe is accepted in place of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pipes {
    /// Only a regular file is read. The null device counts as an empty file.
    Refused,
    /// A pipe is accepted, such as a shell's `<(…)`: the user named it for this run.
    Allowed,
}

/// Reads a file, up to `max + 1` bytes, so that the caller can detect a file that is too large.
///
/// # Errors
/// Errors of open(2) and read(2); an error if the file is not a regular file; an error if an accepted pipe has not ended
/// after ten seconds.
pub(crate) fn read(path: &Path, max: u64, pipes: Pipes) -> io::Result<Vec<u8>> {
    let opened = rustix::fs::open(path, OFlags::RDONLY | FLAGS, Mode::empty());
    let file = File::from(opened.map_err(|e| irregular(rustix::fs::stat(path), e))?);
    let metadata = file.metadata()?;
    let kind = metadata.file_type();
    if pipes == Pipes::Allowed && kind.is_fifo() {
        return read_pipe(file, max, PIPE_TIMEOUT);
    }
    if kind.is_dir() {
        return Err(Errno::ISDIR.into());
    }
    if !kind.is_file() && !is_null_device(&metadata) {
        return regular(file.into()).map(|_| Vec::new());
    }
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads a file or pipe that the user names for this run, up to `max + 1` bytes.
///
/// # Errors
/// Errors of open(2) and read(2); an error if `path` is neither a regular file nor a pipe; an error if a pipe has not
/// ended after ten seconds.
pub fn read_named(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    read(path, max, Pipes::Allowed)
}

fn is_null_device(metadata: &Metadata) -> bool {
    let device = metadata.rdev();
    metadata.file_type().is_char_device() && (rustix::fs::major(device), rustix::fs::minor(device)) == (1, 3)
}

fn read_pipe(file: File, max: u64, limit: Duration) -> io::Result<Vec<u8>> {
    let begun = Instant::now();
    let mut file = file.take(max + 1);
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match file.read(&mut piece) {
            // End of file before the first byte: no writer has opened the pipe yet.
            Ok(0) if bytes.is_empty() => std::thread::sleep(PIPE_PAUSE),
            Ok(0) => return Ok(bytes),
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
            Err(e) => pause(e)?,
        }
        if begun.elapsed() >= limit {
            return Err(timed_out(match bytes.is_empty() {
                true => "it is a pipe without a writer",
                false => "it is a pipe that does not end",
            }));
        }
    }
}

/// A writer into a pipe or a device; the path may be a link.
/// A pipe without a reader fails at once.
#[derive(Debug)]
pub struct SpecialWriter(File);

impl SpecialWriter {
    /// Opens an existing pipe or device.
    ///
    /// # Errors
    /// Errors of open(2); an error for a pipe without a reader; an error for a link to a file, unless the link is one of
    /// the system's names for an open file, such as `/dev/stdout`.
    pub fn open(path: &Path) -> io::Result<Self> {
        open_special(path).map(Self)
    }
}

impl Write for SpecialWriter {
    /// Fails as write(2) does, and if the reader of a pipe reads nothing for ten seconds.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let since = Instant::now();
        loop {
            match self.0.write(bytes) {
                Err(e) => pause(e)?,
                written => return written,
            }
            if since.elapsed() >= PIPE_TIMEOUT {
                return Err(timed_out("it is a pipe whose other end reads nothing"));
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Checks whether a [`SpecialWriter`] could write to `path` now.
///
/// # Errors
/// The errors of [`SpecialWriter::open`].
pub fn check_special(path: &Path) -> io::Result<()> {
    open_special(path).map(drop)
}

fn open_special(path: &Path) -> io::Result<File> {
    // Opened for appending: `/dev/stdout` may be a file that already holds results of this run.
    let file = match rustix::fs::open(path, OFlags::WRONLY | OFlags::APPEND | FLAGS, Mode::empty()) {
        Err(Errno::NXIO) if path.metadata().is_ok_and(|there| there.file_type().is_fifo()) => {
            return Err(io::Error::other("it is a pipe without a reader"));
        }
        Err(e) => return Err(irregular(rustix::fs::stat(path), e)),
        other => File::from(other?),
    };
    if file.metadata()?.is_file() && !names_open_file(path) {
        return Err(io::Error::other("it is a link to a file"));
    }
    Ok(file)
}

/// Returns whether a path is one of the system's names for an open file of this process.
fn names_open_file(path: &Path) -> bool {
    let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
    folder.is_some_and(|folder| folder == Path::new("/dev") || folder.starts_with("/proc"))
}

/// Sleeps if a call failed because a pipe has no bytes or no room; returns any other error.
fn pause(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::Interrupted => Ok(()),
        io::ErrorKind::WouldBlock => {
            std::thread::sleep(PIPE_PAUSE);
            Ok(())
        }
        _ => Err(error),
    }
}

fn timed_out(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    fn write_special(path: &Path, bytes: &[u8]) -> io::Result<()> {
        SpecialWriter::open(path)?.write_all(bytes)
    }

    /// Creates a named pipe without a writer.
    fn fifo(path: &Path) {
        rustix::fs::mkfifoat(rustix::fs::CWD, path, Mode::RUSR | Mode::WUSR).unwrap();
    }

    #[test]
    fn a_file_that_a_user_names_may_be_a_pipe_that_ends() {
        let at = tempfile::tempdir().unwrap();
        let path = at.path().join("pipe");
        fifo(&path);
        let error = read(&path, 10, Pipes::Refused).unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
        for (text, expected) in [("short", "short"), ("more than ten bytes", "more than t")] {
            // A pipe under the name that a shell's `<(…)` gives it.
            let (reader, mut writer) = std::io::pipe().unwrap();
            writer.write_all(text.as_bytes()).unwrap();
            drop(writer);
            let path = PathBuf::from(format!("/proc/self/fd/{}", reader.as_raw_fd()));
            assert_eq!(read(&path, 10, Pipes::Allowed).unwrap(), expected.as_bytes());
            assert!(read(&path, 10, Pipes::Refused).is_err());
        }
        let (reader, writer) = std::io::pipe().unwrap();
        rustix::fs::fcntl_setfl(&reader, OFlags::NONBLOCK).unwrap();
        let error = read_pipe(OwnedFd::from(reader).into(), 10, PIPE_PAUSE).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(writer);
        for pipes in [Pipes::Refused, Pipes::Allowed] {
            assert!(read(Path::new("/dev/zero"), 10, pipes).is_err());
            assert!(read(at.path(), 10, pipes).is_err());
            assert_eq!(read(Path::new("/dev/null"), 10, pipes).unwrap(), b"");
        }
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_not_written_to() {
        let at = tempfile::tempdir().unwrap();
        let path = at.path().join("pipe");
        fifo(&path);
        for result in [check_special(&path), write_special(&path, b"x")] {
            assert!(result.unwrap_err().to_string().contains("without a reader"));
        }
        let mut both = File::options().read(true).write(true).open(&path).unwrap();
        check_special(&path).unwrap();
        write_special(&path, b"report").unwrap();
        let mut found = [0; 6];
        both.read_exact(&mut found).unwrap();
        assert_eq!(found, *b"report");
    }

    #[test]
    fn a_file_behind_a_link_is_not_written_to_unless_it_is_open() {
        let at = tempfile::tempdir().unwrap();
        let (file, link) = (at.path().join("file"), at.path().join("link"));
        std::fs::write(&file, "old").unwrap();
        symlink("file", &link).unwrap();
        for result in [check_special(&link), write_special(&link, b"new")] {
            assert!(result.unwrap_err().to_string().contains("link to a file"));
        }
        assert_eq!(std::fs::read(&file).unwrap(), b"old");
        let open = File::options().write(true).open(&file).unwrap();
        write_special(
            &PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd())),
            b" and new",
        )
        .unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"old and new");
        symlink("/dev/null", at.path().join("nothing")).unwrap();
        write_special(&at.path().join("nothing"), b"x").unwrap();
    }
}
