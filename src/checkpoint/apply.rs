//! Carrying a plan out so that it ends wholly done or wholly undone, whatever stops it.
//!
//! Everything that is there is captured first, the plan is written to a journal, the files are changed (by [`super::work`]), and the caller's
//! record is written. Whoever finds the journal later carries it to its end.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::compare::{Grafted, Lookup, alike, find_live, graft};
use super::journals::{Pending, all_journals, read_journal};
use super::snapshot::{Node, Snapshot, put_tree};
use super::work::{Captures, Work, stage_of};
use super::{Files, Plan, State, is_absent};
use crate::disk::LockMode;
use crate::error::{Error, Result};
use crate::format::journal::{self, Journal};
use crate::ids::Uid;
use crate::objects::{Batch, Entry, EntryKind};
use crate::workspace::{RelPath, STAGE_PREFIX};

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
            true => self.mark(&work.journal_now(), &[0; journal::applied_mark().len()], |file| file.sync()),
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
        self.mark(&work.journal_now(), &journal::applied_mark(), |_| Ok(()))?;
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
}
