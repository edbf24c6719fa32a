//! What forklog does, on real transcripts: `cargo run --release --example quickstart [DIR] [--keep STORE]`.
//!
//! Imports the transcripts below DIR (a `~/.claude/projects`, say), has a child process killed while it appends, recovers,
//! forks, rewinds, undoes and lists. DIR is only read. Ends with an error as soon as a promise does not hold.

use std::error::Error;
use std::fmt::Display;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use forklog::import::{self, Line, Lines};
use forklog::{At, Filter, NewRecord, NewSession, OpenOptions, Seq, SessionKey, Store};
use serde_json::{Value, json};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Appends that the child must have acknowledged before it is killed.
const ENOUGH: u64 = 500;
/// The first argument of a run that is the child.
const CHILD: &str = "--append-until-killed";

fn main() -> Outcome {
    let mut args = std::env::args_os().skip(1);
    let (mut from, mut keep) = (PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/samples/claude-projects"), None);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or("a value is missing; usage: quickstart [DIR] [--keep STORE]");
        match arg.to_str() {
            Some(CHILD) => return append_until_killed(&PathBuf::from(value()?), &value()?.to_string_lossy()),
            Some("--keep") => keep = Some(PathBuf::from(value()?)),
            _ => from = PathBuf::from(arg),
        }
    }
    let temp = tempfile::tempdir()?;
    let root = keep.clone().unwrap_or_else(|| temp.path().join("store"));
    let store = Store::open(&root)?;
    import(&store, &from)?;
    let crashed = kill_and_recover(&store)?;
    let fork = fork(&store, &crashed)?;
    rewind_and_undo(&store, &fork)?;
    list(&store)?;
    verify(&store)?;
    if let Some(keep) = keep {
        println!("\nThe store is in {}.", keep.display());
    }
    Ok(())
}

fn import(store: &Store, from: &Path) -> Outcome {
    heading("Import", from.display());
    let found = import::discover(&[from], None)?;
    let (mut records, mut bad, start) = (0, 0, Instant::now());
    for source in &found.sources {
        let key = SessionKey { project: source.project.clone(), session: source.session.clone() };
        let main = match store.session(&key) {
            Err(forklog::Error::NotFound { .. }) => store.create(NewSession::named(key.clone()))?,
            other => other?,
        };
        let session = match &source.side {
            Some(side) => store.side(&key, side, OpenOptions::default())?,
            None => main,
        };
        let mut lines = Lines::open(&source.path)?;
        while let Some(line) = lines.next()? {
            let Line::Record(record) = line else {
                bad += 1;
                continue;
            };
            let new = NewRecord::json(&record.payload)?.id(record.id.clone());
            let new = if let Some(at) = record.at { new.at(at) } else { new };
            records += u64::from(session.append_record(&new)?.position().is_some());
        }
        session.close()?;
    }
    check(records > 0, "something was imported")?;
    let bytes = found.sources.iter().map(|source| source.len_bytes).sum();
    say("read", format!("{} transcripts, {} in {}", found.sources.len(), size(bytes), time(start.elapsed())));
    say("kept", format!("{records} records; {bad} lines that are not JSON were left out"));
    Ok(())
}

/// Has a child append to a new session until it is killed, and looks at what is left.
fn kill_and_recover(store: &Store) -> Outcome<SessionKey> {
    heading("Kill", "a process while it appends");
    let key = SessionKey::new("quickstart", "killed")?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg(CHILD)
        .arg(store.path())
        .arg(key.to_string())
        .stdout(Stdio::piped())
        .spawn()?;
    let acknowledged = BufReader::new(child.stdout.take().ok_or("the child has no output")?);
    let mut last = 0;
    for line in acknowledged.lines() {
        last = line?.parse::<u64>()?;
        if last == ENOUGH {
            child.kill()?; // What it said before it died is still in the pipe, and counts.
        }
    }
    child.wait()?;
    check(last >= ENOUGH, "the child ran until it was killed")?;
    say("killed", format!("after it had been told of {last} appends"));

    let start = Instant::now();
    let session = store.session(&key)?;
    let took = start.elapsed();
    let mut survived = 0;
    let mut records = store.read(&key)?.records();
    while let Some(record) = records.next()? {
        survived += 1;
        check(record.json::<Value>()?["n"] == json!(survived), "records are whole and in order")?;
    }
    check(survived >= last, "every acknowledged append survived")?;
    session.append(&json!({ "type": "user", "n": survived + 1, "text": "where were we?" }))?;
    session.close()?;
    let extra = survived - last;
    say("recovered", format!("in {}: {last} of {last} are there, and {extra} nobody had been told of", time(took)));
    Ok(key)
}

