//! The record that is written once files have been moved: what a journal says of it, and what becomes of it after a crash.

use serde::{Deserialize, Serialize};

use super::text;
use crate::checkpoint::{Outcome, Standing};
use crate::error::{Error, Named, Result};
use crate::format::control::{self, Place, Rewind, Undo};
use crate::format::files::{FilesMove, PathText};
use crate::format::line::kind;
use crate::ids::{Offset, Position, ProjectName, SessionId, SessionKey, SideName, Uid};
use crate::log::transcript::MovedFiles;
use crate::session::writer::{Core, Session, Writer};
use crate::session::{OpenOptions, Sharing};
use crate::store::Store;

/// What a journal says about the record that is still to be written.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Intent {
    pub(super) project: ProjectName,
    pub(super) session: SessionId,
    pub(super) side: Option<SideName>,
    pub(super) uid: Uid,
    /// The name under which the session knows the workspace.
    pub(super) workspace: PathText,
    pub(super) step: Step,
    /// Where the conversation stood, on stable storage; `None` in journals of older versions.
    pub(super) head: Option<Place>,
}

/// The head move that goes with files.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Step {
    /// To a place, or `None` for files alone.
    Rewind(Option<Place>),
    Undo(Offset),
    Redo(Offset),
}

/// What is written once files have been moved.
struct HeadMove {
    kind: &'static str,
    /// The head move that it takes back.
    of: Option<Offset>,
    to: Position,
    /// Whether the conversation stays where it is.
    alone: bool,
}

/// The session that a journal belongs to; `None` when it was deleted, so that there is nothing to record.
pub(super) fn open(store: &Store, intent: &Intent) -> Result<Option<Session>> {
    let key = SessionKey { project: intent.project.clone(), session: intent.session.clone() };
    let options = OpenOptions { sharing: Sharing::PerCall, ..OpenOptions::default() };
    let opened = match &intent.side {
        None => store.session_with(&key, options),
        Some(side) => match store.read_side(&key, side) {
            Ok(_) => store.side(&key, side, options),
            Err(error) => Err(error),
        },
    };
    match opened {
        Ok(found) => Ok(Some(found).filter(|found| found.uid() == intent.uid)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a record about files is written at once, or after a crash, when the conversation may have gone on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Commit {
    First,
    Again,
}

impl Core {
    /// Writes the record of files that were moved, and syncs it; returns the head that was left.
    ///
    /// Any error but [`Error::Poisoned`] means that nothing was written.
    pub(super) fn commit_files(&self, intent: &Intent, outcome: &Outcome, commit: Commit) -> Result<Position> {
        let done = self.change(|writer| {
            let (left, begin) = (self.transcript.position(&writer.state.tip), writer.appender.link().end);
            let HeadMove { kind, of, to, alone } = self.head_move(writer, intent, &left, commit)?;
            let files = Some(FilesMove {
                uid: outcome.uid,
                workspace: intent.workspace.clone(),
                alone,
                before: text(&outcome.before),
                seen: text(&outcome.seen),
            });
            let (to, moved) = (to.into(), left.moved);
            let payload = match of {
                None => control::encode(&Rewind { to, moved, files }),
                Some(of) => control::encode(&Undo { of, to, moved, files }),
            };
            let written = self.control(writer, kind, &payload);
            if written.is_err() && (writer.appender.is_broken() || writer.appender.link().end != begin) {
                // A part of the record may have stayed, or all of it.
                return Err(Error::Poisoned { path: self.transcript.path.clone() });
            }
            Ok((left, written?))
        });
        let (left, end) = done?;
        // The record is there for all to see: the files must not be taken back any more.
        self.sync_to(end).map_err(|_| Error::Poisoned { path: self.transcript.path.clone() })?;
        Ok(left)
    }

    /// Which head move goes with files that were moved. Where the conversation went on after a crash, it stays where it is.
    fn head_move(&self, writer: &Writer, intent: &Intent, left: &Position, commit: Commit) -> Result<HeadMove> {
        let finder = self.finder();
        let newest = left.moved.get();
        let back = |what, of: Offset, which: Option<u64>| {
            if which != Some(of.get()) {
                return Err(Error::NothingTo { what });
            }
            let alone = self.transcript.move_at(of.get())?.files == MovedFiles::Alone;
            let to = if alone { *left } else { finder.before_move(&writer.state, of.get())? };
            Ok(HeadMove { kind: what, of: Some(of), to, alone })
        };
        let files_alone = HeadMove { kind: kind::REWIND, of: None, to: *left, alone: true };
        if commit == Commit::Again && self.has_gone_on(left, intent)? {
            return Ok(files_alone);
        }
        let found = match &intent.step {
            Step::Rewind(None) => return Ok(files_alone),
            Step::Rewind(Some(to)) => {
                let to = Position::from(*to);
                let here = finder.view(*left)?.has_place(&to);
                // Where the conversation stands there already, too: undone later, it comes back to there with the files.
                let both = HeadMove { kind: kind::REWIND, of: None, to, alone: false };
                here.then_some(both).ok_or_else(|| Error::not_found(Named::Position, to))
            }
            Step::Undo(of) => back(kind::UNDO, *of, finder.undoable(newest)?),
            Step::Redo(of) => back(kind::REDO, *of, finder.redoable(newest)?),
        };
        match found {
            Err(Error::NothingTo { .. } | Error::NotFound { .. }) if commit == Commit::Again => Ok(files_alone),
            found => found,
        }
    }

    /// How the conversation stands to a rewind that was interrupted. Its record is on stable storage afterwards, if it is written.
    pub(super) fn standing(&self, uid: Uid, intent: &Intent) -> Result<Standing> {
        let (standing, end) = self.change(|writer| {
            let standing = if self.has_moved(writer, uid)? {
                Standing::Recorded
            } else if self.has_gone_on(&self.transcript.position(&writer.state.tip), intent)? {
                Standing::Passed
            } else {
                Standing::Open
            };
            Ok((standing, writer.appender.link().end))
        })?;
        if standing == Standing::Recorded {
            self.sync_to(end)?;
        }
        Ok(standing)
    }

    /// Whether the conversation, which stands at `now`, is no longer where it stood when a journal was written: what was synced before that is
    /// still there, so that it has other records or head moves then.
    fn has_gone_on(&self, now: &Position, intent: &Intent) -> Result<bool> {
        let Some(head) = intent.head.map(Position::from) else { return Ok(false) };
        let stands = (now.records, now.moved) == (head.records, head.moved);
        Ok(!stands || !self.transcript.fits(&head)?)
    }

    fn has_moved(&self, writer: &Writer, uid: Uid) -> Result<bool> {
        let mut newest = writer.state.tip.moved;
        while newest != 0 {
            if self.transcript.move_files_at(newest)?.is_some_and(|files| files.uid == uid) {
                return Ok(true);
            }
            newest = self.transcript.move_at(newest)?.moved;
        }
        Ok(false)
    }
}
