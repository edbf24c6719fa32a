//! Carrying a plan out so that it ends wholly done or wholly undone, whatever stops it.
//!
//! All new contents are written to a stage directory in the workspace first and change places with the old ones by
//! rename, so that a file is always whole. What a rename displaces is looked at before it is removed: content that nobody
//! had captured, because the user wrote it meanwhile, is put into the store.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use super::compare::{Lookup, alike, graft, live_metas};
use super::snapshot::{Node, put_tree, read_state};
use super::{Files, Plan, State, is_absent, read_blob};
use crate::disk::{Disk, How, LockMode};
use crate::error::{Error, Kind, Result};
use crate::format::journal::{self, Journal, Step};
use crate::format::pack::Bad;
use crate::format::tree::Named;
use crate::ids::Uid;
use crate::objects::{Batch, Entry, EntryKind, MAX_OBJECT, Root};
use crate::workspace::{Meta, MetaKind, RelPath, STAGE_PREFIX};

/// What was captured, and what the file was then.
type Captures = HashMap<RelPath, (Entry, Meta)>;

/// Contents that nobody had captured, and where they were.
type Rescued = Vec<(RelPath, Entry)>;

/// A rewind of files that has been carried to its end, but for the caller's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Names the rewind: a record that carries it can be recognised when the commit is called once more.
    pub uid: Uid,
    /// What the caller gave to [`Files::apply`].
    pub payload: Vec<u8>,
    /// What was there before: the target of an undo. Its objects are on stable storage.
    pub before: State,
    /// What the session knows its files to be from now on. Without a tree, only the paths that changed.
    pub seen: State,
    /// Content that was neither the before nor the after of its path, and was kept: the user changed it meanwhile. It is
    /// part of `before` as well where it stood at the path of a step.
    pub rescued: Vec<(RelPath, Entry)>,
    /// Things that were in the way and could not be captured, renamed to these paths.
    pub moved_aside: Vec<RelPath>,
}

/// A journal that waits for its workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The workspace, where it was.
    pub root: Vec<u8>,
    /// The rewind.
    pub uid: Uid,
    /// What the caller gave to [`Files::apply`].
    pub payload: Vec<u8>,
}

impl Files {
    /// Carries out a plan, then calls `commit` to write the record, and returns what was done.
    ///
    /// When `commit` is called, the files and everything in its argument are on stable storage. If the process dies before
    /// this returns, [`Files::recover`] carries on with the same uid and payload; `commit` may then be called although
    /// its record was written already, and must recognise the uid. Syncs: one of the objects, four for the journal, one of the
    /// workspace's file system (one per file for a few files), one when the journal goes.
    ///
    /// # Errors
    ///
    /// - [`Error::Stale`]: a file changed after the plan was made, or an earlier rewind has not ended. Nothing was changed.
    /// - [`Error::Locked`]: another process is changing the files.
    /// - Any error of the workspace or of `commit` that means that nothing was written: the files are as they were.
    /// - Any other error of `commit`: the journal stays, and the next [`Files::recover`] decides.
    pub fn apply(&self, plan: &Plan, payload: &[u8], commit: impl FnOnce(&Outcome) -> Result<()>) -> Result<Outcome> {
        let lock = self.lock(LockMode::Exclusive)?;
        self.nothing_pending()?;
        let batch = self.objects.begin()?;
        let (journal, metas) = self.prepare(plan, payload, &batch)?;
        batch.sync()?;
        self.write_journal(&journal)?;
        let mut work = Work::new(self, &batch, &journal, metas);
        if let Err(error) = work.carry_out(&journal.steps) {
            work.take_back(&journal)?;
            self.remove_journal()?;
            return Err(error);
        }
        let outcome = self.outcome(&journal, work)?;
        let committed = commit(&outcome);
        match committed.as_ref().map_err(Error::kind) {
            Ok(()) => self.remove_journal()?,
            Err(Kind::Caller | Kind::NotFound | Kind::Locked | Kind::System) => {
                let mut work = Work::new(self, &batch, &journal, HashMap::new());
                work.take_back(&journal)?;
                self.remove_journal()?;
            }
            Err(_) => {}
        }
        drop(lock);
        committed.map(|()| outcome)
    }

