//! Files and the conversation together: checkpoints in transcripts, and rewinds that move both.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry::Vacant;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use self::commit::{Commit, Intent, Step, open};
use super::Reader;
use super::record::At;
use super::writer::{Core, Session, Writer};
use crate::checkpoint::{Files, Outcome, Pending, Plan, PlanOptions, Standing, State};
use crate::error::{Error, Named, Result};
use crate::format::control;
use crate::format::files::{CheckpointRecord, EntryText, Label, PathText, StateText};
use crate::format::line::kind;
use crate::ids::{ObjectKind, Offset, Position, Seq, SessionKey, Uid};
use crate::log::files::{FilesLine, FilesRecord, History, InView, each_record, in_view, is_in_view, link_at};
use crate::log::lineage::{Lineage, View};
use crate::objects::{Batch, Entry, EntryKind, MAX_OBJECT};
use crate::time::Timestamp;
use crate::workspace::{RelPath, ScanOptions, Skipped, Workspace};

mod commit;

/// A session and the files of one workspace: see [`Session::files`].
pub struct SessionFiles<'s> {
    session: &'s Session,
    files: Files,
    /// The name that the workspace has in the session's records: where it is, or was before it moved.
    root: PathText,
    /// Whether the session's own file is known to say something about this workspace, or to need nothing of its parent.
    inherited: AtomicBool,
}

/// A checkpoint in a transcript.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Checkpoint {
    /// Names it for ever; forks inherit it under the same id.
    pub id: Uid,
    /// What the caller called it.
    pub label: Option<String>,
    /// When it was taken.
    pub at: Timestamp,
    /// The place just after it. Rewinding the conversation there keeps the checkpoint.
    pub position: Position,
    /// The record before it, to which it belongs.
    pub seq: Option<Seq>,
    /// The workspace, where it was. In JSON, bytes that are not UTF-8 are `\xNN`, as in a [`RelPath`].
    #[serde(serialize_with = "crate::workspace::path_text")]
    pub workspace: PathBuf,
    /// Whether it has the whole workspace, and not only some paths.
    pub whole: bool,
}

/// A checkpoint that was just taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Taken {
    /// The checkpoint's id.
    pub id: Uid,
    /// The place just after its record.
    pub position: Position,
    /// What is not in it.
    pub skipped: Vec<Skipped>,
}

/// Where files are to go back to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilesTarget {
    /// A checkpoint of the view.
    Checkpoint(Uid),
    /// A record of the view: what the files were when it had been written. That is the newest checkpoint of the whole workspace
    /// that belongs to it; else the newest one before it, with every path that was tracked since as it was then.
    At(At),
}

/// What a rewind moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Files alone; the conversation stays where it is.
    Files,
    /// Files and conversation, in one record.
    Both,
}

/// Files that were moved.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FilesMoved {
    /// The head of the conversation before.
    pub left: Position,
    /// What was done to each file, and what was kept as it is. `None` when an undo or redo was of the conversation alone.
    pub plan: Option<Plan>,
    /// Paths at which something else stood by the time they were changed; undoing brings it back.
    pub rescued: Vec<RelPath>,
    /// Things that were in the way and could not be kept in the store, renamed to these paths.
    pub moved_aside: Vec<RelPath>,
}

/// Where a plan leads.
struct Goal {
    target: State,
    seen: State,
    step: Step,
}

