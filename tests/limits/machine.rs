//! A machine with little memory, or with a system that cannot be written to: a run succeeds, or reports why it cannot.

use std::path::Path;
use std::process::Command;

use crate::measured::{Lab, Measured};
use crate::support::real::skipped;
use crate::support::{Double, images};

/// The commands that move a bundle; `@` is the registry.
const WAYS: [&str; 7] = [
    "export @/library/greeting:1.0 -o file.tar --force --fresh",
    "export @/library/greeting:1.0 -o file.tar.gz --force",
    "export @/library/greeting:1.0 -o file.tar.zst --force",
    "export @/library/greeting:1.0 -o -",
    "import b.tar -d @/file",
    "import b.tar.zst -d @/compressed",
    "import - -d @/pipe",
];

/// A registry with an image, and a user who has it in bundles.
fn prepared() -> (Lab, Double) {
    let (lab, registry) = (Lab::new(), Double::new());
    images::greeting().push(&registry, "library/greeting", "1.0");
    images::sized(1, "linux/amd64", &[9 << 20, 8 << 20, 7 << 20]).push(&registry, "library/large", "1.0");
    let names = ["greeting", "large"].map(|name| format!("{}/library/{name}:1.0", registry.host()));
    for output in ["b.tar", "b.tar.zst"] {
        let run = lab.run(&["export", &names[0], &names[1], "-o", output], None);
        assert_eq!(run.ended, Ok(0), "{}", run.stderr);
    }
    (lab, registry)
}

/// A way as a line for a shell, which ends as the program does.
fn line(way: &str, registry: &Double) -> String {
    let program = env!("CARGO_BIN_EXE_docker-mirror");
    let way = way.replace('@', &registry.host());
    let input = if way.contains("import -") { "b.tar" } else { "/dev/null" };
    format!("exec {program} {way} <{input}")
}

/// What is wrong with a run that may fail only with a message of its own.
fn faults(run: &Measured) -> Vec<String> {
    let mut faults = run.faults(10);
    if run.ended != Ok(0) && !run.stderr.contains("error: ") {
        faults.push(format!("says nothing: {}", run.stderr));
    }
    faults
}

/// Returns the address space in bytes that the program file takes: the sum of its loaded segments (ELF, 64 bits).
fn mapped_size(program: &str) -> u64 {
    const LOAD: [u8; 4] = [1, 0, 0, 0];
    let bytes = std::fs::read(program).unwrap();
    let number = |at: usize, length: usize| {
        let mut whole = [0; 8];
        whole[..length].copy_from_slice(&bytes[at..at + length]);
        u64::from_le_bytes(whole)
    };
    let (table, size, count) = (
        number(0x20, 8) as usize,
        number(0x36, 2) as usize,
        number(0x38, 2) as usize,
    );
    let segments = (0..count).map(|n| table + n * size);
    let loaded = segments.filter(|at| bytes[*at..*at + 4] == LOAD);
    loaded.map(|at| number(at + 0x28, 8)).sum()
}

/// Returns the address space in bytes of the shared libraries of this process, which the program uses as well.
fn libraries_size() -> u64 {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let paths = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    let libraries: std::collections::BTreeSet<&str> = paths.filter(|path| path.contains(".so")).collect();
    libraries.into_iter().map(mapped_size).sum()
}

/// Maximum address space in bytes that the first stack, the loader and the runtime take before `main`, in addition to
/// the program and its libraries.
const BEFORE_MAIN: u64 = 1 << 20;

