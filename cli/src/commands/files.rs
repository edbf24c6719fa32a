//! Commands that keep the files of a workspace, and bring them back.

use std::path::{Path, PathBuf};

use forklog::checkpoint::{Change, Plan, PlanOptions, Skipped, Why};
use forklog::workspace::RelPath;
use forklog::{Env as _, FilesMoved, FilesTarget, OsEnv, Position, Reader, Scope, Session, SessionFiles, Store, Uid};
use serde_json::{Value, json};

use super::Context;
use super::write::{choose, moved};
use crate::args::{Back, Checkpoint, How, Rewind};
use crate::names::Name;
use crate::output::{self, Done, Failure, Out, clean, say};

/// The shortest beginning of an id that stands for a checkpoint.
const SHORTEST: usize = 4;

/// A workspace: where it is, and what the session's records call it when it has moved.
struct Place {
    dir: PathBuf,
    was: Option<PathBuf>,
}

impl Place {
    /// The files that `recorded` names, which is where they were, unless somebody says where they are.
    fn of(recorded: &Path, said: Option<&Path>) -> Done<Self> {
        let Some(said) = said else {
            return match recorded.is_dir() {
                true => Ok(Self { dir: recorded.to_owned(), was: None }),
                false => Err(gone(recorded)),
            };
        };
        let dir = directory(said)?;
        if dir == recorded {
            return Ok(Self { dir, was: None });
        }
        if recorded.exists() {
            let (dir, recorded) = (dir.display(), recorded.display());
            return Err(Failure::Missing(format!("{dir} is not where the session's files are, that is {recorded}")));
        }
        say(&format!("note: {} is taken for {}, which is not there any more", dir.display(), recorded.display()));
        Ok(Self { dir, was: Some(recorded.to_owned()) })
    }

    #[cfg(unix)]
    fn open<'s>(&self, session: &'s Session) -> Done<SessionFiles<'s>> {
        Ok(match &self.was {
            None => session.files(&self.dir)?,
            Some(was) => session.files_moved(&self.dir, was)?,
        })
    }

    #[cfg(not(unix))]
    fn open<'s>(&self, _session: &'s Session) -> Done<SessionFiles<'s>> {
        Err(Failure::Usage("files are kept on Unix only".to_owned()))
    }
}

fn gone(recorded: &Path) -> Failure {
    let why = "which is not there; if it has moved, say where to with --workspace DIR";
    Failure::Missing(format!("the files are those of {}, {why}", recorded.display()))
}

/// An existing directory, without symbolic links on the way.
fn directory(said: &Path) -> Done<PathBuf> {
    match std::fs::canonicalize(said) {
        Ok(dir) if dir.is_dir() => Ok(dir),
        _ => Err(Failure::Missing(format!("there is no directory {}", said.display()))),
    }
}

/// The directory of files that are only to be looked at.
pub(super) fn whereabouts(recorded: &Path, said: Option<&Path>) -> Done<PathBuf> {
    match said {
        Some(said) => directory(said),
        None if recorded.is_dir() => Ok(recorded.to_owned()),
        None => Err(gone(recorded)),
    }
}

/// The checkpoint of the view that a name stands for: its id, at least four digits that only its id begins with, or its label. Of
/// several with one label it is the newest.
pub(super) fn named(reader: &Reader, name: &str) -> Done<forklog::Checkpoint> {
    let mut all = reader.checkpoints()?;
    if let Some(at) = all.iter().rposition(|found| found.label.as_deref() == Some(name)) {
        return Ok(all.swap_remove(at));
    }
    let begins = |found: &forklog::Checkpoint| SHORTEST <= name.len() && found.id.to_string().starts_with(name);
    let mut found = all.into_iter().filter(begins);
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => {
            Err(Failure::Usage(format!("several checkpoints begin with {name}; give more of the id")))
        }
        (None, _) => Err(forklog::Error::NotFound { what: forklog::Named::Checkpoint, name: clean(name) }.into()),
    }
}

