//! What the index keeps of one session (FORMAT.md, section 10, "An entry").

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::run::{Row, flag, key_sum, low, sum, tag_bits};
use crate::ids::{Crc, Offset, Position, ProjectName, SessionId, SessionKey, Uid};
use crate::time::Timestamp;

/// What a list shows of one session.
///
/// Serialises with the member names of `ls --json`: `id`, `project`, `created_at`, `updated_at` and so on. What is not
/// known is `null`; `extra` is the caller's JSON value as it was given.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The main transcript.
    pub uid: Uid,
    /// Project and id.
    pub key: SessionKey,
    /// When the session was created.
    pub created: Timestamp,
    /// When its newest record was appended.
    pub updated: Timestamp,
    /// Data records in the view.
    pub records: u64,
    /// Records of the view that are messages.
    pub messages: u64,
    /// Messages of the assistant.
    pub turns: u64,
    /// What the conversation cost, in the unit that its messages use. A number that is not finite counts as none.
    pub total_cost: Option<f64>,
    /// The model.
    pub model: Option<String>,
    /// The title that somebody gave it.
    pub title: Option<String>,
    /// The description that somebody gave it.
    pub description: Option<String>,
    /// The beginning of the first answer.
    pub summary: Option<String>,
    /// The first prompt.
    pub first_prompt: Option<String>,
    /// Tags, in the order in which they were given.
    pub tags: Vec<String>,
    /// The working directory that the messages name.
    pub cwd: Option<String>,
    /// The git branch that the messages name.
    pub git_branch: Option<String>,
    /// The session id that the messages name.
    pub source_session: Option<String>,
    /// For a fork, the session that it was made from.
    pub parent: Option<SessionKey>,
    /// For a fork, where it begins.
    pub fork_point: Option<Position>,
    /// Bytes of the main transcript that are in use, without a closing line.
    pub size_bytes: u64,
    /// Whether it is archived.
    pub archived: bool,
    /// Whether damage was found in it.
    pub damaged: bool,
    /// Whether some process had it open for append when this was asked; one that was killed has not.
    pub live: bool,
    /// One JSON value of the caller's, opaque to the engine.
    pub extra: Option<String>,
    /// The end of the main transcript that all this was taken from.
    pub head: Position,
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let extra: Option<&RawValue> = self.extra.as_deref().and_then(|json| serde_json::from_str(json).ok());
        let mut out = out.serialize_struct("Entry", 25 + usize::from(extra.is_some()))?;
        out.serialize_field("id", &self.key.session)?;
        out.serialize_field("project", &self.key.project)?;
        out.serialize_field("uid", &self.uid)?;
        out.serialize_field("created_at", &self.created)?;
        out.serialize_field("updated_at", &self.updated)?;
        out.serialize_field("records", &self.records)?;
        out.serialize_field("messages", &self.messages)?;
        out.serialize_field("turns", &self.turns)?;
        out.serialize_field("total_cost", &self.total_cost)?;
        out.serialize_field("model", &self.model)?;
        out.serialize_field("title", &self.title)?;
        out.serialize_field("description", &self.description)?;
        out.serialize_field("summary", &self.summary)?;
        out.serialize_field("first_prompt", &self.first_prompt)?;
        out.serialize_field("tags", &self.tags)?;
        out.serialize_field("cwd", &self.cwd)?;
        out.serialize_field("git_branch", &self.git_branch)?;
        out.serialize_field("source_session", &self.source_session)?;
        out.serialize_field("parent", &self.parent.as_ref().map(ToString::to_string))?;
        out.serialize_field("fork_point", &self.fork_point)?;
        out.serialize_field("size_bytes", &self.size_bytes)?;
        out.serialize_field("archived", &self.archived)?;
        out.serialize_field("damaged", &self.damaged)?;
        out.serialize_field("live", &self.live)?;
        out.serialize_field("head", &self.head)?;
        if let Some(extra) = extra {
            out.serialize_field("extra", extra)?;
        }
        out.end()
    }
}

/// The most bytes that the text of an entry may have.
pub(crate) const MAX_TEXT_LEN: usize = 16 << 20;

/// Members that may be missing, as bits of the word that says which are there, in the order in which they follow.
mod has {
    pub(super) const MODEL: u64 = 1;
    pub(super) const TITLE: u64 = 2;
    pub(super) const DESCRIPTION: u64 = 4;
    pub(super) const SUMMARY: u64 = 8;
    pub(super) const FIRST_PROMPT: u64 = 16;
    pub(super) const CWD: u64 = 32;
    pub(super) const GIT_BRANCH: u64 = 64;
    pub(super) const SOURCE_SESSION: u64 = 128;
    pub(super) const EXTRA: u64 = 256;
    pub(super) const PARENT: u64 = 512;
    pub(super) const FORK_POINT: u64 = 1024;
    pub(super) const ALL: u64 = 2047;
}

