//! The tail and the anchor on disk: how they are read, appended to and replaced.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::level::{Gather, Level};
use super::run::{self, Run};
use super::{Place, remove_if_there};
use crate::disk::{Disk, File, How};
use crate::error::{Error, Result};
use crate::format::run::ROW;
use crate::format::tail::{ANCHOR, Manifest, Mark, Record, SLOTS, decode, decode_anchor, encode_manifest, encode_slot};

/// A tail that is longer is not one: nothing that is written makes it so long.
const MAX_LEN: u64 = 256 << 20;

/// The index as it was found: the tail, gathered, and its runs, open.
#[derive(Debug)]
pub(super) struct Loaded {
    /// Held open so that no other file gets its number.
    _file: Box<dyn File>,
    file_id: u64,
    /// Where the last whole record ends. While the file is longer than that, it is read again.
    len: u64,
    mark: Mark,
    /// The newest first.
    pub(super) levels: Arc<[Level]>,
}

impl Loaded {
    /// Reads anchor and tail and opens the runs, or finds that `before` is still all there is to know.
    pub(super) fn load(disk: &dyn Disk, place: &Place, before: Option<Arc<Self>>) -> Result<Arc<Self>> {
        // The anchor comes first: whoever changes the index moves it last, so the tail that is read then is not older.
        let (mark, _) = read_anchor(disk, place)?;
        let path = place.tail();
        let file = open(disk, &path, How::Read)?;
        let (file_id, len) = (about(&path, file.file_id())?, about(&path, file.len())?);
        if let Some(before) = before.as_ref()
            && (before.file_id, before.len, before.mark) == (file_id, len, mark)
        {
            return Ok(Arc::clone(before));
        }
        let bytes = read_all(&path, &*file, len)?;
        let mut gather = Gather::default();
        let walked = walk(&bytes, |record, at| match record {
            Record::Put(row, text) => gather.put(row, text_range(&at, text)),
            Record::Remove(uid) => gather.remove(uid),
            Record::Manifest(_) => {}
        });
        let walked = walked.and_then(|walked| walked.check(mark).map(|()| walked));
        let Walked { manifest, end, .. } = walked.map_err(|why| Error::corrupt(&path, 0, why))?;
        let known = before.as_deref().map(|before| &*before.levels).unwrap_or_default();
        let mut levels = vec![Level::Memory(Arc::new(gather.finish(bytes)))];
        for wanted in manifest.runs {
            let known = known.iter().find(|level| matches!(level, Level::Run(run) if run.file == wanted));
            levels.push(match known {
                Some(level) => level.clone(),
                None => Level::Run(Arc::new(open_run(disk, place, wanted)?)),
            });
        }
        Ok(Arc::new(Self { _file: file, file_id, len: end.len, mark, levels: levels.into() }))
    }
}

/// Where the text of a record that lies at `at` stands; it ends before the checksum.
fn text_range(at: &Range<usize>, text: &[u8]) -> Range<usize> {
    let start = at.start + 5 + ROW;
    start..start + text.len()
}

fn open_run(disk: &dyn Disk, place: &Place, wanted: crate::format::tail::RunRef) -> Result<Run> {
    Run::open(disk, &place.dir, wanted).map_err(|error| match error {
        Error::Io { path, source, .. } if source.kind() == io::ErrorKind::NotFound => {
            Error::corrupt(&path, 0, "a run of the index is missing")
        }
        other => other,
    })
}

/// What the bytes of a tail are.
struct Walked {
    manifest: Manifest,
    /// The end of the last whole record.
    end: Mark,
    /// The ends of all records.
    ends: Vec<(u64, u32)>,
}

/// Reads the records of a tail up to the first thing that is not one.
fn walk<'a>(bytes: &'a [u8], mut each: impl FnMut(Record<'a>, Range<usize>)) -> Result<Walked, &'static str> {
    let Some((Record::Manifest(manifest), mut at, mut crc)) = decode(bytes, 0) else {
        return Err("the tail does not begin with a manifest");
    };
    let mut ends = vec![(at as u64, crc)];
    while let Some((record, len, next)) = bytes.get(at..).and_then(|rest| decode(rest, crc)) {
        if matches!(record, Record::Manifest(_)) {
            break;
        }
        each(record, at..at + len);
        (at, crc) = (at + len, next);
        ends.push((at as u64, crc));
    }
    let end = Mark { generation: manifest.generation, len: at as u64, crc };
    Ok(Walked { manifest, end, ends })
}

impl Walked {
    /// Whether the anchor lets this be the newest tail.
    fn check(&self, anchor: Mark) -> Result<(), &'static str> {
        if self.manifest.before == Some(anchor) {
            // Whoever made this tail was stopped before the anchor moved.
            return Ok(());
        }
        if self.manifest.generation != anchor.generation {
            return Err("the tail and the anchor are of different generations");
        }
        if anchor.len > self.end.len {
            return Err("the tail ends before the anchor");
        }
        if self.ends.binary_search(&(anchor.len, anchor.crc)).is_err() {
            return Err("the tail does not continue what the anchor saw");
        }
        Ok(())
    }
}

