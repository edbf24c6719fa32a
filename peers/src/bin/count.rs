//! Counts the instructions of single operations, which do not depend on how busy the machine is.
//!
//! `cargo run --release -p forklog-peers --bin count` runs itself under callgrind, twice for each operation, so that what comes before
//! and after falls out, and fails where an operation takes 5 % more than `counts.txt` allows. `-- --record` writes that file anew.
#![expect(clippy::expect_used, reason = "a bench that cannot do its work has nothing to say")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;

use forklog::{At, Filter, NewRecord, NewSession, NoDigest, Seq, Store};
use serde_json::value::RawValue;

/// An operation: its name, how often it is done in the shorter run, and what does it so often.
type Work = (&'static str, u64, fn(&Store, u64));

const WORKS: [Work; 9] = [
    ("append 1 KiB, RawValue", 1000, append_raw),
    ("append 1 KiB, bytes validated", 1000, append_json),
    ("append in batches of 100, a record", 2000, append_batch),
    ("read a record of 1 KiB", 2000, read),
    ("the last 100 records", 20, last),
    ("list 50 of 200 sessions", 20, list),
    ("fork", 20, fork),
    ("open a fork 40 deep", 10, deep),
    ("grep a record of 1 KiB", 2000, grep),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.as_slice() {
        [flag, name, times] if flag == "--child" => {
            let (_, _, work) = WORKS.iter().find(|(known, _, _)| known == name).expect("a known operation");
            let dir = tempfile::tempdir_in("target").or_else(|_| tempfile::tempdir()).expect("a directory");
            let store = Store::options().digest(Arc::new(NoDigest)).open(dir.path()).expect("a store");
            work(&store, times.parse().expect("a number"));
            ExitCode::SUCCESS
        }
        [] => compare(false),
        [flag] if flag == "--record" => compare(true),
        _ => {
            eprintln!("only --record is known");
            ExitCode::from(2)
        }
    }
}

/// Measures all, and writes the ceilings or compares with them.
fn compare(record: bool) -> ExitCode {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("valgrind not installed: no instructions were counted");
        return ExitCode::SUCCESS;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("counts.txt");
    let ceilings = std::fs::read_to_string(&path).unwrap_or_default();
    let mut lines = String::new();
    let mut good = true;
    for (name, times, _) in WORKS {
        let (short, long) = (instructions(name, times), instructions(name, times * 2));
        let each = long.saturating_sub(short) / times;
        let ceiling =
            ceilings.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")?.parse::<u64>().ok());
        let verdict = match ceiling {
            None => "nothing recorded".to_owned(),
            Some(ceiling) => {
                good &= each <= ceiling + ceiling / 20;
                let percent = (each as f64 / ceiling as f64 - 1.0) * 100.0;
                format!("{percent:+.1} % of {ceiling}{}", if each > ceiling + ceiling / 20 { ": TOO MANY" } else { "" })
            }
        };
        println!("{name:<40} {each:>9} instructions, {verdict}");
        let _ = writeln!(lines, "{name}: {each}");
    }
    if record {
        std::fs::write(&path, lines).expect("the file can be written");
        return ExitCode::SUCCESS;
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Instructions of a whole run that does `name` so often.
fn instructions(name: &str, times: u64) -> u64 {
    let program = std::env::current_exe().expect("this program");
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    let out = valgrind.args(["--child", name, &times.to_string()]).output().expect("it runs");
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{text}");
    let collected = text.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    collected.expect("callgrind says what it collected")
}

fn raw() -> Box<RawValue> {
    let text = "All work and no play makes a dull log. ".repeat(30)[..1024 - 25].to_owned();
    RawValue::from_string(format!(r#"{{"type":"note","text":"{text}"}}"#)).expect("JSON")
}

fn append_raw(store: &Store, times: u64) {
    let (session, raw) = (store.create(NewSession::default()).expect("created"), raw());
    for _ in 0..times {
        session.append_raw(black_box(&raw)).expect("appended");
    }
    std::mem::forget(session);
}

fn append_json(store: &Store, times: u64) {
    let (session, raw) = (store.create(NewSession::default()).expect("created"), raw());
    for _ in 0..times {
        session.append_json(black_box(raw.get().as_bytes())).expect("appended");
    }
    std::mem::forget(session);
}

fn append_batch(store: &Store, times: u64) {
    let (session, raw) = (store.create(NewSession::default()).expect("created"), raw());
    let batch: Vec<_> = (0..100).map(|_| NewRecord::raw(&raw).expect("a record")).collect();
    for _ in 0..times / 100 {
        session.append_batch(black_box(&batch)).expect("appended");
    }
    std::mem::forget(session);
}

/// A transcript of `records` records; of so many, so that the longer run of reading does no more of this.
fn filled(store: &Store, records: u64) -> forklog::SessionKey {
    let session = store.create(NewSession::default()).expect("created");
    append_to(&session, records);
    let key = session.key().clone();
    session.close().expect("closed");
    key
}

fn append_to(session: &forklog::Session, records: u64) {
    let raw = raw();
    let batch: Vec<_> = (0..records).map(|_| NewRecord::raw(&raw).expect("a record")).collect();
    session.append_batch(&batch).expect("appended");
}

fn read(store: &Store, times: u64) {
    let key = filled(store, 1000);
    for _ in 0..times / 1000 {
        let mut records = store.read(&key).expect("a session").records();
        while let Some(record) = records.next().expect("sound") {
            black_box(record.payload());
        }
    }
}

fn last(store: &Store, times: u64) {
    let key = filled(store, 1000);
    for _ in 0..times {
        let mut records = store.read(&key).expect("a session").last(100).expect("sound");
        while let Some(record) = records.next().expect("sound") {
            black_box(record.payload());
        }
    }
}

fn list(store: &Store, times: u64) {
    (0..200).for_each(|_| drop(filled(store, 1)));
    for _ in 0..times {
        assert_eq!(store.list(&Filter::default(), None, 50).expect("listed").entries.len(), 50);
    }
}

fn fork(store: &Store, times: u64) {
    let key = filled(store, 100);
    for n in 0..times {
        let fork = store.fork(&key, &At::Seq(Seq::new(n)), NewSession::default()).expect("forked");
        std::mem::forget(fork);
    }
}

fn deep(store: &Store, times: u64) {
    let mut key = filled(store, 1);
    for _ in 0..40 {
        let fork = store.fork(&key, &At::Head, NewSession::default()).expect("forked");
        append_to(&fork, 1);
        key = fork.key().clone();
    }
    for _ in 0..times {
        assert_eq!(store.read(&key).expect("sound").len(), 41);
    }
}

fn grep(store: &Store, times: u64) {
    let key = filled(store, 1000);
    for _ in 0..times / 1000 {
        let found = store.grep(&Filter::default(), b"no such text", |_, _| {}).expect("searched");
        assert_eq!((found.sessions, found.records), (1, 0), "{key:?}");
    }
}
