//! The state of an operation, and its text: progress lines for a terminal, and occasional lines for a log without a terminal.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use docker_mirror::{Event, Phase, human_bytes, push::Amount};

use super::estimate::{Speed, time_left};
use super::wording::{counted, cut, fit, part, percent, short};

/// Time without progress after which the progress line says so.
const SILENCE: Duration = Duration::from_secs(30);

/// Minimum width, in columns, of a terminal that shows names of images.
const ROOM_FOR_NAMES: usize = 40;

/// The kind of work that a command does, as shown at the start of its progress line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Export of images to a bundle.
    Fetching,
    /// Import and one-step mirror.
    Pushing,
    /// Dry run of an import or a one-step mirror.
    Comparing,
    /// Verification of bundles.
    Verifying,
    /// Short commands without a transfer, such as `limits`, `inspect` and `diff`.
    Asking,
}

impl Work {
    fn word(self) -> &'static str {
        match self {
            Self::Fetching => "Fetching",
            Self::Pushing => "Pushing",
            Self::Comparing => "Comparing",
            Self::Verifying => "Verifying",
            Self::Asking => "Asking",
        }
    }
}

/// A number of items, some of which are done.
#[derive(Debug, Default, Clone, Copy)]
struct Count {
    done: u64,
    total: u64,
}

impl Count {
    fn new(total: u64) -> Self {
        Self { done: 0, total }
    }

    fn left(self) -> u64 {
        self.total.saturating_sub(self.done)
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Status")
    }
}

/// The state of an operation. The transferring threads update the status, and the printer thread reads it.
pub(super) struct Status {
    work: Work,
    start: Instant,
    /// Number of bytes done. This counter is outside the mutex, since it changes often.
    bytes: AtomicI64,
    state: Mutex<State>,
}

struct State {
    phase: Option<Phase>,
    /// Number of steps done in the current phase.
    steps: u64,
    images: Count,
    blobs: Count,
    /// Blobs whose bytes were sent in a push.
    uploaded: Amount,
    /// Size of all blobs done, in bytes.
    complete: u64,
    manifests: Count,
    bytes: u64,
    in_flight: BTreeMap<u64, String>,
    retries: u64,
    speed: Speed,
    /// Time of the last progress.
    moved: Instant,
    /// Number of bytes done at the last measurement.
    seen: u64,
    next_line: Instant,
    /// Time without progress after which the log gets its next line about the silence.
    next_silence: Duration,
}

