//! Reading one pack: finding its frames, with or without its index, and taking objects out of it.

use foldhash::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::delta;
use crate::disk::{Disk, File, How, Mapped};
use crate::error::{Error, Result};
use crate::format::pack::{self, Bad, Coding, FrameKind, HEAD_LEN, HEADER_LEN, Head, IndexEntry, MAX_BASE};
use crate::ids::{ObjectId, ObjectKind, Uid};

/// A pack as far as it has been looked at. Somebody else may be appending to it.
#[derive(Debug)]
pub(super) struct Pack {
    pub(super) uid: Uid,
    pub(super) path: PathBuf,
    /// No new reference to its objects may be made: gc is about to remove it.
    pub(super) condemned: bool,
    known: Mutex<Known>,
}

/// What has been found in a pack.
#[derive(Debug, Default)]
struct Known {
    index: Option<Mapped>,
    /// Objects that the index does not have.
    tail: HashMap<ObjectId, u64>,
    scanned: Scanned,
}

/// How far a pack has been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Scanned {
    /// End of the last whole frame.
    pub(super) end: u64,
    /// The largest promise: everything before it is on stable storage.
    pub(super) synced: u64,
    /// Whether the last whole frame is a mark that promises all before it.
    pub(super) ends_with_mark: bool,
    /// Where the first byte is that belongs to no whole frame although whole frames follow.
    pub(super) hole: Option<u64>,
}

impl Known {
    /// Goes back to the last promise: only what stands before one is never cut.
    fn forget_unpromised(&mut self) {
        let Scanned { synced, hole, .. } = self.scanned;
        let end = synced.max(HEADER_LEN as u64);
        self.tail.retain(|_, at| *at < end);
        self.scanned = Scanned { end, synced, ends_with_mark: false, hole: hole.filter(|at| *at < end) };
    }
}

impl Pack {
    /// Looks at a pack: its index where there is a good one, and the frames that the index does not have.
    pub(super) fn load(disk: &dyn Disk, path: &Path, uid: Uid, condemned: bool) -> Result<Self> {
        let found = Self { uid, path: path.to_owned(), condemned, known: Mutex::default() };
        found.catch_up(disk)?;
        Ok(found)
    }

    /// Looks at what has been appended since the last look. What nobody had promised then may have been cut since, and others have gone on in
    /// its place: it is looked at anew.
    pub(super) fn catch_up(&self, disk: &dyn Disk) -> Result<()> {
        let len = disk.stat(&self.path).map_err(|e| Error::io("stat", &self.path, e))?.len;
        let mut known = self.known();
        if known.scanned.end == len && known.scanned.ends_with_mark {
            return Ok(());
        }
        let file = open(disk, &self.path)?;
        if known.scanned.end == 0 {
            known.scanned = self.check_header(&*file)?;
            self.load_index(disk, len, &mut known);
        } else {
            known.forget_unpromised();
        }
        let Known { tail, scanned, .. } = &mut *known;
        scan(&*file, &self.path, self.uid, scanned, |at, head| {
            tail.entry(head.id).or_insert(at);
        })
    }

    /// Forgets the index and reads every frame's head.
    pub(super) fn scan_again(&self, disk: &dyn Disk) -> Result<()> {
        let file = open(disk, &self.path)?;
        let mut known = Known { scanned: self.check_header(&*file)?, ..Known::default() };
        let Known { tail, scanned, .. } = &mut known;
        scan(&*file, &self.path, self.uid, scanned, |at, head| {
            tail.entry(head.id).or_insert(at);
        })?;
        *self.known() = known;
        Ok(())
    }

    /// Where the pack says that the object is.
    pub(super) fn find(&self, id: &ObjectId) -> Option<u64> {
        let known = self.known();
        known.tail.get(id).copied().or_else(|| pack::index_find(known.index.as_deref()?, id))
    }

    pub(super) fn scanned(&self) -> Scanned {
        self.known().scanned
    }

    /// How many objects are not in the index.
    pub(super) fn unindexed(&self) -> usize {
        self.known().tail.len()
    }

