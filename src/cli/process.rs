//! Runs the work of a command in threads of its own, and ends it at a signal or when its time is up.

use std::process::ExitCode;
use std::time::Duration;

use docker_mirror::{Error, Kind, Result, Stop};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use super::command_line::Cli;
use super::exit::{self, Outcome, Signal};
use super::report::Reporting;
use super::{connection, memory, output, parse, plugin, printer};

/// Number of open files for runs with many registries. Programs that this one starts, such as credential helpers, inherit the limit,
/// and some of them close each possible file, so that it is not much larger.
const OPEN_FILES: u64 = 4096;

/// Runs the work of a command and returns its exit code, also if a signal or `--timeout` ends it.
pub(super) fn run_to_end<F>(
    cli: Cli,
    reporting: Reporting,
    command: &'static str,
    run: impl FnOnce(Cli) -> F + Send + 'static,
) -> ExitCode
where
    F: Future<Output = Result<Outcome>> + 'static,
{
    let (watch, interrupted, runtime) = match start() {
        Ok(started) => started,
        Err(error) => return cannot_start(&reporting, command, error),
    };
    let limit = cli.shared().timeout();
    let hint = cli.hint();
    // A run that begins anew would meet the same limit again.
    let late = match hint.contains("to resume") {
        true => hint.to_owned(),
        false => format!("raise `--timeout` and {hint}"),
    };
    let work_reporting = reporting.clone();
    let reads_bundle = cli.reads_bundle();
    let requests = cli.shared().stop.clone();
    let (stop, stopped) = oneshot::channel::<()>();
    let (done, mut result) = oneshot::channel();
    let handle = runtime.handle().clone();
    let work = std::thread::Builder::new().stack_size(stack()).spawn(move || {
        let result = handle.block_on(async {
            tokio::select! {
                _ = stopped => None,
                result = run(cli) => Some(result),
            }
        });
        if let Some(result) = result {
            let _ = done.send(conclude(result, &work_reporting, command, reads_bundle));
        }
    });
    if let Err(error) = work {
        return cannot_start(&reporting, command, error);
    }
    // The working thread waits until its output is written before it sends its result. This thread therefore reacts to a
    // signal and to `--timeout` even while the reader of the output blocks.
    let ended = watch.block_on(async {
        let ended = tokio::select! {
            biased;
            signal = interrupted => Err((signal.1, Some(signal.0))),
            ended = connection::within(limit, &late, async { Ok((&mut result).await) }) => ended.map_err(|error| (error, None)),
        };
        if ended.is_err() {
            end_early(&requests, stop, result).await;
        }
        ended
    });
    // A thread that hangs in a file system or pipe must not prevent the end of the program.
    runtime.shutdown_timeout(Duration::from_millis(200));
    let (error, signal, code) = match ended {
        Ok(Ok(code)) => return ExitCode::from(code),
        // Without a result, the working thread has panicked, and the panic hook has printed the message.
        Ok(Err(_)) => (
            Error::new(Kind::Incomplete, "the work ended before it was done"),
            None,
            1,
        ),
        Err((error, Some(signal))) => (error.with_hint(hint), Some(signal), signal.code()),
        Err((error, None)) => (error, None, exit::TIMED_OUT),
    };
    printer::within(LAST_WORDS, move || {
        printer::flush();
        if let Some(sent) = reporting.sent() {
            output::info(sent);
        }
        output::error(&error);
        printer::flush();
        let _ = reporting.write(command, code, Some(&error));
    });
    if let Some(signal) = signal {
        signal.end_process_by_signal();
    }
    ExitCode::from(code)
}

/// Lets requests in flight and running work end, each within its limit, unless Ctrl-C is pressed again.
async fn end_early(requests: &Stop, stop: oneshot::Sender<()>, result: oneshot::Receiver<u8>) {
    if !requests.is_idle() {
        printer::within(LAST_WORDS, || {
            output::info(format!(
                "stopping: waiting up to {} s for the requests in flight; a second Ctrl-C ends at once",
                LAST_PIECES.as_secs()
            ));
        });
    }
    let clean_up = async {
        let _ = tokio::time::timeout(LAST_PIECES, requests.wind_up()).await;
        let _ = stop.send(());
        // Gives running work two seconds to clean up.
        let _ = tokio::time::timeout(PATIENCE, result).await;
    };
    tokio::select! {
        () = clean_up => (),
        () = interrupted_again() => printer::within(LAST_WORDS, || {
            output::info("stopped at once: the requests in flight were not waited for");
        }),
    }
}

/// Prints the error of the run, waits until all output is written, and returns the exit code.
fn conclude(result: Result<Outcome>, reporting: &Reporting, command: &str, reads_bundle: bool) -> u8 {
    let result = result.map_err(parse::name_variable);
    let outcome = match &result {
        Ok(outcome) => *outcome,
        Err(error) => {
            printer::flush();
            output::error(error);
            Outcome::from_error(error, reads_bundle)
        }
    };
    let mut code = outcome.code();
    printer::flush();
    let unwritten = output::unwritten().into_iter();
    let unreported = reporting.write(command, code, result.as_ref().err()).err();
    for error in unwritten.chain(unreported) {
        output::error(&error);
        printer::flush();
        code = if code == 0 { Outcome::Failure.code() } else { code };
    }
    code
}

