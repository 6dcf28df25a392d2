//! Objects of the battery: namespaces, Services, Pods as a kubelet would write them, and slices by hand.

use super::{Battery, NODES, PORT, family};
use anyhow::{Context as _, Result, bail};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::{Client, Config};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;

/// Keeps a Pod of the battery, once deleted, terminating until the test has seen enough of it.
const FINALIZER: &str = "warren.dev/battery";
/// Who sets the fields.
const MANAGER: &str = "battery";
const GATEWAY: &str = "gateway.networking.k8s.io";

/// The API of the lab, for code that waits.
pub struct Objects {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

fn resource(kind: &str) -> Result<ApiResource> {
    let (group, plural) = match kind {
        "Service" => ("", "services"),
        "Pod" => ("", "pods"),
        "Node" => ("", "nodes"),
        "Namespace" => ("", "namespaces"),
        "Event" => ("", "events"),
        "EndpointSlice" => ("discovery.k8s.io", "endpointslices"),
        "Secret" => ("", "secrets"),
        "NetworkPolicy" => ("networking.k8s.io", "networkpolicies"),
        "Ingress" => ("networking.k8s.io", "ingresses"),
        "IngressClass" => ("networking.k8s.io", "ingressclasses"),
        "GatewayClass" => (GATEWAY, "gatewayclasses"),
        "Gateway" => (GATEWAY, "gateways"),
        "HTTPRoute" => (GATEWAY, "httproutes"),
        "GRPCRoute" => (GATEWAY, "grpcroutes"),
        "ReferenceGrant" => (GATEWAY, "referencegrants"),
        _ => bail!("the battery knows no kind {kind}"),
    };
    let version = if kind == "ReferenceGrant" { "v1beta1" } else { "v1" };
    Ok(ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural))
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

impl Objects {
    /// Those of the API that a kubeconfig leads to.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(kubeconfig: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let kubeconfig = kube::config::Kubeconfig::from_yaml(kubeconfig)?;
        let client = runtime.block_on(async {
            let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await?;
            Ok::<_, anyhow::Error>(Client::try_from(config)?)
        })?;
        Ok(Self { runtime, client })
    }

    fn api(&self, kind: &str, namespace: &str) -> Result<Api<DynamicObject>> {
        let resource = resource(kind)?;
        Ok(match namespace {
            "" => Api::all_with(self.client.clone(), &resource),
            namespace => Api::namespaced_with(self.client.clone(), namespace, &resource),
        })
    }

    /// Applies an object, as `warren apply --force-conflicts` does; returns it as it is then.
    ///
    /// # Errors
    /// When the API refuses it.
    pub fn apply(&self, object: &Value) -> Result<Value> {
        let (kind, name) = (text(object, "/kind"), text(object, "/metadata/name"));
        let api = self.api(kind, text(object, "/metadata/namespace"))?;
        let applied =
            async { api.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(object)).await };
        let applied = self.runtime.block_on(applied).with_context(|| format!("apply {kind} {name}"))?;
        Ok(serde_json::to_value(applied)?)
    }

    /// Merges `patch` into an object.
    ///
    /// # Errors
    /// When the API refuses it.
    pub fn merge(&self, kind: &str, namespace: &str, name: &str, patch: &Value) -> Result<()> {
        let api = self.api(kind, namespace)?;
        let merged = async { api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await };
        self.runtime.block_on(merged).with_context(|| format!("patch {kind} {name}")).map(drop)
    }

    /// Merges `status` into an object's status.
    ///
    /// # Errors
    /// When the API refuses it.
    pub fn status(&self, kind: &str, namespace: &str, name: &str, status: &Value) -> Result<()> {
        let api = self.api(kind, namespace)?;
        let patch = json!({ "status": status });
        let merged = async { api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await };
        self.runtime.block_on(merged).with_context(|| format!("patch the status of {kind} {name}")).map(drop)
    }

    /// An object.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Result<Value> {
        let api = self.api(kind, namespace)?;
        let found = self.runtime.block_on(api.get(name)).with_context(|| format!("get {kind} {name}"))?;
        Ok(serde_json::to_value(found)?)
    }

    /// All objects of a kind, of all namespaces when `namespace` is empty.
    ///
    /// # Errors
    /// When the API does not answer.
    pub fn list(&self, kind: &str, namespace: &str) -> Result<Vec<Value>> {
        let api = self.api(kind, namespace)?;
        let found = self.runtime.block_on(api.list(&ListParams::default()))?;
        found.items.into_iter().map(|o| Ok(serde_json::to_value(o)?)).collect()
    }

    /// Deletes an object; `grace` is the grace period in seconds.
    ///
    /// # Errors
    /// When there is none, or the API refuses.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str, grace: Option<u32>) -> Result<()> {
        let api = self.api(kind, namespace)?;
        let params = DeleteParams { grace_period_seconds: grace, ..DeleteParams::default() };
        self.runtime
            .block_on(api.delete(name, &params))
            .with_context(|| format!("delete {kind} {name}"))
            .map(drop)
    }
}

