//! The real file system.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use fs2::FileExt;

use super::{DirEntry, Disk, File, How, LockMode, Mapped, Stat, Watch};

/// The operating system's file system, which is what a store is on by default.
///
/// Tested on Linux; macOS and Windows are best effort.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDisk;

#[derive(Debug)]
struct OsFile(fs::File);

impl Disk for OsDisk {
    fn open(&self, path: &Path, how: How) -> io::Result<Box<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true);
        match how {
            How::Read => {}
            How::Write => drop(options.write(true)),
            How::CreateNew => drop(options.write(true).create_new(true)),
            How::Create => drop(options.write(true).create(true).truncate(false)),
        }
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        Ok(Box::new(OsFile(options.open(path)?)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        #[cfg_attr(not(unix), expect(unused_mut, reason = "only Unix has modes"))]
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        fs::read_dir(path)?
            .map(|entry| {
                let entry = entry?;
                Ok(DirEntry { name: entry.file_name(), is_dir: entry.file_type()?.is_dir() })
            })
            .collect()
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let found = fs::symlink_metadata(path)?;
        Ok(Stat { len: found.len(), is_dir: found.is_dir() })
    }

    #[cfg(unix)]
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    /// Windows keeps no separate promise for directories: renames there are journalled with the file.
    #[cfg(not(unix))]
    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn watch(&self, path: &Path) -> io::Result<Box<dyn Watch>> {
        let polling = Polling { path: path.to_owned(), last: None };
        // There may be no more watches to be had, which is no reason not to follow a file.
        #[cfg(target_os = "linux")]
        if let Ok(events) = notify::Events::of(path) {
            return Ok(Box::new(notify::Notified { events, polling }));
        }
        Ok(Box::new(polling))
    }
}

impl File for OsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, out: &mut [u8], at: u64) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = out.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match read_some(&self.0, rest, at + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    #[cfg(unix)]
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.0, bytes, at)
    }

    #[cfg(windows)]
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            match std::os::windows::fs::FileExt::seek_write(&self.0, rest, at + done as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    #[cfg(target_os = "linux")]
    fn forget(&self, from: u64) -> io::Result<()> {
        /// Pages that are kept together are forgotten together or not at all.
        const TOGETHER: u64 = 2 << 20;
        let from = from - from % TOGETHER;
        Ok(rustix::fs::fadvise(&self.0, from, None, rustix::fs::Advice::DontNeed)?)
    }

    #[cfg(target_os = "linux")]
    fn reserve(&self, at: u64, len: u64) -> io::Result<()> {
        match len {
            // Not what somebody has written there.
            0 if self.len()? != at => Ok(()),
            0 => self.0.set_len(at),
            _ => Ok(rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::KEEP_SIZE, at, len)?),
        }
    }

    /// `fdatasync` on Linux; on macOS the standard library uses `F_FULLFSYNC`.
    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn try_lock(&self, mode: LockMode) -> io::Result<bool> {
        let taken = match mode {
            LockMode::Shared => FileExt::try_lock_shared(&self.0),
            LockMode::Exclusive => FileExt::try_lock_exclusive(&self.0),
        };
        match taken {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == fs2::lock_contended_error().raw_os_error() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn unlock(&self) -> io::Result<()> {
        FileExt::unlock(&self.0)
    }

    #[cfg(unix)]
    fn file_id(&self) -> io::Result<u64> {
        Ok(std::os::unix::fs::MetadataExt::ino(&self.0.metadata()?))
    }

    /// Windows refuses to remove a file that is open this way, so one name is always the same file.
    #[cfg(not(unix))]
    fn file_id(&self) -> io::Result<u64> {
        Ok(0)
    }

    fn map(&self) -> io::Result<Mapped> {
        Mapped::of_file(&self.0)
    }
}

#[cfg(unix)]
fn read_some(file: &fs::File, out: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, out, at)
}

#[cfg(windows)]
fn read_some(file: &fs::File, out: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, out, at)
}

/// Looks at a file's length and time every few milliseconds: works on every file system, network ones included.
#[derive(Debug)]
struct Polling {
    path: PathBuf,
    last: Option<(u64, SystemTime)>,
}

impl Polling {
    /// Looks at length and time every `step`, which `sleep` passes; that may return early and say so.
    fn wait_by(
        &mut self,
        timeout: Duration,
        step: Duration,
        mut sleep: impl FnMut(Duration) -> io::Result<bool>,
    ) -> io::Result<()> {
        let mut left = timeout;
        loop {
            let found = fs::metadata(&self.path)?;
            // Over spaces that were laid ahead a file is written without growing.
            let now = (found.len(), found.modified()?);
            if self.last.replace(now).is_some_and(|last| last != now) || left.is_zero() {
                return Ok(());
            }
            let step = step.min(left);
            if sleep(step)? {
                return Ok(());
            }
            left -= step;
        }
    }
}

impl Watch for Polling {
    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        self.wait_by(timeout, Duration::from_millis(20), |step| {
            thread::sleep(step);
            Ok(false)
        })
    }
}

/// Wakes at once when the kernel tells of a change.
#[cfg(target_os = "linux")]
mod notify {
    use std::io;
    use std::os::fd::OwnedFd;
    use std::path::Path;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

    use super::super::Watch;
    use super::Polling;

    /// Changes of one file.
    #[derive(Debug)]
    pub(super) struct Events(OwnedFd);

    /// Looks at the length now and then as well, since a network file system tells nothing of what others write.
    #[derive(Debug)]
    pub(super) struct Notified {
        pub(super) events: Events,
        pub(super) polling: Polling,
    }

    impl Events {
        pub(super) fn of(path: &Path) -> io::Result<Self> {
            let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            inotify::add_watch(&events, path, WatchFlags::MODIFY | WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF)?;
            Ok(Self(events))
        }

        /// Waits for an event, and says whether there was one.
        fn wait(&self, timeout: Duration) -> io::Result<bool> {
            let timeout = Timespec {
                tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: timeout.subsec_nanos().into(),
            };
            match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&timeout)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(false),
                other => drop(other?),
            }
            // All that is there counts as one.
            let mut buf = [0; 4096];
            while rustix::io::read(&self.0, &mut buf).is_ok_and(|got| got > 0) {}
            Ok(true)
        }
    }

    impl Watch for Notified {
        fn wait(&mut self, timeout: Duration) -> io::Result<()> {
            let events = &self.events;
            self.polling.wait_by(timeout, Duration::from_secs(1), |step| events.wait(step))
        }
    }
}
