//! A second reader of packs and trees, written from FORMAT.md alone (sections 14 and 15).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The name of an object.
pub type Name = [u8; 32];

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The content of a file, or the target of a link.
    Blob,
    /// A directory.
    Tree,
}

const HEAD: usize = 72;
const TREE_CONTEXT: &str = "forklog 2026-11-21 tree v1";

/// The object's bytes as some pack of the store has them, or `None` where no sound copy is left.
///
/// `files` holds the store's files by their paths below its directory.
#[must_use]
pub fn object(files: &BTreeMap<PathBuf, Vec<u8>>, kind: Kind, name: &Name) -> Option<Vec<u8>> {
    let packs = files.iter().filter(|(path, _)| path.parent() == Some(Path::new("objects")));
    packs.filter_map(|(path, bytes)| in_pack(uid_of(path)?, bytes, kind, name)).next()
}

/// The file's uid, if it is a pack.
pub(crate) fn uid_of(path: &Path) -> Option<[u8; 16]> {
    let digits = path.file_name()?.to_str()?.strip_suffix(".pack")?;
    u128::from_str_radix(digits, 16).ok().map(u128::to_be_bytes)
}

pub(crate) fn in_pack(uid: [u8; 16], pack: &[u8], kind: Kind, name: &Name) -> Option<Vec<u8>> {
    // Wherever a whole frame begins: no index and no mark is believed.
    let starts = memchr_all(pack, b"FLob");
    starts.into_iter().find_map(|at| {
        let bytes = frame(uid, pack, at, kind, Some(name))?;
        let hash = match kind {
            Kind::Blob => *blake3::hash(&bytes).as_bytes(),
            Kind::Tree => blake3::derive_key(TREE_CONTEXT, &bytes),
        };
        (hash == *name).then_some(bytes)
    })
}

/// The raw bytes of the frame at `at`; the base of a delta is found with no `name`, and is no delta.
fn frame(uid: [u8; 16], pack: &[u8], at: usize, kind: Kind, name: Option<&Name>) -> Option<Vec<u8>> {
    let head = pack.get(at..at + HEAD).filter(|head| head.starts_with(b"FLob"))?;
    let mut checked = uid.to_vec();
    checked.extend_from_slice(&(at as u64).to_le_bytes());
    checked.extend_from_slice(&head[..68]);
    let wanted = match kind {
        Kind::Blob => 1,
        Kind::Tree => 2,
    };
    let is_named = name.is_none_or(|name| head[32..64] == *name);
    if u64::from(crc32fast::hash(&checked)) != number(&head[68..72])? || head[4] != wanted || !is_named {
        return None;
    }
    let (stored, raw) = (number(&head[16..24])?, usize::try_from(number(&head[24..32])?).ok()?);
    let stored = pack.get(at + HEAD..at + HEAD + usize::try_from(stored).ok()?)?;
    if u64::from(crc32fast::hash(stored)) != number(&head[64..68])? {
        return None;
    }
    let bytes = match (head[5], name) {
        (0, _) => stored.to_vec(),
        (1, _) => zstd::bulk::decompress(stored, raw).ok()?,
        (2, Some(_)) => {
            let base_at = usize::try_from(number(stored.get(..8)?)?).ok().filter(|base| (32..at).contains(base))?;
            let base = frame(uid, pack, base_at, kind, None).filter(|base| base.len() <= 1 << 22)?;
            let mut context = zstd::zstd_safe::DCtx::create();
            context.ref_prefix(&base).ok()?;
            let mut bytes = Vec::with_capacity(raw);
            context.decompress(&mut bytes, &stored[8..]).ok()?;
            bytes
        }
        _ => return None,
    };
    (bytes.len() == raw).then_some(bytes)
}

fn memchr_all(bytes: &[u8], what: &[u8]) -> Vec<usize> {
    bytes.windows(what.len()).enumerate().filter(|(_, part)| *part == what).map(|(at, _)| at).collect()
}

fn number(bytes: &[u8]) -> Option<u64> {
    let mut whole = [0; 8];
    whole.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(u64::from_le_bytes(whole))
}

/// Every file below a tree by its path, with its content; `None` where an object is missing or a tree is spelled as no
/// writer spells it. `get` gives an object's bytes.
pub fn contents(root: &Name, get: &dyn Fn(Kind, &Name) -> Option<Vec<u8>>) -> Option<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut todo = vec![(String::new(), *root)];
    while let Some((below, name)) = todo.pop() {
        let tree = get(Kind::Tree, &name)?;
        let mut rest = tree.strip_prefix(b"FLt1")?;
        let mut last = Vec::new();
        while !rest.is_empty() {
            let (kind, object, file, after) = entry(rest)?;
            if !last.is_empty() && last >= file {
                return None;
            }
            let path = format!("{below}{}", std::str::from_utf8(&file).ok()?);
            match kind {
                1 | 2 => drop(found.insert(path, get(Kind::Blob, &object)?)),
                3 => todo.push((path + "/", object)),
                _ => return None,
            }
            (last, rest) = (file, after);
        }
    }
    Some(found)
}

type TreeEntry<'a> = (u8, Name, Vec<u8>, &'a [u8]);

fn entry(bytes: &[u8]) -> Option<TreeEntry<'_>> {
    let object = bytes.get(11..43)?.try_into().ok()?;
    let len = usize::try_from(number(bytes.get(43..45)?)?).ok()?;
    Some((*bytes.first()?, object, bytes.get(45..45 + len)?.to_vec(), bytes.get(45 + len..)?))
}
