//! Payloads that are kept out of transcripts: read back as if they were in them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use forklog::{
    Appended, At, Durability, Error, Filter, Followed, NewRecord, NewSession, OpenOptions, RecordId, Seq, Session,
    SessionKey, Sharing, Store, StoreOptions,
};
use forklog_sim::{Cut, Op, SimDisk, reader};
use forklog_soak::{files, path};
use serde_json::{Value, json};

const OVER: u64 = 100;

fn key(id: &str) -> SessionKey {
    SessionKey::new("p", id).expect("legal")
}

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory") }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn store(&self) -> Store {
        StoreOptions::new().spill_over(OVER).open(self.root()).expect("a store")
    }

    fn transcript(&self, id: &str) -> String {
        std::fs::read_to_string(self.root().join(format!("projects/p/{id}/transcript.jsonl"))).expect("there")
    }

    fn packs(&self) -> Vec<PathBuf> {
        let found = std::fs::read_dir(self.root().join("objects")).into_iter().flatten().flatten();
        found.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "pack")).collect()
    }
}

/// Payload `n`: every other one is long.
fn value(n: u64) -> Value {
    let text = if n.is_multiple_of(2) { "short".to_owned() } else { format!("long {n} ").repeat(40) };
    json!({ "type": "user", "n": n, "message": { "role": "user", "content": text } })
}

/// Text that does not shrink.
fn noise(len: u32) -> String {
    let letter = |n: u32| char::from_u32(u32::from('a') + (n.wrapping_mul(2_654_435_761) >> 13) % 26);
    (0..len).filter_map(letter).collect()
}

fn append(session: &Session, range: std::ops::Range<u64>) {
    for n in range {
        session.append(&value(n)).expect("appended");
    }
}

fn values(store: &Store, id: &str) -> Vec<Value> {
    let records = store.read(&key(id)).expect("there").records();
    records.map(|record| serde_json::from_slice(&record.expect("readable").payload).expect("JSON")).collect()
}

#[test]
fn what_spilled_over_is_read_as_if_it_had_not() {
    let place = Place::new();
    let store = place.store();
    let session = store.create(NewSession::named(key("a"))).expect("created");
    let follower = store.read(&key("a")).expect("there").follow();
    append(&session, 0..6);
    let id = RecordId::new("long-one").expect("legal");
    let (long, short) = (value(7).to_string(), value(8).to_string());
    let record = |text: &'static str| NewRecord::json(text.as_bytes()).expect("JSON");
    let (long, short): (&'static str, &'static str) = (long.leak(), short.leak());
    let batch = [record(long).id(id.clone()), record(short), record(long).id(id.clone())];
    let appended = session.append_batch(&batch).expect("appended");
    assert!(matches!(appended[..], [Appended::New(_), Appended::New(_), Appended::Duplicate]), "{appended:?}");
    assert_eq!(session.append_record(&record(long).id(id.clone())).expect("asked"), Appended::Duplicate);
    let expected: Vec<Value> = (0..6).chain([7, 8]).map(value).collect();
    assert_eq!(values(&store, "a"), expected);
    // In the file there are names instead.
    let text = place.transcript("a");
    assert_eq!((text.matches("\"large\":{\"object\":\"").count(), text.matches("long ").count()), (4, 0));

    let reader = store.read(&key("a")).expect("there");
    let parsed = |payload: &[u8]| serde_json::from_slice::<Value>(payload).expect("JSON");
    let mut back = reader.records_back();
    let mut reversed = Vec::new();
    while let Some(record) = back.next().expect("readable") {
        assert!(record.line().len() < 400, "the line has only the name");
        reversed.push(parsed(record.payload()));
    }
    reversed.reverse();
    assert_eq!(reversed, expected);
    let last: Vec<Value> = reader.last(3).expect("readable").map(|r| parsed(&r.expect("readable").payload)).collect();
    assert_eq!(last, expected[5..]);
    let from =
        reader.records_from(Seq::new(6)).expect("readable").next().expect("readable").map(|r| parsed(r.payload()));
    assert_eq!(from.as_ref(), Some(&expected[6]));
    let found = reader.get(&id).expect("readable").expect("there");
    assert_eq!((found.seq.get(), parsed(&found.payload), found.id.as_deref()), (6, value(7), Some("long-one")));
    let mut follower = follower.expect("a follower");
    let mut followed = Vec::new();
    while let Followed::Record(record) = follower.next(Duration::from_millis(50)).expect("followed") {
        followed.push(parsed(&record.payload));
    }
    assert_eq!(followed, expected);

    // Lists and searches see the payloads; so does whoever comes later.
    let prompt = store.entry(&key("a")).expect("there").first_prompt;
    session.close().expect("closed");
    assert_eq!(prompt.as_deref(), Some("short"));
    let store = place.store();
    let hits = std::sync::Mutex::new(Vec::new());
    let note = |_: &forklog::Entry, record: &forklog::OwnedRecord| hits.lock().expect("sound").push(record.seq.get());
    let grep = store.grep(&Filter::default(), b"long 5 long 5", note).expect("searched");
    assert_eq!((grep.records, hits.into_inner().expect("sound")), (1, vec![5]));
    assert_eq!(values(&store, "a"), expected);
    let entry = store.entry(&key("a")).expect("there");
    assert_eq!((entry.records, entry.messages), (8, 8));
    store.reindex().expect("built");
    assert_eq!(store.entry(&key("a")).expect("there"), entry);
    assert!(store.verify(None, |_| {}).expect("verified").is_sound());
    // Who sets no threshold reads them all the same, and appends as ever.
    let plain = Store::open(place.root()).expect("a store");
    assert_eq!(values(&plain, "a"), expected);
    append(&plain.session(&key("a")).expect("opened"), 9..10);
    assert!(place.transcript("a").contains("long 9 long 9"));
    // A handle can say otherwise than the store.
    let options = OpenOptions { spill_over: Some(1), sharing: Sharing::PerCall, ..OpenOptions::default() };
    append(&plain.session_with(&key("a"), options).expect("opened"), 10..12);
    assert_eq!(place.transcript("a").matches("\"large\":").count(), 6);
    assert_eq!(values(&plain, "a").len(), 11);
}