impl Status {
    pub(super) fn new(work: Work, now: Instant) -> Self {
        Self {
            work,
            start: now,
            bytes: AtomicI64::new(0),
            state: Mutex::new(State {
                phase: None,
                steps: 0,
                images: Count::default(),
                blobs: Count::default(),
                uploaded: Amount::default(),
                complete: 0,
                manifests: Count::default(),
                bytes: 0,
                in_flight: BTreeMap::new(),
                retries: 0,
                speed: Speed::default(),
                moved: now,
                seen: 0,
                next_line: now + Duration::from_secs(10),
                next_silence: SILENCE,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn position(&self) -> u64 {
        u64::try_from(self.bytes.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Returns the time since the operation started.
    pub(super) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Returns the number of retries.
    pub(super) fn retries(&self) -> u64 {
        self.state().retries
    }

    /// Returns the blobs whose bytes were sent in a push, and the number of bytes of unfinished blobs that were sent.
    pub(super) fn sent(&self) -> (Amount, u64) {
        if self.work != Work::Pushing {
            return (Amount::default(), 0);
        }
        let state = self.state();
        (state.uploaded, self.position().saturating_sub(state.complete))
    }

    /// Updates the status with an event.
    pub(super) fn note(&self, event: &Event, now: Instant) {
        if let Event::Bytes(count) = event {
            self.bytes.fetch_add(*count, Ordering::Relaxed);
            return;
        }
        let mut state = self.state();
        // A request that starts, ends or is retried is not progress, since that happens with a dead host too.
        let is_sign_of_life = !matches!(event, Event::Retry { .. } | Event::Begun { .. } | Event::Ended { .. });
        match event {
            Event::Phase { phase, images } => {
                state.phase = Some(*phase);
                state.steps = 0;
                state.images = Count::new(*images);
            }
            // Images may still be resolved while others are pushed.
            Event::Step(phase) if state.phase == Some(*phase) => {
                state.steps += 1;
                let steps = if *phase == Phase::Resolving { 2 } else { 1 };
                state.images.done = (state.steps / steps).min(state.images.total);
            }
            Event::Begun { id, name } => drop(state.in_flight.insert(*id, name.to_string())),
            Event::Ended { id } => drop(state.in_flight.remove(id)),
            Event::Planned {
                images,
                manifests,
                blobs,
                bytes,
                present,
            } => {
                state.phase = None;
                state.images = Count::new(*images);
                state.manifests = Count::new(*manifests);
                state.blobs = Count::new(*blobs);
                state.bytes = *bytes;
                state.complete = 0;
                state.speed = Speed::default();
                self.bytes
                    .store(i64::try_from(*present).unwrap_or(i64::MAX), Ordering::Relaxed);
            }
            Event::Grown { blobs, bytes } => {
                state.blobs.total += blobs;
                state.bytes += bytes;
            }
            Event::Uploaded { size } => {
                state.uploaded.blobs += 1;
                state.uploaded.bytes += size;
            }
            Event::BlobDone { size, .. } => {
                state.blobs.done += 1;
                state.complete += size;
            }
            Event::ManifestDone => state.manifests.done += 1,
            Event::ImageDone { .. } => state.images.done += 1,
            Event::Retry { .. } => state.retries += 1,
            _ => {}
        }
        if is_sign_of_life {
            state.moved = now;
        }
    }

    /// Updates the speed and the time of the last progress. Called each time before a line is made.
    fn measure(&self, state: &mut State, now: Instant) {
        let position = self.position();
        if position != state.seen {
            (state.seen, state.moved) = (position, now);
        }
        if now.saturating_duration_since(state.moved) < SILENCE {
            state.next_silence = SILENCE;
        }
        if state.bytes > 0 {
            state.speed.add(now, position, state.blobs.done, state.manifests.done);
        }
    }

    /// Returns the progress lines for a terminal. Each line has fewer than `columns` characters, all ASCII except the bar.
    pub(super) fn lines(&self, columns: usize, now: Instant) -> Vec<String> {
        let mut state = self.state();
        self.measure(&mut state, now);
        let room = columns.saturating_sub(1);
        if room < 4 {
            return Vec::new();
        }
        let mut lines = match (state.phase, state.bytes + state.manifests.total) {
            (Some(phase), _) => vec![self.phase_line(&state, phase, room, now)],
            (None, 0) => return Vec::new(),
            (None, _) => vec![self.transfer_line(&state, room)],
        };
        let below = match silence(&state, now) {
            Some(words) => words,
            None => names(&state, room.saturating_sub(2)),
        };
        if room >= ROOM_FOR_NAMES && !below.is_empty() {
            lines.push(cut(&format!("  {below}"), room));
        }
        lines
    }

    fn phase_line(&self, state: &State, phase: Phase, room: usize, now: Instant) -> String {
        let word = match phase {
            Phase::Resolving => "Resolving",
            Phase::Checking => "Checking tags",
        };
        let elapsed = now.saturating_duration_since(self.start);
        fit(
            room,
            &[
                (2, word.to_owned()),
                (0, format!("{}/{}", state.images.done, state.images.total)),
                (1, "images".to_owned()),
                (
                    3,
                    if elapsed.as_secs() > 0 {
                        short(elapsed)
                    } else {
                        String::new()
                    },
                ),
                (4, retries(state)),
            ],
            None,
        )
    }

    fn transfer_line(&self, state: &State, room: usize) -> String {
        let position = self.position().min(state.bytes);
        if state.blobs.left() == 0 && position == state.bytes && state.manifests.total > 0 {
            let count = format!("{}/{}", state.manifests.done, state.manifests.total);
            return fit(
                room,
                &[(1, "Pushing manifests".to_owned()), (0, count), (2, retries(state))],
                None,
            );
        }
        let left = time_left(
            &state.speed,
            state.bytes - position,
            state.blobs.left(),
            state.manifests.left(),
        );
        let rate = state.speed.bytes_per_second();
        let (noun, count) = match state.manifests.total {
            0 => ("blobs", state.blobs),
            _ => ("images", state.images),
        };
        let rate = rate.map_or(String::new(), |rate| format!("{}/s", human_bytes(rate)));
        fit(
            room,
            &[
                (3, self.work.word().to_owned()),
                (4, format!("{}/{} {noun}", count.done, count.total)),
                (1, part(position, state.bytes)),
                (5, rate),
                (2, left.map_or(String::new(), |left| format!("{} left", short(left)))),
                (6, retries(state)),
                (
                    0,
                    if room < 20 {
                        percent(position, state.bytes)
                    } else {
                        String::new()
                    },
                ),
            ],
            Some((position, state.bytes)),
        )
    }

    /// Returns a line for the log if one is due: the progress, or the time without progress.
    pub(super) fn heartbeat(&self, now: Instant) -> Option<String> {
        let mut state = self.state();
        self.measure(&mut state, now);
        let silent = now.saturating_duration_since(state.moved);
        if silent >= state.next_silence && !state.in_flight.is_empty() {
            state.next_silence = silent.max(SILENCE) * 2;
            state.next_line = now + pause(now.saturating_duration_since(self.start));
            return silence(&state, now).map(|silence| format!("note: {silence}"));
        }
        if now < state.next_line || silent >= SILENCE {
            return None;
        }
        state.next_line = now + pause(now.saturating_duration_since(self.start));
        let images = format!("{} of {} images", state.images.done, state.images.total);
        match state.phase {
            Some(Phase::Resolving) => return Some(format!("resolving: {images}")),
            Some(Phase::Checking) => return Some(format!("checking tags: {images}")),
            None if state.bytes + state.manifests.total == 0 => return None,
            None => {}
        }
        let position = self.position().min(state.bytes);
        // The word tells the lines of an export and an import apart, which may be the two ends of one pipe.
        let mut words = vec![format!(
            "{} {}: {} of {}",
            self.work.word().to_lowercase(),
            percent(position, state.bytes),
            human_bytes(position),
            human_bytes(state.bytes)
        )];
        if let Some(rate) = state.speed.bytes_per_second() {
            words.push(format!("{}/s", human_bytes(rate)));
        }
        let rest = (state.bytes - position, state.blobs.left(), state.manifests.left());
        if let Some(left) = time_left(&state.speed, rest.0, rest.1, rest.2) {
            words.push(format!("{} left", short(left)));
        }
        words.push(match state.manifests.total {
            0 => format!("{} of {} blobs", state.blobs.done, state.blobs.total),
            _ => images,
        });
        if state.retries > 0 {
            words.push(retries(&state));
        }
        Some(words.join(", "))
    }
}

/// Returns the pause between two log lines. The pause grows with the duration, so that a run of an hour has some 70 lines.
fn pause(elapsed: Duration) -> Duration {
    Duration::from_secs(match elapsed.as_secs() {
        0..60 => 10,
        60..600 => 30,
        _ => 60,
    })
}

/// Returns `no data from HOST for 30 s` after [`SILENCE`] without progress while requests are open.
fn silence(state: &State, now: Instant) -> Option<String> {
    let silent = now.saturating_duration_since(state.moved);
    if silent < SILENCE || state.in_flight.is_empty() {
        return None;
    }
    let hosts: BTreeSet<&str> = state.in_flight.values().map(|name| host_and_path(name).0).collect();
    let first: Vec<&str> = hosts.iter().copied().take(3).collect();
    let more = match hosts.len() - first.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!("no data from {}{more} for {}", first.join(", "), short(silent)))
}

fn host_and_path(name: &str) -> (&str, &str) {
    name.split_once('/').unwrap_or((name, name))
}

/// Returns the names of running transfers that fit into `room`, oldest first so that names keep their position.
fn names(state: &State, room: usize) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in state.in_flight.values() {
        let (_, path) = host_and_path(name);
        if !names.contains(&path) {
            names.push(path);
        }
    }
    let mut text = String::new();
    for (number, name) in names.iter().enumerate() {
        let comma = if number > 0 { ", " } else { "" };
        let left = names.len() - number - 1;
        // Reserves room for the number of names that do not fit.
        let reserve = if left > 0 { 6 } else { 0 };
        if text.len() + comma.len() + name.len() + reserve > room {
            let more = format!("{comma}+{}", left + 1);
            return if number > 0 { text + &more } else { cut(name, room) };
        }
        text = text + comma + name;
    }
    text
}

fn retries(state: &State) -> String {
    match state.retries {
        0 => String::new(),
        number => counted(number, "retry", "retries"),
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