impl Session {
    /// The files of the directory `workspace`, as this session sees them.
    ///
    /// A rewind of files that was interrupted there, this session's or another's, is carried to its end first; but if its conversation has gone on
    /// since, or is gone, and no file has been changed yet, it is given up. The store itself, where it lies in the workspace, is never part of a checkpoint.
    ///
    /// # Errors
    ///
    /// - [`Error::Locked`]: another process is changing the files, or has the session open whose rewind was interrupted.
    /// - [`Error::Corrupt`]: the journal of an interrupted rewind is damaged; nothing was changed.
    /// - [`Error::Io`], [`Error::Full`], and what opening the other session can return.
    #[cfg(unix)]
    pub fn files(&self, workspace: impl AsRef<Path>) -> Result<SessionFiles<'_>> {
        let (workspace, scan) = self.core.store.open_workspace(workspace.as_ref())?;
        self.files_of(workspace, scan)
    }

    /// [`Session::files`] of a workspace that has moved: the session's records know it as `was`, and go on calling it that.
    ///
    /// # Errors
    ///
    /// As [`Session::files`].
    #[cfg(unix)]
    pub fn files_moved(&self, workspace: impl AsRef<Path>, was: impl AsRef<Path>) -> Result<SessionFiles<'_>> {
        let (workspace, scan) = self.core.store.open_workspace(workspace.as_ref())?;
        self.files_named(workspace, scan, text_of(was.as_ref()))
    }

    /// [`Session::files`] of a workspace of another kind, or with other rules for what a checkpoint takes in.
    ///
    /// # Errors
    ///
    /// As [`Session::files`].
    pub fn files_of(&self, workspace: Arc<dyn Workspace>, scan: ScanOptions) -> Result<SessionFiles<'_>> {
        let root = text_of(workspace.root());
        self.files_named(workspace, scan, root)
    }

    fn files_named(
        &self,
        workspace: Arc<dyn Workspace>,
        scan: ScanOptions,
        root: PathText,
    ) -> Result<SessionFiles<'_>> {
        let files = self.core.store.workspace_files(workspace, scan);
        let found = SessionFiles { session: self, files, root, inherited: AtomicBool::new(false) };
        found.recover()?;
        Ok(found)
    }

    /// The workspace whose files the next undo would bring back; `None` when it is of the conversation alone, or there is nothing to undo.
    ///
    /// # Errors
    ///
    /// As [`Session::append`].
    pub fn undo_workspace(&self) -> Result<Option<PathBuf>> {
        self.core.workspace_of(Core::undoable)
    }

    /// The workspace whose files the next redo would bring back.
    ///
    /// # Errors
    ///
    /// As [`Session::append`].
    pub fn redo_workspace(&self) -> Result<Option<PathBuf>> {
        self.core.workspace_of(Core::redoable)
    }
}

