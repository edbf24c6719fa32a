//! A store on a simulated disk with a model beside it: one step of a program at a time, and what a disk that is left
//! must say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use forklog::{
    At, Durability, Entry, Env, Error, NewRecord, NewSession, NoDigest, OpenOptions, Reader, RecordId, Seq, Session,
    SessionKey, Sharing, SideName, Store, Timestamp,
};
use forklog_sim::reader::{self, Conversation, Name, Verdict};
use forklog_sim::{Cut, Points, Process, Rng, SimDisk, Snapshot, derive};
use serde_json::json;

use crate::model::{Content, Life, Model, Named, Rec, Which};

pub(crate) const ROOT: &str = "/store";
pub(crate) const NAMES: [&str; 3] = ["a", "b", "c"];
pub(crate) const SIDE: &str = "x";

/// A clock that ticks once a look, and numbers that never come twice.
#[derive(Debug)]
pub(crate) struct Ticks(AtomicU64, u64);

impl Ticks {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(1), seed))
    }
}

impl Env for Ticks {
    fn now(&self) -> Timestamp {
        let n = self.0.fetch_add(1, Ordering::Relaxed);
        Timestamp::from_millis(1_795_000_000_000 + i64::try_from(n).expect("few"))
    }

    fn random(&self) -> [u8; 16] {
        let n = self.0.fetch_add(1, Ordering::Relaxed);
        let (high, low) = (derive(self.1, n), derive(self.1 ^ 0xabcd, n));
        (u128::from(high) << 64 | u128::from(low)).to_be_bytes()
    }
}

pub(crate) fn key(name: &str) -> SessionKey {
    SessionKey::new("p", name).expect("a legal name")
}

fn side_name(side: &str) -> SideName {
    SideName::new(side).expect("a legal name")
}

pub(crate) fn open_store(process: &Process, seed: u64) -> Result<Store, Error> {
    let options = Store::options().disk(Arc::new(process.clone())).env(Ticks::new(seed)).digest(Arc::new(NoDigest));
    options.open(ROOT)
}

/// One operation of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Create(&'static str),
    Append(Which),
    AppendId(Which),
    Batch(Which),
    Sync(Which),
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
    /// The process is killed, and another one opens the store.
    Kill,
}

/// A store in use.
pub(crate) struct World {
    pub(crate) disk: SimDisk,
    pub(crate) process: Process,
    pub(crate) store: Store,
    pub(crate) handles: BTreeMap<Which, Session>,
    pub(crate) model: Model,
    pub(crate) options: OpenOptions,
    seed: u64,
    generation: u64,
}

/// What a step was.
pub(crate) enum Did {
    /// It made no sense in this state.
    Nothing,
    /// It worked.
    It,
    /// The engine refused.
    Failed(Error),
}

impl World {
    pub(crate) fn new(seed: u64, options: OpenOptions) -> Self {
        let disk = SimDisk::new(seed);
        let process = disk.process();
        let store = open_store(&process, seed).expect("a store");
        Self::with(disk, process, store, options, seed)
    }

    fn with(disk: SimDisk, process: Process, store: Store, options: OpenOptions, seed: u64) -> Self {
        let (handles, model) = (BTreeMap::new(), Model::default());
        Self { disk, process, store, handles, model, options, seed, generation: 0 }
    }

    /// A disk that was found, and what it said.
    pub(crate) fn found(disk: SimDisk, model: Model, options: OpenOptions, seed: u64) -> Result<Self, Error> {
        let process = disk.process();
        let store = open_store(&process, seed)?;
        Ok(Self { model, ..Self::with(disk, process, store, options, seed) })
    }

