//! A session that is open for append.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map as Object, Value};

use super::lock::{PATIENCE, WriteLock};
use super::options::{Durability, OpenOptions, Sharing};
use super::presence::Presence;
use super::record::{Appended, At, NewRecord};
use crate::disk::{Disk, ForkMark, How};
use crate::error::{Error, Named, Result};
use crate::format::control::{self, Large, Rewind, Undo};
use crate::format::json;
use crate::format::line::kind;
use crate::ids::{ObjectKind, Offset, Position, RecordId, SessionKey, SideName, Uid};
use crate::log::append::{Appender, Syncer};
use crate::log::ends::{self, Seen};
use crate::log::find::Finder;
use crate::log::lineage::{Layout, View, session_dir};
use crate::log::note::{Known, Note};
use crate::log::recover;
use crate::log::state::State;
use crate::log::transcript::{MovedFiles, Tip, Transcript};
use crate::objects::Batch;
use crate::store::Store;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};

mod close;

/// Bytes between two notes in the session's marker: what a list of live sessions reads at most of each.
const NOTE_EVERY: u64 = 256 << 10;

/// A transcript that is open for append: a session's main one, or a side one.
///
/// `Send` and `Sync`; threads may append through one handle, and their records are ordered as the calls are. Dropping it
/// closes it as [`Session::close`] does, except that failures go unnoticed.
pub struct Session {
    pub(crate) core: Arc<Core>,
}

/// What a handle and the store's ticker share.
pub(crate) struct Core {
    pub(crate) store: Store,
    pub(super) key: SessionKey,
    pub(super) side: Option<SideName>,
    pub(super) transcript: Transcript,
    syncer: Syncer,
    /// End of the last line that is written.
    written: AtomicU64,
    /// Whether the names of a new session survive a power cut.
    names_synced: AtomicBool,
    /// Whether it was not closed when it was opened: its names may never have been synced.
    fresh: bool,
    durability: Durability,
    spill_over: Option<u64>,
    options: OpenOptions,
    /// Locks belong to the process that took them: a forked child must not use them.
    process: ForkMark,
    writer: Mutex<Writer>,
}

/// What only one thread at a time may touch.
pub(super) struct Writer {
    pub(super) appender: Appender,
    pub(super) state: State,
    /// The view at the tip; its last extent has no end. Made when an id is looked up.
    view: Option<View>,
    lock: WriteLock,
    /// `None` once closed.
    presence: Option<Presence>,
    /// Whether the marker survives a power cut.
    marked: bool,
    /// Where the marker's last note was taken.
    noted: u64,
    /// Whether the marker was told that a sync or cut failed.
    told: bool,
    /// Whether the file ended in an `xclose` when it was opened.
    closed_at: Option<u64>,
}

impl Session {
    /// Opens a transcript of an existing session.
    pub(crate) fn open(store: &Store, key: &SessionKey, side: Option<&SideName>, options: OpenOptions) -> Result<Self> {
        let disk = &**store.disk();
        let dir = store.layout().session(&key.project, &key.session);
        loop {
            let main = open_named(disk, &dir, key, None, How::Write)?;
            let uid = main.header.uid;
            let path = store.layout().marker(uid);
            let presence = Presence::join(store.disk(), &path, key, PATIENCE, store.now())?;
            // Between the two steps the session may have been deleted, and made again.
            match open_named(disk, &dir, key, None, How::Write) {
                Ok(again) if again.header.uid == uid => {
                    let transcript = match side {
                        None => again,
                        Some(side) => open_named(disk, &dir, key, Some(side), How::Write)?,
                    };
                    return Self::attach(store, key, side, 0, transcript, presence, options);
                }
                Ok(_) | Err(Error::NotFound { .. }) => {
                    if presence.leave() {
                        store.forget(uid)?;
                        presence.remove()?;
                    }
                }
                // The marker stays: a writer that died may have left more than the index shows.
                Err(error) => return Err(error),
            }
        }
    }

    /// Opens a session that was made just now, whose first bytes are synced. `presence` was there before the session was.
    pub(crate) fn open_new(
        store: &Store,
        key: &SessionKey,
        synced: u64,
        presence: Presence,
        options: OpenOptions,
    ) -> Result<Self> {
        let dir = store.layout().session(&key.project, &key.session);
        let transcript = open_named(&**store.disk(), &dir, key, None, How::Write)?;
        Self::attach(store, key, None, synced, transcript, presence, options)
    }

