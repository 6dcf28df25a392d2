//! The network configuration that comes on standard input.

use super::args::cut;
use super::{Code, Refusal, SpecVersion};
use ipnet::IpNet;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};
use warren_types::{AttachmentKey, ContainerId, HostPort, IfName, NamedPort, Protocol};

/// Largest network configuration that is read, in bytes.
pub const MAX_CONFIG: usize = 1 << 20;
/// The agent's socket where the configuration names none.
pub const DEFAULT_SOCKET: &str = "/run/warren/cni.sock";
/// Where deletions wait for an agent where the configuration names no place.
pub const DEFAULT_QUEUE_DIR: &str = "/run/warren/cni-del";
/// Longest path of a unix socket.
const MAX_SOCKET_PATH: usize = 107;
/// Most labels and most requested addresses of one attachment.
const MAX_LABELS: usize = 256;
const MAX_ADDRESSES: usize = 2;
/// Most host ports of one attachment: some runtimes ask for ranges, one entry a port.
const MAX_HOST_PORTS: usize = 4096;
/// Most named ports of one attachment.
const MAX_NAMED_PORTS: usize = 256;

/// Where the agent is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `socket`
    pub socket: PathBuf,
    /// `queueDir`
    pub queue_dir: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Self { socket: DEFAULT_SOCKET.into(), queue_dir: DEFAULT_QUEUE_DIR.into() }
    }
}

/// A configuration whose version is known and whose fields have not been looked at yet.
#[derive(Debug)]
pub(crate) struct NetConf {
    fields: Map<String, Value>,
    /// `name`
    pub(crate) name: String,
    /// `type`
    pub(crate) kind: String,
}

fn invalid(msg: impl Into<String>) -> Refusal {
    Refusal::new(Code::InvalidConfig, msg)
}

/// The JSON object, and its `cniVersion` as it stands there.
pub(crate) fn decode(text: &[u8]) -> Result<Map<String, Value>, Refusal> {
    if text.len() > MAX_CONFIG {
        return Err(invalid(format!("the network configuration is larger than {MAX_CONFIG} bytes")));
    }
    let value: Value = serde_json::from_slice(text).map_err(|e| {
        Refusal::new(Code::Decode, format!("the network configuration on standard input is not JSON: {e}"))
    })?;
    match value {
        Value::Object(fields) => Ok(fields),
        _ => Err(Refusal::new(Code::Decode, "the network configuration is not a JSON object")),
    }
}

/// The version, as one that Warren speaks.
pub(crate) fn version(fields: &Map<String, Value>) -> Result<SpecVersion, Refusal> {
    let supported = || SpecVersion::ALL.map(SpecVersion::as_str).join(", ");
    match fields.get("cniVersion") {
        None => Err(Refusal::new(Code::IncompatibleVersion, "the network configuration has no cniVersion")
            .with(format!("supported versions: {}", supported()))),
        Some(Value::String(text)) => SpecVersion::parse(text).ok_or_else(|| {
            Refusal::new(Code::IncompatibleVersion, format!("cniVersion {:?} is not supported", cut(text)))
                .with(format!("supported versions: {}", supported()))
        }),
        Some(_) => Err(Refusal::new(Code::Decode, "cniVersion is not a string")),
    }
}

