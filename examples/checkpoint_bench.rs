//! Times checkpoints and rewinds of a workspace of 10,000 files against git with a repository of its own.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a measurement stops at the first surprise")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use forklog::Uid;
use forklog::checkpoint::{Files, PlanOptions, State};
use forklog::disk::OsDisk;
use forklog::objects::ObjectStore;
use forklog::workspace::{OsWorkspace, ScanOptions, Stamp};

const FILES: u64 = 10_000;

/// Lines that compress about as sources do.
fn source(seed: u64) -> String {
    const WORDS: [&str; 24] = [
        "let", "fn", "return", "if", "else", "match", "self", "value", "result", "error", "index", "buffer", "offset",
        "length", "for", "in", "while", "struct", "impl", "pub", "use", "crate", "None", "Some",
    ];
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let len = 2_000 + usize::try_from(next() % 16_500).unwrap();
    let mut text = String::with_capacity(len + 80);
    while text.len() < len {
        text.push_str("    ");
        for _ in 0..3 + next() % 6 {
            let word = WORDS[usize::try_from(next() % 24).unwrap()];
            text.push_str(word);
            if next() % 3 == 0 {
                text.push_str(&format!("_{:x}", next() % 4096));
            }
            text.push_str([" ", ".", "(", ", ", " = "][usize::try_from(next() % 5).unwrap()]);
        }
        text.push_str(";\n");
    }
    text
}

fn file(work: &Path, n: u64) -> std::path::PathBuf {
    work.join(format!("crate{}/src/module{}/file{n}.rs", n / 500, n / 20 % 25))
}

fn change(work: &Path, count: u64, salt: u64) {
    for n in (0..FILES).step_by(usize::try_from(FILES / count).unwrap()).take(usize::try_from(count).unwrap()) {
        fs::write(file(work, n), source(n + salt)).unwrap();
    }
}

fn timed<T>(what: &str, f: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let done = f();
    let took = start.elapsed();
    println!("{what:48} {:8.1} ms", took.as_secs_f64() * 1e3);
    (took, done)
}

fn git(root: &Path, args: &[&str]) -> String {
    let (repository, work) = (root.join("git"), root.join("work"));
    let mut git = Command::new("git");
    let out = git.arg("--git-dir").arg(repository).arg("--work-tree").arg(&work).current_dir(&work);
    let out = out.args(args).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

fn git_checkpoint(root: &Path) -> String {
    git(root, &["add", "-A"]);
    git(root, &["write-tree"])
}

fn ratio(what: &str, ours: Duration, theirs: Duration) {
    println!("== {what}: {:.2}", ours.as_secs_f64() / theirs.as_secs_f64());
}

fn main() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let work = root.join("work");
    let mut bytes = 0;
    for n in 0..FILES {
        let path = file(&work, n);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = source(n);
        bytes += text.len();
        fs::write(path, text).unwrap();
    }
    println!("{FILES} files, {:.1} MB", bytes as f64 / 1e6);
    Command::new("sync").status().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    fs::create_dir(root.join("store")).unwrap();
    let new_uid: Arc<dyn Fn() -> Uid + Send + Sync> = Arc::new(|| {
        let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
        Uid::from_bytes(nanos.to_be_bytes())
    });
    let now = Arc::new(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Stamp { seconds: i64::try_from(now.as_secs()).unwrap(), nanos: now.subsec_nanos() }
    });
    // A fresh store and workspace each time, as a command line has.
    let open = || {
        let objects = Arc::new(ObjectStore::open(Arc::new(OsDisk), &root.join("store/objects"), new_uid.clone()));
        let workspace = Arc::new(OsWorkspace::open(&work).unwrap());
        let journals = root.join("store/journals");
        let options = ScanOptions::default();
        let files =
            Files::new(Arc::new(OsDisk), &journals, objects.clone(), workspace, options, new_uid.clone(), now.clone());
        (objects, files)
    };
    let checkpoint = || {
        let (objects, files) = open();
        let batch = objects.begin().unwrap();
        let tree = files.capture(&batch).unwrap().tree;
        batch.sync().unwrap();
        println!("   {} syncs", objects.sync_count());
        State { tree: Some(tree), ..State::default() }
    };
    let rewind = |target: &State, seen: &State| {
        let (_, files) = open();
        let plan = files.plan(target, seen, &PlanOptions::default()).unwrap();
        assert!(plan.can_rewind && !plan.files_changed.is_empty());
        files.apply(&plan, b"", |_| Ok(())).unwrap();
    };

    git(root, &["init", "-q"]);
    let (theirs, git_one) = timed("git: first", || git_checkpoint(root));
    Command::new("sync").status().unwrap();
    let (ours, one) = timed("forklog: first", checkpoint);
    ratio("first checkpoint (0.5)", ours, theirs);

    for round in 1..4 {
        change(&work, 10, round * 1_000_000);
        std::thread::sleep(Duration::from_millis(120));
        let (theirs, git_two) = timed("git: 10 changed", || git_checkpoint(root));
        let (ours, two) = timed("forklog: 10 changed", checkpoint);
        ratio("10 changed (0.7)", ours, theirs);
        let (ours, ()) = timed("forklog: rewind of 10", || rewind(&one, &two));
        git(root, &["update-index", "-q", "--refresh"]);
        change(&work, 10, round * 1_000_000);
        git_checkpoint(root);
        let (theirs, _) =
            timed("git: read-tree -u of 10", || git(root, &["read-tree", "-m", "-u", &git_two, &git_one]));
        ratio("rewind of 10 (0.7)", ours, theirs);
        assert_eq!(checkpoint(), one, "both went back to the same files");
    }
    change(&work, 5000, 77_000_000);
    std::thread::sleep(Duration::from_millis(120));
    let git_three = git_checkpoint(root);
    let three = checkpoint();
    Command::new("sync").status().unwrap();
    let (ours, ()) = timed("forklog: rewind of 5,000", || rewind(&one, &three));
    change(&work, 5000, 77_000_000);
    git_checkpoint(root);
    Command::new("sync").status().unwrap();
    let (theirs, _) =
        timed("git: read-tree -u of 5,000", || git(root, &["read-tree", "-m", "-u", &git_three, &git_one]));
    ratio("rewind of 5,000 (1.0)", ours, theirs);
    assert_eq!(checkpoint(), one, "both went back to the same files");
}
