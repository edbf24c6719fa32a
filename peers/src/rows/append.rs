//! Appending: one by one, in batches, and until it is on stable storage.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use forklog::{NewSession, Store};

use super::Setting;
use crate::counting::Counting;
use crate::measure::{Case, Clock, Outcome, Row, Sample, Unit};
use crate::peers::{
    Bare, Fjall, Forklog, Form, Grouped, How, Jsonl, Lmdb, Mode, OkayWal, Payload, Peer, Redb, Sqlite, options,
    payloads, prove,
};
use crate::workload;

/// All who can append.
fn everybody() -> Vec<Box<dyn Peer>> {
    let mut peers: Vec<Box<dyn Peer>> = vec![
        Box::new(Forklog(How::Raw)),
        Box::new(Forklog(How::Serialize)),
        Box::new(Forklog(How::Bytes)),
        Box::new(Forklog(How::Ahead)),
        Box::new(Forklog(How::Digest)),
        Box::new(Bare(Form::Text)),
        Box::new(Jsonl),
        Box::new(Sqlite),
        Box::new(Redb),
        Box::new(Fjall),
        Box::new(Lmdb),
        Box::new(OkayWal),
    ];
    #[cfg(feature = "rocksdb")]
    peers.push(Box::new(crate::peers::Rocks));
    peers.retain(|peer| peer.promise(Mode::Write).is_some() || peer.promise(Mode::Sync).is_some());
    peers
}

/// And what serde_json and the write alone take.
fn with_limits() -> Vec<Box<dyn Peer>> {
    let mut peers = everybody();
    let last = peers.iter().position(|peer| peer.name().starts_with("bare")).map_or(peers.len(), |at| at + 1);
    peers.splice(last..last, [Form::Value, Form::Bytes].map(|form| Box::new(Bare(form)) as Box<dyn Peer>));
    peers
}

pub(super) fn rows(setting: &Setting, done: &mut impl FnMut(Outcome)) {
    let same = payloads(workload::fixed(1000, 1024));
    let peers = everybody();
    if setting.wants("append-1k") {
        done(write(setting, "append-1k", "append 1 KiB", &with_limits(), &same, setting.size(300, 20_000, 50_000)));
    }
    if setting.wants("append-real") {
        let real = payloads(workload::real(setting.size(200, 4000, 12_000)));
        done(write(setting, "append-real", "append messages of real sizes", &peers, &real, real.len()));
    }
    if setting.wants("append-batch") {
        done(batch(setting, &peers, &same));
    }
    for (threads, id, goal) in [
        (1, "durable-1", "0.95 of bare; 1.3 × SQLite FULL"),
        (8, "durable-8", "0.9 of bare group commit"),
        (32, "durable-32", "0.9 of bare group commit"),
    ] {
        if setting.wants(id) {
            done(durable(setting, (id, goal), threads, &peers, &same));
        }
    }
    if setting.wants("durable-sessions") {
        done(sessions(setting, &peers, &same));
    }
    if setting.wants("durable-syncs") {
        done(syncs(setting, &same));
    }
}

fn with_mode(peers: &[Box<dyn Peer>], mode: Mode) -> impl Iterator<Item = (&dyn Peer, &'static str)> {
    peers.iter().filter_map(move |peer| peer.promise(mode).map(|promise| (&**peer, promise)))
}

/// One by one, no sync.
fn write(
    setting: &Setting,
    id: &'static str,
    what: &str,
    peers: &[Box<dyn Peer>],
    payloads: &[Payload],
    n: usize,
) -> Outcome {
    let bytes: usize = payloads.iter().cycle().take(n).map(|payload| payload.text.len()).sum();
    let cases = with_mode(peers, Mode::Write).map(|(peer, promise)| {
        prove(peer, &setting.dir, Mode::Write, &payloads[..payloads.len().min(100)]);
        Case::new(peer.name(), promise, move |_| {
            setting.fetch_memory(2 * bytes);
            let dir = setting.temp();
            let log = peer.open(dir.path(), Mode::Write, 1);
            let mut clock = Clock::new();
            for payload in payloads.iter().cycle().take(n) {
                clock.time(|| log.append(0, payload));
            }
            clock.sample()
        })
    });
    let cases = cases.collect();
    let goal = "0.85 of bare; 10 × SQLite; 2 × redb, fjall";
    setting.run(Row { id, what: what.to_owned(), unit: Unit::Seconds, goal, cases })
}

fn batch(setting: &Setting, peers: &[Box<dyn Peer>], payloads: &[Payload]) -> Outcome {
    const SIZE: usize = 100;
    let n = setting.size(3, 200, 500);
    let bytes: usize = payloads.iter().cycle().take(n * SIZE).map(|payload| payload.text.len()).sum();
    let cases = with_mode(peers, Mode::Write).map(|(peer, promise)| {
        prove(peer, &setting.dir, Mode::Write, &payloads[..2 * SIZE]);
        let promise = if peer.name().starts_with("bare") { "writev" } else { promise };
        Case::new(peer.name(), promise, move |_| {
            setting.fetch_memory(2 * bytes);
            let dir = setting.temp();
            let log = peer.open(dir.path(), Mode::Write, 1);
            let mut clock = Clock::new();
            for batch in payloads.chunks_exact(SIZE).cycle().take(n) {
                clock.time(|| log.batch(0, batch));
            }
            clock.sample()
        })
    });
    let (cases, goal) = (cases.collect(), "0.7 of bare writev");
    setting.run(Row {
        id: "append-batch",
        what: "append 100 × 1 KiB at once".to_owned(),
        unit: Unit::Seconds,
        goal,
        cases,
    })
}

