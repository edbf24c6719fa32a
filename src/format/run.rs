//! A sorted run of the index (FORMAT.md, section 10): rows, the foot, and the sums of blocks.

use crate::ids::Uid;
use crate::time::Timestamp;

/// Bytes that share one checksum. Sections begin at multiples of it.
pub(crate) const BLOCK: usize = 4096;
/// Bytes of a row.
pub(crate) const ROW: usize = 64;
/// Bytes of one pair in a look-up table.
pub(crate) const PAIR: usize = 8;
/// Bytes of a removed session's uid.
pub(crate) const GONE: usize = 16;
/// The most bytes that a run's texts may lie apart.
pub(crate) const MAX_TEXT: u64 = (1 << 48) - 1;

const MAGIC: &[u8; 8] = b"flrun\x00\x01\n";
const _: () = assert!(BLOCK.is_multiple_of(ROW) && BLOCK.is_multiple_of(PAIR) && BLOCK.is_multiple_of(GONE));

/// Flags of a row.
pub(crate) mod flag {
    pub(crate) const ARCHIVED: u16 = 1;
    pub(crate) const DAMAGED: u16 = 2;
    pub(crate) const LIVE: u16 = 4;
    pub(crate) const MODEL: u16 = 8;
    pub(crate) const PARENT: u16 = 16;
    pub(crate) const ALL: u16 = 31;
}

/// The part of an entry that has a fixed size: what orders it, and what most filters look at.
///
/// ```text
/// offset  size  field                                   (little-endian)
///      0     8  updated, milliseconds since 1970, signed
///      8    16  uid
///     24     8  created, as updated
///     32     8  cost, a double; the bits of `NO_COST` for none
///     40     8  tags, two bits set for each
///     48     6  where the rest of the entry begins in the texts; 0 in the tail
///     54     2  flags
///     56     4  CRC-32 of the project
///     60     2  low half of the CRC-32 of the model; 0 for none
///     62     2  low half of the sum of the parent's key; 0 for none
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) updated: i64,
    pub(crate) uid: Uid,
    pub(crate) created: i64,
    /// NaN for none.
    pub(crate) cost: f64,
    pub(crate) tags: u64,
    pub(crate) text: u64,
    pub(crate) flags: u16,
    pub(crate) project: u32,
    pub(crate) model: u16,
    pub(crate) parent: u16,
}

const NO_COST: u64 = 0x7ff8_0000_0000_0000;

impl Row {
    pub(crate) fn encode(&self) -> [u8; ROW] {
        let mut out = [0; ROW];
        let cost = if self.cost.is_finite() { self.cost.to_bits() } else { NO_COST };
        out[..8].copy_from_slice(&self.updated.to_le_bytes());
        out[8..24].copy_from_slice(&self.uid.0);
        out[24..32].copy_from_slice(&self.created.to_le_bytes());
        out[32..40].copy_from_slice(&cost.to_le_bytes());
        out[40..48].copy_from_slice(&self.tags.to_le_bytes());
        out[48..54].copy_from_slice(&self.text.to_le_bytes()[..6]);
        out[54..56].copy_from_slice(&self.flags.to_le_bytes());
        out[56..60].copy_from_slice(&self.project.to_le_bytes());
        out[60..62].copy_from_slice(&self.model.to_le_bytes());
        out[62..].copy_from_slice(&self.parent.to_le_bytes());
        out
    }

    /// Reads a row; `None` where a field has a value that is never written.
    pub(crate) fn decode(bytes: &[u8; ROW]) -> Option<Self> {
        let cost = u64_at(bytes, 32);
        let place = u64_at(bytes, 48);
        let row = Self {
            updated: i64::from_le_bytes(array(bytes, 0)),
            uid: Uid(array(bytes, 8)),
            created: i64::from_le_bytes(array(bytes, 24)),
            cost: f64::from_bits(cost),
            tags: u64_at(bytes, 40),
            text: place & MAX_TEXT,
            flags: u16::from_le_bytes(array(bytes, 54)),
            project: u32::from_le_bytes(array(bytes, 56)),
            model: u16::from_le_bytes(array(bytes, 60)),
            parent: u16::from_le_bytes(array(bytes, 62)),
        };
        let time = |ms| Timestamp::from_millis(ms).as_millis() == ms;
        let good = row.flags & !flag::ALL == 0
            && (row.cost.is_finite() || cost == NO_COST)
            && time(row.updated)
            && time(row.created);
        good.then_some(row)
    }

