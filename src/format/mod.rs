//! Bytes to values and back: the code beside FORMAT.md.
//!
//! Nothing here opens a file, and nothing panics, whatever the bytes hold. What to do about a bad byte is the caller's
//! business.

pub(crate) mod bytes;
pub(crate) mod control;
pub(crate) mod entry;
pub(crate) mod files;
pub(crate) mod journal;
pub(crate) mod json;
pub(crate) mod line;
pub(crate) mod map;
pub(crate) mod members;
pub(crate) mod name;
pub(crate) mod pack;
pub(crate) mod run;
pub(crate) mod stat;
pub(crate) mod tail;
pub(crate) mod text;
pub(crate) mod tree;

/// The format that this version writes.
pub(crate) const VERSION: u32 = 1;