    /// Takes the write lock and puts in order what was left. The file's first `synced` bytes are on stable storage for sure.
    fn attach(
        store: &Store,
        key: &SessionKey,
        side: Option<&SideName>,
        synced: u64,
        transcript: Transcript,
        mut presence: Presence,
        options: OpenOptions,
    ) -> Result<Self> {
        let disk = &**store.disk();
        let lock = WriteLock::open(disk, &transcript.path)?;
        lock.take(options.patience(), options.sharing == Sharing::Exclusive)?;
        let failed = || presence.is_poisoned();
        let doubted = failed();
        if doubted {
            recover::put_back(disk, &transcript)?;
        }
        let (mut state, mut ends) = State::read(disk, &transcript, store.look())?;
        if ends.link.end < ends.len && !ends.padding {
            // What a crash did not leave is not cut off because it was read wrong once.
            let again = State::read(disk, &transcript, store.look())?;
            if ends.link.end < again.1.link.end {
                (state, ends) = again;
            }
        }
        let whole = synced == ends.link.end && ends.len == synced;
        let synced = if whole { Ok(synced) } else { recover::settle(disk, &transcript, &ends, failed) };
        // A sync of its own may have failed, and the next one would succeed.
        let synced = synced.inspect_err(|_| {
            presence.poison(key, store.now());
        })?;
        // What was said only meanwhile may be of a later failure.
        if doubted {
            presence.settled(key, transcript.header.uid, store.now());
        }
        state.tip.link.synced = ends.link.synced;
        let path = &transcript.path;
        let durability = match options.durability.unwrap_or(store.durability()) {
            Durability::Interval(every) if !store.ticks_every(every) => Durability::Sync,
            durability => durability,
        };
        let mut appender = Appender::new(path.clone(), transcript.file.clone(), ends.link, store.max_line());
        appender.lay_ahead(options.padding(durability));
        if durability != Durability::Sync && options.sharing == Sharing::Exclusive {
            appender.set_room_aside();
        }
        let core = Core {
            store: store.clone(),
            key: key.clone(),
            side: side.cloned(),
            syncer: Syncer::new(path.clone(), transcript.file.clone(), synced.max(ends.link.synced)),
            written: AtomicU64::new(ends.link.end),
            names_synced: AtomicBool::new(false),
            fresh: !ends.closed,
            durability,
            spill_over: options.spill_over.or(store.spill_over()),
            options,
            process: ForkMark::new(),
            writer: Mutex::new(Writer {
                appender,
                state,
                view: None,
                lock,
                presence: Some(presence),
                marked: whole,
                noted: ends.link.end,
                told: false,
                closed_at: ends.closed.then_some(ends.link.end),
            }),
            transcript,
        };
        if options.sharing == Sharing::PerCall {
            core.lock().lock.release();
        }
        let core = Arc::new(core);
        if matches!(core.durability, Durability::Interval(_)) {
            store.tick_with(&core);
        }
        Ok(Self { core })
    }

    /// The session's project and id.
    #[must_use]
    pub fn key(&self) -> &SessionKey {
        &self.core.key
    }

    /// The side transcript's name, for one.
    #[must_use]
    pub fn side_name(&self) -> Option<&SideName> {
        self.core.side.as_ref()
    }

    /// The uid of this transcript.
    #[must_use]
    pub fn uid(&self) -> Uid {
        self.core.transcript.header.uid
    }

    /// Appends a value as one record.
    ///
    /// Readers see it at once. It survives what the handle's [`Durability`] says. Cost: one write, no sync with
    /// [`Durability::Write`], and no allocation once the buffers have grown.
    ///
    /// # Errors
    ///
    /// Nothing was written: [`Error::BadJson`], [`Error::TooDeep`], [`Error::TooLarge`], [`Error::Locked`], [`Error::Stale`],
    /// [`Error::Poisoned`]; [`Error::Full`] and [`Error::Io`] of the write. After [`Error::Io`] of a sync the record may or may
    /// not survive, and the handle is poisoned.
    pub fn append<T: Serialize + ?Sized>(&self, value: &T) -> Result<Position> {
        self.append_one(|buf| json::write(buf, value))
    }

