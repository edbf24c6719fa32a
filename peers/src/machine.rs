//! What the figures were measured on.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Machine, kernel and file system, as the report names them.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: u64,
    pub(crate) kernel: String,
    pub(crate) file_system: String,
    pub(crate) rustc: String,
    /// How busy it was when the run began: processes that wanted a core, over the last minute.
    pub(crate) load: String,
}

impl Machine {
    /// The machine this runs on, and the file system that `dir` is on.
    pub(crate) fn of(dir: &Path) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
        let memory = read("/proc/meminfo");
        let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
        let rustc = Command::new("rustc").arg("--version").output().map(|out| out.stdout).unwrap_or_default();
        Self {
            cpu: cpu.trim_start_matches([' ', '\t', ':']).to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: kib.and_then(|kib| kib.trim().parse::<u64>().ok()).map_or(0, |kib| (kib + (1 << 19)) >> 20),
            kernel: format!("{} {}", std::env::consts::OS, read("/proc/sys/kernel/osrelease").trim()),
            file_system: file_system(&read("/proc/mounts"), dir),
            rustc: String::from_utf8_lossy(&rustc).trim().to_owned(),
            load: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
        }
    }
}

/// Kind and options of the mount that `dir` is on: the one with the longest name that begins it.
fn file_system(mounts: &str, dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mount = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (at, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        dir.starts_with(at).then(|| (at.len(), format!("{kind} ({options})")))
    });
    // Of two mounts on one place the later hides the earlier.
    mount.max_by_key(|(len, _)| *len).map_or_else(|| "unknown".to_owned(), |(_, named)| named)
}

/// KiB of memory that belongs to this process alone: what it has allocated, not the files that it has mapped.
pub(crate) fn private_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_names_the_file_system() {
        let mounts = "a / ext4 rw 0 0\nb /tmp tmpfs rw,nosuid 0 0\n";
        assert_eq!(file_system(mounts, Path::new("/tmp/that/is/not/there")), "tmpfs (rw,nosuid)");
        assert_eq!(file_system(mounts, Path::new("/nowhere")), "ext4 (rw)");
    }
}
