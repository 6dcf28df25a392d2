//! What the tests need from the machine, said all at once.

use anyhow::{Result, bail};
use std::path::Path;

/// Programs the tests use, and the Debian package of each. Warren itself needs none of them.
const PROGRAMS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("ping", "iputils-ping"),
    ("busybox", "busybox-static"),
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("ps", "procps"),
    ("kubectl", "kubernetes-client"),
    // An oracle for what cluster DNS says.
    ("dig", "bind9-dnsutils"),
    // Clients of ingress, and what makes their certificates.
    ("curl", "curl"),
    ("h2load", "nghttp2-client"),
    ("openssl", "openssl"),
    // A backend of ingress.
    ("nginx", "nginx-light"),
    // The module is in a package of its own.
    ("python3", "python3-venv"),
];

/// Programs the virtual machine needs, or takes along. Its kernel comes by `apt-get download`.
const MACHINE: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("nft", "nftables"),
    ("ping", "iputils-ping"),
];

/// Programs that install, import and check packages.
const PACKAGES: &[(&str, &str)] = &[
    ("dpkg", "dpkg"),
    ("rpm", "rpm"),
    ("busybox", "busybox-static"),
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("unshare", "util-linux"),
    ("ip", "iproute2"),
    ("awk", "mawk"),
    ("shellcheck", "shellcheck"),
];

/// Programs the benchmark of the overlay uses.
const OVERLAY_PEERS: &[(&str, &str)] = &[
    ("wireguard-go", "wireguard-go"),
    ("wg", "wireguard-tools"),
    ("iperf3", "iperf3"),
    ("ip", "iproute2"),
    ("ping", "iputils-ping"),
];

/// What the benchmark of Services compares with, and makes links by.
const PROXY_PEERS: &[(&str, &str)] = &[("nft", "nftables"), ("ip", "iproute2")];
/// Programs the benchmark of DNS uses.
const DNS_PEERS: &[(&str, &str)] =
    &[("dnsperf", "dnsperf"), ("unbound", "unbound"), ("knotd", "knot"), ("ip", "iproute2")];
/// Programs the benchmark of ingress uses.
const INGRESS_PEERS: &[(&str, &str)] = &[
    ("wrk", "wrk"),
    ("h2load", "nghttp2-client"),
    ("nginx", "nginx-light"),
    ("haproxy", "haproxy"),
    ("ip", "iproute2"),
    ("taskset", "util-linux"),
    ("setpriv", "util-linux"),
];
/// Programs the benchmark of the API server uses.
const API_PEERS: &[(&str, &str)] = &[("etcd", "etcd-server")];

/// Programs the benchmark of CNI uses; its peers are not on the path.
const CNI_PEERS: &[(&str, &str)] = &[
    ("portmap", "containernetworking-plugins"),
    ("host-local", "containernetworking-plugins"),
    // What the port mapper executes.
    ("iptables", "iptables"),
];

/// Where Debian and others put CNI plugins.
const PLUGIN_DIRS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// Fails unless run by root.
pub(crate) fn root() -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let uid = status.lines().find_map(|l| l.strip_prefix("Uid:")).and_then(|l| l.split_whitespace().nth(1));
    if uid != Some("0") {
        bail!(
            "network namespaces need root; run it again with sudo (as: sudo -E env \"PATH=$PATH\" cargo xtask ...)"
        );
    }
    Ok(())
}

/// Fails with one `apt-get` line for everything that is missing for all tests.
pub(crate) fn for_all() -> Result<()> {
    missing(&[PROGRAMS, MACHINE, PACKAGES].concat())
}

/// As [`for_all`], for the tests on the machine itself.
pub(crate) fn for_tests() -> Result<()> {
    missing(PROGRAMS)
}

/// As [`for_all`], for the virtual machine.
pub(crate) fn for_machine() -> Result<()> {
    missing(MACHINE)
}

/// As [`for_all`], for the checks of packages.
pub(crate) fn for_packages() -> Result<()> {
    missing(PACKAGES)
}

/// As [`for_all`], for the benchmark of the overlay.
pub(crate) fn for_overlay_benchmark() -> Result<()> {
    missing(OVERLAY_PEERS)
}

/// As [`for_all`], for the benchmark of Services.
pub(crate) fn for_proxy_benchmark() -> Result<()> {
    missing(PROXY_PEERS)
}

/// As [`for_all`], for the benchmark of DNS.
pub(crate) fn for_dns_benchmark() -> Result<()> {
    missing(DNS_PEERS)
}

/// As [`for_all`], for the benchmark of ingress.
pub(crate) fn for_ingress_benchmark() -> Result<()> {
    missing(INGRESS_PEERS)
}

/// As [`for_all`], for the benchmark of CNI.
pub(crate) fn for_cni_benchmark() -> Result<()> {
    missing(CNI_PEERS)
}

/// As [`for_all`], for the benchmark of the API server.
pub(crate) fn for_api_benchmark() -> Result<()> {
    missing(API_PEERS)
}

fn missing(programs: &[(&str, &str)]) -> Result<()> {
    let mut absent: Vec<&str> =
        programs.iter().filter(|(p, _)| !on_path(p)).map(|(_, package)| *package).collect();
    absent.sort_unstable();
    absent.dedup();
    if !absent.is_empty() {
        bail!(
            "missing on this machine; type: apt-get install -y --no-install-recommends {}",
            absent.join(" ")
        );
    }
    Ok(())
}

fn on_path(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    let dirs = path.split(':').chain(["/usr/sbin", "/sbin"]).chain(PLUGIN_DIRS);
    dirs.into_iter().any(|dir| Path::new(dir).join(program).is_file())
}
