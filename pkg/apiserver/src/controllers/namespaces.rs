//! The end of namespaces: what is in one goes first, finalizers are waited for, then the namespace goes.

use futures::StreamExt as _;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::api::{Api, Part, gone_is_well};
use super::queue::Key;
use super::runner::Controller;
use super::set_condition;
use crate::error::ApiResult;
use crate::registry::{KindId, NAMESPACE, POD};
use crate::storage::{Event, Object, object_key};
use crate::table::{list, text};

/// The finalizer that stands for the contents.
const FINALIZER: &str = "kubernetes";
/// Deletions at once.
const AT_ONCE: usize = 64;

/// Empties and ends namespaces that are being deleted.
pub(crate) struct Namespaces {
    api: Api,
}

/// Whether the namespace is being deleted.
fn ends(namespace: &Object) -> bool {
    !text(&namespace.value, "/metadata/deletionTimestamp").is_empty()
}

/// What is left in a namespace.
#[derive(Debug, Default, PartialEq, Eq)]
struct Left {
    /// Objects by resource.
    kinds: BTreeMap<String, usize>,
    /// Objects by the finalizer they wait for.
    finalizers: BTreeMap<String, usize>,
}

impl Left {
    fn count(&mut self, object: &Object) {
        *self.kinds.entry(object.kind.get().qualified()).or_default() += 1;
        for finalizer in list(&object.value, "/metadata/finalizers").iter().filter_map(Value::as_str) {
            *self.finalizers.entry(finalizer.to_owned()).or_default() += 1;
        }
    }
}

