use serde_json::Value;

use super::*;

/// Number, id, payload of a record, or number and reason of a bad line.
type Seen = (u64, Result<(String, String), String>);

fn read(bytes: &[u8]) -> Vec<Seen> {
    read_with(Lines::new(bytes, "test"))
}

fn read_with<R: BufRead>(mut lines: Lines<R>) -> Vec<Seen> {
    let mut seen = Vec::new();
    while let Some(line) = lines.next().expect("reads from memory") {
        seen.push(match line {
            Line::Record(record) => {
                let payload = String::from_utf8(record.payload.into_owned()).expect("UTF-8");
                (record.number, Ok((record.id.to_string(), payload)))
            }
            Line::Bad(bad) => (bad.number, Err(bad.why)),
        });
    }
    seen
}

fn ids(bytes: &[u8]) -> Vec<String> {
    read(bytes).into_iter().filter_map(|(_, line)| Some(line.ok()?.0)).collect()
}

#[test]
fn marks_carriage_returns_and_blank_lines_are_passed_over() {
    let seen = read(b"\xef\xbb\xbf{\"a\":1}\r\n\r\n  \n{\"a\":2} \n{\"a\":3}");
    let payloads: Vec<(u64, &str)> =
        seen.iter().map(|(number, line)| (*number, line.as_ref().map_or("", |line| &*line.1))).collect();
    assert_eq!(payloads, [(1, r#"{"a":1}"#), (4, r#"{"a":2}"#), (5, r#"{"a":3}"#)]);
    assert!(read(b"").is_empty() && read(b"\n\n").is_empty() && read(b"\xef\xbb\xbf").is_empty());
}

#[test]
fn bad_lines_keep_their_bytes_and_place() {
    let bytes = b"{\"a\":1}\nnot json\n\0\0\0\0\n\"\xff\"\n{}{}\n{\"a\":2}\n{\"torn";
    let mut lines = Lines::new(&bytes[..], "test");
    let mut bad = Vec::new();
    while let Some(line) = lines.next().expect("reads from memory") {
        if let Line::Bad(line) = line {
            let at = usize::try_from(line.offset.get()).expect("small");
            assert!(bytes[at..].starts_with(line.bytes), "line {}", line.number);
            assert_eq!(line.len_bytes, line.bytes.len() as u64);
            bad.push((line.number, line.why, line.torn));
        }
    }
    assert_eq!(lines.position().get(), bytes.len() as u64);
    let numbers: Vec<(u64, bool)> = bad.iter().map(|(number, _, torn)| (*number, *torn)).collect();
    assert_eq!(numbers, [(2, false), (3, false), (4, false), (5, false), (7, true)]);
    assert!(bad[1].1.contains("NUL") && bad[2].1.contains("UTF-8"), "{bad:?}");
}

#[test]
fn a_line_over_the_limit_is_bad_and_the_next_one_is_read() {
    let long = format!("\"{}\"\n7\n", "x".repeat(3 << 20));
    for capacity in [1, 1000, 1 << 16] {
        if capacity == 1 && cfg!(debug_assertions) {
            continue; // Three million calls take too long without optimisation.
        }
        let file = BufReader::with_capacity(capacity, long.as_bytes());
        let mut lines = Lines::new(file, "test").max_line(2 << 20);
        match lines.next().expect("reads") {
            Some(Line::Bad(bad)) => assert_eq!((bad.len_bytes, bad.bytes.len()), ((3 << 20) + 2, KEPT)),
            other => panic!("{other:?}"),
        }
        assert!(matches!(lines.next().expect("reads"), Some(Line::Record(record)) if &*record.payload == b"7"));
    }
    let exact = read_with(Lines::new(&b"12345\n123456\n"[..], "test").max_line(5));
    assert!(exact[0].1.is_ok() && exact[1].1.is_err());
}

#[test]
fn every_line_of_a_file_has_an_id_of_its_own() {
    let uuid = r#"{"uuid":"u","n":1}"#;
    let file = [uuid, r#"{"uuid":"u","n":2}"#, "7", "7", r#"{"uuid":"u#2"}"#, uuid, r#"{"uuid":"ä"}"#, r#"{"uuid":7}"#];
    let ids = ids(file.join("\n").as_bytes());
    assert_eq!(&ids[..2], ["u", "u#2"]);
    assert_eq!(ids[3], format!("{}#2", ids[2]));
    assert_eq!(&ids[4..6], ["u#2#2", "u#3"]);
    assert!(ids[2].starts_with("line-") && ids[6].starts_with("line-") && ids[7].starts_with("line-"));
    let long = format!("{{\"uuid\":\"{}\"}}\n", "x".repeat(101)).repeat(3);
    assert_eq!(self::ids(long.as_bytes()).len(), 3);
}

#[test]
fn a_file_that_grows_keeps_its_ids() {
    let whole = "{\"uuid\":\"a\"}\n7\n7\nbad\n{\"uuid\":\"a\"}\n[1]\r\n[1]\n{\"uuid\":\"b\"}\n";
    let all = ids(whole.as_bytes());
    for (cut, _) in whole.char_indices() {
        let some = ids(&whole.as_bytes()[..cut]);
        assert_eq!(some, all[..some.len()], "cut at {cut}");
    }
}

#[test]
fn a_timestamp_is_read_where_there_is_one() {
    let mut lines = Lines::new(
        &br#"{"timestamp":"2026-03-14T08:02:11.120Z"}
{"timestamp":"2026-03-14T10:02:11+02:00","x":{"timestamp":"2020-01-01T00:00:00Z"}}
{"timestamp":7}
{"x":{"timestamp":"2020-01-01T00:00:00Z"}}"#[..],
        "test",
    );
    let mut times = Vec::new();
    while let Some(Line::Record(record)) = lines.next().expect("reads from memory") {
        times.push(record.at.map(|at| at.to_string()));
    }
    let expected = [Some("2026-03-14T08:02:11.120Z"), Some("2026-03-14T08:02:11.000Z"), None, None];
    assert_eq!(times, expected.map(|time| time.map(str::to_owned)));
}

#[test]
fn payloads_equal_the_lines_they_came_from() {
    let samples = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/samples");
    for source in crate::import::discover(&[samples], None).expect("carried along").sources {
        let text = std::fs::read_to_string(&source.path).expect("UTF-8");
        let text: Vec<&str> = text.split('\n').collect();
        let mut lines = Lines::open(&source.path).expect("exists");
        let (mut records, mut bad, mut torn) = (0, 0, 0);
        while let Some(line) = lines.next().expect("is read") {
            match line {
                Line::Record(record) => {
                    let original =
                        text[usize::try_from(record.number).expect("small") - 1].trim_start_matches('\u{feff}');
                    let original: Value = serde_json::from_str(original).expect("is JSON");
                    assert_eq!(serde_json::from_slice::<Value>(&record.payload).expect("is JSON"), original);
                    records += 1;
                }
                Line::Bad(line) => {
                    bad += 1;
                    torn += usize::from(line.torn);
                }
            }
        }
        let damaged = source.path.to_string_lossy().contains("f058e68a") || source.path.ends_with("plain.jsonl");
        assert!(records > 2, "{}", source.path.display());
        assert_eq!(bad > 0, damaged, "{}", source.path.display());
        assert!(torn <= 1 && torn <= bad);
    }
}
