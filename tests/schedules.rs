//! Threads and processes that append at once, in one order of their steps after the other.
//!
//! Only with `RUSTFLAGS="--cfg shuttle" cargo test --test schedules`: a scheduler chooses who goes on at every lock, atomic and call of
//! the disk. SHUTTLE_ORDERS says how many orders are tried of each scenario in each of two ways.
#![cfg(shuttle)]

use std::sync::Arc;

use forklog::{Durability, Error, OpenOptions, Session, Sharing};
use forklog_sim::{Cut, Errno, Fault, Op, Points, SimDisk, What};
use forklog_soak::{key, open_store, records};
use serde_json::json;
use shuttle::thread;

/// Draws orders, and with few changes of turn at places that are chosen well.
fn in_many_orders(scenario: fn()) {
    let orders = std::env::var("SHUTTLE_ORDERS").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    shuttle::check_random(scenario, orders);
    shuttle::check_pct(scenario, orders, 3);
}

/// The payloads that a power cut at this moment leaves.
fn left(disk: &SimDisk) -> Vec<String> {
    let store = open_store(&disk.after(Cut::Nothing).process(), 77).expect("a store");
    let reader = store.read(&key("a")).expect("sound");
    records(&reader).expect("sound").into_iter().map(|(payload, _)| payload).collect()
}

fn options(durability: Durability, sharing: Sharing) -> OpenOptions {
    OpenOptions { durability: Some(durability), sharing, ..OpenOptions::default() }
}

/// Handles of session `a`, each of its own process or all the same, with a change of turn at every call from now on.
fn handles(options: OpenOptions, processes: usize) -> (SimDisk, Vec<Arc<Session>>) {
    let disk = SimDisk::new(3);
    let first = open_store(&disk.process(), 1).expect("a store");
    let made = first.create(forklog::NewSession::named(key("a")).options(options)).expect("made");
    let mut handles = vec![Arc::new(made)];
    for n in 1..processes {
        let store = open_store(&disk.process(), 10 + n as u64).expect("a store");
        handles.push(Arc::new(store.session_with(&key("a"), options).expect("opened")));
    }
    disk.on_point(Points::Every, |_, _| thread::yield_now());
    (disk, handles)
}

/// Appends from several threads, which take turns with the handles. What was acknowledged must survive at once.
fn append(disk: &SimDisk, handles: &[Arc<Session>], threads: usize, may_fail: bool) -> Vec<String> {
    let work = |n: usize| {
        let (disk, session) = (disk.clone(), Arc::clone(&handles[n % handles.len()]));
        thread::spawn(move || {
            let mut kept = Vec::new();
            for m in 0..2 {
                let payload = json!({ "thread": n, "n": m });
                match session.append(&payload) {
                    Ok(_) => {
                        kept.push(payload.to_string());
                        let left = left(&disk);
                        assert!(kept.iter().all(|payload| left.contains(payload)), "{kept:?} of {left:?}");
                    }
                    Err(Error::Io { .. } | Error::Poisoned { .. }) if may_fail => {}
                    Err(error) => panic!("{error}"),
                }
            }
            kept
        })
    };
    let threads: Vec<_> = (0..threads).map(work).collect();
    threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
}

/// That the transcript holds what was acknowledged, in the order of each thread.
fn is_whole(disk: &SimDisk, kept: &[String], all: usize) {
    let store = open_store(&disk.process(), 78).expect("a store");
    let read = records(&store.read(&key("a")).expect("sound")).expect("sound");
    let place = |payload: &String| read.iter().position(|(found, _)| found == payload).expect("acknowledged");
    assert_eq!(read.len(), all);
    for pair in kept.windows(2).filter(|pair| pair[0][..10] == pair[1][..10]) {
        assert!(place(&pair[0]) < place(&pair[1]), "{pair:?} in {read:?}");
    }
    assert!(store.verify(None, |_| {}).expect("read").is_sound());
}

#[test]
fn what_is_acknowledged_while_syncs_are_shared_survives() {
    in_many_orders(|| {
        let (disk, handles) = handles(options(Durability::Sync, Sharing::Exclusive), 1);
        let kept = append(&disk, &handles, 3, false);
        disk.clear_hook();
        drop(handles);
        is_whole(&disk, &kept, 6);
    });
}

#[test]
fn nobody_is_acknowledged_whose_shared_sync_failed() {
    for n in 1..4 {
        let scenario = move || {
            let (disk, handles) = handles(options(Durability::Sync, Sharing::Exclusive), 1);
            disk.add_fault(Fault::at(n, What::LoseDirty(Errno::Io)).on(Op::Sync).in_path("transcript"));
            let kept = append(&disk, &handles, 3, true);
            let left = left(&disk);
            assert!(kept.iter().all(|payload| left.contains(payload)), "{kept:?} of {left:?}");
            disk.clear_hook();
        };
        shuttle::check_random(scenario, 100);
        shuttle::check_pct(scenario, 100, 3);
    }
}

#[test]
fn what_processes_append_to_one_session_at_once_survives() {
    in_many_orders(|| {
        let (disk, handles) = handles(options(Durability::Sync, Sharing::PerCall), 2);
        let kept = append(&disk, &handles, 2, false);
        disk.clear_hook();
        drop(handles);
        is_whole(&disk, &kept, 4);
    });
}

#[test]
fn a_sync_covers_all_that_was_appended_before_it_began() {
    in_many_orders(|| {
        let (disk, handles) = handles(options(Durability::Write, Sharing::Exclusive), 1);
        let session = Arc::clone(&handles[0]);
        let other = thread::spawn(move || {
            session.append(&json!("other")).expect("appended");
            session.set(&json!({ "title": "t" })).expect("set");
            session.sync()
        });
        handles[0].append(&json!("own")).expect("appended");
        handles[0].sync().expect("synced");
        assert!(left(&disk).contains(&"\"own\"".to_owned()));
        other.join().expect("no panic").expect("synced");
        assert!(left(&disk).contains(&"\"other\"".to_owned()));
        disk.clear_hook();
    });
}
