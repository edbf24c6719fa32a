//! What is printed, and how a command ends.

use std::io::{self, BufWriter, IsTerminal as _, Stdout, Write};
use std::process::ExitCode;

use comfy_table::{Cell, Color, ContentArrangement, Table, presets};
use forklog::{
    Checkpoint, Entry, Error, Kind, Named, OwnedRecord, Position, Progress, ProjectName, Seq, SessionId, SessionKey,
    Timestamp,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::value::RawValue;

/// How a command ends that does not end well.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The engine's error.
    Engine(Error),
    /// An engine's error with what came before it.
    At(String, Error),
    /// A usage that the arguments' own rules cannot tell.
    Usage(String),
    /// Something that was named is not there.
    Missing(String),
    /// Everything was said already; only the exit code is left.
    Said(Kind),
    /// Standard output or input failed.
    Pipe(io::Error),
}

pub(crate) type Done<T = ()> = Result<T, Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Pipe(error)
    }
}

impl Failure {
    /// Prints one line to standard error, and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        match self {
            // Whoever reads has seen enough.
            Self::Pipe(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Self::Pipe(error) => {
                say(&format!("error: standard input or output: {error}"));
                ExitCode::from(5)
            }
            Self::Said(kind) => ExitCode::from(code(kind)),
            Self::Usage(why) => {
                say(&format!("error: {why}"));
                ExitCode::from(2)
            }
            Self::Missing(what) => {
                say(&format!("error: {what}"));
                ExitCode::from(3)
            }
            Self::Engine(error) => {
                say(&format!("error: {error}{}", hint(&error)));
                ExitCode::from(code(error.kind()))
            }
            Self::At(place, error) => {
                say(&format!("error: {place}: {error}{}", hint(&error)));
                ExitCode::from(code(error.kind()))
            }
        }
    }
}

/// Prints a line to standard error. Nobody is left to be told when that fails.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{}", line.replace('\n', " "));
}

/// The exit code that stands for a kind of error.
pub(crate) fn code(kind: Kind) -> u8 {
    match kind {
        Kind::Data | Kind::Newer => 1,
        Kind::Caller => 2,
        Kind::NotFound => 3,
        Kind::Locked | Kind::Reopen => 4,
        _ => 5,
    }
}

/// The way out, where the error's own words do not name it.
fn hint(error: &Error) -> &'static str {
    match error {
        Error::NotFound { what: Named::Store, .. } => {
            "; `forklog create` or `forklog import` makes one, --store or FORKLOG_STORE names another"
        }
        Error::NotFound { what: Named::Session, .. } => "; `forklog ls --all` shows what there is",
        Error::NotFound { what: Named::Record | Named::Position, .. } => {
            "; `forklog cat --envelope` shows the records, numbered from 0"
        }
        Error::NotFound { what: Named::Side, .. } => "; `forklog info` shows the session's side transcripts",
        Error::NotFound { what: Named::Checkpoint, .. } => "; `forklog checkpoints` shows what there is",
        Error::Exists { .. } => "; choose another id, or append to it",
        Error::BadJson { .. } => "; give one JSON value on each line",
        Error::TooDeep { .. } | Error::TooLarge { .. } => "; split it, or store it elsewhere and refer to it",
        Error::NothingTo { .. } => "; the session is as it was left",
        Error::Lineage { .. } => "; `forklog verify` shows which session is at fault",
        Error::Full { .. } => "; free some space and try again",
        Error::Io { source, .. } => match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                "; change the permissions, or choose another store with --store"
            }
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                "; a store is a directory: choose another with --store"
            }
            io::ErrorKind::NotFound | io::ErrorKind::IsADirectory => "; check the path",
            _ => "; see to the disk, then try again",
        },
        _ => "",
    }
}

/// Standard output, for people or for programs.
pub(crate) struct Out {
    out: BufWriter<Stdout>,
    /// Whether JSON Lines are wanted.
    pub(crate) json: bool,
}

impl Out {
    pub(crate) fn new(json: bool) -> Self {
        Self { out: BufWriter::with_capacity(1 << 16, io::stdout()), json }
    }

    /// One line of JSON.
    pub(crate) fn value(&mut self, value: &impl Serialize) -> Done {
        serde_json::to_writer(&mut self.out, value).map_err(|error| Failure::Pipe(error.into()))?;
        self.raw(b"")
    }

    /// The line as it is.
    pub(crate) fn raw(&mut self, line: &[u8]) -> Done {
        self.out.write_all(line)?;
        Ok(self.out.write_all(b"\n")?)
    }

    /// Bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Done {
        Ok(self.out.write_all(bytes)?)
    }

    /// A line for people, or a value for programs.
    pub(crate) fn either(&mut self, text: &str, value: &impl Serialize) -> Done {
        if self.json { self.value(value) } else { self.raw(text.as_bytes()) }
    }

    pub(crate) fn flush(&mut self) -> Done {
        Ok(self.out.flush()?)
    }
}

