//! Objects that are there from the first start.

use jiff::Timestamp;
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use warren_types::ClusterConfig;
use warren_types::cluster::{CONFIG_MAP_KEY, CONFIG_MAP_NAME, CONFIG_MAP_NAMESPACE, dns_address};
use warren_types::ingress::{ANNOTATION_DEFAULT_CLASS, INGRESS_CLASS_NAME, INGRESS_CONTROLLER};

use crate::ServerError;
use crate::alloc::first_address;
use crate::auth::User;
use crate::deletion::DeleteOptions;
use crate::error::{ApiError, Causes};
use crate::ops::{Objects, WriteOptions};
use crate::patch::Patch;
use crate::query::{FieldValidation, Target};
use crate::registry::{CONFIG_MAP, ENDPOINT_SLICE, ENDPOINTS, INGRESS_CLASS, KindId, NAMESPACE, SERVICE};

/// The Service of this server, and of Kubernetes' own.
const API: &str = "kubernetes";
const NAMESPACE_OF_API: &str = "default";
/// The Service of cluster DNS, under the name that everybody looks for.
const DNS: &str = "kube-dns";
const NAMESPACE_OF_DNS: &str = "kube-system";

/// What the first objects say.
pub(crate) struct First<'a> {
    /// The cluster's ranges.
    pub(crate) cluster: &'a ClusterConfig,
    /// Where pods reach this server.
    pub(crate) reached_at: Option<SocketAddr>,
    /// The port that it listens on.
    pub(crate) port: u16,
    /// Whether Ingresses that name no class get Warren's.
    pub(crate) default_ingress_class: bool,
}

/// Makes the first namespaces, and brings the cluster's ConfigMap up to the configuration.
pub(crate) async fn objects(objects: &Objects, first: &First<'_>, now: Timestamp) -> Result<(), ServerError> {
    let First { cluster, reached_at, port, default_ingress_class } = *first;
    let options = WriteOptions {
        user: User::Admin("system:warren".into()),
        manager: "warren".into(),
        dry_run: false,
        validation: FieldValidation::Strict,
        now,
    };
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        ensure(objects, NAMESPACE, None, name, json!({ "metadata": { "name": name } }), &options).await?;
    }
    let config = serde_json::to_string(cluster).map_err(|e| failed(CONFIG_MAP_NAME, e))?;
    let data = json!({ CONFIG_MAP_KEY: config });
    let map =
        json!({ "metadata": { "name": CONFIG_MAP_NAME, "namespace": CONFIG_MAP_NAMESPACE }, "data": data });
    ensure(objects, CONFIG_MAP, Some(CONFIG_MAP_NAMESPACE), CONFIG_MAP_NAME, map, &options).await?;
    let target = Target::all(CONFIG_MAP, Some(CONFIG_MAP_NAMESPACE));
    let patch = Patch::Merge(json!({ "data": data }));
    let patched = objects.patch(&target, CONFIG_MAP_NAME, &patch, &options).await;
    patched.map_err(|e| failed(CONFIG_MAP_NAME, e.message))?;
    if let Some(address) = cluster.service_cidrs.first().and_then(|range| first_address(*range)) {
        api_service(objects, address, port, &options).await?;
        api_endpoints(objects, reached_at, &options).await?;
    }
    ingress_class(objects, default_ingress_class, &options).await?;
    if let Err(error) = dns_service(objects, cluster, &options).await {
        // Its address may be another Service's since before there was DNS; the agents serve it all the same.
        tracing::warn!(%error, "there is no Service for cluster DNS");
    }
    Ok(())
}

/// The class of Ingresses that agents serve. Once it is there, whether it is the default is its users' to say, unless the
/// configuration asks for it.
async fn ingress_class(objects: &Objects, default: bool, options: &WriteOptions) -> Result<(), ServerError> {
    let body = json!({
        "metadata": { "name": INGRESS_CLASS_NAME }, "spec": { "controller": INGRESS_CONTROLLER },
    });
    ensure(objects, INGRESS_CLASS, None, INGRESS_CLASS_NAME, body, options).await?;
    if !default {
        return Ok(());
    }
    let annotations = json!({ ANNOTATION_DEFAULT_CLASS: "true" });
    let patch = Patch::Merge(json!({ "metadata": { "annotations": annotations } }));
    let patched = objects.patch(&Target::all(INGRESS_CLASS, None), INGRESS_CLASS_NAME, &patch, options).await;
    patched.map(drop).map_err(|e| failed("ingressclass warren", e.message))
}

