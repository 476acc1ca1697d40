//! Hints for command lines that the parser refuses: the command that an option belongs to, or the intended command.

use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use docker_mirror::{Error, quote};

use super::bundles::{bundle_hint, is_archive};
use super::parse;

/// Returns a hint about a refused command line. `arguments` are the arguments after the program's name.
pub(super) fn hint(error: &clap::Error, arguments: &[String]) -> Option<String> {
    match error.kind() {
        ErrorKind::ValueValidation | ErrorKind::InvalidValue if refused_variable(error, arguments).is_some() => {
            refused_variable(error, arguments)
        }
        ErrorKind::ValueValidation => {
            let source = std::error::Error::source(error)?;
            source.downcast_ref::<Error>()?.hint().map(str::to_owned)
        }
        ErrorKind::MissingRequiredArgument | ErrorKind::ArgumentConflict if side_password(arguments).is_some() => {
            side_password(arguments).map(str::to_owned)
        }
        ErrorKind::ArgumentConflict => {
            let variables = parse::variables_in_conflict(error, arguments);
            let names: Vec<String> = variables.iter().map(|name| format!("`{name}`")).collect();
            (!names.is_empty()).then(|| format!("the values come from the variables {}", names.join(" and ")))
        }
        ErrorKind::UnknownArgument => meant_command(arguments)
            .or_else(|| owner(error, arguments))
            .or_else(|| foreign_flag(error)),
        ErrorKind::MissingRequiredArgument if half_of_certificate(error, arguments).is_some() => {
            half_of_certificate(error, arguments)
        }
        ErrorKind::MissingRequiredArgument if command(arguments).is_none() => {
            let first = arguments.first()?;
            meant_command(arguments)
                .or_else(|| login(first))
                .or_else(|| no_command(first))
        }
        ErrorKind::MissingRequiredArgument if command(arguments).is_some_and(|name| name == "export") => {
            let [missing, _] = parse::sides_of_conflict(error);
            let is_image = missing.iter().any(|name| name.starts_with("<IMAGE>"));
            is_image.then(|| "a list of images in a file is given with `--images FILE`".to_owned())
        }
        ErrorKind::MissingRequiredArgument if command(arguments).is_some_and(|name| name == "import") => {
            let last = arguments.last().filter(|_| arguments.len() > 2)?;
            let host = last.split('/').next().unwrap_or_default();
            let is_destination = host.contains(['.', ':']) && !host.starts_with('.') && !last.ends_with(".tar");
            (is_destination && !Path::new(last).exists())
                .then(|| format!("if `{0}` is the destination, write `-d {0}`", quote(last)))
        }
        ErrorKind::InvalidSubcommand => Some(format!(
            "the commands are {}; `docker-mirror --help` is about the mirror in one step",
            commands()
        )),
        _ => None,
    }
}

/// Returns the commands about images as text, such as `` `export`, `import` and `limits` ``.
fn commands() -> String {
    let names = parse::commands();
    // Only commands about images help a user who misspelt a command.
    let names = names
        .iter()
        .filter(|name| !["completions", "man"].contains(&name.as_str()));
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    match names.split_last() {
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => String::new(),
    }
}

/// Returns the command of a command line, if its first word is a command.
fn command(arguments: &[String]) -> Option<&String> {
    arguments.first().filter(|first| parse::commands().contains(first))
}

/// Returns a hint with the command that a misspelt first word resembles.
fn meant_command(arguments: &[String]) -> Option<String> {
    let first = arguments.first().filter(|first| !first.starts_with('-'))?;
    if is_archive(Path::new(first)) {
        return Some(bundle_hint(Path::new(first)));
    }
    let near = resembled_command(first)?;
    Some(format!(
        "there is no command `{}`; did you mean `docker-mirror {near}`?",
        quote(first)
    ))
}

