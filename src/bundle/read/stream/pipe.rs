//! Reads a bundle from a pipe in a single pass: keeps its front in memory, and passes its layers on as they arrive.
//!
//! The front consists of documents, manifests and configs. If an archive does not start with its manifests, the whole
//! archive is copied to a temporary file and read like any other archive.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::Read;
use std::sync::Arc;

use super::metadata_prefix::MetadataPrefix;
use crate::bundle::read::archive::{Archive, blob_name, unmarked};
use crate::bundle::read::compression::{UNCOUNTED_WINDOW, count_window, unpack};
use crate::bundle::read::forward::{quoted, stream_error};
use crate::bundle::read::scan::{End, Member, MemberKind};
use crate::bundle::read::spool::{self, Pass, Temp};
use crate::bundle::read::store::{self, Store};
use crate::bundle::read::summed::{Summed, VerifiedFile};
use crate::bundle::read::tar_faults::TarFaults;
use crate::error::{Error, Kind, Result};
use crate::image::digest::{Algorithm, Digest, Hasher};
use crate::progress::human_bytes;
use crate::text::{Warnings, quote};

/// Number of bytes read at a time.
const CHUNK: usize = 256 << 10;

/// Maximum size in bytes of a front that is kept in memory; an archive with a larger front is
/// copied to a temporary file.
const MAX_FRONT: u64 = 48 << 20;

/// Opens a pipe:
/// returns a front and the rest of the pipe, or an archive that was copied as a whole.
pub(in crate::bundle::read) fn open(
    input: impl Read + Send + 'static,
    label: &str,
    temp: &Temp,
    store: &mut Store,
) -> Result<(Archive, Option<Incoming>)> {
    let why = "it can only be read from its start to its end, and its manifests do not come first";
    let input = Summed::new(input, label, temp.sum);
    let sum = input.clone();
    let (compression, window, input) = spool::unwrap(input, label)?;
    let held = count_window(window, store.budget()).map_err(|error| error.with_hint(unpack("zstd -dc --long=27")))?;
    if window > UNCOUNTED_WINDOW {
        temp.progress.note(format!(
            "`{}` takes {} of memory to unpack, so that there is less for its images; where that is not enough, {}",
            quote(&label),
            human_bytes(window),
            unpack("zstd -dc --long=27")
        ));
    }
    // Half of the budget is left for the parsed documents.
    let max_front = MAX_FRONT.min(store.budget().left() / 2);
    let too_long = format!(
        "it can only be read from its start to its end, and not all of its manifests and configs are among its first {} MiB",
        max_front >> 20
    );
    let mut pass = spool::start_copy(input, (compression, window), Some(held), label, temp)?;
    // A damaged bundle may also reach this limit: the search for a missing manifest continues to the end of the archive.
    pass.input_mut().inner_mut().limit_memory(max_front, label, &too_long);
    let mut front = MetadataPrefix::default();
    let mut members = Vec::new();
    let mut cut_off = None;
    let mut buffer = vec![0; CHUNK];
    // A fault of the stream in the front ends the front: what came before is read as a whole archive.
    let is_fault = |error: &Error| temp.continue_after_faults && error.kind() == Kind::Malformed;
    loop {
        let member = match pass.next() {
            Ok(Some(member)) => member,
            Ok(None) => break,
            Err(error) if is_fault(&error) => {
                cut_off = Some(error);
                break;
            }
            Err(error) => return Err(error),
        };
        if front.is_foreign(&member) {
            pass.input_mut().inner_mut().move_to_file(label, why)?;
            break;
        }
        // The body is read now, since the front may need it and may be complete with this member.
        cut_off = read_whole_body(&mut pass, &mut buffer).err();
        match cut_off.take_if(|error| !is_fault(error)) {
            Some(error) => return Err(error),
            None if cut_off.is_some() => break,
            None => {}
        }
        let tee = pass.input_mut().inner_mut();
        let complete = front.add(&member, |offset, size| tee.read_back(offset, size))?;
        members.push(member);
        if complete {
            let sum = SumOfPipe(Box::new(move || sum.finish()));
            let (archive, rest) = split_after_front(label, pass, members, sum, store)?;
            return Ok((archive, Some(rest)));
        }
    }
    drop(members);
    // A damaged bundle that was read to its end is in memory.
    // The user should learn what is wrong with the bundle, not what a copy would need.
    if !front.has_all_documents() {
        pass.input_mut().inner_mut().move_to_file(label, why)?;
    }
    let archive = spool::finish(pass, cut_off, label, temp, store);
    store.sums.extend(sum.finish());
    Ok((archive?, None))
}

