//! Shell completions and man pages, generated from the definition of the command line.

use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use clap::{Arg, Args, ValueEnum};
use clap_complete::engine::{ArgValueCandidates, ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};
use docker_mirror::{Bundle, Error, Kind, OpenOptions, Result, quote};

use super::output;

/// Environment variable with which a shell asks this program for completions.
pub(super) const VARIABLE: &str = "DOCKER_MIRROR_COMPLETE";

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

/// Values of `--on-existing`.
const ON_EXISTING: &[&str] = &["overwrite", "skip", "error"];

/// Values of `--index`.
const INDEX: &[&str] = &["auto", "filtered", "sparse"];

/// Common values of `--platform`; others are accepted too.
const PLATFORMS: &[&str] = &[
    "all",
    "linux/386",
    "linux/amd64",
    "linux/arm/v5",
    "linux/arm/v6",
    "linux/arm/v7",
    "linux/arm64",
    "linux/ppc64le",
    "linux/riscv64",
    "linux/s390x",
    "windows/amd64",
];

/// Gives a flag its completions. `--only` has the images of the bundles on the command line.
pub(super) fn completed(arg: Arg) -> Arg {
    let values = match arg.get_id().as_str() {
        "only" => return arg.add(ArgValueCompleter::new(images_of_bundles)),
        "on_existing" => ON_EXISTING,
        "index" => INDEX,
        "platform" => PLATFORMS,
        _ => return arg,
    };
    let candidates = move || values.iter().map(CompletionCandidate::new).collect::<Vec<_>>();
    arg.add(ArgValueCandidates::new(candidates))
}

/// Returns the images that begin with `current`, in the form that the user began to type: `alpine:3.20` for
/// `docker.io/library/alpine:3.20`.
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
        .filter_map(|name| {
            let omitted = ["", "docker.io/", "docker.io/library/"];
            let mut forms = omitted.iter().filter_map(|part| name.strip_prefix(part));
            forms.find(|form| form.starts_with(&*begin)).map(str::to_owned)
        })
        .collect();
    names.sort();
    names.dedup();
    names.into_iter().map(CompletionCandidate::new).collect()
}

/// Script for bash, in place of the one of `clap_complete`, which leaves the words as bash splits them.
const BASH: &str = r#"_docker_mirror() {
    # Bash splits words at `:` and `=`, which are inside of `alpine:3` and `--platform=all`. The program gets whole words. Of a
    # candidate, bash expects only what follows the last split: `prefix` is what comes before it.
    local IFS=$'\013' words=() line="${COMP_LINE:0:COMP_POINT}" piece prefix="" i n=-1
    for ((i = 0; i <= COMP_CWORD; i++)); do
        if ((n < 0)) || [[ "$line" == [[:space:]]* ]]; then
            words[++n]=""
            line="${line#"${line%%[![:space:]]*}"}"
        fi
        piece="${COMP_WORDS[i]}"
        ((i < COMP_CWORD)) || piece="$line"
        words[n]+="$piece"
        line="${line#"$piece"}"
    done
    prefix="${words[n]%"$2"}"
    prefix="${prefix//[\"\']/}"
    words[n]="$prefix$2"
    COMPREPLY=($(VARIABLE=bash _CLAP_IFS="$IFS" _CLAP_COMPLETE_INDEX="$n" docker-mirror -- "${words[@]}"))
    if [[ $? != 0 ]]; then
        unset COMPREPLY
        return
    fi
    COMPREPLY=("${COMPREPLY[@]#"$prefix"}")
    # No space follows the beginning of a word.
    if [[ ! "${COMPREPLY-}" =~ [=/:]$ ]]; then
        compopt +o nospace 2> /dev/null
    fi
}
if ((BASH_VERSINFO[0] > 4 || BASH_VERSINFO[0] == 4 && BASH_VERSINFO[1] >= 4)); then
    complete -o nospace -o bashdefault -o nosort -F _docker_mirror docker-mirror
else
    complete -o nospace -o bashdefault -F _docker_mirror docker-mirror
fi
"#;

