//! The tail of the index and its anchor (FORMAT.md, section 10): records, the manifest, slots.

use super::entry::{self, Entry, Reader};
use super::run::{ROW, Row};
use crate::ids::Uid;

/// The format of the index. Another one is not read but built anew.
const FORMAT: u32 = 1;
/// Bytes of a record besides its payload: length, kind, checksum.
const FRAME: usize = 9;

const MANIFEST: u8 = 1;
const PUT: u8 = 2;
const REMOVE: u8 = 3;

/// What the first record of a tail says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// Random bits, drawn when the index was built from the transcripts.
    pub(crate) life: [u8; 16],
    /// Rises with every new tail.
    pub(crate) generation: u64,
    /// The end of the tail that this one replaced; `None` after a rebuild.
    pub(crate) before: Option<Mark>,
    /// The runs, the newest first.
    pub(crate) runs: Vec<RunRef>,
}

/// The end of a tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark {
    pub(crate) generation: u64,
    pub(crate) len: u64,
    pub(crate) crc: u32,
}

/// A run, as the manifest knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RunRef {
    /// Names the file.
    pub(crate) number: u64,
    /// Bytes of the file.
    pub(crate) len: u64,
    /// Where its foot begins.
    pub(crate) foot: u64,
    /// CRC-32 of its foot.
    pub(crate) crc: u32,
}

/// One record.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Record<'a> {
    Manifest(Manifest),
    /// A session's newest entry: its row, and the rest.
    Put(Row, &'a [u8]),
    /// That a session is gone.
    Remove(Uid),
}

fn frame(out: &mut Vec<u8>, kind: u8, crc: &mut u32, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.push(kind);
    payload(out);
    let len = u32::try_from(out.len() - start - 5).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
    *crc = chain(*crc, &out[start..]);
    out.extend_from_slice(&crc.to_le_bytes());
}

fn chain(crc: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(crc);
    hasher.update(bytes);
    hasher.finalize()
}

/// Adds an entry; `crc` is that of the record before, and then this one's.
pub(crate) fn encode_put(out: &mut Vec<u8>, crc: &mut u32, entry: &Entry) {
    frame(out, PUT, crc, |out| {
        out.extend_from_slice(&entry::row(entry).encode());
        entry::encode_text(out, entry);
    });
}

/// Adds that a session is gone.
pub(crate) fn encode_remove(out: &mut Vec<u8>, crc: &mut u32, uid: Uid) {
    frame(out, REMOVE, crc, |out| out.extend_from_slice(&uid.0));
}

/// Adds a manifest, the first record of a tail.
pub(crate) fn encode_manifest(out: &mut Vec<u8>, crc: &mut u32, manifest: &Manifest) {
    let before = manifest.before.unwrap_or(Mark { generation: 0, len: 0, crc: 0 });
    frame(out, MANIFEST, crc, |out| {
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&manifest.life);
        out.extend_from_slice(&manifest.generation.to_le_bytes());
        out.extend_from_slice(&before.generation.to_le_bytes());
        out.extend_from_slice(&before.len.to_le_bytes());
        out.extend_from_slice(&before.crc.to_le_bytes());
        for run in &manifest.runs {
            out.extend_from_slice(&run.number.to_le_bytes());
            out.extend_from_slice(&run.len.to_le_bytes());
            out.extend_from_slice(&run.foot.to_le_bytes());
            out.extend_from_slice(&run.crc.to_le_bytes());
        }
    });
}

/// Reads the record at the start of `bytes`, and says how long it is and what its checksum is.
///
/// `None` is the end of the tail: nothing, or something that is not a whole record.
pub(crate) fn decode(bytes: &[u8], crc: u32) -> Option<(Record<'_>, usize, u32)> {
    let mut from = Reader(bytes);
    let len = usize::try_from(u32::from_le_bytes(from.array()?)).ok()?;
    let whole = len.checked_add(FRAME)?;
    let covered = bytes.get(..whole.checked_sub(4)?)?;
    let (_, payload) = covered.split_at_checked(5)?;
    let [kind] = from.array()?;
    from.bytes(len)?;
    let crc = chain(crc, covered);
    if from.array()? != crc.to_le_bytes() {
        return None;
    }
    let record = match kind {
        MANIFEST => Record::Manifest(decode_manifest(payload)?),
        PUT => {
            let (row, text) = payload.split_first_chunk::<ROW>()?;
            Record::Put(Row::decode(row).filter(|row| row.text == 0)?, text)
        }
        REMOVE => Record::Remove(Uid(payload.try_into().ok()?)),
        _ => return None,
    };
    Some((record, whole, crc))
}

fn decode_manifest(payload: &[u8]) -> Option<Manifest> {
    let mut from = Reader(payload);
    if u32::from_le_bytes(from.array()?) != FORMAT {
        return None;
    }
    let life = from.array()?;
    let generation = u64::from_le_bytes(from.array()?);
    let before = Mark {
        generation: u64::from_le_bytes(from.array()?),
        len: u64::from_le_bytes(from.array()?),
        crc: u32::from_le_bytes(from.array()?),
    };
    let mut runs = Vec::new();
    while !from.0.is_empty() {
        runs.push(RunRef {
            number: u64::from_le_bytes(from.array()?),
            len: u64::from_le_bytes(from.array()?),
            foot: u64::from_le_bytes(from.array()?),
            crc: u32::from_le_bytes(from.array()?),
        });
    }
    let before = (before.generation != 0).then_some(before);
    (generation != 0).then_some(Manifest { life, generation, before, runs })
}

