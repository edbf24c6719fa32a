//! A store on a simulated disk with a model beside it: one step of a program at a time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use forklog::checkpoint::{self, PlanOptions};
use forklog::workspace::ScanOptions;
use forklog::{
    At, Durability, Error, FilesTarget, NewRecord, NewSession, NoDigest, OpenOptions, RecordId, Scope, Seq, Session,
    SessionKey, Sharing, SideName, Store,
};
use forklog_sim::{Process, SimDisk, SimWorkspace, Ticks, derive};
use serde_json::json;

use crate::check::resolve;
use crate::model::{self, Bytes, Content, Files, Item, Model, Moving, Rec, Which};

/// The store's directory.
pub const ROOT: &str = "/store";
/// The directory of files that checkpoints are of.
pub const WORK: &str = "/work";
/// Names of sessions.
pub const NAMES: [&str; 3] = ["a", "b", "c"];
/// The name of a side transcript.
pub const SIDE: &str = "x";
/// How many processes may run at once.
pub const PROCESSES: usize = 2;
/// How many ways there are to open a session.
pub(crate) const WAYS: usize = 7;

/// The key of a session.
///
/// # Panics
///
/// When that is no legal id.
#[must_use]
pub fn key(name: &str) -> SessionKey {
    SessionKey::new("p", name).expect("a legal name")
}

/// The name of a side transcript.
///
/// # Panics
///
/// When that is no legal name.
#[must_use]
pub fn side_name(side: &str) -> SideName {
    SideName::new(side).expect("a legal name")
}

/// A file of the store.
#[must_use]
pub fn path(below: &str) -> PathBuf {
    Path::new(ROOT).join(below)
}

/// Opens the store on a process's disk.
///
/// # Errors
///
/// As [`forklog::StoreOptions::open`].
pub fn open_store(process: &Process, seed: u64) -> Result<Store, Error> {
    let options = Store::options().disk(Arc::new(process.clone())).env(Ticks::new(seed)).digest(Arc::new(NoDigest));
    options.open(ROOT)
}

