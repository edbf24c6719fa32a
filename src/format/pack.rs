//! Packs of objects and their indexes. FORMAT.md has the tables.

use super::bytes::Fields;
use crate::ids::{ObjectId, ObjectKind, Uid};

/// The most bytes that one object may have before compression.
pub const MAX_OBJECT: u64 = 1 << 30;
/// The most bytes that the base of a delta may have, which is in memory beside the object.
pub(crate) const MAX_BASE: u64 = 1 << 22;

pub(crate) const HEADER_LEN: usize = 32;
pub(crate) const HEAD_LEN: usize = 72;
pub(crate) const FRAME_MAGIC: [u8; 4] = *b"FLob";
pub(crate) const INDEX_HEADER_LEN: usize = 60;
pub(crate) const INDEX_ENTRY_LEN: usize = 40;

const PACK_MAGIC: [u8; 8] = *b"FLpack\r\n";
const INDEX_MAGIC: [u8; 8] = *b"FLpidx\r\n";
const VERSION: u32 = 1;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    Object(ObjectKind),
    /// Nothing: it only says how far the pack is known to be on stable storage.
    Mark,
}

/// How an object's bytes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Plain,
    Zstd,
    /// Against an earlier object of the same pack: [`split_delta`].
    Delta,
}

/// The head of a frame; `stored_len` bytes follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: FrameKind,
    pub(crate) coding: Coding,
    /// The pack's length that was on stable storage when this frame was written.
    pub(crate) synced: u64,
    pub(crate) stored_len: u64,
    pub(crate) raw_len: u64,
    pub(crate) id: ObjectId,
    pub(crate) body_crc: u32,
}

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// They end too early.
    Torn,
    /// They fail a check.
    Corrupt(&'static str),
    /// A newer version wrote them.
    Newer,
}

impl Head {
    /// The mark that promises everything before it.
    pub(crate) fn mark(synced: u64) -> Self {
        Self {
            kind: FrameKind::Mark,
            coding: Coding::Plain,
            synced,
            stored_len: 0,
            raw_len: 0,
            id: ObjectId::from_bytes([0; 32]),
            body_crc: 0,
        }
    }

    /// Bytes of the whole frame.
    pub(crate) fn frame_len(&self) -> u64 {
        HEAD_LEN as u64 + self.stored_len
    }

