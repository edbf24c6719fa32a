//! Locks between processes, on files that stay open.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::disk::{Disk, File, How, LockMode};
use crate::error::{Error, Result};
use crate::sync::thread;

/// How long a short wait for another process's short work may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A lock file, open.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    file: Box<dyn File>,
}

impl Lock {
    /// Opens the lock file, made where there is none, and locks nothing yet.
    pub(crate) fn open(disk: &dyn Disk, path: &Path) -> Result<Self> {
        let file = disk.open(path, How::Create).map_err(|error| Error::io("open", path, error))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Takes the lock, waiting for it as long as `wait`.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] when it is not free by then.
    pub(crate) fn take(&self, mode: LockMode, wait: Duration) -> Result<()> {
        /// Between two tries, growing, so that short waits are short and long ones cheap.
        const STEPS: [u64; 6] = [1, 1, 2, 5, 10, 20];
        let mut left = wait;
        for step in STEPS.into_iter().chain(std::iter::repeat(20)).map(Duration::from_millis) {
            if self.try_take(mode)? {
                return Ok(());
            }
            if left.is_zero() {
                break;
            }
            let step = step.min(left);
            thread::sleep(step);
            left -= step;
        }
        Err(Error::Locked { path: self.path.clone(), holder: self.holder() })
    }

    /// Takes the lock if it is free.
    pub(crate) fn try_take(&self, mode: LockMode) -> Result<bool> {
        self.file.try_lock(mode).map_err(|error| Error::io("lock", &self.path, error))
    }

    /// Gives the lock back. Closing the file does it too, so a failure costs nothing but time.
    pub(crate) fn release(&self) {
        let _ = self.file.unlock();
    }

    pub(crate) fn file(&self) -> &dyn File {
        &*self.file
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file that is locked is the one that has the name, and not one that was removed meanwhile.
    pub(crate) fn is_current(&self, disk: &dyn Disk) -> Result<bool> {
        let io = |error| Error::io("open", &self.path, error);
        let named = match disk.open(&self.path, How::Read) {
            Ok(named) => named.file_id().map_err(io)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(io(error)),
        };
        Ok(named == self.file.file_id().map_err(io)?)
    }

    /// Writes this process's id into the file, for whoever finds it locked. Failing is of no consequence.
    fn sign(&self) {
        let pid = format!("{:<10}\n", std::process::id());
        let _ = self.file.write_at(pid.as_bytes(), 0);
    }

    fn holder(&self) -> Option<u32> {
        let mut text = [0; 10];
        let got = self.file.read_at(&mut text, 0).ok()?;
        std::str::from_utf8(text.get(..got)?).ok()?.trim().parse().ok()
    }
}

/// The right to append to one transcript, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct WriteLock(Lock);

impl WriteLock {
    /// Opens the lock of the transcript at `path`.
    pub(crate) fn open(disk: &dyn Disk, transcript: &Path) -> Result<Self> {
        Lock::open(disk, &transcript.with_extension("lock")).map(Self)
    }

    /// Takes the lock, waiting for it as long as `wait`.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] with the holder's process id.
    pub(crate) fn take(&self, wait: Duration, sign: bool) -> Result<()> {
        self.0.take(LockMode::Exclusive, wait)?;
        if sign {
            self.0.sign();
        }
        Ok(())
    }

    pub(crate) fn release(&self) {
        self.0.release();
    }
}