impl NetConf {
    /// Checks what every verb needs.
    pub(crate) fn new(fields: Map<String, Value>) -> Result<(Self, Settings), Refusal> {
        let name =
            string(&fields, "name")?.ok_or_else(|| invalid("the network configuration has no name"))?;
        let start = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let rest = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        if !start || !rest || name.len() > 253 {
            return Err(invalid(format!("name {:?} is not valid", cut(name)))
                .with("start with a letter or digit, then letters, digits, '_', '.', '-'"));
        }
        let name = name.to_owned();
        let kind = match string(&fields, "type")? {
            None => return Err(invalid("the network configuration has no type")),
            Some(kind) if kind.is_empty() || kind.contains('/') || matches!(kind, "." | "..") => {
                return Err(invalid(format!("type {:?} is not the name of a plugin", cut(kind))));
            }
            Some(kind) => kind.to_owned(),
        };
        let mut settings = Settings::default();
        if let Some(path) = string(&fields, "socket")? {
            settings.socket = absolute("socket", path)?;
            if path.len() > MAX_SOCKET_PATH {
                return Err(invalid(format!("socket: a path of more than {MAX_SOCKET_PATH} bytes")));
            }
        }
        if let Some(path) = string(&fields, "queueDir")? {
            settings.queue_dir = absolute("queueDir", path)?;
        }
        Ok((Self { fields, name, kind }, settings))
    }

    /// `prevResult`, an object.
    pub(crate) fn prev_result(&self) -> Result<Option<Map<String, Value>>, Refusal> {
        object(&self.fields, "prevResult").map(|found| found.cloned())
    }

    /// `dns`, which goes back with the result as it is.
    pub(crate) fn dns(&self) -> Result<Map<String, Value>, Refusal> {
        Ok(object(&self.fields, "dns")?.cloned().unwrap_or_default())
    }

    /// Refuses capabilities that the runtime asks for although Warren does not declare them: leaving them out silently
    /// would be worse.
    pub(crate) fn refuse_unsupported(&self) -> Result<(), Refusal> {
        let Some(runtime) = object(&self.fields, "runtimeConfig")? else { return Ok(()) };
        for key in ["mac", "bandwidth", "ipRanges", "infinibandGUID"] {
            let wanted = runtime.get(key).filter(|value| !is_empty(value));
            if let Some(value) = wanted {
                let shown = cut(&value.to_string());
                return Err(Refusal::new(
                    Code::UnsupportedField,
                    format!("runtimeConfig.{key} = {shown} is not supported"),
                )
                .with("take the capability out of the network configuration list"));
            }
        }
        Ok(())
    }

    /// `args.cni.labels`: `[{"key": ..., "value": ...}]`.
    pub(crate) fn labels(&self) -> Result<BTreeMap<String, String>, Refusal> {
        let mut labels = BTreeMap::new();
        let Some(list) = self.convention("labels")? else { return Ok(labels) };
        if list.len() > MAX_LABELS {
            return Err(invalid(format!("args.cni.labels: more than {MAX_LABELS} labels")));
        }
        for item in list {
            let part = |name| item.get(name).and_then(Value::as_str);
            let (Some(key), Some(value)) = (part("key"), part("value")) else {
                return Err(invalid("args.cni.labels: each label is {\"key\": ..., \"value\": ...}"));
            };
            if !is_label_key(key) || !is_label_value(value) {
                return Err(invalid(format!(
                    "args.cni.labels: {:?} = {:?} is not a Kubernetes label",
                    cut(key),
                    cut(value)
                )));
            }
            labels.insert(key.to_owned(), value.to_owned());
        }
        Ok(labels)
    }

    /// `args.cni.ports`: `[{"name": ..., "containerPort": ..., "protocol": ...}]`, as a container of a Pod has them. For
    /// runtimes of nodes without kubelet, where no Pod object tells them before the pod is attached.
    pub(crate) fn named_ports(&self) -> Result<Vec<NamedPort>, Refusal> {
        let list = self.convention("ports")?.unwrap_or_default();
        if list.len() > MAX_NAMED_PORTS {
            return Err(invalid(format!("args.cni.ports: more than {MAX_NAMED_PORTS} ports")));
        }
        let mut names = BTreeSet::new();
        list.iter()
            .map(|item| {
                let name = item.get("name").and_then(Value::as_str).filter(|n| NamedPort::is_name(n));
                let port = item.get("containerPort").and_then(Value::as_u64);
                let port = port.and_then(|n| u16::try_from(n).ok()).filter(|n| *n != 0);
                let protocol = match item.get("protocol").filter(|v| !is_empty(v)) {
                    None => Some(Protocol::Tcp),
                    Some(value) => value.as_str().and_then(Protocol::from_name),
                };
                let (Some(name), Some(port), Some(protocol)) = (name, port, protocol) else {
                    let shown = cut(&item.to_string());
                    return Err(invalid(format!(
                        "args.cni.ports: {shown} is not {{\"name\": ..., \"containerPort\": ...}}"
                    )));
                };
                if !names.insert(name) {
                    return Err(invalid(format!("args.cni.ports: two ports are named {name:?}")));
                }
                Ok(NamedPort { name: name.to_owned(), protocol, port })
            })
            .collect()
    }

