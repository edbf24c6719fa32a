//! One error type: each variant says what to do and whether anything was written.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::ids::{Offset, SessionKey};

/// What this crate's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, with the facts to find the place.
///
/// Variants are part of the interface; messages are for people and may change. [`Error::kind`] is for deciding what
/// to do next.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A name breaks the rules for its kind. Nothing was written.
    BadName {
        /// What the name was meant for.
        named: Named,
        /// The name as it was given, shortened.
        name: String,
        /// The rule it breaks.
        why: &'static str,
    },
    /// An argument has a value that makes no sense. Nothing was written.
    BadArgument {
        /// What is wrong, and what would be right.
        why: String,
    },
    /// A payload is not one JSON value. Nothing was written.
    BadJson {
        /// The JSON parser's own words, with the place.
        why: String,
    },
    /// A payload nests deeper than [`MAX_DEPTH`](crate::MAX_DEPTH). Nothing was written.
    TooDeep {
        /// The deepest nesting that is allowed.
        max: usize,
    },
    /// A line would be longer than the store's limit. Nothing was written.
    TooLarge {
        /// Bytes that the line would have.
        len: u64,
        /// The most that is allowed.
        max: u64,
    },
    /// A fork's chain of ancestors is longer than [`MAX_LINEAGE`](crate::MAX_LINEAGE) or bites its own tail.
    /// Nothing was written.
    Lineage {
        /// The file whose base cannot be followed.
        path: PathBuf,
        /// What is wrong with the chain.
        why: &'static str,
    },
    /// The store has no such session, transcript, record or file. Nothing was written.
    NotFound {
        /// What was looked for.
        what: Named,
        /// Its name.
        name: String,
    },
    /// The name is taken. Nothing was written.
    Exists {
        /// The session that has the name.
        key: SessionKey,
    },
    /// There is nothing to undo or redo. Nothing was written.
    NothingTo {
        /// `undo` or `redo`.
        what: &'static str,
    },
    /// Another handle holds the lock that this call needs. Nothing was written.
    Locked {
        /// What is locked.
        path: PathBuf,
        /// The process that said it holds the lock, when it could be read.
        holder: Option<u32>,
    },
    /// An earlier sync or cut of this handle failed, so what is on stable storage is unknown. Every later call fails
    /// alike; open the session again, which writes again what is doubtful.
    Poisoned {
        /// The transcript.
        path: PathBuf,
    },
    /// The file has something at its end that this handle did not write and that does not continue the chain, or the
    /// process was forked. Nothing was written; open the session again.
    Stale {
        /// The transcript.
        path: PathBuf,
        /// What was found.
        why: &'static str,
    },
    /// No space is left. What had been written of this call was cut off again, and the handle lives.
    Full {
        /// The file that could not grow.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Stored bytes fail a check. Nothing was changed on disk, and what is readable stays readable.
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where the bad record begins.
        at: Offset,
        /// The check that failed.
        why: &'static str,
    },
    /// The bytes are whole, but a newer version of this crate wrote them and says that they matter. Nothing was
    /// changed.
    Newer {
        /// The file.
        path: PathBuf,
        /// Where the record begins.
        at: Offset,
        /// What is not known here.
        what: String,
    },
    /// The operating system refused.
    Io {
        /// What was being done, as a verb: `open`, `sync`.
        op: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// What to do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// Fix the call.
    Caller,
    /// Name something that exists.
    NotFound,
    /// Wait, or stop the other holder.
    Locked,
    /// Open the session again and go on.
    Reopen,
    /// Run `verify`, then `repair`, or restore.
    Data,
    /// Use a newer version of this crate.
    Newer,
    /// Free space, mend the disk or the permissions, and try again.
    System,
}

