//! Carrying a plan out so that it ends wholly done or wholly undone, whatever stops it.
//!
//! All new contents are written to a stage directory in the workspace first and change places with the old ones by
//! rename, so that a file is always whole. What a rename displaces is looked at before it is removed: content that nobody
//! had captured, because the user wrote it meanwhile, is put into the store.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use super::compare::{Grafted, Lookup, alike, find_live, graft};
use super::snapshot::{Node, Snapshot, put_tree, read_state};
use super::{Files, Plan, State, is_absent, read_blob};
use crate::disk::{Disk, File, How, LockMode};
use crate::error::{Error, Result};
use crate::format::journal::{self, Journal, Step};
use crate::format::pack::Bad;
use crate::ids::Uid;
use crate::objects::{Batch, Entry, EntryKind, MAX_OBJECT, Root};
use crate::parallel;
use crate::workspace::{Meta, MetaKind, RelPath, STAGE_PREFIX};

/// What was captured, and what the file was then.
type Captures = HashMap<RelPath, (Entry, Meta)>;

/// Contents that nobody had captured, and where they were.
type Rescued = Vec<(RelPath, Entry)>;

/// A rewind of files that has been carried to its end, but for the caller's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Names the rewind: by it a record that was written before a crash is recognised.
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

/// What the caller knows of an interrupted rewind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its record is not written: it is to be carried to its end.
    Open,
    /// Its record is not written, and the conversation that it was of has gone on without it: it is carried to its end only if it has changed
    /// a file already, and given up otherwise.
    Passed,
    /// Its record is written, and on stable storage.
    Recorded,
}

impl Pending {
    fn of(journal: &Journal) -> Self {
        Self { root: journal.root.clone(), uid: journal.uid, payload: journal.payload.clone() }
    }
}

impl Files {
    /// Carries out a plan, then calls `commit` to write the record, and returns what was done.
    ///
    /// When `commit` is called, the files and everything in its argument are on stable storage. If the process dies before
    /// this returns, [`Files::recover`] carries on with the same uid and payload; `commit` may then be called although
    /// its record was written already, and must recognise the uid. Syncs: one of the objects if something is new to the store, two
    /// for the journal, two of the workspace's file system (one per file and per directory for up to four), one when the journal goes.
    ///
    /// # Errors
    ///
    /// - [`Error::Stale`]: a file changed after the plan was made, or an earlier rewind has not ended. Nothing was changed.
    /// - [`Error::Locked`]: another process is changing the files.
    /// - Any error of the workspace or of `commit`: the files are as they were.
    /// - [`Error::Poisoned`]: they may not be, since putting them back failed too, or `commit` does not know whether its record
    ///   is written and returned this: the journal stays, and the next [`Files::recover`] carries on.
    pub fn apply(&self, plan: &Plan, payload: &[u8], commit: impl FnOnce(&Outcome) -> Result<()>) -> Result<Outcome> {
        let lock = self.lock(LockMode::Exclusive)?;
        self.nothing_pending()?;
        let batch = self.objects.begin()?;
        let (journal, metas) = self.prepare(plan, payload, &batch)?;
        batch.sync()?;
        self.write_journal(&journal)?;
        let mut work = Work::new(self, &batch, &journal, metas)?;
        let done = work.carry_out(&journal.steps).and_then(|()| self.outcome(&journal, &mut work));
        let outcome = done.map_err(|error| self.put_back(&mut work, &journal, error))?;
        let committed = commit(&outcome);
        let ended = match committed {
            // The record is written: the files must stay as they are.
            Ok(()) => match self.remove_journal() {
                Ok(()) => Ok(outcome),
                Err(_) => Err(Error::Poisoned { path: self.journal_path() }),
            },
            // Whether it is written, the next to open finds out.
            Err(error @ Error::Poisoned { .. }) => Err(error),
            Err(error) => Err(self.put_back(&mut work, &journal, error)),
        };
        drop(lock);
        ended
    }

    /// Makes the files what they were, after an error. Where that fails as well, the journal stays and brings them forward
    /// when the workspace is opened again.
    fn put_back(&self, work: &mut Work<'_>, journal: &Journal, error: Error) -> Error {
        // First, so that whoever is stopped from here on leaves a journal which brings the files forward, rather than one which says that they
        // are there.
        let unmarked = match work.is_marked {
            true => self.mark(work, &[0; journal::applied_mark().len()], |file| file.sync()),
            false => Ok(()),
        };
        match unmarked.and_then(|()| work.take_back(journal)).and_then(|()| self.remove_journal()) {
            Ok(()) => error,
            Err(_) => Error::Poisoned { path: self.journal_path() },
        }
    }

