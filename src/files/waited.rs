//! Opens a file or a pipe that holds a bundle, and says so when nothing comes through a pipe for a while.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use super::content::FLAGS;
use super::regular::irregular;

/// Time without a byte from a named pipe after which the user is reported.
const PATIENCE: Duration = Duration::from_secs(5);

/// Opens a file or a pipe that the user names, for reading from its start to its end. Waits for the first byte of a pipe as
/// long as the run lasts, since only the user knows how long the writer takes, and calls `report` once that takes long.
///
/// # Errors
/// Errors of open(2).
pub(crate) fn open_waiting(path: &Path, report: impl FnOnce()) -> io::Result<File> {
    wait(path, PATIENCE, report)
}

fn wait(path: &Path, patience: Duration, report: impl FnOnce()) -> io::Result<File> {
    // A named pipe without a writer would block open(2), and nothing could be reported meanwhile.
    let opened = rustix::fs::open(path, OFlags::RDONLY | FLAGS, Mode::empty());
    let file = File::from(opened.map_err(|e| irregular(rustix::fs::stat(path), e))?);
    if file.metadata()?.file_type().is_fifo() {
        wait_for_bytes(&file, patience, report)?;
    }
    let flags = fcntl_getfl(&file)?;
    fcntl_setfl(&file, flags.difference(OFlags::NONBLOCK))?;
    Ok(file)
}

/// Waits for the first byte of an open pipe, and calls `report` once that takes long. A pipe that cannot be waited for is read as it
/// is.
pub fn wait_for_pipe(pipe: &impl AsFd, report: impl FnOnce()) {
    let _ = wait_for_bytes(pipe, PATIENCE, report);
}

fn wait_for_bytes(pipe: &impl AsFd, patience: Duration, report: impl FnOnce()) -> io::Result<()> {
    if !has_bytes(pipe, Some(patience))? {
        report();
        has_bytes(pipe, None)?;
    }
    Ok(())
}

/// Waits until a pipe has a byte to read or its writer has closed it. Returns false once `limit` is over.
fn has_bytes(pipe: &impl AsFd, limit: Option<Duration>) -> io::Result<bool> {
    let limit = limit.map(|limit| Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    });
    loop {
        match poll(&mut [PollFd::new(pipe, PollFlags::IN)], limit.as_ref()) {
            Err(Errno::INTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_pipe_is_waited_for_and_the_wait_is_told() {
        let at = tempfile::tempdir().unwrap();
        let path = at.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        let open = |bytes: &'static [u8]| {
            let (mut reported, mut content) = (0, Vec::new());
            let place = path.clone();
            let report = || {
                reported += 1;
                std::thread::spawn(move || File::options().write(true).open(place).unwrap().write_all(bytes));
            };
            let mut file = wait(&path, Duration::ZERO, report).unwrap();
            // A pipe that does not block would say that it has no bytes now.
            file.read_to_end(&mut content).unwrap();
            (reported, content)
        };
        assert_eq!(open(b"bundle"), (1, b"bundle".to_vec()));
        assert_eq!(
            open(b""),
            (1, Vec::new()),
            "a writer that goes away at once ends the wait"
        );
        std::fs::write(at.path().join("file"), "x").unwrap();
        wait(&at.path().join("file"), Duration::ZERO, || panic!("a file is there")).unwrap();
    }
}
