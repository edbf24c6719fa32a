//! Lines of a file from back to front, each verified alone.

use std::io;
use std::sync::Arc;

use crate::disk::File;
use crate::format::line::{self, Frame, Link, SEED_BACK, Whole};
use crate::ids::Crc;

/// Bytes read at once.
const CHUNK: usize = 64 << 10;

/// Reads the lines of `[from, to)`, last first. `to` is the end of a line, or of anything that is to be searched.
#[derive(Debug)]
pub(crate) struct BackScanner {
    file: Arc<dyn File>,
    /// Where the first line begins, and what it is checked against.
    from: Link,
    /// Everything from here on has been returned.
    end: u64,
    buf: Vec<u8>,
    /// Where `buf` begins in the file. Bytes of `buf` from `end` on are old.
    ///
    /// Invariant: `buf_at + buf.len() >= end`, unless `buf` is empty.
    buf_at: u64,
    /// The line that was returned last, and what it is verified with.
    last: (Frame, Link),
}

/// A candidate: bytes between two line feeds.
pub(crate) enum Back<'a> {
    /// A line that starts at `.0` and verifies.
    Line(u64, Whole<'a>),
    /// Something that starts at `.0` and is no line.
    Bad(u64, &'static str),
    /// `from` was reached.
    End,
}

impl BackScanner {
    pub(crate) fn new(file: Arc<dyn File>, from: Link, to: u64) -> Self {
        Self { file, from, end: to, buf: Vec::new(), buf_at: to, last: (Frame::default(), from) }
    }

    /// The next line towards the front.
    pub(crate) fn next(&mut self) -> io::Result<Back<'_>> {
        if self.end <= self.from.end {
            return Ok(Back::End);
        }
        let (start, end) = (self.find_start()?, self.end);
        let link = if start == self.from.end { Some(self.from) } else { self.seed(start)? };
        let Some(link) = link else {
            self.end = start;
            return Ok(Back::Bad(start, "no checksum stands before the line"));
        };
        self.end = start;
        let checked = line::check_alone(self.slice(start, end), link);
        Ok(match checked {
            Ok(frame) => {
                self.last = (frame, link);
                let (frame, line) = self.framed();
                Back::Line(start, frame.of(line))
            }
            Err(why) => Back::Bad(start, why),
        })
    }

    /// The bytes of the line that was returned last, and where its parts are.
    pub(crate) fn framed(&self) -> (&Frame, &[u8]) {
        let (frame, link) = &self.last;
        (frame, self.slice(link.end, frame.link.end))
    }

    /// What the line that was returned last is verified with; its `end` is where that line starts.
    pub(crate) fn link_before(&self) -> Link {
        self.last.1
    }

    /// Goes on before `end`.
    pub(crate) fn seek(&mut self, end: u64) {
        self.end = end;
        if end < self.buf_at {
            (self.buf, self.buf_at) = (Vec::new(), end);
        }
    }

    /// Where the line that ends at `end` starts: behind the line feed before it.
    fn find_start(&mut self) -> io::Result<u64> {
        // The line feed of the line itself is not the one that is looked for.
        let mut searched = self.end - 1;
        loop {
            let have = self.slice(self.buf_at.max(self.from.end), searched);
            if let Some(at) = memchr::memrchr(b'\n', have) {
                return Ok(self.buf_at.max(self.from.end) + at as u64 + 1);
            }
            searched = searched.min(self.buf_at);
            if searched <= self.from.end {
                return Ok(self.from.end);
            }
            self.fill()?;
        }
    }

    /// The link that stands before a line, in the bytes before it.
    fn seed(&mut self, start: u64) -> io::Result<Option<Link>> {
        let Some(at) = start.checked_sub(SEED_BACK as u64) else { return Ok(None) };
        while self.buf_at > at {
            self.fill()?;
        }
        Ok(line::seed(self.slice(at, start)).map(|crc: Crc| Link::alone(start, crc)))
    }

    /// Reads more of the file before what is in memory.
    fn fill(&mut self) -> io::Result<()> {
        let keep = usize::try_from(self.end.saturating_sub(self.buf_at)).unwrap_or(usize::MAX).min(self.buf.len());
        let more = usize::try_from(self.buf_at).unwrap_or(usize::MAX).min(CHUNK.max(keep));
        let at = self.buf_at - more as u64;
        let mut buf = vec![0; more + keep];
        let (new, old) = buf.split_at_mut(more);
        old.copy_from_slice(&self.buf[..keep]);
        if self.file.read_at(new, at)? < more {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        (self.buf, self.buf_at) = (buf, at);
        Ok(())
    }

    /// Bytes `[from, to)` of the file, as far as they are in memory.
    fn slice(&self, from: u64, to: u64) -> &[u8] {
        let place = |at: u64| usize::try_from(at.saturating_sub(self.buf_at)).unwrap_or(usize::MAX).min(self.buf.len());
        self.buf.get(place(from)..place(to)).unwrap_or_default()
    }
}
