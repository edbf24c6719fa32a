//! The goals of this crate's speed, each a ratio of two medians from one run.
//!
//! `cargo bench --bench goals [-- --dir DIR] [--mib N] [--sessions N] [--rounds N] [--only appends|durable|large|lists]`. Every answer is checked before it is timed. DIR should be on the
//! disk that is to be judged; lists are measured in memory-backed storage where there is some, since only making the
//! sessions waits for a disk.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a bench that cannot do its work has nothing to say")]

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use forklog::{At, Durability, Filter, NewRecord, NewSession, NoDigest, OpenOptions, Seq, Session, SessionKey, Store};
use serde::Serialize;
use serde_json::value::RawValue;

/// Bytes of a line besides its payload and an id.
const FRAME: usize = 33 + 7 + 24 + 19;

struct Options {
    dir: PathBuf,
    mib: u64,
    sessions: u64,
    rounds: usize,
    only: Option<String>,
}

fn options() -> Options {
    let mut options = Options { dir: PathBuf::from("."), mib: 1024, sessions: 100_000, rounds: 7, only: None };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().expect("a value follows");
        match arg.as_str() {
            "--dir" => options.dir = value().into(),
            "--mib" => options.mib = value().parse().expect("a number"),
            "--sessions" => options.sessions = value().parse().expect("a number"),
            "--rounds" => options.rounds = value().parse().expect("a number"),
            "--only" => options.only = Some(value()),
            _ => {}
        }
    }
    options
}

fn main() {
    let options = options();
    let temp = tempfile::tempdir_in(&options.dir).expect("a directory to measure in");
    println!(
        "{} cores; {} MiB transcripts; {} rounds; medians; {}",
        std::thread::available_parallelism().map_or(0, usize::from),
        options.mib,
        options.rounds,
        std::env::consts::OS
    );
    println!("{:<58} {:>12} {:>12} {:>7}  goal", "work", "ours", "against", "ratio");
    let wanted = |part: &str| options.only.as_ref().is_none_or(|only| only == part);
    if wanted("appends") {
        appends(temp.path(), options.rounds);
    }
    if wanted("durable") {
        durable(temp.path(), options.rounds);
    }
    if wanted("large") {
        large(temp.path(), &options);
    }
    if wanted("lists") {
        lists(&options);
    }
}

fn row(work: &str, ours: Duration, against: Duration, goal: &str) {
    let ratio = against.as_secs_f64() / ours.as_secs_f64();
    println!("{work:<58} {ours:>12.2?} {against:>12.2?} {ratio:>7.2}  {goal}");
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Runs both sides in turn, `rounds` times, and returns the median of each. Who goes first changes, since the page cache treats
/// the second one differently.
fn pair(
    rounds: usize,
    mut ours: impl FnMut(usize) -> Duration,
    mut against: impl FnMut(usize) -> Duration,
) -> (Duration, Duration) {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        if round % 2 == 0 {
            a.push(ours(round));
            b.push(against(round));
        } else {
            b.push(against(round));
            a.push(ours(round));
        }
    }
    (median(a), median(b))
}

#[derive(Serialize)]
struct Message<'a> {
    r#type: &'a str,
    text: &'a str,
}

fn text() -> String {
    "All work and no play makes a dull log. ".repeat(30)[..1024 - 25].to_owned()
}

fn store(dir: &Path) -> Store {
    Store::options().digest(Arc::new(NoDigest)).open(dir).expect("a store")
}

fn session(dir: &Path, name: String, durability: Durability) -> (Store, Session) {
    let store = store(&dir.join(name));
    let options = OpenOptions { durability: Some(durability), ..OpenOptions::default() };
    let session = store.create(NewSession::default().options(options)).expect("created");
    (store, session)
}

/// Has memory at hand for `bytes` that are about to be written: a virtual machine fetches from its host what it has not used lately, page
/// by page, and that takes as long as the writing. Who comes first would pay for all.
fn fetch_memory(dir: &Path, bytes: usize) {
    let path = dir.join("scratch");
    let mut scratch = File::create(&path).unwrap();
    let some = vec![1; 1 << 20];
    (0..bytes.div_ceil(some.len())).for_each(|_| scratch.write_all(&some).unwrap());
    std::fs::remove_file(path).unwrap();
}

