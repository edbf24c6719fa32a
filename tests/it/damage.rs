//! Bits that rot and bytes that go missing: the engine says the same as before, or says that there is damage.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use forklog::disk::{Disk, How};
use forklog::{Error, Kind, Offset, OpenOptions, Store};
use forklog_sim::reader::{self, Name, Verdict};
use forklog_sim::{Cut, SimDisk};
use forklog_soak::model::{Model, Rec, Which};
use forklog_soak::{Did, Op, SIDE, World, files, key, open_store, path, records};

const A: Which = Which("a", None);
const X: Which = Which("a", Some(SIDE));
const B: Which = Which("b", None);

/// What a transcript said when its file was so long, oldest first.
type States = Vec<(usize, Answer)>;

/// A store with everything in it, at rest.
fn store() -> SimDisk {
    store_and_states().0
}

/// [`store`], and what each transcript has said on the way.
fn store_and_states() -> (SimDisk, [States; 3]) {
    let mut states = [const { Vec::new() }; 3];
    let mut world = World::new(5, OpenOptions::default());
    let program = [
        Op::Create("a"),
        Op::Append(A),
        Op::AppendId(A),
        Op::Sync(A),
        Op::Batch(A),
        Op::Set("a"),
        Op::Rewind(A),
        Op::Append(A),
        Op::Undo(A),
        Op::Append(A),
        Op::Redo(A),
        Op::Append(X),
        Op::Batch(X),
        Op::Close(X),
        Op::Fork("a", "b"),
        Op::Batch(B),
        Op::Close(B),
        Op::Close(A),
    ];
    for op in program {
        assert!(!matches!(world.step(op, &mut |_| ()), Did::Failed(_)), "{op:?}");
        for ((which, (_, _, below)), states) in [A, X, B].into_iter().zip(TRANSCRIPTS).zip(&mut states) {
            let Ok(bytes) = world.disk.peek(&path(below)) else { continue };
            let now = world.model.now(which);
            let meta = serde_json::to_string(&now.meta).expect("JSON");
            if states.is_empty() {
                // What was written in one step may end behind the header: a fork has its parent's records then, and not its tags.
                let header = bytes.iter().position(|byte| *byte == b'\n').expect("a line") + 1;
                let inherited = if which == B { now.records().cloned().collect() } else { Vec::new() };
                states.push((header, (inherited, "{}".to_owned())));
            }
            states.push((bytes.len(), (now.records().cloned().collect(), meta)));
        }
    }
    (world.disk.after(Cut::Everything), states)
}

const TRANSCRIPTS: [(&str, Option<&str>, &str); 3] = [
    ("a", None, "projects/p/a/transcript.jsonl"),
    ("a", Some(SIDE), "projects/p/a/side/x.jsonl"),
    ("b", None, "projects/p/b/transcript.jsonl"),
];

type Answer = (Vec<Rec>, String);

fn ask(store: &Store, name: &str, side: Option<&str>) -> Result<Answer, Error> {
    let reader = match side {
        None => store.read(&key(name)),
        Some(side) => store.read_side(&key(name), &forklog::SideName::new(side).expect("legal")),
    }?;
    let meta = serde_json::to_string(&reader.meta()).expect("JSON");
    Ok((records(&reader)?, meta))
}

fn ask_other(files: &BTreeMap<PathBuf, Vec<u8>>, name: &str, side: Option<&str>) -> Result<Answer, Verdict> {
    let name = Name { project: "p".into(), session: name.into(), side: side.map(Into::into) };
    let read = reader::read_map(files, &name)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let records = read.records.iter().map(|record| (text(&record.payload), record.id.clone())).collect();
    Ok((records, serde_json::to_string(&read.metadata).expect("JSON")))
}

