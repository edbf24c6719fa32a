//! Commands that list sessions, or tell about one.

use forklog::{Archived, Entry, Env as _, Error, Filter, Named, OsEnv, ProjectName};
use serde_json::json;

use super::Context;
use crate::args::{Latest, Ls, Which};
use crate::names::Name;
use crate::output::{Done, Failure, bytes, facts, say, sessions};

/// Sessions that people are shown unless they say how many.
const LIMIT: usize = 50;
/// Sessions that are looked up at once.
const PAGE: usize = 1000;

impl Which {
    pub(super) fn filter(&self) -> Done<Filter> {
        if [self.min_cost, self.max_cost].iter().flatten().any(|cost| !cost.is_finite()) {
            return Err(Failure::Usage("a cost is a finite number".to_owned()));
        }
        Ok(Filter {
            project: self.project.as_deref().map(ProjectName::new).transpose()?,
            tags_all: self.tags.clone(),
            updated_from: self.after,
            updated_before: self.before,
            min_cost: self.min_cost,
            max_cost: self.max_cost,
            model: self.model.clone(),
            text: self.text.clone(),
            archived: if self.all { Archived::Shown } else { Archived::Hidden },
            ..Filter::default()
        })
    }
}

pub(super) fn ls(at: &mut Context, args: &Ls) -> Done {
    let (store, filter) = (at.store()?, args.which.filter()?);
    let mut left = args.limit.unwrap_or(if at.out.json { usize::MAX } else { LIMIT });
    let (mut cursor, mut shown) = (args.cursor, Vec::new());
    while left > 0 {
        let page = store.list(&filter, cursor, left.min(PAGE))?;
        left -= page.entries.len().min(left);
        cursor = page.next;
        if at.out.json {
            page.entries.iter().try_for_each(|entry| at.out.value(entry))?;
        } else {
            shown.extend(page.entries);
        }
        if cursor.is_none() {
            break;
        }
    }
    if at.out.json {
        return cursor.filter(|_| args.limit.is_some()).map_or(Ok(()), |next| at.out.value(&json!({"next": next})));
    }
    if shown.is_empty() {
        say("no sessions");
        return Ok(());
    }
    at.out.raw(sessions(&shown, OsEnv.now().as_millis()).as_bytes())?;
    if let Some(next) = cursor {
        at.out.flush()?;
        say(&format!("more: --cursor {next}"));
    }
    Ok(())
}

pub(super) fn latest(at: &mut Context, args: &Latest) -> Done {
    let project = args.project.as_deref().map(ProjectName::new).transpose()?;
    let Some(entry) = at.store()?.latest(project.as_ref())? else {
        let name = project.map_or("in this store".to_owned(), |project| format!("in project {project}"));
        return Err(Error::NotFound { what: Named::Session, name }.into());
    };
    at.out.either(&entry.key.to_string(), &entry)
}

pub(super) fn info(at: &mut Context, name: &Name) -> Done {
    let (store, key) = (at.store()?, name.key()?);
    let entry = store.entry(&key)?;
    let (sides, meta) = (store.sides(&key)?, store.read(&key)?.meta());
    if at.out.json {
        let mut value = serde_json::to_value(&entry).map_err(|error| Failure::Pipe(error.into()))?;
        if let Some(members) = value.as_object_mut() {
            members.insert("sides".to_owned(), json!(sides));
            members.insert("meta".to_owned(), meta.into());
        }
        return at.out.value(&value);
    }
    let sides: Vec<&str> = sides.iter().map(forklog::SideName::as_str).collect();
    at.out.raw(about(&entry, &sides).as_bytes())
}

fn about(entry: &Entry, sides: &[&str]) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let marks = [("live", entry.live), ("archived", entry.archived), ("DAMAGED", entry.damaged)];
    let marks: Vec<&str> = marks.iter().filter(|(_, set)| *set).map(|(mark, _)| *mark).collect();
    facts(&[
        ("session", entry.key.to_string()),
        ("title", text(&entry.title)),
        ("description", text(&entry.description)),
        ("state", marks.join(", ")),
        ("created", entry.created.to_string()),
        ("updated", entry.updated.to_string()),
        ("records", entry.records.to_string()),
        ("messages", entry.messages.to_string()),
        ("turns", entry.turns.to_string()),
        ("cost", entry.total_cost.map_or(String::new(), |cost| cost.to_string())),
        ("model", text(&entry.model)),
        ("tags", entry.tags.join(", ")),
        ("first prompt", text(&entry.first_prompt)),
        ("summary", text(&entry.summary)),
        ("directory", text(&entry.cwd)),
        ("branch", text(&entry.git_branch)),
        ("forked from", entry.parent.as_ref().map_or(String::new(), ToString::to_string)),
        ("forked at", entry.fork_point.map_or(String::new(), |at| at.to_string())),
        ("sides", sides.join(", ")),
        ("size", bytes(entry.size_bytes)),
        ("head", entry.head.to_string()),
    ])
}