/// A Service as the API made it.
#[derive(Debug, Clone)]
pub struct Svc {
    /// Its name.
    pub name: String,
    /// The object.
    pub object: Value,
}

impl Svc {
    /// Its cluster address.
    ///
    /// # Errors
    /// When it has none of this family.
    pub fn ip(&self, v6: bool) -> Result<IpAddr> {
        let all = self.object.pointer("/spec/clusterIPs").and_then(Value::as_array);
        let mut ips = all.into_iter().flatten().filter_map(|ip| ip.as_str()?.parse::<IpAddr>().ok());
        ips.find(|ip| ip.is_ipv6() == v6)
            .with_context(|| format!("{} has no {} address", self.name, family(v6)))
    }

    /// Its cluster address with a port.
    ///
    /// # Errors
    /// When it has none of this family.
    pub fn at(&self, v6: bool, port: u16) -> Result<SocketAddr> {
        Ok(SocketAddr::new(self.ip(v6)?, port))
    }

    /// The node port of its port number `n`.
    ///
    /// # Errors
    /// When there is none.
    pub fn node_port(&self, n: usize) -> Result<u16> {
        let port = self.object.pointer(&format!("/spec/ports/{n}/nodePort")).and_then(Value::as_u64);
        Ok(u16::try_from(port.with_context(|| format!("{} has no node port {n}", self.name))?)?)
    }

    /// The port of its health check.
    ///
    /// # Errors
    /// When there is none.
    pub fn health_port(&self) -> Result<u16> {
        let port = self.object.pointer("/spec/healthCheckNodePort").and_then(Value::as_u64);
        Ok(u16::try_from(port.with_context(|| format!("{} has no healthCheckNodePort", self.name))?)?)
    }
}

/// A Pod that stands for a place as an endpoint.
#[derive(Debug, Clone)]
pub struct Member<'a> {
    /// The value of its label `app`.
    pub app: &'a str,
    /// The pod of the fleet whose addresses it has; or a node: then it is on the host's network.
    pub place: &'a str,
    /// Whether it is ready.
    pub ready: bool,
    /// Its named ports, of TCP.
    pub ports: &'a [(&'a str, u16)],
}

/// A namespace of the API, which ends with this.
pub struct Scope<'a> {
    battery: &'a Battery,
    namespace: String,
    members: Mutex<Vec<String>>,
}

