//! What is followed: each kind of object, its table, and who else sees its objects.

use crate::convert::Converted;
use crate::follow::{Follow, Nobody, Observer};
use crate::{SourceStatus, Task, convert, resource};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass, NetworkPolicy};
use kube::api::Api;
use kube::core::DynamicObject;
use tokio_util::sync::CancellationToken;
use warren_store::tables::{
    ONLY, ingress_class_key, ingress_key, namespace_key, node_key, pod_key, policy_key, service_key,
    slice_key,
};
use warren_store::{Record, Store};
use warren_types::cluster::{CONFIG_MAP_NAME, CONFIG_MAP_NAMESPACE};
use warren_types::connectivity::{self, ConnectivityRun};
use warren_types::{ClusterConfig, NodeName};

/// Group of NetworkPolicy, Ingress and IngressClass.
const NETWORKING: &str = "networking.k8s.io";

/// Where objects come from and where they go.
pub(crate) struct Follows<'a> {
    pub(crate) client: &'a kube::Client,
    pub(crate) store: &'a Store,
    pub(crate) status: &'a SourceStatus,
    pub(crate) stop: &'a CancellationToken,
}

/// How an object becomes a row, and the table's key of one that has none.
type Read<R> = (fn(&DynamicObject) -> Converted<R>, fn(&DynamicObject) -> Option<String>);

impl Follows<'_> {
    fn follow<R: Record, O: Observer + 'static>(
        &self,
        kind: &'static str,
        api: Api<DynamicObject>,
        observer: O,
        optional: Option<&'static str>,
        (convert, key): Read<R>,
    ) -> Task {
        let (table, status) = (self.store.table(), self.status.clone());
        let follow = Follow { kind, api, table, convert, key, observer, status, optional, only: None };
        Box::pin(follow.run(self.stop.clone()))
    }

    fn every<K: kube::Resource<DynamicType = ()>>(&self) -> Api<DynamicObject> {
        Api::all_with(self.client.clone(), &resource::<K>())
    }

    /// Follows every kind whose objects are rows; these observers see them too.
    pub(crate) fn tasks(
        &self,
        nodes: impl Observer + 'static,
        pods: impl Observer + 'static,
        services: impl Observer + 'static,
        ingresses: impl Observer + 'static,
    ) -> Vec<Task> {
        vec![
            self.follow("Node", self.every::<Node>(), nodes, None, NODE),
            self.follow("Pod", self.every::<Pod>(), pods, None, POD),
            self.follow("Service", self.every::<Service>(), services, None, SERVICE),
            self.follow("EndpointSlice", self.every::<EndpointSlice>(), Nobody, None, SLICE),
            self.follow("Namespace", self.every::<Namespace>(), Nobody, None, NAMESPACE),
            self.follow("NetworkPolicy", self.every::<NetworkPolicy>(), Nobody, Some(NETWORKING), POLICY),
            self.follow("Ingress", self.every::<Ingress>(), ingresses, Some(NETWORKING), INGRESS),
            self.follow("IngressClass", self.every::<IngressClass>(), Nobody, Some(NETWORKING), CLASS),
        ]
    }

    /// Follows the ConfigMap of the cluster's ranges, and no other.
    pub(crate) fn cluster(&self) -> Task {
        self.config_map("ConfigMap", CONFIG_MAP_NAME, CLUSTER)
    }

    /// Follows the ConfigMap of a run of `warren connectivity`, and no other.
    pub(crate) fn connectivity(&self) -> Task {
        self.config_map("ConnectivityRun", connectivity::CONFIG_MAP_NAME, CONNECTIVITY)
    }

    fn config_map<R: Record>(&self, kind: &'static str, name: &'static str, (convert, key): Read<R>) -> Task {
        let api = Api::namespaced_with(self.client.clone(), CONFIG_MAP_NAMESPACE, &resource::<ConfigMap>());
        let (table, status, only) = (self.store.table(), self.status.clone(), Some(name));
        let follow =
            Follow { kind, api, table, convert, key, observer: Nobody, status, optional: None, only };
        Box::pin(follow.run(self.stop.clone()))
    }
}

const NODE: Read<warren_types::Node> = (
    |o| convert::node(&o.metadata, &o.data),
    |o| NodeName::new(o.metadata.name.clone()?).ok().map(|n| node_key(&n)),
);
const POD: Read<warren_types::Pod> = (
    |o| convert::pod(&o.metadata, &o.data),
    |o| convert::pod(&o.metadata, &serde_json::Value::Null).row.map(|p| pod_key(&p.key)),
);
const SERVICE: Read<warren_types::Service> = (
    |o| convert::service(&o.metadata, &o.data),
    |o| convert::service_key_of(&o.metadata).map(|k| service_key(&k)),
);
const SLICE: Read<warren_types::EndpointSlice> = (
    |o| convert::endpoint_slice(&o.metadata, &o.data),
    |o| convert::slice_key_of(&o.metadata).map(|k| slice_key(&k)),
);
const NAMESPACE: Read<warren_types::NamespaceState> = (
    |o| convert::namespace(&o.metadata, &o.data),
    |o| convert::namespace_of(&o.metadata).map(|n| namespace_key(&n)),
);
const POLICY: Read<warren_types::NetworkPolicy> = (
    |o| convert::network_policy(&o.metadata, &o.data),
    |o| convert::policy_key_of(&o.metadata).map(|k| policy_key(&k)),
);
const INGRESS: Read<warren_types::Ingress> = (
    |o| convert::ingress(&o.metadata, &o.data),
    |o| convert::ingress_key_of(&o.metadata).map(|k| ingress_key(&k)),
);
const CLASS: Read<warren_types::IngressClass> = (
    |o| convert::ingress_class(&o.metadata, &o.data),
    |o| convert::ingress_class_of(&o.metadata).map(|n| ingress_class_key(&n)),
);
const CLUSTER: Read<ClusterConfig> = (
    |o| convert::cluster(&o.metadata, &o.data),
    |o| (o.metadata.name.as_deref() == Some(CONFIG_MAP_NAME)).then(|| ONLY.to_owned()),
);
const CONNECTIVITY: Read<ConnectivityRun> = (
    |o| convert::connectivity_run(&o.metadata, &o.data),
    |o| (o.metadata.name.as_deref() == Some(connectivity::CONFIG_MAP_NAME)).then(|| ONLY.to_owned()),
);