    /// Requested addresses: `runtimeConfig.ips` (capability `ips`), or else `args.cni.ips`.
    pub(crate) fn addresses(&self) -> Result<Vec<IpAddr>, Refusal> {
        let runtime = match object(&self.fields, "runtimeConfig")? {
            Some(runtime) => array(runtime, "ips")?,
            None => None,
        };
        let list = match runtime {
            Some(list) => list,
            None => self.convention("ips")?.unwrap_or_default(),
        };
        let mut addresses: Vec<IpAddr> = Vec::new();
        for item in list {
            let text = item.as_str().ok_or_else(|| invalid("ips: each address is a string"))?;
            let addr = text.parse::<IpAddr>().or_else(|_| text.parse::<IpNet>().map(|net| net.addr()));
            let addr = addr.map_err(|_| invalid(format!("ips: {:?} is not an address", cut(text))))?;
            if addresses.iter().any(|other| other.is_ipv4() == addr.is_ipv4())
                || addresses.len() == MAX_ADDRESSES
            {
                return Err(invalid("ips: at most one address a family"));
            }
            addresses.push(addr);
        }
        Ok(addresses)
    }

    /// `runtimeConfig.portMappings` (capability `portMappings`). An entry without a host port asks for nothing, as with
    /// the reference plugin.
    pub(crate) fn host_ports(&self) -> Result<Vec<HostPort>, Refusal> {
        let runtime = object(&self.fields, "runtimeConfig")?;
        let list = runtime.map(|r| array(r, "portMappings")).transpose()?.flatten().unwrap_or_default();
        if list.len() > MAX_HOST_PORTS {
            return Err(invalid(format!("portMappings: more than {MAX_HOST_PORTS} ports")));
        }
        let mut ports: BTreeMap<(Protocol, u16, Option<IpAddr>), HostPort> = BTreeMap::new();
        for item in &list {
            let Some(port) = host_port(item)? else { continue };
            let known = ports.entry((port.protocol, port.host_port, port.host_ip)).or_insert(port.clone());
            if *known != port {
                return Err(invalid(format!(
                    "portMappings: {port} leads to both container port {} and {}",
                    known.container_port, port.container_port
                )));
            }
        }
        Ok(ports.into_values().collect())
    }

    /// `cni.dev/valid-attachments`. Runtimes also fill `cni.dev/attachments`, the name that a draft had. Anything but a
    /// sound list is refused: guessing here would take addresses from living pods.
    pub(crate) fn valid_attachments(&self) -> Result<Vec<AttachmentKey>, Refusal> {
        let names = ["cni.dev/valid-attachments", "cni.dev/attachments"];
        let mut found = None;
        for name in names {
            // An empty list in Go may arrive as null.
            let list = match self.fields.get(name) {
                None => continue,
                Some(Value::Null) => Vec::new(),
                Some(Value::Array(list)) => list.clone(),
                Some(_) => return Err(invalid(format!("{name} is not a list"))),
            };
            let all: &mut Vec<AttachmentKey> = found.get_or_insert_default();
            for item in &list {
                let text =
                    |field: &str| item.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
                let bad = |e| invalid(format!("{name}: {e}")).with("nothing was removed");
                all.push(AttachmentKey {
                    container_id: ContainerId::new(text("containerID")).map_err(bad)?,
                    if_name: IfName::new(text("ifname")).map_err(bad)?,
                });
            }
        }
        found.ok_or_else(|| invalid("GC needs cni.dev/valid-attachments").with("nothing was removed"))
    }

