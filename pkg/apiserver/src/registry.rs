//! The registry: one row a kind. Everything that differs between kinds is in its row; there is no handler a kind.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::error::Causes;
use crate::kinds;
use crate::table::Column;

/// Which names a kind takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NameRule {
    /// RFC 1123 subdomain.
    Subdomain,
    /// RFC 1123 label.
    Label,
}

/// A kind of object.
pub(crate) struct Kind {
    /// API group; empty for the core group.
    pub(crate) group: &'static str,
    /// API version.
    pub(crate) version: &'static str,
    /// Resource name in paths.
    pub(crate) plural: &'static str,
    /// Singular name.
    pub(crate) singular: &'static str,
    /// Short names of kubectl.
    pub(crate) short: &'static [&'static str],
    /// `kind` of the object.
    pub(crate) kind: &'static str,
    /// Categories of kubectl (`all`).
    pub(crate) categories: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub(crate) namespaced: bool,
    /// Whether there is a `status` subresource.
    pub(crate) status: bool,
    /// Whether `metadata.generation` counts changes of the spec.
    pub(crate) generation: bool,
    /// Whether an update without resourceVersion is allowed.
    pub(crate) unconditional_update: bool,
    /// Whether DELETE answers with the object instead of a Status.
    pub(crate) returns_deleted: bool,
    /// Which names are valid.
    pub(crate) names: NameRule,
    /// Selectable fields besides name and namespace, each with its JSON pointer.
    pub(crate) fields: &'static [(&'static str, &'static str)],
    /// Decodes through the typed object and back, which drops unknown fields and refuses wrong types.
    pub(crate) typed: fn(Value) -> Result<Value, serde_json::Error>,
    /// How the kind is read from protobuf; `None`: not at all.
    pub(crate) proto: Option<crate::proto::Schema>,
    /// Fills defaults; runs at create and at update.
    pub(crate) default: fn(&mut Value),
    /// What only a create does (status of a new object).
    pub(crate) create: fn(&mut Value),
    /// What an update takes over from the stored object (new, old), after the defaults: what the server had given.
    pub(crate) carry: fn(&mut Value, &Value),
    /// Rules of an object by itself.
    pub(crate) validate: fn(&Value, &mut Causes),
    /// Rules of a change: new, old.
    pub(crate) validate_update: fn(&Value, &Value, &mut Causes),
    /// Columns of the table form.
    pub(crate) columns: &'static [Column],
    /// Cells of the table form, in the order of the columns.
    pub(crate) cells: fn(&Value, jiff::Timestamp) -> Vec<Value>,
}

/// What most kinds have in common: the ground of every row.
pub(crate) const PLAIN: Kind = Kind {
    group: "",
    version: "v1",
    plural: "",
    singular: "",
    short: &[],
    kind: "",
    categories: &[],
    namespaced: true,
    status: false,
    generation: false,
    unconditional_update: true,
    returns_deleted: false,
    names: NameRule::Subdomain,
    fields: &[],
    typed: Ok,
    proto: None,
    default: |_| {},
    create: |_| {},
    carry: |_, _| {},
    validate: |_, _| {},
    validate_update: |_, _, _| {},
    columns: &[Column::NAME, Column::AGE],
    cells: |_, _| Vec::new(),
};

impl Kind {
    /// `nodes`, `leases.coordination.k8s.io`.
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }
    /// `v1`, `coordination.k8s.io/v1`.
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
    /// The verbs that discovery names.
    pub(crate) fn verbs() -> &'static [&'static str] {
        &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
    }
}

/// Index of a kind in [`KINDS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KindId(pub(crate) usize);

impl KindId {
    /// The row.
    pub(crate) fn get(self) -> &'static Kind {
        &KINDS[self.0]
    }
    /// Every kind.
    pub(crate) fn all() -> impl Iterator<Item = KindId> {
        (0..KINDS.len()).map(KindId)
    }
}

/// Namespace's place in [`KINDS`].
pub(crate) const NAMESPACE: KindId = KindId(0);
/// Node's place in [`KINDS`].
pub(crate) const NODE: KindId = KindId(1);
/// Pod's place in [`KINDS`].
pub(crate) const POD: KindId = KindId(2);
/// ConfigMap's place in [`KINDS`].
pub(crate) const CONFIG_MAP: KindId = KindId(3);
/// Event's place in [`KINDS`].
pub(crate) const EVENT: KindId = KindId(4);
/// Lease's place in [`KINDS`].
pub(crate) const LEASE: KindId = KindId(5);

