//! Members of a JSON object, found by skipping over what is not asked for rather than by parsing.

use std::borrow::Cow;

use memchr::{memchr, memchr3};

/// Walks over JSON text. Where the text is not JSON it finds less, and never panics.
pub(crate) struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    /// Before the value that `bytes` holds.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Steps over white space, commas and colons: between tokens of valid JSON they say nothing.
    #[inline]
    fn gap(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n' | b',' | b':') = self.peek() {
            self.at += 1;
        }
    }

    /// Steps into an array or object, if one begins here.
    pub(crate) fn enter(&mut self, open: u8) -> bool {
        self.gap();
        let here = self.peek() == Some(open);
        self.at += usize::from(here);
        here
    }

    /// The next key of the object that was entered, between its quotes; `None` at the object's end, which it steps
    /// over.
    pub(crate) fn key(&mut self) -> Option<&'a [u8]> {
        self.gap();
        if self.peek()? != b'"' {
            self.at += 1;
            return None;
        }
        inside(self.value()?)
    }

    /// The next element of the array that was entered.
    pub(crate) fn element(&mut self) -> Option<&'a [u8]> {
        self.gap();
        if self.peek()? == b']' { None } else { self.value() }
    }

    /// The JSON text of the value that begins here.
    pub(crate) fn value(&mut self) -> Option<&'a [u8]> {
        self.gap();
        let start = self.at;
        match self.peek()? {
            b'"' => self.skip_string()?,
            b'{' => self.skip_nested(b'{', b'}')?,
            b'[' => self.skip_nested(b'[', b']')?,
            _ => self.skip_word(),
        }
        self.bytes.get(start..self.at).filter(|value| !value.is_empty())
    }

    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// From one quote to behind the other.
    #[inline]
    fn skip_string(&mut self) -> Option<()> {
        let start = self.at;
        self.at += 1;
        loop {
            let Some(quote) = find_quote(self.rest()) else {
                self.at = self.bytes.len();
                return None;
            };
            let end = self.at + quote;
            self.at = end + 1;
            if self.bytes.get(end - 1) != Some(&b'\\') || self.is_end(start, end) {
                return Some(());
            }
        }
    }

    /// Whether the quote at `end` is not escaped: an even number of backslashes stands before it.
    #[cold]
    fn is_end(&self, start: usize, end: usize) -> bool {
        let body = self.bytes.get(start..end).unwrap_or_default();
        body.iter().rev().take_while(|c| **c == b'\\').count() % 2 == 0
    }

    /// Over an array or object. Brackets of the other kind come in pairs, so only one kind need be counted.
    fn skip_nested(&mut self, open: u8, close: u8) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            let Some(found) = find_bracket(open, close, self.rest()) else {
                self.at = self.bytes.len();
                return None;
            };
            self.at += found;
            match self.peek()? {
                b'"' => {
                    self.skip_string()?;
                    continue;
                }
                c if c == open => depth += 1,
                _ => depth = depth.saturating_sub(1),
            }
            self.at += 1;
            if depth == 0 {
                return Some(());
            }
        }
    }

    /// Over a number, `true`, `false` or `null`.
    fn skip_word(&mut self) {
        while let Some(c) = self.peek()
            && !matches!(c, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n')
        {
            self.at += 1;
        }
    }
}

/// Bytes to look at one by one before `memchr` is called: most strings of most lines are shorter than a call is worth.
const NEAR: usize = 16;

#[inline]
fn find_quote(bytes: &[u8]) -> Option<usize> {
    let (near, far) = bytes.split_at(bytes.len().min(NEAR));
    near.iter().position(|c| *c == b'"').or_else(|| Some(NEAR + memchr(b'"', far)?))
}

#[inline]
fn find_bracket(open: u8, close: u8, bytes: &[u8]) -> Option<usize> {
    let (near, far) = bytes.split_at(bytes.len().min(NEAR));
    let is_wanted = |c: &u8| *c == b'"' || *c == open || *c == close;
    near.iter().position(is_wanted).or_else(|| Some(NEAR + memchr3(open, close, b'"', far)?))
}

/// What stands between the quotes of a JSON string, still escaped; `None` where `value` is none.
pub(crate) fn inside(value: &[u8]) -> Option<&[u8]> {
    match value {
        [b'"', inner @ .., b'"'] => Some(inner),
        _ => None,
    }
}

/// What stands between the quotes of a JSON string; nothing where there is none.
pub(crate) fn text(value: Option<&[u8]>) -> &[u8] {
    value.and_then(inside).unwrap_or_default()
}

