//! Bringing in what other programs wrote.

use forklog::import::{Imported, discover};
use serde_json::json;

use super::Context;
use crate::args::Import;
use crate::output::{Bar, Done, Failure, bytes, clean, say};

pub(super) fn import(at: &mut Context, args: &Import) -> Done {
    let found = discover(&args.paths, args.format)?;
    if found.sources.is_empty() && found.skipped.is_empty() {
        return Err(Failure::Usage("there are no *.jsonl files there".to_owned()));
    }
    let store = at.store_or_new()?;
    let bar = Bar::new("importing");
    let report = store.import(&found.sources, |progress| bar.set(progress));
    drop(bar);
    let report = report?;
    for error in &found.skipped {
        say(&format!("skipped: {error}"));
    }
    tell(at, &report)?;
    let failed = report.failed.first().map(|failed| failed.kind);
    match failed.or(found.skipped.first().map(forklog::Error::kind)) {
        Some(kind) => Err(Failure::Said(kind)),
        None => Ok(()),
    }
}

fn tell(at: &mut Context, report: &Imported) -> Done {
    if at.out.json {
        for bad in &report.bad {
            at.out.value(&json!({"bad_line": bad}))?;
        }
        for failed in &report.failed {
            at.out.value(&json!({"failed": failed}))?;
        }
        return at.out.value(&json!({
            "files": report.files, "bytes": report.bytes, "created": report.created, "appended": report.appended,
            "duplicates": report.duplicates, "bad_lines": report.bad_lines, "failed_files": report.failed.len(),
        }));
    }
    for bad in &report.bad {
        let kept = if bad.torn { "unfinished" } else { "kept in quarantine" };
        say(&clean(&format!("{}:{}: {kept}: {}", bad.path.display(), bad.line, bad.why)));
    }
    let more = report.bad_lines.saturating_sub(report.bad.iter().filter(|bad| !bad.torn).count() as u64);
    if more > 0 {
        say(&format!("and {more} bad lines more"));
    }
    for failed in &report.failed {
        say(&clean(&format!("{}: not imported to its end: {}", failed.path.display(), failed.why)));
    }
    let Imported { files, created, appended, duplicates, .. } = report;
    let size = bytes(report.bytes);
    at.out.raw(
        format!(
            "{files} files, {size}: {created} new sessions, {appended} new records, {duplicates} were there already"
        )
        .as_bytes(),
    )
}
