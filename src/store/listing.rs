//! Lists of sessions: the index, and what live sessions add to it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::Store;
use crate::disk::How;
use crate::error::{Error, Kind, Result};
use crate::ids::{ProjectName, SessionId, SessionKey, SideName, Uid};
use crate::index::{Cursor, Filter, IndexState, Overlay, Page, View};
use crate::log::lineage::session_dir;
use crate::log::note::Note;
use crate::log::state::State;
use crate::log::transcript::Transcript;
use crate::parallel;
use crate::session::{OwnedRecord, Presence, marker_uid, open_named};
use crate::{Entry, Position};

impl Store {
    /// Lists sessions, the one updated last first.
    ///
    /// Exact, whatever happened to the index, which is built again where it cannot be believed. Cost: what the page costs, and for every
    /// session that is open for append what was written since its writer's last note, at most 256 KiB.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; [`Error::Locked`] when another process has been changing the index for a minute.
    pub fn list(&self, filter: &Filter, after: Option<Cursor>, limit: usize) -> Result<Page> {
        self.with_index(|view, overlay| view.list(filter, after, limit, Some(overlay)))
    }

    /// The session updated last, archived ones aside, in a project or in the store.
    ///
    /// # Errors
    ///
    /// As [`Store::list`].
    pub fn latest(&self, project: Option<&ProjectName>) -> Result<Option<Entry>> {
        self.with_index(|view, overlay| view.latest(project, Some(overlay)))
    }

    /// What a list shows of one session, from its transcript.
    ///
    /// # Errors
    ///
    /// As [`Store::read`].
    pub fn entry(&self, key: &SessionKey) -> Result<Entry> {
        let reader = self.read(key)?;
        let entry = self.entry_of(reader.transcript(), &reader.state())?;
        Ok(Entry { live: self.is_live(entry.uid)?, ..entry })
    }

