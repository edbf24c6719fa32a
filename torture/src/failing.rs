//! Disks that really fail: a block device whose writes fail, and one that is full and is given room again.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use forklog_sim::{Rng, derive};

use crate::Asked;
use crate::crowd::{self, Crowd};
use crate::judge::End;
use crate::mount::{Kind, Mount, missing};
use crate::place::Place;
use crate::report::Report;

/// More than any run writes.
const ROOM: u64 = 512 << 20;

/// A file system on a device that has less room than it says: writing into a hole of it is an I/O error. The kernel tells of it at the
/// next sync, once; the one after succeeds, and the bytes are gone.
pub(crate) fn device(kind: Kind, asked: &Asked) -> Result<Report, String> {
    if let Some(why) = missing(kind) {
        return Err(why);
    }
    let mut report = Report::new(format!("failing device below {}", kind.name()), "devices that failed");
    rounds(asked, &mut report, |seed, dir, report| {
        let (below, at) = (dir.join("below"), dir.join("mounted"));
        let memory = Mount::memory(ROOM, &below)?;
        let image = below.join("image");
        File::create(&image).and_then(|file| file.set_len(kind.size())).map_err(|error| error.to_string())?;
        kind.make(&image)?;
        let mount = Mount::new(kind, &image, &at)?;
        mount.page_by_page()?;
        let place = crowd::found(&at.join("place"))?;
        // What stands so far stands; of the rest there is little.
        let mut rng = Rng::new(seed);
        let little = 4096 * (1 + rng.below(300) as u64);
        memory.resize(memory.used()? + little)?;
        let mut crowd = Crowd::start(seed, &place)?;
        crowd.work(Duration::from_millis(150 + rng.below(200) as u64))?;
        // Half of the devices work again while all goes on.
        if rng.chance(1, 2) {
            memory.resize(ROOM)?;
            crowd.work(Duration::from_millis(100))?;
        }
        crowd.end()?;
        memory.resize(ROOM)?;
        mount.end()?;
        let mount = Mount::new(kind, &image, &at)?;
        report.cycles += 3;
        report.struck += u64::from(!crowd.heard.failures.is_empty());
        let seen = crowd.heard.look(&place, End::SyncFailed).map_err(|wrong| {
            let kept = keep(&crowd, &place).unwrap_or_else(|error| error.to_string());
            format!("seed {seed:#x}, {:?}: {wrong}\n    kept in {kept}", crowd::options(seed))
        });
        report.seen(seen?);
        mount.end()?;
        memory.end()
    })?;
    Ok(report)
}

/// A disk without room, which fails in the middle of lines; then it has room, and the same processes go on.
pub(crate) fn full(asked: &Asked) -> Result<Report, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("mounts need root".to_owned());
    }
    let mut report = Report::new("full disk", "disks that were full");
    rounds(asked, &mut report, |seed, dir, report| {
        let memory = Mount::memory(ROOM, &dir.join("mounted"))?;
        let place = crowd::found(&dir.join("mounted/place"))?;
        let mut rng = Rng::new(seed);
        memory.resize(memory.used()? + 4096 * (1 + rng.below(60) as u64))?;
        let mut crowd = Crowd::start(seed, &place)?;
        crowd.work(Duration::from_millis(60 + rng.below(60) as u64))?;
        let (was_full, before) = (!crowd.heard.failures.is_empty(), crowd.heard.done());
        memory.resize(ROOM)?;
        // A busy machine takes its time.
        let mut patience = 80;
        while crowd.heard.done() == before && 0 < patience {
            crowd.work(Duration::from_millis(120))?;
            patience -= 1;
        }
        crowd.end()?;
        report.cycles += 3;
        report.struck += u64::from(was_full);
        if crowd.heard.done() == before {
            return Err("there is room again, and nobody goes on".to_owned());
        }
        report.seen(crowd.heard.look(&place, End::Killed)?);
        memory.end()
    })?;
    Ok(report)
}

/// What stands there and what was said, where it outlives the mount.
fn keep(crowd: &Crowd, place: &Place) -> io::Result<String> {
    let kept = tempfile::Builder::new().prefix("torture-").tempdir()?.keep();
    place.copy_to(&kept)?;
    fs::write(kept.join("heard"), crowd.heard.lines.join("\n"))?;
    Ok(kept.display().to_string())
}

fn rounds(
    asked: &Asked,
    report: &mut Report,
    each: impl Fn(u64, &Path, &mut Report) -> Result<(), String>,
) -> Result<(), String> {
    let mut round = 0;
    while !report.enough(asked, 50) {
        let dir =
            tempfile::Builder::new().prefix("torture-disk-").tempdir_in(&asked.disks).map_err(|e| e.to_string())?;
        if let Err(wrong) = each(derive(asked.seed, round), dir.path(), report) {
            // It is mounted for this process alone, and gone with it.
            report.wrong(format!("round {round}: {wrong}"));
        }
        round += 1;
    }
    Ok(())
}
