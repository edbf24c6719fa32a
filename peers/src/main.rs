//! The same work on forklog and on what people would otherwise use, side by side in one run.
//!
//! `cargo run --release -p forklog-peers -- --dir DIR` prints a table of medians and ratios; `--help` has the rest.
#![expect(clippy::expect_used, reason = "a bench that cannot do its work has nothing to say")]

mod counting;
mod machine;
mod measure;
mod peers;
mod plot;
mod report;
mod rows;
mod workload;

use std::path::PathBuf;

use clap::Parser;

use machine::Machine;
use report::{Progress, Report};
use rows::{Fixtures, Setting};

/// Measures forklog beside bare system calls, JSONL, SQLite, redb, fjall, LMDB, okaywal, ripgrep, git and restic.
///
/// Every side does the same work in turn, round by round; each is made to show first that it keeps what it is given. Figures are
/// medians of all rounds. A ratio says how many times better forklog's first line of a row is than the side on the line, by the median of the
/// rounds' ratios, with their quartiles.
#[derive(Debug, Parser)]
#[command(name = "forklog-peers", max_term_width = 100)]
struct Args {
    /// Where to measure: a directory on the disk that is to be judged
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// How often each side does each work
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Only rows whose name contains this; may be given more than once
    #[arg(long, value_name = "ROW")]
    only: Vec<String>,
    /// As little of everything as shows that it works; the figures mean nothing
    #[arg(long)]
    quick: bool,
    /// As much as the goals name: 1 GiB transcripts, 1,000,000 sessions
    #[arg(long, conflicts_with = "quick")]
    full: bool,
    /// Write the figures to this file, in the layout that docs/bench/README.md describes
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Draw plots into this directory
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Write the table to this file, as Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// What a child of this program does
    #[arg(long, hide = true, num_args = 1.., value_name = "WORK")]
    child: Vec<String>,
}

fn main() {
    let args = Args::parse();
    if let Some((work, arguments)) = args.child.split_first() {
        return match work.as_str() {
            "memory" => rows::memory_child(arguments),
            _ => rows::kill_child(arguments),
        };
    }
    let rounds = if args.quick { 1 } else { args.rounds.max(1) };
    let progress = Progress::new();
    let dir = std::path::absolute(&args.dir).expect("a directory");
    let setting = Setting {
        dir,
        rounds,
        quick: args.quick,
        full: args.full,
        only: args.only,
        progress,
        fixtures: Fixtures::default(),
    };
    let mut report = Report::new(Machine::of(&setting.dir), rounds);
    print!("{}", report.head());
    rows::all(&setting, |outcome| {
        setting.progress.clear();
        print!("{}", report.row(&outcome));
        report.keep(outcome);
    });
    setting.progress.clear();
    let write = |path: &PathBuf, text: String| {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).expect("a directory for results");
        }
        std::fs::write(path, text).expect("results can be written");
    };
    if let Some(path) = &args.csv {
        write(path, report.csv());
    }
    if let Some(path) = &args.markdown {
        write(path, report.markdown());
    }
    if let Some(dir) = &args.plots {
        for (name, svg) in report.plots() {
            write(&dir.join(name), svg);
        }
    }
}
