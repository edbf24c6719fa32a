//! What the fuzz programs share: a clock, a way to change bytes, and a loop that says how to replay what it finds.
//!
//! They run on stable Rust, with changes that are guided by the format: bits, bytes, runs, lines and numbers are flipped,
//! cut, doubled, swapped and spliced. Those that change one file ([`run_files`]) also run under cargo-fuzz, which is guided
//! by coverage and needs a nightly compiler.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use forklog_sim::Rng;

pub use one_file::run_files;

#[cfg(fuzzing)]
mod guided;
mod one_file;
mod seal;

/// Runs `case` with one seed after another, from 0 or what `--from N` says, for as long as the arguments `--seconds N` say, or once with
/// `--seed N`.
///
/// A panic ends the program with the seed that replays it.
pub fn run(name: &str, case: impl Fn(&mut Rng)) {
    let mut args = std::env::args().skip(1);
    let (mut seconds, mut from, mut only) = (10, 0, None);
    while let Some(arg) = args.next() {
        let value = args.next().and_then(|value| value.parse::<u64>().ok());
        match (arg.as_str(), value) {
            ("--seconds", Some(value)) => seconds = value,
            ("--from", Some(value)) => from = value,
            ("--seed", Some(value)) => only = Some(value),
            _ => {
                eprintln!("usage: {name} [--seconds N] [--from N] [--seed N]");
                std::process::exit(2);
            }
        }
    }
    let start = Instant::now();
    let mut cases = 0_u64;
    while only.is_none_or(|_| cases == 0) && start.elapsed() < Duration::from_secs(seconds) {
        let seed = only.unwrap_or(from + cases);
        if catch_unwind(AssertUnwindSafe(|| case(&mut Rng::new(seed)))).is_err() {
            eprintln!("{name}: found; replay with --seed {seed}");
            std::process::exit(1);
        }
        cases += 1;
    }
    println!("{name}: {cases} cases in {:.0} s, none found", start.elapsed().as_secs_f64());
}

/// Changes `bytes` in one to four places.
pub fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    for _ in 0..=rng.below(4) {
        change(rng, bytes);
    }
}

fn change(rng: &mut Rng, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        bytes.push(rng.bits().to_le_bytes()[0]);
        return;
    }
    let at = rng.below(bytes.len());
    let end = at + 1 + rng.below((bytes.len() - at).min(200));
    match rng.below(10) {
        0 => bytes[at] ^= 1 << rng.below(8),
        1 => bytes[at] = rng.bits().to_le_bytes()[0],
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..end)),
        4 => bytes[at..end].fill(0),
        5 => {
            let part = bytes[at..end].to_vec();
            let to = rng.below(bytes.len());
            bytes.splice(to..to, part);
        }
        6 => lines(rng, bytes),
        7 => bytes.extend_from_slice(
            &[[0; 16], [b' '; 16], *b"{\"at\":\"2026-11-2", *b"\"}\n\"}\n\"}\n\"}\n\r\n\r\n"][rng.below(4)],
        ),
        8 => digits(rng, bytes, at),
        _ => bytes[at] = [b'\n', b'"', b'\\', b'}', 0, 0xFF, b'0', b'9'][rng.below(8)],
    }
}

/// Drops, doubles or swaps lines.
fn lines(rng: &mut Rng, bytes: &mut Vec<u8>) {
    let mut parts: Vec<Vec<u8>> = bytes.split_inclusive(|&c| c == b'\n').map(<[u8]>::to_vec).collect();
    let (a, b) = (rng.below(parts.len()), rng.below(parts.len()));
    match rng.below(3) {
        0 => drop(parts.remove(a)),
        1 => parts.insert(b, parts[a].clone()),
        _ => parts.swap(a, b),
    }
    *bytes = parts.concat();
}

/// Makes a number near `at` another one.
fn digits(rng: &mut Rng, bytes: &mut [u8], at: usize) {
    for byte in bytes[at..].iter_mut().skip_while(|c| !c.is_ascii_digit()).take_while(|c| c.is_ascii_digit()) {
        *byte = b'0' + rng.bits().to_le_bytes()[0] % 10;
    }
}

pub mod world {
    //! A small store with a bit of everything in it, on a simulated disk.

    use std::path::PathBuf;
    use std::sync::Arc;

    use forklog::{At, NewRecord, NewSession, RecordId, Seq, SessionKey, SideName, Store};
    use forklog_sim::{Process, SimDisk, Ticks};

    /// Sessions of the store.
    pub const SESSIONS: [&str; 3] = ["a", "b", "c"];

    /// The key of one.
    pub fn key(name: &str) -> SessionKey {
        SessionKey::new("p", name).expect("legal")
    }

    /// The store on `disk`.
    ///
    /// # Errors
    ///
    /// As [`forklog::StoreOptions::open`].
    pub fn open(process: &Process) -> forklog::Result<Store> {
        Store::options().disk(Arc::new(process.clone())).env(Ticks::new(1)).open("/store")
    }

    /// A disk with a store: a session with ids, a batch, metadata and moves; its fork; a third with a side transcript, left open by a
    /// dead process.
    pub fn disk() -> SimDisk {
        let disk = SimDisk::new(7);
        let process = disk.process();
        let store = open(&process).expect("a store");
        let a = store.create(NewSession::named(key("a")).title("one").tag("t")).expect("created");
        for n in 0..6 {
            let text = format!("{{\"type\":\"user\",\"n\":{n},\"text\":\"{}\"}}", "x".repeat(n * 7));
            let record =
                NewRecord::json(text.as_bytes()).expect("JSON").id(RecordId::new(format!("id{n}")).expect("legal"));
            a.append_record(&record).expect("appended");
        }
        a.append_batch(&[NewRecord::json(b"[1]").expect("JSON"), NewRecord::json(b"[2]").expect("JSON")])
            .expect("appended");
        a.sync().expect("synced");
        a.rewind(&At::Seq(Seq::new(3))).expect("rewound");
        a.append_json(b"\"after\"").expect("appended");
        a.undo().expect("undone");
        let b = store.fork(&key("a"), &At::Seq(Seq::new(4)), NewSession::named(key("b"))).expect("forked");
        b.append_json(b"\"fork\"").expect("appended");
        b.close().expect("closed");
        a.close().expect("closed");
        let c = store.create(NewSession::named(key("c"))).expect("created");
        c.append_json(b"{\"c\":1}").expect("appended");
        let side = SideName::new("agents/1").expect("legal");
        let side = store.side(&key("c"), &side, forklog::OpenOptions::default()).expect("made");
        side.append_json(b"\"side\"").expect("appended");
        process.kill();
        disk
    }

    /// The store's files.
    pub fn files(disk: &SimDisk) -> Vec<PathBuf> {
        let files = disk.tree().into_iter().filter(|(_, bytes)| bytes.as_ref().is_some_and(|bytes| !bytes.is_empty()));
        files.map(|(path, _)| path).collect()
    }
}
