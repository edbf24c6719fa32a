//! Searching the records of sessions.

use std::sync::Mutex;

use forklog::{Entry, OwnedRecord};
use regex::bytes::{Regex, RegexBuilder};

use super::Context;
use crate::args::Grep;
use crate::output::{Done, Failure, Out, Shown, clean, say};

/// Bytes shown on either side of what was found.
const AROUND: usize = 60;

pub(super) fn grep(at: &mut Context, args: &Grep) -> Done {
    let (store, filter) = (at.store()?, args.which.filter()?);
    let pattern = if args.regex { args.pattern.clone() } else { regex::escape(&args.pattern) };
    let regex = RegexBuilder::new(&pattern).case_insensitive(args.ignore_case).build();
    let regex = regex.map_err(|error| Failure::Usage(format!("no regular expression: {error}")))?;
    let out = Mutex::new((&mut at.out, Ok(())));
    let found = |entry: &Entry, record: &OwnedRecord| {
        let mut out = out.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if out.1.is_ok() {
            out.1 = show(out.0, &regex, entry, record).and_then(|()| out.0.flush());
        }
    };
    let result = if args.regex || args.ignore_case {
        store.search(&filter, |payload| regex.is_match(payload), found)?
    } else {
        store.grep(&filter, args.pattern.as_bytes(), found)?
    };
    out.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).1?;
    for (key, error) in &result.damaged {
        say(&format!("warning: {key}: {error}"));
    }
    match result.damaged.first() {
        Some((_, error)) => Err(Failure::Said(error.kind())),
        None => Ok(()),
    }
}

fn show(out: &mut Out, regex: &Regex, entry: &Entry, record: &OwnedRecord) -> Done {
    if out.json {
        return out.value(&Shown::new(Some(&entry.key), record));
    }
    let (from, to) = regex.find(&record.payload).map_or((0, 0), |found| (found.start(), found.end()));
    let around = from.saturating_sub(AROUND)..to.saturating_add(AROUND).min(record.payload.len());
    let text = String::from_utf8_lossy(record.payload.get(around).unwrap_or_default());
    let text = clean(text.trim_matches('\u{fffd}'));
    out.raw(format!("{}:{}: {text}", entry.key, record.seq).as_bytes())
}