impl SessionFiles<'_> {
    /// Takes a checkpoint of the whole workspace, whoever changed what. It belongs to the newest record.
    ///
    /// The contents are on stable storage when this returns; the checkpoint's record survives what the session's
    /// [`Durability`](crate::Durability) says. Reads only files whose stat differs from the last time. Cost: one sync, however many files.
    ///
    /// # Errors
    ///
    /// [`Error::BadName`] of the label; [`Error::Stale`] when a rewind of the files has not ended; [`Error::Io`] of the workspace; else as
    /// [`Session::append`].
    pub fn checkpoint(&self, label: Option<&str>) -> Result<Taken> {
        let label = label_of(label)?;
        let batch = self.objects().begin()?;
        self.inherit(&batch)?;
        let captured = self.files.capture(&batch)?;
        let (id, position) = self.record(&batch, label, &captured.state())?;
        Ok(Taken { id, position, skipped: captured.skipped })
    }

    /// Takes a checkpoint of some paths. See [`SessionFiles::track`] and [`SessionFiles::checkpoint`].
    ///
    /// # Errors
    ///
    /// As [`SessionFiles::checkpoint`].
    pub fn checkpoint_paths(&self, label: Option<&str>, paths: &[RelPath]) -> Result<Taken> {
        let label = label_of(label)?;
        let batch = self.objects().begin()?;
        self.inherit(&batch)?;
        let state = self.states(&batch, paths)?;
        let (id, position) = self.record(&batch, label, &state)?;
        Ok(Taken { id, position, skipped: Vec::new() })
    }

    /// Notes what some paths are right now: whether they exist, and with what content.
    ///
    /// Call it before an edit: that is what rewinding to an earlier record brings back. Call it after the edit too, so that the session has
    /// seen its own change: content that it has not seen is a conflict when it rewinds. A session that only tracks, and takes no checkpoints of the
    /// whole workspace, rewinds nothing but what it tracked.
    ///
    /// Survives as [`SessionFiles::checkpoint`] does, at the same cost.
    ///
    /// # Errors
    ///
    /// As [`SessionFiles::checkpoint`].
    pub fn track(&self, paths: &[RelPath]) -> Result<()> {
        let batch = self.objects().begin()?;
        self.inherit(&batch)?;
        let state = self.states(&batch, paths)?;
        if state.paths.is_empty() {
            return Ok(());
        }
        batch.sync()?;
        self.core().append_files(&CheckpointRecord {
            id: None,
            label: None,
            workspace: self.root.clone(),
            state: text(&state),
        })?;
        Ok(())
    }

    /// What a rewind of the files would do. Changes nothing.
    ///
    /// # Errors
    ///
    /// As [`SessionFiles::rewind`].
    pub fn plan(&self, to: &FilesTarget, options: &PlanOptions) -> Result<Plan> {
        let goal = self.goal(to, Scope::Files)?;
        self.files.plan(&goal.target, &goal.seen, options)
    }

    /// Brings files back to what they were, and with [`Scope::Both`] the conversation too, in one record.
    ///
    /// Files whose content is not what the session last saw are conflicts: they are left as they are, unless forced. What was there before, forced or
    /// not, comes back by [`SessionFiles::undo`]. When this returns, files and record are on stable storage. Killed in between, the
    /// next who opens the workspace carries it to its end. Cost: reads the session's transcript, and the workspace's stats; writes what differs.
    ///
    /// # Errors
    ///
    /// - [`Error::NotFound`]: the view has no such record or checkpoint, or nothing is known of the files there.
    /// - [`Error::BadArgument`]: a pattern of `options` cannot be understood.
    /// - [`Error::Stale`]: a file changed meanwhile; nothing was changed.
    /// - [`Error::Locked`]: another process is changing the files.
    /// - [`Error::Poisoned`]: a sync failed after the files were changed; open session and workspace again.
    /// - [`Error::Corrupt`], [`Error::Full`], [`Error::Io`]: the files are as they were.
    pub fn rewind(&self, to: &FilesTarget, scope: Scope, options: &PlanOptions) -> Result<FilesMoved> {
        self.go(self.goal(to, scope)?, options)
    }

    /// Takes back the newest rewind that has not been undone; when it moved files, they come back too.
    ///
    /// # Errors
    ///
    /// [`Error::NothingTo`]; [`Error::BadArgument`] when that was in another workspace; else as [`SessionFiles::rewind`].
    pub fn undo(&self, options: &PlanOptions) -> Result<FilesMoved> {
        match self.back(kind::UNDO)? {
            Some(goal) => self.go(goal, options),
            None => self.session.undo().map(conversation_alone),
        }
    }

    /// Takes back the newest undo; when it moved files, they come back too.
    ///
    /// # Errors
    ///
    /// As [`SessionFiles::undo`].
    pub fn redo(&self, options: &PlanOptions) -> Result<FilesMoved> {
        match self.back(kind::REDO)? {
            Some(goal) => self.go(goal, options),
            None => self.session.redo().map(conversation_alone),
        }
    }

    /// What [`SessionFiles::undo`] would do to files; `None` when it is of the conversation alone. Changes nothing.
    ///
    /// # Errors
    ///
    /// As [`SessionFiles::undo`].
    pub fn plan_undo(&self, options: &PlanOptions) -> Result<Option<Plan>> {
        self.back(kind::UNDO)?.map(|goal| self.files.plan(&goal.target, &goal.seen, options)).transpose()
    }

    /// What [`SessionFiles::redo`] would do to files; `None` when it is of the conversation alone. Changes nothing.
    ///
    /// # Errors
    ///
    /// As [`SessionFiles::undo`].
    pub fn plan_redo(&self, options: &PlanOptions) -> Result<Option<Plan>> {
        self.back(kind::REDO)?.map(|goal| self.files.plan(&goal.target, &goal.seen, options)).transpose()
    }

    /// The workspace's files without the session: for [`Files::diff_workspace`], say.
    #[must_use]
    pub fn workspace(&self) -> &Files {
        &self.files
    }

    fn core(&self) -> &Core {
        &self.session.core
    }

    fn objects(&self) -> &crate::objects::ObjectStore {
        self.core().store.objects()
    }

    fn states(&self, batch: &Batch<'_>, paths: &[RelPath]) -> Result<State> {
        let mut state = State::default();
        for path in paths.iter().filter(|path| !path.is_root()) {
            state.paths.insert(path.clone(), self.files.track(batch, path)?);
        }
        Ok(state)
    }

    /// Syncs the contents, then writes the record that names them.
    fn record(&self, batch: &Batch<'_>, label: Option<Label>, state: &State) -> Result<(Uid, Position)> {
        batch.sync()?;
        let id = self.core().store.new_uid();
        let record = CheckpointRecord { id: Some(id), label, workspace: self.root.clone(), state: text(state) };
        Ok((id, self.core().append_files(&record)?))
    }

    /// Gives a fork's own file what its parent noted after the fork began: only that says what the files were at its base, and the parent may go.
    fn inherit(&self, batch: &Batch<'_>) -> Result<()> {
        let core = self.core();
        if core.transcript.header.base.is_none() || self.inherited.load(Ordering::Acquire) {
            return Ok(());
        }
        let (history, _) = self.history()?;
        if !history.owns_any(&self.root) {
            let state = self.parents_notes(batch)?;
            if !state.paths.is_empty() {
                batch.sync()?;
                let workspace = self.root.clone();
                core.append_files(&CheckpointRecord { id: None, label: None, workspace, state })?;
            }
        }
        self.inherited.store(true, Ordering::Release);
        Ok(())
    }

    /// The oldest state of each path that the parent's file gives after the place where the fork begins.
    fn parents_notes(&self, batch: &Batch<'_>) -> Result<StateText> {
        let core = self.core();
        let mut state = StateText::default();
        let Some(base) = &core.transcript.header.base else { return Ok(state) };
        let disk = &**core.store.disk();
        let mut lineage = Lineage::new(disk, core.store.layout(), &core.transcript);
        let Some(parent) = lineage.ancestors()?.first().cloned() else { return Ok(state) };
        let read = each_record(&parent.open(disk)?, link_at(&base.at.into()), |record| {
            if *record.workspace() == self.root {
                for (path, entry) in &record.before().paths {
                    state.paths.entry(path.clone()).or_insert(*entry);
                }
            }
            Ok(())
        });
        match read {
            // What cannot be read of the parent's later history is not part of this session.
            Ok(()) | Err(Error::Corrupt { .. } | Error::Newer { .. }) => {}
            Err(error) => return Err(error),
        }
        for EntryText(entry) in state.paths.values().flatten() {
            if entry.kind != EntryKind::Directory && !batch.contains(&entry.id)? {
                batch.put(ObjectKind::Blob, &self.objects().get(ObjectKind::Blob, entry.id, MAX_OBJECT)?)?;
            }
        }
        Ok(state)
    }

    /// All that the session's history says about files, and the head.
    fn history(&self) -> Result<(History, Position)> {
        let core = self.core();
        let head = core.change(|writer| Ok(core.transcript.position(&writer.state.tip)))?;
        let disk = &**core.store.disk();
        let mut lineage = Lineage::new(disk, core.store.layout(), &core.transcript);
        let mut history = History::read(disk, &mut lineage, &core.transcript, head.offset.get())?;
        history.lines.retain(|line| *line.record.workspace() == self.root);
        Ok((history, head))
    }

    fn goal(&self, to: &FilesTarget, scope: Scope) -> Result<Goal> {
        let core = self.core();
        let (history, head) = self.history()?;
        let view = core.finder().view(head)?;
        let checkpoints = in_view(&**core.store.disk(), &view)?;
        let (exact, place) = self.find(to, &view, &checkpoints)?;
        let missing = || Error::not_found(Named::Checkpoint, format!("at or before {place}"));
        let target = match exact {
            Some(exact) if exact.record.state.tree.is_some() => self.whole_target(&history, exact)?,
            _ => self.pieced_target(&history, &view, &place)?.ok_or_else(missing)?,
        };
        let step = Step::Rewind((scope == Scope::Both).then(|| place.into()));
        Ok(Goal { target, seen: self.seen(&history)?, step })
    }

    /// The checkpoint that `to` means, if one stands exactly there, and the place that the conversation goes to.
    fn find<'c>(
        &self,
        to: &FilesTarget,
        view: &View,
        checkpoints: &'c [InView],
    ) -> Result<(Option<&'c InView>, Position)> {
        let mut own = checkpoints.iter().filter(|found| found.record.workspace == self.root);
        match to {
            FilesTarget::Checkpoint(id) => {
                let found = own.find(|found| found.record.id == Some(*id));
                let found = found.ok_or_else(|| Error::not_found(Named::Checkpoint, id))?;
                Ok((Some(found), found.position))
            }
            FilesTarget::At(at) => {
                let core = self.core();
                let place = core.change(|writer| core.place(writer, view, at))?;
                if !view.has_place(&place) {
                    return Err(Error::not_found(Named::Position, place));
                }
                let mut whole = own.filter(|found| found.record.state.tree.is_some());
                if let Some(found) = whole.clone().find(|found| found.position == place) {
                    return Ok((Some(found), place));
                }
                let found = whole.rfind(|found| found.position.records == place.records);
                let further = |found: &InView| {
                    *at != At::Head && found.position.uid == place.uid && place.offset < found.position.offset
                };
                Ok((found, found.filter(|found| further(found)).map_or(place, |found| found.position)))
            }
        }
    }

    /// What the files were at a checkpoint of the whole workspace: its tree, and of paths that it does not have what was noted next.
    fn whole_target(&self, history: &History, at: &InView) -> Result<State> {
        let mut target = state(&at.record.state)?;
        let later = history.lines.iter().filter(|line| history.is_after(line, &at.position));
        let mut paths = oldest(later)?;
        self.drop_known(&mut paths, target.tree.as_ref())?;
        target.paths.append(&mut paths);
        Ok(target)
    }

    /// What the files were at a place without a checkpoint, as far as that is known; `None` when nothing is.
    fn pieced_target(&self, history: &History, view: &View, place: &Position) -> Result<Option<State>> {
        let (later, earlier): (Vec<_>, Vec<_>) = history.lines.iter().partition(|line| history.is_after(line, place));
        let mut target = State { paths: oldest(later.into_iter())?, ..State::default() };
        let is_whole = |line: &&&FilesLine| line.record.seen().tree.is_some() && is_in_view(view, line);
        let whole = earlier.iter().rposition(|line| is_whole(&line));
        if let Some((whole, line)) = whole.and_then(|at| Some((at, earlier.get(at)?))) {
            State { tree: target.tree, unknown: target.unknown, .. } = state(line.record.seen())?;
            // What was tracked between the two and not since is as it was, as far as this session knows.
            for line in earlier.iter().skip(whole + 1) {
                for path in line.record.seen().paths.keys() {
                    let path = RelPath::new(path.0.as_slice())?;
                    if let Vacant(place) = target.paths.entry(path) {
                        let now = self.files.now_at(place.key())?;
                        place.insert(now);
                    }
                }
            }
        }
        Ok((target != State::default()).then_some(target))
    }

    /// What this session last knew its files to be.
    fn seen(&self, history: &History) -> Result<State> {
        let mut seen = State::default();
        let mut older = BTreeMap::new();
        for line in &history.lines {
            let mut next = state(line.record.seen())?;
            if next.tree.is_some() {
                older.append(&mut seen.paths);
                seen.tree = next.tree;
            }
            seen.paths.append(&mut next.paths);
        }
        // A tree says all there is to say, but of paths that it leaves out.
        older.retain(|path, _| !seen.paths.contains_key(path));
        self.drop_known(&mut older, seen.tree.as_ref())?;
        seen.paths.append(&mut older);
        Ok(seen)
    }

    /// Drops the paths that `tree` has.
    fn drop_known(&self, paths: &mut BTreeMap<RelPath, Option<Entry>>, tree: Option<&Entry>) -> Result<()> {
        let Some(tree) = tree else { return Ok(()) };
        let mut known = self.files.look_up(tree, paths.keys())?.into_iter();
        paths.retain(|_, _| known.next().flatten().is_none());
        Ok(())
    }

    /// Where an undo or redo leads; `None` when it is of the conversation alone.
    fn back(&self, what: &'static str) -> Result<Option<Goal>> {
        let core = self.core();
        let which = if what == kind::UNDO { Core::undoable } else { Core::redoable };
        let of = core.change(|writer| which(core, writer))?.ok_or(Error::NothingTo { what })?;
        let Some(moved) = core.transcript.move_files_at(of)? else { return Ok(None) };
        if moved.workspace != self.root {
            let why = format!("the files to bring back are those of {}", path_of(&moved.workspace).display());
            return Err(Error::BadArgument { why });
        }
        let (history, _) = self.history()?;
        let step = if what == kind::UNDO { Step::Undo(Offset(of)) } else { Step::Redo(Offset(of)) };
        Ok(Some(Goal { target: state(&moved.before)?, seen: self.seen(&history)?, step }))
    }

    fn go(&self, goal: Goal, options: &PlanOptions) -> Result<FilesMoved> {
        let plan = self.files.plan(&goal.target, &goal.seen, options)?;
        let core = self.core();
        let SessionKey { project, session } = core.key.clone();
        let head = self.session.head()?;
        // So that whoever finds the journal can tell whether the conversation has gone on since.
        core.sync_to(head.offset.get())?;
        let intent = Intent {
            project,
            session,
            side: core.side.clone(),
            uid: self.session.uid(),
            workspace: self.root.clone(),
            step: goal.step,
            head: Some(head.into()),
        };
        let payload = serde_json::to_vec(&intent).map_err(|error| Error::BadJson { why: error.to_string() })?;
        let mut left = None;
        let outcome = self.files.apply(&plan, &payload, |outcome| {
            left = Some(core.commit_files(&intent, outcome, Commit::First)?);
            Ok(())
        })?;
        let left = left.map_or_else(|| self.session.head(), Ok)?;
        let rescued = outcome.rescued.into_iter().map(|(path, _)| path).collect();
        Ok(FilesMoved { left, plan: Some(plan), rescued, moved_aside: outcome.moved_aside })
    }

    /// Carries a rewind of this workspace to its end that was interrupted, whichever session it was of.
    fn recover(&self) -> Result<()> {
        let standing = |pending: &Pending| {
            let found = self.with_core(&pending.payload, |core, intent| core.standing(pending.uid, intent))?;
            let is_ours = serde_json::from_slice::<Intent>(&pending.payload).is_ok();
            Ok(found.unwrap_or(if is_ours { Standing::Passed } else { Standing::Open }))
        };
        let again = |outcome: &Outcome| {
            self.with_core(&outcome.payload, |core, intent| core.commit_files(intent, outcome, Commit::Again)).map(drop)
        };
        self.files.recover(standing, again).map(drop)
    }

    /// Does `work` with the session that a journal belongs to; `None` when nothing is known of its record.
    fn with_core<T>(&self, payload: &[u8], work: impl FnOnce(&Core, &Intent) -> Result<T>) -> Result<Option<T>> {
        let Ok(intent) = serde_json::from_slice::<Intent>(payload) else {
            // Somebody else's journal: its files become what they should be, and nothing here knows its record.
            return Ok(None);
        };
        if intent.uid == self.session.uid() {
            return work(self.core(), &intent).map(Some);
        }
        let other = open(&self.core().store, &intent)?;
        other.map(|other| work(&other.core, &intent)).transpose()
    }
}

