//! The stat cache of a workspace. FORMAT.md has the table.

use super::bytes::{Fields, checked_body, put_crc};
use super::tree::{self, Entry};

const MAGIC: [u8; 8] = *b"FLstat1\n";

/// What a file was when its content was known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) modified: (i64, u32),
    pub(crate) changed: (i64, u32),
    pub(crate) inode: u64,
    pub(crate) device: u64,
}

/// One file that need not be read again while it is the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cached<'a> {
    pub(crate) path: &'a [u8],
    pub(crate) stat: Stat,
    pub(crate) entry: Entry,
}

pub(crate) fn encode<'a>(
    root: &[u8],
    boot: u64,
    files: impl Iterator<Item = (&'a [u8], &'a Stat, &'a Entry)>,
) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    put_counted(root, &mut out);
    out.extend_from_slice(&boot.to_le_bytes());
    for (path, stat, entry) in files {
        put_counted(path, &mut out);
        for (seconds, nanos) in [stat.modified, stat.changed] {
            out.extend_from_slice(&seconds.to_le_bytes());
            out.extend_from_slice(&nanos.to_le_bytes());
        }
        out.extend_from_slice(&stat.inode.to_le_bytes());
        out.extend_from_slice(&stat.device.to_le_bytes());
        tree::encode_entry(entry, &mut out);
    }
    put_crc(&mut out);
    out
}

/// The run of the machine and the files of the workspace at `root`, or `None` when anything about the cache is wrong.
pub(crate) fn decode<'a>(bytes: &'a [u8], root: &[u8]) -> Option<(u64, Vec<Cached<'a>>)> {
    let mut fields = Fields::new(checked_body(bytes)?);
    if fields.array() != Some(MAGIC) || fields.counted() != Some(root) {
        return None;
    }
    let boot = fields.u64()?;
    let mut files = Vec::new();
    while !fields.is_empty() {
        let path = fields.counted()?;
        let mut stamp = || Some((fields.array().map(i64::from_le_bytes)?, fields.u32()?));
        let (modified, changed) = (stamp()?, stamp()?);
        let stat = Stat { modified, changed, inode: fields.u64()?, device: fields.u64()? };
        files.push(Cached { path, stat, entry: tree::decode_entry(&mut fields).ok()? });
    }
    Some((boot, files))
}

pub(crate) fn put_counted(bytes: &[u8], out: &mut Vec<u8>) {
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tree::EntryKind;
    use crate::ids::{ObjectId, ObjectKind};

    #[test]
    fn a_cache_comes_back_whole_or_not_at_all() {
        let stat = Stat { modified: (-5, 7), changed: (9, 999_999_999), inode: 3, device: 4 };
        let entry = Entry { kind: EntryKind::File, mode: 0o644, size: 3, id: ObjectId::of(ObjectKind::Blob, b"abc") };
        let files = [(&b"a"[..], &stat, &entry), (&b"b/\xff"[..], &stat, &entry)];
        let bytes = encode(b"/w", 7, files.into_iter());
        let (boot, read) = decode(&bytes, b"/w").expect("just written");
        assert_eq!(boot, 7);
        assert!(read.iter().map(|file| (file.path, &file.stat, &file.entry)).eq(files));
        assert_eq!(decode(&bytes, b"/v"), None, "another workspace");
        for len in 0..bytes.len() {
            assert_eq!(decode(&bytes[..len], b"/w"), None, "cut to {len}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bad, b"/w"), None, "bit {bit}");
        }
    }
}
