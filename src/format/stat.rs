//! The stat cache of a workspace. FORMAT.md has the table.

use foldhash::HashMap;

use super::bytes::{Fields, checked_body, put_crc};
use super::tree::{self, Entry, EntryKind};

const MAGIC: [u8; 8] = *b"FLstat2\n";

/// What a file was when its content was known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) modified: (i64, u32),
    pub(crate) changed: (i64, u32),
    pub(crate) inode: u64,
    pub(crate) device: u64,
}

/// One file that need not be read again while it is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cached<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) stat: Stat,
    pub(crate) entry: Entry,
}

/// What is remembered of one directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group<'a> {
    /// The directory's tree.
    pub(crate) tree: Option<Entry>,
    files: &'a [u8],
}

impl<'a> Group<'a> {
    /// The files of the directory, sorted by name.
    pub(crate) fn files(&self) -> impl Iterator<Item = Cached<'a>> + use<'a> {
        let mut fields = Fields::new(self.files);
        std::iter::from_fn(move || take_file(&mut fields))
    }
}

/// The directories that a cache remembers, by their paths.
pub(crate) type Groups<'a> = HashMap<&'a [u8], Group<'a>>;

/// Spells a cache, one directory after another.
pub(crate) struct Writer {
    out: Vec<u8>,
    /// Where the length of the directory stands that was begun last.
    group: Option<usize>,
}

impl Writer {
    pub(crate) fn new(root: &[u8], boot: u64) -> Self {
        let mut out = MAGIC.to_vec();
        put_counted(root, &mut out);
        out.extend_from_slice(&boot.to_le_bytes());
        Self { out, group: None }
    }

    /// Begins a directory; its files follow, sorted by name.
    pub(crate) fn directory(&mut self, path: &[u8], tree: Option<&Entry>) {
        self.end_group();
        put_counted(path, &mut self.out);
        self.group = Some(self.out.len());
        self.out.extend_from_slice(&[0; 4]);
        match tree {
            None => self.out.push(0),
            Some(tree) => tree::encode_entry(tree, &mut self.out),
        }
    }

    /// Adds a file to the directory.
    pub(crate) fn file(&mut self, name: &[u8], stat: &Stat, entry: &Entry) {
        self.out.extend_from_slice(&u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes());
        self.out.extend_from_slice(name);
        for (seconds, nanos) in [stat.modified, stat.changed] {
            self.out.extend_from_slice(&seconds.to_le_bytes());
            self.out.extend_from_slice(&nanos.to_le_bytes());
        }
        self.out.extend_from_slice(&stat.inode.to_le_bytes());
        self.out.extend_from_slice(&stat.device.to_le_bytes());
        tree::encode_entry(entry, &mut self.out);
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.end_group();
        put_crc(&mut self.out);
        self.out
    }

    fn end_group(&mut self) {
        let Some(at) = self.group.take() else { return };
        let len = u32::try_from(self.out.len() - at - 4).unwrap_or(u32::MAX);
        if let Some(place) = self.out.get_mut(at..at + 4) {
            place.copy_from_slice(&len.to_le_bytes());
        }
    }
}

/// The run of the machine and what is remembered of the workspace at `root`, or `None` when anything about the cache is wrong.
pub(crate) fn decode<'a>(bytes: &'a [u8], root: &[u8]) -> Option<(u64, Groups<'a>)> {
    let mut fields = Fields::new(checked_body(bytes)?);
    if fields.array() != Some(MAGIC) || fields.counted() != Some(root) {
        return None;
    }
    let boot = fields.u64()?;
    let mut groups = Groups::default();
    while !fields.is_empty() {
        let path = fields.counted()?;
        let mut group = Fields::new(fields.counted()?);
        let tree = match group.peek()? {
            0 => group.u8().map(|_| None)?,
            _ => Some(tree::decode_entry(&mut group).ok().filter(|tree| tree.kind == EntryKind::Directory)?),
        };
        groups.insert(path, Group { tree, files: group.rest() });
    }
    Some((boot, groups))
}

fn take_file<'a>(fields: &mut Fields<'a>) -> Option<Cached<'a>> {
    let len = fields.u16()?;
    let name = fields.take(usize::from(len))?;
    let mut stamp = || Some((fields.array().map(i64::from_le_bytes)?, fields.u32()?));
    let (modified, changed) = (stamp()?, stamp()?);
    let stat = Stat { modified, changed, inode: fields.u64()?, device: fields.u64()? };
    Some(Cached { name, stat, entry: tree::decode_entry(fields).ok()? })
}

pub(crate) fn put_counted(bytes: &[u8], out: &mut Vec<u8>) {
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ObjectId, ObjectKind};

    #[test]
    fn a_cache_comes_back_whole_or_not_at_all() {
        let stat = Stat { modified: (-5, 7), changed: (9, 999_999_999), inode: 3, device: 4 };
        let entry = Entry { kind: EntryKind::File, mode: 0o644, size: 3, id: ObjectId::of(ObjectKind::Blob, b"abc") };
        let tree = Entry { kind: EntryKind::Directory, ..entry };
        let mut writer = Writer::new(b"/w", 7);
        writer.directory(b"", Some(&tree));
        writer.file(b"a", &stat, &entry);
        writer.file(b"b\xff", &stat, &entry);
        writer.directory(b"d/e", None);
        writer.file(b"c", &stat, &entry);
        let bytes = writer.finish();
        let (boot, read) = decode(&bytes, b"/w").expect("just written");
        assert_eq!((boot, read.len()), (7, 2));
        let files = |path: &[u8]| read[path].files().collect::<Vec<_>>();
        let cached = |name| Cached { name, stat, entry };
        assert_eq!((read[&b""[..]].tree, files(b"")), (Some(tree), vec![cached(b"a"), cached(b"b\xff")]));
        assert_eq!((read[&b"d/e"[..]].tree, files(b"d/e")), (None, vec![cached(b"c")]));
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

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(rest: Vec<u8>) {
            let mut bytes = Writer::new(b"/w", 7).out;
            bytes.extend_from_slice(&rest);
            put_crc(&mut bytes);
            if let Some((_, groups)) = decode(&bytes, b"/w") {
                for group in groups.values() {
                    proptest::prop_assert!(group.files().count() <= bytes.len());
                }
            }
        }
    }
}