impl Core {
    fn undoable(&self, writer: &mut Writer) -> Result<Option<u64>> {
        self.finder().undoable(writer.state.tip.moved)
    }

    fn redoable(&self, writer: &mut Writer) -> Result<Option<u64>> {
        self.finder().redoable(writer.state.tip.moved)
    }

    fn workspace_of(&self, which: impl FnOnce(&Self, &mut Writer) -> Result<Option<u64>>) -> Result<Option<PathBuf>> {
        let Some(of) = self.change(|writer| which(self, writer))? else { return Ok(None) };
        Ok(self.transcript.move_files_at(of)?.map(|moved| path_of(&moved.workspace)))
    }

    /// Appends a checkpoint or note; returns the place after it.
    fn append_files(&self, record: &CheckpointRecord) -> Result<Position> {
        let payload = control::encode(record);
        let position = self.change(|writer| {
            self.control(writer, kind::CHECKPOINT, &payload)?;
            Ok(self.transcript.position(&writer.state.tip))
        })?;
        self.make_durable(position.offset.get())?;
        Ok(position)
    }
}

impl Reader {
    /// The checkpoints of the view, oldest first; those that a fork inherited too.
    ///
    /// Cost: one read of the view.
    ///
    /// # Errors
    ///
    /// As [`Records::next`](super::Records::next).
    pub fn checkpoints(&self) -> Result<Vec<Checkpoint>> {
        let found = in_view(&**self.store().disk(), self.view())?;
        Ok(found.into_iter().filter_map(checkpoint).collect())
    }

