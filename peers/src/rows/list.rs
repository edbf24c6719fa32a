//! Lists of many sessions, and the index they come from.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use forklog::{Filter, Store, Timestamp};
use rusqlite::{Connection, Params, params};
use serde_json::Value;

use super::Setting;
use super::fixtures::{FIRST, STEP};
use crate::measure::{Case, Outcome, Row, Sample, Unit};
use crate::peers::{Mode, sqlite_connect, store};

pub(super) fn rows(setting: &Setting, done: &mut impl FnMut(Outcome)) {
    if setting.wants("list-newest") {
        done(newest(setting));
    }
    for (id, tag) in [("list-filter", "common"), ("list-rare", "rare")] {
        if setting.wants(id) {
            done(filtered(setting, id, tag));
        }
    }
    if setting.wants("reindex") {
        done(reindex(setting));
    }
}

const PAGE: usize = 50;
const COLUMNS: &str = "id, project, title, created, updated, records, cost, model, first_prompt, summary";

/// All columns of all rows, as a list needs them.
fn select(db: &Connection, sql: &str, params: impl Params) -> Vec<i64> {
    let mut select = db.prepare_cached(sql).expect("prepared");
    let mut rows = select.query(params).expect("asked");
    let mut ids = Vec::new();
    while let Some(row) = rows.next().expect("a row") {
        for column in 1..10 {
            black_box(row.get::<_, rusqlite::types::Value>(column).expect("a value"));
        }
        ids.push(row.get(0).expect("a number"));
    }
    ids
}

fn ids(entries: &[forklog::Entry]) -> Vec<i64> {
    entries.iter().map(|entry| entry.key.session.as_str().parse().expect("a number")).collect()
}

fn newest(setting: &Setting) -> Outcome {
    let many = setting.many();
    let n = i64::try_from(many.n).unwrap_or_default();
    let wanted: Vec<i64> = (0..n).rev().take(PAGE).collect();
    let (ours, database) = (many.forklog(), many.sqlite());
    let mut cases = vec![
        Case::new("forklog", "open, list", |_| {
            let mut page = None;
            let sample =
                Sample::time(|| page = Some(store(&ours).list(&Filter::default(), None, PAGE).expect("listed")));
            assert_eq!(page.map(|page| ids(&page.entries)), Some(wanted.clone()));
            sample
        }),
        Case::new("SQLite", "open, index on the time", |_| {
            let mut found = Vec::new();
            let sql = format!("SELECT {COLUMNS} FROM sessions WHERE archived = 0 ORDER BY updated DESC LIMIT {PAGE}");
            let sample = Sample::time(|| found = select(&sqlite_connect(&database, Mode::Write), &sql, []));
            assert_eq!(found, wanted);
            sample
        }),
    ];
    let readable = many.n <= 100_000;
    if readable {
        let dir = many.jsonl();
        let wanted = wanted.clone();
        cases.push(Case::new("JSONL", "every file read and parsed", move |_| {
            let mut found = Vec::new();
            let sample = Sample::time(|| found = read_all(&dir));
            assert_eq!(found[..wanted.len()], wanted);
            sample
        }));
    }
    let what = format!("newest 50 of {n} sessions, just opened");
    let row = Row { id: "list-newest", what, unit: Unit::Seconds, goal: "1 ms; not slower than SQLite", cases };
    let why = "not run: it reads 1,000,000 files";
    setting.run(row).missing("JSONL", (!readable).then_some(why))
}

/// Reads every file, as tools do that keep no index, and returns the ids, the newest first.
fn read_all(dir: &Path) -> Vec<i64> {
    let mut found = Vec::new();
    for project in fs::read_dir(dir).expect("a directory") {
        for file in fs::read_dir(project.expect("an entry").path()).expect("a directory") {
            let text = fs::read_to_string(file.expect("an entry").path()).expect("a file");
            let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
            let head = &lines[0];
            found.push((head["at"].as_i64().expect("a time"), head["id"].as_i64().expect("a number")));
        }
    }
    found.sort_unstable_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, id)| id).collect()
}

/// Those with a tag that cost 2 dollars or more and were made in one fifth of the time, the newest 50.
fn filtered(setting: &Setting, id: &'static str, tag: &'static str) -> Outcome {
    let many = setting.many();
    let span = i64::try_from(many.n).unwrap_or_default() * STEP;
    let (from, to) = (FIRST + span / 5, FIRST + span * 2 / 5);
    let filter = Filter {
        tags_all: vec![tag.to_owned()],
        min_cost: Some(2.0),
        created_from: Some(Timestamp::from_millis(from)),
        created_before: Some(Timestamp::from_millis(to)),
        ..Filter::default()
    };
    let (ours, database) = (store(&many.forklog()), sqlite_connect(&many.sqlite(), Mode::Write));
    let list = |store: &Store| ids(&store.list(&filter, None, PAGE).expect("listed").entries);
    let sql = format!(
        "SELECT {COLUMNS} FROM sessions JOIN tags ON tags.session = sessions.id WHERE tag = ?1 AND cost >= ?2 \
         AND created >= ?3 AND created < ?4 AND archived = 0 ORDER BY updated DESC LIMIT {PAGE}"
    );
    let ask = |db: &Connection| select(db, &sql, params![tag, 2.0, from, to]);
    assert_eq!(list(&ours), ask(&database));
    let found = list(&ours).len();
    let cases = vec![
        Case::new("forklog", "open before", |_| Sample::time(|| list(&ours))),
        Case::new("SQLite", "open before, indices, analysed", |_| Sample::time(|| ask(&database))),
    ];
    let what = format!("filter {} sessions by a {tag} tag, cost and date: {found} of them", many.n);
    let row = Row { id, what, unit: Unit::Seconds, goal: "not slower than SQLite", cases };
    setting.run_rounds(row, setting.rounds * 5)
}

/// Builds the index from transcripts, beside reading their bytes.
fn reindex(setting: &Setting) -> Outcome {
    let many = setting.many();
    let dir = many.forklog();
    let store = store(&dir);
    let cases = vec![
        Case::new("forklog", "reindex", |_| Sample::time(|| assert_eq!(store.reindex().expect("built"), many.n))),
        Case::new("bare directory walk, open, read(2)", "the same bytes", |_| {
            Sample::time(|| assert_eq!(walk(&dir.join("projects")), many.n))
        }),
    ];
    let what = format!("build the index of {} sessions", many.n);
    let row = Row { id: "reindex", what, unit: Unit::Seconds, goal: "3 × reading the same bytes", cases };
    setting.run_rounds(row, setting.rounds.min(5))
}

/// Opens and reads every transcript below `dir`, and counts them.
fn walk(dir: &Path) -> u64 {
    let mut buffer = Vec::new();
    let mut count = 0;
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("a directory") {
            let entry = entry.expect("an entry");
            if entry.file_type().expect("a kind").is_dir() {
                dirs.push(entry.path());
            } else if entry.file_name() == "transcript.jsonl" {
                buffer.clear();
                let path: PathBuf = entry.path();
                File::open(path).and_then(|mut file| file.read_to_end(&mut buffer)).expect("read");
                count += u64::from(!black_box(&buffer).is_empty());
            }
        }
    }
    count
}