    /// Appends JSON text that has been checked already.
    ///
    /// # Errors
    ///
    /// As [`Session::append`].
    pub fn append_raw(&self, value: &RawValue) -> Result<Position> {
        let payload = json::normalise(value.get().as_bytes())?;
        self.append_one(|buf| {
            buf.extend_from_slice(&payload);
            Ok(())
        })
    }

    /// Appends JSON text, which is checked first.
    ///
    /// # Errors
    ///
    /// As [`Session::append`].
    pub fn append_json(&self, text: &[u8]) -> Result<Position> {
        let payload = json::check(text)?;
        self.append_one(|buf| {
            buf.extend_from_slice(&payload);
            Ok(())
        })
    }

    fn append_one(&self, payload: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<Position> {
        if self.core.spill_over.is_none() {
            return self.append_line(kind::DATA, payload);
        }
        let mut bytes = Vec::new();
        payload(&mut bytes)?;
        let spilled = self.core.spill([&*bytes])?;
        let (kind, payload) = spilled.line(0, &bytes);
        self.append_line(kind, |buf| {
            buf.extend_from_slice(payload);
            Ok(())
        })
    }

    fn append_line(&self, kind: &'static str, payload: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<Position> {
        let core = &*self.core;
        let position = core.change(|writer| {
            let now = core.store.now();
            let promise = core.promise(writer);
            writer.appender.stage(now, (kind, None, false), promise, payload)?;
            core.write(writer)?;
            Ok(core.transcript.position(&writer.state.tip))
        })?;
        core.make_durable(position.offset.get())?;
        Ok(position)
    }

    /// Appends one record with what is set on it, unless its id is in the view already.
    ///
    /// # Errors
    ///
    /// As [`Session::append`].
    pub fn append_record(&self, record: &NewRecord<'_>) -> Result<Appended> {
        let appended = self.append_batch(std::slice::from_ref(record))?;
        Ok(appended.first().copied().unwrap_or(Appended::Duplicate))
    }

    /// Appends records as a batch: readers see all of them or none, after any crash too. Those whose id the view, or an earlier one
    /// of them, holds already are left out.
    ///
    /// Cost: one write for all of them.
    ///
    /// # Errors
    ///
    /// As [`Session::append`]; nothing of the batch was written then.
    pub fn append_batch(&self, records: &[NewRecord<'_>]) -> Result<Vec<Appended>> {
        let core = &*self.core;
        let spilled = core.spill(records.iter().map(|record| &*record.payload))?;
        let (appended, end) = core.change(|writer| {
            let now = core.store.now();
            let promise = core.promise(writer);
            let known = core.duplicates(writer, records)?;
            let last = known.iter().rposition(|known| !known);
            for (index, record) in records.iter().enumerate().filter(|(index, _)| !known[*index]) {
                let id = record.id.as_ref().map(RecordId::as_str);
                let more = Some(index) != last;
                let (kind, payload) = spilled.line(index, &record.payload);
                writer.appender.stage(record.at.unwrap_or(now), (kind, id, more), promise, |buf| {
                    buf.extend_from_slice(payload);
                    Ok(())
                })?;
            }
            let mut appended = Vec::with_capacity(records.len());
            let mut known = known.into_iter();
            core.write_each(writer, |tip| {
                appended.extend(known.by_ref().take_while(|known| *known).map(|_| Appended::Duplicate));
                appended.push(Appended::New(core.transcript.position(tip)));
            })?;
            appended.extend(known.map(|_| Appended::Duplicate));
            Ok((appended, writer.appender.link().end))
        })?;
        core.make_durable(end)?;
        Ok(appended)
    }

    /// Returns once everything that was appended through this handle survives a power cut.
    ///
    /// Threads that call it at once share syncs.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: the handle is poisoned, and what was appended since the last sync may be lost. [`Error::Poisoned`].
    pub fn sync(&self) -> Result<()> {
        self.core.sync_to(self.core.written.load(Ordering::Acquire))
    }

    /// Changes the session's metadata by a merge patch (RFC 7396): members are replaced, and removed by `null`.
    ///
    /// Metadata belongs to the session: it survives rewinds. `title`, `description` and `model` are strings, `tags` an array of
    /// strings, `cost` a number, `archived` true or false; everything else is yours.
    ///
    /// # Errors
    ///
    /// [`Error::BadArgument`] when `patch` is no object or a member has the wrong type, or this is a side transcript; else as
    /// [`Session::append`].
    pub fn set(&self, patch: &Value) -> Result<()> {
        let core = &*self.core;
        if core.side.is_some() {
            return Err(Error::BadArgument { why: "a side transcript has no metadata of its own".to_owned() });
        }
        check_meta(patch)?;
        let mut payload = Vec::new();
        json::write(&mut payload, patch)?;
        let end = core.change(|writer| core.control(writer, kind::META, &payload))?;
        core.make_durable(end)
    }

    /// The session's metadata, as [`Session::set`] and its creation left it.
    ///
    /// # Errors
    ///
    /// As [`Session::append`].
    pub fn meta(&self) -> Result<Object<String, Value>> {
        self.core.change(|writer| Ok(writer.state.meta.clone()))
    }

    /// The position after the newest record.
    ///
    /// # Errors
    ///
    /// As [`Session::append`].
    pub fn head(&self) -> Result<Position> {
        self.core.change(|writer| Ok(self.core.transcript.position(&writer.state.tip)))
    }

    /// Makes a record of the view the newest one, and returns the position that was left.
    ///
    /// Nothing is removed: what came after becomes an abandoned tail, in which forks go on working, and which [`Session::undo`] brings
    /// back. Cost: one small record.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the view has no such place; else as [`Session::append`].
    pub fn rewind(&self, to: &At) -> Result<Position> {
        let core = &*self.core;
        let (left, end) = core.change(|writer| {
            let left = core.transcript.position(&writer.state.tip);
            let view = core.finder().view(left)?;
            let target = core.place(writer, &view, to)?;
            if !view.has_place(&target) {
                return Err(Error::not_found(Named::Position, target));
            }
            let moved = Offset(writer.state.tip.moved);
            let payload = control::encode(&Rewind { to: target.into(), moved, files: None });
            Ok((left, core.control(writer, kind::REWIND, &payload)?))
        })?;
        core.make_durable(end)?;
        Ok(left)
    }

    /// Takes back the newest rewind that has not been undone, and returns the position that was left. What was appended since becomes an abandoned
    /// tail, which [`Session::redo`] brings back.
    ///
    /// # Errors
    ///
    /// [`Error::NothingTo`]; [`Error::BadArgument`] when that rewind moved files too, which [`SessionFiles::undo`](super::SessionFiles::undo)
    /// takes back; else as [`Session::append`].
    pub fn undo(&self) -> Result<Position> {
        self.take_back(kind::UNDO, |finder, newest| finder.undoable(newest))
    }

    /// Takes back the newest undo, and returns the position that was left.
    ///
    /// # Errors
    ///
    /// As [`Session::undo`].
    pub fn redo(&self) -> Result<Position> {
        self.take_back(kind::REDO, |finder, newest| finder.redoable(newest))
    }

    fn take_back(
        &self,
        what: &'static str,
        which: impl FnOnce(&Finder<'_>, u64) -> Result<Option<u64>>,
    ) -> Result<Position> {
        let core = &*self.core;
        let (left, end) = core.change(|writer| {
            let finder = core.finder();
            let left = core.transcript.position(&writer.state.tip);
            let newest = writer.state.tip.moved;
            let of = which(&finder, newest)?.ok_or(Error::NothingTo { what })?;
            if core.transcript.move_at(of)?.files != MovedFiles::No {
                let why = format!("files were moved too; {what} with the workspace, so that they come back");
                return Err(Error::BadArgument { why });
            }
            let to = finder.before_move(&writer.state, of)?.into();
            let payload = control::encode(&Undo { of: Offset(of), to, moved: Offset(newest), files: None });
            Ok((left, core.control(writer, what, &payload)?))
        })?;
        core.make_durable(end)?;
        Ok(left)
    }

    /// Syncs, and leaves the file in a state in which the next open need not look at it again.
    ///
    /// Afterwards everything survives a power cut, the session is in the store's index, and it is no longer live unless another handle
    /// is open.
    ///
    /// # Errors
    ///
    /// As [`Session::sync`], and [`Error::Full`] and [`Error::Io`] of the index.
    pub fn close(self) -> Result<()> {
        self.core.close()
    }
}

/// Payloads that became objects, of records that are about to be written.
struct Spilled<'s> {
    /// Held until the lines are written that name them, so that nobody collects the objects before.
    batch: Option<Batch<'s>>,
    /// What stands in the line instead; `None` for a payload that stays in its line, none at all when all do.
    lines: Vec<Option<Vec<u8>>>,
}

impl Spilled<'_> {
    /// Kind and payload of the line for the record with this index, whose payload is `own`.
    fn line<'l>(&'l self, index: usize, own: &'l [u8]) -> (&'static str, &'l [u8]) {
        debug_assert!(self.batch.is_some() || self.lines.iter().all(Option::is_none));
        match self.lines.get(index) {
            Some(Some(line)) => (kind::LARGE, line),
            _ => (kind::DATA, own),
        }
    }
}