/// Until it is on stable storage, threads on one session.
fn durable(
    setting: &Setting,
    (id, goal): (&'static str, &'static str),
    threads: usize,
    peers: &[Box<dyn Peer>],
    payloads: &[Payload],
) -> Outcome {
    // Enough to use up the spaces that are laid ahead more than once.
    let each = setting.size(8, 480, 960).max(threads).div_ceil(threads);
    let mut cases = Vec::new();
    let grouped = Grouped;
    let several: Option<(&dyn Peer, _)> = (threads > 1).then_some((&grouped, "one write, fdatasync a group"));
    for (peer, promise) in with_mode(peers, Mode::Sync).chain(several) {
        prove(peer, &setting.dir, Mode::Sync, &payloads[..8]);
        cases.push(Case::new(peer.name(), promise, move |_| {
            let dir = setting.temp();
            let log = peer.open(dir.path(), Mode::Sync, 1);
            log.append(0, &payloads[0]);
            let work = || {
                let mut clock = Clock::new();
                for payload in payloads.iter().take(each) {
                    clock.time(|| log.append(0, payload));
                }
                clock
            };
            together(threads, |_| work())
        }));
    }
    let what =
        format!("durable append 1 KiB, {threads} {}", if threads == 1 { "thread" } else { "threads, one session" });
    // One after another, syncs differ most.
    let rounds = if threads == 1 { setting.rounds * 3 } else { setting.rounds };
    setting.run_rounds(Row { id, what, unit: Unit::Seconds, goal, cases }, rounds)
}

/// Runs threads at once, and gives the share of the time that one operation took.
fn together(threads: usize, work: impl Fn(usize) -> Clock + Sync) -> Sample {
    let start = Instant::now();
    let clocks = std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..threads).map(|n| scope.spawn(move || work(n))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
    });
    Clock::together(clocks, start.elapsed())
}

/// Many sessions, a thread each.
fn sessions(setting: &Setting, peers: &[Box<dyn Peer>], payloads: &[Payload]) -> Outcome {
    const SESSIONS: usize = 64;
    let each = setting.size(1, 8, 20);
    let cases = with_mode(peers, Mode::Sync).map(|(peer, promise)| {
        prove(peer, &setting.dir, Mode::Sync, &payloads[..8]);
        Case::new(peer.name(), promise, move |_| {
            let dir = setting.temp();
            let log = peer.open(dir.path(), Mode::Sync, SESSIONS as u64);
            (0..SESSIONS).for_each(|session| log.append(session as u64, &payloads[0]));
            together(SESSIONS, |session| {
                let mut clock = Clock::new();
                for payload in payloads.iter().take(each) {
                    clock.time(|| log.append(session as u64, payload));
                }
                clock
            })
        })
    });
    let (cases, goal) = (cases.collect(), "no slower than bare files");
    let what = "durable append 1 KiB, 64 sessions at once".to_owned();
    setting.run(Row { id: "durable-sessions", what, unit: Unit::Seconds, goal, cases })
}

/// Syncs a record, counted at the door to the disk.
fn syncs(setting: &Setting, payloads: &[Payload]) -> Outcome {
    let per_record = |sessions: usize, threads: usize| {
        let dir = setting.temp();
        let syncs = Arc::new(AtomicU64::new(0));
        let disk = Arc::new(Counting::disk(syncs.clone()));
        let store = Store::options().disk(disk).open(dir.path()).expect("a store");
        let create = |_| store.create(NewSession::default().options(options(Mode::Sync))).expect("created");
        let sessions: Vec<_> = (0..sessions).map(create).collect();
        let append = |session: &forklog::Session, payload: &Payload| {
            session.append_raw(&payload.raw).expect("appended");
        };
        sessions.iter().for_each(|session| append(session, &payloads[0]));
        let before = syncs.load(Ordering::Relaxed);
        const EACH: usize = 10;
        std::thread::scope(|scope| {
            for n in 0..threads {
                let session = &sessions[n % sessions.len()];
                scope.spawn(move || payloads.iter().take(EACH).for_each(|payload| append(session, payload)));
            }
        });
        (syncs.load(Ordering::Relaxed) - before) as f64 / (threads * EACH) as f64
    };
    let case =
        |name: &str, sessions, threads| Case::new(name, "Sync", move |_| Sample::of(per_record(sessions, threads)));
    let cases = vec![
        case("forklog, 64 sessions, a thread each", 64, 64),
        case("forklog, 1 session, 1 thread", 1, 1),
        case("forklog, 1 session, 8 threads", 1, 8),
        case("forklog, 1 session, 32 threads", 1, 32),
    ];
    let what = "syncs a record".to_owned();
    setting.run(Row { id: "durable-syncs", what, unit: Unit::Count, goal: "reported", cases })
}
