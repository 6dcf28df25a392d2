//! A container runtime's side of CNI: finds the network configuration list of the node and runs its plugins.

use crate::reaper::Children;
use crate::services::environment;
use crate::wire::{ContainerPort, HostPort};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const CONF_DIR: &str = "/etc/cni/net.d";
const BIN_DIR: &str = "/opt/cni/bin";
const IF_NAME: &str = "eth0";
/// The longest that one plugin may take.
const PLUGIN_LIMIT: Duration = Duration::from_secs(20);

/// What a pod is to the plugins.
#[derive(Debug, Clone)]
pub(crate) struct Sandbox {
    pub(crate) container_id: String,
    pub(crate) netns: PathBuf,
    pub(crate) pod: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) host_ports: Vec<HostPort>,
    pub(crate) ports: Vec<ContainerPort>,
}

/// Why a plugin was not run to success.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CniError {
    /// It may succeed a little later.
    #[error("{0}")]
    TryAgain(String),
    /// It will not.
    #[error("{0}")]
    Final(String),
}

/// The node's network.
#[derive(Debug, Clone)]
struct Network {
    name: String,
    version: String,
    plugins: Vec<Map<String, Value>>,
}

fn network(dir: &Path) -> Result<Network, CniError> {
    let read = fs::read_dir(dir).map_err(|e| CniError::TryAgain(format!("{}: {e}", dir.display())))?;
    let lists = read.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "conflist"));
    let Some(path) = lists.min() else {
        return Err(CniError::TryAgain(format!("there is no CNI configuration in {} yet", dir.display())));
    };
    let shown = path.display();
    let text = fs::read(&path).map_err(|e| CniError::TryAgain(format!("{shown}: {e}")))?;
    parse(&text).map_err(|e| CniError::Final(format!("{shown}: {e}")))
}

fn parse(text: &[u8]) -> Result<Network, String> {
    let list: Value = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    let word = |key: &str| -> Result<String, String> {
        let found = list.get(key).and_then(Value::as_str);
        Ok(found.ok_or_else(|| format!("{key} is missing or no text"))?.to_owned())
    };
    let plugins = list.get("plugins").and_then(Value::as_array).ok_or("plugins is missing or no list")?;
    let object = |p: &Value| p.as_object().cloned().ok_or("a plugin is no object");
    let plugins: Vec<_> = plugins.iter().map(object).collect::<Result<_, _>>()?;
    if plugins.is_empty() {
        return Err("plugins is empty".into());
    }
    Ok(Network { name: word("name")?, version: word("cniVersion")?, plugins })
}

/// What one plugin gets on stdin.
fn request(
    network: &Network,
    plugin: &Map<String, Value>,
    sandbox: &Sandbox,
    previous: Option<&Value>,
) -> Value {
    let mut config = plugin.clone();
    config.insert("cniVersion".into(), json!(network.version));
    config.insert("name".into(), json!(network.name));
    let labels: Vec<Value> = sandbox.labels.iter().map(|(k, v)| json!({"key": k, "value": v})).collect();
    let mut args = Map::new();
    if !labels.is_empty() {
        args.insert("labels".into(), json!(labels));
    }
    if !sandbox.ports.is_empty() {
        args.insert("ports".into(), json!(sandbox.ports));
    }
    if !args.is_empty() {
        config.insert("args".into(), json!({"cni": args}));
    }
    // A runtime gives a plugin what that says it is capable of.
    let capable = config.remove("capabilities");
    if !sandbox.host_ports.is_empty() && capable.is_some_and(|c| c["portMappings"] == true) {
        config.insert("runtimeConfig".into(), json!({"portMappings": sandbox.host_ports}));
    }
    if let Some(previous) = previous {
        config.insert("prevResult".into(), previous.clone());
    }
    Value::Object(config)
}

/// Attaches a pod; returns its addresses and the plugins' result.
pub(crate) async fn add(children: &Children, sandbox: &Sandbox) -> Result<(Vec<IpAddr>, Value), CniError> {
    let network = network(Path::new(CONF_DIR))?;
    let mut previous = None;
    for plugin in &network.plugins {
        let config = request(&network, plugin, sandbox, previous.as_ref());
        previous = Some(run(children, "ADD", plugin, sandbox, &config).await?);
    }
    let result = previous.unwrap_or_default();
    Ok((addresses(&result), result))
}

/// Detaches a pod.
pub(crate) async fn del(
    children: &Children,
    sandbox: &Sandbox,
    result: Option<&Value>,
) -> Result<(), CniError> {
    let network = network(Path::new(CONF_DIR))?;
    for plugin in network.plugins.iter().rev() {
        let config = request(&network, plugin, sandbox, result);
        run(children, "DEL", plugin, sandbox, &config).await?;
    }
    Ok(())
}

fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result.get("ips").and_then(Value::as_array).into_iter().flatten();
    let text = ips.filter_map(|ip| ip.get("address").and_then(Value::as_str));
    text.filter_map(|a| a.split('/').next()?.parse().ok()).collect()
}

