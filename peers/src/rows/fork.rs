//! Forks: making one, opening one that is deep, and what many of them take.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use forklog::{At, NewSession, Seq, SessionKey, Store};

use super::Setting;
use crate::counting::Unsynced;
use crate::measure::{Case, Outcome, Row, Sample, Unit};
use crate::peers::{Forklog, How, Jsonl, Mode, Peer, Sqlite, payloads, sqlite_connect, store};
use crate::workload;

pub(super) fn rows(setting: &Setting, done: &mut impl FnMut(Outcome)) {
    if setting.wants("fork-make") {
        done(make(setting));
    }
    if setting.wants("fork-deep") {
        done(deep(setting));
    }
    if setting.wants("fork-bytes") {
        done(bytes(setting));
    }
}

fn session(n: u64) -> SessionKey {
    SessionKey::new("peers", &format!("s{n}")).expect("a good name")
}

/// Forks session 0 of the store in `dir` behind record `at`.
fn fork(store: &Store, at: u64) -> SessionKey {
    let fork = store.fork(&session(0), &At::Seq(Seq::new(at)), NewSession::default()).expect("forked");
    let key = fork.key().clone();
    assert_eq!(fork.head().expect("open").records, at + 1);
    key
}

fn make(setting: &Setting) -> Outcome {
    let large = setting.large();
    let half = large.records / 2;
    let ours = store(&large.of(&Forklog(How::Digest)).join("forklog"));
    let other = ours.clone();
    let small = setting.temp();
    Forklog(How::Digest).open(small.path(), Mode::Write, 1).batch(0, &payloads(workload::fixed(948, 1024)));
    let small_store = store(&small.path().join("forklog"));
    let mut cases = vec![
        Case::new(format!("forklog, middle of {} MiB", large.mib), "synced", move |_| {
            Sample::again(|| fork(&ours, half))
        }),
        Case::new(format!("forklog, record 10 of {} MiB", large.mib), "synced", move |_| {
            Sample::again(|| fork(&other, 10))
        }),
        Case::new("forklog, middle of 1 MiB", "synced", move |_| {
            let _keep = &small;
            Sample::again(|| fork(&small_store, 474))
        }),
    ];
    let jsonl = large.of(&Jsonl).join("0.jsonl");
    cases.push(Case::new("JSONL", "half of the file copied", move |_| {
        let copy = jsonl.with_extension("copy");
        let len = fs::metadata(&jsonl).expect("a file").len();
        let sample = Sample::time(|| {
            let from = File::open(&jsonl).expect("a file");
            let mut to = File::create(&copy).expect("a file");
            assert_eq!(io::copy(&mut from.take(len / 2), &mut to).expect("copied"), len / 2);
        });
        fs::remove_file(&copy).expect("removed");
        sample
    }));
    let db = sqlite_connect(&large.of(&Sqlite).join("sqlite.db"), Mode::Write);
    cases.push(Case::new("SQLite", "half of the rows copied", move |_| {
        let target = 5_i64 << 32;
        let sql = "INSERT INTO records SELECT id + ?1, body FROM records WHERE id < ?2";
        let half = i64::try_from(half).unwrap_or_default();
        let sample =
            Sample::time(|| assert_eq!(db.execute(sql, [target, half]).expect("copied") as u64, half.unsigned_abs()));
        db.execute("DELETE FROM records WHERE id >= ?1", [target]).expect("deleted");
        sample
    }));
    let (what, goal) = ("fork a session".to_owned(), "1.2 × of 1 MiB, at any record");
    setting.run(Row { id: "fork-make", what, unit: Unit::Seconds, goal, cases })
}

