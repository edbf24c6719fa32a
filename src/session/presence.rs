//! Who has a session open: a marker in `live/`, held with a shared lock (FORMAT.md, section 10).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map as Object, Value};

use super::lock::Lock;
use crate::Summary;
use crate::disk::{Disk, How, LockMode};
use crate::error::{Error, Result};
use crate::format::control::Place;
use crate::format::line::{self, Draft, Line, Link, kind};
use crate::ids::{ProjectName, SessionId, SessionKey, Uid};
use crate::time::Timestamp;

/// What a marker says of its session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) format: u32,
    pub(crate) project: ProjectName,
    pub(crate) session: SessionId,
    /// A writer's sync or cut failed: what can be read of the transcript may be in memory only.
    pub(crate) poisoned: bool,
    /// A place in the main transcript, and what was known there, so that a list need not read what is before it.
    pub(crate) known: Option<Known>,
}

/// What a writer knew at some place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Known {
    pub(crate) at: Place,
    pub(crate) synced: u64,
    pub(crate) updated: Timestamp,
    pub(crate) digest: String,
    pub(crate) summary: Summary,
    pub(crate) meta: Object<String, Value>,
}

impl Note {
    pub(crate) fn new(key: &SessionKey) -> Self {
        let SessionKey { project, session } = key.clone();
        Self { format: crate::format::VERSION, project, session, poisoned: false, known: None }
    }

    pub(crate) fn key(&self) -> SessionKey {
        SessionKey { project: self.project.clone(), session: self.session.clone() }
    }

    /// Reads a marker; `None` when it holds nothing that can be believed, being written this moment, say.
    pub(crate) fn read(disk: &dyn Disk, path: &Path) -> Option<Self> {
        let file = disk.open(path, How::Read).ok()?;
        let mut bytes = vec![0; usize::try_from(file.len().ok()?).ok()?];
        let got = file.read_at(&mut bytes, 0).ok()?;
        let Line::Whole(whole) = line::decode(bytes.get(..got)?, Link::default()) else { return None };
        let note: Self = serde_json::from_slice(whole.payload).ok().filter(|_| whole.kind == kind::LIVE)?;
        (note.format == crate::format::VERSION).then_some(note)
    }
}

/// A share in a session's marker. While any is held, the session is live: it is not deleted, and lists look at its
/// transcript.
#[derive(Debug)]
pub(crate) struct Presence {
    disk: Arc<dyn Disk>,
    lock: Lock,
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
            let presence = Self { disk: disk.clone(), lock };
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
                return Ok(Some(Self { disk: disk.clone(), lock }));
            }
        }
    }

    /// Gives the share back, and says whether it was the last. If so, nobody can join until this is dropped or removed.
    pub(crate) fn leave(&self) -> bool {
        self.lock.try_take(LockMode::Exclusive).unwrap_or(false)
    }

    /// Writes the marker in place. What a reader finds torn is no note.
    pub(crate) fn write(&self, note: &Note, now: Timestamp) -> Result<()> {
        let payload = serde_json::to_vec(note).unwrap_or_default();
        let mut bytes = Vec::with_capacity(payload.len() + 256);
        let draft = Draft { at: &now.to_bytes(), id: None, kind: kind::LIVE, more: false };
        line::encode(&mut bytes, draft, Link::default(), 0, &payload);
        self.lock.file().write_at(&bytes, 0).map_err(|error| Error::io("write", self.lock.path(), error))
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
