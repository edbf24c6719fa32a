//! forklog itself, by each of its ways to append.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use forklog::{
    AgentDigest, Digest, Durability, Error, NewRecord, NewSession, NoDigest, OpenOptions, Session, SessionKey, Store,
};

use super::{Log, Mode, Payload, Peer};

/// In which form records are given to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Serialize,
    Raw,
    Bytes,
    /// [`How::Raw`] into spaces that are laid ahead, which only a sync is cheaper for.
    Ahead,
    /// [`How::Raw`], and what a list shows of the session is learnt from each message.
    Digest,
}

/// Bytes of spaces that [`How::Ahead`] lays at once.
const AHEAD: u32 = 256 << 10;

/// forklog. Its index is at work as it is for everybody, its digest only in [`How::Digest`]: no other side looks into what it is given.
pub(crate) struct Forklog(pub(crate) How);

/// The store in `dir`, with what a list shows.
pub(crate) fn store(dir: &Path) -> Store {
    Store::options().digest(Arc::new(AgentDigest)).open(dir).expect("a store")
}

pub(crate) fn options(mode: Mode) -> OpenOptions {
    let durability = match mode {
        Mode::Write => Durability::Write,
        Mode::Sync => Durability::Sync,
    };
    OpenOptions { durability: Some(durability), ..OpenOptions::default() }
}

impl Peer for Forklog {
    fn name(&self) -> String {
        let how = match self.0 {
            How::Serialize => "Serialize",
            How::Raw => "RawValue",
            How::Bytes => "bytes, validated",
            How::Ahead => "RawValue, spaces ahead",
            How::Digest => "RawValue and digest",
        };
        format!("forklog, {how}")
    }

    fn promise(&self, mode: Mode) -> Option<&'static str> {
        match mode {
            Mode::Write if self.0 == How::Ahead => None,
            Mode::Write => Some("Write"),
            Mode::Sync if self.0 == How::Digest => None,
            Mode::Sync => Some("Sync"),
        }
    }

    fn open(&self, dir: &Path, mode: Mode, sessions: u64) -> Box<dyn Log> {
        let digest: Arc<dyn Digest> = if self.0 == How::Digest { Arc::new(AgentDigest) } else { Arc::new(NoDigest) };
        let store = Store::options().digest(digest).open(dir.join("forklog")).expect("a store");
        let padding = if self.0 == How::Ahead { AHEAD } else { 0 };
        let options = OpenOptions { padding, ..options(mode) };
        let open = |n| {
            let key = key(n);
            match store.session_with(&key, options) {
                Err(Error::NotFound { .. }) => store.create(NewSession::named(key).options(options)),
                other => other,
            }
        };
        let sessions = (0..sessions).map(|n| open(n).expect("a session")).collect();
        Box::new(Open { how: self.0, store, sessions })
    }
}

/// The file of session 0, once [`Forklog`] has made it in `dir`.
pub(crate) fn transcript(dir: &Path) -> PathBuf {
    dir.join("forklog/projects/peers/s0/transcript.jsonl")
}

fn key(n: u64) -> SessionKey {
    SessionKey::new("peers", &format!("s{n}")).expect("a good name")
}

struct Open {
    how: How,
    store: Store,
    sessions: Vec<Session>,
}

impl Open {
    fn session(&self, n: u64) -> &Session {
        &self.sessions[usize::try_from(n).expect("few sessions")]
    }
}

impl Log for Open {
    fn append(&self, session: u64, payload: &Payload) {
        let session = self.session(session);
        let appended = match self.how {
            How::Serialize => session.append(&payload.value),
            How::Raw | How::Ahead | How::Digest => session.append_raw(&payload.raw),
            How::Bytes => session.append_json(payload.text.as_bytes()),
        };
        appended.expect("appended");
    }

    fn batch(&self, session: u64, payloads: &[Payload]) {
        let records = payloads.iter().map(|payload| match self.how {
            How::Serialize => NewRecord::of(&payload.value),
            How::Raw | How::Ahead | How::Digest => NewRecord::raw(&payload.raw),
            How::Bytes => NewRecord::json(payload.text.as_bytes()),
        });
        let records: Vec<_> = records.map(|record| record.expect("a record")).collect();
        self.session(session).append_batch(&records).expect("appended");
    }

    fn read(&self, session: u64, each: &mut dyn FnMut(&[u8])) {
        let mut records = self.store.read(&key(session)).expect("a session").records();
        while let Some(record) = records.next().expect("sound") {
            each(record.payload());
        }
    }

    fn last(&self, session: u64, n: usize, each: &mut dyn FnMut(&[u8])) {
        let mut records = self.store.read(&key(session)).expect("a session").last(n as u64).expect("sound");
        while let Some(record) = records.next().expect("sound") {
            each(record.payload());
        }
    }
}
