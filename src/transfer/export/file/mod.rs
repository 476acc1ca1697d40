//! Export into a file, which gets its final name when it is complete.
//! Until then, the same command resumes the export.

mod export;
mod journaled;
mod part_size;
mod prepare;
mod relocate;
mod scheduler;
mod slot;
pub(super) mod supplement;
mod unfinished;
pub(super) mod up_to_date;
mod whole_sum;
mod worker;

pub(super) use export::export;
