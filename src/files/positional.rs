//! Bytes by position: what a bundle is read from and written to, whatever holds it. Today that is a file or memory; several volumes
//! or a remote object would implement the same.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;

/// Bytes that can be read from any offset, by several threads at a time.
pub(crate) trait ReadAt {
    /// Number of bytes, as of now.
    fn length(&self) -> io::Result<u64>;

    /// Reads up to as many bytes as the buffer takes; none only at the end, or into an empty buffer.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Fills the buffer; returns fewer bytes only at the end.
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

/// Bytes that can be written at any offset, by several threads at a time.
pub(crate) trait WriteAt: ReadAt {
    /// Writes all of `bytes`. Bytes between the end and a later `offset` become zeros.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Cuts off what is beyond this length, or fills up to it with zeros.
    fn set_length(&self, length: u64) -> io::Result<()>;

    /// Waits until everything that was written survives a loss of power.
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

/// What every implementation has to do, for its tests.
#[cfg(test)]
pub(crate) mod contract {
    use super::*;

    /// Checks something that holds the bytes 0 to 99.
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

    /// Checks something that is empty.
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
