//! Wrong command lines that the parser alone does not explain well.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use docker_mirror::{Error, Kind, quote};

use super::command_line::{Cli, Command};
use super::environment::{is_set, variables_with};
use super::report::Reporting;
use super::{output, parse, plugin, wrong_flags};

/// Prints the parser's error with a hint, or the help that the user asked for. Returns the exit code.
pub(super) fn not_parsed(mut error: clap::Error) -> ExitCode {
    hide_login(&mut error);
    let arguments: Vec<String> = plugin::arguments()
        .into_iter()
        .skip(1)
        .filter_map(|argument| argument.into_string().ok())
        .collect();
    let wants_help = arguments == ["help", "mirror"];
    if error.use_stderr() && !wants_help {
        quote_arguments(&mut error);
        // The parser suggests `-- OPTION`, which would make the option the name of an image.
        error.remove(ContextKind::Suggested);
        let behind = command_in(arguments.iter().skip(1));
        let hint = match behind {
            Some(command) if arguments[0].starts_with('-') => Some(commands_stand_first(command)),
            _ => wrong_flags::hint(&error, &arguments),
        };
        // The parser suggests the nearest option at any distance, also where the hint names the right one.
        if hint.is_some() || !wrong_flags::is_near_suggestion(&error) {
            error.remove(ContextKind::SuggestedArg);
        }
        let text = error.render().to_string();
        warn_of_misspelt_variables();
        text.lines().for_each(output::say);
        if let Some(hint) = &hint {
            output::say(format!("hint: {hint}"));
        }
        return refused(&arguments, &text, hint);
    }
    let printed = match wants_help {
        true => parse::whole().print_long_help(),
        false => error.print(),
    };
    match printed.err().and_then(output::cannot_write) {
        None => ExitCode::SUCCESS,
        Some(error) => {
            output::error(&error);
            ExitCode::from(1)
        }
    }
}

/// Writes the document of a run whose command line was refused. `text` is the parser's message.
fn refused(arguments: &[String], text: &str, hint: Option<String>) -> ExitCode {
    // The first paragraph is the error; the usage follows after an empty line.
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let message = lines.collect::<Vec<_>>().join(" ");
    let error = Error::new(
        Kind::Usage,
        message.strip_prefix("error: ").unwrap_or(&message).to_owned(),
    );
    let error = hint.into_iter().fold(error, Error::with_hint);
    let command = command_in(arguments.first()).map_or("mirror", String::as_str);
    // These commands have no report.
    if ["completions", "help", "man"].contains(&command) {
        return ExitCode::from(2);
    }
    Reporting::from_refused(arguments).end(command, 2, &error)
}

/// Returns the first of these words that is a command.
fn command_in<'a>(words: impl IntoIterator<Item = &'a String>) -> Option<&'a String> {
    let commands = parse::commands();
    words
        .into_iter()
        .find(|word| *word == "help" || commands.contains(word))
}

fn commands_stand_first(command: &str) -> String {
    format!(
        "to run the command, write `docker-mirror {command} …` with all options behind it; the image of this name is \
         `library/{command}`"
    )
}

/// Returns an error if a command follows an option: the parser would take the command for the name of an image.
pub(super) fn command_among_images(cli: &Cli) -> Option<Error> {
    if cli.command.is_some() {
        return None;
    }
    let command = command_in(&cli.mirror.images.arguments)?;
    Some(
        Error::new(
            Kind::Usage,
            format!("`{command}` is a command and must come before any option"),
        )
        .with_hint(commands_stand_first(command)),
    )
}

/// Warns about environment variables whose names are nearly those of a flag's variable. Variables with other names may belong to
/// other programs: Kubernetes sets `DOCKER_MIRROR_PORT` for a service `docker-mirror`.
pub(super) fn warn_of_misspelt_variables() {
    let set = variables_with(parse::VARIABLES);
    // The definition of all commands takes time.
    if set.is_empty() {
        return;
    }
    let known = parse::variables();
    let is_pair = |name: &String| {
        let pairs = ["DOCKER_MIRROR_USERNAME_", "DOCKER_MIRROR_PASSWORD_"];
        pairs.iter().any(|pair| name.starts_with(pair))
    };
    for name in set
        .iter()
        .filter(|name| is_set(name) && !known.contains(*name) && !is_pair(name))
    {
        let near = known.iter().map(|known| (wrong_flags::distance(name, known), known));
        // A short name has a near one by chance.
        let most = (name.len() - parse::VARIABLES.len()).div_ceil(4).min(2);
        if let Some((_, near)) = near.min().filter(|(distance, _)| *distance <= most) {
            output::say(format!(
                "warning: the variable `{}` has no meaning and is not used; did you mean `{near}`?",
                quote(name)
            ));
        }
    }
}

