//! Parses a line of a list: a name or a pattern of tags, with optional platforms and a destination.

use super::entry::{Entry, Names, Rename};
use super::line_hint;
use super::other_address;
use super::tags::{TagPattern, newest};

use crate::error::{Error, Kind, Result};
use crate::image::platform::PlatformFilter;
use crate::image::reference::{DOCKER_HUB, Reference};
use crate::text::quote;

/// Maximum length of a line in bytes.
const MAX_LINE: usize = 4096;

/// Reads one line. Returns `None` for an empty line and for a comment.
///
/// # Errors
/// [`Kind::Usage`] if the line is not valid.
pub(super) fn parse(line: &str) -> Result<Option<Entry>> {
    parse_plain(line).map_err(|error| match line_hint::hint(line) {
        Some(hint) if line.len() <= MAX_LINE => error.with_hint(hint),
        _ => error,
    })
}

fn parse_plain(line: &str) -> Result<Option<Entry>> {
    if line.len() > MAX_LINE {
        return Err(
            Error::new(Kind::Usage, format!("the line has more than {MAX_LINE} bytes"))
                .with_hint("write one image on each line"),
        );
    }
    let line = without_comment(line).trim();
    if line.is_empty() {
        return Ok(None);
    }
    if line_hint::is_mapping(line) {
        let what = format!("`{}` is a key with a value, and not the name of an image", quote(line));
        return Err(Error::new(Kind::Usage, what));
    }
    let (excluded, line) = match line.strip_prefix('!') {
        Some(rest) => (true, rest.trim_start()),
        None => (false, line),
    };
    let (name, destination) = match line.split_once("=>") {
        Some((name, destination)) => (name, Some(destination)),
        None => (line, None),
    };
    let mut platforms = Vec::new();
    let name = take_options(name, &mut platforms)?;
    let destination = destination.map(|text| take_options(text, &mut platforms)).transpose()?;
    let entry = named(&name, excluded)?;
    let destination = destination.map(|text| rename(&text, &entry.names)).transpose()?;
    if excluded && (destination.is_some() || !platforms.is_empty()) {
        return Err(Error::new(
            Kind::Usage,
            "a line that leaves images out has neither a destination nor a platform",
        ));
    }
    let platforms = match platforms.as_slice() {
        [] => None,
        flags => Some(PlatformFilter::from_flags(flags)?),
    };
    Ok(Some(Entry {
        platforms,
        destination,
        ..entry
    }))
}

/// Parses a name or a pattern into an entry without options.
pub(super) fn named(text: &str, excluded: bool) -> Result<Entry> {
    Ok(Entry {
        origin: None,
        text: text.to_owned(),
        names: names(text, excluded)?,
        excluded,
        platforms: None,
        destination: None,
    })
}

/// Returns a line without its comment, which begins with a `#` at the start of the line or after white space.
fn without_comment(line: &str) -> &str {
    let begins = |(at, _): &(usize, &str)| *at == 0 || line[..*at].ends_with(char::is_whitespace);
    match line.match_indices('#').find(begins) {
        Some((at, _)) => &line[..at],
        None => line,
    }
}

/// Moves the options into `platforms`, and returns the other words with single spaces between them.
fn take_options(text: &str, platforms: &mut Vec<String>) -> Result<String> {
    let mut left: Vec<&str> = Vec::new();
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        if word == "--platform" {
            let value = words.next().ok_or_else(|| {
                Error::new(Kind::Usage, "`--platform` has no value").with_hint("write `--platform linux/arm64`")
            })?;
            platforms.push(value.to_owned());
        } else if let Some(value) = word.strip_prefix("--platform=") {
            platforms.push(value.to_owned());
        } else if word.starts_with("--") {
            let what = format!("`{}` is no option of a line", quote(word));
            return Err(Error::new(Kind::Usage, what).with_hint("the option of a line is `--platform OS/ARCH`"));
        } else {
            left.push(word);
        }
    }
    Ok(left.join(" "))
}