/// Prints the script that a shell sources to complete this program's command line.
pub(super) fn completions(arguments: &Completions) -> Result<()> {
    let name = match arguments.shell {
        Shell::Bash => return print(BASH.replace("VARIABLE", VARIABLE).as_bytes()),
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
        print(&page(&all)?)?;
        if std::io::stdout().is_terminal() {
            output::info("note: this is the source of a page; `docker-mirror man | man -l -` shows the page");
        }
        return Ok(());
    };
    std::fs::create_dir_all(folder).map_err(|e| cannot_write(folder, e))?;
    let commands: Vec<&clap::Command> = std::iter::once(&all)
        .chain(all.get_subcommands().filter(|command| !command.is_hide_set()))
        .collect();
    for command in &commands {
        let name = command.get_display_name().unwrap_or(command.get_name());
        let path = folder.join(format!("{name}.1"));
        std::fs::write(&path, page(command)?).map_err(|e| cannot_write(&path, e))?;
    }
    output::info(format!(
        "wrote {} pages to the folder `{}`; `man -l {}` shows one",
        commands.len(),
        quote(folder),
        quote(&folder.join("docker-mirror.1"))
    ));
    Ok(())
}

/// Returns the man page of a command, or of the whole program.
fn page(command: &clap::Command) -> Result<Vec<u8>> {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    // The usage of the help, which is one line for each form; the generator would list every flag, each without its value.
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").to_owned();
    // The generator omits the help of arguments that the short help does not show.
    let command = command
        .clone()
        .name(name.clone())
        .override_usage(usage)
        .subcommand_help_heading("COMMANDS")
        .mut_args(|arg| arg.hide_short_help(false));
    let mut text = Vec::new();
    clap_mangen::Man::new(command)
        .render(&mut text)
        .map_err(|e| Error::new(Kind::Io, "cannot make the man page").with_source(e))?;
    Ok(arranged(&name, &String::from_utf8_lossy(&text)).into_bytes())
}

/// Rearranges a generated page: keeps the lines of examples apart, and gives the exit codes a section of their own.
fn arranged(name: &str, page: &str) -> String {
    let mut text = String::new();
    let mut lines = page.lines().map(str::trim_end).peekable();
    let mut is_example = false;
    while let Some(line) = lines.next() {
        if line.starts_with("    ") != is_example {
            is_example = !is_example;
            text.push_str(if is_example { ".nf\n" } else { ".fi\n" });
        }
        let code = line.strip_prefix("  ").and_then(|line| line.split_once("  "));
        match (line, code) {
            // The date is empty, since two builds of one version make the same page.
            _ if line.starts_with(".TH ") => {
                let title = name.to_uppercase();
                let version = env!("CARGO_PKG_VERSION");
                text.push_str(&format!(
                    ".TH {title} 1 \"\" \"docker-mirror {version}\" \"User Commands\"\n"
                ));
            }
            (".SH EXTRA", _) if lines.peek() == Some(&"Exit codes:") => {}
            (".SH EXTRA", _) => text.push_str(".SH NOTES\n"),
            ("Exit codes:", _) => text.push_str(".SH EXIT STATUS\n"),
            (_, Some((code, meaning))) if !is_example => text.push_str(&format!(".TP\n{code}\n{meaning}\n")),
            ("", _) => {}
            (".br", _) if text.ends_with("\n.br\n") => {}
            _ => text.push_str(&format!("{line}\n")),
        }
    }
    if name != "docker-mirror" {
        text.push_str(".SH SEE ALSO\n.BR docker\\-mirror (1)\n");
    }
    text
}

fn cannot_write(path: &Path, error: std::io::Error) -> Error {
    Error::new(Kind::Usage, format!("cannot write `{}`", quote(&path))).with_source(error)
}

fn print(text: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(text).and_then(|()| stdout.flush());
    written.err().and_then(output::cannot_write).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use docker_mirror::{IndexMode, PlatformFilter, push::OnExisting};

    use super::*;

    #[test]
    fn offered_values_are_accepted() {
        assert!(ON_EXISTING.iter().all(|value| value.parse::<OnExisting>().is_ok()));
        assert!(INDEX.iter().all(|value| value.parse::<IndexMode>().is_ok()));
        for platform in PLATFORMS {
            assert!(
                PlatformFilter::from_flags(&[(*platform).to_owned()]).is_ok(),
                "{platform}"
            );
        }
    }
}
