//! Who is let in at the gate, with a real store and the runner on a kernel of its own. Needs root.

use crate::{Deps, Gate, GateError, PolicyConfig, PolicyError, PolicyStatus, Tables, Unknown};
use nix::sched::{CloneFlags, unshare};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use warren_netlink::Netlink;
use warren_netlink::conntrack::Conntrack;
use warren_netlink::nft::Nft;
use warren_store::{Durability, Store};
use warren_types::*;

/// A node with its gate.
pub(super) struct Node {
    pub(super) store: Store,
    pub(super) gate: Gate,
    pub(super) nft: Nft,
    pub(super) status: PolicyStatus,
    stop: CancellationToken,
    tasks: JoinSet<Result<(), PolicyError>>,
    dir: Arc<tempfile::TempDir>,
}

impl Node {
    fn start(unknown: Unknown) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("a store").store;
        Self::on(store, Arc::new(dir), unknown)
    }

    /// The runner ends, this happens behind its back, and another begins.
    pub(super) async fn restart(mut self, meanwhile: impl AsyncFnOnce(&Store)) -> Self {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("no panic").expect("no failure");
        }
        meanwhile(&self.store).await;
        Self::on(self.store.clone(), self.dir.clone(), Unknown::Closed)
    }

    fn on(store: Store, dir: Arc<tempfile::TempDir>, unknown: Unknown) -> Self {
        let (gate, stop, status) = (Gate::default(), CancellationToken::new(), PolicyStatus::default());
        let nft = Nft::current().expect("netlink");
        let deps = Deps {
            tables: Tables::of(&store),
            netlink: Netlink::current().expect("netlink"),
            nft: nft.clone(),
            conntrack: Conntrack::current().expect("netlink"),
            gate: gate.clone(),
            status: status.clone(),
        };
        let node_name = NodeName::new("here").expect("a name");
        let config = PolicyConfig { node_name, unknown, labels_from_attachments: false };
        let ended = stop.clone();
        let life = crate::run(config, deps, HealthCell::default(), ended);
        let mut tasks = JoinSet::new();
        tasks.spawn(life);
        Self { store, gate, nft, status, tasks, stop, dir }
    }

    /// The API has been heard: there is a policy that isolates everyone of the namespace `closed`.
    pub(super) async fn hear(&self) {
        let namespace = Namespace::new("closed").expect("a name");
        let state = NamespaceState { name: namespace.clone(), labels: Labels::new(), terminating: false };
        let policy = NetworkPolicy {
            key: PolicyKey { namespace, name: PolicyName::new("deny").expect("a name") },
            uid: String::new(),
            pods: Selector::default(),
            ingress: Some(Vec::new()),
            egress: None,
        };
        self.store.table().replace(vec![state], Durability::Cached).await.expect("written");
        self.store.table().replace(vec![policy], Durability::Cached).await.expect("written");
        self.store.table::<Pod>().replace(Vec::new(), Durability::Cached).await.expect("written");
        self.store.table::<Attachment>().replace(Vec::new(), Durability::Cached).await.expect("written");
    }

    async fn attach(&self, id: &str, pod: Option<&str>) -> AttachmentKey {
        self.attach_at(id, pod, 7).await
    }

    pub(super) async fn attach_at(&self, id: &str, pod: Option<&str>, last: u8) -> AttachmentKey {
        let container_id = ContainerId::new(id).expect("an id");
        let key = AttachmentKey { container_id, if_name: IfName::new("eth0").expect("a name") };
        let row = Attachment {
            key: key.clone(),
            pod: pod.and_then(PodKey::parse),
            pod_uid: Some("uid".into()),
            labels: BTreeMap::new(),
            addresses: vec![[10, 42, 0, last].into()],
            netns: "/none".into(),
            host_link: IfName::new("wrnp0").expect("a name"),
            phase: AttachmentPhase::Adding,
            host_ports: Vec::new(),
            named_ports: Vec::new(),
            boot_id: BootId::new("00000000-0000-0000-0000-000000000000").expect("an id"),
        };
        self.store.table().put(row, Durability::Cached).await.expect("written");
        key
    }

    pub(super) async fn see(&self, pod: &str) {
        let row = Pod {
            key: PodKey::parse(pod).expect("a name"),
            uid: "uid".into(),
            node: NodeName::new("here").ok(),
            ips: Vec::new(),
            host_network: false,
            labels: Labels::new(),
            finished: false,
            named_ports: Vec::new(),
        };
        self.store.table().put(row, Durability::Cached).await.expect("written");
    }
}

impl Node {
    /// The runner opens the gate when it has loaded.
    pub(super) async fn lets_in(&self, key: &AttachmentKey) {
        loop {
            match self.gate.admit(key).await {
                Err(GateError::NotReady(_)) => tokio::task::yield_now().await,
                answer => return assert_eq!(answer, Ok(())),
            }
        }
    }
}

pub(super) fn on_a_node<F: Future<Output = ()>>(unknown: Unknown, test: impl FnOnce(Node) -> F) {
    unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let node = Node::start(unknown);
        test(node).await;
    });
}

#[test]
fn nobody_is_let_in_before_policies_are_known() {
    on_a_node(Unknown::Closed, |node| async move {
        let key = node.attach("a", Some("closed/a")).await;
        let refused = node.gate.admit(&key).await;
        assert!(matches!(refused, Err(GateError::NotReady(_))), "{refused:?}");
        node.hear().await;
        let key = node.attach("a", Some("closed/a")).await;
        node.see("closed/a").await;
        node.lets_in(&key).await;
        let isolated = node.nft.element_counts("pol_in4").await.expect("the map");
        assert!(isolated.contains_key([10, 42, 0, 7].as_slice()), "it is isolated when it is let in");
    });
}

#[test]
fn a_pod_that_nobody_has_seen_is_refused_after_a_while_or_let_in() {
    for unknown in [Unknown::Closed, Unknown::Open] {
        on_a_node(unknown, |node| async move {
            node.hear().await;
            let key = node.attach("a", Some("closed/a")).await;
            let answer = loop {
                match node.gate.admit(&key).await {
                    Err(GateError::NotReady(_)) => tokio::task::yield_now().await,
                    answer => break answer,
                }
            };
            match unknown {
                Unknown::Closed => assert!(matches!(answer, Err(GateError::UnknownPod(_))), "{answer:?}"),
                Unknown::Open => assert_eq!(answer, Ok(())),
            }
            // Whom no policy can speak of is not kept waiting.
            let key = node.attach("b", None).await;
            assert_eq!(node.gate.admit(&key).await, Ok(()));
        });
    }
}
