//! What several rows read: a long transcript, and many short ones, as each side keeps them.

use std::cell::Cell;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use forklog::{Env, NewRecord, NewSession, OsEnv, SessionKey, Store, Timestamp};
use rusqlite::{Connection, params};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Setting;
use crate::counting::Unsynced;
use crate::peers::{FRAME, Mode, Payload, Peer, payloads, sqlite_connect};
use crate::workload::{self, Random};

/// One transcript of records of 1 KiB, kept by all who can read one.
pub(crate) struct Large {
    dir: tempfile::TempDir,
    pub(crate) records: u64,
    /// Of all lines together, as the bare file has them, which is a transcript of `mib`.
    pub(crate) bytes: u64,
    pub(crate) mib: u64,
    made: Cell<Vec<String>>,
    payloads: Vec<Payload>,
}

const BATCH: usize = 64;

impl Large {
    pub(crate) fn new(setting: &Setting) -> Self {
        let mib = setting.size(4, 256, 1024);
        let records = (mib << 20) / (1024 + FRAME as u64) / BATCH as u64 * BATCH as u64;
        let payloads = payloads(workload::fixed(BATCH, 1024));
        Self {
            dir: setting.temp(),
            records,
            bytes: records * (1024 + FRAME as u64),
            mib,
            made: Cell::default(),
            payloads,
        }
    }

    /// The directory in which `peer` has the transcript as session 0.
    pub(crate) fn of(&self, peer: &dyn Peer) -> &Path {
        let mut made = self.made.take();
        if !made.contains(&peer.name()) {
            let log = peer.open(self.dir.path(), Mode::Write, 1);
            for _ in 0..self.records / BATCH as u64 {
                log.batch(0, &self.payloads);
            }
            made.push(peer.name());
        }
        self.made.set(made);
        self.dir.path()
    }

    /// Has the kernel forget the files of all `peers` and read them anew. False where that takes nothing from a disk, as in memory.
    pub(crate) fn reload(&self, peers: &[&dyn Peer]) -> bool {
        for peer in peers {
            self.of(*peer);
        }
        let mut files = Vec::new();
        files_below(self.dir.path(), &mut files);
        let (before, mut bytes) = (read_from_disks(), 0);
        for path in files {
            let mut file = fs::File::open(path).expect("a file");
            file.sync_data().expect("synced");
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("forgotten");
            io::copy(&mut file, &mut io::sink()).expect("read");
            bytes += 512 * file.metadata().expect("a file").blocks();
        }
        read_from_disks().zip(before).is_some_and(|(after, before)| after - before >= bytes / 10 * 9)
    }
}

fn files_below(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { files_below(&path, files) } else { files.push(path) }
    }
}

/// Bytes that this process has had from disks, where the kernel counts them.
fn read_from_disks() -> Option<u64> {
    let counts = fs::read_to_string("/proc/self/io").ok()?;
    counts.lines().find_map(|line| line.strip_prefix("read_bytes: "))?.parse().ok()
}

/// A session as a list shows it.
pub(crate) struct Listed {
    pub(crate) id: u64,
    pub(crate) project: String,
    pub(crate) title: String,
    pub(crate) tags: Vec<String>,
    pub(crate) cost: f64,
    pub(crate) model: &'static str,
    /// Milliseconds since 1970 began; it is created then, and its records follow at once.
    pub(crate) at: i64,
    pub(crate) prompt: String,
    pub(crate) answer: String,
}

/// Many sessions of few records.
pub(crate) struct Many {
    dir: tempfile::TempDir,
    pub(crate) n: u64,
    forklog: Cell<bool>,
    sqlite: Cell<bool>,
    jsonl: Cell<bool>,
}

/// 2026-01-01.
pub(crate) const FIRST: i64 = 1_767_225_600_000;
/// From one session to the next: 100,000 in 347 days.
pub(crate) const STEP: i64 = 300_000;

impl Many {
    pub(crate) fn new(setting: &Setting, n: u64) -> Self {
        Self { dir: setting.memory(), n, forklog: Cell::default(), sqlite: Cell::default(), jsonl: Cell::default() }
    }

    fn all(&self) -> impl Iterator<Item = Listed> {
        const MODELS: [&str; 3] = ["claude-opus-4-5", "claude-sonnet-4-5", "claude-haiku-4-5"];
        let mut random = Random::new(5);
        (0..self.n).map(move |id| {
            // Every 10th session has a common tag, every 1,000th a rare one, and all have one of their own kind.
            let mut tags = vec![format!("kind-{}", random.below(50))];
            tags.extend((random.below(10) == 0).then(|| "common".to_owned()));
            tags.extend((random.below(1000) == 0).then(|| "rare".to_owned()));
            let cost = (random.unit() * random.unit() * 1000.0).round() / 100.0;
            Listed {
                id,
                project: format!("project-{}", id % 100),
                title: format!("Session {id}: look into the failing build"),
                tags,
                cost,
                model: MODELS[usize::try_from(id % 3).unwrap_or_default()],
                at: FIRST + i64::try_from(id).unwrap_or_default() * STEP,
                prompt: workload::message(&mut random, 0, 300),
                answer: workload::message(&mut random, 1, 700),
            }
        })
    }

