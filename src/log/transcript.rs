//! One transcript file, opened: its header, and single lines of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ends::seed_before;
use super::scan::{Scanner, Step, Stop};
use crate::disk::{Disk, File, How};
use crate::error::{Error, Result};
use crate::format::control::{self, Header, Rewind, Undo};
use crate::format::files::FilesMove;
use crate::format::line::{self, Line, Link, SEED_BACK, Whole, kind};
use crate::format::{self};
use crate::ids::{Crc, Offset, Position, Uid};
use crate::time::Timestamp;

/// As much as nearly every first line has.
const HEADER_CHUNK: usize = 1 << 10;

/// A transcript file and what its first line says.
#[derive(Clone, Debug)]
pub(crate) struct Transcript {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
    pub(crate) header: Header,
    /// The time in line 1.
    pub(crate) created: Timestamp,
    /// After line 1.
    pub(crate) first: Link,
}

/// A place that has been reached by reading: what a [`Position`] says, without the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tip {
    pub(crate) link: Link,
    /// Data records in the view that ends here.
    pub(crate) records: u64,
    /// Start of the newest head move of this file; 0 for none.
    pub(crate) moved: u64,
}

/// A head move, read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    pub(crate) kind: MoveKind,
    /// Where the line starts.
    pub(crate) start: u64,
    /// After the line.
    pub(crate) link: Link,
    pub(crate) to: Position,
    /// Start of the head move before it in the file; 0 for none.
    pub(crate) moved: u64,
    /// Whether files were moved too, or alone.
    pub(crate) files: MovedFiles,
}

/// Whether a head move moved files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MovedFiles {
    No,
    Too,
    /// The conversation stayed where it was.
    Alone,
}

/// What a head move does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MoveKind {
    Rewind,
    /// Takes back the rewind or redo at this offset.
    Undo(u64),
    /// Takes back the undo at this offset.
    Redo(u64),
}

impl Transcript {
    /// Opens `path` and reads its first line; `None` when there is no such file.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] at 0 for a bad first line, [`Error::Newer`], [`Error::Io`].
    pub(crate) fn open(disk: &dyn Disk, path: &Path, how: How) -> Result<Option<Self>> {
        let file: Arc<dyn File> = match disk.open(path, how) {
            Ok(file) => file.into(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("open", path, error)),
        };
        let mut scanner = Scanner::new(file.clone(), Link::default(), u64::MAX).reading_first(HEADER_CHUNK);
        let line = scanner.peek().map_err(|error| Error::io("read", path, error))?;
        let (header, created, first) = read_header(path, line.unwrap_or_default())?;
        Ok(Some(Self { path: path.to_owned(), file: file.clone(), header, created, first }))
    }

    /// Where an empty transcript's head is: after line 1, in its base's view.
    pub(crate) fn start(&self) -> Tip {
        let records = self.header.base.as_ref().map_or(0, |base| Position::from(base.at).records);
        Tip { link: self.first, records, moved: 0 }
    }

    /// The position of `tip` in this file.
    pub(crate) fn position(&self, tip: &Tip) -> Position {
        tip.position(self.header.uid)
    }

    /// Whether `position` is one of this file as it is now.
    pub(crate) fn fits(&self, position: &Position) -> Result<bool> {
        fits(&self.file, position).map(|fits| fits && position.uid == self.header.uid).map_err(|error| self.io(error))
    }

    /// How much of the file is known to be on stable storage, from the line that ends at `end` and the last one; 0 where
    /// neither can be read.
    pub(crate) fn promise_at(&self, end: u64) -> Result<u64> {
        let len = self.file.len().map_err(|error| self.io(error))?;
        let last = super::ends::promise_at_end(&self.file, self.first, len).map_err(|error| self.io(error))?;
        let here = super::ends::promise_at_end(&self.file, self.first, end).map_err(|error| self.io(error))?;
        Ok(last.max(here))
    }

    /// How much of the file must stay for whoever needs it up to `end`, as [`cut_behind`](super::ends::cut_behind) says.
    pub(crate) fn cut_behind(&self, end: u64) -> Result<u64> {
        super::ends::cut_behind(&self.file, end).map_err(|error| self.io(error))
    }

    /// The crc of the line that ends at `end`.
    pub(crate) fn crc_before(&self, end: u64) -> Result<Crc> {
        let seed = seed_before(&self.file, end).map_err(|error| self.io(error))?;
        seed.ok_or_else(|| self.corrupt(end, "no line ends before this place"))
    }

