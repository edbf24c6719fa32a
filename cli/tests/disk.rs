//! Disks that are full or read-only, and directories that may not be entered: one clear line, the right exit code, nothing lost.
//!
//! Full and read-only disks are real: small ones in memory, mounted where only the test's own processes see them. A machine that
//! allows no mounts fails these tests rather than passing them unseen; `FORKLOG_NO_MOUNTS=1` leaves them out.
#![cfg(target_os = "linux")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Whoever owns nothing.
const NOBODY: u32 = 65534;

/// What every script starts with: `try CODE COMMAND…` demands an exit code and shows standard output; what was said on standard error is in
/// `$said`, and is one line when there was an error.
const PRELUDE: &str = r#"
set -eu
fail() { echo "$*" >&2; exit 99; }
try() {
    want=$1; shift; code=0
    "$@" >"$OUT/out" 2>"$OUT/err" || code=$?
    said=$(cat "$OUT/err")
    [ "$code" = "$want" ] || fail "$*: exit code $code, not $want: $said"
    [ "$want" = 0 ] || [ "$(wc -l <"$OUT/err")" = 1 ] || fail "$*: not one line: $said"
}
says() { case "$said" in *"$1"*) ;; *) fail "\"$said\" does not say \"$1\"" ;; esac; }
lines() { seq -f '{"uuid":"u%g","text":"0123456789012345678901234567890123456789"}' "$1" "$2"; }
f() { "$FORKLOG" --store "$DISK/store" "$@"; }
"#;