fn append_until_killed(root: &Path, key: &str) -> Outcome {
    let session = Store::open(root)?.create(NewSession::named(key.parse()?).title("Killed, and well"))?;
    let mut out = std::io::stdout().lock();
    for n in 1_u64.. {
        session.append(&json!({ "type": "user", "n": n, "text": "a message that must not be lost" }))?;
        writeln!(out, "{n}")?;
        out.flush()?;
    }
    Ok(())
}

fn fork(store: &Store, parent: &SessionKey) -> Outcome<SessionKey> {
    heading("Fork", "in the middle of that conversation");
    let reader = store.read(parent)?;
    let at = Seq::new(reader.len() / 2);
    let key = SessionKey::new("quickstart", "another-way")?;
    let start = Instant::now();
    let fork = store.fork(parent, &At::Seq(at), NewSession::named(key.clone()).title("Another way").tag("try"))?;
    let took = start.elapsed();
    fork.append(&json!({ "type": "user", "text": "let us try it differently" }))?;
    fork.close()?;
    let child = store.read(&key)?;
    check(child.len() == at.get() + 2, "the fork holds the records up to its point, and its own")?;
    let mut both = reader.records().zip(child.records()).take(usize::try_from(at.get() + 1)?);
    check(both.all(|(a, b)| matches!((a, b), (Ok(a), Ok(b)) if a.payload == b.payload)), "they are the parent's")?;
    say("forked", format!("at record {at} of {} in {}", reader.len(), time(took)));
    say("wrote", format!("{} beside {} of the parent's", size(child.size()), size(reader.size())));
    Ok(key)
}

fn rewind_and_undo(store: &Store, key: &SessionKey) -> Outcome {
    heading("Rewind", "the fork by ten records, and think better of it");
    let session = store.session(key)?;
    let before = store.read(key)?.len();
    session.rewind(&At::Seq(Seq::new(before - 11)))?;
    let rewound = store.read(key)?.len();
    check(rewound == before - 10, "a rewind ends the view at its record")?;
    session.undo()?;
    let after = store.read(key)?.len();
    check(after == before, "undo brings everything back")?;
    session.close()?;
    say("records", format!("{before}, rewound {rewound}, undone {after}"));
    Ok(())
}

fn list(store: &Store) -> Outcome {
    let start = Instant::now();
    let page = store.list(&Filter::default(), None, 8)?;
    heading("List", format!("the newest {} sessions, in {}", page.entries.len(), time(start.elapsed())));
    for entry in &page.entries {
        let title = entry.title.as_ref().or(entry.first_prompt.as_ref()).or(entry.summary.as_ref());
        let title = title.map_or("(no title)", String::as_str);
        let cost = entry.total_cost.map_or_else(String::new, |cost| format!("${cost:.2}"));
        let updated = entry.updated.to_string();
        let day = updated.get(..10).unwrap_or(&updated);
        println!("  {day}  {:>5} records  {cost:>7}  {}", entry.records, shortened(title, 56));
    }
    check(!page.entries.is_empty(), "sessions are listed")
}

fn verify(store: &Store) -> Outcome {
    let report = store.verify(None, |_| {})?;
    heading("Verify", "every byte");
    say("sound", format!("{} transcripts, {} records, {}", report.transcripts, report.records, size(report.bytes)));
    check(report.is_sound(), "the store is sound")
}

fn check(holds: bool, promise: &str) -> Outcome {
    if holds { Ok(()) } else { Err(format!("this does not hold: {promise}").into()) }
}

fn heading(what: &str, about: impl Display) {
    match std::io::stdout().is_terminal() {
        true => println!("\n\x1b[1;36m{what}\x1b[0m {about}"),
        false => println!("\n{what} {about}"),
    }
}

fn say(what: &str, about: impl Display) {
    println!("  {what:<10} {about}");
}

/// The first line of `text`, cut to `max` characters.
fn shortened(text: &str, max: usize) -> String {
    let line: String = text.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).collect();
    match line.char_indices().nth(max) {
        Some((cut, _)) => format!("{}…", &line[..cut]),
        None => line,
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

fn time(took: Duration) -> String {
    match took.as_micros() {
        micros @ 0..1000 => format!("{micros} µs"),
        1000..1_000_000 => format!("{:.1} ms", took.as_secs_f64() * 1000.0),
        _ => format!("{:.1} s", took.as_secs_f64()),
    }
}
