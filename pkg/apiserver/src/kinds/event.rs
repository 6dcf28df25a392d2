//! v1 Event.

use jiff::Timestamp;
use serde_json::Value;

use crate::error::Causes;
use crate::proto::{META, OBJECT_REFERENCE, Type};
use crate::registry::{Kind, PLAIN, typed};
use crate::table::{Column, or, since, text};

/// The row.
pub(crate) const KIND: Kind = Kind {
    plural: "events",
    singular: "event",
    short: &["ev"],
    kind: "Event",
    fields: &[
        ("involvedObject.kind", "/involvedObject/kind"),
        ("involvedObject.namespace", "/involvedObject/namespace"),
        ("involvedObject.name", "/involvedObject/name"),
        ("involvedObject.uid", "/involvedObject/uid"),
        ("involvedObject.apiVersion", "/involvedObject/apiVersion"),
        ("involvedObject.resourceVersion", "/involvedObject/resourceVersion"),
        ("involvedObject.fieldPath", "/involvedObject/fieldPath"),
        ("reason", "/reason"),
        ("reportingComponent", "/reportingComponent"),
        ("source", "/source/component"),
        ("type", "/type"),
    ],
    typed: typed::<k8s_openapi::api::core::v1::Event>,
    proto: Some(&[
        (1, "metadata", Type::Message(META)),
        (2, "involvedObject", Type::Message(OBJECT_REFERENCE)),
        (3, "reason", Type::Text),
        (4, "message", Type::Text),
        (5, "source", Type::Message(&[(1, "component", Type::Text), (2, "host", Type::Text)])),
        (6, "firstTimestamp", Type::Time),
        (7, "lastTimestamp", Type::Time),
        (8, "count", Type::Int),
        (9, "type", Type::Text),
        (10, "eventTime", Type::MicroTime),
        (11, "series", Type::Message(&[(1, "count", Type::Int), (2, "lastObservedTime", Type::MicroTime)])),
        (12, "action", Type::Text),
        (13, "related", Type::Message(OBJECT_REFERENCE)),
        (14, "reportingComponent", Type::Text),
        (15, "reportingInstance", Type::Text),
    ]),
    validate,
    columns: &[
        Column::text("Last Seen", "Time since the event was last seen."),
        Column::text("Type", "Normal or Warning."),
        Column::text("Reason", "Short reason."),
        Column::text("Object", "What it is about."),
        Column::wide("Subobject", "Which part of it."),
        Column::wide("Source", "Who reported it."),
        Column::text("Message", "What happened."),
        Column::wide("First Seen", "Time since the event was first seen."),
        Column::wide("Count", "How often it was seen."),
        Column {
            name: "Name",
            kind: "string",
            format: "name",
            description: "Name of the event.",
            priority: 1,
        },
    ],
    cells,
    ..PLAIN
};

fn validate(o: &Value, causes: &mut Causes) {
    let about = text(o, "/involvedObject/namespace");
    let own = text(o, "/metadata/namespace");
    if !about.is_empty() && about != own {
        causes.invalid("involvedObject.namespace", about, "does not match event.namespace");
    }
}

fn cells(o: &Value, now: Timestamp) -> Vec<Value> {
    let seen = |pointers: &[&str]| {
        let at = pointers
            .iter()
            .find(|p| !text(o, p).is_empty())
            .copied()
            .unwrap_or("/metadata/creationTimestamp");
        since(o, at, now)
    };
    let count = o.pointer("/series/count").or_else(|| o.get("count")).and_then(Value::as_i64).unwrap_or(1);
    let source = or(text(o, "/source/component"), text(o, "/reportingComponent"));
    let host = text(o, "/source/host");
    let source = if host.is_empty() { source.to_owned() } else { format!("{source}, {host}") };
    vec![
        seen(&["/series/lastObservedTime", "/lastTimestamp", "/eventTime"]).into(),
        text(o, "/type").into(),
        text(o, "/reason").into(),
        format!("{}/{}", text(o, "/involvedObject/kind").to_lowercase(), text(o, "/involvedObject/name"))
            .into(),
        text(o, "/involvedObject/fieldPath").into(),
        source.into(),
        text(o, "/message").trim().into(),
        seen(&["/firstTimestamp", "/eventTime"]).into(),
        count.into(),
        text(o, "/metadata/name").into(),
    ]
}