/// A record as JSON. The payload stays as it is, to the order of its members and the digits of its numbers.
#[derive(Serialize)]
pub(crate) struct Shown<'a> {
    /// Of two sessions that are compared, the one that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) only: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a SessionId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<&'a ProjectName>,
    seq: Seq,
    at: Timestamp,
    record_id: Option<&'a str>,
    position: Position,
    data: Option<&'a RawValue>,
}

impl<'a> Shown<'a> {
    pub(crate) fn new(of: Option<&'a SessionKey>, record: &'a OwnedRecord) -> Self {
        let OwnedRecord { seq, at, position, .. } = *record;
        let data = serde_json::from_slice(&record.payload).ok();
        let (id, project) = (of.map(|of| &of.session), of.map(|of| &of.project));
        Self { only: None, id, project, seq, at, record_id: record.id.as_deref(), position, data }
    }
}

/// A table of sessions.
pub(crate) fn sessions(entries: &[Entry], now: i64) -> String {
    let mut table = plain_table();
    table.set_header(["session", "updated", "turns", "cost", "model", "title"].map(head));
    for entry in entries {
        let cost = entry.total_cost.map_or(String::new(), |cost| format!("{cost:.2}"));
        table.add_row([
            Cell::new(&entry.key).fg(Color::Cyan),
            Cell::new(age(now - entry.updated.as_millis())),
            Cell::new(entry.turns),
            Cell::new(cost).fg(Color::Yellow),
            Cell::new(entry.model.as_deref().unwrap_or_default()),
            Cell::new(clean(&called(entry))),
        ]);
    }
    table.trim_fmt()
}

/// A table of checkpoints.
pub(crate) fn checkpoints(found: &[Checkpoint], now: i64) -> String {
    let mut table = plain_table();
    table.set_header(["checkpoint", "after record", "taken", "label", "files of"].map(head));
    for one in found {
        let part = if one.whole { "" } else { " (some)" };
        table.add_row([
            Cell::new(one.id).fg(Color::Cyan),
            Cell::new(one.seq.map_or("none".to_owned(), |seq| seq.to_string())),
            Cell::new(age(now - one.at.as_millis())),
            Cell::new(clean(one.label.as_deref().unwrap_or_default())),
            Cell::new(format!("{}{part}", clean(&one.workspace.to_string_lossy()))),
        ]);
    }
    table.trim_fmt()
}

/// A table of names and values.
pub(crate) fn facts(rows: &[(&str, String)]) -> String {
    let mut table = plain_table();
    for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        table.add_row([head(name), Cell::new(clean(value))]);
    }
    table.trim_fmt()
}

/// A table of text with names above its columns.
pub(crate) fn rows<const N: usize>(names: [&str; N], rows: &[[String; N]]) -> String {
    let mut table = plain_table();
    table.set_header(names.map(head));
    for row in rows {
        table.add_row(row.iter().map(|text| Cell::new(clean(text))));
    }
    table.trim_fmt()
}

fn head(name: &str) -> Cell {
    Cell::new(name).fg(Color::Green)
}

fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if !io::stdout().is_terminal() {
        table.force_no_tty();
    }
    table
}

/// What a person calls a session: its title, or else how it begins; and what is the matter with it.
pub(crate) fn called(entry: &Entry) -> String {
    let name = [&entry.title, &entry.summary, &entry.first_prompt].into_iter().flatten().next();
    let mut text: String = name.map_or(String::new(), |name| name.chars().take(60).collect());
    for (set, mark) in [(entry.live, "live"), (entry.archived, "archived"), (entry.damaged, "DAMAGED")] {
        if set {
            text.push_str(&format!(" [{mark}]"));
        }
    }
    text
}

/// Text from a transcript, without what could steer a terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// How long ago something was, for people.
fn age(ms: i64) -> String {
    let seconds = ms.max(0) / 1000;
    match seconds {
        0..60 => "just now".to_owned(),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..86_400 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// Bytes, for people.
pub(crate) fn bytes(n: u64) -> String {
    indicatif::BinaryBytes(n).to_string()
}

/// A bar that shows how far a long run has come, on a terminal only.
pub(crate) struct Bar(ProgressBar);

impl Bar {
    pub(crate) fn new(what: &'static str) -> Self {
        // Nothing is drawn where standard error is no terminal.
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{msg} {bar:32} {bytes}/{total_bytes} {bytes_per_sec}") {
            bar.set_style(style);
        }
        bar.set_message(what);
        Self(bar)
    }

    /// A bar of steps, which are no bytes.
    pub(crate) fn steps(what: &'static str) -> Self {
        let bar = Self::new(what);
        if let Ok(style) = ProgressStyle::with_template("{msg} {bar:32} {pos}/{len}") {
            bar.0.set_style(style);
        }
        bar
    }

    pub(crate) fn set(&self, progress: Progress) {
        self.step(progress.done, progress.total);
    }

    pub(crate) fn step(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