    /// Carries a rewind that was interrupted to its end and calls `commit`; `Ok(None)` when there is none.
    ///
    /// Call it whenever a workspace is opened. What the user changed since is captured before it is replaced.
    ///
    /// # Errors
    ///
    /// - [`Error::Locked`]: another process is at it.
    /// - [`Error::Corrupt`]: the journal is damaged; nothing was changed.
    /// - Any error of `commit`, or of the workspace: the journal stays.
    pub fn recover(&self, commit: impl FnOnce(&Outcome) -> Result<()>) -> Result<Option<Outcome>> {
        if self.nothing_pending().is_ok() {
            return Ok(None);
        }
        let lock = self.lock(LockMode::Exclusive)?;
        let Some((journal, applied)) = read_journal(&*self.disk, &self.journal_path())? else { return Ok(None) };
        let batch = self.objects.begin()?;
        let mut work = Work::new(self, &batch, &journal, HashMap::new());
        work.clear_stage(&journal.steps)?;
        if !applied {
            work.carry_out(&journal.steps)?;
        }
        let outcome = self.outcome(&journal, work)?;
        commit(&outcome)?;
        self.remove_journal()?;
        drop(lock);
        Ok(Some(outcome))
    }

    /// Captures what is there, and makes sure that it is what the plan was made for.
    fn prepare(&self, plan: &Plan, payload: &[u8], batch: &Batch<'_>) -> Result<(Journal, Captures)> {
        let mut metas = HashMap::new();
        let mut before = None;
        if let Some(snapshot) = &plan.snapshot {
            self.store(batch, &RelPath::root(), &snapshot.root)?;
            before = Some(snapshot.root.entry);
            live_metas(&snapshot.root, &RelPath::root(), &mut metas);
        }
        for step in &plan.steps {
            let path = RelPath::new(step.path.as_slice())?;
            let as_planned = |(_, meta): &(Entry, Meta)| self.workspace.meta(&path).is_ok_and(|now| now == *meta);
            if !metas.get(&path).is_some_and(as_planned) {
                metas.remove(&path);
                metas.extend(self.observe(Some(batch), &path)?.map(|found| (path.clone(), found)));
            }
            if !alike(metas.get(&path).map(|(entry, _)| entry), step.before.as_ref()) {
                let path = self.workspace.root().join(path.to_path());
                return Err(Error::Stale { path, why: "it changed after the rewind was planned" });
            }
        }
        let seen = match &plan.seen.tree {
            Some(tree) => {
                let mut changes = plan.seen.paths.clone();
                for step in &plan.steps {
                    changes.insert(RelPath::new(step.path.as_slice())?, step.after);
                }
                Some(graft(&self.objects, batch, tree, &changes)?)
            }
            None => None,
        };
        let root = self.workspace.root().as_os_str().as_encoded_bytes().to_owned();
        let (uid, payload, steps) = (self.temp_uid(), payload.to_owned(), plan.steps.clone());
        Ok((Journal { uid, root, payload, before, seen, steps }, metas))
    }

    /// Puts what a plan has looked at into the store. A file of which the store has no content yet is read again and must
    /// be as it was.
    fn store(&self, batch: &Batch<'_>, path: &RelPath, node: &Node) -> Result<()> {
        for (name, child) in &node.children {
            let path = path.join(name);
            if child.entry.kind == EntryKind::Directory {
                self.store(batch, &path, child)?;
            } else if !batch.contains(&child.entry.id)?
                && self.observe(Some(batch), &path)?.is_none_or(|(now, _)| now != child.entry)
            {
                let path = self.workspace.root().join(path.to_path());
                return Err(Error::Stale { path, why: "it changed after the rewind was planned" });
            }
        }
        if batch.contains(&node.entry.id)? {
            return Ok(());
        }
        let named = |(name, child): &(Vec<u8>, Node)| Named { name: name.clone(), entry: child.entry };
        put_tree(Some(batch), node.meta.mode, &node.children.iter().map(named).collect::<Vec<_>>()).map(drop)
    }

