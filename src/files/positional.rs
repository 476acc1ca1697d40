//! Reading and writing bytes by position, independent of where a bundle is stored.
//!
//! A file and memory implement these traits; several volumes or a remote object could implement them as well.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;

/// Storage whose bytes can be read at any offset, by several threads at a time.
pub(crate) trait ReadAt {
    /// Returns the present number of bytes.
    fn length(&self) -> io::Result<u64>;

    /// Reads up to `buffer.len()` bytes; returns 0 only at the end or for an empty buffer.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Fills the buffer; returns fewer bytes only at the end of the storage.
    fn fill_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(got) => filled += got,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(filled)
    }
}

/// Storage whose bytes can be written at any offset, by several threads at a time.
pub(crate) trait WriteAt: ReadAt {
    /// Writes all of `bytes`. A gap between the old end and `offset` is filled with zeros.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Truncates the storage to this length, or extends it with zeros.
    fn set_length(&self, length: u64) -> io::Result<()>;

    /// Waits until all written bytes survive a loss of power.
    fn sync(&self) -> io::Result<()>;
}

impl ReadAt for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }
}

impl WriteAt for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

impl ReadAt for Bytes {
    fn length(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        let count = buffer.len().min(self.len() - start);
        buffer[..count].copy_from_slice(&self[start..start + count]);
        Ok(count)
    }
}

/// Tests that every implementation of these traits has to pass.
#[cfg(test)]
pub(crate) mod contract {
    use super::*;

    /// Checks storage that holds the bytes 0 to 99.
    pub(crate) fn check_reads(bytes: &impl ReadAt) {
        assert_eq!(bytes.length().unwrap(), 100);
        for (offset, size) in [
            (0, 100),
            (0, 0),
            (1, 98),
            (99, 1),
            (99, 7),
            (100, 5),
            (u64::MAX, 5),
            (40, 1000),
        ] {
            let mut buffer = vec![0xff; size];
            let got = bytes.fill_at(&mut buffer, offset).unwrap_or_default();
            let expected: Vec<u8> = (offset.min(100)..offset.saturating_add(size as u64).min(100))
                .map(|n| n as u8)
                .collect();
            assert_eq!(buffer[..got], expected, "{size} bytes at {offset}");
            assert!(
                buffer[got..].iter().all(|byte| *byte == 0xff),
                "{size} bytes at {offset}"
            );
        }
    }

    /// Checks empty storage.
    pub(crate) fn check_writes(bytes: &impl WriteAt) {
        assert_eq!(bytes.length().unwrap(), 0);
        let part = |range: std::ops::Range<u8>| range.collect::<Vec<u8>>();
        bytes.write_at(&part(60..110), 60).unwrap();
        let mut gap = [1; 60];
        assert_eq!(bytes.fill_at(&mut gap, 0).unwrap(), 60);
        assert_eq!(gap, [0; 60], "a gap is zeros");
        bytes.write_at(&part(0..70), 0).unwrap();
        bytes.write_at(&[], 500).unwrap();
        bytes.set_length(100).unwrap();
        bytes.sync().unwrap();
        check_reads(bytes);
        bytes.set_length(0).unwrap();
        assert_eq!(bytes.length().unwrap(), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_and_memory_keep_the_contract() {
        contract::check_writes(&tempfile::tempfile().unwrap());
        contract::check_reads(&(0..100).collect::<Bytes>());
    }
}
