//! The index of a store: what lists show, kept so that a list costs what its page costs.
//!
//! Derived from the transcripts and never trusted over them: whatever is wrong with its files, it says so and is built
//! again, and a list that it gives is right. Sorted runs that are never changed ([`run`]), a short tail that changes are
//! appended to, and an anchor outside the directory that tells an older copy put back. The bytes are in FORMAT.md,
//! section 10.
//!
//! # What survives
//!
//! | step | after a killed process | after a power cut |
//! |---|---|---|
//! | records appended to the tail | they are there | the tail may end before or within them: it ends there |
//! | tail synced | there | there: [`Index::publish`] has kept its promise |
//! | anchor overwritten | as before the step, or after it | the same; an older anchor fits a longer tail |
//! | a fold: anchor synced, run and new tail written and synced under temporary names | the old tail counts | the same |
//! | run renamed, directory synced, tail renamed | the new tail, which names the old one's end as the anchor does | either |
//! | directory synced, anchor moved, old runs removed | the new tail | the new tail |
//!
//! Nobody misses the entry of a session that is open for append: a marker in `live/` says so, and whoever lists looks at
//! that session itself.

mod filter;
mod level;
mod run;
mod tail;
#[cfg(test)]
mod tests;
mod view;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

pub use filter::{Archived, Cursor, Filter, Page};
pub(crate) use view::{Overlay, View};

use crate::disk::{Disk, File, How, LockMode};
use crate::error::{Error, Result};
use crate::format::entry::{self, Entry, MAX_TEXT_LEN};
use crate::format::tail::{Manifest, RunRef, encode_put, encode_remove};
use crate::ids::Uid;
use level::{Gather, Level};
use run::{Run, Writer};
use tail::{Loaded, Tail};

/// A tail that is longer is folded into a run.
const MAX_TAIL: u64 = 256 << 10;
/// A fold takes in the runs that are not longer than this many times what it has taken in before, so that an entry is
/// written again as often as the index has levels, about log₄ of their number.
const FACTOR: u64 = 4;
/// Bytes of entries that a rebuild sorts in memory at once.
const CHUNK: usize = 64 << 20;
/// How long to wait for another process that changes the index.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a reader looks again without the lock when files change under it.
const LOOKS: u32 = 4;

/// The index of one store. Threads may share it.
///
/// Every [`Error::Corrupt`] that its methods return means that the index has to be built again, by [`Index::rebuild`].
#[derive(Debug)]
pub(crate) struct Index {
    disk: Arc<dyn Disk>,
    place: Place,
    /// What was loaded last; its runs serve the next snapshot.
    cached: Mutex<Option<Arc<Loaded>>>,
    /// Held for every change, around the lock on the file, which two threads with one handle would both get.
    changing: Mutex<Option<Tail>>,
}

/// Where the index of a store is.
#[derive(Clone, Debug)]
struct Place {
    root: PathBuf,
    dir: PathBuf,
}

impl Place {
    fn anchor(&self) -> PathBuf {
        self.root.join("anchor")
    }

    fn tail(&self) -> PathBuf {
        self.dir.join("tail")
    }

    fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }

    fn temporary(&self, what: &str) -> PathBuf {
        self.dir.join(format!("tmp-{what}"))
    }
}

/// Whether the index can be asked.
#[derive(Debug)]
pub(crate) enum IndexState {
    /// It can.
    Ready(View),
    /// Its files are missing, damaged or older than they must be.
    NeedsRebuild {
        /// The file that shows it.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// The lock that guards changes, until it is dropped.
struct Locked<'a> {
    /// Closing the file gives the lock back; that comes first, so that the next thread finds it free.
    _file: Box<dyn File>,
    tail: MutexGuard<'a, Option<Tail>>,
}

impl Index {
    /// The index of the store in `root`. Touches no file.
    pub(crate) fn open(disk: Arc<dyn Disk>, root: &Path) -> Self {
        let place = Place { root: root.to_owned(), dir: root.join("index") };
        Self { disk, place, cached: Mutex::default(), changing: Mutex::default() }
    }

    /// The index as it is now.
    ///
    /// Takes no lock unless something looks wrong; then it waits for whoever changes the index and looks once more.
    /// Cost: the tail is read, at most a little over 256 KiB, and the runs' feet; both only when they changed since the
    /// last snapshot of this handle.
    ///
    /// # Errors
    ///
    /// - [`Error::Io`]: a file could not be read.
    /// - [`Error::Locked`]: something looks wrong, and another process has held the lock for a minute.
    pub(crate) fn snapshot(&self) -> Result<IndexState> {
        for _ in 0..LOOKS {
            match self.load() {
                Err(Error::Corrupt { .. }) => {}
                other => return other.map(IndexState::Ready),
            }
        }
        // The files may have changed between one look and the next; nobody changes them under the lock.
        let seen = match self.lock(LockMode::Shared) {
            Ok(locked) => {
                let seen = self.load();
                drop(locked);
                seen
            }
            Err(Error::Io { .. } | Error::Corrupt { .. }) => self.load(),
            Err(error) => return Err(error),
        };
        match seen {
            Ok(view) => Ok(IndexState::Ready(view)),
            Err(Error::Corrupt { path, why, .. }) => Ok(IndexState::NeedsRebuild { path, why }),
            Err(error) => Err(error),
        }
    }

