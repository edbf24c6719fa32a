//! Files that another program cuts while a process reads them.
#![cfg(target_os = "linux")]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::Duration;

use forklog::{Filter, NewSession, Store};
use forklog_soak::key;
use serde_json::json;

/// Names the store for the process that reads; it is this test again.
const STORE: &str = "FORKLOG_TEST_READ_WHILE_CUT";

/// What a read from a page of a map ends with that the file does not have any more.
const SIGBUS: i32 = 7;

fn store_to_read() -> Option<Store> {
    std::env::var_os(STORE).map(|dir| Store::open(dir).expect("a store"))
}

fn start(test: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", &format!("cut_files::{test}"), "--nocapture", "--test-threads=1"])
        .env(STORE, dir)
        .stdout(Stdio::null())
        .spawn()
        .expect("started")
}

/// Does `step` until the store's directory has a file `stop`.
fn until_told(mut step: impl FnMut()) {
    let stop = PathBuf::from(std::env::var_os(STORE).expect("set")).join("stop");
    while !stop.exists() {
        step();
    }
}

/// Cuts `path` to one length after the other and writes it again each time, while `reader` reads; then lets that end.
fn cut_and_mend(dir: &Path, path: &Path, mut reader: Child) -> ExitStatus {
    let whole = fs::read(path).expect("read");
    let file = OpenOptions::new().write(true).open(path).expect("opened");
    sleep(Duration::from_millis(200));
    for nth in 0..200 {
        let keep = whole.len() * (nth * 37 % 100) / 100;
        file.set_len(keep as u64).expect("cut");
        sleep(Duration::from_millis(2));
        file.write_all_at(&whole[keep..], keep as u64).expect("mended");
        sleep(Duration::from_millis(5));
    }
    fs::write(dir.join("stop"), "").expect("told");
    reader.wait().expect("it ends")
}

#[test]
fn a_transcript_that_is_cut_while_it_is_read_is_an_error_or_shorter() {
    const RECORDS: u64 = 3000;
    let text = |n: u64| format!("{n} ").repeat(200);
    if let Some(store) = store_to_read() {
        let (mut whole, mut shorter, mut failed) = (0, 0, 0);
        until_told(|| {
            let Ok(reader) = store.read(&key("a")) else { return failed += 1 };
            let mut seen = 0;
            let mut records = reader.records();
            loop {
                match records.next() {
                    Ok(Some(record)) => assert_eq!(record.payload(), json!(text(seen)).to_string().as_bytes()),
                    Ok(None) if seen == RECORDS => break whole += 1,
                    Ok(None) => break shorter += 1,
                    Err(_) => break failed += 1,
                }
                seen += 1;
            }
        });
        eprintln!("{whole} reads of all, {shorter} of less, {failed} errors");
        assert!(whole > 0 && shorter + failed > 0);
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path()).expect("a store");
    let session = store.create(NewSession::named(key("a"))).expect("created");
    for n in 0..RECORDS {
        session.append(&json!(text(n))).expect("appended");
    }
    session.close().expect("closed");
    let reader = start("a_transcript_that_is_cut_while_it_is_read_is_an_error_or_shorter", dir.path());
    let transcript = largest(dir.path());
    assert!(transcript.ends_with("transcript.jsonl"), "{}", transcript.display());
    let ended = cut_and_mend(dir.path(), &transcript, reader);
    assert!(ended.success(), "{ended}");
    assert!(store.verify(None, |_| {}).expect("read").is_sound());
}

/// The index is mapped. Whoever cuts it ends readers with SIGBUS, as the front page of the library says, and nothing worse: what
/// they answer before is right, and whoever comes next builds it again.
#[test]
fn an_index_that_is_cut_while_it_is_read_ends_the_reader_at_worst() {
    const SESSIONS: usize = 300;
    if let Some(store) = store_to_read() {
        until_told(|| {
            if let Ok(page) = store.list(&Filter::default(), None, 2 * SESSIONS) {
                assert_eq!(page.entries.len(), SESSIONS);
            }
        });
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path()).expect("a store");
    for n in 0..SESSIONS {
        let session = store.create(NewSession::named(key(&format!("s{n}"))).title("t".repeat(300))).expect("created");
        session.close().expect("closed");
    }
    store.reindex().expect("built");
    let entries = store.entries().expect("listed");
    let reader = start("an_index_that_is_cut_while_it_is_read_ends_the_reader_at_worst", dir.path());
    let run = largest(&dir.path().join("index"));
    let ended = cut_and_mend(dir.path(), &run, reader);
    eprintln!("the reader's end: {ended}");
    assert!(ended.success() || ended.signal() == Some(SIGBUS), "{ended}");
    // A reader that saw the cut has built the index again, under another name.
    let run = largest(&dir.path().join("index"));
    OpenOptions::new().write(true).open(&run).and_then(|file| file.set_len(5000)).expect("cut for good");
    drop(store);
    let store = Store::open(dir.path()).expect("a store");
    assert_eq!(store.entries().expect("built again"), entries);
    assert!(store.verify(None, |_| {}).expect("read").is_sound());
}

/// The largest file below `dir`.
fn largest(dir: &Path) -> PathBuf {
    let (mut dirs, mut found) = (vec![dir.to_owned()], (0, PathBuf::new()));
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("listed") {
            let path = entry.expect("read").path();
            let meta = fs::metadata(&path).expect("there");
            if meta.is_dir() {
                dirs.push(path);
            } else {
                found = found.max((meta.len(), path));
            }
        }
    }
    found.1
}
