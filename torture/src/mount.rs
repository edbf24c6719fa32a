//! File systems in files: made, mounted, cut off from their disk.
//!
//! Everything is mounted where only this process and its children see it, so that the kernel takes it away when they end, however they end.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A file system that the kernel may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ext4,
    Xfs,
    Btrfs,
}

impl Kind {
    pub(crate) fn of(name: &str) -> Option<Self> {
        [Self::Ext4, Self::Xfs, Self::Btrfs].into_iter().find(|kind| kind.name() == name)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// The smallest that it likes to be, and then some.
    pub(crate) fn size(self) -> u64 {
        match self {
            Self::Ext4 => 64 << 20,
            Self::Xfs => 320 << 20,
            Self::Btrfs => 256 << 20,
        }
    }

    /// Makes one in a file.
    pub(crate) fn make(self, on: &Path) -> Result<(), String> {
        match self {
            Self::Ext4 => {
                // Blocks as large as pages, and made whole at once: what is made in the background later would be in the way.
                let lazy = "lazy_itable_init=0,lazy_journal_init=0";
                tool("mkfs.ext4", ["-q", "-F", "-b", "4096", "-E", lazy], &[on])
            }
            Self::Xfs => tool("mkfs.xfs", ["-q", "-f"], &[on]),
            Self::Btrfs => tool("mkfs.btrfs", ["-q", "-f"], &[on]),
        }
    }
}

/// A file system that is mounted until this is dropped.
pub(crate) struct Mount {
    at: PathBuf,
}

impl Mount {
    /// Mounts a file.
    pub(crate) fn new(kind: Kind, on: &Path, at: &Path) -> Result<Self, String> {
        fs::create_dir_all(at).map_err(|error| error.to_string())?;
        tool("mount", ["-t", kind.name(), "-o", "loop"], &[on, at])?;
        Ok(Self { at: at.to_owned() })
    }

    /// A file system in memory.
    pub(crate) fn memory(size: u64, at: &Path) -> Result<Self, String> {
        fs::create_dir_all(at).map_err(|error| error.to_string())?;
        tool("mount", ["-t", "tmpfs", "-o", &format!("size={size}"), "torture"], &[at])?;
        Ok(Self { at: at.to_owned() })
    }

    /// Makes the loop device below ask for one page at a time. Where there is room for a part of what a request writes, loop devices
    /// (Linux 6.18) say that all of it was written: that is a disk that lies, and nobody could keep a promise on it.
    pub(crate) fn page_by_page(&self) -> Result<(), String> {
        let mounts = fs::read_to_string("/proc/self/mounts").map_err(|error| error.to_string())?;
        let own = |line: &&str| line.split(' ').nth(1) == self.at.to_str();
        let device = mounts.lines().rfind(own).and_then(|line| line.split(' ').next()?.strip_prefix("/dev/"));
        let limit = format!("/sys/block/{}/queue/max_sectors_kb", device.ok_or("no device below")?);
        fs::write(limit, "4").map_err(|error| error.to_string())
    }

    /// Changes its size.
    pub(crate) fn resize(&self, size: u64) -> Result<(), String> {
        tool("mount", ["-o", &format!("remount,size={size}")], &[&self.at])
    }

    /// Bytes that are in use.
    pub(crate) fn used(&self) -> Result<u64, String> {
        let found = rustix::fs::statvfs(&self.at).map_err(|error| error.to_string())?;
        Ok((found.f_blocks - found.f_bfree) * found.f_frsize)
    }

    /// Takes its disk away from it, with all that is not on the disk: neither the log nor anything else is written any more.
    pub(crate) fn shut_down(&self) -> io::Result<()> {
        shut_down(&File::open(&self.at)?)
    }

    /// Gives it back.
    pub(crate) fn end(self) -> Result<(), String> {
        tool("umount", [], &[&self.at])?;
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // What is still used goes when its users do.
        let _ = tool("umount", ["-l"], &[&self.at]);
    }
}

#[expect(unsafe_code, reason = "no safe wrapper knows this ioctl")]
fn shut_down(root: &File) -> io::Result<()> {
    use rustix::ioctl::{Setter, ioctl, opcode};
    /// `EXT4_IOC_SHUTDOWN`, `XFS_IOC_GOINGDOWN`: the same number.
    const SHUTDOWN: rustix::ioctl::Opcode = opcode::read::<u32>(b'X', 125);
    const NO_LOG_FLUSH: u32 = 2;
    // SAFETY: both file systems read one `u32` from the address that is given, which `Setter` makes the address of a live one.
    unsafe { ioctl(root, Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH)) }?;
    Ok(())
}

/// Makes this process and those that it starts believe that the machine was started again, as it is after a power cut.
pub(crate) fn restart(scratch: &Path) -> Result<(), String> {
    const RUN: &str = "/proc/sys/kernel/random/boot_id";
    let id = fs::read_to_string("/proc/sys/kernel/random/uuid").map_err(|error| error.to_string())?;
    let file = scratch.join("boot_id");
    // Nothing is there the first time.
    let _ = Command::new("umount").arg(RUN).stderr(Stdio::null()).status();
    fs::write(&file, id).map_err(|error| error.to_string())?;
    tool("mount", ["--bind"], &[&file, Path::new(RUN)])
}

/// Runs a program that must succeed.
pub(crate) fn tool<const N: usize>(name: &str, options: [&str; N], paths: &[&Path]) -> Result<(), String> {
    let run = Command::new(name).args(options).args(paths).stdin(Stdio::null()).output();
    let done = run.map_err(|error| format!("{name}: {error}"))?;
    let said = || String::from_utf8_lossy(&done.stderr).trim().replace('\n', " ");
    if done.status.success() { Ok(()) } else { Err(format!("{name}: {}", said())) }
}

/// Whether a program is there.
pub(crate) fn is_there(tool: &str) -> bool {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/sbin", "/usr/sbin"].map(PathBuf::from);
    std::env::split_paths(&dirs).chain(usual).any(|dir| dir.join(tool).is_file())
}

/// What is missing of what loop mounts of this kind need; the answer is one line.
pub(crate) fn missing(kind: Kind) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("mounts need root".to_owned());
    }
    let mkfs = format!("mkfs.{}", kind.name());
    if let Some(tool) = [mkfs.as_str(), "mount", "umount", "losetup"].into_iter().find(|tool| !is_there(tool)) {
        return Some(format!("there is no {tool}"));
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("there are no loop devices".to_owned());
    }
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !known.lines().any(|line| line.trim() == kind.name()) {
        return Some(format!("the kernel has no {}", kind.name()));
    }
    None
}

/// Runs this program once more, where it alone sees what it mounts. Returns how that ended.
pub(crate) fn apart() -> Result<bool, String> {
    let me = std::env::current_exe().map_err(|error| error.to_string())?;
    let run = Command::new("unshare").arg("--mount").arg(me).args(std::env::args_os().skip(1)).env(APART, "1").status();
    run.map(|done| done.success()).map_err(|error| format!("unshare: {error}"))
}

/// Set in the environment of a process that [`apart`] began.
pub(crate) const APART: &str = "FORKLOG_TORTURE_APART";
