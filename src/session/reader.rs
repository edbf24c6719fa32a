//! Reading a transcript: from either side, from the middle, and as it grows.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map as Object, Value};

use super::record::{At, OwnedRecord, Record};
use super::writer::open_named;
use crate::Summary;
use crate::disk::{Disk, How, Watch};
use crate::error::{Error, Result};
use crate::format::line::{Link, kind};
use crate::ids::{Position, RecordId, Seq, SessionKey, SideName, Uid};
use crate::log::back::{Back, BackScanner};
use crate::log::ends::{self, Seen};
use crate::log::find::Finder;
use crate::log::large;
use crate::log::lineage::{Extent, View};
use crate::log::state::{Goal, State};
use crate::log::transcript::Transcript;
use crate::log::walk::{Passed, Walk, is_inside, not_inside};
use crate::objects::ObjectStore;
use crate::store::Store;
use crate::time::Timestamp;

/// A transcript as it was when it was opened, for reading.
///
/// Takes no lock and writes nothing; a writer may go on meanwhile, which [`Reader::refresh`] takes note of. Bytes are
/// verified as they are read.
#[derive(Debug)]
pub struct Reader {
    store: Store,
    key: SessionKey,
    transcript: Transcript,
    /// Look-ups by id fill caches in it.
    state: Mutex<State>,
    view: View,
    size: u64,
}

impl Reader {
    pub(crate) fn open(store: &Store, key: &SessionKey, side: Option<&SideName>) -> Result<Self> {
        let dir = store.layout().session(&key.project, &key.session);
        let transcript = open_named(&**store.disk(), &dir, key, side, How::Read)?;
        Self::of(store, key, transcript)
    }

    pub(crate) fn of(store: &Store, key: &SessionKey, transcript: Transcript) -> Result<Self> {
        let (state, ends) = State::read(&**store.disk(), &transcript, store.look())?;
        let finder = Finder { disk: &**store.disk(), layout: store.layout(), transcript: &transcript };
        let view = finder.view(transcript.position(&state.tip))?;
        let key = key.clone();
        Ok(Self { store: store.clone(), key, transcript, state: Mutex::new(state), view, size: ends.link.end })
    }

    /// The session's project and id.
    #[must_use]
    pub fn key(&self) -> &SessionKey {
        &self.key
    }

    /// The uid of this transcript.
    #[must_use]
    pub fn uid(&self) -> Uid {
        self.transcript.header.uid
    }

    /// When the transcript was made.
    #[must_use]
    pub fn created(&self) -> Timestamp {
        self.transcript.created
    }

    /// For a fork, the session that owns the record it begins behind, and where that is.
    #[must_use]
    pub fn base(&self) -> Option<(SessionKey, Position)> {
        let base = self.transcript.header.base.as_ref()?;
        Some((SessionKey { project: base.project.clone(), session: base.session.clone() }, base.at.into()))
    }

    /// The position after the newest record.
    #[must_use]
    pub fn head(&self) -> Position {
        self.view.end
    }

