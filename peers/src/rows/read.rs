//! Reading: all of a long transcript, its end, and a search in many.

use std::fs::File;
use std::hint::black_box;
use std::process::Command;

use forklog::disk::{Disk as _, How as Open, OsDisk};
use forklog::{Filter, NewRecord, NewSession, SessionKey};

use super::Setting;
use crate::measure::{Case, Outcome, Row, Sample, Unit};
use crate::peers::{
    Bare, Fjall, Forklog, Form, How, Jsonl, Lmdb, Mode, Peer, Redb, Sqlite, payloads, read_lines, store, transcript,
};
use crate::workload;

/// All who can be read from.
fn readers() -> [&'static dyn Peer; 7] {
    [&Forklog(How::Digest), &Bare(Form::Text), &Jsonl, &Sqlite, &Redb, &Fjall, &Lmdb]
}

/// What a side does with the bytes while it reads, for the table.
fn reading(peer: &dyn Peer) -> &'static str {
    match peer.name().as_str() {
        name if name.starts_with("forklog") => "every byte verified",
        name if name.starts_with("bare") => "read(2), lines",
        name if name.starts_with("JSONL") => "every line parsed",
        "fjall" => "blocks verified",
        _ => "not verified",
    }
}

pub(super) fn rows(setting: &Setting, done: &mut impl FnMut(Outcome)) {
    if setting.wants("read-all") {
        done(all(setting, "read-all", "as they were written"));
    }
    if setting.wants("read-reloaded") {
        let came = setting.large().reload(&readers());
        done(all(setting, "read-reloaded", if came { "as they came from the disk" } else { "which no disk has" }));
    }
    if setting.wants("read-last") {
        done(last(setting));
    }
    if setting.wants("grep") {
        done(grep(setting));
    }
}

/// Each side reads twice and the second time counts: what was not touched for some seconds a virtual machine's host may be slow to give, and
/// forklog's file is read by more sides than others. `pages` says how the files' pages came to be in memory, which makes a difference of a
/// third: those of a file that grew by small writes lie singly wherever there was room, those that were read ahead in large pieces.
fn all(setting: &Setting, id: &'static str, pages: &str) -> Outcome {
    let large = setting.large();
    let (records, bytes) = (large.records, large.bytes);
    let mut cases: Vec<Case<'_>> = Vec::new();
    for peer in readers() {
        let dir = large.of(peer);
        cases.push(Case::new(peer.name(), reading(peer), move |_| {
            let log = peer.open(dir, Mode::Write, 1);
            let mut count = 0;
            let sample = Sample::rate_again(bytes, || {
                count = 0;
                log.read(0, &mut |payload| {
                    black_box(payload);
                    count += 1;
                });
            });
            assert_eq!(count, records, "{}", peer.name());
            sample
        }));
    }
    // The limit is measured on the very file that forklog reads: where its pages happen to lie makes a difference of a third.
    let path = transcript(large.of(&Forklog(How::Digest)));
    let lines = path.clone();
    cases.push(Case::new("bare system calls", "forklog's file: lines, CRC-32", move |_| {
        Sample::rate_again(bytes, || {
            let (mut crc, mut read) = (0, 0);
            read_lines(&lines, |line| (crc, read) = (checksum(line, crc), read + line.len() as u64 + 1));
            black_box(crc);
            assert!(read >= bytes);
        })
    }));
    let map = move || OsDisk.open(&path, Open::Read).and_then(|file| file.map()).expect("a map");
    let scan = map.clone();
    cases.push(Case::new("bare mmap", "forklog's file: lines", move |_| {
        Sample::rate_again(bytes, || assert!(memchr::memchr_iter(b'\n', &scan()).count() as u64 > records))
    }));
    let verify = map.clone();
    cases.push(Case::new("bare mmap", "forklog's file: lines, CRC-32", move |_| {
        Sample::rate_again(bytes, || {
            let map = verify();
            let (mut from, mut crc) = (0, 0);
            for end in memchr::memchr_iter(b'\n', &map) {
                (crc, from) = (checksum(&map[from..end], crc), end + 1);
            }
            black_box(crc);
            assert!(from as u64 >= bytes);
        })
    }));
    let mut copy = vec![0; 256 << 10];
    cases.push(Case::new("bare memory copy", "forklog's file, through 256 KiB", move |_| {
        Sample::rate_again(bytes, || {
            let map = map();
            assert!(map.len() as u64 >= bytes);
            for chunk in map.chunks(copy.len()) {
                copy[..chunk.len()].copy_from_slice(chunk);
                black_box(&copy);
            }
        })
    }));
    let goal = "4 GiB/s; 5 × JSONL; 3 × SQLite";
    let what = format!("open and read all of {} MiB, one thread, pages {pages}", large.mib);
    setting.run(Row { id, what, unit: Unit::BytesPerSecond, goal, cases })
}