/// Whether the two say the same: the same records, or the same trouble in the same place.
fn agree(engine: &Result<Answer, Error>, other: &Result<Answer, Verdict>) -> bool {
    let same = |found: &Path, at: Offset, below: &Path, start: u64| found == path("").join(below) && at.get() == start;
    match (engine, other) {
        (Ok(engine), Ok(other)) => engine == other,
        (Err(Error::NotFound { .. }), Err(Verdict::NoSession)) => true,
        (Err(Error::Newer { path, at, .. }), Err(Verdict::Newer { path: below, at: start }))
        | (Err(Error::Corrupt { path, at, .. }), Err(Verdict::Damage { path: below, at: start, .. })) => {
            same(path, *at, below, *start)
        }
        (Err(Error::Lineage { .. }), Err(Verdict::Lineage { .. })) => true,
        _ => false,
    }
}

/// Changes one file, and asks both for everything. `wanted` is what the file must say instead of what it said: one whose end is gone
/// looks as it did when it had no such end.
fn try_one(
    disk: &SimDisk,
    good: &[Answer],
    below: &str,
    what: &str,
    wanted: Option<&Answer>,
    change: impl Fn(&mut Vec<u8>),
) {
    let image = disk.after(Cut::Everything);
    image.damage(&path(below), change).expect("there");
    let store = open_store(&image.process(), 2).expect("a store");
    let files = files(&image);
    for ((name, side, file), good) in TRANSCRIPTS.iter().zip(good) {
        let good = wanted.filter(|_| *file == below).unwrap_or(good);
        let (engine, other) = (ask(&store, name, *side), ask_other(&files, name, *side));
        assert!(agree(&engine, &other), "{below}, {what}: {name} {side:?}: {engine:?}, but the other reader {other:?}");
        match &engine {
            Ok(answer) => {
                assert!(answer == good, "{below}, {what}: {name} is read as {answer:?}, not {good:?}");
            }
            Err(error) => {
                let kinds = [Kind::Data, Kind::Newer];
                assert!(kinds.contains(&error.kind()), "{below}, {what}: {error}");
                let report = store.verify(None, |_| {}).expect("a report");
                assert!(!report.is_sound(), "{below}, {what}: {name}: {error}, which verify does not find");
            }
        }
    }
}

fn good(disk: &SimDisk) -> Vec<Answer> {
    let store = open_store(&disk.after(Cut::Everything).process(), 2).expect("a store");
    TRANSCRIPTS.iter().map(|(name, side, _)| ask(&store, name, *side).expect("sound")).collect()
}

#[test]
fn no_flipped_bit_changes_an_answer() {
    let disk = store();
    let good = good(&disk);
    for (_, _, below) in TRANSCRIPTS {
        let len = disk.peek(&path(below)).expect("there").len();
        for at in 0..len {
            for bit in 0..8 {
                try_one(&disk, &good, below, &format!("bit {bit} of byte {at}"), None, |bytes| bytes[at] ^= 1 << bit);
            }
        }
    }
}

#[test]
fn a_file_that_is_cut_reads_as_it_once_was_or_as_damaged() {
    let (disk, states) = store_and_states();
    let good = good(&disk);
    for ((_, _, below), states) in TRANSCRIPTS.into_iter().zip(states) {
        let len = disk.peek(&path(below)).expect("there").len();
        for to in 0..len {
            // The newest state of which nothing is missing, and no older one; without a first line there is none.
            let none = (Vec::new(), "no state".to_owned());
            let newest = states.iter().rev().find(|state| state.0 <= to).map_or(&none, |state| &state.1);
            let wanted = Some(newest);
            try_one(&disk, &good, below, &format!("cut at {to}"), wanted, |bytes| bytes.truncate(to));
            try_one(&disk, &good, below, &format!("zeros from {to}"), wanted, |bytes| bytes[to..].fill(0));
        }
    }
}