    /// The tags of an encoded row.
    pub(crate) fn tags_of(bytes: &[u8; ROW]) -> u64 {
        u64_at(bytes, 40)
    }

    /// When the session of an encoded row was created.
    pub(crate) fn created_of(bytes: &[u8; ROW]) -> i64 {
        i64::from_le_bytes(array(bytes, 24))
    }

    /// What lists are ordered by: the newest first, and by uid where times are equal.
    pub(crate) fn order(&self) -> Order {
        Order { updated: std::cmp::Reverse(self.updated), uid: self.uid }
    }
}

/// A place in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Order {
    pub(crate) updated: std::cmp::Reverse<i64>,
    pub(crate) uid: Uid,
}

/// The bits of a row that stand for a tag.
pub(crate) fn tag_bits(tag: &str) -> u64 {
    let sum = crc32fast::hash(tag.as_bytes());
    1 << (sum & 63) | 1 << ((sum >> 6) & 63)
}

/// The sum that a text has in a row or a look-up table.
pub(crate) fn sum(text: &str) -> u32 {
    crc32fast::hash(text.as_bytes())
}

/// The sum of a session's key in a look-up table.
pub(crate) fn key_sum(project: &str, session: &str) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(project.as_bytes());
    hasher.update(&[0]);
    hasher.update(session.as_bytes());
    hasher.finalize()
}

/// The sum of a uid in a look-up table: its first bytes, since they are random.
pub(crate) fn uid_sum(uid: Uid) -> u32 {
    u32::from_be_bytes(array(&uid.0, 0))
}

/// The low half of a sum.
pub(crate) fn low(sum: u32) -> u16 {
    u16::try_from(sum & 0xffff).unwrap_or_default()
}

/// One pair of a look-up table: a sum and the number of a row. Tables are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pair {
    pub(crate) sum: u32,
    pub(crate) row: u32,
}

impl Pair {
    pub(crate) fn encode(self) -> [u8; PAIR] {
        let mut out = [0; PAIR];
        out[..4].copy_from_slice(&self.sum.to_le_bytes());
        out[4..].copy_from_slice(&self.row.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8; PAIR]) -> Self {
        Self { sum: u32::from_le_bytes(array(bytes, 0)), row: u32::from_le_bytes(array(bytes, 4)) }
    }
}

/// The end of a run: where everything is, and the sums of the blocks that hold the blocks' sums.
///
/// ```text
/// offset  size  field                                   (little-endian)
///      0     8  "flrun" 00 01 0a
///      8     8  rows
///     16     8  removed sessions
///     24     8  start of the texts;    32  8  their bytes
///     40     8  start of the table by uid
///     48     8  start of the table by key
///     56     8  start of the table by project
///     64     8  start of the removed sessions' uids
///     72     8  start of the sums of blocks
///     80   4·n  CRC-32 of each block of those sums
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Foot {
    pub(crate) rows: u64,
    pub(crate) gone: u64,
    pub(crate) texts: u64,
    pub(crate) texts_len: u64,
    pub(crate) by_uid: u64,
    pub(crate) by_key: u64,
    pub(crate) by_project: u64,
    pub(crate) gone_at: u64,
    pub(crate) sums: u64,
    pub(crate) roots: Vec<u32>,
}

const FOOT_FIXED: usize = 80;

/// `len` rounded up to whole blocks.
pub(crate) fn blocks_up(len: u64) -> u64 {
    len.next_multiple_of(BLOCK as u64)
}

