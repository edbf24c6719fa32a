//! Locks, atomics and threads of what several threads append through: the standard library's, or with `--cfg shuttle` those of a
//! scheduler that tries one order of their steps after the other.

#[cfg(not(shuttle))]
pub(crate) use std::{sync::Condvar, sync::Mutex, sync::MutexGuard, sync::atomic, thread};

#[cfg(shuttle)]
pub(crate) use shuttle::{sync::Condvar, sync::Mutex, sync::MutexGuard, sync::atomic, thread};