#[test]
fn the_limit_of_a_line_does_not_hold_for_what_spills_over_and_equal_payloads_are_stored_once() {
    let place = Place::new();
    let store = StoreOptions::new().spill_over(OVER).max_line(2048).open(place.root()).expect("a store");
    let noise = noise(40_000);
    for id in ["a", "b"] {
        let session = store.create(NewSession::named(key(id))).expect("created");
        session.append(&noise).expect("longer than a line may be");
        session.append(&noise).expect("again");
        session.close().expect("closed");
        assert_eq!(values(&store, id), [json!(noise), json!(noise)]);
    }
    drop(store);
    let stored: u64 = place.packs().iter().map(|path| std::fs::metadata(path).expect("there").len()).sum();
    assert!(stored < 50_000, "{stored}");
}

#[test]
fn gc_keeps_payloads_while_a_session_a_fork_or_an_undo_needs_them() {
    let place = Place::new();
    let store = place.store();
    let a = store.create(NewSession::named(key("a"))).expect("created");
    append(&a, 0..16);
    let fork = store.fork(&key("a"), &At::Seq(Seq::new(1)), NewSession::named(key("b"))).expect("forked");
    append(&fork, 20..22);
    a.rewind(&At::Seq(Seq::new(0))).expect("rewound");
    drop((a, fork, store));
    let store = place.store();
    store.gc(false).expect("collected");
    assert_eq!(values(&store, "b"), [value(0), value(1), value(20), value(21)]);
    store.session(&key("a")).expect("opened").undo().expect("undone");
    assert_eq!(values(&store, "a"), (0..16).map(value).collect::<Vec<_>>(), "an abandoned tail keeps its payloads");
    store.delete(&key("a")).expect("deleted");
    let said = store.gc(true).expect("planned");
    assert_eq!(store.gc(false).expect("collected"), said);
    assert!(said.packs == 1 && said.objects_moved == 2, "{said:?}");
    assert_eq!(values(&store, "b"), [value(0), value(1), value(20), value(21)]);
    store.reroot(&key("b")).expect("copied");
    drop(store);
    let store = place.store();
    store.gc(false).expect("collected");
    assert_eq!(values(&store, "b"), [value(0), value(1), value(20), value(21)]);
    assert!(store.verify(None, |_| {}).expect("verified").is_sound());
    store.delete(&key("b")).expect("deleted");
    drop(store);
    let store = place.store();
    assert_eq!(store.gc(false).expect("collected").packs, 1);
    assert!(place.packs().is_empty());
}

