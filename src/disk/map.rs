//! Memory maps: the one module with `unsafe`.
#![expect(unsafe_code, reason = "memory maps need it; each block says what makes it sound")]

#[cfg(target_os = "linux")]
pub(crate) use fork::ForkMark;
#[cfg(not(target_os = "linux"))]
pub(crate) use other::ForkMark;

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

/// Tells whether this process is the one that made the mark, or a child that was forked since.
///
/// On Linux it is a page that the kernel clears in children, so asking costs a read of memory; `getpid` is a system call, and cost a
/// tenth of an append of 1 KiB when that was measured.
#[cfg(target_os = "linux")]
mod fork {
    use std::sync::atomic::{AtomicU8, Ordering};

    #[derive(Debug)]
    pub(crate) struct ForkMark {
        /// One page, its first byte 1 in the process that made it. `None` where the kernel cannot clear it: then the process is asked for
        /// its id.
        page: Option<memmap2::MmapMut>,
        pid: u32,
    }

    impl ForkMark {
        pub(crate) fn new() -> Self {
            Self { page: page(), pid: std::process::id() }
        }

        /// Whether this is still the process that made the mark.
        pub(crate) fn is_ours(&self) -> bool {
            let Some(page) = &self.page else { return std::process::id() == self.pid };
            // SAFETY: the pointer is that of a live map of at least one byte, aligned for a byte, and nothing else in this
            // process writes to it: the map is private to this value, which was filled in before anybody could share it. The kernel changes the byte
            // only by giving a forked child another page, before the child runs.
            let byte = unsafe { AtomicU8::from_ptr(page.as_ptr().cast_mut()) };
            byte.load(Ordering::Relaxed) == 1
        }
    }

    fn page() -> Option<memmap2::MmapMut> {
        let mut page = memmap2::MmapMut::map_anon(1).ok()?;
        // SAFETY: the range is exactly the anonymous, private map above, which this function owns; the advice changes what a child sees of it
        // and nothing in this process.
        unsafe { rustix::mm::madvise(page.as_mut_ptr().cast(), page.len(), rustix::mm::Advice::LinuxWipeOnFork) }
            .ok()?;
        page.first_mut().map(|byte| *byte = 1)?;
        Some(page)
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    #[derive(Debug)]
    pub(crate) struct ForkMark(u32);

    impl ForkMark {
        pub(crate) fn new() -> Self {
            Self(std::process::id())
        }

        pub(crate) fn is_ours(&self) -> bool {
            std::process::id() == self.0
        }
    }
}
