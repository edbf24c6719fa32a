//! The end of a transcript that is being written: lines, syncs, and what happens when either fails.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::disk::File;
use crate::error::{Error, Result};
use crate::format::line::{self, Draft, Frame, Link, MAX_LEN, Whole};
use crate::time::Timestamp;

/// Appends lines to one file, whose write lock the caller holds.
///
/// A line survives a killed process once [`Appender::write`] has returned, and a power cut once a sync has.
#[derive(Debug)]
pub(crate) struct Appender {
    path: PathBuf,
    file: Arc<dyn File>,
    /// After the last line that is written.
    link: Link,
    /// Lines that are encoded and not written yet.
    buf: Vec<u8>,
    /// The lines in `buf`.
    staged: Vec<Frame>,
    max_line: u64,
    /// The last time that was written, in milliseconds and as text: most of it stays the same for thousands of lines.
    second: (i64, [u8; Timestamp::LEN]),
    /// Set when a cut failed: what stands at the end is unknown.
    broken: bool,
}

impl Appender {
    pub(crate) fn new(path: PathBuf, file: Arc<dyn File>, link: Link, max_line: u64) -> Self {
        let second = (0, Timestamp::from_millis(0).to_bytes());
        Self { path, file, link, buf: Vec::new(), staged: Vec::new(), max_line, second, broken: false }
    }

    /// After the last line that is written.
    pub(crate) fn link(&self) -> Link {
        self.link
    }

    /// After the last line that is staged.
    pub(crate) fn staged_link(&self) -> Link {
        self.staged.last().map_or(self.link, |frame| frame.link)
    }

    /// Whether the end of the file is unknown.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Goes on at `link`, where another writer left off.
    pub(crate) fn catch_up(&mut self, link: Link) {
        debug_assert!(self.buf.is_empty());
        self.link = link;
    }

    /// Encodes one line behind those that are staged already. `synced` is the promise that it makes.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] and what `payload` returns; the line is not staged then, those before it are.
    pub(crate) fn stage(
        &mut self,
        at: Timestamp,
        (kind, id, more): (&str, Option<&str>, bool),
        synced: u64,
        payload: impl FnOnce(&mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let start = self.buf.len();
        let at = self.time(at);
        let before = self.staged_link();
        let encoded = line::encode_with(&mut self.buf, Draft { at: &at, id, kind, more }, before, synced, payload);
        let max = self.max_line.min(MAX_LEN as u64);
        let checked = match encoded {
            Ok(frame) if frame.len as u64 > max => Err(Error::TooLarge { len: frame.len as u64, max }),
            Ok(frame) if frame.link.end > line::MAX_SYNCED => {
                Err(Error::TooLarge { len: frame.link.end, max: line::MAX_SYNCED })
            }
            other => other,
        };
        match checked {
            Ok(frame) => self.staged.push(frame),
            Err(error) => {
                self.buf.truncate(start);
                return Err(error);
            }
        }
        Ok(())
    }

    /// The lines that are staged, with their starts.
    pub(crate) fn staged(&self) -> impl Iterator<Item = (u64, Whole<'_>)> {
        let mut place = 0;
        self.staged.iter().map(move |frame| {
            let line = &self.buf[place..place + frame.len];
            place += frame.len;
            (frame.link.end - frame.len as u64, frame.of(line))
        })
    }

    /// Forgets what is staged.
    pub(crate) fn discard(&mut self) {
        /// A buffer that grew for one large line is given back; ordinary ones are kept.
        const KEPT: usize = 1 << 20;
        self.buf.clear();
        self.buf.shrink_to(KEPT);
        self.staged.clear();
    }

    /// Writes what is staged, all of it or, after an error, nothing of it. It stays staged until
    /// [`Appender::discard`], so that the caller can take note of it.
    ///
    /// # Errors
    ///
    /// [`Error::Full`] and [`Error::Io`]: what had been written was cut off again. Where that fails too, the appender
    /// [is broken](Appender::is_broken).
    pub(crate) fn write(&mut self) -> Result<()> {
        if let Err(source) = self.file.write_at(&self.buf, self.link.end) {
            self.broken = self.file.set_len(self.link.end).is_err();
            self.discard();
            return Err(Error::io("append to", &self.path, source));
        }
        self.link = self.staged_link();
        Ok(())
    }

    /// `at` as text.
    fn time(&mut self, at: Timestamp) -> [u8; Timestamp::LEN] {
        let ms = at.as_millis();
        let (known, text) = &mut self.second;
        if known.div_euclid(1000) == ms.div_euclid(1000) {
            for (place, unit) in text[20..23].iter_mut().zip([100, 10, 1]) {
                *place = b'0' + u8::try_from(ms.rem_euclid(1000) / unit % 10).unwrap_or_default();
            }
        } else {
            *text = at.to_bytes();
        }
        *known = ms;
        *text
    }
}

/// Syncs of one file, shared by all threads that wait for one.
///
/// Whoever needs a sync while none runs starts one, for everything that is written by then; whoever comes meanwhile
/// waits for the next. So any number of threads share two syncs at most.
#[derive(Debug)]
pub(crate) struct Syncer {
    path: PathBuf,
    file: Arc<dyn File>,
    state: Mutex<SyncState>,
    done: Condvar,
}

#[derive(Debug)]
struct SyncState {
    /// Length of the file that is known to be on stable storage.
    synced: u64,
    running: bool,
    /// A sync failed: nothing can be promised any more.
    failed: bool,
}

impl Syncer {
    /// For a file whose first `synced` bytes are on stable storage.
    pub(crate) fn new(path: PathBuf, file: Arc<dyn File>, synced: u64) -> Self {
        let state = SyncState { synced, running: false, failed: false };
        Self { path, file, state: Mutex::new(state), done: Condvar::new() }
    }

    /// The promise that can be made now.
    pub(crate) fn promise(&self) -> u64 {
        self.lock().synced
    }

    /// Whether a sync has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.lock().failed
    }

    /// Takes over a promise that another writer has made.
    pub(crate) fn learn(&self, synced: u64) {
        let mut state = self.lock();
        state.synced = state.synced.max(synced);
    }

    /// Returns once the first `wanted` bytes are on stable storage. `written` tells how much is written by the time a sync
    /// starts; `first` is called just before, while no other sync runs.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] for the caller whose sync failed, [`Error::Poisoned`] for everybody after.
    pub(crate) fn sync_to(
        &self,
        wanted: u64,
        written: impl Fn() -> u64,
        first: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let mut state = self.lock();
        loop {
            if state.failed {
                return Err(Error::Poisoned { path: self.path.clone() });
            }
            if state.synced >= wanted {
                return Ok(());
            }
            if !state.running {
                break;
            }
            state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.running = true;
        drop(state);
        let prepared = first();
        let upto = written();
        let synced: io::Result<()> = if prepared.is_ok() { self.file.sync() } else { Ok(()) };
        let mut state = self.lock();
        state.running = false;
        if prepared.is_ok() {
            match &synced {
                Ok(()) => state.synced = state.synced.max(upto),
                Err(_) => state.failed = true,
            }
        }
        self.done.notify_all();
        drop(state);
        prepared?;
        // For lack of space too: `Full` would say that the handle lives.
        synced.map_err(|source| Error::Io { op: "sync", path: self.path.clone(), source })
    }

    fn lock(&self) -> MutexGuard<'_, SyncState> {
        // Nothing panics while it holds this lock, and each field is right by itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
