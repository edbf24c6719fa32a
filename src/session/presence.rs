//! Who has a session open: a marker in `live/`, held with a shared lock (FORMAT.md, section 10).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::lock::Lock;
use crate::disk::{Disk, LockMode};
use crate::error::{Error, Result};
use crate::ids::{SessionKey, Uid};
use crate::log::note::Note;
use crate::time::Timestamp;

/// A share in a session's marker. While any is held, the session is live: it is not deleted, and lists look at its
/// transcript.
#[derive(Debug)]
pub(crate) struct Presence {
    disk: Arc<dyn Disk>,
    lock: Lock,
    /// The note that was written last through this share, unless it says that something failed; empty before the first.
    wrote: Vec<u8>,
}

impl Presence {
    /// Joins those who have session `key` open, and makes the marker if there is none.
    ///
    /// The marker survives a power cut after [`Presence::sync`].
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] when the session is being deleted for longer than `wait`; [`Error::Full`], [`Error::Io`].
    pub(crate) fn join(
        disk: &Arc<dyn Disk>,
        path: &Path,
        key: &SessionKey,
        wait: Duration,
        now: Timestamp,
    ) -> Result<Self> {
        loop {
            let lock = Lock::open(&**disk, path)?;
            lock.take(LockMode::Shared, wait)?;
            // Whoever left last may have removed the file between the two steps.
            if !lock.is_current(&**disk)? {
                continue;
            }
            let mut presence = Self { disk: disk.clone(), lock, wrote: Vec::new() };
            if Note::read(&**disk, path).is_none() {
                // A note that cannot be read may have said that it is.
                let len = presence.lock.file().len().map_err(|error| Error::io("read", path, error))?;
                presence.write(&Note { poisoned: 0 < len, ..Note::new(key) }, now)?;
            }
            return Ok(presence);
        }
    }

    /// Becomes the only one, for a deletion; `None` when others are there.
    pub(crate) fn alone(disk: &Arc<dyn Disk>, path: &Path) -> Result<Option<Self>> {
        loop {
            let lock = Lock::open(&**disk, path)?;
            if !lock.try_take(LockMode::Exclusive)? {
                return Ok(None);
            }
            if lock.is_current(&**disk)? {
                return Ok(Some(Self { disk: disk.clone(), lock, wrote: Vec::new() }));
            }
        }
    }

    /// Gives the share back, and says whether it was the last. If so, nobody can join until this is dropped or removed.
    pub(crate) fn leave(&self) -> bool {
        self.lock.try_take(LockMode::Exclusive).unwrap_or(false)
    }

    /// Says that a sync or cut of a transcript failed, and whether that could be said.
    pub(crate) fn poison(&self, key: &SessionKey, now: Timestamp) -> bool {
        self.lock.file().write_at(&Note::poisoned(key).encode(Vec::new(), now), 0).is_ok()
    }

    /// Says that a transcript was put in order since something failed. Where that cannot be said, its forks are refused.
    pub(crate) fn settled(&mut self, key: &SessionKey, transcript: Uid, now: Timestamp) {
        let mut note = self.note(key);
        if note.doubts(transcript) {
            note.settled.push(transcript);
            let _ = self.write(&note, now);
        }
    }

    /// What the marker says; one that cannot be read may have said that something failed.
    pub(crate) fn note(&self, key: &SessionKey) -> Note {
        Note::of(self.lock.file()).unwrap_or_else(|| Note::poisoned(key))
    }

    /// Writes the marker in place. What a reader finds torn is no note.
    pub(crate) fn write(&mut self, note: &Note, now: Timestamp) -> Result<()> {
        let bytes = note.encode(std::mem::take(&mut self.wrote), now);
        self.lock.file().write_at(&bytes, 0).map_err(|error| Error::io("write", self.lock.path(), error))?;
        if !note.poisoned {
            self.wrote = bytes;
        }
        Ok(())
    }

    /// Whether the marker says that a sync or cut of a transcript failed, or cannot be read. What stands there mostly is what was written last
    /// through this share, and then it need not be taken apart.
    pub(crate) fn is_poisoned(&self) -> bool {
        let file = self.lock.file();
        let mut bytes = vec![0; self.wrote.len()];
        let own = file.read_at(&mut bytes, 0).is_ok() && !bytes.is_empty() && bytes == self.wrote;
        !own && Note::of(file).is_none_or(|note| note.poisoned)
    }

    /// Returns once the marker survives a power cut.
    pub(crate) fn sync(&self) -> Result<()> {
        self.lock.file().sync().map_err(|error| Error::io("sync", self.lock.path(), error))?;
        self.sync_name()
    }

    /// Returns once the marker is there after a power cut, if torn: then lists look for its session.
    pub(crate) fn sync_name(&self) -> Result<()> {
        let path = self.lock.path();
        path.parent().map_or(Ok(()), |live| self.disk.sync_dir(live)).map_err(|error| Error::io("sync", path, error))
    }

    /// Removes the marker, which must be held alone.
    pub(crate) fn remove(self) -> Result<()> {
        let path = self.lock.path();
        self.disk.remove_file(path).map_err(|error| Error::io("remove", path, error))
    }
}

/// The uid that a marker's name tells.
pub(crate) fn marker_uid(name: &std::ffi::OsStr) -> Option<Uid> {
    name.to_str()?.parse().ok()
}
