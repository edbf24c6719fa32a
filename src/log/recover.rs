//! Making a file ready to be appended to (FORMAT.md, section 7).

use std::path::{Path, PathBuf};

use super::back::{Back, BackScanner};
use super::ends::{self, Ends};
use super::lineage::session_dir;
use super::scan::{Advance, Scanner};
use super::transcript::Transcript;
use crate::disk::{Disk, How};
use crate::error::{Error, Result};
use crate::format::line::{self, Link};

/// Bytes that are written at once.
const CHUNK: usize = 1 << 20;

/// Puts in order what an unclean end left, and returns how much of the file is on stable storage then.
///
/// Everything from the last promise on is written again in place and synced, since a sync that failed may have left it in memory
/// only. Other writers that are there cannot vouch for it: the kernel tells those of a failure who had the file open, and this handle's
/// syncs succeed. Then what does not count is cut, of which quarantine has a copy by then. Killed at any step, it can be done again.
///
/// # Errors
///
/// [`Error::Full`] and [`Error::Io`]; the lines that count are as they were.
pub(crate) fn settle(disk: &dyn Disk, transcript: &Transcript, ends: &Ends) -> Result<u64> {
    let end = ends.link.end;
    if ends.closed {
        return Ok(ends.promise);
    }
    let (file, path) = (&*transcript.file, &transcript.path);
    if ends.len > end && !ends.padding {
        quarantine(disk, transcript, end, ends.len, "cut")?;
    }
    write_again(transcript, doubtful(transcript, ends)?, end)?;
    file.sync().map_err(|error| Error::io("sync", path, error))?;
    // Not before: what follows an `xclose` is all that shows that it may be in memory only, should the sync fail.
    if ends.len > end {
        file.set_len(end).map_err(|error| Error::io("cut", path, error))?;
        file.sync().map_err(|error| Error::io("sync", path, error))?;
    } else {
        // Room that a writer had set aside which was killed.
        let _ = file.reserve(end, 0);
    }
    Ok(end)
}

/// Before the last line that ends at or before the promise. Where the end was looked for from a place behind that (a map may cover
/// what nobody has synced), the line is found from its own end.
fn doubtful(transcript: &Transcript, ends: &Ends) -> Result<Link> {
    if ends.doubtful.end < ends.promise {
        return Ok(ends.doubtful);
    }
    let mut back = BackScanner::new(transcript.file.clone(), transcript.first, ends.promise);
    match back.next().map_err(|error| transcript.io(error))? {
        Back::Line(..) => Ok(back.link_before()),
        Back::Bad(..) | Back::End => Ok(transcript.first),
    }
}

/// Writes the lines of `[from, to)` over themselves.
///
/// They are verified once more on the way, or a bit that is read wrong this time would stay so for good.
fn write_again(transcript: &Transcript, from: Link, to: u64) -> Result<()> {
    let (file, path) = (&transcript.file, &transcript.path);
    let write = |bytes: &[u8], at| file.write_at(bytes, at).map_err(|error| Error::io("write", path, error));
    let mut scanner = Scanner::new(file.clone(), from, to);
    let (mut at, mut buf) = (from.end, Vec::new());
    loop {
        match scanner.advance().map_err(|error| transcript.io(error))? {
            Advance::Line(_) => {
                buf.extend_from_slice(scanner.line_bytes().1);
                buf.push(b'\n');
            }
            Advance::End => break,
            Advance::Stop(_) => {
                let gap = ends::gap_at(file, scanner.link().end, to).map_err(|error| transcript.io(error))?;
                let Some(gap) = gap else {
                    return Err(Error::Stale { path: path.clone(), why: "it reads otherwise than a moment ago" });
                };
                // Bytes that a repair gave up are as they are.
                write(&buf, at)?;
                (at, buf) = (gap.to.get(), Vec::new());
                scanner.seek(Link { end: at, crc: gap.chain, synced: scanner.link().synced, more: false });
            }
        }
        if buf.len() >= CHUNK {
            write(&buf, at)?;
            at += buf.len() as u64;
            buf.clear();
        }
    }
    write(&buf, at)
}

/// Copies `[from, to)` of the transcript to its session's quarantine, synced. Returns where.
pub(crate) fn quarantine(
    disk: &dyn Disk,
    transcript: &Transcript,
    from: u64,
    to: u64,
    extension: &str,
) -> Result<PathBuf> {
    let (file, path) = (&*transcript.file, &transcript.path);
    let mut bytes = vec![0; usize::try_from(to - from).unwrap_or(usize::MAX)];
    let got = file.read_at(&mut bytes, from).map_err(|error| Error::io("read", path, error))?;
    bytes.truncate(got);
    let dir = session_dir(path).join("quarantine");
    let name = format!("{}-{from:012x}-{}.{extension}", stem(path), line::crc32(&bytes));
    let kept = dir.join(name);
    let io = |source| Error::io("write", &kept, source);
    make_dir(disk, &dir)?;
    let copy = disk.open(&kept, How::Create).map_err(io)?;
    copy.set_len(0).and_then(|()| copy.write_at(&bytes, 0)).and_then(|()| copy.sync()).map_err(io)?;
    for dir in [Some(&*dir), dir.parent()].into_iter().flatten() {
        disk.sync_dir(dir).map_err(|error| Error::io("sync", dir, error))?;
    }
    Ok(kept)
}

/// What a transcript's file is called in quarantine.
pub(crate) fn stem(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    match path.parent().and_then(Path::file_name) {
        Some(dir) if dir == "side" => format!("side.{stem}"),
        _ => stem.into_owned(),
    }
}

/// Makes a directory unless it is there.
pub(crate) fn make_dir(disk: &dyn Disk, path: &Path) -> Result<()> {
    match disk.create_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(Error::io("make", path, error)),
    }
}

/// Makes a directory and those above it that are missing.
pub(crate) fn make_dirs(disk: &dyn Disk, path: &Path) -> Result<()> {
    match disk.create_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if let Some(parent) = path.parent() {
                make_dirs(disk, parent)?;
            }
            make_dir(disk, path)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(|error| Error::io("make", path, error)),
    }
}