    /// All objects, sorted by id.
    pub(super) fn entries(&self) -> Vec<IndexEntry> {
        let known = self.known();
        let mut entries: Vec<IndexEntry> = known.tail.iter().map(|(&id, &at)| IndexEntry { id, at }).collect();
        entries.extend(known.index.as_deref().map(pack::index_entries).into_iter().flatten());
        entries.sort_unstable();
        entries.dedup_by_key(|entry| entry.id);
        entries
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where to begin. A header that a crash or damage spoilt hides nothing, since the frames' own checksums cover the uid,
    /// which the file's name gives as well.
    fn check_header(&self, file: &dyn File) -> Result<Scanned> {
        let mut header = [0; HEADER_LEN];
        let len = file.read_at(&mut header, 0).map_err(|e| Error::io("read", &self.path, e))?;
        let fresh = Scanned { end: HEADER_LEN as u64, ..Scanned::default() };
        match pack::decode_header(header.get(..len).unwrap_or_default()) {
            Ok(uid) if uid == self.uid => Ok(fresh),
            Err(Bad::Newer) => {
                Err(Error::Newer { path: self.path.clone(), at: crate::Offset::new(0), what: "this pack".to_owned() })
            }
            Ok(_) | Err(Bad::Torn | Bad::Corrupt(_)) => Ok(Scanned { hole: Some(0), ..fresh }),
        }
    }

    /// Takes over the index if there is one that belongs here. An index is derived: a bad one is as good as none.
    fn load_index(&self, disk: &dyn Disk, len: u64, known: &mut Known) {
        let Ok(file) = disk.open(&index_path(&self.path), How::Read) else { return };
        let Ok(index) = file.map() else { return };
        if !pack::index_is_whole(&index) {
            return;
        }
        let Ok(header) = pack::decode_index_header(&index) else { return };
        if header.uid == self.uid && header.covered <= len && header.covered >= HEADER_LEN as u64 {
            known.scanned.end = header.covered;
            known.scanned.synced = header.synced;
            known.scanned.ends_with_mark = header.covered - header.synced == HEAD_LEN as u64;
            known.index = Some(index);
        }
    }
}

pub(super) fn index_path(pack: &Path) -> PathBuf {
    pack.with_extension("idx")
}

pub(super) fn open(disk: &dyn Disk, path: &Path) -> Result<Box<dyn File>> {
    disk.open(path, How::Read).map_err(|e| Error::io("open", path, e))
}

/// Visits the whole frames after `scanned.end`, passing over what is torn, and moves `scanned` on.
fn scan(
    file: &dyn File,
    path: &Path,
    uid: Uid,
    scanned: &mut Scanned,
    mut visit: impl FnMut(u64, &Head),
) -> Result<()> {
    let len = file.len().map_err(|e| Error::io("stat", path, e))?;
    let mut at = scanned.end;
    while at < len {
        let Some(head) = whole_head(file, path, uid, at, len)? else {
            match next_frame(file, path, uid, at + 1, len)? {
                Some(next) => {
                    scanned.hole.get_or_insert(at);
                    at = next;
                    continue;
                }
                None => break,
            }
        };
        if matches!(head.kind, FrameKind::Object(_)) {
            visit(at, &head);
        }
        scanned.synced = scanned.synced.max(head.synced);
        scanned.ends_with_mark = head.kind == FrameKind::Mark && head.synced == at;
        at += head.frame_len();
        scanned.end = at;
    }
    Ok(())
}

/// The head at `at`, if it is whole and the file is long enough for its body.
fn whole_head(file: &dyn File, path: &Path, uid: Uid, at: u64, len: u64) -> Result<Option<Head>> {
    match read_head(file, path, uid, at) {
        Ok(head) => Ok(Some(head).filter(|head| at.checked_add(head.frame_len()).is_some_and(|end| end <= len))),
        Err(Error::Corrupt { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The next place at or after `from` where a whole frame begins. A head's checksum covers its place, so that a pack
/// within a pack is not taken for frames.
fn next_frame(file: &dyn File, path: &Path, uid: Uid, from: u64, len: u64) -> Result<Option<u64>> {
    const CHUNK: usize = 1 << 18;
    let mut chunk = vec![0; CHUNK];
    let mut at = from;
    while at < len {
        let got = file.read_at(&mut chunk, at).map_err(|e| Error::io("read", path, e))?;
        let bytes = chunk.get(..got).unwrap_or_default();
        for place in memchr::memmem::find_iter(bytes, &pack::FRAME_MAGIC) {
            let place = at + place as u64;
            if whole_head(file, path, uid, place, len)?.is_some() {
                return Ok(Some(place));
            }
        }
        if got < CHUNK {
            break;
        }
        // A magic that straddles two chunks is found in the next one.
        at += (got - (pack::FRAME_MAGIC.len() - 1)) as u64;
    }
    Ok(None)
}

/// The head at `at`, or why there is none.
pub(super) fn read_head(file: &dyn File, path: &Path, uid: Uid, at: u64) -> Result<Head> {
    let mut bytes = [0; HEAD_LEN];
    let got = file.read_at(&mut bytes, at).map_err(|e| Error::io("read", path, e))?;
    Head::decode(bytes.get(..got).unwrap_or_default(), uid, at).map_err(|bad| match bad {
        Bad::Torn => Error::corrupt(path, at, "the pack ends within a frame's head"),
        Bad::Corrupt(why) => Error::corrupt(path, at, why),
        Bad::Newer => Error::Newer { path: path.to_owned(), at: crate::Offset::new(at), what: "this frame".to_owned() },
    })
}

/// The object at `at`, every check passed. Allocates only after the lengths are known to fit.
pub(super) fn read_object(
    file: &dyn File,
    path: &Path,
    uid: Uid,
    at: u64,
    (kind, id): (ObjectKind, ObjectId),
    max_len: u64,
) -> Result<Vec<u8>> {
    let corrupt = |why| Error::corrupt(path, at, why);
    let head = read_head(file, path, uid, at)?;
    if head.id != id || head.kind != FrameKind::Object(kind) {
        return Err(corrupt("another object is where the index points"));
    }
    if head.raw_len > max_len {
        return Err(corrupt("the object is longer than who refers to it says"));
    }
    let raw = read_raw(file, path, uid, at, &head)?;
    if ObjectId::of(kind, &raw) != id {
        return Err(corrupt("an object's content does not have the hash that names it"));
    }
    Ok(raw)
}

/// What the frame at `at` holds, every check passed but that of the name.
fn read_raw(file: &dyn File, path: &Path, uid: Uid, at: u64, head: &Head) -> Result<Vec<u8>> {
    let corrupt = |why| Error::corrupt(path, at, why);
    let len = file.len().map_err(|e| Error::io("stat", path, e))?;
    if at.checked_add(head.frame_len()).is_none_or(|end| end > len) {
        return Err(corrupt("the pack ends within a frame"));
    }
    let too_long = |_| corrupt("the object is too long for this machine");
    let mut stored = vec![0; usize::try_from(head.stored_len).map_err(too_long)?];
    let got = file.read_at(&mut stored, at + HEAD_LEN as u64).map_err(|e| Error::io("read", path, e))?;
    if got < stored.len() || crc32fast::hash(&stored) != head.body_crc {
        return Err(corrupt("an object's stored bytes fail their checksum"));
    }
    let raw_len = usize::try_from(head.raw_len).map_err(too_long)?;
    let unzipped = match head.coding {
        Coding::Plain => Ok(stored),
        Coding::Zstd => zstd::bulk::decompress(&stored, raw_len),
        Coding::Delta => {
            let (base_at, delta) = split(&stored, path, at)?;
            let base_head = base_head(file, path, uid, base_at, head.kind)?;
            let base = read_raw(file, path, uid, base_at, &base_head)?;
            delta::unzip(&base, delta, raw_len)
        }
    };
    let raw = unzipped.map_err(|_| corrupt("an object cannot be decompressed"))?;
    if raw.len() == raw_len { Ok(raw) } else { Err(corrupt("an object has another length than its frame says")) }
}

fn split<'s>(stored: &'s [u8], path: &Path, at: u64) -> Result<(u64, &'s [u8])> {
    pack::split_delta(stored, at).map_err(|bad| match bad {
        Bad::Corrupt(why) => Error::corrupt(path, at, why),
        Bad::Torn | Bad::Newer => Error::corrupt(path, at, "a delta cannot be read"),
    })
}

/// The head of the base at `at`; a base is whole, so that no chain of deltas arises.
fn base_head(file: &dyn File, path: &Path, uid: Uid, at: u64, kind: FrameKind) -> Result<Head> {
    let head = read_head(file, path, uid, at)?;
    if head.kind != kind || head.coding == Coding::Delta || MAX_BASE < head.raw_len {
        return Err(Error::corrupt(path, at, "a delta's base is not a whole object of its kind"));
    }
    Ok(head)
}

/// The base of the delta at `at`, or the object there when it is none; with its place. `None` when it is too long for one.
pub(super) fn read_base(file: &dyn File, path: &Path, uid: Uid, at: u64) -> Result<Option<(Head, u64)>> {
    let head = read_head(file, path, uid, at)?;
    if head.coding != Coding::Delta {
        return Ok(Some((head, at)).filter(|(head, _)| head.raw_len <= MAX_BASE));
    }
    let mut stored = [0; 8];
    let got = file.read_at(&mut stored, at + HEAD_LEN as u64).map_err(|e| Error::io("read", path, e))?;
    let (base_at, _) = split(stored.get(..got).unwrap_or_default(), path, at)?;
    Ok(Some((base_head(file, path, uid, base_at, head.kind)?, base_at)))
}

/// Writes the index of the pack at `path`.
///
/// Not synced: an index is derived and checksummed, so one that a power cut spoils is refused and made again.
pub(super) fn write_index(disk: &dyn Disk, path: &Path, temp: &Path, bytes: &[u8]) -> io::Result<()> {
    disk.open(temp, How::CreateNew)?.write_at(bytes, 0)?;
    disk.rename(temp, &index_path(path))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::disk::OsDisk;
    use crate::objects::{MAX_OBJECT, ObjectStore};

    const UID: Uid = Uid::from_bytes([7; 16]);

    /// A frame to forge: everything in it passes its checksums.
    struct Frame {
        kind: ObjectKind,
        coding: Coding,
        raw: Vec<u8>,
        stored: Vec<u8>,
    }

    fn whole(kind: ObjectKind, raw: &[u8]) -> Frame {
        Frame { kind, coding: Coding::Plain, raw: raw.to_vec(), stored: raw.to_vec() }
    }

    fn against(base: &[u8], base_at: u64, raw: &[u8]) -> Frame {
        let stored = pack::join_delta(base_at, &delta::zip(base, raw).expect("zipped"));
        Frame { kind: ObjectKind::Blob, coding: Coding::Delta, raw: raw.to_vec(), stored }
    }

    /// A pack of these frames in a directory of its own, and where each frame is.
    fn forge(dir: &Path, frames: &[Frame]) -> (PathBuf, Vec<u64>) {
        let mut bytes = pack::encode_header(UID).to_vec();
        let mut places = Vec::new();
        for frame in frames {
            let head = Head {
                kind: FrameKind::Object(frame.kind),
                coding: frame.coding,
                synced: 0,
                stored_len: frame.stored.len() as u64,
                raw_len: frame.raw.len() as u64,
                id: ObjectId::of(frame.kind, &frame.raw),
                body_crc: crc32fast::hash(&frame.stored),
            };
            places.push(bytes.len() as u64);
            bytes.extend_from_slice(&head.encode(UID, bytes.len() as u64));
            bytes.extend_from_slice(&frame.stored);
        }
        let end = bytes.len() as u64;
        bytes.extend_from_slice(&Head::mark(end).encode(UID, end));
        let path = dir.join(format!("{UID}.pack"));
        std::fs::write(&path, bytes).expect("written");
        (path, places)
    }

    fn lines(changed: u32) -> Vec<u8> {
        (0..40_u32).flat_map(|n| format!("line {n} {}\n", if n == changed { 1 } else { 0 }).into_bytes()).collect()
    }

    #[test]
    fn a_delta_reads_as_what_was_put_and_a_forged_one_is_refused() {
        const FIRST: u64 = HEADER_LEN as u64;
        let (base, one, two) = (lines(99), lines(7), lines(30));
        let second = FIRST + HEAD_LEN as u64 + base.len() as u64;
        let longer = [&one[..], b"more"].concat();
        let lies = |raw: &[u8]| Frame { raw: raw.to_vec(), ..against(&base, FIRST, &one) };
        let huge = vec![b'x'; usize::try_from(MAX_BASE).expect("small") + 1];
        let cases: Vec<(&str, Vec<Frame>, bool)> = vec![
            ("sound", vec![whole(ObjectKind::Blob, &base), against(&base, FIRST, &one)], true),
            (
                "its base is a delta",
                vec![whole(ObjectKind::Blob, &base), against(&base, FIRST, &two), against(&two, second, &one)],
                false,
            ),
            ("its base is itself", vec![whole(ObjectKind::Blob, &base), against(&base, second, &one)], false),
            ("its base is no frame", vec![whole(ObjectKind::Blob, &base), against(&base, FIRST + 1, &one)], false),
            ("its base is the header", vec![whole(ObjectKind::Blob, &base), against(&base, 0, &one)], false),
            ("its base is a tree", vec![whole(ObjectKind::Tree, &base), against(&base, FIRST, &one)], false),
            ("another base", vec![whole(ObjectKind::Blob, &two), against(&base, FIRST, &one)], false),
            ("longer than it is", vec![whole(ObjectKind::Blob, &base), lies(&longer)], false),
            ("shorter than it is", vec![whole(ObjectKind::Blob, &base), lies(&one[..300])], false),
            ("a base too long", vec![whole(ObjectKind::Blob, &huge), against(&huge, FIRST, &huge[1..])], false),
        ];
        for (what, frames, sound) in cases {
            let dir = tempfile::tempdir().expect("a place");
            let (_, places) = forge(dir.path(), &frames);
            let store = ObjectStore::open(Arc::new(OsDisk), dir.path(), Arc::new(|| UID));
            let last = frames.last().expect("one");
            let name = ObjectId::of(last.kind, &last.raw);
            match store.get(last.kind, name, MAX_OBJECT) {
                Ok(found) => assert!(sound && found == last.raw, "{what}"),
                Err(Error::Corrupt { .. }) => assert!(!sound, "{what}"),
                Err(error) => panic!("{what}: {error}"),
            }
            let damaged = store.verify().expect("readable");
            assert_eq!(damaged.is_empty(), sound, "{what}");
            let told =
                |error: &Error| matches!(error, Error::Corrupt { at, .. } if at.get() <= places[places.len() - 1]);
            assert!(damaged.iter().all(told), "{what}: {damaged:?}");
        }
    }

    #[test]
    fn damage_to_a_base_is_told_with_its_place() {
        let dir = tempfile::tempdir().expect("a place");
        let (base, one) = (lines(99), lines(7));
        let frames = [whole(ObjectKind::Blob, &base), against(&base, HEADER_LEN as u64, &one)];
        let (path, places) = forge(dir.path(), &frames);
        let mut bytes = std::fs::read(&path).expect("readable");
        bytes[HEADER_LEN + HEAD_LEN + 5] ^= 1;
        std::fs::write(&path, bytes).expect("written");
        let store = ObjectStore::open(Arc::new(OsDisk), dir.path(), Arc::new(|| UID));
        match store.get(ObjectKind::Blob, ObjectId::of(ObjectKind::Blob, &one), MAX_OBJECT) {
            Err(Error::Corrupt { path: told, at, .. }) => assert_eq!((told, at.get()), (path, places[0])),
            other => panic!("{other:?}"),
        }
    }
}
