//! The disk that a harness holds, and the processes through which an engine uses it.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use forklog::disk::{DirEntry, Disk, File, How, LockMode, Mapped, Stat, Watch};

use crate::crash::{Cut, Snapshot};
use crate::fault::{Fault, What};
use crate::fs::Fs;
use crate::machine::{Call, Detail, Machine};
use crate::names::Ino;
use crate::op::{Counts, Op};

/// A simulated disk. Clones are handles to the same one.
///
/// The engine gets at it through a [`Process`]; everything else here is for the harness and is not counted as a call.
#[derive(Clone)]
pub struct SimDisk(Arc<Shared>);

struct Shared {
    machine: Mutex<Machine>,
    hook: Mutex<Option<(Points, Hook)>>,
    origin: Origin,
}

type Hook = Arc<dyn Fn(&Point, &Snapshot) + Send + Sync>;

/// What a disk came from: enough to make it again.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    seed: u64,
    cuts: Vec<(u64, Cut)>,
}

impl Origin {
    pub(crate) fn after(&self, call: u64, cut: Cut) -> Self {
        let mut cuts = self.cuts.clone();
        cuts.push((call, cut));
        Self { seed: self.seed, cuts }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "disk seed {:#x}", self.seed)?;
        self.cuts.iter().try_for_each(|(call, cut)| write!(f, ", {cut} after call {call}"))
    }
}

/// Before which calls the harness wants to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Points {
    /// Every sync, directory sync and rename.
    Barriers,
    /// Every call that changes what a power cut may leave.
    Changes,
    /// Every call.
    Every,
}

/// A call that is about to be made.
#[derive(Clone, Debug)]
pub struct Point {
    /// Its number; the first call of a disk is 1.
    pub call: u64,
    /// Its kind.
    pub op: Op,
    /// Who makes it.
    pub process: usize,
    /// What it is about; for a rename the old name.
    pub path: Arc<Path>,
}

