//! Defaults and fixed addresses. Every default can be changed by a flag of the same meaning.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Pod network, IPv4.
pub const CLUSTER_CIDR_V4: &str = "10.42.0.0/16";
/// Pod network, IPv6 (a ULA prefix, RFC 4193).
pub const CLUSTER_CIDR_V6: &str = "fd57:4e00:42::/56";
/// Service network, IPv4.
pub const SERVICE_CIDR_V4: &str = "10.43.0.0/16";
/// Service network, IPv6.
pub const SERVICE_CIDR_V6: &str = "fd57:4e00:43::/112";
/// Prefix length of a node's IPv4 podCIDR.
pub const NODE_PREFIX_V4: u8 = 24;
/// Prefix length of a node's IPv6 podCIDR.
pub const NODE_PREFIX_V6: u8 = 64;
/// The domain of the cluster's names.
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// UDP port of the WireGuard tunnel. Not 51820, which the user's own VPN often holds.
pub const TUNNEL_PORT: u16 = 51840;
/// TCP port of the embedded control plane.
pub const API_PORT: u16 = 6443;
/// Days that a certificate of the embedded control plane lasts; it is renewed when a third of them is left.
pub const CERTIFICATE_DAYS: u32 = 3652;
/// TCP port, on loopback, of an agent's /livez, /readyz and /metrics.
pub const HEALTH_PORT: u16 = 9457;
/// The gateway that every pod's default route names, IPv4. No host holds it; the neighbour entry is permanent.
pub const POD_GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The gateway that every pod's default route names, IPv6.
pub const POD_GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// Configuration file; `--config` names another.
pub const CONFIG_FILE: &str = "/etc/warren/config.yaml";
/// State that outlives a reboot; `--data-dir` names another.
pub const DATA_DIR: &str = "/var/lib/warren";
/// Sockets; gone after a reboot; `--run-dir` names another.
pub const RUN_DIR: &str = "/run/warren";
/// The CNI socket, in the run directory.
pub const CNI_SOCKET: &str = "cni.sock";
/// The admin socket, in the run directory.
pub const ADMIN_SOCKET: &str = "admin.sock";
/// Deletions that arrived while no agent ran, in the run directory.
pub const CNI_DEL_QUEUE: &str = "cni-del";
/// Where runtimes look for CNI configuration.
pub const CNI_CONF_DIR: &str = "/etc/cni/net.d";
/// Where runtimes look for CNI plugins.
pub const CNI_BIN_DIR: &str = "/opt/cni/bin";
/// File name of the CNI configuration list.
pub const CNI_CONFLIST: &str = "10-warren.conflist";
/// Name of the plugin binary, and the `type` in the conflist.
pub const CNI_PLUGIN: &str = "warren";
/// Name of the plugin that container runtimes call for the loopback of every pod; ours is a link to [`CNI_PLUGIN`].
pub const CNI_LOOPBACK: &str = "loopback";