/// Returns a complete front as an archive, and the rest of the pipe.
fn split_after_front(
    label: &str,
    mut pass: Pass<'static>,
    members: Vec<Member>,
    sum: SumOfPipe,
    store: &mut Store,
) -> Result<(Archive, Incoming)> {
    let tee = pass.input_mut().inner_mut();
    // The front stays in memory as long as the bundle is open.
    store.budget().take(tee.in_memory())?;
    let source = Arc::new(tee.take_output().into_source(label)?);
    let mut archive = Archive::new(label);
    for member in members {
        archive.add(member, &source, store)?;
    }
    store.to_come = true;
    let mut documents = HashMap::new();
    for (name, place) in &archive.files {
        documents.insert(name.clone(), store::hash(Hasher::new(Algorithm::Sha256), place)?);
    }
    let rest = Incoming {
        label: label.to_owned(),
        pass: Some(pass),
        documents,
        seen: store.digests().cloned().collect(),
        ignored: None,
        unmarked: false,
        faults: TarFaults::default(),
        sum,
    };
    Ok((archive, rest))
}

/// Reads the current body to its end.
fn read_whole_body(pass: &mut Pass<'_>, buffer: &mut [u8]) -> Result<()> {
    while pass.read_body(buffer)? > 0 {}
    Ok(())
}

/// The rest of a bundle in a pipe, after its front: blobs, one after another.
pub struct Incoming {
    label: String,
    /// The scan; `None` once the end was reached.
    pass: Option<Pass<'static>>,
    /// Digests of the documents, by name.
    documents: HashMap<String, Digest>,
    seen: HashSet<Digest>,
    /// The first member that belongs to no image, and the number of such members.
    ignored: Option<(String, u64)>,
    /// Whether the archive ended without an end mark.
    unmarked: bool,
    faults: TarFaults,
    sum: SumOfPipe,
}

/// A function that reads the rest of a pipe and returns its SHA-256, if requested.
struct SumOfPipe(Box<dyn FnOnce() -> Option<VerifiedFile> + Send>);

/// A blob that is arriving from a pipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arriving {
    /// Digest from the member's name; the bytes are not verified.
    pub digest: Digest,
    /// Length of the blob in bytes.
    pub size: u64,
    /// Offset of the blob in the archive, in bytes.
    pub offset: u64,
    /// Place of the blob for error messages: the pipe, the member and its offset.
    pub place: String,
}

impl Incoming {
    /// Returns the next blob that has not arrived before;
    /// unread bytes of the previous blob are skipped.
    ///
    /// Returns `None` at the end of the archive, after reading the compressed stream to its end.
    ///
    /// # Errors
    /// [`Kind::Malformed`] if the pipe breaks the rules of its format, ends early, or repeats a member with other bytes.
    pub(crate) fn next_blob(&mut self) -> Result<Option<Arriving>> {
        loop {
            let Some(pass) = &mut self.pass else { return Ok(None) };
            let Some(member) = pass.next()? else {
                return self.finish();
            };
            let name = match (member.what, member.name) {
                (MemberKind::Directory, _) => continue,
                (MemberKind::Link(_), name) => {
                    let why = "a link, which only layers of other archives may be";
                    self.refuse(member.offset, &name.unwrap_or_default(), why)?;
                    continue;
                }
                (MemberKind::File, name) => name.unwrap_or_else(|| "a name that is not UTF-8".to_owned()),
            };
            let Some(digest) = blob_name(&name) else {
                if let Some(first) = self.documents.get(&name).cloned() {
                    self.compare(&first, member.offset, &name)?;
                    continue;
                }
                self.ignored.get_or_insert((name, 0)).1 += 1;
                continue;
            };
            if self.seen.insert(digest.clone()) {
                let place = self.describe(member.offset, &name);
                return Ok(Some(Arriving {
                    digest,
                    size: member.size,
                    offset: member.offset,
                    place,
                }));
            }
            self.compare(&digest, member.offset, &name)?;
        }
    }

