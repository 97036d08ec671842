//! One reversible encoding of ids for file names, object keys, Redis keys and artifact names.
//!
//! Lower-case letters, digits, `-`, `_` and inner dots stay; every other byte becomes `=` and two hexadecimal
//! digits. So two ids never meet on one name, not even where the file system ignores case, and no name is
//! `.`, `..`, absolute or reserved on Windows. What would be longer than [`MAX_NAME_BYTES`] becomes a prefix,
//! `==` and a hash; the true id then has to be kept inside.

/// Longest encoded name, in bytes.
pub const MAX_NAME_BYTES: usize = 120;

const HASH_DIGITS: usize = 32;

/// The name of an id.
///
/// ```
/// use pubsub_core::name;
/// assert_eq!(name::encode("action-123"), "action-123");
/// assert_eq!(name::encode("../A"), "=2e.=2f=41");
/// assert_eq!(name::decode("=2e.=2f=41").as_deref(), Some("../A"));
/// ```
#[must_use]
pub fn encode(id: &str) -> String {
    let last = id.len().saturating_sub(1);
    let reserved = is_reserved(id);
    let mut name = String::with_capacity(id.len() + 8);
    for (at, byte) in id.bytes().enumerate() {
        let plain = match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => !(at == 0 && reserved),
            b'.' => at != 0 && at != last,
            _ => false,
        };
        if plain {
            name.push(char::from(byte));
        } else {
            escape(byte, &mut name);
        }
    }
    if name.len() <= MAX_NAME_BYTES {
        return name;
    }
    let mut cut = MAX_NAME_BYTES - HASH_DIGITS - 2;
    // Never cut inside an escape.
    if let Some(at) = name.get(cut.saturating_sub(2)..cut).and_then(|end| end.find('=')) {
        cut = cut - 2 + at;
    }
    name.truncate(cut);
    name.push_str("==");
    name.push_str(blake3::hash(id.as_bytes()).to_hex().get(..HASH_DIGITS).unwrap_or_default());
    name
}

/// The id of a name, `None` where it was too long to be kept whole or was never made by [`encode`].
#[must_use]
pub fn decode(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'=' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    let id = String::from_utf8(bytes).ok()?;
    (encode(&id) == name).then_some(id)
}

fn escape(byte: u8, into: &mut String) {
    into.push('=');
    for digit in [byte >> 4, byte & 15] {
        into.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
    }
}

/// Names that Windows keeps for devices, with any extension ("Naming Files, Paths, and Namespaces").
fn is_reserved(id: &str) -> bool {
    let stem = id.split('.').next().unwrap_or_default();
    let device = |prefix: &str| {
        stem.strip_prefix(prefix).is_some_and(|n| n.len() == 1 && n.bytes().all(|b| b.is_ascii_digit()))
    };
    matches!(stem, "con" | "prn" | "aux" | "nul") || device("com") || device("lpt")
}

#[cfg(test)]
mod tests {
    use super::{MAX_NAME_BYTES, decode, encode};
    use proptest::prelude::{prop_assert, prop_assert_eq, prop_assert_ne, proptest};

    #[test]
    fn hostile_ids_become_harmless_names() {
        let table = [
            ("..", "=2e=2e"),
            (".", "=2e"),
            ("/abs", "=2fabs"),
            ("a/../../b", "a=2f..=2f..=2fb"),
            ("con", "=63on"),
            ("con.txt", "=63on.txt"),
            ("CON", "=43=4f=4e"),
            ("com1", "=63om1"),
            ("x.", "x=2e"),
            ("build:1", "build=3a1"),
            ("a=b", "a=3db"),
        ];
        for (id, name) in table {
            assert_eq!(encode(id), name);
            assert_eq!(decode(name).as_deref(), Some(id));
        }
    }

    #[test]
    fn long_ids_keep_a_prefix_and_a_hash() {
        let (a, b) = (format!("{}a", "x".repeat(254)), format!("{}b", "x".repeat(254)));
        assert_ne!(encode(&a), encode(&b));
        assert_eq!(encode(&a).len(), MAX_NAME_BYTES);
        assert_eq!(decode(&encode(&a)), None);
        for n in 70..130 {
            assert!(encode(&format!("{}{}", "x".repeat(n), "é".repeat(30))).len() <= MAX_NAME_BYTES);
        }
    }

    proptest! {
        #[test]
        fn every_short_id_comes_back(id in ".{1,30}") {
            let name = encode(&id);
            prop_assert!(name.len() <= MAX_NAME_BYTES);
            if !name.contains("==") {
                prop_assert_eq!(decode(&name), Some(id));
            }
        }

        #[test]
        fn two_ids_never_meet_even_without_case(a in ".{1,255}", b in ".{1,255}") {
            if a != b {
                prop_assert_ne!(encode(&a).to_lowercase(), encode(&b).to_lowercase());
            }
        }

        #[test]
        fn names_are_portable(id in ".{1,255}") {
            let name = encode(&id);
            prop_assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.=".contains(&b)));
            prop_assert!(!name.starts_with('.') && !name.ends_with('.'));
        }
    }
}
