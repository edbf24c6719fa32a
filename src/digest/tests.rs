use proptest::prelude::*;
use serde_json::json;

use super::*;

fn of(lines: &[Value]) -> Summary {
    Summary::of(lines.iter().map(Value::to_string))
}

fn user(text: &str) -> Value {
    json!({"type": "user", "message": {"role": "user", "content": text}})
}

fn assistant(id: &str, text: &str) -> Value {
    json!({"type": "assistant", "message": {"id": id, "role": "assistant", "model": "m-1",
        "content": [{"type": "text", "text": text}]}})
}

fn result(cost: f64) -> Value {
    json!({"type": "result", "subtype": "success", "session_id": "s-1", "total_cost_usd": cost})
}

#[test]
fn a_conversation_of_the_agent_sdk() {
    let summary = of(&[
        json!({"type": "system", "subtype": "init", "session_id": "s-1", "model": "m-0", "cwd": "/w", "tools": ["Bash"]}),
        user("Where is the bug?"),
        assistant("a", "In the parser."),
        json!({"type": "assistant", "parent_tool_use_id": "toolu_1", "session_id": "s-1",
            "message": {"id": "b", "role": "assistant", "model": "small", "content": [{"type": "text", "text": "sub"}]}}),
        result(0.25),
    ]);
    assert_eq!(summary.source_session.as_deref(), Some("s-1"));
    assert_eq!(summary.model.as_deref(), Some("m-1"), "a subagent's model is not the session's");
    assert_eq!(summary.cwd.as_deref(), Some("/w"));
    assert_eq!(summary.first_prompt.as_deref(), Some("Where is the bug?"));
    assert_eq!(summary.summary.as_deref(), Some("In the parser."));
    assert_eq!((summary.messages, summary.turns, summary.total_cost), (3, 2, Some(0.25)));
}

#[test]
fn a_session_of_claude_code() {
    let frame = |mut line: Value, at: &str, branch: &str| {
        line["timestamp"] = json!(at);
        line["sessionId"] = json!("11111111-1111-4111-8111-111111111111");
        line["cwd"] = json!(format!("/w/{branch}"));
        line["gitBranch"] = json!(branch);
        line
    };
    let lines = [
        json!({"type": "file-history-snapshot", "messageId": "x", "snapshot": {"timestamp": "2020-01-01T00:00:00Z"}}),
        frame(
            json!({"type": "user", "isMeta": true, "message": {"role": "user", "content": "Caveat: The messages below were"}}),
            "2026-01-01T00:00:00.000Z",
            "main",
        ),
        frame(
            user("<command-name>/model</command-name>\n<command-args></command-args>"),
            "2026-01-01T00:00:01.000Z",
            "main",
        ),
        frame(user("<local-command-stdout>Set model</local-command-stdout>"), "2026-01-01T00:00:02.000Z", "main"),
        frame(
            json!({"type": "user", "message": {"role": "user", "content": [
            {"type": "text", "text": "<ide_opened_file>a.rs</ide_opened_file>"}, {"type": "image", "source": {}},
            {"type": "text", "text": "Fix \u{2028} it"}]}}),
            "2026-01-01T00:00:03.000Z",
            "main",
        ),
        frame(
            json!({"type": "assistant", "message": {"id": "a", "model": "m-1", "content": [{"type": "thinking", "thinking": "hm"}]}}),
            "2026-01-01T00:00:04.000Z",
            "fix",
        ),
        frame(assistant("a", "I will."), "2026-01-01T00:00:05.000Z", "fix"),
        frame(
            json!({"type": "user", "message": {"role": "user", "content": [{"type": "tool_result", "content": "ok"}]}}),
            "2026-01-01T00:00:06.000Z",
            "fix",
        ),
        frame(
            json!({"type": "assistant", "message": {"id": "a", "model": "m-1", "content": [{"type": "tool_use", "input": {"type": "user"}}]}}),
            "2026-01-01T00:00:07.000Z",
            "fix",
        ),
        frame(
            json!({"type": "assistant", "message": {"id": "b", "model": "<synthetic>", "content": [{"type": "text", "text": "API Error"}]}}),
            "2026-01-01T00:00:08.000Z",
            "fix",
        ),
    ];
    let summary = of(&lines);
    assert_eq!((summary.messages, summary.turns), (7, 2));
    assert_eq!(summary.first_prompt.as_deref(), Some("Fix \u{2028} it"));
    assert_eq!(summary.summary.as_deref(), Some("I will."));
    assert_eq!(summary.model.as_deref(), Some("m-1"));
    assert_eq!((summary.cwd.as_deref(), summary.git_branch.as_deref()), (Some("/w/main"), Some("fix")));
    assert_eq!(summary.first_at.as_deref(), Some("2026-01-01T00:00:00.000Z"));
    assert_eq!(summary.last_at.as_deref(), Some("2026-01-01T00:00:08.000Z"));
    assert_eq!(summary.source_session.as_deref(), Some("11111111-1111-4111-8111-111111111111"));
    assert_eq!(of(&lines[..4]).first_prompt.as_deref(), Some("/model"), "a command stands in");
}