/// One operation of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are called as what they do")]
pub enum Op {
    Create(&'static str),
    Append(Which),
    AppendId(Which),
    Batch(Which),
    Sync(Which),
    /// All sessions of the process that are synced at intervals are synced.
    Tick,
    Close(Which),
    Open(Which),
    Set(&'static str),
    /// Of the first, named like the second.
    Fork(&'static str, &'static str),
    Rewind(Which),
    Undo(Which),
    Redo(Which),
    Delete(&'static str),
    Gc,
    Reroot(&'static str),
    Repair(&'static str),
    List,
    Reindex,
    /// The agent changes a file of the workspace.
    Edit,
    /// Of all files of the workspace.
    Checkpoint(Which),
    /// Files and conversation go back to the newest checkpoint with a record behind it, whatever became of the files.
    RewindFiles(Which),
    /// The files alone go back to the newest checkpoint.
    RevertFiles(Which),
    /// The process is killed, and another one opens the store.
    Kill,
}

/// An operation, and which of the processes does it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The process.
    pub by: usize,
    /// What it does.
    pub op: Op,
}

impl From<Op> for Step {
    fn from(op: Op) -> Self {
        Self { by: 0, op }
    }
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.by {
            0 => self.op.fmt(f),
            by => write!(f, "{:?} by process {by}", self.op),
        }
    }
}

/// A store in use.
pub struct World {
    /// What it is on.
    pub disk: SimDisk,
    /// What it must say.
    pub model: Model,
    /// How sessions are opened.
    pub options: OpenOptions,
    running: [Option<Running>; PROCESSES],
    seed: u64,
    generation: u64,
}

/// A program that uses the store.
struct Running {
    process: Process,
    store: Store,
    handles: BTreeMap<Which, Handle>,
}

struct Handle {
    session: Session,
    /// The state that the transcript was in when the handle did something last: what its sync makes durable.
    seen: usize,
}

/// What a step was.
pub enum Did {
    /// It made no sense in this state.
    Nothing,
    /// It worked.
    It,
    /// The engine refused.
    Failed(Error),
}

/// Called when the engine has returned and the model does not yet hold it to its word.
pub type Between<'a> = dyn FnMut(&World) + 'a;

impl World {
    /// A new store.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    #[must_use]
    pub fn new(seed: u64, options: OpenOptions) -> Self {
        Self::found(SimDisk::new(seed), Model::default(), options, seed).expect("a store")
    }

    /// A disk that was found, and what it said.
    ///
    /// # Errors
    ///
    /// As [`open_store`].
    ///
    /// # Panics
    ///
    /// When the disk has no room for a workspace.
    pub fn found(disk: SimDisk, mut model: Model, options: OpenOptions, seed: u64) -> Result<Self, Error> {
        if files_of(&disk).is_empty() {
            disk.put(&Path::new(WORK).join("f0"), Some(b"never changed")).expect("room");
            model.files = files_of(&disk);
        }
        let running = [const { None }; PROCESSES];
        let mut world = Self { disk, model, options, running, seed, generation: 0 };
        world.start(0)?;
        Ok(world)
    }

    fn start(&mut self, by: usize) -> Result<(), Error> {
        if self.running[by].is_none() {
            let process = self.disk.process();
            let store = open_store(&process, derive(self.seed, self.generation))?;
            self.generation += 1;
            self.running[by] = Some(Running { process, store, handles: BTreeMap::new() });
        }
        Ok(())
    }

    fn running(&self, by: usize) -> &Running {
        self.running[by].as_ref().expect("a step starts its process")
    }

    /// The store as the first process has it open.
    ///
    /// # Panics
    ///
    /// When that process was killed and did nothing since.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.running(0).store
    }

    /// A process of the store.
    ///
    /// # Panics
    ///
    /// When it does not run.
    #[must_use]
    pub fn process(&self, by: usize) -> Process {
        self.running(by).process.clone()
    }

    /// A session as the first process has it open.
    #[must_use]
    pub fn session(&self, which: Which) -> Option<&Session> {
        self.running[0].as_ref()?.handles.get(&which).map(|handle| &handle.session)
    }

    /// Runs one operation: the model first, so that a power cut on the way may find it done; `between` is called when the
    /// engine has returned and the model does not yet hold it to its word.
    pub fn step(&mut self, step: impl Into<Step>, between: &mut Between<'_>) -> Did {
        let Step { by, op } = step.into();
        if let Err(error) = self.start(by) {
            return Did::Failed(error);
        }
        match op {
            Op::Create(name) => self.create(by, name, between),
            Op::Append(which) => self.append(by, which, 1, false, between),
            Op::AppendId(which) => self.append(by, which, 1, true, between),
            Op::Batch(which) => self.append(by, which, 3, self.model.count.is_multiple_of(2), between),
            Op::Sync(which) => self.sync(by, which, between),
            Op::Close(which) => self.close(by, which, between),
            Op::Open(which) => self.open(by, which, between),
            Op::Set(name) => self.set(by, name, between),
            Op::Fork(of, name) => self.fork(by, of, name, between),
            Op::Rewind(which) => {
                let len = self.model.now(which).len();
                let keep = len.div_ceil(2);
                self.moved(
                    by,
                    which,
                    len > 0,
                    between,
                    |content| content.rewind(keep),
                    |session| session.rewind(&At::Seq(Seq::new(keep as u64 - 1))).map(drop),
                )
            }
            Op::Undo(which) => {
                let content = self.model.now(which);
                if content.goal(model::Step::Undo).is_some() {
                    return self.move_files(by, which, model::Step::Undo, between);
                }
                let undo = |content: &mut Content| content.undo(&Files::default());
                self.moved(by, which, !content.undo.is_empty(), between, undo, |session| session.undo().map(drop))
            }
            Op::Redo(which) => {
                let content = self.model.now(which);
                if content.goal(model::Step::Redo).is_some() {
                    return self.move_files(by, which, model::Step::Redo, between);
                }
                let redo = |content: &mut Content| content.redo(&Files::default());
                self.moved(by, which, !content.redo.is_empty(), between, redo, |session| session.redo().map(drop))
            }
            Op::RewindFiles(which) => self.move_files(by, which, model::Step::Rewind, between),
            Op::RevertFiles(which) => self.move_files(by, which, model::Step::Revert, between),
            Op::Tick => self.tick(by, between),
            Op::Delete(name) => {
                if self.model.life(name).is_none() {
                    return Did::Nothing;
                }
                if let Err(did) = self.closed(name, between) {
                    return did;
                }
                self.model.delete(name);
                let done = self.running(by).store.delete(&key(name));
                between(self);
                self.settle(done, |model| model.keep_name(name))
            }
            Op::Gc => self.aside(by, between, |store| store.gc(false).map(drop)),
            Op::List => self.aside(by, between, |store| store.entries().map(drop)),
            Op::Reindex => self.aside(by, between, |store| store.reindex().map(drop)),
            Op::Reroot(name) if self.model.life(name).is_some() => {
                self.aside(by, between, |store| store.reroot(&key(name)).map(drop))
            }
            Op::Repair(name) => {
                if self.model.life(name).is_none() {
                    return Did::Nothing;
                }
                if let Err(did) = self.closed(name, between) {
                    return did;
                }
                self.aside(by, between, |store| store.repair(&key(name)).map(drop))
            }
            Op::Reroot(_) => Did::Nothing,
            Op::Edit => {
                self.edit();
                Did::It
            }
            Op::Checkpoint(which) => self.checkpoint(by, which, between),
            Op::Kill => {
                self.kill(by);
                if let Err(error) = self.start(by) {
                    return Did::Failed(error);
                }
                between(self);
                Did::It
            }
        }
    }

    /// Gives up every handle of a transcript, whatever state it is in.
    pub fn forget(&mut self, which: Which) {
        for running in self.running.iter_mut().flatten() {
            running.handles.remove(&which);
        }
    }

    /// After a call that failed or was killed on the way: what can be read now is what the processes see, and any state that a power cut
    /// might have left before is one that it may still leave.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub fn relearn(&mut self) -> Result<(), String> {
        let store = open_store(&self.disk.process(), derive(self.seed, 0x1ea4 + self.generation))
            .map_err(|error| format!("the store does not open: {error}"))?;
        self.generation += 1;
        let found = resolve(&store, &self.disk, &self.model)?;
        self.model.sees(&found);
        Ok(())
    }

    /// Ends a process as `kill -9` does.
    pub fn kill(&mut self, by: usize) {
        if let Some(running) = &self.running[by] {
            running.process.kill();
        }
        self.running[by] = None;
    }

    fn durable(&self) -> bool {
        self.options.durability == Some(Durability::Sync)
    }

    fn settle(&mut self, done: Result<(), Error>, keep: impl FnOnce(&mut Model)) -> Did {
        match done {
            Ok(()) => {
                keep(&mut self.model);
                Did::It
            }
            Err(error) => Did::Failed(error),
        }
    }

    fn aside(&mut self, by: usize, between: &mut Between<'_>, run: impl FnOnce(&Store) -> Result<(), Error>) -> Did {
        let done = run(&self.running(by).store);
        between(self);
        self.settle(done, |_| ())
    }

    /// Changes a transcript; the model has changed already.
    fn on(
        &mut self,
        by: usize,
        which: Which,
        between: &mut Between<'_>,
        run: impl FnOnce(&Session) -> Result<(), Error>,
    ) -> Did {
        let Some(handle) = self.running(by).handles.get(&which) else { return Did::Nothing };
        let done = run(&handle.session);
        between(self);
        let (durable, seen) = (self.durable(), self.model.state(which));
        let handle = self.running[by].as_mut().and_then(|running| running.handles.get_mut(&which));
        if let (Some(handle), true) = (handle, done.is_ok()) {
            handle.seen = seen;
        }
        self.settle(done, |model| {
            if durable {
                model.keep(which, seen);
            }
        })
    }

    fn moved(
        &mut self,
        by: usize,
        which: Which,
        makes_sense: bool,
        between: &mut Between<'_>,
        change: impl FnOnce(&mut Content),
        run: impl FnOnce(&Session) -> Result<(), Error>,
    ) -> Did {
        if !makes_sense {
            return Did::Nothing;
        }
        if let Err(did) = self.opened(by, which, between) {
            return did;
        }
        self.model.push(which, change);
        self.on(by, which, between, run)
    }

    fn set(&mut self, by: usize, name: &'static str, between: &mut Between<'_>) -> Did {
        let which = Which(name, None);
        if let Err(did) = self.opened(by, which, between) {
            return did;
        }
        let patch = json!({ "title": self.model.fresh(), "tags": [format!("t{}", self.model.count)] });
        self.model.push(which, |content| content.patch(&patch));
        self.on(by, which, between, |session| session.set(&patch))
    }

    fn sync(&mut self, by: usize, which: Which, between: &mut Between<'_>) -> Did {
        let Some(handle) = self.running(by).handles.get(&which) else { return Did::Nothing };
        let (seen, done) = (handle.seen, handle.session.sync());
        between(self);
        self.settle(done, |model| model.keep(which, seen))
    }

    fn create(&mut self, by: usize, name: &'static str, between: &mut Between<'_>) -> Did {
        if self.model.life(name).is_some() {
            return Did::Nothing;
        }
        self.model.create(name, Content::default());
        let made = self.running(by).store.create(NewSession::named(key(name)).options(self.options));
        self.made(by, name, made, between)
    }

    fn fork(&mut self, by: usize, of: &'static str, name: &'static str, between: &mut Between<'_>) -> Did {
        let parent = self.model.now(Which(of, None));
        if self.model.life(of).is_none() || self.model.life(name).is_some() {
            return Did::Nothing;
        }
        let keep = parent.len().div_ceil(2);
        let at = if keep == 0 { At::Head } else { At::Seq(Seq::new(keep as u64 - 1)) };
        // With a record it has the checkpoints that belong to it.
        let mut view = parent.upto(keep);
        let behind = parent.view.iter().skip(view.len()).take_while(|item| matches!(item, Item::Checkpoint(..)));
        view.extend(behind.cloned());
        let mut content = Content { view, ..Content::default() };
        if let Some(tags) = parent.meta.get("tags") {
            content.meta.insert("tags".to_owned(), tags.clone());
        }
        self.model.create(name, content);
        let made = self.running(by).store.fork(&key(of), &at, NewSession::named(key(name)).options(self.options));
        self.made(by, name, made, between)
    }

    fn made(&mut self, by: usize, name: &'static str, made: Result<Session, Error>, between: &mut Between<'_>) -> Did {
        between(self);
        let which = Which(name, None);
        self.hold(by, which, made, |model, durable| {
            if durable {
                model.keep(which, 0);
            }
        })
    }

    fn hold(
        &mut self,
        by: usize,
        which: Which,
        got: Result<Session, Error>,
        keep: impl FnOnce(&mut Model, bool),
    ) -> Did {
        let (seen, durable) = (self.model.state(which), self.durable());
        match (got, &mut self.running[by]) {
            (Ok(session), Some(running)) => {
                running.handles.insert(which, Handle { session, seen });
                keep(&mut self.model, durable);
                Did::It
            }
            (Err(error), _) => Did::Failed(error),
            (Ok(_), None) => Did::Nothing,
        }
    }

    fn append(&mut self, by: usize, which: Which, n: usize, ids: bool, between: &mut Between<'_>) -> Did {
        if let Err(did) = self.opened(by, which, between) {
            return did;
        }
        let records: Vec<Rec> = (0..n)
            .map(|_| {
                let payload = self.model.fresh();
                (payload, ids.then(|| format!("id{}", self.model.count % 4)))
            })
            .collect();
        self.model.push(which, |content| content.add(records.clone()));
        self.on(by, which, between, |session| match records.as_slice() {
            [(payload, None)] => session.append_json(payload.as_bytes()).map(drop),
            records => session.append_batch(&records.iter().map(new_record).collect::<Vec<_>>()).map(drop),
        })
    }

    /// Changes one file of the workspace: what the model's count says, so that a seed says it.
    fn edit(&mut self) {
        let text = self.model.fresh();
        let n = self.model.count;
        let (below, bytes) = match n % 5 {
            0 => ("d/f1", None),
            1 => ("d/f1", Some(text.into_bytes())),
            2 => ("d/e/f2", Some(text.repeat(20).into_bytes())),
            // The same content under two names, and again at another time.
            3 => (["f3", "d/f3"][usize::try_from(n / 5 % 2).unwrap_or(0)], Some(b"always the same".to_vec())),
            _ => ("f4", Some(Vec::new())),
        };
        self.disk.put(&Path::new(WORK).join(below), bytes.as_deref()).expect("room");
        self.model.files = files_of(&self.disk);
    }

    fn checkpoint(&mut self, by: usize, which: Which, between: &mut Between<'_>) -> Did {
        if let Err(did) = self.opened(by, which, between) {
            return did;
        }
        if self.model.moving.is_some() || self.model.returning.is_some() {
            // No session was left to bring it to its end: whatever it came to be is what the files are.
            let session = self.running(by).handles.get(&which).map(|handle| &handle.session);
            let workspace = self.workspace(by);
            let found = session.map(|session| session.files_of(workspace, ScanOptions::default()).map(drop));
            between(self);
            if let Some(Err(error)) = found {
                return Did::Failed(error);
            }
            (self.model.files, self.model.moving, self.model.returning) = (files_of(&self.disk), None, None);
        }
        self.model.count += 1;
        let (label, files) = (format!("c{}", self.model.count), self.model.files.clone());
        self.model.push(which, |content| content.view.push(Item::Checkpoint(label.clone(), files)));
        let workspace = self.workspace(by);
        self.on(by, which, between, |session| {
            let files = session.files_of(workspace, ScanOptions::default())?;
            files.checkpoint(Some(&label)).map(drop)
        })
    }

    fn workspace(&self, by: usize) -> Arc<SimWorkspace> {
        Arc::new(SimWorkspace::new(&self.running(by).process, Path::new(WORK)))
    }

    /// Moves the files, and with them the conversation.
    fn move_files(&mut self, by: usize, which: Which, step: model::Step, between: &mut Between<'_>) -> Did {
        let from = self.model.now(which);
        let Some((at, after)) = from.goal(step) else { return Did::Nothing };
        if let Err(did) = self.opened(by, which, between) {
            return did;
        }
        let label = at.and_then(|at| match &from.view[at] {
            Item::Checkpoint(label, _) => Some(label.clone()),
            Item::Record(_) => None,
        });
        let before = self.model.files.clone();
        self.model.push(which, |content| content.move_files(step, &before));
        self.model.moving = Some(Moving { which, from, step, before, after: after.clone() });
        let (workspace, store, state) = (self.workspace(by), self.running(by).store.clone(), self.model.state(which));
        let did = self.on(by, which, between, |session| {
            let files = session.files_of(workspace, ScanOptions::default())?;
            let to = |scope| {
                let checkpoints = store.read(&key(which.0))?.checkpoints()?;
                let found = checkpoints.into_iter().find(|found| found.label == label);
                let id = found.unwrap_or_else(|| panic!("{label:?} is not there")).id;
                files.rewind(&FilesTarget::Checkpoint(id), scope, &forced())
            };
            match step {
                model::Step::Rewind => to(Scope::Both),
                model::Step::Revert => to(Scope::Files),
                model::Step::Undo => files.undo(&forced()),
                model::Step::Redo => files.redo(&forced()),
            }
            .map(drop)
        });
        if let Did::It = did {
            // Files and record survive, whatever the session's durability is.
            (self.model.files, self.model.moving, self.model.returning) = (after, None, None);
            self.model.keep(which, state);
        }
        did
    }

    /// Carries a move of files to its end that was cut off, if there is a session that can, and looks what came of it.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub fn recover_files(&mut self, between: &mut Between<'_>) -> Result<(), String> {
        let (moving, returning) = (&self.model.moving, &self.model.returning);
        let journals = checkpoint::pending(&self.disk.process(), &path("journals"));
        let journal = journals.map_err(|error| format!("the journal: {error}"))?.pop();
        let is_of = |begun: &&Moving| journal.as_ref().is_none_or(|journal| begun.is_of(&journal.payload));
        let found = moving.iter().find(is_of);
        // Until a move has seen to it that no older journal comes back, a power cut may bring that one back, and then the move has not begun.
        let older = returning.iter().filter(|_| journal.is_some() && found.is_none()).find(is_of);
        let (came_back, is_there) = (older.is_some(), journal.is_some());
        let Some(begun) = found.or(older).cloned() else {
            // One whose record is written changes nothing any more; a move that was to follow it has not begun either.
            self.model.moving = None;
            return Ok(());
        };
        let was = if came_back { self.model.files.clone() } else { begun.before.clone() };
        let moving = if came_back { begun.of(&was) } else { begun.clone() };
        let which = moving.which;
        // Without its session, nobody knows of the record.
        let known = self.model.history(which).is_some();
        let mut recorded = known && !came_back && self.model.now(which).moves > moving.from.moves;
        if is_there {
            let mut names = [which.0].into_iter().chain(NAMES);
            let Some(name) = names.find(|name| self.model.life(name).is_some()) else { return Ok(()) };
            let found = self.model.now(which);
            // What has gone on without it is left alone, as long as no file was changed.
            let given_up = came_back && !found.stands_as(&moving.from) && !begun.has_begun(&was);
            if known && !recorded && !given_up {
                self.model.push(which, |content| *content = found.carried_on(&moving));
            }
            let recovered = self.start(0).and_then(|()| {
                let workspace = self.workspace(0);
                let session = self.store().session_with(&key(name), self.options)?;
                session.files_of(workspace, ScanOptions::default()).map(drop)?;
                session.close()
            });
            between(self);
            recovered.map_err(|error| format!("recovering files: {error}"))?;
            self.relearn()?;
            recorded |= known && self.model.now(which).moves > found.moves;
        }
        let now = files_of(&self.disk);
        if !(now == was && !recorded || now == moving.after && (recorded || !known)) {
            let to = format!("{was:?}\n    to {:?}", moving.after);
            return Err(format!("the files are {now:?},\n    recorded: {recorded}; they were moved from {to}"));
        }
        (self.model.files, self.model.moving) = (now, None);
        self.model.returning = Some(begun).filter(|_| !is_there && !recorded);
        if recorded {
            self.model.keep(which, self.model.state(which));
        }
        Ok(())
    }

