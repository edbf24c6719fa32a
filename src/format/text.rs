//! Values as JSON text, in the form that a line holds (FORMAT.md, section 3, "Payload").
//!
//! The same text as serde_json's, save for the three characters that a line does not hold raw. serde_json looks at text byte by byte,
//! which is most of what it costs; here whole blocks that need no escape are copied at once. Numbers are left to serde_json.

use std::fmt;

use serde::{Serialize, ser};

use super::json::{normalise, replacement};
use crate::MAX_DEPTH;
use crate::error::{Error, Result};

/// Adds `value` to `out`. After an error, `out` holds a part of it.
///
/// # Errors
///
/// [`Error::BadJson`] when the value refuses (a map with keys that are no strings, say), [`Error::TooDeep`].
pub(crate) fn write<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> Result<()> {
    let from = out.len();
    let mut text = Text { out, depth: 0, foreign: false };
    value.serialize(&mut text).map_err(|refused| match refused {
        Refused::TooDeep => Error::TooDeep { max: MAX_DEPTH },
        Refused::Why(why) => Error::BadJson { why },
    })?;
    if text.foreign
        && let std::borrow::Cow::Owned(other) = normalise(&out[from..])?
    {
        out.truncate(from);
        out.extend_from_slice(&other);
    }
    Ok(())
}

/// Where text goes.
struct Text<'o> {
    out: &'o mut Vec<u8>,
    /// Arrays and objects that are open.
    depth: usize,
    /// Whether text of serde_json's own was added, which nobody has looked at.
    foreign: bool,
}

/// Why a value was not written.
#[derive(Debug)]
enum Refused {
    TooDeep,
    Why(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooDeep => f.write_str("nested too deep"),
            Self::Why(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Refused {}

impl ser::Error for Refused {
    fn custom<M: fmt::Display>(why: M) -> Self {
        Self::Why(why.to_string())
    }
}

impl<'o> Text<'o> {
    fn string(&mut self, text: &str) {
        self.out.push(b'"');
        escape(self.out, text);
        self.out.push(b'"');
    }

    /// Adds what serde_json makes of `value`.
    fn leave<T: Serialize>(&mut self, value: &T) -> Result<(), Refused> {
        serde_json::to_writer(&mut *self.out, value).map_err(|error| Refused::Why(error.to_string()))
    }

    /// Begins what `close` ends, which has as many levels as bytes.
    fn open<'a>(&'a mut self, open: u8, close: &'static [u8]) -> Result<Parts<'a, 'o>, Refused> {
        self.out.push(open);
        self.deepen(close.len())?;
        Ok(Parts { text: self, first: true, close, foreign: None })
    }

    /// [`Text::open`] for what stands in an object of its own, whose one key says which variant it is.
    fn open_variant<'a>(&'a mut self, variant: &str, open: u8, close: &'static [u8]) -> Result<Parts<'a, 'o>, Refused> {
        self.out.push(b'{');
        self.string(variant);
        self.out.push(b':');
        self.open(open, close)
    }

    fn deepen(&mut self, levels: usize) -> Result<(), Refused> {
        self.depth += levels;
        if self.depth > MAX_DEPTH { Err(Refused::TooDeep) } else { Ok(()) }
    }
}

/// Methods for values that serde_json writes.
macro_rules! leave {
    ($($method:ident $value:ty,)*) => {
        $(fn $method(self, value: $value) -> Result<(), Refused> {
            self.leave(&value)
        })*
    };
}

impl<'a, 'o> ser::Serializer for &'a mut Text<'o> {
    type Ok = ();
    type Error = Refused;
    type SerializeSeq = Parts<'a, 'o>;
    type SerializeTuple = Parts<'a, 'o>;
    type SerializeTupleStruct = Parts<'a, 'o>;
    type SerializeTupleVariant = Parts<'a, 'o>;
    type SerializeMap = Parts<'a, 'o>;
    type SerializeStruct = Parts<'a, 'o>;
    type SerializeStructVariant = Parts<'a, 'o>;

