//! Hints for command lines that the parser refuses: the command that an option belongs to, or the intended command.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use docker_mirror::{Error, quote};

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
        ErrorKind::ArgumentConflict => {
            let variables = parse::variables_in_conflict(error, arguments);
            let names: Vec<String> = variables.iter().map(|name| format!("`{name}`")).collect();
            (!names.is_empty()).then(|| format!("the values come from the variables {}", names.join(" and ")))
        }
        ErrorKind::UnknownArgument => meant_command(arguments).or_else(|| owner(error, arguments)),
        ErrorKind::MissingRequiredArgument if command(arguments).is_none() => {
            let first = arguments.first()?;
            meant_command(arguments)
                .or_else(|| login(first))
                .or_else(|| no_command(first))
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
    let near = resembled_command(first)?;
    Some(format!(
        "there is no command `{}`; did you mean `docker-mirror {near}`?",
        quote(first)
    ))
}

/// Returns the command that a word resembles without being one. Short names are told apart by one letter.
pub(super) fn resembled_command(word: &str) -> Option<String> {
    let names = parse::commands();
    if names.iter().any(|name| name == word) {
        return None;
    }
    let word = word.to_lowercase();
    let near = names.into_iter().map(|name| (distance(&word, &name), name));
    let near = near.filter(|(distance, name)| *distance <= if name.len() > 4 { 2 } else { 1 });
    near.min().map(|(_, name)| name)
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
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let option = option.split('=').next().unwrap_or_default();
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
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(32).collect(), b.chars().collect());
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
