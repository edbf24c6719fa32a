use super::*;

fn names(source: &Source) -> (Format, &str, &str, Option<&str>) {
    let side = source.side.as_ref().map(SideName::as_str);
    (source.format, source.project.as_str(), source.session.as_str(), side)
}

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("has one")).expect("a new directory");
    fs::write(path, text).expect("a new file");
}

const CLAUDE: &str = "{\"type\":\"user\",\"sessionId\":\"s-own\",\"uuid\":\"u\",\"message\":{}}\n";

#[test]
fn the_samples_are_told_apart_and_named() {
    let samples = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/samples");
    let found = discover(&[samples], None).expect("carried along");
    assert!(found.skipped.is_empty());
    let (kitchen, tide) = ("-home-mira-notes-kitchen", "-home-mira-work-tidewatch");
    let menu = "d5cf4318-59a0-4d4a-9145-312aee65000d";
    let bug = "51ea40b0-7088-4482-8231-74d06cde3e3a";
    let expected = [
        (Format::ClaudeCode, kitchen, "84291ede-ccad-4b5f-9703-f95aeacae25f", None),
        (Format::ClaudeCode, kitchen, menu, None),
        (Format::ClaudeCode, kitchen, menu, Some("agent-7f3a90c2")),
        (Format::Codex, tide, "0199d7a2-4c1e-7b30-9a55-3f0c8d21e6b4", None),
        (Format::ClaudeCode, tide, bug, None),
        (Format::ClaudeCode, tide, bug, Some("subagents/agent-1e427f0f")),
        (Format::ClaudeCode, tide, "f058e68a-5488-4516-8ee8-6da9229ef29f", None),
        (Format::Jsonl, "samples", "plain", None),
    ];
    assert_eq!(found.sources.iter().map(names).collect::<Vec<_>>(), expected);
}

#[test]
fn odd_places_and_names() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = &dir.path().join("p");
    write(root, "slug/a b.jsonl", CLAUDE);
    write(root, "slug/a\u{e4}b.jsonl", CLAUDE);
    write(root, "slug/S/subagents/deep/agent-1.jsonl", "");
    write(root, "slug/agent-2.jsonl", CLAUDE);
    write(root, "slug/agent-3.jsonl", "");
    write(root, "slug/.hidden/x.jsonl", CLAUDE);
    write(root, "slug/notes.txt", CLAUDE);
    let found = discover(&[root, &root.join("slug/a b.jsonl"), root], None).expect("readable");
    let found: Vec<_> = found.sources.iter().map(names).collect();
    let session = |name: &str| mended(name, name);
    let expected = [
        ("S", Some("subagents/deep/agent-1")),
        (&session("a\u{e4}b"), None),
        (&session("a b"), None),
        ("agent-3", None),
        ("s-own", Some("agent-2")),
    ];
    assert_eq!(found.iter().map(|found| (found.2, found.3)).collect::<Vec<_>>(), expected);
    assert_ne!(session("a b"), session("a\u{e4}b"));
    assert!(found.iter().all(|found| (found.0, found.1) == (Format::ClaudeCode, "slug")));
}

#[cfg(unix)]
#[test]
fn the_same_name_twice_gets_two_sessions() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path();
    let symlink = |to: &Path, from: &str| std::os::unix::fs::symlink(to, root.join(from)).expect("a link");
    write(root, "1/logs/x.jsonl", "{}\n");
    write(root, "2/logs/x.jsonl", "{}\n");
    symlink(&root.join("1/logs/x.jsonl"), "2/logs/link.jsonl");
    symlink(root, "loop");
    let found = discover(&[root], None).expect("readable");
    let sessions: Vec<&str> = found.sources.iter().map(|source| source.session.as_str()).collect();
    assert_eq!(sessions.len(), 2, "{sessions:?}");
    assert!(sessions[0] == "x" && sessions[1].starts_with("x-") && sessions[1].len() == 10, "{sessions:?}");
}

#[test]
fn the_home_of_an_agent_holds_more_than_transcripts() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path();
    write(root, ".claude/projects/slug/s.jsonl", CLAUDE);
    write(root, ".claude/history.jsonl", "{\"display\":\"hello\"}\n");
    write(root, ".codex/sessions/2026/01/02/rollout-x.jsonl", "");
    write(root, ".codex/history.jsonl", "{}\n");
    let found = discover(&[root.join(".claude"), root.join(".codex")], None).expect("readable");
    let found: Vec<_> = found.sources.iter().map(names).collect();
    let expected = [(Format::Codex, "codex", "rollout-x", None), (Format::ClaudeCode, "slug", "s", None)];
    assert_eq!(found, expected);
}

#[test]
fn what_the_caller_says_of_the_format_stands() {
    let dir = tempfile::tempdir().expect("a directory");
    write(dir.path(), "d/x.jsonl", CLAUDE);
    let found = discover(&[dir.path()], Some(Format::Jsonl)).expect("readable");
    assert_eq!(found.sources[0].format, Format::Jsonl);
    assert!(matches!(discover(&[dir.path().join("none")], None), Err(Error::Io { .. })));
    assert_eq!("claude-code".parse::<Format>().ok(), Some(Format::ClaudeCode));
    assert!("word".parse::<Format>().is_err());
}
