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
