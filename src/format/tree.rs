//! A directory as an object. FORMAT.md has the table.

use super::bytes::Fields;
use super::pack::{Bad, MAX_OBJECT};
use crate::ids::ObjectId;

const MAGIC: [u8; 4] = *b"FLt1";

/// The longest encoded tree.
pub(crate) const MAX_TREE: u64 = 256 << 20;
/// The longest name of a file, in bytes.
pub(crate) const MAX_NAME: usize = 1024;

/// What a name in a directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKind {
    /// A regular file; the object is its content.
    File,
    /// A symbolic link; the object is its target.
    Symlink,
    /// A directory; the object is its tree.
    Directory,
}

/// The state of one file, symbolic link or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    /// What it is.
    pub kind: EntryKind,
    /// The nine permission bits; 0 for a symbolic link.
    pub mode: u16,
    /// Bytes of the object.
    pub size: u64,
    /// The object.
    pub id: ObjectId,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Named {
    pub(crate) name: Vec<u8>,
    pub(crate) entry: Entry,
}

/// Whether a tree may hold `name`.
pub(crate) fn name_is_fit(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME
        && name != b"."
        && name != b".."
        && !name.iter().any(|&c| c == b'/' || c == 0)
}

/// The tree of a directory. `entries` must be sorted by name, without repeats, and every name fit.
pub(crate) fn encode<'a>(entries: impl Iterator<Item = (&'a [u8], &'a Entry)>) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + entries.size_hint().0 * 64);
    out.extend_from_slice(&MAGIC);
    let mut last: Option<&[u8]> = None;
    for (name, entry) in entries {
        debug_assert!(name_is_fit(name), "only fit names are encoded");
        debug_assert!(last.replace(name).is_none_or(|last| last < name), "a tree is sorted and holds a name once");
        encode_entry(entry, &mut out);
        out.extend_from_slice(&u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes());
        out.extend_from_slice(name);
    }
    out
}

/// The names of a directory, from its tree. Never panics, whatever `bytes` holds.
pub(crate) fn decode(bytes: &[u8]) -> Result<Vec<Named>, Bad> {
    let mut fields = Fields::new(bytes);
    if fields.array() != Some(MAGIC) {
        return Err(Bad::Corrupt("a tree begins with other bytes"));
    }
    let mut entries: Vec<Named> = Vec::new();
    while !fields.is_empty() {
        let entry = decode_entry(&mut fields)?;
        let len = fields.u16().ok_or(Bad::Torn)?;
        let name = fields.take(usize::from(len)).ok_or(Bad::Torn)?;
        if !name_is_fit(name) {
            return Err(Bad::Corrupt("a tree holds a name that no directory can hold"));
        }
        if entries.last().is_some_and(|last| last.name.as_slice() >= name) {
            return Err(Bad::Corrupt("a tree is not sorted or holds a name twice"));
        }
        entries.push(Named { name: name.to_owned(), entry });
    }
    Ok(entries)
}

/// Adds the 43 bytes of `entry`.
pub(crate) fn encode_entry(entry: &Entry, out: &mut Vec<u8>) {
    out.push(match entry.kind {
        EntryKind::File => 1,
        EntryKind::Symlink => 2,
        EntryKind::Directory => 3,
    });
    out.extend_from_slice(&entry.mode.to_le_bytes());
    out.extend_from_slice(&entry.size.to_le_bytes());
    out.extend_from_slice(&entry.id.to_bytes());
}

