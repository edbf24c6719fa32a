//! Going over the lines of a range.

use std::sync::Arc;

use super::ends;
use super::scan::{Advance, Scanner};
use super::transcript::Transcript;
use crate::disk::File;
use crate::error::{Error, Result};
use crate::format::control::Gap;
use crate::format::line::{Frame, Link, Whole, kind};

/// Reads the lines of a range that ends at a position: gaps are passed over, and every other bad line is damage.
#[derive(Debug)]
pub(crate) struct Walk {
    source: Transcript,
    scanner: Scanner<Arc<dyn File>>,
}

/// What a [`Walk`] found next.
pub(crate) enum Walked<'a> {
    /// A line that starts at `.0`.
    Line(u64, Whole<'a>),
    /// A range that a repair gave up.
    Gap(Gap),
    End,
}

/// A [`Walked`] without the line.
pub(crate) enum Passed {
    Line(u64),
    Gap(Gap),
    End,
}

impl Walk {
    pub(crate) fn new(source: Transcript, from: Link, to: u64) -> Self {
        Self::with_buffer(source, from, to, Vec::new())
    }

    /// [`Walk::new`] with a buffer that has been used before.
    pub(crate) fn with_buffer(source: Transcript, from: Link, to: u64, buf: Vec<u8>) -> Self {
        let scanner = Scanner::with_buffer(source.file.clone(), from, to, buf);
        Self { source, scanner }
    }

    /// Ends the reading, and gives the buffer back.
    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.scanner.into_buffer()
    }

    /// The file that is read.
    #[inline(always)]
    pub(crate) fn source(&self) -> &Transcript {
        &self.source
    }

    /// The bytes of the line that was passed last, and where its parts are.
    #[inline(always)]
    pub(crate) fn framed(&self) -> (&Frame, &[u8]) {
        self.scanner.framed()
    }

    /// After what was returned last.
    pub(crate) fn link(&self) -> Link {
        self.scanner.link()
    }

    pub(crate) fn next(&mut self) -> Result<Walked<'_>> {
        Ok(match self.advance()? {
            Passed::Line(start) => Walked::Line(start, self.scanner.line()),
            Passed::Gap(gap) => Walked::Gap(gap),
            Passed::End => Walked::End,
        })
    }

    /// [`Walk::next`] for callers that do not want the line at once; [`Walk::framed`] is the line then.
    #[inline(always)]
    pub(crate) fn advance(&mut self) -> Result<Passed> {
        match self.scanner.advance().map_err(|error| self.source.io(error))? {
            Advance::Line(start) => Ok(Passed::Line(start)),
            Advance::End => Ok(Passed::End),
            Advance::Stop(stop) => self.gap(stop.why()).map(Passed::Gap),
        }
    }

    /// The gap that begins where the scanner has stopped.
    #[cold]
    fn gap(&mut self, why: &'static str) -> Result<Gap> {
        let (source, before) = (&self.source, self.scanner.link());
        let at = before.end;
        let len = source.file.len().map_err(|error| source.io(error))?;
        let gap = ends::gap_at(&source.file, at, len).map_err(|error| source.io(error))?;
        let gap = gap.ok_or_else(|| source.corrupt(at, why))?;
        self.scanner.seek(Link { end: gap.to.get(), crc: gap.chain, synced: before.synced, more: false });
        Ok(gap)
    }
}

/// Whether a line of this kind may stand within an extent: an extent holds no head moves, and nothing that matters and is not
/// known.
pub(crate) fn is_inside(kind: &str) -> bool {
    matches!(kind, kind::DATA | kind::LARGE | kind::META | kind::CHECKPOINT | kind::REPAIR) || kind.starts_with('x')
}

/// What is wrong with a line of this kind at `start`, which is not [inside](is_inside).
#[cold]
pub(crate) fn not_inside(source: &Transcript, start: u64, kind: &str) -> Error {
    match kind {
        kind::REWIND | kind::UNDO | kind::REDO => {
            source.corrupt(start, "a head move that the position behind it does not know of")
        }
        other => source.newer(start, other),
    }
}

/// Shows the lines of `[from, to)` to `visit`; gaps are passed over.
pub(crate) fn each_line(
    source: &Transcript,
    from: Link,
    to: u64,
    mut visit: impl FnMut(u64, &Whole<'_>) -> Result<()>,
) -> Result<()> {
    let mut walk = Walk::new(source.clone(), from, to);
    loop {
        match walk.next()? {
            Walked::Line(start, whole) => visit(start, &whole)?,
            Walked::Gap(_) => {}
            Walked::End => return Ok(()),
        }
    }
}
