//! What the API last said of this node's own Node: the write-back side compares with it.

use crate::Object;
use crate::follow::Observer;
use std::sync::Arc;
use tokio::sync::watch;
use warren_types::NodeName;

/// The own Node as last observed.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    /// Whether a list has completed: only then does a missing object mean that there is none.
    pub(crate) synced: bool,
    /// The object.
    pub(crate) object: Option<Arc<Object>>,
}

/// Shared between the watch of Nodes and the publisher.
pub(crate) struct OwnNode {
    name: String,
    seen: watch::Sender<Seen>,
}

impl OwnNode {
    pub(crate) fn new(name: &NodeName) -> Self {
        Self { name: name.to_string(), seen: watch::Sender::new(Seen::default()) }
    }
    pub(crate) fn subscribe(&self) -> watch::Receiver<Seen> {
        self.seen.subscribe()
    }
    fn is_own(&self, object: &Object) -> bool {
        object.metadata.name.as_deref() == Some(self.name.as_str())
    }
}

/// Feeds [`OwnNode`].
pub(crate) struct NodeObserver(pub(crate) Arc<OwnNode>);

impl Observer for NodeObserver {
    fn seen(&mut self, object: &Object) {
        if self.0.is_own(object) {
            let mut object = object.clone();
            object.metadata.managed_fields = None;
            self.0.seen.send_modify(|s| s.object = Some(Arc::new(object)));
        }
    }
    fn gone(&mut self, object: &Object) {
        if self.0.is_own(object) {
            self.0.seen.send_modify(|s| s.object = None);
        }
    }
    fn begin(&mut self) {
        self.0.seen.send_modify(|s| *s = Seen::default());
    }
    fn listed(&mut self) {
        self.0.seen.send_modify(|s| s.synced = true);
    }
}
