//! Synchronization points for tests, in place of pauses that would depend on the speed of the machine.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::watch;

/// Maximum time to wait at a gate, so that a test that has already failed does not hang.
const LONGEST: Duration = Duration::from_secs(60);

/// A gate at which requests wait until it opens. Clones share the gate.
#[derive(Debug, Clone)]
pub struct Gate {
    /// Number of arrived requests, and whether the gate is open.
    state: Arc<watch::Sender<(usize, bool)>>,
    opens_at: usize,
}

impl Gate {
    /// Creates a gate that stays closed until [`Gate::open`].
    pub fn closed() -> Self {
        Self::meeting_of(usize::MAX)
    }

    /// Creates a gate that opens for good once this number of requests wait, which proves that the requests ran in parallel.
    pub fn meeting_of(requests: usize) -> Self {
        Self {
            state: Arc::new(watch::Sender::new((0, false))),
            opens_at: requests,
        }
    }

    pub fn open(&self) {
        self.state.send_modify(|(_, open)| *open = true);
    }

    /// Returns the number of requests that have arrived at the gate.
    pub fn arrived(&self) -> usize {
        self.state.borrow().0
    }

    pub fn is_open(&self) -> bool {
        self.state.borrow().1
    }

    /// Counts a request, and waits until the gate is open.
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

/// A number of bytes that may be sent. Once the bytes are spent, answers stop until [`Allowance::lift`]. Clones share the
/// allowance.
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

    /// Returns whether all bytes are spent.
    pub fn is_spent(&self) -> bool {
        *self.left.lock().unwrap() == 0
    }

    /// Removes the limit.
    pub fn lift(&self) {
        self.lifted.open();
    }

    /// Takes between one and `wanted` bytes; waits while none is left.
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
