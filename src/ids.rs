//! Names and places: the small types that keep a byte offset from being taken for a record number.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Named};

/// Bytes from the start of one transcript file. Not a record number and not a length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(pub(crate) u64);

impl Offset {
    /// The offset `bytes` bytes from the start of a file.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Bytes from the start of the file.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The place `len` bytes further on, or `None` when no file can be that long.
    #[must_use]
    pub fn checked_add(self, len: u64) -> Option<Self> {
        self.0.checked_add(len).map(Self)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A data record's number in a view: 0, 1, 2, … Derived from places, never stored in a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seq(pub(crate) u64);

impl Seq {
    /// The record number `n`, counted from 0.
    #[must_use]
    pub const fn new(n: u64) -> Self {
        Self(n)
    }

    /// The number, counted from 0.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The identity of one transcript file: 128 random bits, for ever.
///
/// Written as 32 lower-case hexadecimal digits, and read back only in that spelling.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(pub(crate) [u8; 16]);

impl Uid {
    /// The identity made of these bits.
    #[must_use]
    pub const fn from_bytes(bits: [u8; 16]) -> Self {
        Self(bits)
    }

    /// The 128 bits.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Uid {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::bad_name(Named::Uid, text, "a uid is 32 lower-case hexadecimal digits");
        if text.len() != 32 {
            return Err(bad());
        }
        let mut bits = [0; 16];
        for (bit, pair) in bits.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *bit = hex_byte(pair).ok_or_else(bad)?;
        }
        Ok(Self(bits))
    }
}

/// What an object is. The kind is part of its identity: see [`ObjectId::of`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// Bytes that mean nothing to the engine: a file, the target of a symbolic link, a payload.
    Blob,
    /// A directory: names, kinds, modes, sizes and ids.
    Tree,
}

/// The name of an object: a BLAKE3-256 hash of its bytes.
///
/// A blob's is the plain hash of its content, as `b3sum` prints it; a tree's is made in BLAKE3's key derivation mode,
/// so that no file's content can pass for a directory. Written as 64 lower-case hexadecimal digits, and read back only
/// in that spelling.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub(crate) [u8; 32]);

impl ObjectId {
    /// The id of the object of this kind that has these bytes.
    #[must_use]
    pub fn of(kind: ObjectKind, bytes: &[u8]) -> Self {
        const TREE_CONTEXT: &str = "forklog 2026-11-21 tree v1";
        Self(match kind {
            ObjectKind::Blob => *blake3::hash(bytes).as_bytes(),
            ObjectKind::Tree => *blake3::Hasher::new_derive_key(TREE_CONTEXT).update(bytes).finalize().as_bytes(),
        })
    }

    /// The id that is these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 32] {
        self.0
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ObjectId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::bad_name(Named::Object, text, "an object id is 64 lower-case hexadecimal digits");
        if text.len() != 64 {
            return Err(bad());
        }
        let mut bits = [0; 32];
        for (bit, pair) in bits.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *bit = hex_byte(pair).ok_or_else(bad)?;
        }
        Ok(Self(bits))
    }
}

impl Serialize for ObjectId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ObjectId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Writes at most 32 bytes as hexadecimal digits, in one piece: a formatter is slow to be called for each byte.
fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    debug_assert!(bytes.len() <= 32);
    let mut text = [0; 64];
    for (digits, byte) in text.chunks_exact_mut(2).zip(bytes) {
        digits.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
    f.write_str(std::str::from_utf8(&text[..bytes.len() * 2]).unwrap_or_default())
}

fn hex_byte(pair: &[u8]) -> Option<u8> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    }
}

/// The chained CRC-32 of a transcript after some record, written as 8 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Crc(pub(crate) u32);

impl Crc {
    /// The value as a number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Crc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0.to_be_bytes())
    }
}