    /// Reads from the current blob; returns 0 at its end.
    ///
    /// # Errors
    /// The errors of [`next_blob`](Self::next_blob).
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.pass.as_mut().map_or(Ok(0), |pass| pass.read_body(buffer))
    }

    /// Returns the violations of the tar format that the scan skipped, and clears their list.
    pub(in crate::bundle::read) fn take_faults(&mut self) -> TarFaults {
        let running = self.pass.as_mut().map(Pass::take_faults).unwrap_or_default();
        self.faults.append(running);
        std::mem::take(&mut self.faults)
    }

    /// Name of the pipe in messages.
    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    /// Returns the SHA-256 of all bytes from the pipe, if requested. Reads the rest of the pipe.
    pub(crate) fn sum(self) -> Option<VerifiedFile> {
        drop(self.pass);
        (self.sum.0)()
    }

    /// Warnings about the archive, and about members that belong to no image; complete at the end.
    pub fn warnings(&self) -> Warnings {
        let label = quote(&self.label);
        let unmarked = self.unmarked.then(|| unmarked(&self.label));
        let ignored = self.ignored.as_ref().map(|(first, count)| {
            let more = match count {
                0 | 1 => String::new(),
                count => format!(" and {} more", count - 1),
            };
            format!("`{label}`: no part of an image and ignored: `{}`{more}", quote(&first))
        });
        unmarked.into_iter().chain(ignored).collect()
    }

    /// Accepts a second member of the same name only if its bytes have the digest of the first.
    fn compare(&mut self, digest: &Digest, offset: u64, name: &str) -> Result<()> {
        let mut hasher = digest.hasher();
        let mut buffer = vec![0; CHUNK];
        loop {
            match self.read(&mut buffer)? {
                0 => break,
                got => hasher.update(&buffer[..got]),
            }
        }
        match hasher.finish() == *digest {
            true => Ok(()),
            false => self.refuse(offset, name, "it appears twice with different bytes"),
        }
    }

    fn finish(&mut self) -> Result<Option<Arriving>> {
        if let Some(mut pass) = self.pass.take() {
            self.faults.append(pass.take_faults());
            let (end, input) = pass.into_end();
            let mut tee = input.into_inner();
            // Only the caller knows whether all referenced blobs have arrived,
            // and the archive is complete without an end mark.
            self.unmarked = end == End::Unmarked;
            if end == End::Marked
                && spool::has_trailing_garbage(&mut tee.input).map_err(|e| stream_error(&quoted(&self.label), e))?
            {
                let behind = "bytes after the end of the archive".to_owned();
                self.ignored.get_or_insert((behind, 0)).1 += 1;
            }
        }
        Ok(None)
    }

    fn describe(&self, offset: u64, name: &str) -> String {
        format!("`{}`: member `{}` at offset {offset}", quote(&self.label), quote(&name))
    }

    /// Records a fault if the scan continues after faults, and returns an error otherwise.
    fn refuse(&mut self, offset: u64, name: &str, why: &str) -> Result<()> {
        let error = Error::new(Kind::Malformed, format!("{}: {why}", self.describe(offset, name)));
        match self.pass.as_ref().is_some_and(Pass::continues_after_faults) {
            true => {
                self.faults.add(offset, error);
                Ok(())
            }
            false => Err(error),
        }
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Incoming({})", self.label)
    }
}
