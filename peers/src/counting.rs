//! What stands between the engine and the real disk: one counts syncs, one leaves them out.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use forklog_sim::through::{Change, Hook, Then, Through};

/// Counts every sync.
#[derive(Clone, Debug)]
pub(crate) struct Counting(Arc<AtomicU64>);

impl Counting {
    pub(crate) fn disk(syncs: Arc<AtomicU64>) -> Through<Self> {
        Through(Self(syncs))
    }
}

impl Hook for Counting {
    fn before(&self, change: Change) -> io::Result<Then> {
        self.0.fetch_add(u64::from(change == Change::Sync), Ordering::Relaxed);
        Ok(Then::Go)
    }
}

/// Leaves syncs out, where only the making of what is measured would wait for them.
#[derive(Clone, Debug)]
pub(crate) struct Unsynced;

impl Unsynced {
    pub(crate) fn disk() -> Through<Self> {
        Through(Self)
    }
}

impl Hook for Unsynced {
    fn before(&self, change: Change) -> io::Result<Then> {
        Ok(if change == Change::Sync { Then::Skip } else { Then::Go })
    }
}
