//! The end of a transcript that is being written: lines, syncs, and what happens when either fails.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use crate::disk::File;
use crate::error::{Error, Result};
use crate::format::line::{self, Draft, Frame, Link, MAX_LEN, Whole};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard, thread};
use crate::time::Timestamp;

/// The most room that is set aside behind the lines.
const MOST_ROOM: u64 = 8 << 20;
/// The least that is worth a call.
const LEAST_ROOM: u64 = 128 << 10;
/// Which part of what was written is set aside for what is to come: a session that stays open, or was killed, takes that much more of the disk.
const ROOM_SHARE: u64 = 8;

/// Appends lines to one file, whose write lock the caller holds.
///
/// A line survives a killed process once [`Appender::write`] has returned, and a power cut once a sync has.
///
/// What every append takes on its way is always inlined: with calls the engine adds a tenth more to the write.
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
    /// The last second that was written, as milliseconds and as text: most of it stays the same for thousands of lines.
    second: (i64, [u8; Timestamp::LEN]),
    /// How many spaces are laid ahead of the lines when those before are used up. 0: none, ever.
    ahead: usize,
    /// The file's length while spaces are laid ahead.
    laid: u64,
    /// Where room for more is set aside; no file gets there when none ever is.
    room_from: u64,
    /// Where this appender began to write.
    began: u64,
    /// Whether room was set aside.
    has_room: bool,
    /// Set when a cut failed: what stands at the end is unknown.
    broken: bool,
}

impl Appender {
    pub(crate) fn new(path: PathBuf, file: Arc<dyn File>, link: Link, max_line: u64) -> Self {
        let second = (0, Timestamp::from_millis(0).to_bytes());
        let (buf, staged, laid) = (Vec::new(), Vec::new(), link.end);
        let (room_from, began) = (u64::MAX, link.end);
        let (ahead, has_room, broken) = (0, false, false);
        Self { path, file, link, buf, staged, max_line, second, ahead, laid, room_from, began, has_room, broken }
    }

    /// Lays so many spaces ahead from now on. Only for who holds the write lock as long as this lives, and
    /// [trims](Appender::trim) in the end.
    pub(crate) fn lay_ahead(&mut self, bytes: usize) {
        self.ahead = bytes;
    }

    /// Has the file system set room aside from now on, which makes writing quicker where it finds room for each page only when that is
    /// written. Under the same conditions as [`Appender::lay_ahead`], instead of it.
    pub(crate) fn set_room_aside(&mut self) {
        self.room_from = self.began + LEAST_ROOM * ROOM_SHARE;
    }

    /// Cuts off the spaces that are laid ahead, gives room back, and takes no more of either.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: they may still be there, which does no harm.
    pub(crate) fn trim(&mut self) -> Result<()> {
        (self.ahead, self.room_from) = (0, u64::MAX);
        if std::mem::take(&mut self.has_room) {
            let _ = self.file.reserve(self.link.end, 0);
        }
        if self.laid > self.link.end {
            self.file.set_len(self.link.end).map_err(|source| Error::io("cut", &self.path, source))?;
            self.laid = self.link.end;
        }
        Ok(())
    }

    /// After the last line that is written.
    pub(crate) fn link(&self) -> Link {
        self.link
    }

    /// After the last line that is staged.
    #[inline(always)]
    pub(crate) fn staged_link(&self) -> Link {
        self.staged.last().map_or(self.link, |frame| frame.link)
    }

    /// Whether the end of the file is unknown.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Goes on at `link`, where another writer left off.
    pub(crate) fn catch_up(&mut self, link: Link) {
        debug_assert!(self.buf.is_empty() && self.ahead == 0);
        self.link = link;
    }

