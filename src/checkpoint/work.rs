//! The changing of files: every path goes from wherever it is to where a plan, or its way back, wants it.
//!
//! All new contents are written to a stage directory in the workspace first and change places with the old ones by
//! rename, so that a file is always whole. What a rename displaces is looked at before it is removed: content that nobody
//! had captured, because the user wrote it meanwhile, is put into the store.

use std::collections::{BTreeSet, HashMap};
use std::io;

use super::snapshot::read_state;
use super::{Files, is_absent, read_blob};
use crate::error::{Error, Result};
use crate::format::journal::{Journal, Step};
use crate::ids::Uid;
use crate::objects::{Batch, Entry, EntryKind, MAX_OBJECT};
use crate::parallel;
use crate::workspace::{Meta, MetaKind, RelPath, STAGE_PREFIX};

/// What was captured, and what the file was then.
pub(super) type Captures = HashMap<RelPath, (Entry, Meta)>;

/// Contents that nobody had captured, and where they were.
type Rescued = Vec<(RelPath, Entry)>;

/// The changing of files, in either direction.
pub(super) struct Work<'a> {
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
    pub(super) rescued: Rescued,
    pub(super) moved_aside: Vec<RelPath>,
    /// What has left its place and is known to be the before or after of its step, as it was then.
    replaced: HashMap<RelPath, Meta>,
    displaced: usize,
    uid: Uid,
    /// Files that were changed where they are, and directories in which names were made that no step names.
    changed: (Vec<RelPath>, Vec<RelPath>),
    /// Whether the journal may say that the files are as they shall be.
    pub(super) is_marked: bool,
    /// Whether somebody else has begun, so that it is not known what was changed.
    is_again: bool,
    /// Whether the steps are being taken back.
    is_back: bool,
    /// Whether a power cut may have spoilt what was not synced.
    may_be_cut: bool,
}

impl<'a> Work<'a> {
    pub(super) fn new(files: &'a Files, batch: &'a Batch<'a>, journal: &'a Journal, metas: Captures) -> Result<Self> {
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
    pub(super) fn journal_now(&self) -> Journal {
        let found = self.rescued.iter().map(|(path, entry)| (path.as_bytes().to_owned(), *entry)).collect();
        Journal { found, ..self.journal.clone() }
    }

    /// Prepares to go on where another process was stopped.
    pub(super) fn begins_again(&mut self, journal: &Journal) {
        self.is_again = true;
        self.may_be_cut = journal.boot == 0 || journal.boot != self.files.workspace.boot();
    }

    /// Brings every path from wherever it is to its after. May be called again after it was stopped anywhere.
    pub(super) fn carry_out(&mut self, steps: &[Step]) -> Result<()> {
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
    pub(super) fn take_back(&mut self, journal: &Journal) -> Result<()> {
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
    pub(super) fn doubtful(&self, journal: &Journal) -> Vec<(RelPath, Option<Entry>)> {
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

    pub(super) fn finish(&mut self, steps: &[Step]) -> Result<()> {
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

    /// Gives what cannot be captured, and came to the stage since it had just taken the place of `path`, a name beside that.
    fn move_out(&mut self, staged: &RelPath, path: &RelPath) -> Result<()> {
        let workspace = &*self.files.workspace;
        let aside = self.aside(path);
        let Some((dir, kept)) = aside.as_ref().and_then(RelPath::split) else { return Ok(()) };
        let is_there = |dir: &RelPath| workspace.meta(dir).is_ok_and(|meta| meta.kind == MetaKind::Directory);
        let dir = if dir.is_root() || is_there(&dir) { dir } else { RelPath::root() };
        let mut aside = dir.join(kept);
        for n in 1.. {
            match workspace.meta(&aside) {
                Ok(_) => aside = dir.join(&[kept, format!("-{n}").as_bytes()].concat()),
                Err(error) if is_absent(&error) => break,
                Err(error) => return self.io(&aside, "stat", Err(error)),
            }
        }
        self.io(path, "move aside", workspace.rename(staged, &aside))?;
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
            return self.move_out(staged, path);
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
    pub(super) fn clear_stage(&mut self, steps: &[Step]) -> Result<()> {
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
            if matches!(meta.kind, MetaKind::Directory | MetaKind::Special) {
                let origin = step.map_or(RelPath::new(&*name), |step| RelPath::new(step.path.as_slice()))?;
                self.move_out(&path, &origin)?;
                continue;
            }
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
pub(super) fn stage_of(journal: &Journal) -> RelPath {
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
