//! Where a transcript ends, and whether what stands there is damage or what a crash left (FORMAT.md, section 6).

use std::path::Path;

use super::back::{Back, BackScanner};
use super::scan::{Scanner, Step, Stop};
use crate::disk::File;
use crate::error::{Error, Result};
use crate::format::line::{self, Link, SEED_BACK, Whole, kind};

/// The end of a transcript.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    /// After the last line that counts.
    pub(crate) link: Link,
    /// The promise: everything before it was on stable storage.
    pub(crate) promise: u64,
    /// Start of the last line that ends at or before the promise: from here on an unclean end is written again.
    pub(crate) doubtful: u64,
    /// The file's length.
    pub(crate) len: u64,
    /// Whether the bytes after the last line are only spaces that a writer laid ahead, or none.
    pub(crate) padding: bool,
    /// Whether the last line says that a writer closed, and nothing follows.
    pub(crate) closed: bool,
}

/// Finds the end of `file`, reading lines from `from` on, and shows every line that counts to `visit`, in order.
///
/// `from` must be after a line that is known to be good and not inside a batch. Cost: one read of what follows `from`, two of
/// batches that nobody promised.
///
/// # Errors
///
/// [`Error::Corrupt`] for a bad line before the promise; [`Error::Io`]; whatever `visit` returns.
pub(crate) fn find(
    file: &dyn File,
    path: &Path,
    from: Link,
    mut visit: impl FnMut(u64, &Whole<'_>) -> Result<()>,
) -> Result<Ends> {
    let io = |source| Error::io("read", path, source);
    let len = file.len().map_err(io)?;
    let early = promise_at_end(file, from, len).map_err(io)?;
    let mut scanner = Scanner::new(file, from, len);
    let mut state = Ends { link: from, promise: from.synced, doubtful: from.end, len, padding: false, closed: false };
    // Lines before this place are known to be in complete batches.
    let mut complete = from.end.max(early);
    let stop = loop {
        match scanner.next().map_err(io)? {
            Step::End => break None,
            Step::Stop(stop) => break Some(stop),
            Step::Line(start, whole) => {
                if whole.more && whole.link.end >= complete {
                    match batch_end(file, whole.link, len).map_err(io)? {
                        Some(end) => complete = end,
                        None => break batch_stop(file, path, start, len, early)?,
                    }
                }
                state.closed = !whole.more && whole.kind == kind::CLOSE && whole.link.synced == start;
                state.promise = whole.link.synced;
                visit(start, &whole)?;
                state.link = whole.link;
                if start < state.promise.max(early) {
                    state.doubtful = start;
                }
            }
        }
    };
    let end = state.link.end;
    state.padding = end == len || only_spaces(file, end, len).map_err(io)?;
    state.closed &= end == len;
    if let Some(stop) = stop.filter(|_| !state.padding) {
        let promise = state.promise.max(promise_after(file, end, len).map_err(io)?);
        if end < promise {
            return Err(Error::corrupt(path, end, stop.why()));
        }
        state.promise = promise;
    }
    state.promise = state.promise.min(end);
    Ok(state)
}

/// What an incomplete batch at `start` is: a reason to stop, or damage.
fn batch_stop(file: &dyn File, path: &Path, start: u64, len: u64, early: u64) -> Result<Option<Stop>> {
    let io = |source| Error::io("read", path, source);
    if start < early.max(promise_after(file, start, len).map_err(io)?) {
        return Err(Error::corrupt(path, start, "a batch is not complete"));
    }
    Ok(Some(Stop::Torn))
}

/// The end of the batch that goes on at `link`, or `None` when it is not complete.
fn batch_end(file: &dyn File, link: Link, len: u64) -> std::io::Result<Option<u64>> {
    let mut scanner = Scanner::new(file, link, len);
    loop {
        match scanner.next()? {
            Step::Line(_, whole) if whole.more => {}
            Step::Line(_, whole) => return Ok(Some(whole.link.end)),
            Step::End | Step::Stop(_) => return Ok(None),
        }
    }
}

/// The promise of the last line of the file, if that line verifies alone; 0 otherwise.
fn promise_at_end(file: &dyn File, from: Link, len: u64) -> std::io::Result<u64> {
    match BackScanner::new(file, from, len).next()? {
        Back::Line(_, whole) => Ok(whole.link.synced),
        Back::Bad(..) | Back::End => Ok(0),
    }
}

/// The greatest promise among lines in `[from, len)` that verify alone.
pub(crate) fn promise_after(file: &dyn File, from: u64, len: u64) -> std::io::Result<u64> {
    let mut most = 0;
    lone_lines(file, from, len, |_, whole| {
        most = most.max(whole.link.synced);
        true
    })?;
    Ok(most)
}

/// Shows every line in `(from, len)` that verifies alone to `visit`, in order, until it returns false.
///
/// A line is looked for behind every line feed in `[from, len)`.
pub(crate) fn lone_lines(
    file: &dyn File,
    from: u64,
    len: u64,
    mut visit: impl FnMut(u64, &Whole<'_>) -> bool,
) -> std::io::Result<()> {
    let mut at = from;
    let mut scanner = Scanner::new(file, Link::alone(at, crate::Crc(0)), len);
    while let Some(next) = skip_line(&mut scanner, at)? {
        at = next;
        let Some(seed) = seed_before(file, at)? else { continue };
        scanner.seek(Link::alone(at, seed));
        // Lines that follow a good one are in its chain: no need to find them one by one.
        loop {
            match scanner.next()? {
                Step::Line(start, whole) => {
                    at = whole.link.end;
                    if !visit(start, &whole) {
                        return Ok(());
                    }
                }
                Step::End => return Ok(()),
                Step::Stop(_) => break,
            }
        }
    }
    Ok(())
}

/// Where the next line would start behind the one at `at`: behind the next line feed.
fn skip_line(scanner: &mut Scanner<'_>, at: u64) -> std::io::Result<Option<u64>> {
    // A line that cannot fit its link is reported with its length, which is all that is wanted here.
    scanner.seek(Link { end: at, crc: crate::Crc(0), synced: u64::MAX });
    Ok(match scanner.next()? {
        Step::Stop(Stop::Bad(_, len)) => Some(at + len),
        Step::Line(_, whole) => Some(whole.link.end),
        Step::End | Step::Stop(Stop::Torn) => None,
    })
}

/// The crc in the bytes before `at`.
pub(crate) fn seed_before(file: &dyn File, at: u64) -> std::io::Result<Option<crate::Crc>> {
    let mut bytes = [0; SEED_BACK as usize];
    let Some(from) = at.checked_sub(SEED_BACK) else { return Ok(None) };
    let got = file.read_at(&mut bytes, from)?;
    Ok(if got == bytes.len() { line::seed(&bytes) } else { None })
}

fn only_spaces(file: &dyn File, from: u64, len: u64) -> std::io::Result<bool> {
    let mut buf = [0; 4096];
    let mut at = from;
    while at < len {
        let got = file.read_at(&mut buf, at)?;
        if got == 0 || buf[..got].iter().any(|&c| c != b' ') {
            return Ok(got == 0);
        }
        at += got as u64;
    }
    Ok(true)
}
