//! What a list shows of a transcript: a small state, folded over the payloads of a view one by one.
//!
//! Pure: opens no file. The state can be saved as JSON after any payload, restored and carried on; so a digest of a
//! long transcript goes on from the last saved state instead of starting over.
//!
//! [`AgentDigest`] knows what agents write: Claude Agent SDK messages, Claude Code lines, Codex rollout lines and bare
//! `{"role":…,"content":…}` messages. It looks for members by skipping, builds no JSON values, and forgives everything:
//! a payload it does not understand changes nothing.

use std::fmt::Debug;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::format::members::{Scan, cut, decode, inside, text};

/// The most characters kept of a prompt, a summary and a title.
pub const MAX_TEXT: usize = 200;
/// The most characters kept of a model, a session id, a tag and a git branch.
const MAX_NAME: usize = 128;
/// The most characters kept of a working directory.
const MAX_DIRECTORY: usize = 1024;
/// The most bytes of a timestamp; a longer one is not one.
const MAX_TIMESTAMP: usize = 40;

/// What a list shows of a transcript, folded over the payloads of its view.
///
/// It is also the whole state of the fold: written as JSON and read back, it goes on as if it had never been saved.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// Messages of users (tool results among them) and assistants. An assistant's message that is split over several
    /// records counts once, as in `turns`.
    pub messages: u64,
    /// Messages of assistants. Records that follow each other with the same `message.id`, whatever users wrote
    /// between them, are one message: Claude Code writes a record for each block of a message.
    pub turns: u64,
    /// US dollars, from the `total_cost_usd` of result messages.
    ///
    /// That field is a counter of the process that wrote it, so each result replaces the one before it. A lower value
    /// means that another process went on with the session from zero; what the earlier one had counted is kept and
    /// added. (Where the second process spent more than the first, nothing tells the two cases apart, and the total
    /// is too low.)
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_cost: Option<f64>,
    /// The model that answered last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The agent's own session id: the newest one of a Claude transcript, which is the one to resume; the first one
    /// of a Codex rollout, which repeats those of its ancestors later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_session: Option<String>,
    /// The first thing that a person asked, at most [`MAX_TEXT`] characters: not a tool's result, not what the agent
    /// put there itself. Until there is one, a command such as `/init`, or what a subagent was asked, stands in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_prompt: Option<String>,
    /// The first text that an assistant wrote, at most [`MAX_TEXT`] characters. Show the title when there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// The newest title, at most [`MAX_TEXT`] characters. One that the user gave wins over one that a model found,
    /// and that wins over one from a summary record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The tag of the newest tag record; none when that one was empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The directory that the session began in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// The newest git branch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git_branch: Option<String>,
    /// The first timestamp that a payload itself carries, as it stands there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_at: Option<String>,
    /// The last timestamp that a payload itself carries, as it stands there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_at: Option<String>,
    /// Whatever a caller's own digest wants to keep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extra: Option<Value>,
    /// What [`AgentDigest`] must remember to go on.
    #[serde(skip_serializing_if = "Fold::is_empty")]
    pub(crate) fold: Fold,
}

/// The memory of [`AgentDigest`]. A rank says how good the value held is: a better one replaces it, a worse one not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Fold {
    title: u8,
    prompt: u8,
    summary: u8,
    model: u8,
    /// `message.id` of the last assistant record, cut.
    message: Option<String>,
    /// Dollars that processes counted before the current one.
    cost_before: f64,
    /// The newest `total_cost_usd`.
    cost_counter: f64,
}

impl Fold {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Summary {
    /// The summary that [`AgentDigest`] makes of these payloads, in this order.
    #[must_use]
    pub fn of<P: AsRef<[u8]>>(payloads: impl IntoIterator<Item = P>) -> Self {
        let mut summary = Self::default();
        for payload in payloads {
            AgentDigest.observe(&mut summary, payload.as_ref());
        }
        summary
    }