    /// How many records the view has.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.view.end.records
    }

    /// Whether the view has no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of this transcript's own file that are in use.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The session's metadata; a side transcript has none.
    #[must_use]
    pub fn meta(&self) -> Object<String, Value> {
        self.state().meta.clone()
    }

    /// What the store's digest makes of the view.
    ///
    /// Cost: one read of what was appended since the transcript's map was made: at most a MiB after a close, 8 MiB or a sixteenth of the
    /// file before.
    ///
    /// # Errors
    ///
    /// As [`Records::next`].
    pub fn summary(&self) -> Result<Summary> {
        let state = self.state();
        match &state.summary {
            Some(summary) => Ok(summary.clone()),
            None => state.digest_of(&**self.store.disk(), &self.transcript, &self.view, self.store.look()),
        }
    }

    /// All records, oldest first.
    #[must_use]
    pub fn records(&self) -> Records {
        Records::new(self, 0, None)
    }

    /// The records from number `seq` on.
    ///
    /// Cost: independent of how many come before, apart from what no map covers, which is as much as [`Reader::summary`] says.
    ///
    /// # Errors
    ///
    /// As [`Records::next`]. A number past the end gives no records.
    pub fn records_from(&self, seq: Seq) -> Result<Records> {
        let extents = &self.view.extents;
        let index = extents.iter().rposition(|extent| extent.first <= seq.get()).unwrap_or(0);
        let extent = &extents[index];
        let place =
            self.state().place_before(&**self.store.disk(), &self.transcript, extent, Goal::Records(seq.get()))?;
        let mut records = Records::new(self, index, Some(place));
        records.skip_to = seq.get();
        Ok(records)
    }

    /// The last `n` records, oldest first. Cost: in proportion to them.
    ///
    /// # Errors
    ///
    /// As [`Records::next`].
    pub fn last(&self, n: u64) -> Result<Records> {
        let mut back = self.records_back();
        let wanted = n.min(self.len());
        let mut place = None;
        for _ in 0..wanted {
            // The payloads are read once, on the way forward.
            match back.advance()? {
                Some(_) => place = Some(back.records),
                None => break,
            }
        }
        match place {
            Some(seq) => {
                let (index, link) = (back.index, back.before);
                let mut records = Records::new(self, index, link.map(|link| (link, seq)));
                records.skip_to = seq;
                Ok(records)
            }
            None => Ok(Records::new(self, self.view.extents.len(), None)),
        }
    }

    /// All records, newest first.
    #[must_use]
    pub fn records_back(&self) -> RecordsBack<'_> {
        RecordsBack {
            reader: self,
            index: self.view.extents.len(),
            records: self.len(),
            scanner: None,
            before: None,
            content: Vec::new(),
        }
    }

    /// The position after the record that `at` names.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the view has no such record, or its history no such position.
    pub fn position(&self, at: &At) -> Result<Position> {
        let finder = self.finder();
        let mut state = self.state();
        match at {
            At::Head => finder.owner(&self.view),
            At::Seq(seq) => finder.seq(&state, &self.view, *seq),
            At::Id(id) => finder.id(&mut state, &self.view, id),
            At::Position(position) => finder.position(&state, *position),
        }
    }

    /// The record of the view with this id. Cost: a look-up in the maps, and one read.
    ///
    /// # Errors
    ///
    /// As [`Records::next`].
    pub fn get(&self, id: &RecordId) -> Result<Option<OwnedRecord>> {
        let disk = &**self.store.disk();
        let found = self.state().find_id(disk, &self.transcript, &self.view, id)?;
        let Some((index, start)) = found else { return Ok(None) };
        let extent = &self.view.extents[index];
        let source = extent.source.open(disk)?;
        let end = source.line_at(start, |whole| Ok(whole.link.end))?;
        let position = self.state().position_at(disk, &self.transcript, extent, Goal::Offset(end))?;
        let Some(position) = position else { return Ok(None) };
        let mut records = self.records_from(Seq(position.records.saturating_sub(1)))?;
        Ok(records.next()?.map(|record| record.to_owned()))
    }

    /// Where this conversation and another one part, and what each has from there on.
    ///
    /// Told by lineage: records that a fork inherited are the same, records that only look alike are not. Both readers may
    /// be of one transcript, as it was at two [positions](Reader::at). Cost: in proportion to what is read of [`Parting::ours`] and
    /// [`Parting::theirs`], however much the two have in common, apart from finding the place as [`Reader::records_from`] does.
    ///
    /// # Errors
    ///
    /// As [`Records::next`].
    pub fn diff(&self, other: &Self) -> Result<Parting> {
        let shared = self.view.shared_with(&other.view);
        let at = match shared.checked_sub(1) {
            Some(last) => Some(self.position(&At::Seq(Seq(last)))?),
            None => None,
        };
        let (ours, theirs) = (self.records_from(Seq(shared))?, other.records_from(Seq(shared))?);
        Ok(Parting { shared, at, ours, theirs })
    }

    /// This transcript as it was at a position of its history: in an abandoned tail, say.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when its history has no such position.
    pub fn at(&self, position: Position) -> Result<Self> {
        let position = self.finder().position(&self.state(), position)?;
        let view = self.finder().view(position)?;
        let again = Self::of(&self.store, &self.key, self.transcript.clone())?;
        again.state().summary = None;
        Ok(Self { view, ..again })
    }

    /// Takes note of what was appended since. Returns whether there was anything.
    ///
    /// Cost: in proportion to what was appended.
    ///
    /// # Errors
    ///
    /// [`Error::Stale`] when the file was cut below what this reader has seen; else as [`Records::next`].
    pub fn refresh(&mut self) -> Result<bool> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (tip, look) = (state.tip, self.store.look());
        let Transcript { file, path, .. } = &self.transcript;
        let stale = |why| Error::Stale { path: path.clone(), why };
        if !self.transcript.fits(&self.transcript.position(&tip))? {
            return Err(stale("its end was cut off after a crash"));
        }
        let ends = ends::find(file, path, tip.link, |seen| match seen {
            Seen::Line(start, whole) => state.line(&self.transcript, start, whole, look),
            Seen::Gap(_) => Err(stale("it was repaired")),
        })?;
        if state.tip == tip {
            return Ok(false);
        }
        let end = self.transcript.position(&state.tip);
        drop(state);
        self.view = self.finder().view(end)?;
        self.size = ends.link.end;
        Ok(true)
    }

    /// Follows the transcript as it grows, from its end on.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the file cannot be watched.
    pub fn follow(self) -> Result<Follower> {
        let path = &self.transcript.path;
        let watch = self.store.disk().watch(path).map_err(|error| Error::io("watch", path, error))?;
        let seen = self.view.clone();
        Ok(Follower { reader: self, watch, seen, records: None })
    }

    pub(crate) fn transcript(&self) -> &Transcript {
        &self.transcript
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Where the lines end that this reader has seen of its own file.
    pub(super) fn end(&self) -> u64 {
        self.state().tip.link.end
    }

    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn finder(&self) -> Finder<'_> {
        let store = &self.store;
        Finder { disk: &**store.disk(), layout: store.layout(), transcript: &self.transcript }
    }
}