    /// Runs one operation: the model first, so that a power cut on the way may find it done; `between` is called when the
    /// engine has returned and the model does not yet hold it to its word.
    pub(crate) fn step(&mut self, op: Op, between: &mut dyn FnMut(&Self)) -> Did {
        match op {
            Op::Create(name) => self.create(name, between),
            Op::Append(which) => self.append(which, 1, false, between),
            Op::AppendId(which) => self.append(which, 1, true, between),
            Op::Batch(which) => self.append(which, 3, self.model.count.is_multiple_of(2), between),
            Op::Sync(which) => {
                let Some(session) = self.handles.get(&which) else { return Did::Nothing };
                let done = session.sync();
                between(self);
                self.settle(done, |model| model.keep(which))
            }
            Op::Close(which) => self.close(which, between),
            Op::Open(which) => self.open(which, between),
            Op::Set(name) => {
                let which = Which(name, None);
                if !self.opened(which, between) {
                    return Did::Nothing;
                }
                let patch = json!({ "title": self.model.fresh(), "tags": [format!("t{}", self.model.count)] });
                self.model.push(which, |content| content.patch(&patch));
                self.on(which, between, |session| session.set(&patch))
            }
            Op::Fork(of, name) => self.fork(of, name, between),
            Op::Rewind(which) => {
                let len = self.model.now(which).view.len();
                if len == 0 || !self.opened(which, between) {
                    return Did::Nothing;
                }
                let keep = len.div_ceil(2);
                self.model.push(which, |content| content.rewind(keep));
                self.on(which, between, |session| session.rewind(&At::Seq(Seq::new(keep as u64 - 1))).map(drop))
            }
            Op::Undo(which) => {
                if self.model.now(which).undo.is_empty() || !self.opened(which, between) {
                    return Did::Nothing;
                }
                self.model.push(which, Content::undo);
                self.on(which, between, |session| session.undo().map(drop))
            }
            Op::Redo(which) => {
                if self.model.now(which).redo.is_empty() || !self.opened(which, between) {
                    return Did::Nothing;
                }
                self.model.push(which, Content::redo);
                self.on(which, between, |session| session.redo().map(drop))
            }
            Op::Delete(name) => {
                if self.model.life(name).is_none() || !self.closed(name, between) {
                    return Did::Nothing;
                }
                self.model.delete(name);
                let done = self.store.delete(&key(name));
                between(self);
                self.settle(done, |model| model.keep_name(name))
            }
            Op::Gc => self.aside(between, |store| store.gc(false).map(drop)),
            Op::List => self.aside(between, |store| store.entries().map(drop)),
            Op::Reindex => self.aside(between, |store| store.reindex().map(drop)),
            Op::Reroot(name) if self.model.life(name).is_some() => {
                self.aside(between, |store| store.reroot(&key(name)).map(drop))
            }
            Op::Repair(name) => {
                if self.model.life(name).is_none() || !self.closed(name, between) {
                    return Did::Nothing;
                }
                self.aside(between, |store| store.repair(&key(name)).map(drop))
            }
            Op::Reroot(_) => Did::Nothing,
            Op::Kill => {
                self.kill();
                match open_store(&self.process, derive(self.seed, self.generation)) {
                    Ok(store) => self.store = store,
                    Err(error) => return Did::Failed(error),
                }
                between(self);
                Did::It
            }
        }
    }

    /// Ends the process as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
        self.handles.clear();
        self.process = self.disk.process();
        self.generation += 1;
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

    fn aside(&mut self, between: &mut dyn FnMut(&Self), run: impl FnOnce(&Store) -> Result<(), Error>) -> Did {
        let done = run(&self.store);
        between(self);
        self.settle(done, |_| ())
    }

    fn on(
        &mut self,
        which: Which,
        between: &mut dyn FnMut(&Self),
        run: impl FnOnce(&Session) -> Result<(), Error>,
    ) -> Did {
        let Some(session) = self.handles.get(&which) else { return Did::Nothing };
        let done = run(session);
        between(self);
        let durable = self.durable();
        self.settle(done, |model| {
            if durable {
                model.keep(which)
            }
        })
    }

    fn create(&mut self, name: &'static str, between: &mut dyn FnMut(&Self)) -> Did {
        if self.model.life(name).is_some() {
            return Did::Nothing;
        }
        self.model.create(name, Content::default());
        let made = self.store.create(NewSession::named(key(name)).options(self.options));
        self.made(name, made, between)
    }

