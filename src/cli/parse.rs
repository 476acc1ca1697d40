//! The definition of the command line: the flags of [`Cli`], their environment variables, and which flags the short help shows.

use std::collections::BTreeSet;
use std::ffi::OsString;

use clap::builder::BoolishValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, CommandFactory, FromArgMatches};
use docker_mirror::{Error, Kind};

use super::command_line::Cli;
use super::environment::{self, FromVariable, is_set};
use super::values::verbosity;
use super::{generate, output, plugin};

/// Start of the names of this program's environment variables.
pub(super) const VARIABLES: &str = "DOCKER_MIRROR_";

/// Flags that the short help (`-h`) shows; `--help` shows all flags.
const SHORT: [&str; 21] = [
    "allow_partial",
    "bundles",
    "deep",
    "dest",
    "dir",
    "dry_run",
    "exit_code",
    "force",
    "help",
    "html",
    "json",
    "layers",
    "lists",
    "name",
    "only",
    "output",
    "platform",
    "quiet",
    "registry",
    "verbose",
    "version",
];

/// Flags whose variables `login` and the credential files read, and not the parser.
const LOGINS: [&str; 7] = [
    "username",
    "password_stdin",
    "src_username",
    "src_password_stdin",
    "dest_username",
    "dest_password_stdin",
    "auth_file",
];

/// Environment variables that the parser reads.
#[derive(Debug, Clone, Copy)]
enum Variables<'a> {
    /// All but the listed ones.
    Without(&'a [String]),
    None,
}

/// Parses the command line of this process. A flag takes precedence over its variable, and a variable over the default.
///
/// # Errors
/// An error of the parser, including the help text when the user asked for help.
pub(super) fn command_line() -> Result<Cli, clap::Error> {
    let arguments = plugin::arguments();
    let mut ignored = Vec::new();
    loop {
        // A variable that contradicts the command line is ignored.
        match parse(&arguments, Variables::Without(&ignored)) {
            Err(error) if error.kind() == ErrorKind::ArgumentConflict => {
                let contradicted = contradicted_variables(&error, &arguments);
                if contradicted.is_empty() || contradicted.iter().all(|variable| ignored.contains(variable)) {
                    return Err(error);
                }
                ignored.extend(contradicted);
            }
            other => return other,
        }
    }
}

/// Returns the variables behind the flags of a conflict, if the other side of the conflict is on the command line.
fn contradicted_variables(error: &clap::Error, arguments: &[OsString]) -> Vec<String> {
    let words: Vec<String> = arguments
        .iter()
        .filter_map(|word| word.to_str().map(str::to_owned))
        .collect();
    let variables = sides_of_conflict(error).map(|names| {
        let found = names.iter().map(|name| variable_of_refused_value(name, &words));
        found.collect::<Option<Vec<String>>>()
    });
    match variables {
        [Some(variables), None] | [None, Some(variables)] => variables,
        _ => Vec::new(),
    }
}

/// Returns the flags on both sides of a conflict. Of an error about missing flags, the first side has these.
pub(super) fn sides_of_conflict(error: &clap::Error) -> [Vec<String>; 2] {
    [ContextKind::InvalidArg, ContextKind::PriorArg].map(|side| match error.get(side) {
        Some(ContextValue::String(name)) => vec![name.clone()],
        Some(ContextValue::Strings(names)) => names.clone(),
        _ => Vec::new(),
    })
}

/// Returns the variables behind the flags of a conflict.
pub(super) fn variables_in_conflict(error: &clap::Error, arguments: &[String]) -> Vec<String> {
    let names = sides_of_conflict(error).into_iter().flatten();
    names
        .filter_map(|name| variable_of_refused_value(&name, arguments))
        .collect()
}