#[test]
fn a_rollout_of_codex() {
    let text = |role: &str, kind: &str, text: &str| {
        json!({"timestamp": "2026-01-02T03:04:05.000Z", "type": "response_item", "payload":
            {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}})
    };
    let summary = of(&[
        json!({"timestamp": "2026-01-02T03:04:05.000Z", "type": "session_meta", "payload":
            {"id": "first", "cwd": "/w", "git": {"commit_hash": "0", "branch": "main"}}}),
        json!({"type": "session_meta", "payload": {"id": "second", "cwd": "/other"}}),
        json!({"type": "turn_context", "payload": {"cwd": "/w", "model": "m-9"}}),
        text("developer", "input_text", "rules"),
        text("user", "input_text", "<environment_context>x</environment_context>"),
        text("user", "input_text", "List the files."),
        json!({"type": "event_msg", "payload": {"type": "user_message", "message": "List the files."}}),
        json!({"type": "response_item", "payload": {"type": "function_call", "name": "exec", "arguments": "{}"}}),
        text("assistant", "output_text", "Two files."),
        json!({"type": "event_msg", "payload": {"type": "agent_message", "message": "Two files."}}),
    ]);
    assert_eq!(summary.source_session.as_deref(), Some("first"));
    assert_eq!((summary.cwd.as_deref(), summary.git_branch.as_deref()), (Some("/w"), Some("main")));
    assert_eq!(summary.model.as_deref(), Some("m-9"));
    assert_eq!(summary.first_prompt.as_deref(), Some("List the files."));
    assert_eq!(summary.summary.as_deref(), Some("Two files."));
    assert_eq!((summary.messages, summary.turns), (3, 1));
}

#[test]
fn bare_messages_count_too() {
    let summary = of(&[
        json!({"role": "user", "content": "Hello"}),
        json!({"role": "assistant", "content": "Hi", "model": "m"}),
        json!({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "again"}]}),
    ]);
    assert_eq!((summary.messages, summary.turns), (3, 2));
    assert_eq!((summary.first_prompt.as_deref(), summary.summary.as_deref()), (Some("Hello"), Some("Hi")));
    assert_eq!(summary.model.as_deref(), Some("m"));
}

#[test]
fn the_better_title_wins_and_of_equals_the_newer() {
    let title = |kind: &str, member: &str, text: &str| json!({"type": kind, member: text});
    let mut lines = vec![title("summary", "summary", "s1"), title("summary", "summary", "s2")];
    assert_eq!(of(&lines).title.as_deref(), Some("s2"));
    lines.push(title("ai-title", "aiTitle", "a1"));
    lines.push(title("summary", "summary", "s3"));
    assert_eq!(of(&lines).title.as_deref(), Some("a1"));
    lines.push(title("custom-title", "customTitle", "c1"));
    lines.push(title("ai-title", "aiTitle", "a2"));
    assert_eq!(of(&lines).title.as_deref(), Some("c1"));
    assert_eq!(of(&lines).heading(), Some("c1"));
}

#[test]
fn the_newest_tag_stands_and_an_empty_one_clears() {
    let tag = |text: &str| json!({"type": "tag", "tag": text, "sessionId": "s"});
    assert_eq!(of(&[tag("a"), tag("b \"c\"")]).tags, ["b \"c\""]);
    assert!(of(&[tag("a"), tag("")]).tags.is_empty());
    assert_eq!(of(&[tag("a"), json!({"type": "tag", "tag": 7})]).tags, ["a"]);
}

#[test]
fn cost_is_a_counter_that_a_new_process_starts_again() {
    assert_eq!(of(&[]).total_cost, None);
    assert_eq!(of(&[result(0.25), result(0.5)]).total_cost, Some(0.5));
    assert_eq!(of(&[result(0.25), result(0.5), result(0.125), result(0.25)]).total_cost, Some(0.75));
    let odd = json!({"type": "result", "total_cost_usd": "much"});
    assert_eq!(of(&[result(0.5), odd, json!({"type": "result", "total_cost_usd": -1})]).total_cost, Some(0.5));
}

#[test]
fn long_text_is_cut_by_characters() {
    let summary = of(&[user(&"ä😀\n".repeat(5000)), assistant("a", &"é".repeat(500))]);
    assert_eq!(
        summary.first_prompt.expect("there is one"),
        "ä😀\n".repeat(67)[..].chars().take(200).collect::<String>()
    );
    assert_eq!(summary.summary.expect("there is one"), "é".repeat(200));
}

