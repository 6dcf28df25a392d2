//! How lists and maps of the built-in kinds are merged, as the Kubernetes API declares it.

/// How a list is merged by server-side apply (`x-kubernetes-list-type`). What is not in the table is atomic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListRule {
    /// Replaced as a whole, by one owner.
    Atomic,
    /// Plain values, each of which stands once.
    Set,
    /// Objects, told apart by these fields; a value after a field is taken when the field is missing.
    Keyed(&'static [(&'static str, Option<&'static str>)]),
}

/// How strategic merge patches treat a field (`x-kubernetes-patch-strategy`, `x-kubernetes-patch-merge-key`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PatchRule {
    /// The key of the entries; none for lists of plain values.
    pub(crate) key: Option<&'static str>,
    /// Whether the entries honour `$retainKeys`.
    pub(crate) retain_keys: bool,
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const CORE: &str = "io.k8s.api.core.v1.";
const DISCOVERY: &str = "io.k8s.api.discovery.v1.";
const GATEWAY: &str = "io.k8s.api.gateway.v1.";
const NETWORKING: &str = "io.k8s.api.networking.v1.";

const NAME: ListRule = ListRule::Keyed(&[("name", None)]);
const TYPE: ListRule = ListRule::Keyed(&[("type", None)]);
const IP: ListRule = ListRule::Keyed(&[("ip", None)]);
const CONTAINER_PORT: ListRule = ListRule::Keyed(&[("containerPort", None), ("protocol", Some("TCP"))]);
const SPREAD: ListRule = ListRule::Keyed(&[("topologyKey", None), ("whenUnsatisfiable", None)]);

/// Lists that are not atomic: package, type, field, rule.
const LISTS: &[(&str, &str, &str, ListRule)] = &[
    (META, "ObjectMeta", "finalizers", ListRule::Set),
    (META, "ObjectMeta", "ownerReferences", ListRule::Keyed(&[("uid", None)])),
    (CORE, "NamespaceStatus", "conditions", TYPE),
    (CORE, "NodeSpec", "podCIDRs", ListRule::Set),
    (CORE, "NodeStatus", "addresses", TYPE),
    (CORE, "NodeStatus", "conditions", TYPE),
    (CORE, "PodSpec", "containers", NAME),
    (CORE, "PodSpec", "initContainers", NAME),
    (CORE, "PodSpec", "ephemeralContainers", NAME),
    (CORE, "PodSpec", "hostAliases", IP),
    (CORE, "PodSpec", "imagePullSecrets", NAME),
    (CORE, "PodSpec", "resourceClaims", NAME),
    (CORE, "PodSpec", "schedulingGates", NAME),
    (CORE, "PodSpec", "topologySpreadConstraints", SPREAD),
    (CORE, "PodSpec", "volumes", NAME),
    (CORE, "Container", "env", NAME),
    (CORE, "Container", "ports", CONTAINER_PORT),
    (CORE, "Container", "volumeDevices", ListRule::Keyed(&[("devicePath", None)])),
    (CORE, "Container", "volumeMounts", ListRule::Keyed(&[("mountPath", None)])),
    (CORE, "EphemeralContainer", "env", NAME),
    (CORE, "EphemeralContainer", "ports", CONTAINER_PORT),
    (CORE, "EphemeralContainer", "volumeDevices", ListRule::Keyed(&[("devicePath", None)])),
    (CORE, "EphemeralContainer", "volumeMounts", ListRule::Keyed(&[("mountPath", None)])),
    (CORE, "ResourceRequirements", "claims", NAME),
    (CORE, "ContainerRestartRuleOnExitCodes", "values", ListRule::Set),
    (CORE, "PodStatus", "conditions", TYPE),
    (CORE, "PodStatus", "podIPs", IP),
    (CORE, "PodStatus", "resourceClaimStatuses", NAME),
    (CORE, "ContainerStatus", "allocatedResourcesStatus", NAME),
    (CORE, "ContainerStatus", "volumeMounts", ListRule::Keyed(&[("mountPath", None)])),
    (CORE, "ResourceStatus", "resources", ListRule::Keyed(&[("resourceID", None)])),
    (CORE, "ServiceSpec", "ports", ListRule::Keyed(&[("port", None), ("protocol", Some("TCP"))])),
    (CORE, "ServiceStatus", "conditions", TYPE),
    (CORE, "ServiceAccount", "secrets", NAME),
    (DISCOVERY, "Endpoint", "addresses", ListRule::Set),
    (GATEWAY, "GatewayClassStatus", "conditions", TYPE),
    (GATEWAY, "GatewaySpec", "listeners", NAME),
    (GATEWAY, "GatewayStatus", "conditions", TYPE),
    (GATEWAY, "GatewayStatus", "listeners", NAME),
    (GATEWAY, "ListenerStatus", "conditions", TYPE),
    (GATEWAY, "RouteParentStatus", "conditions", TYPE),
];