/// Commands of other programs, and the command of this program for each.
const FOREIGN_COMMANDS: [(&[&str], &str); 6] = [
    (&["list", "ls", "info", "show"], "inspect"),
    (&["push", "load"], "import"),
    (&["pull", "save"], "export"),
    (&["check", "validate"], "verify"),
    (&["copy", "cp", "sync", "mirror"], "-d REGISTRY[/PREFIX] IMAGE..."),
    (&["version"], "--version"),
];

/// Flags of other programs, and how this program is given the same.
const FOREIGN_FLAGS: [(&[&str], &str); 10] = [
    (
        &["--to", "--destination", "--target", "--registry"],
        "`-d REGISTRY[/PREFIX]`",
    ),
    (&["--all", "--all-platforms", "--multi-arch"], "`--platform all`"),
    (
        &["--arch", "--os", "--override-arch", "--override-os"],
        "`--platform OS/ARCH[/VARIANT]`",
    ),
    (
        &[
            "--tls-verify",
            "--src-tls-verify",
            "--dest-tls-verify",
            "--skip-tls-verify",
        ],
        "`--insecure` (a certificate that cannot be checked) or `--plain-http` (no TLS)",
    ),
    (&["--file", "--list", "--images-file"], "`--images FILE`"),
    (
        &["--creds", "--user", "--password", "-u", "-p"],
        "`--username NAME --password-stdin`, or the login of docker or podman",
    ),
    (
        &["--src-creds", "--dest-creds"],
        "`--src-username NAME` or `--dest-username NAME`, or the login of docker or podman",
    ),
    (&["--all-tags", "-a"], "a pattern of tags, such as `'NAME:*'`"),
    (&["--parallel", "--concurrency", "--workers"], "`--jobs N`"),
    (&["--authfile"], "`--auth-file FILE`"),
];

/// Returns a hint for an option that other programs have under another name.
fn foreign_flag(error: &clap::Error) -> Option<String> {
    let option = refused_option(error)?;
    let (_, here) = FOREIGN_FLAGS.iter().find(|(names, _)| names.contains(&option))?;
    Some(format!("`{option}` of other programs is {here} here"))
}

/// Returns the option that the parser does not know, without its value.
fn refused_option(error: &clap::Error) -> Option<&str> {
    match error.get(ContextKind::InvalidArg)? {
        ContextValue::String(option) => option.split('=').next(),
        _ => None,
    }
}

/// Returns whether the option that the parser suggests is a likely meaning of the unknown one.
pub(super) fn is_near_suggestion(error: &clap::Error) -> bool {
    match (refused_option(error), error.get(ContextKind::SuggestedArg)) {
        (Some(option), Some(ContextValue::String(suggested))) => {
            let suggested = suggested.split([' ', '=']).next().unwrap_or_default();
            distance(option, suggested) <= 2 && option.len() > 5
        }
        _ => false,
    }
}

/// Returns the command that a word resembles without being one, or that stands for a command of other programs. Short names are
/// told apart by one letter.
pub(super) fn resembled_command(word: &str) -> Option<String> {
    let names = parse::commands();
    if names.iter().any(|name| name == word) {
        return None;
    }
    let word = word.to_lowercase();
    if let Some((_, here)) = FOREIGN_COMMANDS
        .iter()
        .find(|(names, _)| names.contains(&word.as_str()))
    {
        return Some((*here).to_owned());
    }
    let near = names.into_iter().map(|name| (distance(&word, &name), name));
    let near = near.filter(|(distance, name)| *distance <= if name.len() > 4 { 2 } else { 1 });
    near.min().map(|(_, name)| name)
}

