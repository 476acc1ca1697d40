//! The terminal: its presence, width and colours, and the redrawn lines at its bottom.

use std::borrow::Cow;
use std::io::{IsTerminal, stderr};
use std::sync::atomic::{AtomicBool, Ordering};

use clap::ValueEnum;

use super::environment::{is_set, variable};

/// Assumed number of columns of a terminal that does not report its width.
const COLUMNS: usize = 80;

/// Whether messages have colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Color {
    /// On a terminal, unless `NO_COLOR` or `CI` is set or `TERM` is `dumb`.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

static COLORED: AtomicBool = AtomicBool::new(false);

/// Returns whether standard error is a terminal that can redraw lines. In a CI job, it counts as a log that keeps every line.
pub(super) fn is_animated() -> bool {
    stderr().is_terminal() && !is_ci() && variable("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

fn is_ci() -> bool {
    is_set("CI") && variable("CI").is_some_and(|value| value != "false" && value != "0")
}

/// Sets whether messages have colours from now on.
pub(super) fn choose_color(color: Color) {
    let colored = match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => is_animated() && !is_set("NO_COLOR"),
    };
    COLORED.store(colored, Ordering::Relaxed);
}

/// Returns the current number of columns of the terminal.
pub(super) fn columns() -> usize {
    match rustix::termios::tcgetwinsize(stderr()) {
        Ok(size) if size.ws_col > 0 => usize::from(size.ws_col),
        _ => COLUMNS,
    }
}

/// Colours the first word of a line if it is `error:`, `warning:`, `hint:` or `note:`.
pub(super) fn paint(line: &str) -> Cow<'_, str> {
    const WORDS: [(&str, &str); 4] = [
        ("error:", "1;31"),
        ("warning:", "1;33"),
        ("hint:", "1;36"),
        ("note:", "1;32"),
    ];
    if !COLORED.load(Ordering::Relaxed) {
        return line.into();
    }
    let text = line.trim_start();
    match WORDS.iter().find(|(word, _)| text.starts_with(word)) {
        None => line.into(),
        Some((word, color)) => {
            let indent = &line[..line.len() - text.len()];
            format!("{indent}\x1b[{color}m{word}\x1b[0m{}", &text[word.len()..]).into()
        }
    }
}

/// Colours the bar in a progress line.
fn paint_bar(line: &str) -> String {
    let (Some(begin), Some(end)) = (line.find(['━', '─']), line.rfind(['━', '─'])) else {
        return line.to_owned();
    };
    if !COLORED.load(Ordering::Relaxed) {
        return line.to_owned();
    }
    let end = end + '─'.len_utf8();
    let middle = line[begin..end].find('─').map_or(end, |at| begin + at);
    format!(
        "{}\x1b[32m{}\x1b[0m\x1b[2m{}\x1b[0m{}",
        &line[..begin],
        &line[begin..middle],
        &line[middle..end],
        &line[end..]
    )
}

/// The lines currently drawn at the bottom of the terminal. The cursor is at the end of the last line.
#[derive(Debug, Default)]
pub(super) struct Live {
    lines: Vec<String>,
    columns: usize,
}

impl Live {
    /// Returns the text that replaces the drawn lines with new `lines`; an empty text if nothing changes. The text overwrites
    /// lines instead of erasing them first, which would flicker.
    pub(super) fn draw(&mut self, lines: Vec<String>, columns: usize) -> String {
        if lines == self.lines && columns == self.columns {
            return String::new();
        }
        let mut text = self.to_top(columns);
        for (number, line) in lines.iter().enumerate() {
            if number > 0 {
                text.push_str("\r\n");
            }
            text.push_str(&paint_bar(line));
            text.push_str("\x1b[K");
        }
        text.push_str("\x1b[J");
        (self.lines, self.columns) = (lines, columns);
        text
    }

    /// Returns the text that erases the drawn lines and moves the cursor to the start of the first line.
    pub(super) fn clear(&mut self, columns: usize) -> String {
        if self.lines.is_empty() {
            return String::new();
        }
        let text = self.to_top(columns) + "\x1b[J";
        self.lines.clear();
        text
    }

    /// Returns the text that moves the cursor to the start of the first line, counting lines wrapped by a narrower terminal.
    fn to_top(&self, columns: usize) -> String {
        let rows = |line: &String| line.chars().count().div_ceil(columns.max(1)).max(1);
        let rows: usize = self.lines.iter().map(rows).sum();
        match rows {
            0 => String::new(),
            1 => "\r".to_owned(),
            rows => format!("\r\x1b[{}A", rows - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn lines_are_drawn_over_those_before() {
        let mut live = Live::default();
        assert_eq!(live.draw(lines(&["one", "two"]), 80), "one\x1b[K\r\ntwo\x1b[K\x1b[J");
        assert_eq!(live.draw(lines(&["one", "two"]), 80), "");
        assert_eq!(live.draw(lines(&["1"]), 80), "\r\x1b[1A1\x1b[K\x1b[J");
        assert_eq!(live.clear(80), "\r\x1b[J");
        assert_eq!(live.clear(80), "");
    }

    #[test]
    fn lines_that_a_narrower_terminal_broke_are_found_again() {
        let mut live = Live::default();
        live.draw(lines(&[&"x".repeat(79), &"y".repeat(20)]), 80);
        assert!(live.draw(lines(&["z"]), 30).starts_with("\r\x1b[3Az"));
    }
}
