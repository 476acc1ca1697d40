//! Finds files that are mostly holes: reading their zeros takes hours, though the files take no room on the disk.

use std::fs::File;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Number of bytes that may be holes without a limit on their ratio; reading them takes a minute or two.
pub(crate) const MAX_HOLES: u64 = 64 << 30;

/// Maximum ratio of a range to its data beyond [`MAX_HOLES`]; the ratio of a decompression bomb.
const RATIO: u64 = 100;

/// Maximum number of pieces of data that are counted.
const MAX_PIECES: usize = 100_000;

/// Returns whether a range of a file is far longer than the data in it. Only a sparse file has holes; a file system that
/// knows none calls everything data.
///
/// Moves the position of the file, which positional reads do not use.
pub(crate) fn is_hollow(file: &File, start: u64, length: u64) -> bool {
    let Some(needed) = length.checked_sub(MAX_HOLES).map(|beyond| beyond.div_ceil(RATIO)) else {
        return false;
    };
    let end = start.saturating_add(length);
    let (mut at, mut data) = (start, 0);
    for _ in 0..MAX_PIECES {
        let begin = match seek(file, SeekFrom::Data(at)) {
            Ok(begin) if begin < end => begin,
            // No data follows.
            Ok(_) | Err(Errno::NXIO) => return data < needed,
            Err(_) => return false,
        };
        let Ok(hole) = seek(file, SeekFrom::Hole(begin)) else {
            return false;
        };
        at = hole.min(end);
        data += at - begin;
        if data >= needed {
            return false;
        }
        if at == end {
            return true;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_file_without_data_is_hollow_beyond_a_size() {
        const SIZE: u64 = 1 << 40;
        let file = tempfile::tempfile().unwrap();
        file.set_len(SIZE).unwrap();
        if seek(&file, SeekFrom::Data(0)) != Err(Errno::NXIO) {
            // This file system knows no holes.
            return;
        }
        assert!(is_hollow(&file, 0, SIZE) && is_hollow(&file, 1 << 30, MAX_HOLES + 1));
        assert!(!is_hollow(&file, 0, MAX_HOLES) && !is_hollow(&file, 7, 0));
        // A few bytes here and there change nothing; a hundredth of the rest does.
        let (needed, piece) = (2u64 << 20, vec![1; 1 << 20]);
        file.write_all_at(&piece, 5 << 30).unwrap();
        let length = MAX_HOLES + needed * RATIO;
        assert!(is_hollow(&file, 0, SIZE) && is_hollow(&file, 0, length));
        file.write_all_at(&piece, 9 << 30).unwrap();
        assert!(is_hollow(&file, 0, SIZE) && !is_hollow(&file, 0, length));
        assert!(is_hollow(&file, 10 << 30, length), "what lies before it does not count");
    }
}