    fn fork(&mut self, of: &'static str, name: &'static str, between: &mut dyn FnMut(&Self)) -> Did {
        let parent = self.model.now(Which(of, None));
        if self.model.life(of).is_none() || self.model.life(name).is_some() {
            return Did::Nothing;
        }
        let keep = parent.view.len().div_ceil(2);
        let at = if keep == 0 { At::Head } else { At::Seq(Seq::new(keep as u64 - 1)) };
        let mut content = Content { view: parent.view[..keep].to_vec(), ..Content::default() };
        if let Some(tags) = parent.meta.get("tags") {
            content.meta.insert("tags".to_owned(), tags.clone());
        }
        self.model.create(name, content);
        let made = self.store.fork(&key(of), &at, NewSession::named(key(name)).options(self.options));
        self.made(name, made, between)
    }

    fn made(&mut self, name: &'static str, made: Result<Session, Error>, between: &mut dyn FnMut(&Self)) -> Did {
        between(self);
        match made {
            Ok(session) => {
                self.handles.insert(Which(name, None), session);
                if self.durable() {
                    self.model.keep(Which(name, None));
                }
                Did::It
            }
            Err(error) => Did::Failed(error),
        }
    }

    fn append(&mut self, which: Which, n: usize, ids: bool, between: &mut dyn FnMut(&Self)) -> Did {
        if !self.opened(which, between) {
            return Did::Nothing;
        }
        let records: Vec<Rec> = (0..n)
            .map(|_| {
                let payload = self.model.fresh();
                (payload, ids.then(|| format!("id{}", self.model.count % 4)))
            })
            .collect();
        self.model.push(which, |content| content.add(records.clone()));
        self.on(which, between, |session| match records.as_slice() {
            [(payload, None)] => session.append_json(payload.as_bytes()).map(drop),
            records => session.append_batch(&records.iter().map(new_record).collect::<Vec<_>>()).map(drop),
        })
    }

    fn open(&mut self, which: Which, between: &mut dyn FnMut(&Self)) -> Did {
        if self.handles.contains_key(&which) || self.model.life(which.0).is_none() {
            return Did::Nothing;
        }
        let opened = match which.1 {
            None => self.store.session_with(&key(which.0), self.options),
            Some(side) => {
                self.model.make_side(which.0, side_of(side));
                self.store.side(&key(which.0), &side_name(side), self.options)
            }
        };
        between(self);
        match opened {
            Ok(session) => {
                self.handles.insert(which, session);
                Did::It
            }
            Err(error) => Did::Failed(error),
        }
    }

    fn opened(&mut self, which: Which, between: &mut dyn FnMut(&Self)) -> bool {
        self.handles.contains_key(&which) || matches!(self.open(which, between), Did::It)
    }

    fn close(&mut self, which: Which, between: &mut dyn FnMut(&Self)) -> Did {
        let Some(session) = self.handles.remove(&which) else { return Did::Nothing };
        let done = session.close();
        between(self);
        self.settle(done, |model| model.keep(which))
    }

    /// Closes all handles of a session.
    fn closed(&mut self, name: &str, between: &mut dyn FnMut(&Self)) -> bool {
        let open: Vec<Which> = self.handles.keys().filter(|which| which.0 == name).copied().collect();
        open.into_iter().all(|which| matches!(self.close(which, between), Did::It))
    }
}

fn new_record((payload, id): &Rec) -> NewRecord<'_> {
    let record = NewRecord::json(payload.as_bytes()).expect("JSON");
    match id {
        Some(id) => record.id(RecordId::new(id.clone()).expect("a legal id")),
        None => record,
    }
}

fn side_of(side: &str) -> &'static str {
    assert_eq!(side, SIDE);
    SIDE
}

// ---- what a disk says

/// Every file of the store by its path below the store's directory.
pub(crate) fn files(disk: &SimDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    let below = |(path, bytes): (PathBuf, Option<Arc<Vec<u8>>>)| {
        Some((path.strip_prefix(ROOT).ok()?.to_owned(), bytes?.to_vec()))
    };
    disk.tree().into_iter().filter_map(below).collect()
}

pub(crate) fn records(reader: &Reader) -> Result<Vec<Rec>, Error> {
    reader
        .records()
        .map(|record| {
            let record = record?;
            let payload = String::from_utf8(record.payload).expect("UTF-8 was checked");
            Ok((payload, record.id.map(|id| id.to_string())))
        })
        .collect()
}