    /// The workspaces whose files the session's history says anything of, each once, the one it spoke of last first. They are where
    /// they were then.
    ///
    /// Cost: one read of the view, and of abandoned tails.
    ///
    /// # Errors
    ///
    /// As [`Records::next`](super::Records::next).
    pub fn workspaces(&self) -> Result<Vec<PathBuf>> {
        let (store, transcript) = (self.store(), self.transcript());
        let disk = &**store.disk();
        let mut lineage = Lineage::new(disk, store.layout(), transcript);
        let history = History::read(disk, &mut lineage, transcript, self.end())?;
        let mut found: Vec<&PathText> = Vec::new();
        for line in history.lines.iter().rev() {
            if !found.contains(&line.record.workspace()) {
                found.push(line.record.workspace());
            }
        }
        Ok(found.into_iter().map(path_of).collect())
    }

    /// The tree of a checkpoint of the whole workspace, for [`Files::diff_trees`].
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the view has no such checkpoint, or it has only some paths; else as [`Reader::checkpoints`].
    pub fn checkpoint_tree(&self, id: Uid) -> Result<Entry> {
        let found = in_view(&**self.store().disk(), self.view())?;
        let found = found.into_iter().find(|found| found.record.id == Some(id));
        let tree = found.and_then(|found| found.record.state.tree);
        tree.map(|tree| tree.0).ok_or_else(|| Error::not_found(Named::Checkpoint, id))
    }
}

