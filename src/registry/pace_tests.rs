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
                pace.trouble(now, begun, under_way, Trouble::Refused);
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
    pace.trouble(now, now, 6, Trouble::Broken);
    pace.answered(now);
    assert_eq!(pace.limit(), 3, "a connection broke before it answered");
}

#[test]
fn a_distant_host_gets_as_many_requests_as_there_may_be_within_a_few_round_trips() {
    let mut pace = Pace::automatic(6, 16, 192);
    let outcome = ENDLESS.ask(&mut pace, 10);
    assert!(outcome.limits[8..].iter().all(|limit| *limit == 192), "{outcome:?}");
}

/// Sends requests one by one, as many at a time as the pace allows, over connections whose first request takes a second
/// round trip, and returns the number of round trips until all are answered.
fn round_trips(pace: &mut Pace, round_trip: Duration, requests: usize) -> usize {
    let start = Instant::now();
    let (mut now, mut sent, mut idle) = (start, 0, 0_usize);
    let mut ends = std::collections::BTreeSet::new();
    while sent < requests || !ends.is_empty() {
        while sent < requests && ends.len() < pace.limit() {
            let trips = if idle == 0 { 2 } else { 1 };
            idle = idle.saturating_sub(1);
            // Answers come some microseconds apart.
            ends.insert((now + round_trip * trips + Duration::from_micros(sent as u64 % 7), sent));
            sent += 1;
        }
        if sent < requests {
            pace.pressed();
        }
        (now, _) = ends.pop_first().unwrap();
        idle += 1;
        pace.answered(now);
    }
    (now - start).as_millis() as usize / round_trip.as_millis() as usize
}

#[test]
fn a_distant_host_costs_at_most_a_few_round_trips_more_than_the_largest_limit() {
    let round_trip = Duration::from_millis(150);
    for requests in [2_200, 5_600] {
        let best = round_trips(&mut Pace::fixed(380), round_trip, requests);
        let found = round_trips(&mut Pace::automatic(6, 16, 380), round_trip, requests);
        assert!(found <= best + 7, "{requests}: {found} instead of {best}");
    }
}

#[test]
fn a_distant_host_that_refuses_sees_one_burst_too() {
    for cap in [1, 5, 17, 33, 64, 100, 200] {
        let host = Host {
            latency: 150.0,
            refuses_above: cap,
            ..ENDLESS
        };
        let outcome = host.ask(&mut Pace::automatic(6, 16, 380), 2_000);
        let (first, later) = outcome.refusals.split_first().unwrap();
        assert!(*first <= (3 * cap).max(15), "{cap}: {first} at first");
        assert!(
            later.iter().all(|refused| *refused == 1) && later.len() <= 12,
            "{cap}: {later:?}"
        );
    }
}