/// Runs `script` where `$DISK` is a disk of 1 MiB of its own.
fn on_a_small_disk(script: &str) {
    if std::env::var_os("FORKLOG_NO_MOUNTS").is_some() {
        eprintln!("left out: FORKLOG_NO_MOUNTS is set");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let disk = dir.path().join("disk");
    fs::create_dir(&disk).expect("made");
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c"]);
    command.arg(format!("{PRELUDE}\nmount -t tmpfs -o size=1m forklog \"$DISK\"\n{script}"));
    command.env("OUT", dir.path()).env("DISK", &disk).env("FORKLOG", env!("CARGO_BIN_EXE_forklog"));
    let output = command.output().expect("unshare of util-linux is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_full_disk_loses_nothing_and_the_session_goes_on_when_there_is_room() {
    on_a_small_disk(
        r#"
        f create s >"$OUT/id"
        lines 1 100 | try 0 f append s --id-field uuid
        lines 101 20000 >"$OUT/input"
        try 5 f append s "$OUT/input" --id-field uuid
        says 'no space left'
        says 'free some space'
        kept=$(f cat s | wc -l)
        [ "$kept" -gt 100 ] || fail "only $kept records"
        f cat s >"$OUT/kept"
        { lines 1 100; cat "$OUT/input"; } | head -n "$kept" | cmp - "$OUT/kept" || fail "other records than were given"
        try 0 f verify
        try 5 f append s "$OUT/input" --batch
        says 'no space left'
        [ "$(f cat s | wc -l)" = "$kept" ] || fail "part of a batch is there"
        try 5 f create other --title "$(head -c 40000 /dev/zero | tr '\0' x)"
        says 'no space left'
        try 0 f verify
        mount -o remount,size=16m "$DISK"
        try 0 f append s "$OUT/input" --id-field uuid
        grep -q "\"appended\":$((20000 - kept)),\"duplicates\":$((kept - 100))" "$OUT/out" || fail "$(cat "$OUT/out")"
        { lines 1 100; cat "$OUT/input"; } >"$OUT/all"
        f cat s | cmp - "$OUT/all" || fail "other records than were given"
        try 0 f verify
        "#,
    );
}

#[test]
fn a_full_disk_refuses_a_new_store_and_the_next_try_makes_it() {
    on_a_small_disk(
        r#"
        head -c 1048576 /dev/zero >"$DISK/ballast" || true
        try 5 f create s
        says 'no space left'
        rm "$DISK/ballast"
        try 0 f create s
        echo '{"n":1}' | try 0 f append s
        try 0 f verify
        "#,
    );
}

#[test]
fn a_read_only_disk_is_read_and_not_written() {
    on_a_small_disk(
        r#"
        f create s >"$OUT/id"
        lines 1 3 | try 0 f append s
        f fork s --at 1 --as t >"$OUT/id"
        (cd "$DISK" && find . -type f -exec sha256sum {} + | sort) >"$OUT/before"
        mount -o remount,ro "$DISK"
        echo '{}' >"$OUT/in"
        for command in 'cat s' 'cat t' 'cat s --last 1' 'ls --json' 'latest' 'info s' 'tree' 'grep 0123' 'export s' 'verify'; do
            try 0 f $command
        done
        [ "$(f cat s | wc -l)" = 3 ] || fail 'records are missing'
        [ "$(f ls --json | wc -l)" = 2 ] || fail 'sessions are missing'
        for command in 'append s' 'create u' 'fork s' 'rewind s --to 0' 'set s --title x' 'delete s' 'reroot t' 'repair s' 'reindex' 'gc'; do
            try 5 f $command <"$OUT/in"
            says 'ead-only'
            says 'choose another store'
        done
        (cd "$DISK" && find . -type f -exec sha256sum {} + | sort) | cmp - "$OUT/before" || fail 'something was changed'
        mount -o remount,rw "$DISK"
        echo '{}' | try 0 f append s
        try 0 f verify
        "#,
    );
}

/// A directory that everybody may enter, with the program in it.
struct Public {
    dir: tempfile::TempDir,
}

impl Public {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        set_mode(dir.path(), 0o755);
        fs::copy(env!("CARGO_BIN_EXE_forklog"), dir.path().join("forklog")).expect("copied");
        Self { dir }
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// Runs the program as somebody whom permissions stop, which they do not stop root.
    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(self.dir.path().join("forklog"));
        command.arg("--store").arg(self.store()).args(args);
        if is_root(self.dir.path()) {
            command.uid(NOBODY).gid(NOBODY);
        }
        command.output().expect("it runs")
    }

    fn refused(&self, args: &[&str]) {
        let output = self.run(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{args:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.contains("ermission denied") && error.contains("change the permissions"), "{args:?}: {error}");
    }

    fn good(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }
}

/// Whether what this process makes belongs to root.
fn is_root(made: &Path) -> bool {
    fs::metadata(made).expect("there").uid() == 0
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("changed");
}

/// Every file and directory at or below `path`.
fn all_below(path: &Path) -> Vec<PathBuf> {
    let mut found = vec![path.to_owned()];
    let mut n = 0;
    while let Some(dir) = found.get(n).cloned() {
        let below = fs::read_dir(&dir).into_iter().flatten().flatten();
        found.extend(below.map(|entry| entry.path()));
        n += 1;
    }
    found
}

#[test]
fn permissions_that_are_missing_are_told_and_nothing_changes() {
    let public = Public::new();
    fs::create_dir(public.store()).expect("made");
    if is_root(public.dir.path()) {
        chown(public.store(), Some(NOBODY), Some(NOBODY)).expect("given away");
    }
    public.good(&["create", "s", "--title", "t"]);
    public.good(&["set", "s", "--tag", "x"]);
    let all = all_below(&public.store());
    let modes: Vec<u32> = all.iter().map(|path| fs::metadata(path).expect("there").mode()).collect();
    let bytes = |path: &Path| if path.is_file() { fs::read(path).expect("readable") } else { Vec::new() };
    let before: Vec<Vec<u8>> = all.iter().map(|path| bytes(path)).collect();

    // Nothing may be written.
    for path in all.iter().rev() {
        set_mode(path, if path.is_dir() { 0o555 } else { 0o444 });
    }
    assert!(public.good(&["ls"]).contains('t'));
    public.good(&["verify"]);
    for args in
        [&["create", "u"][..], &["set", "s", "--title", "u"], &["fork", "s"], &["delete", "s"], &["append", "s"]]
    {
        public.refused(args);
    }
    // The directory may not even be entered.
    set_mode(&public.store(), 0o000);
    for args in [&["ls"][..], &["create", "u"], &["cat", "s"], &["verify"]] {
        public.refused(args);
    }
    for (path, mode) in all.iter().zip(&modes) {
        set_mode(path, mode & 0o777);
    }
    assert_eq!(all_below(&public.store()), all);
    assert_eq!(all.iter().map(|path| bytes(path)).collect::<Vec<_>>(), before);
    public.good(&["set", "s", "--title", "u"]);
    assert!(public.good(&["ls"]).contains('u'));
}
