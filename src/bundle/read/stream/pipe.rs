//! A bundle in a pipe, in a single pass: its front is kept, its layers are handed out as they come by.
//!
//! The front (documents, manifests, configs) is kept in memory as it is read. If it turns out that manifests do not come
//! first, what was read and all that follows go to a temporary file, which is read like any other archive then.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::Read;
use std::sync::Arc;

use super::metadata_prefix::MetadataPrefix;
use crate::bundle::read::archive::{Archive, blob_name, unmarked};
use crate::bundle::read::compression::{UNCOUNTED_WINDOW, count_window, unpack};
use crate::bundle::read::forward::{quoted, stream_error};
use crate::bundle::read::scan::{End, TarFaults, What};
use crate::bundle::read::spool::{self, Pass, Temp};
use crate::bundle::read::store::{self, Store};
use crate::bundle::read::summed::{Summed, VerifiedFile};
use crate::error::{Error, Kind, Result};
use crate::image::digest::{Algorithm, Digest, Hasher};
use crate::progress::human_bytes;
use crate::text::{Warnings, quote};

/// How much is read at once.
const CHUNK: usize = 256 << 10;

/// A front is kept in memory up to this size, and in a temporary file if there is more of it.
const MAX_FRONT: u64 = 48 << 20;

/// Opens a pipe: an archive and the rest of the pipe, or an archive that was copied as a whole.
pub(in crate::bundle::read) fn open(
    input: impl Read + Send + 'static,
    label: &str,
    temp: &Temp,
    store: &mut Store,
) -> Result<(Archive, Option<Incoming>)> {
    let mut why = "it comes from a pipe and its manifests do not come first";
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
    // The parsed documents need room as well.
    let max_front = MAX_FRONT.min(store.budget().left() / 2);
    let too_long = format!(
        "it comes from a pipe, and not all of its manifests and configs are among its first {} MiB",
        max_front >> 20
    );
    let mut pass = spool::begin(input, (compression, window), Some(held), label, temp)?;
    let mut front = MetadataPrefix::default();
    let mut members = Vec::new();
    let mut buffer = vec![0; CHUNK];
    while let Some(member) = pass.next()? {
        if front.is_foreign(&member) {
            pass.input_mut().inner_mut().move_to_file(label, why)?;
            break;
        }
        if pass.input_mut().inner_mut().written() + member.size > max_front {
            // A damaged bundle gets here as well: what is missing is looked for to the end.
            why = &too_long;
            pass.input_mut().inner_mut().move_to_file(label, why)?;
        }
        // Its body now, since the front may need it and not go on behind it.
        while pass.read_body(&mut buffer)? > 0 {}
        let tee = pass.input_mut().inner_mut();
        let complete = front.take(&member, |offset, size| tee.read_back(offset, size))?;
        members.push(member);
        if !complete {
            continue;
        }
        // It stays in memory as long as the bundle is open.
        store.budget().take(tee.in_memory())?;
        let source = Arc::new(tee.take().into_source(label)?);
        let mut archive = Archive::new(label);
        for member in members {
            archive.take(member, &source, store)?;
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
            sum: SumOfPipe(Box::new(move || sum.finish())),
        };
        return Ok((archive, Some(rest)));
    }
    drop(members);
    // A damaged bundle whose end was reached is in memory: what is wrong with it is to be told, not what a copy would need.
    if !front.is_followed() {
        pass.input_mut().inner_mut().move_to_file(label, why)?;
    }
    let archive = spool::finish(pass, label, temp, store)?;
    store.sums.extend(sum.finish());
    Ok((archive, None))
}

/// The rest of a bundle in a pipe, behind its front: blobs, one after the other.
pub struct Incoming {
    label: String,
    /// Gone when the end was reached.
    pass: Option<Pass<'static>>,
    /// Their digests, by name.
    documents: HashMap<String, Digest>,
    seen: HashSet<Digest>,
    /// The first member that is no part of an image, and how many there are.
    ignored: Option<(String, u64)>,
    /// Whether the end came without its mark.
    unmarked: bool,
    faults: TarFaults,
    sum: SumOfPipe,
}

/// Reads what is left of a pipe, and gives its sum where that is wanted.
struct SumOfPipe(Box<dyn FnOnce() -> Option<VerifiedFile> + Send>);

/// A blob that comes by now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arriving {
    /// The digest that its name states; its bytes were not seen yet.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Where it starts in the archive, in bytes.
    pub offset: u64,
    /// Where it stands, for error messages: the pipe, the member and its offset.
    pub place: String,
}

impl Incoming {
    /// The next blob that did not come before; what was not read of the last one is left out. `None` at the end of the
    /// archive, when the compression around it was read to its end too.
    ///
    /// # Errors
    /// [`Kind::Malformed`] if the pipe breaks the rules of its format, ends early, or has a member twice with other bytes.
    pub(crate) fn next_blob(&mut self) -> Result<Option<Arriving>> {
        loop {
            let Some(pass) = &mut self.pass else { return Ok(None) };
            let Some(member) = pass.next()? else {
                return self.finish();
            };
            let name = match (member.what, member.name) {
                (What::Directory, _) => continue,
                (What::Link(_), name) => {
                    let why = "a link, which only layers of other archives may be";
                    self.refuse(member.offset, &name.unwrap_or_default(), why)?;
                    continue;
                }
                (What::File, name) => name.unwrap_or_else(|| "a name that is not UTF-8".to_owned()),
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

    /// Reads from the current blob; 0 at its end.
    ///
    /// # Errors
    /// As [`next_blob`](Self::next_blob).
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.pass.as_mut().map_or(Ok(0), |pass| pass.read_body(buffer))
    }

    /// Places at which the tar breaks the rules of its format, and behind which it was read all the same.
    pub(in crate::bundle::read) fn take_faults(&mut self) -> TarFaults {
        let running = self.pass.as_mut().map(Pass::take_faults).unwrap_or_default();
        self.faults.append(running);
        std::mem::take(&mut self.faults)
    }

    /// What messages call it.
    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    /// The sum of all that came out of the pipe, where it was asked for. What is left in the pipe is read for it.
    pub(crate) fn sum(self) -> Option<VerifiedFile> {
        drop(self.pass);
        (self.sum.0)()
    }

    /// Warnings about the archive, and about members that belong to no image; complete at the
    /// end.
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

    /// A second member of one name is accepted only if it has this digest, as the first one has or else fails.
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
            // It is whole if all that its images name was there, which the caller knows.
            self.unmarked = end == End::Unmarked;
            if end == End::Marked && spool::behind(&mut tee.input).map_err(|e| stream_error(&quoted(&self.label), e))? {
                let behind = "bytes behind the end of the archive".to_owned();
                self.ignored.get_or_insert((behind, 0)).1 += 1;
            }
        }
        Ok(None)
    }

    fn describe(&self, offset: u64, name: &str) -> String {
        format!("`{}`: member `{}` at offset {offset}", quote(&self.label), quote(&name))
    }

    /// Notes a fault where the pipe is read on behind it, and is an error otherwise.
    fn refuse(&mut self, offset: u64, name: &str, why: &str) -> Result<()> {
        let error = Error::new(Kind::Malformed, format!("{}: {why}", self.describe(offset, name)));
        match self.pass.as_ref().is_some_and(Pass::goes_on) {
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
