//! The journal of a rewind of files. FORMAT.md has the table.

use super::bytes::{Fields, checked_body, put_crc};
use super::pack::Bad;
use super::stat::put_counted;
use super::tree::{self, Entry};
use crate::ids::Uid;

const MAGIC: [u8; 8] = *b"FLjrnl2\n";
/// Of a journal that does not say what could not be looked at.
const MAGIC_1: [u8; 8] = *b"FLjrnl1\n";
const APPLIED: [u8; 8] = *b"applied\n";

/// What is to become of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) path: Vec<u8>,
    pub(crate) before: Option<Entry>,
    pub(crate) after: Option<Entry>,
}

/// A change of files that must be carried to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Journal {
    pub(crate) uid: Uid,
    /// The workspace's path when the journal was written.
    pub(crate) root: Vec<u8>,
    /// The run of the machine in which the journal was written; 0 when that is not known.
    pub(crate) boot: u64,
    /// What the caller needs to write its record.
    pub(crate) payload: Vec<u8>,
    /// The tree of the whole workspace before, when it was captured.
    pub(crate) before: Option<Entry>,
    /// The tree that the session has seen once all is done.
    pub(crate) seen: Option<Entry>,
    /// Contents that were neither the before nor the after of their path, and were replaced.
    pub(crate) found: Vec<(Vec<u8>, Entry)>,
    /// Paths that could not be looked at, sorted: what they were before is not known.
    pub(crate) unknown: Vec<Vec<u8>>,
    pub(crate) steps: Vec<Step>,
}

/// What is appended once all files are as they shall be.
pub(crate) const fn applied_mark() -> [u8; 8] {
    APPLIED
}

pub(crate) fn encode(journal: &Journal) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&journal.uid.to_bytes());
    put_counted(&journal.root, &mut out);
    out.extend_from_slice(&journal.boot.to_le_bytes());
    put_counted(&journal.payload, &mut out);
    put_state(journal.before.as_ref(), &mut out);
    put_state(journal.seen.as_ref(), &mut out);
    put_count(journal.found.len(), &mut out);
    for (path, entry) in &journal.found {
        put_counted(path, &mut out);
        put_state(Some(entry), &mut out);
    }
    put_count(journal.unknown.len(), &mut out);
    for path in &journal.unknown {
        put_counted(path, &mut out);
    }
    for step in &journal.steps {
        put_counted(&step.path, &mut out);
        put_state(step.before.as_ref(), &mut out);
        put_state(step.after.as_ref(), &mut out);
    }
    let len = u32::try_from(out.len()).unwrap_or(u32::MAX);
    let mut whole = len.to_le_bytes().to_vec();
    whole.append(&mut out);
    put_crc(&mut whole);
    whole
}

/// The journal, and whether it has been applied.
pub(crate) fn decode(bytes: &[u8]) -> Result<(Journal, bool), Bad> {
    let len = bytes.first_chunk().map(|len| u32::from_le_bytes(*len)).ok_or(Bad::Torn)?;
    let end = usize::try_from(len).ok().and_then(|len| len.checked_add(8)).ok_or(Bad::Torn)?;
    let (whole, rest) = bytes.split_at_checked(end).ok_or(Bad::Torn)?;
    let body = checked_body(whole).ok_or(Bad::Corrupt("a journal fails its checksum"))?;
    let mut fields = Fields::new(body.get(4..).unwrap_or_default());
    let magic = fields.array().ok_or(Bad::Torn)?;
    if ![MAGIC, MAGIC_1].contains(&magic) {
        return Err(Bad::Newer);
    }
    let uid = Uid::from_bytes(fields.array().ok_or(Bad::Torn)?);
    let root = fields.counted().ok_or(Bad::Torn)?.to_owned();
    let boot = fields.u64().ok_or(Bad::Torn)?;
    let payload = fields.counted().ok_or(Bad::Torn)?.to_owned();
    let before = take_state(&mut fields)?;
    let seen = take_state(&mut fields)?;
    let mut found = Vec::new();
    for _ in 0..fields.u32().ok_or(Bad::Torn)? {
        let path = take_path(&mut fields)?;
        let entry = take_state(&mut fields)?.ok_or(Bad::Corrupt("a journal has found nothing"))?;
        found.push((path.to_owned(), entry));
    }
    let mut unknown = Vec::new();
    if magic == MAGIC {
        for _ in 0..fields.u32().ok_or(Bad::Torn)? {
            unknown.push(take_path(&mut fields)?.to_owned());
        }
    }
    let mut steps = Vec::new();
    while !fields.is_empty() {
        let path = take_path(&mut fields)?;
        let (before, after) = (take_state(&mut fields)?, take_state(&mut fields)?);
        steps.push(Step { path: path.to_owned(), before, after });
    }
    Ok((Journal { uid, root, boot, payload, before, seen, found, unknown, steps }, rest == APPLIED))
}

