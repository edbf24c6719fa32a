//! FORMAT.md and the code say the same: the page's worked example is read as the page says.

use forklog::{Position, SessionKey, Store};

/// The lines of the page's worked example.
fn example() -> String {
    let page = include_str!("../../FORMAT.md");
    let section =
        page.split("## 13. A worked example").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("section 13");
    section.lines().filter_map(|line| line.strip_prefix("    ")).map(|line| format!("{line}\n")).collect()
}

fn store_with(transcript: &str) -> (tempfile::TempDir, Store, SessionKey) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path()).expect("a store");
    let session = dir.path().join("projects/p/a");
    std::fs::create_dir_all(&session).expect("made");
    std::fs::write(session.join("transcript.jsonl"), transcript).expect("written");
    (dir, store, SessionKey::new("p", "a").expect("legal"))
}

#[test]
fn the_worked_example_reads_as_the_page_says() {
    let text = example();
    assert_eq!((text.len(), text.lines().count()), (944, 7));
    let (_dir, store, key) = store_with(&text);
    let reader = store.read(&key).expect("readable");
    let end: Position = "0123456789abcdef0123456789abcdef:944:9b717b00:1:643".parse().expect("a position");
    assert_eq!(reader.head(), end);
    let records: Vec<_> = reader.records().map(|record| record.expect("good").payload).collect();
    assert_eq!(records, [br#"{"role":"user","text":"hello"}"#]);
    assert_eq!(serde_json::to_string(&reader.meta()).expect("JSON"), r#"{"title":"greeting"}"#);
    assert!(store.verify(Some(&key), |_| {}).expect("verified").is_sound());
    let session = store.session(&key).expect("open");
    session.undo().expect("one thing to undo");
    assert_eq!(store.read(&key).expect("readable").len(), 3);
    session.redo().expect("and back");
    assert!(session.redo().is_err());
}

#[test]
fn a_cut_in_the_examples_batch_loses_all_of_it() {
    let text = example();
    for cut in 294..540 {
        let (_dir, store, key) = store_with(&text[..cut]);
        let reader = store.read(&key).expect("readable");
        assert_eq!((reader.head().offset.get(), reader.len()), (293, 1), "cut at {cut}");
    }
}

#[test]
fn the_page_names_every_kind_limit_and_file_that_the_code_knows() {
    let page = include_str!("../../FORMAT.md");
    for word in [
        "`forklog`",
        "`data`",
        "`meta`",
        "`rewind`",
        "`undo`",
        "`redo`",
        "`checkpoint`",
        "`repair`",
        "`xclose`",
        "`store`",
        "`map`",
        "`live`",
        "store.json",
        "transcript.jsonl",
        "transcript.map",
        "transcript.lock",
        "quarantine/",
        "lineage/",
        "graves/",
        "anchor",
        "4,096",
        "126",
    ] {
        assert!(page.contains(word), "{word}");
    }
    assert_eq!((forklog::MAX_DEPTH, forklog::MAX_LINEAGE), (126, 4096));
}
