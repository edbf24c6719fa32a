//! An embedded storage engine for agent transcripts: conversations that are kept, forked, rewound and listed.
//!
//! What you get: append-only transcripts of checksummed JSON lines, one directory a session, that `jq` and `grep` read;
//! forks at any record, which share their parent's bytes; rewinds that can be undone; lists from an index that can be
//! deleted at any time; checkpoints of the files that an agent changes; a verdict on every byte, and repair.
//!
//! What it is not: a server, a query language, a cache, or a way to share a directory between machines. The library
//! blocks, and no thread of it outlives a call, except the one that [`Durability::Interval`] starts.
//!
//! # Example
//!
//! ```
//! use forklog::{At, Filter, NewSession, Seq, Store};
//! use serde_json::json;
//!
//! # let dir = tempfile::tempdir()?;
//! let store = Store::open(dir.path().join("store"))?;
//! let session = store.create(NewSession::default().title("First steps"))?;
//! session.append(&json!({ "role": "user", "text": "hello" }))?;
//! session.append(&json!({ "role": "assistant", "text": "hi" }))?;
//! session.sync()?; // Only now do both survive a power cut.
//!
//! let fork = store.fork(session.key(), &At::Seq(Seq::new(0)), NewSession::default())?;
//! fork.append(&json!({ "role": "assistant", "text": "good morning" }))?;
//! assert_eq!(store.read(fork.key())?.len(), 2);
//!
//! session.rewind(&At::Seq(Seq::new(0)))?;
//! assert_eq!(store.read(session.key())?.len(), 1);
//! session.undo()?;
//! assert_eq!(store.read(session.key())?.len(), 2);
//!
//! assert_eq!(store.list(&Filter::default(), None, 50)?.entries.len(), 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Durability
//!
//! | appended with | survives a killed process | survives a power cut |
//! |---|---|---|
//! | [`Durability::Write`], the default | at once | after [`Session::sync`] or [`Session::close`] |
//! | [`Durability::Interval`] | at once | after the interval |
//! | [`Durability::Sync`] | at once | at once |
//!
//! # Limits
//!
//! A line has at most 64 MiB unless [`StoreOptions::max_line`] says otherwise, and 1 GiB in any case; a payload nests at
//! most [`MAX_DEPTH`] levels, and has at most 1 GiB where it [spills over](StoreOptions::spill_over); a fork has at most [`MAX_LINEAGE`] ancestors; a record's id has 1 to
//! [`RecordId::MAX_LEN`] printable ASCII characters. Files of the index, maps of transcripts and indexes of packs
//! are mapped into memory: a foreign program that cuts one while it is mapped raises SIGBUS. Transcripts and packs are read, not mapped.

pub mod checkpoint;
pub mod digest;
pub mod disk;
mod error;
mod format;
mod ids;
pub mod import;
mod index;
mod log;
pub mod objects;
mod parallel;
mod session;
mod store;
mod sync;
mod time;
pub mod workspace;

pub use digest::{AgentDigest, Digest, NoDigest, Summary};
pub use error::{Error, Kind, Named, Result};
pub use format::entry::Entry;
pub use ids::{
    Crc, ObjectId, ObjectKind, Offset, Position, ProjectName, RecordId, Seq, SessionId, SessionKey, SideName, Uid,
};
pub use index::{Archived, Cursor, Filter, Page};
pub use session::{
    Appended, At, Checkpoint, Durability, FilesMoved, FilesTarget, Followed, Follower, NewRecord, OpenOptions,
    OwnedRecord, Parting, Reader, Record, Records, RecordsBack, Scope, Session, SessionFiles, Sharing, Taken,
};
pub use store::{
    Checked, Cleaned, Collected, Damage, Grep, NewSession, Progress, Repaired, Report, Rerooted, Store, StoreOptions,
};
pub use time::{Env, OsEnv, Timestamp};

/// The deepest nesting of arrays and objects in a payload.
pub const MAX_DEPTH: usize = 126;
/// The most ancestors that a fork may have.
pub const MAX_LINEAGE: usize = 4096;
