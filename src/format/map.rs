//! The map of a transcript (FORMAT.md, section 9): derived, so every doubt makes it worthless and nothing more.
//!
//! One line of kind `map`, then three sections: rows of samples, their digest states, blocks of ids.

use serde::{Deserialize, Serialize};
use serde_json::{Map as Object, Value};

use super::line::{self, Draft, Line, Link, kind};
use crate::Summary;
use crate::ids::{Crc, Offset, Uid};
use crate::time::Timestamp;

/// Bytes of a sample's row.
const SAMPLE: usize = 48;
/// Bytes of a block of ids, and of a row in it.
const BLOCK: usize = 4096;
const ROW: usize = 16;
const ROWS: usize = BLOCK / ROW - 1;
const _: () = assert!(ROWS * ROW + ROW == BLOCK, "the last row of a block holds its count and checksum");

/// What the map says of the whole transcript up to where it was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct MapHead {
    pub(crate) format: u32,
    pub(crate) uid: Uid,
    /// The end of the last line that it covers.
    pub(crate) len: Offset,
    pub(crate) crc: Crc,
    pub(crate) synced: Offset,
    pub(crate) records: u64,
    pub(crate) moved: Offset,
    pub(crate) updated: Timestamp,
    /// Name and version of the digest whose states these are.
    pub(crate) digest: String,
    /// The digest's state at `len`, where it was known.
    pub(crate) summary: Option<Summary>,
    pub(crate) meta: Object<String, Value>,
    pub(crate) samples: Section,
    /// Its checksum covers nothing: each sample's row has that of its state.
    pub(crate) states: Section,
    /// The same: each block has its own.
    pub(crate) ids: Section,
}

/// Where a section stands, counted from the end of the line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Section {
    pub(crate) at: u64,
    pub(crate) len: u64,
    pub(crate) crc: Crc,
}

/// A place in the transcript with the digest of the view there.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) link: Link,
    pub(crate) records: u64,
    pub(crate) moved: u64,
    pub(crate) digest: Option<Summary>,
}

/// Writes a map. `ids` need not be sorted.
pub(crate) fn encode(mut head: MapHead, samples: &[Sample], ids: &mut [(u64, u64)], now: Timestamp) -> Vec<u8> {
    let (mut rows, mut states) = (Vec::new(), Vec::new());
    for sample in samples {
        rows.extend_from_slice(&sample.link.end.to_le_bytes());
        rows.extend_from_slice(&sample.link.synced.to_le_bytes());
        rows.extend_from_slice(&sample.records.to_le_bytes());
        rows.extend_from_slice(&sample.moved.to_le_bytes());
        rows.extend_from_slice(&sample.link.crc.0.to_le_bytes());
        let state = sample.digest.as_ref().and_then(|digest| serde_json::to_vec(digest).ok()).unwrap_or_default();
        rows.extend_from_slice(&u32::try_from(state.len()).unwrap_or(0).to_le_bytes());
        rows.extend_from_slice(&line::crc32(&state).0.to_le_bytes());
        rows.extend_from_slice(&[0; 4]);
        states.extend_from_slice(&state);
    }
    ids.sort_unstable();
    let mut blocks = Vec::with_capacity(ids.len().div_ceil(ROWS) * BLOCK);
    for part in ids.chunks(ROWS) {
        let start = blocks.len();
        for (hash, at) in part {
            blocks.extend_from_slice(&hash.to_le_bytes());
            blocks.extend_from_slice(&at.to_le_bytes());
        }
        blocks.resize(start + BLOCK - ROW, 0);
        blocks.extend_from_slice(&(part.len() as u64).to_le_bytes());
        let crc = line::crc32(&blocks[start..]);
        blocks.extend_from_slice(&crc.0.to_le_bytes());
        blocks.extend_from_slice(&[0; 4]);
    }
    head.samples = Section { at: 0, len: rows.len() as u64, crc: line::crc32(&rows) };
    head.states = Section { at: rows.len() as u64, len: states.len() as u64, crc: Crc(0) };
    head.ids = Section { at: head.states.at + head.states.len, len: blocks.len() as u64, crc: Crc(0) };
    let payload = serde_json::to_vec(&head).unwrap_or_default();
    let at = now.to_bytes();
    let mut out = Vec::with_capacity(payload.len() + rows.len() + states.len() + blocks.len() + 256);
    line::encode(&mut out, Draft { at: &at, id: None, kind: kind::MAP, more: false }, Link::default(), 0, &payload);
    out.extend_from_slice(&rows);
    out.extend_from_slice(&states);
    out.extend_from_slice(&blocks);
    out
}

