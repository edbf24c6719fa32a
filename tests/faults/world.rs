//! A store and a workspace on one simulated disk, a user, and a session that has something to go back to.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use forklog::checkpoint::PlanOptions;
use forklog::disk::Disk;
use forklog::workspace::{Meta, MetaKind, RelPath, ScanOptions, Workspace};
use forklog::{
    At, Durability, Env, Error, FilesTarget, NewSession, NoDigest, Seq, Session, SessionFiles, SessionKey, Store,
    Timestamp,
};
use forklog_sim::{Cut, Point, Points, Process, SimDisk, SimWorkspace, Snapshot, derive};

pub(crate) const STORE: &str = "/store";
pub(crate) const WORK: &str = "/work";

/// A clock that ticks once a look, and numbers that never come twice.
#[derive(Debug)]
pub(crate) struct Ticks;

static TICK: AtomicU64 = AtomicU64::new(1);

impl Env for Ticks {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_795_000_000_000 + i64::try_from(TICK.fetch_add(1, Ordering::Relaxed)).expect("few"))
    }

    fn random(&self) -> [u8; 16] {
        let n = TICK.fetch_add(1, Ordering::Relaxed);
        (u128::from(derive(7, n)) << 64 | u128::from(n)).to_be_bytes()
    }
}

/// Everything in the workspace as text, to compare.
pub(crate) type Image = BTreeMap<String, String>;

pub(crate) fn path(text: &str) -> RelPath {
    RelPath::new(text).expect("fit")
}

/// The user, or a program of theirs. Syncs nothing.
pub(crate) struct User(pub(crate) SimWorkspace);

impl User {
    pub(crate) fn of(disk: &SimDisk) -> Self {
        Self(SimWorkspace::new(&disk.process(), Path::new(WORK)))
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        self.remove(name);
        let place = path(name);
        let mut dirs: Vec<RelPath> =
            std::iter::successors(place.split().map(|(dir, _)| dir), |dir| dir.split().map(|(dir, _)| dir))
                .filter(|dir| !dir.is_root())
                .collect();
        dirs.reverse();
        for dir in dirs {
            if !self.0.meta(&dir).is_ok_and(|meta| meta.kind == MetaKind::Directory) {
                self.remove(&dir.to_string());
                self.0.create_dir(&dir, 0o755).expect("made");
            }
        }
        self.0.write_new(&place, content.as_bytes(), 0o644).expect("written");
    }

    pub(crate) fn link(&self, name: &str, target: &str) {
        self.remove(name);
        self.0.create_link(&path(name), target.as_bytes()).expect("made");
    }

    pub(crate) fn chmod(&self, name: &str, mode: u16) {
        self.0.set_mode(&path(name), mode).expect("changed");
    }

    pub(crate) fn remove(&self, name: &str) {
        let place = path(name);
        match self.0.meta(&place) {
            Ok(Meta { kind: MetaKind::Directory, .. }) => {
                for (child, _) in self.0.list(&place).expect("listed") {
                    self.remove(&format!("{name}/{}", String::from_utf8_lossy(&child)));
                }
                self.0.remove_dir(&place).expect("removed");
            }
            Ok(_) => self.0.remove_file(&place).expect("removed"),
            Err(_) => {}
        }
    }

    pub(crate) fn read(&self, name: &str) -> Option<String> {
        let content = self.0.read(&path(name), 1 << 20).ok()?;
        Some(String::from_utf8_lossy(&content.bytes).into_owned())
    }

    pub(crate) fn image(&self) -> Image {
        let mut image = Image::new();
        self.image_of(&RelPath::root(), &mut image);
        image
    }

    pub(crate) fn image_of(&self, dir: &RelPath, image: &mut Image) {
        for (name, meta) in self.0.list(dir).expect("listed") {
            let text = String::from_utf8_lossy(&name).into_owned();
            let place = path(&if dir.is_root() { text } else { format!("{dir}/{text}") });
            let meta = meta.expect("there");
            let is = match meta.kind {
                MetaKind::Directory => format!("dir {:o}", meta.mode),
                MetaKind::Symlink => format!("-> {:?}", self.0.read_link(&place)),
                _ => format!("{:o} {:?}", meta.mode, self.read(&place.to_string())),
            };
            image.insert(place.to_string(), is);
            if meta.kind == MetaKind::Directory {
                self.image_of(&place, image);
            }
        }
    }
}

