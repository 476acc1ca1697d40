//! Spools archives that cannot be read by offset, because they are compressed as a whole or come from a pipe.
//!
//! A single pass writes the archive to a temporary file and checks the tar meanwhile.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::archive::{Archive, TRAILER};
use super::compression::{Compression, Limit, MAGIC, MAX_WINDOW};
use super::foreign::{EMPTY_TAR, check_behind_zeros};
use super::forward::{Forward, StreamForward, quoted, stream_error};
use super::inside;
use super::scan::{End, Scanner};
use super::source::Source;
use super::store::Store;
use super::summed::Summed;
use crate::error::{Error, Kind, Result};
use crate::files::open_waiting;
use crate::image::budget::Held;
use crate::progress::Progress;
use crate::text::{self, quote};

/// Decompression limit of a whole archive:
/// layers are already compressed, so an archive shrinks little.
const LIMIT: Limit = Limit {
    ratio: 200,
    beyond: 256 << 20,
};

/// Maximum number of bytes read after the end of the archive, to reach the end of the compressed stream.
const MAX_TRAILER: u64 = 1 << 20;

/// Indexes a file: a plain tar by offset, a compressed file from a spooled copy.
pub(super) fn open(path: &Path, temp: &Temp, store: &mut Store) -> Result<Archive> {
    if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        // A named pipe, or a shell's `<(…)`, cannot be read by offset.
        let file = open_file(path, &temp.progress)?;
        return from_reader(file, &text::path(path), temp, store);
    }
    let source = Arc::new(Source::open(path)?);
    let label = source.label().to_owned();
    let mut head = [0; MAGIC];
    let count = usize::try_from(source.length()).unwrap_or(MAGIC).min(MAGIC);
    source.read_exact_at(0, &mut head[..count])?;
    if count == 0 {
        return Err(empty(&label));
    }
    let compression = Compression::detect(&head[..count], &quoted(&label))?;
    if compression == Compression::None {
        let mut archive = Archive::from_tar(&source, temp.continue_after_faults, store)?;
        inside::enter(&mut archive, store)?;
        return Ok(archive);
    }
    // The inspected file itself, even if another file has taken its name.
    let file = source
        .file()
        .map_or_else(|| crate::files::open_regular(path), File::try_clone);
    let file = file.map_err(|e| Error::io("open", path, e))?;
    let why = "it is compressed as a whole";
    spool(file, compression, &label, why, temp, store)
}

/// Opens a file or a pipe, and tells the user when nothing comes through a pipe.
pub(super) fn open_file(path: &Path, progress: &Progress) -> Result<File> {
    let report = || {
        progress.info(format!(
            "nothing comes through the pipe `{}` yet: waiting for a program that writes to it",
            quote(&path)
        ));
    };
    open_waiting(path, report).map_err(|e| Error::io("open", path, e))
}

/// Indexes an archive from a pipe.
pub(super) fn from_reader(input: impl Read + Send, label: &str, temp: &Temp, store: &mut Store) -> Result<Archive> {
    let (compression, _, input) = unwrap(input, label)?;
    spool(input, compression, label, "it comes from a pipe", temp, store)
}

fn empty(label: &str) -> Error {
    Error::new(Kind::Malformed, format!("`{}` is empty", quote(&label)))
        .with_hint("it was not copied, or whatever wrote it failed: copy it again, or make it again")
}

/// Detects the compression of a pipe and the window of its decoder in bytes. The returned input
/// still includes the inspected bytes.
pub(super) fn unwrap<R: Read>(mut input: R, label: &str) -> Result<(Compression, u64, impl Read + use<R>)> {
    let mut head = vec![0; MAGIC];
    let count = StreamForward::new(label, &mut input).read(&mut head)?;
    head.truncate(count);
    if count == 0 {
        return Err(empty(label));
    }
    let compression = Compression::detect(&head, &quoted(label))?;
    let window = compression.window(&head);
    Ok((compression, window, io::Cursor::new(head).chain(input)))
}

fn spool<R: Read + Send>(
    input: R,
    compression: Compression,
    label: &str,
    why: &str,
    temp: &Temp,
    store: &mut Store,
) -> Result<Archive> {
    let input = Summed::new(input, label, temp.sum);
    let sum = input.clone();
    let mut pass = start_copy(input, (compression, MAX_WINDOW), None, label, temp)?;
    pass.input_mut().inner_mut().move_to_file(label, why)?;
    let archive = finish(pass, None, label, temp, store);
    store.sums.extend(sum.finish());
    archive
}

/// Returns whether a file is compressed as a whole.
///
/// # Errors
/// If the file cannot be read, or its compression is not supported.
pub(super) fn is_compressed(path: &Path) -> Result<bool> {
    let source = Source::open(path)?;
    let mut head = [0; MAGIC];
    let count = usize::try_from(source.length()).unwrap_or(MAGIC).min(MAGIC);
    source.read_exact_at(0, &mut head[..count])?;
    Ok(Compression::detect(&head[..count], &quoted(source.label()))? != Compression::None)
}

