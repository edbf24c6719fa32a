//! The process that is killed, or whose disk is: it does a program and says what has begun and what was acknowledged.
//!
//! Each line on standard output is written by one system call before the next operation begins, so the parent knows what
//! was acknowledged, whatever becomes of this process:
//!
//! ```text
//! begin 17
//! done 17 230        230 entries were in the block log by then; 0 without one
//! none 18            there was nothing to do: no such session, nothing to undo
//! failed 19 ERROR
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use forklog::checkpoint::PlanOptions;
use forklog::import::{Format, discover};
use forklog::{At, Error, FilesTarget, NewSession, Scope, Seq, Session, Store};
use forklog_soak::model::{Files, Which};
use forklog_soak::{key, new_record, side_name};

use crate::blocklog;
use crate::place::Place;
use crate::program::{FILES, IMPORTED, INTERVAL, Op, Program, Step, kept};

/// Which part of a program, where, and what becomes of it.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) place: Place,
    pub(crate) program: Program,
    /// The first operation, and the one before which it ends.
    pub(crate) steps: (u64, u64),
    /// The agent's edits are synced, so that a power cut leaves them.
    pub(crate) synced: bool,
    /// The log of the block device below.
    pub(crate) log: Option<PathBuf>,
}

/// Does it; ends at the first failure.
pub(crate) fn run(task: &Task) -> io::Result<()> {
    let mut worker = Worker { task, store: None, open: BTreeMap::new(), turned: false };
    for n in task.steps.0..task.steps.1 {
        let step = task.program.step(n);
        say(&format!("begin {n}"))?;
        match worker.step(step) {
            Ok(true) => {
                let entries = task.log.as_deref().map_or(0, blocklog::entries);
                say(&format!("done {n} {entries}"))?;
            }
            Ok(false) => say(&format!("none {n}"))?,
            Err(error) => return say(&format!("failed {n} {:?}: {error}", step.op)),
        }
    }
    Ok(())
}

/// Prints a line at once.
pub(crate) fn say(line: &str) -> io::Result<()> {
    io::stdout().write_all(format!("{line}\n").as_bytes())?;
    io::stdout().flush()
}

struct Worker<'a> {
    task: &'a Task,
    store: Option<Store>,
    open: BTreeMap<Which, Session>,
    /// Whether the files are as a checkpoint of this process has them.
    turned: bool,
}