#[test]
fn a_small_address_space_is_enough_or_is_refused() {
    let (lab, registry) = prepared();
    let mapped = mapped_size(env!("CARGO_BIN_EXE_docker-mirror"));
    let started = mapped + libraries_size() + BEFORE_MAIN;
    let (mut wrong, mut good) = (Vec::new(), 0);
    for way in WAYS {
        for kilobytes in [
            400_000, 200_000, 100_000, 80_000, 70_000, 64_000, 60_000, 56_000, 52_000, 48_000, 44_000, 40_000, 32_000,
        ] {
            let mut command = lab.shell(&format!("ulimit -v {kilobytes}; {}", line(way, &registry)));
            command.env("RUST_BACKTRACE", "0");
            let run = lab.run_command(command, None);
            // With less memory, the system cannot load the program, or the runtime ends it before `main`.
            let loaded = !(matches!(run.ended, Ok(126 | 127))
                || run.stderr.contains("while loading shared libraries")
                || (kilobytes * 1000 < mapped && run.ended == Err(11))
                || (kilobytes * 1024 < started && run.stderr.contains("failed to allocate an alternative stack")));
            if loaded {
                wrong.extend(
                    faults(&run)
                        .into_iter()
                        .map(|fault| format!("{way}, {kilobytes} kB: {fault}")),
                );
            }
            good += u32::from(run.ended == Ok(0));
            if kilobytes >= 100_000 && run.ended != Ok(0) {
                wrong.push(format!("{way}, {kilobytes} kB: failed: {}", run.stderr));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    println!("{good} runs ended well");
}

#[test]
fn a_small_control_group_is_enough_or_is_refused() {
    let Some(group) = Group::new() else {
        skipped("a small control group", "none with a limit of memory can be made here");
        return;
    };
    let (lab, registry) = prepared();
    let mut wrong = Vec::new();
    for megabytes in [200, 64, 40, 24] {
        group.limit(megabytes << 20);
        for way in WAYS {
            let enter = format!("echo $$ >{}/cgroup.procs", group.0.display());
            let run = lab.run_command(lab.shell(&format!("{enter} && {}", line(way, &registry))), None);
            wrong.extend(
                faults(&run)
                    .into_iter()
                    .map(|fault| format!("{way}, {megabytes} MB: {fault}")),
            );
            if megabytes >= 64 && run.ended != Ok(0) {
                wrong.push(format!("{way}, {megabytes} MB: failed: {}", run.stderr));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// A control group of this test, which goes when it is dropped.
struct Group(std::path::PathBuf);

impl Group {
    fn new() -> Option<Self> {
        let name = format!("docker-mirror-test-{}", std::process::id());
        let roots = [
            ("/sys/fs/cgroup", "memory.max"),
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        ];
        roots.iter().find_map(|(root, file)| {
            let group = Self(Path::new(root).join(&name));
            std::fs::create_dir(&group.0).ok()?;
            // Dropped, and so removed, where it has no such limit.
            let is_limited = group.0.join(file).exists() && group.0.join("cgroup.procs").exists();
            is_limited.then_some(group)
        })
    }

    fn limit(&self, bytes: u64) {
        let files = ["memory.max", "memory.limit_in_bytes"].map(|file| self.0.join(file));
        let file = files.iter().find(|file| file.exists()).unwrap();
        std::fs::write(file, bytes.to_string()).unwrap();
        // What does not fit is not to be moved out.
        let _ = std::fs::write(self.0.join("memory.swap.max"), "0");
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn a_system_that_cannot_be_written_to_is_enough() {
    let (lab, registry) = prepared();
    let folder = lab.path("");
    let folder = folder.display();
    // Only the folder of the output stays writable; everything else is read-only, including `/tmp` and the user's home.
    let prepare = format!(
        "mount --make-rprivate / && mkdir {folder}/out && mount --bind {folder}/out {folder}/out && mount -o remount,bind,ro / && cd {folder}/out"
    );
    let enter = |line: &str| {
        let mut command = lab.shell(&format!("{prepare} && {line}"));
        let environment: Vec<_> = command
            .get_envs()
            .map(|(name, value)| (name.to_owned(), value.unwrap().to_owned()))
            .collect();
        let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        command = Command::new("unshare");
        command
            .args(["--mount", "sh"])
            .args(arguments)
            .env_clear()
            .envs(environment);
        command.stdin(std::process::Stdio::null());
        command
    };
    let test = lab.run_command(enter("! touch /x 2>/dev/null && ! touch ../x 2>/dev/null"), None);
    if test.ended != Ok(0) {
        skipped(
            "a read-only system",
            &format!("this user may not make a mount namespace: {}", test.stderr),
        );
        return;
    }
    let mut wrong = Vec::new();
    for way in WAYS {
        let _ = std::fs::remove_dir(lab.path("out"));
        let way = way.replace("b.tar", "../b.tar");
        let line = line(&way, &registry).replace("<b.tar", "<../b.tar");
        let run = lab.run_command(enter(&line), None);
        wrong.extend(faults(&run).into_iter().map(|fault| format!("{way}: {fault}")));
        if run.ended != Ok(0) {
            wrong.push(format!("{way}: failed: {}", run.stderr));
        }
        for file in ["file.tar", "file.tar.gz", "file.tar.zst"] {
            let _ = std::fs::remove_file(lab.path("out").join(file));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
