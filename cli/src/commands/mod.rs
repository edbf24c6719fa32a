//! What each command does.

mod admin;
mod bench;
mod diff;
mod files;
mod import;
mod list;
mod read;
mod search;
mod tree;
mod write;

use std::path::PathBuf;

use clap::CommandFactory as _;
use forklog::{Store, StoreOptions};

use crate::args::{Cli, Command};
use crate::names;
use crate::output::{Done, Out};

/// What every command is given.
pub(crate) struct Context {
    dir: PathBuf,
    pub(crate) out: Out,
}

impl Context {
    /// The store, which must be there.
    pub(crate) fn store(&self) -> Done<Store> {
        Ok(StoreOptions::new().existing().open(&self.dir)?)
    }

    /// The store, made where there is none.
    pub(crate) fn store_or_new(&self) -> Done<Store> {
        Ok(Store::open(&self.dir)?)
    }
}

/// Does what the command line says.
pub(crate) fn run(cli: Cli) -> Done {
    if let Command::Completions { shell } = cli.command {
        // Into memory first: the generator panics when standard output is closed.
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "forklog", &mut script);
        let mut out = Out::new(false);
        out.raw(script.trim_ascii_end())?;
        return out.flush();
    }
    let mut context = Context { dir: names::store_dir(cli.store)?, out: Out::new(cli.json) };
    let at = &mut context;
    let done = match cli.command {
        Command::Create(args) => write::create(at, args),
        Command::Append(args) => write::append(at, &args),
        Command::Fork(args) => write::fork(at, args),
        Command::Rewind(args) => files::rewind(at, args),
        Command::Undo(args) => files::undo(at, &args),
        Command::Redo(args) => files::redo(at, &args),
        Command::Checkpoint(args) => files::checkpoint(at, &args),
        Command::Checkpoints(name) => files::checkpoints(at, &name),
        Command::Diff(args) => diff::diff(at, &args),
        Command::Set(args) => write::set(at, args),
        Command::Cat(args) => read::cat(at, &args),
        Command::Export(args) => read::export(at, &args),
        Command::Follow(args) => read::follow(at, &args),
        Command::Ls(args) => list::ls(at, &args),
        Command::Latest(args) => list::latest(at, &args),
        Command::Info(name) => list::info(at, &name),
        Command::Tree(args) => tree::tree(at, &args),
        Command::Grep(args) => search::grep(at, &args),
        Command::Import(args) => import::import(at, &args),
        Command::Verify(args) => admin::verify(at, &args),
        Command::Repair(name) => admin::repair(at, &name),
        Command::Reindex => admin::reindex(at),
        Command::Gc(args) => admin::gc(at, &args),
        Command::Delete(name) => admin::delete(at, &name),
        Command::Reroot(name) => admin::reroot(at, &name),
        Command::Cleanup(args) => admin::cleanup(at, &args),
        Command::Bench(args) => bench::bench(at, &args),
        Command::Completions { .. } => Ok(()),
    };
    // What was printed before a failure is printed all the same.
    let flushed = context.out.flush();
    done.and(flushed)
}