/// Appends to a session in ways that must keep up with a loop that only writes.
fn appends(dir: &Path, rounds: usize) {
    const N: usize = 50_000;
    let text = text();
    let message = Message { r#type: "note", text: &text };
    let json = serde_json::to_string(&message).unwrap();
    assert_eq!(json.len(), 1024);
    let raw = RawValue::from_string(json.clone()).unwrap();
    let line = vec![b'x'; json.len() + FRAME];
    let bare = |name: &str, round: usize, bytes: &[u8], n: usize| {
        fetch_memory(dir, 2 * n * bytes.len());
        let path = dir.join(format!("bare-{name}-{round}"));
        let mut file = File::create(&path).unwrap();
        let took = timed(|| (0..n).for_each(|_| file.write_all(bytes).unwrap()));
        file.sync_all().unwrap();
        std::fs::remove_file(path).unwrap();
        took
    };
    let ours = |name: &str, round: usize, append: &dyn Fn(&Session)| {
        fetch_memory(dir, 2 * N * line.len());
        let (store, session) = session(dir, format!("{name}-{round}"), Durability::Write);
        let took = timed(|| (0..N).for_each(|_| append(&session)));
        let key = session.key().clone();
        session.close().unwrap();
        assert_eq!(store.read(&key).unwrap().len(), N as u64);
        std::fs::remove_dir_all(store.path()).unwrap();
        took
    };
    type Append<'a> = &'a dyn Fn(&Session);
    let kinds: [(&str, &str, Append<'_>); 3] = [
        ("append 1 KiB, Serialize", "0.7 (0.85)", &|session| {
            session.append(&message).unwrap();
        }),
        ("append 1 KiB, RawValue", "0.7 (0.85)", &|session| {
            session.append_raw(&raw).unwrap();
        }),
        ("append 1 KiB, bytes that are validated", "(0.7)", &|session| {
            session.append_json(json.as_bytes()).unwrap();
        }),
    ];
    for (name, goal, append) in kinds {
        let (a, b) = pair(rounds, |round| ours("a", round, append), |round| bare("a", round, &line, N));
        row(&format!("{name} / write(2)"), per(a, N), per(b, N), goal);
    }
    let batch: Vec<NewRecord<'_>> = (0..100).map(|_| NewRecord::raw(&raw).unwrap()).collect();
    let lines = line.repeat(100);
    let (a, b) = pair(
        rounds,
        |round| {
            fetch_memory(dir, 2 * N * line.len());
            let (store, session) = session(dir, format!("batch-{round}"), Durability::Write);
            let took = timed(|| (0..N / 100).for_each(|_| drop(session.append_batch(&batch).unwrap())));
            let key = session.key().clone();
            session.close().unwrap();
            assert_eq!(store.read(&key).unwrap().len(), N as u64);
            std::fs::remove_dir_all(store.path()).unwrap();
            took
        },
        |round| bare("batch", round, &lines, N / 100),
    );
    row("append 100 × 1 KiB as a batch / one write(2)", per(a, N / 100), per(b, N / 100), "(0.7)");
}

/// What one of `n` took.
fn per(took: Duration, n: usize) -> Duration {
    took / u32::try_from(n).expect("a number of rounds")
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// Appends that are on stable storage when they return.
fn durable(dir: &Path, rounds: usize) {
    /// Enough to use up the spaces that are laid ahead more than once.
    const N: usize = 480;
    let json = serde_json::to_string(&Message { r#type: "note", text: &text() }).unwrap();
    let raw = RawValue::from_string(json.clone()).unwrap();
    let line = vec![b'x'; json.len() + FRAME];
    let bare = |round: usize, threads: usize| {
        let path = dir.join(format!("durable-{round}"));
        let group = Group { file: File::create(&path).unwrap(), state: Mutex::default(), done: Condvar::new() };
        let took = timed(|| {
            if threads == 1 {
                (0..N).for_each(|_| {
                    (&group.file).write_all(&line).unwrap();
                    group.file.sync_data().unwrap();
                });
            } else {
                let append = || (0..N / threads).for_each(|_| group.append(&line));
                std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(append))));
            }
        });
        assert_eq!(std::fs::read(&path).unwrap(), line.repeat(N));
        std::fs::remove_file(path).unwrap();
        took
    };
    let ours = |round: usize, threads: usize, padding: u32| {
        let options = OpenOptions { durability: Some(Durability::Sync), padding, ..OpenOptions::default() };
        let store = store(&dir.join(format!("sync-{threads}-{padding}-{round}")));
        let session = store.create(NewSession::default().options(options)).unwrap();
        session.append_raw(&raw).unwrap();
        let took = timed(|| {
            let append = || {
                (0..N / threads).for_each(|_| {
                    session.append_raw(&raw).unwrap();
                });
            };
            if threads == 1 {
                append();
            } else {
                std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(append))));
            }
        });
        let key = session.key().clone();
        session.close().unwrap();
        assert_eq!(store.read(&key).unwrap().len(), N as u64 + 1);
        std::fs::remove_dir_all(store.path()).unwrap();
        took
    };
    for (threads, padding, others, goal) in [
        (1, 0, 1, "(0.95)"),
        (1, 256 << 10, 1, "(1.3)"),
        (8, 0, 1, "(2.5)"),
        (32, 0, 1, "(4)"),
        (8, 256 << 10, 1, ""),
        (8, 0, 8, "(0.9)"),
        (32, 0, 32, "(0.9)"),
    ] {
        let (a, b) = pair(rounds, |round| ours(round, threads, padding), |round| bare(round, others));
        let padded = if padding > 0 { ", spaces ahead" } else { "" };
        let against = if others == 1 { "write+fdatasync" } else { "bare group commit" };
        row(&format!("durable append, {threads} threads{padded} / {against}"), per(a, N), per(b, N), goal);
    }
}

