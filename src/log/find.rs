//! From what a caller names to a position.

use super::lineage::{Layout, Lineage, View};
use super::state::{Goal, State};
use super::transcript::{MoveKind, Transcript};
use crate::disk::Disk;
use crate::error::{Error, Named, Result};
use crate::ids::{Crc, Offset, Position, RecordId, Seq};

/// What is needed to look for places in one transcript's history.
pub(crate) struct Finder<'a> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) layout: &'a Layout,
    pub(crate) transcript: &'a Transcript,
}

impl Finder<'_> {
    /// The view at `position`.
    pub(crate) fn view(&self, position: Position) -> Result<View> {
        Lineage::new(self.disk, self.layout, self.transcript).view(position)
    }

    /// The position after the record `seq` of `view`.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the view has no such record.
    pub(crate) fn seq(&self, state: &State, view: &View, seq: Seq) -> Result<Position> {
        let missing = || Error::not_found(Named::Record, seq);
        let extent = view.extents.iter().rev().find(|extent| extent.first <= seq.get()).ok_or_else(missing)?;
        let goal = Goal::Records(seq.get() + 1);
        state.position_at(self.disk, self.transcript, extent, goal)?.ok_or_else(missing)
    }

    /// The position after the record of `view` with this id.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the view has no such record.
    pub(crate) fn id(&self, state: &mut State, view: &View, id: &RecordId) -> Result<Position> {
        let missing = || Error::not_found(Named::Record, id);
        let found = state.find_id(self.disk, self.transcript, view, id)?;
        let (index, start) = found.ok_or_else(missing)?;
        let extent = view.extents.get(index).ok_or_else(missing)?;
        let end = extent.source.open(self.disk)?.line_at(start, |whole| Ok(whole.link.end))?;
        state.position_at(self.disk, self.transcript, extent, Goal::Offset(end))?.ok_or_else(missing)
    }

    /// `given` as this transcript's history knows it, its number of records counted anew.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when it is no place in this history, or no longer.
    pub(crate) fn position(&self, state: &State, given: Position) -> Result<Position> {
        let missing = |error| match error {
            Error::Corrupt { .. } | Error::Lineage { .. } => Error::not_found(Named::Position, given),
            other => other,
        };
        let view = self.view(given).map_err(missing)?;
        let extent = view.extents.last().ok_or_else(|| Error::not_found(Named::Position, given))?;
        let goal = Goal::Offset(given.offset.get());
        let found = state.position_at(self.disk, self.transcript, extent, goal).map_err(missing)?;
        found.ok_or_else(|| Error::not_found(Named::Position, given))
    }

    /// The position at the end of `view` in the file that owns the bytes before it: where a fork of all of it begins.
    pub(crate) fn owner(&self, view: &View) -> Result<Position> {
        let [.., before, last] = view.extents.as_slice() else { return Ok(view.end) };
        if last.from.end < last.to {
            return Ok(view.end);
        }
        let source = before.source.open(self.disk)?;
        let crc = source.crc_before(before.to)?;
        let (offset, moved) = (Offset(before.to), Offset(before.moved));
        Ok(Position { uid: before.source.uid, offset, crc, records: last.first, moved })
    }

    /// What there is to undo behind the head move that starts at `newest` (0 for none): the start of that head move.
    ///
    /// FORMAT.md, section 5. Takes one hop an undo that was made.
    pub(crate) fn undoable(&self, mut newest: u64) -> Result<Option<u64>> {
        while newest != 0 {
            match self.transcript.move_at(newest)?.kind {
                MoveKind::Rewind | MoveKind::Redo(_) => return Ok(Some(newest)),
                MoveKind::Undo(of) => newest = self.transcript.move_at(of)?.moved,
            }
        }
        Ok(None)
    }

    /// What there is to redo: the start of the undo that is taken back.
    pub(crate) fn redoable(&self, mut newest: u64) -> Result<Option<u64>> {
        while newest != 0 {
            match self.transcript.move_at(newest)?.kind {
                MoveKind::Rewind => return Ok(None),
                MoveKind::Undo(_) => return Ok(Some(newest)),
                MoveKind::Redo(of) => newest = self.transcript.move_at(of)?.moved,
            }
        }
        Ok(None)
    }

    /// The position just before the head move that starts at `start`.
    pub(crate) fn before_move(&self, state: &State, start: u64) -> Result<Position> {
        let moved = Offset(self.transcript.move_at(start)?.moved);
        let crc: Crc = self.transcript.crc_before(start)?;
        let position = Position { uid: self.transcript.header.uid, offset: Offset(start), crc, records: 0, moved };
        self.position(state, position)
    }
}
