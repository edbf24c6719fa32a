//! New sessions, side transcripts and forks.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Map as Object, Value};

use super::Store;
use super::admin::{exists, is_copy};
use crate::disk::{How, LockMode};
use crate::error::{Error, Named, Result};
use crate::format::control::{self, Base, Header, Side};
use crate::format::line::{self, Draft, Link, kind};
use crate::format::{self, json};
use crate::ids::{Position, ProjectName, SessionId, SessionKey, SideName, Uid};
use crate::log::files::checkpoint_at;
use crate::log::lineage::{Layout, Lineage};
use crate::log::note::Note;
use crate::log::recover::make_dir;
use crate::log::transcript::Transcript;
use crate::session::{At, Lock, OpenOptions, PATIENCE, Presence, Reader, Session, check_meta, open_named};
use crate::time::Timestamp;

/// A session to create or to fork.
#[derive(Clone, Debug)]
pub struct NewSession {
    project: ProjectName,
    id: Option<SessionId>,
    meta: Object<String, Value>,
    created: Option<Timestamp>,
    options: OpenOptions,
}

impl Default for NewSession {
    fn default() -> Self {
        Self::in_project(ProjectName::default_project())
    }
}

impl NewSession {
    /// A session of a project, with an id of its own: a UUID of version 7.
    #[must_use]
    pub fn in_project(project: ProjectName) -> Self {
        Self { project, id: None, meta: Object::new(), created: None, options: OpenOptions::default() }
    }

    /// A session of this name.
    #[must_use]
    pub fn named(key: SessionKey) -> Self {
        Self { id: Some(key.session), ..Self::in_project(key.project) }
    }

    /// Gives the session an id.
    #[must_use]
    pub fn id(mut self, id: SessionId) -> Self {
        self.id = Some(id);
        self
    }

    /// Gives the session a title.
    #[must_use]
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.meta.insert("title".to_owned(), Value::String(title.into()));
        self
    }

    /// Adds a tag.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        let tags = self.meta.entry("tags").or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(tags) = tags {
            tags.push(Value::String(tag.into()));
        }
        self
    }

    /// Adds members to the metadata, as [`Session::set`] does.
    #[must_use]
    pub fn meta(mut self, meta: Object<String, Value>) -> Self {
        self.meta.extend(meta);
        self
    }

    /// Says when the session began; otherwise that is now.
    #[must_use]
    pub fn created(mut self, at: Timestamp) -> Self {
        self.created = Some(at);
        self
    }

    /// How the new session is opened.
    #[must_use]
    pub fn options(mut self, options: OpenOptions) -> Self {
        self.options = options;
        self
    }
}

impl Store {
    /// Creates a session and opens it for append.
    ///
    /// Its first line is synced; its name survives a power cut after the first [`Session::sync`] or [`Session::close`], or at once with
    /// [`Durability::Sync`](crate::Durability::Sync). Cost: one small file and a marker, four syncs, of which all but the first find nothing to do where the
    /// file system has a journal.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`], [`Error::BadArgument`] of the metadata, [`Error::Full`], [`Error::Io`].
    pub fn create(&self, new: NewSession) -> Result<Session> {
        self.make(new, None, &[])
    }

    /// Creates a session whose conversation begins with that of `parent` up to and including the record that `at` names, and opens
    /// it for append.
    ///
    /// With a record it has the checkpoint of the whole workspace that belongs to it, if there is one. Bytes are shared, not copied; the parent may be live, and needs no lock. It is synced up to there first, so that a power cut
    /// cannot leave the fork hanging. A fork inherits tags and model, not title or archived. Cost: as
    /// [`Store::create`], whatever the parent's size, and a sync of the parent when that has not been synced so far. Of a parent that was
    /// [rerooted](Store::reroot), a fork within what it inherited copies that.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is no such session, record or position; [`Error::Poisoned`] when a sync of the parent failed,
    /// somebody has had it open since then, and `at` lies behind what survives; when nobody has, it is put in order as if it were opened for append. Else as [`Store::create`] and [`Store::read`].
    pub fn fork(&self, parent: &SessionKey, at: &At, new: NewSession) -> Result<Session> {
        self.fork_from(parent, None, at, new)
    }

    /// [`Store::fork`] of a side transcript, into a session of its own.
    ///
    /// # Errors
    ///
    /// As [`Store::fork`].
    pub fn fork_side(&self, parent: &SessionKey, side: &SideName, at: &At, new: NewSession) -> Result<Session> {
        self.fork_from(parent, Some(side), at, new)
    }

    fn fork_from(&self, parent: &SessionKey, side: Option<&SideName>, at: &At, mut new: NewSession) -> Result<Session> {
        // From here until the fork's first line is there, nothing is swept away that it will need.
        let guard = self.guard(LockMode::Shared)?;
        let reader = Reader::open(self, parent, side)?;
        let mut place = reader.position(at)?;
        if matches!(at, At::Seq(_) | At::Id(_)) {
            // A checkpoint stands behind the record that it belongs to.
            place = checkpoint_at(&**self.disk(), reader.view(), &place)?.unwrap_or(place);
        }
        let base = self.base(&reader, place)?;
        for name in ["tags", "model"] {
            if let Some(value) = reader.meta().get(name) {
                new.meta.entry(name).or_insert_with(|| value.clone());
            }
        }
        let copies = self.only_copies(&reader, &base)?;
        let session = self.make(new, Some(base), &copies)?;
        drop(guard);
        Ok(session)
    }