impl FromStr for Crc {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::bad_name(Named::Position, text, "a crc is 8 lower-case hexadecimal digits");
        let mut value = 0;
        if text.len() != 8 {
            return Err(bad());
        }
        for pair in text.as_bytes().chunks_exact(2) {
            value = value << 8 | u32::from(hex_byte(pair).ok_or_else(bad)?);
        }
        Ok(Self(value))
    }
}

macro_rules! serde_as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                out.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                std::borrow::Cow::<str>::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $named:expr, $max:expr, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(String);

        impl $type {
            /// The most bytes that such a name may have.
            pub const MAX_LEN: usize = $max;

            /// Checks `name` and takes it.
            ///
            /// # Errors
            ///
            /// [`Error::BadName`] says which rule the name breaks.
            pub fn new(name: impl Into<String>) -> Result<Self, Error> {
                let name = name.into();
                match check_name(&name, Self::MAX_LEN, $check) {
                    None => Ok(Self(name)),
                    Some(why) => Err(Error::bad_name($named, &name, why)),
                }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(name: &str) -> Result<Self, Error> {
                Self::new(name)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

/// Why `name` is not one that `rule` and `max` allow, or `None` when it is.
fn check_name(name: &str, max: usize, rule: fn(&str) -> Option<&'static str>) -> Option<&'static str> {
    if name.is_empty() {
        return Some("it is empty");
    }
    if name.len() > max {
        return Some("it is too long (projects: 1024 bytes, side transcripts: 256, ids: 128)");
    }
    rule(name)
}

fn printable(name: &str) -> Option<&'static str> {
    let fits = |c: u8| (b' '..=b'~').contains(&c) && c != b'"' && c != b'\\';
    (!name.bytes().all(fits)).then_some("only printable ASCII characters other than \" and \\ are allowed")
}

name_type! {
    /// A scope inside a store that the caller defines, such as a working directory.
    ///
    /// 1 to 1024 bytes of UTF-8 without control characters (U+0000–U+001F, U+007F–U+009F) and without the line
    /// separators U+2028 and U+2029. Slashes are fine: no name becomes a path.
    ProjectName, Named::Project, 1024, |name| {
        let control = |c: char| c.is_control() || c == '\u{2028}' || c == '\u{2029}';
        name.contains(control).then_some("control characters and line separators are not allowed")
    }
}

name_type! {
    /// The name of a session, unique in its project.
    ///
    /// 1 to 128 printable ASCII characters without space, `"`, `\` and `/`, not starting with `.`.
    SessionId, Named::Session, 128, |name| {
        if name.starts_with('.') {
            return Some("it must not start with a dot");
        }
        if name.contains([' ', '/']) {
            return Some("spaces and slashes are not allowed");
        }
        printable(name)
    }
}

name_type! {
    /// The name of a side transcript of a session, such as `subagents/agent-7`.
    ///
    /// 1 to 256 printable ASCII characters without `"` and `\`; slashes may divide it, but no part may be empty or
    /// start with `.`.
    SideName, Named::Side, 256, |name| {
        if name.split('/').any(|part| part.is_empty() || part.starts_with('.')) {
            return Some("no part between slashes may be empty or start with a dot");
        }
        printable(name)
    }
}

name_type! {
    /// A caller's name for one record, and its idempotency key within a view.
    ///
    /// 1 to 128 printable ASCII characters without `"` and `\`.
    RecordId, Named::Record, 128, printable
}

serde_as_text!(Uid, Crc, ProjectName, SessionId, SideName, RecordId, Position);

impl ProjectName {
    /// The project that is meant where a caller names none: `default`.
    #[must_use]
    pub fn default_project() -> Self {
        Self("default".to_owned())
    }
}

/// A session's full name: its project and its id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionKey {
    /// The project that the session belongs to.
    pub project: ProjectName,
    /// The session's id in that project.
    pub session: SessionId,
}

impl SessionKey {
    /// The session `session` of project `project`, both checked.
    ///
    /// # Errors
    ///
    /// [`Error::BadName`] when either breaks the rules of [`ProjectName`] or [`SessionId`].
    pub fn new(project: &str, session: &str) -> Result<Self, Error> {
        Ok(Self { project: ProjectName::new(project)?, session: SessionId::new(session)? })
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.session)
    }
}

impl FromStr for SessionKey {
    type Err = Error;

    /// Reads `PROJECT/ID`; the last slash divides. Without a slash the project is `default`.
    fn from_str(name: &str) -> Result<Self, Error> {
        match name.rsplit_once('/') {
            Some((project, session)) => Self::new(project, session),
            None => Ok(Self { project: ProjectName::default_project(), session: SessionId::new(name)? }),
        }
    }
}

/// A place in history: the end of one record of one file, and what is needed to know it again.
///
/// Whatever names history for long is a position. It is checked by uid and crc whenever it is used, so a file that was
/// cut and written again is found out. As text: `uid:offset:crc:records:moved`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// The file.
    pub uid: Uid,
    /// The end of the record, which is where the next one begins.
    pub offset: Offset,
    /// The chained crc there.
    pub crc: Crc,
    /// Data records in the view that ends here.
    pub records: u64,
    /// Where the newest head-moving record (rewind, undo, redo) before this place begins in the same file; 0 for none.
    pub moved: Offset,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}:{}:{}", self.uid, self.offset, self.crc, self.records, self.moved)
    }
}

