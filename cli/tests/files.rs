//! What the command line promises about files: checkpoints, rewinds of files, undo, diff.
#![cfg(unix)]

mod common;

use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, Stdio};

use common::Cli;
use serde_json::{Value, json};

impl Cli {
    fn append(&self, id: &str, n: u64) {
        let output = self.run_with(&["append", id], format!("{{\"n\":{n}}}").as_bytes());
        assert!(output.status.success(), "{output:?}");
    }

    fn write(&self, path: &str, content: &str) {
        fs::write(self.dir.path().join("work").join(path), content).expect("written");
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.dir.path().join("work").join(path)).unwrap_or_else(|_| "-".to_owned())
    }

    /// A session with record 0 and a checkpoint `start`, then record 1 and another checkpoint; returns the checkpoints' ids.
    fn two(&self) -> [String; 2] {
        self.good(&["create", "s"]);
        self.append("s", 0);
        self.write("a.txt", "one\ntwo\n");
        self.write("b.txt", "b\n");
        let first = self.good(&["checkpoint", "s", "--label", "start"]);
        self.append("s", 1);
        self.write("a.txt", "one\nTWO\nthree\n");
        fs::remove_file(self.work().join("b.txt")).expect("removed");
        self.write("c.txt", "c\n");
        let second = self.good(&["checkpoint", "s"]);
        [first.trim().to_owned(), second.trim().to_owned()]
    }
}

#[test]
fn checkpoints_are_taken_and_listed() {
    let cli = Cli::new();
    let ids = cli.two();
    let found = cli.json(&["checkpoints", "s"]);
    assert_eq!(found.len(), 2);
    let work = cli.work();
    assert_eq!((&found[0]["id"], &found[0]["label"], &found[0]["seq"]), (&json!(ids[0]), &json!("start"), &json!(0)));
    assert_eq!((&found[1]["id"], &found[1]["label"], &found[1]["seq"]), (&json!(ids[1]), &json!(null), &json!(1)));
    assert_eq!((&found[1]["workspace"], &found[1]["whole"]), (&json!(work), &json!(true)));
    let text = cli.good(&["checkpoints", "s"]);
    assert!(ids.iter().all(|id| text.contains(id)) && text.contains("start"), "{text}");
    // Single paths: one that is there, one that is not; from a directory below, too.
    fs::create_dir(work.join("src")).expect("made");
    cli.write("src/main.rs", "fn main() {}\n");
    cli.good_in(&work.join("src"), &["checkpoint", "s", "main.rs", "../a.txt", "gone/by/now"]);
    let last = cli.json(&["checkpoints", "s"]).pop().expect("three");
    assert_eq!((&last["whole"], &last["seq"]), (&json!(false), &json!(1)));
    cli.bad(&["checkpoint", "s", "src"], 2, "is a directory");
    cli.bad(&["checkpoint", "s", "/etc/passwd"], 2, "is not a file in");
    cli.bad(&["checkpoint", "s", "gone/../../x"], 2, "is not a file in");
    cli.bad(&["checkpoint", "s", "--label", "two\nlines"], 2, "label");
    cli.bad(&["checkpoint", "none"], 3, "there is no session");
    cli.bad(&["checkpoint", "s", "--workspace", "none"], 3, "there is no directory none");
    // What is left out is said.
    let fifo = std::ffi::CString::new(work.join("pipe").as_os_str().as_bytes()).expect("no NUL");
    let made = Command::new("mkfifo").arg(std::ffi::OsStr::from_bytes(fifo.as_bytes())).status().expect("mkfifo");
    assert!(made.success());
    let taken = cli.json_value(&["checkpoint", "s"]);
    assert_eq!(taken["skipped"], json!([{"path": "pipe", "why": "special"}]));
    assert!(taken["id"].is_string() && taken["position"].is_string(), "{taken}");
}