fn parse(arguments: &[OsString], variables: Variables<'_>) -> Result<Cli, clap::Error> {
    let first = arguments.get(1).map(|word| word.to_str().unwrap_or_default());
    let mut definition = definition(first, variables);
    let matches = definition.try_get_matches_from_mut(arguments)?;
    let cli = Cli::from_arg_matches(&matches)?;
    let from_variables = match matches.subcommand() {
        Some((name, matches)) => definition
            .find_subcommand(name)
            .map(|used| from_variables(used, matches)),
        None => Some(from_variables(&definition, &matches)),
    };
    environment::set_from_variables(from_variables.unwrap_or_default());
    Ok(cli)
}

fn from_variables(definition: &clap::Command, matches: &ArgMatches) -> Vec<FromVariable> {
    let read = definition.get_arguments().filter_map(|arg| {
        let id = arg.get_id().as_str();
        let variable = arg.get_env()?.to_string_lossy().into_owned();
        (matches.value_source(id) == Some(ValueSource::EnvVariable)).then(|| FromVariable {
            flag: format!("--{}", arg.get_long().unwrap_or_default()),
            variable,
            values: matches
                .get_raw(id)
                .into_iter()
                .flatten()
                .map(|value| value.to_string_lossy().into_owned())
                .collect(),
        })
    });
    read.collect()
}

/// Names the variable in an error about the value of a flag, if the value comes from the variable. The error quotes the flag or
/// the value.
pub(super) fn name_variable(error: Error) -> Error {
    let text = error.full();
    let quotes = |word: &str| text.contains(&format!("`{word}`"));
    let about_flag = |from: &&FromVariable| quotes(&from.flag) || text.contains(&format!("`{} ", from.flag));
    let about_value = |from: &&FromVariable| from.values.iter().any(|value| quotes(value));
    let all = environment::from_variables();
    let found = all.iter().find(about_flag).or_else(|| all.iter().find(about_value));
    match found {
        Some(from) if error.kind() == Kind::Usage => error.context(format!("the variable `{}`", from.variable)),
        _ => error,
    }
}

/// Returns the names of all commands that are not hidden.
pub(super) fn commands() -> Vec<String> {
    let all = Cli::command();
    let shown = all.get_subcommands().filter(|command| !command.is_hide_set());
    shown.map(|command| command.get_name().to_owned()).collect()
}

/// Returns the definition of all commands and flags, without environment variables.
pub(super) fn whole() -> clap::Command {
    definition(None, Variables::None)
}

/// Returns the definition in which only the used command reads variables: a variable of another command would count as given.
fn definition(first: Option<&str>, variables: Variables<'_>) -> clap::Command {
    let all = Cli::command().bin_name(plugin::name());
    let names: Vec<String> = all
        .get_subcommands()
        .map(|command| command.get_name().to_owned())
        .collect();
    let used = names.iter().find(|name| Some(name.as_str()) == first).cloned();
    // Commands that are not shown are not completed, since that takes most of the time of a call for help.
    let is_shown = |name: Option<&String>| first.is_none_or(|first| first == "help") || name == used.as_ref();
    let of = |name: Option<&String>| {
        if name == used.as_ref() {
            variables
        } else {
            Variables::None
        }
    };
    let mut all = match is_shown(None) {
        true => all.mut_args(|arg| complete(arg, None, of(None))),
        false => all,
    };
    for name in names.iter().filter(|name| is_shown(Some(name))) {
        all = all.mut_subcommand(name, |command| {
            let more = format!("All flags: docker-mirror {name} --help");
            let command = command.mut_args(|arg| complete(arg, Some(name), of(Some(name))));
            if command.get_after_long_help().is_some() {
                command.after_help(more)
            } else {
                command
            }
        });
    }
    all
}

/// Returns the name of a flag's variable: `DOCKER_MIRROR_ALLOW_PARTIAL` for `--allow-partial`.
fn variable_of(arg: &Arg, command: Option<&str>) -> Option<String> {
    let long = arg
        .get_long()
        .filter(|long| !["help", "version", "password"].contains(long))?;
    Some(variable_name(long.strip_suffix("-stdin").unwrap_or(long), command))
}

