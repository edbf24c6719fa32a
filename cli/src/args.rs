//! The commands and their arguments.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use forklog::import::Format;
use forklog::{At, Cursor, Durability, RecordId, SideName, Timestamp};

use crate::names::{self, Name};

/// Keeps agent transcripts: append, resume, fork, rewind, list and search them.
///
/// Exit codes: 0 done, 1 data found bad, 2 usage, 3 not found, 4 locked, 5 the system failed.
#[derive(Debug, Parser)]
#[command(name = "forklog", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// The store's directory [default: forklog in the platform's data directory]
    #[arg(long, global = true, value_name = "DIR", env = "FORKLOG_STORE")]
    pub(crate) store: Option<PathBuf>,
    /// Print JSON Lines, for programs
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a session, and print its id
    Create(Create),
    /// Append JSON values, one a line
    Append(Append),
    /// Print the payloads of a session, one a line
    Cat(Cat),
    /// Make a session that begins with another one's records, and print its id
    Fork(Fork),
    /// Make a record the newest one, and print the position that was left; with --files, bring the files back too
    Rewind(Rewind),
    /// Take back the newest rewind; files come back too if it moved them
    Undo(Back),
    /// Take back the newest undo; files come back too if it moved them
    Redo(Back),
    /// Keep the files of a workspace as they are now, and print the checkpoint's id
    Checkpoint(Checkpoint),
    /// List the checkpoints of a session
    Checkpoints(Name),
    /// Show what differs: between two checkpoints, a checkpoint and the files now, or two sessions
    Diff(Diff),
    /// Change title, tags and other metadata
    Set(Set),
    /// List sessions, the one updated last first
    Ls(Ls),
    /// Print the session updated last
    Latest(Latest),
    /// Show all about a session
    Info(Name),
    /// Draw which session was forked from which
    Tree(Tree),
    /// Search the records of sessions
    Grep(Grep),
    /// Print records as they are appended, by whomever
    Follow(Follow),
    /// Bring in transcripts of Claude Code, of Codex, or any JSON Lines
    Import(Import),
    /// Print the payloads of a session as they were imported
    Export(Export),
    /// Read everything and say what is damaged
    Verify(Verify),
    /// Give up what is damaged, so that the rest can be read
    Repair(Name),
    /// Build the index again from the transcripts
    Reindex,
    /// Free what deleted sessions leave, and contents of files that nothing needs any more
    Gc(Gc),
    /// Delete a session
    Delete(Name),
    /// Copy what a fork shares with its ancestors, so that they can be deleted and freed
    Reroot(Name),
    /// Delete sessions that nobody has changed for long
    Cleanup(Cleanup),
    /// Measure what a disk can do
    Bench(Bench),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Create {
    /// The session: ID, or PROJECT/ID [default: a new UUID]
    #[arg(allow_hyphen_values = true)]
    pub(crate) id: Option<String>,
    /// The project that it is made in
    #[arg(long, value_name = "P", allow_hyphen_values = true)]
    pub(crate) project: Option<String>,
    /// Its title
    #[arg(long, value_name = "T")]
    pub(crate) title: Option<String>,
    /// A tag; may be given more than once
    #[arg(long = "tag", value_name = "T")]
    pub(crate) tags: Vec<String>,
    /// More metadata, as a JSON object
    #[arg(long, value_name = "JSON")]
    pub(crate) meta: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Append {
    #[command(flatten)]
    pub(crate) name: Name,
    /// Where the values are [default: standard input]
    pub(crate) file: Option<PathBuf>,
    /// The member that holds each record's id; a record whose id is there already is not appended again
    #[arg(long, value_name = "FIELD")]
    pub(crate) id_field: Option<String>,
    /// Append all of them or none, after any crash too
    #[arg(long)]
    pub(crate) batch: bool,
    /// What an append survives: write, sync, or interval:MS
    #[arg(long, value_name = "D", value_parser = durability)]
    pub(crate) durability: Option<Durability>,
    /// Keep payloads longer than this out of the transcript, compressed and stored once; they are read back as ever
    #[arg(long, value_name = "BYTES")]
    pub(crate) spill_over: Option<u64>,
    /// Append to a side transcript, made if there is none
    #[arg(long, value_name = "NAME", value_parser = side)]
    pub(crate) side: Option<SideName>,
}

#[derive(Args, Debug)]
pub(crate) struct Cat {
    #[command(flatten)]
    pub(crate) name: Name,
    /// Only the last N records
    #[arg(long, value_name = "N", conflicts_with_all = ["from", "to"])]
    pub(crate) last: Option<u64>,
    /// From this record on
    #[arg(long, value_name = "SEQ")]
    pub(crate) from: Option<u64>,
    /// Up to and including this record, or as it was at a printed position
    #[arg(long, value_name = "SEQ", value_parser = names::place)]
    pub(crate) to: Option<At>,
    /// A side transcript
    #[arg(long, value_name = "NAME", value_parser = side)]
    pub(crate) side: Option<SideName>,
    /// Whole lines as they stand in the file
    #[arg(long)]
    pub(crate) envelope: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Fork {
    #[command(flatten)]
    pub(crate) name: Name,
    /// The last record that the fork has: its number, or a printed position [default: the newest]
    #[arg(long, value_name = "SEQ", value_parser = names::place, conflicts_with = "at_id")]
    pub(crate) at: Option<At>,
    /// The same, by the record's id
    #[arg(long, value_name = "X", value_parser = names::record_id)]
    pub(crate) at_id: Option<RecordId>,
    /// The new session: ID, or PROJECT/ID [default: a new UUID in the same project]
    #[arg(long = "as", value_name = "NEW", allow_hyphen_values = true)]
    pub(crate) new: Option<String>,
    /// Fork a side transcript
    #[arg(long, value_name = "NAME", value_parser = side)]
    pub(crate) side: Option<SideName>,
}

#[derive(Args, Debug)]
#[group(id = "where", required = true, multiple = false, args = ["to", "to_id", "to_checkpoint"])]
pub(crate) struct Rewind {
    #[command(flatten)]
    pub(crate) name: Name,
    /// The record that is the newest then: its number, or a printed position
    #[arg(long, value_name = "SEQ", value_parser = names::place)]
    pub(crate) to: Option<At>,
    /// The same, by the record's id
    #[arg(long, value_name = "X", value_parser = names::record_id)]
    pub(crate) to_id: Option<RecordId>,
    /// The same, by a checkpoint that belongs to it: its id, how that begins, or its label
    #[arg(long, value_name = "C")]
    pub(crate) to_checkpoint: Option<String>,
    /// Bring the files back too, to what they were then
    #[arg(long, group = "moving")]
    pub(crate) files: bool,
    /// Bring the files back, and leave the conversation where it is
    #[arg(long, group = "moving")]
    pub(crate) files_only: bool,
    /// Only files that match, written as in .gitignore; may be given more than once
    #[arg(long, value_name = "GLOB", requires = "moving")]
    pub(crate) only: Vec<String>,
    #[command(flatten)]
    pub(crate) how: How,
}

/// How files are brought back.
#[derive(Args, Debug)]
pub(crate) struct How {
    /// The directory of the files [default: where they were]
    #[arg(long, value_name = "DIR")]
    pub(crate) workspace: Option<PathBuf>,
    /// Only say what would become of the files
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Change files too that have been changed by somebody else; `undo` brings that back
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Back {
    #[command(flatten)]
    pub(crate) name: Name,
    #[command(flatten)]
    pub(crate) how: How,
}

#[derive(Args, Debug)]
pub(crate) struct Checkpoint {
    #[command(flatten)]
    pub(crate) name: Name,
    /// Only these files; one that does not exist is noted as such [default: the whole workspace]
    pub(crate) paths: Vec<PathBuf>,
    /// The directory of the files [default: that of the session's newest checkpoint, or else this one]
    #[arg(long, value_name = "DIR")]
    pub(crate) workspace: Option<PathBuf>,
    /// What to call it
    #[arg(long, value_name = "L")]
    pub(crate) label: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Diff {
    /// A session: ID or PROJECT/ID; or one of its checkpoints: ID@CHECKPOINT, by id, how that begins, or label
    #[arg(allow_hyphen_values = true)]
    pub(crate) a: String,
    /// The same; what differs is shown as what turns A into B [default: the files as they are now]
    #[arg(allow_hyphen_values = true)]
    pub(crate) b: Option<String>,
    /// The project that they are in
    #[arg(long, value_name = "P", allow_hyphen_values = true)]
    pub(crate) project: Option<String>,
    /// The directory of the files [default: where they were]
    #[arg(long, value_name = "DIR", conflicts_with = "b")]
    pub(crate) workspace: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct Set {
    #[command(flatten)]
    pub(crate) name: Name,
    /// Its title
    #[arg(long, value_name = "T")]
    pub(crate) title: Option<String>,
    /// Add a tag; may be given more than once
    #[arg(long = "tag", value_name = "T")]
    pub(crate) tags: Vec<String>,
    /// Remove a tag; may be given more than once
    #[arg(long = "untag", value_name = "T")]
    pub(crate) untags: Vec<String>,
    /// Hide it from lists
    #[arg(long, conflicts_with = "unarchive")]
    pub(crate) archive: bool,
    /// Show it in lists again
    #[arg(long)]
    pub(crate) unarchive: bool,
    /// A JSON object that is merged into the metadata; null removes a member
    #[arg(long, value_name = "JSON")]
    pub(crate) meta: Option<String>,
}

/// Which sessions.
#[derive(Args, Debug)]
pub(crate) struct Which {
    /// Only sessions of this project
    #[arg(long, value_name = "P", allow_hyphen_values = true)]
    pub(crate) project: Option<String>,
    /// Only sessions with this tag; given more than once, with all of them
    #[arg(long = "tag", value_name = "T")]
    pub(crate) tags: Vec<String>,
    /// Only sessions updated then or later: a time, a date (UTC), or an age like 30d
    #[arg(long, value_name = "T", value_parser = names::time)]
    pub(crate) after: Option<Timestamp>,
    /// Only sessions updated before
    #[arg(long, value_name = "T", value_parser = names::time)]
    pub(crate) before: Option<Timestamp>,
    /// Only sessions that cost this much or more
    #[arg(long, value_name = "X")]
    pub(crate) min_cost: Option<f64>,
    /// Only sessions that cost this much or less
    #[arg(long, value_name = "X")]
    pub(crate) max_cost: Option<f64>,
    /// Only sessions of this model
    #[arg(long, value_name = "M")]
    pub(crate) model: Option<String>,
    /// Only sessions with this text in title, summary or first prompt
    #[arg(long, value_name = "S")]
    pub(crate) text: Option<String>,
    /// Archived sessions too
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Ls {
    #[command(flatten)]
    pub(crate) which: Which,
    /// At most so many [default: 50, and all with --json]
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Go on where an earlier list ended
    #[arg(long, value_name = "C")]
    pub(crate) cursor: Option<Cursor>,
}

#[derive(Args, Debug)]
pub(crate) struct Latest {
    /// Of this project
    #[arg(long, value_name = "P", allow_hyphen_values = true)]
    pub(crate) project: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Tree {
    /// Only the tree that this session is in: ID, or PROJECT/ID
    #[arg(allow_hyphen_values = true)]
    pub(crate) id: Option<String>,
    /// The project that ID is in
    #[arg(long, value_name = "P", allow_hyphen_values = true)]
    pub(crate) project: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Grep {
    /// What to look for in the records' JSON text
    #[arg(allow_hyphen_values = true)]
    pub(crate) pattern: String,
    /// PATTERN is a regular expression, not plain text
    #[arg(short = 'E', long)]
    pub(crate) regex: bool,
    /// Whatever its case
    #[arg(short, long)]
    pub(crate) ignore_case: bool,
    #[command(flatten)]
    pub(crate) which: Which,
}

#[derive(Args, Debug)]
pub(crate) struct Follow {
    #[command(flatten)]
    pub(crate) name: Name,
    /// A side transcript
    #[arg(long, value_name = "NAME", value_parser = side)]
    pub(crate) side: Option<SideName>,
}

#[derive(Args, Debug)]
pub(crate) struct Import {
    /// Files, and directories with files in them or below
    #[arg(required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// Whose they are, if their content does not tell: claude-code, codex or jsonl
    #[arg(long, value_name = "F")]
    pub(crate) format: Option<Format>,
}

#[derive(Args, Debug)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) name: Name,
    /// A side transcript
    #[arg(long, value_name = "NAME", value_parser = side)]
    pub(crate) side: Option<SideName>,
}

#[derive(Args, Debug)]
pub(crate) struct Verify {
    /// Only this session: ID, or PROJECT/ID
    #[arg(allow_hyphen_values = true)]
    pub(crate) id: Option<String>,
    /// The project that ID is in
    #[arg(long, value_name = "P", allow_hyphen_values = true, requires = "id")]
    pub(crate) project: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Gc {
    /// Only say what would be freed
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Cleanup {
    /// Sessions not changed since then: an age like 30d, a date (UTC), or a time
    #[arg(long, value_name = "AGE", value_parser = names::time)]
    pub(crate) older_than: Timestamp,
    /// Only sessions of this project
    #[arg(long, value_name = "P", allow_hyphen_values = true)]
    pub(crate) project: Option<String>,
    /// Only say which
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Bench {
    /// A directory on that disk; what is made there is removed again
    #[arg(long, value_name = "D", default_value = ".")]
    pub(crate) dir: PathBuf,
    /// How long each of eight works takes about, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 400)]
    pub(crate) ms: u64,
}

fn durability(text: &str) -> Result<Durability, String> {
    let wrong = || "write, sync, or interval:MS with a number of milliseconds is wanted".to_owned();
    match text {
        "write" => Ok(Durability::Write),
        "sync" => Ok(Durability::Sync),
        _ => {
            let ms = text.strip_prefix("interval:").and_then(|ms| ms.parse().ok()).filter(|ms| *ms > 0);
            ms.map(|ms| Durability::Interval(std::time::Duration::from_millis(ms))).ok_or_else(wrong)
        }
    }
}

fn side(text: &str) -> Result<SideName, String> {
    SideName::new(text).map_err(|error| error.to_string())
}