/// What a name names, in errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Named {
    /// A store directory.
    Store,
    /// A project.
    Project,
    /// A session.
    Session,
    /// A side transcript.
    Side,
    /// A record, by id or number.
    Record,
    /// A place in history.
    Position,
    /// A file's uid.
    Uid,
    /// A time.
    Time,
    /// A page cursor.
    Cursor,
    /// A stored object.
    Object,
    /// A checkpoint.
    Checkpoint,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Store => "store",
            Self::Project => "project",
            Self::Session => "session",
            Self::Side => "side transcript",
            Self::Record => "record",
            Self::Position => "position",
            Self::Uid => "uid",
            Self::Time => "time",
            Self::Cursor => "cursor",
            Self::Object => "object",
            Self::Checkpoint => "checkpoint",
        })
    }
}

impl Error {
    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::BadName { .. }
            | Self::BadArgument { .. }
            | Self::BadJson { .. }
            | Self::TooDeep { .. }
            | Self::TooLarge { .. }
            | Self::Exists { .. }
            | Self::NothingTo { .. } => Kind::Caller,
            Self::NotFound { .. } => Kind::NotFound,
            Self::Locked { .. } => Kind::Locked,
            Self::Poisoned { .. } | Self::Stale { .. } => Kind::Reopen,
            Self::Corrupt { .. } | Self::Lineage { .. } => Kind::Data,
            Self::Newer { .. } => Kind::Newer,
            Self::Full { .. } | Self::Io { .. } => Kind::System,
        }
    }

    pub(crate) fn bad_name(named: Named, name: &str, why: &'static str) -> Self {
        const SHOWN: usize = 80;
        let mut name: String = name.to_owned();
        if let Some((cut, _)) = name.char_indices().nth(SHOWN) {
            name.truncate(cut);
            name.push('…');
        }
        Self::BadName { named, name, why }
    }

    pub(crate) fn not_found(what: Named, name: impl fmt::Display) -> Self {
        Self::NotFound { what, name: name.to_string() }
    }

    pub(crate) fn corrupt(path: &Path, at: u64, why: &'static str) -> Self {
        Self::Corrupt { path: path.to_owned(), at: Offset(at), why }
    }

    /// An operating system error, as [`Error::Full`] where it says that no space is left.
    pub(crate) fn io(op: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path: path.to_owned(), source },
            _ => Self::Io { op, path: path.to_owned(), source },
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadName { named, name, why } => write!(f, "{name:?} cannot be the name of a {named}: {why}"),
            Self::BadArgument { why } => f.write_str(why),
            Self::BadJson { why } => write!(f, "not one JSON value: {why}"),
            Self::TooDeep { max } => write!(f, "the JSON value nests deeper than {max} levels"),
            Self::TooLarge { len, max } => write!(f, "the line would have {len} bytes, more than the {max} allowed"),
            Self::Lineage { path, why } => {
                write!(f, "{}: the chain of forks cannot be followed: {why}", path.display())
            }
            Self::NotFound { what, name } => write!(f, "there is no {what} {name}"),
            Self::Exists { key } => write!(f, "session {key} exists already"),
            Self::NothingTo { what } => write!(f, "there is nothing to {what}"),
            Self::Locked { path, holder: Some(pid) } => {
                write!(f, "{} is being written by process {pid}; wait for it or stop it", path.display())
            }
            Self::Locked { path, holder: None } => {
                write!(f, "{} is in use by another process; wait for it or stop it", path.display())
            }
            Self::Poisoned { path } => {
                write!(f, "{}: an earlier write failed; open the session again to recover", path.display())
            }
            Self::Stale { path, why } => write!(f, "{}: {why}; open the session again", path.display()),
            Self::Full { path, source } => write!(f, "{}: no space left: {source}", path.display()),
            Self::Corrupt { path, at, why } => {
                write!(f, "{}: damaged at byte {at}: {why}; `verify` shows what is readable", path.display())
            }
            Self::Newer { path, at, what } => {
                write!(f, "{}: byte {at}: {what} needs a newer version of forklog", path.display())
            }
            Self::Io { op, path, source } => write!(f, "cannot {op} {}: {source}", path.display()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Full { source, .. } | Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
