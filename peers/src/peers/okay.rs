//! okaywal: a write-ahead log on its own, with group commit. It keeps no sessions, and is compared in durable appends only.

use std::io;
use std::path::Path;

use okaywal::{Configuration, Entry, EntryId, LogManager, SegmentReader, WriteAheadLog};

use super::{Log, Mode, Payload, Peer};

/// okaywal.
pub(crate) struct OkayWal;

impl Peer for OkayWal {
    fn name(&self) -> String {
        "okaywal".to_owned()
    }

    fn promise(&self, mode: Mode) -> Option<&'static str> {
        (mode == Mode::Sync).then_some("commit")
    }

    fn open(&self, dir: &Path, _: Mode, _: u64) -> Box<dyn Log> {
        // Segments long enough that no checkpoint falls into what is timed.
        let config = Configuration::default_for(dir.join("okaywal"));
        let config = config.preallocate_bytes(64 << 20).checkpoint_after_bytes(60 << 20);
        Box::new(Open(config.open(Ignore).expect("a log")))
    }

    fn reads(&self) -> bool {
        false
    }
}

struct Open(WriteAheadLog);

impl Log for Open {
    fn append(&self, session: u64, payload: &Payload) {
        self.batch(session, std::slice::from_ref(payload));
    }

    fn batch(&self, _: u64, payloads: &[Payload]) {
        let mut entry = self.0.begin_entry().expect("begun");
        for payload in payloads {
            entry.write_chunk(payload.text.as_bytes()).expect("written");
        }
        entry.commit().expect("committed");
    }

    fn read(&self, _: u64, _: &mut dyn FnMut(&[u8])) {}

    fn last(&self, _: u64, _: usize, _: &mut dyn FnMut(&[u8])) {}
}

#[derive(Debug)]
struct Ignore;

impl LogManager for Ignore {
    fn recover(&mut self, _: &mut Entry<'_>) -> io::Result<()> {
        Ok(())
    }

    fn checkpoint_to(&mut self, _: EntryId, _: &mut SegmentReader, _: &WriteAheadLog) -> io::Result<()> {
        Ok(())
    }
}
