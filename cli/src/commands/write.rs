//! Commands that change one session.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};

use forklog::{
    Appended, At, Error, NewRecord, NewSession, OpenOptions, ProjectName, RecordId, Session, SessionKey, Store,
};
use serde_json::{Map, Value, json};

use super::Context;
use crate::args::{Append, Create, Fork, Set};
use crate::names::{self, Name};
use crate::output::{Done, Failure};

/// The longest line that is read: what the store allows.
const MAX_LINE: u64 = 64 << 20;

pub(super) fn create(at: &mut Context, args: Create) -> Done {
    let mut new = match (&args.project, &args.id) {
        (project, Some(id)) => NewSession::named(names::key(project.as_deref(), id)?),
        (Some(project), None) => NewSession::in_project(ProjectName::new(project.as_str())?),
        (None, None) => NewSession::default(),
    };
    if let Some(meta) = &args.meta {
        new = new.meta(object(meta)?);
    }
    if let Some(title) = args.title {
        new = new.title(title);
    }
    for tag in args.tags {
        new = new.tag(tag);
    }
    let session = at.store_or_new()?.create(new)?;
    made(at, session)
}

/// Closes a new session, and says what it is called.
fn made(at: &mut Context, session: Session) -> Done {
    let key = session.key().clone();
    session.close()?;
    at.out.either(key.session.as_str(), &json!({"id": key.session, "project": key.project}))
}

fn object(text: &str) -> Done<Map<String, Value>> {
    serde_json::from_str(text).map_err(|error| Failure::Usage(format!("--meta: a JSON object is wanted: {error}")))
}

pub(super) fn append(at: &mut Context, args: &Append) -> Done {
    let (store, key) = (at.store()?, args.name.key()?);
    let options = OpenOptions { durability: args.durability, spill_over: args.spill_over, ..OpenOptions::default() };
    let mut input: Box<dyn BufRead> = match &args.file {
        Some(path) => {
            let io = |source| Error::Io { op: "read", path: path.clone(), source };
            let file = File::open(path).map_err(io)?;
            if file.metadata().map_err(io)?.is_dir() {
                return Err(io(io::ErrorKind::IsADirectory.into()).into());
            }
            Box::new(BufReader::with_capacity(1 << 18, file))
        }
        None => Box::new(io::stdin().lock()),
    };
    let session = match &args.side {
        None => store.session_with(&key, options)?,
        Some(side) => store.side(&key, side, options)?,
    };
    let mut count = Count::default();
    let appended = if args.batch {
        append_batch(&session, &mut input, args, &mut count)
    } else {
        append_each(&session, &mut input, args, &mut count)
    };
    let closed = session.close();
    let value = json!({"appended": count.appended, "duplicates": count.duplicates});
    at.out.value(&value)?;
    appended?;
    Ok(closed?)
}

/// What became of the lines.
#[derive(Default)]
struct Count {
    appended: u64,
    duplicates: u64,
}

impl Count {
    fn add(&mut self, appended: Appended) {
        match appended {
            Appended::New(_) => self.appended += 1,
            Appended::Duplicate => self.duplicates += 1,
        }
    }
}

fn append_each(session: &Session, input: &mut dyn BufRead, args: &Append, count: &mut Count) -> Done {
    let (mut line, mut number) = (Vec::new(), 0);
    while next_line(input, &mut line, &mut number)? {
        let appended = record(&line, args.id_field.as_deref()).and_then(|record| session.append_record(&record));
        count.add(appended.map_err(|error| before(number, count.appended, error))?);
    }
    Ok(())
}

fn append_batch(session: &Session, input: &mut dyn BufRead, args: &Append, count: &mut Count) -> Done {
    let (mut lines, mut line, mut number) = (Vec::new(), Vec::new(), 0);
    while next_line(input, &mut line, &mut number)? {
        let checked = record(&line, args.id_field.as_deref()).map(drop);
        checked.map_err(|error| before(number, 0, error))?;
        lines.push(std::mem::take(&mut line));
    }
    let records: Result<Vec<_>, _> = lines.iter().map(|line| record(line, args.id_field.as_deref())).collect();
    session.append_batch(&records?)?.into_iter().for_each(|appended| count.add(appended));
    Ok(())
}