impl Core {
    /// Runs `change` with the write lock held and what others have appended taken note of.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Writer) -> Result<T>) -> Result<T> {
        if !self.process.is_ours() {
            let path = self.transcript.path.clone();
            return Err(Error::Stale { path, why: "the process was forked, and locks do not come along" });
        }
        let mut guard = self.lock();
        let writer = &mut *guard;
        if writer.presence.is_none() || writer.appender.is_broken() || self.syncer.has_failed() {
            return Err(Error::Poisoned { path: self.transcript.path.clone() });
        }
        let shared = self.options.sharing == Sharing::PerCall;
        if shared {
            writer.lock.take(self.options.patience(), false)?;
        }
        let result = if shared { self.catch_up(writer) } else { Ok(()) }.and_then(|()| change(writer));
        if result.is_err() {
            writer.appender.discard();
        }
        if shared {
            writer.lock.release();
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(|poisoned| {
            // A panic of a caller's serialiser leaves lines staged and nothing else.
            let mut writer = poisoned.into_inner();
            writer.appender.discard();
            writer
        })
    }

    /// Takes note of what other writers have appended. Where that fails, the next call goes on behind the last line that was taken note of.
    fn catch_up(&self, writer: &mut Writer) -> Result<()> {
        let Transcript { file, path, .. } = &self.transcript;
        let stale = |why| Error::Stale { path: path.clone(), why };
        let link = writer.appender.link();
        let len = file.len().map_err(|error| Error::io("read", path, error))?;
        if len < link.end || !self.transcript.fits(&self.transcript.position(&writer.state.tip))? {
            return Err(stale("another program cut or rewrote it"));
        }
        if len == link.end && !link.more {
            return Ok(());
        }
        let (state, look) = (&mut writer.state, self.store.look());
        let found = ends::find(file, path, link, |seen| match seen {
            Seen::Line(start, whole) => state.line(&self.transcript, start, whole, look),
            Seen::Gap(_) => Err(stale("it was repaired")),
        });
        let reached = state.tip.link;
        writer.view = None;
        writer.appender.catch_up(reached);
        self.written.store(reached.end, Ordering::Release);
        let ends = found?;
        // The rest of a batch may be gone that was read up to here.
        if ends.link.end != len || reached.more {
            return Err(stale("something stands at its end that does not continue it"));
        }
        self.syncer.learn(ends.promise);
        Ok(())
    }

