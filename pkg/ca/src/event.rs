//! What the owner of an Ingress is told.

use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use warren_types::Fault;

/// So much of an Ingress' name is in the name of its Events, whose length is limited too.
const MOST_NAME: usize = 200;
/// Longest message that the API takes.
const MOST_MESSAGE: usize = 1024;
/// Who says it.
const COMPONENT: &str = "warren-ca";

/// Something that is wrong with an Ingress.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Told {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub ingress: String,
    /// Its `metadata.uid`.
    pub uid: String,
    /// What is wrong.
    pub fault: Fault,
}

fn cut(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default()
}

impl Told {
    /// The name of its Event: the same for the same fault, so that it is found again.
    #[must_use]
    pub fn name(&self) -> String {
        let parts = [&self.uid, &self.fault.reason, &self.fault.message].map(String::as_str);
        let hash = digest(&SHA256, parts.join("\0").as_bytes());
        let hash: String = hash.as_ref().iter().take(8).map(|b| format!("{b:02x}")).collect();
        format!("{}.{hash}", cut(&self.ingress, MOST_NAME).trim_end_matches(['.', '-']))
    }

    /// Its Event, when it is told for the first time.
    #[must_use]
    pub fn body(&self, now: Timestamp) -> Value {
        let now = seconds(now);
        json!({
            "apiVersion": "v1", "kind": "Event", "type": "Warning",
            "metadata": {"name": self.name(), "namespace": self.namespace},
            "involvedObject": {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
                "namespace": self.namespace, "name": self.ingress, "uid": self.uid},
            "reason": self.fault.reason, "message": cut(&self.fault.message, MOST_MESSAGE),
            "source": {"component": COMPONENT}, "reportingComponent": COMPONENT, "reportingInstance": COMPONENT,
            "firstTimestamp": now, "lastTimestamp": now, "count": 1,
        })
    }

    /// Says in an Event that is there that it holds still.
    pub fn renew(event: &mut Value, now: Timestamp) {
        event["lastTimestamp"] = seconds(now).into();
        event["count"] = (event["count"].as_i64().unwrap_or(1) + 1).into();
    }
}

fn seconds(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
