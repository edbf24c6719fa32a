//! Checkpoints of a workspace beside a shadow git repository, which is how agent tools keep them.

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use forklog::Uid;
use forklog::checkpoint::{Files, PlanOptions, State};
use forklog::disk::OsDisk;
use forklog::objects::ObjectStore;
use forklog::workspace::{OsWorkspace, ScanOptions, Stamp};

use super::Setting;
use crate::measure::{Case, Outcome, Row, Sample, Unit};
use crate::workload::Random;

pub(super) fn rows(setting: &Setting, done: &mut impl FnMut(Outcome)) {
    let ids = ["checkpoint-first", "checkpoint-10", "checkpoint-rewind"];
    if !ids.iter().any(|id| setting.wants(id)) {
        return;
    }
    let missing = Command::new("git").arg("--version").output().is_err().then_some("not installed");
    let files = setting.size(300, 10_000, 10_000);
    let ours = RefCell::new(Ours::new(setting, files));
    let theirs = missing.is_none().then(|| RefCell::new(Git::new(setting, files)));
    // A function for each side and work; git has none where it is not installed.
    type Work<'a> = (&'a dyn Fn(&mut Ours) -> Sample, &'a dyn Fn(&mut Git) -> Sample);
    let mut row = |id, what: &str, rounds, (ours_mode, theirs_mode), (a, b): Work<'_>| {
        if !setting.wants(id) {
            return;
        }
        let mut cases = vec![Case::new("forklog", ours_mode, |_| a(&mut ours.borrow_mut()))];
        if let Some(theirs) = &theirs {
            cases.push(Case::new("git", theirs_mode, |_| b(&mut theirs.borrow_mut())));
        }
        let what = format!("{what}, {files} files");
        let row = Row { id, what, unit: Unit::Seconds, goal: "no slower than git", cases };
        done(setting.run_rounds(row, rounds).missing("git", missing));
    };
    let taking = ("synced", "add -A, write-tree; not synced");
    let going = ("journalled and synced", "read-tree -m -u; not synced");
    let few = setting.rounds.min(3);
    row("checkpoint-first", "first checkpoint", few, taking, (&Ours::first, &Git::first));
    row("checkpoint-10", "checkpoint of 10 changes", setting.rounds, taking, (&Ours::ten, &Git::ten));
    row("checkpoint-rewind", "rewind of 10 changes", setting.rounds, going, (&Ours::rewind, &Git::rewind));
}

/// Lines that compress about as sources do.
fn source(seed: u64) -> String {
    const WORDS: [&str; 24] = [
        "let", "fn", "return", "if", "else", "match", "self", "value", "result", "error", "index", "buffer", "offset",
        "length", "for", "in", "while", "struct", "impl", "pub", "use", "crate", "None", "Some",
    ];
    let mut random = Random::new(seed);
    let mut below = move |n| usize::try_from(random.below(n)).unwrap_or_default();
    let len = 2_000 + below(16_500);
    let mut text = String::with_capacity(len + 80);
    while text.len() < len {
        text.push_str("    ");
        for _ in 0..3 + below(6) {
            text.push_str(WORDS[below(24)]);
            if below(3) == 0 {
                text.push_str(&format!("_{:x}", below(4096)));
            }
            text.push_str([" ", ".", "(", ", ", " = "][below(5)]);
        }
        text.push_str(";\n");
    }
    text
}

/// A workspace, and what keeps its checkpoints beside it.
struct Place {
    dir: tempfile::TempDir,
    files: u64,
    /// Changes so far, so that none repeats.
    changes: u64,
}

impl Place {
    fn new(setting: &Setting, files: u64) -> Self {
        let place = Self { dir: setting.temp(), files, changes: 0 };
        for n in 0..files {
            let path = place.file(n);
            fs::create_dir_all(path.parent().expect("a directory")).expect("made");
            fs::write(path, source(n)).expect("written");
        }
        place
    }

    fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    fn file(&self, n: u64) -> PathBuf {
        self.work().join(format!("crate{}/src/module{}/file{n}.rs", n / 500, n / 20 % 25))
    }

    /// Writes ten files anew, and waits until their times tell.
    fn change(&mut self) {
        self.changes += 1;
        for n in 0..10 {
            fs::write(self.file(n * (self.files / 10)), source(n + self.changes * 1_000_000)).expect("written");
        }
        std::thread::sleep(Duration::from_millis(120));
    }

    /// One of the files that change.
    fn look(&self) -> String {
        fs::read_to_string(self.file(0)).expect("a file")
    }
}

struct Ours {
    place: Place,
    last: State,
}