    leave! {
        serialize_bool bool,
        serialize_i8 i8,
        serialize_i16 i16,
        serialize_i32 i32,
        serialize_i64 i64,
        serialize_i128 i128,
        serialize_u8 u8,
        serialize_u16 u16,
        serialize_u32 u32,
        serialize_u64 u64,
        serialize_u128 u128,
        serialize_f32 f32,
        serialize_f64 f64,
    }

    fn serialize_char(self, value: char) -> Result<(), Refused> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<(), Refused> {
        self.string(value);
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), Refused> {
        value.serialize(self)
    }

    fn serialize_none(self) -> Result<(), Refused> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Refused> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Refused> {
        self.out.extend_from_slice(b"null");
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Refused> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), Refused> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Refused> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Refused> {
        let mut parts = self.open(b'{', b"}")?;
        parts.member(variant, value)?;
        parts.close();
        Ok(())
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Parts<'a, 'o>, Refused> {
        self.open(b'[', b"]")
    }

    fn serialize_tuple(self, _: usize) -> Result<Parts<'a, 'o>, Refused> {
        self.open(b'[', b"]")
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Parts<'a, 'o>, Refused> {
        self.open(b'[', b"]")
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Parts<'a, 'o>, Refused> {
        self.open_variant(variant, b'[', b"]}")
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Parts<'a, 'o>, Refused> {
        self.open(b'{', b"}")
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Parts<'a, 'o>, Refused> {
        // `RawValue`, for one, asks serde_json by such a name for what no other serialiser can do.
        if name.starts_with("$serde_json::private::") {
            self.foreign = true;
            return Ok(Parts { text: self, first: true, close: b"", foreign: Some(name) });
        }
        self.open(b'{', b"}")
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Parts<'a, 'o>, Refused> {
        self.open_variant(variant, b'{', b"}}")
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Result<(), Refused> {
        struct Escaped<'a>(&'a mut Vec<u8>);
        impl fmt::Write for Escaped<'_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                escape(self.0, text);
                Ok(())
            }
        }
        self.out.push(b'"');
        fmt::write(&mut Escaped(self.out), format_args!("{value}"))
            .map_err(|_| Refused::Why("a value cannot be shown as text".to_owned()))?;
        self.out.push(b'"');
        Ok(())
    }
}

/// An array or object that is open.
struct Parts<'a, 'o> {
    text: &'a mut Text<'o>,
    first: bool,
    close: &'static [u8],
    /// The name by which serde_json knows a struct of its own.
    foreign: Option<&'static str>,
}

impl Parts<'_, '_> {
    fn next(&mut self) {
        if !std::mem::take(&mut self.first) {
            self.text.out.push(b',');
        }
    }

    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        self.next();
        value.serialize(&mut *self.text)
    }

    fn member<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Refused> {
        if let Some(foreign) = self.foreign {
            return self.text.leave(&Foreign { foreign, name, value });
        }
        self.next();
        self.text.string(name);
        self.text.out.push(b':');
        value.serialize(&mut *self.text)
    }

    fn close(self) {
        self.text.out.extend_from_slice(self.close);
        self.text.depth -= self.close.len();
    }
}

/// A struct of serde_json's own.
struct Foreign<'a, T: ?Sized> {
    foreign: &'static str,
    name: &'static str,
    value: &'a T,
}

impl<T: Serialize + ?Sized> Serialize for Foreign<'_, T> {
    fn serialize<S: ser::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let mut parts = out.serialize_struct(self.foreign, 1)?;
        ser::SerializeStruct::serialize_field(&mut parts, self.name, self.value)?;
        ser::SerializeStruct::end(parts)
    }
}

/// The traits of arrays and objects, which differ in a method's name.
macro_rules! parts {
    ($($of:ident $method:ident($($name:ident)?) $part:ident,)*) => {
        $(impl ser::$of for Parts<'_, '_> {
            type Ok = ();
            type Error = Refused;

            fn $method<T: Serialize + ?Sized>(&mut self, $($name: &'static str,)? value: &T) -> Result<(), Refused> {
                self.$part($($name,)? value)
            }

            fn end(self) -> Result<(), Refused> {
                self.close();
                Ok(())
            }
        })*
    };
}

parts! {
    SerializeSeq serialize_element() element,
    SerializeTuple serialize_element() element,
    SerializeTupleStruct serialize_field() element,
    SerializeTupleVariant serialize_field() element,
    SerializeStruct serialize_field(name) member,
    SerializeStructVariant serialize_field(name) member,
}

impl ser::SerializeMap for Parts<'_, '_> {
    type Ok = ();
    type Error = Refused;

    /// Numbers, true and false become strings, as with serde_json; what is no scalar is refused.
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Refused> {
        self.next();
        let from = self.text.out.len();
        key.serialize(&mut *self.text)?;
        match self.text.out.get(from) {
            Some(b'"') => {}
            Some(b'-' | b'0'..=b'9' | b't' | b'f') => {
                self.text.out.insert(from, b'"');
                self.text.out.push(b'"');
            }
            _ => return Err(Refused::Why("key must be a string".to_owned())),
        }
        self.text.out.push(b':');
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refused> {
        value.serialize(&mut *self.text)
    }

    fn end(self) -> Result<(), Refused> {
        self.close();
        Ok(())
    }
}

/// Bytes that are looked at together.
const BLOCK: usize = 64;

/// How a byte is written: 0 as it is; [`LOOK`] as the bytes behind it say; `u` as four digits; else as this, behind a backslash.
const ESCAPES: [u8; 256] = {
    let mut table = [0; 256];
    let mut control = 0;
    while control < 0x20 {
        table[control] = b'u';
        control += 1;
    }
    table[0x08] = b'b';
    table[b'\t' as usize] = b't';
    table[b'\n' as usize] = b'n';
    table[0x0C] = b'f';
    table[b'\r' as usize] = b'r';
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table[0xC2] = LOOK;
    table[0xE2] = LOOK;
    table
};
const LOOK: u8 = 1;

/// Adds the inside of a JSON string.
fn escape(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    out.reserve(bytes.len() + 2);
    let mut copied = 0;
    let (blocks, rest) = bytes.as_chunks::<BLOCK>();
    for (index, block) in blocks.iter().enumerate() {
        if is_suspect(block) {
            escape_block(out, bytes, index * BLOCK, block, &mut copied);
        }
    }
    // Together with bytes that were looked at before, the last ones may be a whole block.
    if bytes.last_chunk().is_none_or(is_suspect) {
        escape_block(out, bytes, bytes.len() - rest.len(), rest, &mut copied);
    }
    out.extend_from_slice(bytes.get(copied..).unwrap_or_default());
}

/// Whether a byte occurs that may not stand as it is. Without branches, so that it compiles to vector instructions.
fn is_suspect(block: &[u8; BLOCK]) -> bool {
    let mut suspect = 0;
    for &c in block {
        // Bytes from 0x80 on are negative.
        suspect |= u8::from(c.cast_signed() < 0x20) | u8::from(c == b'"') | u8::from(c == b'\\');
    }
    suspect != 0
}

/// Adds `bytes` up to the last byte of `block`, which begins at `start`, that must be escaped. What is before `copied` was added.
fn escape_block(out: &mut Vec<u8>, bytes: &[u8], start: usize, block: &[u8], copied: &mut usize) {
    for (at, &c) in block.iter().enumerate() {
        let how = ESCAPES[usize::from(c)];
        if how == 0 {
            continue;
        }
        let at = start + at;
        let found = if how == LOOK { replacement(&bytes[at..]) } else { None };
        if how == LOOK && found.is_none() {
            continue;
        }
        out.extend_from_slice(&bytes[*copied..at]);
        match (found, how) {
            (Some((_, spelled)), _) => out.extend_from_slice(spelled),
            (None, b'u') => {
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&super::line::hex::<2>(c.into()));
            }
            (None, how) => out.extend_from_slice(&[b'\\', how]),
        }
        *copied = at + found.map_or(1, |(len, _)| len);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::value::RawValue;
    use serde_json::{Value, json};

    use super::*;

    /// What serde_json makes of a value, in the form that a line holds.
    fn expected<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
        normalise(&serde_json::to_vec(value).expect("serialises")).expect("not too deep").into_owned()
    }

    fn written<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
        let mut out = b"before".to_vec();
        write(&mut out, value).map(|()| out.split_off(6))
    }

    fn check<T: Serialize + ?Sized>(value: &T) {
        let text = written(value).expect("serialises");
        assert_eq!(String::from_utf8_lossy(&text), String::from_utf8_lossy(&expected(value)));
    }

    #[derive(Serialize)]
    struct Unit;
    #[derive(Serialize)]
    struct New(u8);
    #[derive(Serialize)]
    struct Pair(i8, f32);
    #[derive(Serialize)]
    struct Named<'a> {
        plain: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        absent: Option<u8>,
        #[serde(flatten)]
        more: BTreeMap<String, Value>,
    }
    #[derive(Serialize)]
    enum Kind {
        Unit,
        New(Option<u64>),
        Pair(bool, char),
        Named { a: (), b: [i16; 2] },
    }

