//! Reading JSON whose every doubt is a word for the user.

use super::super::cut;
use serde_json::{Map, Value};
use warren_types::GroupKind;

/// What was read, or what is wrong with it.
pub(super) type Read<T> = Result<T, String>;

/// Longest text that is only compared and shown.
const MAX_WORD: usize = 253;

/// A field that is there and not null.
pub(super) fn given<'a>(map: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    map.get(name).filter(|value| !value.is_null())
}

pub(super) fn fields(value: &Value) -> Read<&Map<String, Value>> {
    value.as_object().ok_or_else(|| format!("{} is not an object", shown(value)))
}

/// A value, short enough for a message.
pub(super) fn shown(value: &Value) -> String {
    cut(&value.to_string()).chars().take(80).collect()
}

pub(super) fn string<'a>(map: &'a Map<String, Value>, name: &str) -> Read<Option<&'a str>> {
    match given(map, name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(format!("{name}: {} is not text", shown(other))),
    }
}

/// Text of a name's length without control characters; empty is none.
pub(super) fn word(map: &Map<String, Value>, name: &str) -> Read<Option<String>> {
    let Some(text) = string(map, name)?.filter(|text| !text.is_empty()) else { return Ok(None) };
    if text.len() > MAX_WORD || text.chars().any(char::is_control) {
        return Err(format!("{name}: {:?} is longer than {MAX_WORD} bytes, or not printable", cut(text)));
    }
    Ok(Some(text.to_owned()))
}

/// A whole number from 0 to `most`.
pub(super) fn number(map: &Map<String, Value>, name: &str, most: u64) -> Read<Option<u64>> {
    let Some(value) = given(map, name) else { return Ok(None) };
    match value.as_u64().filter(|number| *number <= most) {
        Some(number) => Ok(Some(number)),
        None => Err(format!("{name}: {} is not a number from 0 to {most}", shown(value))),
    }
}

/// A list of at most `most` entries; empty when it is not there.
pub(super) fn items<'a>(map: &'a Map<String, Value>, name: &str, most: usize) -> Read<&'a [Value]> {
    match given(map, name) {
        None => Ok(&[]),
        Some(Value::Array(items)) if items.len() <= most => Ok(items),
        Some(Value::Array(items)) => Err(format!("{name}: {} entries; at most {most}", items.len())),
        Some(other) => Err(format!("{name}: {} is not a list", shown(other))),
    }
}

/// Refuses fields that are none of `names`.
pub(super) fn only(map: &Map<String, Value>, names: &[&str]) -> Read<()> {
    let unknown = map.iter().find(|(name, value)| !value.is_null() && !names.contains(&name.as_str()));
    match unknown {
        None => Ok(()),
        Some((name, _)) => Err(format!("{} is not supported", cut(name))),
    }
}

/// `group` and `kind`, with these where they are not said. An empty group that is said is the core one.
pub(super) fn group_kind(map: &Map<String, Value>, group: &str, kind: &str) -> Read<GroupKind> {
    let said =
        string(map, "group")?.map(|_| word(map, "group").map(Option::unwrap_or_default)).transpose()?;
    let kind = word(map, "kind")?.unwrap_or_else(|| kind.to_owned());
    Ok(GroupKind { group: said.unwrap_or_else(|| group.to_owned()), kind })
}