fn checkpoint(found: InView) -> Option<Checkpoint> {
    let InView { at, position, record } = found;
    Some(Checkpoint {
        id: record.id?,
        label: record.label.map(|label| label.as_str().to_owned()),
        at,
        position,
        seq: position.records.checked_sub(1).map(Seq),
        workspace: path_of(&record.workspace),
        whole: record.state.tree.is_some(),
    })
}

fn conversation_alone(left: Position) -> FilesMoved {
    FilesMoved { left, plan: None, rescued: Vec::new(), moved_aside: Vec::new() }
}

fn label_of(label: Option<&str>) -> Result<Option<Label>> {
    let checked =
        |label: &str| Label::try_from(label.to_owned()).map_err(|why| Error::bad_name(Named::Checkpoint, label, why));
    label.map(checked).transpose()
}

fn text_of(path: &Path) -> PathText {
    PathText(path.as_os_str().as_encoded_bytes().to_owned())
}

#[cfg(unix)]
fn path_of(text: &PathText) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec(text.0.clone()).into()
}

#[cfg(not(unix))]
fn path_of(text: &PathText) -> PathBuf {
    String::from_utf8_lossy(&text.0).into_owned().into()
}

/// The first that each path is said to have been.
fn oldest<'l>(lines: impl Iterator<Item = &'l FilesLine>) -> Result<BTreeMap<RelPath, Option<Entry>>> {
    let mut paths = BTreeMap::new();
    for line in lines {
        for (path, entry) in &line.record.before().paths {
            let path = RelPath::new(path.0.as_slice())?;
            paths.entry(path).or_insert(entry.map(|entry| entry.0));
        }
    }
    Ok(paths)
}