    /// Ends the work on the files: what was rescued is synced, the stage goes, everything is synced.
    fn outcome(&self, journal: &Journal, work: Work<'_>) -> Result<Outcome> {
        let (rescued, moved_aside) = work.finish(&journal.steps)?;
        // Not synced: while it can be read from memory it is true, and after a power cut doing it again is no harm.
        let path = self.journal_path();
        let mark = || -> io::Result<()> {
            let file = self.disk.open(&path, How::Write)?;
            let len = journal::encode(journal).len() as u64;
            file.write_at(&journal::applied_mark(), len)
        };
        mark().map_err(|e| Error::io("write", &path, e))?;
        let mut before = State { tree: journal.before, paths: BTreeMap::new() };
        let mut seen = State { tree: journal.seen, paths: BTreeMap::new() };
        let mut lookup = Lookup::new(&self.objects);
        for step in &journal.steps {
            let path = RelPath::new(step.path.as_slice())?;
            let in_tree = journal.before.map_or(Ok(None), |tree| lookup.find(&tree, &path).map(Some))?;
            if !in_tree.is_some_and(|entry| alike(entry.as_ref(), step.before.as_ref())) {
                before.paths.insert(path.clone(), step.before);
            }
            if seen.tree.is_none() {
                seen.paths.insert(path, step.after);
            }
        }
        before.paths.extend(rescued.iter().map(|(path, entry)| (path.clone(), Some(*entry))));
        Ok(Outcome { uid: journal.uid, payload: journal.payload.clone(), before, seen, rescued, moved_aside })
    }

    fn write_journal(&self, journal: &Journal) -> Result<()> {
        let path = self.journal_path();
        let temp = self.dir.join(format!("journal.{}.tmp", journal.uid));
        let written = || -> io::Result<()> {
            let file = self.disk.open(&temp, How::CreateNew)?;
            file.write_at(&journal::encode(journal), 0)?;
            file.sync()?;
            self.disk.rename(&temp, &path)?;
            // Whoever made the directories may have died before their own names were synced.
            self.dir.ancestors().take(3).try_for_each(|dir| self.disk.sync_dir(dir))
        };
        written().map_err(|error| {
            let _ = self.disk.remove_file(&temp);
            // If it had its name already, it may come back, and rolling forward needs nothing else.
            let _ = self.disk.remove_file(&path);
            Error::io("write", &path, error)
        })
    }

    /// The journal must be gone for good before the user goes on: one that came back would undo what they did since.
    fn remove_journal(&self) -> Result<()> {
        let path = self.journal_path();
        self.disk.remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
        self.disk.sync_dir(&self.dir).map_err(|e| Error::io("sync", &self.dir, e))
    }
}

/// The changing of files, in either direction.
struct Work<'a> {
    files: &'a Files,
    batch: &'a Batch<'a>,
    stage: RelPath,
    /// What was captured, so that a file that has not changed since need not be read again.
    metas: Captures,
    rescued: Rescued,
    moved_aside: Vec<RelPath>,
    displaced: usize,
    uid: Uid,
}

impl<'a> Work<'a> {
    fn new(files: &'a Files, batch: &'a Batch<'a>, journal: &Journal, metas: Captures) -> Self {
        let stage = RelPath::root().join(format!("{STAGE_PREFIX}{}", journal.uid).as_bytes());
        let (rescued, moved_aside) = (Vec::new(), Vec::new());
        Self { files, batch, stage, metas, rescued, moved_aside, displaced: 0, uid: journal.uid }
    }

