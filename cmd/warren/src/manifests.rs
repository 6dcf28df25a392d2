//! `warren manifests`: the objects that make Warren the network of a Kubernetes cluster, for `kubectl apply -f -`.

mod check;

use crate::failure::UsageError;
use check::{Api, DnsLabel, Image, Setting};
use clap::Args;
use ipnet::IpNet;
use kube::config::Kubeconfig;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use warren_types::ingress::INGRESS_CONTROLLER;
use warren_types::pod_cidr::check_ranges;
use warren_types::{ClusterConfig, defaults};

/// Where kubeadm leaves the administrator's kubeconfig.
const KUBEADM_KUBECONFIG: &str = "/etc/kubernetes/admin.conf";
/// The API as every k3s node reaches it: servers have it there themselves, agents a balancer.
const K3S_API: &str = "https://127.0.0.1:6444";
/// kubeadm's own default.
const KUBEADM_SERVICES: &str = "10.96.0.0/12";
/// Where the image has the program.
const BINARY: &str = "/usr/bin/warren";

/// The parts, in the order in which they are applied.
const PARTS: [&str; 4] = [
    include_str!("../../../embedded-manifests/rbac.yaml"),
    include_str!("../../../embedded-manifests/config.yaml"),
    include_str!("../../../embedded-manifests/ingress-class.yaml"),
    include_str!("../../../embedded-manifests/daemonset.yaml"),
];
/// More rights, where agents issue certificates.
const CERTIFICATES: &str = include_str!("../../../embedded-manifests/certificates.yaml");

/// Arguments of `warren manifests`.
#[derive(Debug, Args)]
#[command(after_help = "On k3s, start every server with --flannel-backend=none --disable-network-policy \
    --disable-kube-proxy --disable=coredns,servicelb,traefik, and put the output into \
    /var/lib/rancher/k3s/server/manifests/warren.yaml.\nWith kubeadm, run `kubeadm init \
    --skip-phases=addon/kube-proxy,addon/coredns --pod-network-cidr=CIDR`.")]
pub(crate) struct ManifestsArgs {
    /// For k3s: its ranges, and its API on every node.
    #[arg(long, conflicts_with = "kubeadm")]
    k3s: bool,
    /// For kubeadm: its range of Services, and the API of its kubeconfig.
    #[arg(long)]
    kubeadm: bool,
    /// Namespace of the agents.
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-system")]
    namespace: DnsLabel,
    /// Image of the agents.
    #[arg(long, value_name = "IMAGE", default_value = concat!("docker.io/library/warren:", env!("CARGO_PKG_VERSION")))]
    image: Image,
    /// URL by which every node reaches the API; not the Service `kubernetes`, which Warren itself serves [default: with
    /// --k3s that of k3s, else that of KUBECONFIG or of kubeadm's kubeconfig on this machine].
    #[arg(long, value_name = "URL")]
    api_server: Option<Api>,
    /// Pod network, as the cluster was told [default with --k3s: 10.42.0.0/16].
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    cluster_cidr: Vec<IpNet>,
    /// Service network, as the cluster was told [default with --k3s: 10.43.0.0/16; with --kubeadm: 10.96.0.0/12].
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    service_cidr: Vec<IpNet>,
    /// Make Warren serve Ingresses that name no class.
    #[arg(long)]
    default_ingress_class: bool,
    /// Have agents issue certificates to Ingresses that ask for them; lets them make and change Secrets.
    #[arg(long)]
    certificates: bool,
    /// Where container runtimes look for CNI configuration.
    #[arg(long, value_name = "DIR", default_value = defaults::CNI_CONF_DIR, value_parser = check::directory)]
    cni_conf_dir: String,
    /// Where container runtimes look for CNI plugins.
    #[arg(long, value_name = "DIR", default_value = defaults::CNI_BIN_DIR, value_parser = check::directory)]
    cni_bin_dir: String,
    /// A setting of the agents: a flag of `warren agent` without its dashes, and its value.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<Setting>,
}

/// Prints the manifests.
pub(crate) fn run(args: &ManifestsArgs) -> anyhow::Result<ExitCode> {
    crate::output::text(&args.render()?);
    Ok(ExitCode::SUCCESS)
}

