//! Appending to the one pack that a process writes.

use foldhash::{HashMap, HashMapExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::pack::{self as reading, Pack};
use crate::disk::{Disk, File, How, LockMode};
use crate::error::{Error, Result};
use crate::format::pack::{self, Coding, FrameKind, HEADER_LEN, Head, IndexEntry, MAX_BASE};
use crate::ids::{ObjectId, ObjectKind, Uid};

/// A pack at least this long gets no more frames.
pub(super) const SEALED_LEN: u64 = 64 << 20;

/// Bytes gathered before they are written.
const BUFFER_LEN: usize = 1 << 20;

/// A pack with more objects than this that its index lacks gets a new index when it is put down.
const UNINDEXED: usize = 1024;

/// The pack that this process appends to. It holds an exclusive lock on the pack's file.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) uid: Uid,
    pub(super) path: PathBuf,
    file: Box<dyn File>,
    /// Frames that have not been written yet; they begin at `written`.
    buffer: Vec<u8>,
    written: u64,
    /// Everything before this is on stable storage.
    synced: u64,
    /// End of the last mark: what stays of the pack when it is given up.
    clean_end: u64,
    /// Whether a sync has failed, which may have dropped the last mark.
    doubtful: bool,
    /// Whether the pack's name is on stable storage.
    named: bool,
    /// What stood in the pack when it was taken over from another process.
    base: Option<Arc<Pack>>,
    /// What was appended since.
    objects: HashMap<ObjectId, u64>,
    unindexed: usize,
}

/// An object ready to be appended.
pub(super) struct Encoded {
    pub(super) kind: ObjectKind,
    pub(super) id: ObjectId,
    pub(super) raw_len: u64,
    pub(super) coding: Coding,
    pub(super) stored: Vec<u8>,
}

impl Writer {
    /// Makes a new pack.
    pub(super) fn create(disk: &dyn Disk, dir: &Path, uid: Uid) -> Result<Self> {
        let path = dir.join(format!("{uid}.pack"));
        let file = disk.open(&path, How::CreateNew).map_err(|e| Error::io("create", &path, e))?;
        if !file.try_lock(LockMode::Exclusive).map_err(|e| Error::io("lock", &path, e))? {
            return Err(Error::Locked { path, holder: None });
        }
        Ok(Self {
            uid,
            path,
            file,
            buffer: pack::encode_header(uid).to_vec(),
            written: 0,
            synced: 0,
            clean_end: 0,
            doubtful: false,
            named: false,
            base: None,
            objects: HashMap::new(),
            unindexed: 0,
        })
    }

    /// Takes over a pack that another process has put down in order: nobody holds its lock, every byte belongs to a frame, and the
    /// last of them promises all that stands before it. A pack that a crash ended is left as it is, since which of its last objects
    /// are referred to is not known here.
    pub(super) fn adopt(disk: &dyn Disk, pack: &Arc<Pack>) -> Result<Option<Self>> {
        if pack.condemned || SEALED_LEN <= pack.scanned().end {
            return Ok(None);
        }
        let file = disk.open(&pack.path, How::Write).map_err(|e| Error::io("open", &pack.path, e))?;
        if !file.try_lock(LockMode::Exclusive).map_err(|e| Error::io("lock", &pack.path, e))? {
            return Ok(None);
        }
        // Only now does nobody append.
        pack.catch_up(disk)?;
        let len = file.len().map_err(|e| Error::io("stat", &pack.path, e))?;
        let scanned = pack.scanned();
        let is_whole = scanned.hole.is_none() && scanned.ends_with_mark && scanned.end == len;
        if !is_whole || SEALED_LEN <= len {
            return Ok(None);
        }
        Ok(Some(Self {
            uid: pack.uid,
            path: pack.path.clone(),
            file,
            buffer: Vec::new(),
            written: len,
            synced: scanned.synced,
            clean_end: len,
            doubtful: false,
            named: true,
            base: Some(Arc::clone(pack)),
            objects: HashMap::new(),
            unindexed: pack.unindexed(),
        }))
    }

