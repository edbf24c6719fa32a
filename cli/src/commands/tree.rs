//! Which session was forked from which.

use std::collections::{HashMap, HashSet};

use forklog::{Entry, Error, Named, SessionKey};
use serde_json::json;

use super::Context;
use crate::args::Tree;
use crate::names;
use crate::output::{Done, Out, called, clean};

pub(super) fn tree(at: &mut Context, args: &Tree) -> Done {
    let asked = args.id.as_deref().map(|id| names::key(args.project.as_deref(), id)).transpose()?;
    let mut entries = at.store()?.entries()?;
    entries.sort_by(|a, b| a.created.cmp(&b.created).then_with(|| a.key.cmp(&b.key)));
    let forest = Forest::of(&entries);
    let mut roots = forest.roots.clone();
    if let Some(asked) = &asked {
        roots = vec![forest.root_of(asked)?];
    } else if let Some(project) = &args.project {
        roots.retain(|root| root.key.project.as_str() == project);
    }
    for root in roots {
        draw(&mut at.out, &forest, root, asked.as_ref())?;
    }
    Ok(())
}

/// Sessions by parent.
struct Forest<'a> {
    by_key: HashMap<&'a SessionKey, &'a Entry>,
    forks: HashMap<&'a SessionKey, Vec<&'a Entry>>,
    roots: Vec<&'a Entry>,
}

impl<'a> Forest<'a> {
    fn of(entries: &'a [Entry]) -> Self {
        let by_key: HashMap<_, _> = entries.iter().map(|entry| (&entry.key, entry)).collect();
        let (mut forks, mut roots): (HashMap<_, Vec<_>>, _) = (HashMap::new(), Vec::new());
        for entry in entries {
            // A deleted parent is not there any more. An id that was used again can name the session itself.
            match entry.parent.as_ref().filter(|parent| **parent != entry.key && by_key.contains_key(parent)) {
                Some(parent) => forks.entry(parent).or_default().push(entry),
                None => roots.push(entry),
            }
        }
        Self { by_key, forks, roots }
    }

    /// The oldest ancestor that is there.
    fn root_of(&self, key: &SessionKey) -> Done<&'a Entry> {
        let missing = || Error::NotFound { what: Named::Session, name: key.to_string() };
        let mut entry = *self.by_key.get(key).ok_or_else(missing)?;
        let mut seen = HashSet::from([&entry.key]);
        while let Some(parent) = entry.parent.as_ref().and_then(|parent| self.by_key.get(parent)) {
            if !seen.insert(&parent.key) {
                break;
            }
            entry = parent;
        }
        Ok(entry)
    }
}

/// Draws a session and its forks; a lineage may be deep, so without recursion.
fn draw(out: &mut Out, forest: &Forest<'_>, root: &Entry, asked: Option<&SessionKey>) -> Done {
    let mut todo = vec![(root, 0_usize, String::new(), String::new())];
    let mut seen = HashSet::new();
    while let Some((entry, depth, line, below)) = todo.pop() {
        if !seen.insert(&entry.key) {
            continue;
        }
        if out.json {
            out.value(&json!({
                "id": entry.key.session, "project": entry.key.project, "depth": depth, "parent": entry.parent,
                "fork_point": entry.fork_point, "records": entry.records, "title": entry.title, "live": entry.live,
                "archived": entry.archived,
            }))?;
        } else {
            let mark = if asked == Some(&entry.key) { " *" } else { "" };
            let from = entry.fork_point.map_or(String::new(), |at| format!(" after {} records", at.records));
            let gone = if depth == 0 && entry.parent.is_some() { " of a deleted session" } else { "" };
            let name = clean(&called(entry));
            out.raw(format!("{line}{}{mark}{from}{gone}  {name}", entry.key).trim_end().as_bytes())?;
        }
        let forks = forest.forks.get(&entry.key).map(Vec::as_slice).unwrap_or_default();
        for (index, fork) in forks.iter().enumerate().rev() {
            let last = index + 1 == forks.len();
            let (branch, under) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            todo.push((fork, depth + 1, format!("{below}{branch}"), format!("{below}{under}")));
        }
    }
    Ok(())
}