    /// What a fork with this base needs of the copies that `reader`'s session has of its ancestors, each with its length. Nobody looks for them
    /// in that session, and the ancestors may be gone.
    fn only_copies(&self, reader: &Reader, base: &Base) -> Result<Vec<(Transcript, u64)>> {
        let disk = &**self.disk();
        let mut lineage = Lineage::new(disk, self.layout(), reader.transcript());
        let owner = Position::from(base.at).uid;
        let mut copies = Vec::new();
        for ancestor in lineage.ancestors()?.iter().skip_while(|ancestor| ancestor.uid != owner) {
            let source = ancestor.open(disk)?;
            if is_copy(&source.path) {
                let len = source.cut_behind(ancestor.limit.offset.get())?;
                copies.push((source, len));
            }
        }
        Ok(copies)
    }

    /// The base for a fork at `position` of `reader`'s history; everything before it survives a power cut.
    fn base(&self, reader: &Reader, position: Position) -> Result<Base> {
        let mut lineage = Lineage::new(&**self.disk(), self.layout(), reader.transcript());
        let view = lineage.view(position)?;
        for extent in &view.extents {
            let source = extent.source.open(&**self.disk())?;
            // What is of its ancestors was synced before it was made.
            let is_own = source.header.uid == reader.transcript().header.uid;
            if is_own && source.promise_at(extent.to)? < extent.to {
                self.sync_of_others(&source)?;
            }
        }
        let owner = match view.extents.last() {
            Some(extent) => extent.source.open(&**self.disk())?,
            None => reader.transcript().clone(),
        };
        // The names of the files before it were synced when they became bases themselves.
        self.sync_names(&owner.path)?;
        let header = owner.header;
        Ok(Base {
            at: position.into(),
            project: header.project,
            session: header.session,
            main: header.side.as_ref().map_or(header.uid, |side| side.of),
            side: header.side.map(|side| side.name),
        })
    }

    /// Makes what can be read of a transcript survive a power cut, whoever wrote it.
    fn sync_of_others(&self, source: &Transcript) -> Result<()> {
        let (disk, header) = (&**self.disk(), &source.header);
        let marker = self.layout().marker(header.side.as_ref().map_or(header.uid, |side| side.of));
        let key = SessionKey { project: header.project.clone(), session: header.session.clone() };
        // One that cannot be read, not being written this moment, may have said so.
        let poisoned = || {
            let note = Note::read(disk, &marker);
            exists(disk, &marker).unwrap_or(true) && note.is_none_or(|note| note.doubts(header.uid))
        };
        if poisoned() {
            let side = header.side.as_ref().map(|side| &side.name);
            match Session::open(self, &key, side, OpenOptions::default()).and_then(|session| session.close()) {
                // Who has it open has yet to notice.
                Err(Error::Locked { .. }) => return Err(Error::Poisoned { path: source.path.clone() }),
                done => done?,
            }
        } else if let Err(error) = source.file.sync() {
            if let Ok(presence) = Presence::join(self.disk(), &marker, &key, PATIENCE, self.now()) {
                presence.poison(&key, self.now());
            }
            return Err(Error::Io { op: "sync", path: source.path.clone(), source: error });
        }
        // Asked after the sync, too: it succeeds just after one that failed.
        if poisoned() { Err(Error::Poisoned { path: source.path.clone() }) } else { Ok(()) }
    }

    fn make(&self, new: NewSession, base: Option<Base>, copies: &[(Transcript, u64)]) -> Result<Session> {
        let meta = Value::Object(new.meta);
        check_meta(&meta)?;
        let id = match new.id {
            Some(id) => id,
            None => self.fresh_id()?,
        };
        let key = SessionKey { project: new.project, session: id };
        let uid = Uid::from_bytes(self.random());
        let header = Header {
            format: format::VERSION,
            uid,
            project: key.project.clone(),
            session: key.session.clone(),
            side: None,
            base,
        };
        let bytes = first_lines(&header, &meta, new.created.unwrap_or(self.now()))?;
        let project = self.layout().project(&key.project);
        self.make_dir(&project)?;
        let temp = self.dir("tmp").join(uid.to_string());
        self.make_dir(&temp)?;
        // The marker is there before the session is, after a power cut too: no list misses it.
        let marker = self.layout().marker(uid);
        let presence = Presence::join(self.disk(), &marker, &key, PATIENCE, self.now())?;
        if let Err(error) = self.put_in_place(&temp, &bytes, copies, &key) {
            // Where the directory has left its temporary name, the session is there all the same, and only its marker leads a list to it.
            if self.disk().stat(&temp).is_ok() {
                let _ = self.disk().remove_file(&temp.join("transcript.jsonl"));
                let _ = self.disk().remove_dir(&temp);
                let _ = presence.remove();
            }
            return Err(error);
        }
        let session = Session::open_new(self, &key, bytes.len() as u64, presence, new.options)?;
        session.core.created()?;
        Ok(session)
    }