    #[test]
    fn every_shape_of_value_is_written_as_serde_json_writes_it() {
        check(&(Unit, New(7), Pair(-1, 0.1)));
        check(&(u64::MAX, i64::MIN, u128::MAX, i128::MIN, f64::MIN_POSITIVE, 1e300, -0.0, 0.1_f32));
        check(&(f64::NAN, f32::INFINITY, true, 'é', '"', '\u{2028}', Some(1), None::<u8>));
        check(&[Kind::Unit, Kind::New(None), Kind::New(Some(3)), Kind::Pair(true, '\\')][..]);
        check(&Kind::Named { a: (), b: [1, -1] });
        let more = BTreeMap::from([("x".to_owned(), json!([{}, [], {"deep": [null, 1.5, "t\n"]}]))]);
        check(&Named { plain: "p", absent: None, more });
        check(&BTreeMap::from([(1, "one"), (-2, "two")]));
        check(&BTreeMap::from([(true, 1), (false, 2)]));
        check(&BTreeMap::from([('k', 1)]));
        check(&std::net::Ipv4Addr::LOCALHOST);
        check(&format_args!("shown \"{}\"", '\u{85}'));
    }

    #[test]
    fn raw_json_within_a_value_stays_as_it_is() {
        let raw = RawValue::from_string("{\"a\": [1.000,\n\"\u{2028}\"]}".to_owned()).expect("valid");
        check(&(&raw, "x", &raw));
        check(&*raw);
    }