impl Ours {
    fn new(setting: &Setting, files: u64) -> Self {
        let mut ours = Self { place: Place::new(setting, files), last: State::default() };
        ours.last = ours.checkpoint();
        ours
    }

    fn store(&self) -> PathBuf {
        self.place.dir.path().join("store")
    }

    /// Opened anew each time, as a command line does it.
    fn open(&self) -> (Arc<ObjectStore>, Files) {
        fs::create_dir_all(self.store()).expect("a directory");
        let new_uid: Arc<dyn Fn() -> Uid + Send + Sync> = Arc::new(|| Uid::from_bytes(now().as_nanos().to_be_bytes()));
        let stamp =
            || Stamp { seconds: i64::try_from(now().as_secs()).unwrap_or_default(), nanos: now().subsec_nanos() };
        let objects = ObjectStore::open(Arc::new(OsDisk), &self.store().join("objects"), new_uid.clone());
        let objects = Arc::new(objects);
        let workspace = Arc::new(OsWorkspace::open(&self.place.work()).expect("a workspace"));
        let (journals, scan) = (self.store().join("journals"), ScanOptions::default());
        let files = Files::new(Arc::new(OsDisk), &journals, objects.clone(), workspace, scan, new_uid, Arc::new(stamp));
        (objects, files)
    }

    fn checkpoint(&self) -> State {
        let (objects, files) = self.open();
        let batch = objects.begin().expect("begun");
        let tree = files.capture(&batch).expect("captured").tree;
        batch.sync().expect("synced");
        State { tree: Some(tree), ..State::default() }
    }

    fn first(&mut self) -> Sample {
        fs::remove_dir_all(self.store()).expect("removed");
        settle();
        let mut last = State::default();
        let sample = Sample::time(|| last = self.checkpoint());
        self.last = last;
        sample
    }

    fn ten(&mut self) -> Sample {
        self.place.change();
        let mut next = State::default();
        let sample = Sample::time(|| next = self.checkpoint());
        assert!(next != self.last, "ten files have changed");
        self.last = next;
        sample
    }

    fn rewind(&mut self) -> Sample {
        let (before, target) = (self.place.look(), self.last.clone());
        self.place.change();
        let seen = self.checkpoint();
        let sample = Sample::time(|| {
            let (_, files) = self.open();
            let plan = files.plan(&target, &seen, &PlanOptions::default()).expect("planned");
            assert!(plan.can_rewind && plan.files_changed.len() == 10);
            files.apply(&plan, b"", |_| Ok(())).expect("applied");
        });
        assert_eq!(self.place.look(), before);
        std::thread::sleep(Duration::from_millis(120));
        assert!(self.checkpoint() == target);
        sample
    }
}

struct Git {
    place: Place,
    last: String,
}

impl Git {
    fn new(setting: &Setting, files: u64) -> Self {
        let mut git = Self { place: Place::new(setting, files), last: String::new() };
        git.git(&["init", "-q"]);
        git.last = git.checkpoint();
        git
    }

    fn git(&self, args: &[&str]) -> String {
        let (repository, work) = (self.place.dir.path().join("git"), self.place.work());
        let mut git = Command::new("git");
        let git = git.arg("--git-dir").arg(repository).arg("--work-tree").arg(&work).current_dir(&work).args(args);
        let out = git.output().expect("it runs");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).expect("text").trim().to_owned()
    }

    fn checkpoint(&self) -> String {
        self.git(&["add", "-A"]);
        self.git(&["write-tree"])
    }

    fn first(&mut self) -> Sample {
        fs::remove_dir_all(self.place.dir.path().join("git")).expect("removed");
        self.git(&["init", "-q"]);
        settle();
        let mut last = String::new();
        let sample = Sample::time(|| last = self.checkpoint());
        self.last = last;
        sample
    }

    fn ten(&mut self) -> Sample {
        self.place.change();
        let mut next = String::new();
        let sample = Sample::time(|| next = self.checkpoint());
        assert_ne!(next, self.last, "ten files have changed");
        self.last = next;
        sample
    }

    fn rewind(&mut self) -> Sample {
        let (before, target) = (self.place.look(), self.last.clone());
        self.place.change();
        let seen = self.checkpoint();
        let sample = Sample::time(|| self.git(&["read-tree", "-m", "-u", &seen, &target]));
        assert_eq!(self.place.look(), before);
        std::thread::sleep(Duration::from_millis(120));
        assert_eq!(self.checkpoint(), target);
        sample
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is later than 1970")
}

/// Lets the disk finish what was written before.
fn settle() {
    // Without it the first figure only waits longer.
    let _ = Command::new("sync").status();
}
