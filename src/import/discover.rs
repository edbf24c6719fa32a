//! Which files there are to import, what they are, and what they are called in a store.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::members::{Scan, decode, text};
use crate::ids::{ProjectName, SessionId, SideName};

/// Bytes at a file's start that are read to tell its format.
const SNIFF: u64 = 1 << 20;
/// Directories below a path that are looked into; deeper ones are no transcripts.
const MAX_DEPTH: usize = 16;

/// Whose transcripts they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// Claude Code, and the Claude Agent SDKs' own files.
    ClaudeCode,
    /// Rollouts of Codex.
    Codex,
    /// One JSON value on each line, from whatever program.
    Jsonl,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClaudeCode => "claude-code",
            Self::Codex => "codex",
            Self::Jsonl => "jsonl",
        })
    }
}

impl std::str::FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        [Self::ClaudeCode, Self::Codex, Self::Jsonl].into_iter().find(|format| format.to_string() == name).ok_or_else(
            || Error::BadArgument { why: format!("{name:?} is no format; there are claude-code, codex and jsonl") },
        )
    }
}

/// One file to import, and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// What wrote it.
    pub format: Format,
    /// The file.
    pub path: PathBuf,
    /// Its length when it was found, for showing progress.
    pub len_bytes: u64,
    /// The project that its session belongs to.
    pub project: ProjectName,
    /// The session.
    pub session: SessionId,
    /// The side transcript, where it is not the main one.
    pub side: Option<SideName>,
}

/// What [`discover`] found.
#[derive(Debug, Default)]
pub struct Discovery {
    /// By project and session, a session's main transcript before its side transcripts. No two have the same names.
    pub sources: Vec<Source>,
    /// Files and directories that could not be read, and why.
    pub skipped: Vec<Error>,
}

/// Finds the transcripts in files and directories, in any order and without regard to how often they are named.
///
/// A file is taken whatever its name; of a directory, every `*.jsonl` in it and below. Of a directory `.claude` only
/// `projects` is taken, and of a directory `.codex` only `sessions`: what else is there is no transcript. Hidden
/// directories below and symbolic links to directories are not entered. The format is told by the content of the
/// first lines, unless `format` says it. Where two files would get the same names, a hash of its path is put behind
/// the session's id of each but the first. Cost: reads up to 1 MiB of each file.
///
/// # Errors
///
/// [`Error::Io`] when one of `paths` cannot be read. What cannot be read below them is in [`Discovery::skipped`].
pub fn discover<P: AsRef<Path>>(paths: &[P], format: Option<Format>) -> Result<Discovery> {
    let mut found = Discovery::default();
    let mut files = Vec::new();
    for path in paths.iter().map(AsRef::as_ref) {
        let about = fs::metadata(path).map_err(|error| Error::io("read", path, error))?;
        if about.is_dir() {
            walk(&start(path), MAX_DEPTH, &mut files, &mut found.skipped)?;
        } else {
            files.push(path.to_owned());
        }
    }
    let mut seen = HashSet::new();
    for path in files {
        match fs::canonicalize(&path).map_err(|error| Error::io("read", &path, error)) {
            Ok(real) if !seen.insert(real.clone()) => {}
            Ok(real) => match Source::look(path, &real, format) {
                Ok(source) => found.sources.push(source),
                Err(error) => found.skipped.push(error),
            },
            Err(error) => found.skipped.push(error),
        }
    }
    found.sources.sort_by(|a, b| a.names().cmp(&b.names()).then_with(|| a.path.cmp(&b.path)));
    tell_apart(&mut found.sources);
    Ok(found)
}

/// Where to begin in a directory that the user named.
fn start(path: &Path) -> PathBuf {
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let below = match real.file_name().and_then(OsStr::to_str) {
        Some(".claude") => path.join("projects"),
        Some(".codex") => path.join("sessions"),
        _ => return path.to_owned(),
    };
    if below.is_dir() { below } else { path.to_owned() }
}