    /// The head as it stands at byte `at` of pack `uid`.
    pub(crate) fn encode(&self, uid: Uid, at: u64) -> [u8; HEAD_LEN] {
        let mut out = Vec::with_capacity(HEAD_LEN);
        out.extend_from_slice(&FRAME_MAGIC);
        out.push(match self.kind {
            FrameKind::Object(ObjectKind::Blob) => 1,
            FrameKind::Object(ObjectKind::Tree) => 2,
            FrameKind::Mark => 3,
        });
        out.push(match self.coding {
            Coding::Plain => 0,
            Coding::Zstd => 1,
            Coding::Delta => 2,
        });
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.synced.to_le_bytes());
        out.extend_from_slice(&self.stored_len.to_le_bytes());
        out.extend_from_slice(&self.raw_len.to_le_bytes());
        out.extend_from_slice(&self.id.to_bytes());
        out.extend_from_slice(&self.body_crc.to_le_bytes());
        out.extend_from_slice(&head_crc(uid, at, &out).to_le_bytes());
        let mut head = [0; HEAD_LEN];
        head.copy_from_slice(&out);
        head
    }

    /// Reads the head that stands at byte `at` of pack `uid`. Never panics, whatever `bytes` holds.
    pub(crate) fn decode(bytes: &[u8], uid: Uid, at: u64) -> Result<Self, Bad> {
        let whole: &[u8; HEAD_LEN] = bytes.first_chunk().ok_or(Bad::Torn)?;
        let (body, crc) = whole.split_last_chunk::<4>().ok_or(Bad::Torn)?;
        if body.get(..4) != Some(&FRAME_MAGIC) {
            return Err(Bad::Corrupt("a frame begins with other bytes"));
        }
        if head_crc(uid, at, body) != u32::from_le_bytes(*crc) {
            return Err(Bad::Corrupt("a frame's head fails its checksum"));
        }
        let mut fields = Fields::new(body.get(4..).unwrap_or_default());
        let kind = fields.u8().ok_or(Bad::Torn)?;
        let coding = fields.u8().ok_or(Bad::Torn)?;
        let zero = fields.u16().ok_or(Bad::Torn)?;
        let synced = fields.u64().ok_or(Bad::Torn)?;
        let stored_len = fields.u64().ok_or(Bad::Torn)?;
        let raw_len = fields.u64().ok_or(Bad::Torn)?;
        let id = ObjectId::from_bytes(fields.array().ok_or(Bad::Torn)?);
        let body_crc = fields.u32().ok_or(Bad::Torn)?;
        let kind = match kind {
            1 => FrameKind::Object(ObjectKind::Blob),
            2 => FrameKind::Object(ObjectKind::Tree),
            3 => FrameKind::Mark,
            _ => return Err(Bad::Newer),
        };
        let coding = match coding {
            0 => Coding::Plain,
            1 => Coding::Zstd,
            2 => Coding::Delta,
            _ => return Err(Bad::Newer),
        };
        if zero != 0 {
            return Err(Bad::Newer);
        }
        let head = Self { kind, coding, synced, stored_len, raw_len, id, body_crc };
        head.check(at).map_err(Bad::Corrupt)?;
        Ok(head)
    }

    /// The rules between the fields.
    fn check(&self, at: u64) -> Result<(), &'static str> {
        if self.synced > at {
            return Err("a frame promises what comes after it");
        }
        match self.kind {
            FrameKind::Mark if *self != Self::mark(self.synced) => Err("a mark holds something"),
            FrameKind::Mark => Ok(()),
            FrameKind::Object(_) if self.raw_len > MAX_OBJECT => Err("an object is longer than the limit"),
            FrameKind::Object(_) => match self.coding {
                Coding::Plain if self.stored_len != self.raw_len => Err("an object's two lengths differ"),
                Coding::Zstd | Coding::Delta if self.stored_len >= self.raw_len => {
                    Err("compression made an object no smaller")
                }
                Coding::Plain | Coding::Zstd | Coding::Delta => Ok(()),
            },
        }
    }
}

/// The stored bytes of a delta against the object whose frame begins at byte `base` of the same pack.
pub(crate) fn join_delta(base: u64, zstd: &[u8]) -> Vec<u8> {
    [&base.to_le_bytes(), zstd].concat()
}

/// Where the frame of the base begins of a delta whose own frame begins at `at`, and the zstd frame that needs it.
///
/// A base stands before what needs it, so that a promise of the one is a promise of the other.
pub(crate) fn split_delta(stored: &[u8], at: u64) -> Result<(u64, &[u8]), Bad> {
    let (base, zstd) = stored.split_first_chunk().ok_or(Bad::Corrupt("a delta names no base"))?;
    let base = u64::from_le_bytes(*base);
    if base < HEADER_LEN as u64 || at <= base {
        return Err(Bad::Corrupt("a delta's base does not stand before it"));
    }
    Ok((base, zstd))
}

/// Covers the pack's uid and the place too, so that a frame is valid only where it was written.
fn head_crc(uid: Uid, at: u64, body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&uid.to_bytes());
    crc.update(&at.to_le_bytes());
    crc.update(body);
    crc.finalize()
}

/// The first bytes of pack `uid`.
pub(crate) fn encode_header(uid: Uid) -> [u8; HEADER_LEN] {
    let mut out = Vec::with_capacity(HEADER_LEN);
    out.extend_from_slice(&PACK_MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&uid.to_bytes());
    super::bytes::put_crc(&mut out);
    let mut header = [0; HEADER_LEN];
    header.copy_from_slice(&out);
    header
}

