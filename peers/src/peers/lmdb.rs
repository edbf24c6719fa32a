//! LMDB through heed.
#![expect(unsafe_code, reason = "heed's open is unsafe, since an environment must not be open twice nor its file cut")]

use std::path::Path;
use std::sync::Mutex;

use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions, WithoutTls};

use super::keyed::key;
use super::{Log, Mode, Payload, Peer};

/// LMDB: a B-tree in a map of its file.
pub(crate) struct Lmdb;

impl Peer for Lmdb {
    fn name(&self) -> String {
        "LMDB".to_owned()
    }

    fn promise(&self, mode: Mode) -> Option<&'static str> {
        Some(match mode {
            Mode::Write => "NOSYNC",
            Mode::Sync => "synced",
        })
    }

    fn open(&self, dir: &Path, mode: Mode, sessions: u64) -> Box<dyn Log> {
        let dir = dir.join("lmdb");
        std::fs::create_dir_all(&dir).expect("a directory");
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options.map_size(16 << 30);
        // SAFETY: without syncs a power cut may leave a broken file; the file lives as long as this run.
        unsafe {
            options.flags(if mode == Mode::Write { EnvFlags::NO_SYNC } else { EnvFlags::empty() });
        }
        // SAFETY: the directory is this run's own; nobody else opens or cuts the file, and every handle is dropped before the next is made.
        let env = unsafe { options.open(&dir) }.expect("an environment");
        let mut begun = env.write_txn().expect("begun");
        let records: Database<Bytes, Bytes> = env.create_database(&mut begun, None).expect("a database");
        begun.commit().expect("committed");
        let read = env.read_txn().expect("begun");
        let next = |n: u64| {
            let last = records.rev_prefix_iter(&read, &n.to_be_bytes()).expect("asked").next();
            last.map_or(0, |last| {
                let key = last.expect("read").0;
                u64::from_be_bytes(key[8..].try_into().expect("8 bytes")) + 1
            })
        };
        let next = (0..sessions).map(next).collect();
        drop(read);
        Box::new(Open { env: Some(env), records, next: Mutex::new(next) })
    }
}

struct Open {
    /// `None` once it is dropped.
    env: Option<Env<WithoutTls>>,
    records: Database<Bytes, Bytes>,
    next: Mutex<Vec<u64>>,
}

impl Open {
    fn env(&self) -> &Env<WithoutTls> {
        self.env.as_ref().expect("it is open")
    }

    fn insert(&self, session: u64, payloads: &[&str]) {
        let mut begun = self.env().write_txn().expect("begun");
        let mut all = self.next.lock().expect("nobody panics");
        let next = &mut all[usize::try_from(session).expect("few sessions")];
        for text in payloads {
            self.records.put(&mut begun, &key(session, *next), text.as_bytes()).expect("inserted");
            *next += 1;
        }
        drop(all);
        begun.commit().expect("committed");
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(env) = self.env.take() {
            env.prepare_for_closing().wait();
        }
    }
}

impl Log for Open {
    fn append(&self, session: u64, payload: &Payload) {
        self.insert(session, &[&payload.text]);
    }

    fn batch(&self, session: u64, payloads: &[Payload]) {
        let texts: Vec<&str> = payloads.iter().map(|payload| payload.text.as_str()).collect();
        self.insert(session, &texts);
    }

    fn read(&self, session: u64, each: &mut dyn FnMut(&[u8])) {
        let read = self.env().read_txn().expect("begun");
        for row in self.records.prefix_iter(&read, &session.to_be_bytes()).expect("asked") {
            each(row.expect("read").1);
        }
    }

    fn last(&self, session: u64, n: usize, each: &mut dyn FnMut(&[u8])) {
        let read = self.env().read_txn().expect("begun");
        let rows = self.records.rev_prefix_iter(&read, &session.to_be_bytes()).expect("asked").take(n);
        let rows: Vec<_> = rows.map(|row| row.expect("read").1).collect();
        rows.iter().rev().for_each(|row| each(row));
    }
}
