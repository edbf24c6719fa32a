//! Commands that look after the store.

use forklog::{Filter, Kind, ProjectName, Report};
use serde_json::json;

use super::Context;
use crate::args::{Cleanup, Gc, Verify};
use crate::names::{self, Name};
use crate::output::{Bar, Done, Failure, bytes, clean};

pub(super) fn verify(at: &mut Context, args: &Verify) -> Done {
    let key = args.id.as_deref().map(|id| names::key(args.project.as_deref(), id)).transpose()?;
    let store = at.store()?;
    let bar = Bar::new("verifying");
    let report = store.verify(key.as_ref(), |progress| bar.set(progress));
    drop(bar);
    let report = report?;
    tell(at, &report)?;
    if report.is_sound() { Ok(()) } else { Err(Failure::Said(Kind::Data)) }
}

fn tell(at: &mut Context, report: &Report) -> Done {
    let Report { transcripts, records, .. } = report;
    let sound = report.is_sound();
    if at.out.json {
        report.findings.iter().try_for_each(|found| at.out.value(found))?;
        return at.out.value(&json!({
            "transcripts": transcripts, "bytes": report.bytes, "records": records, "sound": sound,
        }));
    }
    for found in &report.findings {
        let name = found.session.as_ref().map_or("no readable first line".to_owned(), ToString::to_string);
        at.out.raw(clean(&format!("{name}: {}", found.path.display())).as_bytes())?;
        for damage in &found.damage {
            let way = if damage.repairable { "`forklog repair` gives it up" } else { "not repairable" };
            at.out
                .raw(format!("  damaged: bytes {} to {}: {}; {way}", damage.from, damage.to, damage.why).as_bytes())?;
        }
        if found.crash_remains > 0 {
            let n = found.crash_remains;
            at.out.raw(format!("  a crash left {n} bytes at the end, which the next writer puts aside").as_bytes())?;
        }
        if found.repaired > 0 {
            at.out.raw(format!("  {} ranges were given up earlier", found.repaired).as_bytes())?;
        }
        at.out.raw(format!("  {} records can be read", found.readable_records).as_bytes())?;
    }
    let verdict = if sound { "sound" } else { "DAMAGED" };
    let size = bytes(report.bytes);
    at.out.raw(format!("{transcripts} transcripts, {records} records, {size}: {verdict}").as_bytes())
}

pub(super) fn repair(at: &mut Context, name: &Name) -> Done {
    let repaired = at.store()?.repair(&name.key()?)?;
    if at.out.json {
        at.out.value(&repaired)?;
    } else {
        for (path, gaps) in &repaired.gaps {
            for gap in gaps {
                let (from, to, why) = (gap.from, gap.to, &gap.why);
                at.out.raw(format!("{}: gave up bytes {from} to {to}: {why}", path.display()).as_bytes())?;
            }
        }
        for path in &repaired.quarantined {
            at.out.raw(format!("a copy is in {}", path.display()).as_bytes())?;
        }
        for (path, why) in &repaired.hopeless {
            at.out.raw(format!("{}: cannot be repaired: {why}", path.display()).as_bytes())?;
        }
        if repaired.gaps.is_empty() && repaired.hopeless.is_empty() {
            at.out.raw(b"nothing is damaged")?;
        }
    }
    if repaired.hopeless.is_empty() { Ok(()) } else { Err(Failure::Said(Kind::Data)) }
}

pub(super) fn reindex(at: &mut Context) -> Done {
    let sessions = at.store()?.reindex()?;
    at.out.either(&format!("{sessions} sessions indexed"), &json!({"sessions": sessions}))
}

pub(super) fn gc(at: &mut Context, args: &Gc) -> Done {
    let freed = at.store()?.gc(args.dry_run)?;
    let verb = if args.dry_run { "would free" } else { "freed" };
    let (graves, files, size, kept) = (freed.graves, freed.files, bytes(freed.bytes), freed.kept);
    let (packs, moved) = (freed.packs, freed.objects_moved);
    let mut text = format!("{verb} {size}: {files} files of {graves} deleted sessions");
    if kept > 0 {
        text.push_str(&format!(" ({kept} more are kept, since forks need them)"));
    }
    text.push_str(&format!(", {packs} packs of file contents"));
    if moved > 0 {
        text.push_str(&format!(" ({moved} contents still needed are moved)"));
    }
    let value = json!({
        "dry_run": args.dry_run, "graves": graves, "files": files, "bytes": freed.bytes, "kept": kept, "packs": packs,
        "objects_moved": moved,
    });
    at.out.either(&text, &value)
}

pub(super) fn delete(at: &mut Context, name: &Name) -> Done {
    let key = name.key()?;
    at.store()?.delete(&key)?;
    at.out.either(&format!("deleted {key}"), &json!({"id": key.session, "project": key.project, "deleted": true}))
}

pub(super) fn reroot(at: &mut Context, name: &Name) -> Done {
    let done = at.store()?.reroot(&name.key()?)?;
    let text = format!("copied {} of {} ancestors", bytes(done.bytes), done.ancestors);
    at.out.either(&text, &json!({"ancestors": done.ancestors, "bytes": done.bytes}))
}

pub(super) fn cleanup(at: &mut Context, args: &Cleanup) -> Done {
    let project = args.project.as_deref().map(ProjectName::new).transpose()?;
    let filter = Filter { project, ..Filter::default() };
    let cleaned = at.store()?.cleanup(args.older_than, &filter, args.dry_run)?;
    let verb = if args.dry_run { "would delete" } else { "deleted" };
    for entry in &cleaned.deleted {
        let text = format!("{verb} {}, last changed {}", entry.key, entry.updated);
        let (id, project) = (&entry.key.session, &entry.key.project);
        let value = json!({"id": id, "project": project, "updated_at": entry.updated, "deleted": !args.dry_run});
        at.out.either(&text, &value)?;
    }
    for key in &cleaned.live {
        let value = json!({"id": key.session, "project": key.project, "deleted": false, "live": true});
        at.out.either(&format!("left {key} alone: it is open for append"), &value)?;
    }
    if cleaned.deleted.is_empty() && cleaned.live.is_empty() && !at.out.json {
        at.out.raw(b"nothing is that old")?;
    }
    Ok(())
}
