//! What a disk says, read twice and compared with the model; and what is done to one that a power cut left.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forklog::{Entry, Error, ObjectId, ObjectKind, OpenOptions, Reader, Store};
use forklog_sim::objects::{self, Kind};
use forklog_sim::reader::{self, Conversation, Name, Verdict};
use forklog_sim::{Cut, Points, Rng, SimDisk, Snapshot};

use crate::model::{Bytes, Content, Files, History, Item, Life, Model, Named, Rec, Which};
use crate::world::{Did, Op, ROOT, SIDE, World, files_of, key, open_store, path, side_name};

/// The store's files by their paths below its directory.
pub type StoreFiles = BTreeMap<PathBuf, Vec<u8>>;

/// Every file of the store.
#[must_use]
pub fn files(disk: &SimDisk) -> StoreFiles {
    let below = |(path, bytes): (PathBuf, Option<Arc<Vec<u8>>>)| {
        Some((path.strip_prefix(ROOT).ok()?.to_owned(), bytes?.to_vec()))
    };
    disk.tree().into_iter().filter_map(below).collect()
}

/// The records that the engine reads.
///
/// # Errors
///
/// As [`forklog::Records`].
pub fn records(reader: &Reader) -> Result<Vec<Rec>, Error> {
    let record = |record: Result<forklog::OwnedRecord, Error>| {
        let record = record?;
        Ok((text(&record.payload), record.id.map(|id| id.to_string())))
    };
    reader.records().map(record).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// How many head moves a transcript has in its first `end` bytes.
fn moves(bytes: &[u8], end: u64) -> usize {
    let text = text(usize::try_from(end).ok().and_then(|end| bytes.get(..end)).unwrap_or(bytes));
    ["\",\"rewind\":", "\",\"undo\":", "\",\"redo\":"].iter().map(|kind| text.matches(kind).count()).sum()
}

/// Puts checkpoints, each with the number of records before it, between the records.
fn woven(records: Vec<Rec>, checkpoints: Vec<(usize, String, Files)>) -> Vec<Item> {
    let mut view: Vec<Item> = Vec::new();
    let mut checkpoints = checkpoints.into_iter().peekable();
    let mut records = records.into_iter();
    for n in 0.. {
        while let Some((_, label, files)) = checkpoints.next_if(|(before, ..)| *before <= n) {
            view.push(Item::Checkpoint(label, files));
        }
        match records.next() {
            Some(record) => view.push(Item::Record(record)),
            None => break,
        }
    }
    view
}

/// What the engine reads.
fn engine_says(store: &Store, name: &str, side: Option<&str>) -> Result<(Content, u64), Error> {
    let reader = match side {
        None => store.read(&key(name)),
        Some(side) => store.read_side(&key(name), &side_name(side)),
    }?;
    let mut checkpoints = Vec::new();
    for found in reader.checkpoints()? {
        let tree = reader.checkpoint_tree(found.id)?;
        let get = |kind, name: &objects::Name| {
            let kind = match kind {
                Kind::Blob => ObjectKind::Blob,
                Kind::Tree => ObjectKind::Tree,
            };
            store.objects().get(kind, ObjectId::from_bytes(*name), 1 << 20).ok()
        };
        let missing = || Error::Corrupt {
            path: "objects".into(),
            at: forklog::Offset::default(),
            why: "a checkpoint cannot be read back",
        };
        let files = contents(&tree.id.to_bytes(), &get).ok_or_else(missing)?;
        let before = found.seq.map_or(0, |seq| usize::try_from(seq.get() + 1).unwrap_or(usize::MAX));
        checkpoints.push((before, found.label.unwrap_or_default(), files));
    }
    let view = woven(records(&reader)?, checkpoints);
    Ok((Content { view, meta: reader.meta(), ..Content::default() }, reader.len()))
}

/// What the independent reader reads.
fn other_says(files: &StoreFiles, read: &Conversation) -> Option<Content> {
    let records = read.records.iter().map(|record| (text(&record.payload), record.id.clone())).collect();
    let mut checkpoints = Vec::new();
    for (before, payload) in &read.checkpoints {
        let value: serde_json::Value = serde_json::from_slice(payload).ok()?;
        if value.get("id").is_none() {
            continue;
        }
        let label = value.get("label").and_then(|label| label.as_str()).unwrap_or_default().to_owned();
        let root = object_name(value.pointer("/tree/object")?.as_str()?)?;
        let get = |kind, name: &objects::Name| objects::object(files, kind, name);
        checkpoints.push((*before, label, contents(&root, &get)?));
    }
    Some(Content { view: woven(records, checkpoints), meta: read.metadata.clone(), ..Content::default() })
}

fn contents(root: &objects::Name, get: &dyn Fn(Kind, &objects::Name) -> Option<Vec<u8>>) -> Option<Files> {
    Some(objects::contents(root, get)?.into_iter().map(|(path, bytes)| (path, Bytes(bytes))).collect())
}

fn object_name(digits: &str) -> Option<objects::Name> {
    let byte = |at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    let bytes: Vec<u8> = (0..64).step_by(2).map(byte).collect::<Option<_>>()?;
    bytes.try_into().ok()
}

/// Reads one transcript with the engine and with the independent reader, which must agree.
fn read_both(
    store: &Store,
    files: &StoreFiles,
    name: &str,
    side: Option<&str>,
) -> Result<Option<(Content, Conversation)>, String> {
    let asked = Name { project: "p".into(), session: name.into(), side: side.map(Into::into) };
    match (engine_says(store, name, side), reader::read_map(files, &asked)) {
        (Ok((content, len)), Ok(read)) => {
            let bytes = files.get(&reader::transcript_path(&asked)).ok_or("the file is gone")?;
            let content = Content { moves: moves(bytes, read.head.offset), ..content };
            let other = other_says(files, &read);
            if !other.as_ref().is_some_and(|other| content.same(other)) || len != read.head.records {
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
    let mut found = Life { main: History::of(choose(life.main.possible(), main)?), ..Life::default() };
    for (name, (history, must)) in &life.sides {
        match sides.get(name) {
            Some(side) => {
                let content = choose(history.possible(), side)?;
                found.sides.insert(name.clone(), (History::of(content), true));
            }
            None if *must => return None,
            None => {}
        }
    }
    sides.keys().all(|name| life.sides.contains_key(name)).then_some(found)
}

/// Reads everything, and says which of the states that the model allows it is.
///
/// # Errors
///
/// What is wrong.
pub fn resolve(store: &Store, disk: &SimDisk, model: &Model) -> Result<Model, String> {
    resolve_files(store, &files(disk), model)
}

/// [`resolve`] of a store whose files are these.
///
/// # Errors
///
/// What is wrong.
pub fn resolve_files(store: &Store, files: &StoreFiles, model: &Model) -> Result<Model, String> {
    let mut found = Model { names: BTreeMap::new(), ..model.clone() };
    for (name, named) in &model.names {
        let mut sides = BTreeMap::new();
        let main = read_both(store, files, name, None)?;
        if main.is_some() {
            for side in store.sides(&key(name)).map_err(|error| error.to_string())? {
                let read = read_both(store, files, name, Some(side.as_str()))?;
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

/// Entries as two lists of the same sessions have them: in one order, and without saying who is open.
#[must_use]
pub fn comparable(mut entries: Vec<Entry>) -> Vec<Entry> {
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
        Some(((*name).to_owned(), content.len() as u64, title))
    };
    let wanted: Vec<_> = model.names.iter().filter_map(life).collect();
    if shown != wanted {
        return Err(format!("the list shows {shown:?}, not {wanted:?}"));
    }
    Ok(())
}

/// Counts of what was tried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Disks that were opened after a power cut.
    pub images: u64,
    /// Those of them that were left by a second power cut, while the first one's were written to.
    pub again: u64,
    /// Programs that were run.
    pub programs: u64,
}

impl Tally {
    /// Adds another count.
    pub fn add(&mut self, other: &Self) {
        self.images += other.images;
        self.again += other.again;
        self.programs += other.programs;
    }
}

/// That a disk which a power cut left says what it may, and can be gone on with: read, listed, verified, written to,
/// collected, and with `again`, a seed, cut again while that goes on.
///
/// # Errors
///
/// What is wrong.
pub fn check_image(image: &SimDisk, model: &Model, again: Option<u64>, tally: &mut Tally) -> Result<(), String> {
    check_disk(image, model, false, again, tally)
}

/// [`check_image`] of a disk that had no power cut: what is read may still be lost.
///
/// # Errors
///
/// What is wrong.
pub fn check_live(disk: &SimDisk, model: &Model, again: Option<u64>, tally: &mut Tally) -> Result<(), String> {
    check_disk(disk, model, true, again, tally)
}

fn check_disk(image: &SimDisk, model: &Model, live: bool, again: Option<u64>, tally: &mut Tally) -> Result<(), String> {
    tally.images += 1;
    let copy = image.snapshot().killed();
    let store = open_store(&image.process(), 1).map_err(|error| format!("the store does not open: {error}"))?;
    let found = resolve(&store, image, model)?;
    check_list(&store, &copy, &found)?;
    let report = store.verify(None, |_| {}).map_err(|error| format!("verify: {error}"))?;
    if !report.is_sound() {
        return Err(format!("a crash is called damage: {report:?}"));
    }
    let tails = tails(&files(image), &found);
    let damaged = store.objects().verify().map_err(|error| format!("verify objects: {error}"))?;
    if !damaged.is_empty() {
        return Err(format!("a crash is called damage: {damaged:?}"));
    }
    let found = if has_copies(image) { put_back(&store, image, model, &found)? } else { found };
    drop(store);
    let options = OpenOptions::default();
    let found = if live {
        let mut known = model.clone();
        known.sees(&found);
        known
    } else {
        found
    };
    if found.moving.is_none() && files_of(image) != found.files {
        return Err(format!("the files are {:?}, not {:?}", files_of(image), found.files));
    }
    let mut world = World::found(image.clone(), found, options, 7 + u64::from(again.is_some()))
        .map_err(|error| format!("open: {error}"))?;
    let mut rng = Rng::new(again.unwrap_or(0));
    let snapshots = Snapshots::default();
    if again.is_some() {
        snapshots.collect(image, Points::Barriers);
    }
    let mut wrong = None;
    let mut check = |world: &World, one_in: usize| {
        for snapshot in snapshots.take() {
            if wrong.is_some() || !rng.chance(1, one_in) {
                continue;
            }
            for (cut, next) in images(&snapshot, rng.bits(), 1, 2) {
                tally.again += 1;
                let checked = check_image(&next, &world.model, None, tally);
                wrong = wrong.take().or(checked.err().map(|error| next.report(format!("{cut}: {error}"))));
            }
        }
    };
    world.recover_files(&mut |world| check(world, 3))?;
    for op in resume(&world.model, image) {
        if let Did::Failed(error) = world.step(op, &mut |world| check(world, 3)) {
            return Err(format!("after the power cut, {op:?}: {error}"));
        }
    }
    image.clear_hook();
    if again.is_some() {
        // Everything was closed.
        snapshots.push(image.snapshot());
        check(&world, 1);
    }
    if let Some(wrong) = wrong {
        return Err(format!("after a second power cut: {wrong}"));
    }
    check_quarantine(&files(image), &tails)?;
    let copy = image.snapshot().killed();
    let found = resolve(world.store(), image, &world.model).map_err(|error| format!("gone on with: {error}"))?;
    check_list(world.store(), &copy, &found).map_err(|error| format!("gone on with: {error}"))
}

/// Whether a recovery was cut off between letting the system forget lines and writing them once more: the next writer puts them back, so that
/// there is more to read afterwards.
fn has_copies(disk: &SimDisk) -> bool {
    disk.tree().iter().any(|(path, _)| path.extension().is_some_and(|found| found == "again"))
}

/// Opens every transcript for append, and says what is there then, which is not less.
fn put_back(store: &Store, disk: &SimDisk, model: &Model, before: &Model) -> Result<Model, String> {
    for (name, named) in &before.names {
        for side in named.now().into_iter().flat_map(|life| [None].into_iter().chain(life.sides.keys().map(Some))) {
            let opened = match side {
                None => store.session(&key(name)),
                Some(side) => store.side(&key(name), &side_name(side), OpenOptions::default()),
            };
            opened.and_then(|session| session.close()).map_err(|error| format!("putting back {name}: {error}"))?;
        }
    }
    let after = resolve(store, disk, model)?;
    for (name, named) in &before.names {
        let len = |named: &Named| named.now().map(|life| life.main.now()).map(|main| (main.moves, main.len()));
        if after.names.get(name).and_then(len) < len(named) {
            return Err(format!("putting back {name} took something away"));
        }
    }
    Ok(after)
}

/// Bytes behind the last line that counts, by the directory of their session: the next writer cuts them off.
pub type Tails = Vec<(PathBuf, Vec<u8>)>;

/// What the next writers will cut off.
#[must_use]
pub fn tails(files: &StoreFiles, found: &Model) -> Tails {
    let mut tails = Vec::new();
    for (name, named) in &found.names {
        let sides = named.now().into_iter().flat_map(|life| life.sides.keys().map(|side| Some(side.clone())));
        for side in [None].into_iter().chain(sides) {
            let asked = Name { project: "p".into(), session: (*name).into(), side };
            let Ok(read) = reader::read_map(files, &asked) else { continue };
            let bytes = files.get(&reader::transcript_path(&asked)).map(Vec::as_slice).unwrap_or_default();
            let tail = usize::try_from(read.head.offset).ok().and_then(|end| bytes.get(end..)).unwrap_or_default();
            // Spaces are what a writer laid ahead.
            if tail.iter().any(|byte| *byte != b' ') {
                tails.push((PathBuf::from("projects/p").join(name), tail.to_vec()));
            }
        }
    }
    tails
}

/// That nothing was cut off that is not kept in quarantine.
///
/// # Errors
///
/// Of which session it is missing.
pub fn check_quarantine(files: &StoreFiles, tails: &Tails) -> Result<(), String> {
    for (dir, tail) in tails {
        let kept = |(path, bytes): (&PathBuf, &Vec<u8>)| path.starts_with(dir.join("quarantine")) && bytes == tail;
        if !files.iter().any(kept) {
            return Err(format!("{} bytes that were cut off in {} are not in quarantine", tail.len(), dir.display()));
        }
    }
    Ok(())
}

/// What is done on every disk that is left: every session appended to and closed, every free name taken, garbage collected.
fn resume(model: &Model, disk: &SimDisk) -> Vec<Op> {
    let files = disk.tree().iter().any(|(found, _)| *found == path("objects"));
    let mut ops = Vec::new();
    for (name, named) in &model.names {
        let main = Which(name, None);
        match named.now() {
            None => ops.extend([Op::Create(name), Op::Append(main), Op::Close(main)]),
            Some(life) => {
                ops.extend([Op::Append(main), Op::AppendId(main), Op::Undo(main), Op::Redo(main)]);
                if files {
                    ops.extend([Op::Edit, Op::Checkpoint(main)]);
                }
                if !life.sides.is_empty() {
                    ops.extend([Op::Batch(Which(name, Some(SIDE))), Op::Close(Which(name, Some(SIDE)))]);
                }
                ops.push(Op::Close(main));
            }
        }
    }
    ops.push(Op::Gc);
    ops
}

/// Snapshots that a disk's hook leaves for its harness.
#[derive(Clone, Debug, Default)]
pub struct Snapshots(Arc<Mutex<Vec<Snapshot>>>);

impl Snapshots {
    /// Takes a snapshot before every such call of `disk`, from now on.
    pub fn collect(&self, disk: &SimDisk, points: Points) {
        let own = self.clone();
        disk.on_point(points, move |_, snapshot| own.lock().push(snapshot.clone()));
    }

    /// One more.
    pub fn push(&self, snapshot: Snapshot) {
        self.lock().push(snapshot);
    }

    /// Those that have come since the last time.
    #[must_use]
    pub fn take(&self) -> Vec<Snapshot> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Snapshot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Some of the disks that a snapshot may turn into: `canonical` of the fixed ones, chosen by the seed, and `random` others.
#[must_use]
pub fn images(snapshot: &Snapshot, seed: u64, canonical: usize, random: u64) -> Vec<(Cut, SimDisk)> {
    if snapshot.is_stable() {
        return vec![(Cut::Nothing, snapshot.after(Cut::Nothing))];
    }
    let first = Rng::new(seed).below(Cut::CANONICAL.len());
    let fixed = (0..canonical).map(|n| Cut::CANONICAL[(first + n) % Cut::CANONICAL.len()]);
    let cuts = fixed.chain((0..random).map(|n| Cut::random(seed, n)));
    cuts.map(|cut| (cut, snapshot.after(cut))).collect()
}