    fn load(&self) -> Result<View> {
        let before = self.cached.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let loaded = Loaded::load(&*self.disk, &self.place, before)?;
        let view = View { levels: Arc::clone(&loaded.levels) };
        *self.cached.lock().unwrap_or_else(PoisonError::into_inner) = Some(loaded);
        Ok(view)
    }

    /// Makes `entries` what the index says of their sessions, and returns when they survive a power cut.
    ///
    /// Cost: one write and one sync; every few hundred entries a fold, which writes a few times as much.
    ///
    /// # Errors
    ///
    /// - [`Error::TooLarge`]: an entry has more than 16 MiB of text. Nothing was written.
    /// - [`Error::Corrupt`]: the index has to be built again. Nothing was written, unless the fold that followed met
    ///   the damage.
    /// - [`Error::Locked`]: another process has held the lock for a minute. Nothing was written.
    /// - [`Error::Full`], [`Error::Io`]: whether the entries are there is not known. After a failed sync the index
    ///   has to be built again.
    pub(crate) fn publish(&self, entries: &[Entry]) -> Result<()> {
        self.change(entries, &[])
    }

    /// Forgets sessions, and returns when that survives a power cut. Sessions that it does not know are no error.
    ///
    /// # Errors
    ///
    /// As [`Index::publish`].
    pub(crate) fn remove(&self, uids: &[Uid]) -> Result<()> {
        self.change(&[], uids)
    }

    fn change(&self, entries: &[Entry], gone: &[Uid]) -> Result<()> {
        let mut locked = self.lock(LockMode::Exclusive)?;
        // Whatever goes wrong below, the next change looks at the files afresh.
        let mut tail = Tail::current(&*self.disk, &self.place, locked.tail.take())?;
        let mut bytes = Vec::new();
        let mut crc = tail.end.crc;
        for entry in entries {
            let start = bytes.len();
            encode_put(&mut bytes, &mut crc, entry);
            check_len(bytes.len() - start)?;
        }
        gone.iter().for_each(|uid| encode_remove(&mut bytes, &mut crc, *uid));
        tail.append(&*self.disk, &self.place, &bytes, crc)?;
        if tail.end.len > MAX_TAIL {
            // The entries are there already. A fold for which there is no room now is tried again after the next change.
            match self.fold(tail) {
                Ok(folded) => tail = folded,
                Err(Error::Full { .. } | Error::Io { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        *locked.tail = Some(tail);
        Ok(())
    }

    /// Builds the index from nothing. Of entries with the same uid the last one counts.
    ///
    /// Holds the lock all the while, so `entries` must not use this index, and should read the transcripts as it is asked: what is published
    /// meanwhile then waits, and comes later than what was read. `life` is 16 random bytes. Private memory: about
    /// 64 MiB for 100,000 entries, and 28 bytes for every further one.
    ///
    /// # Errors
    ///
    /// The first error among `entries`; [`Error::TooLarge`], [`Error::Locked`], [`Error::Full`] and [`Error::Io`] as in
    /// [`Index::publish`]. The index is then as it was.
    pub(crate) fn rebuild(&self, life: [u8; 16], entries: impl IntoIterator<Item = Result<Entry>>) -> Result<()> {
        self.make_dir()?;
        let mut locked = self.lock(LockMode::Exclusive)?;
        *locked.tail = None;
        let mut number = tail::next_number(&*self.disk, &self.place)?;
        let mut chunks: Vec<RunRef> = Vec::new();
        let (mut gather, mut bytes) = (Gather::default(), Vec::new());
        for entry in entries {
            let entry = entry?;
            let start = bytes.len();
            entry::encode_text(&mut bytes, &entry);
            check_len(bytes.len() - start)?;
            gather.put(entry::row(&entry), start..bytes.len());
            if bytes.len() > CHUNK {
                let level = Level::Memory(Arc::new(std::mem::take(&mut gather).finish(std::mem::take(&mut bytes))));
                chunks.insert(0, self.write_run(&[level], true, number)?);
                number += 1;
            }
        }
        let rest = Level::Memory(Arc::new(gather.finish(bytes)));
        let run = if chunks.is_empty() && rest.rows() == 0 {
            None
        } else {
            let older = chunks.iter().map(|run| self.open_run(*run)).collect::<Result<Vec<_>>>()?;
            let levels: Vec<Level> = std::iter::once(rest).chain(older).collect();
            Some(self.write_run(&levels, true, number)?)
        };
        let generation = tail::greatest_generation(&*self.disk, &self.place)
            .checked_add(1)
            .ok_or_else(|| Error::corrupt(&self.place.tail(), 0, "generations have run out"))?;
        let manifest = Manifest { life, generation, before: None, runs: run.into_iter().collect() };
        let mut tail = Tail::install(&*self.disk, &self.place, manifest)?;
        tail.replace_anchor(&*self.disk, &self.place)?;
        tail::sweep(&*self.disk, &self.place, &tail.manifest);
        *locked.tail = Some(tail);
        Ok(())
    }

    /// [`Index::rebuild`], unless somebody else has done it since this one was found wanting.
    ///
    /// Not for an index whose runs are damaged where only a list looks: that one must be built again whatever a
    /// snapshot says.
    ///
    /// # Errors
    ///
    /// As [`Index::rebuild`] and [`Index::snapshot`].
    pub(crate) fn rebuild_if_needed<I>(&self, life: [u8; 16], entries: impl FnOnce() -> I) -> Result<()>
    where
        I: IntoIterator<Item = Result<Entry>>,
    {
        match self.snapshot()? {
            IndexState::Ready(_) => Ok(()),
            IndexState::NeedsRebuild { .. } => self.rebuild(life, entries()),
        }
    }

    fn make_dir(&self) -> Result<()> {
        match self.disk.create_dir(&self.place.dir) {
            Ok(()) => {
                self.disk.sync_dir(&self.place.root).map_err(|error| Error::io("sync", &self.place.root, error))?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io("create", &self.place.dir, error)),
        }
        Ok(())
    }

    /// Waits for the lock on changes.
    fn lock(&self, mode: LockMode) -> Result<Locked<'_>> {
        let path = self.place.lock();
        let tail = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        // Readers must not need the right to write; whoever changes the index makes a lock file that is missing.
        let how = if mode == LockMode::Shared { How::Read } else { How::Create };
        let file = match self.disk.open(&path, how) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::corrupt(&path, 0, "the file is missing"));
            }
            Err(error) => return Err(Error::io("open", &path, error)),
        };
        let (mut waited, mut step) = (Duration::ZERO, Duration::from_micros(100));
        while !file.try_lock(mode).map_err(|error| Error::io("lock", &path, error))? {
            if waited > PATIENCE {
                return Err(Error::Locked { path, holder: None });
            }
            thread::sleep(step);
            waited += step;
            step = (step * 2).min(Duration::from_millis(10));
        }
        Ok(Locked { _file: file, tail })
    }

