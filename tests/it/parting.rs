//! Where two conversations part, and what each added.

use std::sync::Arc;

use forklog::{At, NewRecord, NewSession, Reader, RecordId, Seq, Session, SessionKey, Store, StoreOptions};
use forklog_sim::SimDisk;
use serde_json::json;

fn key(id: &str) -> SessionKey {
    SessionKey::new("p", id).expect("legal")
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path().join("store")).expect("a store");
    (dir, store)
}

fn append(session: &Session, texts: &[&str]) {
    for text in texts {
        session.append(&json!(text)).expect("appended");
    }
}

fn fork(store: &Store, of: &str, at: u64, id: &str) -> Session {
    store.fork(&key(of), &At::Seq(Seq::new(at)), NewSession::named(key(id))).expect("forked")
}

/// How many records both have, and what only the first and only the second has.
fn parting(one: &Reader, other: &Reader) -> (u64, Vec<String>, Vec<String>) {
    let found = one.diff(other).expect("readable");
    assert_eq!(found.at.map_or(0, |at| at.records), found.shared);
    let texts = |records: forklog::Records| {
        records.map(|record| record.expect("readable")).map(|r| (r.seq.get(), r.payload)).collect::<Vec<_>>()
    };
    let mut sides = [texts(found.ours), texts(found.theirs)].into_iter().map(|side| {
        let seqs: Vec<u64> = side.iter().map(|(seq, _)| *seq).collect();
        let expected: Vec<u64> = (found.shared..).take(side.len()).collect();
        assert_eq!(seqs, expected, "numbered from where they part");
        side.into_iter().map(|(_, payload)| serde_json::from_slice(&payload).expect("text")).collect()
    });
    (found.shared, sides.next().expect("two"), sides.next().expect("two"))
}

