//! Payloads of control records (FORMAT.md, sections 4, 5 and 8).

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};

use super::files::FilesMove;
use super::pack::MAX_OBJECT;
use crate::ids::{Crc, ObjectId, Offset, Position, ProjectName, SessionId, SideName, Uid};

/// Line 1 of a transcript.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) format: u32,
    pub(crate) uid: Uid,
    pub(crate) project: ProjectName,
    pub(crate) session: SessionId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) side: Option<Side>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) base: Option<Base>,
}

/// That a transcript is a side transcript.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Side {
    pub(crate) name: SideName,
    /// The session's main transcript.
    pub(crate) of: Uid,
}

/// Where a fork begins, and where that file was when the fork was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Base {
    pub(crate) at: Place,
    pub(crate) project: ProjectName,
    pub(crate) session: SessionId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) side: Option<SideName>,
    pub(crate) main: Uid,
}

/// A [`Position`] as an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    uid: Uid,
    offset: Offset,
    crc: Crc,
    records: u64,
    moved: Offset,
}

impl From<Position> for Place {
    fn from(Position { uid, offset, crc, records, moved }: Position) -> Self {
        Self { uid, offset, crc, records, moved }
    }
}

impl From<Place> for Position {
    fn from(Place { uid, offset, crc, records, moved }: Place) -> Self {
        Self { uid, offset, crc, records, moved }
    }
}

/// The payload of a record that is an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Large {
    pub(crate) object: ObjectId,
    /// Bytes of the payload.
    #[serde(deserialize_with = "object_len")]
    pub(crate) size: u64,
}

fn object_len<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    match u64::deserialize(from)? {
        size @ 1..=MAX_OBJECT => Ok(size),
        _ => Err(D::Error::custom("no object has this length")),
    }
}

/// A rewind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rewind {
    pub(crate) to: Place,
    pub(crate) moved: Offset,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) files: Option<FilesMove>,
}

/// An undo or a redo.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Undo {
    pub(crate) of: Offset,
    pub(crate) to: Place,
    pub(crate) moved: Offset,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) files: Option<FilesMove>,
}

/// Ranges that were given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Repair {
    /// At least one: a line without any is of a later version.
    #[serde(deserialize_with = "some_gaps")]
    pub(crate) gaps: Vec<Gap>,
}

fn some_gaps<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Gap>, D::Error> {
    let gaps = Vec::deserialize(from)?;
    if gaps.is_empty() { Err(D::Error::custom("no gap")) } else { Ok(gaps) }
}

impl Repair {
    /// Whether the gaps lie behind one another, line 1 left out, and before the line at `start` that names them.
    pub(crate) fn fits(&self, start: u64) -> bool {
        let each = self.gaps.iter().all(|gap| 0 < gap.from.get() && gap.from < gap.to && gap.to.get() <= start);
        each && self.gaps.windows(2).all(|pair| pair[0].to < pair[1].from)
    }
}

/// A damaged range that readers pass over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Gap {
    pub(crate) from: Offset,
    pub(crate) to: Offset,
    /// CRC-32 of the bytes in the range.
    pub(crate) raw: Crc,
    /// What the line at `to` is verified with.
    pub(crate) chain: Crc,
    /// Seqs that the range used up.
    pub(crate) records: u64,
}

/// The line in `store.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoreHeader {
    pub(crate) format: u32,
    pub(crate) uid: Uid,
}

/// Reads a control payload; `None` when it is not exactly what [`encode`] writes for some value.
pub(crate) fn decode<T: DeserializeOwned + Serialize>(payload: &[u8]) -> Option<T> {
    let value: T = serde_json::from_slice(payload).ok()?;
    let mut again = Vec::with_capacity(payload.len());
    serde_json::to_writer(&mut again, &value).ok()?;
    (again == payload).then_some(value)
}

/// Writes a control payload.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        let position: Position = "000102030405060708090a0b0c0d0e0f:1234:9ae0daaf:17:0".parse().expect("well formed");
        position.into()
    }

    #[test]
    fn a_header_has_exactly_these_bytes() {
        let header = Header {
            format: 1,
            uid: Uid::from_bytes([0xab; 16]),
            project: ProjectName::new("/home/\"me\"").expect("legal"),
            session: SessionId::new("s1").expect("legal"),
            side: Some(Side { name: SideName::new("a/b").expect("legal"), of: Uid::from_bytes([1; 16]) }),
            base: Some(Base {
                at: place(),
                project: ProjectName::default_project(),
                session: SessionId::new("s0").expect("legal"),
                side: None,
                main: Uid::from_bytes([2; 16]),
            }),
        };
        let text = concat!(
            r#"{"format":1,"uid":"abababababababababababababababab","project":"/home/\"me\"","session":"s1","#,
            r#""side":{"name":"a/b","of":"01010101010101010101010101010101"},"#,
            r#""base":{"at":{"uid":"000102030405060708090a0b0c0d0e0f","offset":1234,"crc":"9ae0daaf","#,
            r#""records":17,"moved":0},"project":"default","session":"s0","#,
            r#""main":"02020202020202020202020202020202"}}"#,
        );
        assert_eq!(String::from_utf8(encode(&header)).expect("text"), text);
        assert_eq!(decode::<Header>(text.as_bytes()), Some(header));
    }

    #[test]
    fn a_payload_with_other_members_or_spelling_is_not_known() {
        let good = String::from_utf8(encode(&Rewind { to: place(), moved: Offset(0), files: None })).expect("text");
        assert!(decode::<Rewind>(good.as_bytes()).is_some());
        for bad in [
            good.replace("\"moved\":0}", "\"moved\":0,\"files\":1}"),
            good.replace("{\"to\"", "{ \"to\""),
            good.replace(":1234", ":1234.0"),
            good.replace(":17", ":-17"),
            good.replace("9ae0daaf", "9AE0DAAF"),
            good.replace("\"records\":17,", ""),
        ] {
            assert_ne!(bad, good);
            assert_eq!(decode::<Rewind>(bad.as_bytes()), None, "{bad}");
        }
    }
}