    /// Reads the line that starts at `start`, verified alone, and shows it to `use_line`.
    pub(crate) fn line_at<T>(&self, start: u64, use_line: impl FnOnce(&Whole<'_>) -> Result<T>) -> Result<T> {
        let len = self.file.len().map_err(|error| self.io(error))?;
        let seed = self.crc_before(start)?;
        let mut scanner = Scanner::new(self.file.clone(), Link::alone(start, seed), len);
        match scanner.next().map_err(|error| self.io(error))? {
            Step::Line(_, whole) => use_line(&whole),
            Step::Stop(stop) => Err(self.corrupt(start, stop.why())),
            Step::End => Err(self.corrupt(start, Stop::Torn.why())),
        }
    }

    /// Reads the head move that starts at `start`.
    pub(crate) fn move_at(&self, start: u64) -> Result<Move> {
        self.find_move(start)?.ok_or_else(|| self.corrupt(start, "a head move should stand here"))
    }

    /// Reads the head move that starts at `start`, if the line there is one.
    pub(crate) fn find_move(&self, start: u64) -> Result<Option<Move>> {
        self.line_at(start, |whole| self.read_move(start, whole))
    }

    /// What the head move that starts at `start` did to files, if anything.
    pub(crate) fn move_files_at(&self, start: u64) -> Result<Option<FilesMove>> {
        self.line_at(start, |whole| Ok(files_of(whole)))
    }

    /// The head move that `whole` is, if it is one.
    pub(crate) fn read_move(&self, start: u64, whole: &Whole<'_>) -> Result<Option<Move>> {
        let newer = || self.newer(start, whole.kind);
        let undo = || control::decode::<Undo>(whole.payload).ok_or_else(newer);
        let (kind, to, moved, files) = match whole.kind {
            kind::REWIND => {
                let Rewind { to, moved, files } = control::decode(whole.payload).ok_or_else(newer)?;
                (MoveKind::Rewind, to, moved, files)
            }
            kind::UNDO => undo().map(|undo| (MoveKind::Undo(undo.of.get()), undo.to, undo.moved, undo.files))?,
            kind::REDO => undo().map(|redo| (MoveKind::Redo(redo.of.get()), redo.to, redo.moved, redo.files))?,
            _ => return Ok(None),
        };
        let files = match files {
            None => MovedFiles::No,
            Some(files) if !files.is_fit() => return Err(newer()),
            Some(files) if files.alone => MovedFiles::Alone,
            Some(_) => MovedFiles::Too,
        };
        let found = Move { kind, start, link: whole.link, to: to.into(), moved: moved.get(), files };
        if files == MovedFiles::Alone && found.to.offset.get() != start {
            return Err(self.corrupt(start, "a head move that leaves the conversation where it is leads elsewhere"));
        }
        let (MoveKind::Undo(of) | MoveKind::Redo(of)) = kind else { return self.check_move(found, 0).map(Some) };
        self.check_move(found, of).map(Some)
    }

    /// That a head move leads backwards only, so that following moves comes to an end.
    fn check_move(&self, found: Move, of: u64) -> Result<Move> {
        let Position { uid, offset, moved, .. } = found.to;
        let inside = uid != self.header.uid || (self.first.end <= offset.get() && offset.get() <= found.start);
        if found.moved < found.start && of < found.start && inside && moved < offset {
            return Ok(found);
        }
        Err(self.corrupt(found.start, "a head move does not lead backwards"))
    }

    pub(crate) fn corrupt(&self, at: u64, why: &'static str) -> Error {
        Error::corrupt(&self.path, at, why)
    }

    pub(crate) fn newer(&self, at: u64, kind: &str) -> Error {
        Error::Newer { path: self.path.clone(), at: Offset(at), what: format!("a record of kind {kind:?}") }
    }

    pub(crate) fn io(&self, source: std::io::Error) -> Error {
        Error::io("read", &self.path, source)
    }
}

impl Tip {
    /// The position of this place in the file with that uid.
    pub(crate) fn position(&self, uid: Uid) -> Position {
        let Link { end, crc, .. } = self.link;
        Position { uid, offset: Offset(end), crc, records: self.records, moved: Offset(self.moved) }
    }

    /// Goes behind `whole`, which starts at `start`; `found` is the head move that it is, if it is one.
    #[inline]
    pub(crate) fn pass(&mut self, start: u64, whole: &Whole<'_>, found: Option<&Move>) {
        match found {
            Some(found) => (self.records, self.moved) = (found.to.records, start),
            None => self.records += u64::from(kind::is_record(whole.kind)),
        }
        self.link = whole.link;
    }
}

/// What a head move did to files, if it is one and did anything.
pub(crate) fn files_of(whole: &Whole<'_>) -> Option<FilesMove> {
    match whole.kind {
        kind::REWIND => control::decode::<Rewind>(whole.payload)?.files,
        kind::UNDO | kind::REDO => control::decode::<Undo>(whole.payload)?.files,
        _ => None,
    }
}

/// Whether `file` has a line that ends where `position` says, with its crc.
pub(crate) fn fits(file: &Arc<dyn File>, position: &Position) -> std::io::Result<bool> {
    Ok(position.offset.get() >= SEED_BACK as u64 && seed_before(file, position.offset.get())? == Some(position.crc))
}

/// Takes line 1 apart.
fn read_header(path: &Path, line: &[u8]) -> Result<(Header, Timestamp, Link)> {
    let payload = line::header_payload(line);
    let header = payload.and_then(control::decode::<Header>);
    let base = header.as_ref().and_then(|header| header.base.as_ref());
    let seed = base.map(|base| Position::from(base.at).crc).or_else(|| payload.and_then(newer_seed)).unwrap_or(Crc(0));
    let whole = match line::decode(line, Link::first(seed)) {
        Line::Whole(whole) => whole,
        Line::Torn => return Err(Error::corrupt(path, 0, "there is no first line")),
        Line::Bad { why, .. } => return Err(Error::corrupt(path, 0, why)),
    };
    if whole.kind != kind::HEADER {
        return Err(Error::corrupt(path, 0, "the first line is no header"));
    }
    match header {
        Some(header) if header.format == format::VERSION => Ok((header, whole.time(), whole.link)),
        Some(header) => Err(newer_header(path, &format!("format {}", header.format))),
        None => Err(newer_header(path, "this header")),
    }
}

/// The crc that a header of a later version goes on from: it stands where it does in this one.
fn newer_seed(payload: &[u8]) -> Option<Crc> {
    let value: serde_json::Value = serde_json::from_slice(payload).ok()?;
    value.pointer("/base/at/crc")?.as_str()?.parse().ok()
}

fn newer_header(path: &Path, what: &str) -> Error {
    Error::Newer { path: path.to_owned(), at: Offset(0), what: what.to_owned() }
}
