//! Content-addressed objects, shared by a whole store.
//!
//! An object is named by the hash of its bytes, compressed where that pays, and stored once. Objects stand one after
//! another in packs; each process appends to a pack of its own and syncs it once for however many objects. A crash
//! leaves no object that reads wrong: the hash is verified on every read.
//!
//! It is not a cache: nothing is ever dropped but by [`ObjectStore::gc`].

mod delta;
mod gc;
mod pack;
mod tree;
mod writer;

use foldhash::{HashMap, HashMapExt as _};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

pub use self::gc::{GcReport, Root};
pub(crate) use self::tree::read_tree;
pub use crate::format::pack::MAX_OBJECT;
pub use crate::format::tree::{Entry, EntryKind};

use self::pack::Pack;
use self::writer::{Encoded, SEALED_LEN, Writer};
use crate::disk::{Disk, File, How, LockMode};
use crate::error::{Error, Named, Result};
use crate::format::pack::{Coding, MAX_BASE, join_delta};
use crate::ids::{ObjectId, ObjectKind, Uid};

/// A first checkpoint compresses a whole workspace while its user waits, so the quickest ordinary level.
const ZSTD_LEVEL: i32 = 1;

/// Objects shorter than this are stored as they are: the frame's head is longer than what could be saved.
const COMPRESS_FROM: usize = 64;

/// Objects that need fewer bytes than this are not stored as deltas: too little could be saved.
const DELTA_FROM: usize = 128;

/// How long a writer waits for gc to pass its two short exclusive phases, and gc for writers to end theirs.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes the random names of new packs.
pub type NewUid = Arc<dyn Fn() -> Uid + Send + Sync>;

/// The objects of one store.
///
/// `Send + Sync`; reading needs no lock and writes nothing. Dropping it cuts off what was put and never synced.
pub struct ObjectStore {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    new_uid: NewUid,
    pid: u32,
    state: Mutex<State>,
    compressors: Mutex<Vec<zstd::bulk::Compressor<'static>>>,
    syncs: AtomicU64,
}

#[derive(Default)]
struct State {
    packs: HashMap<Uid, Arc<Pack>>,
    writer: Option<Writer>,
    /// The open files of the packs read last, newest at the end.
    files: Vec<(Uid, Arc<dyn File>)>,
    /// Rises when a pack is given up, which fails every batch that had put something there.
    epoch: u64,
}

/// The time from the first look-up to the synced record that refers to the objects.
///
/// While it lives, gc neither condemns nor removes anything, so that an object found here stays. Keep it until the record
/// that names the objects is itself on stable storage.
pub struct Batch<'a> {
    store: &'a ObjectStore,
    epoch: u64,
    /// Shared with other batches; gc takes it exclusively.
    _lock: Box<dyn File>,
}

