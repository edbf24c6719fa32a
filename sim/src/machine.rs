//! The state behind a disk: the file system and everything that does not survive a power cut.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::sync::Arc;

use forklog::disk::LockMode;

use crate::data::Fate;
use crate::fault::{Errno, Faults, What};
use crate::fs::{Fs, end_of};
use crate::names::Ino;
use crate::op::{Counts, Op};
use crate::rng::Rng;

/// How many of the last calls are kept to be shown.
const TRACED: usize = 100;

#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) fs: Arc<Fs>,
    pub(crate) rng: Rng,
    pub(crate) faults: Faults,
    pub(crate) counts: Counts,
    pub(crate) stop_after: Option<u64>,
    pub(crate) capacity: Option<u64>,
    /// For each process, whether it lives.
    processes: Vec<bool>,
    /// Whose each open file is, and which.
    handles: BTreeMap<u64, (usize, Ino)>,
    next_handle: u64,
    locks: BTreeMap<Ino, Vec<(u64, LockMode)>>,
    trace: VecDeque<Call>,
}

/// One call, for the trace.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) number: u64,
    pub(crate) process: usize,
    pub(crate) op: Op,
    pub(crate) path: Arc<Path>,
    pub(crate) detail: Detail,
    pub(crate) failed: Option<String>,
}

/// What else there is to say about a call.
#[derive(Clone, Debug)]
pub(crate) enum Detail {
    None,
    Range { at: u64, len: u64 },
    To(Arc<Path>),
    Len(u64),
    Lock(LockMode),
}

impl Machine {
    pub(crate) fn new(fs: Fs, seed: u64) -> Self {
        Self {
            fs: Arc::new(fs),
            rng: Rng::new(seed),
            faults: Faults::default(),
            counts: Counts::default(),
            stop_after: None,
            capacity: None,
            processes: Vec::new(),
            handles: BTreeMap::new(),
            next_handle: 0,
            locks: BTreeMap::new(),
            trace: VecDeque::new(),
        }
    }

    pub(crate) fn fs_mut(&mut self) -> &mut Fs {
        Arc::make_mut(&mut self.fs)
    }

    pub(crate) fn start_process(&mut self) -> usize {
        self.processes.push(true);
        self.processes.len() - 1
    }

    /// Ends a process: its files are closed and their locks given back; what it wrote stays as it is.
    pub(crate) fn kill(&mut self, process: usize) {
        if let Some(alive) = self.processes.get_mut(process) {
            *alive = false;
        }
        let owned: Vec<u64> =
            self.handles.iter().filter(|(_, of)| of.0 == process).map(|(&handle, _)| handle).collect();
        owned.into_iter().for_each(|handle| self.close(handle));
    }

    /// Whether a process can make calls at all.
    pub(crate) fn is_up(&self, process: usize) -> io::Result<()> {
        if self.stop_after.is_some_and(|calls| calls <= self.counts.total()) {
            return Err(io::Error::other("the simulated power is off"));
        }
        if self.processes.get(process) != Some(&true) {
            return Err(io::Error::other("the simulated process was killed"));
        }
        Ok(())
    }

    pub(crate) fn open(&mut self, process: usize, ino: Ino) -> u64 {
        self.fs_mut().opened(ino);
        self.next_handle += 1;
        self.handles.insert(self.next_handle, (process, ino));
        self.next_handle
    }

    pub(crate) fn close(&mut self, handle: u64) {
        if let Some((_, ino)) = self.handles.remove(&handle) {
            self.unlock(handle, ino);
            self.fs_mut().closed(ino);
        }
    }

    pub(crate) fn read(&mut self, ino: Ino, out: &mut [u8], at: u64, struck: Option<What>) -> io::Result<usize> {
        let live = self.fs.content(ino)?.live();
        let rest = usize::try_from(at).ok().and_then(|at| live.get(at..)).unwrap_or_default();
        let n = rest.len().min(out.len());
        out[..n].copy_from_slice(&rest[..n]);
        if struck == Some(What::FlipBit) {
            self.flip(&mut out[..n]);
        }
        self.counts.bytes_read += n as u64;
        Ok(n)
    }

    pub(crate) fn read_all(&mut self, ino: Ino, struck: Option<What>) -> io::Result<Arc<[u8]>> {
        let mut bytes = self.fs.content(ino)?.live().to_vec();
        if struck == Some(What::FlipBit) {
            self.flip(&mut bytes);
        }
        Ok(bytes.into())
    }