    /// Replaces the tail, and the runs that are not much longer than it, by one run.
    fn fold(&self, mut tail: Tail) -> Result<Tail> {
        // The new tail says that it replaces exactly what the anchor says, so the anchor must say it for good.
        tail.settle(&*self.disk, &self.place)?;
        let loaded = Loaded::load(&*self.disk, &self.place, None)?;
        let mut taken = tail.end.len;
        let mut kept = tail.manifest.runs.as_slice();
        while let [newest, older @ ..] = kept {
            if newest.len > taken.saturating_mul(FACTOR) {
                break;
            }
            taken = taken.saturating_add(newest.len);
            kept = older;
        }
        let merged = 1 + tail.manifest.runs.len() - kept.len();
        let levels = loaded.levels.get(..merged).unwrap_or(&loaded.levels);
        let number = tail::next_number(&*self.disk, &self.place)?;
        let run = self.write_run(levels, kept.is_empty(), number)?;
        let generation = tail.end.generation.saturating_add(1);
        let runs = std::iter::once(run).chain(kept.iter().copied()).collect();
        let manifest = Manifest { life: tail.manifest.life, generation, before: Some(tail.end), runs };
        let mut folded = Tail::install(&*self.disk, &self.place, manifest)?;
        folded.move_anchor(&*self.disk, &self.place)?;
        tail::sweep(&*self.disk, &self.place, &folded.manifest);
        Ok(folded)
    }

    /// Writes what `levels` say together as a run and gives it its name, which no tail names yet.
    fn write_run(&self, levels: &[Level], bottom: bool, number: u64) -> Result<RunRef> {
        let path = self.place.temporary("run");
        let most = levels.iter().map(|level| u64::from(level.rows())).sum();
        let mut writer = Writer::create(&*self.disk, path.clone(), most)?;
        level::merge(levels, bottom, &mut writer)?;
        let run = writer.finish(number)?;
        let name = self.place.dir.join(run::file_name(number));
        self.disk.rename(&path, &name).map_err(|error| Error::io("rename", &name, error))?;
        Ok(run)
    }

    fn open_run(&self, run: RunRef) -> Result<Level> {
        Ok(Level::Run(Arc::new(Run::open(&*self.disk, &self.place.dir, run)?)))
    }
}

fn check_len(len: usize) -> Result<()> {
    if len > MAX_TEXT_LEN {
        return Err(Error::TooLarge { len: len as u64, max: MAX_TEXT_LEN as u64 });
    }
    Ok(())
}

/// Removes a file if there is one.
pub(crate) fn remove_if_there(disk: &dyn Disk, path: &Path) -> Result<()> {
    match disk.remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path, error)),
        _ => Ok(()),
    }
}