    /// Makes a session's directory under a temporary name, and gives it its own.
    fn put_in_place(&self, temp: &Path, bytes: &[u8], copies: &[(Transcript, u64)], key: &SessionKey) -> Result<()> {
        self.write_new(&temp.join("transcript.jsonl"), bytes)?;
        for (source, len) in copies {
            self.copy(source, *len, &Layout::copy(temp, source.header.uid))?;
        }
        if !copies.is_empty() {
            let dir = temp.join("lineage");
            self.disk().sync_dir(&dir).map_err(|error| Error::io("sync", &dir, error))?;
        }
        // Wherever the directory is found after a power cut, it holds the transcript. File systems with a journal have nothing
        // left to do here: the sync of the file took all of this along.
        for dir in [temp, &self.dir("tmp"), &self.dir("live")] {
            self.disk().sync_dir(dir).map_err(|error| Error::io("sync", dir, error))?;
        }
        let target = self.layout().session(&key.project, &key.session);
        self.disk().rename(temp, &target).map_err(|error| match error.kind() {
            ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists => Error::Exists { key: key.clone() },
            _ => Error::io("make", &target, error),
        })
    }

    /// A new UUID of version 7: ids sort by the time they were made.
    fn fresh_id(&self) -> Result<SessionId> {
        let ms = u64::try_from(self.now().as_millis()).unwrap_or(0);
        let bits = self.random();
        let mut random = [0; 10];
        random.copy_from_slice(&bits[..10]);
        SessionId::new(uuid::Builder::from_unix_timestamp_millis(ms, &random).into_uuid().to_string())
    }

    /// Writes a file that nobody sees yet, and syncs it.
    fn write_new(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let io = |error| Error::io("write", path, error);
        let file = self.disk().open(path, How::CreateNew).map_err(io)?;
        file.write_at(bytes, 0).and_then(|()| file.sync()).map_err(io)
    }

    /// Makes a side transcript unless it is there.
    pub(super) fn make_side(&self, key: &SessionKey, side: &SideName) -> Result<()> {
        let disk = &**self.disk();
        let dir = self.layout().session(&key.project, &key.session);
        let main = open_named(disk, &dir, key, None, How::Read)?;
        let path = dir.join(Layout::transcript(Some(side)));
        if exists(disk, &path)? {
            return Ok(());
        }
        let sides = dir.join("side");
        // It alone: a session that is deleted this moment must not come back as a directory without a transcript.
        make_dir(disk, &sides).map_err(|error| match error {
            Error::Io { source, .. } if source.kind() == ErrorKind::NotFound => Error::not_found(Named::Session, key),
            other => other,
        })?;
        let uid = Uid::from_bytes(self.random());
        let header = Header {
            format: format::VERSION,
            uid,
            project: key.project.clone(),
            session: key.session.clone(),
            side: Some(Side { name: side.clone(), of: main.header.uid }),
            base: None,
        };
        let bytes = first_lines(&header, &Value::Object(Object::new()), self.now())?;
        let temp = self.dir("tmp").join(uid.to_string());
        self.make_dir(&self.dir("tmp"))?;
        self.write_new(&temp, &bytes)?;
        // Under the lock, so that of two who make the same one, the second finds the first one's.
        let lock = Lock::open(disk, &path.with_extension("lock"))?;
        lock.take(LockMode::Exclusive, PATIENCE)?;
        if exists(disk, &path)? {
            let _ = disk.remove_file(&temp);
            return Ok(());
        }
        disk.rename(&temp, &path).map_err(|error| Error::io("make", &path, error))
    }

    /// Holds off the sweeping of graves (shared), or everybody who might need them (exclusive).
    pub(super) fn guard(&self, mode: LockMode) -> Result<Lock> {
        let lock = Lock::open(&**self.disk(), &self.dir("lock"))?;
        lock.take(mode, PATIENCE)?;
        Ok(lock)
    }
}

/// The header and, unless it is empty, the metadata of a new transcript.
fn first_lines(header: &Header, meta: &Value, at: Timestamp) -> Result<Vec<u8>> {
    let seed = header.base.as_ref().map_or(crate::Crc(0), |base| Position::from(base.at).crc);
    let at = at.to_bytes();
    let mut bytes = Vec::new();
    let draft = |kind| Draft { at: &at, id: None, kind, more: false };
    let link = line::encode(&mut bytes, draft(kind::HEADER), Link::first(seed), 0, &control::encode(header));
    if meta.as_object().is_some_and(|meta| !meta.is_empty()) {
        let mut payload = Vec::new();
        json::write(&mut payload, meta)?;
        line::encode(&mut bytes, draft(kind::META), link, 0, &payload);
    }
    Ok(bytes)
}