fn text(state: &State) -> StateText {
    StateText {
        tree: state.tree.map(EntryText),
        paths: (state.paths.iter())
            .map(|(path, entry)| (PathText(path.as_bytes().to_owned()), entry.map(EntryText)))
            .collect(),
        unknown: state.unknown.iter().map(|path| PathText(path.as_bytes().to_owned())).collect(),
    }
}

fn state(text: &StateText) -> Result<State> {
    let paths =
        text.paths.iter().map(|(path, entry)| Ok((RelPath::new(path.0.as_slice())?, entry.map(|entry| entry.0))));
    let unknown = text.unknown.iter().map(|path| RelPath::new(path.0.as_slice()));
    Ok(State {
        tree: text.tree.map(|tree| tree.0),
        paths: paths.collect::<Result<_>>()?,
        unknown: unknown.collect::<Result<_>>()?,
    })
}

impl FilesRecord {
    /// The objects that the record needs: what a directory holds is a matter of paths of its own, unless it is the tree.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let of = |state: &StateText| -> Vec<Entry> {
            let files = state.paths.values().flatten().map(|entry| entry.0).filter(|e| e.kind != EntryKind::Directory);
            state.tree.iter().map(|tree| tree.0).chain(files).collect()
        };
        match self {
            Self::Checkpoint(_) => of(self.seen()),
            Self::Move(_) => [of(self.before()), of(self.seen())].concat(),
        }
    }
}

impl fmt::Debug for SessionFiles<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionFiles")
            .field("session", self.session)
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}