impl ManifestsArgs {
    fn render(&self) -> anyhow::Result<String> {
        let api = self.api()?;
        let cluster = serde_json::to_string(&self.ranges()?)?;
        let settings = self.settings();
        let mut mark = DefaultHasher::new();
        (&settings, &cluster).hash(&mut mark);
        let values = [
            ("namespace", self.namespace.to_string()),
            ("image", self.image.to_string()),
            ("binary", BINARY.to_owned()),
            ("cluster", cluster),
            ("settings", settings.trim_end().replace('\n', "\n    ")),
            ("settings-mark", format!("{:016x}", mark.finish())),
            ("default-ingress-class", self.default_ingress_class.to_string()),
            ("ingress-controller", INGRESS_CONTROLLER.to_owned()),
            ("api-host", api.host),
            ("api-port", api.port.to_string()),
            ("health-port", self.health_port().to_string()),
            ("cni-conf-dir", self.cni_conf_dir.clone()),
            ("cni-bin-dir", self.cni_bin_dir.clone()),
        ];
        let parts = PARTS.iter().chain(self.certificates.then_some(&CERTIFICATES));
        Ok(parts.map(|part| fill(part, &values)).collect::<Vec<_>>().join("---\n"))
    }

    fn api(&self) -> anyhow::Result<Api> {
        if let Some(api) = &self.api_server {
            return Ok(api.clone());
        }
        if self.k3s {
            return K3S_API.parse().map_err(|e: String| UsageError(e).into());
        }
        let file = std::env::var_os("KUBECONFIG").filter(|v| !v.is_empty()).map(PathBuf::from);
        let file = file.unwrap_or_else(|| KUBEADM_KUBECONFIG.into());
        let what = match server_of(&file).map(|url| (url.parse::<Api>(), url)) {
            Some((Ok(api), _)) if !api.is_local() => return Ok(api),
            Some((Ok(_), url)) => format!("{} has {url}, which other nodes do not reach", file.display()),
            Some((Err(e), url)) => format!("{} has {url}: {e}", file.display()),
            None => format!("{} does not say", file.display()),
        };
        let hint = "give --api-server https://ADDRESS:6443, an address that every node reaches";
        Err(UsageError(format!("where is the API? {what}; {hint}")).into())
    }

    fn ranges(&self) -> anyhow::Result<ClusterConfig> {
        let or = |given: &[IpNet], default: Option<&str>| match (given, default) {
            ([], Some(text)) => text.parse().map(|net| vec![net]).unwrap_or_default(),
            _ => given.to_vec(),
        };
        let pods = self.k3s.then_some(defaults::CLUSTER_CIDR_V4);
        let services = match (self.k3s, self.kubeadm) {
            (true, _) => Some(defaults::SERVICE_CIDR_V4),
            (_, true) => Some(KUBEADM_SERVICES),
            _ => None,
        };
        let ranges = ClusterConfig {
            cluster_cidrs: or(&self.cluster_cidr, pods),
            service_cidrs: or(&self.service_cidr, services),
        };
        check_ranges(&ranges.cluster_cidrs, &ranges.service_cidrs, &[]).map_err(|e| {
            UsageError(format!(
                "{e}\nthese are the ranges that the cluster was made with; kubeadm shows them by `kubectl -n kube-system get \
                 configmap kubeadm-config -o yaml`"
            ))
        })?;
        Ok(ranges)
    }

    /// The agents' configuration file.
    fn settings(&self) -> String {
        let mut out = String::new();
        if self.certificates {
            out.push_str("ingress-certificates: \"on\"\n");
        }
        for Setting { key, value } in &self.set {
            // A JSON text is a YAML text, whatever is in it.
            let _ = writeln!(out, "{key}: {}", serde_json::Value::from(value.as_str()));
        }
        if out.is_empty() { "{}\n".to_owned() } else { out }
    }

    fn health_port(&self) -> u16 {
        let said = self.set.iter().rev().find(|s| s.key == "health-address");
        let port = said.and_then(|s| s.value.rsplit_once(':')).and_then(|(_, port)| port.parse().ok());
        port.unwrap_or(defaults::HEALTH_PORT)
    }
}

/// The API's URL in the current context of a kubeconfig.
fn server_of(file: &Path) -> Option<String> {
    let config = Kubeconfig::read_from(file).ok()?;
    let current = config.current_context.as_ref()?;
    let context = config.contexts.iter().find(|c| c.name == *current)?.context.as_ref()?;
    let cluster = config.clusters.iter().find(|c| c.name == context.cluster)?.cluster.as_ref()?;
    cluster.server.clone()
}

/// Puts values into the places `{{name}}`. Every value was checked to be what it should be: none can end its place.
fn fill(part: &str, values: &[(&str, String)]) -> String {
    values.iter().fold(part.to_owned(), |text, (name, value)| text.replace(&format!("{{{{{name}}}}}"), value))
}

#[cfg(test)]
mod tests;