pub(super) fn checkpoint(at: &mut Context, args: &Checkpoint) -> Done {
    let (store, key) = (at.store()?, args.name.key()?);
    let known = store.read(&key)?.workspaces()?;
    let place = match (known.first(), args.workspace.as_deref()) {
        (Some(recorded), None) => Place::of(recorded, None)?,
        (None, None) => Place { dir: here()?, was: None },
        (None, Some(said)) => Place { dir: directory(said)?, was: None },
        (Some(recorded), Some(said)) => {
            let dir = directory(said)?;
            // A session may have files in more than one place.
            let another = known.contains(&dir) || recorded.exists();
            if another { Place { dir, was: None } } else { Place::of(recorded, Some(said))? }
        }
    };
    let paths = (args.paths.iter()).map(|path| below(&place.dir, path)).collect::<Done<Vec<_>>>()?;
    let session = store.session(&key)?;
    let files = place.open(&session)?;
    let taken = match paths.is_empty() {
        true => files.checkpoint(args.label.as_deref())?,
        false => files.checkpoint_paths(args.label.as_deref(), &paths)?,
    };
    drop(files);
    session.close()?;
    if at.out.json {
        return at.out.value(&taken);
    }
    for skipped in &taken.skipped {
        say(&format!("not in it: {}", about_skipped(skipped)));
    }
    at.out.raw(taken.id.to_string().as_bytes())
}

/// The current directory, unless it is one that nobody means to have checkpoints of.
fn here() -> Done<PathBuf> {
    let dir = directory(Path::new("."))?;
    if dir.parent().is_none() || dirs::home_dir().is_some_and(|home| home == dir) {
        let why = format!("to keep all of {}, say so with --workspace", dir.display());
        return Err(Failure::Usage(why));
    }
    Ok(dir)
}

/// The path of a file below the workspace; it need not exist.
fn below(root: &Path, path: &Path) -> Done<RelPath> {
    let outside = || Failure::Usage(format!("{} is not a file in {}", path.display(), root.display()));
    let full = std::path::absolute(path).map_err(|_| outside())?;
    if full.is_dir() && !full.is_symlink() {
        let why = "is a directory: name its files, or none for the whole workspace";
        return Err(Failure::Usage(format!("{} {why}", path.display())));
    }
    // What exists of the way there is resolved; the file itself may be a symbolic link, and is kept as one.
    let mut rest = vec![full.file_name().ok_or_else(outside)?];
    let mut dir = full.parent().ok_or_else(outside)?;
    let dir = loop {
        match std::fs::canonicalize(dir) {
            Ok(found) => break found,
            Err(_) => rest.push(dir.file_name().ok_or_else(outside)?),
        }
        dir = dir.parent().ok_or_else(outside)?;
    };
    let full = rest.iter().rev().fold(dir, |path, name| path.join(name));
    let inside = full.strip_prefix(root).map_err(|_| outside())?;
    RelPath::new(inside.as_os_str().as_encoded_bytes()).map_err(|_| outside())
}

pub(super) fn checkpoints(at: &mut Context, name: &Name) -> Done {
    let found = at.store()?.read(&name.key()?)?.checkpoints()?;
    if at.out.json {
        return found.iter().try_for_each(|one| at.out.value(one));
    }
    if found.is_empty() {
        say("no checkpoints");
        return Ok(());
    }
    at.out.raw(output::checkpoints(&found, OsEnv.now().as_millis()).as_bytes())
}

pub(super) fn rewind(at: &mut Context, args: Rewind) -> Done {
    let scope = match (args.files, args.files_only) {
        (true, _) => Scope::Both,
        (_, true) => Scope::Files,
        _ => return rewind_conversation(at, args),
    };
    let (store, key) = (at.store()?, args.name.key()?);
    let reader = store.read(&key)?;
    let (target, recorded) = match &args.to_checkpoint {
        Some(name) => {
            let found = named(&reader, name)?;
            (FilesTarget::Checkpoint(found.id), found.workspace)
        }
        None => (FilesTarget::At(choose(args.to, args.to_id)), known(&reader, args.how.workspace.as_deref())?),
    };
    let place = Place::of(&recorded, args.how.workspace.as_deref())?;
    let options = PlanOptions { only: args.only, force: args.how.force, count_lines: true };
    let session = store.session(&key)?;
    let files = place.open(&session)?;
    if args.how.dry_run {
        let plan = files.plan(&target, &options)?;
        return planned(&mut at.out, Some(&plan));
    }
    let done = files.rewind(&target, scope, &options)?;
    drop(files);
    session.close()?;
    tell(&mut at.out, &done, scope == Scope::Both)
}