    /// Brings every path from wherever it is to its after. May be called again after it was stopped anywhere.
    fn carry_out(&mut self, steps: &[Step]) -> Result<()> {
        let steps: Vec<(RelPath, &Step)> =
            steps.iter().map(|step| Ok((RelPath::new(step.path.as_slice())?, step))).collect::<Result<_>>()?;
        let is_dir = |entry: &Option<Entry>| entry.is_some_and(|entry| entry.kind == EntryKind::Directory);
        self.make_stage()?;
        for (at, (path, step)) in steps.iter().enumerate() {
            self.stage_content(at, path, step)?;
        }
        for (path, step) in steps.iter().filter(|(_, step)| step.after.is_none() || is_dir(&step.after)) {
            if !is_dir(&step.before) {
                self.clear(path, step)?;
            }
        }
        // Deepest first.
        for (path, step) in steps.iter().rev().filter(|(_, step)| is_dir(&step.before) && !is_dir(&step.after)) {
            self.remove_dir(path, step)?;
        }
        for (path, step) in steps.iter().filter(|(_, step)| is_dir(&step.after) && !is_dir(&step.before)) {
            self.make_parents(path)?;
            self.make_dir(path, step)?;
        }
        for (at, (path, step)) in steps.iter().enumerate() {
            if let Some(after) = step.after.filter(|after| after.kind != EntryKind::Directory) {
                self.put_in_place(at, path, step, &after)?;
            }
        }
        // Last and deepest first, since a mode can forbid what was done above.
        for (path, step) in steps.iter().rev() {
            if let Some(after) = step.after.filter(|after| after.kind == EntryKind::Directory) {
                let now = self.io(path, "stat", self.files.workspace.meta(path))?;
                if now.kind == MetaKind::Directory && now.mode != after.mode {
                    self.io(path, "change the mode of", self.files.workspace.set_mode(path, after.mode))?;
                }
            }
        }
        Ok(())
    }

    /// Puts everything back to its before.
    fn take_back(&mut self, journal: &Journal) -> Result<()> {
        let inverse: Vec<Step> = (journal.steps.iter())
            .map(|step| Step { path: step.path.clone(), before: step.after, after: step.before })
            .collect();
        self.metas.clear();
        self.clear_stage(&journal.steps)?;
        self.carry_out(&inverse)?;
        self.batch.sync()?;
        self.clear_stage(&journal.steps)?;
        self.remove_stage()?;
        self.sync(&journal.steps)
    }

    fn finish(mut self, steps: &[Step]) -> Result<(Rescued, Vec<RelPath>)> {
        self.clear_stage(steps)?;
        self.remove_stage()?;
        self.sync(steps)?;
        Ok((self.rescued, self.moved_aside))
    }

    fn sync(&self, steps: &[Step]) -> Result<()> {
        let mut changed: Vec<RelPath> =
            steps.iter().map(|step| RelPath::new(step.path.as_slice())).collect::<Result<_>>()?;
        changed.extend(self.moved_aside.iter().cloned());
        if changed.is_empty() {
            return Ok(());
        }
        self.io(&RelPath::root(), "sync", self.files.workspace.sync(&changed))
    }

