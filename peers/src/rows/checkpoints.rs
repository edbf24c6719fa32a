//! Checkpoints of a workspace beside a shadow git repository, which is how agent tools keep them, and beside restic.

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use forklog::Uid;
use forklog::checkpoint::{Files, PlanOptions, State};
use forklog::objects::ObjectStore;
use forklog::workspace::{OsWorkspace, ScanOptions, Stamp};

use super::Setting;
use crate::counting::Counting;
use crate::measure::{Case, Outcome, Row, Sample, Unit};
use crate::workload::Random;

pub(super) fn rows(setting: &Setting, done: &mut impl FnMut(Outcome)) {
    let ids = [
        "checkpoint-first",
        "checkpoint-10",
        "checkpoint-rewind",
        "checkpoint-rewind-5000",
        "checkpoint-syncs",
        "checkpoint-room",
    ];
    if !ids.iter().any(|id| setting.wants(id)) {
        return;
    }
    let missing = |program| Command::new(program).arg("version").output().is_err().then_some("not installed");
    let (no_git, no_restic) = (missing("git"), missing("restic"));
    let files = setting.size(300, 10_000, 10_000);
    let ours = RefCell::new(Ours::new(setting, files));
    let git = no_git.is_none().then(|| RefCell::new(Git::new(setting, files)));
    let restic = no_restic.is_none().then(|| RefCell::new(Restic::new(setting, files)));
    // A function for each side and work.
    type Work<'a> =
        (&'a dyn Fn(&mut Ours) -> Sample, &'a dyn Fn(&mut Git) -> Sample, &'a dyn Fn(&mut Restic) -> Sample);
    let mut row = |id, what: &str, rounds, goal, modes: [&'static str; 3], (a, b, c): Work<'_>| {
        if !setting.wants(id) {
            return;
        }
        let mut cases = vec![Case::new("forklog", modes[0], |_| a(&mut ours.borrow_mut()))];
        if let Some(git) = &git {
            cases.push(Case::new("git", modes[1], |_| b(&mut git.borrow_mut())));
        }
        if let Some(restic) = &restic {
            cases.push(Case::new("restic", modes[2], |_| c(&mut restic.borrow_mut())));
        }
        let what = format!("{what}, {files} files");
        let row = Row { id, what, unit: Unit::Seconds, goal, cases };
        done(setting.run_rounds(row, rounds).missing("git", no_git).missing("restic", no_restic));
    };
    let taking = ["synced", "add -A, write-tree; not synced", "backup, encrypted, synced"];
    let going = ["journalled and synced", "read-tree -m -u; not synced", "restore what changed; not synced"];
    let few = setting.rounds.min(3);
    let (half, half_of, seven) = (files / 2, "0.5 × of git", "0.7 × of git");
    row("checkpoint-first", "first checkpoint", few, half_of, taking, (&first, &first, &first));
    row("checkpoint-10", "checkpoint of 10 changes", setting.rounds, seven, taking, (&ten, &ten, &ten));
    let ten: Work<'_> = (&|ours| rewind(ours, 10), &|git| rewind(git, 10), &|restic| rewind(restic, 10));
    row("checkpoint-rewind", "rewind of 10 changes", setting.rounds, seven, going, ten);
    let many: Work<'_> = (&|ours| rewind(ours, half), &|git| rewind(git, half), &|restic| rewind(restic, half));
    let what = format!("rewind of {half} changes");
    row("checkpoint-rewind-5000", &what, few, "no slower than git", going, many);
    if setting.wants("checkpoint-syncs") {
        done(syncs(setting, files));
    }
    if setting.wants("checkpoint-room") {
        done(room(setting, files));
    }
}

/// Files, directories and file systems that are synced.
fn syncs(setting: &Setting, files: u64) -> Outcome {
    let ours = RefCell::new(Ours::new(setting, files));
    let case = |mode, work: fn(&mut Ours) -> Sample| {
        let ours = &ours;
        Case::new("forklog", mode, move |_| {
            work(&mut ours.borrow_mut());
            Sample::of(ours.borrow().timed_syncs.get() as f64)
        })
    };
    let cases = vec![
        case("first checkpoint", first),
        case("10 changes", ten),
        case("rewind of 10", |ours| rewind(ours, 10)),
        case("rewind of half", |ours| rewind(ours, ours.place.files / 2)),
    ];
    let (what, goal) = (format!("syncs, {files} files"), "the same for any number of files");
    setting.run_rounds(Row { id: "checkpoint-syncs", what, unit: Unit::Count, goal, cases }, 1)
}

/// What 100 checkpoints with 10 changes each take, beside what was new in them, each content compressed alone.
fn room(setting: &Setting, files: u64) -> Outcome {
    let distinct = Cell::new(0);
    let store = Case::new("forklog", "the store has grown by", |_| {
        let mut ours = Ours::new(setting, files);
        let before = bytes_in(&ours.store());
        distinct.set(0);
        for _ in 0..100 {
            ours.place.write_changes(10);
            let contents = (0..10).map(|n| fs::read(ours.place.changed(n, 10)).expect("a file"));
            let len: usize = contents.map(|bytes| zstd::bulk::compress(&bytes, 1).expect("compressed").len()).sum();
            distinct.set(distinct.get() + len as u64);
            ours.checkpoint();
        }
        Sample::of((bytes_in(&ours.store()) - before) as f64)
    });
    let contents = Case::new("distinct contents", "zstd, level 1", |_| Sample::of(distinct.get() as f64));
    let (what, goal) = (format!("100 checkpoints with 10 changes, {files} files"), "1.3 × of the contents");
    let row = Row { id: "checkpoint-room", what, unit: Unit::Bytes, goal, cases: vec![store, contents] };
    setting.run_rounds(row, 1)
}

fn bytes_in(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).expect("listed").map(|entry| entry.expect("read"));
    let len = |entry: fs::DirEntry| match entry.metadata().expect("there") {
        found if found.is_dir() => bytes_in(&entry.path()),
        found => found.len(),
    };
    entries.map(len).sum()
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

    /// The `n`th of `count` files that change, which are spread evenly.
    fn changed(&self, n: u64, count: u64) -> PathBuf {
        self.file(n * (self.files / count))
    }

    fn write_changes(&mut self, count: u64) {
        self.changes += 1;
        for n in 0..count {
            fs::write(self.changed(n, count), source(n + self.changes * 1_000_000)).expect("written");
        }
    }

    /// Writes so many files anew, and waits until their times tell.
    fn change(&mut self, count: u64) {
        self.write_changes(count);
        std::thread::sleep(Duration::from_millis(120));
    }

    /// One of the files that change.
    fn look(&self) -> String {
        fs::read_to_string(self.file(0)).expect("a file")
    }
}

/// What keeps checkpoints of a place.
trait Keeper {
    type State: Clone + PartialEq;

    fn place(&mut self) -> &mut Place;

    /// The checkpoint taken last.
    fn last(&mut self) -> &mut Self::State;

    /// Forgets all checkpoints.
    fn clear(&self);

    fn checkpoint(&self) -> Self::State;

    /// Brings `count` files from what was `seen` to the target.
    fn go(&self, seen: &Self::State, target: &Self::State, count: u64);

    /// Whether all files are as they were at `target`.
    fn is_at(&self, target: &Self::State) -> bool {
        self.checkpoint() == *target
    }

    fn timed(&self, work: impl FnOnce()) -> Sample {
        Sample::time(work)
    }
}

fn first<K: Keeper>(keeper: &mut K) -> Sample {
    keeper.clear();
    settle();
    let mut next = None;
    let sample = keeper.timed(|| next = Some(keeper.checkpoint()));
    *keeper.last() = next.expect("taken");
    sample
}

fn ten<K: Keeper>(keeper: &mut K) -> Sample {
    keeper.place().change(10);
    let mut next = None;
    let sample = keeper.timed(|| next = Some(keeper.checkpoint()));
    let next = next.expect("taken");
    assert!(next != *keeper.last(), "ten files have changed");
    *keeper.last() = next;
    sample
}

fn rewind<K: Keeper>(keeper: &mut K, count: u64) -> Sample {
    let (before, target) = (keeper.place().look(), keeper.last().clone());
    keeper.place().change(count);
    let seen = keeper.checkpoint();
    if 10 < count {
        settle();
    }
    let sample = keeper.timed(|| keeper.go(&seen, &target, count));
    assert_eq!(keeper.place().look(), before);
    std::thread::sleep(Duration::from_millis(120));
    assert!(keeper.is_at(&target));
    sample
}

struct Ours {
    place: Place,
    last: State,
    /// Syncs since timing began, and until it ended.
    syncs: Arc<AtomicU64>,
    timed_syncs: Cell<u64>,
}

impl Ours {
    fn new(setting: &Setting, files: u64) -> Self {
        let (place, syncs) = (Place::new(setting, files), Arc::default());
        let mut ours = Self { place, last: State::default(), syncs, timed_syncs: Cell::new(0) };
        ours.last = ours.checkpoint();
        ours
    }

    fn store(&self) -> PathBuf {
        self.place.dir.path().join("store")
    }

    /// Opened anew each time, as a command line does it.
    fn open(&self) -> (Arc<ObjectStore>, Files, Arc<OsWorkspace>) {
        fs::create_dir_all(self.store()).expect("a directory");
        let new_uid: Arc<dyn Fn() -> Uid + Send + Sync> = Arc::new(|| Uid::from_bytes(now().as_nanos().to_be_bytes()));
        let stamp =
            || Stamp { seconds: i64::try_from(now().as_secs()).unwrap_or_default(), nanos: now().subsec_nanos() };
        let disk = Arc::new(Counting::disk(self.syncs.clone()));
        let objects = Arc::new(ObjectStore::open(disk.clone(), &self.store().join("objects"), new_uid.clone()));
        let workspace = Arc::new(OsWorkspace::open(&self.place.work()).expect("a workspace"));
        let (journals, scan) = (self.store().join("journals"), ScanOptions::default());
        let files = Files::new(disk, &journals, objects.clone(), workspace.clone(), scan, new_uid, Arc::new(stamp));
        (objects, files, workspace)
    }
}

impl Keeper for Ours {
    type State = State;

    fn place(&mut self) -> &mut Place {
        &mut self.place
    }

    fn last(&mut self) -> &mut State {
        &mut self.last
    }

    fn clear(&self) {
        fs::remove_dir_all(self.store()).expect("removed");
    }

    fn checkpoint(&self) -> State {
        let (objects, files, _) = self.open();
        let batch = objects.begin().expect("begun");
        let captured = files.capture(&batch).expect("captured");
        batch.sync().expect("synced");
        captured.state()
    }

    fn go(&self, seen: &State, target: &State, count: u64) {
        let (_, files, workspace) = self.open();
        let plan = files.plan(target, seen, &PlanOptions::default()).expect("planned");
        assert!(plan.can_rewind && plan.files_changed.len() as u64 == count);
        files.apply(&plan, b"", |_| Ok(())).expect("applied");
        self.syncs.fetch_add(workspace.sync_count(), Ordering::Relaxed);
    }

    fn timed(&self, work: impl FnOnce()) -> Sample {
        self.syncs.store(0, Ordering::Relaxed);
        let sample = Sample::time(work);
        self.timed_syncs.set(self.syncs.load(Ordering::Relaxed));
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
}

impl Keeper for Git {
    type State = String;

    fn place(&mut self) -> &mut Place {
        &mut self.place
    }

    fn last(&mut self) -> &mut String {
        &mut self.last
    }

    fn clear(&self) {
        fs::remove_dir_all(self.place.dir.path().join("git")).expect("removed");
        self.git(&["init", "-q"]);
    }

    fn checkpoint(&self) -> String {
        self.git(&["add", "-A"]);
        self.git(&["write-tree"])
    }

    fn go(&self, seen: &String, target: &String, _: u64) {
        self.git(&["read-tree", "-m", "-u", seen, target]);
    }
}

/// A repository without a cache beside it, since it is on the same disk. Each command derives the key from the password, which takes
/// restic a quarter of a second or more.
struct Restic {
    place: Place,
    /// A snapshot's id.
    last: String,
}

impl Restic {
    fn new(setting: &Setting, files: u64) -> Self {
        let mut restic = Self { place: Place::new(setting, files), last: String::new() };
        restic.init();
        restic.last = restic.checkpoint();
        restic
    }

    fn init(&self) {
        self.restic(&["init", "--repository-version", "2"]);
    }

    fn restic(&self, args: &[&str]) -> String {
        let (repository, work) = (self.place.dir.path().join("restic"), self.place.work());
        let mut restic = Command::new("restic");
        let restic = restic.env("RESTIC_PASSWORD", "forklog").env("RESTIC_REPOSITORY", repository).current_dir(work);
        let out = restic.args(["--no-cache", "--quiet"]).args(args).output().expect("it runs");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).expect("text")
    }
}

impl Keeper for Restic {
    type State = String;

    fn place(&mut self) -> &mut Place {
        &mut self.place
    }

    fn last(&mut self) -> &mut String {
        &mut self.last
    }

    fn clear(&self) {
        fs::remove_dir_all(self.place.dir.path().join("restic")).expect("removed");
        self.init();
    }

    fn checkpoint(&self) -> String {
        let said = self.restic(&["backup", "--json", "."]);
        let summary: serde_json::Value =
            said.lines().last().and_then(|line| serde_json::from_str(line).ok()).expect("JSON");
        summary["snapshot_id"].as_str().expect("an id").to_owned()
    }

    /// Few files are named, since otherwise all are written anew.
    fn go(&self, _: &String, target: &String, count: u64) {
        let names = (0..count).filter(|_| count <= 10).map(|n| {
            let path = self.place.changed(n, count);
            let name = path.strip_prefix(self.place.work()).expect("below").to_str().expect("text");
            format!("--include=/{name}")
        });
        let names: Vec<_> = names.collect();
        let args = ["restore", target, "--target", "."].into_iter().chain(names.iter().map(String::as_str));
        self.restic(&args.collect::<Vec<_>>());
    }

    /// Snapshots have ids of their own, and differ in times.
    fn is_at(&self, target: &String) -> bool {
        let said = self.restic(&["diff", target, &self.checkpoint()]);
        let files = said.lines().find_map(|line| line.trim().strip_prefix("Files:")).expect("a line about files");
        files.split(',').all(|part| part.trim().starts_with("0 "))
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