impl<'a> Scope<'a> {
    pub(super) fn new(battery: &'a Battery, namespace: &str) -> Result<Self> {
        battery
            .objects
            .apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}))?;
        Ok(Self { battery, namespace: namespace.to_owned(), members: Mutex::default() })
    }

    /// Its name.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Makes a Service for `app=NAME`, in both families; `spec` is merged into its own. A selector of null means none.
    ///
    /// # Errors
    /// When the API refuses it.
    pub fn service(&self, name: &str, spec: Value) -> Result<Svc> {
        self.labelled_service(name, json!({}), spec)
    }

    /// As [`Scope::service`], with labels.
    ///
    /// # Errors
    /// When the API refuses it.
    pub fn labelled_service(&self, name: &str, labels: Value, spec: Value) -> Result<Svc> {
        let mut whole = json!({"selector": {"app": name}, "ipFamilyPolicy": "RequireDualStack", "ports": [
            {"name": "tcp", "port": 80, "targetPort": PORT, "protocol": "TCP"},
            {"name": "udp", "port": 80, "targetPort": PORT, "protocol": "UDP"}]});
        for (key, value) in spec.as_object().into_iter().flatten() {
            whole[key] = value.clone();
        }
        if let Some(whole) = whole.as_object_mut() {
            whole.retain(|_, value| !value.is_null());
        }
        let object = self.battery.objects.apply(&json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": self.namespace, "labels": labels}, "spec": whole}))?;
        Ok(Svc { name: name.to_owned(), object })
    }

    /// A Service as it is now.
    ///
    /// # Errors
    /// When there is none.
    pub fn again(&self, service: &Svc) -> Result<Svc> {
        let object = self.battery.objects.get("Service", &self.namespace, &service.name)?;
        Ok(Svc { name: service.name.clone(), object })
    }

    /// Merges into the spec of a Service.
    ///
    /// # Errors
    /// When the API refuses it.
    pub fn change(&self, service: &Svc, spec: Value) -> Result<Svc> {
        self.battery.objects.merge("Service", &self.namespace, &service.name, &json!({ "spec": spec }))?;
        self.again(service)
    }

    /// Deletes an object of the namespace.
    ///
    /// # Errors
    /// When there is none.
    pub fn delete(&self, kind: &str, name: &str) -> Result<()> {
        self.battery.objects.delete(kind, &self.namespace, name, None)
    }

    /// Pods `APP-PLACE` with these places' addresses, ready.
    ///
    /// # Errors
    /// When the API refuses one.
    pub fn members(&self, app: &str, places: &[&str]) -> Result<()> {
        places.iter().try_for_each(|place| self.member(&Member { app, place, ready: true, ports: &[] }))
    }

    /// A Pod `APP-PLACE`, as a kubelet would write it.
    ///
    /// # Errors
    /// When the API refuses it.
    pub fn member(&self, member: &Member<'_>) -> Result<()> {
        let on_host = NODES.contains(&member.place);
        let (node, ips) = if on_host {
            let ips = super::FAMILIES.map(|v6| self.battery.address(member.place, v6));
            (member.place.to_owned(), ips.into_iter().collect::<Result<Vec<_>>>()?)
        } else {
            let pod = self.battery.pod(member.place)?;
            (pod.node.clone(), pod.ips.clone())
        };
        self.member_at(member, &node, &ips, on_host)
    }

    /// As [`Scope::member`], with these addresses.
    ///
    /// # Errors
    /// When the API refuses it.
    pub fn member_at(&self, member: &Member<'_>, node: &str, ips: &[IpAddr], on_host: bool) -> Result<()> {
        let name = format!("{}-{}", member.app, member.place);
        let ports: Vec<Value> = member
            .ports
            .iter()
            .map(|(name, port)| json!({"name": name, "containerPort": port, "protocol": "TCP"}))
            .collect();
        self.battery.objects.apply(&json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": self.namespace, "labels": {"app": member.app}, "finalizers": [FINALIZER]},
            "spec": {"nodeName": node, "hostNetwork": on_host,
                     "containers": [{"name": "main", "image": "battery", "ports": ports}]}}))?;
        if let Ok(mut members) = self.members.lock() {
            members.push(name.clone());
        }
        let ips: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        let ready = if member.ready { "True" } else { "False" };
        self.battery.objects.status(
            "Pod",
            &self.namespace,
            &name,
            &json!({"phase": "Running",
            "podIP": ips.first().map(|ip| ip["ip"].clone()), "podIPs": ips,
            "conditions": [{"type": "Ready", "status": ready}]}),
        )
    }

    /// Says that a Pod is ready, or is not.
    ///
    /// # Errors
    /// When there is none.
    pub fn ready(&self, pod: &str, ready: bool) -> Result<()> {
        let ready = if ready { "True" } else { "False" };
        let status = json!({"conditions": [{"type": "Ready", "status": ready}]});
        self.battery.objects.status("Pod", &self.namespace, pod, &status)
    }

    /// Begins to end a Pod: it is terminating until it is removed.
    ///
    /// # Errors
    /// When there is none.
    pub fn terminate(&self, pod: &str) -> Result<()> {
        self.battery.objects.delete("Pod", &self.namespace, pod, Some(30))
    }

    /// Ends a Pod.
    ///
    /// # Errors
    /// When there is none.
    pub fn remove(&self, pod: &str) -> Result<()> {
        let objects = &self.battery.objects;
        objects.merge("Pod", &self.namespace, pod, &json!({"metadata": {"finalizers": null}}))?;
        if let Ok(mut members) = self.members.lock() {
            members.retain(|m| m != pod);
        }
        // One that was terminating is gone with its finalizer.
        let gone = objects.delete("Pod", &self.namespace, pod, Some(0));
        match gone {
            Err(_) if objects.get("Pod", &self.namespace, pod).is_err() => Ok(()),
            other => other,
        }
    }

    /// Writes a slice of a Service by hand. Ports are name, protocol and number.
    ///
    /// # Errors
    /// When the API refuses it.
    pub fn slice(
        &self,
        service: &str,
        name: &str,
        v6: bool,
        ports: &[(&str, &str, u16)],
        endpoints: &[Value],
    ) -> Result<()> {
        let ports: Vec<Value> = ports
            .iter()
            .map(|(name, protocol, port)| json!({"name": name, "protocol": protocol, "port": port}))
            .collect();
        let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": self.namespace, "labels": {
                "kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": "battery"}},
            "addressType": family(v6), "ports": ports, "endpoints": endpoints});
        self.battery.objects.apply(&slice).map(drop)
    }

    /// An endpoint of a slice by hand: a pod of the fleet, ready; `more` is merged in.
    ///
    /// # Errors
    /// When there is no such pod.
    pub fn endpoint(&self, pod: &str, v6: bool, more: Value) -> Result<Value> {
        let node = self.battery.pod(pod).map_or_else(|_| pod.to_owned(), |p| p.node.clone());
        let mut endpoint = json!({"addresses": [self.battery.address(pod, v6)?], "nodeName": node,
            "conditions": {"ready": true, "serving": true, "terminating": false}});
        for (key, value) in more.as_object().into_iter().flatten() {
            endpoint[key] = value.clone();
        }
        Ok(endpoint)
    }

    /// The endpoints in the slices of a Service: address and whether it is ready.
    ///
    /// # Errors
    /// When the API does not answer.
    pub fn endpoints(&self, service: &str) -> Result<Vec<(String, bool)>> {
        let slices = self.battery.objects.list("EndpointSlice", &self.namespace)?;
        let own = slices
            .iter()
            .filter(|s| s.pointer("/metadata/labels/kubernetes.io~1service-name") == Some(&service.into()));
        let all = own.flat_map(|s| s["endpoints"].as_array().into_iter().flatten());
        Ok(all
            .map(|e| {
                (text(e, "/addresses/0").to_owned(), e.pointer("/conditions/ready") == Some(&true.into()))
            })
            .collect())
    }
}

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        let members = self.members.lock().map(|m| m.clone()).unwrap_or_default();
        for pod in members {
            if let Err(error) = self.remove(&pod) {
                eprintln!("battery: {}/{pod}: {error:#}", self.namespace);
            }
        }
        // The rest ends with the namespace, by its controller.
        if let Err(error) = self.battery.objects.delete("Namespace", "", &self.namespace, None) {
            eprintln!("battery: {}: {error:#}", self.namespace);
        }
    }
}
