//! What a caller does first: create, append, read, fork, rewind, list.

use std::sync::Mutex;
use std::time::Duration;

use forklog::{
    Appended, At, Entry, Filter, Followed, NewRecord, NewSession, OpenOptions, OwnedRecord, Reader, RecordId, Seq,
    SessionKey, Sharing, Store,
};
use serde_json::json;

fn key(id: &str) -> SessionKey {
    SessionKey::new("p", id).expect("legal")
}

fn texts(reader: &Reader) -> Vec<String> {
    reader.records().map(|record| String::from_utf8(record.expect("readable").payload).expect("text")).collect()
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path().join("store")).expect("a store");
    (dir, store)
}

#[test]
fn what_was_appended_is_read() {
    let (dir, store) = store();
    let session = store.create(NewSession::named(key("a")).title("first")).expect("created");
    for n in 0..10 {
        session.append(&json!({ "n": n })).expect("appended");
    }
    assert_eq!(texts(&store.read(&key("a")).expect("live")).len(), 10);
    session.close().expect("closed");
    let store = Store::open(dir.path().join("store")).expect("a store");
    let reader = store.read(&key("a")).expect("there");
    assert_eq!(texts(&reader), (0..10).map(|n| format!("{{\"n\":{n}}}")).collect::<Vec<_>>());
    let last: Vec<_> = reader.last(3).expect("readable").map(|r| r.expect("readable").seq.get()).collect();
    assert_eq!(last, [7, 8, 9]);
    let from: Vec<_> = reader.records_from(Seq::new(8)).expect("ok").map(|r| r.expect("ok").seq.get()).collect();
    assert_eq!(from, [8, 9]);
    let mut back = reader.records_back();
    let mut seqs = Vec::new();
    while let Some(record) = back.next().expect("readable") {
        seqs.push(record.seq().get());
    }
    assert_eq!(seqs, (0..10).rev().collect::<Vec<_>>());
    let page = store.list(&Filter::default(), None, 10).expect("listed");
    assert_eq!(page.entries.len(), 1);
    assert_eq!(page.entries[0].title.as_deref(), Some("first"));
    assert_eq!(page.entries[0].records, 10);
    assert!(!page.entries[0].live);
    assert!(store.verify(None, |_| {}).expect("verified").is_sound());
}

#[test]
fn a_fork_shares_its_parents_records_and_goes_its_own_way() {
    let (_dir, store) = store();
    let session = store.create(NewSession::named(key("a")).tag("t").title("x")).expect("created");
    for n in 0..5 {
        session
            .append_record(&NewRecord::of(&json!(n)).expect("JSON").id(RecordId::new(format!("r{n}")).expect("id")))
            .expect("ok");
    }
    let fork = store.fork(&key("a"), &At::Seq(Seq::new(2)), NewSession::named(key("b"))).expect("forked");
    fork.append(&json!("b")).expect("appended");
    assert_eq!(texts(&store.read(&key("b")).expect("there")), ["0", "1", "2", "\"b\""]);
    let meta = fork.meta().expect("meta");
    assert_eq!((meta.get("tags"), meta.get("title")), (Some(&json!(["t"])), None));
    let again = NewRecord::of(&json!(1)).expect("JSON").id(RecordId::new("r1").expect("id"));
    assert_eq!(fork.append_record(&again).expect("ok"), Appended::Duplicate);
    let beyond = NewRecord::of(&json!(4)).expect("JSON").id(RecordId::new("r4").expect("id"));
    assert!(matches!(fork.append_record(&beyond).expect("ok"), Appended::New(_)));
    let deep =
        store.fork(&key("b"), &At::Id(RecordId::new("r1").expect("id")), NewSession::named(key("c"))).expect("forked");
    assert_eq!(texts(&store.read(&key("c")).expect("there")), ["0", "1"]);
    drop((session, fork, deep));
    store.delete(&key("a")).expect("deleted");
    assert_eq!(texts(&store.read(&key("b")).expect("there")), ["0", "1", "2", "\"b\"", "4"]);
    assert_eq!(texts(&store.read(&key("c")).expect("there")), ["0", "1"]);
    store.gc(false).expect("collected");
    assert_eq!(texts(&store.read(&key("b")).expect("there")), ["0", "1", "2", "\"b\"", "4"]);
    store.reroot(&key("b")).expect("rerooted");
    store.delete(&key("c")).expect("deleted");
    let freed = store.gc(false).expect("collected");
    assert_eq!(freed.graves, 2, "{freed:?}");
    assert_eq!(texts(&store.read(&key("b")).expect("there")), ["0", "1", "2", "\"b\"", "4"]);
}

