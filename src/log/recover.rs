//! Making a file ready to be appended to (FORMAT.md, section 7).

use std::io;
use std::path::{Path, PathBuf};

use super::back::{Back, BackScanner};
use super::ends::{self, Ends};
use super::lineage::session_dir;
use super::scan::{Advance, Scanner};
use super::transcript::Transcript;
use crate::disk::{Disk, File, How};
use crate::error::{Error, Result};
use crate::format::line::{self, Link};
use crate::ids::Crc;

/// Bytes that are written at once.
const CHUNK: usize = 1 << 20;

/// How names of copies end whose bytes are being written anew.
const AGAIN: &str = "again";

/// Puts in order what an unclean end left, and returns how much of the file is on stable storage then.
///
/// Everything from the last promise on is written again and synced, since a sync that failed may have left it in memory
/// only. Other writers that are there cannot vouch for it: the kernel tells those of a failure who had the file open, and this handle's
/// syncs succeed. Then what does not count is cut, of which quarantine has a copy by then. Killed at any step, it can be done again.
///
/// `failed` says whether a sync of the session is known to have failed, and is asked after the first sync, since who saw the failure may have
/// been about to say so. Then that is not enough (see `write_anew`).
///
/// # Errors
///
/// [`Error::Full`] and [`Error::Io`]; the lines that count are as they were, or where [`put_back`] finds them. A sync may have
/// failed, so whoever comes next must be told.
pub(crate) fn settle(disk: &dyn Disk, transcript: &Transcript, ends: &Ends, failed: impl Fn() -> bool) -> Result<u64> {
    let end = ends.link.end;
    if ends.closed {
        return Ok(ends.promise);
    }
    let (file, path) = (&*transcript.file, &transcript.path);
    if ends.len > end && !ends.padding {
        quarantine(disk, transcript, end, ends.len, "cut")?;
    }
    let doubtful = doubtful(transcript, ends)?;
    lines(transcript, doubtful, end, |lines, at| {
        file.write_at(lines, at).map_err(|error| Error::io("write", path, error))
    })?;
    sync(transcript)?;
    if failed() {
        write_anew(disk, transcript, doubtful, end)?;
    }
    // Not before: what follows an `xclose` is all that shows that it may be in memory only, should the sync fail.
    if ends.len > end {
        file.set_len(end).map_err(|error| Error::io("cut", path, error))?;
        sync(transcript)?;
    } else {
        // Room that a writer had set aside which was killed.
        let _ = file.reserve(end, 0);
    }
    Ok(end)
}

