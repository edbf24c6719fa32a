//! An embedded storage engine for agent transcripts.

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
mod session;
mod store;
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
    OwnedRecord, Reader, Record, Records, RecordsBack, Scope, Session, SessionFiles, Sharing, Taken,
};
pub use store::{
    Checked, Cleaned, Collected, Damage, Grep, NewSession, Progress, Repaired, Report, Rerooted, Store, StoreOptions,
};
pub use time::{Env, OsEnv, Timestamp};

/// The deepest nesting of arrays and objects in a payload.
pub const MAX_DEPTH: usize = 126;
/// The most ancestors that a fork may have.
pub const MAX_LINEAGE: usize = 4096;