#[test]
fn lines_that_are_dropped_doubled_or_swapped_are_found() {
    let disk = store();
    let good = good(&disk);
    for (_, _, below) in TRANSCRIPTS {
        let bytes = disk.peek(&path(below)).expect("there");
        let lines: Vec<Vec<u8>> = bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        for n in 0..lines.len() {
            let mut changed = Vec::new();
            let (mut dropped, mut doubled) = (lines.clone(), lines.clone());
            dropped.remove(n);
            doubled.insert(n, lines[n].clone());
            changed.extend([("dropped", dropped), ("doubled", doubled)]);
            for m in n + 1..lines.len() {
                let mut swapped = lines.clone();
                swapped.swap(n, m);
                changed.push(("swapped", swapped));
            }
            for (what, lines) in changed {
                // Without its last line a file is one that was not closed.
                try_one(&disk, &good, below, &format!("line {n} {what}"), None, |bytes| *bytes = lines.concat());
            }
        }
    }
}

/// Everything that is derived and what is asked of it.
fn answers(disk: &SimDisk, seed: u64) -> String {
    let store = open_store(&disk.process(), seed).expect("a store");
    let mut said = String::new();
    for entry in store.entries().expect("listed") {
        said.push_str(&format!("{entry:?}\n"));
        let reader = store.read(&entry.key).expect("read");
        let last: Vec<_> = reader.last(2).expect("read").map(|record| record.expect("sound")).collect();
        let id = forklog::RecordId::new("id2").expect("legal");
        said.push_str(&format!("{:?} {last:?} {:?}\n", records(&reader), reader.get(&id).expect("read")));
    }
    said
}

#[test]
fn nothing_that_is_derived_changes_an_answer() {
    let disk = store();
    // An index to damage.
    answers(&disk, 9);
    let older = disk.after(Cut::Everything);
    let mut world = World::found(older.clone(), Model::default(), OpenOptions::default(), 11).expect("a store");
    assert!(matches!(world.step(Op::Create("c"), &mut |_| ()), Did::It));
    assert!(matches!(world.step(Op::Append(Which("c", None)), &mut |_| ()), Did::It));
    assert!(matches!(world.step(Op::Close(Which("c", None)), &mut |_| ()), Did::It));
    let newer = older.after(Cut::Everything);
    let good = answers(&newer.after(Cut::Everything), 12);
    let derived = |path: &Path| {
        path.starts_with("index") || path == Path::new("anchor") || path.extension().is_some_and(|e| e == "map")
    };
    let all = files(&newer);
    assert!(all.keys().any(|path| derived(path)));
    for (below, bytes) in all.iter().filter(|(path, _)| derived(path)) {
        let name = path(below.to_str().expect("text"));
        let check = |image: SimDisk, what: &str| {
            assert_eq!(answers(&image, 13), good, "{}, {what}", below.display());
        };
        let image = newer.after(Cut::Everything);
        image.process().remove_file(&name).expect("there");
        check(image, "removed");
        for at in 0..bytes.len() {
            let image = newer.after(Cut::Everything);
            image.damage(&name, |bytes| bytes[at] ^= 1 << (at % 8)).expect("there");
            check(image, &format!("a bit of byte {at}"));
            if at % 16 == 0 {
                let image = newer.after(Cut::Everything);
                image.damage(&name, |bytes| bytes.truncate(at)).expect("there");
                check(image, &format!("cut at {at}"));
            }
        }
        if let Ok(old) = disk.peek(&name) {
            let image = newer.after(Cut::Everything);
            image.damage(&name, |bytes| *bytes = old.to_vec()).expect("there");
            check(image, "an older copy");
        }
    }
    // All of it from an older copy of the store.
    let image = newer.after(Cut::Everything);
    let process = image.process();
    for below in all.keys().filter(|path| derived(path)) {
        let name = path(below.to_str().expect("text"));
        process.remove_file(&name).expect("there");
        if let Ok(old) = disk.peek(&name) {
            let file = process.open(&name, How::CreateNew).expect("new");
            file.write_at(&old, 0).expect("room");
        }
    }
    assert!(answers(&image, 14).lines().count() <= good.lines().count());
}