async fn run(
    children: &Children,
    verb: &str,
    plugin: &Map<String, Value>,
    sandbox: &Sandbox,
    config: &Value,
) -> Result<Value, CniError> {
    let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
    if kind.is_empty() || kind.contains('/') || kind == ".." {
        return Err(CniError::Final(format!("{kind:?} is no type of a CNI plugin")));
    }
    let mut command = Command::new(Path::new(BIN_DIR).join(kind));
    command.env_clear().envs(environment());
    command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", &sandbox.container_id);
    command.env("CNI_NETNS", &sandbox.netns).env("CNI_IFNAME", IF_NAME).env("CNI_PATH", BIN_DIR);
    let infra = &sandbox.container_id;
    let Sandbox { pod, namespace, uid, .. } = sandbox;
    command.env(
        "CNI_ARGS",
        format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod};K8S_POD_UID={uid};\
             K8S_POD_INFRA_CONTAINER_ID={infra}"
        ),
    );
    let what = format!("CNI {verb} of pod {pod} by plugin {kind}");
    let input = config.to_string().into_bytes();
    let answer = children.converse(&mut command, Command::spawn, &input, PLUGIN_LIMIT).await;
    let (exit, text) = answer.map_err(|e| CniError::TryAgain(format!("{what}: {e}")))?;
    if exit.success() {
        // DEL answers nothing.
        return Ok(serde_json::from_slice(&text).unwrap_or_default());
    }
    let error: Value = serde_json::from_slice(&text).unwrap_or_default();
    let code = error.get("code").and_then(Value::as_u64);
    let words = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let said = if error.is_null() { String::from_utf8_lossy(&text).into_owned() } else { words("msg") };
    let (shown, details) = (code.map_or_else(|| "no code".into(), |c| format!("code {c}")), words("details"));
    let text = format!("{what}: {said} ({shown}){}{details}", if details.is_empty() { "" } else { ": " });
    // 11: try again later. 50: the plugin is not available.
    Err(if matches!(code, Some(11 | 50)) { CniError::TryAgain(text) } else { CniError::Final(text) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sandbox() -> Sandbox {
        Sandbox {
            container_id: "c1".into(),
            netns: "/run/netns-lab/c1".into(),
            pod: "web".into(),
            namespace: "default".into(),
            uid: "u".into(),
            labels: BTreeMap::from([("app".into(), "web".into())]),
            host_ports: Vec::new(),
            ports: Vec::new(),
        }
    }

    #[test]
    fn a_plugin_gets_name_version_labels_and_the_result_before_it() {
        let network =
            parse(br#"{"cniVersion":"1.1.0","name":"warren","plugins":[{"type":"warren","socket":"/s"}]}"#)
                .unwrap();
        let config = request(&network, &network.plugins[0], &sandbox(), Some(&json!({"ips": []})));
        assert_eq!(
            config,
            json!({"type": "warren", "socket": "/s", "cniVersion": "1.1.0", "name": "warren",
                   "args": {"cni": {"labels": [{"key": "app", "value": "web"}]}}, "prevResult": {"ips": []}})
        );
    }

    #[test]
    fn host_ports_go_to_a_plugin_that_is_capable_of_them() {
        let list = |capable: &str| {
            let text = format!(
                r#"{{"cniVersion":"1.1.0","name":"w","plugins":[{{"type":"w","capabilities":{{"portMappings":{capable}}}}}]}}"#
            );
            parse(text.as_bytes()).unwrap()
        };
        let host_ports = ["5080:80", "192.0.2.1:53:5353/UDP", "[2001:db8::1]:443:8443"];
        let host_ports = host_ports.map(|p| p.parse().unwrap()).to_vec();
        let sandbox = Sandbox { host_ports, ..sandbox() };
        let config = |capable: &str| {
            let network = list(capable);
            request(&network, &network.plugins[0], &sandbox, None)
        };
        assert_eq!(
            config("true")["runtimeConfig"],
            json!({"portMappings": [
                {"hostPort": 5080, "containerPort": 80, "protocol": "tcp"},
                {"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "192.0.2.1"},
                {"hostPort": 443, "containerPort": 8443, "protocol": "tcp", "hostIP": "2001:db8::1"}]})
        );
        assert_eq!(config("false").get("runtimeConfig"), None);
        assert_eq!(config("true").get("capabilities"), None, "the runtime's, not the plugin's");
    }

    #[test]
    fn names_of_ports_are_told_as_a_pod_has_them() {
        let ports = ["http=8080", "dns=53/udp"].map(|p| p.parse().unwrap()).to_vec();
        let network = parse(br#"{"cniVersion":"1.1.0","name":"w","plugins":[{"type":"w"}]}"#).unwrap();
        let config = request(&network, &network.plugins[0], &Sandbox { ports, ..sandbox() }, None);
        assert_eq!(
            config["args"]["cni"]["ports"],
            json!([{"name": "http", "containerPort": 8080, "protocol": "TCP"},
                   {"name": "dns", "containerPort": 53, "protocol": "UDP"}])
        );
        for bad in ["http", "http=0", "http=1/icmp", "HTTP=1", "80=80", "=80", ""] {
            assert!(bad.parse::<ContainerPort>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn bad_host_ports_are_refused() {
        for bad in ["80", "0:80", "80:0", "80:80/icmp", "here:80:80", "70000:1", ":80:80", ""] {
            assert!(bad.parse::<HostPort>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn addresses_are_read_from_a_result() {
        let result = json!({"ips": [{"address": "10.42.0.2/32"}, {"address": "fd::2/128"}, {"address": 7}]});
        assert_eq!(addresses(&result), ["10.42.0.2".parse::<IpAddr>().unwrap(), "fd::2".parse().unwrap()]);
    }

    proptest! {
        #[test]
        fn any_configuration_is_read_without_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&text);
        }
    }
}