/// Returns a hint for a password that is given for the wrong side of a mirror in one step, or for both sides at once.
fn side_password(arguments: &[String]) -> Option<&'static str> {
    let has = |flag: &str| {
        arguments
            .iter()
            .any(|argument| argument.split('=').next() == Some(flag))
    };
    match () {
        () if has("--src-password-stdin") && has("--dest-password-stdin") => Some(
            "standard input has one password: give the other one in the variable `DOCKER_MIRROR_SRC_PASSWORD` or \
             `DOCKER_MIRROR_DEST_PASSWORD`, or log in with `docker login` or `podman login`",
        ),
        () if has("--username") || !has("--password-stdin") => None,
        () if has("--dest-username") => Some("the password of `--dest-username` is given with `--dest-password-stdin`"),
        () if has("--src-username") => Some("the password of `--src-username` is given with `--src-password-stdin`"),
        () => None,
    }
}

/// Returns a hint for a certificate without its key, or a key without its certificate, if it comes from a variable.
fn half_of_certificate(error: &clap::Error, arguments: &[String]) -> Option<String> {
    let [missing, _] = parse::sides_of_conflict(error);
    missing.iter().find_map(|flag| {
        let flag = flag.split(' ').next().unwrap_or_default();
        let key = flag.strip_suffix("cert").map(|side| format!("{side}key"));
        let given = key.or_else(|| Some(format!("{}cert", flag.strip_suffix("key")?)))?;
        let variable = parse::variable_of_refused_value(&given, arguments)?;
        Some(format!(
            "`{given}` comes from the variable `{variable}`, and needs `{flag}`"
        ))
    })
}

/// Returns a hint that names the environment variable of a refused value.
fn refused_variable(error: &clap::Error, arguments: &[String]) -> Option<String> {
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let variable = parse::variable_of_refused_value(flag, arguments)?;
    Some(format!("the value comes from the variable `{variable}`"))
}

/// Returns a hint for `login` and `logout`, which are commands of docker and podman.
pub(super) fn login(first: &str) -> Option<String> {
    ["login", "logout"].contains(&first).then(|| {
        format!(
            "docker-mirror has no `{first}` of its own and uses the logins of docker and podman: `docker {first} REGISTRY` or \
             `podman {first} REGISTRY`"
        )
    })
}

/// Returns a hint for a first word that is not a command, in a command line without a destination.
fn no_command(first: &str) -> Option<String> {
    let shown = quote(&first);
    (!first.starts_with('-')).then(|| {
        format!(
            "the commands are {}; `{shown}` is none of them and is taken for an image, which needs a destination \
             (`-d REGISTRY[/PREFIX]`)",
            commands()
        )
    })
}

/// Returns a hint with the commands that have an option which the used command lacks.
fn owner(error: &clap::Error, arguments: &[String]) -> Option<String> {
    let option = refused_option(error)?;
    let knows = |command: &clap::Command| {
        command.get_arguments().any(|argument| match option.strip_prefix("--") {
            Some(long) => argument.get_long() == Some(long),
            None => argument.get_short().is_some_and(|short| option == format!("-{short}")),
        })
    };
    let all = parse::whole();
    let owners = all.get_subcommands().filter(|command| knows(command));
    let mut owners: Vec<String> = owners
        .map(|owner| format!("`docker-mirror {}`", owner.get_name()))
        .collect();
    if command(arguments).is_some() && knows(&all) {
        owners.push("the mirror in one step (`docker-mirror -d REGISTRY IMAGE...`)".to_owned());
    }
    let last = owners.pop()?;
    let others = owners.join(", ");
    Some(match others.as_str() {
        "" => format!("`{option}` is an option of {last}"),
        others => format!("`{option}` is an option of {others} and {last}"),
    })
}

/// Returns the edit distance of two words: the number of letters to change, add, remove or swap with the next letter.
pub(super) fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut least = (rows[i][j] + usize::from(x != y))
                .min(rows[i][j + 1] + 1)
                .min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_are_nearly_commands_are_near() {
        for (word, near) in [("exprot", true), ("imports", true), ("limit", true), ("nginx", false)] {
            assert_eq!(
                parse::commands().iter().any(|name| distance(word, name) <= 2),
                near,
                "{word}"
            );
        }
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
    }
}
