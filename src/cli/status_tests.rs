use super::*;

fn at(start: Instant, seconds: f64) -> Instant {
    start + Duration::from_secs_f64(seconds)
}

fn begun(id: u64, name: &str) -> Event {
    Event::Begun { id, name: name.into() }
}

/// Returns the status of an import of 10 MiB at 2 MiB a second, after four seconds and 9 MiB.
fn pushing(start: Instant) -> Status {
    let status = Status::new(Work::Pushing, start);
    let plan = Event::Planned {
        images: 200,
        manifests: 400,
        blobs: 20,
        bytes: 10 << 20,
        present: 0,
    };
    status.note(&plan, start);
    for (id, name) in ["r.example/team/a", "r.example/team/b", "r.example/team/c"]
        .iter()
        .enumerate()
    {
        status.note(&begun(id as u64, name), start);
    }
    for step in 0..=8 {
        status.lines(80, at(start, f64::from(step) * 0.5));
        status.note(&Event::Bytes(1 << 20), at(start, f64::from(step) * 0.5));
    }
    status
}

#[test]
fn lines_are_narrower_than_the_terminal() {
    let start = Instant::now();
    let status = pushing(start);
    for columns in 0..200 {
        for line in status.lines(columns, at(start, 5.0)) {
            assert!(line.chars().count() < columns, "{columns}: {line}");
        }
    }
    let wide = status.lines(120, at(start, 5.0));
    assert!(wide[0].starts_with("Pushing  0/200 images  ━"), "{wide:?}");
    assert!(
        wide[0].contains("9.0/10.0 MiB") && wide[0].ends_with(" left"),
        "{wide:?}"
    );
    assert_eq!(wide[1], "  team/a, team/b, team/c");
    assert_eq!(status.lines(10, at(start, 5.0)), ["90 %"]);
}

#[test]
fn a_phase_counts_its_images() {
    let start = Instant::now();
    let status = Status::new(Work::Fetching, start);
    assert!(status.lines(80, start).is_empty());
    let phase = Event::Phase {
        phase: Phase::Resolving,
        images: 200,
    };
    status.note(&phase, start);
    assert_eq!(status.lines(80, start), ["Resolving  0/200  images"]);
    (0..74).for_each(|_| status.note(&Event::Step(Phase::Resolving), start));
    assert_eq!(status.lines(80, at(start, 12.0)), ["Resolving  37/200  images  12 s"]);
    assert_eq!(
        status.heartbeat(at(start, 12.0)).as_deref(),
        Some("resolving: 37 of 200 images")
    );
    assert_eq!(status.heartbeat(at(start, 13.0)), None);
}

#[test]
fn a_log_has_a_line_by_the_clock_and_one_for_a_silence() {
    let start = Instant::now();
    let status = pushing(start);
    assert_eq!(status.heartbeat(at(start, 9.0)), None);
    let line = status.heartbeat(at(start, 10.0)).unwrap();
    assert!(line.starts_with("pushing 90 %: 9.0 MiB of 10.0 MiB, "), "{line}");
    assert!(line.ends_with("0 of 200 images"), "{line}");
    // The last byte of `pushing` arrives after four seconds.
    let mut lines = (11..600).filter_map(|second| Some((second, status.heartbeat(at(start, f64::from(second)))?)));
    let silent: Vec<(i32, String)> = lines
        .by_ref()
        .filter(|(_, line)| line.starts_with("note: no data"))
        .collect();
    let seconds: Vec<i32> = silent.iter().map(|(second, _)| *second).collect();
    assert_eq!(silent[0].1, "note: no data from r.example for 30 s");
    assert!(
        seconds.len() <= 6 && seconds.windows(2).all(|pair| pair[1] - pair[0] >= 30),
        "{seconds:?}"
    );
}

#[test]
fn the_two_ends_of_a_pipe_have_lines_that_differ() {
    let start = Instant::now();
    let line = |work| {
        let status = Status::new(work, start);
        let plan = Event::Planned {
            images: 1,
            manifests: 0,
            blobs: 2,
            bytes: 4,
            present: 0,
        };
        status.note(&plan, start);
        status.note(&Event::Bytes(1), at(start, 9.0));
        status.heartbeat(at(start, 10.0)).unwrap()
    };
    let (export, import) = (line(Work::Fetching), line(Work::Pushing));
    assert!(export.starts_with("fetching 25 %: "), "{export}");
    assert!(import.starts_with("pushing 25 %: "), "{import}");
}

#[test]
fn a_host_that_answers_is_not_silent() {
    let start = Instant::now();
    let status = Status::new(Work::Fetching, start);
    status.note(&begun(1, "r.example/team/a"), start);
    let silent = |second: u32| {
        let lines = status.lines(80, at(start, f64::from(second))).join(" ");
        let log = status.heartbeat(at(start, f64::from(second))).unwrap_or_default();
        lines.contains("no data") || log.contains("no data")
    };
    for second in (0..300).step_by(20) {
        status.note(&Event::Answered, at(start, f64::from(second)));
        assert!(!silent(second + 19), "{second}");
    }
    assert!(silent(320));
}

#[test]
fn names_are_shown_as_far_as_there_is_room() {
    let start = Instant::now();
    let status = Status::new(Work::Fetching, start);
    (0..30).for_each(|id| status.note(&begun(id, &format!("r.example/team/svc{id:03}")), start));
    let state = status.state();
    assert_eq!(names(&state, 40), "team/svc000, team/svc001, +28");
    assert_eq!(names(&state, 5), "team/");
}

#[test]
fn the_end_of_a_push_counts_manifests() {
    let start = Instant::now();
    let status = pushing(start);
    status.note(&Event::Bytes(1 << 20), start);
    for _ in 0..20 {
        let digest = String::new();
        status.note(&Event::BlobDone { digest, size: 1 }, start);
    }
    (0..130).for_each(|_| status.note(&Event::ManifestDone, start));
    assert_eq!(status.lines(80, at(start, 6.0))[0], "Pushing manifests  130/400");
}
