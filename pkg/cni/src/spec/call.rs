//! One call of the plugin: environment and standard input, parsed into a request.

use super::args::{Args, cut};
use super::config::{self, NetConf};
use super::{AddResult, Code, Refusal, Settings, SpecVersion};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use warren_types::{AttachmentKey, ContainerId, HostPort, IfName, NamedPort, PodKey};

/// The raw words of a call, as the runtime gave them and as the plugin sends them on. Unset variables are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Call {
    /// `CNI_COMMAND`
    pub command: String,
    /// `CNI_CONTAINERID`
    pub container_id: String,
    /// `CNI_IFNAME`
    pub if_name: String,
    /// `CNI_NETNS`
    pub netns: String,
    /// `CNI_ARGS`
    pub args: String,
    /// Standard input.
    pub config: String,
}

/// ADD
#[derive(Debug, Clone, PartialEq)]
pub struct AddRequest {
    /// (containerID, ifname)
    pub key: AttachmentKey,
    /// `name` of the network.
    pub network: String,
    /// Path of the pod's namespace.
    pub netns: PathBuf,
    /// The pod, when the runtime names one.
    pub pod: Option<PodKey>,
    /// Its uid.
    pub pod_uid: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Addresses it must get.
    pub requested: Vec<IpAddr>,
    /// Ports of the node that are to lead to it.
    pub host_ports: Vec<HostPort>,
    /// Names of its ports.
    pub named_ports: Vec<NamedPort>,
    /// Result of the plugin before in the chain.
    pub prev_result: Option<Map<String, Value>>,
    /// `dns` of the configuration.
    pub dns: Map<String, Value>,
}

/// CHECK
#[derive(Debug, Clone, PartialEq)]
pub struct CheckRequest {
    /// (containerID, ifname)
    pub key: AttachmentKey,
    /// Path of the pod's namespace.
    pub netns: PathBuf,
    /// Result of the ADD.
    pub prev_result: AddResult,
}

/// GC
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcRequest {
    /// `name` of the network.
    pub network: String,
    /// What the runtime still knows.
    pub valid: BTreeSet<AttachmentKey>,
}

/// A request that is valid by construction.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// ADD
    Add(Box<AddRequest>),
    /// DEL
    Del(AttachmentKey),
    /// CHECK
    Check(Box<CheckRequest>),
    /// GC
    Gc(GcRequest),
    /// STATUS
    Status,
    /// VERSION, with the version that the caller named.
    Version(Option<String>),
}

/// A parsed call.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// Version of the answer.
    pub version: SpecVersion,
    /// Where the agent is.
    pub settings: Settings,
    /// The configuration is that of the plugin `loopback`, not of the network's.
    pub loopback: bool,
    /// What is wanted.
    pub request: Request,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Verb {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "ADD" => Self::Add,
            "DEL" => Self::Del,
            "CHECK" => Self::Check,
            "GC" => Self::Gc,
            "STATUS" => Self::Status,
            "VERSION" => Self::Version,
            _ => return None,
        })
    }

    /// First version of the specification that has it.
    fn since(self) -> SpecVersion {
        match self {
            Self::Add | Self::Del | Self::Version => SpecVersion::V0_3_1,
            Self::Check => SpecVersion::V0_4_0,
            Self::Gc | Self::Status => SpecVersion::V1_1_0,
        }
    }
}

