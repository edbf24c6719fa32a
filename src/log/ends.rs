//! Where a transcript ends, and whether what stands there is damage or what a crash left (FORMAT.md, section 6).

use std::path::Path;
use std::sync::Arc;

use super::back::{Back, BackScanner};
use super::scan::{Scanner, Step, Stop};
use crate::disk::File;
use crate::error::{Error, Result};
use crate::format::control::{self, Gap, Repair};
use crate::format::line::{self, Link, SEED_BACK, Whole, kind};

/// The end of a transcript.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    /// After the last line that counts.
    pub(crate) link: Link,
    /// The promise: everything before it was on stable storage.
    pub(crate) promise: u64,
    /// Before the last line that ends at or before the promise, or where the search began when that is behind it.
    pub(crate) doubtful: Link,
    /// The file's length.
    pub(crate) len: u64,
    /// Whether the bytes after the last line are only spaces that a writer laid ahead, or none.
    pub(crate) padding: bool,
    /// Whether the last line says that a writer closed, and nothing follows.
    pub(crate) closed: bool,
}

/// Something that counts, on the way to the end.
pub(crate) enum Seen<'a> {
    /// A line that starts at `.0`.
    Line(u64, &'a Whole<'a>),
    /// A range that a repair gave up.
    Gap(Gap),
}