/// A scan of an archive that is copied while it is read.
pub(super) type Pass<'a> = Scanner<StreamForward<Tee<Box<dyn Read + Send + 'a>>>>;

/// Starts to copy an archive:
/// to memory at first, and to a temporary file after a call of [`Tee::move_to_file`].
///
/// `window` is the maximum window of the decoder in bytes; `held` is its part of the budget, freed with the decoder.
pub(super) fn start_copy<'a, R: Read + Send + 'a>(
    input: R,
    (compression, window): (Compression, u64),
    held: Option<Held>,
    label: &str,
    temp: &Temp,
) -> Result<Pass<'a>> {
    let input = compression
        .decode(input, &quoted(label), LIMIT, window)
        .map_err(|e| stream_error(&quoted(label), e))?;
    let tee = Tee {
        input,
        output: Output::Memory(Vec::new()),
        written: 0,
        limit: None,
        temp: temp.clone(),
        held,
    };
    Ok(Scanner::new(label, StreamForward::new(label, tee)).continue_after_faults(temp.continue_after_faults))
}

/// Copies the rest of an archive, and indexes the copy. `cut_off` is the fault that ended the copy, if any.
pub(super) fn finish(
    mut pass: Pass<'_>,
    mut cut_off: Option<Error>,
    label: &str,
    temp: &Temp,
    store: &mut Store,
) -> Result<Archive> {
    while cut_off.is_none() {
        match pass.next() {
            Ok(Some(_)) => {}
            Ok(None) => break,
            // What was unpacked before the fault is indexed all the same.
            Err(error) if temp.continue_after_faults && error.kind() == Kind::Malformed => {
                cut_off = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    let (end, input) = pass.into_end();
    let Tee {
        mut input,
        output,
        written,
        held,
        ..
    } = input.into_inner();
    if end == End::Marked && written == EMPTY_TAR as u64 {
        let mut rest = Vec::new();
        let read = Read::take(&mut input, TRAILER as u64).read_to_end(&mut rest);
        read.map_err(|e| stream_error(&quoted(label), e))?;
        check_behind_zeros(&rest, label)?;
    }
    // Read to the end of the compressed stream, so that a wrong checksum of the compression is detected.
    let garbage = match &cut_off {
        None if end == End::Marked => has_trailing_garbage(&mut input).map_err(|e| stream_error(&quoted(label), e)),
        _ => Ok(false),
    };
    let garbage = match garbage {
        Err(error) if temp.continue_after_faults && error.kind() == Kind::Malformed => {
            cut_off = Some(error);
            false
        }
        garbage => garbage?,
    };
    // Frees the window of the decoder before the copy is parsed: both are not in memory at the same time.
    drop((input, held));

    let source = Arc::new(output.into_source(label)?);
    let read = Archive::from_tar(&source, temp.continue_after_faults, store);
    let mut archive = match (read, cut_off) {
        (Ok(mut archive), Some(error)) => {
            archive.replace_end(source.length(), error);
            archive
        }
        // Nothing of the archive can be read without what is behind the fault.
        (Err(_), Some(error)) => return Err(error),
        (read, None) => read?,
    };
    inside::enter(&mut archive, store)?;
    if garbage {
        archive.warnings.push(format!(
            "`{}`: bytes after the end of the archive are ignored",
            quote(&label)
        ));
    }
    Ok(archive)
}

/// Reads the bytes after the end of the archive; returns whether any byte is not padding.
pub(super) fn has_trailing_garbage(input: &mut dyn Read) -> io::Result<bool> {
    let mut buffer = vec![0; 64 << 10];
    let mut left = MAX_TRAILER;
    let mut garbage = false;
    while left > 0 {
        match input.read(&mut buffer) {
            Ok(0) => return Ok(garbage),
            Ok(got) => {
                garbage |= buffer[..got].iter().any(|b| *b != 0);
                left = left.saturating_sub(got as u64);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

/// A reader that copies all bytes that it reads, until the copy is taken.
pub(super) struct Tee<R> {
    pub(super) input: R,
    output: Output,
    /// Number of copied bytes.
    written: u64,
    limit: Option<MemoryLimit>,
    temp: Temp,
    /// Budget of the decoder's window, if counted.
    held: Option<Held>,
}

/// Maximum number of bytes that a copy takes in memory; a longer copy is moved to a temporary file.
struct MemoryLimit {
    bytes: u64,
    /// Name of the archive in messages.
    label: String,
    /// Why a longer copy is moved, for messages.
    why: String,
}

/// Options for temporary files: their folder, and the progress that reports them.
#[derive(Debug, Clone, Default)]
pub(super) struct Temp {
    /// Folder for temporary files; `None` if no temporary files are allowed.
    pub(super) directory: Option<PathBuf>,
    /// Whether the SHA-256 of the input is computed.
    pub(super) sum: bool,
    /// Whether scanning continues after a tar fault.
    pub(super) continue_after_faults: bool,
    pub(super) progress: Progress,
}

/// The copy of an archive that is being read.
#[derive(Debug, Default)]
pub(super) enum Output {
    #[default]
    Nowhere,
    Memory(Vec<u8>),
    /// A file without a name:
    /// the system removes the file when the last handle is closed, however the process ends.
    File(File),
}

impl Output {
    /// Converts the copy to a source that is read by offset.
    pub(super) fn into_source(self, label: &str) -> Result<Source> {
        match self {
            Self::Nowhere => Ok(Source::memory(label, Vec::new())),
            Self::Memory(mut bytes) => {
                bytes.shrink_to_fit();
                Ok(Source::memory(label, bytes))
            }
            Self::File(file) => Source::spooled(label, file),
        }
    }
}

impl<R> Tee<R> {
    /// Moves the copy to a temporary file before it takes more than `bytes` in memory, whatever the scan reads or skips.
    pub(super) fn limit_memory(&mut self, bytes: u64, label: &str, why: &str) {
        self.limit = Some(MemoryLimit {
            bytes,
            label: label.to_owned(),
            why: why.to_owned(),
        });
    }

    /// Moves the copy to a temporary file. `why` is the reason, for messages.
    pub(super) fn move_to_file(&mut self, label: &str, why: &str) -> Result<()> {
        let Output::Memory(bytes) = &self.output else {
            return Ok(());
        };
        let Some(directory) = &self.temp.directory else {
            let name = quote(&label);
            return Err(Error::new(
                Kind::Unsupported,
                format!("`{name}` has to be copied to a temporary file, as {why}, and no directory for it is given"),
            ));
        };
        let mut file = tempfile::tempfile_in(directory).map_err(|e| {
            Error::io("create a temporary file in", directory, e)
                .context(format!("`{}` has to be copied, as {why}", quote(&label)))
                .with_hint("set TMPDIR to a directory that can be written to")
        })?;
        // Reported before the first byte is written: the copy may take much time and room.
        self.temp.progress.warn(format!(
            "`{}` is copied to a temporary file in `{}`, as {why}",
            quote(&label),
            quote(&directory)
        ));
        file.write_all(bytes).map_err(|e| write_error(directory, e))?;
        self.output = Output::File(file);
        Ok(())
    }

    /// Returns the number of copied bytes in memory.
    pub(super) fn in_memory(&self) -> u64 {
        match &self.output {
            Output::Memory(bytes) => bytes.len() as u64,
            Output::Nowhere | Output::File(_) => 0,
        }
    }

    /// Stops copying, and returns the copy.
    pub(super) fn take_output(&mut self) -> Output {
        std::mem::take(&mut self.output)
    }

    /// Reads bytes of the copy.
    pub(super) fn read_back(&self, offset: u64, size: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        match &self.output {
            Output::File(file) => file.read_exact_at(&mut bytes, offset),
            Output::Memory(all) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let part = all.get(start..).and_then(|rest| rest.get(..bytes.len()));
                part.map(|part| bytes.copy_from_slice(part))
                    .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            }
            Output::Nowhere => Err(io::ErrorKind::UnexpectedEof.into()),
        }
        .map_err(|e| Error::new(Kind::Io, "cannot read the copy of a pipe").with_source(e))?;
        Ok(bytes)
    }
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.input.read(buffer)?;
        let length = self.in_memory() + got as u64;
        if let Some(limit) = self.limit.take_if(|limit| length > limit.bytes) {
            self.move_to_file(&limit.label, &limit.why).map_err(io::Error::other)?;
        }
        match &mut self.output {
            Output::Nowhere => return Ok(got),
            Output::Memory(bytes) => bytes.extend_from_slice(&buffer[..got]),
            Output::File(file) => file.write_all(&buffer[..got]).map_err(|e| {
                let directory = self.temp.directory.as_deref().unwrap_or(Path::new(""));
                io::Error::other(write_error(directory, e))
            })?,
        }
        self.written += got as u64;
        Ok(got)
    }
}

fn write_error(directory: &Path, e: io::Error) -> Error {
    let error = Error::io("write a temporary file in", directory, e);
    match error.kind() {
        Kind::NoSpace => error.with_hint("set TMPDIR to a directory with more room"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extended_headers_that_a_scan_skips_count_as_memory() {
        let record = format!("512 comment={}\n", "a".repeat(512 - 13));
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::XGlobalHeader);
        header.set_size(512);
        header.set_cksum();
        let bytes = [&header.as_bytes()[..], record.as_bytes()].concat().repeat(100);
        for directory in [Some(std::env::temp_dir()), None] {
            let temp = Temp {
                directory,
                ..Temp::default()
            };
            let mut pass = start_copy(&bytes[..], (Compression::None, 0), None, "p", &temp).unwrap();
            pass.input_mut().inner_mut().limit_memory(10_000, "p", "it is long");
            let next = pass.next();
            let tee = pass.input_mut().inner_mut();
            match &temp.directory {
                Some(_) => {
                    assert_eq!(next.unwrap(), None);
                    assert!(matches!(tee.output, Output::File(_)));
                    assert_eq!(tee.read_back(0, bytes.len() as u64).unwrap(), bytes);
                }
                None => {
                    assert!(next.unwrap_err().full().contains("as it is long"));
                    assert!(tee.in_memory() <= 10_000);
                }
            }
        }
    }
}
