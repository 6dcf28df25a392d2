//! Objects as rows for people: what `kubectl get` prints.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::Kind;

/// A column of a kind's table.
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) format: &'static str,
    pub(crate) description: &'static str,
    /// 0: always shown; 1: with `-o wide`.
    pub(crate) priority: u8,
}

impl Column {
    /// A column of text.
    pub(crate) const fn text(name: &'static str, description: &'static str) -> Self {
        Self { name, kind: "string", format: "", description, priority: 0 }
    }
    /// A column of text for `-o wide`.
    pub(crate) const fn wide(name: &'static str, description: &'static str) -> Self {
        Self { name, kind: "string", format: "", description, priority: 1 }
    }
    /// The column with the object's name.
    pub(crate) const NAME: Self = Self {
        name: "Name",
        kind: "string",
        format: "name",
        description: "Name of the object, unique among its kind.",
        priority: 0,
    };
    /// The column with the object's age.
    pub(crate) const AGE: Self = Self::text("Age", "Time since the object was made.");
}

/// What a row carries besides its cells (`includeObject`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Include {
    /// Nothing.
    None,
    /// Metadata.
    Metadata,
    /// The object.
    Object,
}

/// An object's metadata alone.
pub(crate) fn partial(object: &Value) -> Value {
    json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.get("metadata").cloned().unwrap_or_default() })
}

/// The table of `objects`.
pub(crate) fn table<'a>(
    kind: &Kind,
    objects: impl Iterator<Item = &'a Value>,
    metadata: Value,
    include: Include,
    now: Timestamp,
) -> Value {
    let columns: Vec<Value> = kind
        .columns
        .iter()
        .map(|c| json!({ "name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority }))
        .collect();
    let rows: Vec<Value> = objects
        .map(|o| {
            let mut row = json!({ "cells": (kind.cells)(o, now) });
            match include {
                Include::None => {}
                Include::Metadata => row["object"] = partial(o),
                Include::Object => row["object"] = o.clone(),
            }
            row
        })
        .collect();
    json!({ "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": columns, "rows": rows })
}

/// Text at a JSON pointer; empty when there is none.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A list at a JSON pointer; empty when there is none.
pub(crate) fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// `text`, or `other` when it is empty.
pub(crate) fn or<'a>(text: &'a str, other: &'a str) -> &'a str {
    if text.is_empty() { other } else { text }
}

/// How long ago the time at a JSON pointer was.
pub(crate) fn since(object: &Value, pointer: &str, now: Timestamp) -> String {
    match text(object, pointer).parse::<Timestamp>() {
        Ok(then) => duration(now.as_second() - then.as_second()),
        Err(_) => "<unknown>".into(),
    }
}

/// The object's age.
pub(crate) fn age(object: &Value, now: Timestamp) -> Value {
    since(object, "/metadata/creationTimestamp", now).into()
}

/// A duration as kubectl shows it: coarser the longer it is.
pub(crate) fn duration(seconds: i64) -> String {
    let two = |a: i64, au: &str, b: i64, bu: &str| {
        if b == 0 { format!("{a}{au}") } else { format!("{a}{au}{b}{bu}") }
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match () {
        () if seconds < -1 => "<invalid>".into(),
        () if seconds < 0 => "0s".into(),
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 192 => two(hours / 24, "d", hours % 24, "h"),
        () if hours < 24 * 365 * 2 => format!("{}d", hours / 24),
        () if hours < 24 * 365 * 8 => two(hours / 24 / 365, "y", hours / 24 % 365, "d"),
        () => format!("{}y", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_coarsen() {
        let shown = [
            -5,
            -1,
            0,
            119,
            120,
            125,
            599,
            600,
            10_799,
            10_800,
            12_000,
            30_000,
            200_000,
            800_000,
            70_000_000,
            300_000_000,
        ];
        let text: Vec<String> = shown.into_iter().map(duration).collect();
        assert_eq!(
            text,
            [
                "<invalid>",
                "0s",
                "0s",
                "119s",
                "2m",
                "2m5s",
                "9m59s",
                "10m",
                "179m",
                "3h",
                "3h20m",
                "8h",
                "2d7h",
                "9d",
                "2y80d",
                "9y"
            ]
        );
    }
}
