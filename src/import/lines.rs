//! The lines of one file, each as a record with an id, or as a bad line that is kept.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use memchr::memchr;

use crate::error::{Error, Result};
use crate::format::json;
use crate::format::members::{Scan, cut, decode, text};
use crate::ids::{Offset, RecordId};
use crate::time::Timestamp;

/// The longest line that is read unless the caller says otherwise: 1 GiB.
const MAX_LINE: u64 = 1 << 30;
/// How much of a longer line is kept.
const KEPT: usize = 1 << 20;
/// A buffer that grew past this for one line is given back before the next.
const LARGE: usize = 8 << 20;
/// The longest id of a file's own that is used as it is; it leaves room for `#` and a number.
const MAX_OWN_ID: usize = 100;

/// Reads a file of JSON lines from its start, in one pass and with one line in memory.
///
/// Not an [`Iterator`], since each [`Line`] borrows the one buffer:
///
/// ```no_run
/// # fn main() -> forklog::Result<()> {
/// use forklog::import::{Line, Lines};
///
/// let mut lines = Lines::open("session.jsonl")?;
/// while let Some(line) = lines.next()? {
///     match line {
///         Line::Record(record) => println!("{} {}", record.id, record.payload.len()),
///         Line::Bad(bad) => eprintln!("line {}: {}", bad.number, bad.why),
///     }
/// }
/// # Ok(())
/// # }
/// ```
///
/// A byte order mark before the first line, a carriage return before a newline and lines of nothing but white space
/// are passed over. The last line needs no newline.
#[derive(Debug)]
pub struct Lines<R = BufReader<File>> {
    file: R,
    path: PathBuf,
    max_line: u64,
    /// Where the next line begins.
    offset: u64,
    number: u64,
    line: Vec<u8>,
    ids: Ids,
}

/// One line of a file.
#[derive(Debug)]
pub enum Line<'a> {
    /// One JSON value.
    Record(Record<'a>),
    /// Anything else, to be reported and put aside.
    Bad(Bad<'a>),
}

/// A line that is a record.
#[derive(Debug)]
pub struct Record<'a> {
    /// The line's number in the file, from 1.
    pub number: u64,
    /// Where the line begins.
    pub offset: Offset,
    /// The JSON value, checked and ready to be appended: without white space around it, on one line.
    pub payload: Cow<'a, [u8]>,
    /// The name of this line, the same in every import of this file and no other line's in it.
    ///
    /// The line's own `uuid`, or else `line-` and a hash of the payload. The second, third, … line that would get the
    /// same name has `#2`, `#3`, … behind it. So a file that has grown since the last import gives the ids it gave
    /// then, and new ones for the new lines only.
    pub id: RecordId,
    /// The line's own `timestamp`; without one, take that of the record before.
    pub at: Option<Timestamp>,
}

/// A line that is no record.
#[derive(Debug)]
pub struct Bad<'a> {
    /// The line's number in the file, from 1.
    pub number: u64,
    /// Where the line begins.
    pub offset: Offset,
    /// The line's length without its newline.
    pub len_bytes: u64,
    /// What is wrong with it.
    pub why: String,
    /// The line's bytes without the newline: all of them, or the first MiB of a line over the limit.
    pub bytes: &'a [u8],
    /// Whether it is the last line and has no newline, so that a program may be about to write the rest of it, or
    /// was stopped in the middle.
    pub torn: bool,
}

impl Lines {
    /// Opens the file at `path`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|error| Error::io("open", path, error))?;
        Ok(Self::new(BufReader::with_capacity(1 << 18, file), path))
    }
}

impl<R: BufRead> Lines<R> {
    /// Reads `file`, which stands at its start. `path` is for errors.
    pub fn new(file: R, path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { file, path, max_line: MAX_LINE, offset: 0, number: 0, line: Vec::new(), ids: Ids::default() }
    }

    /// Calls lines of more than `bytes` bytes bad, instead of those over 1 GiB.
    #[must_use]
    pub fn max_line(mut self, bytes: u64) -> Self {
        self.max_line = bytes;
        self
    }

    /// Bytes of the file that have been read.
    #[must_use]
    pub fn position(&self) -> Offset {
        Offset::new(self.offset)
    }