#[test]
fn escapes_are_read_and_half_a_pair_is_replaced() {
    let summary = Summary::of([br#"{"role":"user","content":"a\n\t\"\\\/\u00e9\ud83d\ude00\ud83d|\ude00\b\f\r"}"#]);
    assert_eq!(summary.first_prompt.as_deref(), Some("a\n\t\"\\/é😀\u{fffd}|\u{fffd}\u{8}\u{c}\r"));
}

#[test]
fn what_is_not_understood_changes_nothing() {
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_message = format!("{{\"type\":\"x\",\"message\":{}{}}}", "{\"a\":".repeat(50_000), "}".repeat(50_000));
    for odd in [
        "",
        " ",
        "42",
        "\"text\"",
        "null",
        "[1]",
        "{}",
        "{\"type\":7}",
        "{\"type\":\"user",
        "{\"type\":\"user\"",
        "{\"a\"}",
        "{\"a\":}",
        "{\"\\u0074ype\":\"user\"}",
        "{{{",
        "}",
        "\"",
        "\\",
        &deep,
        &deep_message,
        "{\"type\":\"assistant-x\",\"message\":{}}",
        "{\"silly\":\"this\"}",
        "{\"timestamp\":\"yesterday\"}",
    ] {
        let summary = Summary::of([odd]);
        let blank = Summary { messages: summary.messages, ..Summary::default() };
        assert_eq!(summary, blank, "{odd:.60}");
        assert!(summary.messages <= 1);
    }
    let summary =
        of(&[json!({"type": "user", "message": "error"}), json!({"type": "user", "message": {"content": ["wow"]}})]);
    assert_eq!((summary.messages, summary.first_prompt), (2, None));
}

#[test]
fn every_cut_of_a_line_is_survived() {
    let line = assistant("a", "some \"quoted\" \u{2028} \\ text 😀").to_string().into_bytes();
    for end in 0..line.len() {
        let _ = Summary::of([&line[..end]]);
        let _ = Summary::of([&line[end..]]);
    }
}

#[test]
fn functions_over_a_slice_of_messages() {
    let messages = [user("q"), assistant("a", "answer"), assistant("b", "more"), result(1.5)];
    assert_eq!(session_id(&messages).as_deref(), Some("s-1"));
    assert_eq!(total_cost(&messages), Some(1.5));
    assert_eq!(turns(&messages), 2);
    assert_eq!(model(&messages).as_deref(), Some("m-1"));
    assert_eq!(summary(&messages).as_deref(), Some("answer"));
    let raw: Vec<Box<serde_json::value::RawValue>> =
        messages.iter().map(|m| serde_json::value::to_raw_value(m).expect("is JSON")).collect();
    assert_eq!(turns(&raw), 2);
    assert_eq!(turns::<Value>(&[]), 0);
}

#[test]
fn an_empty_summary_is_short() {
    assert_eq!(serde_json::to_string(&Summary::default()).expect("serialises"), r#"{"messages":0,"turns":0}"#);
}

fn any_line() -> impl Strategy<Value = Value> {
    let word = "[a-c\\\\\"é<>\\-_ ]{0,6}";
    prop_oneof![
        word.prop_map(|text| user(&text)),
        (word, word).prop_map(|(id, text)| assistant(&id, &text)),
        (word, any::<bool>()).prop_map(|(text, side)| {
            let mut line = user(&text);
            line["isSidechain"] = json!(side);
            line["timestamp"] = json!(format!("2026-01-01T00:00:00.{:03}Z", text.len()));
            line["cwd"] = json!(text);
            line
        }),
        (0_u8..9).prop_map(|cost| result(f64::from(cost) / 3.0)),
        (prop::sample::select(vec!["summary", "aiTitle", "customTitle", "tag"]), word).prop_map(|(member, text)| {
            let kind = match member {
                "aiTitle" => "ai-title",
                "customTitle" => "custom-title",
                other => other,
            };
            json!({"type": kind, member: text})
        }),
        word.prop_map(|text| json!({"type": "session_meta", "payload": {"id": text, "git": {"branch": text}}})),
        word.prop_map(|text| json!([text])),
    ]
}

proptest! {
    #[test]
    fn a_saved_fold_goes_on_as_a_straight_one(lines in prop::collection::vec(any_line(), 0..24), at in 0_usize..24) {
        let (head, tail) = lines.split_at(at.min(lines.len()));
        let saved = serde_json::to_string(&of(head)).expect("serialises");
        let mut summary: Summary = serde_json::from_str(&saved).expect("is read back");
        for line in tail {
            AgentDigest.observe(&mut summary, line.to_string().as_bytes());
        }
        prop_assert_eq!(summary, of(&lines));
    }

    #[test]
    fn noise_is_survived(noise in "[{}\\[\\]\":,\\\\a-c0-2 ]{0,60}") {
        let _ = Summary::of([&noise]);
        let _ = Summary::of([format!("{{\"type\":\"user\",\"message\":{{\"content\":{noise}}}}}")]);
    }
}
