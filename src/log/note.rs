//! What a session's marker in `live/` says (FORMAT.md, section 10).

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map as Object, Value};

use crate::Summary;
use crate::disk::{Disk, File, How};
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
    /// The transcripts that were put in order since that failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) settled: Vec<Uid>,
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
        Self { format: crate::format::VERSION, project, session, poisoned: false, settled: Vec::new(), known: None }
    }

    /// That a sync or cut of a transcript failed, and nothing else.
    pub(crate) fn poisoned(key: &SessionKey) -> Self {
        Self { poisoned: true, ..Self::new(key) }
    }

    pub(crate) fn key(&self) -> SessionKey {
        SessionKey { project: self.project.clone(), session: self.session.clone() }
    }

    /// Whether a sync of this transcript failed that was not put in order since, for all that the note says.
    pub(crate) fn doubts(&self, transcript: Uid) -> bool {
        self.poisoned && !self.settled.contains(&transcript)
    }

    /// Reads a marker; `None` when it holds nothing that can be believed, being written this moment, say.
    pub(crate) fn read(disk: &dyn Disk, path: &Path) -> Option<Self> {
        Self::of(&*disk.open(path, How::Read).ok()?)
    }

    /// The note's line, in `bytes`.
    pub(crate) fn encode(&self, mut bytes: Vec<u8>, now: Timestamp) -> Vec<u8> {
        let payload = serde_json::to_vec(self).unwrap_or_default();
        bytes.clear();
        let draft = Draft { at: &now.to_bytes(), id: None, kind: kind::LIVE, more: false };
        line::encode(&mut bytes, draft, Link::default(), 0, &payload);
        bytes
    }

    /// [`Note::read`] of a marker that is open.
    pub(crate) fn of(file: &dyn File) -> Option<Self> {
        // What is torn may be in the middle of being written.
        const TRIES: usize = 3;
        (0..TRIES).find_map(|_| Self::try_of(file))
    }

    fn try_of(file: &dyn File) -> Option<Self> {
        let mut bytes = vec![0; usize::try_from(file.len().ok()?).ok()?];
        let got = file.read_at(&mut bytes, 0).ok()?;
        let Line::Whole(whole) = line::decode(bytes.get(..got)?, Link::default()) else { return None };
        let note: Self = serde_json::from_slice(whole.payload).ok().filter(|_| whole.kind == kind::LIVE)?;
        (note.format == crate::format::VERSION).then_some(note)
    }
}
