//! Stores of keys and values in Rust: redb and fjall. A record's key is session and number, so that order is the order of appends.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use redb::{Durability, ReadableDatabase as _, TableDefinition};

use super::{Log, Mode, Payload, Peer};

/// redb: copy-on-write B-trees.
pub(crate) struct Redb;

const RECORDS: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("records");

impl Peer for Redb {
    fn name(&self) -> String {
        "redb".to_owned()
    }

    fn promise(&self, mode: Mode) -> Option<&'static str> {
        Some(match mode {
            // Less than `Write` promises: such commits are gone when the process is killed.
            Mode::Write => "Durability::None, lost by kill",
            Mode::Sync => "Durability::Immediate",
        })
    }

    fn open(&self, dir: &Path, mode: Mode, sessions: u64) -> Box<dyn Log> {
        let db = redb::Database::create(dir.join("redb")).expect("a database");
        let begin = db.begin_write().expect("begun");
        begin.open_table(RECORDS).expect("made");
        begin.commit().expect("committed");
        let read = db.begin_read().expect("begun");
        let table = read.open_table(RECORDS).expect("there");
        let next = |n| {
            let last = table.range((n, 0)..=(n, u64::MAX)).expect("asked").next_back();
            last.map_or(0, |last| last.expect("read").0.value().1 + 1)
        };
        let next = (0..sessions).map(next).collect();
        drop((table, read));
        Box::new(RedbOpen { db, mode, next: Mutex::new(next) })
    }
}

struct RedbOpen {
    db: redb::Database,
    mode: Mode,
    next: Mutex<Vec<u64>>,
}

impl RedbOpen {
    fn insert(&self, session: u64, payloads: &[&str]) {
        let mut begun = self.db.begin_write().expect("begun");
        begun.set_durability(self.durability()).expect("set");
        let mut all = self.next.lock().expect("nobody panics");
        let next = &mut all[usize::try_from(session).expect("few sessions")];
        let mut table = begun.open_table(RECORDS).expect("there");
        for text in payloads {
            table.insert((session, *next), text.as_bytes()).expect("inserted");
            *next += 1;
        }
        drop((table, all));
        begun.commit().expect("committed");
    }

    fn durability(&self) -> Durability {
        match self.mode {
            Mode::Write => Durability::None,
            Mode::Sync => Durability::Immediate,
        }
    }
}

impl Drop for RedbOpen {
    fn drop(&mut self) {
        // What was committed without durability is kept by a commit with it.
        let begun = self.db.begin_write().expect("begun");
        begun.commit().expect("committed");
    }
}

impl Log for RedbOpen {
    fn append(&self, session: u64, payload: &Payload) {
        self.insert(session, &[&payload.text]);
    }

    fn batch(&self, session: u64, payloads: &[Payload]) {
        let texts: Vec<&str> = payloads.iter().map(|payload| payload.text.as_str()).collect();
        self.insert(session, &texts);
    }

    fn read(&self, session: u64, each: &mut dyn FnMut(&[u8])) {
        let begun = self.db.begin_read().expect("begun");
        let table = begun.open_table(RECORDS).expect("there");
        for row in table.range((session, 0)..=(session, u64::MAX)).expect("asked") {
            each(row.expect("read").1.value());
        }
    }

    fn last(&self, session: u64, n: usize, each: &mut dyn FnMut(&[u8])) {
        let begun = self.db.begin_read().expect("begun");
        let table = begun.open_table(RECORDS).expect("there");
        let rows = table.range((session, 0)..=(session, u64::MAX)).expect("asked").rev().take(n);
        let rows: Vec<_> = rows.map(|row| row.expect("read").1).collect();
        rows.iter().rev().for_each(|row| each(row.value()));
    }
}

/// fjall: a log-structured merge tree.
pub(crate) struct Fjall;

impl Peer for Fjall {
    fn name(&self) -> String {
        "fjall".to_owned()
    }

    fn promise(&self, mode: Mode) -> Option<&'static str> {
        Some(match mode {
            Mode::Write => "PersistMode::Buffer",
            Mode::Sync => "PersistMode::SyncData",
        })
    }

    fn open(&self, dir: &Path, mode: Mode, sessions: u64) -> Box<dyn Log> {
        let db = Database::builder(dir.join("fjall")).open().expect("a database");
        let records = db.keyspace("records", KeyspaceCreateOptions::default).expect("a keyspace");
        let next = |n: u64| {
            let last = records.prefix(n.to_be_bytes()).next_back();
            let last = last.map(|last| last.key().expect("read"));
            AtomicU64::new(last.map_or(0, |key| u64::from_be_bytes(key[8..].try_into().expect("8 bytes")) + 1))
        };
        let next = (0..sessions).map(next).collect();
        Box::new(FjallOpen { db, records, mode, next })
    }
}

struct FjallOpen {
    db: Database,
    records: Keyspace,
    mode: Mode,
    next: Vec<AtomicU64>,
}

/// Session and number, so that the order of bytes is the order of records.
pub(super) fn key(session: u64, seq: u64) -> [u8; 16] {
    (u128::from(session) << 64 | u128::from(seq)).to_be_bytes()
}

impl FjallOpen {
    fn next(&self, session: u64) -> [u8; 16] {
        let next = &self.next[usize::try_from(session).expect("few sessions")];
        key(session, next.fetch_add(1, Ordering::Relaxed))
    }
}

impl Log for FjallOpen {
    fn append(&self, session: u64, payload: &Payload) {
        self.records.insert(self.next(session), payload.text.as_str()).expect("inserted");
        if self.mode == Mode::Sync {
            self.db.persist(PersistMode::SyncData).expect("synced");
        }
    }

    fn batch(&self, session: u64, payloads: &[Payload]) {
        let sync = (self.mode == Mode::Sync).then_some(PersistMode::SyncData);
        let mut batch = self.db.batch().durability(sync);
        for payload in payloads {
            batch.insert(&self.records, self.next(session), payload.text.as_str());
        }
        batch.commit().expect("committed");
    }

    fn read(&self, session: u64, each: &mut dyn FnMut(&[u8])) {
        for row in self.records.prefix(session.to_be_bytes()) {
            each(&row.value().expect("read"));
        }
    }

    fn last(&self, session: u64, n: usize, each: &mut dyn FnMut(&[u8])) {
        let rows = self.records.prefix(session.to_be_bytes()).rev().take(n);
        let rows: Vec<_> = rows.map(|row| row.value().expect("read")).collect();
        rows.iter().rev().for_each(|row| each(row));
    }
}