    fn make_stage(&self) -> Result<()> {
        match self.files.workspace.create_dir(&self.stage, 0o700) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => self.io(&self.stage, "create", Err(error)),
            _ => Ok(()),
        }
    }

    fn staged(&self, at: usize) -> RelPath {
        self.stage.join(at.to_string().as_bytes())
    }

    /// Writes the new content of a step beside the workspace's files, unless it is in place already.
    fn stage_content(&self, at: usize, path: &RelPath, step: &Step) -> Result<()> {
        let Some(after) = step.after.filter(|after| after.kind != EntryKind::Directory) else { return Ok(()) };
        let same_content = |before: Entry| before.kind == after.kind && before.id == after.id;
        if step.before.is_some_and(same_content) {
            return Ok(());
        }
        if !self.metas.contains_key(path)
            && let Ok(Some((now, _))) = self.files.observe(None, path)
            && now == after
        {
            return Ok(());
        }
        self.write_staged(at, &after)
    }

    fn write_staged(&self, at: usize, after: &Entry) -> Result<()> {
        let staged = self.staged(at);
        let content = read_blob(&self.files.objects, after)?;
        let written = match after.kind {
            EntryKind::Symlink => self.files.workspace.create_link(&staged, &content),
            _ => self.files.workspace.write_new(&staged, &content, after.mode),
        };
        self.io(&staged, "write", written)
    }

    /// What is at a path; read only if it is not as it was captured.
    fn now(&self, path: &RelPath) -> Result<Option<(Entry, Meta)>> {
        if let Some((entry, captured)) = self.metas.get(path)
            && let Ok(meta) = self.files.workspace.meta(path)
            && meta == *captured
        {
            return Ok(Some((*entry, meta)));
        }
        match self.files.workspace.meta(path) {
            Ok(meta) if meta.kind == MetaKind::Special => Ok(Some((special(), meta))),
            _ => self.files.observe(None, path),
        }
    }

    /// Takes what is at a path away, unless it is a directory and one is wanted.
    fn clear(&mut self, path: &RelPath, step: &Step) -> Result<()> {
        match self.now(path)? {
            None => Ok(()),
            Some((now, meta)) if meta.kind == MetaKind::Directory => {
                if step.after.is_some() {
                    Ok(())
                } else {
                    self.displace(path, step, &now, &meta)
                }
            }
            Some((now, meta)) => self.displace(path, step, &now, &meta),
        }
    }

    /// Moves what is at a path to the stage, or aside where it cannot be captured, and keeps what nobody has captured.
    fn displace(&mut self, path: &RelPath, step: &Step, now: &Entry, meta: &Meta) -> Result<()> {
        if matches!(meta.kind, MetaKind::Directory | MetaKind::Special) {
            return self.move_aside(path);
        }
        self.displaced += 1;
        let to = self.stage.join(format!("old-{}", self.displaced).as_bytes());
        self.io(path, "move", self.files.workspace.rename(path, &to))?;
        self.keep(&to, path, step, Some((now, meta)))
    }

    fn move_aside(&mut self, path: &RelPath) -> Result<()> {
        let Some((dir, name)) = path.split() else { return Ok(()) };
        let aside = dir.join(&[name, format!(".forklog-kept-{}", self.uid).as_bytes()].concat());
        self.io(path, "move aside", self.files.workspace.rename(path, &aside))?;
        self.moved_aside.push(aside);
        Ok(())
    }

    /// Puts into the store what a rename has brought to `staged`, if it is not one of the contents that are there.
    fn keep(&mut self, staged: &RelPath, path: &RelPath, step: &Step, known: Option<(&Entry, &Meta)>) -> Result<()> {
        let meta = self.io(staged, "stat", self.files.workspace.meta(staged))?;
        let is_stored = |entry: &Entry| [step.before, step.after].contains(&Some(*entry));
        if known.is_some_and(|(entry, known)| known.same_content(&meta) && is_stored(entry)) {
            return Ok(());
        }
        if matches!(meta.kind, MetaKind::Directory | MetaKind::Special) {
            return Ok(());
        }
        let read = read_state(&*self.files.workspace, Some(self.batch), staged, meta.kind)?;
        let (entry, _, _) = self.io(staged, "read", read)?;
        if !is_stored(&entry) {
            self.rescued.push((path.clone(), entry));
        }
        Ok(())
    }

    fn remove_dir(&mut self, path: &RelPath, step: &Step) -> Result<()> {
        match self.files.workspace.meta(path) {
            Ok(meta) if meta.kind == MetaKind::Directory => {}
            // Something else has taken its place, and is dealt with where it is replaced.
            Ok(_) if step.after.is_some() => return Ok(()),
            Ok(_) => return self.clear(path, step),
            Err(error) if is_absent(&error) => return Ok(()),
            Err(error) => return self.io(path, "stat", Err(error)),
        }
        match self.files.workspace.remove_dir(path) {
            Ok(()) => Ok(()),
            Err(error) if is_absent(&error) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                // It holds what is not part of checkpoints. It stays, unless its name is needed.
                if step.after.is_some() { self.move_aside(path) } else { Ok(()) }
            }
            Err(error) => self.io(path, "remove", Err(error)),
        }
    }

    fn make_parents(&mut self, path: &RelPath) -> Result<()> {
        const MADE_MODE: u16 = 0o755;
        let mut here = RelPath::root();
        let names: Vec<&[u8]> = path.names().collect();
        let Some((_, above)) = names.split_last() else { return Ok(()) };
        for name in above {
            here = here.join(name);
            match self.files.workspace.meta(&here) {
                Ok(meta) if meta.kind == MetaKind::Directory => continue,
                Ok(meta) => {
                    // The user put a file or link where the directory was.
                    let step = Step { path: here.as_bytes().to_owned(), before: None, after: None };
                    self.displace(&here, &step, &special(), &meta)?;
                }
                Err(error) if is_absent(&error) => {}
                Err(error) => return self.io(&here, "stat", Err(error)),
            }
            self.io(&here, "create", self.files.workspace.create_dir(&here, MADE_MODE))?;
        }
        Ok(())
    }

    /// Makes a directory that can be written to for now; its mode comes last.
    fn make_dir(&mut self, path: &RelPath, step: &Step) -> Result<()> {
        self.clear(path, step)?;
        match self.files.workspace.create_dir(path, step.after.map_or(0o700, |after| after.mode | 0o700)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => self.io(path, "create", made),
        }
    }

    fn put_in_place(&mut self, at: usize, path: &RelPath, step: &Step, after: &Entry) -> Result<()> {
        let workspace = &*self.files.workspace;
        let found = self.now(path)?;
        if found.is_some_and(|(now, _)| now == *after) {
            return Ok(());
        }
        if let Some((now, _)) = found
            && now.kind == EntryKind::File
            && (now.kind, now.id) == (after.kind, after.id)
        {
            return self.io(path, "change the mode of", workspace.set_mode(path, after.mode));
        }
        let staged = self.staged(at);
        if workspace.meta(&staged).is_err() {
            self.write_staged(at, after)?;
        }
        let Some((now, meta)) = found else {
            self.make_parents(path)?;
            return self.io(path, "write", workspace.rename(&staged, path));
        };
        if meta.kind == MetaKind::Directory || meta.kind == MetaKind::Special {
            self.displace(path, step, &now, &meta)?;
            return self.io(path, "write", workspace.rename(&staged, path));
        }
        match workspace.exchange(&staged, path) {
            Ok(()) => self.keep(&staged, path, step, Some((&now, &meta))),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                self.displace(path, step, &now, &meta)?;
                self.io(path, "write", workspace.rename(&staged, path))
            }
            Err(error) => self.io(path, "write", Err(error)),
        }
    }

    /// Empties the stage, keeping in the store what is neither a before nor an after, nor a beginning of one.
    fn clear_stage(&mut self, steps: &[Step]) -> Result<()> {
        let workspace = &*self.files.workspace;
        let names = match workspace.list(&self.stage) {
            Ok(names) => names,
            Err(error) if is_absent(&error) => return Ok(()),
            Err(error) => return self.io(&self.stage, "list", Err(error)),
        };
        let known: HashMap<_, ()> =
            steps.iter().flat_map(|step| [step.before, step.after]).flatten().map(|entry| (entry.id, ())).collect();
        let rescued: Vec<_> = self.rescued.iter().map(|(_, entry)| entry.id).collect();
        let mut found = Vec::new();
        for (name, meta) in names {
            let path = self.stage.join(&name);
            let meta = self.io(&path, "stat", meta)?;
            let number = std::str::from_utf8(&name).ok().and_then(|name| name.parse::<usize>().ok());
            let step = number.and_then(|at| steps.get(at));
            let read = read_state(workspace, None, &path, meta.kind)?;
            let (entry, _, _) = self.io(&path, "read", read)?;
            if !known.contains_key(&entry.id) && !rescued.contains(&entry.id) && !self.is_torn(&path, &entry, step)? {
                let read = read_state(workspace, Some(self.batch), &path, meta.kind)?;
                let (entry, _, _) = self.io(&path, "read", read)?;
                let origin = step.map_or(Ok(path.clone()), |step| RelPath::new(step.path.as_slice()))?;
                self.rescued.push((origin, entry));
            }
            found.push(path);
        }
        // Nothing is removed before what it was is on stable storage.
        self.batch.sync()?;
        found.iter().try_for_each(|path| self.io(path, "remove", workspace.remove_file(path)))
    }

    /// Whether a staged file is what writing its step's new content left when it was stopped.
    fn is_torn(&self, path: &RelPath, entry: &Entry, step: Option<&Step>) -> Result<bool> {
        let mut contents = step.iter().flat_map(|step| [step.before, step.after]).flatten();
        let Ok(staged) = self.files.workspace.read(path, MAX_OBJECT) else { return Ok(false) };
        contents.try_fold(false, |torn, of| {
            let longer = of.kind == EntryKind::File && entry.size < of.size;
            Ok(torn || (longer && read_blob(&self.files.objects, &of)?.starts_with(&staged.bytes)))
        })
    }

    fn remove_stage(&self) -> Result<()> {
        match self.files.workspace.remove_dir(&self.stage) {
            Err(error) if !is_absent(&error) => self.io(&self.stage, "remove", Err(error)),
            _ => Ok(()),
        }
    }

    fn io<T>(&self, path: &RelPath, op: &'static str, result: io::Result<T>) -> Result<T> {
        result.map_err(|error| Error::io(op, &self.files.workspace.root().join(path.to_path()), error))
    }
}

