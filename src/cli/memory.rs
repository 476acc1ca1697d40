//! How much memory this process may take: a limit of its address space (`ulimit -v`), or of the control group that it is in,
//! as a container is. Where there is little, buffers and threads become fewer; where there is too little, the program says so
//! before it starts anything. A process that runs out of memory later cannot report an error, but is killed.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use docker_mirror::{Budget, Error, Kind, Result};
use rustix::process::{Resource, getrlimit};

/// Memory in bytes below which a run gets smaller buffers and fewer threads. A run takes half of it at most.
const TIGHT: u64 = 512 << 20;

/// Memory in bytes that any run takes beside the buffers that can be chosen: threads, connections, TLS.
const LEAST: u64 = 24 << 20;

/// Memory in bytes that it takes to read the command line.
const COMMAND_LINE: u64 = 4 << 20;

/// Number of transfers at a time where there is little memory.
const FEW_JOBS: usize = 6;

/// The smallest buffer in bytes of an export that is written from its first to its last byte.
const LEAST_AHEAD: u64 = 1 << 20;

/// An address space of this many bytes has room for one heap of glibc per thread.
const ROOMY: u64 = 2 << 30;

/// Memory in bytes that this process may take from its start on; nothing where there is no limit that matters.
fn left() -> Option<u64> {
    static LEFT: OnceLock<Option<u64>> = OnceLock::new();
    *LEFT.get_or_init(|| {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let space = getrlimit(Resource::As).current;
        let space = space.map(|limit| limit.saturating_sub(taken(&status, "VmSize:")));
        let group = group_limit().map(|limit| limit.saturating_sub(taken(&status, "VmRSS:")));
        [space, group].into_iter().flatten().min().filter(|left| *left < TIGHT)
    })
}

/// A line of `/proc/self/status`, in bytes.
fn taken(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    number.unwrap_or_default() << 10
}

/// The lowest limit of the control groups that this process is in (cgroups(7)); both versions are known.
fn group_limit() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let limits = groups.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        lowest(Path::new(root), path.trim_start_matches('/'), file)
    });
    limits.min()
}

/// The lowest number in the files of this name in a folder and the folders above it. A container sees its own group as the
/// root, whatever its path is called.
fn lowest(root: &Path, path: &str, file: &str) -> Option<u64> {
    let folders = Path::new(path).ancestors().map(|folder| root.join(folder));
    let numbers = folders.filter_map(|folder| fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok());
    numbers.min()
}

/// Whether there is so little that fewer threads are started.
pub(super) fn is_tight() -> bool {
    left().is_some()
}

/// Refuses to start where there is too little for any run.
///
/// # Errors
/// [`Kind::Io`] with the numbers.
pub(super) fn check() -> Result<()> {
    needs(LEAST)
}

/// Refuses to start where there is too little even to find out what is asked for.
///
/// # Errors
/// [`Kind::Io`] with the numbers.
pub(super) fn check_for_command_line() -> Result<()> {
    match left() {
        Some(left) if left < COMMAND_LINE => check(),
        _ => Ok(()),
    }
}

fn needs(bytes: u64) -> Result<()> {
    match left() {
        Some(left) if left < bytes => Err(Error::new(
            Kind::Io,
            format!(
                "not enough memory: this process may take {} MiB, and needs {} MiB",
                left >> 20,
                bytes >> 20
            ),
        )
        .with_hint("raise the limit of the address space (`ulimit -v`) or the memory limit of the container")),
        _ => Ok(()),
    }
}

/// The part of the memory that is for what bundles and registries say.
pub(super) fn budget() -> Budget {
    Budget::new(left().map_or(Budget::DEFAULT, |left| {
        Budget::DEFAULT.min(left.saturating_sub(LEAST) / 2)
    }))
}

/// How many transfers a run may have at a time where it has little memory: one takes up to half a megabyte of buffers.
pub(super) fn jobs() -> Option<usize> {
    left().map(|_| FEW_JOBS)
}

/// How much an export reads ahead that wants to read this much ahead.
pub(super) fn read_ahead(wanted: u64) -> u64 {
    // Beside it are the pieces that are on their way to the compressor, and what a compressor takes.
    left().map_or(wanted, |left| {
        wanted.min((left.saturating_sub(LEAST) / 4).max(LEAST_AHEAD))
    })
}

/// How much of a bundle in a pipe is in memory at a time, of this much that is wanted and this much that has to be.
///
/// # Errors
/// [`Kind::Io`] if there is too little.
pub(super) fn pipe_buffer(wanted: u64, least: u64) -> Result<u64> {
    needs(LEAST + least)?;
    Ok(left().map_or(wanted, |left| wanted.min(((left - LEAST) / 2).max(least))))
}

/// Starts the program once more with one heap for all threads where the address space is small: glibc reserves 64 MiB of it
/// for each thread, so that some threads find none, though little is in use.
pub(super) fn share_heap() {
    use std::os::unix::process::CommandExt;
    const VARIABLE: &str = "MALLOC_ARENA_MAX";
    let is_small = getrlimit(Resource::As).current.is_some_and(|limit| limit < ROOMY);
    if !cfg!(target_env = "gnu") || !is_small || std::env::var_os(VARIABLE).is_some() {
        return;
    }
    let mut arguments = std::env::args_os();
    let Ok(program) = std::env::current_exe() else { return };
    let mut again = std::process::Command::new(program);
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    // Where that fails, this process goes on as it is.
    drop(again.args(arguments).env(VARIABLE, "1").exec());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_limit_on_the_way_to_the_root_counts() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        assert_eq!(lowest(root.path(), "a/b", "memory.max"), None);
        fs::write(inner.join("memory.max"), "max\n").unwrap();
        assert_eq!(lowest(root.path(), "a/b", "memory.max"), None);
        fs::write(root.path().join("a/memory.max"), "41943040\n").unwrap();
        fs::write(root.path().join("memory.max"), "83886080\n").unwrap();
        assert_eq!(lowest(root.path(), "a/b", "memory.max"), Some(40 << 20));
        assert_eq!(lowest(root.path(), "not/there", "memory.max"), Some(80 << 20));
        assert_eq!(taken("VmPeak:\t 9 kB\nVmSize:\t  29464 kB\n", "VmSize:"), 29464 << 10);
    }
}