/// Parses a name or a pattern. An excluded name without a tag stands for all tags of the repository.
fn names(text: &str, excluded: bool) -> Result<Names> {
    if let Some(rest) = text.strip_prefix("latest ")
        && let Some((count, rest)) = rest.split_once(" of ")
    {
        let count = newest(count).map_err(|why| Error::new(Kind::Usage, format!("`{}`: {why}", quote(text))))?;
        return match pattern(rest.trim())? {
            Some((repository, tags)) => Ok(Names::Tags(repository, tags.newest(count))),
            None if has_tag(rest) => Err(Error::new(
                Kind::Usage,
                format!("`{}` names one tag, of which there is nothing to choose", quote(rest)),
            )
            .with_hint("name no tag, or a pattern: `latest 3 of acme/app:1.*`")),
            None => Ok(Names::Tags(single(rest)?, TagPattern::all().newest(count))),
        };
    }
    match pattern(text)? {
        Some((repository, tags)) => Ok(Names::Tags(repository, tags)),
        None if excluded && !has_tag(text) => Ok(Names::Tags(single(text)?, TagPattern::all())),
        None => Ok(Names::One(single(text)?)),
    }
}

fn single(text: &str) -> Result<Reference> {
    if text.is_empty() {
        return Err(Error::new(Kind::Usage, "no image is named"));
    }
    if text.contains(' ') {
        return Err(Error::new(
            Kind::Usage,
            format!("`{}` is not the name of an image: there is a space in it", quote(text)),
        )
        .with_hint(
            "each image is an argument of its own, or has a line of its own in a list; a comment begins with `#`",
        ));
    }
    let hex = text.strip_prefix("sha256:").unwrap_or_default();
    if hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let what = format!("`{}` is a digest without a name", quote(text));
        return Err(Error::new(Kind::Usage, what).with_hint("write `NAME@sha256:…`"));
    }
    match other_address::refuse(text) {
        Some(error) => Err(error),
        None => text.parse(),
    }
}

/// Returns the repository and the pattern after the colon; `None` if the text has no pattern.
fn pattern(text: &str) -> Result<Option<(Reference, TagPattern)>> {
    let Some((name, tag)) = split_tag(text).filter(|(_, tag)| TagPattern::is_pattern(tag)) else {
        return Ok(None);
    };
    Ok(Some((single(name)?, TagPattern::parse(tag.trim())?)))
}

/// Splits a name from its tag or pattern. The text after an `@` is a digest, and not a tag.
fn split_tag(text: &str) -> Option<(&str, &str)> {
    // The path ends before the first character that only a pattern can have, so that later characters are not taken for
    // a path separator or a tag separator.
    let path = text
        .find([' ', '<', '>', '~', '^', '*', '?', '{'])
        .map_or(text, |end| &text[..end]);
    let slash = path.rfind('/').map_or(0, |at| at + 1);
    let colon = slash + text[slash..].find(':')?;
    (!text[..colon].contains('@')).then(|| (&text[..colon], &text[colon + 1..]))
}

fn has_tag(text: &str) -> bool {
    text.contains('@') || split_tag(text).is_some()
}

/// Parses `PATH[:TAG]` below the destination of the run.
fn rename(text: &str, names: &Names) -> Result<Rename> {
    let invalid = |why: &str| {
        Error::new(Kind::Usage, format!("invalid destination `{}`: {why}", quote(text)))
            .with_hint("write a path below `-d` and, if it is another one, the tag: `nginx:1.27 => web/front:stable`")
    };
    if text.is_empty() {
        return Err(invalid("there is nothing after `=>`"));
    }
    if text.contains("://") {
        return Err(invalid("it has a scheme"));
    }
    if text.contains(['@', ' ']) {
        return Err(invalid("it is a path, and a tag at most"));
    }
    let (path, tag) = match text.trim_matches('/').rsplit_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (text.trim_matches('/'), None),
    };
    if tag.is_some() && matches!(names, Names::Tags(..)) {
        return Err(invalid("images of a pattern keep their tags").with_hint("omit the tag of the destination"));
    }
    // This checks the path alone; the full name is checked again together with the destination.
    Reference::new(DOCKER_HUB, path, tag, None)
        .map_err(|e| invalid("it breaks the grammar of names").with_source(e))?;
    Ok(Rename {
        path: path.to_owned(),
        tag: tag.map(str::to_owned),
    })
}