    /// The directory of forklog's store.
    pub(crate) fn forklog(&self) -> PathBuf {
        let dir = self.dir.path().join("forklog");
        if !self.forklog.replace(true) {
            let clock = Arc::new(Clock(AtomicI64::new(0)));
            let disk = Arc::new(Unsynced::disk());
            let store = Store::options().disk(disk).env(clock.clone()).open(&dir).expect("a store");
            for listed in self.all() {
                clock.0.store(listed.at, Ordering::Relaxed);
                make(&store, &listed);
            }
        }
        dir
    }

    /// SQLite's database.
    pub(crate) fn sqlite(&self) -> PathBuf {
        let path = self.dir.path().join("sessions.db");
        if !self.sqlite.replace(true) {
            let mut db = sqlite_connect(&path, Mode::Write);
            db.execute_batch(SCHEMA).expect("made");
            let begun = db.transaction().expect("begun");
            self.all().for_each(|listed| insert(&begun, &listed));
            begun.commit().expect("committed");
            // So that the planner knows which index is the best.
            db.execute_batch("ANALYZE; PRAGMA wal_checkpoint(TRUNCATE)").expect("analysed");
        }
        path
    }

    /// A directory of JSONL files, a directory a project.
    pub(crate) fn jsonl(&self) -> PathBuf {
        let dir = self.dir.path().join("jsonl");
        if !self.jsonl.replace(true) {
            for listed in self.all() {
                let project = dir.join(&listed.project);
                fs::create_dir_all(&project).expect("a directory");
                let mut file = fs::File::create(project.join(format!("{}.jsonl", listed.id))).expect("a file");
                let Listed { id, title, tags, cost, model, at, .. } = &listed;
                let head = json!({ "id": id, "title": title, "tags": tags, "cost": cost, "model": model, "at": at });
                write!(file, "{head}\n{}\n{}\n", listed.prompt, listed.answer).expect("written");
            }
        }
        dir
    }
}

fn make(store: &Store, listed: &Listed) {
    let key = SessionKey::new(&listed.project, &listed.id.to_string()).expect("a good name");
    let Value::Object(meta) = json!({ "cost": listed.cost, "model": listed.model }) else { return };
    let new = NewSession::named(key).title(&listed.title).meta(meta);
    let new = listed.tags.iter().fold(new, |new, tag| new.tag(tag));
    let session = store.create(new).expect("created");
    let raw = [&listed.prompt, &listed.answer].map(|text| RawValue::from_string(text.clone()).expect("JSON"));
    let records: Vec<_> = raw.iter().map(|raw| NewRecord::raw(raw).expect("a record")).collect();
    session.append_batch(&records).expect("appended");
    session.close().expect("closed");
}

const SCHEMA: &str = "
    CREATE TABLE sessions (id INTEGER PRIMARY KEY, project TEXT NOT NULL, title TEXT, created INTEGER NOT NULL,
        updated INTEGER NOT NULL, records INTEGER NOT NULL, cost REAL, model TEXT, first_prompt TEXT, summary TEXT,
        archived INTEGER NOT NULL);
    CREATE INDEX by_updated ON sessions (archived, updated);
    CREATE INDEX by_created ON sessions (created);
    CREATE INDEX by_cost ON sessions (cost);
    CREATE INDEX by_project ON sessions (project, updated);
    CREATE TABLE tags (tag TEXT NOT NULL, session INTEGER NOT NULL, PRIMARY KEY (tag, session)) WITHOUT ROWID;
    CREATE INDEX tags_of ON tags (session, tag);";

fn insert(db: &Connection, listed: &Listed) {
    let id = i64::try_from(listed.id).unwrap_or_default();
    let text = |message: &str| {
        let value: Value = serde_json::from_str(message).expect("JSON");
        value["message"]["content"].as_str().map(|text| text.chars().take(200).collect::<String>())
    };
    let sql = "INSERT INTO sessions VALUES (?1, ?2, ?3, ?4, ?4, 2, ?5, ?6, ?7, ?8, 0)";
    let Listed { project, title, cost, model, at, .. } = listed;
    let (prompt, summary) = (text(&listed.prompt), text(&listed.answer));
    let values = params![id, project, title, at, cost, model, prompt, summary];
    db.prepare_cached(sql).and_then(|mut insert| insert.execute(values)).expect("inserted");
    for tag in &listed.tags {
        let mut insert = db.prepare_cached("INSERT INTO tags VALUES (?1, ?2)").expect("prepared");
        insert.execute(params![tag, id]).expect("inserted");
    }
}

/// A clock that stands where it is put.
#[derive(Debug)]
struct Clock(AtomicI64);

impl Env for Clock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Relaxed))
    }

    fn random(&self) -> [u8; 16] {
        OsEnv.random()
    }
}