impl ObjectStore {
    /// The objects in `dir`, which need not exist yet. Touches nothing.
    #[must_use]
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, new_uid: NewUid) -> Self {
        Self {
            disk,
            dir: dir.to_owned(),
            new_uid,
            pid: std::process::id(),
            state: Mutex::default(),
            compressors: Mutex::default(),
            syncs: AtomicU64::new(0),
        }
    }

    /// Begins to put objects. Waits while gc is in one of its short exclusive phases.
    ///
    /// # Errors
    ///
    /// - [`Error::Locked`]: gc held the lock for half a minute.
    /// - [`Error::Stale`]: the process was forked, and this is the child.
    /// - [`Error::Io`]: the directory cannot be made or read.
    pub fn begin(&self) -> Result<Batch<'_>> {
        if self.pid != std::process::id() {
            return Err(Error::Stale { path: self.dir.clone(), why: "the process was forked" });
        }
        // Before the state: gc takes the two in this order as well.
        let lock = self.lock("lock", LockMode::Shared, PATIENCE)?;
        let mut state = self.state();
        self.refresh(&mut state)?;
        Ok(Batch { store: self, epoch: state.epoch, _lock: lock })
    }

    /// The object's bytes, hash verified. Sees what any process has put, synced or not.
    ///
    /// Nothing longer than `max_len` is decompressed or allocated.
    ///
    /// # Errors
    ///
    /// - [`Error::NotFound`]: no pack has it.
    /// - [`Error::Corrupt`]: every copy fails a check, or is longer than `max_len`.
    pub fn get(&self, kind: ObjectKind, id: ObjectId, max_len: u64) -> Result<Vec<u8>> {
        let mut state = self.state();
        let first = match self.get_known(&mut state, kind, id, max_len) {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        // Another process may have put it since the last look, or gc may have moved it.
        self.refresh(&mut state)?;
        // A frame whose head was misread looks like one that is not there.
        let mut doubtful = state.packs.values().filter(|pack| first.is_some() || pack.scanned().hole.is_some());
        doubtful.try_for_each(|pack| pack.scan_again(&*self.disk))?;
        match self.get_known(&mut state, kind, id, max_len)? {
            Some(found) => Ok(found),
            None => Err(first.unwrap_or_else(|| Error::not_found(Named::Object, id))),
        }
    }

    /// How many files and directories have been synced, for tests and measurements.
    #[must_use]
    pub fn sync_count(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Reads every object of every pack and returns what is damaged, as errors that name the place.
    ///
    /// Bytes after a pack's promise are what a crash leaves and are no damage. Cost: reads everything.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when a pack cannot be read at all.
    pub fn verify(&self) -> Result<Vec<Error>> {
        let mut state = self.state();
        self.refresh(&mut state)?;
        let mut damaged = Vec::new();
        for pack in state.packs.values() {
            pack.scan_again(&*self.disk)?;
            let scanned = pack.scanned();
            if let Some(at) = scanned.hole.filter(|&at| at < scanned.synced) {
                damaged.push(Error::corrupt(&pack.path, at, "promised bytes belong to no frame"));
            }
            let file = pack::open(&*self.disk, &pack.path)?;
            for entry in pack.entries().iter().filter(|entry| entry.at < scanned.synced) {
                let read = pack::read_head(&*file, &pack.path, pack.uid, entry.at).and_then(|head| match head.kind {
                    crate::format::pack::FrameKind::Object(kind) => {
                        pack::read_object(&*file, &pack.path, pack.uid, entry.at, (kind, entry.id), MAX_OBJECT)
                    }
                    crate::format::pack::FrameKind::Mark => Ok(Vec::new()),
                });
                damaged.extend(read.err());
            }
        }
        Ok(damaged)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a lock file of the store's objects, waiting at most `patience`.
    fn lock(&self, name: &str, mode: LockMode, patience: Duration) -> Result<Box<dyn File>> {
        const STEP: Duration = Duration::from_millis(2);
        let path = self.dir.join(name);
        let file = open_lock(&*self.disk, &path, 1)?;
        let mut waited = Duration::ZERO;
        while !file.try_lock(mode).map_err(|e| Error::io("lock", &path, e))? {
            if patience <= waited {
                return Err(Error::Locked { path, holder: None });
            }
            thread::sleep(STEP);
            waited += STEP;
        }
        Ok(file)
    }

    /// Brings what is known about packs up to date with the directory.
    fn refresh(&self, state: &mut State) -> Result<()> {
        let names = match self.disk.list(&self.dir) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(Error::io("list", &self.dir, error)),
        };
        let uids = |ending: &str| -> Vec<Uid> {
            let names = names.iter().filter_map(|entry| entry.name.to_str());
            names.filter_map(|name| name.strip_suffix(ending)?.parse().ok()).collect()
        };
        let (found, condemned) = (uids(".pack"), uids(".condemned"));
        if state.writer.as_ref().is_some_and(|writer| !found.contains(&writer.uid)) {
            // Somebody has moved the pack in hand away: what is put there would not be found again.
            state.writer = None;
            state.epoch += 1;
        }
        let own = state.writer.as_ref().map(|writer| writer.uid);
        let mut packs = HashMap::new();
        for uid in found.into_iter().filter(|&uid| Some(uid) != own) {
            let is_condemned = condemned.contains(&uid);
            let known = state.packs.remove(&uid).filter(|pack| pack.condemned == is_condemned);
            let path = self.dir.join(format!("{uid}.pack"));
            let looked = match known {
                Some(pack) => pack.catch_up(&*self.disk).map(|()| pack),
                None => Pack::load(&*self.disk, &path, uid, is_condemned).map(Arc::new),
            };
            match looked {
                Ok(pack) => drop(packs.insert(uid, pack)),
                // gc removed it after the directory was listed.
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        state.packs = packs;
        state.files.retain(|(uid, _)| state.packs.contains_key(uid));
        Ok(())
    }

    fn get_known(&self, state: &mut State, kind: ObjectKind, id: ObjectId, max_len: u64) -> Result<Option<Vec<u8>>> {
        let mut failed = None;
        if let Some(writer) = &mut state.writer {
            match writer.get(kind, id, max_len) {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                Err(error) => failed = Some(error),
            }
        }
        let places: Vec<_> =
            state.packs.values().filter_map(|pack| Some((Arc::clone(pack), pack.find(&id)?))).collect();
        for (pack, at) in places {
            let read = self
                .file_of(state, &pack)
                .and_then(|file| pack::read_object(&*file, &pack.path, pack.uid, at, (kind, id), max_len));
            match read {
                Ok(found) => return Ok(Some(found)),
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    /// The pack's open file; few are kept open, however many packs there are.
    fn file_of(&self, state: &mut State, pack: &Pack) -> Result<Arc<dyn File>> {
        const KEPT_OPEN: usize = 32;
        if let Some((_, file)) = state.files.iter().find(|(uid, _)| *uid == pack.uid) {
            return Ok(Arc::clone(file));
        }
        let file: Arc<dyn File> = Arc::from(pack::open(&*self.disk, &pack.path)?);
        if state.files.len() == KEPT_OPEN {
            state.files.remove(0);
        }
        state.files.push((pack.uid, Arc::clone(&file)));
        Ok(file)
    }

    /// Whether the object need not be stored again: it is in the pack being written, or promised in one that stays.
    fn is_stored(state: &State, id: &ObjectId) -> bool {
        Self::is_stored_in(state, id, |_| true)
    }

    /// [`ObjectStore::is_stored`], if only the packs stay that are not condemned and of which `stays` says so.
    fn is_stored_in(state: &State, id: &ObjectId, stays: impl Fn(&Pack) -> bool) -> bool {
        let is_in = |pack: &Arc<Pack>| {
            !pack.condemned && pack.find(id).is_some_and(|at| at < pack.scanned().synced) && stays(pack)
        };
        state.writer.as_ref().is_some_and(|writer| writer.has(id)) || state.packs.values().any(is_in)
    }

    /// The pack to append to: the one in hand, one that another process has put down, or a new one.
    fn writer<'s>(&self, state: &'s mut State) -> Result<&'s mut Writer> {
        if state.writer.as_ref().is_some_and(|writer| SEALED_LEN <= writer.len()) {
            self.seal(state)?;
        }
        if state.writer.is_none() {
            let mut adopted = None;
            for pack in state.packs.values() {
                adopted = Writer::adopt(&*self.disk, pack)?;
                if adopted.is_some() {
                    break;
                }
            }
            let writer = match adopted {
                Some(writer) => writer,
                None => Writer::create(&*self.disk, &self.dir, (self.new_uid)())?,
            };
            state.packs.remove(&writer.uid);
            state.writer = Some(writer);
        }
        state.writer.as_mut().ok_or_else(|| Error::Poisoned { path: self.dir.clone() })
    }

    fn seal(&self, state: &mut State) -> Result<()> {
        let Some(writer) = state.writer.take() else { return Ok(()) };
        let (path, uid) = (writer.path.clone(), writer.uid);
        match writer.seal(&*self.disk, (self.new_uid)()) {
            Ok(syncs) => drop(self.syncs.fetch_add(syncs, Ordering::Relaxed)),
            Err(error) => {
                state.epoch += 1;
                return Err(error);
            }
        }
        let pack = Pack::load(&*self.disk, &path, uid, false)?;
        state.packs.insert(uid, Arc::new(pack));
        Ok(())
    }

    /// Gives the pack in hand up after a failed write or sync. What it promises stays and can be found again.
    fn give_up(&self, state: &mut State) {
        state.epoch += 1;
        let Some(writer) = state.writer.take() else { return };
        let (path, uid) = (writer.path.clone(), writer.uid);
        if writer.give_up(&*self.disk).is_some()
            && let Ok(pack) = Pack::load(&*self.disk, &path, uid, false)
        {
            state.packs.insert(uid, Arc::new(pack));
        }
    }

    fn encode(&self, kind: ObjectKind, id: ObjectId, bytes: &[u8]) -> Encoded {
        let raw_len = bytes.len() as u64;
        if COMPRESS_FROM <= bytes.len()
            && let Ok(stored) = self.compress(bytes)
            && stored.len() + bytes.len() / 16 < bytes.len()
        {
            return Encoded { kind, id, raw_len, coding: Coding::Zstd, stored };
        }
        Encoded { kind, id, raw_len, coding: Coding::Plain, stored: bytes.to_vec() }
    }

    fn compress(&self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let pool = || self.compressors.lock().unwrap_or_else(PoisonError::into_inner);
        let spare = pool().pop();
        let mut compressor = match spare {
            Some(compressor) => compressor,
            None => zstd::bulk::Compressor::new(ZSTD_LEVEL)?,
        };
        let stored = compressor.compress(bytes)?;
        pool().push(compressor);
        Ok(stored)
    }
}

impl Batch<'_> {
    /// Puts an object and returns its id; one that is stored already is not stored again.
    ///
    /// Whether the stored one can still be read is not looked at, which would cost as much as storing it: [`ObjectStore::verify`]
    /// tells, and once the damaged pack has been moved away, what is put again is stored again.
    ///
    /// Hashing and compressing happen before any lock is taken, so that threads can share a batch. Survives nothing until
    /// [`Batch::sync`].
    ///
    /// # Errors
    ///
    /// - [`Error::TooLarge`]: longer than [`MAX_OBJECT`]. Nothing was written.
    /// - [`Error::Full`], [`Error::Io`], [`Error::Poisoned`]: the batch is lost; begin another and put all again.
    pub fn put(&self, kind: ObjectKind, bytes: &[u8]) -> Result<ObjectId> {
        self.put_like(kind, bytes, None)
    }

    /// [`Batch::put`] of an object that probably resembles `like`, an older version of the same file or directory, say:
    /// where that saves much, only what differs is stored.
    ///
    /// # Errors
    ///
    /// As [`Batch::put`]. That `like` is not there, or cannot be read, is none.
    pub fn put_like(&self, kind: ObjectKind, bytes: &[u8], like: Option<ObjectId>) -> Result<ObjectId> {
        let id = ObjectId::of(kind, bytes);
        if MAX_OBJECT < bytes.len() as u64 {
            return Err(Error::TooLarge { len: bytes.len() as u64, max: MAX_OBJECT });
        }
        if self.contains(&id)? {
            return Ok(id);
        }
        let mut encoded = self.store.encode(kind, id, bytes);
        let base = match like.filter(|_| DELTA_FROM <= encoded.stored.len()) {
            Some(like) => self.base_like(kind, like)?,
            None => None,
        };
        let delta = base.and_then(|(pack, at, base)| Some((pack, encode_delta(&encoded, at, &base, bytes)?)));
        let mut state = self.live_state()?;
        if let Some((pack, delta)) = delta
            && state.writer.as_ref().is_some_and(|writer| writer.uid == pack && writer.len() < SEALED_LEN)
        {
            encoded = delta;
        }
        if state.writer.as_ref().is_some_and(|writer| writer.has(&id)) {
            return Ok(id);
        }
        let appended = self.store.writer(&mut state).and_then(|writer| writer.append(&encoded));
        if appended.is_err() {
            self.store.give_up(&mut state);
        }
        appended.map(|()| id)
    }

    /// What to store an object against that resembles `like`, with its pack and the place of its frame.
    fn base_like(&self, kind: ObjectKind, like: ObjectId) -> Result<Option<(Uid, u64, Vec<u8>)>> {
        let mut state = self.live_state()?;
        let found = self.store.writer(&mut state).and_then(|writer| Ok((writer.uid, writer.base_like(kind, like)?)));
        match found {
            Ok((pack, base)) => Ok(base.map(|(at, base)| (pack, at, base))),
            Err(error) => {
                self.store.give_up(&mut state);
                Err(error)
            }
        }
    }

    /// Whether the object is stored and will be on stable storage after [`Batch::sync`].
    ///
    /// `false` also for an object that only an unsynced or condemned pack of another process has: it must be put again.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] and [`Error::Poisoned`].
    pub fn contains(&self, id: &ObjectId) -> Result<bool> {
        let state = self.live_state()?;
        Ok(ObjectStore::is_stored(&state, id))
    }

    /// [`Batch::contains`] of each of `ids`, in their order.
    pub(crate) fn contains_each<'i>(&self, ids: impl Iterator<Item = &'i ObjectId>) -> Result<Vec<bool>> {
        let state = self.live_state()?;
        Ok(ids.map(|id| ObjectStore::is_stored(&state, id)).collect())
    }

    /// Returns once everything that this batch has put or found is on stable storage: one sync for all of it, and two of
    /// directories when the pack is new.
    ///
    /// # Errors
    ///
    /// [`Error::Full`], [`Error::Io`], [`Error::Poisoned`]: the batch is lost; begin another and put all again.
    pub fn sync(&self) -> Result<()> {
        let mut state = self.live_state()?;
        let Some(writer) = &mut state.writer else { return Ok(()) };
        match writer.sync(&*self.store.disk) {
            Ok(syncs) => drop(self.store.syncs.fetch_add(syncs, Ordering::Relaxed)),
            Err(error) => {
                self.store.give_up(&mut state);
                return Err(error);
            }
        }
        Ok(())
    }

    fn live_state(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.store.state();
        if state.epoch == self.epoch { Ok(state) } else { Err(Error::Poisoned { path: self.store.dir.clone() }) }
    }
}

/// The same object as a delta, if that is much smaller: reading it reads its base as well.
fn encode_delta(whole: &Encoded, base_at: u64, base: &[u8], bytes: &[u8]) -> Option<Encoded> {
    if MAX_BASE < whole.raw_len {
        return None;
    }
    let stored = join_delta(base_at, &delta::zip(base, bytes).ok()?);
    let Encoded { kind, id, raw_len, .. } = *whole;
    (stored.len() <= whole.stored.len() / 2).then_some(Encoded { kind, id, raw_len, coding: Coding::Delta, stored })
}

impl Drop for ObjectStore {
    fn drop(&mut self) {
        if self.pid != std::process::id() {
            return;
        }
        let temp = (self.new_uid)();
        if let Some(writer) = self.state().writer.take() {
            writer.put_down(&*self.disk, temp);
        }
    }
}

/// Opens a lock file, and makes it and up to `levels` directories above it where they are missing.
///
/// A lock file is made only after the names of its directories are on stable storage: another process may have made those
/// and have been killed before it synced them, and what is put there would go with them.
pub(crate) fn open_lock(disk: &dyn Disk, path: &Path, levels: usize) -> Result<Box<dyn File>> {
    match disk.open(path, How::Write) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened.map_err(|e| Error::io("open", path, e)),
    }
    for dir in path.ancestors().skip(1).take(levels).collect::<Vec<_>>().into_iter().rev() {
        match disk.create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(Error::io("create", dir, error)),
            _ => {}
        }
        let parent = dir.parent().unwrap_or(dir);
        disk.sync_dir(parent).map_err(|e| Error::io("sync", parent, e))?;
    }
    disk.open(path, How::Create).map_err(|e| Error::io("open", path, e))
}

impl fmt::Debug for ObjectStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectStore").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("dir", &self.store.dir).finish_non_exhaustive()
    }
}