    /// Encodes one line behind those that are staged already. `synced` is the promise that it makes.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] and what `payload` returns; the line is not staged then, those before it are.
    #[inline(always)]
    pub(crate) fn stage(
        &mut self,
        at: Timestamp,
        (kind, id, more): (&str, Option<&str>, bool),
        synced: u64,
        payload: impl FnOnce(&mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let start = self.buf.len();
        let at = self.time(at);
        let (draft, before) = (Draft { at: &at, id, kind, more }, self.staged_link());
        line::begin(&mut self.buf, draft);
        let staged = payload(&mut self.buf).and_then(|()| {
            let frame = line::finish(&mut self.buf, start, draft, before, synced);
            let max = self.max_line.min(MAX_LEN as u64);
            if frame.len as u64 > max {
                return Err(Error::TooLarge { len: frame.len as u64, max });
            }
            if frame.link.end > line::MAX_SYNCED {
                return Err(Error::TooLarge { len: frame.link.end, max: line::MAX_SYNCED });
            }
            self.staged.push(frame);
            Ok(())
        });
        if staged.is_err() {
            self.buf.truncate(start);
        }
        staged
    }

    /// The lines that are staged, with their starts.
    #[inline(always)]
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
    #[inline(always)]
    pub(crate) fn write(&mut self) -> Result<()> {
        if let Err(source) = self.write_out() {
            self.broken = self.file.set_len(self.link.end).is_err();
            (self.laid, self.room_from) = (self.link.end, u64::MAX);
            self.discard();
            return Err(Error::io("append to", &self.path, source));
        }
        self.link = self.staged_link();
        Ok(())
    }

    #[inline(always)]
    fn write_out(&mut self) -> io::Result<()> {
        let lines = self.buf.len();
        let end = self.link.end + lines as u64;
        if self.room_from < end {
            self.reserve(end);
        }
        if self.ahead == 0 || end <= self.laid {
            return self.file.write_at(&self.buf, self.link.end);
        }
        self.buf.resize(lines + self.ahead, b' ');
        let written = self.file.write_at(&self.buf, self.link.end);
        self.buf.truncate(lines);
        self.laid = end + self.ahead as u64;
        if written.is_err() {
            // There may be room for the lines alone.
            self.file.set_len(self.link.end)?;
            self.file.write_at(&self.buf, self.link.end)?;
            self.laid = end;
        }
        Ok(())
    }

    /// Sets room aside for lines that end at `end`, and for more.
    fn reserve(&mut self, end: u64) {
        let more = ((end - self.began) / ROOM_SHARE).min(MOST_ROOM);
        // Where there is none, or no such call, lines are written all the same. A part may have been set aside on a full disk.
        self.has_room = true;
        let reserved = self.file.reserve(self.link.end, end - self.link.end + more);
        self.room_from = if reserved.is_ok() { end + more } else { u64::MAX };
    }

    /// `at` as text.
    #[inline(always)]
    fn time(&mut self, at: Timestamp) -> [u8; Timestamp::LEN] {
        let (second, text) = &mut self.second;
        match u16::try_from(at.as_millis() - *second) {
            Ok(ms @ 0..1000) => Timestamp::put_millis(text, ms),
            _ => {
                *second = at.as_millis() - i64::from(at.millis_of_second());
                *text = at.to_bytes();
            }
        }
        *text
    }
}

/// Syncs of one file, shared by all threads that wait for one.
///
/// Whoever needs a sync while none runs starts one, for everything that is written by then; whoever comes meanwhile
/// waits for the next. So any number of threads share two syncs at most, and those that go on appending mostly one: whoever
/// starts a sync lets those first append again that the sync before has woken.
#[derive(Debug)]
pub(crate) struct Syncer {
    path: PathBuf,
    file: Arc<dyn File>,
    /// Length of the file that is known to be on stable storage. It never falls.
    synced: AtomicU64,
    /// A sync failed, or one of names that nobody was told of: nothing can be promised any more.
    failed: AtomicBool,
    /// The two above only change while this is locked, so that who waits misses nothing.
    turns: Mutex<Turns>,
    done: Condvar,
}

#[derive(Debug, Default)]
struct Turns {
    /// Whether a sync runs, or is about to.
    running: bool,
    /// Threads that wait for it, or for the next.
    waiting: usize,
    /// Threads that waited for the last one.
    company: usize,
}

impl Syncer {
    /// For a file whose first `synced` bytes are on stable storage.
    pub(crate) fn new(path: PathBuf, file: Arc<dyn File>, synced: u64) -> Self {
        Self {
            path,
            file,
            synced: AtomicU64::new(synced),
            failed: AtomicBool::new(false),
            turns: Mutex::new(Turns::default()),
            done: Condvar::new(),
        }
    }

    /// The promise that can be made now.
    pub(crate) fn promise(&self) -> u64 {
        self.synced.load(Ordering::Acquire)
    }

    /// Whether a sync has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Promises nothing any more, as after a sync that has failed.
    pub(crate) fn fail(&self) {
        let _turns = self.lock();
        self.failed.store(true, Ordering::Release);
    }

    /// Takes over a promise that another writer has made.
    pub(crate) fn learn(&self, synced: u64) {
        let _turns = self.lock();
        self.synced.fetch_max(synced, Ordering::Release);
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
        let mut turns = self.lock();
        loop {
            if self.has_failed() {
                return Err(Error::Poisoned { path: self.path.clone() });
            }
            if self.promise() >= wanted {
                return Ok(());
            }
            if !turns.running {
                break;
            }
            turns.waiting += 1;
            turns = self.done.wait(turns).unwrap_or_else(PoisonError::into_inner);
            turns.waiting -= 1;
        }
        turns.running = true;
        let company = turns.company;
        drop(turns);
        self.gather(company);
        let prepared = first();
        let upto = written();
        let synced: io::Result<()> = if prepared.is_ok() { self.file.sync() } else { Ok(()) };
        let mut turns = self.lock();
        turns.running = false;
        turns.company = turns.waiting;
        if prepared.is_ok() {
            match &synced {
                Ok(()) => drop(self.synced.fetch_max(upto, Ordering::Release)),
                Err(_) => self.failed.store(true, Ordering::Release),
            }
        }
        if turns.waiting > 0 {
            self.done.notify_all();
        }
        drop(turns);
        prepared?;
        // For lack of space too: `Full` would say that the handle lives.
        synced.map_err(|source| Error::Io { op: "sync", path: self.path.clone(), source })
    }

    /// Lets other threads run until as many wait as did last time, and not for long.
    fn gather(&self, company: usize) {
        // Where nobody else can run, each turn costs half a microsecond.
        const PATIENCE: usize = 32;
        for _ in 0..PATIENCE {
            if self.lock().waiting >= company {
                break;
            }
            thread::yield_now();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Turns> {
        // Nothing panics while it holds this lock.
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
