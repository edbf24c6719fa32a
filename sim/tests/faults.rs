//! Errors, full disks, killed processes, hooks and counts.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use forklog::disk::{Disk, File, How, LockMode};
use forklog_sim::{Cut, Errno, Fault, Op, Points, Process, SimDisk, What};

fn p(path: &str) -> &Path {
    Path::new(path)
}

fn start() -> (SimDisk, Process, Box<dyn File>) {
    let disk = SimDisk::new(1);
    let process = disk.process();
    let file = process.open(p("/a"), How::CreateNew).expect("a new file");
    file.write_at(b"0123456789", 0).expect("room");
    file.sync().expect("no fault");
    process.sync_dir(p("/")).expect("no fault");
    (disk, process, file)
}

#[test]
fn errors_strike_once_or_until_they_are_cleared() {
    let (disk, _process, file) = start();
    for errno in Errno::ALL {
        disk.add_fault(Fault::at(2, What::Fail(errno)).on(Op::Write));
        file.write_at(b"x", 0).expect("spared");
        assert_eq!(file.write_at(b"y", 0).expect_err("struck").kind(), errno.error().kind());
        file.write_at(b"0", 0).expect("over");
    }
    disk.add_fault(Fault::at(1, What::Fail(Errno::NoSpace)).lasting());
    assert!(file.write_at(b"x", 0).is_err() && file.write_at(b"x", 0).is_err());
    assert!(file.set_len(11).is_err());
    file.set_len(10).expect("cutting needs no space");
    file.read_at(&mut [0; 4], 0).expect("nor does reading");
    disk.clear_faults();
    file.write_at(b"x", 0).expect("cleared");
    assert_eq!(disk.fault_hits(), 5 + 3);
    assert_eq!(**disk.peek(p("/a")).expect("there"), *b"x123456789");
}

#[test]
fn a_short_write_leaves_a_part_from_the_front() {
    let mut kept = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        let file = disk.process().open(p("/a"), How::CreateNew).expect("new");
        disk.add_fault(Fault::at(1, What::FailAfter(Errno::NoSpace)).on(Op::Write));
        assert_eq!(file.write_at(b"abcde", 0).expect_err("struck").kind(), ErrorKind::StorageFull);
        let left = disk.peek(p("/a")).expect("there");
        assert!(b"abcde".starts_with(&left));
        kept.insert(left.len());
    }
    assert_eq!(kept.len(), 6, "every length from nothing to all");
}

#[test]
fn a_call_may_fail_after_it_has_worked() {
    let (disk, process, _file) = start();
    disk.add_fault(Fault::at(1, What::FailAfter(Errno::Io)).on(Op::Rename));
    assert!(process.rename(p("/a"), p("/b")).is_err());
    assert!(disk.peek(p("/b")).is_ok());
    disk.add_fault(Fault::at(1, What::FailAfter(Errno::Io)).on(Op::Create));
    assert!(process.open(p("/c"), How::Create).is_err());
    assert_eq!(process.stat(p("/c")).expect("made").len, 0);
    process.remove_file(p("/c")).expect("there");
    assert!(process.open(p("/b"), How::CreateNew).is_err_and(|error| error.kind() == ErrorKind::AlreadyExists));
}

#[test]
fn a_failed_sync_loses_the_bytes_and_the_next_one_lies() {
    let (disk, process, file) = start();
    file.write_at(b"lost", 10).expect("room");
    disk.add_fault(Fault::at(1, What::LoseDirty(Errno::Io)));
    assert!(file.sync().is_err());
    file.sync().expect("it lies");
    let again = process.open(p("/a"), How::Read).expect("there");
    assert_eq!(again.len().expect("no fault"), 14, "the page cache still shows it");
    for cut in [Cut::Nothing, Cut::Everything, Cut::Subset(1)] {
        assert_eq!(**disk.after(cut).peek(p("/a")).expect("there"), *b"0123456789");
    }
    assert!(!disk.snapshot().is_stable());
}

