//! Where no thread is to be had, the calls that would use several do with one.

use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use forklog::checkpoint::PlanOptions;
use forklog::{At, Durability, Error, FilesTarget, Filter, NewSession, Scope, Seq, Store};
use forklog_sim::{Cut, Errno, Fault, Op, SimDisk, What};
use forklog_soak::{key, open_store};
use serde_json::json;

/// Says to the process that is started that no thread is to be had; it is this test again.
const ALONE: &str = "FORKLOG_TEST_WITHOUT_THREADS_IN";

fn works_alone(dir: &std::path::Path) {
    thread::Builder::new().spawn(|| ()).expect_err("no thread is to be had");
    let store = Store::open(dir.join("store")).expect("a store");
    for n in 0..130 {
        let session = store.create(NewSession::named(key(&format!("s{n}")))).expect("created");
        session.append(&json!({ "needle": n })).expect("appended");
        session.close().expect("closed");
    }
    assert_eq!(store.reindex().expect("read"), 130);
    assert_eq!(store.grep(&Filter::default(), b"needle", |_, _| ()).expect("searched").records, 130);
    assert_eq!(store.verify(None, |_| {}).expect("verified").transcripts, 130);

    let work = dir.join("work");
    std::fs::create_dir(&work).expect("made");
    let write = |what: &str| {
        for n in 0..130 {
            std::fs::write(work.join(n.to_string()), format!("{what} {n}")).expect("written");
        }
    };
    let session = store.session(&key("s0")).expect("opened");
    let files = session.files(&work).expect("opened");
    write("first");
    files.checkpoint(None).expect("taken");
    session.append(&1).expect("appended");
    write("second");
    files.checkpoint(None).expect("taken");
    files.rewind(&FilesTarget::At(At::Seq(Seq::new(0))), Scope::Both, &PlanOptions::default()).expect("rewound");
    assert_eq!(std::fs::read(work.join("129")).expect("read"), b"first 129");
    drop(files);
    session.close().expect("closed");

    let disk = SimDisk::new(1);
    let hour = Durability::Interval(Duration::from_secs(3600));
    let store = Store::options().disk(Arc::new(disk.process())).durability(hour).open("/store").expect("a store");
    let session = store.create(NewSession::named(key("a"))).expect("created");
    session.append(&1).expect("appended");
    let after = open_store(&disk.after(Cut::Nothing).process(), 1).expect("a store");
    assert_eq!(after.read(&key("a")).expect("there").len(), 1, "it was synced at once, since nobody will do it later");
}

#[test]
fn whatever_uses_threads_does_without_them() {
    if let Some(dir) = std::env::var_os(ALONE) {
        works_alone(dir.as_ref());
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    // No address space holds such a stack, so starting a thread fails as it does at the limit of threads.
    let done = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "threads::whatever_uses_threads_does_without_them", "--nocapture", "--test-threads=1"])
        .env(ALONE, dir.path())
        .env("RUST_MIN_STACK", (1_u64 << 50).to_string())
        .output()
        .expect("started");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// The names of a session are synced before its first sync; where that went on failing, nothing was synced and nobody was told.
#[test]
fn an_interval_whose_sync_of_names_fails_is_told_at_the_next_append() {
    let disk = SimDisk::new(1);
    let often = Durability::Interval(Duration::from_millis(2));
    let store = Store::options().disk(Arc::new(disk.process())).durability(often).open("/store").expect("a store");
    disk.add_fault(Fault::at(1, What::Fail(Errno::Io)).on(Op::SyncDir).in_path("projects").lasting());
    let session = store.create(NewSession::named(key("a"))).expect("created");
    let late = Instant::now() + Duration::from_secs(20);
    let told = loop {
        if let Err(error) = session.append(&1) {
            break error;
        }
        assert!(Instant::now() < late, "appends go on");
        thread::sleep(Duration::from_millis(2));
    };
    assert!(matches!(told, Error::Poisoned { .. }), "{told}");
    session.close().expect_err("it is poisoned");
    disk.clear_faults();
    store.session(&key("a")).expect("opened").close().expect("closed");
    let appended = store.read(&key("a")).expect("there").len();
    let after = open_store(&disk.after(Cut::Nothing).process(), 2).expect("a store");
    assert_eq!(after.read(&key("a")).expect("there").len(), appended);
}