    /// The pack's length, with what is still in the buffer.
    pub(super) fn len(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    pub(super) fn has(&self, id: &ObjectId) -> bool {
        self.find(id).is_some()
    }

    fn find(&self, id: &ObjectId) -> Option<u64> {
        self.objects.get(id).copied().or_else(|| self.base.as_ref()?.find(id))
    }

    /// Adds an object. After an error the pack must be given up.
    pub(super) fn append(&mut self, object: &Encoded) -> Result<()> {
        let at = self.len();
        let head = Head {
            kind: FrameKind::Object(object.kind),
            coding: object.coding,
            synced: self.synced,
            stored_len: object.stored.len() as u64,
            raw_len: object.raw_len,
            id: object.id,
            body_crc: crc32fast::hash(&object.stored),
        };
        self.buffer.extend_from_slice(&head.encode(self.uid, at));
        self.buffer.extend_from_slice(&object.stored);
        self.objects.insert(object.id, at);
        self.unindexed += 1;
        if BUFFER_LEN <= self.buffer.len() { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        if !self.buffer.is_empty() {
            self.file.write_at(&self.buffer, self.written).map_err(|e| Error::io("write", &self.path, e))?;
            self.written += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Returns once every object is on stable storage, and leaves a mark that says so. One sync, and for a new pack one of
    /// its directory and one of that above; returns how many. After an error the pack must be given up.
    pub(super) fn sync(&mut self, disk: &dyn Disk) -> Result<u64> {
        if self.len() == self.clean_end {
            return Ok(0);
        }
        self.flush()?;
        self.doubtful = true;
        self.file.sync().map_err(|e| Error::io("sync", &self.path, e))?;
        self.doubtful = false;
        let mut syncs = 1;
        if !self.named {
            // Whoever made the directory may have failed, or died, before its own name was synced.
            for dir in self.path.ancestors().skip(1).take(2) {
                disk.sync_dir(dir).map_err(|e| Error::io("sync", dir, e))?;
                syncs += 1;
            }
            self.named = true;
        }
        // The mark itself need not be synced: while it can be read from memory it is true, and after a power cut what
        // can be read came from stable storage.
        self.synced = self.written;
        self.buffer.extend_from_slice(&Head::mark(self.synced).encode(self.uid, self.written));
        self.flush()?;
        self.clean_end = self.written;
        Ok(syncs)
    }

    /// Reads an object that this process has put, flushing it first if need be.
    pub(super) fn get(&mut self, kind: ObjectKind, id: ObjectId, max_len: u64) -> Result<Option<Vec<u8>>> {
        let Some(at) = self.find(&id) else { return Ok(None) };
        if self.written <= at {
            self.flush()?;
        }
        reading::read_object(&*self.file, &self.path, self.uid, at, (kind, id), max_len).map(Some)
    }

    /// An object of this pack that one can be stored against which resembles `like`: that itself, or what it is stored
    /// against. With the place of its frame.
    pub(super) fn base_like(&mut self, kind: ObjectKind, like: ObjectId) -> Result<Option<(u64, Vec<u8>)>> {
        let Some(at) = self.find(&like) else { return Ok(None) };
        if self.written <= at {
            self.flush()?;
        }
        let read = reading::read_base(&*self.file, &self.path, self.uid, at).and_then(|found| match found {
            Some((head, at)) => {
                let name = (kind, head.id);
                reading::read_object(&*self.file, &self.path, self.uid, at, name, MAX_BASE).map(|raw| Some((at, raw)))
            }
            None => Ok(None),
        });
        // Nothing new shall depend on what cannot be read.
        Ok(read.unwrap_or(None))
    }

    /// Puts the pack down in order. What was not synced is cut off, so that the next process can go on with the pack.
    pub(super) fn put_down(self, disk: &dyn Disk, temp: Uid) {
        let Some(writer) = self.give_up(disk) else { return };
        if UNINDEXED <= writer.unindexed {
            writer.write_index(disk, temp);
        }
    }

    /// Cuts off what was not synced and removes a pack that never was.
    ///
    /// After a failed sync the last mark goes too, so that nobody goes on behind it: what it says is true, but it may be in memory only.
    /// Failing is no harm: such a tail is passed over or, where it is whole, holds objects that nobody relies on.
    pub(super) fn give_up(mut self, disk: &dyn Disk) -> Option<Self> {
        self.buffer.clear();
        if self.doubtful {
            self.clean_end = self.synced;
        }
        if self.clean_end < HEADER_LEN as u64 {
            let _ = disk.remove_file(&self.path);
            return None;
        }
        if self.clean_end < self.written {
            let _ = self.file.set_len(self.clean_end);
        }
        let clean_end = self.clean_end;
        self.objects.retain(|_, at| *at < clean_end);
        Some(self)
    }

    /// Ends the pack: it is synced, gets its index and is let go.
    pub(super) fn seal(mut self, disk: &dyn Disk, temp: Uid) -> Result<u64> {
        let syncs = self.sync(disk)?;
        self.write_index(disk, temp);
        Ok(syncs)
    }

    /// An index that cannot be written costs speed, nothing else.
    fn write_index(&self, disk: &dyn Disk, temp: Uid) {
        let mut entries: Vec<IndexEntry> = self.objects.iter().map(|(&id, &at)| IndexEntry { id, at }).collect();
        entries.extend(self.base.iter().flat_map(|base| base.entries()));
        entries.sort_unstable();
        entries.dedup_by_key(|entry| entry.id);
        let bytes = pack::encode_index(self.uid, self.clean_end, self.synced, &entries);
        let temp = self.path.with_extension(format!("{temp}.tmp"));
        let _ = reading::write_index(disk, &self.path, &temp, &bytes);
    }
}