/// The row of an entry; its place in the texts is 0.
pub(crate) fn row(entry: &Entry) -> Row {
    let bit = |on: bool, flag: u16| if on { flag } else { 0 };
    Row {
        updated: entry.updated.as_millis(),
        uid: entry.uid,
        created: entry.created.as_millis(),
        cost: entry.total_cost.filter(|cost| cost.is_finite()).unwrap_or(f64::NAN),
        tags: entry.tags.iter().fold(0, |bits, tag| bits | tag_bits(tag)),
        text: 0,
        flags: bit(entry.archived, flag::ARCHIVED)
            | bit(entry.damaged, flag::DAMAGED)
            | bit(entry.live, flag::LIVE)
            | bit(entry.model.is_some(), flag::MODEL)
            | bit(entry.parent.is_some(), flag::PARENT),
        project: sum(entry.key.project.as_str()),
        model: entry.model.as_deref().map_or(0, |model| low(sum(model))),
        parent: entry.parent.as_ref().map_or(0, parent_sum),
    }
}

/// The sum of a parent in a row.
pub(crate) fn parent_sum(parent: &SessionKey) -> u16 {
    low(key_sum(parent.project.as_str(), parent.session.as_str()))
}

/// Adds the text of an entry, which is all that its row does not say.
pub(crate) fn encode_text(out: &mut Vec<u8>, entry: &Entry) {
    put_str(out, entry.key.project.as_str());
    put_str(out, entry.key.session.as_str());
    for number in [entry.records, entry.messages, entry.turns, entry.size_bytes] {
        put_number(out, number);
    }
    put_position(out, &entry.head);
    put_number(out, entry.tags.len() as u64);
    entry.tags.iter().for_each(|tag| put_str(out, tag));
    let texts = optional_texts(entry);
    let mut there = texts.iter().zip(0..).fold(0, |bits, (text, n)| bits | u64::from(text.is_some()) << n);
    there |= if entry.parent.is_some() { has::PARENT } else { 0 };
    there |= if entry.fork_point.is_some() { has::FORK_POINT } else { 0 };
    put_number(out, there);
    texts.into_iter().flatten().for_each(|text| put_str(out, text));
    if let Some(parent) = &entry.parent {
        put_str(out, parent.project.as_str());
        put_str(out, parent.session.as_str());
    }
    if let Some(point) = &entry.fork_point {
        put_position(out, point);
    }
}

/// The members that are text and may be missing, in the order of their bits.
fn optional_texts(entry: &Entry) -> [Option<&str>; 9] {
    [
        &entry.model,
        &entry.title,
        &entry.description,
        &entry.summary,
        &entry.first_prompt,
        &entry.cwd,
        &entry.git_branch,
        &entry.source_session,
        &entry.extra,
    ]
    .map(Option::as_deref)
}

/// Reads an entry; `None` where its text is not what [`encode_text`] writes, or its row belongs to another.
pub(crate) fn decode(row: &Row, text: &[u8]) -> Option<Entry> {
    let mut from = Reader(text);
    let key = from.key()?;
    let [records, messages, turns, size_bytes] = [from.number()?, from.number()?, from.number()?, from.number()?];
    let head = from.position()?;
    let count = from.number()?;
    // Every tag takes a byte at least, so a count that is too large ends at the end of the text.
    let tags = (0..count).map(|_| from.text()).collect::<Option<Vec<_>>>()?;
    let there = from.number()?;
    let mut text = |bit: u64| if there & bit == 0 { Some(None) } else { from.text().map(Some) };
    let entry = Entry {
        uid: row.uid,
        key,
        created: Timestamp::from_millis(row.created),
        updated: Timestamp::from_millis(row.updated),
        records,
        messages,
        turns,
        total_cost: (!row.cost.is_nan()).then_some(row.cost),
        model: text(has::MODEL)?,
        title: text(has::TITLE)?,
        description: text(has::DESCRIPTION)?,
        summary: text(has::SUMMARY)?,
        first_prompt: text(has::FIRST_PROMPT)?,
        cwd: text(has::CWD)?,
        git_branch: text(has::GIT_BRANCH)?,
        source_session: text(has::SOURCE_SESSION)?,
        extra: text(has::EXTRA)?,
        tags,
        parent: if there & has::PARENT == 0 { None } else { Some(from.key()?) },
        fork_point: if there & has::FORK_POINT == 0 { None } else { Some(from.position()?) },
        size_bytes,
        archived: row.flags & flag::ARCHIVED != 0,
        damaged: row.flags & flag::DAMAGED != 0,
        live: row.flags & flag::LIVE != 0,
        head,
    };
    let same = Row { text: 0, ..*row }.encode() == self::row(&entry).encode();
    (from.0.is_empty() && there & !has::ALL == 0 && same).then_some(entry)
}

/// The sum of the key of an entry, by its text alone.
pub(crate) fn key_sum_of(text: &[u8]) -> Option<u32> {
    let mut from = Reader(text);
    Some(key_sum(from.str()?, from.str()?))
}

/// Writes a number, seven bits a byte, the lowest first; the top bit says that more follow.
pub(crate) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(low_bits(number) | 0x80);
        number >>= 7;
    }
    out.push(low_bits(number));
}

