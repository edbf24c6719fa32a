//! What the command line promises: text, JSON, exit codes, and a store that is as it was after a refusal.

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::Cli;
use serde_json::{Value, json};

impl Cli {
    /// A session `s` with records 0, 1, 2 named a, b, c.
    fn three(&self) {
        self.good(&["create", "s", "--title", "Three", "--tag", "old"]);
        let lines = b"{\"uuid\":\"a\",\"n\":0}\n{\"uuid\":\"b\",\"n\":1}\n{\"uuid\":\"c\",\"n\":2}\n";
        let said = self.good_with(&["append", "s", "--id-field", "uuid"], lines);
        assert_eq!(said, "{\"appended\":3,\"duplicates\":0}\n");
    }

    /// Every transcript's bytes.
    fn transcripts(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        collect(&self.store(), &mut found);
        found.retain(|path, _| path.extension().is_some_and(|end| end == "jsonl" || end == "json"));
        found
    }
}

fn collect(dir: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => collect(&path, found),
            path => drop(found.insert(path.clone(), std::fs::read(path).expect("readable"))),
        }
    }
}

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/samples")
}

#[test]
fn create_prints_the_id_and_append_counts() {
    let cli = Cli::new();
    let id = cli.good(&["create"]);
    assert_eq!(id.trim().len(), 36, "a UUID: {id}");
    let made = cli.value(&["--json", "create", "x", "--project", "-p", "--meta", r#"{"mine":[1]}"#]);
    assert_eq!(made, json!({"id": "x", "project": "-p"}));
    assert_eq!(cli.value(&["info", "-p/x", "--json"])["meta"], json!({"mine": [1]}));
    cli.three();
    let again = b"{\"uuid\":\"c\",\"n\":2}\n\n{\"uuid\":\"d\",\"n\":3}\n";
    let said = cli.good_with(&["append", "s", "--id-field", "uuid", "--batch", "--durability", "sync"], again);
    assert_eq!(said, "{\"appended\":1,\"duplicates\":1}\n");
    let file = cli.dir.path().join("more.jsonl");
    std::fs::write(&file, "{\"n\":4}\r\n{\"n\":5}").expect("written");
    let file = file.to_str().expect("text");
    cli.good(&["append", "s", file, "--durability", "interval:5"]);
    assert_eq!(cli.numbers(&["cat", "s"]), [0, 1, 2, 3, 4, 5]);
    assert_eq!(cli.numbers(&["cat", "s", "--last", "2"]), [4, 5]);
    assert_eq!(cli.numbers(&["cat", "s", "--from", "1", "--to", "2"]), [1, 2]);
    let line = &cli.values(&["cat", "s", "--from", "1", "--to", "1", "--envelope"])[0];
    assert_eq!((&line["id"], &line["data"]["n"]), (&json!("b"), &json!(1)));
    cli.good_with(&["append", "s", "--side", "subagents/x"], b"{\"n\":9}");
    assert_eq!(cli.numbers(&["cat", "s", "--side", "subagents/x"]), [9]);
    assert_eq!(cli.value(&["info", "s", "--json"])["sides"], json!(["subagents/x"]));
}

#[test]
fn payloads_that_spill_over_are_printed_exported_and_found_as_ever() {
    let cli = Cli::new();
    cli.good(&["create", "s"]);
    let long = format!("{{\"n\":1,\"text\":\"{}\"}}", "needle ".repeat(50));
    let input = format!("{{\"n\":0}}\n{long}\n{{\"n\":2}}\n");
    cli.good_with(&["append", "s", "--spill-over", "100"], input.as_bytes());
    assert_eq!(cli.good(&["cat", "s"]), input);
    assert_eq!(cli.good(&["export", "s"]), input);
    assert_eq!(cli.good(&["cat", "s", "--last", "2"]).lines().next(), Some(&*long));
    assert!(cli.good(&["cat", "s", "--envelope"]).contains("\"large\":{\"object\":\""));
    assert_eq!(cli.value(&["grep", "needle", "--json"])["data"]["n"], 1);
    cli.good(&["verify"]);
    let packs = cli.store().join("objects");
    for entry in std::fs::read_dir(packs).expect("there").flatten() {
        std::fs::remove_file(entry.path()).expect("removed");
    }
    let output = cli.run_with(&["verify"], b"");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.code() == Some(1) && text.contains("its payload is missing"), "{text}");
    assert_eq!(cli.numbers(&["cat", "s", "--from", "2"]), [2]);
}

#[test]
fn rewinds_are_undone_and_redone_and_what_was_left_can_be_forked() {
    let cli = Cli::new();
    cli.three();
    let left = cli.good(&["rewind", "s", "--to-id", "a"]);
    assert_eq!(cli.numbers(&["cat", "s"]), [0]);
    assert_eq!(cli.numbers(&["cat", "s", "--to", left.trim()]), [0, 1, 2]);
    assert_eq!(cli.good(&["fork", "s", "--at", left.trim(), "--as", "left"]), "left\n");
    cli.good(&["undo", "s"]);
    assert_eq!(cli.numbers(&["cat", "s"]), [0, 1, 2]);
    cli.good(&["redo", "s"]);
    assert_eq!(cli.numbers(&["cat", "s"]), [0]);
    assert!(cli.value(&["undo", "s", "--json"])["left"].is_string());
    cli.bad(&["undo", "left"], 2, "nothing to undo");
    cli.good_with(&["append", "left", "--id-field", "id"], b"{\"id\":7,\"n\":3}");
    assert_eq!(cli.good(&["fork", "left", "--at-id", "7", "--as", "other/second"]), "second\n");
    assert_eq!(cli.numbers(&["cat", "second", "--project", "other"]), [0, 1, 2, 3]);
    let tree = cli.good(&["tree", "other/second"]);
    assert_eq!(tree.lines().count(), 3, "{tree}");
    assert!(tree.contains("└─ default/left after 3 records") && tree.contains("other/second *"), "{tree}");
    let depths: Vec<Value> = cli.values(&["tree", "--json"]).iter().map(|line| line["depth"].clone()).collect();
    assert_eq!(depths, [json!(0), json!(1), json!(2)]);
}

#[test]
fn metadata_is_set_and_lists_are_filtered_and_paged() {
    let cli = Cli::new();
    cli.three();
    cli.good(&["create", "t", "--tag", "x"]);
    let meta = cli.value(&["set", "s", "--tag", "x", "--untag", "old", "--meta", r#"{"cost":2.5}"#, "--json"]);
    assert_eq!((&meta["tags"], &meta["title"]), (&json!(["x"]), &json!("Three")));
    let ids = |args: &[&str]| -> Vec<String> {
        let found = cli.values(args);
        found.iter().filter_map(|entry| entry["id"].as_str().map(str::to_owned)).collect()
    };
    assert_eq!(ids(&["ls", "--json", "--tag", "x"]), ["s", "t"]);
    assert_eq!(ids(&["ls", "--json", "--text", "three"]), ["s"]);
    assert_eq!(ids(&["ls", "--json", "--min-cost", "2", "--max-cost", "3"]), ["s"]);
    assert_eq!(ids(&["ls", "--json", "--after", "1h", "--project", "default"]), ["s", "t"]);
    assert!(ids(&["ls", "--json", "--before", "2020-01-01"]).is_empty());
    let page = cli.values(&["ls", "--json", "--limit", "1"]);
    let next = page[1]["next"].as_str().expect("a cursor");
    assert_eq!(ids(&["ls", "--json", "--cursor", next]), ["t"]);
    assert_eq!(cli.good(&["latest"]), "default/s\n");
    cli.good(&["set", "s", "--archive"]);
    assert_eq!(cli.good(&["latest", "--project", "default"]), "default/t\n");
    assert_eq!(ids(&["ls", "--json"]), ["t"]);
    assert_eq!(ids(&["ls", "--json", "--all"]), ["s", "t"]);
    cli.good(&["set", "s", "--unarchive"]);
    let wanted = [
        "id",
        "project",
        "created_at",
        "updated_at",
        "records",
        "messages",
        "turns",
        "total_cost",
        "model",
        "title",
        "summary",
        "first_prompt",
        "tags",
        "parent",
        "fork_point",
        "size_bytes",
        "archived",
        "damaged",
        "live",
    ];
    for args in [&["info", "s", "--json"][..], &["ls", "--json", "--limit", "1"]] {
        let entry = cli.values(args).remove(0);
        assert!(wanted.iter().all(|name| entry.get(name).is_some()), "{entry}");
    }
    let table = cli.good(&["ls"]);
    assert!(table.contains("default/s") && !table.contains('\x1b'), "no colours in a pipe: {table}");
    assert!(cli.good(&["info", "s"]).contains("Three"));
}

#[test]
fn grep_finds_what_the_view_holds() {
    let cli = Cli::new();
    cli.three();
    cli.good(&["rewind", "s", "--to", "1"]);
    assert_eq!(cli.good(&["grep", "\"n\":"]).lines().count(), 2);
    assert_eq!(cli.good(&["grep", "N\":2", "-i"]), "");
    let found = cli.values(&["grep", "-E", "\"n\":[1-9]", "--json"]);
    assert_eq!((found.len(), &found[0]["seq"], &found[0]["data"]["n"]), (1, &json!(1), &json!(1)));
    cli.bad(&["grep", "-E", "("], 2, "regular expression");
}

#[test]
fn follow_prints_what_another_process_appends() {
    let cli = Cli::new();
    cli.three();
    let mut child = cli.command(&["follow", "s", "--json"]).stdout(Stdio::piped()).spawn().expect("it starts");
    let out = BufReader::new(child.stdout.take().expect("piped"));
    let (send, lines) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in out.lines().map_while(Result::ok) {
            let _ = send.send(line);
        }
    });
    // It may not be watching yet: what is appended before that is no news to it.
    let mut first = None;
    for _ in 0..100 {
        cli.good_with(&["append", "s"], b"{\"n\":3}");
        first = lines.recv_timeout(std::time::Duration::from_millis(300)).ok();
        if first.is_some() {
            break;
        }
    }
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    reader.join().expect("no panic");
    let first: Value = serde_json::from_str(&first.expect("a line")).expect("JSON");
    assert_eq!(first["data"]["n"], 3);
}

#[test]
fn what_is_imported_comes_out_equal_and_once() {
    let cli = Cli::new();
    let samples = samples();
    let path = samples.to_str().expect("text");
    let first = cli.values(&["import", path, "--json"]);
    let sum = first.last().expect("a sum");
    assert!(sum["appended"].as_u64().is_some_and(|n| n > 20) && sum["failed_files"] == 0, "{sum}");
    let before = cli.values(&["ls", "--json", "--all"]).len();
    let second = cli.values(&["import", path, "--json"]);
    let again = second.last().expect("a sum");
    assert_eq!((&again["appended"], &again["created"], &again["duplicates"]), (&json!(0), &json!(0), &sum["appended"]));
    assert_eq!(cli.values(&["ls", "--json", "--all"]).len(), before);
    // Main and side transcripts, of Claude Code, Codex and plain lines: each file's values, in order, and nothing else.
    let mut exported = Vec::new();
    for session in cli.values(&["ls", "--json", "--all"]) {
        let name = format!("{}/{}", session["project"].as_str().expect("text"), session["id"].as_str().expect("text"));
        exported.push(cli.values(&["export", &name]));
        let info = cli.value(&["info", &name, "--json"]);
        let sides = info["sides"].as_array().expect("a list").iter();
        exported.extend(sides.map(|side| cli.values(&["export", &name, "--side", side.as_str().expect("text")])));
    }
    let mut files = BTreeMap::new();
    collect(&samples, &mut files);
    let values = |bytes: &Vec<u8>| -> Vec<Value> {
        // One of the samples begins with a byte-order mark, as files of some editors do.
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
    };
    let mut wanted: Vec<Vec<Value>> = files.values().map(values).collect();
    let order = |lines: &Vec<Value>| serde_json::to_string(lines).expect("JSON");
    exported.sort_by_key(order);
    wanted.sort_by_key(order);
    assert_eq!((wanted.len(), exported.len()), (8, 8));
    assert_eq!(exported, wanted);
    assert!(cli.value(&["verify", "--json"])["sound"] == true);
}

#[test]
fn bad_lines_are_reported_and_kept_and_a_file_that_grows_is_imported_on() {
    let cli = Cli::new();
    let dir = cli.dir.path().join("in");
    std::fs::create_dir(&dir).expect("made");
    let file = dir.join("chat.jsonl");
    std::fs::write(&file, "not json\n{\"n\":0,\"timestamp\":\"2025-01-02T03:04:05Z\"}\n{\"n\":1}\n{\"n\":")
        .expect("written");
    let path = dir.to_str().expect("text");
    let said = cli.values(&["import", path, "--json"]);
    assert_eq!((&said[0]["bad_line"]["line"], &said[0]["bad_line"]["torn"]), (&json!(1), &json!(false)));
    assert_eq!((&said[1]["bad_line"]["line"], &said[1]["bad_line"]["torn"]), (&json!(4), &json!(true)));
    assert_eq!((&said[2]["appended"], &said[2]["bad_lines"]), (&json!(2), &json!(1)));
    std::fs::write(&file, "not json\n{\"n\":0,\"timestamp\":\"2025-01-02T03:04:05Z\"}\n{\"n\":1}\n{\"n\":2}\n")
        .expect("written");
    let said = cli.values(&["import", path, "--json"]);
    assert_eq!((&said[1]["appended"], &said[1]["duplicates"]), (&json!(1), &json!(2)));
    assert_eq!(cli.numbers(&["export", "chat", "--project", "in"]), [0, 1, 2]);
    // The time of the record before is carried on, and the session begins with its first.
    let lines = cli.values(&["cat", "in/chat", "--envelope", "--to", "1"]);
    assert!(lines.iter().all(|line| line["at"] == "2025-01-02T03:04:05.000Z"), "{lines:?}");
    assert_eq!(cli.value(&["info", "in/chat", "--json"])["created_at"], "2025-01-02T03:04:05.000Z");
    let mut files = BTreeMap::new();
    collect(&cli.store(), &mut files);
    let kept: Vec<_> = files.iter().filter(|(path, _)| path.extension().is_some_and(|end| end == "bad")).collect();
    assert_eq!(kept.len(), 1, "once, however often it is imported");
    assert_eq!(kept[0].1, b"not json\n");
}

#[test]
fn deleting_collecting_and_rerooting_keep_forks_whole() {
    let cli = Cli::new();
    cli.three();
    cli.good(&["fork", "s", "--at", "1", "--as", "f"]);
    assert_eq!(cli.value(&["delete", "s", "--json"]), json!({"id": "s", "project": "default", "deleted": true}));
    cli.bad(&["cat", "s"], 3, "there is no session default/s");
    assert_eq!(cli.value(&["gc", "--json"])["kept"], 1);
    assert_eq!(cli.numbers(&["cat", "f"]), [0, 1]);
    assert_eq!(cli.value(&["reroot", "f", "--json"])["ancestors"], 1);
    assert_eq!(cli.value(&["gc", "--dry-run", "--json"])["graves"], 1);
    assert_eq!(cli.value(&["gc", "--json"])["graves"], 1);
    assert_eq!(cli.numbers(&["cat", "f"]), [0, 1]);
    assert_eq!(cli.value(&["reindex", "--json"]), json!({"sessions": 1}));
    assert_eq!(cli.good(&["cleanup", "--older-than", "30d"]), "nothing is that old\n");
    let tomorrow = "2100-01-01";
    assert_eq!(cli.value(&["cleanup", "--older-than", tomorrow, "--dry-run", "--json"])["deleted"], false);
    assert_eq!(cli.value(&["cleanup", "--older-than", tomorrow, "--json"])["deleted"], true);
    cli.bad(&["latest"], 3, "there is no session");
}

#[test]
fn damage_is_told_repaired_and_told_again() {
    let cli = Cli::new();
    cli.three();
    let (path, mut bytes) =
        cli.transcripts().into_iter().find(|(path, _)| path.ends_with("transcript.jsonl")).expect("one");
    let at = bytes.windows(5).position(|part| part == b"\"n\":1").expect("the second record");
    bytes[at + 4] = b'7';
    std::fs::write(&path, &bytes).expect("written");
    let output = cli.run_with(&["verify", "--json"], b"");
    assert_eq!(output.status.code(), Some(1));
    let found: Value =
        serde_json::from_slice(output.stdout.split(|c| *c == b'\n').next().expect("a line")).expect("JSON");
    assert_eq!(found["damage"][0]["repairable"], true);
    assert_eq!(cli.run_with(&["verify", "s"], b"").status.code(), Some(1));
    cli.bad(&["cat", "s"], 1, "damaged at byte");
    assert_eq!(cli.value(&["repair", "s", "--json"])["quarantined"].as_array().map(Vec::len), Some(1));
    assert_eq!(cli.numbers(&["cat", "s"]), [0, 2]);
    assert!(cli.good(&["verify"]).contains("sound"));
    assert!(cli.good(&["repair", "s"]).contains("nothing is damaged"));
}

#[test]
fn bad_names_and_places_are_refused_and_change_nothing() {
    let cli = Cli::new();
    cli.bad(&["ls"], 3, "there is no store");
    assert!(!cli.store().exists(), "a command that reads makes no store");
    cli.three();
    let before = cli.transcripts();
    for id in ["../x", "", &"x".repeat(300), "a b", "/etc/passwd"] {
        for command in ["create", "cat", "rewind", "delete", "append"] {
            let args: &[&str] = if command == "rewind" { &[command, id, "--to", "0"] } else { &[command, id] };
            cli.bad(args, 2, "cannot be the name of a session");
        }
    }
    for command in ["cat", "undo", "info", "delete", "append", "export", "repair", "verify", "reroot", "fork"] {
        cli.bad(&[command, "nobody"], 3, "there is no session default/nobody");
    }
    cli.bad(&["create", "s"], 2, "exists already");
    cli.bad(&["fork", "s", "--at", "99"], 3, "there is no record");
    cli.bad(&["fork", "s", "--at-id", "zz"], 3, "there is no record");
    cli.bad(&["rewind", "s", "--to", "3"], 3, "there is no record");
    cli.bad(&["cat", "s", "--to", "3"], 3, "there is no record");
    cli.bad(&["cat", "s", "--side", "none"], 3, "there is no side transcript");
    let nowhere = "000102030405060708090a0b0c0d0e0f:1234:9ae0daaf:17:0";
    cli.bad(&["fork", "s", "--at", nowhere], 3, "there is no");
    cli.bad(&["create", "t", "--meta", "[]"], 2, "JSON object");
    cli.bad(&["set", "s", "--meta", r#"{"tags":1}"#], 2, "wrong type");
    cli.bad(&["set", "s"], 2, "nothing to set");
    cli.bad(&["import", "/no/such/path"], 5, "cannot read");
    for args in [&["cat"][..], &["rewind", "s"], &["ls", "--after", "soon"], &["cleanup"], &["fork", "s", "--at", "-1"]]
    {
        assert_eq!(cli.run_with(args, b"").status.code(), Some(2), "{args:?}");
    }
    assert_eq!(cli.transcripts(), before);
}

#[test]
fn bad_values_are_refused_and_change_nothing() {
    let cli = Cli::new();
    cli.three();
    let before = cli.numbers(&["cat", "s"]);
    let deep = [vec![b'['; 200], vec![b']'; 200]].concat();
    let long = [b"\"".to_vec(), vec![b'x'; (64 << 20) + 10], b"\"".to_vec()].concat();
    let cases: [(&[u8], &str); 6] = [
        (b"{\"a\"", "not one JSON value"),
        (b"{} {}", "not one JSON value"),
        (b"{}\x00", "not one JSON value"),
        (b"\"\xff\"", "not one JSON value"),
        (&deep, "nests deeper"),
        (&long, "more than the"),
    ];
    for (input, why) in cases {
        cli.bad_with(&["append", "s"], input, 2, why);
        cli.bad_with(&["append", "s", "--batch"], &[b"{}\n", input].concat(), 2, "line 2 (nothing was appended)");
    }
    cli.bad_with(&["append", "s", "--id-field", "id"], b"[]", 2, "no object");
    cli.bad_with(&["append", "s", "--id-field", "id"], b"{\"id\":\"\"}", 2, "cannot be the name of a record");
    cli.bad(&["append", "s", "/no/such/file"], 5, "cannot read");
    assert_eq!(cli.numbers(&["cat", "s"]), before);
    assert_eq!(cli.value(&["info", "s", "--json"])["records"], 3);
    cli.bad_with(&["append", "s"], b"{\"n\":3}\nx", 2, "the 1 before it are appended");
    assert_eq!(cli.numbers(&["cat", "s"]), [0, 1, 2, 3]);
}

#[test]
fn a_newer_store_is_left_alone() {
    let cli = Cli::new();
    cli.three();
    let path = cli.store().join("store.json");
    let text = std::fs::read_to_string(&path).expect("text");
    let newer = text.replacen("\"format\":1", "\"format\":9", 1);
    assert_ne!(text, newer);
    // The sum covers everything before itself.
    let covered = &newer[..newer.len() - "9ae0daaf\"}\n".len()];
    std::fs::write(&path, format!("{covered}{:08x}\"}}\n", crc32fast::hash(covered.as_bytes()))).expect("written");
    let before = cli.transcripts();
    for args in [&["ls"][..], &["create", "t"], &["cat", "s"], &["gc"]] {
        cli.bad(args, 1, "needs a newer version");
    }
    assert_eq!(cli.transcripts(), before);
}

#[test]
fn a_store_that_cannot_be_is_refused() {
    let cli = Cli::new();
    std::fs::write(cli.store(), "a file").expect("written");
    for args in [&["ls"][..], &["create", "t"]] {
        cli.bad(args, 5, "a store is a directory");
    }
    assert_eq!(std::fs::read(cli.store()).expect("still there"), b"a file");
    // A file system that nobody may write to, root neither.
    cli.bad(&["--store", "/proc/forklog", "create"], 5, "cannot make");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_and_a_closed_pipe() {
    let cli = Cli::new();
    cli.three();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("there");
    let output = cli.command(&["cat", "s"]).stdout(full).output().expect("it runs");
    assert_eq!(output.status.code(), Some(5));
    let lines = "{\"text\":\"0123456789012345678901234567890123456789\"}\n".repeat(20_000);
    cli.good_with(&["append", "s", "--batch"], lines.as_bytes());
    for args in [&["cat", "s"][..], &["grep", "0123"], &["completions", "bash"]] {
        let mut child = cli.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]), "{args:?}");
    }
}

#[test]
fn a_session_that_is_being_written_is_locked() {
    let cli = Cli::new();
    cli.three();
    let mut command = cli.command(&["append", "s"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(b"{\"n\":3}\n").expect("written");
    stdin.flush().expect("written");
    for _ in 0..200 {
        if cli.numbers(&["cat", "s"]).len() == 4 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    cli.bad_with(&["append", "s"], b"{}", 4, "wait for it or stop it");
    cli.bad(&["delete", "s"], 4, "wait for it or stop it");
    assert_eq!(cli.value(&["ls", "--json"])["live"], true);
    drop(stdin);
    assert!(child.wait().expect("it ends").success());
    assert_eq!(cli.numbers(&["cat", "s"]), [0, 1, 2, 3]);
}

#[test]
fn completions_are_printed_for_every_shell() {
    let cli = Cli::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(cli.good(&["completions", shell]).contains("forklog"));
    }
    assert!(!cli.store().exists());
}

#[test]
fn bench_measures_every_work_and_leaves_nothing() {
    let cli = Cli::new();
    let dir = cli.dir.path().join("disk");
    std::fs::create_dir(&dir).expect("made");
    let place = dir.to_str().expect("text");
    let lines = cli.values(&["bench", "--dir", place, "--ms", "10", "--json"]);
    let works: Vec<_> = lines.iter().map(|line| (line["work"].as_str(), line["durability"].as_str())).collect();
    let append = |durability| (Some("append"), Some(durability));
    assert_eq!(works[..4], [append("write"), append("interval:100"), append("sync"), append("sync")]);
    assert_eq!(works.len(), 8);
    for line in &lines {
        let of = |name: &str| line[name].as_f64().unwrap_or_else(|| panic!("{name} in {line}"));
        assert!(of("count") >= 1.0 && of("per_second") > 0.0, "{line}");
        assert!(0.0 < of("p50_us") && of("p50_us") <= of("p99_us") && of("p99_us") <= of("worst_us"), "{line}");
    }
    assert!(lines.iter().any(|line| line["bytes_per_second"].as_f64().is_some_and(|rate| rate > 0.0)));
    let text = cli.good(&["bench", "--dir", place, "--ms", "10"]);
    assert!(text.contains("8 threads") && text.lines().count() > 8, "{text}");
    assert_eq!(std::fs::read_dir(&dir).expect("a directory").count(), 0, "what was made is gone");
    assert!(!cli.store().exists(), "no store was made");
    cli.bad(&["bench", "--dir", "/nowhere/at/all"], 3, "no such directory");
}