/// Where two conversations part: see [`Reader::diff`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Parting {
    /// How many records both begin with; the first that may differ has this number.
    pub shared: u64,
    /// The place after the last record that both have, in the file that owns it; `None` when they have nothing in common. A fork made
    /// there begins where the two part.
    pub at: Option<Position>,
    /// What only the reader that was asked has, oldest first.
    pub ours: Records,
    /// What only the other one has.
    pub theirs: Records,
}

/// Records of a view, oldest first.
///
/// [`Records::next`] lends each record from a reused buffer; as an [`Iterator`] it gives copies.
#[derive(Debug)]
pub struct Records {
    disk: Arc<dyn Disk>,
    objects: Arc<ObjectStore>,
    /// The payload that was read last of those that are objects.
    content: Vec<u8>,
    /// What is still to be read, nearest last.
    rest: Vec<Extent>,
    walk: Option<(Walk, u64)>,
    /// The buffer, while there is no `walk`.
    spare: Vec<u8>,
    /// Seq of the next record, and where reading starts when that is not the extent's start.
    next: u64,
    start: Option<Link>,
    skip_to: u64,
    failed: bool,
}

impl Records {
    fn new(reader: &Reader, index: usize, place: Option<(Link, u64)>) -> Self {
        let rest: Vec<Extent> = reader.view.extents.iter().skip(index).rev().cloned().collect();
        let (start, next) = match place {
            Some((link, seq)) => (Some(link), seq),
            None => (None, rest.last().map_or(0, |extent| extent.first)),
        };
        let (disk, objects) = (reader.store.disk().clone(), reader.store.objects().clone());
        let (content, spare) = (Vec::new(), Vec::new());
        Self { disk, objects, content, rest, walk: None, spare, next, start, skip_to: 0, failed: false }
    }

    /// Reads through a buffer that has been used before: one that held a long line need not grow again.
    pub(crate) fn with_buffer(mut self, buf: Vec<u8>) -> Self {
        self.spare = buf;
        self
    }