    #[test]
    fn keys_that_are_no_scalars_are_refused() {
        for refused in [written(&BTreeMap::from([(vec![1], 1)])), written(&BTreeMap::from([((), 1)]))] {
            assert!(matches!(refused, Err(Error::BadJson { .. })));
        }
    }

    #[test]
    fn what_nests_too_deep_is_refused() {
        fn nested(depth: usize, inner: Value) -> Value {
            (0..depth).fold(inner, |value, at| if at % 2 == 0 { json!([value]) } else { json!({ "k": value }) })
        }
        check(&nested(MAX_DEPTH, json!(1)));
        assert!(matches!(written(&nested(MAX_DEPTH + 1, json!(1))), Err(Error::TooDeep { .. })));
        #[derive(Serialize)]
        struct Wrapped(Box<RawValue>);
        let raw = |depth| RawValue::from_string(nested(depth, json!("x")).to_string()).expect("valid");
        check(&[Wrapped(raw(MAX_DEPTH - 1))]);
        assert!(matches!(written(&[Wrapped(raw(MAX_DEPTH))]), Err(Error::TooDeep { .. })));
    }

    #[test]
    fn every_character_is_spelled_as_serde_json_spells_it_at_every_place_of_a_block() {
        for c in (0..=0x2100).filter_map(char::from_u32).chain(['\u{ff85}', '\u{10ffff}']) {
            for before in [0, 1, BLOCK - 2, BLOCK - 1, BLOCK, 2 * BLOCK - 3] {
                check(&format!("{}{c}{}", "a".repeat(before), "b".repeat(BLOCK + 5)));
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_is_written_as_serde_json_writes_it(parts in prop::collection::vec(".*|[a-z\"\\\\\n\u{2028}\u{85}é ]{0,90}", 0..4)) {
            let text = parts.concat();
            prop_assert_eq!(written(&text).expect("serialises"), expected(&text));
        }
    }
}