    /// Carries a rewind that was interrupted to its end and calls `commit`; `Ok(None)` when there is none.
    ///
    /// Call it whenever a workspace is opened. What the user changed since is captured before it is replaced. A workspace
    /// that was moved in the middle of a rewind is recognised by what that left in it. `standing` says whether the record is written already, and syncs it: then the files are what they shall be, and what the user
    /// did since is not touched.
    ///
    /// # Errors
    ///
    /// - [`Error::Locked`]: another process is at it.
    /// - [`Error::Corrupt`]: the journal is damaged; nothing was changed.
    /// - Any error of `standing`, of `commit`, or of the workspace: the journal stays.
    pub fn recover(
        &self,
        standing: impl FnOnce(&Pending) -> Result<Standing>,
        commit: impl FnOnce(&Outcome) -> Result<()>,
    ) -> Result<Option<Outcome>> {
        if self.nothing_pending().is_ok() {
            return match self.begun_elsewhere()? {
                Some(dir) => self.with_dir(dir).recover_here(standing, commit),
                None => self.settle_journal().map(|()| None),
            };
        }
        self.recover_here(standing, commit)
    }

    /// Makes sure that a journal which is there stays, and that one which is not does: whoever wrote or removed it may have failed, or died, before
    /// that was stable. One that went in a power cut would leave what was carried on half done; one that came back would undo what was
    /// done since.
    fn settle_journal(&self) -> Result<()> {
        match self.disk.sync_dir(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("sync", &self.dir, error)),
            _ => Ok(()),
        }
    }

    /// Where the journal is of a rewind that began when the workspace was at another place, if there is one.
    fn begun_elsewhere(&self) -> Result<Option<PathBuf>> {
        let root = RelPath::root();
        let names = self.workspace.list(&root).map_err(|e| Error::io("list", self.workspace.root(), e))?;
        let uid = |name: &[u8]| std::str::from_utf8(name).ok()?.strip_prefix(STAGE_PREFIX)?.parse::<Uid>().ok();
        let begun: Vec<Uid> = names.iter().filter_map(|(name, _)| uid(name)).collect();
        if begun.is_empty() {
            return Ok(None);
        }
        let journals = all_journals(&*self.disk, self.dir.parent().unwrap_or(&self.dir))?;
        let found = journals.into_iter().find(|(_, journal)| begun.contains(&journal.uid));
        Ok(found.and_then(|(path, _)| path.parent().map(Path::to_owned)))
    }

    fn recover_here(
        &self,
        standing: impl FnOnce(&Pending) -> Result<Standing>,
        commit: impl FnOnce(&Outcome) -> Result<()>,
    ) -> Result<Option<Outcome>> {
        let lock = self.lock(LockMode::Exclusive)?;
        self.settle_journal()?;
        let Some((journal, applied)) = read_journal(&*self.disk, &self.journal_path())? else { return Ok(None) };
        let over = match standing(&Pending::of(&journal))? {
            Standing::Open => false,
            Standing::Passed => !applied && !self.has_begun(&journal)?,
            Standing::Recorded => true,
        };
        if over {
            return self.remove_journal().map(|()| None);
        }
        let batch = self.objects.begin()?;
        let mut work = Work::new(self, &batch, &journal, HashMap::new())?;
        work.begins_again(&journal);
        work.clear_stage(&journal.steps)?;
        if !applied {
            work.carry_out(&journal.steps)?;
        }
        let outcome = self.outcome(&journal, &mut work)?;
        commit(&outcome)?;
        self.remove_journal()?;
        drop(lock);
        Ok(Some(outcome))
    }

    /// Whether anything of a rewind can be seen in the workspace: its stage, or a path that is as it shall be.
    fn has_begun(&self, journal: &Journal) -> Result<bool> {
        match self.workspace.meta(&stage_of(journal)) {
            Err(error) if is_absent(&error) => {}
            found => return found.map(|_| true).map_err(|error| Error::io("stat", self.workspace.root(), error)),
        }
        for step in &journal.steps {
            let now = self.observe(None, &RelPath::new(step.path.as_slice())?)?;
            if alike(now.map(|(entry, _)| entry).as_ref(), step.after.as_ref()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Captures what is there, and makes sure that it is what the plan was made for.
    fn prepare(&self, plan: &Plan, payload: &[u8], batch: &Batch<'_>) -> Result<(Journal, Captures)> {
        let mut metas = HashMap::new();
        let mut before = None;
        if let Some(snapshot) = &plan.snapshot {
            self.store(batch, &RelPath::root(), &snapshot.root)?;
            before = Some(self.with_unseen(snapshot, plan, batch)?);
        }
        for step in &plan.steps {
            let path = RelPath::new(step.path.as_slice())?;
            let found = plan.snapshot.as_ref().and_then(|snapshot| find_live(&snapshot.root, &path));
            let as_planned = found.filter(|found| self.workspace.meta(&path).is_ok_and(|now| now == found.meta));
            let now = match as_planned {
                Some(found) => Some((found.entry, found.meta)),
                None => self.observe(Some(batch), &path)?,
            };
            metas.extend(now.map(|now| (path.clone(), now)));
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
                Some(graft(&self.objects, batch, tree, &changes, Grafted::Alone)?)
            }
            None => None,
        };
        let root = self.workspace.root().as_os_str().as_encoded_bytes().to_owned();
        let (uid, payload, steps) = (self.temp_uid(), payload.to_owned(), plan.steps.clone());
        let (boot, found) = (self.workspace.boot(), Vec::new());
        let skipped = plan.snapshot.as_ref().map_or(&[][..], |snapshot| &snapshot.skipped);
        let unknown = super::unknown(skipped).iter().map(|path| path.as_bytes().to_owned()).collect();
        Ok((Journal { uid, root, boot, payload, before, seen, found, unknown, steps }, metas))
    }

    /// The tree of the workspace with what could not be looked at as the session last knew it: an undo must not take for
    /// gone what was only not to be read.
    fn with_unseen(&self, snapshot: &Snapshot, plan: &Plan, batch: &Batch<'_>) -> Result<Entry> {
        let tree = snapshot.root.entry;
        let Some(seen) = &plan.seen.tree else { return Ok(tree) };
        let mut lookup = Lookup::new(&self.objects);
        let mut unseen = BTreeMap::new();
        for skipped in &snapshot.skipped {
            if let Some(entry) = lookup.find(seen, &skipped.path)? {
                unseen.insert(skipped.path.clone(), Some(entry));
            }
        }
        if unseen.is_empty() { Ok(tree) } else { graft(&self.objects, batch, &tree, &unseen, Grafted::Whole) }
    }

    /// Puts what a plan has looked at into the store. A file of which the store has no content yet is read again and must
    /// be as it was.
    fn store(&self, batch: &Batch<'_>, path: &RelPath, node: &Node) -> Result<()> {
        for (name, child) in &node.children {
            if child.entry.kind == EntryKind::Directory {
                self.store(batch, &path.join(name), child)?;
            } else if !batch.contains(&child.entry.id)? {
                let path = path.join(name);
                if self.observe(Some(batch), &path)?.is_none_or(|(now, _)| now != child.entry) {
                    let path = self.workspace.root().join(path.to_path());
                    return Err(Error::Stale { path, why: "it changed after the rewind was planned" });
                }
            }
        }
        if batch.contains(&node.entry.id)? {
            return Ok(());
        }
        let names = node.children.iter().map(|(name, child)| (&name[..], &child.entry));
        put_tree(Some(batch), None, node.meta.mode, names).map(drop)
    }

    /// Ends the work on the files: what was rescued is synced, the stage goes, everything is synced.
    fn outcome(&self, journal: &Journal, work: &mut Work<'_>) -> Result<Outcome> {
        work.finish(&journal.steps)?;
        let (rescued, moved_aside) = (work.rescued.clone(), work.moved_aside.clone());
        // Not synced: while it can be read from memory it is true, and after a power cut doing it again is no harm.
        work.is_marked = true;
        self.mark(work, &journal::applied_mark(), |_| Ok(()))?;
        let unknown = journal.unknown.iter().map(|path| RelPath::new(path.as_slice())).collect::<Result<_>>()?;
        let mut before = State { tree: journal.before, unknown, ..State::default() };
        let mut seen = State { tree: journal.seen, ..State::default() };
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
        before.paths.extend(work.doubtful(journal));
        Ok(Outcome { uid: journal.uid, payload: journal.payload.clone(), before, seen, rescued, moved_aside })
    }

    /// Writes the place in the journal that says whether the files are as they shall be.
    fn mark(&self, work: &Work<'_>, mark: &[u8], then: impl FnOnce(&dyn File) -> io::Result<()>) -> Result<()> {
        let path = self.journal_path();
        let written = || -> io::Result<()> {
            let file = self.disk.open(&path, How::Write)?;
            file.write_at(mark, journal::encode(&work.journal_now()).len() as u64)?;
            then(&*file)
        };
        written().map_err(|e| Error::io("write", &path, e))
    }

    fn write_journal(&self, journal: &Journal) -> Result<()> {
        self.replace_journal(journal).map_err(|error| match self.remove_journal() {
            Ok(()) => error,
            // It never had its name.
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => error,
            // It may be there, or come back: rolling forward needs nothing else.
            Err(_) => Error::Poisoned { path: self.journal_path() },
        })
    }

    fn replace_journal(&self, journal: &Journal) -> Result<()> {
        let path = self.journal_path();
        let temp = self.dir.join(format!("journal.{}.tmp", journal.uid));
        // One that a killed process left.
        let _ = self.disk.remove_file(&temp);
        let written = || -> io::Result<()> {
            let file = self.disk.open(&temp, How::CreateNew)?;
            let mut bytes = journal::encode(journal);
            // A place for the mark, which a full disk then cannot refuse.
            bytes.extend_from_slice(&[0; journal::applied_mark().len()]);
            file.write_at(&bytes, 0)?;
            file.sync()?;
            self.disk.rename(&temp, &path)?;
            // The names of the directories above were synced before the lock, which is held, was made.
            self.disk.sync_dir(&self.dir)
        };
        written().map_err(|error| {
            let _ = self.disk.remove_file(&temp);
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
    journal: &'a Journal,
    /// How many of `rescued` the journal on disk knows.
    noted: usize,
    stage: RelPath,
    has_stage: bool,
    /// The paths of the steps, sorted.
    paths: Vec<RelPath>,
    /// What was captured, so that a file that has not changed since need not be read again.
    metas: Captures,
    rescued: Rescued,
    moved_aside: Vec<RelPath>,
    /// What has left its place and is known to be the before or after of its step, as it was then.
    replaced: HashMap<RelPath, Meta>,
    displaced: usize,
    uid: Uid,
    /// Files that were changed where they are, and directories in which names were made that no step names.
    changed: (Vec<RelPath>, Vec<RelPath>),
    /// Whether the journal may say that the files are as they shall be.
    is_marked: bool,
    /// Whether somebody else has begun, so that it is not known what was changed.
    is_again: bool,
    /// Whether the steps are being taken back.
    is_back: bool,
    /// Whether a power cut may have spoilt what was not synced.
    may_be_cut: bool,
}

impl<'a> Work<'a> {
    fn new(files: &'a Files, batch: &'a Batch<'a>, journal: &'a Journal, metas: Captures) -> Result<Self> {
        let found = |(path, entry): &(Vec<u8>, Entry)| Ok((RelPath::new(path.as_slice())?, *entry));
        Ok(Self {
            files,
            batch,
            journal,
            noted: journal.found.len(),
            stage: stage_of(journal),
            has_stage: false,
            paths: journal.steps.iter().map(|step| RelPath::new(step.path.as_slice())).collect::<Result<_>>()?,
            metas,
            rescued: journal.found.iter().map(found).collect::<Result<_>>()?,
            moved_aside: Vec::new(),
            replaced: HashMap::new(),
            displaced: 0,
            uid: journal.uid,
            changed: (Vec::new(), Vec::new()),
            is_marked: false,
            is_again: false,
            is_back: false,
            may_be_cut: false,
        })
    }

    /// The journal with what has been found since it was written.
    fn journal_now(&self) -> Journal {
        let found = self.rescued.iter().map(|(path, entry)| (path.as_bytes().to_owned(), *entry)).collect();
        Journal { found, ..self.journal.clone() }
    }

    /// Prepares to go on where another process was stopped.
    fn begins_again(&mut self, journal: &Journal) {
        self.is_again = true;
        self.may_be_cut = journal.boot == 0 || journal.boot != self.files.workspace.boot();
    }

    /// Brings every path from wherever it is to its after. May be called again after it was stopped anywhere.
    fn carry_out(&mut self, steps: &[Step]) -> Result<()> {
        let steps: Vec<(RelPath, &Step)> =
            steps.iter().map(|step| Ok((RelPath::new(step.path.as_slice())?, step))).collect::<Result<_>>()?;
        let is_dir = |entry: &Option<Entry>| entry.is_some_and(|entry| entry.kind == EntryKind::Directory);
        let mut contents = Vec::new();
        for (at, (path, step)) in steps.iter().enumerate() {
            contents.extend(self.content_to_stage(path, step).map(|after| (at, after)));
        }
        if !contents.is_empty() {
            self.make_stage()?;
        }
        parallel::each(&contents, |(at, after)| self.write_staged(*at, after))?;
        let staged: Vec<RelPath> = contents.iter().map(|(at, _)| self.staged(*at)).collect();
        // Without this, a power cut could leave a file's new name without its bytes, and nobody could tell that from
        // something that the user wrote.
        self.sync_now(&staged, &[])?;
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

    /// Puts everything back to its before; where something else had come meanwhile, to that.
    fn take_back(&mut self, journal: &Journal) -> Result<()> {
        self.metas.clear();
        self.clear_stage(&journal.steps)?;
        let n_rescued = self.rescued.len();
        let found: HashMap<RelPath, Entry> = self.rescued.iter().cloned().collect();
        let steps = journal.steps.iter().zip(&self.paths);
        let inverse: Vec<Step> = steps
            .map(|(step, path)| Step {
                path: step.path.clone(),
                before: step.after,
                after: found.get(path).copied().or(step.before),
            })
            .collect();
        (self.is_again, self.is_back) = (true, true);
        self.carry_out(&inverse)?;
        self.finish(&inverse)?;
        // The user is at work at this very moment: what was displaced now stands beside its path.
        for (path, entry) in self.rescued.split_off(n_rescued) {
            let Some(aside) = self.aside(&path) else { continue };
            let content = read_blob(&self.files.objects, &entry)?;
            self.io(&aside, "write", self.files.workspace.write_new(&aside, &content, entry.mode))?;
        }
        Ok(())
    }

    /// What had been captured of paths where something else was found after a power cut. That may be what the user made of
    /// the file, or what the cut did: an undo brings both back, this one beside the path.
    fn doubtful(&self, journal: &Journal) -> Vec<(RelPath, Option<Entry>)> {
        if !self.may_be_cut {
            return Vec::new();
        }
        let captured = |path: &RelPath| {
            let step = self.paths.binary_search(path).ok().and_then(|at| journal.steps.get(at))?;
            step.before.filter(|before| before.kind != EntryKind::Directory)
        };
        let beside = |(path, _): &(RelPath, Entry)| Some((self.aside(path)?, Some(captured(path)?)));
        self.rescued.iter().filter_map(beside).collect()
    }

    fn finish(&mut self, steps: &[Step]) -> Result<()> {
        self.clear_stage(steps)?;
        self.remove_stage()?;
        self.sync(steps)
    }

    /// Syncs everything that was changed.
    fn sync(&self, steps: &[Step]) -> Result<()> {
        let parent = |path: &RelPath| path.split().map(|(dir, _)| dir);
        let kind = |state: &Option<Entry>| state.map(|entry| entry.kind);
        let (mut files, named) = self.changed.clone();
        let mut dirs = BTreeSet::from_iter(named);
        for (path, step) in self.paths.iter().zip(steps) {
            dirs.extend(parent(path));
            if kind(&step.after) == Some(EntryKind::Directory) {
                dirs.insert(path.clone());
            }
            if self.is_again {
                dirs.extend(std::iter::successors(parent(path), parent));
                files.extend((kind(&step.after) == Some(EntryKind::File)).then(|| path.clone()));
            }
        }
        self.sync_now(&files, &dirs.into_iter().collect::<Vec<_>>())
    }

    fn sync_now(&self, files: &[RelPath], dirs: &[RelPath]) -> Result<()> {
        if files.is_empty() && dirs.is_empty() {
            return Ok(());
        }
        self.io(&RelPath::root(), "sync", self.files.workspace.sync(files, dirs))
    }

    /// The stage is made when something is to stand in it: a workspace in which nothing can be made can still be left
    /// as it is.
    fn make_stage(&mut self) -> Result<()> {
        if self.has_stage {
            return Ok(());
        }
        match self.files.workspace.create_dir(&self.stage, 0o700) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => self.io(&self.stage, "create", Err(error)),
            _ => {
                self.has_stage = true;
                Ok(())
            }
        }
    }

    fn staged(&self, at: usize) -> RelPath {
        let way = if self.is_back { "back-" } else { "" };
        self.stage.join(format!("{way}{at}").as_bytes())
    }

    /// The new content of a step, unless it is in place already.
    fn content_to_stage(&self, path: &RelPath, step: &Step) -> Option<Entry> {
        let after = step.after.filter(|after| after.kind != EntryKind::Directory)?;
        let same_content = |before: Entry| before.kind == after.kind && before.id == after.id;
        if step.before.is_some_and(same_content) {
            return None;
        }
        if !self.metas.contains_key(path)
            && let Ok(Some((now, _))) = self.files.observe(None, path)
            && now == after
        {
            return None;
        }
        Some(after)
    }

    /// Writes the new content of a step beside the workspace's files.
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
        self.make_stage()?;
        self.displaced += 1;
        // The number tells whose it is, should nobody live to write it down.
        let at = self.paths.binary_search(path).unwrap_or(self.paths.len());
        let to = self.stage.join(format!("old-{at}-{}", self.displaced).as_bytes());
        self.io(path, "move", self.files.workspace.rename(path, &to))?;
        self.keep(&to, path, step, Some((now, meta)))
    }

    /// The name for what cannot stay where it is.
    fn aside(&self, path: &RelPath) -> Option<RelPath> {
        let (dir, name) = path.split()?;
        Some(dir.join(&[name, format!(".forklog-kept-{}", self.uid).as_bytes()].concat()))
    }

    fn move_aside(&mut self, path: &RelPath) -> Result<()> {
        let Some(aside) = self.aside(path) else { return Ok(()) };
        self.io(path, "move aside", self.files.workspace.rename(path, &aside))?;
        self.moved_aside.push(aside);
        Ok(())
    }

    /// Puts into the store what a rename has brought to `staged`, if it is not one of the contents that are there.
    fn keep(&mut self, staged: &RelPath, path: &RelPath, step: &Step, known: Option<(&Entry, &Meta)>) -> Result<()> {
        let meta = self.io(staged, "stat", self.files.workspace.meta(staged))?;
        let is_stored = |entry: &Entry| [step.before, step.after].contains(&Some(*entry));
        if known.is_some_and(|(entry, known)| known.same_content(&meta) && is_stored(entry)) {
            self.replaced.insert(staged.clone(), meta);
            return Ok(());
        }
        if matches!(meta.kind, MetaKind::Directory | MetaKind::Special) {
            return Ok(());
        }
        let read = read_state(&*self.files.workspace, Some(self.batch), None, staged, meta.kind)?;
        let (entry, _, _) = self.io(staged, "read", read)?;
        if !is_stored(&entry) && !self.is_left(staged, &entry, Some(step), false)? {
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
            self.changed.1.extend([here.split().map(|(dir, _)| dir).unwrap_or_default(), here.clone()]);
        }
        Ok(())
    }

    /// Makes a directory that can be written to for now; its mode comes last.
    fn make_dir(&mut self, path: &RelPath, step: &Step) -> Result<()> {
        self.clear(path, step)?;
        match self.files.workspace.create_dir(path, step.after.map_or(0o700, |after| after.mode | 0o700)) {
            // It is there already, also where nothing may be made.
            Err(_) if self.files.workspace.meta(path).is_ok_and(|meta| meta.kind == MetaKind::Directory) => Ok(()),
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
            self.changed.0.push(path.clone());
            return self.io(path, "change the mode of", workspace.set_mode(path, after.mode));
        }
        let staged = self.staged(at);
        if workspace.meta(&staged).is_err() {
            self.make_stage()?;
            self.write_staged(at, after)?;
            self.sync_now(std::slice::from_ref(&staged), &[])?;
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
        self.has_stage = true;
        let known: HashMap<_, ()> =
            steps.iter().flat_map(|step| [step.before, step.after]).flatten().map(|entry| (entry.id, ())).collect();
        let rescued: Vec<_> = self.rescued.iter().map(|(_, entry)| entry.id).collect();
        let mut found = Vec::new();
        for (name, meta) in names {
            let path = self.stage.join(&name);
            let meta = self.io(&path, "stat", meta)?;
            // Somebody may have it open, and have written to it until now.
            if self.replaced.get(&path) == Some(&meta) {
                found.push(path);
                continue;
            }
            let step = step_of(&name).and_then(|at| steps.get(at));
            let read = read_state(workspace, None, None, &path, meta.kind)?;
            let (entry, _, _) = self.io(&path, "read", read)?;
            let is_known = known.contains_key(&entry.id) || rescued.contains(&entry.id);
            if !is_known && !self.is_left(&path, &entry, step, self.is_unplaced(&name, step)?)? {
                let read = read_state(workspace, Some(self.batch), None, &path, meta.kind)?;
                let (entry, _, _) = self.io(&path, "read", read)?;
                let origin = step.map_or(Ok(path.clone()), |step| RelPath::new(step.path.as_slice()))?;
                self.rescued.push((origin, entry));
            }
            found.push(path);
        }
        // Nothing is removed before what it was is on stable storage, and where it was, too.
        self.batch.sync()?;
        if self.noted < self.rescued.len() {
            self.files.replace_journal(&self.journal_now())?;
            self.noted = self.rescued.len();
        }
        found.iter().try_for_each(|path| self.io(path, "remove", workspace.remove_file(path)))
    }

    /// Whether a staged file is what is left of one of its step's contents: of the new one where writing it was stopped,
    /// and after a power cut of any that was not synced, the user's own too.
    fn is_left(&self, path: &RelPath, entry: &Entry, step: Option<&Step>, is_unfinished: bool) -> Result<bool> {
        let contents = step.iter().flat_map(|step| [step.before, step.after]).flatten();
        if entry.kind != EntryKind::File || !(self.may_be_cut || is_unfinished) {
            return Ok(false);
        }
        let Ok(staged) = self.files.workspace.read(path, MAX_OBJECT) else { return Ok(false) };
        for of in contents.filter(|of| of.kind == EntryKind::File && entry.size <= of.size) {
            let whole = read_blob(&self.files.objects, &of)?;
            let is_zeroed = || staged.bytes.iter().zip(&whole).all(|(left, byte)| left == byte || *left == 0);
            if self.may_be_cut && is_zeroed() || is_unfinished && whole.starts_with(&staged.bytes) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the new content of a step may not have left the stage yet, under its number.
    fn is_unplaced(&self, name: &[u8], step: Option<&Step>) -> Result<bool> {
        let Some(step) = step.filter(|_| !name.starts_with(b"old-")) else { return Ok(false) };
        let goal = if name.starts_with(b"back-") { step.before } else { step.after };
        let now = self.now(&RelPath::new(step.path.as_slice())?)?.map(|(entry, _)| entry);
        Ok(now.is_none() || now != goal)
    }

    fn remove_stage(&mut self) -> Result<()> {
        if !self.has_stage {
            return Ok(());
        }
        match self.files.workspace.remove_dir(&self.stage) {
            Err(error) if !is_absent(&error) => self.io(&self.stage, "remove", Err(error)),
            _ => {
                self.has_stage = false;
                self.changed.1.push(RelPath::root());
                Ok(())
            }
        }
    }

    fn io<T>(&self, path: &RelPath, op: &'static str, result: io::Result<T>) -> Result<T> {
        result.map_err(|error| Error::io(op, &self.files.workspace.root().join(path.to_path()), error))
    }
}

/// Where the new contents of a rewind wait.
fn stage_of(journal: &Journal) -> RelPath {
    RelPath::root().join(format!("{STAGE_PREFIX}{}", journal.uid).as_bytes())
}

/// The step that a file in the stage belongs to.
fn step_of(name: &[u8]) -> Option<usize> {
    let name = std::str::from_utf8(name).ok()?;
    let number = match name.strip_prefix("old-").and_then(|rest| rest.split_once('-')) {
        Some((number, _)) => number,
        None => name.strip_prefix("back-").unwrap_or(name),
    };
    number.parse().ok()
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
    Ok(found.into_iter().map(|(_, journal)| Pending::of(&journal)).collect())
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
        let entries = journal.steps.iter().flat_map(|step| [&step.before, &step.after]).flatten();
        // What a directory holds are steps of their own.
        let entries = entries.chain(journal.found.iter().map(|(_, entry)| entry));
        roots.extend(entries.filter(|entry| entry.kind != EntryKind::Directory).map(|entry| Root::Entry(*entry)));
    }
    Ok(roots)
}