/// Group commit and nothing else: threads hand over their bytes, and whoever finds no sync running writes and syncs what has come
/// together by then.
struct Group {
    file: File,
    state: Mutex<Pending>,
    done: Condvar,
}

#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    /// Records that were put into `bytes`, and those of them that are synced.
    queued: usize,
    synced: usize,
    running: bool,
}

impl Group {
    fn append(&self, line: &[u8]) {
        let mut state = self.state.lock().unwrap();
        state.bytes.extend_from_slice(line);
        state.queued += 1;
        let mine = state.queued;
        while state.synced < mine {
            if state.running {
                state = self.done.wait(state).unwrap();
                continue;
            }
            state.running = true;
            let (bytes, upto) = (std::mem::take(&mut state.bytes), state.queued);
            drop(state);
            (&self.file).write_all(&bytes).unwrap();
            self.file.sync_data().unwrap();
            state = self.state.lock().unwrap();
            (state.running, state.synced) = (false, upto);
            self.done.notify_all();
        }
    }
}

/// What a transcript's size must not matter for, and reading all of it.
fn large(dir: &Path, options: &Options) {
    let raw =
        RawValue::from_string(serde_json::to_string(&Message { r#type: "note", text: &text() }).unwrap()).unwrap();
    let fill = |mib: u64| -> (Store, SessionKey, u64) {
        let (store, session) = session(dir, format!("large-{mib}"), Durability::Write);
        let n = mib * (1 << 20) / (1024 + FRAME as u64);
        let batch: Vec<NewRecord<'_>> = (0..64).map(|_| NewRecord::raw(&raw).unwrap()).collect();
        for _ in 0..n / 64 {
            session.append_batch(&batch).unwrap();
        }
        let key = session.key().clone();
        session.close().unwrap();
        (store, key, n / 64 * 64)
    };
    let (small, large) = (fill(1), fill(options.mib));
    let rounds = options.rounds;

    let before = private_kib();
    let mut bytes = 0;
    let mut times = Vec::new();
    let mut most = 0;
    for _ in 0..3 {
        let reader = large.0.read(&large.1).unwrap();
        let mut count = 0;
        times.push(timed(|| {
            let mut records = reader.records();
            while let Some(record) = records.next().unwrap() {
                bytes += record.line().len() as u64 + 1;
                count += 1;
            }
        }));
        most = most.max(private_kib().saturating_sub(before));
        assert_eq!(count, large.2);
    }
    let rate = bytes as f64 / 3.0 / median(times).as_secs_f64() / f64::from(1 << 30);
    println!(
        "{:<58} {:>9.2} GiB/s {:>20}  3 GiB/s (4)",
        format!("read and verify {} MiB, one core", options.mib),
        rate,
        ""
    );
    println!("{:<58} {:>9.1} MiB {:>22}  32 MiB (16)", "private memory while reading it", most as f64 / 1024.0, "");

    type Run<'a> = &'a dyn Fn(&(Store, SessionKey, u64), usize);
    let compare = |work: &str, goal: &str, run: Run<'_>| {
        run(&small, usize::MAX);
        run(&large, usize::MAX - 1);
        let (a, b) =
            pair(rounds * 3, |round| timed(|| run(&large, round)), |round| timed(|| run(&small, round + 1_000_000)));
        row(work, a, b, goal);
    };
    let size = options.mib;
    compare(&format!("the last 100 records, {size} MiB / 1 MiB"), "0.5 (0.67)", &|(store, key, n), _| {
        let last: Vec<_> = store.read(key).unwrap().last(100).unwrap().map(|record| record.unwrap().seq).collect();
        assert_eq!((last.len(), last[99]), (100, Seq::new(n - 1)));
    });
    compare(&format!("open for append after a clean close, {size} MiB / 1 MiB"), "(0.67)", &|(store, key, n), _| {
        assert_eq!(store.session(key).unwrap().head().unwrap().records, *n);
    });
    compare(&format!("fork in the middle, {size} MiB / 1 MiB"), "0.5 (0.83)", &|(store, key, n), _| {
        let fork = store.fork(key, &At::Seq(Seq::new(n / 2)), NewSession::default()).unwrap();
        assert_eq!(fork.head().unwrap().records, n / 2 + 1);
    });
    let fork = large.0.fork(&large.1, &At::Head, NewSession::default()).unwrap();
    let key = fork.key().clone();
    fork.close().unwrap();
    let size = large.0.entry(&key).unwrap().size_bytes;
    println!("{:<58} {:>9} bytes {:>20}  1,024", "a fork writes", size, "");
}

/// KiB of memory that belongs to this process alone.
fn private_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or("0");
    line.trim().trim_end_matches(" kB").trim().parse().unwrap_or(0)
}

/// The newest page of many sessions, the store just opened.
fn lists(options: &Options) {
    let shared = Path::new("/dev/shm");
    let place = if shared.is_dir() { shared } else { &options.dir };
    let temp = tempfile::tempdir_in(place).expect("a directory to measure in");
    let make = |n: u64| {
        let dir = temp.path().join(n.to_string());
        let store = store(&dir);
        for n in 0..n {
            let key = SessionKey::new(&format!("project-{}", n % 100), &format!("s{n}")).unwrap();
            let session = store.create(NewSession::named(key).title(format!("Session {n}"))).unwrap();
            session.append(&n).unwrap();
            session.close().unwrap();
        }
        dir
    };
    let newest = |dir: &Path, of: u64| {
        timed(|| {
            let page = store(dir).list(&Filter::default(), None, 50).unwrap();
            assert_eq!(page.entries.len(), 50);
            // Made within the same millisecond, the last few may come in any order.
            let newest: u64 = page.entries[0].key.session.as_str()[1..].parse().unwrap();
            assert!(of - 20 < newest);
        })
    };
    let (small, large) = (make(1000), make(options.sessions));
    let (a, b) = pair(21, |_| newest(&large, options.sessions), |_| newest(&small, 1000));
    row(&format!("newest 50 of {} / of 1,000 sessions, just opened", options.sessions), a, b, "0.33, 2 ms (1 ms)");
    let before = private_kib();
    let listed = store(&large);
    let _ = listed.list(&Filter::default(), None, 50).unwrap();
    let grown = private_kib().saturating_sub(before);
    println!("{:<58} {:>9.1} MiB {:>22}  (32 MiB)", "private memory of that list", grown as f64 / 1024.0, "");
}