fn sync(transcript: &Transcript) -> Result<()> {
    transcript.file.sync().map_err(|error| Error::io("sync", &transcript.path, error))
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

/// Lets the system forget what it holds of the file from `from` on, and writes that once more, of which quarantine has a copy meanwhile.
///
/// Where a file has grown and the device has failed to write what it grew by, ext4 takes the same bytes, written in place and synced,
/// for written although they never are, until it looks at the device again (Linux 6.18, docs/RELIABILITY.md). A power cut on the way
/// finds there what it would have found before.
///
/// Cost: memory for these bytes.
fn write_anew(disk: &dyn Disk, transcript: &Transcript, from: Link, to: u64) -> Result<()> {
    let (file, path) = (&*transcript.file, &transcript.path);
    let mut bytes = Vec::new();
    lines(transcript, from, to, |lines, at| {
        // Zeros for what a repair gave up, of which quarantine has a copy since then.
        bytes.resize(usize::try_from(at - from.end).unwrap_or(usize::MAX), 0);
        bytes.extend_from_slice(lines);
        Ok(())
    })?;
    let kept = keep(disk, transcript, from.end, &bytes, AGAIN)?;
    file.forget(from.end).map_err(|error| Error::io("read", path, error))?;
    file.write_at(&bytes, from.end).map_err(|error| Error::io("write", path, error))?;
    sync(transcript)?;
    disk.remove_file(&kept).map_err(|error| Error::io("remove", &kept, error))?;
    let dir = quarantine_of(path);
    disk.sync_dir(&dir).map_err(|error| Error::io("sync", &dir, error))
}

/// Puts back what [`write_anew`] had let the system forget when it was stopped: the file's lines end within it then.
///
/// # Errors
///
/// [`Error::Full`] and [`Error::Io`]; then it can be done again.
pub(crate) fn put_back(disk: &dyn Disk, transcript: &Transcript) -> Result<()> {
    let (file, path) = (&transcript.file, &transcript.path);
    let dir = quarantine_of(path);
    let names = match disk.list(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        names => names.map_err(|error| Error::io("list", &dir, error))?,
    };
    for kept in names {
        let Some((from, crc)) = kept.name.to_str().and_then(|name| copy_of(path, name)) else { continue };
        let kept = dir.join(&kept.name);
        let look = || disk.open(&kept, How::Read).and_then(|copy| read(&*copy, 0, copy.len()?));
        let mut bytes = look().map_err(|error| Error::io("read", &kept, error))?;
        if line::crc32(&bytes) != crc {
            // It may have been read wrong.
            bytes = look().map_err(|error| Error::io("read", &kept, error))?;
        }
        let len = file.len().map_err(|error| transcript.io(error))?;
        let before = match transcript.crc_before(from) {
            Err(error @ Error::Io { .. }) => return Err(error),
            Ok(before) if line::crc32(&bytes) == crc && from <= len => before,
            _ => continue,
        };
        let mut scanner = Scanner::new(file.clone(), Link::alone(from, before), len);
        while let Advance::Line(_) = scanner.advance().map_err(|error| transcript.io(error))? {}
        let end = scanner.link().end;
        let there = usize::try_from(end - from).unwrap_or(usize::MAX);
        // Where other lines stand, somebody went on without it.
        if there < bytes.len() && read(&**file, from, end).map_err(|error| transcript.io(error))? == bytes[..there] {
            if end < len {
                quarantine(disk, transcript, end, len, "cut")?;
            }
            file.write_at(&bytes[there..], end).map_err(|error| Error::io("write", path, error))?;
        }
    }
    Ok(())
}

/// Where the bytes that `write_anew` keeps under this name begin, and their checksum.
fn copy_of(transcript: &Path, name: &str) -> Option<(u64, Crc)> {
    let place = name.strip_prefix(&*stem(transcript))?.strip_prefix('-')?.strip_suffix(AGAIN)?.strip_suffix('.')?;
    let (from, crc) = place.split_once('-').filter(|(from, crc)| from.len() == 12 && crc.len() == 8)?;
    Some((u64::from_str_radix(from, 16).ok()?, Crc(u32::from_str_radix(crc, 16).ok()?)))
}

/// Shows the lines of `[from, to)`, about [`CHUNK`] at once, and where they stand.
///
/// They are verified once more on the way, or a bit that is read wrong this time would stay so for good. Bytes that a repair gave up are
/// passed over.
fn lines(transcript: &Transcript, from: Link, to: u64, mut show: impl FnMut(&[u8], u64) -> Result<()>) -> Result<()> {
    let (file, path) = (&transcript.file, &transcript.path);
    let mut scanner = Scanner::new(file.clone(), from, to);
    let (mut at, mut buf) = (from.end, Vec::new());
    loop {
        match scanner.advance().map_err(|error| transcript.io(error))? {
            Advance::Line(_) => buf.extend_from_slice(scanner.framed().1),
            Advance::End => break,
            Advance::Stop(_) => {
                let gap = ends::gap_at(file, scanner.link().end, to).map_err(|error| transcript.io(error))?;
                let Some(gap) = gap else {
                    return Err(Error::Stale { path: path.clone(), why: "it reads otherwise than a moment ago" });
                };
                show(&buf, at)?;
                (at, buf) = (gap.to.get(), Vec::new());
                scanner.seek(Link { end: at, crc: gap.chain, synced: scanner.link().synced, more: false });
            }
        }
        if buf.len() >= CHUNK {
            show(&buf, at)?;
            at += buf.len() as u64;
            buf.clear();
        }
    }
    show(&buf, at)
}

/// Copies `[from, to)` of the transcript to its session's quarantine, synced. Returns where.
pub(crate) fn quarantine(
    disk: &dyn Disk,
    transcript: &Transcript,
    from: u64,
    to: u64,
    extension: &str,
) -> Result<PathBuf> {
    let bytes = read(&*transcript.file, from, to).map_err(|error| transcript.io(error))?;
    keep(disk, transcript, from, &bytes, extension)
}

/// Keeps bytes that stood at `from` in the quarantine of the transcript's session, synced. Returns where.
fn keep(disk: &dyn Disk, transcript: &Transcript, from: u64, bytes: &[u8], extension: &str) -> Result<PathBuf> {
    let path = &transcript.path;
    let dir = quarantine_of(path);
    let name = format!("{}-{from:012x}-{}.{extension}", stem(path), line::crc32(bytes));
    let kept = dir.join(name);
    let io = |source| Error::io("write", &kept, source);
    make_dir(disk, &dir)?;
    let copy = disk.open(&kept, How::Create).map_err(io)?;
    copy.set_len(0).and_then(|()| copy.write_at(bytes, 0)).and_then(|()| copy.sync()).map_err(io)?;
    for dir in [Some(&*dir), dir.parent()].into_iter().flatten() {
        disk.sync_dir(dir).map_err(|error| Error::io("sync", dir, error))?;
    }
    Ok(kept)
}

/// The bytes of `[from, to)`, as far as the file has them.
fn read(file: &dyn File, from: u64, to: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(to - from).unwrap_or(usize::MAX)];
    let got = file.read_at(&mut bytes, from)?;
    bytes.truncate(got);
    Ok(bytes)
}

/// Where bytes of a transcript are kept that do not count.
pub(crate) fn quarantine_of(transcript: &Path) -> PathBuf {
    session_dir(transcript).join("quarantine")
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
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(Error::io("make", path, error)),
    }
}

/// Makes a directory and those above it that are missing.
pub(crate) fn make_dirs(disk: &dyn Disk, path: &Path) -> Result<()> {
    match disk.create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(parent) = path.parent() {
                make_dirs(disk, parent)?;
            }
            make_dir(disk, path)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(|error| Error::io("make", path, error)),
    }
}
