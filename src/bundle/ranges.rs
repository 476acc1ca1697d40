//! Sets of bytes, such as the written bytes of a blob.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of byte offsets, kept as disjoint ranges that do not touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds a range, and merges it with ranges that touch or overlap it.
    pub(crate) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let Range { mut start, mut end } = range;
        let touching: Vec<u64> = self
            .0
            .range(..=end)
            .rev()
            .take_while(|(_, other_end)| **other_end >= start)
            .map(|(other_start, _)| *other_start)
            .collect();
        for other_start in touching {
            if let Some(other_end) = self.0.remove(&other_start) {
                start = start.min(other_start);
                end = end.max(other_end);
            }
        }
        self.0.insert(start, end);
    }

    /// Returns the end of the range that contains `offset`.
    pub(crate) fn end_of(&self, offset: u64) -> Option<u64> {
        self.0
            .range(..=offset)
            .next_back()
            .map(|(_, end)| *end)
            .filter(|end| *end > offset)
    }

    /// Returns the missing ranges between 0 and `size`, in order.
    pub(crate) fn gaps(&self, size: u64) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut at = 0;
        for (start, end) in &self.0 {
            if *start >= size {
                break;
            }
            if at < *start {
                gaps.push(at..*start);
            }
            at = at.max(*end);
        }
        if at < size {
            gaps.push(at..size);
        }
        gaps
    }

    /// Returns the ranges, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.0.iter().map(|(start, end)| *start..*end)
    }

    /// Returns the number of ranges.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns the number of bytes of the set below `size`.
    pub(crate) fn len(&self, size: u64) -> u64 {
        size - self.gaps(size).iter().map(|gap| gap.end - gap.start).sum::<u64>()
    }

    /// Returns whether the set is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_together() {
        let mut ranges = Ranges::default();
        ranges.insert(10..20);
        ranges.insert(30..40);
        assert_eq!(ranges.gaps(50), [0..10, 20..30, 40..50]);
        ranges.insert(20..30);
        assert_eq!(ranges.gaps(50), [0..10, 40..50]);
        ranges.insert(0..11);
        ranges.insert(12..13);
        assert_eq!(
            (ranges.end_of(0), ranges.end_of(39), ranges.end_of(40)),
            (Some(40), Some(40), None)
        );
        assert_eq!(ranges.len(50), 40);
        assert_eq!(ranges.gaps(5), []);
        ranges.insert(45..45);
        assert_eq!(ranges.gaps(50).first(), Some(&(40..50)));
    }
}