    fn tick(&mut self, by: usize, between: &mut Between<'_>) -> Did {
        let done = self.running(by).store.tick();
        between(self);
        let interval = matches!(self.options.durability, Some(Durability::Interval(_)));
        let handles = self.running(by).handles.iter().filter(|_| interval);
        let kept: Vec<_> = handles.map(|(which, handle)| (*which, handle.seen)).collect();
        self.settle(done, |model| kept.into_iter().for_each(|(which, seen)| model.keep(which, seen)))
    }

    fn open(&mut self, by: usize, which: Which, between: &mut Between<'_>) -> Did {
        if self.running(by).handles.contains_key(&which) || self.model.life(which.0).is_none() {
            return Did::Nothing;
        }
        let held = self.running.iter().flatten().any(|running| running.handles.contains_key(&which));
        let refused = held && self.options.sharing == Sharing::Exclusive;
        if which.1.is_some() {
            self.model.make_side(which.0, SIDE);
        }
        let store = &self.running(by).store;
        let opened = match which.1 {
            None => store.session_with(&key(which.0), self.options),
            Some(side) => store.side(&key(which.0), &side_name(side), self.options),
        };
        between(self);
        match opened {
            Err(Error::Locked { .. }) if refused => Did::Nothing,
            Ok(_) if refused => panic!("two processes hold {which:?} at once"),
            opened => self.hold(by, which, opened, |_, _| ()),
        }
    }