/// The workspace that is meant when none or this one is said: the one that the session spoke of last, or this one, if the session knows it.
fn known(reader: &Reader, said: Option<&Path>) -> Done<PathBuf> {
    let known = reader.workspaces()?;
    let said = said.map(directory).transpose()?;
    if let Some(dir) = said.filter(|dir| known.contains(dir)) {
        return Ok(dir);
    }
    known.into_iter().next().ok_or_else(|| {
        Failure::Missing(format!("session {} has no checkpoint; `forklog checkpoint` takes one", reader.key()))
    })
}

fn rewind_conversation(at: &mut Context, args: Rewind) -> Done {
    if args.how.dry_run || args.how.force || args.how.workspace.is_some() {
        let why = "--workspace, --dry-run and --force are about files; add --files or --files-only";
        return Err(Failure::Usage(why.to_owned()));
    }
    let place = match &args.to_checkpoint {
        Some(name) => forklog::At::Position(named(&at.store()?.read(&args.name.key()?)?, name)?.position),
        None => choose(args.to, args.to_id),
    };
    moved(at, &args.name, |session| session.rewind(&place))
}

pub(super) fn undo(at: &mut Context, args: &Back) -> Done {
    back(at, args, Way { workspace: Session::undo_workspace, alone: Session::undo, plan: plan_undo, files: take_undo })
}

pub(super) fn redo(at: &mut Context, args: &Back) -> Done {
    back(at, args, Way { workspace: Session::redo_workspace, alone: Session::redo, plan: plan_redo, files: take_redo })
}