fn low_bits(number: u64) -> u8 {
    u8::try_from(number & 0x7f).unwrap_or_default()
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    put_number(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn put_position(out: &mut Vec<u8>, position: &Position) {
    out.extend_from_slice(&position.uid.0);
    out.extend_from_slice(&position.crc.0.to_le_bytes());
    put_number(out, position.offset.0);
    put_number(out, position.records);
    put_number(out, position.moved.0);
}

/// Takes values from the front of bytes; `None` where they end or are misspelled.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            number |= bits << shift;
            if byte & 0x80 == 0 {
                // A last byte of 0 would be another spelling, and bits past the 64th would be lost.
                let plain = (byte != 0 || shift == 0) && bits << shift >> shift == bits;
                return plain.then_some(number);
            }
        }
        None
    }

    fn str(&mut self) -> Option<&'a str> {
        let len = usize::try_from(self.number()?).ok()?;
        std::str::from_utf8(self.bytes(len)?).ok()
    }

    fn text(&mut self) -> Option<String> {
        self.str().map(str::to_owned)
    }

    fn key(&mut self) -> Option<SessionKey> {
        let project = ProjectName::new(self.str()?).ok()?;
        Some(SessionKey { project, session: SessionId::new(self.str()?).ok()? })
    }

    fn position(&mut self) -> Option<Position> {
        Some(Position {
            uid: Uid(self.array()?),
            crc: Crc(u32::from_le_bytes(self.array()?)),
            offset: Offset(self.number()?),
            records: self.number()?,
            moved: Offset(self.number()?),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An entry with every member, made from a number.
    pub(crate) fn sample(n: u64) -> Entry {
        let mut bits = [0; 16];
        bits[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        bits[8..].copy_from_slice(&n.to_le_bytes());
        let uid = Uid(bits);
        let head = Position { uid, offset: Offset(1000 + n), crc: Crc(77), records: n, moved: Offset(0) };
        let ms = i64::try_from(n).expect("small");
        Entry {
            uid,
            key: SessionKey::new(&format!("/home/me/p{}", n % 7), &format!("session-{n}")).expect("legal"),
            created: Timestamp::from_millis(1_763_000_000_000 + ms * 500),
            updated: Timestamp::from_millis(1_763_000_000_000 + ms * 1000),
            records: n,
            messages: n / 2,
            turns: n / 3,
            total_cost: (!n.is_multiple_of(5)).then_some(f64::from(u32::try_from(n % 1000).expect("small")) / 100.0),
            model: Some(format!("model-{}", n % 3)),
            title: n.is_multiple_of(2).then(|| format!("Title {n}")),
            description: None,
            summary: Some(format!("I looked at the file and found {n} things that are worth a closer look.")),
            first_prompt: Some(format!("Please fix Bug {n} in the parser")),
            tags: (0..n % 4).map(|t| format!("tag-{t}")).collect(),
            cwd: Some("/home/me/p".to_owned()),
            git_branch: Some("main".to_owned()),
            source_session: None,
            parent: n.is_multiple_of(4).then(|| SessionKey::new("default", "s0").expect("legal")),
            fork_point: n.is_multiple_of(4).then_some(head),
            size_bytes: n * 1000,
            archived: n % 10 == 3,
            damaged: n % 50 == 7,
            live: false,
            extra: n.is_multiple_of(6).then(|| "{\"k\":1}".to_owned()),
            head,
        }
    }

    #[test]
    fn an_entry_reads_back_and_no_cut_or_flip_reads_as_another_spelling() {
        for n in 0..24 {
            let entry = sample(n);
            let row = row(&entry);
            let mut text = Vec::new();
            encode_text(&mut text, &entry);
            assert_eq!(decode(&row, &text).as_ref(), Some(&entry));
            assert_eq!(key_sum_of(&text), Some(key_sum(entry.key.project.as_str(), entry.key.session.as_str())));
            for cut in 0..text.len() {
                assert_eq!(decode(&row, &text[..cut]), None, "{cut}");
            }
            for bit in 0..text.len() * 8 {
                let mut other = text.clone();
                other[bit / 8] ^= 1 << (bit % 8);
                if let Some(read) = decode(&row, &other) {
                    let mut again = Vec::new();
                    encode_text(&mut again, &read);
                    assert_eq!(again, other, "bit {bit} has two spellings");
                }
            }
        }
    }

    #[test]
    fn numbers_have_one_spelling() {
        for number in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_number(&mut out, number);
            assert_eq!(Reader(&out).number(), Some(number));
        }
        for bad in [&[0x80, 0][..], &[0x80], &[0xff; 10], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]] {
            assert_eq!(Reader(bad).number(), None, "{bad:?}");
        }
    }

    #[test]
    fn the_json_has_the_documented_members() {
        let json = serde_json::to_value(sample(12)).expect("serialises");
        for member in [
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
        ] {
            assert!(json.get(member).is_some(), "{member}");
        }
        assert_eq!(json["id"], "session-12");
        assert_eq!(json["parent"], "default/s0");
        assert_eq!(json["extra"]["k"], 1);
    }
}