/// Returns an error if a bundle or list and a password are both read from standard input.
pub(super) fn two_readers(cli: &Cli) -> Option<Error> {
    let (files, shared, what): (&[PathBuf], _, _) = match &cli.command {
        None => (&cli.mirror.images.lists, &cli.mirror.shared, "list"),
        Some(Command::Export(export)) => (&export.images.lists, &export.shared, "list"),
        Some(Command::Import(import)) => (&import.bundles, &import.shared, "bundle"),
        Some(_) => return None,
    };
    let file = files.iter().find(|path| is_stdin(path))?;
    let password = shared.reads_password() || (cli.command.is_none() && cli.mirror.reads_password());
    password.then(|| {
        let both = format!("`{}` and `--password-stdin` both read standard input", quote(&file));
        Error::new(Kind::Usage, both).with_hint(format!(
            "give the password in the variable `DOCKER_MIRROR_PASSWORD`, log in with `docker login` or `podman login`, or save \
             the {what} to a file first"
        ))
    })
}

/// Returns an error if a command would write one file twice, or write over a file that it reads.
pub(super) fn file_with_two_purposes(cli: &Cli) -> Option<Error> {
    let checked = match cli.command.as_ref()? {
        Command::Export(arguments) => arguments.check_files(),
        Command::Import(arguments) => arguments.check_files(),
        Command::Inspect(arguments) => arguments.check_files(),
        Command::Verify(arguments) => arguments.check_files(),
        _ => Ok(()),
    };
    checked.err()
}

/// Returns an error if the first image of a mirror is the misspelt name of a command. Of such an image, the tag has to be given.
pub(super) fn misspelt_command(cli: &Cli) -> Option<Error> {
    let first = match &cli.command {
        None => cli.mirror.images.arguments.first()?,
        Some(_) => return None,
    };
    if first.contains(['/', ':', '@', '*', '!', ' ']) {
        return None;
    }
    let shown = quote(first);
    let error = match wrong_flags::login(first) {
        Some(hint) => Error::new(Kind::Usage, format!("`{shown}` is no command of docker-mirror")).with_hint(hint),
        None => {
            let near = wrong_flags::resembled_command(first)?;
            let what = format!("there is no command `{shown}`; did you mean `docker-mirror {near}`?");
            Error::new(Kind::Usage, what).with_hint(format!("an image of this name is written `library/{shown}`"))
        }
    };
    Some(error)
}

/// Returns whether a path is one of the names of standard input.
fn is_stdin(path: &Path) -> bool {
    ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"]
        .iter()
        .any(|name| path == Path::new(name))
}

/// Removes the text before an `@` from the argument that the parser quotes, since the text may be a password.
fn hide_login(error: &mut clap::Error) {
    if let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue)
        && let Some((_, rest)) = value.rsplit_once('@')
    {
        let shown = format!("…@{rest}");
        error.insert(ContextKind::InvalidValue, ContextValue::String(shown));
    }
}

/// Escapes the arguments that the parser quotes, so that a line break in an argument cannot forge a line of output.
fn quote_arguments(error: &mut clap::Error) {
    let quoted = |text: &str| quote(text).to_string();
    let context: Vec<_> = error.context().map(|(kind, value)| (kind, value.clone())).collect();
    for (kind, value) in context {
        let value = match value {
            ContextValue::String(text) => ContextValue::String(quoted(&text)),
            ContextValue::Strings(texts) => ContextValue::Strings(texts.iter().map(|text| quoted(text)).collect()),
            ContextValue::StyledStrs(texts) => {
                ContextValue::StyledStrs(texts.iter().map(|text| quoted(&text.to_string()).into()).collect())
            }
            // The usage is the parser's own text of several lines, and needs no escaping.
            _ => continue,
        };
        error.insert(kind, value);
    }
}