    /// The line that a list shows: the title, else the summary, else the first prompt.
    #[must_use]
    pub fn heading(&self) -> Option<&str> {
        self.title.as_deref().or(self.summary.as_deref()).or(self.first_prompt.as_deref())
    }
}

/// Learns from each payload, as it is appended or read, what a list shows.
///
/// The result must depend on nothing but the payloads and their order: a summary is saved, restored and carried on,
/// and made again from the transcript where it was lost.
pub trait Digest: Send + Sync + Debug {
    /// The digest's name. States of another name are not carried on but made again.
    fn name(&self) -> &str;

    /// Rises whenever the same payloads would give another summary. States of another version are made again.
    fn version(&self) -> u32;

    /// Looks at one payload, which is one valid JSON value. Never fails: what it cannot read, it leaves.
    ///
    /// Called for every record, so it should take well under a microsecond where there is nothing to learn.
    fn observe(&self, summary: &mut Summary, payload: &[u8]);
}

/// The digest that learns nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoDigest;

impl Digest for NoDigest {
    fn name(&self) -> &str {
        "none"
    }

    fn version(&self) -> u32 {
        1
    }

    fn observe(&self, _: &mut Summary, _: &[u8]) {}
}

/// The default digest: knows the messages of agents.
///
/// Costs one pass over the payload, most of it in `memchr`; it allocates only where it learns something new.
#[derive(Clone, Copy, Debug, Default)]
pub struct AgentDigest;

impl Digest for AgentDigest {
    fn name(&self) -> &str {
        "agent"
    }

    fn version(&self) -> u32 {
        1
    }

