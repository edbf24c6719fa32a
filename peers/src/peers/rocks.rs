//! RocksDB: a log-structured merge tree in C++.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rocksdb::{DB, Direction, IteratorMode, WriteBatch, WriteOptions};

use super::keyed::key;
use super::{Log, Mode, Payload, Peer};

/// RocksDB.
pub(crate) struct Rocks;

impl Peer for Rocks {
    fn name(&self) -> String {
        "RocksDB".to_owned()
    }

    fn promise(&self, mode: Mode) -> Option<&'static str> {
        Some(match mode {
            Mode::Write => "WAL, no sync",
            Mode::Sync => "WAL, sync",
        })
    }

    fn open(&self, dir: &Path, mode: Mode, sessions: u64) -> Box<dyn Log> {
        let db = DB::open_default(dir.join("rocksdb")).expect("a database");
        let mut options = WriteOptions::default();
        options.set_sync(mode == Mode::Sync);
        let next = (0..sessions).map(|session| {
            let from = key(session, u64::MAX);
            let last = db.iterator(IteratorMode::From(&from, Direction::Reverse)).next();
            let last = last.map(|row| row.expect("read").0).filter(|found| found[..8] == from[..8]);
            AtomicU64::new(last.map_or(0, |found| u64::from_be_bytes(found[8..].try_into().expect("8 bytes")) + 1))
        });
        let next = next.collect();
        Box::new(Open { db, options, next })
    }
}

struct Open {
    db: DB,
    options: WriteOptions,
    next: Vec<AtomicU64>,
}

impl Open {
    fn next(&self, session: u64) -> [u8; 16] {
        let next = &self.next[usize::try_from(session).expect("few sessions")];
        key(session, next.fetch_add(1, Ordering::Relaxed))
    }
}

impl Log for Open {
    fn append(&self, session: u64, payload: &Payload) {
        self.db.put_opt(self.next(session), &payload.text, &self.options).expect("put");
    }

    fn batch(&self, session: u64, payloads: &[Payload]) {
        let mut batch = WriteBatch::default();
        for payload in payloads {
            batch.put(self.next(session), &payload.text);
        }
        self.db.write_opt(batch, &self.options).expect("written");
    }

    fn read(&self, session: u64, each: &mut dyn FnMut(&[u8])) {
        let from = key(session, 0);
        for row in self.db.iterator(IteratorMode::From(&from, Direction::Forward)) {
            let (found, value) = row.expect("read");
            if found[..8] != from[..8] {
                return;
            }
            each(&value);
        }
    }

    fn last(&self, session: u64, n: usize, each: &mut dyn FnMut(&[u8])) {
        let from = key(session, u64::MAX);
        let rows = self.db.iterator(IteratorMode::From(&from, Direction::Reverse)).map(|row| row.expect("read"));
        let rows: Vec<_> = rows.take_while(|(found, _)| found[..8] == from[..8]).take(n).collect();
        rows.iter().rev().for_each(|(_, value)| each(value));
    }
}
