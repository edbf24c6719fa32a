//! An embedded storage engine for agent transcripts.

pub mod digest;
pub mod disk;
mod error;
mod format;
mod ids;
pub mod import;
mod log;
mod time;

pub use digest::{AgentDigest, Digest, NoDigest, Summary};
pub use error::{Error, Kind, Named, Result};
pub use ids::{Crc, Offset, Position, ProjectName, RecordId, Seq, SessionId, SessionKey, SideName, Uid};
pub use time::{Env, OsEnv, Timestamp};

/// The deepest nesting of arrays and objects in a payload.
pub const MAX_DEPTH: usize = 126;
/// The most ancestors that a fork may have.
pub const MAX_LINEAGE: usize = 4096;
