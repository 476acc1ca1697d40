//! Simulations of connections that fetch a large blob in parts, on a clock of their own.

use super::*;
use crate::image::descriptor::Descriptor;

/// Round trip of the simulated line, and the step of the clock.
const TRIP: Duration = Duration::from_millis(40);
const STEP: Duration = Duration::from_millis(1);

/// A simulated connection.
#[derive(Debug, Clone, Copy)]
struct Connection {
    /// Bytes per second.
    rate: f64,
    /// Time at which the connection gets a place at the registry.
    joins: Duration,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Without a part.
    Idle,
    /// The answer begins at this time.
    Asking {
        from: Duration,
        end: u64,
        at: u64,
    },
    Receiving {
        end: u64,
        at: f64,
    },
}

/// Result of a simulation.
#[derive(Debug)]
struct Run {
    /// Fraction of what the connections could have transferred from the first byte to the end.
    used: f64,
    /// Maximum number of requests of a connection.
    requests: usize,
}

/// Fetches a blob of `size` bytes over these connections. Each first sets up its connection, which takes a round trip.
/// `growing` says whether the number of connections is expected to grow.
async fn simulate(size: u64, connections: &[Connection], growing: bool) -> Run {
    let place = plan::BlobSlot {
        blob: Descriptor {
            media_type: Default::default(),
            digest: Digest::sha256(b""),
            size,
        },
        header_offset: 0,
        offset: 512,
    };
    let slot = Slot::new(0, place, Ranges::default(), None);
    slot.state.lock().growing = growing;
    let mut phases = vec![(Phase::Idle, 0_usize, 0_u64); connections.len()];
    let (mut now, mut begun, mut ids, mut left) = (Duration::ZERO, None, 0, size);
    let mut possible = 0.0;
    while left > 0 {
        for (connection, (phase, requests, id)) in connections.iter().zip(&mut phases) {
            match *phase {
                Phase::Idle if now >= connection.joins => {
                    ids += 1;
                    if let Some(part) = slot.assign(ids, None) {
                        let trips = if *requests == 0 { 2 } else { 1 };
                        *phase = Phase::Asking {
                            from: now + TRIP * trips,
                            end: part.end,
                            at: part.start,
                        };
                        (*requests, *id) = (*requests + 1, ids);
                        slot.requested(ids);
                    }
                }
                Phase::Asking { from, end, at } if now >= from => {
                    slot.set_ranges_served();
                    begun.get_or_insert(now);
                    *phase = Phase::Receiving { end, at: at as f64 };
                }
                Phase::Receiving { end, at } => {
                    let next = (at + connection.rate * STEP.as_secs_f64()).min(end as f64);
                    left -= next as u64 - at as u64;
                    slot.received(*id, next as u64);
                    slot.advance(*id, next as u64);
                    *phase = Phase::Receiving { end, at: next };
                    if next as u64 == end {
                        slot.release(*id);
                        *phase = Phase::Idle;
                    }
                }
                _ => {}
            }
            if begun.is_some() && now >= connection.joins {
                possible += connection.rate * STEP.as_secs_f64();
            }
        }
        now += STEP;
        assert!(now < Duration::from_secs(300), "{left} bytes are left");
        tokio::time::advance(STEP).await;
    }
    Run {
        used: size as f64 / possible,
        requests: phases.iter().map(|(_, requests, _)| *requests).max().unwrap_or(0),
    }
}

/// Returns connections of one rate in bytes per second that are there from the start.
fn equal(count: usize, rate: f64) -> Vec<Connection> {
    let joins = Duration::ZERO;
    vec![Connection { rate, joins }; count]
}

#[tokio::test(start_paused = true)]
async fn connections_of_one_rate_end_together_after_few_requests() {
    for rate in [10e6, 100e6] {
        for count in [4, 8, 16, 32] {
            // Some five seconds.
            let size = (rate * count as f64 * 5.25) as u64;
            let run = simulate(size, &equal(count, rate), false).await;
            assert!(run.used >= 0.95 && run.requests <= 6, "{rate} {count}: {run:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_connection_does_not_end_much_later() {
    for count in [4, 8, 16, 32] {
        let mut connections = equal(count, 10e6);
        connections[count / 2].rate = 1e6;
        let run = simulate(10_000_000 * count as u64 * 5, &connections, false).await;
        assert!(run.used >= 0.95, "{count}: {run:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn connections_of_many_rates_end_together() {
    for count in [4, 8, 16, 32] {
        let mut connections = equal(count, 10e6);
        for (number, connection) in connections.iter_mut().enumerate() {
            connection.rate *= 0.5 + (number % 4) as f64 * 0.5;
        }
        let run = simulate(10_000_000 * count as u64 * 5, &connections, false).await;
        assert!(run.used >= 0.91, "{count}: {run:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn connections_that_come_late_take_their_share() {
    for count in [8, 16, 32] {
        let mut connections = equal(count, 10e6);
        for connection in &mut connections[count / 2..] {
            connection.joins = Duration::from_secs(1);
        }
        let run = simulate(10_000_000 * count as u64 * 4, &connections, false).await;
        assert!(run.used >= 0.94, "{count}: {run:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_number_of_connections_that_grows_fast_is_used() {
    let mut connections = equal(64, 10e6);
    for (number, connection) in connections.iter_mut().enumerate() {
        connection.joins = Duration::from_millis([0, 500, 900, 900][number / 16]);
    }
    let run = simulate(1_200_000_000, &connections, true).await;
    assert!(run.used >= 0.88, "{run:?}");
    let run = simulate(420_000_000, &connections, true).await;
    assert!(run.used >= 0.55, "{run:?}");
}