/// The uid of the pack that begins with `bytes`.
pub(crate) fn decode_header(bytes: &[u8]) -> Result<Uid, Bad> {
    let whole: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(Bad::Torn)?;
    let body = super::bytes::checked_body(whole).ok_or(Bad::Corrupt("a pack's header fails its checksum"))?;
    let mut fields = Fields::new(body);
    if fields.array() != Some(PACK_MAGIC) {
        return Err(Bad::Corrupt("a pack begins with other bytes"));
    }
    if fields.u32() != Some(VERSION) {
        return Err(Bad::Newer);
    }
    fields.array().map(Uid::from_bytes).ok_or(Bad::Torn)
}

/// Where one object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct IndexEntry {
    pub(crate) id: ObjectId,
    pub(crate) at: u64,
}

/// What the index of a pack says apart from its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexHeader {
    pub(crate) uid: Uid,
    /// Bytes of the pack that the index describes.
    pub(crate) covered: u64,
    /// The largest promise among the frames that it describes.
    pub(crate) synced: u64,
    pub(crate) count: u64,
    entries_crc: u32,
}

/// A whole index. `entries` must be sorted by id, without repeats.
pub(crate) fn encode_index(uid: Uid, covered: u64, synced: u64, entries: &[IndexEntry]) -> Vec<u8> {
    debug_assert!(entries.is_sorted_by(|a, b| a.id < b.id), "an index is sorted and names an object once");
    let mut body = Vec::with_capacity(entries.len() * INDEX_ENTRY_LEN);
    for entry in entries {
        body.extend_from_slice(&entry.id.to_bytes());
        body.extend_from_slice(&entry.at.to_le_bytes());
    }
    let mut out = Vec::with_capacity(INDEX_HEADER_LEN + body.len());
    out.extend_from_slice(&INDEX_MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&uid.to_bytes());
    out.extend_from_slice(&covered.to_le_bytes());
    out.extend_from_slice(&synced.to_le_bytes());
    out.extend_from_slice(&(entries.len() as u64).to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    super::bytes::put_crc(&mut out);
    debug_assert_eq!(out.len(), INDEX_HEADER_LEN, "the header has its fixed length");
    out.extend_from_slice(&body);
    out
}

/// Reads an index's header and checks its length; the entries are checked by [`index_is_whole`].
pub(crate) fn decode_index_header(bytes: &[u8]) -> Result<IndexHeader, Bad> {
    let whole: &[u8; INDEX_HEADER_LEN] = bytes.first_chunk().ok_or(Bad::Torn)?;
    let body = super::bytes::checked_body(whole).ok_or(Bad::Corrupt("an index's header fails its checksum"))?;
    let mut fields = Fields::new(body);
    if fields.array() != Some(INDEX_MAGIC) {
        return Err(Bad::Corrupt("an index begins with other bytes"));
    }
    if fields.u32() != Some(VERSION) {
        return Err(Bad::Newer);
    }
    let header = IndexHeader {
        uid: Uid::from_bytes(fields.array().ok_or(Bad::Torn)?),
        covered: fields.u64().ok_or(Bad::Torn)?,
        synced: fields.u64().ok_or(Bad::Torn)?,
        count: fields.u64().ok_or(Bad::Torn)?,
        entries_crc: fields.u32().ok_or(Bad::Torn)?,
    };
    let entries_len = header.count.checked_mul(INDEX_ENTRY_LEN as u64);
    if entries_len != Some((bytes.len() - INDEX_HEADER_LEN) as u64) {
        return Err(Bad::Corrupt("an index has another length than it says"));
    }
    if header.synced > header.covered {
        return Err(Bad::Corrupt("an index promises more than it describes"));
    }
    Ok(header)
}

/// Whether the entries of the index `bytes` pass their checksum.
pub(crate) fn index_is_whole(bytes: &[u8]) -> bool {
    decode_index_header(bytes).is_ok_and(|header| {
        bytes.get(INDEX_HEADER_LEN..).is_some_and(|entries| crc32fast::hash(entries) == header.entries_crc)
    })
}

/// The entries of the index `bytes`, in order.
pub(crate) fn index_entries(bytes: &[u8]) -> impl ExactSizeIterator<Item = IndexEntry> + '_ {
    bytes.get(INDEX_HEADER_LEN..).unwrap_or_default().as_chunks::<INDEX_ENTRY_LEN>().0.iter().map(index_entry)
}