impl Foot {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        for field in [
            self.rows,
            self.gone,
            self.texts,
            self.texts_len,
            self.by_uid,
            self.by_key,
            self.by_project,
            self.gone_at,
            self.sums,
        ] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        for root in &self.roots {
            out.extend_from_slice(&root.to_le_bytes());
        }
        out
    }

    /// Reads the foot that begins at `start` of its file; `None` where it does not describe what lies before it.
    pub(crate) fn decode(bytes: &[u8], start: u64) -> Option<Self> {
        let fixed = bytes.get(..FOOT_FIXED)?;
        let field = |n: usize| u64_at(fixed, 8 * n);
        let roots = bytes.get(FOOT_FIXED..)?.chunks(4).map(|root| root.try_into().ok().map(u32::from_le_bytes));
        let foot = Self {
            rows: field(1),
            gone: field(2),
            texts: field(3),
            texts_len: field(4),
            by_uid: field(5),
            by_key: field(6),
            by_project: field(7),
            gone_at: field(8),
            sums: field(9),
            roots: roots.collect::<Option<_>>()?,
        };
        (fixed.starts_with(MAGIC) && foot.fits(start)?).then_some(foot)
    }

    /// Whether the sections follow each other as they must; `None` where a sum overflows.
    fn fits(&self, start: u64) -> Option<bool> {
        let block = BLOCK as u64;
        let aligned = |at: u64| at.is_multiple_of(block);
        let table = self.rows.checked_mul(PAIR as u64)?;
        let sums_len = (self.sums / block).checked_mul(4)?;
        Some(
            u32::try_from(self.rows).is_ok()
                && [self.texts, self.by_uid, self.by_key, self.by_project, self.gone_at, self.sums, start]
                    .into_iter()
                    .all(aligned)
                && self.rows.checked_mul(ROW as u64)? <= self.texts
                && self.texts_len <= MAX_TEXT
                && self.texts.checked_add(self.texts_len)? <= self.by_uid
                && self.by_uid.checked_add(table)? <= self.by_key
                && self.by_key.checked_add(table)? <= self.by_project
                && self.by_project.checked_add(table)? <= self.gone_at
                && self.gone_at.checked_add(self.gone.checked_mul(GONE as u64)?)? <= self.sums
                && self.sums.checked_add(sums_len)?.checked_next_multiple_of(block)? == start
                && self.roots.len() as u64 == sums_len.div_ceil(block),
        )
    }
}

/// `N` bytes of `bytes` from `at`; zeros where there are fewer, which callers exclude.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|part| part.try_into().ok()).unwrap_or([0; N])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            updated: 1_763_688_582_123,
            uid: Uid(*b"0123456789abcdef"),
            created: -5,
            cost: 1.25,
            tags: tag_bits("a") | tag_bits("b"),
            text: 0x0102_0304_0506,
            flags: flag::ARCHIVED | flag::MODEL,
            project: 7,
            model: 8,
            parent: 9,
        }
    }

    #[test]
    fn a_row_reads_back_and_has_one_spelling() {
        let bytes = row().encode();
        assert_eq!(Row::decode(&bytes), Some(row()));
        assert!(Row::decode(&Row { cost: f64::NAN, ..row() }.encode()).expect("legal").cost.is_nan());
        for bit in 0..ROW * 8 {
            let mut other = bytes;
            other[bit / 8] ^= 1 << (bit % 8);
            if let Some(row) = Row::decode(&other) {
                assert_eq!(row.encode(), other, "bit {bit}");
            }
        }
    }

    #[test]
    fn a_foot_that_does_not_fit_its_file_is_refused() {
        let foot = Foot {
            rows: 10,
            gone: 3,
            texts: 4096,
            texts_len: 5000,
            by_uid: 12288,
            by_key: 16384,
            by_project: 20480,
            gone_at: 24576,
            sums: 28672,
            roots: vec![77],
        };
        let bytes = foot.encode();
        assert_eq!(Foot::decode(&bytes, 32768), Some(foot.clone()));
        assert_eq!(Foot::decode(&bytes, 36864), None);
        for cut in 0..bytes.len() {
            assert_eq!(Foot::decode(&bytes[..cut], 32768), None, "{cut}");
        }
        for change in [
            Foot { rows: u64::MAX, ..foot.clone() },
            Foot { rows: 65, ..foot.clone() },
            Foot { gone: u64::MAX / 8, ..foot.clone() },
            Foot { texts_len: 10_000, ..foot.clone() },
            Foot { by_key: 16385, ..foot.clone() },
            Foot { sums: u64::MAX, ..foot.clone() },
            Foot { roots: vec![], ..foot.clone() },
        ] {
            assert_eq!(Foot::decode(&change.encode(), 32768), None, "{change:?}");
        }
    }
}
