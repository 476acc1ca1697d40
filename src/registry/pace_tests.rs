//! Tests of the pace with a scripted clock, against simulated hosts.

use super::*;

/// A host with endless requests, as many at a time as the pace allows.
struct Host {
    /// Duration of a request on an idle host, in milliseconds.
    latency: f64,
    /// Maximum number of answers per second.
    most: f64,
    /// Maximum number of concurrent requests; the host refuses further requests.
    refuses_above: usize,
}

const ENDLESS: Host = Host {
    latency: 40.0,
    most: f64::INFINITY,
    refuses_above: usize::MAX,
};

/// The result of a run.
#[derive(Debug)]
struct Outcome {
    limits: Vec<usize>,
    /// Numbers of refused requests, one entry for each moment with refusals.
    refusals: Vec<usize>,
}

impl Host {
    /// Sends this many generations of requests, each as large as the pace allows.
    fn ask(&self, pace: &mut Pace, generations: usize) -> Outcome {
        let mut now = Instant::now();
        let mut outcome = Outcome {
            limits: Vec::new(),
            refusals: Vec::new(),
        };
        for _ in 0..generations {
            let under_way = pace.limit();
            let begun = now;
            pace.pressed();
            let time = (self.latency / 1000.0).max(under_way as f64 / self.most);
            let accepted = under_way.min(self.refuses_above);
            for number in 0..accepted {
                now = begun + Duration::from_secs_f64(time * (number + 1) as f64 / accepted as f64);
                pace.pressed();
                pace.answered(now);
            }
            let refused = under_way - accepted;
            for _ in 0..refused {
                pace.trouble(now, begun, under_way);
            }
            if refused > 0 {
                outcome.refusals.push(refused);
            }
            outcome.limits.push(pace.limit());
        }
        outcome
    }
}

#[test]
fn a_host_that_has_not_answered_gets_few_requests() {
    let (mut pace, now) = (Pace::automatic(6, 16, 64), Instant::now());
    assert_eq!(pace.limit(), 6);
    pace.answered(now);
    assert_eq!(pace.limit(), 16);
    let mut pace = Pace::automatic(6, 16, 64);
    pace.trouble(now, now, 6);
    pace.answered(now);
    assert_eq!(pace.limit(), 3, "it refused before it answered");
}

#[test]
fn a_distant_host_gets_as_many_requests_as_there_may_be_within_a_few_round_trips() {
    let mut pace = Pace::automatic(6, 16, 192);
    let outcome = ENDLESS.ask(&mut pace, 10);
    assert!(outcome.limits[8..].iter().all(|limit| *limit == 192), "{outcome:?}");
}

#[test]
fn a_host_that_answers_no_faster_keeps_the_limit_near_what_it_can_use() {
    // 16 requests of 40 ms each are 400 requests a second; the host can answer 800.
    let host = Host { most: 800.0, ..ENDLESS };
    let outcome = host.ask(&mut Pace::automatic(6, 16, 192), 600);
    let settled = &outcome.limits[100..];
    assert!(settled.iter().all(|limit| (25..=64).contains(limit)), "{outcome:?}");
    // Trials become rare.
    let trials = |limits: &[usize]| limits.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(trials(&settled[400..]) <= trials(&settled[..100]), "{outcome:?}");
}

#[test]
fn a_host_that_is_busy_from_the_start_is_asked_no_more_than_at_the_start() {
    let host = Host { most: 100.0, ..ENDLESS };
    let outcome = host.ask(&mut Pace::automatic(6, 16, 192), 100);
    assert!(outcome.limits[10..].iter().all(|limit| *limit <= 20), "{outcome:?}");
}

#[test]
fn a_host_that_refuses_sees_one_burst_and_then_single_requests() {
    for cap in [1, 3, 8, 12, 20, 100] {
        let host = Host {
            refuses_above: cap,
            ..ENDLESS
        };
        let outcome = host.ask(&mut Pace::automatic(6, 16, 192), 1000);
        let bursts = outcome.refusals.iter().filter(|refused| **refused > 1).count();
        // Far below the initial limit, the limit is halved more than once.
        assert!(
            bursts <= (16 / (cap + 1)).max(1).ilog2() as usize + 1,
            "{cap}: {outcome:?}"
        );
        assert!(outcome.refusals.len() < 40, "{cap}: {outcome:?}");
        let settled = &outcome.limits[900..];
        assert!(
            settled.iter().all(|limit| *limit == cap || *limit == cap + 1),
            "{cap}: {outcome:?}"
        );
    }
}

#[test]
fn requests_that_were_under_way_together_have_one_trouble() {
    let (mut pace, now) = (Pace::fixed(8), Instant::now());
    let later = now + Duration::from_millis(10);
    pace.trouble(later, now, 8);
    pace.trouble(later, now, 8);
    assert_eq!(pace.limit(), 4);
    pace.trouble(later, later, 4);
    assert_eq!(pace.limit(), 2);
    pace.trouble(later, later, 1);
    pace.trouble(later, later, 1);
    assert_eq!(pace.limit(), 1);
}

#[test]
fn a_fixed_limit_comes_back_after_trouble_and_goes_no_higher() {
    let mut pace = Pace::fixed(8);
    assert_eq!(ENDLESS.ask(&mut pace, 20).limits, [8; 20]);
    let now = Instant::now();
    pace.trouble(now, now, 8);
    let outcome = ENDLESS.ask(&mut pace, 100);
    assert_eq!(outcome.limits.last(), Some(&8), "{outcome:?}");
    assert!(outcome.limits.iter().all(|limit| *limit <= 8), "{outcome:?}");
}

#[test]
fn large_bodies_count_by_their_bytes_before_they_end() {
    // Each connection transfers 10 MB/s, up to 32 connections together.
    let (mut pace, mut now) = (Pace::automatic(6, 16, 64), Instant::now());
    pace.answered(now);
    for _ in 0..1200 {
        now += Duration::from_millis(50);
        pace.pressed();
        pace.moved(now, pace.limit().min(32) as u64 * 500_000);
    }
    assert!((25..=40).contains(&pace.limit()), "{pace:?}");
}

#[test]
fn a_limit_that_holds_nothing_up_stays() {
    let (mut pace, mut now) = (Pace::automatic(6, 16, 64), Instant::now());
    for _ in 0..1000 {
        now += Duration::from_millis(40);
        pace.answered(now);
    }
    assert_eq!(pace.limit(), 16);
}
