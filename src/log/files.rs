//! What a transcript's history says about files: checkpoints, notes of single paths, and head moves that moved files.

use super::ends::{self, Seen};
use super::large;
use super::lineage::{Lineage, View};
use super::scan::{Scanner, Step};
use super::transcript::{Tip, Transcript, files_of};
use super::walk::{Walk, Walked, each_line};
use crate::disk::Disk;
use crate::error::Result;
use crate::format::control;
use crate::format::files::{CheckpointRecord, FilesMove, PathText, StateText};
use crate::format::line::{Link, Whole, kind};
use crate::ids::{Position, Uid};
use crate::objects::Root;
use crate::time::Timestamp;

/// A record about files.
#[derive(Clone, Debug)]
pub(crate) enum FilesRecord {
    Checkpoint(CheckpointRecord),
    Move(FilesMove),
}

impl FilesRecord {
    /// The record that a line is, if it is about files.
    pub(crate) fn of(whole: &Whole<'_>) -> Option<Self> {
        match whole.kind {
            kind::CHECKPOINT => read_checkpoint(whole).map(Self::Checkpoint),
            _ => files_of(whole).map(Self::Move),
        }
    }

    pub(crate) fn workspace(&self) -> &PathText {
        match self {
            Self::Checkpoint(found) => &found.workspace,
            Self::Move(found) => &found.workspace,
        }
    }

    /// What the files were when the record was written.
    pub(crate) fn before(&self) -> &StateText {
        match self {
            Self::Checkpoint(found) => &found.state,
            Self::Move(found) => &found.before,
        }
    }

    /// What the session knew its files to be afterwards.
    pub(crate) fn seen(&self) -> &StateText {
        match self {
            Self::Checkpoint(found) => &found.state,
            Self::Move(found) => &found.seen,
        }
    }
}

/// The payload of a `checkpoint` line, if it is well formed.
pub(crate) fn read_checkpoint(whole: &Whole<'_>) -> Option<CheckpointRecord> {
    control::decode::<CheckpointRecord>(whole.payload).filter(|found| found.state.is_fit())
}

/// A record about files, and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct FilesLine {
    /// The file that holds it.
    pub(crate) uid: Uid,
    pub(crate) start: u64,
    /// Its place in the order of time: later files of the lineage have greater levels.
    pub(crate) level: usize,
    pub(crate) record: FilesRecord,
}

/// A checkpoint or note in a view.
#[derive(Clone, Debug)]
pub(crate) struct InView {
    pub(crate) at: Timestamp,
    /// Just after it.
    pub(crate) position: Position,
    pub(crate) record: CheckpointRecord,
}

/// All that a transcript's history says about files, in the order in which it was written: what its base's view says, then the whole of its own file,
/// abandoned tails too, since files do not go back when a conversation does.
pub(crate) struct History {
    pub(crate) lines: Vec<FilesLine>,
    own: Uid,
    base: Option<View>,
}

impl History {
    /// Reads the history of `transcript` up to `end` of its own file.
    ///
    /// Cost: one read of all of it.
    pub(crate) fn read(disk: &dyn Disk, lineage: &mut Lineage<'_>, transcript: &Transcript, end: u64) -> Result<Self> {
        let mut lines = Vec::new();
        let base = match &transcript.header.base {
            Some(base) => Some(lineage.view(base.at.into())?),
            None => None,
        };
        let n_levels = base.as_ref().map_or(0, |base| base.extents.len());
        for (level, extent) in base.iter().flat_map(|base| base.extents.iter().enumerate()) {
            let (source, uid) = (extent.source.open(disk)?, extent.source.uid);
            if extent.moved != 0
                && let Some(found) = source.move_files_at(extent.moved)?
            {
                lines.push(FilesLine { uid, start: extent.moved, level, record: FilesRecord::Move(found) });
            }
            let mut push = |start, whole: &Whole<'_>| {
                lines.extend(FilesRecord::of(whole).map(|record| FilesLine { uid, start, level, record }));
                Ok(())
            };
            each_line(&source, extent.from, extent.to, &mut push)?;
        }
        let uid = transcript.header.uid;
        each_line(transcript, transcript.first, end, |start, whole| {
            lines.extend(FilesRecord::of(whole).map(|record| FilesLine { uid, start, level: n_levels, record }));
            Ok(())
        })?;
        Ok(Self { lines, own: uid, base })
    }

    /// Whether a line was written after `position`, a place in this history.
    pub(crate) fn is_after(&self, line: &FilesLine, position: &Position) -> bool {
        let holds = |extent: &&super::lineage::Extent| {
            extent.source.uid == position.uid
                && extent.from.end <= position.offset.get()
                && position.offset.get() <= extent.to
        };
        let extents = self.base.iter().flat_map(|base| &base.extents);
        let level = match position.uid == self.own {
            true => extents.count(),
            // A place that two extents share is the end of the first one.
            false => extents.clone().position(|extent| holds(&extent)).unwrap_or(0),
        };
        level < line.level || (level == line.level && position.offset.get() <= line.start)
    }

    /// Whether the transcript's own file says anything about the files of `workspace`.
    pub(crate) fn owns_any(&self, workspace: &PathText) -> bool {
        self.lines.iter().any(|line| line.uid == self.own && line.record.workspace() == workspace)
    }
}