#[test]
fn files_and_conversation_go_back_and_come_again() {
    let cli = Cli::new();
    let ids = cli.two();
    let plan = cli.json_value(&["rewind", "s", "--to", "0", "--files", "--dry-run"]);
    let files = json!([
        {"path": "a.txt", "change": "modify", "insertions": 1, "deletions": 2},
        {"path": "b.txt", "change": "create", "insertions": 1, "deletions": 0},
        {"path": "c.txt", "change": "delete", "insertions": 0, "deletions": 1},
    ]);
    let expected = json!({
        "can_rewind": true, "files_changed": files, "insertions": 2, "deletions": 3, "conflicts": [], "skipped": [],
    });
    assert_eq!(plan, expected);
    assert_eq!((cli.read("c.txt"), cli.numbers(&["cat", "s"])), ("c\n".to_owned(), vec![0, 1]), "nothing was changed");
    let text = cli.good(&["rewind", "s", "--to", "0", "--files", "--dry-run"]);
    assert_eq!(
        text,
        "modify   a.txt  +1 -2\ncreate   b.txt  +1\ndelete   c.txt  -1\nwould change 3 files, 2 insertions, 3 deletions\n"
    );
    let done = cli.json_value(&["rewind", "s", "--to", "0", "--files"]);
    assert_eq!((&done["files_changed"], &done["can_rewind"]), (&files, &json!(true)));
    assert_eq!((&done["rescued"], &done["moved_aside"]), (&json!([]), &json!([])));
    assert_eq!(
        (cli.read("a.txt"), cli.read("b.txt"), cli.read("c.txt")),
        ("one\ntwo\n".into(), "b\n".into(), "-".into())
    );
    assert_eq!(cli.numbers(&["cat", "s"]), [0]);
    // What was left can be forked.
    cli.good(&["fork", "s", "--at", done["left"].as_str().expect("a position"), "--as", "left"]);
    assert_eq!(cli.numbers(&["cat", "left"]), [0, 1]);
    let plan = cli.json_value(&["undo", "s", "--dry-run"]);
    assert_eq!((plan["insertions"].as_u64(), plan["deletions"].as_u64()), (Some(3), Some(2)));
    let text = cli.good(&["undo", "s"]);
    assert!(text.lines().count() == 5 && text.contains("changed 3 files"), "{text}");
    assert_eq!((cli.read("a.txt"), cli.read("b.txt")), ("one\nTWO\nthree\n".into(), "-".into()));
    assert_eq!(cli.numbers(&["cat", "s"]), [0, 1]);
    cli.good(&["redo", "s"]);
    assert_eq!((cli.read("c.txt"), cli.numbers(&["cat", "s"])), ("-".into(), vec![0]));
    cli.good(&["undo", "s"]);
    // Files alone, some of them, by a checkpoint's label, id, or how the id begins.
    let done = cli.json_value(&["rewind", "s", "--to-checkpoint", "start", "--files-only", "--only", "a*"]);
    assert_eq!(done["left"], json!(null));
    assert_eq!(
        (cli.read("a.txt"), cli.read("c.txt"), cli.numbers(&["cat", "s"])),
        ("one\ntwo\n".into(), "c\n".into(), vec![0, 1])
    );
    cli.good(&["rewind", "s", "--to-checkpoint", &ids[1], "--files-only"]);
    assert_eq!(cli.read("a.txt"), "one\nTWO\nthree\n");
    cli.good(&["rewind", "s", "--to-checkpoint", &ids[0][..12], "--files"]);
    assert_eq!((cli.read("b.txt"), cli.numbers(&["cat", "s"])), ("b\n".into(), vec![0]));
    for _ in 0..3 {
        cli.good(&["undo", "s"]);
    }
    assert_eq!(
        (cli.read("a.txt"), cli.read("b.txt"), cli.numbers(&["cat", "s"])),
        ("one\nTWO\nthree\n".into(), "-".into(), vec![0, 1])
    );
    cli.bad(&["undo", "s"], 2, "there is nothing to undo");
    // The conversation alone, to where a checkpoint belongs.
    cli.good(&["rewind", "s", "--to-checkpoint", "start"]);
    assert_eq!((cli.read("c.txt"), cli.numbers(&["cat", "s"])), ("c\n".into(), vec![0]));
    assert_eq!(cli.json_value(&["undo", "s", "--dry-run"])["files_changed"], json!([]));
    cli.good(&["undo", "s"]);
    assert_eq!(cli.numbers(&["cat", "s"]), [0, 1]);
}

