//! OpenAPI v2 in the protobuf form that older kubectl reads (`openapi.v2.Document`).

use serde_json::{Map, Value};

/// Bytes of a message.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push((n & 0x7f) as u8 | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }
    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }
    fn text(&mut self, field: u64, text: &str) {
        if !text.is_empty() {
            self.bytes(field, text.as_bytes());
        }
    }
    fn flag(&mut self, field: u64, set: bool) {
        if set {
            self.varint(field << 3);
            self.varint(1);
        }
    }
    fn message(&mut self, field: u64, fill: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        fill(&mut inner);
        self.bytes(field, &inner.0);
    }
    /// An entry of a map: name and value.
    fn named(&mut self, field: u64, name: &str, fill: impl FnOnce(&mut Self)) {
        self.message(field, |m| {
            m.text(1, name);
            m.message(2, fill);
        });
    }
    /// Extensions; their values are YAML, of which JSON is a part.
    fn extensions(&mut self, field: u64, of: &Value) {
        for (key, value) in entries(of).filter(|(k, _)| k.starts_with("x-")) {
            self.named(field, key, |any| any.text(2, &value.to_string()));
        }
    }
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn flag(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or(false)
}

/// The document in protobuf.
pub(super) fn protobuf(swagger: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, text(swagger, "swagger"));
    out.message(2, |info| {
        info.text(1, text(&swagger["info"], "title"));
        info.text(2, text(&swagger["info"], "version"));
    });
    out.message(8, |paths| {
        for (path, item) in entries(&swagger["paths"]) {
            paths.named(2, path, |m| path_item(m, item));
        }
    });
    out.message(9, |definitions| {
        for (name, schema) in entries(&swagger["definitions"]) {
            definitions.named(1, name, |m| write_schema(m, schema));
        }
    });
    out.0
}

fn path_item(out: &mut Message, item: &Value) {
    for (field, verb) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if let Some(op) = item.get(verb) {
            out.message(field, |m| operation(m, op));
        }
    }
    for p in item["parameters"].as_array().into_iter().flatten() {
        parameter(out, 9, p);
    }
}

fn operation(out: &mut Message, op: &Value) {
    out.text(5, text(op, "operationId"));
    for p in op["parameters"].as_array().into_iter().flatten() {
        parameter(out, 8, p);
    }
    out.message(9, |answers| {
        for (code, answer) in entries(&op["responses"]) {
            answers.named(1, code, |value| {
                value.message(1, |m| {
                    m.text(1, text(answer, "description"));
                    m.message(2, |item| item.message(1, |m| write_schema(m, &answer["schema"])));
                });
            });
        }
    });
    out.extensions(13, op);
}

fn parameter(out: &mut Message, field: u64, p: &Value) {
    let place = text(p, "in");
    out.message(field, |item| {
        item.message(1, |parameter| match place {
            "body" => parameter.message(1, |body| {
                body.text(2, text(p, "name"));
                body.text(3, place);
                body.flag(4, flag(p, "required"));
                body.message(5, |m| write_schema(m, &p["schema"]));
            }),
            _ => parameter.message(2, |plain| {
                let path = place == "path";
                plain.message(if path { 4 } else { 3 }, |m| {
                    m.flag(1, flag(p, "required"));
                    m.text(2, place);
                    m.text(4, text(p, "name"));
                    m.text(if path { 5 } else { 6 }, text(p, "type"));
                });
            }),
        });
    });
}

fn write_schema(out: &mut Message, s: &Value) {
    out.text(1, text(s, "$ref"));
    out.text(2, text(s, "format"));
    out.text(4, text(s, "description"));
    for name in s["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        out.text(19, name);
    }
    if let Some(values) = s.get("additionalProperties").filter(|v| v.is_object()) {
        out.message(21, |item| item.message(1, |m| write_schema(m, values)));
    }
    if let Some(kind) = s.get("type").and_then(Value::as_str) {
        out.message(22, |item| item.text(1, kind));
    }
    if let Some(items) = s.get("items") {
        out.message(23, |item| item.message(1, |m| write_schema(m, items)));
    }
    if let Some(Value::Object(fields)) = s.get("properties") {
        out.message(25, |properties| {
            for (name, schema) in fields {
                properties.named(1, name, |m| write_schema(m, schema));
            }
        });
    }
    out.extensions(31, s);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_types_and_extensions() {
        let bytes =
            protobuf(&json!({"swagger": "2.0", "definitions": {"A": {"type": "object", "x-y": [1]}}}));
        let extension = b"\xfa\x01\x0c\x0a\x03x-y\x12\x05\x12\x03[1]";
        let definition = [b"\x0a\x01A\x12\x1a\xb2\x01\x08\x0a\x06object".as_slice(), extension].concat();
        assert!(bytes.windows(definition.len()).any(|w| w == definition), "{bytes:02x?}");
    }
}