    fn flip(&mut self, bytes: &mut [u8]) {
        let at = self.rng.below(bytes.len() * 8);
        if let Some(byte) = bytes.get_mut(at / 8) {
            *byte ^= 1 << (at % 8);
        }
    }

    /// Writes what there is room for, and fails if that is not all.
    pub(crate) fn write(&mut self, ino: Ino, bytes: &[u8], at: u64, struck: Option<What>) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let end = end_of(at, bytes.len() as u64)?;
        let start = end - bytes.len();
        let wanted = match struck {
            Some(_) => self.rng.below(bytes.len() + 1),
            None => bytes.len(),
        };
        let kept = wanted.min(self.largest(ino)?.saturating_sub(start));
        self.fs_mut().content_mut(ino)?.write(&bytes[..kept], start);
        self.fs_mut().touch(ino);
        self.counts.bytes_written += kept as u64;
        if kept < wanted { Err(Errno::NoSpace.error()) } else { Ok(()) }
    }

    pub(crate) fn set_len(&mut self, ino: Ino, len: u64) -> io::Result<()> {
        let len = end_of(0, len)?;
        if len > self.largest(ino)? && len > self.fs.content(ino)?.len() {
            return Err(Errno::NoSpace.error());
        }
        self.fs_mut().content_mut(ino)?.set_len(len);
        self.fs_mut().touch(ino);
        Ok(())
    }

    pub(crate) fn forget(&mut self, ino: Ino, from: u64) -> io::Result<()> {
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        self.fs_mut().content_mut(ino)?.forget(from);
        Ok(())
    }

    /// The length to which a file can grow.
    fn largest(&self, ino: Ino) -> io::Result<usize> {
        let Some(capacity) = self.capacity else { return Ok(usize::MAX) };
        let room = capacity.saturating_sub(self.fs.used());
        Ok(self.fs.content(ino)?.len().saturating_add(usize::try_from(room).unwrap_or(usize::MAX)))
    }

    pub(crate) fn sync(&mut self, ino: Ino, struck: Option<What>) -> io::Result<()> {
        let some = Fate::Random(self.rng.bits());
        let content = self.fs_mut().content_mut(ino)?;
        let errno = match struck {
            Some(What::LoseDirty(errno)) => {
                content.drop_dirty(Fate::Lost);
                errno
            }
            Some(What::LoseForGood(errno)) => {
                content.drop_dirty_for_good();
                errno
            }
            Some(What::LoseSomeDirty(errno)) => {
                content.drop_dirty(some);
                errno
            }
            _ => {
                content.sync();
                self.fs_mut().sync_mode(ino);
                return Ok(());
            }
        };
        Err(errno.error())
    }

    /// As `flock(2)` on Linux: asking for another mode gives the old lock back first, even if the new one is refused.
    pub(crate) fn try_lock(&mut self, handle: u64, ino: Ino, mode: LockMode) -> bool {
        let holders = self.locks.entry(ino).or_default();
        if holders.contains(&(handle, mode)) {
            return true;
        }
        holders.retain(|holder| holder.0 != handle);
        let free = match mode {
            LockMode::Shared => holders.iter().all(|holder| holder.1 == LockMode::Shared),
            LockMode::Exclusive => holders.is_empty(),
        };
        if free {
            holders.push((handle, mode));
        }
        free
    }

    pub(crate) fn unlock(&mut self, handle: u64, ino: Ino) {
        if let Some(holders) = self.locks.get_mut(&ino) {
            holders.retain(|holder| holder.0 != handle);
            if holders.is_empty() {
                self.locks.remove(&ino);
            }
        }
    }

    pub(crate) fn note(&mut self, call: Call) {
        if self.trace.len() == TRACED {
            self.trace.pop_front();
        }
        self.trace.push_back(call);
    }

    pub(crate) fn trace(&self) -> String {
        let mut out = String::new();
        for call in &self.trace {
            let _ = write!(out, "{:6} process {} {:?} {}", call.number, call.process, call.op, call.path.display());
            let _ = match &call.detail {
                Detail::None => Ok(()),
                Detail::Range { at, len } => write!(out, " [{at}, +{len})"),
                Detail::To(path) => write!(out, " -> {}", path.display()),
                Detail::Len(len) => write!(out, " to {len} bytes"),
                Detail::Lock(mode) => write!(out, " {mode:?}"),
            };
            let _ = match &call.failed {
                None => writeln!(out),
                Some(why) => writeln!(out, ": {why}"),
            };
        }
        out
    }
}