/// The conditions that tell why a namespace is still there.
fn conditions(left: &Left, failure: Option<&str>) -> Vec<Value> {
    let of = |kind: &str, bad: Option<(&str, String)>, good: &str, calm: &str| match bad {
        Some((reason, message)) => {
            json!({"type": kind, "status": "True", "reason": reason, "message": message})
        }
        None => json!({"type": kind, "status": "False", "reason": good, "message": calm}),
    };
    let join = |parts: Vec<String>| parts.join(", ");
    let remaining = (!left.kinds.is_empty()).then(|| {
        let parts = left.kinds.iter().map(|(kind, n)| format!("{kind} has {n} resource instances")).collect();
        ("SomeResourcesRemain", format!("Some resources are remaining: {}", join(parts)))
    });
    let finalizers = (!left.finalizers.is_empty()).then(|| {
        let parts = left.finalizers.iter().map(|(f, n)| format!("{f} in {n} resource instances")).collect();
        (
            "SomeFinalizersRemain",
            format!("Some content in the namespace has finalizers remaining: {}", join(parts)),
        )
    });
    let failed = failure
        .map(|f| ("ContentDeletionFailed", format!("Failed to delete all resource types, 1 remaining: {f}")));
    vec![
        of(
            "NamespaceDeletionDiscoveryFailure",
            None,
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        of(
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        of(
            "NamespaceDeletionContentFailure",
            failed,
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        of("NamespaceContentRemaining", remaining, "ContentRemoved", "All content successfully removed"),
        of(
            "NamespaceFinalizersRemaining",
            finalizers,
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
        ),
    ]
}

impl Namespaces {
    pub(crate) fn new(api: Api) -> Self {
        Self { api }
    }

    /// Deletes what is not yet being deleted; the first failure is told when all were tried.
    async fn delete_all(&self, objects: Vec<Arc<Object>>) -> ApiResult<()> {
        let marked = |o: &Arc<Object>| !text(&o.value, "/metadata/deletionTimestamp").is_empty();
        let mut results = futures::stream::iter(objects.into_iter().filter(|o| !marked(o)))
            .map(|o| async move { self.api.delete(&o).await })
            .buffer_unordered(AT_ONCE);
        let mut first = Ok(());
        while let Some(result) = results.next().await {
            first = first.and(result);
        }
        first
    }

    fn left_in(&self, namespace: &str, kinds: impl Iterator<Item = KindId>) -> Vec<Arc<Object>> {
        kinds.flat_map(|k| self.api.cache().list_in(k, namespace)).collect()
    }

    async fn empty(&self, namespace: &str) -> (Left, ApiResult<()>) {
        // Pods first and alone: what guards them, such as policies, outlives them.
        let mut result = self.delete_all(self.left_in(namespace, std::iter::once(POD))).await;
        if self.left_in(namespace, std::iter::once(POD)).is_empty() {
            let others = self.left_in(namespace, namespaced());
            result = result.and(self.delete_all(others).await);
        }
        let mut left = Left::default();
        for object in self.left_in(namespace, namespaced()) {
            left.count(&object);
        }
        (left, result)
    }
}

fn namespaced() -> impl Iterator<Item = KindId> {
    KindId::all().filter(|k| k.get().namespaced)
}

impl Controller for Namespaces {
    fn name(&self) -> &'static str {
        "namespaces"
    }
    fn kinds(&self) -> Vec<KindId> {
        std::iter::once(NAMESPACE).chain(namespaced()).collect()
    }
    fn all(&self) -> Vec<Key> {
        let namespaces = self.api.cache().list(NAMESPACE).0;
        namespaces.values().filter(|n| ends(n)).map(|n| (NAMESPACE, n.name.clone())).collect()
    }
    fn concerned(&self, event: &Event) -> Vec<Key> {
        let o = &event.object;
        let name = if o.kind == NAMESPACE {
            &o.name
        } else if event.deleted {
            &o.namespace
        } else {
            return Vec::new();
        };
        let namespace = self.api.cache().get(NAMESPACE, name).filter(|n| ends(n));
        namespace.map(|n| (NAMESPACE, n.name.clone())).into_iter().collect()
    }

    async fn reconcile(&self, (_, name): &Key) -> ApiResult<Option<Duration>> {
        let Some(namespace) = self.api.cache().get(NAMESPACE, &object_key("", name)).filter(|n| ends(n))
        else {
            return Ok(None);
        };
        let finalizers = list(&namespace.value, "/spec/finalizers");
        if !finalizers.iter().any(|f| f == FINALIZER) {
            return Ok(None);
        }
        let (left, result) = self.empty(name).await;
        if left.kinds.is_empty() && result.is_ok() {
            let ended = self
                .api
                .change(&namespace, Part::Finalize, |o| {
                    if let Some(Value::Array(finalizers)) = o.pointer_mut("/spec/finalizers") {
                        finalizers.retain(|f| f != FINALIZER);
                    }
                })
                .await;
            return gone_is_well(ended).map(|()| None);
        }
        let told = conditions(&left, result.as_ref().err().map(|e| e.message.as_str()));
        let now = crate::meta::time(jiff::Timestamp::now());
        let told = self
            .api
            .change(&namespace, Part::Status, |o| {
                for condition in &told {
                    set_condition(o, condition.clone(), &now);
                }
            })
            .await;
        gone_is_well(told)?;
        // What is left goes when its finalizers do, and says so.
        result.map(|()| None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::testing::World;
    use crate::registry::CONFIG_MAP;

    async fn world() -> World {
        let mut w = World::new().await;
        w.start(Namespaces::new(w.api.clone()));
        w
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_ends_with_what_is_in_it() {
        let w = world().await;
        for i in 0..300 {
            w.create(CONFIG_MAP, "other", json!({"metadata": {"name": format!("c{i}")}})).await;
        }
        w.create(CONFIG_MAP, "default", json!({"metadata": {"name": "stays"}})).await;
        w.api.delete(&w.get(NAMESPACE, "", "other")).await.unwrap();
        let refused =
            w.api.create(CONFIG_MAP, "other", json!({"metadata": {"name": "late"}})).await.unwrap_err();
        assert_eq!((refused.code.as_u16(), refused.reason), (403, "Forbidden"));
        assert_eq!(refused.status()["details"]["causes"][0]["reason"], "NamespaceTerminating");
        w.until(NAMESPACE, "the end", |w| w.find(NAMESPACE, "", "other").is_none()).await;
        assert_eq!(w.cache().list_in(CONFIG_MAP, "other").len(), 0);
        assert!(w.find(CONFIG_MAP, "default", "stays").is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn finalizers_are_waited_for_and_named() {
        let w = world().await;
        let pod = json!({"metadata": {"name": "p", "finalizers": ["example.com/x"]},
            "spec": {"containers": [{"name": "c", "image": "i"}]}});
        let pod = w.create(POD, "other", pod).await;
        w.create(CONFIG_MAP, "other", json!({"metadata": {"name": "guard"}})).await;
        w.api.delete(&w.get(NAMESPACE, "", "other")).await.unwrap();
        w.settle().await;
        let namespace = w.get(NAMESPACE, "", "other");
        let told = |kind: &str| {
            let found =
                list(&namespace.value, "/status/conditions").iter().find(|c| text(c, "/type") == kind);
            found.map(|c| (text(c, "/status").to_owned(), text(c, "/message").to_owned())).unwrap()
        };
        assert_eq!(text(&namespace.value, "/status/phase"), "Terminating");
        let (status, message) = told("NamespaceFinalizersRemaining");
        assert_eq!(status, "True");
        assert!(message.ends_with("example.com/x in 1 resource instances"), "{message}");
        assert_eq!(told("NamespaceContentRemaining").0, "True");
        assert_eq!(told("NamespaceDeletionContentFailure").0, "False");
        assert!(w.find(CONFIG_MAP, "other", "guard").is_some(), "pods go first");
        let before = w.cache().revision();
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(w.cache().revision(), before, "nothing is written while nothing changes");
        w.change(&pod, Part::Main, |o| o["metadata"]["finalizers"] = json!([])).await;
        w.until(NAMESPACE, "the end", |w| w.find(NAMESPACE, "", "other").is_none()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_deletion_that_a_stop_interrupted_goes_on() {
        let mut w = World::new().await;
        w.create(CONFIG_MAP, "other", json!({"metadata": {"name": "c"}})).await;
        let namespace = w.get(NAMESPACE, "", "other");
        w.api.delete(&namespace).await.unwrap();
        w.settle().await;
        assert!(w.find(NAMESPACE, "", "other").is_some());
        w.start(Namespaces::new(w.api.clone()));
        w.until(NAMESPACE, "the end", |w| w.find(NAMESPACE, "", "other").is_none()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn own_finalizers_of_a_namespace_hold_it() {
        let w = world().await;
        let body =
            json!({"metadata": {"name": "mine"}, "spec": {"finalizers": ["kubernetes", "example.com/mine"]}});
        let made = w.create(NAMESPACE, "", body).await;
        w.api.delete(&made).await.unwrap();
        w.settle().await;
        let held = w.get(NAMESPACE, "", "mine");
        assert_eq!(held.value["spec"]["finalizers"], json!(["example.com/mine"]));
        w.change(&held, Part::Main, |o| o["spec"]["finalizers"] = json!([])).await;
        assert!(w.find(NAMESPACE, "", "mine").is_some(), "only /finalize writes them");
        w.change(&held, Part::Finalize, |o| o["spec"]["finalizers"] = json!([])).await;
        assert!(w.find(NAMESPACE, "", "mine").is_none());
    }
}
