//! Syncs at intervals, for [`Durability::Interval`](crate::Durability::Interval).

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use super::{Inner, Store};
use crate::error::Result;
use crate::session::Core;

/// Sessions that want to be synced at intervals.
#[derive(Default)]
pub(super) struct Ticker {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sessions: Vec<Weak<Core>>,
    /// The shortest interval that any of them asked for; there is a thread once there is one.
    every: Option<Duration>,
}

impl Store {
    /// Syncs every session that was opened with [`Durability::Interval`](crate::Durability::Interval) through this store.
    ///
    /// A thread does this at the shortest interval that was asked for; calling it does it now.
    ///
    /// # Errors
    ///
    /// The first error of a sync; the others are tried all the same. What this means for a session is as with
    /// [`Session::sync`](crate::Session::sync).
    pub fn tick(&self) -> Result<()> {
        let results: Vec<Result<()>> = sessions(&self.inner).iter().map(|session| session.sync_all()).collect();
        results.into_iter().collect()
    }

    /// Sees to it that a thread ticks at least every `every` from now on; `false` where no thread is to be had.
    pub(crate) fn ticks_every(&self, every: Duration) -> bool {
        let mut state = self.inner.ticker.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.every.is_none() {
            let inner = Arc::downgrade(&self.inner);
            if thread::Builder::new().spawn(move || run(&inner)).is_err() {
                return false;
            }
        }
        state.every = Some(state.every.map_or(every, |shortest| shortest.min(every)));
        true
    }

    /// Every tick syncs `session` from now on.
    pub(crate) fn tick_with(&self, session: &Arc<Core>) {
        let mut state = self.inner.ticker.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.sessions.push(Arc::downgrade(session));
    }
}

/// Ticks until the store is gone. A session whose sync fails, of its transcript or of its names, is poisoned, and says so at its next append.
fn run(store: &Weak<Inner>) {
    /// How long the thread may outlive its store.
    const NAP: Duration = Duration::from_millis(50);
    let mut slept = Duration::ZERO;
    while let Some(inner) = store.upgrade() {
        let every = inner.ticker.state.lock().unwrap_or_else(PoisonError::into_inner).every.unwrap_or(NAP);
        if slept >= every {
            sessions(&inner).iter().for_each(|session| session.sync_unheard());
            slept = Duration::ZERO;
        }
        drop(inner);
        let nap = NAP.min(every - slept.min(every)).max(Duration::from_millis(1));
        thread::sleep(nap);
        slept += nap;
    }
}

fn sessions(inner: &Inner) -> Vec<Arc<Core>> {
    let mut state = inner.ticker.state.lock().unwrap_or_else(PoisonError::into_inner);
    state.sessions.retain(|session| session.strong_count() > 0);
    state.sessions.iter().filter_map(Weak::upgrade).collect()
}
