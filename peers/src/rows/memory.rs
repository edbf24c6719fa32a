//! Memory that a process of its own allocates while it reads or lists.

use std::path::Path;
use std::process::Command;

use forklog::Filter;

use super::Setting;
use crate::machine::private_kib;
use crate::measure::{Case, Outcome, Row, Sample, Unit};
use crate::peers::{Fjall, Forklog, How, Jsonl, Lmdb, Mode, Peer, Redb, Sqlite, sqlite_connect, store};

pub(super) fn rows(setting: &Setting, done: &mut impl FnMut(Outcome)) {
    if setting.wants("memory-resume") {
        done(resume(setting));
    }
    if setting.wants("memory-list") {
        done(list(setting));
    }
}

const READERS: [(&str, &dyn Peer); 6] = [
    ("forklog", &Forklog(How::Digest)),
    ("jsonl", &Jsonl),
    ("sqlite", &Sqlite),
    ("redb", &Redb),
    ("fjall", &Fjall),
    ("lmdb", &Lmdb),
];

/// The most bytes that a child of this program has allocated while it did `work`.
fn measured(work: &str, place: &Path) -> Sample {
    let program = std::env::current_exe().expect("this program");
    let out = Command::new(program).args(["--child", "memory", work]).arg(place).output().expect("it runs");
    assert!(out.status.success(), "{work}: {}", String::from_utf8_lossy(&out.stderr));
    let kib: f64 = String::from_utf8_lossy(&out.stdout).trim().parse().expect("a number");
    Sample::of(kib * 1024.0)
}

/// What [`measured`] runs. Prints KiB.
pub(crate) fn child(arguments: &[String]) {
    let [work, place] = arguments else { panic!("what to do and where are wanted") };
    let place: &Path = place.as_ref();
    let before = private_kib();
    let mut most = before;
    let mut seen = 0_u64;
    let mut look = || {
        seen += 1;
        if seen % 1024 == 1 {
            most = most.max(private_kib());
        }
    };
    if let Some((_, peer)) = READERS.iter().find(|(name, _)| name == work) {
        let log = peer.open(place, Mode::Write, 1);
        log.read(0, &mut |_| look());
        most = most.max(private_kib());
    } else if work == "list-forklog" || work == "list-page" {
        let store = store(place);
        let mut after = None;
        loop {
            let page = store.list(&Filter::default(), after, 50).expect("listed");
            page.entries.iter().for_each(|_| look());
            after = page.next;
            if after.is_none() || work == "list-page" {
                break;
            }
        }
        most = most.max(private_kib());
    } else {
        let db = sqlite_connect(place, Mode::Write);
        let mut select = db.prepare("SELECT * FROM sessions ORDER BY archived, updated DESC").expect("prepared");
        let mut rows = select.query([]).expect("asked");
        while rows.next().expect("a row").is_some() {
            look();
        }
        most = most.max(private_kib());
    }
    println!("{}", most - before);
}

fn resume(setting: &Setting) -> Outcome {
    let large = setting.large();
    let case = |(name, peer): (&'static str, &'static dyn Peer)| {
        let dir = large.of(peer);
        let mode = if name == "jsonl" { "the file and all values" } else { "record by record" };
        Case::new(peer.name(), mode, move |_| measured(name, dir))
    };
    let what = format!("memory to resume {} MiB", large.mib);
    let row = Row { id: "memory-resume", what, unit: Unit::Bytes, goal: "16 MiB", cases: READERS.map(case).into() };
    setting.run_rounds(row, setting.rounds.min(3))
}

fn list(setting: &Setting) -> Outcome {
    let many = setting.many();
    let (ours, database) = (many.forklog(), many.sqlite());
    let cases = vec![
        Case::new("forklog", "all, a page of 50 at a time", |_| measured("list-forklog", &ours)),
        Case::new("forklog", "newest 50", |_| measured("list-page", &ours)),
        Case::new("SQLite", "all, row by row", |_| measured("list-sqlite", &database)),
    ];
    let what = format!("memory to list {} sessions", many.n);
    let row = Row { id: "memory-list", what, unit: Unit::Bytes, goal: "32 MiB", cases };
    setting.run_rounds(row, setting.rounds.min(3))
}
