//! A store that version 1 wrote is read by every later version. The files in `tests/fixtures/v1` are never written again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use forklog::disk::{Disk, How};
use forklog::{OpenOptions, Seq, SideName, Store};
use forklog_sim::{Cut, SimDisk};
use forklog_soak::model::Which;
use forklog_soak::{Did, Op, SIDE, Step, World, files, key, open_store, path, records};
use serde_json::{Value, json};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1")
}

/// All that a store says.
fn answers(store: &Store) -> Value {
    let mut said = BTreeMap::new();
    for entry in store.entries().expect("listed") {
        let mut transcripts = BTreeMap::new();
        let sides = store.sides(&entry.key).expect("listed");
        for side in [None].into_iter().chain(sides.into_iter().map(Some)) {
            let reader = match &side {
                None => store.read(&entry.key),
                Some(side) => store.read_side(&entry.key, side),
            }
            .expect("readable");
            let checkpoints = reader.checkpoints().expect("readable");
            let tree = |id| reader.checkpoint_tree(id).expect("there").id.to_string();
            let checkpoints: Vec<Value> =
                checkpoints.iter().map(|found| json!([found.label, found.seq.map(Seq::get), tree(found.id)])).collect();
            let said = json!({
                "head": reader.head().to_string(),
                "records": records(&reader).expect("readable"),
                "meta": reader.meta(),
                "checkpoints": checkpoints,
            });
            transcripts.insert(side.map_or_else(String::new, |side| side.to_string()), said);
        }
        let listed = json!([entry.records, entry.title, entry.tags, entry.updated.as_millis()]);
        said.insert(entry.key.to_string(), json!({ "listed": listed, "transcripts": transcripts }));
    }
    json!(said)
}

/// The fixture's files on a simulated disk.
fn disk() -> SimDisk {
    let disk = SimDisk::new(1);
    let process = disk.process();
    let mut dirs = vec![PathBuf::new()];
    while let Some(below) = dirs.pop() {
        process.create_dir(&path(below.to_str().expect("text"))).expect("new");
        for entry in std::fs::read_dir(fixture().join(&below)).expect("there") {
            let entry = entry.expect("readable");
            let name = below.join(entry.file_name());
            if entry.file_type().expect("readable").is_dir() {
                dirs.push(name);
            } else {
                let file = process.open(&path(name.to_str().expect("text")), How::CreateNew).expect("new");
                file.write_at(&std::fs::read(entry.path()).expect("readable"), 0).expect("room");
            }
        }
    }
    process.kill();
    disk.after(Cut::Everything)
}

#[test]
fn a_store_of_version_1_is_read_and_written_to() {
    let disk = disk();
    let said = std::fs::read_to_string(fixture().with_extension("json")).expect("there");
    let wanted: Value = serde_json::from_str(&said).expect("JSON");
    let store = open_store(&disk.process(), 5).expect("a store");
    assert_eq!(answers(&store), wanted);
    assert!(store.verify(None, |_| {}).expect("read").is_sound());
    assert!(store.objects().verify().expect("read").is_empty());
    store.reindex().expect("built again");
    assert_eq!(answers(&store), wanted);
    let sides = [None, Some(SideName::new(SIDE).expect("legal"))];
    for (name, side) in ["a", "b", "c"].into_iter().flat_map(|name| sides.iter().map(move |side| (name, side))) {
        let session = match side {
            None => store.session(&key(name)).expect("opened"),
            Some(side) if name == "a" => store.side(&key(name), side, OpenOptions::default()).expect("opened"),
            Some(_) => continue,
        };
        session.append_json(b"\"new\"").expect("appended");
        session.close().expect("closed");
    }
    store.gc(false).expect("collected");
    let mut wanted = wanted;
    for (session, side) in [("p/a", ""), ("p/a", SIDE), ("p/b", ""), ("p/c", "")] {
        let records = &mut wanted[session]["transcripts"][side]["records"];
        records.as_array_mut().expect("an array").push(json!(["\"new\"", null]));
    }
    let now = answers(&store);
    for (session, transcripts) in wanted.as_object().expect("an object") {
        for (side, wanted) in transcripts["transcripts"].as_object().expect("an object") {
            let now = &now[session]["transcripts"][side];
            for member in ["records", "meta", "checkpoints"] {
                assert_eq!(now[member], wanted[member], "{session} {side} {member}");
            }
        }
    }
}

/// How the fixture was made: `cargo test --test it -- --ignored write_a_store`. It does not overwrite one.
#[test]
#[ignore = "writes the files that must never change"]
fn write_a_store() {
    assert!(!fixture().exists(), "a fixture is never written again");
    let (a, b, c, x) = (Which("a", None), Which("b", None), Which("c", None), Which("a", Some(SIDE)));
    let mut world = World::new(0xf1, OpenOptions::default());
    let program = [
        // Parents that are gone: of a fork that shares bytes, and of files that a fork still needs.
        Op::Create("c"),
        Op::Edit,
        Op::Edit,
        Op::Append(c),
        Op::Checkpoint(c),
        Op::Append(c),
        Op::Append(c),
        Op::Fork("c", "b"),
        Op::Append(b),
        Op::Delete("c"),
        Op::Create("a"),
        Op::Set("a"),
        Op::AppendId(a),
        Op::Edit,
        Op::Edit,
        Op::Checkpoint(a),
        Op::AppendId(a),
        Op::Batch(a),
        Op::Append(a),
        Op::Rewind(a),
        Op::Append(a),
        Op::Undo(a),
        Op::Redo(a),
        Op::Batch(x),
        Op::Close(x),
        Op::Close(a),
        Op::Set("b"),
        Op::Close(b),
        // One whose writer died, with half a line behind its last.
        Op::Create("c"),
        Op::Append(c),
        Op::Sync(c),
        Op::Append(c),
    ];
    for op in program {
        assert!(matches!(world.step(Step::from(op), &mut |_| ()), Did::It), "{op:?}");
    }
    world.kill(0);
    let torn = path("projects/p/c/transcript.jsonl");
    world.disk.damage(&torn, |bytes| bytes.extend_from_slice(b"{\"at\":\"2026-11-1")).expect("there");
    for (below, bytes) in files(&world.disk) {
        let name = fixture().join(below);
        std::fs::create_dir_all(name.parent().expect("below")).expect("made");
        std::fs::write(name, bytes).expect("written");
    }
    let store = open_store(&world.disk.after(Cut::Everything).process(), 5).expect("a store");
    let said = serde_json::to_string_pretty(&answers(&store)).expect("JSON");
    std::fs::write(fixture().with_extension("json"), said + "\n").expect("written");
}
