//! What forklog does, on real transcripts: `cargo run --release --example quickstart [DIR] [--keep STORE]`.
//!
//! Imports the transcripts below DIR (a `~/.claude/projects`, say), has a child process killed while it appends, recovers,
//! forks, rewinds, undoes, brings files back with the conversation, and lists. DIR is only read. Ends with an error as soon as a promise does not hold.

use std::error::Error;
use std::fmt::Display;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use forklog::import;
use forklog::{At, Filter, NewSession, Seq, SessionKey, Store};
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
    #[cfg(unix)]
    files(&store, &temp.path().join("work"))?;
    list(&store)?;
    verify(&store)?;
    if let Some(keep) = keep {
        println!("\nThe store is in {}.", keep.display());
    }
    Ok(())
}

fn import(store: &Store, from: &Path) -> Outcome {
    heading("Import", from.display());
    let start = Instant::now();
    let found = import::discover(&[from], None)?;
    let imported = store.import(&found.sources, |_| {})?;
    check(imported.appended > 0 && imported.failed.is_empty(), "everything was imported")?;
    let again = store.import(&found.sources, |_| {})?;
    check(again.appended == 0, "importing again adds nothing")?;
    say("read", format!("{} transcripts, {} in {}", imported.files, size(imported.bytes), time(start.elapsed())));
    say("kept", format!("{} records; importing again added none", imported.appended));
    say("quarantined", format!("{} lines that are not JSON", imported.bad_lines));
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

/// An agent edits files, the user edits one of them; files and conversation go back together, and come again.
#[cfg(unix)]
fn files(store: &Store, work: &Path) -> Outcome {
    use forklog::checkpoint::PlanOptions;
    use forklog::workspace::RelPath;
    use forklog::{FilesTarget, Scope};

    heading("Files", "go back with the conversation");
    std::fs::create_dir(work)?;
    let write = |name: &str, text: &str| std::fs::write(work.join(name), text);
    let read = |name: &str| std::fs::read_to_string(work.join(name)).unwrap_or_else(|_| "(not there)".to_owned());
    write("plan.txt", "one\n")?;
    write("notes.txt", "by the user\n")?;
    let session = store.create(NewSession::named(SessionKey::new("quickstart", "files")?).title("Files"))?;
    session.append(&json!({ "type": "user", "text": "make it two" }))?;
    let files = session.files(work)?;
    files.checkpoint(Some("before"))?;

    let edited = ["plan.txt", "done.txt"].map(RelPath::new).into_iter().collect::<Result<Vec<_>, _>>()?;
    files.track(&edited)?; // What they were: one of them was not there.
    write("plan.txt", "one\ntwo\n")?;
    write("done.txt", "yes\n")?;
    files.track(&edited)?; // The session has seen its own edits; any other is somebody else's.
    session.append(&json!({ "type": "assistant", "text": "done" }))?;
    say("agent", "changed plan.txt and made done.txt");
    write("plan.txt", "one\ntwo\nthree, says the user\n")?;
    say("user", "changed plan.txt since");

    let to = FilesTarget::At(At::Seq(Seq::new(0)));
    let plan = files.plan(&to, &PlanOptions { count_lines: true, ..PlanOptions::default() })?;
    check(!plan.can_rewind && plan.conflicts.len() == 1, "a plan says what would be kept")?;
    files.rewind(&to, Scope::Both, &PlanOptions::default())?;
    check(read("plan.txt").contains("the user") && read("done.txt") == "(not there)", "the user's edit is kept")?;
    check(store.read(session.key())?.len() == 1, "the conversation went back too")?;
    say("rewound", format!("to record 0: done.txt is gone, the user's {} is kept", plan.conflicts[0].path));

    let force = PlanOptions { force: true, ..PlanOptions::default() };
    files.rewind(&to, Scope::Files, &force)?;
    check(read("plan.txt") == "one\n", "force goes over the user's edit")?;
    say("forced", "plan.txt is as it was before the agent came");
    files.undo(&PlanOptions::default())?;
    check(read("plan.txt").ends_with("says the user\n"), "undo brings the user's edit back")?;
    say("undone", "the user's edit is back");
    files.undo(&PlanOptions::default())?;
    check(read("done.txt") == "yes\n" && store.read(session.key())?.len() == 2, "and so are the agent's")?;
    check(read("notes.txt") == "by the user\n", "a file that does not differ is not touched")?;
    say("undone", "the agent's edits and the conversation are back");
    drop(files);
    Ok(session.close()?)
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