/// A map, as bytes that nobody has to believe.
#[derive(Debug)]
pub(crate) struct MapBytes<B> {
    bytes: B,
    pub(crate) head: MapHead,
    /// Where the sections begin in `bytes`.
    body: usize,
}

impl<B: std::ops::Deref<Target = [u8]>> MapBytes<B> {
    /// Reads the line and checks that the sections are as long as it says; `None` when anything is amiss.
    pub(crate) fn new(bytes: B) -> Option<Self> {
        let Line::Whole(whole) = line::decode(&bytes, Link::default()) else { return None };
        let head: MapHead = serde_json::from_slice(whole.payload).ok().filter(|_| whole.kind == kind::MAP)?;
        let body = whole.len;
        let total = head.ids.at.checked_add(head.ids.len)?.checked_add(body as u64)?;
        let fits = head.format == super::VERSION && total == bytes.len() as u64;
        fits.then_some(Self { bytes, head, body })
    }

    fn section(&self, section: Section) -> Option<&[u8]> {
        let from = usize::try_from(section.at).ok()?.checked_add(self.body)?;
        let to = from.checked_add(usize::try_from(section.len).ok()?)?;
        self.bytes.get(from..to)
    }

    /// All samples without their digests, in order of place; `None` when a checksum does not fit.
    pub(crate) fn samples(&self) -> Option<Vec<SampleRow>> {
        let rows = self.section(self.head.samples).filter(|rows| line::crc32(rows) == self.head.samples.crc)?;
        let mut state = 0;
        rows.chunks_exact(SAMPLE).map(|row| SampleRow::decode(row, &mut state)).collect()
    }

    /// The digest of one of [`MapBytes::samples`], if it is known and its checksum fits.
    pub(crate) fn digest(&self, row: &SampleRow) -> Option<Summary> {
        let from = usize::try_from(row.state.at).ok()?;
        let state = self.section(self.head.states)?.get(from..)?.get(..usize::try_from(row.state.len).ok()?)?;
        if state.is_empty() || line::crc32(state) != row.state.crc {
            return None;
        }
        serde_json::from_slice(state).ok()
    }

    /// Offsets of records whose id has this hash; `None` when a checksum does not fit.
    pub(crate) fn ids(&self, hash: u64) -> Option<Vec<u64>> {
        let section = self.section(self.head.ids)?;
        let count = section.len() / BLOCK;
        // The first block whose first hash is not less; matches may begin in the one before it.
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low + (high - low) / 2;
            match block(section, middle)?.next() {
                Some((first, _)) if first < hash => low = middle + 1,
                _ => high = middle,
            }
        }
        let mut found = Vec::new();
        for index in low.saturating_sub(1)..count {
            let mut past = false;
            for (row, at) in block(section, index)? {
                past = row > hash;
                found.extend((row == hash).then_some(at));
            }
            if past {
                break;
            }
        }
        Some(found)
    }

    /// All ids' hashes and offsets; `None` when a checksum does not fit.
    pub(crate) fn all_ids(&self) -> Option<Vec<(u64, u64)>> {
        let section = self.section(self.head.ids)?;
        let mut all = Vec::with_capacity(section.len() / ROW);
        for index in 0..section.len() / BLOCK {
            all.extend(block(section, index)?);
        }
        Some(all)
    }
}

