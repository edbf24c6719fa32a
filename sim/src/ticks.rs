//! A clock and randomness that a seed replays.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use forklog::{Env, Timestamp};

use crate::rng::derive;

/// A clock that moves on by a millisecond with every look, and numbers that never come twice.
///
/// Two with the same seed give the same; two with different seeds never give the same random number.
#[derive(Debug)]
pub struct Ticks {
    looks: AtomicU64,
    seed: u64,
}

impl Ticks {
    /// Where it begins: an instant late in 2026, in milliseconds.
    const BEGIN: i64 = 1_795_000_000_000;

    /// A clock at its beginning.
    #[must_use]
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self { looks: AtomicU64::new(1), seed })
    }

    fn next(&self) -> u64 {
        self.looks.fetch_add(1, Ordering::Relaxed)
    }
}

impl Env for Ticks {
    fn now(&self) -> Timestamp {
        let elapsed = i64::try_from(self.next()).unwrap_or(i64::MAX);
        Timestamp::from_millis(Self::BEGIN.saturating_add(elapsed))
    }

    fn random(&self) -> [u8; 16] {
        let n = self.next();
        let (high, low) = (derive(self.seed, n), derive(self.seed ^ 0xabcd, n));
        (u128::from(high) << 64 | u128::from(low)).to_be_bytes()
    }
}
