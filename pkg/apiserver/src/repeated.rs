//! Finds keys that stand twice in a JSON body: parsers keep the last in silence, people meant the first.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

/// Most that are named.
const LIMIT: usize = 20;

/// The paths of keys that stand twice; empty for a body that is not JSON.
pub(crate) fn keys(json: &[u8]) -> Vec<String> {
    let found = RefCell::new(Vec::new());
    let mut reader = serde_json::Deserializer::from_slice(json);
    let _ = Part { path: String::new(), found: &found }.deserialize(&mut reader);
    found.into_inner()
}

struct Part<'a> {
    path: String,
    found: &'a RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Part<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let path = if self.path.is_empty() { key.clone() } else { format!("{}.{key}", self.path) };
            if !seen.insert(key) && self.found.borrow().len() < LIMIT {
                self.found.borrow_mut().push(path.clone());
            }
            map.next_value_seed(Part { path, found: self.found })?;
        }
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let mut i = 0;
        while list
            .next_element_seed(Part { path: format!("{}[{i}]", self.path), found: self.found })?
            .is_some()
        {
            i += 1;
        }
        Ok(())
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(IgnoredAny).map(drop)
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn repeated_keys_are_named_by_their_paths() {
        let body = br#"{"a": 1, "b": {"c": null, "c": [1, {"d": "x", "d": true}]}, "a": 2.5}"#;
        assert_eq!(keys(body), ["b.c", "b.c[1].d", "a"]);
        assert!(keys(br#"{"a": {"x": 1}, "b": {"x": 1}}"#).is_empty());
        assert!(keys(b"{").is_empty() && keys("[".repeat(9999).as_bytes()).is_empty());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in "[{}\\[\\]\":,a0 ]{0,40}") {
            keys(bytes.as_bytes());
        }
    }
}
