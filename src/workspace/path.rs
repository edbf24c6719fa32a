//! Paths below a workspace's root.

use std::fmt;
#[cfg(unix)]
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

use crate::error::{Error, Result};
use crate::format::tree::name_is_fit;

/// Names below a workspace's root, joined with `/`; the empty path is the root itself. Any bytes that a name can have.
///
/// Invariant: no name is empty, `.` or `..`, so that no path leads out.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Vec<u8>);

impl RelPath {
    /// The root.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// The path that these bytes spell.
    ///
    /// # Errors
    ///
    /// [`Error::BadArgument`]: a name is empty, too long, `.` or `..`, or has a NUL.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self> {
        let bytes = bytes.into();
        if bytes.is_empty() || bytes.split(|&c| c == b'/').all(name_is_fit) {
            return Ok(Self(bytes));
        }
        let why = format!("{:?} is not a path below the workspace", String::from_utf8_lossy(&bytes));
        Err(Error::BadArgument { why })
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path of `name` in this directory. `name` must be one that a directory can hold.
    #[must_use]
    pub(crate) fn join(&self, name: &[u8]) -> Self {
        debug_assert!(name_is_fit(name), "a name comes from a directory or a checked tree");
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Self(bytes)
    }

    /// Whether this is the path of `name` in `dir`.
    pub(crate) fn is_named(&self, dir: &Self, name: &[u8]) -> bool {
        match self.0.strip_suffix(name) {
            Some(above) if dir.is_root() => above.is_empty(),
            Some(above) => above.strip_suffix(b"/") == Some(dir.as_bytes()),
            None => false,
        }
    }

    /// The directory and the name in it; `None` for the root.
    #[must_use]
    pub fn split(&self) -> Option<(Self, &[u8])> {
        match memchr::memrchr(b'/', &self.0) {
            Some(at) => Some((Self(self.0.get(..at)?.to_owned()), self.0.get(at + 1..)?)),
            None => (!self.is_root()).then(|| (Self::root(), self.0.as_slice())),
        }
    }

    /// The names, from the root down.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|&c| c == b'/').filter(|name| !name.is_empty())
    }

    /// How many names.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.names().count()
    }

    /// Whether this is `other` or below it.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        match self.0.strip_prefix(other.0.as_slice()) {
            Some(rest) => other.is_root() || rest.is_empty() || rest.starts_with(b"/"),
            None => false,
        }
    }

    /// The same names for the operating system.
    #[must_use]
    pub fn to_path(&self) -> PathBuf {
        #[cfg(unix)]
        return PathBuf::from(std::ffi::OsString::from_vec(self.0.clone()));
        #[cfg(not(unix))]
        return PathBuf::from(String::from_utf8_lossy(&self.0).into_owned());
    }

    /// The path of `path` below `root`, if it is below.
    #[cfg(unix)]
    #[must_use]
    pub fn below(root: &Path, path: &Path) -> Option<Self> {
        Self::new(path.strip_prefix(root).ok()?.as_os_str().as_bytes()).ok()
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

/// As text; bytes that are not UTF-8 become `\xNN`, and a backslash in front of an `x` is doubled, so that two paths
/// never look the same.
impl Serialize for RelPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&as_text(&self.0))
    }
}

/// Serialises any path as a [`RelPath`] is.
pub(crate) fn path_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path_as_text(path))
}

/// Any path as a [`RelPath`] is serialised.
pub(crate) fn path_as_text(path: &Path) -> String {
    as_text(path.as_os_str().as_encoded_bytes())
}

fn as_text(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(&chunk.valid().replace("\\x", "\\\\x"));
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leads_out() {
        for bad in ["/", "/etc", "..", "a/..", "a/../b", "./a", "a//b", "a/", "a\0b"] {
            assert!(RelPath::new(bad).is_err(), "{bad:?}");
        }
        let path = RelPath::new("a/b/c").expect("fit");
        assert_eq!(path.split(), Some((RelPath::new("a/b").expect("fit"), &b"c"[..])));
        assert!(path.is_within(&RelPath::new("a/b").expect("fit")) && path.is_within(&RelPath::root()));
        assert!(!RelPath::new("ab").expect("fit").is_within(&RelPath::new("a").expect("fit")));
        assert_eq!(RelPath::root().split(), None);
        let named = |path: &str, dir: &str, name: &str| {
            RelPath::new(path).expect("fit").is_named(&RelPath::new(dir).expect("fit"), name.as_bytes())
        };
        assert!(named("a/b/c", "a/b", "c") && named("c", "", "c"));
        assert!(
            !named("a/b/c", "a", "c") && !named("bc", "", "c") && !named("b/c", "", "c") && !named("a/bc", "a", "c")
        );
    }
}