impl Call {
    /// Reads the environment of this process.
    ///
    /// # Errors
    /// When a variable is not UTF-8.
    pub fn from_environment() -> Result<Self, Refusal> {
        let mut bad = Vec::new();
        let mut get = |name: &'static str| match std::env::var(name) {
            Ok(value) => value,
            Err(std::env::VarError::NotPresent) => String::new(),
            Err(std::env::VarError::NotUnicode(_)) => {
                bad.push(name);
                String::new()
            }
        };
        let call = Self {
            command: get("CNI_COMMAND"),
            container_id: get("CNI_CONTAINERID"),
            if_name: get("CNI_IFNAME"),
            netns: get("CNI_NETNS"),
            args: get("CNI_ARGS"),
            config: String::new(),
        };
        if bad.is_empty() {
            return Ok(call);
        }
        Err(Refusal::new(Code::InvalidEnvironment, format!("{} is not UTF-8", bad.join(", "))))
    }

    /// Validates the call.
    ///
    /// # Errors
    /// The version to answer in, and why the call is refused.
    pub fn parse(&self) -> Result<Parsed, (SpecVersion, Refusal)> {
        let fail = |refusal| (SpecVersion::NEWEST, refusal);
        let verb = self.verb().map_err(fail)?;
        if verb == Verb::Version {
            return self.parse_version().map_err(fail);
        }
        self.require(verb).map_err(fail)?;
        let fields = config::decode(self.config.as_bytes()).map_err(fail)?;
        let version = config::version(&fields).map_err(fail)?;
        self.parse_fields(verb, version, fields).map_err(|refusal| (version, refusal))
    }

    fn verb(&self) -> Result<Verb, Refusal> {
        Verb::parse(&self.command).ok_or_else(|| {
            let msg = if self.command.is_empty() {
                "CNI_COMMAND is missing".to_owned()
            } else {
                format!("CNI_COMMAND {:?} is not known", cut(&self.command))
            };
            Refusal::new(Code::InvalidEnvironment, msg).with("use ADD, DEL, CHECK, GC, STATUS or VERSION")
        })
    }

    /// Names everything that is missing, at once.
    fn require(&self, verb: Verb) -> Result<(), Refusal> {
        let mut wanted: Vec<(&str, &str)> = Vec::new();
        if matches!(verb, Verb::Add | Verb::Del | Verb::Check) {
            wanted.push(("CNI_CONTAINERID", &self.container_id));
            wanted.push(("CNI_IFNAME", &self.if_name));
        }
        if matches!(verb, Verb::Add | Verb::Check) {
            wanted.push(("CNI_NETNS", &self.netns));
        }
        let missing: Vec<&str> = wanted.iter().filter(|(_, v)| v.is_empty()).map(|(name, _)| *name).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let msg = format!("{} needs {} in the environment", self.command, missing.join(", "));
        Err(Refusal::new(Code::InvalidEnvironment, msg))
    }

    /// VERSION may come without any input, and with versions that are not spoken here.
    fn parse_version(&self) -> Result<Parsed, Refusal> {
        let mut asked = None;
        if !self.config.trim().is_empty() {
            match config::decode(self.config.as_bytes())?.get("cniVersion") {
                None | Some(Value::Null) => {}
                Some(Value::String(text)) if is_version_text(text) => asked = Some(text.clone()),
                Some(_) => {
                    return Err(Refusal::new(Code::Decode, "cniVersion is not a version such as 1.1.0"));
                }
            }
        }
        Ok(Parsed {
            version: SpecVersion::NEWEST,
            settings: Settings::default(),
            loopback: false,
            request: Request::Version(asked),
        })
    }

    fn parse_fields(
        &self,
        verb: Verb,
        version: SpecVersion,
        fields: Map<String, Value>,
    ) -> Result<Parsed, Refusal> {
        if version < verb.since() {
            let msg = format!("cniVersion {} has no {}", version.as_str(), self.command);
            return Err(Refusal::new(Code::IncompatibleVersion, msg)
                .with(format!("it exists from {} on", verb.since().as_str())));
        }
        let (conf, settings) = NetConf::new(fields)?;
        let loopback = conf.kind == warren_types::defaults::CNI_LOOPBACK;
        let request = match verb {
            Verb::Add => Request::Add(Box::new(self.add(&conf)?)),
            // The journal knows everything else, and a DEL must not fail for what an ADD had said.
            Verb::Del => Request::Del(self.key()?),
            Verb::Check => Request::Check(Box::new(self.check(&conf)?)),
            Verb::Gc => Request::Gc(GcRequest {
                valid: conf.valid_attachments()?.into_iter().collect(),
                network: conf.name,
            }),
            Verb::Status => Request::Status,
            Verb::Version => Request::Version(None),
        };
        Ok(Parsed { version, settings, loopback, request })
    }

    fn add(&self, conf: &NetConf) -> Result<AddRequest, Refusal> {
        let key = self.key()?;
        let netns = self.netns()?;
        let Args { pod, pod_uid } = Args::parse(&self.args)?;
        conf.refuse_unsupported()?;
        Ok(AddRequest {
            key,
            netns,
            pod,
            pod_uid,
            network: conf.name.clone(),
            labels: conf.labels()?,
            requested: conf.addresses()?,
            host_ports: conf.host_ports()?,
            named_ports: conf.named_ports()?,
            prev_result: conf.prev_result()?,
            dns: conf.dns()?,
        })
    }

    fn check(&self, conf: &NetConf) -> Result<CheckRequest, Refusal> {
        let prev = conf.prev_result()?.ok_or_else(|| {
            Refusal::new(Code::InvalidConfig, "CHECK needs prevResult in the configuration")
        })?;
        Ok(CheckRequest { key: self.key()?, netns: self.netns()?, prev_result: AddResult::parse(&prev)? })
    }

    fn key(&self) -> Result<AttachmentKey, Refusal> {
        let container =
            ContainerId::new(self.container_id.as_str()).map_err(|e| format!("CNI_CONTAINERID: {e}"));
        let if_name = IfName::new(self.if_name.as_str()).map_err(|e| format!("CNI_IFNAME: {e}"));
        match (container, if_name) {
            (Ok(container_id), Ok(if_name)) => Ok(AttachmentKey { container_id, if_name }),
            (container, if_name) => {
                let faults: Vec<String> = container.err().into_iter().chain(if_name.err()).collect();
                Err(Refusal::new(Code::InvalidEnvironment, faults.join("; ")))
            }
        }
    }

    fn netns(&self) -> Result<PathBuf, Refusal> {
        if self.netns.starts_with('/') && self.netns.len() < 4096 && !self.netns.contains('\0') {
            return Ok(PathBuf::from(&self.netns));
        }
        let msg = format!("CNI_NETNS {:?} is not an absolute path", cut(&self.netns));
        Err(Refusal::new(Code::InvalidEnvironment, msg))
    }
}

fn is_version_text(text: &str) -> bool {
    (1..=40).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'+'))
}