#[test]
fn a_host_that_is_slow_and_not_distant_is_raised_in_small_steps() {
    // Its rate grows with the limit, but by less than it would on an idle host.
    let (mut pace, mut now) = (Pace::automatic(6, 16, 380), Instant::now());
    pace.answered(now);
    let mut limits = Vec::new();
    for rate in [10, 16, 25, 40] {
        pace.pressed();
        now += LONGEST_ROUND;
        pace.moved(now, rate << 20);
        limits.push(pace.limit());
    }
    assert_eq!(limits, [32, 64, 128, 256]);
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
fn a_near_host_whose_rate_varies_gets_no_more_requests_for_that() {
    // What it can do does not depend on the limit.
    let answers_per_millisecond = [6_u64, 9, 14, 8, 13];
    let (mut pace, start) = (Pace::automatic(6, 16, 192), Instant::now());
    for millisecond in 0..2_000 {
        let count = answers_per_millisecond[millisecond as usize / 20 % answers_per_millisecond.len()];
        for number in 0..count {
            pace.pressed();
            pace.answered(start + Duration::from_micros(millisecond * 1000 + number * 1000 / count));
        }
        assert!(pace.limit() <= 32, "{millisecond} ms: {}", pace.limit());
    }
}

#[test]
fn a_host_that_refuses_sees_one_burst_and_then_a_few_single_requests() {
    for cap in [1, 2, 3, 5, 8, 12, 17, 20, 40, 100, 191] {
        for fixed in [false, true] {
            let host = Host {
                refuses_above: cap,
                ..ENDLESS
            };
            let mut pace = match fixed {
                true => Pace::fixed(192),
                false => Pace::automatic(6, 16, 192),
            };
            let outcome = host.ask(&mut pace, 20_000);
            let (first, later) = outcome.refusals.split_first().unwrap();
            assert!(fixed || *first <= cap.max(15), "{cap}: {first} at first");
            assert!(
                later.iter().all(|refused| *refused == 1),
                "{cap}: {:?}",
                outcome.refusals
            );
            // The number of rounds between two of them doubles, from 16.
            assert!(later.len() <= 12, "{cap}: {:?}", outcome.refusals);
            let settled = &outcome.limits[1000..];
            assert!(
                settled.iter().all(|limit| *limit == cap || *limit == cap + 1),
                "{cap}: {settled:?}"
            );
        }
    }
}

/// Requests that begin and end one by one, a refused one like the others.
fn ask_one_by_one(pace: &mut Pace, cap: usize, latencies: &[u64], answers: usize) -> Vec<usize> {
    let start = Instant::now();
    let mut under_way: std::collections::BTreeSet<(Instant, usize, Instant, bool)> = std::collections::BTreeSet::new();
    let (mut now, mut number, mut refusals) = (start, 0, Vec::new());
    while number < answers {
        while under_way.len() < pace.limit() {
            number += 1;
            let accepted = under_way.iter().filter(|(.., is_accepted)| *is_accepted).count() < cap;
            if !accepted {
                refusals.push(number);
            }
            let end = now + Duration::from_millis(latencies[number % latencies.len()]);
            under_way.insert((end, number, now, accepted));
        }
        pace.pressed();
        let count = under_way.len();
        let (end, _, begun, accepted) = under_way.pop_first().unwrap();
        now = end;
        match accepted {
            true => pace.answered(now),
            false => pace.trouble(now, begun, count, Trouble::Refused),
        }
    }
    refusals
}

#[test]
fn a_host_whose_answers_come_one_by_one_sees_one_burst_too() {
    for latencies in [&[40][..], &[40, 41, 44, 57], &[20, 90, 35, 35, 210]] {
        for cap in [2, 5, 8, 12, 40, 100] {
            let mut pace = Pace::automatic(6, 16, 192);
            let refusals = ask_one_by_one(&mut pace, cap, latencies, 100_000);
            let later = refusals.iter().filter(|number| **number > 1000).count();
            assert!(later <= 24, "{cap}, {latencies:?}: {refusals:?}");
            assert!(refusals.len() <= cap.max(15) + 32, "{cap}, {latencies:?}: {refusals:?}");
            assert!(
                (cap..=cap + 1).contains(&pace.limit()),
                "{cap}, {latencies:?}: {}",
                pace.limit()
            );
        }
    }
}

#[test]
fn a_host_that_refuses_everything_for_a_while_is_used_as_before_soon_after() {
    let mut pace = Pace::automatic(6, 16, 64);
    let outcome = ENDLESS.ask(&mut pace, 10);
    assert_eq!(outcome.limits.last(), Some(&64));
    let now = Instant::now() + Duration::from_secs(3600);
    for _ in 0..64 {
        pace.trouble(now, now - Duration::from_millis(1), 64, Trouble::Refused);
    }
    assert_eq!(pace.limit(), 1);
    let outcome = ENDLESS.ask(&mut pace, 160);
    assert_eq!(outcome.limits.last(), Some(&64), "{outcome:?}");
}

#[test]
fn a_host_that_accepts_fewer_than_before_is_followed_without_another_burst() {
    let mut host = Host {
        refuses_above: 20,
        ..ENDLESS
    };
    let mut pace = Pace::automatic(6, 16, 192);
    host.ask(&mut pace, 1000);
    for cap in [19, 18, 16, 13] {
        host.refuses_above = cap;
        let outcome = host.ask(&mut pace, 2000);
        let refused: usize = outcome.refusals.iter().sum();
        assert!(refused <= 12, "{cap}: {:?}", outcome.refusals);
        assert!((cap - 1..=cap + 1).contains(&pace.limit()), "{cap}: {}", pace.limit());
    }
}

#[test]
fn requests_that_were_under_way_together_have_one_trouble() {
    let (mut pace, now) = (Pace::fixed(8), Instant::now());
    let later = now + Duration::from_millis(10);
    let broken = Trouble::Broken;
    pace.trouble(later, now, 8, broken);
    pace.trouble(later, now, 8, broken);
    assert_eq!(pace.limit(), 4);
    pace.trouble(later, later, 4, broken);
    assert_eq!(pace.limit(), 2);
    pace.trouble(later, later, 1, broken);
    pace.trouble(later, later, 1, broken);
    assert_eq!(pace.limit(), 1);
}

#[test]
fn a_fixed_limit_comes_back_after_trouble_and_goes_no_higher() {
    let mut pace = Pace::fixed(8);
    assert_eq!(ENDLESS.ask(&mut pace, 20).limits, [8; 20]);
    let now = Instant::now();
    pace.trouble(now, now, 8, Trouble::Broken);
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

#[test]
fn a_larger_limit_gets_a_second_look_before_it_is_given_up() {
    // Each number of requests has this rate in one round; the second round at 32 is as fast as it should be.
    let (mut pace, mut now) = (Pace::automatic(6, 16, 64), Instant::now());
    pace.answered(now);
    for rate in [16, 16, 32, 64] {
        pace.pressed();
        now += LONGEST_ROUND;
        pace.moved(now, rate << 20);
    }
    assert_eq!(pace.limit(), 64, "{pace:?}");
}