/// Bytes of a slot of the anchor.
pub(crate) const SLOT: usize = 32;
/// Where the two slots begin: in sectors of their own, so that one write that is torn leaves the other.
pub(crate) const SLOTS: [u64; 2] = [0, 512];
/// Bytes of an anchor.
pub(crate) const ANCHOR: usize = 512 + SLOT;
const SLOT_MAGIC: &[u8; 8] = b"flanch\x01\n";

/// Writes a slot.
///
/// ```text
/// offset  size  field                                   (little-endian)
///      0     8  "flanch" 01 0a
///      8     8  generation
///     16     8  length of the tail
///     24     4  checksum of the tail's last record before there
///     28     4  CRC-32 of bytes 0..28
/// ```
pub(crate) fn encode_slot(mark: &Mark) -> [u8; SLOT] {
    let mut out = [0; SLOT];
    out[..8].copy_from_slice(SLOT_MAGIC);
    out[8..16].copy_from_slice(&mark.generation.to_le_bytes());
    out[16..24].copy_from_slice(&mark.len.to_le_bytes());
    out[24..28].copy_from_slice(&mark.crc.to_le_bytes());
    let crc = crc32fast::hash(&out[..28]);
    out[28..].copy_from_slice(&crc.to_le_bytes());
    out
}

fn decode_slot(slot: &[u8]) -> Option<Mark> {
    let mut from = Reader(slot);
    let covered = slot.get(..28)?;
    let magic: [u8; 8] = from.array()?;
    let mark = Mark {
        generation: u64::from_le_bytes(from.array()?),
        len: u64::from_le_bytes(from.array()?),
        crc: u32::from_le_bytes(from.array()?),
    };
    let good = magic == *SLOT_MAGIC && from.array()? == crc32fast::hash(covered).to_le_bytes() && mark.generation != 0;
    good.then_some(mark)
}

/// The mark of an anchor, and the slot that the next one goes to; `None` where neither slot is whole.
pub(crate) fn decode_anchor(bytes: &[u8]) -> Option<(Mark, usize)> {
    let slot = |n: usize| {
        let start = usize::try_from(*SLOTS.get(n)?).ok()?;
        decode_slot(bytes.get(start..start.checked_add(SLOT)?)?)
    };
    match (slot(0), slot(1)) {
        (Some(a), Some(b)) if (b.generation, b.len) > (a.generation, a.len) => Some((b, 0)),
        (Some(a), _) => Some((a, 1)),
        (None, Some(b)) => Some((b, 0)),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::sample;
    use super::*;

    #[test]
    fn records_read_back_and_every_cut_and_flip_ends_the_tail() {
        let manifest = Manifest {
            life: [9; 16],
            generation: 3,
            before: Some(Mark { generation: 2, len: 99, crc: 7 }),
            runs: vec![RunRef { number: 1, len: 4, foot: 3, crc: 2 }],
        };
        let (mut bytes, mut crc) = (Vec::new(), 0);
        encode_manifest(&mut bytes, &mut crc, &manifest);
        let first = bytes.len();
        encode_put(&mut bytes, &mut crc, &sample(5));
        let second = bytes.len();
        encode_remove(&mut bytes, &mut crc, sample(6).uid);
        let (record, len, after) = decode(&bytes, 0).expect("whole");
        assert_eq!((record, len), (Record::Manifest(manifest), first));
        let (record, len, after) = decode(&bytes[first..], after).expect("whole");
        assert!(matches!(record, Record::Put(row, _) if row.uid == sample(5).uid) && first + len == second);
        let (record, _, after) = decode(&bytes[second..], after).expect("whole");
        assert_eq!((record, after), (Record::Remove(sample(6).uid), crc));

        let walk = |bytes: &[u8]| {
            let (mut at, mut crc, mut n) = (0, 0, 0);
            while let Some((_, len, next)) = decode(&bytes[at..], crc) {
                (at, crc, n) = (at + len, next, n + 1);
            }
            n
        };
        for cut in 0..bytes.len() {
            assert!(walk(&bytes[..cut]) < 3);
        }
        for bit in 0..bytes.len() * 8 {
            let mut other = bytes.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(walk(&other) < 3, "bit {bit}");
        }
    }

    #[test]
    fn an_anchor_that_lost_one_slot_has_the_other() {
        let (old, new) = (Mark { generation: 4, len: 10, crc: 1 }, Mark { generation: 4, len: 20, crc: 2 });
        let mut bytes = [0; ANCHOR];
        bytes[..SLOT].copy_from_slice(&encode_slot(&new));
        bytes[512..].copy_from_slice(&encode_slot(&old));
        assert_eq!(decode_anchor(&bytes), Some((new, 1)));
        for bit in 0..SLOT * 8 {
            let mut torn = bytes;
            torn[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_anchor(&torn), Some((old, 0)), "bit {bit}");
        }
        assert_eq!(decode_anchor(&bytes[..SLOT]), Some((new, 1)));
        assert_eq!(decode_anchor(&bytes[..SLOT - 1]), None);
        assert_eq!(decode_anchor(&[0; ANCHOR]), None);
    }
}
