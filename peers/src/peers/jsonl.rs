//! Plain JSONL, as agent tools keep it: a file a session, opened for every append, read whole, parsed line by line.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Log, Mode, Payload, Peer};

/// JSON Lines with serde_json.
pub(crate) struct Jsonl;

impl Peer for Jsonl {
    fn name(&self) -> String {
        "JSONL, serde_json".to_owned()
    }

    fn promise(&self, mode: Mode) -> Option<&'static str> {
        Some(match mode {
            Mode::Write => "open, write, close",
            Mode::Sync => "open, write, fdatasync, close",
        })
    }

    fn open(&self, dir: &Path, mode: Mode, _: u64) -> Box<dyn Log> {
        Box::new(Files { dir: dir.to_owned(), mode })
    }
}

struct Files {
    dir: PathBuf,
    mode: Mode,
}

impl Files {
    fn path(&self, session: u64) -> PathBuf {
        self.dir.join(format!("{session}.jsonl"))
    }

    fn write(&self, session: u64, text: &str) {
        let mut file = OpenOptions::new().append(true).create(true).open(self.path(session)).expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        if self.mode == Mode::Sync {
            file.sync_data().expect("synced");
        }
    }

    fn lines(&self, session: u64) -> Vec<Value> {
        let text = fs::read_to_string(self.path(session)).expect("a file");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

impl Log for Files {
    fn append(&self, session: u64, payload: &Payload) {
        self.write(session, &(serde_json::to_string(&payload.value).expect("JSON") + "\n"));
    }

    fn batch(&self, session: u64, payloads: &[Payload]) {
        let line = |payload: &Payload| serde_json::to_string(&payload.value).expect("JSON") + "\n";
        self.write(session, &payloads.iter().map(line).collect::<String>());
    }

    /// The values are what such a program wants; a check of their text costs it nothing.
    fn read(&self, session: u64, each: &mut dyn FnMut(&[u8])) {
        self.lines(session).iter().for_each(|value| each(kind(value)));
    }

    fn last(&self, session: u64, n: usize, each: &mut dyn FnMut(&[u8])) {
        let lines = self.lines(session);
        lines[lines.len().saturating_sub(n)..].iter().for_each(|value| each(kind(value)));
    }
}

/// Something that is read from the value, so that it had to be parsed: the start of its text, which is the same for every message.
fn kind(value: &Value) -> &'static [u8] {
    match value["type"].as_str() {
        Some("user") => br#"{"type":"user","n":"#,
        Some("assistant") => br#"{"type":"assistant","n":"#,
        _ => b"",
    }
}