/// The Service that stands for cluster DNS. It has no endpoints: every agent serves its addresses itself.
async fn dns_service(
    objects: &Objects,
    cluster: &ClusterConfig,
    options: &WriteOptions,
) -> Result<(), ServerError> {
    let addresses: Vec<IpAddr> = cluster.service_cidrs.iter().filter_map(dns_address).collect();
    if addresses.is_empty() {
        return Ok(());
    }
    let port = |name, protocol| json!({ "name": name, "port": 53, "protocol": protocol, "targetPort": 53 });
    let labels = json!({
        "k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "Warren",
    });
    let body = json!({
        "metadata": { "name": DNS, "labels": labels },
        "spec": {
            "clusterIP": addresses.first(), "clusterIPs": addresses.clone(), "type": "ClusterIP",
            "ipFamilyPolicy": if addresses.len() > 1 { "RequireDualStack" } else { "SingleStack" },
            "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")],
        },
    });
    anew_at(objects, DNS, NAMESPACE_OF_DNS, &addresses, options).await?;
    ensure(objects, SERVICE, Some(NAMESPACE_OF_DNS), DNS, body, options).await
}

/// Removes a Service of ours whose addresses are others than these: they do not change, so when the range does, it is made
/// anew.
async fn anew_at(
    objects: &Objects,
    name: &str,
    namespace: &str,
    addresses: &[IpAddr],
    options: &WriteOptions,
) -> Result<(), ServerError> {
    let Ok(found) = objects.get(SERVICE, Some(namespace), name) else { return Ok(()) };
    if found.value.pointer("/spec/clusterIPs") == Some(&json!(addresses)) {
        return Ok(());
    }
    let target = Target::all(SERVICE, Some(namespace));
    let deleted = objects.delete(&target, name, &DeleteOptions::default(), options).await;
    deleted.map(drop).map_err(|e| failed(&format!("service {name}"), e.message))
}

/// The Service by which pods reach this server.
async fn api_service(
    objects: &Objects,
    address: IpAddr,
    port: u16,
    options: &WriteOptions,
) -> Result<(), ServerError> {
    let fault = |e: ApiError| failed("service kubernetes", e.message);
    let target = Target::all(SERVICE, Some(NAMESPACE_OF_API));
    anew_at(objects, API, NAMESPACE_OF_API, &[address], options).await?;
    let ports = json!([{ "name": "https", "port": 443, "protocol": "TCP", "targetPort": port }]);
    let body = json!({
        "metadata": { "name": API, "labels": { "component": "apiserver", "provider": "kubernetes" } },
        "spec": { "clusterIP": address.to_string(), "ports": ports, "type": "ClusterIP" },
    });
    ensure(objects, SERVICE, Some(NAMESPACE_OF_API), API, body, options).await?;
    let patch = Patch::Merge(json!({ "spec": { "ports": ports } }));
    objects.patch(&target, API, &patch, options).await.map(drop).map_err(fault)
}

