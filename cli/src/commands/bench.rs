//! What this disk can do under this engine.

use std::path::Path;
use std::time::{Duration, Instant};

use forklog::{At, Durability, Error, Filter, NewRecord, NewSession, OpenOptions, Seq, Session, SessionKey, Store};
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::Context;
use crate::args::Bench;
use crate::output::{Bar, Done, Failure, bytes, rows};

/// Bytes of a record's payload.
const PAYLOAD: usize = 1024;
/// Bytes appended at most without a sync, so that a quick machine does not fill a small disk.
const MOST: u64 = 64 << 20;
/// Threads that append to one session at once.
const THREADS: u32 = 8;
/// Steps of the whole.
const STEPS: u64 = 8;

/// One thing that was measured.
#[derive(Serialize)]
struct Measured {
    work: &'static str,
    durability: Option<&'static str>,
    threads: u32,
    count: u64,
    per_second: f64,
    bytes_per_second: Option<f64>,
    p50_us: f64,
    p99_us: f64,
    worst_us: f64,
}

pub(super) fn bench(at: &mut Context, args: &Bench) -> Done {
    if !args.dir.is_dir() {
        return Err(Failure::Missing(format!("{}: no such directory", args.dir.display())));
    }
    // It goes when it is dropped, after a failure too.
    let temp = tempfile::Builder::new().prefix("forklog-bench-").tempdir_in(&args.dir);
    let temp = temp.map_err(|source| Error::Io { op: "make a directory in", path: args.dir.clone(), source })?;
    let each = Duration::from_millis(args.ms);
    let bar = Bar::steps("measuring");
    let measured = measure(temp.path(), each, |step| bar.step(step, STEPS));
    drop(bar);
    let measured = measured?;
    if at.out.json {
        return measured.iter().try_for_each(|measured| at.out.value(measured));
    }
    let text: Vec<[String; 6]> = measured.iter().map(shown).collect();
    at.out.raw(rows(["records of 1 KiB", "durability", "a second", "p50", "p99", "worst"], &text).as_bytes())
}

fn shown(measured: &Measured) -> [String; 6] {
    let Measured { work, durability, threads, bytes_per_second, .. } = *measured;
    let work = if threads > 1 { format!("{work}, {threads} threads") } else { work.to_owned() };
    let rate = match bytes_per_second {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "shown to three digits")]
        Some(rate) => format!("{} ({:.0})", bytes(rate as u64), measured.per_second),
        None => format!("{:.0}", measured.per_second),
    };
    let time = |us: f64| if us < 1000.0 { format!("{us:.1} µs") } else { format!("{:.1} ms", us / 1000.0) };
    let times = [measured.p50_us, measured.p99_us, measured.worst_us].map(time);
    let [p50, p99, worst] = times;
    [work, durability.unwrap_or_default().to_owned(), rate, p50, p99, worst]
}

fn measure(dir: &Path, each: Duration, step: impl Fn(u64)) -> Result<Vec<Measured>, Error> {
    let store = Store::open(dir.join("store"))?;
    let text = "All work and no play makes a dull log. ".repeat(PAYLOAD / 39 + 1);
    let value = json!({ "type": "note", "text": text.get(..PAYLOAD - 25).unwrap_or(&text) });
    let raw = serde_json::value::to_raw_value(&value).map_err(|error| Error::BadJson { why: error.to_string() })?;
    let mut done = Vec::new();
    let kinds = [
        ("write", Durability::Write, 1),
        ("interval:100", Durability::Interval(Duration::from_millis(100)), 1),
        ("sync", Durability::Sync, 1),
        ("sync", Durability::Sync, THREADS),
    ];
    for (name, durability, threads) in kinds {
        step(done.len() as u64);
        let options = OpenOptions { durability: Some(durability), ..OpenOptions::default() };
        let session = store.create(NewSession::default().options(options))?;
        session.append_raw(&raw)?;
        done.push(Measured { durability: Some(name), ..append(&session, &raw, threads, each)? });
        session.close()?;
    }
    step(done.len() as u64);
    let key = fill(&store, &raw)?;
    done.push(read(&store, &key, each)?);
    step(done.len() as u64);
    done.push(repeat("read the last 100", each, |_| {
        let mut last = store.read(&key)?.last(100)?;
        while last.next()?.is_some() {}
        Ok(())
    })?);
    step(done.len() as u64);
    let records = store.read(&key)?.len();
    done.push(repeat("fork", each, |n| {
        let at = At::Seq(Seq::new(n % records));
        store.fork(&key, &at, NewSession::default())?.close()
    })?);
    step(done.len() as u64);
    done.push(repeat("list the newest 50", each, |_| store.list(&Filter::default(), None, 50).map(drop))?);
    Ok(done)
}

/// Appends from several threads until the time is over.
fn append(session: &Session, raw: &RawValue, threads: u32, each: Duration) -> Result<Measured, Error> {
    let most = MOST / PAYLOAD as u64 / u64::from(threads);
    let start = Instant::now();
    let work = || {
        let mut times = Vec::new();
        while start.elapsed() < each && (times.len() as u64) < most {
            let begun = Instant::now();
            session.append_raw(raw)?;
            times.push(begun.elapsed());
        }
        Ok::<_, Error>(times)
    };
    let times = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mut times = work()?;
        for thread in threads {
            // A thread that panicked has told so itself, and its times are missing.
            times.extend(thread.join().unwrap_or_else(|_| Ok(Vec::new()))?);
        }
        Ok::<_, Error>(times)
    })?;
    Ok(Measured { threads, ..summed("append", times, start.elapsed()) })
}

/// A session that is long enough for reading it to take some time.
fn fill(store: &Store, raw: &RawValue) -> Result<SessionKey, Error> {
    let session = store.create(NewSession::default())?;
    let batch = (0..64).map(|_| NewRecord::raw(raw)).collect::<Result<Vec<_>, _>>()?;
    for _ in 0..(32 << 20) / PAYLOAD / batch.len() {
        session.append_batch(&batch)?;
    }
    let key = session.key().clone();
    session.close()?;
    Ok(key)
}

fn read(store: &Store, key: &SessionKey, each: Duration) -> Result<Measured, Error> {
    let mut bytes = 0;
    let read = repeat("open, read and verify 32 MiB", each, |_| {
        let mut records = store.read(key)?.records();
        while let Some(record) = records.next()? {
            bytes += record.line().len() as u64 + 1;
        }
        Ok(())
    })?;
    let size = bytes as f64 / read.count as f64;
    Ok(Measured { bytes_per_second: Some(size * read.per_second), ..read })
}

/// Does something, at least once, until the time is over.
fn repeat(
    work: &'static str,
    each: Duration,
    mut run: impl FnMut(u64) -> Result<(), Error>,
) -> Result<Measured, Error> {
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.is_empty() || start.elapsed() < each {
        let begun = Instant::now();
        run(times.len() as u64)?;
        times.push(begun.elapsed());
    }
    Ok(summed(work, times, start.elapsed()))
}

fn summed(work: &'static str, mut times: Vec<Duration>, wall: Duration) -> Measured {
    times.sort_unstable();
    let of = |index: usize| times.get(index.min(times.len().saturating_sub(1))).copied().unwrap_or_default();
    let us = |time: Duration| time.as_secs_f64() * 1e6;
    Measured {
        work,
        durability: None,
        threads: 1,
        count: times.len() as u64,
        per_second: times.len() as f64 / wall.as_secs_f64(),
        bytes_per_second: None,
        p50_us: us(of(times.len() / 2)),
        p99_us: us(of(times.len() * 99 / 100)),
        worst_us: us(of(times.len())),
    }
}