/// Where the index `bytes` says that object `id` is. Only an index that [`index_is_whole`] tells the truth.
pub(crate) fn index_find(bytes: &[u8], id: &ObjectId) -> Option<u64> {
    let (entries, _) = bytes.get(INDEX_HEADER_LEN..)?.as_chunks::<INDEX_ENTRY_LEN>();
    let id = id.to_bytes();
    let name = |at: usize| entries.get(at).and_then(|entry| entry.first_chunk::<32>());
    // Names are hashes, so they are spread evenly: the search begins where this one would be, and widens from there.
    let first = id.first_chunk().map_or(0, |first| u64::from_be_bytes(*first));
    let guess = usize::try_from((u128::from(first) * entries.len() as u128) >> 64).unwrap_or_default();
    let mut reach = 16;
    let (low, high) = loop {
        let (low, high) = (guess.saturating_sub(reach), guess.saturating_add(reach).min(entries.len()));
        let is_below = low == 0 || name(low).is_some_and(|name| *name <= id);
        if is_below && (high == entries.len() || name(high).is_some_and(|name| id < *name)) {
            break (low, high);
        }
        reach = reach.saturating_mul(4);
    };
    let near = entries.get(low..high)?;
    let found = near.binary_search_by(|entry| entry.get(..32).cmp(&Some(&id[..]))).ok()?;
    near.get(found).map(|entry| index_entry(entry).at)
}

