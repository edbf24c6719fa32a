//! Real processes on a real disk: killed while they append.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use forklog::{Error, NewSession, Store};
use forklog_soak::key;
use serde_json::json;

/// Names the directory for the process that appends; it is this test again.
const DIR: &str = "FORKLOG_TEST_APPEND_IN";

/// Appends numbers until it is killed, and prints each when it is acknowledged.
fn append_for_ever(dir: &str) -> Result<(), Error> {
    let store = Store::open(dir)?;
    let session = store.session(&key("a"))?;
    let from = session.head()?.records;
    for n in from.. {
        session.append(&json!({ "n": n }))?;
        println!("acknowledged {n} ");
    }
    Ok(())
}

#[test]
fn a_killed_process_loses_nothing_and_leaves_no_lock() {
    if let Ok(dir) = std::env::var(DIR) {
        append_for_ever(&dir).expect("appended");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path()).expect("a store");
    store.create(NewSession::named(key("a"))).expect("created").close().expect("closed");
    for round in 0..10 {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "process::a_killed_process_loses_nothing_and_leaves_no_lock", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let number = |line: String| line.split("acknowledged ").nth(1)?.trim().parse::<u64>().ok();
        let seen = lines.by_ref().filter_map(number).nth(20 + round * 7).expect("it appends");
        match store.session(&key("a")) {
            Err(Error::Locked { holder, .. }) => assert_eq!(holder, Some(child.id())),
            other => panic!("it is locked, not {other:?}"),
        }
        assert!(store.entry(&key("a")).expect("readable").live, "somebody appends");
        child.kill().expect("killed");
        child.wait().expect("gone");
        let last = lines.filter_map(number).last().unwrap_or(seen);
        let reader = store.read(&key("a")).expect("readable");
        assert!(reader.len() > last, "{} records, {last} was acknowledged", reader.len());
        for (n, record) in reader.records().enumerate() {
            assert_eq!(record.expect("sound").payload, format!("{{\"n\":{n}}}").into_bytes());
        }
        let entries = store.entries().expect("listed");
        assert_eq!(entries.iter().map(|entry| entry.records).collect::<Vec<_>>(), [reader.len()]);
        assert!(!entries[0].live, "whoever was killed has it open no more");
    }
    assert!(store.verify(None, |_| {}).expect("read").is_sound());
}

/// Room behind the end of a session's transcript, in bytes.
#[cfg(target_os = "linux")]
fn room(store: &Store) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let found = std::fs::metadata(store.path().join("projects/p/a/transcript.jsonl")).expect("a transcript");
    assert_eq!(found.len(), store.read(&key("a")).expect("readable").size(), "it shows in no length");
    (found.blocks() * 512).saturating_sub(found.len())
}

#[cfg(target_os = "linux")]
#[test]
fn room_that_is_set_aside_is_given_back_by_a_close_and_after_a_kill() {
    use forklog::disk::{Disk as _, How, OsDisk};

    /// More than blocks that are not full take.
    const MUCH: u64 = 100_000;
    let append = |store: &Store| {
        let session = store.session(&key("a")).expect("open");
        let value = json!({ "text": "x".repeat(10_000) });
        for _ in 0..400 {
            session.append(&value).expect("appended");
        }
        session
    };
    if let Ok(dir) = std::env::var(DIR) {
        std::mem::forget(append(&Store::open(dir).expect("a store")));
        std::process::exit(0);
    }
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path()).expect("a store");
    store.create(NewSession::named(key("a"))).expect("created").close().expect("closed");
    let probe = OsDisk.open(&dir.path().join("probe"), How::Create).expect("a file");
    let possible = probe.reserve(0, 4096).is_ok();

    let session = append(&store);
    assert_eq!(room(&store) > MUCH, possible);
    session.close().expect("closed");
    assert!(room(&store) < MUCH, "{}", room(&store));

    let child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "process::room_that_is_set_aside_is_given_back_by_a_close_and_after_a_kill"])
        .env(DIR, dir.path())
        .status()
        .expect("started");
    assert!(child.success());
    assert_eq!(room(&store) > MUCH, possible);
    drop(store.session(&key("a")).expect("open"));
    assert!(room(&store) < MUCH, "{}", room(&store));
    assert_eq!(store.read(&key("a")).expect("readable").len(), 800);
}
