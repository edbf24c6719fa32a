//! Those who are compared: each keeps sessions of JSON records, as its own experts would.

mod bare;
mod engine;
mod jsonl;
mod keyed;
mod lmdb;
mod okay;
#[cfg(feature = "rocksdb")]
mod rocks;
mod sqlite;

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub(crate) use bare::{Bare, FRAME, Form, Grouped, read_lines};
pub(crate) use engine::{Forklog, How, options, store, transcript};
pub(crate) use jsonl::Jsonl;
pub(crate) use keyed::{Fjall, Redb};
pub(crate) use lmdb::Lmdb;
pub(crate) use okay::OkayWal;
#[cfg(feature = "rocksdb")]
pub(crate) use rocks::Rocks;
pub(crate) use sqlite::Sqlite;
pub(crate) use sqlite::connect as sqlite_connect;

/// What an append that has returned survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A killed process (redb and SQLite's NORMAL say what they do instead).
    Write,
    /// A power cut.
    Sync,
}

/// One record in the forms in which programs have it.
#[derive(Debug)]
pub(crate) struct Payload {
    pub(crate) text: String,
    pub(crate) raw: Box<RawValue>,
    pub(crate) value: Message,
}

/// A message as a program has it before it is written.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Message {
    r#type: String,
    n: u64,
    message: Content,
}

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    role: String,
    content: String,
}

/// Brings messages into every form.
pub(crate) fn payloads(texts: Vec<String>) -> Vec<Payload> {
    let payload = |text: String| {
        let raw = RawValue::from_string(text.clone()).expect("JSON");
        let value: Message = serde_json::from_str(&text).expect("a message");
        assert_eq!(serde_json::to_string(&value).expect("JSON"), text, "all forms are the same bytes");
        Payload { text, raw, value }
    };
    texts.into_iter().map(payload).collect()
}

/// A system that keeps sessions.
pub(crate) trait Peer: Sync {
    /// Its name in the table.
    fn name(&self) -> String;

    /// What it promises in this mode, for the table; `None` when it has no such mode.
    fn promise(&self, mode: Mode) -> Option<&'static str>;

    /// Opens what is in `dir`, or makes it, with sessions `0..sessions`.
    fn open(&self, dir: &Path, mode: Mode, sessions: u64) -> Box<dyn Log>;

    /// Whether what was written can be read back through it in any order.
    fn reads(&self) -> bool {
        true
    }
}

/// An open store of sessions.
pub(crate) trait Log: Sync {
    /// Appends one record.
    fn append(&self, session: u64, payload: &Payload);

    /// Appends records, all of them or none where the system can.
    fn batch(&self, session: u64, payloads: &[Payload]);

    /// Calls `each` with the text of every record of a session.
    fn read(&self, session: u64, each: &mut dyn FnMut(&[u8]));

    /// Calls `each` with the text of the last `n` records, in order.
    fn last(&self, session: u64, n: usize, each: &mut dyn FnMut(&[u8]));
}

/// Appends, opens again and reads back, and panics unless all is there: no figure is worth anything before that.
pub(crate) fn prove(peer: &dyn Peer, dir: &Path, mode: Mode, payloads: &[Payload]) {
    let dir = tempfile::tempdir_in(dir).expect("a directory to measure in");
    let (single, batch) = payloads.split_at(payloads.len() / 2);
    let log = peer.open(dir.path(), mode, 2);
    for payload in single {
        log.append(1, payload);
    }
    log.batch(1, batch);
    drop(log);
    if !peer.reads() {
        return;
    }
    let log = peer.open(dir.path(), Mode::Write, 2);
    let name = peer.name();
    let expect = |got: Vec<Vec<u8>>, wanted: &[Payload]| {
        assert_eq!(got.len(), wanted.len(), "{name}");
        for (got, wanted) in got.iter().zip(wanted) {
            let end = wanted.text.len().min(got.len());
            assert!(got[..end] == wanted.text.as_bytes()[..end] && !got.is_empty(), "{name} gave another record");
        }
    };
    let mut all = Vec::new();
    log.read(1, &mut |text| all.push(text.to_vec()));
    expect(all, payloads);
    let mut last = Vec::new();
    log.last(1, 3, &mut |text| last.push(text.to_vec()));
    expect(last, &payloads[payloads.len() - 3..]);
}
