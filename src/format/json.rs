//! Payloads: one JSON value on one line (FORMAT.md, section 3, "Payload").

use std::borrow::Cow;

use memchr::{memchr2, memchr3};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::MAX_DEPTH;
use crate::error::{Error, Result};

/// Checks bytes that come from outside and brings them into the form that a line holds.
///
/// # Errors
///
/// [`Error::BadJson`] where `bytes` is not exactly one JSON value, [`Error::TooDeep`] where it nests too deep.
pub(crate) fn check(bytes: &[u8]) -> Result<Cow<'_, [u8]>> {
    let value: &RawValue = serde_json::from_slice(bytes).map_err(|error| Error::BadJson { why: why(&error) })?;
    normalise(value.get().as_bytes())
}

/// Adds `value` to `out` in the form that a line holds. After an error, `out` holds a part of it.
///
/// # Errors
///
/// [`Error::BadJson`] when the value refuses (a map with keys that are no strings, say), [`Error::TooDeep`].
pub(crate) fn write<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> Result<()> {
    let from = out.len();
    serde_json::to_writer(&mut *out, value).map_err(|error| Error::BadJson { why: error.to_string() })?;
    if let Cow::Owned(other) = normalise(&out[from..])? {
        out.truncate(from);
        out.extend_from_slice(&other);
    }
    Ok(())
}

/// Brings valid JSON without white space around it into the form that a line holds.
///
/// # Errors
///
/// [`Error::TooDeep`].
pub(crate) fn normalise(json: &[u8]) -> Result<Cow<'_, [u8]>> {
    let seen = Features::of(json);
    if seen.opens > MAX_DEPTH && depth(json) > MAX_DEPTH {
        return Err(Error::TooDeep { max: MAX_DEPTH });
    }
    if !seen.suspect || !needs_escape(json) {
        return Ok(Cow::Borrowed(json));
    }
    Ok(Cow::Owned(escape(json)))
}

/// What one fast pass tells, so that the slow ones are rare.
struct Features {
    /// How many `[` and `{` there are, in strings too: no value nests deeper.
    opens: usize,
    /// Whether a byte occurs that may begin something to be spelled differently: a control character, or one that is not ASCII.
    suspect: bool,
}

impl Features {
    /// With the widest instructions that this processor has.
    fn of(json: &[u8]) -> Self {
        fearless_simd::dispatch!(fearless_simd::Level::new(), _ => Self::of_each(json))
    }

    #[inline(always)]
    fn of_each(json: &[u8]) -> Self {
        let (blocks, rest) = json.as_chunks::<64>();
        let whole = Self { opens: 0, suspect: false };
        blocks.iter().fold(whole, |seen, block| seen.and(block)).and(rest)
    }

    /// With what at most 255 bytes more tell. Written without branches in the loop, so that it compiles to vector instructions;
    /// they are best for whole blocks.
    #[inline(always)]
    fn and(self, part: &[u8]) -> Self {
        let (mut opens, mut suspect) = (0_u8, 0);
        for &c in part {
            // `[` is 0x5B and `{` is 0x7B: they differ in one bit.
            opens += u8::from(c | 0x20 == b'{');
            // Bytes from 0x80 on are negative.
            suspect |= u8::from(c.cast_signed() < 0x20);
        }
        Self { opens: self.opens + usize::from(opens), suspect: self.suspect | (suspect != 0) }
    }
}

/// How deep valid JSON nests.
fn depth(json: &[u8]) -> usize {
    let (mut now, mut most) = (0_usize, 0);
    let mut rest = json;
    while let Some((&c, after)) = rest.split_first() {
        rest = after;
        match c {
            b'"' => rest = after_string(after),
            b'[' | b'{' => {
                now += 1;
                most = most.max(now);
            }
            b']' | b'}' => now = now.saturating_sub(1),
            _ => {}
        }
    }
    most
}

/// What follows a string whose opening quote has been read.
fn after_string(mut rest: &[u8]) -> &[u8] {
    while let Some(at) = memchr2(b'"', b'\\', rest) {
        let skip = if rest.get(at) == Some(&b'"') { 1 } else { 2 };
        rest = rest.get(at + skip..).unwrap_or_default();
        if skip == 1 {
            break;
        }
    }
    rest
}