impl SimDisk {
    /// An empty disk with nothing but `/`. The seed chooses what faults leave to chance.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::holding(Fs::new(), Origin { seed, cuts: Vec::new() })
    }

    pub(crate) fn holding(fs: Fs, origin: Origin) -> Self {
        let machine = Mutex::new(Machine::new(fs, origin.seed));
        Self(Arc::new(Shared { machine, hook: Mutex::new(None), origin }))
    }

    /// A new process that uses this disk.
    #[must_use]
    pub fn process(&self) -> Process {
        Process { disk: self.clone(), id: self.machine().start_process() }
    }

    /// The disk as it is now with all that is unsynced, at the cost of a reference count.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let machine = self.machine();
        self.snapshot_of(&machine)
    }

    /// The disk after a power cut now. This one goes on as if nothing had happened.
    #[must_use]
    pub fn after(&self, cut: Cut) -> SimDisk {
        self.snapshot().after(cut)
    }

    /// Calls `hook` before each of these calls, with the disk as the call finds it; replaces an earlier hook.
    ///
    /// The hook may use this disk's harness side and any other disk. A call that it makes on this disk meets the hook
    /// again.
    pub fn on_point(&self, points: Points, hook: impl Fn(&Point, &Snapshot) + Send + Sync + 'static) {
        *self.0.hook.lock().unwrap_or_else(PoisonError::into_inner) = Some((points, Arc::new(hook)));
    }

    /// Runs `act` before the `n`-th of these calls from now, counted from 0, and puts what it returns into the cell. Calls that `act` makes are not
    /// counted. It is a hook: it replaces an earlier one, and [`SimDisk::clear_hook`] ends it.
    pub fn at_call<T: Send + Sync + 'static>(
        &self,
        points: Points,
        n: u64,
        act: impl Fn() -> T + Send + Sync + 'static,
    ) -> Arc<OnceLock<T>> {
        let done = Arc::new(OnceLock::new());
        let (cell, calls, busy) = (Arc::clone(&done), AtomicU64::new(0), AtomicBool::new(false));
        self.on_point(points, move |_, _| {
            if !busy.swap(true, Ordering::SeqCst) {
                if calls.fetch_add(1, Ordering::SeqCst) == n {
                    cell.get_or_init(&act);
                }
                busy.store(false, Ordering::SeqCst);
            }
        });
        done
    }

    /// Calls no hook any more.
    pub fn clear_hook(&self) {
        *self.0.hook.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// How many power cuts it comes from.
    #[must_use]
    pub fn cuts(&self) -> u64 {
        self.0.origin.cuts.len() as u64
    }

    /// Calls made so far by all processes, refused ones not included.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.counts().total()
    }

    /// Calls and bytes so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.machine().counts
    }

    /// Turns the power off once `calls` calls have been made since the disk was new: every later one is refused. What
    /// the disk then holds is up to [`SimDisk::after`].
    pub fn stop_after(&self, calls: u64) {
        self.machine().stop_after = Some(calls);
    }

    /// Makes a call to come go wrong. Several faults may wait at once.
    pub fn add_fault(&self, fault: Fault) {
        self.machine().faults.add(fault);
    }

    /// Takes back all faults that still wait or last.
    pub fn clear_faults(&self) {
        self.machine().faults.clear();
    }

    /// How many calls faults have struck. A loop over the N-th call ends when this stays 0.
    #[must_use]
    pub fn fault_hits(&self) -> u64 {
        self.machine().faults.hits
    }

    /// Limits the bytes that all files together may have, as their lengths count; names are free. A write that does not
    /// fit is cut short and fails with `ENOSPC`. `None` is no limit, which is how a disk begins.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.machine().capacity = bytes;
    }

    /// Bytes that count against the capacity.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.machine().fs.used()
    }

    /// Every path, sorted, with the file's bytes or with nothing for a directory.
    #[must_use]
    pub fn tree(&self) -> Vec<(PathBuf, Option<Arc<Vec<u8>>>)> {
        self.machine().fs.walk()
    }

    /// A file's bytes.
    ///
    /// # Errors
    ///
    /// As [`Disk::open`].
    pub fn peek(&self, path: &Path) -> io::Result<Arc<Vec<u8>>> {
        let machine = self.machine();
        Ok(Arc::clone(machine.fs.content(machine.fs.find(path)?)?.live()))
    }

    /// Changes a file's bytes behind everybody's back, for readers and on stable storage alike: bits that rot, or
    /// another program. If the two differ because of unsynced writes, `change` is applied to each.
    ///
    /// # Errors
    ///
    /// As [`Disk::open`].
    pub fn damage(&self, path: &Path, change: impl Fn(&mut Vec<u8>)) -> io::Result<()> {
        let mut machine = self.machine();
        let ino = machine.fs.find(path)?;
        machine.fs_mut().content_mut(ino)?.damage(change);
        Ok(())
    }

    /// Makes a new file in place of what has this name, with the directories above it, or takes the name away: a user who works aside, and
    /// syncs.
    ///
    /// # Errors
    ///
    /// As creating and removing them.
    pub fn put(&self, path: &Path, bytes: Option<&[u8]>) -> io::Result<()> {
        let mut machine = self.machine();
        let fs = machine.fs_mut();
        let mut dirs: Vec<&Path> = path.ancestors().skip(1).collect();
        dirs.reverse();
        for dir in dirs {
            if bytes.is_some() && fs.find(dir).is_err() {
                fs.create_dir(dir, 0o755)?;
            }
        }
        if fs.find(path).is_ok() {
            fs.remove_file(path)?;
        }
        if let Some(bytes) = bytes {
            let ino = fs.create_file(path)?;
            fs.content_mut(ino)?.write(bytes, 0);
            fs.content_mut(ino)?.sync();
        }
        path.ancestors()
            .skip(1)
            .filter(|dir| fs.find(dir).is_ok())
            .collect::<Vec<_>>()
            .into_iter()
            .try_for_each(|dir| fs.sync_dir(dir))
    }

    /// The last hundred calls, one a line.
    #[must_use]
    pub fn trace(&self) -> String {
        self.machine().trace()
    }

    /// A message for a test that fails: what is wrong, the seed and power cuts that make this disk again, and the trace.
    #[must_use]
    pub fn report(&self, wrong: impl fmt::Display) -> String {
        format!("{wrong}\n{}, {} calls; the last:\n{}", self.0.origin, self.calls(), self.trace())
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.0.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn snapshot_of(&self, machine: &Machine) -> Snapshot {
        Snapshot { fs: Arc::clone(&machine.fs), origin: self.0.origin.clone(), call: machine.counts.total() }
    }

    fn hook_for(&self, op: Op) -> Option<Hook> {
        let hook = self.0.hook.lock().unwrap_or_else(PoisonError::into_inner);
        let (points, hook) = hook.as_ref()?;
        let wanted = match points {
            Points::Barriers => op.is_barrier(),
            Points::Changes => op.changes(),
            Points::Every => true,
        };
        wanted.then(|| Arc::clone(hook))
    }

    /// Makes one call: hook, count, fault, work, trace, in this order.
    ///
    /// `run` sees the fault only if it still has to do something: never for [`What::Fail`].
    fn call<T>(
        &self,
        process: usize,
        path: &Arc<Path>,
        detail: Detail,
        op: impl FnOnce(&Machine) -> Op,
        run: impl FnOnce(&mut Machine, Option<What>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut machine = self.machine();
        machine.is_up(process)?;
        let op = op(&machine);
        if let Some(hook) = self.hook_for(op) {
            let snapshot = self.snapshot_of(&machine);
            drop(machine);
            hook(&Point { call: snapshot.call + 1, op, process, path: Arc::clone(path) }, &snapshot);
            machine = self.machine();
            machine.is_up(process)?;
        }
        machine.counts.add(op);
        let number = machine.counts.total();
        let struck = machine.faults.strike(op, path);
        let result = match struck {
            Some(What::Fail(errno)) => Err(errno.error()),
            Some(What::FailAfter(errno)) => run(&mut machine, struck).and(Err(errno.error())),
            _ => run(&mut machine, struck),
        };
        let failed = result.as_ref().err().map(ToString::to_string);
        machine.note(Call { number, process, op, path: Arc::clone(path), detail, failed });
        result
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimDisk({})", self.0.origin)
    }
}

/// One program that uses a simulated disk. Clones are the same process.
///
/// Processes share files and the page cache; locks tell their open files apart as they do any others.
#[derive(Clone, Debug)]
pub struct Process {
    disk: SimDisk,
    id: usize,
}

impl Process {
    /// Ends the process at once: its locks are given back, and every later call of it and its files fails. What it wrote
    /// is still there, for others to read and for a sync or a power cut to find.
    pub fn kill(&self) {
        self.disk.machine().kill(self.id);
    }

    /// The disk it uses.
    #[must_use]
    pub fn disk(&self) -> &SimDisk {
        &self.disk
    }

    /// A call about a path.
    fn call<T>(
        &self,
        op: Op,
        path: &Path,
        detail: Detail,
        run: impl FnOnce(&mut Machine) -> io::Result<T>,
    ) -> io::Result<T> {
        self.call_struck(op, path, detail, |machine, _| run(machine))
    }

    /// A call about a path that a fault may change rather than prevent.
    pub(crate) fn call_struck<T>(
        &self,
        op: Op,
        path: &Path,
        detail: Detail,
        run: impl FnOnce(&mut Machine, Option<What>) -> io::Result<T>,
    ) -> io::Result<T> {
        self.disk.call(self.id, &path.into(), detail, |_| op, run)
    }
}

impl Disk for Process {
    fn open(&self, path: &Path, how: How) -> io::Result<Box<dyn File>> {
        let shared: Arc<Path> = path.into();
        let op = |machine: &Machine| match how {
            How::CreateNew => Op::Create,
            How::Create if machine.fs.find(path).is_err() => Op::Create,
            How::Create | How::Read | How::Write => Op::Open,
        };
        let opened = self.disk.call(self.id, &shared, Detail::None, op, |machine, struck| {
            let ino = match (how, machine.fs.find(path)) {
                (How::CreateNew, _) => machine.fs_mut().create_file(path)?,
                (How::Create, Err(error)) if error.kind() == ErrorKind::NotFound => {
                    machine.fs_mut().create_file(path)?
                }
                (_, found) => found?,
            };
            machine.fs.content(ino)?;
            // A handle that nobody gets would never be closed.
            let handle = if struck.is_none() { machine.open(self.id, ino) } else { 0 };
            Ok((handle, ino))
        });
        let (handle, ino) = opened?;
        Ok(Box::new(SimFile { process: self.clone(), path: shared, handle, ino, writable: how != How::Read }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.call(Op::CreateDir, path, Detail::None, |machine| machine.fs_mut().create_dir(path, 0o700))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(Op::Rename, from, Detail::To(to.into()), |machine| machine.fs_mut().rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.call(Op::RemoveFile, path, Detail::None, |machine| machine.fs_mut().remove_file(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.call(Op::RemoveDir, path, Detail::None, |machine| machine.fs_mut().remove_dir(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.call(Op::List, path, Detail::None, |machine| machine.fs.list(path))
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        self.call(Op::Stat, path, Detail::None, |machine| machine.fs.stat(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.call(Op::SyncDir, path, Detail::None, |machine| machine.fs_mut().sync_dir(path))
    }

    /// A watch that never sleeps: there is no clock here, so every timeout is over at once.
    fn watch(&self, path: &Path) -> io::Result<Box<dyn Watch>> {
        self.call(Op::Watch, path, Detail::None, |_| Ok(()))?;
        Ok(Box::new(SimWatch { process: self.clone(), path: path.into() }))
    }
}

struct SimFile {
    process: Process,
    path: Arc<Path>,
    handle: u64,
    ino: Ino,
    writable: bool,
}

impl SimFile {
    fn call<T>(
        &self,
        op: Op,
        detail: Detail,
        run: impl FnOnce(&mut Machine, Option<What>) -> io::Result<T>,
    ) -> io::Result<T> {
        self.process.disk.call(self.process.id, &self.path, detail, |_| op, run)
    }

    fn must_be_writable(&self, errno: i32) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
    }
}

impl File for SimFile {
    fn len(&self) -> io::Result<u64> {
        self.call(Op::Len, Detail::None, |machine, _| Ok(machine.fs.content(self.ino)?.len() as u64))
    }

    fn read_at(&self, out: &mut [u8], at: u64) -> io::Result<usize> {
        let range = Detail::Range { at, len: out.len() as u64 };
        self.call(Op::Read, range, |machine, struck| machine.read(self.ino, out, at, struck))
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        const EBADF: i32 = 9;
        let range = Detail::Range { at, len: bytes.len() as u64 };
        self.call(Op::Write, range, |machine, struck| {
            if !bytes.is_empty() {
                self.must_be_writable(EBADF)?;
            }
            machine.write(self.ino, bytes, at, struck)
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        const EINVAL: i32 = 22;
        let op = |machine: &Machine| {
            let now = machine.fs.content(self.ino).map_or(0, |content| content.len() as u64);
            if now < len { Op::Extend } else { Op::Cut }
        };
        self.process.disk.call(self.process.id, &self.path, Detail::Len(len), op, |machine, _| {
            self.must_be_writable(EINVAL)?;
            machine.set_len(self.ino, len)
        })
    }

    fn forget(&self, from: u64) -> io::Result<()> {
        self.call(Op::Write, Detail::None, |machine, _| machine.forget(self.ino, from))
    }

    fn sync(&self) -> io::Result<()> {
        self.call(Op::Sync, Detail::None, |machine, struck| machine.sync(self.ino, struck))
    }

    fn try_lock(&self, mode: LockMode) -> io::Result<bool> {
        self.call(Op::Lock, Detail::Lock(mode), |machine, _| Ok(machine.try_lock(self.handle, self.ino, mode)))
    }

    fn unlock(&self) -> io::Result<()> {
        self.call(Op::Unlock, Detail::None, |machine, _| {
            machine.unlock(self.handle, self.ino);
            Ok(())
        })
    }

    fn file_id(&self) -> io::Result<u64> {
        self.call(Op::FileId, Detail::None, |machine, _| Ok(machine.fs.id(self.ino)))
    }

    fn map(&self) -> io::Result<Mapped> {
        let bytes = self.call(Op::Map, Detail::None, |machine, struck| machine.read_all(self.ino, struck))?;
        Ok(Mapped::from_bytes(bytes))
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.process.disk.machine().close(self.handle);
    }
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimFile({})", self.path.display())
    }
}

#[derive(Debug)]
struct SimWatch {
    process: Process,
    path: Arc<Path>,
}

impl Watch for SimWatch {
    fn wait(&mut self, _timeout: Duration) -> io::Result<()> {
        thread::yield_now();
        self.process.call(Op::Watch, &self.path, Detail::None, |machine| machine.fs.stat(&self.path).map(drop))
    }
}