    /// Opens a transcript unless it is open; what came of it when it could not be opened.
    fn opened(&mut self, by: usize, which: Which, between: &mut Between<'_>) -> Result<(), Did> {
        if self.running(by).handles.contains_key(&which) {
            return Ok(());
        }
        match self.open(by, which, between) {
            Did::It => Ok(()),
            other => Err(other),
        }
    }

    fn close(&mut self, by: usize, which: Which, between: &mut Between<'_>) -> Did {
        let handle = self.running[by].as_mut().and_then(|running| running.handles.remove(&which));
        let Some(Handle { session, seen }) = handle else { return Did::Nothing };
        let done = session.close();
        between(self);
        self.settle(done, |model| model.keep(which, seen))
    }

    /// Closes all handles of a session, whoever has them.
    fn closed(&mut self, name: &str, between: &mut Between<'_>) -> Result<(), Did> {
        let of = |(by, running): (usize, &Option<Running>)| -> Vec<(usize, Which)> {
            let handles = running.iter().flat_map(|running| running.handles.keys());
            handles.filter(|which| which.0 == name).map(|which| (by, *which)).collect()
        };
        let open: Vec<_> = self.running.iter().enumerate().flat_map(of).collect();
        for (by, which) in open {
            if let did @ Did::Failed(_) = self.close(by, which, between) {
                return Err(did);
            }
        }
        Ok(())
    }
}