#[test]
fn somebody_elses_edit_is_kept_unless_forced_and_comes_back_even_then() {
    let cli = Cli::new();
    cli.two();
    cli.write("a.txt", "mine\n");
    let done = cli.json_value(&["rewind", "s", "--to", "0", "--files"]);
    assert_eq!(
        (&done["can_rewind"], &done["conflicts"]),
        (&json!(false), &json!([{"path": "a.txt", "change": "modify"}]))
    );
    assert_eq!((cli.read("a.txt"), cli.read("b.txt")), ("mine\n".into(), "b\n".into()));
    let text = cli.good(&["rewind", "s", "--to", "0", "--files", "--dry-run"]);
    assert!(text.starts_with("kept     a.txt: changed since this session last saw it"), "{text}");
    cli.good(&["rewind", "s", "--to", "0", "--files", "--force"]);
    assert_eq!(cli.read("a.txt"), "one\ntwo\n");
    cli.good(&["undo", "s"]);
    assert_eq!(cli.read("a.txt"), "mine\n");
    // So is one in the way of an undo.
    cli.write("b.txt", "mine too\n");
    let plan = cli.json_value(&["undo", "s", "--dry-run"]);
    assert_eq!(plan["conflicts"], json!([{"path": "b.txt", "change": "delete"}]));
    cli.good(&["undo", "s", "--force"]);
    assert_eq!((cli.read("b.txt"), cli.read("c.txt")), ("-".into(), "c\n".into()));
    cli.good(&["redo", "s"]);
    assert_eq!(cli.read("b.txt"), "mine too\n");
}

#[test]
fn a_workspace_that_moved_is_asked_for_and_then_goes_on() {
    let cli = Cli::new();
    cli.two();
    let (was, now) = (cli.work(), cli.dir.path().join("elsewhere"));
    let root = cli.dir.path();
    fs::rename(&was, &now).expect("moved");
    let way_out = "which is not there; if it has moved, say where to with --workspace DIR";
    for args in [
        &["rewind", "s", "--to", "0", "--files"][..],
        &["rewind", "s", "--to-checkpoint", "start", "--files-only"],
        &["diff", "s"],
        &["checkpoint", "s"],
    ] {
        cli.bad_in(root, args, 3, way_out);
    }
    let text = cli.run_in(root, &["rewind", "s", "--to", "0", "--files", "--workspace", "elsewhere"]);
    assert_eq!(text.status.code(), Some(0), "{text:?}");
    assert!(String::from_utf8_lossy(&text.stderr).contains("is taken for"), "{text:?}");
    assert_eq!(fs::read_to_string(now.join("b.txt")).expect("there"), "b\n");
    cli.bad_in(root, &["undo", "s"], 3, way_out);
    cli.good_in(root, &["undo", "s", "--workspace", "elsewhere"]);
    assert!(!now.join("b.txt").exists());
    assert!(cli.good_in(root, &["diff", "s@start", "--workspace", "elsewhere"]).contains("+TWO"));
    // A directory that was there all along is not the one that moved.
    fs::create_dir(&was).expect("made");
    cli.bad_in(root, &["rewind", "s", "--to", "0", "--files", "--workspace", "elsewhere"], 3, "is not where");
}

