//! A control plane in memory, for the tests of controllers.

use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::api::{Api, Part};
use super::runner::{self, Controller};
use crate::alloc::Allocators;
use crate::ops::Objects;
use crate::registry::{KindId, NAMESPACE};
use crate::storage::{Cache, Disk, History, Object, WriterTask, object_key};

/// Objects, their writer, and the controllers under test.
pub(crate) struct World {
    pub(crate) api: Api,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl World {
    /// With the namespaces `default`, `other` and `kube-node-lease`.
    pub(crate) async fn new() -> Self {
        let cache = Arc::new(Cache::new(Vec::new(), 1, History::default()));
        let (task, writer) = WriterTask::new(cache.clone(), Disk::Memory, Allocators::of_ten());
        let mut tasks = JoinSet::new();
        tasks.spawn(task.run(CancellationToken::new()));
        let world = Self { api: Api::new(Objects { cache, writer }), tasks, stop: CancellationToken::new() };
        for name in ["default", "other", "kube-node-lease"] {
            world.create(NAMESPACE, "", json!({"metadata": {"name": name}})).await;
        }
        world
    }
    pub(crate) fn cache(&self) -> Arc<Cache> {
        self.api.cache().clone()
    }
    /// Runs a controller until the end of the test.
    pub(crate) fn start(&mut self, controller: impl Controller) {
        self.tasks.spawn(runner::run(Arc::new(controller), self.cache(), self.stop.clone()));
    }
    pub(crate) async fn create(&self, kind: KindId, namespace: &str, body: Value) -> Arc<Object> {
        self.api.create(kind, namespace, body).await.unwrap()
    }
    /// Makes an object that has a status.
    pub(crate) async fn create_with_status(&self, kind: KindId, namespace: &str, body: Value) -> Arc<Object> {
        let made = self.create(kind, namespace, body.clone()).await;
        self.api.change(&made, Part::Status, |o| o["status"] = body["status"].clone()).await.unwrap()
    }
    pub(crate) fn find(&self, kind: KindId, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.api.cache().get(kind, &object_key(namespace, name))
    }
    pub(crate) fn get(&self, kind: KindId, namespace: &str, name: &str) -> Arc<Object> {
        self.find(kind, namespace, name).unwrap()
    }
    pub(crate) async fn change(&self, object: &Object, part: Part, make: impl Fn(&mut Value)) -> Arc<Object> {
        self.api.change(object, part, make).await.unwrap()
    }
    /// Waits until `holds`: looks again with each change of `kind`.
    pub(crate) async fn until(&self, kind: KindId, what: &str, holds: impl Fn(&Self) -> bool) {
        let mut changed = self.api.cache().subscribe(kind);
        let wait = async {
            while !holds(self) {
                changed.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(3600), wait)
            .await
            .unwrap_or_else(|_| panic!("never: {what}"));
    }
    /// Lets every controller come to rest: with paused time this takes none.
    pub(crate) async fn settle(&self) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