/// What undo and redo do alike.
struct Way {
    workspace: fn(&Session) -> forklog::Result<Option<PathBuf>>,
    alone: fn(&Session) -> forklog::Result<Position>,
    plan: fn(&SessionFiles<'_>, &PlanOptions) -> forklog::Result<Option<Plan>>,
    files: fn(&SessionFiles<'_>, &PlanOptions) -> forklog::Result<FilesMoved>,
}

fn plan_undo(files: &SessionFiles<'_>, options: &PlanOptions) -> forklog::Result<Option<Plan>> {
    files.plan_undo(options)
}

fn plan_redo(files: &SessionFiles<'_>, options: &PlanOptions) -> forklog::Result<Option<Plan>> {
    files.plan_redo(options)
}

fn take_undo(files: &SessionFiles<'_>, options: &PlanOptions) -> forklog::Result<FilesMoved> {
    files.undo(options)
}

fn take_redo(files: &SessionFiles<'_>, options: &PlanOptions) -> forklog::Result<FilesMoved> {
    files.redo(options)
}

fn back(at: &mut Context, Back { name, how }: &Back, way: Way) -> Done {
    let How { workspace, dry_run, force } = how;
    let session = at.store()?.session(&name.key()?)?;
    let Some(recorded) = (way.workspace)(&session)? else {
        if *dry_run {
            return planned(&mut at.out, None);
        }
        let left = (way.alone)(&session)?;
        session.close()?;
        return at.out.either(&left.to_string(), &json!({"left": left}));
    };
    let place = Place::of(&recorded, workspace.as_deref())?;
    let options = PlanOptions { force: *force, count_lines: true, ..PlanOptions::default() };
    let files = place.open(&session)?;
    if *dry_run {
        let plan = (way.plan)(&files, &options)?;
        return planned(&mut at.out, plan.as_ref());
    }
    let done = (way.files)(&files, &options)?;
    drop(files);
    session.close()?;
    tell(&mut at.out, &done, true)
}

/// Says what would become of files.
fn planned(out: &mut Out, plan: Option<&Plan>) -> Done {
    match plan {
        Some(plan) if out.json => out.value(plan),
        Some(plan) => show(out, plan, "would change"),
        None if out.json => out.value(&json!({
            "can_rewind": true, "files_changed": [], "insertions": 0, "deletions": 0, "conflicts": [], "skipped": [],
        })),
        None => out.raw(b"no file would change"),
    }
}

/// Says what became of files, and where the conversation was unless it stayed.
fn tell(out: &mut Out, done: &FilesMoved, conversation: bool) -> Done {
    let FilesMoved { left, plan, rescued, moved_aside, .. } = done;
    if out.json {
        let mut value = plan.as_ref().map_or_else(|| json!({}), |plan| json!(plan));
        if let Value::Object(members) = &mut value {
            members.insert("left".to_owned(), json!(conversation.then_some(left)));
            members.insert("rescued".to_owned(), json!(rescued));
            members.insert("moved_aside".to_owned(), json!(moved_aside));
        }
        return out.value(&value);
    }
    if let Some(plan) = plan {
        show(out, plan, "changed")?;
    }
    for path in rescued {
        out.raw(format!("saved    {}: it was changed meanwhile, and undo brings that back", shown(path)).as_bytes())?;
    }
    for path in moved_aside {
        out.raw(format!("renamed  {}: it was in the way and could not be kept", shown(path)).as_bytes())?;
    }
    if conversation { out.raw(left.to_string().as_bytes()) } else { Ok(()) }
}

fn show(out: &mut Out, plan: &Plan, verb: &str) -> Done {
    for file in &plan.files_changed {
        let lines = match (file.insertions, file.deletions) {
            (0, 0) => String::new(),
            (more, 0) => format!("  +{more}"),
            (0, less) => format!("  -{less}"),
            (more, less) => format!("  +{more} -{less}"),
        };
        out.raw(format!("{:<8} {}{lines}", word(file.change), shown(&file.path)).as_bytes())?;
    }
    for conflict in &plan.conflicts {
        let why = "changed since this session last saw it; --force goes over that, and undo brings it back";
        out.raw(format!("kept     {}: {why}", shown(&conflict.path)).as_bytes())?;
    }
    for skipped in &plan.skipped {
        out.raw(format!("skipped  {}", about_skipped(skipped)).as_bytes())?;
    }
    let files = counted(plan.files_changed.len() as u64, "file");
    let (more, less) = (counted(plan.insertions, "insertion"), counted(plan.deletions, "deletion"));
    out.raw(format!("{verb} {files}, {more}, {less}").as_bytes())
}

fn counted(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

fn word(change: Change) -> &'static str {
    match change {
        Change::Create => "create",
        Change::Modify => "modify",
        Change::Delete => "delete",
        Change::Chmod => "chmod",
        _ => "replace",
    }
}

fn about_skipped(skipped: &Skipped) -> String {
    let why = match skipped.why {
        Why::TooLarge => "too large",
        Why::Unreadable => "it cannot be read",
        Why::Special => "a pipe, socket or device",
        Why::NestedRepository => "a repository of its own",
        Why::TooDeep => "nested too deep",
        Why::BadName => "its name is too long",
        Why::DirectoryInUse => "it holds files that are not part of checkpoints",
        Why::InTheWay => "something that is kept is in the way",
        _ => "left out",
    };
    format!("{}: {why}", shown(&skipped.path))
}

/// A path as people see it.
fn shown(path: &RelPath) -> String {
    clean(&path.to_string())
}

/// The files of a directory, to compare them with a checkpoint.
#[cfg(unix)]
pub(super) fn look(store: &Store, dir: &Path) -> Done<forklog::checkpoint::Files> {
    Ok(store.files(dir)?)
}

#[cfg(not(unix))]
pub(super) fn look(_store: &Store, _dir: &Path) -> Done<forklog::checkpoint::Files> {
    Err(Failure::Usage("files are kept on Unix only".to_owned()))
}

/// The newest checkpoint of a whole workspace in the view, if any.
pub(super) fn newest(reader: &Reader) -> Done<Option<forklog::Checkpoint>> {
    Ok(reader.checkpoints()?.into_iter().rfind(|found| found.whole))
}

/// Its tree.
pub(super) fn tree(reader: &Reader, id: Uid) -> Done<forklog::objects::Entry> {
    Ok(reader.checkpoint_tree(id)?)
}