#[test]
fn gc_keeps_payloads_of_a_fork_that_begins_within_a_batch_although_the_parent_goes() {
    for rerooted in [false, true] {
        let place = Place::new();
        let store = place.store();
        let a = store.create(NewSession::named(key("a"))).expect("created");
        append(&a, 0..1);
        let values_of = |range: std::ops::Range<u32>| range.map(|n| json!({ "n": n, "text": noise(5_000 + n) }));
        let batch: Vec<Value> = values_of(1..8).collect();
        let records: Vec<_> = batch.iter().map(|value| NewRecord::of(value).expect("JSON")).collect();
        a.append_batch(&records).expect("appended");
        let fork = store.fork(&key("a"), &At::Seq(Seq::new(3)), NewSession::named(key("b"))).expect("forked");
        drop((a, fork));
        if rerooted {
            store.reroot(&key("b")).expect("copied");
        }
        drop(store);
        let store = place.store();
        store.delete(&key("a")).expect("deleted");
        for _ in 0..2 {
            store.gc(false).expect("collected");
            let expected: Vec<Value> = [value(0)].into_iter().chain(values_of(1..4)).collect();
            assert_eq!(values(&store, "b"), expected, "{rerooted}");
        }
        assert!(store.verify(None, |_| {}).expect("verified").is_sound());
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> usize {
    bytes.windows(wanted.len()).position(|part| part == wanted).expect("it is there")
}

#[test]
fn a_payload_that_is_lost_is_reported_by_record_and_the_rest_goes_on() {
    for missing in [false, true] {
        let place = Place::new();
        let store = place.store();
        let session = store.create(NewSession::named(key("a"))).expect("created");
        append(&session, 0..6);
        session.close().expect("closed");
        drop(store);
        let pack = place.packs().pop().expect("one");
        if missing {
            std::fs::remove_file(&pack).expect("removed");
        } else {
            // The first payload is compressed: a bit of its frame's body.
            let mut bytes = std::fs::read(&pack).expect("read");
            let at = find(&bytes, b"FLob") + 72 + 20;
            bytes[at] ^= 1;
            std::fs::write(&pack, bytes).expect("written");
        }
        let lost: &[u64] = if missing { &[1, 3, 5] } else { &[1] };
        let store = place.store();
        let report = store.verify(None, |_| {}).expect("verified");
        let found = &report.findings[0];
        assert_eq!((found.damage.len(), found.readable_records), (lost.len(), 6 - lost.len() as u64), "{found:?}");
        assert!(found.damage.iter().all(|damage| !damage.repairable && damage.why.starts_with("its payload is ")));
        let text = place.transcript("a");
        let line = &text[usize::try_from(found.damage[0].from).expect("small")..];
        assert!(line.lines().next().expect("a line").contains("\"large\":"), "it says where the record starts");
        // Reading stops there with an error of that record, and goes on behind it.
        let reader = store.read(&key("a")).expect("opens");
        let mut records = reader.records();
        assert_eq!(records.next().expect("the first").expect("there").seq().get(), 0);
        let error = records.next().expect_err("the second is lost");
        assert!(matches!(error, Error::Corrupt { at, .. } if at.get() == found.damage[0].from), "{error}");
        assert!(records.next().expect("nothing more").is_none());
        let rest = reader.records_from(Seq::new(4)).expect("readable").next().expect("readable").map(|r| r.seq().get());
        assert_eq!(rest, Some(4));
        // Repair says that it cannot help. The session lives.
        let repaired = store.repair(&key("a")).expect("ran");
        assert!(repaired.gaps.is_empty() && repaired.hopeless.len() == lost.len(), "{repaired:?}");
        let session = store.session(&key("a")).expect("opens");
        append(&session, 6..8);
        session.close().expect("closed");
        assert_eq!(store.entry(&key("a")).expect("listed").records, 8);
        store.reindex().expect("built");
        assert_eq!(store.list(&Filter::default(), None, 9).expect("listed").entries.len(), 1);
        // Appending the same once more brings back what is missing.
        if missing {
            append(&session_of(&store), 1..6);
            let again = store.verify(None, |_| {}).expect("verified");
            assert!(again.is_sound(), "{again:?}");
        }
    }
}

fn session_of(store: &Store) -> Session {
    store.session(&key("a")).expect("opens")
}

/// The objects are on stable storage before the line is: one sync for all payloads of a call, none for short ones.
#[test]
fn an_append_syncs_its_objects_once_in_every_mode_and_a_power_cut_leaves_no_line_without_its_payload() {
    for durability in [Durability::Write, Durability::Sync] {
        let disk = SimDisk::new(3);
        let options = || StoreOptions::new().disk(Arc::new(disk.process())).spill_over(OVER).durability(durability);
        let store = options().open("/store").expect("a store");
        let session = store.create(NewSession::named(key("a"))).expect("created");
        append(&session, 0..2);
        session.sync().expect("synced");
        let texts: Vec<String> = [11, 13, 15, 16].into_iter().map(|n| value(n).to_string()).collect();
        let batch: Vec<_> = texts.iter().map(|text| NewRecord::json(text.as_bytes()).expect("JSON")).collect();
        let syncs = |run: &dyn Fn()| {
            let before = disk.counts();
            run();
            disk.counts().since(&before).of(Op::Sync)
        };
        let own = u64::from(durability == Durability::Sync);
        assert_eq!(syncs(&|| drop(session.append_batch(&batch).expect("appended"))), 1 + own);
        assert_eq!(syncs(&|| append(&session, 2..3)), own, "a short one");
        for (cut, image) in disk.snapshot().images(7, 60) {
            let store = StoreOptions::new().disk(Arc::new(image.process())).open("/store").expect("opens");
            assert!(store.verify(None, |_| {}).expect("verified").is_sound(), "{cut}");
            let found = values(&store, "a");
            let all: Vec<Value> = [0, 1, 11, 13, 15, 16, 2].map(value).into();
            assert_eq!(found, all[..found.len()], "{cut}");
            assert!(durability == Durability::Write || found.len() == all.len(), "{cut}: what was promised is there");
        }
        let killed = disk.process();
        let store = StoreOptions::new().disk(Arc::new(killed)).open("/store").expect("opens");
        assert_eq!(values(&store, "a").len(), 7, "a killed process loses nothing");
    }
}

#[test]
fn a_disk_that_is_full_keeps_what_was_there() {
    let disk = SimDisk::new(4);
    let store = StoreOptions::new().disk(Arc::new(disk.process())).spill_over(OVER).open("/store").expect("a store");
    let session = store.create(NewSession::named(key("a"))).expect("created");
    append(&session, 0..4);
    disk.set_capacity(Some(disk.used() + 500));
    let noise = noise(4000);
    let error = session.append(&noise).expect_err("no space for the object");
    assert!(matches!(error, Error::Full { .. }), "{error}");
    disk.set_capacity(None);
    append(&session, 4..6);
    session.close().expect("closed");
    assert_eq!(values(&store, "a"), (0..6).map(value).collect::<Vec<_>>());
    assert!(store.verify(None, |_| {}).expect("verified").is_sound());
}

/// The other reader says the same of a payload that is lost.
#[test]
fn a_flipped_bit_in_a_pack_is_never_read() {
    let disk = SimDisk::new(5);
    let store = StoreOptions::new().disk(Arc::new(disk.process())).spill_over(OVER).open("/store").expect("a store");
    let session = store.create(NewSession::named(key("a"))).expect("created");
    append(&session, 0..4);
    session.append(&noise(300)).expect("appended");
    session.close().expect("closed");
    let expected = values(&store, "a");
    drop(store);
    let name = reader::Name { project: "p".into(), session: "a".into(), side: None };
    let other = |disk: &SimDisk| {
        let read = reader::read_map(&files(disk), &name)?;
        let parsed = |record: &reader::Record| serde_json::from_slice(&record.payload).expect("JSON");
        Ok::<Vec<Value>, reader::Verdict>(read.records.iter().map(parsed).collect())
    };
    assert_eq!(other(&disk).expect("readable"), expected);
    let (pack, bytes) =
        files(&disk).into_iter().find(|(path, _)| path.extension().is_some_and(|end| end == "pack")).expect("one");
    let mut lost = 0;
    for at in (0..bytes.len()).step_by(3) {
        let image = disk.after(Cut::Everything);
        image.damage(&path("").join(&pack), |bytes| bytes[at] ^= 1 << (at % 8)).expect("there");
        let store = StoreOptions::new().disk(Arc::new(image.process())).open("/store").expect("opens");
        let records = store.read(&key("a")).expect("there").records();
        let found: Result<Vec<Value>, Error> =
            records.map(|record| record.map(|found| serde_json::from_slice(&found.payload).expect("JSON"))).collect();
        match (found, other(&image)) {
            (Ok(found), Ok(read)) => assert_eq!((&found, &read), (&expected, &expected), "byte {at}"),
            (Err(Error::Corrupt { at: start, .. }), Err(reader::Verdict::Damage { at: place, reason, .. })) => {
                assert_eq!((start.get(), reason), (place, reader::Reason::Payload), "byte {at}");
                lost += 1;
            }
            (found, read) => panic!("byte {at}: the engine says {found:?}, the other reader {read:?}"),
        }
    }
    assert!(lost > bytes.len() / 6, "most bytes of a pack matter: {lost}");
}