/// Finds the end of `file`, reading lines from `from` on, and shows everything that counts to `visit`, in order.
///
/// `from` must be after a line that is known to be good, and not inside a batch, unless this has shown the lines before it: those of a batch
/// that is not complete are not shown. Cost: one read of what follows `from`, two of
/// batches that nobody promised.
///
/// # Errors
///
/// [`Error::Corrupt`] for a bad line before the promise; [`Error::Io`]; whatever `visit` returns.
pub(crate) fn find(
    file: &Arc<dyn File>,
    path: &Path,
    from: Link,
    mut visit: impl FnMut(Seen<'_>) -> Result<()>,
) -> Result<Ends> {
    let io = |source| Error::io("read", path, source);
    let mut ends = Ends { link: from, promise: from.synced, doubtful: from, len: 0, padding: true, closed: false };
    let mut suspect = None;
    loop {
        ends.len = file.len().map_err(io)?;
        let Some(bad) = go_on(file, path, &mut ends, &mut visit)? else { break };
        let end = ends.link.end;
        let promise = ends.promise.max(promise_after(file, bad.at, ends.len).map_err(io)?);
        if promise <= end {
            ends.promise = promise;
            break;
        }
        // A writer may have finished this line after it was read and before the promise was. What is bad twice is bad.
        if suspect == Some(end) {
            return Err(Error::corrupt(path, end, bad.why));
        }
        suspect = Some(end);
    }
    ends.promise = ends.promise.min(ends.link.end);
    Ok(ends)
}

/// The first bad line, or the end of the file within a batch.
struct Bad {
    at: u64,
    why: &'static str,
}

/// Reads on from `ends` as far as lines are good. Returns why it stopped before the file's length, padding aside.
fn go_on(
    file: &Arc<dyn File>,
    path: &Path,
    ends: &mut Ends,
    visit: &mut impl FnMut(Seen<'_>) -> Result<()>,
) -> Result<Option<Bad>> {
    let io = |source| Error::io("read", path, source);
    let early = promise_at_end(file, ends.link, ends.len).map_err(io)?;
    let mut scanner = Scanner::new(file.clone(), ends.link, ends.len);
    // Lines before this place are known to be in complete batches, which this one looks for.
    let (mut complete, mut ahead) = (early, Scanner::new(file.clone(), ends.link, ends.len));
    loop {
        match scanner.next().map_err(io)? {
            Step::End => {
                ends.padding = true;
                return Ok(None);
            }
            Step::Stop(stop) => {
                ends.closed = false;
                ends.padding = only_spaces(file, ends.link.end, ends.len).map_err(io)?;
                if ends.padding {
                    return Ok(None);
                }
                let Some(gap) = gap_at(file, ends.link.end, ends.len).map_err(io)? else {
                    return Ok(Some(Bad { at: ends.link.end, why: stop.why() }));
                };
                ends.link = Link { end: gap.to.get(), crc: gap.chain, synced: ends.link.synced, more: false };
                scanner.seek(ends.link);
                visit(Seen::Gap(gap))?;
            }
            Step::Line(start, whole) => {
                if whole.link.more && whole.link.end >= complete {
                    match batch_end(file, &mut ahead, whole.link, ends.len).map_err(io)? {
                        Ok(end) => complete = end,
                        Err(at) => {
                            (ends.closed, ends.padding) = (false, false);
                            return Ok(Some(Bad { at, why: "a batch is not complete" }));
                        }
                    }
                }
                ends.closed = whole.kind == kind::CLOSE
                    && whole.link.synced == start
                    && whole.payload == line::close_payload(ends.link.crc);
                ends.promise = whole.link.synced;
                visit(Seen::Line(start, &whole))?;
                let before = std::mem::replace(&mut ends.link, whole.link);
                if ends.link.end <= ends.promise.max(early) {
                    ends.doubtful = before;
                }
            }
        }
    }
}

/// The end of the batch that goes on at `link`, or as an error where its lines stop when it is not complete. Damage ends a batch too:
/// its lines up to there count.
fn batch_end(
    file: &Arc<dyn File>,
    scanner: &mut Scanner<Arc<dyn File>>,
    link: Link,
    len: u64,
) -> std::io::Result<Result<u64, u64>> {
    scanner.seek(link);
    loop {
        match scanner.next()? {
            Step::Line(_, whole) if whole.link.more => {}
            Step::Line(_, whole) => return Ok(Ok(whole.link.end)),
            Step::End => return Ok(Err(len)),
            Step::Stop(_) => {
                let end = scanner.link().end;
                let damaged = gap_at(file, end, len)?.is_some() || promise_after(file, end, len)? > end;
                return Ok(if damaged { Ok(end) } else { Err(end) });
            }
        }
    }
}

/// The promise of the last line of the file, padding aside, if that line verifies alone; 0 otherwise.
pub(super) fn promise_at_end(file: &Arc<dyn File>, from: Link, len: u64) -> std::io::Result<u64> {
    let mut back = BackScanner::new(file.clone(), from, len);
    let padding = match back.next()? {
        Back::Line(_, whole) => return Ok(whole.link.synced),
        Back::Bad(start, _) => only_spaces(file, start, len)?,
        Back::End => false,
    };
    match if padding { back.next()? } else { Back::End } {
        Back::Line(_, whole) => Ok(whole.link.synced),
        Back::Bad(..) | Back::End => Ok(0),
    }
}

/// The newest gap that was given up at `from`, if there is one.
pub(crate) fn gap_at(file: &Arc<dyn File>, from: u64, len: u64) -> std::io::Result<Option<Gap>> {
    Ok(gaps_after(file, from, len)?.into_iter().rev().find(|gap| gap.from.get() == from))
}

/// All gaps that lines in `(from, len)` give up, oldest first.
pub(crate) fn gaps_after(file: &Arc<dyn File>, from: u64, len: u64) -> std::io::Result<Vec<Gap>> {
    let mut found = Vec::new();
    lone_lines(file, from, len, |start, whole| {
        if whole.kind == kind::REPAIR {
            let repair: Option<Repair> = control::decode(whole.payload);
            found.extend(repair.filter(|repair| repair.fits(start)).into_iter().flat_map(|repair| repair.gaps));
        }
        true
    })?;
    Ok(found)
}

/// Where a file may be cut of which everything before `end`, the end of a line, is needed: not before a `repair` line that gives up a
/// range which begins before the cut.
///
/// Cost: two reads of what follows `end`, since a bit that is read wrong once must not cut such a line off.
pub(crate) fn cut_behind(file: &Arc<dyn File>, end: u64) -> std::io::Result<u64> {
    let mut cut = end;
    for _ in 0..2 {
        let len = file.len()?;
        // Such a line may start at `end`, behind the line feed there.
        lone_lines(file, end.saturating_sub(1), len, |start, whole| {
            if whole.kind == kind::REPAIR {
                let repair = control::decode::<Repair>(whole.payload).filter(|repair| repair.fits(start));
                if repair.is_some_and(|repair| repair.gaps.iter().any(|gap| gap.from.get() < cut)) {
                    cut = cut.max(whole.link.end);
                }
            }
            true
        })?;
    }
    Ok(cut)
}

/// The greatest promise among lines in `[from, len)` that verify alone, or did where they stood when they were written.
pub(crate) fn promise_after(file: &Arc<dyn File>, from: u64, len: u64) -> std::io::Result<u64> {
    let (mut most, mut moved) = (0, 0);
    lone_lines_and_claims(file, from, len, &mut moved, |_, whole| {
        most = most.max(whole.link.synced);
        true
    })?;
    Ok(most.max(moved))
}

/// Shows every line in `(from, len)` that verifies alone to `visit`, in order, until it returns false.
///
/// A line is looked for behind every line feed in `[from, len)`, and an `xclose` before every one too: then the line feed before the
/// `xclose` may be damaged.
pub(crate) fn lone_lines(
    file: &Arc<dyn File>,
    from: u64,
    len: u64,
    visit: impl FnMut(u64, &Whole<'_>) -> bool,
) -> std::io::Result<()> {
    lone_lines_and_claims(file, from, len, &mut 0, visit)
}

/// [`lone_lines`], and in `moved` the greatest promise of lines that only fail for promising more than their own start: bytes before
/// them have gone.
fn lone_lines_and_claims(
    file: &Arc<dyn File>,
    from: u64,
    len: u64,
    moved: &mut u64,
    mut visit: impl FnMut(u64, &Whole<'_>) -> bool,
) -> std::io::Result<()> {
    let mut at = from;
    let mut scanner = Scanner::new(file.clone(), Link::alone(at, crate::Crc(0)), len);
    let claim_close = |scanner: &mut Scanner<Arc<dyn File>>, at| {
        scanner.seek(Link::alone(at, crate::Crc(0)));
        std::io::Result::Ok(scanner.peek()?.and_then(line::claim_close).unwrap_or(0))
    };
    *moved = claim_close(&mut scanner, at)?.max(*moved);
    while let Some(next) = skip_line(&mut scanner, at)? {
        if let Some(link) = close_before(&mut scanner, at, next)? {
            scanner.seek(link);
            if let Step::Line(start, whole) = scanner.next()?
                && !visit(start, &whole)
            {
                return Ok(());
            }
        }
        at = next;
        *moved = claim_close(&mut scanner, at)?.max(*moved);
        let Some(link) = lone_link(file, &mut scanner, at)? else { continue };
        scanner.seek(link);
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
        let stopped = scanner.link();
        let claimed =
            scanner.peek()?.and_then(|line| line::claim(line, stopped.crc).or_else(|| line::claim_close(line)));
        *moved = claimed.unwrap_or(0).max(*moved);
    }
    Ok(())
}

/// The crc with which the line at `at`, which verifies alone, does so.
pub(crate) fn lone_seed(file: &Arc<dyn File>, at: u64, len: u64) -> std::io::Result<Option<crate::Crc>> {
    let mut scanner = Scanner::new(file.clone(), Link::default(), len);
    Ok(lone_link(file, &mut scanner, at)?.map(|link| link.crc))
}

/// The link with which the line at `at` verifies alone, if it may: from the bytes before it, or from its own payload.
fn lone_link(file: &Arc<dyn File>, scanner: &mut Scanner<Arc<dyn File>>, at: u64) -> std::io::Result<Option<Link>> {
    scanner.seek(Link::alone(at, crate::Crc(0)));
    if let Some(chain) = scanner.peek()?.and_then(|line| line::check_close(line, at)) {
        return Ok(Some(chain));
    }
    Ok(seed_before(file, at)?.map(|seed| Link::alone(at, seed)))
}

/// The link with which an `xclose` verifies that ends at `end`, behind bytes from `at` on that are no line.
fn close_before(scanner: &mut Scanner<Arc<dyn File>>, at: u64, end: u64) -> std::io::Result<Option<Link>> {
    let Some(start) = end.checked_sub(line::CLOSE_LEN).filter(|start| at < *start) else { return Ok(None) };
    scanner.seek(Link::alone(start, crate::Crc(0)));
    Ok(scanner.peek()?.and_then(|line| line::check_close(line, start)))
}

/// Where the next line would start behind the one at `at`: behind the next line feed.
fn skip_line(scanner: &mut Scanner<Arc<dyn File>>, at: u64) -> std::io::Result<Option<u64>> {
    // A line that cannot fit its link is reported with its length, which is all that is wanted here.
    scanner.seek(Link { end: at, crc: crate::Crc(0), synced: u64::MAX, more: false });
    Ok(match scanner.next()? {
        Step::Stop(Stop::Bad(_, len)) => Some(at + len),
        Step::Line(_, whole) => Some(whole.link.end),
        Step::End | Step::Stop(Stop::Torn) => None,
    })
}

/// The crc in the bytes before `at`.
pub(super) fn seed_before(file: &Arc<dyn File>, at: u64) -> std::io::Result<Option<crate::Crc>> {
    let mut bytes = [0; SEED_BACK];
    let Some(from) = at.checked_sub(SEED_BACK as u64) else { return Ok(None) };
    let got = file.read_at(&mut bytes, from)?;
    Ok(if got == bytes.len() { line::seed(&bytes) } else { None })
}

fn only_spaces(file: &Arc<dyn File>, from: u64, len: u64) -> std::io::Result<bool> {
    let mut buf = [0; 16 << 10];
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