fn of(store: &Store, one: &str, other: &str) -> (u64, Vec<String>, Vec<String>) {
    let (one, other) = (store.read(&key(one)).expect("there"), store.read(&key(other)).expect("there"));
    let found = parting(&one, &other);
    let back = parting(&other, &one);
    assert_eq!((found.0, &found.1, &found.2), (back.0, &back.2, &back.1), "the same from the other side");
    found
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn forks_part_where_they_were_made() {
    let (_dir, store) = store();
    let a = store.create(NewSession::named(key("a"))).expect("created");
    append(&a, &["0", "1", "2", "3"]);
    let b = fork(&store, "a", 1, "b");
    append(&b, &["b2"]);
    assert_eq!(of(&store, "a", "b"), (2, owned(&["2", "3"]), owned(&["b2"])));
    assert_eq!(of(&store, "a", "a"), (4, Vec::new(), Vec::new()));
    // Siblings, one of them a fork of the other.
    let c = fork(&store, "a", 2, "c");
    append(&c, &["c3"]);
    assert_eq!(of(&store, "b", "c"), (2, owned(&["b2"]), owned(&["2", "c3"])));
    let d = fork(&store, "c", 3, "d");
    append(&d, &["d4", "d5"]);
    assert_eq!(of(&store, "c", "d"), (4, Vec::new(), owned(&["d4", "d5"])));
    assert_eq!(of(&store, "a", "d"), (3, owned(&["3"]), owned(&["c3", "d4", "d5"])));
    // A fork made at an inherited record begins in the file that owns it.
    let e = fork(&store, "d", 0, "e");
    append(&e, &["1"]);
    assert_eq!(
        of(&store, "a", "e"),
        (1, owned(&["1", "2", "3"]), owned(&["1"])),
        "the same text is not the same record"
    );
    let f = store.create(NewSession::named(key("f"))).expect("created");
    append(&f, &["0"]);
    assert_eq!(of(&store, "a", "f"), (0, owned(&["0", "1", "2", "3"]), owned(&["0"])));
}

#[test]
fn rewinds_and_undos_move_the_place_where_two_part() {
    let (_dir, store) = store();
    let a = store.create(NewSession::named(key("a"))).expect("created");
    append(&a, &["0", "1", "2", "3"]);
    let before = a.head().expect("a head");
    let b = fork(&store, "a", 2, "b");
    append(&b, &["b3"]);
    a.rewind(&At::Seq(Seq::new(0))).expect("rewound");
    append(&a, &["x"]);
    assert_eq!(of(&store, "a", "b"), (1, owned(&["x"]), owned(&["1", "2", "b3"])));
    a.undo().expect("undone");
    append(&a, &["4"]);
    assert_eq!(of(&store, "a", "b"), (3, owned(&["3", "4"]), owned(&["b3"])));
    b.rewind(&At::Seq(Seq::new(1))).expect("rewound");
    assert_eq!(of(&store, "a", "b"), (2, owned(&["2", "3", "4"]), Vec::new()));
    // One transcript at two times.
    let now = store.read(&key("a")).expect("there");
    let then = now.at(before).expect("a place of its history");
    assert_eq!(parting(&then, &now), (4, Vec::new(), owned(&["4"])));
    // The parent is gone, and freed but for what is shared.
    drop((a, b));
    store.fork(&key("b"), &At::Head, NewSession::named(key("c"))).expect("forked");
    store.delete(&key("a")).expect("deleted");
    store.gc(false).expect("collected");
    store.reroot(&key("c")).expect("copied");
    assert_eq!(of(&store, "b", "c"), (2, Vec::new(), Vec::new()), "a copy of an ancestor is the ancestor");
}

#[test]
fn it_reads_what_differs_and_not_what_both_have() {
    let disk = SimDisk::new(7);
    let store = StoreOptions::new().disk(Arc::new(disk.process())).open("/store").expect("a store");
    let a = store.create(NewSession::named(key("a"))).expect("created");
    let filler = "f".repeat(1000);
    for _ in 0..24_000 {
        a.append(&json!(filler)).expect("appended");
    }
    a.close().expect("closed");
    for id in ["b", "c"] {
        let session = store.fork(&key("a"), &At::Head, NewSession::named(key(id))).expect("forked");
        append(&session, &[id]);
        session.close().expect("closed");
    }
    let (b, c) = (store.read(&key("b")).expect("there"), store.read(&key("c")).expect("there"));
    let before = disk.counts();
    assert_eq!(parting(&b, &c), (24_000, owned(&["b"]), owned(&["c"])));
    let read = disk.counts().since(&before).bytes_read;
    assert!(read < 6 << 20, "{read} bytes were read of two conversations that share 25 MB");
}

/// A fork `c` of a fork `b` of `a`, with one record of `b`'s own and two of `a`'s.
fn third_generation(store: &Store) -> Session {
    let a = store.create(NewSession::named(key("a"))).expect("created");
    append(&a, &["0", "1"]);
    let b = fork(store, "a", 1, "b");
    append(&b, &["2", "3"]);
    fork(store, "b", 2, "c")
}

/// A grave's copies of its ancestors may be the only ones.
#[test]
fn a_fork_within_what_a_rerooted_session_inherited_is_readable_although_the_ancestors_are_gone() {
    let (_dir, store) = store();
    append(&third_generation(&store), &["4"]);
    store.reroot(&key("c")).expect("copied");
    for id in ["a", "b"] {
        store.delete(&key(id)).expect("deleted");
    }
    assert_eq!(store.gc(false).expect("collected").kept, 0);
    drop((fork(&store, "c", 0, "d"), fork(&store, "c", 2, "e")));
    store.delete(&key("c")).expect("deleted");
    assert_eq!(store.gc(false).expect("collected").kept, 0);
    for (id, len) in [("d", 1), ("e", 3)] {
        let texts = store.read(&key(id)).and_then(|reader| reader.records().collect::<Result<Vec<_>, _>>());
        assert_eq!(texts.expect("readable").len(), len);
    }
    assert!(store.verify(None, |_| {}).expect("verified").is_sound());
}

#[test]
fn an_open_fork_goes_on_while_its_rerooted_parent_is_deleted() {
    let (_dir, store) = store();
    let c = third_generation(&store);
    store.reroot(&key("b")).expect("copied");
    store.delete(&key("a")).expect("deleted");
    store.gc(false).expect("collected");
    let with_id = |id: &str| NewRecord::json(b"1").expect("JSON").id(RecordId::new(id).expect("legal"));
    let reader = store.read(&key("c")).expect("readable");
    c.append_record(&with_id("x")).expect("its view can be read");
    store.delete(&key("b")).expect("deleted");
    c.append_record(&with_id("y")).expect("its view can still be read");
    assert_eq!(reader.records().collect::<Result<Vec<_>, _>>().expect("readable").len(), 3);
}

#[test]
fn a_reader_finds_copies_that_its_session_was_given_after_it_had_looked() {
    let (_dir, store) = store();
    drop(third_generation(&store));
    let texts = |reader: &Reader| reader.records().collect::<Result<Vec<_>, _>>();
    let reader = store.read(&key("c")).expect("readable");
    let before = texts(&reader).expect("readable");
    store.reroot(&key("c")).expect("copied");
    for id in ["a", "b"] {
        store.delete(&key(id)).expect("deleted");
    }
    assert_eq!(store.gc(false).expect("collected").kept, 0, "nothing is left but the copies");
    assert_eq!(texts(&reader).expect("still readable"), before);
}

#[test]
fn a_reader_that_was_there_before_the_copies_reads_on_while_gc_cuts_what_they_were_made_of() {
    let (_dir, store) = store();
    let (many, text) = (400, "x".repeat(4096));
    let a = store.create(NewSession::named(key("a"))).expect("created");
    append(&a, &vec![&*text; many]);
    drop(a);
    // Needs a part of `a`, so that its grave is cut and not removed.
    drop(fork(&store, "a", 0, "b"));
    append(&fork(&store, "a", many as u64 - 1, "m"), &["own"]);
    drop(fork(&store, "m", many as u64, "c"));
    let reader = store.read(&key("c")).expect("readable");
    store.reroot(&key("c")).expect("copied");
    for id in ["a", "m"] {
        store.delete(&key(id)).expect("deleted");
    }
    let mut records = reader.records();
    records.next().expect("readable").expect("a record");
    assert!(store.gc(false).expect("collected").bytes > 0, "the grave was cut");
    assert_eq!(records.collect::<Result<Vec<_>, _>>().expect("still readable").len(), many);
}

#[test]
fn a_deleted_sessions_copies_of_its_ancestors_stay_while_a_fork_needs_them() {
    let (_dir, store) = store();
    append(&third_generation(&store), &["4"]);
    let texts = |id: &str| store.read(&key(id)).and_then(|reader| reader.records().collect::<Result<Vec<_>, _>>());
    let before = texts("c").expect("readable");
    store.reroot(&key("b")).expect("copied");
    for id in ["a", "b"] {
        store.delete(&key(id)).expect("deleted");
        store.gc(false).expect("collected");
        assert_eq!(texts("c").expect("still readable"), before, "{id} is gone");
        assert!(store.verify(None, |_| {}).expect("verified").is_sound());
    }
    store.delete(&key("c")).expect("deleted");
    assert_eq!(store.gc(false).expect("collected").kept, 0);
}
