//! What differs between checkpoints, files and conversations.

use forklog::checkpoint::{Diff, Files};
use forklog::{Checkpoint, Kind, Parting, Reader, Records, Store};
use serde_json::json;

use super::Context;
use super::files::{look, named, newest, tree, whereabouts};
use crate::args;
use crate::names;
use crate::output::{Done, Failure, Out, Shown};

/// One of the two things that are compared.
struct Side {
    reader: Reader,
    /// The checkpoint that was named; a session's newest one stands for its files.
    checkpoint: Option<Checkpoint>,
}

impl Side {
    /// `ID`, or `ID@CHECKPOINT`. A session may have an `@` in its name, so the whole is tried first.
    fn find(store: &Store, project: Option<&str>, text: &str) -> Done<Self> {
        let open = |id| names::key(project, id).and_then(|key| Ok(store.read(&key)?));
        match (open(text), text.rsplit_once('@')) {
            (Err(Failure::Engine(error)), Some((id, checkpoint)))
                if matches!(error.kind(), Kind::NotFound | Kind::Caller) =>
            {
                let reader = open(id)?;
                let found = named(&reader, checkpoint)?;
                if !found.whole {
                    let why = "has only some files; a checkpoint of the whole workspace can be compared";
                    return Err(Failure::Usage(format!("{text} {why}")));
                }
                Ok(Self { reader, checkpoint: Some(found) })
            }
            (reader, _) => Ok(Self { reader: reader?, checkpoint: None }),
        }
    }

    /// The checkpoint that says what its files are.
    fn files(&self) -> Done<Checkpoint> {
        if let Some(found) = &self.checkpoint {
            return Ok(found.clone());
        }
        newest(&self.reader)?.ok_or_else(|| {
            let key = self.reader.key();
            Failure::Missing(format!(
                "session {key} has no checkpoint of a whole workspace; `forklog checkpoint` takes one"
            ))
        })
    }
}

pub(super) fn diff(at: &mut Context, args: &args::Diff) -> Done {
    let store = at.store()?;
    let find = |text: &str| Side::find(&store, args.project.as_deref(), text);
    let a = find(&args.a)?;
    let Some(b) = args.b.as_deref().map(find).transpose()? else {
        let before = a.files()?;
        let dir = whereabouts(&before.workspace, args.workspace.as_deref())?;
        let diff = look(&store, &dir)?.diff_workspace(tree(&a.reader, before.id)?)?;
        return files(&mut at.out, &diff);
    };
    let both = match (&a.checkpoint, &b.checkpoint) {
        (None, None) => {
            conversations(&mut at.out, &a.reader, &b.reader)?;
            match (newest(&a.reader)?, newest(&b.reader)?) {
                (Some(before), Some(after)) => (before, after),
                _ => return Ok(()),
            }
        }
        _ => (a.files()?, b.files()?),
    };
    let (before, after) = (tree(&a.reader, both.0.id)?, tree(&b.reader, both.1.id)?);
    let diff = Files::diff_trees(store.objects(), Some(before), Some(after))?;
    files(&mut at.out, &diff)
}

fn files(out: &mut Out, diff: &Diff) -> Done {
    if out.json {
        return out.value(diff);
    }
    out.bytes(&diff.to_unified())
}

/// Shows where two sessions part, as a unified diff of what `export` prints of them.
fn conversations(out: &mut Out, a: &Reader, b: &Reader) -> Done {
    let Parting { shared, at, ours, theirs, .. } = a.diff(b)?;
    let added = [a.len() - shared, b.len() - shared];
    if out.json {
        let about = |reader: &Reader, added: u64| json!({"id": reader.key().session, "project": reader.key().project, "added": added});
        let (one, other) = (about(a, added[0]), about(b, added[1]));
        out.value(&json!({"shared": shared, "at": at, "a": one, "b": other}))?;
    } else if added != [0, 0] {
        out.raw(format!("--- {}", a.key()).as_bytes())?;
        out.raw(format!("+++ {}", b.key()).as_bytes())?;
        let range = |added: u64| match added {
            0 => format!("{shared},0"),
            n => format!("{},{n}", shared + 1),
        };
        let place = match shared {
            0 => "nothing in common".to_owned(),
            n => format!("they part after record {}", n - 1),
        };
        out.raw(format!("@@ -{} +{} @@ {place}", range(added[0]), range(added[1])).as_bytes())?;
    }
    side(out, ours, ("a", b'-'))?;
    side(out, theirs, ("b", b'+'))
}

fn side(out: &mut Out, mut records: Records, (name, sign): (&'static str, u8)) -> Done {
    loop {
        let Some(record) = Records::next(&mut records)? else { return Ok(()) };
        if out.json {
            let record = record.to_owned();
            let mut shown = Shown::new(None, &record);
            shown.only = Some(name);
            out.value(&shown)?;
        } else {
            out.raw(&[&[sign], record.payload()].concat())?;
        }
    }
}