/// Opens the last of a thousand forks, each made from the one before, and divides by their number.
fn deep(setting: &Setting) -> Outcome {
    let levels = setting.size(20, 1000, 1000);
    let temp = setting.temp();
    let store = Store::options().disk(Arc::new(Unsynced::disk())).open(temp.path()).expect("a store");
    let key = |n| session(n);
    let first = store.create(NewSession::named(key(0))).expect("created");
    first.append(&"begin").expect("appended");
    first.close().expect("closed");
    for n in 0..levels {
        let fork = store.fork(&key(n), &At::Head, NewSession::named(key(n + 1))).expect("forked");
        fork.append(&n).expect("appended");
        fork.close().expect("closed");
    }
    drop(store);
    let store = crate::peers::store(temp.path());
    let path = |n| temp.path().join(format!("projects/peers/s{n}/transcript.jsonl"));
    let paths: Vec<PathBuf> = (0..levels).map(path).collect();
    let per_level = |sample: Sample| Sample::of(sample.value / levels as f64);
    let cases = vec![
        Case::new("forklog, open to read", "every level verified", |_| {
            per_level(Sample::time(|| assert_eq!(store.read(&key(levels)).expect("sound").len(), levels + 1)))
        }),
        Case::new("forklog, open and read all", "every byte verified", |_| {
            per_level(Sample::time(|| {
                let mut records = store.read(&key(levels)).expect("sound").records();
                let mut count = 0;
                while records.next().expect("sound").is_some() {
                    count += 1;
                }
                assert_eq!(count, levels + 1);
            }))
        }),
        Case::new("bare open, read(2), close", "the least for a file a level", |_| {
            per_level(Sample::time(|| {
                let mut head = [0; 1024];
                for path in &paths {
                    assert!(File::open(path).and_then(|mut file| file.read(&mut head)).expect("a file") > 0);
                }
            }))
        }),
    ];
    let what = format!("open a fork {levels} deep, for each level");
    setting.run_rounds(Row { id: "fork-deep", what, unit: Unit::Seconds, goal: "20 µs", cases }, setting.rounds * 3)
}

/// What counts as bytes of a directory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counted {
    /// What cannot be made again from something else.
    Transcripts,
    /// The length of every file.
    Files,
    /// The blocks that the file system has set aside, for directories too.
    Blocks,
}

fn size(dir: &Path, counted: Counted) -> f64 {
    let of = |entry: fs::DirEntry| {
        let data = entry.metadata().expect("there");
        let below = if data.is_dir() { size(&entry.path(), counted) } else { 0.0 };
        below
            + match counted {
                Counted::Blocks => data.blocks() as f64 * 512.0,
                _ if data.is_dir() => 0.0,
                Counted::Transcripts if entry.file_name() != "transcript.jsonl" => 0.0,
                _ => data.len() as f64,
            }
    };
    fs::read_dir(dir).expect("a directory").map(|entry| of(entry.expect("an entry"))).sum()
}

fn bytes(setting: &Setting) -> Outcome {
    const MIB: usize = 10;
    let (forks, copies) = (setting.size(20_u64, 1000, 1000), 20_u64);
    let texts = payloads(workload::fixed(948, 1024));
    let temp = setting.temp();
    let log = Forklog(How::Digest).open(temp.path(), Mode::Write, 1);
    (0..MIB).for_each(|_| log.batch(0, &texts));
    drop(log);
    const ALL: [Counted; 3] = [Counted::Transcripts, Counted::Files, Counted::Blocks];
    let before = ALL.map(|counted| size(temp.path(), counted));
    let store = Store::options().disk(Arc::new(Unsynced::disk())).open(temp.path().join("forklog")).expect("a store");
    for n in 0..forks {
        fork(&store, (n + 1) * 9);
    }
    drop(store);
    let after = ALL.map(|counted| size(temp.path(), counted));
    let db = setting.temp();
    let log = Sqlite.open(db.path(), Mode::Write, 1);
    (0..MIB).for_each(|_| log.batch(0, &texts));
    drop(log);
    let one = size(db.path(), Counted::Files);
    let connection = sqlite_connect(&db.path().join("sqlite.db"), Mode::Write);
    for n in 1..=copies {
        let target = i64::try_from(n << 32).unwrap_or_default();
        let sql = "INSERT INTO records SELECT id + ?1, body FROM records WHERE id < 4294967296";
        connection.execute(sql, [target]).expect("copied");
    }
    drop(connection);
    let more = (size(db.path(), Counted::Files) - one) / copies as f64 / one;
    let fixed = |name: &str, mode, value: f64| Case::new(name, mode, move |_| Sample::of(value));
    let cases = vec![
        fixed("forklog, transcripts", "what forks are", after[0] / before[0]),
        fixed("forklog, all files", "the index among them", after[1] / before[1]),
        fixed("forklog, blocks of the file system", "files and directories", after[2] / before[2]),
        fixed("JSONL", "a copy each", (forks + 1) as f64),
        fixed("SQLite", "rows copied, scaled from 20", 1.0 + more * forks as f64),
    ];
    let what = format!("bytes of {forks} forks of a 10 MiB session and of it, to its own");
    setting.run_rounds(Row { id: "fork-bytes", what, unit: Unit::Count, goal: "1.05", cases }, 1)
}