/// Collects the transcripts in and below `directory`. An error is one of `directory` itself.
fn walk(directory: &Path, depth: usize, files: &mut Vec<PathBuf>, skipped: &mut Vec<Error>) -> Result<()> {
    let entries = fs::read_dir(directory).map_err(|error| Error::io("read", directory, error))?;
    for entry in entries {
        // What went away meanwhile is no loss.
        let Ok(entry) = entry else { continue };
        let Ok(kind) = entry.file_type() else { continue };
        let path = entry.path();
        if kind.is_dir() {
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            if !hidden && depth > 0 {
                let unreadable = walk(&path, depth - 1, files, skipped).err();
                skipped.extend(unreadable);
            }
        } else if path.extension() == Some(OsStr::new("jsonl")) && path.is_file() {
            files.push(path);
        }
    }
    Ok(())
}

fn tell_apart(sources: &mut [Source]) {
    let mut taken = HashSet::new();
    for source in sources {
        if !taken.insert((source.project.clone(), source.session.clone(), source.side.clone())) {
            let mended = mended(source.session.as_str(), &source.path.to_string_lossy());
            source.session = SessionId::new(mended).unwrap_or_else(|_| source.session.clone());
        }
    }
}

impl Source {
    fn names(&self) -> (&ProjectName, &SessionId, &Option<SideName>) {
        (&self.project, &self.session, &self.side)
    }

    /// Reads the start of `path` and names it; `real` is the same file without links and dots in its path.
    fn look(path: PathBuf, real: &Path, format: Option<Format>) -> Result<Self> {
        let io = |error| Error::io("read", &path, error);
        let file = File::open(&path).map_err(io)?;
        let len_bytes = file.metadata().map_err(io)?.len();
        let mut head = Vec::new();
        file.take(SNIFF).read_to_end(&mut head).map_err(io)?;
        let seen = Sniffed::of(&head);
        let format = format.or(seen.format).unwrap_or_else(|| format_by_name(real));
        let (project, session, side) = match format {
            Format::ClaudeCode => claude_names(real, &seen)?,
            Format::Codex => codex_names(real, &seen)?,
            Format::Jsonl => (project_name(parent_name(real, 1))?, session_id(&stem(real))?, None),
        };
        Ok(Self { format, path, len_bytes, project, session, side })
    }
}

/// What the first lines of a file tell.
#[derive(Default)]
struct Sniffed {
    format: Option<Format>,
    session: Option<String>,
    cwd: Option<String>,
}

impl Sniffed {
    fn of(head: &[u8]) -> Self {
        let mut seen = Self::default();
        for line in head.split(|c| *c == b'\n') {
            seen.look(line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line));
            if seen.format.is_some() && seen.session.is_some() {
                break;
            }
        }
        seen
    }

    fn look(&mut self, line: &[u8]) {
        let mut scan = Scan::new(line);
        let (mut kind, mut claude, mut payload) = (None, false, None);
        if !scan.enter(b'{') {
            return;
        }
        while let Some(key) = scan.key() {
            let value = scan.value();
            match key {
                b"type" => kind = value,
                b"payload" => payload = value,
                b"sessionId" => {
                    self.session = self.session.take().or_else(|| word(value));
                    claude = true;
                }
                b"leafUuid" | b"parentUuid" | b"isSnapshotUpdate" => claude = true,
                _ => {}
            }
        }
        let guess = match text(kind) {
            b"" => None,
            b"session_meta" | b"turn_context" | b"response_item" | b"event_msg" if payload.is_some() => {
                Some(Format::Codex)
            }
            _ => claude.then_some(Format::ClaudeCode),
        };
        self.format = self.format.or(guess);
        if text(kind) == b"session_meta" {
            self.look_at_meta(payload);
        }
    }

    fn look_at_meta(&mut self, payload: Option<&[u8]>) {
        let mut scan = Scan::new(payload.unwrap_or_default());
        if self.session.is_some() || !scan.enter(b'{') {
            return;
        }
        while let Some(key) = scan.key() {
            let value = scan.value();
            match key {
                b"id" => self.session = word(value),
                b"cwd" => self.cwd = word(value),
                _ => {}
            }
        }
    }
}

