//! Shell completions and man pages, generated from the definition of the command line.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Arg, Args, ValueEnum};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};
use docker_mirror::{Bundle, Error, Kind, OpenOptions, Result, quote};

use super::output;

/// Environment variable with which a shell asks this program for completions.
const VARIABLE: &str = "DOCKER_MIRROR_COMPLETE";

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
}

#[derive(Debug, Args)]
pub(super) struct Man {
    /// A folder for the pages of all commands; without it, the page of the program goes to standard output
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Answers a shell that asks for completions. Returns whether a shell asked.
pub(super) fn answer_shell(definition: fn() -> clap::Command) -> bool {
    let folder = std::env::current_dir().ok();
    let answered = CompleteEnv::with_factory(definition)
        .var(VARIABLE)
        .try_complete(std::env::args_os(), folder.as_deref());
    // A shell does not show errors of a completion.
    answered.unwrap_or(true)
}

/// Answers Docker's command line, which asks a plugin for completions by `docker-mirror __complete mirror export ""`.
///
/// Each line of the answer is a candidate, a tab and the candidate's help. The last line is a number of flags that tell the
/// shell how to use the candidates. Returns whether Docker asked.
pub(super) fn answer_docker(definition: fn() -> clap::Command) -> bool {
    /// Flag that tells the shell to add no space after the candidate.
    const NO_SPACE: u32 = 2;
    /// Flag that tells the shell to add no file names, since the candidates include them already.
    const NO_FILES: u32 = 4;
    let mut words = std::env::args_os();
    let (name, asked, _plugin) = (words.next(), words.next(), words.next());
    if !asked.is_some_and(|asked| asked == "__complete" || asked == "__completeNoDesc") {
        return false;
    }
    let mut line: Vec<OsString> = name.into_iter().chain(words).collect();
    if line.len() < 2 {
        line.push(OsString::new());
    }
    let (place, folder) = (line.len() - 1, std::env::current_dir().ok());
    let found = clap_complete::engine::complete(&mut definition(), line, place, folder.as_deref());
    let found = found.unwrap_or_default();
    let mut text = String::new();
    let mut directive = NO_FILES;
    for candidate in &found {
        let value = candidate.get_value().to_string_lossy();
        if value.ends_with(['/', '=']) {
            directive |= NO_SPACE;
        }
        let help = candidate.get_help().map(ToString::to_string).unwrap_or_default();
        let help = help.lines().next().unwrap_or_default();
        // A file name with a line break would be read as two candidates.
        if value.contains(char::is_control) {
            continue;
        }
        text.push_str(&value);
        if !help.is_empty() {
            text.push('\t');
            text.push_str(help);
        }
        text.push('\n');
    }
    // A shell does not show errors of a completion.
    let _ = print(format!("{text}:{directive}\n").as_bytes());
    true
}

/// Completes `--only` with the images of the bundles on the command line.
pub(super) fn completed(arg: Arg) -> Arg {
    match arg.get_id().as_str() {
        "only" => arg.add(ArgValueCompleter::new(images_of_bundles)),
        _ => arg,
    }
}

fn images_of_bundles(current: &OsStr) -> Vec<CompletionCandidate> {
    let begin = current.to_string_lossy();
    let bundles = std::env::args_os()
        .skip(1)
        .map(PathBuf::from)
        .filter(|path| path.is_file());
    let options = OpenOptions::default();
    let opened = bundles.filter_map(|path| Some(Bundle::open_one(&path, &options).ok()?.0));
    let mut names: Vec<String> = opened
        .flat_map(|bundle| {
            bundle
                .images()
                .iter()
                .map(|image| image.name.to_string())
                .collect::<Vec<_>>()
        })
        .filter(|name| name.starts_with(&*begin))
        .collect();
    names.sort();
    names.dedup();
    names.into_iter().map(CompletionCandidate::new).collect()
}

/// Prints the script that a shell sources to complete this program's command line.
pub(super) fn completions(arguments: &Completions) -> Result<()> {
    let name = match arguments.shell {
        Shell::Bash => "bash",
        Shell::Elvish => "elvish",
        Shell::Fish => "fish",
        Shell::Powershell => "powershell",
        Shell::Zsh => "zsh",
    };
    let shells = Shells::builtins();
    let shell = shells
        .completer(name)
        .ok_or_else(|| Error::new(Kind::Unsupported, "this shell is not known"))?;
    let mut text = Vec::new();
    let program = "docker-mirror";
    shell
        .write_registration(VARIABLE, program, program, program, &mut text)
        .map_err(|e| Error::new(Kind::Io, "cannot make the completions").with_source(e))?;
    print(&text)
}

/// Writes the man pages of all commands into a folder, or prints the page of the program.
pub(super) fn man(arguments: &Man, definition: clap::Command) -> Result<()> {
    let mut all = definition.disable_help_subcommand(true);
    all.build();
    let Some(folder) = &arguments.dir else {
        return print(&page(&all)?);
    };
    std::fs::create_dir_all(folder).map_err(|e| cannot_write(folder, e))?;
    for command in std::iter::once(&all).chain(all.get_subcommands().filter(|command| !command.is_hide_set())) {
        let name = command.get_display_name().unwrap_or(command.get_name());
        let path = folder.join(format!("{name}.1"));
        std::fs::write(&path, page(command)?).map_err(|e| cannot_write(&path, e))?;
    }
    Ok(())
}

fn page(command: &clap::Command) -> Result<Vec<u8>> {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone().name(name))
        .render(&mut text)
        .map_err(|e| Error::new(Kind::Io, "cannot make the man page").with_source(e))?;
    Ok(text)
}

fn cannot_write(path: &Path, error: std::io::Error) -> Error {
    Error::new(Kind::Usage, format!("cannot write `{}`", quote(&path))).with_source(error)
}

fn print(text: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(text).and_then(|()| stdout.flush());
    written.err().and_then(output::cannot_write).map_or(Ok(()), Err)
}