/// Reads the 43 bytes of an entry.
pub(crate) fn decode_entry(fields: &mut Fields<'_>) -> Result<Entry, Bad> {
    let kind = match fields.u8().ok_or(Bad::Torn)? {
        1 => EntryKind::File,
        2 => EntryKind::Symlink,
        3 => EntryKind::Directory,
        _ => return Err(Bad::Newer),
    };
    let mode = fields.u16().ok_or(Bad::Torn)?;
    let size = fields.u64().ok_or(Bad::Torn)?;
    let id = ObjectId::from_bytes(fields.array().ok_or(Bad::Torn)?);
    let max_mode = if kind == EntryKind::Symlink { 0 } else { 0o777 };
    if mode > max_mode {
        return Err(Bad::Corrupt("an entry has mode bits that are never stored"));
    }
    let max_size = if kind == EntryKind::Directory { MAX_TREE } else { MAX_OBJECT };
    if size > max_size {
        return Err(Bad::Corrupt("an entry is longer than the limit"));
    }
    Ok(Entry { kind, mode, size, id })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ObjectKind;

    fn named(name: &[u8], kind: EntryKind, mode: u16) -> Named {
        let entry = Entry { kind, mode, size: 5, id: ObjectId::of(ObjectKind::Blob, name) };
        Named { name: name.to_owned(), entry }
    }

    fn tree() -> Vec<Named> {
        vec![
            named(b"a", EntryKind::File, 0o755),
            named(b"b\xff\n", EntryKind::Symlink, 0),
            named("ä b".as_bytes(), EntryKind::Directory, 0o700),
        ]
    }

    fn spell(entries: &[Named]) -> Vec<u8> {
        encode(entries.iter().map(|named| (&named.name[..], &named.entry)))
    }

    #[test]
    fn a_tree_comes_back_as_it_was() {
        assert_eq!(decode(&spell(&tree())), Ok(tree()));
        assert_eq!(decode(&spell(&[])), Ok(Vec::new()), "an empty directory is kept");
    }

    /// A tree has no checksum of its own, since its id is one: a cut or flip must not panic, must not read as the
    /// same tree, and must not pass the check of the id.
    #[test]
    fn every_cut_and_flip_is_noticed() {
        let bytes = spell(&tree());
        let id = ObjectId::of(ObjectKind::Tree, &bytes);
        for len in 0..bytes.len() {
            assert_ne!(decode(&bytes[..len]), Ok(tree()), "cut to {len}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(decode(&bad), Ok(tree()), "bit {bit}");
            assert_ne!(ObjectId::of(ObjectKind::Tree, &bad), id, "bit {bit}");
            if let Ok(read) = decode(&bad) {
                assert_eq!(spell(&read), bad, "one spelling per value");
            }
        }
    }

    /// What an attacker could write, encoded without the checks.
    fn forge(entries: &[(&[u8], u8, u16, u64)]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        for (name, kind, mode, size) in entries {
            out.push(*kind);
            out.extend_from_slice(&mode.to_le_bytes());
            out.extend_from_slice(&size.to_le_bytes());
            out.extend_from_slice(&[9; 32]);
            out.extend_from_slice(&u16::try_from(name.len()).expect("short").to_le_bytes());
            out.extend_from_slice(name);
        }
        out
    }

    #[test]
    fn forged_trees_are_refused() {
        let long = [b'x'; MAX_NAME + 1];
        for name in [&b""[..], b".", b"..", b"/", b"a/b", b"../x", b"/etc", b"a\0b", &long] {
            assert!(decode(&forge(&[(name, 1, 0o644, 1)])).is_err(), "{name:?}");
        }
        assert!(decode(&forge(&[(b"a", 1, 0o644, 1), (b"a", 3, 0o755, 1)])).is_err(), "twice");
        assert!(decode(&forge(&[(b"b", 1, 0o644, 1), (b"a", 1, 0o644, 1)])).is_err(), "unsorted");
        assert!(decode(&forge(&[(b"a", 1, 0o4755, 1)])).is_err(), "set-user-id");
        assert!(decode(&forge(&[(b"a", 2, 0o644, 1)])).is_err(), "a symbolic link has no mode");
        assert!(decode(&forge(&[(b"a", 1, 0o644, MAX_OBJECT + 1)])).is_err(), "too long");
        assert_eq!(decode(&forge(&[(b"a", 4, 0o644, 1)])), Err(Bad::Newer));
        assert!(decode(&forge(&[(b"a", 1, 0o644, 1)])).is_ok(), "the forge itself is sound");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let mut with_magic = MAGIC.to_vec();
            with_magic.extend_from_slice(&bytes);
            for bytes in [bytes, with_magic] {
                if let Ok(read) = decode(&bytes) {
                    proptest::prop_assert_eq!(spell(&read), bytes);
                }
            }
        }
    }
}