impl FromStr for Position {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::bad_name(Named::Position, text, "a position is written uid:offset:crc:records:moved");
        let number = |part: &str| {
            let plain = part.bytes().all(|c| c.is_ascii_digit()) && (part.len() == 1 || !part.starts_with('0'));
            if plain { part.parse::<u64>().ok() } else { None }
        };
        let parts: Vec<&str> = text.split(':').collect();
        let &[uid, offset, crc, records, moved] = parts.as_slice() else { return Err(bad()) };
        Ok(Self {
            uid: uid.parse().map_err(|_| bad())?,
            offset: Offset(number(offset).ok_or_else(bad)?),
            crc: crc.parse().map_err(|_| bad())?,
            records: number(records).ok_or_else(bad)?,
            moved: Offset(number(moved).ok_or_else(bad)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_break_a_rule_are_refused() {
        for bad in ["", "../x", ".hidden", "a b", "a\0b", "a\"b", "ä", &"x".repeat(129)] {
            assert!(SessionId::new(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "a\nb", "a\u{85}b", "a\u{2028}b", &"x".repeat(1025)] {
            assert!(ProjectName::new(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "/x", "x/", "a//b", "a/../b", "a/.b"] {
            assert!(SideName::new(bad).is_err(), "{bad:?}");
        }
        assert!(SessionId::new("11111111-1111-4111-8111-111111111111").is_ok());
        assert!(ProjectName::new("/home/ä/b c").is_ok());
        assert!(SideName::new("subagents/agent-7").is_ok());
    }

    #[test]
    fn a_position_has_one_spelling() {
        let text = "000102030405060708090a0b0c0d0e0f:1234:9ae0daaf:17:0";
        let position: Position = text.parse().expect("well formed");
        assert_eq!(position.to_string(), text);
        for bad in [
            text.to_uppercase(),
            text.replace("1234", "01234"),
            text.replace("1234", "+1234"),
            text.replace(":17", ""),
            format!("{text}:0"),
            format!(" {text}"),
        ] {
            assert!(bad.parse::<Position>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_session_key_is_split_at_its_last_slash() {
        let key: SessionKey = "/home/me/p/s1".parse().expect("well formed");
        assert_eq!((key.project.as_str(), key.session.as_str()), ("/home/me/p", "s1"));
        let key: SessionKey = "s1".parse().expect("well formed");
        assert_eq!(key.project.as_str(), "default");
    }
}