/// The tail, held open by whoever has the lock on changes.
#[derive(Debug)]
pub(super) struct Tail {
    file: Box<dyn File>,
    file_id: u64,
    pub(super) manifest: Manifest,
    /// Where the next record goes.
    pub(super) end: Mark,
    /// What the anchor says, and the slot that it goes to next.
    anchor: Mark,
    slot: usize,
}

impl Tail {
    /// The tail as it is now; `before` is how this handle left it.
    pub(super) fn current(disk: &dyn Disk, place: &Place, before: Option<Self>) -> Result<Self> {
        let (anchor, slot) = read_anchor(disk, place)?;
        let path = place.tail();
        let file = open(disk, &path, How::Write)?;
        let (file_id, len) = (about(&path, file.file_id())?, about(&path, file.len())?);
        // The old handle is still open, so a file of the same number is the same file.
        if let Some(before) = before
            && (before.file_id, before.end.len, before.anchor) == (file_id, len, anchor)
        {
            return Ok(Self { slot, ..before });
        }
        let bytes = read_all(&path, &*file, len)?;
        let walked = walk(&bytes, |_, _| {}).and_then(|walked| walked.check(anchor).map(|()| walked));
        let Walked { manifest, end, .. } = walked.map_err(|why| Error::corrupt(&path, 0, why))?;
        if end.len < len {
            about(&path, file.set_len(end.len))?;
        }
        if anchor.generation != end.generation {
            // The rename may not be on stable storage yet; nothing that is added may outlive it there.
            sync_dir(disk, &place.dir)?;
        }
        Ok(Self { file, file_id, manifest, end, anchor, slot })
    }

    /// Adds records, whose last has the checksum `crc`.
    pub(super) fn append(&mut self, disk: &dyn Disk, place: &Place, bytes: &[u8], crc: u32) -> Result<()> {
        let path = place.tail();
        if let Err(error) = self.file.write_at(bytes, self.end.len) {
            // What was written of them lies past the anchor; the next change cuts it off if this does not.
            let _ = self.file.set_len(self.end.len);
            return Err(Error::io("write", &path, error));
        }
        self.end = Mark { len: self.end.len + bytes.len() as u64, crc, ..self.end };
        if let Err(error) = self.file.sync() {
            // A later sync would report success whatever became of these bytes. Without an anchor nobody adds any.
            let _ = disk.remove_file(&place.anchor());
            let _ = disk.sync_dir(&place.root);
            return Err(Error::io("sync", &path, error));
        }
        self.write_anchor(disk, place).map(drop)
    }

    fn write_anchor(&mut self, disk: &dyn Disk, place: &Place) -> Result<Box<dyn File>> {
        let path = place.anchor();
        let file = open(disk, &path, How::Write)?;
        let at = SLOTS.get(self.slot).copied().unwrap_or_default();
        about(&path, file.write_at(&encode_slot(&self.end), at))?;
        (self.anchor, self.slot) = (self.end, 1 - self.slot.min(1));
        Ok(file)
    }

    /// Returns when the tail, and an anchor that says where it ends, survive a power cut.
    pub(super) fn settle(&mut self, disk: &dyn Disk, place: &Place) -> Result<()> {
        if let Err(error) = self.file.sync() {
            let _ = disk.remove_file(&place.anchor());
            let _ = disk.sync_dir(&place.root);
            return Err(Error::io("sync", &place.tail(), error));
        }
        let anchor = self.write_anchor(disk, place)?;
        anchor.sync().map_err(|error| Error::io("sync", &place.anchor(), error))
    }

    /// Lets the anchor say where this tail ends.
    pub(super) fn move_anchor(&mut self, disk: &dyn Disk, place: &Place) -> Result<()> {
        self.write_anchor(disk, place).map(drop)
    }

    /// Makes a tail that holds only `manifest`, in the place of the one that is there.
    ///
    /// When it returns, the tail and the names of its runs survive a power cut. The anchor stays as it is.
    pub(super) fn install(disk: &dyn Disk, place: &Place, manifest: Manifest) -> Result<Self> {
        let (mut bytes, mut crc) = (Vec::new(), 0);
        encode_manifest(&mut bytes, &mut crc, &manifest);
        let end = Mark { generation: manifest.generation, len: bytes.len() as u64, crc };
        let file = write_temporary(disk, place, "tail", &bytes)?;
        let path = place.tail();
        let file_id = about(&path, file.file_id())?;
        let (anchor, slot) = read_anchor(disk, place).unwrap_or((end, 0));
        // The runs' names first: the tail that names them must not be there without them.
        sync_dir(disk, &place.dir)?;
        disk.rename(&place.temporary("tail"), &path).map_err(|error| Error::io("rename", &path, error))?;
        sync_dir(disk, &place.dir)?;
        Ok(Self { file, file_id, manifest, end, anchor, slot })
    }

