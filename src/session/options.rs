//! How a session is opened for append.

use std::time::Duration;

use super::lock::PATIENCE;

/// What an append that has returned survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// A killed process; not a power cut, until the next [`Session::sync`](crate::Session::sync) or [`Session::close`](crate::Session::close).
    #[default]
    Write,
    /// A killed process at once, a power cut after at most this long. Where a sync fails, the next append says so: the handle is
    /// [poisoned](crate::Error::Poisoned).
    ///
    /// Choosing it starts one thread for the store, which ends with the store. Where no thread is to be had, it is
    /// [`Durability::Sync`].
    Interval(Duration),
    /// A power cut. Threads that append through one handle share syncs.
    Sync,
}

/// Who may append to a transcript while a handle is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Nobody else: the write lock is held as long as the handle. The fastest.
    #[default]
    Exclusive,
    /// Other handles and processes that say the same: the write lock is taken for every call, and what others have
    /// appended meanwhile is taken note of first. The order of records is the order of calls.
    PerCall,
}

/// How a session is opened for append.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions {
    /// What an append survives; by default what the store says.
    pub durability: Option<Durability>,
    /// Who else may append.
    pub sharing: Sharing,
    /// Payloads longer than so many bytes become objects; by default what [the store says](crate::StoreOptions::spill_over).
    pub spill_over: Option<u64>,
    /// How long to wait for another handle to give back the write lock; with [`Sharing::PerCall`] at least ten seconds.
    pub wait: Duration,
    /// How many spaces to lay ahead of the lines, at most 256 KiB; none by default, and always none without [`Durability::Sync`] and
    /// [`Sharing::Exclusive`].
    ///
    /// A sync of bytes that are written over others need not record a new length of the file, which saves a third or more of its
    /// time. The spaces are written once more than without, stand at the end of the file while it is open, where `tail -f` shows them,
    /// and are cut off when the session is closed, or opened again after a crash.
    pub padding: u32,
}

/// The most spaces that are laid ahead.
const MAX_PADDING: u32 = 256 << 10;

impl OpenOptions {
    /// How many spaces to lay ahead where appends survive this.
    pub(super) fn padding(&self, durability: Durability) -> usize {
        let padded = durability == Durability::Sync && self.sharing == Sharing::Exclusive;
        if padded { self.padding.min(MAX_PADDING) as usize } else { 0 }
    }

    /// How long to wait for the write lock: those who share it hold it for one call only.
    pub(super) fn patience(&self) -> Duration {
        match self.sharing {
            Sharing::Exclusive => self.wait,
            Sharing::PerCall => self.wait.max(PATIENCE),
        }
    }
}
