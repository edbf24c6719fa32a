//! Records on their way in and out.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::error::{Error, Result};
use crate::format::json;
use crate::format::line::Frame;
use crate::ids::{Position, RecordId, Seq, Uid};
use crate::log::transcript::Tip;
use crate::time::Timestamp;

/// A record to append: a JSON value, and perhaps an id and a time.
#[derive(Clone, Debug)]
pub struct NewRecord<'a> {
    pub(crate) payload: Cow<'a, [u8]>,
    pub(crate) id: Option<RecordId>,
    pub(crate) at: Option<Timestamp>,
}

impl<'a> NewRecord<'a> {
    /// A record of any value that serialises to JSON.
    ///
    /// # Errors
    ///
    /// [`Error::BadJson`] when the value refuses (a map with keys that are no strings, say), [`Error::TooDeep`].
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        // So that a message of ordinary length is not moved again and again while it grows.
        let mut payload = Vec::with_capacity(256);
        json::write(&mut payload, value)?;
        Ok(Self { payload: Cow::Owned(payload), id: None, at: None })
    }

    /// A record of JSON text that has been checked already.
    ///
    /// # Errors
    ///
    /// [`Error::TooDeep`].
    pub fn raw(value: &'a RawValue) -> Result<Self> {
        Ok(Self { payload: json::normalise(value.get().as_bytes())?, id: None, at: None })
    }

    /// A record of JSON text, which is checked first.
    ///
    /// # Errors
    ///
    /// [`Error::BadJson`] unless `text` is exactly one JSON value, [`Error::TooDeep`].
    pub fn json(text: &'a [u8]) -> Result<Self> {
        Ok(Self { payload: json::check(text)?, id: None, at: None })
    }

    /// Names the record. A record whose id the view holds already is not appended again.
    #[must_use]
    pub fn id(mut self, id: RecordId) -> Self {
        self.id = Some(id);
        self
    }

    /// Says when the record came about; otherwise that is the time of the append.
    #[must_use]
    pub fn at(mut self, at: Timestamp) -> Self {
        self.at = Some(at);
        self
    }
}

/// What became of a record that was to be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It was appended, and ends here.
    New(Position),
    /// The view holds a record with its id; nothing was written.
    Duplicate,
}

impl Appended {
    /// The position after the record, if it was appended.
    #[must_use]
    pub fn position(self) -> Option<Position> {
        match self {
            Self::New(position) => Some(position),
            Self::Duplicate => None,
        }
    }
}

/// A record of a view, as bytes in the reader's buffer.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    pub(super) seq: Seq,
    /// The transcript that has the line.
    pub(super) uid: Uid,
    /// The newest head move before it there.
    pub(super) moved: u64,
    /// Where the parts of `line` are.
    pub(super) frame: &'a Frame,
    /// With its line feed.
    pub(super) line: &'a [u8],
    /// The payload, where the line has only its name.
    pub(super) content: Option<&'a [u8]>,
}

impl<'a> Record<'a> {
    /// The record's number in its view.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// When it was appended; on import, when the message was made.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        Timestamp::of_line(self.frame.at(self.line))
    }

    /// The id that the caller gave it.
    #[must_use]
    pub fn id(&self) -> Option<&'a str> {
        self.frame.id(self.line)
    }

    /// The caller's JSON value, as text.
    #[must_use]
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.content.unwrap_or_else(|| self.frame.payload(self.line))
    }

    /// The place just after the record: fork or rewind to it to keep the record.
    #[must_use]
    pub fn position(&self) -> Position {
        Tip { link: self.frame.link, records: self.seq.get() + 1, moved: self.moved }.position(self.uid)
    }

    /// The whole line as it stands in the file, without its line feed. Of a payload that [spilled over](crate::StoreOptions::spill_over), it
    /// has only the object's name.
    #[must_use]
    pub fn line(&self) -> &'a [u8] {
        self.line.strip_suffix(b"\n").unwrap_or(self.line)
    }

    /// The value, read as a `T`.
    ///
    /// # Errors
    ///
    /// [`Error::BadJson`] when it is no `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(self.payload()).map_err(|error| Error::BadJson { why: error.to_string() })
    }

    /// A copy that outlives the reader's buffer.
    #[must_use]
    pub fn to_owned(&self) -> OwnedRecord {
        OwnedRecord {
            seq: self.seq,
            at: self.at(),
            id: self.id().map(str::to_owned),
            payload: self.payload().to_vec(),
            position: self.position(),
        }
    }
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("seq", &self.seq())
            .field("at", &self.at())
            .field("id", &self.id())
            .field("payload", &String::from_utf8_lossy(self.payload()))
            .field("position", &self.position())
            .finish()
    }
}

/// A copy of a [`Record`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedRecord {
    /// The record's number in its view.
    pub seq: Seq,
    /// When it was appended.
    pub at: Timestamp,
    /// The id that the caller gave it.
    pub id: Option<String>,
    /// The caller's JSON value, as text.
    pub payload: Vec<u8>,
    /// The place just after the record.
    pub position: Position,
}

/// A place that a caller names, to fork or rewind there. What it names is the last record that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// The newest record.
    Head,
    /// The record with this number in the view.
    Seq(Seq),
    /// The record of the view with this id.
    Id(RecordId),
    /// A position that was returned earlier, in an abandoned tail too.
    Position(Position),
}