    /// Makes a new anchor that says where this tail ends, in the place of what is there.
    pub(super) fn replace_anchor(&mut self, disk: &dyn Disk, place: &Place) -> Result<()> {
        let mut bytes = [0; ANCHOR];
        let slot = encode_slot(&self.end);
        for (to, from) in bytes.iter_mut().zip(slot) {
            *to = from;
        }
        write_temporary(disk, place, "anchor", &bytes)?;
        let path = place.anchor();
        disk.rename(&place.temporary("anchor"), &path).map_err(|error| Error::io("rename", &path, error))?;
        sync_dir(disk, &place.root)?;
        (self.anchor, self.slot) = (self.end, 1);
        Ok(())
    }
}

/// Writes a whole file under a temporary name, and syncs it.
fn write_temporary(disk: &dyn Disk, place: &Place, what: &str, bytes: &[u8]) -> Result<Box<dyn File>> {
    let path = place.temporary(what);
    remove_if_there(disk, &path)?;
    let file = disk.open(&path, How::CreateNew).map_err(|error| Error::io("create", &path, error))?;
    file.write_at(bytes, 0).map_err(|error| Error::io("write", &path, error))?;
    file.sync().map_err(|error| Error::io("sync", &path, error))?;
    Ok(file)
}

/// Removes what the tail does not name: what folds replaced, and what stopped ones left. Failing is harmless.
pub(super) fn sweep(disk: &dyn Disk, place: &Place, manifest: &Manifest) {
    for name in disk.list(&place.dir).unwrap_or_default() {
        let Some(name) = name.name.to_str() else { continue };
        let unused = run::number_of(name).is_some_and(|number| manifest.runs.iter().all(|run| run.number != number));
        if unused || name.starts_with("tmp-") {
            let _ = disk.remove_file(&place.dir.join(name));
        }
    }
}

/// A number that no run in the directory has.
pub(super) fn next_number(disk: &dyn Disk, place: &Place) -> Result<u64> {
    let names = disk.list(&place.dir).map_err(|error| Error::io("list", &place.dir, error))?;
    let numbers = names.iter().filter_map(|entry| run::number_of(entry.name.to_str()?));
    Ok(numbers.max().map_or(1, |greatest| greatest.wrapping_add(1)))
}

/// The greatest generation that tail or anchor can still be made to tell.
pub(super) fn greatest_generation(disk: &dyn Disk, place: &Place) -> u64 {
    let anchor = read_anchor(disk, place).map_or(0, |(mark, _)| mark.generation);
    let path = place.tail();
    let tail = open(disk, &path, How::Read).and_then(|file| {
        let len = about(&path, file.len())?;
        read_all(&path, &*file, len)
    });
    let tail = tail.ok().and_then(|bytes| walk(&bytes, |_, _| {}).ok()).map_or(0, |walked| walked.end.generation);
    anchor.max(tail)
}

fn read_anchor(disk: &dyn Disk, place: &Place) -> Result<(Mark, usize)> {
    let path = place.anchor();
    let file = open(disk, &path, How::Read)?;
    let mut bytes = [0; ANCHOR];
    let len = about(&path, file.read_at(&mut bytes, 0))?;
    let mark = bytes.get(..len).and_then(decode_anchor);
    mark.ok_or_else(|| Error::corrupt(&path, 0, "neither slot of the anchor is whole"))
}

fn read_all(path: &Path, file: &dyn File, len: u64) -> Result<Vec<u8>> {
    if len > MAX_LEN {
        return Err(Error::corrupt(path, 0, "the tail is too long"));
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
    let read = about(path, file.read_at(&mut bytes, 0))?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Opens a file of the index; that it is not there, or is no file, is for a rebuild to mend.
fn open(disk: &dyn Disk, path: &Path, how: How) -> Result<Box<dyn File>> {
    disk.open(path, how).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::corrupt(path, 0, "the file is missing"),
        _ => Error::io("open", path, error),
    })
}

fn about<T>(path: &Path, result: io::Result<T>) -> Result<T> {
    result.map_err(|error| Error::io("use", path, error))
}

fn sync_dir(disk: &dyn Disk, path: &Path) -> Result<()> {
    disk.sync_dir(path).map_err(|error| Error::io("sync", path, error))
}