    fn observe(&self, summary: &mut Summary, payload: &[u8]) {
        let line = Line::read(payload);
        observe_frame(summary, &line);
        match text(line.kind) {
            b"user" => observe_user(summary, &line, line.inner.content),
            b"assistant" => observe_assistant(summary, &line, &line.inner),
            b"system" => learn_model(summary, &line, line.outer.model),
            b"result" => observe_cost(summary, line.total_cost),
            b"summary" => learn_title(summary, 1, line.title),
            b"ai-title" => learn_title(summary, 2, line.title),
            b"custom-title" => learn_title(summary, 3, line.title),
            b"tag" => observe_tag(summary, line.tag),
            b"session_meta" => observe_codex_start(summary, &line),
            b"turn_context" => learn_model(summary, &line, line.inner.model),
            b"response_item" if text(line.inner.kind) == b"message" => observe_bare(summary, &line, &line.inner),
            // The same text follows, or came before, as a response item; it counts there.
            b"event_msg" if text(line.inner.kind) == b"user_message" => learn_prompt(summary, &line, line.inner.text),
            b"" | b"message" => observe_bare(summary, &line, &line.outer),
            _ => {}
        }
    }
}

/// Session, place and time, which records of every kind may carry.
fn observe_frame(summary: &mut Summary, line: &Line<'_>) {
    learn_newest(&mut summary.source_session, line.session, MAX_NAME);
    learn_newest(&mut summary.git_branch, line.branch, MAX_NAME);
    if summary.cwd.is_none() {
        learn_newest(&mut summary.cwd, line.outer.cwd.or(line.inner.cwd), MAX_DIRECTORY);
    }
    if is_timestamp(text(line.timestamp)) {
        if summary.first_at.is_none() {
            learn_newest(&mut summary.first_at, line.timestamp, MAX_TIMESTAMP);
        }
        learn_newest(&mut summary.last_at, line.timestamp, MAX_TIMESTAMP);
    }
}

fn observe_user(summary: &mut Summary, line: &Line<'_>, content: Option<&[u8]>) {
    summary.messages += 1;
    if !is_true(line.meta) && !is_true(line.compacted) {
        learn_prompt(summary, line, content);
    }
}

fn observe_assistant(summary: &mut Summary, line: &Line<'_>, message: &Body<'_>) {
    let id = message.id.and_then(inside).filter(|id| !id.is_empty());
    let same = id.is_some_and(|id| Some(&*cut(id, MAX_NAME)) == summary.fold.message.as_deref());
    if !same {
        summary.messages += 1;
        summary.turns += 1;
        learn_newest(&mut summary.fold.message, message.id, MAX_NAME);
    }
    if id.is_none() {
        summary.fold.message = None;
    }
    if text(message.model).starts_with(b"<") {
        return; // `<synthetic>`: the agent's own words, an error message most often.
    }
    learn_model(summary, line, message.model);
    let rank = if line.is_side() { 1 } else { 2 };
    if rank > summary.fold.summary
        && let Some(text) = message.content.and_then(|content| texts(content).find(|text| !is_blank(text)))
    {
        summary.summary = Some(text);
        summary.fold.summary = rank;
    }
}

/// A message that is not wrapped in anything: `{"role":…,"content":…}`, as chat interfaces and Codex know it.
fn observe_bare(summary: &mut Summary, line: &Line<'_>, message: &Body<'_>) {
    match text(message.role) {
        b"user" => observe_user(summary, line, message.content),
        b"assistant" => observe_assistant(summary, line, message),
        _ => {}
    }
}

fn observe_codex_start(summary: &mut Summary, line: &Line<'_>) {
    if summary.source_session.is_none() {
        learn_newest(&mut summary.source_session, line.inner.id, MAX_NAME);
        learn_newest(&mut summary.git_branch, line.inner.branch, MAX_NAME);
    }
}

fn observe_cost(summary: &mut Summary, cost: Option<&[u8]>) {
    let number = cost.and_then(|cost| std::str::from_utf8(cost).ok()?.parse::<f64>().ok());
    let Some(cost) = number.filter(|cost| cost.is_finite() && *cost >= 0.0) else { return };
    let fold = &mut summary.fold;
    if cost < fold.cost_counter {
        fold.cost_before += fold.cost_counter;
    }
    fold.cost_counter = cost;
    summary.total_cost = Some(fold.cost_before + cost);
}

fn observe_tag(summary: &mut Summary, tag: Option<&[u8]>) {
    let Some(tag) = tag.and_then(inside) else { return };
    summary.tags.clear();
    if !tag.is_empty() {
        summary.tags.push(decode(tag, MAX_NAME));
    }
}

fn learn_title(summary: &mut Summary, rank: u8, title: Option<&[u8]>) {
    if rank >= summary.fold.title
        && let Some(title) = title.and_then(inside).map(|title| decode(title, MAX_TEXT))
        && !is_blank(&title)
    {
        summary.title = Some(title);
        summary.fold.title = rank;
    }
}

fn learn_model(summary: &mut Summary, line: &Line<'_>, model: Option<&[u8]>) {
    let rank = if line.is_side() { 1 } else { 2 };
    if rank >= summary.fold.model && !text(model).is_empty() {
        learn_newest(&mut summary.model, model, MAX_NAME);
        summary.fold.model = rank;
    }
}

fn learn_prompt(summary: &mut Summary, line: &Line<'_>, content: Option<&[u8]>) {
    const COMMAND: u8 = 1;
    let best = if line.is_side() { 2 } else { 3 };
    if best <= summary.fold.prompt {
        return;
    }
    for text in content.into_iter().flat_map(texts).filter(|text| !is_blank(text)) {
        let rank = if is_wrapped(&text) { COMMAND } else { best };
        let prompt = if rank == COMMAND { command_name(&text) } else { Some(text) };
        if let Some(prompt) = prompt.filter(|_| rank > summary.fold.prompt) {
            summary.first_prompt = Some(prompt);
            summary.fold.prompt = rank;
        }
        if rank == best {
            return;
        }
    }
}

/// Puts the JSON string `raw` in `slot`, in the buffer that is there already.
fn learn_newest(slot: &mut Option<String>, raw: Option<&[u8]>, max_chars: usize) {
    let Some(raw) = raw.and_then(inside).filter(|raw| !raw.is_empty()) else { return };
    let held = slot.get_or_insert_default();
    held.clear();
    held.push_str(&cut(raw, max_chars));
}

/// Whether an agent wrote this text in the user's place: an opening tag with a hyphen or an underscore in its name
/// (`<command-name>`, `<environment_context>`), or one of a few sentences.
fn is_wrapped(text: &str) -> bool {
    const SENTENCES: [&str; 5] = [
        "Caveat: The messages below",
        "[Request interrupted by user",
        "This session is being continued from a previous conversation",
        "# AGENTS.md instructions",
        "<INSTRUCTIONS>",
    ];
    let text = text.trim_start();
    if SENTENCES.iter().any(|sentence| text.starts_with(sentence)) {
        return true;
    }
    let Some(rest) = text.strip_prefix('<') else { return false };
    let end = rest.find(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '-' && c != '_');
    let (name, after) = rest.split_at(end.unwrap_or(rest.len()));
    name.contains(['-', '_']) && after.starts_with(['>', ' '])
}

/// The command that `<command-name>/init</command-name>` names.
fn command_name(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("<command-name>")?;
    let (name, _) = rest.split_once("</command-name>")?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

fn is_true(value: Option<&[u8]>) -> bool {
    value == Some(b"true")
}

/// Whether this looks like RFC 3339. A look is enough: it is shown and compared, not reckoned with.
fn is_timestamp(text: &[u8]) -> bool {
    text.len() <= MAX_TIMESTAMP
        && text.get(4) == Some(&b'-')
        && matches!(text.get(10), Some(b'T' | b't' | b' '))
        && text.iter().all(|c| c.is_ascii_graphic() || *c == b' ')
}

// ---------------------------------------------------------------------------------------------------------------
// What is in a line

/// The members of a payload that matter, as the JSON text of their values.
#[derive(Default)]
struct Line<'a> {
    kind: Option<&'a [u8]>,
    session: Option<&'a [u8]>,
    branch: Option<&'a [u8]>,
    timestamp: Option<&'a [u8]>,
    side: Option<&'a [u8]>,
    parent_tool: Option<&'a [u8]>,
    meta: Option<&'a [u8]>,
    compacted: Option<&'a [u8]>,
    total_cost: Option<&'a [u8]>,
    title: Option<&'a [u8]>,
    tag: Option<&'a [u8]>,
    /// Members of the payload itself, where it is a bare message.
    outer: Body<'a>,
    /// Members of its `message` or `payload`.
    inner: Body<'a>,
}

#[derive(Default)]
struct Body<'a> {
    kind: Option<&'a [u8]>,
    id: Option<&'a [u8]>,
    role: Option<&'a [u8]>,
    model: Option<&'a [u8]>,
    content: Option<&'a [u8]>,
    cwd: Option<&'a [u8]>,
    branch: Option<&'a [u8]>,
    /// `message`, where that is text.
    text: Option<&'a [u8]>,
}

