//! Names as names of files (FORMAT.md, section 2).

use std::fmt::Write as _;

/// Longest encoded name that is used as it is.
const MAX_PLAIN: usize = 200;
/// How much of a longer one is kept before its hash.
const KEPT: usize = 160;

/// The file name that stands for `name`: no two names share one, on case-insensitive disks either.
pub(crate) fn encode(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for (at, byte) in name.bytes().enumerate() {
        let plain = matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
        if plain && !(at == 0 && is_device(name)) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02x}");
        }
    }
    if out.len() > MAX_PLAIN {
        let cut = out[..KEPT].rfind('%').filter(|at| at + 3 > KEPT).unwrap_or(KEPT);
        out.truncate(cut);
        let _ = write!(out, "~{}", &blake3::hash(name.as_bytes()).to_hex()[..32]);
    }
    out
}

/// Whether Windows takes `name` for a device.
fn is_device(name: &str) -> bool {
    let name = name.as_bytes();
    matches!(name, b"con" | b"prn" | b"aux" | b"nul")
        || matches!(name, [b'c', b'o', b'm', b'0'..=b'9'] | [b'l', b'p', b't', b'0'..=b'9'])
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_encoded_as_the_page_says() {
        assert_eq!(encode("abc-DEF_1.2"), "abc-%44%45%46_1%2e2");
        assert_eq!(encode("/home/ä"), "%2fhome%2f%c3%a4");
        assert_eq!(encode("con"), "%63on");
        assert_eq!(encode("com9"), "%63om9");
        assert_eq!(encode("console"), "console");
        let long = encode(&"A".repeat(100));
        assert_eq!(long.len(), 159 + 33);
        assert!(long.starts_with("%41%41") && long.contains('~'));
    }

    proptest! {
        #[test]
        fn no_two_names_share_a_file(names in proptest::collection::vec(".{1,90}", 2..20)) {
            let mut seen = HashMap::new();
            for name in names {
                let file = encode(&name);
                prop_assert!(file.len() <= 200);
                prop_assert!(!file.contains(['/', '.', '\\']) && file == file.to_lowercase());
                if let Some(other) = seen.insert(file, name.clone()) {
                    prop_assert_eq!(other, name);
                }
            }
        }
    }
}
