//! Sessions as their users see them: one writes through a [`Session`], and reads through a [`Reader`].

mod files;
mod lock;
mod options;
mod presence;
mod reader;
mod record;
mod writer;

pub use files::{Checkpoint, FilesMoved, FilesTarget, Scope, SessionFiles, Taken};
pub(crate) use lock::{Lock, PATIENCE, WriteLock};
pub use options::{Durability, OpenOptions, Sharing};
pub(crate) use presence::{Presence, marker_uid};
pub use reader::{Followed, Follower, Parting, Reader, Records, RecordsBack};
pub use record::{Appended, At, NewRecord, OwnedRecord, Record};
pub use writer::Session;
pub(crate) use writer::{Core, check_meta, open_named};