/// Where that Service leads: made anew at each start, for the address may have changed.
async fn api_endpoints(
    objects: &Objects,
    reached_at: Option<SocketAddr>,
    options: &WriteOptions,
) -> Result<(), ServerError> {
    if reached_at.is_none() {
        tracing::warn!(
            "pods cannot reach this server by the Service kubernetes: --advertise-address gives it an address"
        );
    }
    let of_type = |a: SocketAddr| if a.is_ipv4() { "IPv4" } else { "IPv6" };
    let port = |a: SocketAddr| json!([{ "name": "https", "port": a.port(), "protocol": "TCP" }]);
    let slice = reached_at.map(|a| {
        json!({
            "metadata": { "name": API, "labels": { "kubernetes.io/service-name": API } },
            "addressType": of_type(a), "ports": port(a),
            "endpoints": [{ "addresses": [a.ip()], "conditions": { "ready": true } }],
        })
    });
    let endpoints = reached_at.map(|a| {
        json!({
            "metadata": { "name": API, "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" } },
            "subsets": [{ "addresses": [{ "ip": a.ip() }], "ports": port(a) }],
        })
    });
    for (kind, wanted, spoken) in [
        (ENDPOINT_SLICE, slice, &["addressType", "endpoints", "ports"][..]),
        (ENDPOINTS, endpoints, &["subsets"]),
    ] {
        let target = Target::all(kind, Some(NAMESPACE_OF_API));
        let fault = |e: ApiError| failed(&format!("{} {API}", kind.get().singular), e.message);
        if let Ok(found) = objects.get(kind, Some(NAMESPACE_OF_API), API) {
            let fits = |w: &Value| spoken.iter().all(|key| covers(&found.value[*key], &w[*key]));
            if wanted.as_ref().is_some_and(fits) {
                continue;
            }
            objects.delete(&target, API, &DeleteOptions::default(), options).await.map_err(fault)?;
        }
        if let Some(body) = wanted {
            ensure(objects, kind, Some(NAMESPACE_OF_API), API, body, options).await?;
        }
    }
    Ok(())
}

/// Whether `found` says all that `wanted` says.
fn covers(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(f), Value::Object(w)) => {
            w.iter().all(|(key, value)| f.get(key).is_some_and(|found| covers(found, value)))
        }
        (Value::Array(f), Value::Array(w)) => {
            f.len() == w.len() && f.iter().zip(w).all(|(f, w)| covers(f, w))
        }
        _ => found == wanted,
    }
}

/// An address at which pods can reach a server that listens at `listen`: what is configured, or what this host would
/// send from. No packet is sent to find it.
pub(crate) fn reached_at(advertise: Option<IpAddr>, listen: SocketAddr) -> Option<SocketAddr> {
    let ip = match (advertise, listen.ip()) {
        (Some(ip), _) => Some(ip),
        (None, ip) if !ip.is_unspecified() => Some(ip),
        (None, _) => {
            let probe = |from: &str, to: &str| {
                let socket = std::net::UdpSocket::bind(from).ok()?;
                socket.connect(to).ok()?;
                Some(socket.local_addr().ok()?.ip())
            };
            // Addresses for documentation: they stand for any far host.
            probe("0.0.0.0:0", "192.0.2.1:9").or_else(|| probe("[::]:0", "[2001:db8::1]:9"))
        }
    };
    ip.filter(|ip| reachable(*ip)).map(|ip| SocketAddr::new(ip, listen.port()))
}

fn reachable(ip: IpAddr) -> bool {
    let mut causes = Causes::default();
    crate::kinds::rules::not_special("", "", ip, &mut causes);
    causes.0.is_empty()
}

fn failed(object: &str, reason: impl std::fmt::Display) -> ServerError {
    ServerError::Bootstrap { object: object.into(), reason: reason.to_string() }
}

async fn ensure(
    objects: &Objects,
    kind: KindId,
    namespace: Option<&str>,
    name: &str,
    body: Value,
    options: &WriteOptions,
) -> Result<(), ServerError> {
    let target = Target::all(kind, namespace);
    match objects.create(&target, body, options).await {
        Ok(_) => Ok(()),
        Err(ApiError { reason: "AlreadyExists", .. }) => Ok(()),
        Err(e) => Err(failed(&format!("{} {name}", kind.get().singular), e.message)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_not_sent_to_a_loopback() {
        let at = |advertise: Option<&str>, listen: &str| {
            reached_at(advertise.map(|a| a.parse().unwrap()), listen.parse().unwrap())
        };
        assert_eq!(at(Some("192.0.2.7"), "0.0.0.0:6443"), Some("192.0.2.7:6443".parse().unwrap()));
        assert_eq!(at(None, "192.0.2.8:1"), Some("192.0.2.8:1".parse().unwrap()));
        for nowhere in ["127.0.0.1:1", "[::1]:1", "169.254.0.1:1", "[fe80::1]:1"] {
            assert_eq!(at(None, nowhere), None, "{nowhere}");
        }
    }
}