/// What verifying cannot do without.
fn checksum(line: &[u8], before: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(before);
    hasher.update(line);
    hasher.finalize()
}

fn last(setting: &Setting) -> Outcome {
    const LAST: usize = 100;
    let large = setting.large();
    let run = |peer: &'static dyn Peer, log: Box<dyn crate::peers::Log>| {
        move |_: usize| {
            let mut count = 0;
            let sample = Sample::again(|| {
                count = 0;
                log.last(0, LAST, &mut |payload| {
                    black_box(payload);
                    count += 1;
                })
            });
            assert_eq!(count, LAST, "{}", peer.name());
            sample
        }
    };
    let mut cases = Vec::new();
    for peer in readers().into_iter().filter(|peer| !peer.name().starts_with("bare")) {
        let dir = large.of(peer);
        let name = format!("{} of {} MiB", peer.name(), large.mib);
        cases.push(Case::new(name, reading(peer), run(peer, peer.open(dir, Mode::Write, 1))));
    }
    let small = setting.temp();
    let texts = payloads(workload::fixed(948, 1024));
    let peer: &dyn Peer = &Forklog(How::Digest);
    peer.open(small.path(), Mode::Write, 1).batch(0, &texts);
    let log = peer.open(small.path(), Mode::Write, 1);
    cases.insert(1, Case::new("forklog of 1 MiB", reading(peer), run(&Forklog(How::Digest), log)));
    let (what, goal) = ("the last 100 records".to_owned(), "1 ms; 1.5 × of 1 MiB");
    setting.run_rounds(Row { id: "read-last", what, unit: Unit::Seconds, goal, cases }, setting.rounds * 3)
}

/// A search for text that stands in one record of each transcript.
fn grep(setting: &Setting) -> Outcome {
    const NEEDLE: &str = "a needle in this haystack";
    const SESSIONS: u64 = 32;
    let mib = setting.size(2, 256, 1024);
    let temp = setting.temp();
    let store = store(&temp.path().join("store"));
    let mut bytes = 0;
    let texts = payloads(workload::real(2000));
    let mut next = texts.iter().cycle();
    for n in 0..SESSIONS {
        let key = SessionKey::new("grep", &format!("s{n}")).expect("a good name");
        let session = store.create(NewSession::named(key)).expect("created");
        let mut size = 0;
        while size < (mib << 20) / SESSIONS {
            let batch: Vec<_> = next.by_ref().take(16).collect();
            size += batch.iter().map(|payload| payload.text.len() as u64).sum::<u64>();
            let records: Vec<_> = batch.iter().map(|payload| NewRecord::raw(&payload.raw).expect("a record")).collect();
            session.append_batch(&records).expect("appended");
        }
        session.append(&NEEDLE).expect("appended");
        session.close().expect("closed");
        bytes += size;
    }
    let dir = temp.path().join("store/projects");
    let run = move |_| {
        Sample::rate(bytes, || {
            let found = store.grep(&Filter::default(), NEEDLE.as_bytes(), |_, _| {}).expect("searched");
            assert_eq!((found.sessions, found.records), (SESSIONS, SESSIONS));
        })
    };
    let mut cases = vec![Case::new("forklog", "every byte verified", run)];
    let found = Command::new("rg").arg("--version").output().is_ok();
    if found {
        cases.push(Case::new("ripgrep", "the same files", |_| {
            Sample::rate(bytes, || {
                let out = Command::new("rg").args(["--no-config", "-uu", "-F", "-c", NEEDLE]).arg(&dir).output();
                let out = out.expect("it runs").stdout;
                let lines = String::from_utf8_lossy(&out).lines().filter(|line| line.ends_with(".jsonl:1")).count();
                assert_eq!(lines as u64, SESSIONS);
            })
        }));
    }
    let paths: Vec<_> = (0..SESSIONS).map(|n| dir.join(format!("grep/s{n}/transcript.jsonl"))).collect();
    cases.push(Case::new("bare read(2), memmem, one thread", "not verified", move |_| {
        Sample::rate(bytes, || {
            let found = paths.iter().filter(|path| {
                let mut text = Vec::new();
                std::io::Read::read_to_end(&mut File::open(path).expect("a file"), &mut text).expect("read");
                memchr::memmem::find(&text, NEEDLE.as_bytes()).is_some()
            });
            assert_eq!(found.count() as u64, SESSIONS);
        })
    }));
    let what = format!("search text in {mib} MiB of {SESSIONS} transcripts");
    let row = Row { id: "grep", what, unit: Unit::BytesPerSecond, goal: "0.8 of ripgrep", cases };
    setting.run(row).missing("ripgrep", (!found).then_some("not installed"))
}