    /// Ends the reading, and gives the buffer back.
    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.walk.map_or(self.spare, |(walk, _)| walk.into_buffer())
    }

    /// The next record, or `None` at the end.
    ///
    /// Every byte is verified before it is returned. After an error comes nothing more; [`Reader::last`] and
    /// [`Reader::records_from`] read what is behind damage.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`], [`Error::Newer`], [`Error::Lineage`], [`Error::Io`].
    #[expect(clippy::should_implement_trait, reason = "the record borrows from the reader, which an iterator's cannot")]
    pub fn next(&mut self) -> Result<Option<Record<'_>>> {
        let found = self.advance();
        self.failed |= found.is_err();
        let (Some(start), Some((walk, moved))) = (found?, &self.walk) else { return Ok(None) };
        let (frame, line) = walk.framed();
        debug_assert_eq!(frame.link.end, start + frame.len as u64);
        let mut content = None;
        if frame.kind(line) == kind::LARGE {
            let read = large::payload(&self.objects, walk.source(), start, &frame.of(line));
            self.failed |= read.is_err();
            self.content = read?;
            content = Some(&self.content[..]);
        }
        let (seq, uid) = (Seq(self.next - 1), walk.source().header.uid);
        Ok(Some(Record { seq, uid, moved: *moved, frame, line, content }))
    }

    /// Goes to the next data record at or after `skip_to`.
    fn advance(&mut self) -> Result<Option<u64>> {
        if self.failed {
            return Ok(None);
        }
        loop {
            let Some((walk, _)) = &mut self.walk else {
                match self.rest.pop() {
                    Some(extent) => self.begin(&extent)?,
                    None => return Ok(None),
                }
                continue;
            };
            match walk.advance()? {
                Passed::Line(start) => {
                    let (frame, line) = walk.framed();
                    if !frame.is_data {
                        let kind = frame.kind(line);
                        if !is_inside(kind) {
                            return Err(not_inside(walk.source(), start, kind));
                        }
                        if !kind::is_record(kind) {
                            continue;
                        }
                    }
                    self.next += 1;
                    if self.next > self.skip_to {
                        return Ok(Some(start));
                    }
                }
                Passed::Gap(gap) => self.next += gap.records,
                Passed::End => self.end(),
            }
        }
    }

    /// Opens the file of an extent. Of its own, as is [`Records::end`], so that what every record passes through is short.
    #[cold]
    fn begin(&mut self, extent: &Extent) -> Result<()> {
        let from = self.start.take().unwrap_or_else(|| {
            self.next = extent.first;
            extent.from
        });
        let source = extent.source.open(&*self.disk)?;
        let buf = std::mem::take(&mut self.spare);
        self.walk = Some((Walk::with_buffer(source, from, extent.to, buf), extent.moved));
        Ok(())
    }

    #[cold]
    fn end(&mut self) {
        self.spare = self.walk.take().map_or_else(Vec::new, |(walk, _)| walk.into_buffer());
    }
}

impl Iterator for Records {
    type Item = Result<OwnedRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        Self::next(self).map(|record| record.map(|record| record.to_owned())).transpose()
    }
}

/// Records of a view, newest first.
#[derive(Debug)]
pub struct RecordsBack<'r> {
    reader: &'r Reader,
    /// The extent that is read, or the number of extents before the first.
    index: usize,
    /// Records before the place that was reached.
    records: u64,
    scanner: Option<(BackScanner, Transcript)>,
    /// What the record that was returned last is verified with.
    before: Option<Link>,
    /// The payload that was read last of those that are objects.
    content: Vec<u8>,
}