#[test]
fn a_failed_sync_may_keep_some() {
    let mut left = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let process = disk.process();
        let file = process.open(p("/a"), How::CreateNew).expect("new");
        process.sync_dir(p("/")).expect("no fault");
        file.write_at(b"ab", 0).expect("room");
        disk.add_fault(Fault::at(1, What::LoseSomeDirty(Errno::Io)));
        assert!(file.sync().is_err());
        left.insert(disk.after(Cut::Nothing).peek(p("/a")).expect("there").to_vec());
    }
    for wanted in [&b""[..], b"ab", b"a", b"\0\0"] {
        assert!(left.contains(wanted), "{left:?}");
    }
}

#[test]
fn a_read_may_flip_one_bit_and_leaves_the_disk_alone() {
    let (disk, _process, file) = start();
    disk.add_fault(Fault::at(1, What::FlipBit).on(Op::Read));
    disk.add_fault(Fault::at(1, What::FlipBit).on(Op::Map));
    let differs = |bytes: &[u8]| bytes.iter().zip(b"0123456789").map(|(a, b)| (a ^ b).count_ones()).sum::<u32>();
    let mut out = [0; 10];
    assert_eq!(file.read_at(&mut out, 0).expect("it lies"), 10);
    assert_eq!(differs(&out), 1);
    assert_eq!(differs(&file.map().expect("it lies")), 1);
    file.read_at(&mut out, 0).expect("over");
    assert_eq!(differs(&out), 0);
    disk.add_fault(Fault::at(1, What::Fail(Errno::Io)).on(Op::Read).in_path("a"));
    assert!(file.read_at(&mut out, 0).is_err());
}

#[test]
fn damage_is_there_before_and_after_a_power_cut() {
    let (disk, _process, file) = start();
    file.write_at(b"new", 10).expect("room");
    disk.damage(p("/a"), |bytes| bytes[0] ^= 1).expect("there");
    assert_eq!(**disk.peek(p("/a")).expect("there"), *b"1123456789new");
    assert_eq!(**disk.after(Cut::Nothing).peek(p("/a")).expect("there"), *b"1123456789");
}

#[test]
fn a_full_disk_takes_what_fits_and_gets_room_back() {
    let (disk, process, file) = start();
    disk.set_capacity(Some(16));
    assert_eq!(disk.used(), 10);
    assert_eq!(file.write_at(b"abcdefghij", 10).expect_err("full").kind(), ErrorKind::StorageFull);
    assert_eq!(**disk.peek(p("/a")).expect("there"), *b"0123456789abcdef");
    file.write_at(b"xyz", 4).expect("overwriting needs no room");
    assert!(file.set_len(17).is_err());
    file.set_len(6).expect("cutting");
    file.write_at(b"ABCDEFGHIJ", 6).expect("room again");
    let other = process.open(p("/b"), How::Create).expect("names are free");
    assert!(other.write_at(b"x", 0).is_err());
    process.remove_file(p("/a")).expect("there");
    assert!(other.write_at(b"x", 0).is_err(), "the removed file is still open");
    drop(file);
    other.write_at(b"x", 0).expect("room at last");
    assert_eq!(disk.used(), 1);
}

#[test]
fn a_killed_process_gives_its_locks_back_and_leaves_its_bytes() {
    let (disk, process, file) = start();
    let other = disk.process();
    let rival = other.open(p("/a"), How::Write).expect("there");
    assert!(file.try_lock(LockMode::Exclusive).expect("no fault"));
    assert!(!rival.try_lock(LockMode::Shared).expect("no fault"));
    file.write_at(b"late", 10).expect("room");
    process.kill();
    assert!(file.write_at(b"x", 0).is_err() && file.sync().is_err() && process.stat(p("/a")).is_err());
    assert!(rival.try_lock(LockMode::Exclusive).expect("no fault"));
    assert_eq!(rival.len().expect("no fault"), 14);
    drop(file);
    assert!(!other.open(p("/a"), How::Write).expect("there").try_lock(LockMode::Shared).expect("no fault"));
    assert_eq!(**disk.after(Cut::Nothing).peek(p("/a")).expect("there"), *b"0123456789");
}

