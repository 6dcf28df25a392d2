//! Domain names in wire form.

use std::fmt;
use std::hash::{Hash, Hasher};

/// Longest name, in bytes of its wire form (RFC 1035 section 2.3.4).
pub(crate) const LONGEST: usize = 255;
/// Longest label, in bytes.
const LONGEST_LABEL: usize = 63;

/// A domain name: labels with their lengths before them and the root's empty label at the end, not compressed.
///
/// The case of letters is kept, and plays no part in comparisons (RFC 4343).
#[derive(Clone)]
pub struct Name(Box<[u8]>);

/// Why bytes or a text are no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a domain name: labels have 1 to 63 bytes, and a name at most 255")]
pub struct InvalidName(String);

impl InvalidName {
    /// Refuses a name that is valid, but not where it stands.
    pub(crate) fn of(name: &Name) -> Self {
        Self(name.to_string())
    }
}

impl Name {
    /// The root.
    #[must_use]
    pub fn root() -> Self {
        Self(Box::new([0]))
    }

    /// Reads a name from its wire form, which must end with it.
    ///
    /// # Errors
    /// [`InvalidName`] for labels or names that are too long, pointers, and bytes behind the end.
    pub fn from_wire(bytes: &[u8]) -> Result<Self, InvalidName> {
        let invalid = || InvalidName(String::from_utf8_lossy(bytes).into_owned());
        if bytes.len() > LONGEST {
            return Err(invalid());
        }
        let mut at = 0;
        loop {
            let length = usize::from(*bytes.get(at).ok_or_else(invalid)?);
            at += 1 + length;
            match length {
                0 if at == bytes.len() => return Ok(Self(bytes.into())),
                1..=LONGEST_LABEL => {}
                _ => return Err(invalid()),
            }
        }
    }

    /// Makes a name of labels.
    ///
    /// # Errors
    /// [`InvalidName`] for empty or long labels, and names that become too long.
    pub fn from_labels<'l>(labels: impl IntoIterator<Item = &'l [u8]>) -> Result<Self, InvalidName> {
        let mut wire = Vec::with_capacity(64);
        for label in labels {
            wire.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
            wire.extend_from_slice(label);
        }
        wire.push(0);
        Self::from_wire(&wire)
    }

    /// Its wire form.
    #[must_use]
    pub fn wire(&self) -> &[u8] {
        &self.0
    }

    /// Its labels, without the root's, from the left.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (&length, after) = rest.split_first()?;
            let (label, next) = after.split_at_checked(usize::from(length)).filter(|_| length > 0)?;
            rest = next;
            Some(label)
        })
    }

    /// Whether it is `zone` or lies below it, label by label.
    #[must_use]
    pub fn lies_in(&self, zone: &Self) -> bool {
        self.above(zone).is_some()
    }

    /// The part of it that stands before `zone`, in wire form without an end; none when it does not lie there.
    #[must_use]
    pub fn above(&self, zone: &Self) -> Option<&[u8]> {
        let split = self.0.len().checked_sub(zone.0.len())?;
        let mut at = 0;
        while at < split {
            at += 1 + usize::from(self.0[at]);
        }
        (at == split && self.0[split..].eq_ignore_ascii_case(&zone.0)).then(|| &self.0[..split])
    }
}

/// Reads the usual text form, with or without a dot at the end. A backslash is not special: `\` escapes are not read.
impl std::str::FromStr for Name {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let bare = text.strip_suffix('.').unwrap_or(text);
        if bare.is_empty() {
            return if text == "." { Ok(Self::root()) } else { Err(InvalidName(text.into())) };
        }
        if bare.split('.').any(str::is_empty) {
            return Err(InvalidName(text.into()));
        }
        Self::from_labels(bare.split('.').map(str::as_bytes)).map_err(|_| InvalidName(text.into()))
    }
}

/// With a dot at the end; bytes that are no visible letters as `\DDD` (RFC 4343).
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() == 1 {
            return f.write_str(".");
        }
        for label in self.labels() {
            for &byte in label {
                match byte {
                    b'.' | b'\\' => write!(f, "\\{}", char::from(byte))?,
                    0x21..=0x7e => write!(f, "{}", char::from(byte))?,
                    _ => write!(f, "\\{byte:03}")?,
                }
            }
            f.write_str(".")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}
impl Eq for Name {}
impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut folded = [0; LONGEST];
        let folded = &mut folded[..self.0.len()];
        folded.copy_from_slice(&self.0);
        // A length is below 64, and no letter is: folding leaves it alone.
        folded.make_ascii_lowercase();
        state.write(folded);
    }
}

/// A name that is put together in place, from parts in wire form.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NameBuffer {
    length: usize,
    bytes: [u8; LONGEST],
}

impl NameBuffer {
    /// Joins parts, of which the last has the end; nothing when the name would be too long.
    pub(crate) fn join(parts: &[&[u8]]) -> Option<Self> {
        let mut name = Self { length: 0, bytes: [0; LONGEST] };
        for part in parts {
            name.bytes.get_mut(name.length..name.length + part.len())?.copy_from_slice(part);
            name.length += part.len();
        }
        Some(name)
    }

    /// A name in lower case. The name must be valid.
    pub(crate) fn lower(name: &[u8]) -> Self {
        let mut lower = Self { length: name.len().min(LONGEST), bytes: [0; LONGEST] };
        lower.bytes[..lower.length].copy_from_slice(&name[..lower.length]);
        // Lengths are below 64, and no letter is: folding leaves them alone.
        lower.bytes[..lower.length].make_ascii_lowercase();
        lower
    }

    /// Its wire form.
    pub(crate) fn wire(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn zones_hold_whole_labels() {
        let zone = name("cluster.local");
        assert!(name("a.CLUSTER.local.").lies_in(&zone));
        assert!(name("cluster.local").lies_in(&zone));
        assert!(!name("acluster.local").lies_in(&zone));
        assert!(!name("local").lies_in(&zone));
        assert!(name("x").lies_in(&Name::root()));
        assert_eq!(name("a.b.cluster.local").above(&zone), Some(&b"\x01a\x01b"[..]));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in ["", "..", "a..b", ".a", &"a".repeat(64), &["a"; 128].join(".")] {
            assert!(text.parse::<Name>().is_err(), "{text:?}");
        }
        for wire in [&b""[..], b"\x01", b"\x01a", b"\xc0\x0c", b"\x00\x00", b"\x40a\x00"] {
            assert!(Name::from_wire(wire).is_err(), "{wire:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(name) = Name::from_wire(&bytes) {
                prop_assert_eq!(name.wire(), &bytes[..]);
                prop_assert_eq!(&Name::from_labels(name.labels()).unwrap(), &name);
            }
        }

        #[test]
        fn case_plays_no_part(text in "[a-zA-Z0-9-]{1,20}(\\.[a-zA-Z0-9_-]{1,20}){0,4}") {
            let (one, other) = (name(&text), name(&text.to_ascii_uppercase()));
            prop_assert_eq!(&one, &other);
            let hash = |n: &Name| {
                let mut hasher = std::hash::DefaultHasher::new();
                n.hash(&mut hasher);
                hasher.finish()
            };
            prop_assert_eq!(hash(&one), hash(&other));
            prop_assert_eq!(one.to_string(), text + ".");
        }
    }
}