impl RecordsBack<'_> {
    /// The record before, or `None` at the start.
    ///
    /// # Errors
    ///
    /// As [`Records::next`].
    #[expect(clippy::should_implement_trait, reason = "the record borrows from the reader, which an iterator's cannot")]
    pub fn next(&mut self) -> Result<Option<Record<'_>>> {
        let Some(start) = self.advance()? else { return Ok(None) };
        let Some((scanner, source)) = &self.scanner else { return Ok(None) };
        let (frame, line) = scanner.framed();
        debug_assert_eq!(frame.link.end, start + frame.len as u64);
        let mut content = None;
        if frame.kind(line) == kind::LARGE {
            self.content = large::payload(self.reader.store.objects(), source, start, &frame.of(line))?;
            content = Some(&self.content[..]);
        }
        let moved = self.reader.view.extents[self.index].moved;
        Ok(Some(Record { seq: Seq(self.records), uid: source.header.uid, moved, frame, line, content }))
    }

    /// Goes back to the data record before.
    fn advance(&mut self) -> Result<Option<u64>> {
        loop {
            let Some((scanner, source)) = &mut self.scanner else {
                let Some(index) = self.index.checked_sub(1) else { return Ok(None) };
                let extent = &self.reader.view.extents[index];
                let source = extent.source.open(&**self.reader.store.disk())?;
                self.scanner = Some((BackScanner::new(source.file.clone(), extent.from, extent.to), source));
                self.index = index;
                continue;
            };
            let found = scanner.next().map_err(|error| source.io(error))?;
            match found {
                Back::Line(start, whole) if kind::is_record(whole.kind) => {
                    self.records = self.records.saturating_sub(1);
                    self.before = Some(scanner.link_before());
                    return Ok(Some(start));
                }
                Back::Line(_, whole) if is_inside(whole.kind) => {}
                Back::Line(start, whole) => return Err(not_inside(source, start, whole.kind)),
                Back::End => {
                    self.scanner = None;
                    if self.index == 0 {
                        return Ok(None);
                    }
                }
                Back::Bad(start, why) => {
                    let len = source.file.len().map_err(|error| source.io(error))?;
                    let first = source.first.end;
                    let gaps = ends::gaps_after(&source.file, first, len).map_err(|error| source.io(error))?;
                    let inside = |gap: &&crate::format::control::Gap| gap.from.get() <= start && start < gap.to.get();
                    let gap = gaps.iter().rev().find(inside).ok_or_else(|| source.corrupt(start, why))?;
                    self.records = self.records.saturating_sub(gap.records);
                    scanner.seek(gap.from.get());
                }
            }
        }
    }
}

/// Records of a transcript that is being written, as they come.
#[derive(Debug)]
pub struct Follower {
    reader: Reader,
    watch: Box<dyn Watch>,
    /// The view up to which everything was returned.
    seen: View,
    records: Option<Records>,
}

/// What a [`Follower`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Followed {
    /// A record was appended.
    Record(OwnedRecord),
    /// The session was rewound, or that was undone or redone: the view is another one from this record number on.
    Moved(Seq),
    /// Nothing came before the time was up.
    Nothing,
}

impl Follower {
    /// Waits for the next record, at most `timeout`.
    ///
    /// # Errors
    ///
    /// As [`Reader::refresh`].
    pub fn next(&mut self, timeout: Duration) -> Result<Followed> {
        if let Some(found) = self.pending()? {
            return Ok(found);
        }
        if !self.reader.refresh()? {
            let path = &self.reader.transcript.path;
            self.watch.wait(timeout).map_err(|error| Error::io("watch", path, error))?;
            if !self.reader.refresh()? {
                return Ok(Followed::Nothing);
            }
        }
        let shared = self.seen.shared_with(&self.reader.view);
        let old = std::mem::replace(&mut self.seen, self.reader.view.clone());
        self.records = Some(self.reader.records_from(Seq(shared))?);
        if shared < old.end.records {
            return Ok(Followed::Moved(Seq(shared)));
        }
        Ok(self.pending()?.unwrap_or(Followed::Nothing))
    }

    /// The reader, at what was found last.
    #[must_use]
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    fn pending(&mut self) -> Result<Option<Followed>> {
        let Some(records) = &mut self.records else { return Ok(None) };
        let found = Records::next(records)?.map(|record| Followed::Record(record.to_owned()));
        if found.is_none() {
            self.records = None;
        }
        Ok(found)
    }
}
