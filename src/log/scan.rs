//! Lines of a file from front to back, through one reused buffer.

use std::io;
use std::ops::Deref;

use crate::disk::File;
use crate::format::line::{self, Alike, Frame, Link, Whole};

/// Bytes read at once: few at first, since often only one line is wanted, then more.
const FIRST_CHUNK: usize = 8 << 10;
const CHUNK: usize = 256 << 10;
/// Where there is much to read, as much as a core's own cache mostly holds; elsewhere a larger buffer costs more than it saves.
const LARGE_CHUNK: usize = 1 << 20;
const MUCH: u64 = 16 << 20;

/// Reads the lines of `[link.end, to)` in order and verifies the chain.
#[derive(Debug)]
pub(crate) struct Scanner<F> {
    file: F,
    to: u64,
    buf: Vec<u8>,
    /// The unread part of `buf`, which holds the file's bytes from `last.link.end` on.
    ///
    /// Invariant: `lo <= hi <= buf.len()`.
    lo: usize,
    hi: usize,
    chunk: usize,
    /// The line that ends at `lo`, after [`Advance::Line`]. Its link is what the next line is checked against, wherever that is.
    last: Frame,
    alike: Alike,
}

/// What a scanner found next.
pub(crate) enum Step<'a> {
    /// A whole line that starts at `.0`.
    Line(u64, Whole<'a>),
    /// `to` was reached, just after a line.
    End,
    /// The bytes at the scanner's place are no line.
    Stop(Stop),
}

/// A [`Step`] without the line.
pub(crate) enum Advance {
    Line(u64),
    End,
    Stop(Stop),
}

/// Why a scanner went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// No line feed up to `to`.
    Torn,
    /// A line that fails this check; its length, line feed included.
    Bad(&'static str, u64),
}

impl Stop {
    /// The reason, for an error.
    pub(crate) fn why(self) -> &'static str {
        match self {
            Self::Torn => "the last line has no end",
            Self::Bad(why, _) => why,
        }
    }
}

impl<F: Deref<Target: File>> Scanner<F> {
    /// Starts after the line that `link` tells of. Bytes from `to` on are not looked at.
    pub(crate) fn new(file: F, link: Link, to: u64) -> Self {
        Self::with_buffer(file, link, to, Vec::new())
    }

    /// [`Scanner::new`] with a buffer that has been used before.
    pub(crate) fn with_buffer(file: F, link: Link, to: u64, buf: Vec<u8>) -> Self {
        let (last, alike) = (Frame::behind(link), Alike::behind(link.crc));
        Self { file, to, buf, lo: 0, hi: 0, chunk: FIRST_CHUNK, last, alike }
    }

    /// Reads so many bytes at first, and more only when they do not hold what is wanted.
    pub(crate) fn reading_first(mut self, bytes: usize) -> Self {
        self.chunk = bytes;
        self
    }

    /// Ends the reading, and gives the buffer back.
    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.buf
    }

    /// The link after the last line that was returned.
    #[inline(always)]
    pub(crate) fn link(&self) -> Link {
        self.last.link
    }

    /// Goes on at `link`, somewhere else in the file.
    pub(crate) fn seek(&mut self, link: Link) {
        let skip = link.end.checked_sub(self.last.link.end).and_then(|skip| usize::try_from(skip).ok());
        match skip.filter(|skip| *skip <= self.hi - self.lo) {
            Some(skip) => self.lo += skip,
            None => (self.lo, self.hi) = (0, 0),
        }
        self.last = Frame::behind(link);
    }

    /// Reads and checks the next line.
    pub(crate) fn next(&mut self) -> io::Result<Step<'_>> {
        Ok(match self.advance()? {
            Advance::Line(start) => Step::Line(start, self.line()),
            Advance::End => Step::End,
            Advance::Stop(stop) => Step::Stop(stop),
        })
    }

    /// [`Scanner::next`] for callers that do not want the line at once; [`Scanner::line`] is the line then.
    #[inline(always)]
    pub(crate) fn advance(&mut self) -> io::Result<Advance> {
        let start = self.last.link.end;
        if start >= self.to {
            return Ok(Advance::End);
        }
        let Some(len) = self.fill_line()? else { return Ok(Advance::Stop(self.no_line())) };
        match line::check(&self.buf[self.lo..self.lo + len], self.last.link, &mut self.alike) {
            Ok(frame) => {
                self.last = frame;
                self.lo += len;
                Ok(Advance::Line(start))
            }
            Err(why) => Ok(Advance::Stop(Stop::Bad(why, len as u64))),
        }
    }

    /// The line that the last call advanced over.
    #[inline(always)]
    pub(crate) fn line(&self) -> Whole<'_> {
        let (frame, line) = self.framed();
        frame.of(line)
    }

    /// The bytes of [`Scanner::line`], and where its parts are, for callers that do not want all of them.
    #[inline(always)]
    pub(crate) fn framed(&self) -> (&Frame, &[u8]) {
        (&self.last, &self.buf[self.lo - self.last.len..self.lo])
    }

    /// The bytes of the next line, unchecked, or `None` when there is no line feed.
    pub(crate) fn peek(&mut self) -> io::Result<Option<&[u8]>> {
        let len = if self.last.link.end < self.to { self.fill_line()? } else { None };
        Ok(len.map(|len| &self.buf[self.lo..self.lo + len]))
    }

    fn no_line(&self) -> Stop {
        if self.hi - self.lo >= line::MAX_LEN {
            Stop::Bad("the line is longer than 1 GiB", line::MAX_LEN as u64)
        } else {
            Stop::Torn
        }
    }

    /// Makes a whole line stand at `lo` and returns its length, or `None` when there is none before `to`.
    #[inline(always)]
    fn fill_line(&mut self) -> io::Result<Option<usize>> {
        match memchr::memchr(b'\n', &self.buf[self.lo..self.hi]) {
            Some(at) => Ok(Some(at + 1).filter(|len| *len <= line::MAX_LEN)),
            None => self.fill_until_line(),
        }
    }

    /// [`Scanner::fill_line`] where what was read has no line feed.
    #[cold]
    fn fill_until_line(&mut self) -> io::Result<Option<usize>> {
        loop {
            let searched = self.hi - self.lo;
            if searched >= line::MAX_LEN || !self.fill()? {
                return Ok(None);
            }
            let unread = &self.buf[self.lo..self.hi];
            if let Some(at) = memchr::memchr(b'\n', &unread[searched..]) {
                return Ok(Some(searched + at + 1).filter(|len| *len <= line::MAX_LEN));
            }
        }
    }

    /// Reads more of the file behind what is unread. False when there is no more.
    fn fill(&mut self) -> io::Result<bool> {
        let unread = self.hi - self.lo;
        self.buf.copy_within(self.lo..self.hi, 0);
        (self.lo, self.hi) = (0, unread);
        // Twice the line's part that is known: a long line is read in few steps and copied few times.
        let room = unread.max(self.chunk);
        let from = self.last.link.end + unread as u64;
        let most = if self.to.saturating_sub(from) >= MUCH { LARGE_CHUNK } else { CHUNK };
        self.chunk = (self.chunk * 4).min(most);
        let want = usize::try_from(self.to.saturating_sub(from)).unwrap_or(usize::MAX).min(room);
        if self.buf.len() < unread + want {
            self.buf.resize(unread + want, 0);
        }
        let got = self.file.read_at(&mut self.buf[unread..unread + want], from)?;
        self.hi += got;
        Ok(got > 0)
    }
}