/// How many head moves a transcript has in its first `end` bytes.
fn moves(bytes: &[u8], end: u64) -> usize {
    let text = String::from_utf8_lossy(&bytes[..usize::try_from(end).expect("small")]).into_owned();
    ["\",\"rewind\":", "\",\"undo\":", "\",\"redo\":"].iter().map(|kind| text.matches(kind).count()).sum()
}

fn said(read: &Conversation) -> Content {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Content {
        view: read.records.iter().map(|record| (text(&record.payload), record.id.clone())).collect(),
        meta: read.metadata.clone(),
        ..Content::default()
    }
}

/// Reads one transcript with the engine and with the independent reader, which must agree.
fn read_both(
    store: &Store,
    files: &BTreeMap<PathBuf, Vec<u8>>,
    name: &str,
    side: Option<&str>,
) -> Result<Option<(Content, Conversation)>, String> {
    let reader = match side {
        None => store.read(&key(name)),
        Some(side) => store.read_side(&key(name), &side_name(side)),
    };
    let found = reader.and_then(|reader| {
        Ok((Content { view: records(&reader)?, meta: reader.meta(), ..Content::default() }, reader.len()))
    });
    let asked = Name { project: "p".into(), session: name.into(), side: side.map(Into::into) };
    match (found, reader::read_map(files, &asked)) {
        (Ok((content, len)), Ok(read)) => {
            let other = said(&read);
            let bytes = files.get(&reader::transcript_path(&asked)).ok_or("the file is gone")?;
            let content = Content { moves: moves(bytes, read.head.offset), ..content };
            if !content.same(&other) || len != read.head.records {
                return Err(format!("{name}: the engine reads {content:?} ({len}), the other reader {other:?}"));
            }
            Ok(Some((content, read)))
        }
        (Err(Error::NotFound { .. }), Err(Verdict::NoSession)) => Ok(None),
        (found, read) => Err(format!("{name} {side:?}: the engine says {found:?}, the other reader {read:?}")),
    }
}

/// The state among `possible` that was read; the newest, when several look the same.
fn choose(possible: &[Content], (content, read): &(Content, Conversation)) -> Option<Content> {
    let fits = |state: &&Content| {
        let moves = (read.undo.is_some(), read.redo.is_some()) == (!state.undo.is_empty(), !state.redo.is_empty());
        moves && state.moves == content.moves && state.same(content)
    };
    possible.iter().rev().find(fits).cloned()
}

fn choose_life(
    life: &Life,
    main: &(Content, Conversation),
    sides: &BTreeMap<String, (Content, Conversation)>,
) -> Option<Life> {
    let mut found = Life { main: crate::model::History::of(choose(life.main.possible(), main)?), ..Life::default() };
    for (name, (history, must)) in &life.sides {
        match sides.get(name) {
            Some(side) => {
                let content = choose(history.possible(), side)?;
                found.sides.insert(name.clone(), (crate::model::History::of(content), true));
            }
            None if *must => return None,
            None => {}
        }
    }
    sides.keys().all(|name| life.sides.contains_key(name)).then_some(found)
}

/// Reads everything, and says which of the states that the model allows it is.
pub(crate) fn resolve(store: &Store, disk: &SimDisk, model: &Model) -> Result<Model, String> {
    let files = files(disk);
    let mut found = Model { count: model.count, ..Model::default() };
    for (name, named) in &model.names {
        let mut sides = BTreeMap::new();
        let main = read_both(store, &files, name, None)?;
        if main.is_some() {
            for side in store.sides(&key(name)).map_err(|error| error.to_string())? {
                let read = read_both(store, &files, name, Some(side.as_str()))?;
                sides.insert(side.to_string(), read.ok_or("a side transcript that is listed is not there")?);
            }
        }
        let fits = |life: Option<&Life>| match (life, &main) {
            (None, None) => Some(None),
            (Some(life), Some(main)) => choose_life(life, main, &sides).map(Some),
            _ => None,
        };
        let possible: Vec<_> = named.possible().collect();
        let Some(life) = possible.iter().rev().find_map(|life| fits(*life)) else {
            let main = main.map(|main| main.0);
            return Err(format!("{name} is {main:?}, sides {:?}; possible is {possible:?}", sides.keys()));
        };
        found.names.insert(name, Named { lives: vec![life], floor: 0 });
    }
    Ok(found)
}