    /// Makes objects of the payloads that are longer than the caller wants them in lines, and syncs them.
    fn spill<'p>(&self, payloads: impl IntoIterator<Item = &'p [u8]>) -> Result<Spilled<'_>> {
        let mut spilled = Spilled { batch: None, lines: Vec::new() };
        let Some(most) = self.spill_over else { return Ok(spilled) };
        for payload in payloads {
            let mut line = None;
            if payload.len() as u64 > most {
                let batch = match &spilled.batch {
                    Some(batch) => batch,
                    None => spilled.batch.insert(self.store.objects().begin()?),
                };
                let object = batch.put(ObjectKind::Blob, payload)?;
                line = Some(control::encode(&Large { object, size: payload.len() as u64 }));
            }
            spilled.lines.push(line);
        }
        if let Some(batch) = &spilled.batch {
            batch.sync()?;
        }
        Ok(spilled)
    }

    /// The promise of the next line.
    fn promise(&self, writer: &Writer) -> u64 {
        let link = writer.appender.staged_link();
        self.syncer.promise().max(link.synced).min(link.end)
    }

    /// Which of `records` have an id that the view, or one before them, holds.
    fn duplicates(&self, writer: &mut Writer, records: &[NewRecord<'_>]) -> Result<Vec<bool>> {
        let mut known = Vec::with_capacity(records.len());
        let mut here = std::collections::HashSet::new();
        for record in records {
            let Some(id) = &record.id else {
                known.push(false);
                continue;
            };
            let twice = !here.insert(id);
            known.push(twice || self.holds(writer, id)?);
        }
        Ok(known)
    }

    /// Whether the view holds a record with this id.
    fn holds(&self, writer: &mut Writer, id: &RecordId) -> Result<bool> {
        if writer.view.is_none() {
            let mut view = self.finder().view(self.transcript.position(&writer.state.tip))?;
            // It stays the view while records are added at its end.
            if let Some(last) = view.extents.last_mut() {
                last.to = u64::MAX;
            }
            writer.view = Some(view);
        }
        let Some(view) = &writer.view else { return Ok(false) };
        let found = writer.state.find_id(&**self.store.disk(), &self.transcript, view, id)?;
        Ok(found.is_some())
    }

    /// Writes one control record, and returns its end.
    pub(super) fn control(&self, writer: &mut Writer, kind: &'static str, payload: &[u8]) -> Result<u64> {
        let promise = self.promise(writer);
        writer.appender.stage(self.store.now(), (kind, None, false), promise, |buf| {
            buf.extend_from_slice(payload);
            Ok(())
        })?;
        if matches!(kind, kind::REWIND | kind::UNDO | kind::REDO) {
            writer.view = None;
        }
        self.write(writer)?;
        Ok(writer.appender.link().end)
    }

    /// Writes what is staged and takes note of it.
    ///
    /// The first time, the marker is made to survive a power cut before: what is written may survive one, synced or not, and then lists
    /// must know that the index is behind.
    fn write(&self, writer: &mut Writer) -> Result<()> {
        self.write_each(writer, |_| {})
    }

    /// [`Core::write`], which shows the place after each line to `each`.
    fn write_each(&self, writer: &mut Writer, mut each: impl FnMut(&Tip)) -> Result<()> {
        if let Some(presence) = writer.presence.as_ref().filter(|_| !writer.marked) {
            presence.sync()?;
        }
        writer.marked = true;
        let written = writer.appender.write();
        if writer.appender.is_broken() {
            self.note_poison(writer);
        }
        written?;
        let Writer { appender, state, .. } = writer;
        for (start, whole) in appender.staged() {
            state.line(&self.transcript, start, &whole, self.store.look())?;
            each(&state.tip);
        }
        appender.discard();
        self.written.store(appender.link().end, Ordering::Release);
        if appender.link().end >= writer.noted + NOTE_EVERY {
            // Only lists are slower without a note or a map.
            let _ = self.take_notes(writer);
        }
        Ok(())
    }

    /// Brings the marker's note, and the map where it is worth it, up to the tip.
    fn take_notes(&self, writer: &mut Writer) -> Result<()> {
        let (disk, digest) = (&**self.store.disk(), self.store.digest());
        writer.noted = writer.appender.link().end;
        if writer.state.wants_map() {
            self.summarise(writer)?;
            writer.state.write_map(disk, &self.transcript, digest, self.store.now())?;
        }
        if self.side.is_none() {
            self.summarise(writer)?;
            let known = self.known(writer);
            if let Some(presence) = &mut writer.presence {
                // Another writer's sync may have failed.
                let note = if presence.is_poisoned() { presence.note(&self.key) } else { Note::new(&self.key) };
                presence.write(&Note { known, ..note }, self.store.now())?;
            }
        }
        Ok(())
    }

    /// Makes the digest at the tip known.
    fn summarise(&self, writer: &mut Writer) -> Result<()> {
        if writer.state.summary.is_none() {
            let view = self.finder().view(self.transcript.position(&writer.state.tip))?;
            let disk = &**self.store.disk();
            writer.state.summary = Some(writer.state.digest_of(disk, &self.transcript, &view, self.store.look())?);
        }
        Ok(())
    }

    fn known(&self, writer: &Writer) -> Option<Known> {
        let digest = self.store.digest();
        Some(Known {
            at: self.transcript.position(&writer.state.settled).into(),
            synced: writer.state.settled.link.synced,
            updated: writer.state.updated(),
            digest: format!("{}/{}", digest.name(), digest.version()),
            summary: writer.state.summary.clone()?,
            meta: writer.state.meta.clone(),
        })
    }

    /// Tells who would publish what can be read of the session that it is not to be believed.
    /// Once it is said, it is not said again: somebody may have put the session in order since.
    fn note_poison(&self, writer: &mut Writer) {
        if let Some(presence) = writer.presence.as_ref().filter(|_| !writer.told) {
            writer.told = presence.poison(&self.key, self.store.now());
        }
    }

    pub(super) fn place(&self, writer: &mut Writer, view: &View, at: &At) -> Result<Position> {
        let finder = self.finder();
        match at {
            At::Head => Ok(view.end),
            At::Seq(seq) => finder.seq(&writer.state, view, *seq),
            At::Id(id) => finder.id(&mut writer.state, view, id),
            At::Position(position) => finder.position(&writer.state, *position),
        }
    }

    pub(super) fn finder(&self) -> Finder<'_> {
        Finder { disk: &**self.store.disk(), layout: self.store.layout(), transcript: &self.transcript }
    }

    /// Makes a new session survive what its durability says.
    pub(crate) fn created(&self) -> Result<()> {
        if self.durability == Durability::Sync { self.sync_names() } else { Ok(()) }
    }

    pub(super) fn make_durable(&self, end: u64) -> Result<()> {
        match self.durability {
            Durability::Sync => self.sync_to(end),
            Durability::Write | Durability::Interval(_) => Ok(()),
        }
    }

    /// Syncs whatever is written and not synced yet.
    pub(crate) fn sync_all(&self) -> Result<()> {
        self.sync_to(self.written.load(Ordering::Acquire))
    }

    /// [`Core::sync_all`] where nobody hears that it failed: the handle is poisoned then, although it was only a sync of names.
    pub(crate) fn sync_unheard(&self) {
        if self.sync_all().is_err() {
            self.syncer.fail();
            self.note_poison(&mut self.lock());
        }
    }

    pub(super) fn sync_to(&self, end: u64) -> Result<()> {
        let synced = self.syncer.sync_to(end, || self.written.load(Ordering::Acquire), || self.sync_names());
        if synced.is_err() && self.syncer.has_failed() {
            self.note_poison(&mut self.lock());
        }
        // Opening may have synced all bytes, but no names.
        synced.and_then(|()| self.sync_names())
    }

    /// Makes the names of a session that was not closed since it was made survive a power cut.
    fn sync_names(&self) -> Result<()> {
        if self.names_synced.load(Ordering::Acquire) {
            return Ok(());
        }
        if self.fresh {
            self.store.sync_names(&self.transcript.path)?;
        }
        self.names_synced.store(true, Ordering::Release);
        Ok(())
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({})", self.core.transcript.path.display())
    }
}