/// Service's place in [`KINDS`].
pub(crate) const SERVICE: KindId = KindId(6);
/// Endpoints' place in [`KINDS`].
pub(crate) const ENDPOINTS: KindId = KindId(9);
/// EndpointSlice's place in [`KINDS`].
pub(crate) const ENDPOINT_SLICE: KindId = KindId(10);

/// Ingress' place in [`KINDS`].
pub(crate) const INGRESS: KindId = KindId(12);
/// IngressClass' place in [`KINDS`].
pub(crate) const INGRESS_CLASS: KindId = KindId(13);

/// DaemonSet's place in [`KINDS`].
pub(crate) const DAEMON_SET: KindId = KindId(14);
/// ClusterRole's place in [`KINDS`].
pub(crate) const CLUSTER_ROLE: KindId = KindId(15);
/// Role's place in [`KINDS`].
pub(crate) const ROLE: KindId = KindId(16);
/// ClusterRoleBinding's place in [`KINDS`].
pub(crate) const CLUSTER_ROLE_BINDING: KindId = KindId(17);
/// RoleBinding's place in [`KINDS`].
pub(crate) const ROLE_BINDING: KindId = KindId(18);

/// GatewayClass' place in [`KINDS`].
pub(crate) const GATEWAY_CLASS: KindId = KindId(19);
/// Gateway's place in [`KINDS`].
pub(crate) const GATEWAY: KindId = KindId(20);
/// ReferenceGrant's place in [`KINDS`].
pub(crate) const REFERENCE_GRANT: KindId = KindId(23);

/// Every kind there is.
pub(crate) static KINDS: &[Kind] = &[
    kinds::namespace::KIND,
    kinds::node::KIND,
    kinds::pod::KIND,
    kinds::config_map::KIND,
    kinds::event::KIND,
    kinds::lease::KIND,
    kinds::service::KIND,
    kinds::secret::KIND,
    kinds::service_account::KIND,
    kinds::endpoints::KIND,
    kinds::endpoint_slice::KIND,
    kinds::network_policy::KIND,
    kinds::ingress::KIND,
    kinds::ingress_class::KIND,
    kinds::daemon_set::KIND,
    kinds::rbac::CLUSTER_ROLE,
    kinds::rbac::ROLE,
    kinds::rbac::CLUSTER_ROLE_BINDING,
    kinds::rbac::ROLE_BINDING,
    kinds::gateway::CLASS,
    kinds::gateway::GATEWAY,
    kinds::gateway::HTTP_ROUTE,
    kinds::gateway::GRPC_ROUTE,
    kinds::gateway::GRANT,
];

/// Finds a kind by its path.
pub(crate) fn lookup(group: &str, version: &str, plural: &str) -> Option<KindId> {
    KindId::all().find(|k| {
        let k = k.get();
        k.group == group && k.version == version && k.plural == plural
    })
}

/// The decoder of a typed object, for [`Kind::typed`].
pub(crate) fn typed<T: Serialize + DeserializeOwned>(value: Value) -> Result<Value, serde_json::Error> {
    serde_json::to_value(serde_json::from_value::<T>(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_rows_are_where_their_names_say() {
        let name = |k: KindId| k.get().kind;
        assert_eq!(
            [NAMESPACE, NODE, POD, CONFIG_MAP, LEASE, SERVICE, ENDPOINTS, ENDPOINT_SLICE].map(name),
            ["Namespace", "Node", "Pod", "ConfigMap", "Lease", "Service", "Endpoints", "EndpointSlice"]
        );
        assert_eq!([INGRESS, INGRESS_CLASS, DAEMON_SET].map(name), ["Ingress", "IngressClass", "DaemonSet"]);
        assert_eq!(
            [CLUSTER_ROLE, ROLE, CLUSTER_ROLE_BINDING, ROLE_BINDING].map(name),
            ["ClusterRole", "Role", "ClusterRoleBinding", "RoleBinding"]
        );
        assert_eq!(
            [GATEWAY_CLASS, GATEWAY, REFERENCE_GRANT].map(name),
            ["GatewayClass", "Gateway", "ReferenceGrant"]
        );
        assert_eq!(lookup("coordination.k8s.io", "v1", "leases"), Some(LEASE));
        assert_eq!(lookup("", "v1", "leases"), None);
    }

    #[test]
    fn every_row_prints_as_many_cells_as_columns() {
        for k in KINDS {
            let empty = serde_json::json!({"metadata": {"name": "x"}});
            assert_eq!((k.cells)(&empty, jiff::Timestamp::UNIX_EPOCH).len(), k.columns.len(), "{}", k.kind);
        }
    }
}
