//! What a disk may hold at any moment: every write and flush of a block device is logged, and played again.
//!
//! A file system stands on a loop device, that on a file which qemu's storage daemon exports, and that logs what it is asked to do, in
//! the format of the kernel's dm-log-writes. A disk that lost its power behind a flush holds everything before it, and of what comes after any part but
//! what was written through its cache.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use forklog_sim::{Rng, derive};

use crate::child::Player;
use crate::judge::{End, Judge};
use crate::mount::{Kind, Mount, is_there, missing, restart};
use crate::place::Place;
use crate::program::Program;
use crate::report::Report;
use crate::worker::Task;
use crate::{Asked, play};

const MAGIC: u64 = 0x006a_7366_7773_6872;
/// Bytes of a sector, in the log and in its numbers.
const SECTOR: usize = 512;
const FLUSH: u64 = 1;
const THROUGH: u64 = 2;
const DISCARD: u64 = 4;
/// Operations of one run.
const STEPS: u64 = 160;

/// How many entries a log has by now; 0 when it cannot be read. Every flush is counted before it is acknowledged.
pub(crate) fn entries(log: &Path) -> u64 {
    let mut head = [0; 24];
    let read = File::open(log).and_then(|file| file.read_exact_at(&mut head, 0));
    if read.is_ok() && word(&head, 0) == MAGIC { word(&head, 2) } else { 0 }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at * 8..at * 8 + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// Something that the device was asked to do.
struct Entry {
    at: u64,
    flags: u64,
    bytes: Vec<u8>,
    /// How much of a discard.
    len: u64,
}

/// All entries of a log.
fn read(log: &Path) -> Result<Vec<Entry>, String> {
    let count = entries(log);
    let mut file = File::open(log).map_err(|error| error.to_string())?;
    let mut sector = [0; SECTOR];
    file.read_exact(&mut sector).map_err(|error| error.to_string())?;
    let mut found = Vec::new();
    for _ in 0..count {
        file.read_exact(&mut sector).map_err(|error| format!("a log that ends early: {error}"))?;
        let (at, sectors, flags) = (word(&sector, 0), word(&sector, 1), word(&sector, 2));
        let len = sectors * SECTOR as u64;
        let mut bytes = vec![0; if flags & DISCARD == 0 { usize::try_from(len).unwrap_or(0) } else { 0 }];
        file.read_exact(&mut bytes).map_err(|error| format!("a log that ends early: {error}"))?;
        found.push(Entry { at: at * SECTOR as u64, flags, bytes, len });
    }
    Ok(found)
}

impl Entry {
    fn apply(&self, image: &File) -> Result<(), String> {
        // What was discarded may be anything; zeros are what this device makes of it.
        let zeros = vec![0; usize::try_from(self.len).unwrap_or(0)];
        let bytes = if self.flags & DISCARD == 0 { &self.bytes } else { &zeros };
        image.write_all_at(bytes, self.at).map_err(|error| error.to_string())
    }
}

/// The device, for as long as this lives.
struct Device {
    daemon: Child,
}

impl Device {
    fn start(disk: &Path, log: &Path, export: &Path) -> Result<Self, String> {
        for file in [log, export] {
            File::create(file).map_err(|error| error.to_string())?;
        }
        let path = |path: &Path| path.display().to_string();
        let raw = |name: &str, file: &Path| format!("driver=file,node-name={name},filename={}", path(file));
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-storage-daemon"]);
        command.args(["--blockdev", &raw("disk", disk), "--blockdev", &raw("log", log)]);
        command
            .args(["--blockdev", "driver=blklogwrites,node-name=logged,file=disk,log=log,log-super-update-interval=1"]);
        let fuse = format!("type=fuse,id=out,node-name=logged,writable=on,mountpoint={}", path(export));
        let daemon = command.args(["--export", &fuse]).stdin(Stdio::null()).spawn();
        let device = Self { daemon: daemon.map_err(|error| format!("qemu-storage-daemon: {error}"))? };
        let size = fs::metadata(disk).map_err(|error| error.to_string())?.len();
        for _ in 0..200 {
            if fs::metadata(export).is_ok_and(|found| found.len() == size) {
                return Ok(device);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err("the device does not come".to_owned())
    }

    /// Ends it when all that it was asked to do is done.
    fn end(mut self) -> Result<(), String> {
        let pid = rustix::process::Pid::from_child(&self.daemon);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).map_err(|error| error.to_string())?;
        self.daemon.wait().map(drop).map_err(|error| error.to_string())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

pub(crate) fn run(asked: &Asked) -> Result<Report, String> {
    if let Some(why) = missing(Kind::Ext4) {
        return Err(why);
    }
    if let Some(tool) = ["qemu-storage-daemon", "setpriv"].into_iter().find(|tool| !is_there(tool)) {
        return Err(format!("there is no {tool}"));
    }
    if !Path::new("/dev/fuse").exists() {
        return Err("there is no /dev/fuse".to_owned());
    }
    let mut report = Report::new("block log below ext4", "images");
    let mut round = 0;
    while !report.enough(asked, 500) {
        let dir =
            tempfile::Builder::new().prefix("torture-disk-").tempdir_in(&asked.disks).map_err(|e| e.to_string())?;
        if let Err(wrong) = one(asked, derive(asked.seed, round), dir.path(), &mut report) {
            report.violation(&format!("round {round}: {wrong}"), dir);
        }
        round += 1;
    }
    Ok(report)
}

/// One worker, and every moment of its disk.
fn one(asked: &Asked, seed: u64, dir: &Path, report: &mut Report) -> Result<(), String> {
    let file = |name: &str| dir.join(name);
    let (disk, log, at) = (file("disk"), file("log"), file("mounted"));
    File::create(&disk).and_then(|file| file.set_len(Kind::Ext4.size())).map_err(|error| error.to_string())?;
    Kind::Ext4.make(&disk)?;
    // What stands there before the log begins.
    let base = file("base");
    fs::copy(&disk, &base).map_err(|error| error.to_string())?;
    let device = Device::start(&disk, &log, &file("export"))?;
    let mount = Mount::new(Kind::Ext4, &file("export"), &at)?;
    let place = Place::make(&at.join("place")).map_err(|error| error.to_string())?;
    for dir in [place.imports(), place.workspace(), place.0.clone(), at.clone()] {
        File::open(&dir).and_then(|dir| dir.sync_all()).map_err(|error| error.to_string())?;
    }
    let begun = entries(&log);
    let program = Program(seed);
    let task = Task { place: place.clone(), program, steps: (0, STEPS), synced: true, log: Some(log.clone()) };
    let mut player = Player::start(&play::worker(&task)).map_err(|error| error.to_string())?;
    let lines: Vec<String> = std::iter::from_fn(|| player.line()).collect();
    drop(player);
    if lines.iter().filter(|line| line.starts_with("begin")).count() as u64 != STEPS {
        return Err(format!("the worker ended early: {:?}", lines.last()));
    }
    mount.end()?;
    device.end()?;
    report.cycles += 1;
    let log = read(&log)?;
    restart(dir)?;
    let images = Images { at: &at, place: &place, program, lines: &lines, image: file("image") };
    let mut rng = Rng::new(seed);
    let stable = File::options().read(true).write(true).open(&base).map_err(|error| error.to_string())?;
    let mut since: Vec<&Entry> = Vec::new();
    for (n, entry) in log.iter().enumerate() {
        since.push(entry);
        if entry.flags & FLUSH == 0 {
            continue;
        }
        // Part of what came between this flush and the one before: what was acknowledged before that one is there.
        let before = (n + 1 - since.len()) as u64;
        if before >= begun && since.len() > 2 && rng.chance(1, 2) {
            let chosen = since.iter().filter(|entry| entry.flags & THROUGH != 0 || rng.chance(1, 2));
            images
                .look(&base, chosen.copied(), before, report)
                .map_err(|wrong| format!("before entry {n}: {wrong}"))?;
        }
        for entry in since.drain(..) {
            entry.apply(&stable)?;
        }
        if n as u64 >= begun {
            images
                .look(&base, std::iter::empty(), n as u64 + 1, report)
                .map_err(|wrong| format!("entry {n}: {wrong}"))?;
        }
        if report.enough(asked, 500) {
            break;
        }
    }
    Ok(())
}

struct Images<'a> {
    at: &'a Path,
    place: &'a Place,
    program: Program,
    lines: &'a [String],
    image: PathBuf,
}

impl Images<'_> {
    /// Looks at a disk as it may be when so many entries of the log are surely on it.
    fn look<'e>(
        &self,
        base: &Path,
        more: impl Iterator<Item = &'e Entry>,
        entries: u64,
        report: &mut Report,
    ) -> Result<(), String> {
        fs::copy(base, &self.image).map_err(|error| error.to_string())?;
        let image = File::options().write(true).open(&self.image).map_err(|error| error.to_string())?;
        for entry in more {
            entry.apply(&image)?;
        }
        drop(image);
        let mount = Mount::new(Kind::Ext4, &self.image, self.at)?;
        let mut judge = Judge::new(self.program, End::PowerCut);
        for line in self.lines {
            judge.hear_upto(line, entries)?;
        }
        let seen = judge.look(self.place, report.struck.is_multiple_of(2))?;
        report.struck += 1;
        report.seen(seen);
        mount.end()
    }
}