/// Types whose objects have one owner as a whole.
const ATOMIC_TYPES: &[(&str, &str)] = &[
    (META, "LabelSelector"),
    (META, "OwnerReference"),
    (CORE, "ConfigMapKeySelector"),
    (CORE, "EndpointAddress"),
    (CORE, "EndpointPort"),
    (CORE, "FileKeySelector"),
    (CORE, "LocalObjectReference"),
    (CORE, "NodeSelector"),
    (CORE, "NodeSelectorTerm"),
    (CORE, "ObjectFieldSelector"),
    (CORE, "ObjectReference"),
    (CORE, "ResourceFieldSelector"),
    (CORE, "SecretKeySelector"),
    (CORE, "TypedLocalObjectReference"),
    (DISCOVERY, "EndpointPort"),
    (NETWORKING, "ServiceBackendPort"),
];

/// Maps that have one owner as a whole.
const ATOMIC_MAPS: &[(&str, &str, &str)] =
    &[(CORE, "PodSpec", "nodeSelector"), (CORE, "ServiceSpec", "selector")];

/// Lists that strategic merge patches merge: package, type, field, key (empty: plain values), `retainKeys`.
const PATCHES: &[(&str, &str, &str, &str, bool)] = &[
    (META, "ObjectMeta", "finalizers", "", false),
    (META, "ObjectMeta", "ownerReferences", "uid", false),
    (CORE, "NamespaceStatus", "conditions", "type", false),
    (CORE, "NodeSpec", "podCIDRs", "", false),
    (CORE, "NodeStatus", "addresses", "type", false),
    (CORE, "NodeStatus", "conditions", "type", false),
    (CORE, "PodSpec", "containers", "name", false),
    (CORE, "PodSpec", "initContainers", "name", false),
    (CORE, "PodSpec", "ephemeralContainers", "name", false),
    (CORE, "PodSpec", "hostAliases", "ip", false),
    (CORE, "PodSpec", "imagePullSecrets", "name", false),
    (CORE, "PodSpec", "resourceClaims", "name", true),
    (CORE, "PodSpec", "schedulingGates", "name", false),
    (CORE, "PodSpec", "topologySpreadConstraints", "topologyKey", false),
    (CORE, "PodSpec", "volumes", "name", true),
    (CORE, "Container", "env", "name", false),
    (CORE, "Container", "ports", "containerPort", false),
    (CORE, "Container", "volumeDevices", "devicePath", false),
    (CORE, "Container", "volumeMounts", "mountPath", false),
    (CORE, "EphemeralContainer", "env", "name", false),
    (CORE, "EphemeralContainer", "ports", "containerPort", false),
    (CORE, "EphemeralContainer", "volumeDevices", "devicePath", false),
    (CORE, "EphemeralContainer", "volumeMounts", "mountPath", false),
    (CORE, "PodStatus", "conditions", "type", false),
    (CORE, "PodStatus", "podIPs", "ip", false),
    (CORE, "PodStatus", "hostIPs", "ip", false),
    (CORE, "PodStatus", "resourceClaimStatuses", "name", true),
    (CORE, "ContainerStatus", "volumeMounts", "mountPath", false),
    (CORE, "ServiceSpec", "ports", "port", false),
    (CORE, "ServiceStatus", "conditions", "type", false),
    (CORE, "ServiceAccount", "secrets", "name", false),
];

fn is(package: &str, name: &str, of: &str) -> bool {
    of.strip_prefix(package) == Some(name)
}

/// How server-side apply merges the list `field` of `of`.
pub(crate) fn list(of: &str, field: &str) -> ListRule {
    let found = LISTS.iter().find(|(p, t, f, _)| *f == field && is(p, t, of));
    found.map_or(ListRule::Atomic, |(.., rule)| *rule)
}

/// Whether objects of the type `of` have one owner as a whole.
pub(crate) fn atomic_type(of: &str) -> bool {
    ATOMIC_TYPES.iter().any(|(p, t)| is(p, t, of))
}

/// Whether the map `field` of `of` has one owner as a whole.
pub(crate) fn atomic_map(of: &str, field: &str) -> bool {
    ATOMIC_MAPS.iter().any(|(p, t, f)| *f == field && is(p, t, of))
}

/// How strategic merge patches merge the list `field` of `of`; none: they replace it.
pub(crate) fn patch(of: &str, field: &str) -> Option<PatchRule> {
    let (.., key, retain_keys) = PATCHES.iter().find(|(p, t, f, ..)| *f == field && is(p, t, of))?;
    Some(PatchRule { key: Some(*key).filter(|k| !k.is_empty()), retain_keys: *retain_keys })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_names_a_field_that_exists() {
        let definitions = crate::schema::definitions();
        let field = |p: &str, t: &str, f: &str| {
            let d = definitions.get(&format!("{p}{t}"));
            // Types of kinds that are not served are not defined.
            d.is_none_or(|d| d["properties"].get(f).is_some())
        };
        for (p, t, f, _) in LISTS {
            assert!(field(p, t, f), "{t}.{f}");
        }
        for (p, t, f) in ATOMIC_MAPS {
            assert!(field(p, t, f), "{t}.{f}");
        }
        for (p, t, f, ..) in PATCHES {
            assert!(field(p, t, f), "{t}.{f}");
        }
    }
}