impl<'a> Line<'a> {
    /// Never panics, whatever `payload` holds. Of a member that is there twice, the last one counts.
    fn read(payload: &'a [u8]) -> Self {
        let mut line = Self::default();
        let mut scan = Scan::new(payload);
        if !scan.enter(b'{') {
            return line;
        }
        while let Some(key) = scan.key() {
            let slot = match key {
                b"type" => &mut line.kind,
                b"message" | b"payload" if scan.enter(b'{') => {
                    line.inner = Body::read(&mut scan);
                    continue;
                }
                b"sessionId" | b"session_id" => &mut line.session,
                b"gitBranch" => &mut line.branch,
                b"timestamp" => &mut line.timestamp,
                b"isSidechain" => &mut line.side,
                b"parent_tool_use_id" => &mut line.parent_tool,
                b"isMeta" => &mut line.meta,
                b"isCompactSummary" => &mut line.compacted,
                b"total_cost_usd" => &mut line.total_cost,
                b"summary" | b"aiTitle" | b"customTitle" => &mut line.title,
                b"tag" => &mut line.tag,
                _ => {
                    line.outer.take(&mut scan, key);
                    continue;
                }
            };
            *slot = scan.value();
        }
        line
    }

    /// Whether a subagent's conversation, not the main one, holds this.
    fn is_side(&self) -> bool {
        is_true(self.side) || self.parent_tool.is_some_and(|id| id != b"null")
    }
}