#[test]
fn rewinds_are_undone_and_redone() {
    let (_dir, store) = store();
    let session = store.create(NewSession::named(key("a"))).expect("created");
    let now = || texts(&store.read(&key("a")).expect("there")).join(" ");
    for n in 0..4 {
        session.append(&json!(n)).expect("appended");
    }
    let left = session.rewind(&At::Seq(Seq::new(1))).expect("rewound");
    assert_eq!(now(), "0 1");
    session.append(&json!("x")).expect("appended");
    assert_eq!(now(), "0 1 \"x\"");
    let fork = store.fork(&key("a"), &At::Position(left), NewSession::named(key("b"))).expect("an abandoned tail");
    assert_eq!(texts(&store.read(&key("b")).expect("there")).join(" "), "0 1 2 3");
    session.undo().expect("undone");
    assert_eq!(now(), "0 1 2 3");
    session.append(&json!("y")).expect("appended");
    session.redo().expect("redone");
    assert_eq!(now(), "0 1 \"x\"");
    session.undo().expect("undone");
    assert_eq!(now(), "0 1 2 3 \"y\"");
    assert!(session.undo().is_err());
    session.close().expect("closed");
    drop(fork);
    let session = store.session(&key("a")).expect("open");
    session.redo().expect("redone");
    assert_eq!(now(), "0 1 \"x\"");
    assert!(session.redo().is_err());
}

#[test]
fn a_follower_sees_what_another_handle_appends_and_moves() {
    let (_dir, store) = store();
    let session = store.create(NewSession::named(key("a"))).expect("created");
    session.append(&json!(0)).expect("appended");
    let mut follower = store.read(&key("a")).expect("there").follow().expect("followed");
    let wait = Duration::from_secs(20);
    assert_eq!(follower.next(Duration::ZERO).expect("nothing yet"), Followed::Nothing);
    let writer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        session.append(&json!(1)).expect("appended");
        session
    });
    let Followed::Record(record) = follower.next(wait).expect("woken") else { panic!("no record") };
    assert_eq!((record.seq.get(), record.payload), (1, b"1".to_vec()));
    let session = writer.join().expect("ended");
    session.rewind(&At::Seq(Seq::new(0))).expect("rewound");
    assert_eq!(follower.next(wait).expect("woken"), Followed::Moved(Seq::new(1)));
    session.append(&json!("other")).expect("appended");
    let Followed::Record(record) = follower.next(wait).expect("woken") else { panic!("no record") };
    assert_eq!((record.seq.get(), record.payload), (1, b"\"other\"".to_vec()));
}

#[test]
fn writers_that_share_a_session_lose_nothing_and_keep_their_order() {
    let (dir, store) = store();
    let options = OpenOptions { sharing: Sharing::PerCall, ..OpenOptions::default() };
    store.create(NewSession::named(key("a")).options(options)).expect("created").close().expect("closed");
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let root = dir.path().join("store");
            scope.spawn(move || {
                // A store of its own, so that nothing but the files is shared.
                let store = Store::open(root).expect("a store");
                let session = store.session_with(&key("a"), options).expect("opened");
                for n in 0..100 {
                    let record = NewRecord::of(&json!([writer, n])).expect("JSON");
                    let id = RecordId::new(format!("{writer}-{n}")).expect("legal");
                    let batch = [record.clone().id(id), record];
                    session.append_batch(&batch).expect("appended");
                }
                session.close().expect("closed");
            });
        }
    });
    let reader = store.read(&key("a")).expect("there");
    assert_eq!(reader.len(), 600);
    let mut seen = [0; 3];
    for pair in texts(&reader).chunks(2) {
        assert_eq!(pair[0], pair[1], "a batch stays together");
        let [writer, n]: [usize; 2] = serde_json::from_str(&pair[0]).expect("a pair");
        assert_eq!(n, seen[writer], "the order of calls of one writer");
        seen[writer] += 1;
    }
    assert!(store.verify(None, |_| {}).expect("verified").is_sound());
    let listed = store.list(&Filter::default(), None, 1).expect("listed").entries;
    assert_eq!((listed[0].records, listed[0].live), (600, false));
}

#[test]
fn a_search_finds_in_each_view_what_it_holds_after_lines_of_any_length() {
    let (_dir, store) = store();
    let mut wanted = Vec::new();
    // Longer than any buffer begins, and then shorter again, so that what a buffer still holds must not be found twice.
    for (n, len) in [3_000_000, 10, 70_000, 1, 600_000, 0].into_iter().enumerate() {
        let (parent, fork) = (key(&format!("s{n}")), key(&format!("f{n}")));
        let session = store.create(NewSession::named(parent.clone())).expect("created");
        session.append(&json!({ "needle": n, "text": "x".repeat(len) })).expect("appended");
        session.append(&"nothing").expect("appended");
        session.append(&json!({ "needle": "of the parent alone" })).expect("appended");
        session.close().expect("closed");
        let at = At::Seq(Seq::new(1));
        let session = store.fork(&parent, &at, NewSession::named(fork.clone())).expect("forked");
        session.append(&json!({ "needle": "of the fork alone" })).expect("appended");
        session.close().expect("closed");
        wanted.extend([(parent.clone(), 0), (parent, 2), (fork.clone(), 0), (fork, 2)]);
    }
    let found = Mutex::new(Vec::new());
    let note = |entry: &Entry, record: &OwnedRecord| {
        found.lock().expect("no thread panics").push((entry.key.clone(), record.seq.get()));
    };
    let searched = store.grep(&Filter::default(), b"needle", note).expect("searched");
    assert_eq!((searched.sessions, searched.records, searched.damaged.len()), (12, 24, 0));
    let mut found = found.into_inner().expect("no thread panics");
    found.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(found, wanted);
}