pub(crate) fn key() -> SessionKey {
    SessionKey::new("p", "a").expect("legal")
}

pub(crate) fn open(process: &Process) -> Result<Store, Error> {
    let options = Store::options().disk(Arc::new(process.clone())).env(Arc::new(Ticks)).digest(Arc::new(NoDigest));
    options.durability(Durability::Sync).open(STORE)
}

pub(crate) fn files<'s>(process: &Process, session: &'s Session) -> Result<SessionFiles<'s>, Error> {
    session.files_of(Arc::new(SimWorkspace::new(process, Path::new(WORK))), ScanOptions::default())
}

pub(crate) fn conversation(store: &Store) -> usize {
    usize::try_from(store.read(&key()).expect("readable").len()).expect("few")
}

pub(crate) fn seq(n: u64) -> FilesTarget {
    FilesTarget::At(At::Seq(Seq::new(n)))
}

pub(crate) fn normal() -> PlanOptions {
    PlanOptions::default()
}

pub(crate) fn forced() -> PlanOptions {
    PlanOptions { force: true, ..PlanOptions::default() }
}

/// The states of the files after each of the first three messages: every kind of change is among them.
pub(crate) fn edit(user: &User, turn: u64) {
    let long = |word: &str| format!("{word}\n").repeat(200);
    match turn {
        0 => {
            user.write("main", &long("one"));
            user.write("src/deep/er/x", "deep");
            user.write("run", "script");
            user.chmod("run", 0o755);
            user.write("becomes-dir", "a file");
            user.write("is-dir/inside", "inside");
            user.write("gone", "will go");
            user.write("same", "never changed");
            user.link("link", "main");
            user.0.create_dir(&path("empty"), 0o755).expect("made");
        }
        1 => {
            user.write("main", &long("two"));
            user.write("src/new", "new");
        }
        _ => {
            user.write("main", &long("three"));
            user.write("fresh/dir/file", "fresh");
            user.chmod("run", 0o644);
            user.write("becomes-dir/now", "now");
            user.write("is-dir", "now a file");
            user.remove("gone");
            user.remove("empty");
            user.link("link", "run");
            user.chmod("src/deep", 0o700);
            user.remove("src/new");
        }
    }
}

/// A disk at rest with a session of three messages and a checkpoint after each, and the images of its workspace.
pub(crate) fn three_turns() -> (SimDisk, Vec<Image>) {
    let disk = SimDisk::new(1);
    let process = disk.process();
    process.create_dir(Path::new(WORK)).expect("made");
    let (user, store) = (User::of(&disk), open(&process).expect("a store"));
    let session = store.create(NewSession::named(key())).expect("created");
    let found = files(&process, &session).expect("opened");
    let mut images = Vec::new();
    for turn in 0..3 {
        edit(&user, turn);
        session.append(&turn).expect("appended");
        found.checkpoint(Some(&turn.to_string())).expect("taken");
        images.push(user.image());
    }
    drop(found);
    session.close().expect("closed");
    (disk.after(Cut::Everything), images)
}

/// Opens everything in a new process and does `step`.
pub(crate) fn run(disk: &SimDisk, step: &dyn Fn(&Store, &SessionFiles<'_>) -> Result<(), Error>) -> Result<(), Error> {
    let process = disk.process();
    let done = open(&process).and_then(|store| {
        let session = store.session(&key())?;
        let files = files(&process, &session)?;
        step(&store, &files)
    });
    process.kill();
    done
}

/// The disk before every call of `step` that changes something, and after it.
pub(crate) fn moments(disk: &SimDisk, step: &dyn Fn(&Store, &SessionFiles<'_>) -> Result<(), Error>) -> Vec<Snapshot> {
    let taken = Arc::new(Mutex::new(Vec::new()));
    let hook = Arc::clone(&taken);
    disk.on_point(Points::Changes, move |_: &Point, found: &Snapshot| hook.lock().expect("sound").push(found.clone()));
    run(disk, step).unwrap_or_else(|error| panic!("{}", disk.report(error)));
    disk.clear_hook();
    let mut taken = std::mem::take(&mut *taken.lock().expect("sound"));
    taken.push(disk.snapshot());
    taken
}

pub(crate) const EDIT: &str = "the user's, after the power came back";