fn index_entry(bytes: &[u8; INDEX_ENTRY_LEN]) -> IndexEntry {
    let mut fields = Fields::new(bytes);
    let id = ObjectId::from_bytes(fields.array().unwrap_or_default());
    IndexEntry { id, at: fields.u64().unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: Uid = Uid::from_bytes([7; 16]);

    fn head() -> Head {
        Head {
            kind: FrameKind::Object(ObjectKind::Blob),
            coding: Coding::Zstd,
            synced: 100,
            stored_len: 40,
            raw_len: 90,
            id: ObjectId::of(ObjectKind::Blob, b"x"),
            body_crc: 0x1234_5678,
        }
    }

    #[test]
    fn a_head_is_valid_only_whole_and_only_at_its_place() {
        let bytes = head().encode(UID, 4096);
        assert_eq!(Head::decode(&bytes, UID, 4096), Ok(head()));
        assert!(Head::decode(&bytes, UID, 4097).is_err(), "another place");
        assert!(Head::decode(&bytes, Uid::from_bytes([8; 16]), 4096).is_err(), "another pack");
        for len in 0..HEAD_LEN {
            assert_eq!(Head::decode(&bytes[..len], UID, 4096), Err(Bad::Torn), "cut to {len}");
        }
        for bit in 0..HEAD_LEN * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Head::decode(&bad, UID, 4096).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_head_that_breaks_a_rule_is_refused_although_its_checksum_fits() {
        let object = head();
        for bad in [
            Head { synced: 4097, ..object },
            Head { raw_len: MAX_OBJECT + 1, ..object },
            Head { stored_len: 90, ..object },
            Head { coding: Coding::Plain, ..object },
            Head { coding: Coding::Delta, stored_len: 90, ..object },
            Head { kind: FrameKind::Mark, ..object },
            Head { id: object.id, ..Head::mark(100) },
        ] {
            assert!(matches!(Head::decode(&bad.encode(UID, 4096), UID, 4096), Err(Bad::Corrupt(_))), "{bad:?}");
        }
        assert!(Head::decode(&Head::mark(4096).encode(UID, 4096), UID, 4096).is_ok());
    }

    #[test]
    fn unknown_kinds_and_codings_need_a_newer_version() {
        for (at, value) in [(4, 4), (5, 3), (6, 1)] {
            let mut bytes = head().encode(UID, 4096);
            bytes[at] = value;
            let crc = head_crc(UID, 4096, &bytes[..HEAD_LEN - 4]);
            bytes[HEAD_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(Head::decode(&bytes, UID, 4096), Err(Bad::Newer));
        }
    }

    #[test]
    fn the_base_of_a_delta_stands_before_it_in_the_pack() {
        let stored = join_delta(40, b"zstd");
        assert_eq!(split_delta(&stored, 41), Ok((40, &b"zstd"[..])));
        assert!(split_delta(&stored, 40).is_err() && split_delta(&stored, 39).is_err(), "itself, or later");
        assert!(split_delta(&join_delta(31, b"zstd"), 100).is_err(), "in the header");
        assert!((0..8).all(|len| split_delta(&stored[..len], 100).is_err()), "cut");
    }

    #[test]
    fn a_pack_header_refuses_every_cut_and_flip() {
        let bytes = encode_header(UID);
        assert_eq!(decode_header(&bytes), Ok(UID));
        for len in 0..HEADER_LEN {
            assert_eq!(decode_header(&bytes[..len]), Err(Bad::Torn));
        }
        for bit in 0..HEADER_LEN * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_header(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn an_index_finds_what_it_holds_and_refuses_every_cut_and_flip() {
        let mut entries: Vec<IndexEntry> =
            (0..9u8).map(|n| IndexEntry { id: ObjectId::of(ObjectKind::Blob, &[n]), at: u64::from(n) * 100 }).collect();
        entries.sort();
        let bytes = encode_index(UID, 1000, 900, &entries);
        let header = decode_index_header(&bytes).expect("just written");
        assert_eq!((header.uid, header.covered, header.synced, header.count), (UID, 1000, 900, 9));
        assert!(index_is_whole(&bytes));
        assert!(index_entries(&bytes).eq(entries.iter().copied()));
        for entry in &entries {
            assert_eq!(index_find(&bytes, &entry.id), Some(entry.at));
        }
        assert_eq!(index_find(&bytes, &ObjectId::of(ObjectKind::Blob, b"none")), None);
        for len in 0..bytes.len() {
            assert!(!index_is_whole(&bytes[..len]), "cut to {len}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!index_is_whole(&bad), "bit {bit}");
            let _ = index_find(&bad, &entries[0].id);
        }
    }

    #[test]
    fn an_index_finds_names_however_they_are_spread() {
        let even = (0..3_000_u32).map(|n| ObjectId::of(ObjectKind::Blob, &n.to_le_bytes()));
        let crowded = (0..3_000_u32).map(|n| {
            let mut name = [0xff; 32];
            name[28..].copy_from_slice(&(2 * n).to_be_bytes());
            ObjectId::from_bytes(name)
        });
        for names in [even.collect::<Vec<_>>(), crowded.collect()] {
            let mut entries: Vec<IndexEntry> = names.iter().zip(0..).map(|(&id, at)| IndexEntry { id, at }).collect();
            entries.sort();
            let bytes = encode_index(UID, 10_000, 9_000, &entries);
            assert!(entries.iter().all(|entry| index_find(&bytes, &entry.id) == Some(entry.at)));
            let mut between = names[0].to_bytes();
            between[31] ^= 1;
            let ends = [[0; 32], [0xff; 32], between];
            assert!(ends.iter().all(|id| index_find(&bytes, &ObjectId::from_bytes(*id)).is_none()));
        }
    }

    #[test]
    fn an_index_may_not_promise_more_than_it_covers() {
        assert!(decode_index_header(&encode_index(UID, 10, 11, &[])).is_err());
    }
}
