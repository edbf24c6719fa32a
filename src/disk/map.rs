//! Memory maps: the one module with `unsafe`.
#![expect(unsafe_code, reason = "memory maps need it; each block says what makes it sound")]

use std::fmt;
use std::fs;
use std::io;
use std::ops::Deref;
use std::sync::Arc;

/// The bytes of a file that is never changed again.
///
/// The engine maps only files that are written under a temporary name, renamed into place and afterwards replaced or
/// removed, never written. Another program that cuts such a file makes reads of the lost part end the process (SIGBUS);
/// transcripts are therefore not read this way unless the caller asks for it.
#[derive(Clone)]
pub struct Mapped(Inner);

#[derive(Clone)]
enum Inner {
    Os(Arc<memmap2::Mmap>),
    Copy(Arc<[u8]>),
}

impl Mapped {
    /// Bytes that stand in for a map, for disks that are not real.
    #[must_use]
    pub fn from_bytes(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self(Inner::Copy(bytes.into()))
    }

    /// Maps all of `file`, which the caller promises is never changed by this program.
    pub(super) fn of_file(file: &fs::File) -> io::Result<Self> {
        if file.metadata()?.len() == 0 {
            return Ok(Self::from_bytes([]));
        }
        // SAFETY: a map is sound while nobody changes or cuts the bytes under it. Every file that reaches this call was
        // written whole before it got its name, and the engine never opens such a name for writing (ARCHITECTURE.md,
        // "a sealed file is never written"); replacing one is a rename, which leaves the mapped inode as it is. What
        // remains untrue: a foreign program with the same rights can still write to it, and then a read sees other
        // bytes or ends the process. All that is decoded from a map is checked against its checksums first.
        let map = unsafe { memmap2::Mmap::map(file)? };
        Ok(Self(Inner::Os(Arc::new(map))))
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Inner::Os(map) => map,
            Inner::Copy(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Mapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mapped({} bytes)", self.len())
    }
}