/// The rows of one block of ids, if its checksum fits.
fn block(section: &[u8], index: usize) -> Option<impl Iterator<Item = (u64, u64)> + '_> {
    let block = section.get(index * BLOCK..)?.get(..BLOCK)?;
    let (rows, end) = block.split_at_checked(BLOCK - ROW)?;
    let (count, crc) = end.split_at_checked(8)?;
    let count = usize::try_from(u64_at(count, 0)?).ok().filter(|count| *count <= ROWS)?;
    let sum = u32::from_le_bytes(*crc.first_chunk::<4>()?);
    if line::crc32(block.get(..BLOCK - 8)?).0 != sum {
        return None;
    }
    let row = |row: &[u8]| (u64_at(row, 0).unwrap_or(0), u64_at(row, 8).unwrap_or(0));
    Some(rows.chunks_exact(ROW).take(count).map(row))
}

/// A sample without its digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SampleRow {
    pub(crate) link: Link,
    pub(crate) records: u64,
    pub(crate) moved: u64,
    state: Section,
}

impl SampleRow {
    /// `state` is where the next digest begins.
    fn decode(row: &[u8], state: &mut u64) -> Option<Self> {
        let crc = |at: usize| Some(Crc(u32::from_le_bytes(*row.get(at..)?.first_chunk::<4>()?)));
        let link = Link { end: u64_at(row, 0)?, crc: crc(32)?, synced: u64_at(row, 8)?, more: false };
        let section = Section { at: *state, len: crc(36)?.0.into(), crc: crc(40)? };
        *state += section.len;
        Some(Self { link, records: u64_at(row, 16)?, moved: u64_at(row, 24)?, state: section })
    }
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk::<8>()?))
}

/// The hash under which a record's id is kept: FNV-1a, 64 bits (Fowler, Noll, Vo).
pub(crate) fn hash_id(id: &str) -> u64 {
    id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(n: u64) -> Sample {
        let link = Link { end: n * 100, crc: Crc(7), synced: n, more: false };
        Sample { link, records: n, moved: n / 2, digest: Some(Summary { messages: n, ..Summary::default() }) }
    }

    fn map(ids: u64) -> Vec<u8> {
        let head = MapHead {
            format: 1,
            uid: Uid::from_bytes([3; 16]),
            len: Offset(1000),
            crc: Crc(9),
            synced: Offset(500),
            records: 12,
            moved: Offset(0),
            updated: Timestamp::from_millis(5),
            digest: "agent/1".to_owned(),
            summary: None,
            meta: Object::new(),
            samples: Section::default(),
            states: Section::default(),
            ids: Section::default(),
        };
        // Every third hash occurs twice.
        let mut ids: Vec<(u64, u64)> = (0..ids)
            .flat_map(|n| [(n * 10, n)].into_iter().chain((n % 3 == 0).then_some((n * 10, n + 5000))))
            .collect();
        encode(head, &[sample(1), sample(2), sample(9)], &mut ids, Timestamp::from_millis(0))
    }

    #[test]
    fn a_map_reads_back() {
        let bytes = map(1000);
        let map = MapBytes::new(&bytes[..]).expect("whole");
        let samples = map.samples().expect("whole");
        assert_eq!(samples.len(), 3);
        assert_eq!((samples[2].link, samples[2].records, samples[2].moved), (sample(9).link, 9, 4));
        assert_eq!(map.digest(&samples[2]).expect("whole").messages, 9);
        for n in 0..1000 {
            let expected = if n % 3 == 0 { vec![n, n + 5000] } else { vec![n] };
            assert_eq!(map.ids(n * 10), Some(expected));
            assert_eq!(map.ids(n * 10 + 1), Some(Vec::new()));
        }
        assert_eq!(map.all_ids().expect("whole").len(), 1334);
    }

    #[test]
    fn every_cut_and_flip_is_found_or_harmless() {
        let bytes = map(300);
        let all = |bytes: &[u8]| {
            let map = MapBytes::new(bytes)?;
            let samples: Option<Vec<_>> =
                map.samples()?.iter().map(|row| Some((row.link, row.records, row.moved, map.digest(row)?))).collect();
            let samples = samples?;
            Some((map.head.clone(), samples, map.all_ids()?, map.ids(30)?))
        };
        let whole = all(&bytes).expect("whole");
        for len in 0..bytes.len() {
            assert!(MapBytes::new(&bytes[..len]).is_none(), "{len}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(all(&flipped).is_none_or(|found| found == whole), "bit {bit}");
        }
    }
}
