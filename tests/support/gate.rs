//! Moments that a test chooses, where a pause would only be a guess at the speed of the machine.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::watch;

/// A test that has failed already must not hang as well: what waits goes on after this long.
const LONGEST: Duration = Duration::from_secs(60);

/// Requests wait here until it is open. Copies are the same gate.
#[derive(Debug, Clone)]
pub struct Gate {
    /// How many requests have arrived, and whether the gate is open.
    state: Arc<watch::Sender<(usize, bool)>>,
    opens_at: usize,
}

impl Gate {
    /// A gate that stays closed until [`Gate::open`].
    pub fn closed() -> Self {
        Self::meeting_of(usize::MAX)
    }

    /// A gate that opens for good once so many requests wait at it: proof that they were under way at the same time.
    pub fn meeting_of(requests: usize) -> Self {
        Self {
            state: Arc::new(watch::Sender::new((0, false))),
            opens_at: requests,
        }
    }

    pub fn open(&self) {
        self.state.send_modify(|(_, open)| *open = true);
    }

    /// How many requests have come to it.
    pub fn arrived(&self) -> usize {
        self.state.borrow().0
    }

    pub fn is_open(&self) -> bool {
        self.state.borrow().1
    }

    /// Arrives, and waits until it is open.
    pub async fn pass(&self) {
        self.state.send_modify(|(arrived, open)| {
            *arrived += 1;
            *open |= *arrived >= self.opens_at;
        });
        wait_for_open(&self.state).await;
    }
}

async fn wait_for_open(state: &watch::Sender<(usize, bool)>) {
    let mut changes = state.subscribe();
    let _ = tokio::time::timeout(LONGEST, changes.wait_for(|(_, open)| *open)).await;
}

/// Bytes that may still be sent. Once they are spent, answers stop where they are until [`Allowance::lift`].
/// Copies are the same allowance.
#[derive(Debug, Clone)]
pub struct Allowance {
    left: Arc<Mutex<u64>>,
    lifted: Gate,
}

impl Allowance {
    pub fn new(bytes: u64) -> Self {
        Self {
            left: Arc::new(Mutex::new(bytes)),
            lifted: Gate::closed(),
        }
    }

    /// Whether all of it went out.
    pub fn is_spent(&self) -> bool {
        *self.left.lock().unwrap() == 0
    }

    /// From now on there is no limit.
    pub fn lift(&self) {
        self.lifted.open();
    }

    /// Takes up to so many bytes, at least one; waits while there is none.
    pub async fn take(&self, wanted: u64) -> u64 {
        if !self.lifted.is_open() {
            let granted = {
                let mut left = self.left.lock().unwrap();
                let granted = wanted.min(*left);
                *left -= granted;
                granted
            };
            if granted > 0 {
                return granted;
            }
            wait_for_open(&self.lifted.state).await;
        }
        wanted
    }
}