    fn convention(&self, name: &str) -> Result<Option<Vec<Value>>, Refusal> {
        let Some(args) = object(&self.fields, "args")? else { return Ok(None) };
        // What else stands in args is others' business, so a foreign shape is no error.
        let Some(Value::Object(cni)) = args.get("cni") else { return Ok(None) };
        array(cni, name)
    }
}

/// One of `portMappings`; none when it names no host port.
fn host_port(item: &Value) -> Result<Option<HostPort>, Refusal> {
    let bad = |field: &str, value: &Value| {
        invalid(format!("portMappings: {field} {} is not valid", cut(&value.to_string())))
    };
    let Value::Object(fields) = item else { return Err(bad("entry", item)) };
    // containerd names the fields as its structure in Go does (`HostPort`), and the reference plugin, being Go too, reads them
    // in either case.
    let either =
        |field: &str| fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(field)).map(|(_, v)| v);
    let set = |field: &str| fields.get(field).or_else(|| either(field)).filter(|v| !is_empty(v));
    let number = |value: &Value| value.as_u64().and_then(|n| u16::try_from(n).ok());
    let Some(value) = set("hostPort").filter(|v| v.as_u64() != Some(0)) else { return Ok(None) };
    let host_port = number(value).ok_or_else(|| bad("hostPort", value))?;
    let value = set("containerPort").unwrap_or(&Value::Null);
    let container_port =
        number(value).filter(|port| *port != 0).ok_or_else(|| bad("containerPort", value))?;
    let protocol = match set("protocol") {
        None => Protocol::Tcp,
        Some(value) => value.as_str().and_then(Protocol::from_name).ok_or_else(|| bad("protocol", value))?,
    };
    let host_ip = match set("hostIP") {
        None => None,
        Some(value) => {
            let ip = value.as_str().and_then(|text| text.parse::<IpAddr>().ok());
            Some(ip.ok_or_else(|| bad("hostIP", value))?.to_canonical()).filter(|ip| !ip.is_unspecified())
        }
    };
    Ok(Some(HostPort { protocol, host_port, container_port, host_ip }))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn string<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, Refusal> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Refusal::new(Code::Decode, format!("{name} is not a string"))),
    }
}

fn object<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<Option<&'a Map<String, Value>>, Refusal> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(map)) => Ok(Some(map)),
        Some(_) => Err(Refusal::new(Code::Decode, format!("{name} is not an object"))),
    }
}

fn array(fields: &Map<String, Value>, name: &str) -> Result<Option<Vec<Value>>, Refusal> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(list)) => Ok(Some(list.clone())),
        Some(_) => Err(Refusal::new(Code::Decode, format!("{name} is not a list"))),
    }
}

fn absolute(name: &str, text: &str) -> Result<PathBuf, Refusal> {
    let path = Path::new(text);
    let climbs = path.components().any(|c| c == Component::ParentDir);
    if !path.is_absolute() || climbs || text.contains('\0') || path.file_name().is_none() {
        return Err(invalid(format!("{name} {:?} is not an absolute path without \"..\"", cut(text))));
    }
    Ok(path.to_owned())
}

/// Name part of a label key, or a value: letters, digits, `-`, `_`, `.`; a letter or digit at both ends.
fn is_label_part(text: &str) -> bool {
    let alphanumeric = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    text.len() <= 63
        && alphanumeric(text.bytes().next())
        && alphanumeric(text.bytes().last())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_label_part(text)
}

fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        None => is_label_part(text),
        // A prefix has the form of a pod's name: a DNS subdomain.
        Some((prefix, name)) => warren_types::PodName::new(prefix).is_ok() && is_label_part(name),
    }
}