#[test]
fn locks_convert_and_survive_renames() {
    let (_disk, process, one) = start();
    let other = process.open(p("/a"), How::Read).expect("there");
    assert!(one.try_lock(LockMode::Shared).expect("no fault"));
    assert!(other.try_lock(LockMode::Shared).expect("no fault"));
    process.rename(p("/a"), p("/b")).expect("there");
    assert!(!one.try_lock(LockMode::Exclusive).expect("no fault"), "shared with the other");
    assert!(other.try_lock(LockMode::Exclusive).expect("no fault"), "the refused conversion gave the shared lock up");
    let fresh = process.open(p("/a"), How::Create).expect("new");
    assert!(fresh.try_lock(LockMode::Exclusive).expect("no fault"), "another file by the old name");
    other.unlock().expect("no fault");
    assert!(one.try_lock(LockMode::Exclusive).expect("no fault"));
}

#[test]
fn numbers_tell_files_apart_and_are_used_again() {
    let (_disk, process, file) = start();
    let id = file.file_id().expect("no fault");
    process.remove_file(p("/a")).expect("there");
    let second = process.open(p("/a"), How::CreateNew).expect("new");
    assert_ne!(second.file_id().expect("no fault"), id, "the first is still open");
    drop(file);
    let third = process.open(p("/c"), How::CreateNew).expect("new");
    assert_eq!(third.file_id().expect("no fault"), id);
}

#[test]
fn the_power_goes_after_so_many_calls() {
    let (disk, process, file) = start();
    disk.stop_after(disk.calls() + 1);
    file.write_at(b"x", 0).expect("the last one");
    assert!(file.write_at(b"y", 0).is_err() && process.list(p("/")).is_err());
    assert!(disk.process().list(p("/")).is_err(), "for everybody");
    assert_eq!(**disk.after(Cut::Everything).peek(p("/a")).expect("there"), *b"x123456789");
    assert!(disk.after(Cut::Nothing).process().list(p("/")).is_ok());
}

#[test]
fn hooks_see_the_disk_as_the_call_finds_it() {
    let (disk, process, file) = start();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (log, inner) = (Arc::clone(&seen), disk.clone());
    disk.on_point(Points::Barriers, move |point, snapshot| {
        assert_eq!(inner.calls() + 1, point.call, "the harness side can be used from a hook");
        let bytes = snapshot.after(Cut::Everything).peek(p("/a")).expect("there").len();
        log.lock().expect("one thread").push((point.op, bytes, snapshot.is_stable()));
    });
    file.write_at(b"abc", 10).expect("room");
    file.sync().expect("no fault");
    process.rename(p("/a"), p("/b")).expect("there");
    disk.clear_hook();
    process.sync_dir(p("/")).expect("no fault");
    assert_eq!(*seen.lock().expect("one thread"), [(Op::Sync, 13, false), (Op::Rename, 13, true)]);
}

#[test]
fn calls_and_bytes_are_counted_and_shown() {
    let (disk, process, file) = start();
    let before = disk.counts();
    file.write_at(b"abc", 10).expect("room");
    file.sync().expect("no fault");
    process.sync_dir(p("/")).expect("no fault");
    assert!(process.stat(p("/none")).is_err());
    let used = disk.counts().since(&before);
    assert_eq!((used.of(Op::Write), used.of(Op::Sync), used.of(Op::SyncDir), used.of(Op::Stat)), (1, 1, 1, 1));
    assert_eq!((used.total(), used.bytes_written), (4, 3));
    let report = disk.report("as a test");
    for wanted in ["as a test", "disk seed 0x1", "Write /a [10, +3)", "Stat /none: entity not found"] {
        assert!(report.contains(wanted), "{report}");
    }
}

#[test]
fn a_watch_returns_at_once() {
    let (_disk, process, _file) = start();
    let mut watch = process.watch(p("/a")).expect("there");
    watch.wait(Duration::from_secs(3600)).expect("no sleep");
    process.remove_file(p("/a")).expect("there");
    assert_eq!(watch.wait(Duration::ZERO).expect_err("gone").kind(), ErrorKind::NotFound);
}