/// Stands for something that is not like anything in a tree.
fn special() -> Entry {
    Entry { kind: EntryKind::File, mode: 0, size: u64::MAX, id: crate::ids::ObjectId::from_bytes([0; 32]) }
}

fn read_journal(disk: &dyn Disk, path: &Path) -> Result<Option<(Journal, bool)>> {
    let file = match disk.open(path, How::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", path, error)),
    };
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(0)];
        let got = file.read_at(&mut bytes, 0)?;
        bytes.truncate(got);
        Ok(bytes)
    };
    let bytes = read().map_err(|e| Error::io("read", path, e))?;
    journal::decode(&bytes).map(Some).map_err(|bad| match bad {
        Bad::Torn => Error::corrupt(path, 0, "a journal is cut short"),
        Bad::Corrupt(why) => Error::corrupt(path, 0, why),
        Bad::Newer => {
            Error::Newer { path: path.to_owned(), at: crate::Offset::new(0), what: "this journal".to_owned() }
        }
    })
}

fn all_journals(disk: &dyn Disk, journals: &Path) -> Result<Vec<(PathBuf, Journal)>> {
    let names = match disk.list(journals) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", journals, error)),
    };
    let mut found = Vec::new();
    for name in names.into_iter().filter(|name| name.is_dir) {
        let path = journals.join(name.name).join("journal");
        if let Some((journal, _)) = read_journal(disk, &path)? {
            found.push((path, journal));
        }
    }
    Ok(found)
}

/// The rewinds that have not ended, of all workspaces. `journals` is `STORE/journals`.
///
/// # Errors
///
/// [`Error::Io`], [`Error::Corrupt`], [`Error::Newer`]: a journal cannot be read.
pub fn pending(disk: &dyn Disk, journals: &Path) -> Result<Vec<Pending>> {
    let found = all_journals(disk, journals)?;
    Ok(found.into_iter().map(|(_, j)| Pending { root: j.root, uid: j.uid, payload: j.payload }).collect())
}

/// What the rewinds that have not ended need: roots for [`ObjectStore::gc`](crate::objects::ObjectStore::gc).
///
/// # Errors
///
/// As [`pending`].
pub fn journal_roots(disk: &dyn Disk, journals: &Path) -> Result<Vec<Root>> {
    let mut roots = Vec::new();
    for (_, journal) in all_journals(disk, journals)? {
        roots.extend([journal.before, journal.seen].into_iter().flatten().map(Root::Entry));
        let entries = journal.steps.iter().flat_map(|step| [step.before, step.after]).flatten();
        // What a directory holds are steps of their own.
        roots.extend(entries.filter(|entry| entry.kind != EntryKind::Directory).map(Root::Entry));
    }
    Ok(roots)
}