impl<'a> Body<'a> {
    /// Reads the value of `key`, and keeps it where it is one of those that both kinds of body have.
    fn take(&mut self, scan: &mut Scan<'a>, key: &[u8]) {
        let value = scan.value();
        match key {
            b"id" => self.id = value,
            b"role" => self.role = value,
            b"model" => self.model = value,
            b"content" => self.content = value,
            b"cwd" => self.cwd = value,
            _ => {}
        }
    }

    /// Reads the rest of an object that `scan` has entered.
    fn read(scan: &mut Scan<'a>) -> Self {
        let mut body = Self::default();
        while let Some(key) = scan.key() {
            match key {
                b"type" => body.kind = scan.value(),
                b"message" => body.text = scan.value(),
                b"git" if scan.enter(b'{') => {
                    while let Some(key) = scan.key() {
                        let value = scan.value();
                        if key == b"branch" {
                            body.branch = value;
                        }
                    }
                }
                _ => body.take(scan, key),
            }
        }
        body
    }
}

/// The texts in a message's content, each cut: the content itself, or its blocks of text.
fn texts(content: &[u8]) -> impl Iterator<Item = String> {
    let mut scan = Scan::new(content);
    let whole = inside(content).map(|text| decode(text, MAX_TEXT));
    let blocks = whole.is_none() && scan.enter(b'[');
    let blocks = std::iter::from_fn(move || if blocks { scan.element() } else { None });
    whole.into_iter().chain(blocks.filter_map(block_text))
}

fn block_text(block: &[u8]) -> Option<String> {
    let mut scan = Scan::new(block);
    let (mut kind, mut words) = (None, None);
    if scan.enter(b'{') {
        while let Some(key) = scan.key() {
            let value = scan.value();
            match key {
                b"type" => kind = value,
                b"text" => words = value,
                _ => {}
            }
        }
    }
    let words = inside(words?)?;
    matches!(text(kind), b"text" | b"input_text" | b"output_text").then(|| decode(words, MAX_TEXT))
}

// ---------------------------------------------------------------------------------------------------------------
// The same, over a slice of messages

/// The agent's own session id in these messages: the newest one.
///
/// Messages are whatever serialises to what an agent wrote: [`Value`]s, [`RawValue`](serde_json::value::RawValue)s or
/// an SDK's own types. The other functions here take the same. One that does not serialise is passed over.
#[must_use]
pub fn session_id<M: Serialize>(messages: &[M]) -> Option<String> {
    fold(messages).source_session
}

/// What these messages cost in US dollars, as in [`Summary::total_cost`]; `None` without a result message.
#[must_use]
pub fn total_cost<M: Serialize>(messages: &[M]) -> Option<f64> {
    fold(messages).total_cost
}

/// How many messages of assistants are among these messages, as in [`Summary::turns`].
#[must_use]
pub fn turns<M: Serialize>(messages: &[M]) -> u64 {
    fold(messages).turns
}

/// The model that answered last in these messages.
#[must_use]
pub fn model<M: Serialize>(messages: &[M]) -> Option<String> {
    fold(messages).model
}

/// What these messages are about: their title, else the first [`MAX_TEXT`] characters of an assistant's first text.
#[must_use]
pub fn summary<M: Serialize>(messages: &[M]) -> Option<String> {
    let summary = fold(messages);
    summary.title.or(summary.summary)
}

fn fold<M: Serialize>(messages: &[M]) -> Summary {
    Summary::of(messages.iter().filter_map(|message| serde_json::to_vec(message).ok()))
}

#[cfg(test)]
mod tests;
