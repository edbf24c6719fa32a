//! Opening a long transcript for append: after it was closed, and after its writer was killed.

use std::path::Path;
use std::process::{Command, Stdio};

use forklog::{NewRecord, SessionKey};

use super::Setting;
use crate::measure::{Case, Outcome, Row, Sample, Unit};
use crate::peers::{Forklog, How, Mode, Peer, Sqlite, payloads, store};
use crate::workload;

pub(super) fn rows(setting: &Setting, done: &mut impl FnMut(Outcome)) {
    if setting.wants("open-clean") {
        done(clean(setting));
    }
    if setting.wants("open-killed") {
        done(killed(setting));
    }
}

/// The time to open session 0 of `peer` in `dir` so that the next record could be appended.
fn open(peer: &dyn Peer, dir: &Path) -> Sample {
    Sample::time(|| peer.open(dir, Mode::Write, 1))
}

/// A transcript of 1 MiB.
fn small(dir: &Path) {
    let texts = payloads(workload::fixed(948, 1024));
    Forklog(How::Digest).open(dir, Mode::Write, 1).batch(0, &texts);
}

fn clean(setting: &Setting) -> Outcome {
    let large = setting.large();
    let mut cases = Vec::new();
    for peer in [&Forklog(How::Digest) as &dyn Peer, &Sqlite] {
        let dir = large.of(peer);
        cases.push(Case::new(format!("{}, {} MiB", peer.name(), large.mib), "store and session", move |_| {
            open(peer, dir)
        }));
    }
    let dir = setting.temp();
    small(dir.path());
    cases.insert(1, Case::new("forklog, 1 MiB", "store and session", move |_| open(&Forklog(How::Digest), dir.path())));
    let what = "open for append after a clean close".to_owned();
    let row = Row { id: "open-clean", what, unit: Unit::Seconds, goal: "1 ms; 1.5 × of 1 MiB", cases };
    setting.run_rounds(row, setting.rounds * 3)
}

/// Writes `mib` with a process that dies before it closes anything.
fn write_and_die(dir: &Path, side: &str, mib: usize) {
    let program = std::env::current_exe().expect("this program");
    let status = Command::new(program)
        .arg("--child")
        .args(["kill", side])
        .arg(dir)
        .arg(mib.to_string())
        .stderr(Stdio::null())
        .status();
    assert!(!status.expect("it runs").success(), "the child should have died");
}

/// What [`write_and_die`] runs.
pub(crate) fn child(arguments: &[String]) {
    let [side, dir, mib] = arguments else { panic!("a side, a directory and a size are wanted") };
    let (dir, mib): (&Path, usize) = (dir.as_ref(), mib.parse().expect("a number"));
    let texts = payloads(workload::fixed(1024, 1024));
    if side == "forklog" {
        let store = store(&dir.join("forklog"));
        let session = store.session(&SessionKey::new("peers", "s0").expect("a good name")).expect("a session");
        for _ in 0..mib {
            for batch in texts.chunks(8) {
                let records: Vec<_> =
                    batch.iter().map(|payload| NewRecord::raw(&payload.raw).expect("a record")).collect();
                session.append_batch(&records).expect("appended");
            }
        }
        std::process::abort();
    }
    let log = Sqlite.open(dir, Mode::Write, 1);
    for _ in 0..mib {
        texts.chunks(8).for_each(|batch| log.batch(0, batch));
    }
    std::process::abort();
}

fn killed(setting: &Setting) -> Outcome {
    let large = setting.large();
    let cases = [(large.mib, 1), (large.mib, 8), (1, 1), (1, 8)].map(|(size, written)| {
        let name = format!("forklog, {size} MiB, {written} MiB since");
        Case::new(name, "killed", move |_| {
            let temp = (size == 1).then(|| setting.temp());
            let dir = match &temp {
                Some(temp) => temp.path(),
                None => large.of(&Forklog(How::Digest)),
            };
            if size == 1 {
                small(dir);
            }
            write_and_die(dir, "forklog", written);
            open(&Forklog(How::Digest), dir)
        })
    });
    let mut cases: Vec<_> = cases.into_iter().collect();
    cases.push(Case::new(format!("SQLite, {} MiB, 8 MiB since", large.mib), "WAL", move |_| {
        let dir = large.of(&Sqlite);
        write_and_die(dir, "sqlite", 8);
        open(&Sqlite, dir)
    }));
    let what = "open for append after the writer was killed".to_owned();
    let goal = "in proportion to what was written since, not to the file";
    setting.run(Row { id: "open-killed", what, unit: Unit::Seconds, goal, cases })
}