fn take_path<'b>(fields: &mut Fields<'b>) -> Result<&'b [u8], Bad> {
    let path = fields.counted().ok_or(Bad::Torn)?;
    let is_fit = !path.is_empty() && path.split(|&c| c == b'/').all(tree::name_is_fit);
    is_fit.then_some(path).ok_or(Bad::Corrupt("a journal names a path that leads out of the workspace"))
}

fn put_count(count: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_state(state: Option<&Entry>, out: &mut Vec<u8>) {
    match state {
        None => out.push(0),
        Some(entry) => tree::encode_entry(entry, out),
    }
}

fn take_state(fields: &mut Fields<'_>) -> Result<Option<Entry>, Bad> {
    match fields.peek() {
        Some(0) => {
            fields.u8();
            Ok(None)
        }
        _ => tree::decode_entry(fields).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tree::EntryKind;
    use crate::ids::{ObjectId, ObjectKind};

    fn journal() -> Journal {
        let entry = Entry { kind: EntryKind::File, mode: 0o600, size: 1, id: ObjectId::of(ObjectKind::Blob, b"x") };
        let tree = Entry { kind: EntryKind::Directory, ..entry };
        let steps = vec![
            Step { path: b"a/b".to_vec(), before: None, after: Some(entry) },
            Step { path: b"c\xff".to_vec(), before: Some(entry), after: None },
        ];
        let (uid, found) = (Uid::from_bytes([3; 16]), vec![(b"c\xff".to_vec(), entry)]);
        Journal {
            uid,
            root: b"/w".to_vec(),
            boot: 7,
            payload: b"{}".to_vec(),
            before: Some(tree),
            seen: None,
            found,
            unknown: vec![b"d".to_vec(), b"e/f".to_vec()],
            steps,
        }
    }

    #[test]
    fn a_journal_refuses_every_cut_and_flip() {
        let bytes = encode(&journal());
        assert_eq!(decode(&bytes), Ok((journal(), false)));
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_err(), "cut to {len}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_journal_of_version_1_is_read_as_one_that_could_look_at_everything() {
        let journal = Journal { unknown: Vec::new(), ..journal() };
        let steps = Journal { found: Vec::new(), ..journal.clone() };
        let bytes = encode(&journal);
        // The crc, the steps and then the number of paths that could not be looked at, which version 1 has not.
        let n_after = encode(&steps).len() - encode(&Journal { steps: Vec::new(), ..steps }).len() + 4;
        let (head, tail) = bytes.split_at(bytes.len() - n_after);
        let body = [&head[4..head.len() - 4], &tail[..tail.len() - 4]].concat();
        let mut old = u32::try_from(body.len()).expect("short").to_le_bytes().to_vec();
        old.extend_from_slice(&MAGIC_1);
        old.extend_from_slice(&body[MAGIC.len()..]);
        put_crc(&mut old);
        assert_eq!(decode(&old), Ok((journal, false)));
    }

    #[test]
    fn only_the_whole_mark_says_applied() {
        let mut bytes = encode(&journal());
        for byte in APPLIED {
            assert_eq!(decode(&bytes).map(|read| read.1), Ok(false));
            bytes.push(byte);
        }
        assert_eq!(decode(&bytes).map(|read| read.1), Ok(true));
    }

    #[test]
    fn a_forged_path_is_refused() {
        for path in ["", "..", "/etc", "a/../../x", "a//b"] {
            let mut forged = journal();
            forged.steps[0].path = path.into();
            assert!(matches!(decode(&encode(&forged)), Err(Bad::Corrupt(_))), "{path:?}");
            let mut forged = journal();
            forged.unknown[1] = path.into();
            assert!(matches!(decode(&encode(&forged)), Err(Bad::Corrupt(_))), "{path:?}");
        }
    }
}