impl Worker<'_> {
    /// Runs a step; false when there was nothing to do.
    fn step(&mut self, step: Step) -> Result<bool, Failure> {
        match self.try_step(step) {
            Err(Failure::Engine(Error::NotFound { .. } | Error::Exists { .. } | Error::NothingTo { .. })) => Ok(false),
            other => other,
        }
    }

    fn try_step(&mut self, step: Step) -> Result<bool, Failure> {
        let Step { op, which, .. } = step;
        match op {
            Op::Create => {
                let new = NewSession::named(key(which.0)).options(self.task.program.options(which.0));
                let session = self.store()?.create(new)?;
                self.open.insert(which, session);
            }
            Op::Fork(of) => {
                let keep = kept(self.store()?.read(&key(of))?.len());
                let at = if keep == 0 { At::Head } else { At::Seq(Seq::new(keep - 1)) };
                let new = NewSession::named(key(which.0)).options(self.task.program.options(which.0));
                let session = self.store()?.fork(&key(of), &at, new)?;
                self.open.insert(which, session);
            }
            Op::Append | Op::AppendId | Op::Batch => {
                let records = step.records();
                let session = self.session(which)?;
                match records.as_slice() {
                    [(payload, None)] => drop(session.append_json(payload.as_bytes())?),
                    records => drop(session.append_batch(&records.iter().map(new_record).collect::<Vec<_>>())?),
                }
            }
            Op::Sync => match self.open.get(&which) {
                Some(session) => session.sync()?,
                None => return Ok(false),
            },
            Op::Close => match self.open.remove(&which) {
                Some(session) => session.close()?,
                None => return Ok(false),
            },
            Op::Set => self.session(which)?.set(&step.patch())?,
            Op::Rewind => {
                let session = self.session(which)?;
                let Some(last) = kept(session.head()?.records).checked_sub(1) else { return Ok(false) };
                session.rewind(&At::Seq(Seq::new(last)))?;
            }
            Op::Undo => drop(self.session(which)?.undo()?),
            Op::Redo => drop(self.session(which)?.redo()?),
            Op::Delete => {
                let names: Vec<Which> = self.open.keys().filter(|open| open.0 == which.0).copied().collect();
                for session in names.iter().filter_map(|which| self.open.remove(which)).collect::<Vec<_>>() {
                    session.close()?;
                }
                self.store()?.delete(&key(which.0))?;
            }
            Op::Gc => drop(self.store()?.gc(false)?),
            Op::Reroot => drop(self.store()?.reroot(&key(which.0))?),
            Op::List => drop(self.store()?.entries()?),
            Op::Reindex => drop(self.store()?.reindex()?),
            Op::Tick => self.store()?.tick()?,
            Op::Wait => {
                // In naps, as the engine's thread waits: one that is stopped from outside counts none of them.
                const NAP: Duration = Duration::from_millis(10);
                for _ in 0..INTERVAL.as_millis() / 10 + 25 {
                    std::thread::sleep(NAP);
                }
            }
            Op::Import => self.import(step)?,
            Op::Turn => self.turn(step)?,
            Op::FilesRewind | Op::FilesUndo | Op::FilesRedo => return self.move_files(op),
        }
        Ok(true)
    }

    fn store(&mut self) -> Result<&Store, Error> {
        let store = match self.store.take() {
            Some(store) => store,
            None => Store::open(self.task.place.store())?,
        };
        Ok(self.store.insert(store))
    }

    /// The session, opened unless it is open.
    fn session(&mut self, which: Which) -> Result<&Session, Error> {
        if !self.open.contains_key(&which) {
            let options = self.task.program.options(which.0);
            let store = self.store()?;
            let session = match which.1 {
                None => store.session_with(&key(which.0), options)?,
                Some(side) => store.side(&key(which.0), &side_name(side), options)?,
            };
            self.open.insert(which, session);
        }
        Ok(&self.open[&which])
    }

    fn import(&mut self, step: Step) -> Result<(), Failure> {
        let path = self.task.place.imports().join(format!("{}.jsonl", IMPORTED.0));
        let lines: String = step.imported().into_iter().map(|(line, _)| line + "\n").collect();
        fs::write(&path, lines)?;
        let mut found = discover(&[path], Some(Format::Jsonl))?;
        for source in &mut found.sources {
            let key = key(IMPORTED.0);
            (source.project, source.session) = (key.project, key.session);
        }
        let done = self.store()?.import(&found.sources, |_| ())?;
        match (done.failed.first(), done.files) {
            (None, 1) => Ok(()),
            (failed, _) => Err(Failure::System(io::Error::other(format!("not imported: {failed:?}")))),
        }
    }

    fn turn(&mut self, step: Step) -> Result<(), Failure> {
        self.turned = false;
        let options = self.task.program.options(FILES.0);
        if !self.open.contains_key(&FILES) {
            let session = match self.store()?.create(NewSession::named(key(FILES.0)).options(options)) {
                Err(Error::Exists { .. }) => self.store()?.session_with(&key(FILES.0), options)?,
                made => made?,
            };
            self.open.insert(FILES, session);
        }
        let (workspace, synced) = (self.task.place.workspace(), self.task.synced);
        let session = self.session(FILES)?;
        // A rewind that was cut off is carried to its end before the agent goes on.
        let files = session.files(&workspace)?;
        for (payload, _) in step.records() {
            session.append_json(payload.as_bytes())?;
        }
        edit(&workspace, &step.files(), synced)?;
        files.checkpoint(Some(&step.label()))?;
        drop(files);
        self.turned = true;
        Ok(())
    }

    fn move_files(&mut self, op: Op) -> Result<bool, Failure> {
        if !self.turned {
            return Ok(false);
        }
        let workspace = self.task.place.workspace();
        let session = self.session(FILES)?;
        let files = session.files(&workspace)?;
        let options = PlanOptions::default();
        match op {
            Op::FilesUndo => drop(files.undo(&options)?),
            Op::FilesRedo => drop(files.redo(&options)?),
            _ => {
                let Some(last) = kept(session.head()?.records).checked_sub(1) else { return Ok(false) };
                files.rewind(&FilesTarget::At(At::Seq(Seq::new(last))), Scope::Both, &options)?;
            }
        }
        Ok(true)
    }
}

/// What an operation can fail with.
#[derive(Debug)]
enum Failure {
    Engine(Error),
    System(io::Error),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Engine(error) => write!(f, "{error}"),
            Self::System(error) => write!(f, "the workspace: {error}"),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// Makes the workspace hold these files and no others, as an agent does that thinks nothing of crashes.
fn edit(root: &Path, files: &Files, synced: bool) -> io::Result<()> {
    for (path, _) in Place::files_below(root)? {
        if !files.contains_key(&path) {
            fs::remove_file(root.join(path))?;
        }
    }
    let mut dirs = vec![root.to_owned()];
    for (path, bytes) in files {
        let path = root.join(path);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
            dirs.extend(dir.ancestors().take_while(|dir| dir.starts_with(root)).map(Path::to_owned));
        }
        fs::write(&path, &bytes.0)?;
        if synced {
            File::open(&path)?.sync_all()?;
        }
    }
    if synced {
        Place::dirs_below(root)?.iter().try_for_each(|dir| File::open(dir)?.sync_all())?;
    }
    Ok(())
}