fn comparable(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.iter_mut().for_each(|entry| entry.live = false);
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    entries
}

/// That the list is what the transcripts say, and what a rebuilt list says.
fn check_list(store: &Store, copy: &SimDisk, model: &Model) -> Result<(), String> {
    let listed = comparable(store.entries().map_err(|error| format!("list: {error}"))?);
    let rebuilt = open_store(&copy.process(), 3)
        .and_then(|store| store.reindex().and_then(|_| store.entries()))
        .map_err(|error| format!("reindex: {error}"))?;
    let rebuilt = comparable(rebuilt);
    if listed != rebuilt {
        return Err(format!("the list is {listed:?},\n    rebuilt {rebuilt:?}"));
    }
    let shown: Vec<_> =
        listed.iter().map(|entry| (entry.key.session.to_string(), entry.records, entry.title.clone())).collect();
    let life = |(name, named): (&&str, &Named)| {
        let content = named.now()?.main.now();
        let title = content.meta.get("title").and_then(|title| title.as_str()).map(str::to_owned);
        Some(((*name).to_owned(), content.view.len() as u64, title))
    };
    let wanted: Vec<_> = model.names.iter().filter_map(life).collect();
    if shown != wanted {
        return Err(format!("the list shows {shown:?}, not {wanted:?}"));
    }
    Ok(())
}

/// Counts of what was tried.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) images: u64,
    pub(crate) again: u64,
    pub(crate) programs: u64,
}

/// That a disk which a power cut left says what it may, and can be gone on with: read, listed, verified, written to, cut again.
pub(crate) fn check_image(image: &SimDisk, model: &Model, again: Option<u64>, tally: &mut Tally) -> Result<(), String> {
    tally.images += 1;
    let copy = image.after(Cut::Everything);
    let store = open_store(&image.process(), 1).map_err(|error| format!("the store does not open: {error}"))?;
    let found = resolve(&store, image, model)?;
    check_list(&store, &copy, &found)?;
    let report = store.verify(None, |_| {}).map_err(|error| format!("verify: {error}"))?;
    if !report.is_sound() {
        return Err(format!("a crash is called damage: {report:?}"));
    }
    drop(store);
    let options = OpenOptions::default();
    let mut world = World::found(image.clone(), found, options, 7 + u64::from(again.is_some()))
        .map_err(|error| format!("open: {error}"))?;
    let mut rng = Rng::new(again.unwrap_or(0));
    let snapshots = Arc::new(Mutex::new(Vec::<Snapshot>::new()));
    if again.is_some() {
        collect(image, &snapshots, Points::Barriers);
    }
    let mut wrong = None;
    for op in resume(&world.model) {
        let did = world.step(op, &mut |world| {
            let taken = std::mem::take(&mut *snapshots.lock().expect("nobody panics"));
            for snapshot in taken {
                if !rng.chance(1, 3) {
                    continue;
                }
                for (cut, next) in images(&snapshot, rng.bits(), 1, 2) {
                    tally.again += 1;
                    if wrong.is_none() {
                        wrong = check_image(&next, &world.model, None, tally)
                            .err()
                            .map(|error| next_report(&next, cut, &error));
                    }
                }
            }
        });
        if let Did::Failed(error) = did {
            return Err(format!("after the power cut, {op:?}: {error}"));
        }
    }
    image.clear_hook();
    if let Some(wrong) = wrong {
        return Err(format!("after a second power cut: {wrong}"));
    }
    resolve(&world.store, image, &world.model).map_err(|error| format!("gone on with: {error}"))?;
    Ok(())
}

fn next_report(image: &SimDisk, cut: Cut, error: &str) -> String {
    image.report(format!("{cut}: {error}"))
}

/// What is done on every disk that is left: every session appended to and closed, every free name taken.
fn resume(model: &Model) -> Vec<Op> {
    let mut ops = Vec::new();
    for (name, named) in &model.names {
        let main = Which(name, None);
        match named.now() {
            None => ops.extend([Op::Create(name), Op::Append(main), Op::Close(main)]),
            Some(life) => {
                ops.extend([Op::Append(main), Op::AppendId(main), Op::Undo(main), Op::Redo(main)]);
                if !life.sides.is_empty() {
                    ops.extend([Op::Batch(Which(name, Some(SIDE))), Op::Close(Which(name, Some(SIDE)))]);
                }
                ops.extend([Op::Close(main)]);
            }
        }
    }
    ops
}