/// A record to append.
///
/// # Panics
///
/// When it is none.
#[must_use]
pub fn new_record((payload, id): &Rec) -> NewRecord<'_> {
    let record = NewRecord::json(payload.as_bytes()).expect("JSON");
    match id {
        Some(id) => record.id(RecordId::new(id.clone()).expect("a legal id")),
        None => record,
    }
}

fn forced() -> PlanOptions {
    PlanOptions { force: true, ..PlanOptions::default() }
}

/// The files of the workspace.
#[must_use]
pub(crate) fn files_of(disk: &SimDisk) -> Files {
    let below = |(path, bytes): (PathBuf, Option<Arc<Vec<u8>>>)| {
        let below = path.strip_prefix(WORK).ok()?.to_string_lossy().into_owned();
        Some((below, Bytes(bytes?.to_vec())))
    };
    disk.tree().into_iter().filter_map(below).collect()
}

/// The ways to open.
#[must_use]
pub fn all_options() -> [OpenOptions; WAYS] {
    /// Longer than any program takes: only a tick syncs.
    const NEVER: Duration = Duration::from_secs(1 << 20);
    let with = |durability, sharing| OpenOptions { durability: Some(durability), sharing, ..OpenOptions::default() };
    [
        with(Durability::Write, Sharing::Exclusive),
        with(Durability::Sync, Sharing::Exclusive),
        with(Durability::Write, Sharing::PerCall),
        with(Durability::Sync, Sharing::PerCall),
        // Few spaces, so that they are used up soon.
        OpenOptions { padding: 700, ..with(Durability::Sync, Sharing::Exclusive) },
        with(Durability::Interval(NEVER), Sharing::Exclusive),
        with(Durability::Interval(NEVER), Sharing::PerCall),
    ]
}