fn word(value: Option<&[u8]>) -> Option<String> {
    Some(decode(text(value), 4096)).filter(|word| !word.is_empty())
}

fn format_by_name(path: &Path) -> Format {
    let stem = stem(path);
    if stem.starts_with("rollout-") {
        Format::Codex
    } else if stem.starts_with("agent-") {
        Format::ClaudeCode
    } else {
        Format::Jsonl
    }
}

type Names = (ProjectName, SessionId, Option<SideName>);

fn claude_names(path: &Path, seen: &Sniffed) -> Result<Names> {
    if let Some(names) = subagent_names(path) {
        return names;
    }
    let (project, stem) = (project_name(parent_name(path, 1))?, stem(path));
    match &seen.session {
        Some(session) if stem.starts_with("agent-") => Ok((project, session_id(session)?, Some(side_name(&stem)?))),
        _ => Ok((project, session_id(&stem)?, None)),
    }
}

/// The names of `SLUG/SESSION/subagents/…`, if that is where `path` is.
fn subagent_names(path: &Path) -> Option<Result<Names>> {
    let mut side = stem(path);
    let mut directory = path.parent()?;
    while directory.file_name()? != "subagents" {
        side = format!("{}/{side}", directory.file_name()?.to_string_lossy());
        directory = directory.parent()?;
    }
    let session = parent_name(directory, 1)?;
    let names = || {
        let project = project_name(parent_name(directory, 2))?;
        Ok((project, session_id(&session)?, Some(side_name(&format!("subagents/{side}"))?)))
    };
    Some(names())
}

/// Codex keeps rollouts by date, not by directory; so that the sessions of one directory come together with those of
/// Claude Code, its path is spelled as Claude Code does.
fn codex_names(path: &Path, seen: &Sniffed) -> Result<Names> {
    let slug = |cwd: &String| cwd.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let project = project_name(Some(seen.cwd.as_ref().map_or("codex".to_owned(), slug)))?;
    let stem = stem(path);
    let tail = stem.len().checked_sub(36).and_then(|at| stem.get(at..));
    let uuid = tail.filter(|tail| uuid::Uuid::try_parse(tail).is_ok());
    Ok((project, session_id(uuid.or(seen.session.as_deref()).unwrap_or(&stem))?, None))
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The name of the directory `levels` above `path`.
fn parent_name(path: &Path, levels: usize) -> Option<String> {
    Some(path.ancestors().nth(levels)?.file_name()?.to_string_lossy().into_owned())
}

fn project_name(name: Option<String>) -> Result<ProjectName> {
    let Some(name) = name else { return Ok(ProjectName::default_project()) };
    ProjectName::new(&*name).or_else(|_| ProjectName::new(mended(&name, &name)))
}

fn session_id(name: &str) -> Result<SessionId> {
    SessionId::new(name).or_else(|_| SessionId::new(mended(name, name)))
}

fn side_name(name: &str) -> Result<SideName> {
    SideName::new(name).or_else(|_| SideName::new(mended(name, name)))
}

/// `name` with `-` for what no name may hold, cut, and behind it the start of a hash of `whole`.
fn mended(name: &str, whole: &str) -> String {
    let allowed = |c: &char| c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '/' | '.');
    let plain: String = name.chars().take(100).map(|c| if allowed(&c) { c } else { '-' }).collect();
    let hash = blake3::hash(whole.as_bytes()).to_hex();
    format!("{plain}-{}", hash.get(..8).unwrap_or_default())
}

#[cfg(test)]
mod tests;