fn cannot_start(reporting: &Reporting, command: &str, error: std::io::Error) -> ExitCode {
    let error = Error::new(Kind::Io, "cannot start the threads that do the work")
        .with_source(error)
        .with_hint(
            "raise the limit that was reached: of files (`ulimit -n`), processes (`ulimit -u`) or memory (`ulimit -v`)",
        );
    output::error(&error);
    reporting.end(command, 1, &error)
}

/// Returns the stack size of the working thread in bytes: 8 MiB like a main thread, or 2 MiB when memory is short.
fn stack() -> usize {
    if memory::is_low() { 2 << 20 } else { 8 << 20 }
}

/// Maximum number of threads for blocking calls when memory is short.
const BLOCKING: usize = 8;

/// Number of threads that must be able to run at the same time before the runtime starts.
const THREADS: usize = 6;

/// Starts [`THREADS`] threads at the same time and ends them, as a test: a runtime that cannot start its first thread panics.
fn try_threads() -> std::io::Result<()> {
    let together = std::sync::Arc::new(std::sync::Mutex::new(()));
    let gate = together.lock();
    let start = |_| {
        let together = together.clone();
        let wait = move || drop(together.lock());
        std::thread::Builder::new().stack_size(2 << 20).spawn(wait)
    };
    let threads: Vec<_> = (0..THREADS).map(start).collect();
    drop(gate);
    for thread in threads {
        let _ = thread?.join();
    }
    Ok(())
}

/// Maximum time for the registry to acknowledge the running upload pieces after an interrupt. A piece takes about two
/// seconds on an even line.
const LAST_PIECES: Duration = Duration::from_secs(5);

/// Maximum time for interrupted work to end.
const PATIENCE: Duration = Duration::from_secs(2);

/// Time in which signals count as one Ctrl-C: the terminal and a parent process may both send it.
const ONE_KEY: Duration = Duration::from_secs(1);

/// Maximum time to write the last message and the report of an interrupted run.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Raises the limit on open files as far as this user may, up to [`OPEN_FILES`]. The limit of a shell is meant for programs that
/// cannot handle more, and connections to many registries at a time exceed it.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    // No value stands for no limit.
    let (Some(current), most) = (limit.current, limit.maximum.unwrap_or(u64::MAX)) else {
        return;
    };
    if current < OPEN_FILES.min(most) {
        let current = Some(OPEN_FILES.min(most));
        // Without the right to raise it, the run has fewer connections.
        let _ = setrlimit(Resource::Nofile, Rlimit { current, ..limit });
    }
}

/// Starts two runtimes: one watches for signals and the time limit, the other does the work. Working threads that wait for a
/// terminal, a pipe or a disk can then not block the watch. The function first tries to open sixteen files, since
/// a runtime without enough file descriptors for its signals panics instead of returning an error.
fn start() -> std::io::Result<(Runtime, impl Future<Output = (Signal, Error)>, Runtime)> {
    const NEEDED: usize = 16;
    allow_open_files();
    let open = |_| std::fs::File::open("/dev/null");
    let all = (0..NEEDED).map(open).collect::<std::io::Result<Vec<_>>>();
    if let Err(error) = all.map(drop)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let watch = Builder::new_current_thread().enable_all().build()?;
    // The signal handlers are installed before any other thread starts.
    let interrupted = {
        let _guard = watch.enter();
        interrupted()
    };
    printer::start()?;
    try_threads()?;
    let mut builder = Builder::new_multi_thread();
    // One thread for blocking calls is kept alive: when no further thread can be started, blocking calls queue for it.
    builder
        .enable_all()
        .thread_keep_alive(Duration::from_secs(24 * 60 * 60));
    if memory::is_low() {
        builder.worker_threads(1).max_blocking_threads(BLOCKING);
    }
    let runtime = builder.build()?;
    runtime.handle().spawn_blocking(|| {});
    Ok((watch, interrupted, runtime))
}

/// Installs the signal handlers at once. The returned future ends when a signal asks the program to end.
fn interrupted() -> impl Future<Output = (Signal, Error)> {
    use tokio::signal::unix::{SignalKind, signal};
    // With SIGXFSZ handled, a write beyond the file size limit (`ulimit -f`) returns an error instead of ending the process.
    // SIGXFSZ is 25 on all Linux architectures except MIPS and PA-RISC.
    let _ = signal(SignalKind::from_raw(25));
    let signals = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
        signal(SignalKind::hangup()),
    );
    let docker = plugin::connect();
    async move {
        let (signal, name) = match signals {
            (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) => {
                tokio::select! {
                    _ = interrupt.recv() => (Signal::Interrupt, "interrupted (Ctrl-C)"),
                    _ = terminate.recv() => (Signal::Terminate, "terminated (SIGTERM)"),
                    _ = hangup.recv() => (Signal::HangUp, "terminal closed (SIGHUP)"),
                    () = plugin::wait_for_close(docker) => (Signal::Terminate, "terminated by docker, which closed the socket of its plugin"),
                }
            }
            _ => std::future::pending().await,
        };
        (signal, Error::new(Kind::Cancelled, name))
    }
}

/// Waits for a second Ctrl-C, which comes at least [`ONE_KEY`] after the first.
async fn interrupted_again() {
    use tokio::signal::unix::{SignalKind, signal};
    tokio::time::sleep(ONE_KEY).await;
    match signal(SignalKind::interrupt()) {
        Ok(mut interrupt) => drop(interrupt.recv().await),
        Err(_) => std::future::pending().await,
    }
}