/// The error of a line, and what came before it.
fn before(number: u64, appended: u64, error: Error) -> Failure {
    let rest = match appended {
        0 => "nothing was appended".to_owned(),
        n => format!("the {n} before it are appended, --batch appends all or none"),
    };
    Failure::At(format!("line {number} ({rest})"), error)
}

/// Reads the next line that is not empty; false at the end.
fn next_line(input: &mut dyn BufRead, line: &mut Vec<u8>, number: &mut u64) -> Done<bool> {
    loop {
        line.clear();
        *number += 1;
        // One byte more than is allowed tells that there is too much, without reading all of it.
        if input.take(MAX_LINE + 1).read_until(b'\n', line)? == 0 {
            return Ok(false);
        }
        if !line.trim_ascii().is_empty() {
            return Ok(true);
        }
    }
}

fn record<'a>(line: &'a [u8], id_field: Option<&str>) -> forklog::Result<NewRecord<'a>> {
    if line.len() as u64 > MAX_LINE {
        return Err(Error::TooLarge { len: line.len() as u64, max: MAX_LINE });
    }
    let record = NewRecord::json(line.trim_ascii())?;
    let Some(field) = id_field else { return Ok(record) };
    let members: Map<String, Value> = serde_json::from_slice(line)
        .map_err(|_| Error::BadArgument { why: format!("no object with a member {field:?}") })?;
    match members.get(field) {
        Some(Value::String(id)) => Ok(record.id(RecordId::new(id.as_str())?)),
        Some(Value::Number(id)) => Ok(record.id(RecordId::new(id.to_string())?)),
        // A line without an id is appended, as one that nobody can tell from another.
        None | Some(Value::Null) => Ok(record),
        Some(_) => Err(Error::BadArgument { why: format!("member {field:?} is neither a string nor a number") }),
    }
}

pub(super) fn fork(at: &mut Context, args: Fork) -> Done {
    let (store, parent) = (at.store()?, args.name.key()?);
    let place = choose(args.at, args.at_id);
    let new = match &args.new {
        None => NewSession::in_project(parent.project.clone()),
        Some(new) if new.contains('/') => NewSession::named(names::key(None, new)?),
        Some(new) => NewSession::named(names::key(Some(parent.project.as_str()), new)?),
    };
    let session = match &args.side {
        None => store.fork(&parent, &place, new)?,
        Some(side) => store.fork_side(&parent, side, &place, new)?,
    };
    made(at, session)
}

pub(super) fn choose(place: Option<At>, id: Option<RecordId>) -> At {
    id.map(At::Id).or(place).unwrap_or(At::Head)
}

/// Moves a session's head, and prints the position that it left.
pub(super) fn moved(
    at: &mut Context,
    name: &Name,
    to: impl FnOnce(&Session) -> forklog::Result<forklog::Position>,
) -> Done {
    let session = open(&at.store()?, &name.key()?)?;
    let left = to(&session)?;
    session.close()?;
    at.out.either(&left.to_string(), &json!({"left": left}))
}

fn open(store: &Store, key: &SessionKey) -> Done<Session> {
    Ok(store.session(key)?)
}

pub(super) fn set(at: &mut Context, args: Set) -> Done {
    let mut patch = args.meta.as_deref().map(object).transpose()?.unwrap_or_default();
    if let Some(title) = args.title {
        patch.insert("title".to_owned(), Value::String(title));
    }
    if args.archive || args.unarchive {
        patch.insert("archived".to_owned(), Value::Bool(args.archive));
    }
    if patch.is_empty() && args.tags.is_empty() && args.untags.is_empty() {
        return Err(Failure::Usage("nothing to set; see `forklog set --help`".to_owned()));
    }
    let session = open(&at.store()?, &args.name.key()?)?;
    if !args.tags.is_empty() || !args.untags.is_empty() {
        let given = patch.get("tags").cloned();
        let there = given.or_else(|| session.meta().ok()?.get("tags").cloned()).unwrap_or_default();
        patch.insert("tags".to_owned(), tags(&there, args.tags, &args.untags));
    }
    session.set(&Value::Object(patch))?;
    let meta = session.meta()?;
    session.close()?;
    if at.out.json { at.out.value(&meta) } else { Ok(()) }
}

/// The tags that are there, with and without some.
fn tags(there: &Value, add: Vec<String>, remove: &[String]) -> Value {
    let there = there.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
    let mut tags: Vec<String> = Vec::new();
    for tag in there.chain(add) {
        if !remove.contains(&tag) && !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    Value::from(tags)
}
