//! One line of a list: a name or a pattern of tags, platforms, a destination.

use super::entry::{Entry, Names, Rename};
use super::tags::{TagPattern, newest};

use crate::error::{Error, Kind, Result};
use crate::image::platform::PlatformFilter;
use crate::image::reference::{DOCKER_HUB, Reference};
use crate::text::quote;

/// Maximum length of a line in bytes.
const MAX_LINE: usize = 4096;

/// Reads one line. `None` if nothing stands on it but space and a comment.
///
/// # Errors
/// [`Kind::Usage`] if it names no image.
pub(super) fn parse(line: &str) -> Result<Option<Entry>> {
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

/// What a name or a pattern names, without options.
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

/// A line up to its comment: a `#` at its start or behind a space.
fn without_comment(line: &str) -> &str {
    let begins = |(at, _): &(usize, &str)| *at == 0 || line[..*at].ends_with(char::is_whitespace);
    match line.match_indices('#').find(begins) {
        Some((at, _)) => &line[..at],
        None => line,
    }
}

/// Takes out the options; what is left has one space between its words.
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

/// What a name or a pattern means. A name without a tag that is left out means all its tags.
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
        .with_hint("write one image on each line; a comment begins with `#`"));
    }
    text.parse()
}

/// The repository and the pattern behind its last colon, if that is a pattern.
fn pattern(text: &str) -> Result<Option<(Reference, TagPattern)>> {
    let Some((name, tag)) = split_tag(text).filter(|(_, tag)| TagPattern::is_pattern(tag)) else {
        return Ok(None);
    };
    Ok(Some((single(name)?, TagPattern::parse(tag.trim())?)))
}

/// The name before the tag, and the tag. What stands behind an `@` is a digest, and no pattern.
fn split_tag(text: &str) -> Option<(&str, &str)> {
    // A pattern may hold spaces and `/` is in no tag: the path ends before the first character that no path has.
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

/// `PATH[:TAG]` below the destination of the run.
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
    // The path is checked by itself; with the destination it is checked once more.
    Reference::new(DOCKER_HUB, path, tag, None)
        .map_err(|e| invalid("it breaks the grammar of names").with_source(e))?;
    Ok(Rename {
        path: path.to_owned(),
        tag: tag.map(str::to_owned),
    })
}
