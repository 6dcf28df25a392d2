//! Gathering the facts: netlink, `/proc`, files, the agent's admin socket, the API. Nothing is changed.

mod agent;
mod echo;
mod files;
mod kernel;
mod machine;

pub(crate) use machine::{HostTables, host_tables};

use crate::facts::{Facts, Settings};
use std::net::IpAddr;
use std::path::PathBuf;
use warren_agent::config::AgentConfig;
use warren_agent::status::StatusReport;
use warren_types::defaults;

/// What is asked about.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The agent's configuration, as far as it is valid; defaults for the rest.
    pub config: AgentConfig,
    /// What is wrong with it.
    pub faults: Vec<String>,
    /// Whether anybody configured anything.
    pub configured: bool,
}

impl Asked {
    /// The agent's admin socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.config.run_dir.join(defaults::ADMIN_SOCKET)
    }
}

/// Gathers everything; `progress` hears what is being looked at. Needs root, and a tokio runtime with time and I/O.
pub async fn gather(asked: &Asked, progress: impl Fn(&'static str)) -> Facts {
    let mut facts = Facts { settings: settings(asked), ..Facts::default() };
    progress("the agent");
    agent::gather(asked, &mut facts).await;
    if let Ok(status) = facts.agent.status.clone() {
        complete(&mut facts.settings, &status);
    }
    progress("this machine");
    machine::gather(&mut facts).await;
    files::gather(asked, &mut facts);
    progress("the kernel's features");
    facts.features = kernel::try_all().await;
    progress("the API");
    agent::ask_api(asked, &mut facts).await;
    progress("the tunnels");
    echo::gather(&mut facts).await;
    facts
}

fn settings(asked: &Asked) -> Settings {
    let c = &asked.config;
    let service_cidrs = c.service_cidrs.clone();
    Settings {
        configured: asked.configured,
        faults: asked.faults.clone(),
        node_name: c.node_name.to_string(),
        node_ips: c.node_ips.clone(),
        data_dir: c.data_dir.clone(),
        cni_conf_dir: c.cni_conf_dir.clone(),
        cni_bin_dir: c.cni_bin_dir.clone(),
        tunnel_port: c.tunnel_port,
        health_port: c.health_address.port(),
        dns: c.dns.as_ref().map(|dns| match dns.addresses.is_empty() {
            true => service_cidrs.iter().filter_map(|range| range.hosts().nth(9)).collect(),
            false => dns.addresses.clone(),
        }),
        asks_host_resolvers: c.dns.as_ref().is_some_and(|dns| dns.upstreams.is_empty() && !dns.offline),
        ingress: c.ingress.as_ref().map(|i| [i.http_port, i.https_port]),
        proxy: c.services.proxy,
        announces_on: None,
        cluster_cidrs: c.cluster_cidrs.clone(),
        service_cidrs,
    }
}

/// What the running agent knows better: the cluster's ranges, and where DNS is served.
fn complete(settings: &mut Settings, status: &StatusReport) {
    let nets = |texts: &[String]| texts.iter().filter_map(|t| t.parse().ok()).collect::<Vec<_>>();
    if settings.cluster_cidrs.is_empty() {
        settings.cluster_cidrs = nets(&status.node.cluster_cidrs);
    }
    if settings.service_cidrs.is_empty() {
        settings.service_cidrs = nets(&status.node.service_cidrs);
    }
    if let (Some(own), Some(view)) = (&mut settings.dns, &status.dns) {
        let told: Vec<IpAddr> = view.addresses.iter().filter_map(|a| a.parse().ok()).collect();
        if !told.is_empty() {
            *own = told;
        }
    }
}