    /// The forks of a session, or all sessions where none is named, each with its parent: what a tree is drawn from.
    ///
    /// # Errors
    ///
    /// As [`Store::list`].
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let all = Filter { archived: crate::Archived::Shown, ..Filter::default() };
        self.listed(&all)
    }

    /// All pages of a list.
    pub(super) fn listed(&self, filter: &Filter) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut after = None;
        loop {
            let page = self.list(filter, after, 1000)?;
            entries.extend(page.entries);
            after = page.next;
            if after.is_none() {
                return Ok(entries);
            }
        }
    }

    /// The names of a session's side transcripts, sorted.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Io`].
    pub fn sides(&self, key: &SessionKey) -> Result<Vec<SideName>> {
        let dir = self.layout().session(&key.project, &key.session);
        let disk = &**self.disk();
        open_named(disk, &dir, key, None, How::Read)?;
        let mut names = Vec::new();
        for file in list_dir(disk, &dir.join("side"))? {
            if file.extension().is_some_and(|extension| extension == "jsonl") {
                let found = Transcript::open(disk, &file, How::Read)?;
                names.extend(found.and_then(|found| found.header.side).map(|side| side.name));
            }
        }
        names.sort();
        Ok(names)
    }

    /// Builds the index again from the transcripts, and returns how many sessions it holds.
    ///
    /// Cost: each transcript's map and what it does not cover.
    ///
    /// # Errors
    ///
    /// As [`Store::list`], and [`Error::Full`].
    pub fn reindex(&self) -> Result<u64> {
        let mut count = 0;
        self.index().rebuild(self.random(), self.all_scanned().inspect(|_| count += 1))?;
        Ok(count)
    }

    /// Looks for `pattern` in the records of sessions that fit `filter`: their views only, several sessions at a time.
    ///
    /// `found` is called with every record whose JSON text contains the pattern, as bytes; records of one session come in order.
    ///
    /// # Errors
    ///
    /// The first error that is not damage of one session; those are returned with the session's name.
    pub fn grep(&self, filter: &Filter, pattern: &[u8], found: impl Fn(&Entry, &OwnedRecord) + Sync) -> Result<Grep> {
        let finder = memchr::memmem::Finder::new(pattern);
        self.search(filter, |payload| finder.find(payload).is_some(), found)
    }

    /// [`Store::grep`] with any test of a payload.
    ///
    /// # Errors
    ///
    /// As [`Store::grep`].
    pub fn search(
        &self,
        filter: &Filter,
        fits: impl Fn(&[u8]) -> bool + Sync,
        found: impl Fn(&Entry, &OwnedRecord) + Sync,
    ) -> Result<Grep> {
        let sessions = self.listed(filter)?;
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let result = Mutex::new((Grep::default(), None));
        let work = || {
            let mut buf = Vec::new();
            while let Some(entry) = sessions.get(next.fetch_add(1, Ordering::Relaxed)) {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let (records, error) = self.search_one(entry, &mut buf, &fits, &found);
                let mut result = result.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                result.0.sessions += 1;
                result.0.records += records;
                match error {
                    None => {}
                    Some(error) if matches!(error.kind(), Kind::Data | Kind::Newer) => {
                        result.0.damaged.push((entry.key.clone(), error));
                    }
                    // Deleted since the list was made.
                    Some(Error::NotFound { .. }) => {}
                    Some(error) => {
                        stop.store(true, Ordering::Relaxed);
                        result.1.get_or_insert(error);
                    }
                }
            }
        };
        parallel::together(parallel::cores().min(sessions.len()), work);
        let (grep, error) = result.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        error.map_or(Ok(grep), Err)
    }

    fn search_one(
        &self,
        entry: &Entry,
        buf: &mut Vec<u8>,
        fits: &impl Fn(&[u8]) -> bool,
        found: &impl Fn(&Entry, &OwnedRecord),
    ) -> (u64, Option<Error>) {
        let mut count = 0;
        let mut run = || {
            let mut records = self.read(&entry.key)?.records().with_buffer(std::mem::take(buf));
            while let Some(record) = records.next()? {
                if fits(record.payload()) {
                    count += 1;
                    found(entry, &record.to_owned());
                }
            }
            *buf = records.into_buffer();
            Ok(())
        };
        let error = run().err();
        (count, error)
    }

    /// Asks the index, built again where it must be, with what live sessions add.
    fn with_index<T>(&self, ask: impl Fn(&View, &Overlay) -> Result<T>) -> Result<T> {
        for _ in 0..3 {
            let IndexState::Ready(view) = self.index().snapshot()? else {
                self.rebuild()?;
                continue;
            };
            let overlaid = self.overlay(&view);
            if let Ok((_, torn)) = &overlaid
                && self.settle_torn(torn)?
            {
                continue;
            }
            match overlaid.and_then(|(overlay, _)| ask(&view, &overlay)) {
                // Only the index's own files make an answer of the index corrupt; live sessions' damage is in their entries.
                Err(Error::Corrupt { .. }) => self.rebuild_always()?,
                other => return other,
            }
        }
        match self.index().snapshot()? {
            IndexState::Ready(view) => ask(&view, &self.overlay(&view)?.0),
            IndexState::NeedsRebuild { path, why } => Err(Error::corrupt(&path, 0, why)),
        }
    }

    /// Builds the index again unless somebody has done it meanwhile. On a disk that cannot be written there is no index to be had.
    fn rebuild(&self) -> Result<()> {
        self.index().rebuild_if_needed(self.random(), || self.all_scanned())
    }

    fn rebuild_always(&self) -> Result<()> {
        self.reindex().map(drop)
    }

    /// What sessions that are open for append, or were when their process ended, add to the index.
    ///
    /// Returns the markers that tell no session's name, too.
    fn overlay(&self, view: &View) -> Result<(Overlay, Vec<std::path::PathBuf>)> {
        let disk = &**self.disk();
        let (mut fresh, mut gone, mut torn) = (Vec::new(), Vec::new(), Vec::new());
        for path in list_dir(disk, &self.dir("live"))? {
            let Some(uid) = path.file_name().and_then(marker_uid) else { continue };
            let note = Note::read(disk, &path);
            // A marker that cannot be read this moment: the index knows the session's name, if it is not new.
            let key = note.as_ref().map(Note::key).or(view.by_uid(uid)?.map(|entry| entry.key));
            let Some(key) = key else {
                torn.push(path);
                continue;
            };
            match self.live_entry(&key, uid, note.as_ref()) {
                Ok(Some(entry)) => fresh.push(entry),
                Ok(None) => gone.push(uid),
                Err(error) if matches!(error.kind(), Kind::Data | Kind::Newer) => {
                    if let Some(known) = view.by_uid(uid)? {
                        fresh.push(Entry { damaged: true, live: self.is_live(uid)?, ..known });
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok((Overlay::new(&fresh, &gone), torn))
    }

    /// Whether any of these markers, which tell no name, is nobody's: its writer ended while it wrote it, or a power cut left it torn. It is given
    /// the name of its session again, and removed only where there is none: what can be read of the session need not be on stable storage, and
    /// without its marker lists would show what a power cut takes back.
    fn settle_torn(&self, torn: &[std::path::PathBuf]) -> Result<bool> {
        let disk = &**self.disk();
        let mut alone = Vec::new();
        for path in torn {
            // A marker that is held is being written this moment, and its session is not there yet.
            let nobodys = Presence::alone(self.disk(), path)?.filter(|_| Note::read(disk, path).is_none());
            alone.extend(nobodys.map(|presence| (path, presence)));
        }
        if alone.is_empty() {
            return Ok(false);
        }
        let mut marked = HashMap::new();
        for key in self.scan()? {
            let dir = self.layout().session(&key.project, &key.session);
            match open_named(disk, &dir, &key, None, How::Read) {
                Ok(found) => drop(marked.insert(self.layout().marker(found.header.uid), key)),
                Err(Error::NotFound { .. }) => {}
                Err(error) if matches!(error.kind(), Kind::Data | Kind::Newer) => {}
                Err(error) => return Err(error),
            }
        }
        for (path, mut presence) in alone {
            if let Some(key) = marked.get(path) {
                presence.write(&Note::poisoned(key), self.now())?;
                continue;
            }
            // That the index does not name it may be in memory only.
            if let Some(uid) = path.file_name().and_then(marker_uid) {
                self.forget(uid)?;
            }
            presence.remove()?;
        }
        Ok(true)
    }

    /// The entry of a live session; `None` when it is there no more.
    fn live_entry(&self, key: &SessionKey, uid: Uid, note: Option<&Note>) -> Result<Option<Entry>> {
        let dir = self.layout().session(&key.project, &key.session);
        let transcript = match open_named(&**self.disk(), &dir, key, None, How::Read) {
            Ok(transcript) if transcript.header.uid == uid => transcript,
            Ok(_) | Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let (state, _) = State::read_from(&**self.disk(), &transcript, self.look(), note)?;
        let entry = self.entry_of(&transcript, &state)?;
        Ok(Some(Entry { live: self.is_live(uid)?, ..entry }))
    }

    /// The entry of a session whose transcript has been read.
    pub(crate) fn entry_of(&self, transcript: &Transcript, state: &State) -> Result<Entry> {
        let summary = match &state.summary {
            Some(summary) => summary.clone(),
            None => {
                let finder = crate::log::find::Finder { disk: &**self.disk(), layout: self.layout(), transcript };
                let view = finder.view(transcript.position(&state.tip))?;
                state.digest_of(&**self.disk(), transcript, &view, self.look())?
            }
        };
        let text = |name: &str| state.meta.get(name).and_then(|value| value.as_str()).map(str::to_owned);
        let tags = state.meta.get("tags").and_then(|tags| tags.as_array());
        let tags = tags.map(|tags| tags.iter().filter_map(|tag| tag.as_str()).map(str::to_owned).collect());
        let header = &transcript.header;
        let base = header.base.as_ref();
        Ok(Entry {
            uid: header.uid,
            key: SessionKey { project: header.project.clone(), session: header.session.clone() },
            created: transcript.created,
            updated: state.updated(),
            records: state.tip.records,
            messages: summary.messages,
            turns: summary.turns,
            total_cost: state.meta.get("cost").and_then(|cost| cost.as_f64()).or(summary.total_cost),
            model: text("model").or(summary.model),
            title: text("title").or(summary.title),
            description: text("description"),
            summary: summary.summary,
            first_prompt: summary.first_prompt,
            tags: tags.unwrap_or(summary.tags),
            cwd: summary.cwd,
            git_branch: summary.git_branch,
            source_session: summary.source_session,
            parent: base.map(|base| SessionKey { project: base.project.clone(), session: base.session.clone() }),
            fork_point: base.map(|base| Position::from(base.at)),
            size_bytes: state.settled.link.end,
            archived: state.meta.get("archived").and_then(|archived| archived.as_bool()).unwrap_or(false),
            damaged: false,
            live: false,
            extra: summary.extra.as_ref().map(ToString::to_string),
            head: transcript.position(&state.settled),
        })
    }

    /// Makes an entry what lists show, before its marker goes.
    pub(crate) fn publish(&self, entry: &Entry) -> Result<()> {
        match self.index().publish(std::slice::from_ref(entry)) {
            // An index that has to be built again will find the entry in the transcript.
            Err(Error::Corrupt { .. }) => Ok(()),
            other => other,
        }
    }

    /// Publishes the entry of a session as its transcript shows it.
    pub(crate) fn publish_session(&self, key: &SessionKey) -> Result<()> {
        let entry = Entry { live: false, ..self.entry(key)? };
        self.publish(&entry)
    }

    /// The entry of a session for an index that is built again; `None` when the session is gone by now.
    fn scanned(&self, key: &SessionKey) -> Result<Option<Entry>> {
        match self.entry(key) {
            Ok(entry) => Ok(Some(Entry { live: false, ..entry })),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) if matches!(error.kind(), Kind::Data | Kind::Newer) => Ok(self.damaged_entry(key)),
            Err(error) => Err(error),
        }
    }

    /// What can be said of a session whose transcript cannot be read to its end.
    fn damaged_entry(&self, key: &SessionKey) -> Option<Entry> {
        let dir = self.layout().session(&key.project, &key.session);
        let transcript = open_named(&**self.disk(), &dir, key, None, How::Read).ok()?;
        let state = State::of_map(&**self.disk(), &transcript, self.digest());
        let size_bytes = transcript.file.len().ok()?;
        let entry = self.entry_of(&transcript, &state).ok()?;
        Some(Entry { damaged: true, size_bytes, ..entry })
    }

    /// [`Store::scanned`] of all sessions, some hundred at a time.
    ///
    /// Looks for them when the first is asked for, which an index that is built again does under its lock: who makes a session before that is found,
    /// and who publishes one later waits.
    fn all_scanned(&self) -> impl Iterator<Item = Result<Entry>> + '_ {
        let mut keys = None;
        let some = move || match keys.take().map_or_else(|| self.scan().map(Vec::into_iter), Ok) {
            Ok(mut left) => {
                let some: Vec<SessionKey> = left.by_ref().take(1024).collect();
                keys = Some(left);
                (!some.is_empty()).then_some(Ok(some))
            }
            Err(error) => {
                keys = Some(Vec::new().into_iter());
                Some(Err(error))
            }
        };
        std::iter::from_fn(some).flat_map(|keys| {
            let found = keys.and_then(|keys| parallel::each(&keys, |key| self.scanned(key)));
            let (found, failed) = found.map_or_else(|error| (Vec::new(), Some(Err(error))), |found| (found, None));
            found.into_iter().flatten().map(Ok).chain(failed)
        })
    }

    /// All sessions that have a directory, by reading their first lines.
    pub(super) fn scan(&self) -> Result<Vec<SessionKey>> {
        let disk = &**self.disk();
        let mut keys = Vec::new();
        for project in list_dir(disk, &self.dir("projects"))? {
            let sessions = list_dir(disk, &project)?;
            for key in parallel::each(&sessions, |session| self.key_in(session))? {
                keys.extend(key);
            }
        }
        keys.sort();
        Ok(keys)
    }

    /// The name of the session in this directory, if there is one. One whose header is damaged has none that can be told; `verify`
    /// reports it.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: one that cannot be read now must not be missing from an index that is built now.
    fn key_in(&self, session: &std::path::Path) -> Result<Option<SessionKey>> {
        let path = session.join("transcript.jsonl");
        let header = match Transcript::open(&**self.disk(), &path, How::Read) {
            Ok(Some(found)) => found.header,
            Ok(None) => return Ok(None),
            Err(error) if matches!(error.kind(), Kind::Data | Kind::Newer) => return Ok(None),
            Err(error) => return Err(error),
        };
        let key = SessionKey { project: header.project, session: header.session };
        Ok((self.layout().session(&key.project, &key.session) == session_dir(&path)).then_some(key))
    }

    /// The session of that id in any project, when there is exactly one.
    ///
    /// # Errors
    ///
    /// As [`Store::list`].
    pub fn find(&self, id: &SessionId) -> Result<Option<SessionKey>> {
        let mut found = self.entries()?.into_iter().filter(|entry| entry.key.session == *id);
        let first = found.next().map(|entry| entry.key);
        match found.next() {
            None => Ok(first),
            Some(_) => {
                Err(Error::BadArgument { why: format!("several projects have a session {id}: name the project") })
            }
        }
    }
}

/// What a search did.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Grep {
    /// Sessions that were searched.
    pub sessions: u64,
    /// Records that were found.
    pub records: u64,
    /// Sessions that could not be searched to their end, and why.
    pub damaged: Vec<(SessionKey, Error)>,
}

/// The paths in a directory, sorted; none where there is no directory.
pub(super) fn list_dir(disk: &dyn crate::disk::Disk, dir: &std::path::Path) -> Result<Vec<std::path::PathBuf>> {
    match disk.list(dir) {
        Ok(entries) => {
            let mut paths: Vec<_> = entries.into_iter().map(|entry| dir.join(entry.name)).collect();
            paths.sort();
            Ok(paths)
        }
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(error) => Err(Error::io("list", dir, error)),
    }
}