/// Takes a snapshot before every such call of `disk`, from now on.
pub(crate) fn collect(disk: &SimDisk, snapshots: &Arc<Mutex<Vec<Snapshot>>>, points: Points) {
    let snapshots = Arc::clone(snapshots);
    disk.on_point(points, move |_, snapshot| snapshots.lock().expect("nobody panics").push(snapshot.clone()));
}

/// Some of the disks that a snapshot may turn into: `canonical` of the fixed ones, chosen by the seed, and `random` others.
pub(crate) fn images(snapshot: &Snapshot, seed: u64, canonical: usize, random: u64) -> Vec<(Cut, SimDisk)> {
    if snapshot.is_stable() {
        return vec![(Cut::Nothing, snapshot.after(Cut::Nothing))];
    }
    let first = Rng::new(seed).below(Cut::CANONICAL.len());
    let fixed = (0..canonical).map(|n| Cut::CANONICAL[(first + n) % Cut::CANONICAL.len()]);
    let cuts = fixed.chain((0..random).map(|n| Cut::random(seed, n)));
    cuts.map(|cut| (cut, snapshot.after(cut))).collect()
}

/// How hard a program is tried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) points: Points,
    pub(crate) canonical: usize,
    pub(crate) random: u64,
    /// One image in so many is cut a second time.
    pub(crate) again: usize,
}

/// Runs a program and cuts the power all along. The error tells how to do it again.
pub(crate) fn run(
    seed: u64,
    options: OpenOptions,
    before: &[Op],
    program: &[Op],
    effort: Effort,
    tally: &mut Tally,
) -> Result<(), String> {
    tally.programs += 1;
    let mut rng = Rng::new(derive(seed, 99));
    let mut world = World::new(seed, options);
    for op in before {
        if let Did::Failed(error) = world.step(*op, &mut |_| ()) {
            return Err(format!("{op:?}: {error}"));
        }
    }
    let snapshots = Arc::new(Mutex::new(Vec::new()));
    collect(&world.disk, &snapshots, effort.points);
    let mut wrong = None;
    let mut check = |world: &World, wrong: &mut Option<String>, tally: &mut Tally| {
        let taken = std::mem::take(&mut *snapshots.lock().expect("nobody panics"));
        for snapshot in taken {
            for (cut, image) in images(&snapshot, rng.bits(), effort.canonical, effort.random) {
                let again = rng.chance(1, effort.again).then(|| rng.bits());
                if wrong.is_none() {
                    *wrong = check_image(&image, &world.model, again, tally)
                        .err()
                        .map(|error| world.disk.report(format!("{cut} after call {}: {error}", snapshot.call())));
                }
            }
        }
    };
    for op in program {
        let did = world.step(*op, &mut |world| check(world, &mut wrong, tally));
        if let Did::Failed(error) = did {
            return Err(format!("{op:?}: {error}\nseed {seed:#x}, {options:?}, {before:?} then {program:?}"));
        }
        if wrong.is_some() {
            break;
        }
    }
    snapshots.lock().expect("nobody panics").push(world.disk.snapshot());
    check(&world, &mut wrong, tally);
    world.disk.clear_hook();
    match wrong {
        None => resolve(&world.store, &world.disk, &world.model).map(drop),
        Some(wrong) => Err(wrong),
    }
    .map_err(|wrong| format!("{wrong}\nreplay: seed {seed:#x}, {options:?}, {before:?} then {program:?}"))
}

/// The four ways to open.
pub(crate) fn all_options() -> [OpenOptions; 4] {
    let with = |durability, sharing| OpenOptions { durability: Some(durability), sharing, ..OpenOptions::default() };
    [
        with(Durability::Write, Sharing::Exclusive),
        with(Durability::Sync, Sharing::Exclusive),
        with(Durability::Write, Sharing::PerCall),
        with(Durability::Sync, Sharing::PerCall),
    ]
}

pub(crate) fn path(below: &str) -> PathBuf {
    Path::new(ROOT).join(below)
}