/// Returns the name of the variable of a flag that is given without its dashes.
fn variable_name(flag: &str, command: Option<&str>) -> String {
    // `export` reads the files that these commands write: one variable for both would have them overwritten.
    let writes = matches!(
        (command, flag),
        (Some("inspect"), "lock") | (Some("verify" | "import"), "want")
    );
    let prefix = if writes { "DOCKER_MIRROR_WRITE" } else { "DOCKER_MIRROR" };
    format!("{prefix}_{}", flag.replace('-', "_").to_uppercase())
}

/// Returns the environment variables of all flags, and the others that begin with [`VARIABLES`].
pub(super) fn variables() -> BTreeSet<String> {
    let all = whole();
    let of = |command: &clap::Command, name: Option<&str>| -> Vec<String> {
        command
            .get_arguments()
            .filter_map(|arg| variable_of(arg, name))
            .collect()
    };
    let others = [generate::VARIABLE, output::LOG].map(str::to_owned);
    let commands = all.get_subcommands();
    commands
        .flat_map(|command| of(command, Some(command.get_name())))
        .chain(of(&all, None))
        .chain(others)
        .collect()
}

/// Gives a flag its environment variable, its help heading and its place in the short help.
fn complete(arg: Arg, command: Option<&str>, variables: Variables<'_>) -> Arg {
    let id = arg.get_id().to_string();
    let arg = arg.hide_short_help(!SHORT.contains(&id.as_str()));
    let Some(variable) = variable_of(&arg, command) else {
        return arg;
    };
    let help = arg
        .get_long_help()
        .or(arg.get_help())
        .map(ToString::to_string)
        .unwrap_or_default();
    let several = match arg.get_action() {
        ArgAction::Append => ", values separated by commas",
        _ => "",
    };
    let arg = arg
        .long_help(format!("{help} [env: {variable}{several}]"))
        .hide_env(true);
    let arg = match id.as_str() {
        "color" | "debug" => arg.help_heading("Messages"),
        "gzip" | "zstd" | "no_docker_manifest" | "read_ahead" => arg.help_heading("Format of the bundle"),
        _ => arg,
    };
    let arg = generate::completed(arg);
    let counts = match variables {
        Variables::Without(ignored) => !ignored.contains(&variable),
        Variables::None => false,
    };
    if !counts || LOGINS.contains(&id.as_str()) || !is_set(&variable) {
        return arg;
    }
    let arg = arg.env(variable);
    match arg.get_action() {
        ArgAction::SetTrue => arg.value_parser(BoolishValueParser::new()),
        ArgAction::Append => arg.value_delimiter(','),
        ArgAction::Count => arg.value_parser(verbosity),
        _ => arg,
    }
}

/// Returns the variable that a refused value came from, or `None` if the command line has the flag.
pub(super) fn variable_of_refused_value(flag: &str, arguments: &[String]) -> Option<String> {
    let flag = flag.split([' ', '=', '.']).next().unwrap_or_default();
    let given = |argument: &String| argument == flag || argument.starts_with(&format!("{flag}="));
    let command = arguments.iter().find(|argument| commands().contains(argument));
    let variable = variable_name(flag.strip_prefix("--")?, command.map(String::as_str));
    (is_set(&variable) && !arguments.iter().any(given)).then_some(variable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_has_a_variable_that_its_help_names() {
        let all = whole();
        let commands = std::iter::once(&all).chain(all.get_subcommands());
        for arg in commands.flat_map(clap::Command::get_arguments) {
            let Some(long) = arg.get_long().filter(|long| *long != "help" && *long != "version") else {
                continue;
            };
            let help = arg.get_long_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                long == "password" || help.contains("[env: DOCKER_MIRROR_"),
                "--{long}: {help}"
            );
        }
        all.debug_assert();
    }
}