    /// The next line; `None` at the end of the file.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the file cannot be read on. What was read before stands.
    #[expect(clippy::should_implement_trait, reason = "lines borrow the reader's buffer")]
    pub fn next(&mut self) -> Result<Option<Line<'_>>> {
        let (offset, len_bytes, whole) = loop {
            let offset = self.offset;
            let Some((len_bytes, whole)) = self.fill()? else { return Ok(None) };
            self.number += 1;
            if len_bytes > self.max_line || !self.body().trim_ascii().is_empty() {
                break (Offset::new(offset), len_bytes, whole);
            }
        };
        let number = self.number;
        let bad = |why: String, bytes| Line::Bad(Bad { number, offset, len_bytes, why, bytes, torn: !whole });
        if len_bytes > self.max_line {
            return Ok(Some(bad(format!("longer than {} bytes", self.max_line), &self.line)));
        }
        let mark = self.line.len() - self.body().len();
        let body = self.line.get(mark..).unwrap_or_default();
        Ok(Some(match json::check(body) {
            Ok(payload) => {
                let (uuid, at) = own_names(&payload);
                match self.ids.name(uuid, &payload) {
                    Ok(id) => Line::Record(Record { number, offset, payload, id, at }),
                    Err(error) => bad(error.to_string(), body),
                }
            }
            Err(error) => bad(why_bad(body, &error), body),
        }))
    }

    /// The line without the mark and the carriage return.
    fn body(&self) -> &[u8] {
        let line = self.line.as_slice();
        if self.number == 1 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line }
    }

    /// Reads one line into `self.line`: its length without the newline, and whether it had one. Of a line over the
    /// limit only the start is kept.
    fn fill(&mut self) -> Result<Option<(u64, bool)>> {
        self.line.clear();
        if self.line.capacity() > LARGE {
            self.line = Vec::new();
        }
        let mut len = 0_u64;
        loop {
            let part = match self.file.fill_buf() {
                Ok(part) => part,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::io("read", &self.path, error)),
            };
            if part.is_empty() {
                return Ok((len > 0).then_some((len, false)));
            }
            let newline = memchr(b'\n', part);
            let taken = part.get(..newline.unwrap_or(part.len())).unwrap_or_default();
            len += taken.len() as u64;
            if len <= self.max_line {
                self.line.extend_from_slice(taken);
            } else {
                let room = KEPT.saturating_sub(self.line.len()).min(taken.len());
                self.line.extend_from_slice(taken.get(..room).unwrap_or_default());
                self.line.truncate(KEPT);
            }
            let used = taken.len() + usize::from(newline.is_some());
            self.file.consume(used);
            self.offset += used as u64;
            if newline.is_some() {
                return Ok(Some((len, true)));
            }
        }
    }
}

/// What a line calls itself.
fn own_names(payload: &[u8]) -> (Option<&[u8]>, Option<Timestamp>) {
    let mut scan = Scan::new(payload);
    let (mut uuid, mut at) = (None, None);
    if scan.enter(b'{') {
        while let Some(key) = scan.key() {
            let value = scan.value();
            match key {
                b"uuid" => uuid = value,
                b"timestamp" => at = value,
                _ => {}
            }
        }
    }
    (uuid, decode(text(at), 64).parse().ok())
}

/// What is wrong, in words that help more than the parser's where the cause is a known one.
fn why_bad(body: &[u8], error: &Error) -> String {
    match body {
        _ if body.iter().all(|c| *c == 0) => "nothing but NUL bytes, as a power cut leaves them".to_owned(),
        _ if std::str::from_utf8(body).is_err() => "not UTF-8".to_owned(),
        _ => error.to_string(),
    }
}

/// The ids given so far, as hashes: some 16 bytes for each line of the file.
#[derive(Debug, Default)]
struct Ids {
    given: HashSet<u64>,
    /// How often each name that came more than once has been given.
    again: HashMap<u64, u64>,
}

impl Ids {
    fn name(&mut self, uuid: Option<&[u8]>, line: &[u8]) -> Result<RecordId> {
        let own = cut(text(uuid), MAX_OWN_ID + 1);
        let name = match own {
            own if own.len() <= MAX_OWN_ID && RecordId::new(&*own).is_ok() => own,
            _ => format!("line-{}", blake3::hash(line).to_hex().get(..32).unwrap_or_default()).into(),
        };
        if self.given.insert(key(&name)) {
            return RecordId::new(name);
        }
        let count = self.again.entry(key(&name)).or_insert(1);
        loop {
            *count += 1;
            let numbered = format!("{name}#{count}");
            if self.given.insert(key(&numbered)) {
                return RecordId::new(numbered);
            }
        }
    }
}

fn key(name: &str) -> u64 {
    blake3::hash(name.as_bytes()).as_bytes().first_chunk().map_or(0, |first| u64::from_ne_bytes(*first))
}

#[cfg(test)]
mod tests;