/// Whether a line is in a view, or is the head move that a part of it begins behind.
pub(crate) fn is_in_view(view: &View, line: &FilesLine) -> bool {
    let behind = |extent: &super::lineage::Extent| extent.source.uid == line.uid && extent.moved == line.start;
    view.holds(line.uid, line.start) || view.extents.iter().any(behind)
}

/// Every checkpoint and note in `view`, oldest first.
///
/// Cost: one read of the view.
pub(crate) fn in_view(disk: &dyn Disk, view: &View) -> Result<Vec<InView>> {
    let mut found = Vec::new();
    for extent in &view.extents {
        let source = extent.source.open(disk)?;
        let mut walk = Walk::new(source.clone(), extent.from, extent.to);
        let mut records = extent.first;
        loop {
            match walk.next()? {
                Walked::Line(start, whole) => {
                    records += u64::from(kind::is_record(whole.kind));
                    if whole.kind == kind::CHECKPOINT {
                        let record = read_checkpoint(&whole).ok_or_else(|| source.newer(start, whole.kind))?;
                        let tip = Tip { link: whole.link, records, moved: extent.moved };
                        found.push(InView {
                            at: Timestamp::of_line(whole.at),
                            position: source.position(&tip),
                            record,
                        });
                    }
                }
                Walked::Gap(gap) => records += gap.records,
                Walked::End => break,
            }
        }
    }
    Ok(found)
}

/// The newest checkpoint of a whole workspace that belongs to the record before `place` in `view`: the place just after it.
///
/// Cost: one read up to the next record.
pub(crate) fn checkpoint_at(disk: &dyn Disk, view: &View, place: &Position) -> Result<Option<Position>> {
    let mut found = None;
    let Some(index) = view.extent_of(place) else { return Ok(found) };
    let mut from = Some(link_at(place));
    for extent in view.extents.iter().skip(index) {
        let source = extent.source.open(disk)?;
        let mut walk = Walk::new(source.clone(), from.take().unwrap_or(extent.from), extent.to);
        loop {
            match walk.next()? {
                Walked::Line(_, whole) if kind::is_record(whole.kind) => return Ok(found),
                Walked::Line(_, whole) if whole.kind == kind::CHECKPOINT => {
                    if read_checkpoint(&whole).is_some_and(|found| found.id.is_some() && found.state.tree.is_some()) {
                        let tip = Tip { link: whole.link, records: place.records, moved: extent.moved };
                        found = Some(source.position(&tip));
                    }
                }
                Walked::Line(..) => {}
                Walked::Gap(_) => return Ok(found),
                Walked::End => break,
            }
        }
    }
    Ok(found)
}

/// Shows every record about files that stands in `transcript` after `from` to `visit`, in whatever view.
///
/// # Errors
///
/// As [`ends::find`].
pub(crate) fn each_record(
    transcript: &Transcript,
    from: Link,
    mut visit: impl FnMut(FilesRecord) -> Result<()>,
) -> Result<()> {
    ends::find(&transcript.file, &transcript.path, from, |seen| match seen {
        Seen::Line(start, whole) => match FilesRecord::of(whole) {
            Some(record) => visit(record),
            None if whole.kind == kind::CHECKPOINT => Err(transcript.newer(start, whole.kind)),
            None => Ok(()),
        },
        Seen::Gap(_) => Ok(()),
    })
    .map(drop)
}

/// Shows every object that `transcript` refers to, in whatever view, to `visit`, with the start of the line. Those of a batch without its end are
/// among them: a file that is kept for a fork may end within one.
///
/// # Errors
///
/// As [`ends::find`].
pub(crate) fn each_object(transcript: &Transcript, mut visit: impl FnMut(u64, Root)) -> Result<()> {
    let mut look = |start: u64, whole: &Whole<'_>| {
        match (whole.kind, FilesRecord::of(whole)) {
            (kind::LARGE, _) => visit(start, Root::Blob(large::reference(transcript, start, whole)?.object)),
            (_, Some(record)) => record.entries().into_iter().for_each(|entry| visit(start, Root::Entry(entry))),
            (kind::CHECKPOINT, None) => return Err(transcript.newer(start, whole.kind)),
            _ => {}
        }
        Ok(())
    };
    let ends = ends::find(&transcript.file, &transcript.path, transcript.first, |seen| match seen {
        Seen::Line(start, whole) => look(start, whole),
        Seen::Gap(_) => Ok(()),
    })?;
    let mut rest = Scanner::new(transcript.file.clone(), ends.link, ends.len);
    while let Step::Line(start, whole) = rest.next().map_err(|error| transcript.io(error))? {
        look(start, &whole)?;
    }
    Ok(())
}

/// The position after line `link` of a base: where its file goes on without the fork.
pub(crate) fn link_at(position: &Position) -> Link {
    Link { end: position.offset.get(), crc: position.crc, synced: 0, more: false }
}
