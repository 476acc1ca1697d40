//! Scans a tar sequentially, member by member, with exact offsets.
//!
//! The same code scans a file, where bodies are skipped, and a pipe, where bodies are read as they arrive. Extended
//! headers are parsed here and not by the `tar` crate's iterator, which reads them without a limit, lets a pax `size`
//! contradict the header, and does not report the offset of a faulty header.

use tar::Header;

use super::foreign;
use super::forward::Forward;
use super::header::{self, BLOCK, HeaderKind, NO_IMAGE_HAS_IT, Pax, one_of};
use super::member_names::DOCUMENTS;
use super::tar_faults::TarFaults;
use crate::error::{Error, Kind, Result};
use crate::text::{byte_count, quote, quote_bytes};

/// Hint for an archive that ends early.
const CUT_OFF: &str = "the file is truncated: copy it again";

/// Hint for bytes that are no header.
const CORRUPTED: &str = "the file was modified or corrupted in transit: copy it again, and compare checksums";

/// Returns whether an error says that an archive ends early.
pub(super) fn is_cut_off(error: &Error) -> bool {
    error.hint() == Some(CUT_OFF)
}

/// Maximum number of members of an archive; more are treated as an attack.
const MAX_MEMBERS: u64 = 500_000;

/// Maximum number of bytes of a stream, which may be endless, that are searched for the next header after a fault.
const MAX_SEARCH: u64 = 256 << 20;

/// The kind of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MemberKind {
    File,
    Directory,
    /// A link, with the name of its target, or the reason why the target is invalid.
    Link(Result<String, String>),
}

/// One member of a tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// The cleaned name; `None` if the name is not UTF-8.
    pub(super) name: Option<String>,
    pub(super) what: MemberKind,
    /// Offset of the body in bytes.
    pub(super) offset: u64,
    /// Length of the body in bytes.
    pub(super) size: u64,
}

/// How an archive ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// With the two zero blocks of the format.
    Marked,
    /// Without an end mark, after a complete member.
    Unmarked,
}

/// A sequential scan of one tar.
#[derive(Debug)]
pub(super) struct Scanner<F> {
    label: String,
    input: F,
    position: u64,
    /// Unread bytes of the current body, and of the padding after the body.
    body: u64,
    padding: u64,
    members: u64,
    end: Option<End>,
    /// Offset of the current member's header in bytes.
    start: u64,
    /// The faults so far; `None` if the scan stops at the first fault.
    faults: Option<TarFaults>,
    /// A header that the scan found after a fault.
    found: Option<Header>,
    /// Documents that the scan has met, by their places in [`DOCUMENTS`].
    documents: [bool; DOCUMENTS.len()],
    /// Whether the header of the last fault states its size beyond doubt, so that the next header is known to follow.
    is_measured: bool,
}

impl<F: Forward> Scanner<F> {
    pub(super) fn new(label: &str, input: F) -> Self {
        Self {
            label: label.to_owned(),
            input,
            position: 0,
            body: 0,
            padding: 0,
            members: 0,
            end: None,
            start: 0,
            faults: None,
            found: None,
            documents: [false; DOCUMENTS.len()],
            is_measured: false,
        }
    }

    /// Makes the scan continue after a fault, at the next header of a blob or document.
    /// The bytes between are skipped.
    pub(super) fn continue_after_faults(mut self, wanted: bool) -> Self {
        self.faults = wanted.then(TarFaults::default);
        self
    }

    /// Returns whether the scan continues after a fault.
    pub(super) fn continues_after_faults(&self) -> bool {
        self.faults.is_some()
    }