#[test]
fn arguments_that_do_not_go_together_are_refused() {
    let cli = Cli::new();
    cli.good(&["create", "s"]);
    cli.append("s", 0);
    cli.bad(&["rewind", "s", "--to", "0", "--files"], 3, "has no checkpoint");
    cli.bad(&["rewind", "s", "--to", "0", "--dry-run"], 2, "add --files");
    cli.bad(&["rewind", "s", "--to-checkpoint", "x"], 3, "there is no checkpoint x");
    cli.bad(&["diff", "s"], 3, "has no checkpoint of a whole workspace");
    cli.bad(&["diff", "s@x"], 3, "there is no checkpoint x");
    cli.bad(&["diff", "nobody"], 3, "there is no session");
    for args in [
        &["rewind", "s", "--files"][..],
        &["rewind", "s", "--to", "0", "--to-checkpoint", "x"],
        &["rewind", "s", "--to", "0", "--files", "--files-only"],
        &["rewind", "s", "--to", "0", "--only", "x"],
        &["diff", "s", "s", "--workspace", "."],
    ] {
        assert_eq!(cli.run_in(&cli.work(), args).status.code(), Some(2), "{args:?}");
    }
    // A home directory is not taken by accident.
    let mut command = Command::new(env!("CARGO_BIN_EXE_forklog"));
    command.env("FORKLOG_STORE", cli.dir.path().join("store")).env("HOME", cli.work());
    let output = command.args(["checkpoint", "s"]).current_dir(cli.work()).output().expect("it ran");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("say so with --workspace"), "{output:?}");
}

#[test]
fn an_open_session_is_locked_and_so_are_its_files() {
    let cli = Cli::new();
    cli.two();
    let mut command = Command::new(env!("CARGO_BIN_EXE_forklog"));
    command.env("FORKLOG_STORE", cli.dir.path().join("store")).args(["append", "s"]).stdin(Stdio::piped());
    let mut writer = command.stdout(Stdio::null()).spawn().expect("it starts");
    let mut stdin = writer.stdin.take().expect("piped");
    stdin.write_all(b"{\"n\":2}\n").expect("written");
    stdin.flush().expect("written");
    while cli.numbers(&["cat", "s"]).len() < 3 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    cli.bad(&["rewind", "s", "--to", "0", "--files"], 4, "being written by process");
    cli.bad(&["checkpoint", "s"], 4, "being written by process");
    assert!(cli.good(&["diff", "s@start"]).contains("+TWO"), "who only looks takes no lock");
    drop(stdin);
    assert!(writer.wait().expect("it ends").success());
}

#[test]
fn checkpoints_and_the_files_now_are_compared() {
    let cli = Cli::new();
    let ids = cli.two();
    let between = cli.good(&["diff", &format!("s@{}", ids[0]), &format!("default/s@{}", &ids[1][..8])]);
    let expected = "diff --git a/a.txt b/a.txt\n--- a/a.txt\n+++ b/a.txt\n@@ -1,2 +1,3 @@\n one\n-two\n+TWO\n+three\n\
        diff --git a/b.txt b/b.txt\ndeleted file mode 100644\n--- a/b.txt\n+++ /dev/null\n@@ -1 +0,0 @@\n-b\n\
        diff --git a/c.txt b/c.txt\nnew file mode 100644\n--- /dev/null\n+++ b/c.txt\n@@ -0,0 +1 @@\n+c\n";
    let modes = |text: &str| text.replace("mode 100664", "mode 100644").replace("mode 100600", "mode 100644");
    assert_eq!(modes(&between), expected);
    assert_eq!(modes(&cli.good(&["diff", "s@start"])), expected, "the newest checkpoint is what is there");
    assert_eq!(cli.good(&["diff", "s"]), "");
    assert_eq!(modes(&cli.good(&["diff", "s@start", "s"])), expected, "a session stands for its newest checkpoint");
    let value = cli.json_value(&["diff", "s@start"]);
    assert_eq!((&value["insertions"], &value["deletions"], &value["skipped"]), (&json!(3), &json!(2), &json!([])));
    let first = &value["files_changed"][0];
    assert_eq!(
        (&first["path"], &first["change"], &first["binary"]),
        (&json!("a.txt"), &json!("modify"), &json!(false))
    );
    assert_eq!(first["hunks"], json!("@@ -1,2 +1,3 @@\n one\n-two\n+TWO\n+three\n"));
    // `patch` understands it.
    cli.good(&["rewind", "s", "--to-checkpoint", "start", "--files-only"]);
    let patch = cli.dir.path().join("patch");
    fs::write(&patch, &between).expect("written");
    let applied = Command::new("git").args(["apply"]).arg(&patch).current_dir(cli.work()).status().expect("git");
    assert!(applied.success());
    assert_eq!(
        (cli.read("a.txt"), cli.read("b.txt"), cli.read("c.txt")),
        ("one\nTWO\nthree\n".into(), "-".into(), "c\n".into())
    );
    cli.good(&["checkpoint", "s", "a.txt", "--label", "some"]);
    cli.bad(&["diff", "s@some"], 2, "has only some files");
}

