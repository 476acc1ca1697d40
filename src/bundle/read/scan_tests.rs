//! Tests of a scan around what a disk could not read, and of streams without end.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::bundle::read::forward::{FileForward, StreamForward};
use crate::bundle::read::source::Source;

const SIZES: [usize; 5] = [300, 9000, 20, 5000, 4096];

fn name(number: usize) -> String {
    format!("blobs/sha256/{number:064}")
}

/// An archive of blobs, and the offset of each header.
fn archive() -> (Vec<u8>, Vec<u64>) {
    let mut builder = tar::Builder::new(Vec::new());
    let mut offsets = Vec::new();
    for (number, size) in SIZES.into_iter().enumerate() {
        offsets.push(builder.get_ref().len() as u64);
        let mut header = Header::new_ustar();
        header.set_size(size as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, name(number), &vec![b'x'; size][..])
            .unwrap();
    }
    (builder.into_inner().unwrap(), offsets)
}

/// The blobs that a scan finds, and the offsets and texts of the faults.
fn scan(source: Source) -> (Vec<usize>, Vec<(u64, String)>) {
    let mut scanner = Scanner::new("a.tar", FileForward::new(Arc::new(source), true)).continue_after_faults(true);
    let mut found = Vec::new();
    while let Some(member) = scanner.next().unwrap() {
        let member = member.name.unwrap();
        found.push((0..SIZES.len()).find(|number| name(*number) == member).unwrap());
    }
    let faults = scanner.take_faults();
    let faults = faults.first.iter().map(|fault| (fault.offset, fault.error.full()));
    (found, faults.collect())
}

#[test]
fn a_bad_sector_hides_the_members_whose_headers_are_in_it_and_no_others() {
    let (bytes, offsets) = archive();
    for sector in 0..bytes.len() as u64 / 4096 {
        let bad = sector * 4096..(sector + 1) * 4096;
        let mut source = Source::memory("a.tar", bytes.clone());
        source.bad_sectors = bad.clone();
        let readable: Vec<usize> = (0..SIZES.len())
            .filter(|number| !bad.contains(&offsets[*number]))
            .collect();
        let (found, faults) = scan(source);
        assert_eq!(found, readable, "{bad:?}");
        let hides_a_header = readable.len() < SIZES.len();
        assert_eq!(faults.len(), usize::from(hides_a_header), "{bad:?}: {faults:?}");
        for (offset, fault) in faults {
            assert!(
                bad.contains(&offset) && fault.contains("cannot read"),
                "{bad:?}: {fault}"
            );
        }
        // A copy of the disk has zeros there.
        let mut copy = bytes.clone();
        copy[sector as usize * 4096..][..4096].fill(0);
        let (found, faults) = scan(Source::memory("a.tar", copy));
        assert_eq!(found, readable, "zeros at {bad:?}");
        // Zeros in the place of the last members look like the end.
        let expected = hides_a_header && readable.contains(&(SIZES.len() - 1));
        assert_eq!(faults.len(), usize::from(expected), "zeros at {bad:?}: {faults:?}");
    }
}

#[test]
fn a_removed_disk_ends_the_scan() {
    let (bytes, _) = archive();
    let mut source = Source::memory("a.tar", bytes);
    source.bad_sectors = 0..4096;
    let mut scanner = Scanner::new("a.tar", FileForward::new(Arc::new(source), false));
    assert_eq!(scanner.next().unwrap_err().kind(), Kind::Io);
}

#[test]
fn zeros_at_the_end_are_the_end() {
    let (mut bytes, _) = archive();
    bytes.extend_from_slice(&[0; 20_000]);
    let (found, faults) = scan(Source::memory("a.tar", bytes));
    assert_eq!((found.len(), faults.len()), (SIZES.len(), 0));
}

/// A stream that never ends: some bytes, and then text.
struct Endless {
    first: std::io::Cursor<Vec<u8>>,
    read: Arc<AtomicU64>,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut got = self.first.read(buffer)?;
        if got == 0 {
            buffer.fill(b'x');
            got = buffer.len();
        }
        self.read.fetch_add(got as u64, Ordering::Relaxed);
        Ok(got)
    }
}

/// Scans such a stream; returns the error that ends the scan, and the number of bytes read.
fn scan_endless(first: Vec<u8>) -> (String, u64) {
    let read = Arc::<AtomicU64>::default();
    let first = std::io::Cursor::new(first);
    let stream = Endless {
        first,
        read: read.clone(),
    };
    let mut scanner = Scanner::new("p", StreamForward::new("p", stream)).continue_after_faults(true);
    loop {
        match scanner.next() {
            Ok(member) => assert!(member.is_some(), "the stream has no end"),
            Err(error) => return (error.full(), read.load(Ordering::Relaxed)),
        }
    }
}

#[test]
fn a_stream_whose_first_block_is_no_header_is_no_archive() {
    let (why, read) = scan_endless(Vec::new());
    assert!(why.contains("`p` is not a tar archive"), "{why}");
    assert_eq!(read, BLOCK);
}

#[test]
fn the_search_behind_a_fault_of_an_endless_stream_ends() {
    let (bytes, offsets) = archive();
    let second = usize::try_from(offsets[1]).unwrap();
    let (why, read) = scan_endless(bytes[..second].to_vec());
    assert!(why.contains("no member begins in the 256 MiB behind a fault"), "{why}");
    assert!(read < MAX_SEARCH + (1 << 20), "{read}");
}
