//! The questions that are asked, a module for each kind.

mod append;
mod checkpoints;
mod fixtures;
mod fork;
mod list;
mod memory;
mod open;
mod read;

use std::cell::OnceCell;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::measure::{self, Outcome, Row};
use crate::report::Progress;
use fixtures::{Large, Many};

pub(crate) use memory::child as memory_child;
pub(crate) use open::child as kill_child;

/// How much is measured.
pub(crate) struct Setting {
    /// On the disk that is judged.
    pub(crate) dir: PathBuf,
    pub(crate) rounds: usize,
    /// As little as shows that everything works.
    pub(crate) quick: bool,
    /// As much as the goals name.
    pub(crate) full: bool,
    pub(crate) only: Vec<String>,
    pub(crate) progress: Progress,
    pub(crate) fixtures: Fixtures,
}

/// What several rows read, made when the first of them asks.
#[derive(Default)]
pub(crate) struct Fixtures {
    large: OnceCell<Large>,
    many: OnceCell<Many>,
}

impl Setting {
    /// One of three numbers, by how much is measured.
    pub(crate) fn size<T>(&self, quick: T, usual: T, full: T) -> T {
        match (self.quick, self.full) {
            (true, _) => quick,
            (_, true) => full,
            _ => usual,
        }
    }

    /// A long transcript.
    fn large(&self) -> &Large {
        self.fixtures.large.get_or_init(|| {
            self.progress.say("making long transcripts");
            Large::new(self)
        })
    }

    /// Many sessions.
    fn many(&self) -> &Many {
        self.fixtures.many.get_or_init(|| {
            self.progress.say("making many sessions");
            Many::new(self, self.size(300, 100_000, 1_000_000))
        })
    }

    /// A directory that goes when it is dropped.
    pub(crate) fn temp(&self) -> tempfile::TempDir {
        temp_in(&self.dir)
    }

    /// A directory in memory, where there is such a place, for what needs many small files and is not about the disk.
    pub(crate) fn memory(&self) -> tempfile::TempDir {
        let shared = Path::new("/dev/shm");
        temp_in(if shared.is_dir() { shared } else { &self.dir })
    }

    /// Has memory at hand for `bytes` that are about to be written: a virtual machine fetches from its host what it has not used
    /// lately, page by page, and that takes as long as the writing. Who comes first would pay for all.
    pub(crate) fn fetch_memory(&self, bytes: usize) {
        let dir = self.temp();
        let mut scratch = File::create(dir.path().join("scratch")).expect("a file to write to");
        let some = vec![1; 1 << 20];
        (0..bytes.div_ceil(some.len())).for_each(|_| scratch.write_all(&some).expect("room for it"));
    }

    /// Whether the row is wanted.
    pub(crate) fn wants(&self, id: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| id.contains(only.as_str()))
    }

    pub(crate) fn run(&self, row: Row<'_>) -> Outcome {
        self.run_rounds(row, self.rounds)
    }

    /// [`Setting::run`] for work that takes long.
    pub(crate) fn run_rounds(&self, row: Row<'_>, rounds: usize) -> Outcome {
        measure::run(row, rounds, |what| self.progress.say(what))
    }
}

fn temp_in(dir: &Path) -> tempfile::TempDir {
    tempfile::Builder::new().prefix("forklog-peers-").tempdir_in(dir).expect("a directory to measure in")
}

/// Measures what is wanted. `done` gets each row as soon as it is finished.
pub(crate) fn all(setting: &Setting, mut done: impl FnMut(Outcome)) {
    append::rows(setting, &mut done);
    read::rows(setting, &mut done);
    open::rows(setting, &mut done);
    fork::rows(setting, &mut done);
    list::rows(setting, &mut done);
    memory::rows(setting, &mut done);
    checkpoints::rows(setting, &mut done);
}
