//! Sizes, percentages and durations as text, and lines that fit a width.

use std::time::Duration;

pub(super) use docker_mirror::counted;
use docker_mirror::human_bytes;

/// Returns a part of a size, such as `12.4/51.0 MiB`; the part has its own unit if the units differ.
pub(super) fn part(done: u64, total: u64) -> String {
    let (done_text, total_text) = (human_bytes(done), human_bytes(total));
    match (done_text.split_once(' '), total_text.split_once(' ')) {
        (Some((number, unit)), Some((_, same))) if unit == same => format!("{number}/{total_text}"),
        _ => format!("{done_text}/{total_text}"),
    }
}

/// Returns the percentage of `total` that is done, such as `24 %`.
pub(super) fn percent(done: u64, total: u64) -> String {
    match total {
        0 => "100 %".to_owned(),
        _ => format!("{} %", u128::from(done) * 100 / u128::from(total)),
    }
}

/// Returns a duration in short words, such as `0.3 s`, `2 min` or `2 h 13 min`.
pub(super) fn short(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 if time.subsec_millis() > 0 && seconds < 1 => format!("{:.1} s", time.as_secs_f64()),
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Joins parts with two spaces, up to `room` characters. Parts with the highest numbers are left out first when room is short.
/// With `bar_of`, a bar of done and total takes up to 30 of the remaining characters.
pub(super) fn fit(room: usize, parts: &[(u8, String)], bar_of: Option<(u64, u64)>) -> String {
    let mut shown: Vec<&(u8, String)> = parts.iter().filter(|(_, text)| !text.is_empty()).collect();
    let length = |shown: &[&(u8, String)]| {
        shown
            .iter()
            .map(|(_, text)| text.len() + 2)
            .sum::<usize>()
            .saturating_sub(2)
    };
    while length(&shown) > room && shown.len() > 1 {
        let least = shown.iter().map(|(priority, _)| *priority).max();
        shown.retain(|(priority, _)| Some(*priority) != least);
    }
    let mut texts: Vec<String> = shown.iter().map(|(_, text)| text.clone()).collect();
    let spare = room.saturating_sub(length(&shown) + 2);
    if let (Some((done, total)), true) = (bar_of, spare >= 8) {
        texts.insert(texts.len().min(2), bar(done, total, spare.min(30)));
    }
    cut(&texts.join("  "), room)
}

fn bar(done: u64, total: u64, width: usize) -> String {
    let full = match total {
        0 => width,
        _ => usize::try_from(u128::from(done) * width as u128 / u128::from(total)).unwrap_or(width),
    };
    format!("{}{}", "━".repeat(full), "─".repeat(width - full))
}

/// Returns the first `room` characters of a text.
pub(super) fn cut(text: &str, room: usize) -> String {
    text.chars().take(room).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        for (millis, text) in [
            (300, "0.3 s"),
            (7000, "7 s"),
            (119_000, "119 s"),
            (150_000, "2 min"),
            (8_000_000, "2 h 13 min"),
        ] {
            assert_eq!(short(Duration::from_millis(millis)), text);
        }
    }
}