/// Opens the transcript that a name stands for, and checks that it says so itself.
pub(crate) fn open_named(
    disk: &dyn Disk,
    dir: &std::path::Path,
    key: &SessionKey,
    side: Option<&SideName>,
    how: How,
) -> Result<Transcript> {
    let path = dir.join(Layout::transcript(side));
    let Some(found) = Transcript::open(disk, &path, how)? else {
        return Err(match side {
            None => Error::not_found(Named::Session, key),
            Some(side) => Error::not_found(Named::Side, side),
        });
    };
    let header = &found.header;
    let same = header.project == key.project
        && header.session == key.session
        && header.side.as_ref().map(|side| &side.name) == side;
    if !same {
        return Err(found.corrupt(0, "the header names another session"));
    }
    debug_assert_eq!(session_dir(&path), dir);
    Ok(found)
}

/// That a patch of metadata gives known members their types.
pub(crate) fn check_meta(patch: &Value) -> Result<()> {
    let wrong = |what: &str| Err(Error::BadArgument { why: format!("metadata: {what}") });
    let Value::Object(patch) = patch else { return wrong("a JSON object is wanted") };
    for (name, value) in patch {
        let fits = match name.as_str() {
            "title" | "description" | "model" => value.is_string() || value.is_null(),
            "tags" => value.is_null() || value.as_array().is_some_and(|tags| tags.iter().all(Value::is_string)),
            "cost" => value.is_number() || value.is_null(),
            "archived" => value.is_boolean() || value.is_null(),
            _ => true,
        };
        if !fits {
            return wrong(&format!("{name:?} has a value of the wrong type"));
        }
    }
    Ok(())
}