/// The first `max_chars` characters that `raw`, the inside of a JSON string, stands for; borrowed where that is possible.
pub(crate) fn cut(raw: &[u8], max_chars: usize) -> Cow<'_, str> {
    match std::str::from_utf8(raw) {
        Ok(plain) if raw.len() <= max_chars && memchr(b'\\', raw).is_none() => plain.into(),
        _ => decode(raw, max_chars).into(),
    }
}

/// The same, always owned.
///
/// Looks no further than it must. Half a surrogate pair, which JavaScript writes where it cuts text, becomes U+FFFD.
pub(crate) fn decode(raw: &[u8], max_chars: usize) -> String {
    // No character takes more than twelve bytes: a surrogate pair, escaped.
    let head = raw.get(..max_chars.saturating_mul(12)).unwrap_or(raw);
    let mut out = String::new();
    let mut rest = head;
    let mut left = max_chars;
    while left > 0 && !rest.is_empty() {
        let plain = rest.get(..memchr(b'\\', rest).unwrap_or(rest.len())).unwrap_or_default();
        for c in String::from_utf8_lossy(plain).chars().take(left) {
            out.push(c);
            left -= 1;
        }
        rest = rest.get(plain.len()..).unwrap_or_default();
        if left > 0 && !rest.is_empty() {
            let (c, len) = unescape(rest);
            out.push(c);
            left -= 1;
            rest = rest.get(len..).unwrap_or_default();
        }
    }
    out
}

/// The character of the escape that `raw` begins with, and the bytes it takes.
fn unescape(raw: &[u8]) -> (char, usize) {
    let c = match raw.get(1) {
        Some(b'n') => '\n',
        Some(b't') => '\t',
        Some(b'r') => '\r',
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(c @ (b'"' | b'\\' | b'/')) => char::from(*c),
        Some(b'u') => return unescape_code(raw),
        _ => char::REPLACEMENT_CHARACTER,
    };
    (c, 2)
}

fn unescape_code(raw: &[u8]) -> (char, usize) {
    let unit = |from: usize| {
        let digits = raw.get(from..from + 6)?.strip_prefix(b"\\u")?;
        u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    match (unit(0), unit(6)) {
        (Some(high @ 0xd800..=0xdbff), Some(low @ 0xdc00..=0xdfff)) => {
            let code = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
            (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 12)
        }
        (Some(code), _) => (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 6),
        (None, _) => (char::REPLACEMENT_CHARACTER, 2),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn members_are_found_whatever_stands_between() {
        let json = br#" { "a" : "x\"}" , "b":{"a":[{"}":"]"}],"c":"\\"}, "d" : [ 1 , [2] ] ,"e":-1.5e3}"#;
        let mut scan = Scan::new(json);
        assert!(scan.enter(b'{'));
        let mut found = Vec::new();
        while let Some(key) = scan.key() {
            let value = scan.value().expect("has one");
            found.push((key, std::str::from_utf8(value).expect("UTF-8")));
        }
        let (a, b) = (r#""x\"}""#, r#"{"a":[{"}":"]"}],"c":"\\"}"#);
        assert_eq!(found, [(&b"a"[..], a), (b"b", b), (b"d", "[ 1 , [2] ]"), (b"e", "-1.5e3")]);
    }

    proptest! {
    #[test]
    fn decoding_agrees_with_the_json_parser(text in any::<String>(), max in 0_usize..40) {
        let quoted = serde_json::to_string(&text).expect("serialises");
        let raw = inside(quoted.as_bytes()).expect("is a string");
        prop_assert_eq!(decode(raw, max), text.chars().take(max).collect::<String>());
    }

        #[test]
        fn any_object_is_walked_as_the_parser_does(text in any::<[String; 3]>(), pretty: bool) {
            let value = serde_json::json!({ "k": text, "l": { "k": [[], text[0]] }, &text[1]: text[2], "m": -1.5, "n": null });
            let json = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) };
            let json = json.expect("serialises");
            let mut scan = Scan::new(&json);
            let entered = scan.enter(b'{');
            prop_assert!(entered);
            let mut found = serde_json::Map::new();
            while let Some(key) = scan.key() {
                let value = scan.value().expect("has one");
                found.insert(decode(key, usize::MAX / 12), serde_json::from_slice(value).expect("is JSON"));
            }
            prop_assert_eq!(Value::Object(found), value);
        }
    }
}