    /// Returns the faults that the scan skipped, and clears their list.
    pub(super) fn take_faults(&mut self) -> TarFaults {
        self.faults.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Returns the next member; `None` at the end of the archive.
    pub(super) fn next(&mut self) -> Result<Option<Member>> {
        loop {
            let next = self.next_member();
            // A part that cannot be read is taken for zeros, which may look like the end or like any fault.
            let error = match (next, self.input.take_unreadable()) {
                (Ok(member), None) => return Ok(member),
                (Ok(member), Some((offset, error))) => {
                    if let Some(faults) = &mut self.faults {
                        faults.add(offset, unreadable(offset, error));
                    }
                    return Ok(member);
                }
                (Err(error), None) => error,
                (Err(_), Some((offset, error))) => {
                    self.start = offset;
                    unreadable(offset, error)
                }
            };
            let may_go_on = error.kind() == Kind::Malformed && self.members <= MAX_MEMBERS;
            let Some(faults) = self.faults.as_mut().filter(|_| may_go_on) else {
                return Err(error);
            };
            let (start, is_first) = (self.start, self.start == 0 && faults.first.is_empty());
            faults.add(start, error.clone());
            if std::mem::take(&mut self.is_measured) || self.found.is_some() {
                continue;
            }
            // A stream whose first block is no header may be endless: it is no archive, and is not searched for one.
            if is_first && self.input.left().is_none() && self.position <= BLOCK {
                return Err(error);
            }
            self.resync()?;
            // The fault already reports the unreadable part that the search passed.
            self.input.take_unreadable();
            if is_first && self.found.is_none() {
                // A fault in the first header with no later member: the file is not an archive.
                self.take_faults();
                return Err(error);
            }
        }
    }

    /// Finds the next header of a blob or document. Other headers do not count: they may belong to
    /// an archive inside the body of a member.
    fn resync(&mut self) -> Result<()> {
        let skipped = self.input.skip(self.body)?;
        self.position += skipped;
        (self.body, self.padding) = (0, 0);
        self.position += self.input.skip(self.position.wrapping_neg() % BLOCK)?;
        let mut header = Header::new_old();
        let mut zeros = 0;
        let begin = self.position;
        while self.block(header.as_mut_bytes())? == BLOCK {
            if self.input.left().is_none() && self.position - begin > MAX_SEARCH {
                let why = format!("no member begins in the {} MiB behind a fault", MAX_SEARCH >> 20);
                return Err(self.fault(begin, why));
            }
            if header::begins_member(&header) {
                self.found = Some(header);
                return Ok(());
            }
            let is_zero = header.as_bytes().iter().all(|byte| *byte == 0);
            zeros = if is_zero { zeros + 1 } else { 0 };
        }
        self.end = Some(if zeros >= 2 { End::Marked } else { End::Unmarked });
        Ok(())
    }

    fn next_member(&mut self) -> Result<Option<Member>> {
        // Extended headers describe the member that follows. Two headers that can contradict each other are refused,
        // since readers differ in which of the two they use.
        let mut pax: Option<Pax> = None;
        let mut long_name: Option<Vec<u8>> = None;
        let mut long_link: Option<Vec<u8>> = None;
        loop {
            let found = if self.found.is_some() { BLOCK } else { 0 };
            let start = self.position + self.body + self.padding - found;
            self.start = start;
            let Some(header) = self.next_header()? else {
                if pax.is_some() || long_name.is_some() || long_link.is_some() {
                    return Err(self.fault(start, "the archive ends behind an extended header"));
                }
                return Ok(None);
            };
            self.members += 1;
            if self.members > MAX_MEMBERS {
                return Err(self.fault(start, format!("more than {MAX_MEMBERS} members")));
            }
            header::check_sum(&header).map_err(|why| self.no_header(start, why, header.as_bytes()))?;
            let raw_name = header.path_bytes();
            let what = header::announces(&header)
                .map_err(|why| self.member_fault(start, &raw_name, why).with_hint(NO_IMAGE_HAS_IT))?;
            let size = header::size(&header).map_err(|why| self.member_fault(start, &raw_name, why))?;
            match what {
                HeaderKind::LongName | HeaderKind::LongLink => {
                    let slot = if what == HeaderKind::LongName {
                        &mut long_name
                    } else {
                        &mut long_link
                    };
                    if slot.is_some() {
                        return Err(self.fault(start, "two long names for one member"));
                    }
                    let mut body = self.extension(start, size)?;
                    if body.last() == Some(&0) {
                        body.pop();
                    }
                    *slot = Some(body);
                }
                HeaderKind::Pax => {
                    let body = self.extension(start, size)?;
                    let found = header::pax(&body).map_err(|why| self.fault(start, why).with_hint(NO_IMAGE_HAS_IT))?;
                    if pax.replace(found).is_some() {
                        return Err(self.fault(start, "two pax headers for one member"));
                    }
                }
                HeaderKind::GlobalPax => {
                    let body = self.extension(start, size)?;
                    let found = header::pax(&body).map_err(|why| self.fault(start, why))?;
                    // Programs write comments and times into global headers.
                    // A name or a size in a global header would change every member.
                    if found != Pax::default() {
                        return Err(self.fault(start, "a global pax header that sets a name or a size"));
                    }
                }
                // All readers skip its body, as they skip the body of a file that they do not know.
                HeaderKind::Extra => {
                    self.check_left(start, &raw_name, size)?;
                    (self.body, self.padding) = (size, size.wrapping_neg() % BLOCK);
                    (pax, long_name, long_link) = (None, None, None);
                }
                HeaderKind::File | HeaderKind::Directory | HeaderKind::HardLink | HeaderKind::SymbolicLink => {
                    let pax = pax.unwrap_or_default();
                    let name = one_of(pax.path, long_name)
                        .map_err(|()| self.fault(start, "a pax name and a GNU long name that differ"))?
                        .unwrap_or_else(|| raw_name.to_vec());
                    let link = one_of(pax.link_path, long_link)
                        .map_err(|()| self.fault(start, "a pax link and a GNU long link that differ"))?
                        .or_else(|| header.link_name_bytes().map(|l| l.to_vec()))
                        .unwrap_or_default();
                    return self.member(start, what, &name, &link, size, pax.size).map(Some);
                }
            }
        }
    }

    fn member(
        &mut self,
        start: u64,
        what: HeaderKind,
        name: &[u8],
        link: &[u8],
        stated: u64,
        pax_size: Option<u64>,
    ) -> Result<Member> {
        let size = match pax_size {
            Some(size) if stated != 0 && stated != size => {
                let why = format!("its header says {} and its pax header {size}", byte_count(stated));
                return Err(self.member_fault(start, name, why));
            }
            Some(size) => size,
            None => stated,
        };
        let cleaned = match header::clean_name(name) {
            Ok(cleaned) => cleaned,
            Err(why) => {
                self.is_measured = self.input.left().is_none_or(|left| left >= size);
                (self.body, self.padding) = (size, size.wrapping_neg() % BLOCK);
                return Err(self.fault(start, why));
            }
        };
        let what = match what {
            // Old tar formats mark a directory only by the slash at the end of its name.
            HeaderKind::File if name.ends_with(b"/") => MemberKind::Directory,
            HeaderKind::File => MemberKind::File,
            HeaderKind::Directory => MemberKind::Directory,
            link_kind => {
                let symbolic = link_kind == HeaderKind::SymbolicLink;
                let from = cleaned.clone().unwrap_or_default();
                MemberKind::Link(header::link_target(&from, link, symbolic))
            }
        };
        if what != MemberKind::File && size != 0 {
            // Some readers take these bytes for a body, and some take them for the next header.
            return Err(self.member_fault(start, name, format!("no file, and yet it has {}", byte_count(size))));
        }
        self.check_left(start, name, size)?;
        if let Some(place) = DOCUMENTS.iter().position(|name| cleaned.as_deref() == Some(name)) {
            self.documents[place] = true;
        }
        self.body = size;
        self.padding = size.wrapping_neg() % BLOCK;
        Ok(Member {
            name: cleaned,
            what,
            offset: self.position,
            size,
        })
    }

    /// Checks that the archive holds the body of a member.
    fn check_left(&self, start: u64, name: &[u8], size: u64) -> Result<()> {
        let left = self.input.left().unwrap_or(size);
        if left >= size {
            return Ok(());
        }
        let why = format!("it has {}, of which the archive holds {left}", byte_count(size));
        Err(self.member_fault(start, name, why).with_hint(CUT_OFF))
    }

    /// Reads from the current member's body; returns 0 at its end.
    pub(super) fn read_body(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let want = usize::try_from(self.body).unwrap_or(usize::MAX).min(buffer.len());
        let got = self.input.read(&mut buffer[..want])?;
        self.position += got as u64;
        self.body -= got as u64;
        if got < want {
            return Err(self.cut_off());
        }
        Ok(got)
    }

    /// Returns the input, at the current position of the scan.
    pub(super) fn input_mut(&mut self) -> &mut F {
        &mut self.input
    }

    /// Returns how the archive ended, after [`next`](Self::next) returned `None`,
    /// and the input after the end.
    pub(super) fn into_end(self) -> (End, F) {
        (self.end.unwrap_or(End::Unmarked), self.input)
    }

    fn next_header(&mut self) -> Result<Option<Header>> {
        if self.found.is_some() {
            return Ok(self.found.take());
        }
        if self.end.is_some() {
            return Ok(None);
        }
        let skipped = self.input.skip(self.body)?;
        self.position += skipped;
        if skipped < self.body {
            return Err(self.cut_off());
        }
        self.body = 0;
        self.position += self.input.skip(std::mem::take(&mut self.padding))?;
        let start = self.position;
        let mut header = Header::new_old();
        match self.block(header.as_mut_bytes())? {
            0 => {
                self.end = Some(End::Unmarked);
                return Ok(None);
            }
            BLOCK => {}
            short => {
                let why = format!("the archive ends inside a header, after {short} of its {BLOCK} bytes");
                let read = usize::try_from(short).unwrap_or_default();
                return Err(match foreign::recognise(&header.as_bytes()[..read]) {
                    // A short text is not a truncated header: member names have no line breaks.
                    None if start == 0 && header.as_bytes().contains(&b'\n') => {
                        self.no_header(start, format!("it has only {}", byte_count(short)), &[])
                    }
                    Some(_) if start == 0 => self.no_header(start, why, &header.as_bytes()[..read]),
                    _ => self.fault(start, why).with_hint(CUT_OFF),
                });
            }
        }
        if header.as_bytes().iter().any(|b| *b != 0) {
            return Ok(Some(header));
        }
        // Some readers take one zero block for the end, and some ignore it; all readers take two for the end.
        let mut second = [0; BLOCK as usize];
        let got = self.block(&mut second)?;
        if second.iter().any(|b| *b != 0) {
            return Err(self.fault(start, "a single zero block between members"));
        }
        if got == BLOCK && self.goes_on_behind_zeros()? {
            let why = "zeros in the place of a member's header";
            return Err(self.fault(start, why).with_hint(CORRUPTED));
        }
        self.end = Some(if got == BLOCK { End::Marked } else { End::Unmarked });
        Ok(None)
    }

    /// Returns whether a member follows the zeros that should end the archive. A copy of a bad disk has zeros in the place of
    /// what could not be read. Another archive that was appended begins with documents that this one has as well.
    ///
    /// Only a scan that continues after faults looks there, and only in a file: a pipe has no known end.
    fn goes_on_behind_zeros(&mut self) -> Result<bool> {
        if self.faults.is_none() || !self.input.is_searchable() {
            return Ok(false);
        }
        let end = self.position;
        self.resync()?;
        self.found = self.found.take_if(|header| !header::is_met(&self.documents, header));
        if self.found.is_none() {
            self.input.go_back(self.position - end);
            self.position = end;
        }
        self.end = None;
        Ok(self.found.is_some())
    }

    fn block(&mut self, block: &mut [u8]) -> Result<u64> {
        let got = self.input.read(block)? as u64;
        self.position += got;
        Ok(got)
    }

    fn extension(&mut self, start: u64, size: u64) -> Result<Vec<u8>> {
        if size > header::MAX_EXTENSION {
            let why = format!(
                "an extended header of {size} bytes; at most {} are accepted",
                header::MAX_EXTENSION
            );
            return Err(self.fault(start, why));
        }
        self.body = size;
        self.padding = size.wrapping_neg() % BLOCK;
        let mut body = vec![0; usize::try_from(size).unwrap_or_default()];
        let mut filled = 0;
        while filled < body.len() {
            filled += self.read_body(&mut body[filled..])?;
        }
        Ok(body)
    }

    fn cut_off(&self) -> Error {
        self.fault(
            self.position,
            format!("the archive ends {} before the end of a member", byte_count(self.body)),
        )
        .with_hint(CUT_OFF)
    }

    fn fault(&self, offset: u64, why: impl Into<String>) -> Error {
        Error::new(
            Kind::Malformed,
            format!("`{}` at offset {offset}: {}", quote(&self.label), why.into()),
        )
    }

    /// Returns the error for an invalid header block.
    /// If the first block of a file is invalid, the file is not an archive.
    fn no_header(&self, offset: u64, why: String, block: &[u8]) -> Error {
        if offset > 0 {
            return self.fault(offset, why).with_hint(CORRUPTED);
        }
        if let Some(foreign) = foreign::recognise(block) {
            return foreign.error(&self.label, &why);
        }
        let what = format!("`{}` is not a tar archive: {why}", quote(&self.label));
        Error::new(Kind::Malformed, what).with_hint(foreign::NO_ARCHIVE)
    }

    fn member_fault(&self, offset: u64, name: &[u8], why: impl Into<String>) -> Error {
        self.fault(offset, format!("member `{}`: {}", quote_bytes(name), why.into()))
    }
}

/// Returns the fault for a part that cannot be read.
fn unreadable(offset: u64, error: Error) -> Error {
    error.context(format!("at offset {offset}")).with_kind(Kind::Malformed)
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
