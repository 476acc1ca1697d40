//! Archives that cannot be read by offset, because they are compressed as a whole or come from a pipe: they are written
//! to a temporary file first, in one pass that checks the tar as it goes by.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::archive::Archive;
use super::compression::{Compression, Limit, MAGIC, MAX_WINDOW};
use super::forward::{Forward, StreamForward, quoted, stream_error};
use super::inside;
use super::scan::{End, Scanner};
use super::source::Source;
use super::store::Store;
use super::summed::Summed;
use crate::error::{Error, Kind, Result};
use crate::image::budget::Held;
use crate::progress::Progress;
use crate::text::{self, quote};

/// Layers are compressed already, so a whole archive does not shrink to less than this part.
const LIMIT: Limit = Limit {
    ratio: 200,
    beyond: 256 << 20,
};

/// Maximum number of bytes read behind the end of the archive, to reach the end of the compression around it.
const BEHIND: u64 = 1 << 20;

/// Indexes a file: by offset where it is a plain tar, from a spooled copy where it is compressed.
pub(super) fn open(path: &Path, temp: &Temp, store: &mut Store) -> Result<Archive> {
    if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        // A named pipe, or a shell's `<(…)`, cannot be read by offset.
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
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
        let mut archive = Archive::from_tar(&source, temp.going_on, store)?;
        inside::enter(&mut archive, store)?;
        return Ok(archive);
    }
    // The file that was inspected, even if another file has its name by now.
    let file = source
        .file()
        .map_or_else(|| crate::files::open_regular(path), File::try_clone);
    let file = file.map_err(|e| Error::io("open", path, e))?;
    let why = "it is compressed as a whole";
    spool(file, compression, &label, why, temp, store)
}

/// Indexes what comes from a pipe.
pub(super) fn from_reader(input: impl Read + Send, label: &str, temp: &Temp, store: &mut Store) -> Result<Archive> {
    let (compression, _, input) = unwrap(input, label)?;
    spool(input, compression, label, "it comes from a pipe", temp, store)
}

fn empty(label: &str) -> Error {
    Error::new(Kind::Malformed, format!("`{}` is empty", quote(&label)))
        .with_hint("it was not copied, or whatever wrote it failed: copy it again, or make it again")
}

/// Looks at the first bytes of a pipe for how it is compressed, and the window in bytes that its decoder needs; the input that
/// is returned has them still.
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
    let mut pass = begin(input, (compression, MAX_WINDOW), None, label, temp)?;
    pass.input_mut().inner_mut().move_to_file(label, why)?;
    let archive = finish(pass, label, temp, store)?;
    store.sums.extend(sum.finish());
    Ok(archive)
}

/// Whether a file is compressed as a whole.
///
/// # Errors
/// If it cannot be read, or is compressed in a way that is not read here.
pub(super) fn is_compressed(path: &Path) -> Result<bool> {
    let source = Source::open(path)?;
    let mut head = [0; MAGIC];
    let count = usize::try_from(source.length()).unwrap_or(MAGIC).min(MAGIC);
    source.read_exact_at(0, &mut head[..count])?;
    Ok(Compression::detect(&head[..count], &quoted(source.label()))? != Compression::None)
}

/// The pass over an archive that is copied as it is read.
pub(super) type Pass<'a> = Scanner<StreamForward<Tee<Box<dyn Read + Send + 'a>>>>;

/// Begins to copy an archive: to memory at first, and to a temporary file as soon as that is asked for. Its decoder may take
/// this window in bytes; `held` is given back with the decoder.
pub(super) fn begin<'a, R: Read + Send + 'a>(
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
        temp: temp.clone(),
        held,
    };
    Ok(Scanner::new(label, StreamForward::new(label, tee)).going_on(temp.going_on))
}

/// Copies the rest of an archive, and indexes the copy.
pub(super) fn finish(mut pass: Pass<'_>, label: &str, temp: &Temp, store: &mut Store) -> Result<Archive> {
    while pass.next()?.is_some() {}
    let (end, input) = pass.into_end();
    let Tee {
        mut input,
        output,
        held,
        ..
    } = input.into_inner();
    // To its end, so that a wrong checksum of what the archive is wrapped in is noticed.
    let garbage = end == End::Marked && behind(&mut input).map_err(|e| stream_error(&quoted(label), e))?;
    // The window of the decoder and what is parsed are not in memory at the same time.
    drop((input, held));

    let source = Arc::new(output.into_source(label)?);
    let mut archive = Archive::from_tar(&source, temp.going_on, store)?;
    inside::enter(&mut archive, store)?;
    if garbage {
        archive.warnings.push(format!(
            "`{}`: bytes behind the end of the archive are ignored",
            quote(&label)
        ));
    }
    Ok(archive)
}

/// Reads the bytes behind the end; returns whether they are anything but padding.
pub(super) fn behind(input: &mut dyn Read) -> io::Result<bool> {
    let mut buffer = vec![0; 64 << 10];
    let mut left = BEHIND;
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

/// Copies everything that is read through it, until the copy is taken.
pub(super) struct Tee<R> {
    pub(super) input: R,
    output: Output,
    written: u64,
    temp: Temp,
    /// The memory of the decoder, where it is counted.
    held: Option<Held>,
}

/// The folder of temporary files, and the progress that reports them.
#[derive(Debug, Clone, Default)]
pub(super) struct Temp {
    /// `None`: no temporary files.
    pub(super) directory: Option<PathBuf>,
    /// Whether what is read as a whole is summed up.
    pub(super) sum: bool,
    /// Whether an archive is read on behind a fault of the tar.
    pub(super) going_on: bool,
    pub(super) progress: Progress,
}

/// The copy of an archive that is being read.
#[derive(Debug, Default)]
pub(super) enum Output {
    #[default]
    Nowhere,
    Memory(Vec<u8>),
    /// A file without a name: it is gone when the last handle is closed, however the process ends.
    File(File),
}

impl Output {
    /// The copy, to be read by offset.
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
        // Before the first byte: it may take long, and much room.
        self.temp.progress.warn(format!(
            "`{}` is copied to a temporary file in `{}`, as {why}",
            quote(&label),
            quote(&directory)
        ));
        file.write_all(bytes).map_err(|e| write_error(directory, e))?;
        self.output = Output::File(file);
        Ok(())
    }

    /// Number of bytes copied.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Number of copied bytes in memory.
    pub(super) fn in_memory(&self) -> u64 {
        match &self.output {
            Output::Memory(bytes) => bytes.len() as u64,
            Output::Nowhere | Output::File(_) => 0,
        }
    }

    /// Stops copying, and returns the copy.
    pub(super) fn take(&mut self) -> Output {
        std::mem::take(&mut self.output)
    }

    /// Reads from the copy.
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
