//! What transcripts say about files (FORMAT.md, section 4): payloads of `checkpoint` records, and the part of a head move
//! that moves files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::pack::MAX_OBJECT;
use super::tree::{Entry, EntryKind, MAX_TREE, name_is_fit};
use crate::ids::{ObjectId, Uid};

/// The longest label of a checkpoint, in bytes.
pub(crate) const MAX_LABEL: usize = 1024;

/// A checkpoint, or a note of what single paths are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CheckpointRecord {
    /// Only a checkpoint that a caller asked for has one; a note has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<Uid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) label: Option<Label>,
    pub(crate) workspace: PathText,
    #[serde(flatten)]
    pub(crate) state: StateText,
}

/// What a head move did to files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FilesMove {
    /// The rewind of the files, so that a record that was written before a crash is recognised.
    pub(crate) uid: Uid,
    pub(crate) workspace: PathText,
    /// Whether the conversation stays where it is.
    pub(crate) alone: bool,
    pub(crate) before: StateText,
    pub(crate) seen: StateText,
}

/// The state of a workspace or of some of its paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StateText {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tree: Option<EntryText>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) paths: BTreeMap<PathText, Option<EntryText>>,
    /// What could not be looked at, and what is below.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) unknown: BTreeSet<PathText>,
}

impl FilesMove {
    /// Whether both states are [fit](StateText::is_fit).
    pub(crate) fn is_fit(&self) -> bool {
        self.before.is_fit() && self.seen.is_fit()
    }
}

impl StateText {
    /// Whether the tree is a directory, and every path leads to something below the workspace's root.
    pub(crate) fn is_fit(&self) -> bool {
        let below = |path: &PathText| path.0.split(|&c| c == b'/').all(name_is_fit);
        self.tree.is_none_or(|tree| tree.0.kind == EntryKind::Directory)
            && self.paths.keys().chain(&self.unknown).all(below)
    }
}

/// A label: text without control characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Label(String);

impl Label {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Label {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        let bad = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
        match text.is_empty() || text.len() > MAX_LABEL || text.chars().any(bad) {
            true => Err("a label is 1 to 1024 bytes of text on one line"),
            false => Ok(Self(text)),
        }
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0
    }
}

/// A path of any bytes as text: bytes that are not printable ASCII, and `%`, `"` and `\`, are `%` and two digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PathText(pub(crate) Vec<u8>);

impl fmt::Display for PathText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|&byte| match byte {
            b'%' | b'"' | b'\\' => write!(f, "%{byte:02x}"),
            b' '..=b'~' => write!(f, "{}", char::from(byte)),
            _ => write!(f, "%{byte:02x}"),
        })
    }
}

impl FromStr for PathText {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            if byte != b'%' {
                bytes.push(byte);
                continue;
            }
            let mut digit = || char::from(rest.next()?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            let value = digit().and_then(|high| Some(high << 4 | digit()?));
            bytes.push(value.ok_or("a % in a path is followed by two digits")?);
        }
        Ok(Self(bytes))
    }
}

impl Serialize for PathText {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PathText {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// An [`Entry`] as an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Fields", into = "Fields")]
pub(crate) struct EntryText(pub(crate) Entry);

#[derive(Serialize, Deserialize)]
struct Fields {
    kind: Kind,
    mode: u16,
    size: u64,
    object: ObjectId,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    File,
    Link,
    Dir,
}

impl From<EntryText> for Fields {
    fn from(EntryText(Entry { kind, mode, size, id }): EntryText) -> Self {
        let kind = match kind {
            EntryKind::File => Kind::File,
            EntryKind::Symlink => Kind::Link,
            EntryKind::Directory => Kind::Dir,
        };
        Self { kind, mode, size, object: id }
    }
}

impl TryFrom<Fields> for EntryText {
    type Error = &'static str;

    fn try_from(Fields { kind, mode, size, object }: Fields) -> Result<Self, &'static str> {
        let (kind, max_mode, max_size) = match kind {
            Kind::File => (EntryKind::File, 0o777, MAX_OBJECT),
            Kind::Link => (EntryKind::Symlink, 0, MAX_OBJECT),
            Kind::Dir => (EntryKind::Directory, 0o777, MAX_TREE),
        };
        if mode > max_mode || size > max_size {
            return Err("no file has such a mode or size");
        }
        Ok(Self(Entry { kind, mode, size, id: object }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::control::{decode, encode};

    fn record() -> CheckpointRecord {
        let id = ObjectId::from_bytes([0xab; 32]);
        let file = EntryText(Entry { kind: EntryKind::File, mode: 0o644, size: 12, id });
        let tree = EntryText(Entry { kind: EntryKind::Directory, mode: 0o755, size: 99, id });
        let paths = BTreeMap::from([
            (PathText(b"a/\"50%\" \xff".to_vec()), Some(file)),
            (PathText("ä".as_bytes().to_vec()), None),
        ]);
        CheckpointRecord {
            id: Some(Uid::from_bytes([1; 16])),
            label: Some(Label::try_from("before the \"move\"".to_owned()).expect("legal")),
            workspace: PathText(b"/home/me".to_vec()),
            state: StateText { tree: Some(tree), paths, unknown: BTreeSet::from([PathText(b"u".to_vec())]) },
        }
    }

    #[test]
    fn a_checkpoint_has_exactly_these_bytes() {
        let object = "ab".repeat(32);
        let text = format!(
            concat!(
                r#"{{"id":"01010101010101010101010101010101","label":"before the \"move\"","workspace":"/home/me","#,
                r#""tree":{{"kind":"dir","mode":493,"size":99,"object":"{0}"}},"paths":{{"#,
                r#""a/%2250%25%22 %ff":{{"kind":"file","mode":420,"size":12,"object":"{0}"}},"%c3%a4":null}},"unknown":["u"]}}"#
            ),
            object
        );
        assert_eq!(String::from_utf8(encode(&record())).expect("text"), text);
        assert_eq!(decode(text.as_bytes()), Some(record()));
    }

    #[test]
    fn another_spelling_is_not_known() {
        let good = String::from_utf8(encode(&record())).expect("text");
        for (from, to) in [
            ("%ff", "%FF"),
            ("%c3", "\\u00c3"),
            ("a/", "%61/"),
            ("\"dir\"", "\"directory\""),
            ("493", "512"),
            ("493", "0493"),
            ("\"size\":12", "\"size\":1073741825"),
            (",\"paths\"", ",\"more\":1,\"paths\""),
            ("before", "be\\u0001fore"),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good);
            assert_eq!(decode::<CheckpointRecord>(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_path_that_leads_out_is_not_fit() {
        let state = |path: &[u8]| StateText {
            paths: BTreeMap::from([(PathText(path.to_vec()), None)]),
            tree: None,
            ..StateText::default()
        };
        assert!(state(b"a/b").is_fit());
        for bad in [b"".as_slice(), b"/a", b"../a", b"a/..", b"a//b", b"a/"] {
            assert!(!state(bad).is_fit(), "{bad:?}");
        }
    }
}