/// The character at the start of `rest` that must be spelled differently: its length, and how.
fn replacement(rest: &[u8]) -> Option<(usize, &'static [u8])> {
    match rest {
        [b'\n' | b'\r', ..] => Some((1, b" ")),
        [0xC2, 0x85, ..] => Some((2, b"\\u0085")),
        [0xE2, 0x80, 0xA8, ..] => Some((3, b"\\u2028")),
        [0xE2, 0x80, 0xA9, ..] => Some((3, b"\\u2029")),
        _ => None,
    }
}

fn needs_escape(json: &[u8]) -> bool {
    memchr2(b'\n', b'\r', json).is_some()
        || memchr::memchr2_iter(0xC2, 0xE2, json).any(|at| replacement(&json[at..]).is_some())
}

fn escape(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() + 16);
    let mut rest = json;
    while let Some(at) = next_suspect(rest) {
        let (before, from) = rest.split_at(at);
        out.extend_from_slice(before);
        let (len, spelled) = replacement(from).unwrap_or((1, &from[..1]));
        out.extend_from_slice(spelled);
        rest = &from[len..];
    }
    out.extend_from_slice(rest);
    out
}

fn next_suspect(rest: &[u8]) -> Option<usize> {
    let newline = memchr3(b'\n', b'\r', 0xC2, rest);
    let separator = memchr::memchr(0xE2, newline.map_or(rest, |at| &rest[..at]));
    separator.or(newline)
}

/// The parser's words. A value is most often one line of a file that has others, so that a line number would mislead.
fn why(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at byte ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn nested(depth: usize) -> String {
        "[".repeat(depth) + &"]".repeat(depth)
    }

    #[test]
    fn only_one_json_value_is_taken() {
        for bad in
            ["", " ", "{", "1 2", "{} {}", "nul", "{\"a\":1}\n{\"a\":2}", "\u{feff}1", "'a'", "\"a\nb\"", "\"\u{0}\""]
        {
            assert!(matches!(check(bad.as_bytes()), Err(Error::BadJson { .. })), "{bad:?}");
        }
        assert!(check(b"\"\xff\"").is_err(), "not UTF-8");
        assert_eq!(check(b" \t\r\n{\"a\":1}\n ").expect("one value").as_ref(), b"{\"a\":1}");
    }

    #[test]
    fn line_breaks_leave_and_the_value_stays() {
        let given = "{\n\"a\":\r\n\"x\u{2028}y\u{85}z\u{2029}é—\"}";
        let kept = check(given.as_bytes()).expect("valid");
        assert_eq!(std::str::from_utf8(&kept), Ok("{ \"a\":  \"x\\u2028y\\u0085z\\u2029é—\"}"));
        let (before, after): (Value, Value) =
            (serde_json::from_str(given).expect("valid"), serde_json::from_slice(&kept).expect("still valid"));
        assert_eq!(before, after);
    }

    #[test]
    fn nesting_is_counted_outside_strings_only() {
        assert!(check(nested(MAX_DEPTH).as_bytes()).is_ok());
        assert!(matches!(check(nested(MAX_DEPTH + 1).as_bytes()), Err(Error::TooDeep { max: MAX_DEPTH })));
        assert!(check(nested(100_000).as_bytes()).is_err());
        let text = format!("\"{}\\\"{}\"", "[".repeat(200), "{".repeat(200));
        assert!(check(text.as_bytes()).is_ok());
        let wide = format!("[{}[]]", "[],".repeat(1000));
        assert!(check(wide.as_bytes()).is_ok());
    }

    #[test]
    fn the_deepest_payload_can_be_read_by_ordinary_parsers_in_its_line() {
        let line = format!("{{\"data\":{}}}", nested(MAX_DEPTH));
        assert!(serde_json::from_str::<Value>(&line).is_ok());
        let line = format!("{{\"data\":{}}}", nested(MAX_DEPTH + 1));
        assert!(serde_json::from_str::<Value>(&line).is_err(), "the limit could be higher");
    }

    proptest! {
        #[test]
        fn any_text_survives(text in ".*", pretty: bool) {
            let value = serde_json::json!({ "k": [text, "\u{2028}\u{2029}\u{85}\u{c2}\u{e2}"] });
            let given = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) };
            let given = given.expect("serialises");
            let kept = check(&given).expect("valid");
            prop_assert_eq!(serde_json::from_slice::<Value>(&kept).expect("valid"), value);
            let kept = std::str::from_utf8(&kept).expect("UTF-8");
            let clean = !kept.contains(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']);
            prop_assert!(clean);
        }
    }
}