#[test]
fn forks_are_compared_by_what_each_added() {
    let cli = Cli::new();
    cli.two();
    cli.good(&["fork", "s", "--at", "0", "--as", "user@home"]);
    cli.append("user@home", 7);
    cli.append("user@home", 8);
    let text = cli.good(&["diff", "s", "user@home"]);
    let conversation = "--- default/s\n+++ default/user@home\n@@ -2,1 +2,2 @@ they part after record 0\n\
        -{\"n\":1}\n+{\"n\":7}\n+{\"n\":8}\n";
    assert!(text.starts_with(conversation), "{text}");
    assert!(text[conversation.len()..].starts_with("diff --git a/a.txt b/a.txt\n"), "{text}");
    let values = cli.json(&["diff", "s", "user@home"]);
    assert_eq!(values.len(), 5);
    assert_eq!(values[0]["shared"], json!(1));
    assert_eq!(values[0]["a"], json!({"id": "s", "project": "default", "added": 1}));
    assert_eq!(values[0]["b"], json!({"id": "user@home", "project": "default", "added": 2}));
    assert_eq!((&values[1]["only"], &values[1]["seq"], &values[1]["data"]), (&json!("a"), &json!(1), &json!({"n": 1})));
    assert_eq!((&values[3]["only"], &values[3]["seq"], &values[3]["data"]), (&json!("b"), &json!(2), &json!({"n": 8})));
    assert_eq!((&values[4]["insertions"], &values[4]["deletions"]), (&json!(2), &json!(3)));
    let at = values[0]["at"].as_str().expect("a position");
    cli.good(&["fork", "s", "--at", at, "--as", "third"]);
    assert_eq!(cli.numbers(&["cat", "third"]), [0]);
    assert_eq!(cli.good(&["diff", "s", "s"]), "");
    cli.good(&["create", "other"]);
    cli.append("other", 1);
    let text = cli.good(&["diff", "other", "s"]);
    assert_eq!(
        text,
        "--- default/other\n+++ default/s\n@@ -1,1 +1,2 @@ nothing in common\n-{\"n\":1}\n+{\"n\":0}\n+{\"n\":1}\n"
    );
}

#[test]
fn names_that_are_no_text_are_spelled_so_that_two_never_look_the_same() {
    let cli = Cli::new();
    let raw = std::ffi::OsStr::from_bytes(b"caf\xe9");
    let odd = cli.work().join(raw);
    if fs::create_dir(&odd).is_err() {
        return; // This file system wants text.
    }
    fs::write(odd.join("a\\xe9.txt"), "a\n").expect("written");
    fs::write(odd.join(std::ffi::OsStr::from_bytes(b"b\xff")), "b\n").expect("written");
    cli.good(&["create", "s"]);
    cli.append("s", 0);
    let taken = cli.run_in(&odd, &["--json", "checkpoint", "s"]);
    assert!(taken.status.success(), "{taken:?}");
    let work = format!("{}/caf\\xe9", cli.work().display());
    assert_eq!(cli.json_value(&["checkpoints", "s"])["workspace"], json!(work));
    fs::remove_file(odd.join("a\\xe9.txt")).expect("removed");
    fs::remove_file(odd.join(std::ffi::OsStr::from_bytes(b"b\xff"))).expect("removed");
    let plan = cli.json_value(&["rewind", "s", "--to", "0", "--files-only", "--dry-run"]);
    let paths: Vec<&Value> =
        plan["files_changed"].as_array().expect("files").iter().map(|file| &file["path"]).collect();
    assert_eq!(paths, [&json!("a\\\\xe9.txt"), &json!("b\\xff")]);
    cli.good(&["rewind", "s", "--to", "0", "--files-only"]);
    assert_eq!(fs::read(odd.join(std::ffi::OsStr::from_bytes(b"b\xff"))).expect("back"), b"b\n");
}
