//! Reading what other programs wrote: which files there are, and their lines one by one.
//!
//! Files of the user's, outside the store, so they are opened with the standard library, and never written.
//! [`Store::import`](crate::Store::import) brings them into a store.
//!
//! | format | project | session | side transcript |
//! |---|---|---|---|
//! | Claude Code, `SLUG/SESSION.jsonl` | the slug | the file's stem | |
//! | `SLUG/SESSION/subagents/agent-X.jsonl` | the slug | SESSION | `subagents/agent-X` |
//! | `SLUG/agent-X.jsonl` (older) | the slug | the first `sessionId` in the file | `agent-X` |
//! | Codex, `rollout-TIME-UUID.jsonl` | the working directory, spelled as Claude Code spells slugs | the UUID | |
//! | other JSONL | the directory's name | the file's stem | |
//!
//! A stem that is no [`SessionId`](crate::SessionId) has its bad characters replaced by `-` and a hash of the whole
//! put behind it, so that two stems stay two ids. The same file gets the same names in every import.

mod discover;
mod lines;
mod run;

pub use discover::{Discovery, Format, Source, discover};
pub use lines::{Bad, Line, Lines, Record};
pub use run::{BadLine, FailedFile, Imported};
