//! The memory limit of this process: of its address space (`ulimit -v`), or of its control group (as for a container).
//!
//! With little memory, the program uses smaller buffers and fewer threads. With too little memory, the program reports an
//! error before it starts any work: a process that runs out of memory later is killed and cannot report an error.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use docker_mirror::{Budget, Error, Kind, Result};
use rustix::process::{Resource, getrlimit};

/// Memory in bytes below which a run gets smaller buffers and fewer threads. A run takes at most half of this amount.
const TIGHT: u64 = 512 << 20;

/// Minimum memory in bytes of any run, apart from buffers of adjustable size: threads, connections, TLS.
const LEAST: u64 = 24 << 20;

/// Minimum memory in bytes to parse the command line.
const COMMAND_LINE: u64 = 4 << 20;

/// Maximum number of parallel transfers when memory is below [`TIGHT`].
const FEW_JOBS: usize = 6;

/// Minimum read-ahead buffer of an export to a pipe or a compressed file, in bytes.
const LEAST_AHEAD: u64 = 1 << 20;

/// Minimum address space in bytes for one glibc heap per thread.
const ROOMY: u64 = 2 << 30;

/// Returns the memory in bytes that this process may still take, measured once. `None` if at least [`TIGHT`] is available.
fn left() -> Option<u64> {
    static LEFT: OnceLock<Option<u64>> = OnceLock::new();
    *LEFT.get_or_init(|| {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let space = getrlimit(Resource::As).current;
        let space = space.map(|limit| limit.saturating_sub(status_bytes(&status, "VmSize:")));
        let group = group_limit().map(|limit| limit.saturating_sub(status_bytes(&status, "VmRSS:")));
        [space, group].into_iter().flatten().min().filter(|left| *left < TIGHT)
    })
}

/// Returns the value of a line of `/proc/self/status` in bytes, or 0 if there is none.
fn status_bytes(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    number.unwrap_or_default() << 10
}

/// Returns the lowest limit of this process's control groups (cgroups(7), versions 1 and 2).
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

/// Returns the lowest number in the files of this name in the folder `path` and its parents up to `root`.
///
/// Missing folders are skipped: inside a container, the path of the group may not exist, and its limit is at the root.
fn lowest(root: &Path, path: &str, file: &str) -> Option<u64> {
    let folders = Path::new(path).ancestors().map(|folder| root.join(folder));
    let numbers = folders.filter_map(|folder| fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok());
    numbers.min()
}

/// Returns whether memory is below [`TIGHT`], so that fewer threads should be started.
pub(super) fn is_low() -> bool {
    left().is_some()
}

/// Returns an error if there is too little memory for any run.
///
/// # Errors
/// [`Kind::Io`] with the available and the needed memory.
pub(super) fn check() -> Result<()> {
    needs(LEAST)
}

/// Returns an error if there is too little memory to parse the command line.
///
/// # Errors
/// [`Kind::Io`] with the available and the needed memory.
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

/// Returns the memory budget for documents of bundles and registries, such as manifests.
pub(super) fn budget() -> Budget {
    Budget::new(left().map_or(Budget::DEFAULT, |left| {
        Budget::DEFAULT.min(left.saturating_sub(LEAST) / 2)
    }))
}

/// Returns the maximum number of parallel transfers when memory is short: each takes up to half a megabyte of buffers.
pub(super) fn jobs() -> Option<usize> {
    left().map(|_| FEW_JOBS)
}

/// Returns the read-ahead of an export in bytes: `wanted`, or less when memory is short.
pub(super) fn read_ahead(wanted: u64) -> u64 {
    // The rest of the memory is for chunks on their way to the compressor and for the compressor itself.
    left().map_or(wanted, |left| {
        wanted.min((left.saturating_sub(LEAST) / 4).max(LEAST_AHEAD))
    })
}

/// Returns the buffer in bytes for a bundle from a pipe: `wanted`, or less when memory is short, and at least `least`.
///
/// # Errors
/// [`Kind::Io`] if there is too little memory for `least`.
pub(super) fn pipe_buffer(wanted: u64, least: u64) -> Result<u64> {
    needs(LEAST + least)?;
    Ok(left().map_or(wanted, |left| wanted.min(((left - LEAST) / 2).max(least))))
}

/// Starts the program again with one heap for all threads if the address space is small.
///
/// glibc reserves 64 MiB of address space for each thread, so that a later thread may find none although little is in use.
pub(super) fn restart_with_one_heap() {
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
    // If exec fails, this process continues with a heap per thread.
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
        assert_eq!(
            status_bytes("VmPeak:\t 9 kB\nVmSize:\t  29464 kB\n", "VmSize:"),
            29464 << 10
        );
    }
}
