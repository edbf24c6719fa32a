//! Random calls, made on the simulated disk and on the real one, must be answered alike.

use std::io;
use std::path::{Path, PathBuf};

use forklog::disk::{DirEntry, Disk, File, How, LockMode, OsDisk};
use forklog_sim::{Rng, SimDisk};

const RUNS: u64 = 400;
const STEPS: usize = 150;

/// An answer that two disks can be compared by.
type Answer = Result<String, io::ErrorKind>;

struct Side {
    disk: Box<dyn Disk>,
    root: PathBuf,
    files: Vec<Option<Box<dyn File>>>,
}

#[derive(Clone, Debug)]
enum Step {
    Open(usize, String, How),
    Close(usize),
    CreateDir(String),
    Rename(String, String),
    RemoveFile(String),
    RemoveDir(String),
    List(String),
    Stat(String),
    SyncDir(String),
    Len(usize),
    Read(usize, usize, u64),
    Write(usize, Vec<u8>, u64),
    SetLen(usize, u64),
    Sync(usize),
    Lock(usize, LockMode),
    Unlock(usize),
    Map(usize),
    SameFile(usize, usize),
}

impl Side {
    fn new(disk: Box<dyn Disk>, root: &Path) -> Self {
        Self { disk, root: root.to_owned(), files: (0..4).map(|_| None).collect() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn with(&self, file: usize, act: impl FnOnce(&dyn File) -> io::Result<String>) -> Answer {
        match &self.files[file] {
            Some(file) => act(file.as_ref()).map_err(|error| error.kind()),
            None => Ok("closed".to_owned()),
        }
    }

    fn take(&mut self, step: &Step) -> Answer {
        let done = |result: io::Result<()>| result.map(|()| String::new()).map_err(|error| error.kind());
        match step {
            Step::Open(file, name, how) => {
                // Linux lets a directory be opened as a file; nothing in the engine does.
                let is_dir = self.disk.stat(&self.path(name)).is_ok_and(|found| found.is_dir);
                if *how == How::Read && is_dir {
                    return Ok(String::new());
                }
                self.files[*file] = None;
                let opened = self.disk.open(&self.path(name), *how).map_err(|error| error.kind())?;
                self.files[*file] = Some(opened);
                Ok(String::new())
            }
            Step::Close(file) => {
                self.files[*file] = None;
                Ok(String::new())
            }
            Step::CreateDir(name) => done(self.disk.create_dir(&self.path(name))),
            Step::Rename(from, to) => done(self.disk.rename(&self.path(from), &self.path(to))),
            Step::RemoveFile(name) => done(self.disk.remove_file(&self.path(name))),
            Step::RemoveDir(name) => done(self.disk.remove_dir(&self.path(name))),
            Step::List(name) => {
                let mut found: Vec<DirEntry> = self.disk.list(&self.path(name)).map_err(|error| error.kind())?;
                found.sort();
                Ok(format!("{found:?}"))
            }
            Step::Stat(name) => {
                let found = self.disk.stat(&self.path(name)).map_err(|error| error.kind())?;
                Ok(if found.is_dir { "dir".to_owned() } else { found.len.to_string() })
            }
            Step::SyncDir(name) => match self.disk.stat(&self.path(name)) {
                Ok(found) if !found.is_dir => Ok(String::new()),
                _ => done(self.disk.sync_dir(&self.path(name))),
            },
            Step::Len(file) => self.with(*file, |file| Ok(file.len()?.to_string())),
            Step::Read(file, len, at) => self.with(*file, |file| {
                let mut out = vec![0; *len];
                let n = file.read_at(&mut out, *at)?;
                Ok(format!("{:?}", &out[..n]))
            }),
            Step::Write(file, bytes, at) => self.with(*file, |file| file.write_at(bytes, *at).map(|()| String::new())),
            Step::SetLen(file, len) => self.with(*file, |file| file.set_len(*len).map(|()| String::new())),
            Step::Sync(file) => self.with(*file, |file| file.sync().map(|()| String::new())),
            Step::Lock(file, mode) => self.with(*file, |file| Ok(file.try_lock(*mode)?.to_string())),
            Step::Unlock(file) => self.with(*file, |file| file.unlock().map(|()| String::new())),
            Step::Map(file) => self.with(*file, |file| Ok(format!("{:?}", &file.map()?[..]))),
            Step::SameFile(one, other) => self.with(*one, |one| {
                let other = self.files[*other].as_ref().map(|file| file.file_id()).transpose()?;
                Ok((Some(one.file_id()?) == other).to_string())
            }),
        }
    }

    /// Everything below the root.
    fn tree(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut todo = vec![self.root.clone()];
        while let Some(dir) = todo.pop() {
            for entry in self.disk.list(&dir).expect("a directory that was listed") {
                let path = dir.join(&entry.name);
                let shown = path.strip_prefix(&self.root).expect("below the root").display().to_string();
                if entry.is_dir {
                    found.push(shown);
                    todo.push(path);
                } else {
                    let file = self.disk.open(&path, How::Read).expect("a file that was listed");
                    found.push(format!("{shown} {:?}", &file.map().expect("whole")[..]));
                }
            }
        }
        found.sort();
        found
    }
}

fn name(rng: &mut Rng) -> String {
    const NAMES: [&str; 3] = ["a", "b", "c"];
    let depth = 1 + rng.below(3);
    let parts: Vec<&str> = (0..depth).map(|_| NAMES[rng.below(3)]).collect();
    if rng.chance(1, 100) { "n".repeat(300) } else { parts.join("/") }
}

fn step(rng: &mut Rng) -> Step {
    let file = rng.below(4);
    let mode = if rng.chance(1, 2) { LockMode::Shared } else { LockMode::Exclusive };
    match rng.below(24) {
        0..=3 => {
            let how = [How::Read, How::Write, How::CreateNew, How::Create][rng.below(4)];
            Step::Open(file, name(rng), how)
        }
        4 => Step::Close(file),
        5 | 6 => Step::CreateDir(name(rng)),
        7..=9 => Step::Rename(name(rng), name(rng)),
        10 => Step::RemoveFile(name(rng)),
        11 => Step::RemoveDir(name(rng)),
        12 => Step::List(name(rng)),
        13 => Step::Stat(name(rng)),
        14 => Step::SyncDir(name(rng)),
        15 => Step::Len(file),
        16 => Step::Read(file, rng.below(30), rng.below(40) as u64),
        17 | 18 => Step::Write(file, vec![b'A'; rng.below(20)], rng.below(40) as u64),
        19 => Step::SetLen(file, rng.below(40) as u64),
        20 => Step::Sync(file),
        21 => Step::Lock(file, mode),
        22 => Step::Unlock(file),
        _ if rng.chance(1, 2) => Step::Map(file),
        _ => Step::SameFile(file, rng.below(4)),
    }
}

#[test]
fn the_simulated_disk_answers_as_the_real_one() {
    let mut went_well = 0;
    for seed in 0..RUNS {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let sim = SimDisk::new(seed);
        let process = sim.process();
        let mut real = Side::new(Box::new(OsDisk), dir.path());
        let mut simulated = Side::new(Box::new(process), Path::new("/"));
        let mut rng = Rng::new(seed);
        for n in 0..STEPS {
            let step = step(&mut rng);
            let wanted = real.take(&step);
            let got = simulated.take(&step);
            assert_eq!(got, wanted, "{}", sim.report(format!("seed {seed}, step {n}: {step:?}")));
            went_well += usize::from(wanted.is_ok());
        }
        assert_eq!(simulated.tree(), real.tree(), "{}", sim.report(format!("seed {seed}")));
    }
    assert!(went_well > 1000, "only {went_well} steps did anything");
}
