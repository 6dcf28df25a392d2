//! The plugin `loopback`: containerd and CRI-O call it for every pod before the network's own, and attach nothing
//! without it. Nodes that never had the package of common plugins have none, so Warren's program answers to that name too.
//!
//! It needs no agent: the link `lo` of a namespace goes up with one request.

use crate::spec::{AddResult, CheckRequest, Code, Interface, IpEntry, Parsed, Refusal, Request, SpecVersion};
use crate::wire::Reply;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use warren_netlink::{NetNs, Netlink, NetlinkError};

/// Name of the link in every namespace, whatever the runtime calls it.
const LINK: &str = "lo";

/// One call.
pub(crate) fn carry(parsed: &Parsed) -> Result<Reply, Refusal> {
    match &parsed.request {
        Request::Version(asked) => Ok(Reply::success(Some(&SpecVersion::report(asked.as_deref())))),
        Request::Add(request) => {
            let ns = super::plugin::open_netns(&request.netns)?;
            in_namespace(&ns, async |netlink| netlink.set_up(LINK, true).await)?;
            // A chain's result is its network's: the loopback is nothing that a runtime looks for there.
            let result = if request.prev_result.is_some() {
                AddResult::default()
            } else {
                result(&request.netns.to_string_lossy())
            };
            Ok(Reply::success(Some(&result.render(parsed.version, request.prev_result.as_ref()))))
        }
        Request::Check(request) => check(request).map(|()| Reply::success(None)),
        // The link ends with its namespace, and there is nothing else.
        Request::Del(_) | Request::Gc(_) | Request::Status => Ok(Reply::success(None)),
    }
}

fn check(request: &CheckRequest) -> Result<(), Refusal> {
    let ns = super::plugin::open_netns(&request.netns)?;
    let link = in_namespace(&ns, async |netlink| netlink.get_link(LINK).await)?;
    if link.is_some_and(|link| link.up) {
        return Ok(());
    }
    Err(Refusal::new(Code::Differs, format!("{LINK} in {} is not up", request.netns.display())))
}

fn result(sandbox: &str) -> AddResult {
    let host = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
    let prefix = |address: &IpAddr| if address.is_ipv4() { 8 } else { 128 };
    AddResult {
        interfaces: vec![Interface {
            name: LINK.into(),
            mac: "00:00:00:00:00:00".into(),
            sandbox: sandbox.into(),
            mtu: None,
        }],
        ips: host
            .iter()
            .map(|address| IpEntry {
                address: ipnet::IpNet::new_assert(*address, prefix(address)),
                gateway: None,
                interface: Some(0),
            })
            .collect(),
        ..AddResult::default()
    }
}

/// Speaks to the kernel of a namespace, on this thread.
fn in_namespace<T>(
    ns: &NetNs,
    job: impl AsyncFnOnce(&Netlink) -> Result<T, NetlinkError>,
) -> Result<T, Refusal> {
    let failed = |e: &dyn std::fmt::Display| Refusal::new(Code::Io, format!("loopback: {e}"));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| failed(&e))?;
    runtime
        .block_on(async {
            let socket = ns.route_socket()?;
            job(&Netlink::over_socket(socket, ns.try_clone()?)?).await
        })
        .map_err(|e| failed(&e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Call;
    use serde_json::{Value, json};
    use warren_types::defaults::CNI_LOOPBACK;

    fn call(command: &str, netns: &str, config: &Value) -> Reply {
        crate::plugin::run(&Call {
            command: command.into(),
            container_id: "c1".into(),
            if_name: LINK.into(),
            netns: netns.into(),
            args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web".into(),
            config: config.to_string(),
        })
    }

    /// As containerd's CRI asks, of a namespace as `runc` makes it. Needs root.
    #[test]
    fn add_sets_the_loopback_up_without_an_agent() {
        let ns = NetNs::fresh().unwrap();
        let path =
            format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&ns)));
        let conf = json!({ "cniVersion": "1.0.0", "name": "cni-loopback", "type": CNI_LOOPBACK });
        let prev = json!({ "cniVersion": "1.0.0", "ips": [{ "address": "127.0.0.1/8" }] });
        let mut checked = conf.clone();
        checked["prevResult"] = prev;
        assert_ne!(call("CHECK", &path, &checked).exit, 0, "a fresh namespace's loopback is down");

        let added = call("ADD", &path, &conf);
        assert_eq!(added.exit, 0, "{added:?}");
        let told: Value = serde_json::from_str(&added.stdout).unwrap();
        assert_eq!(
            told["interfaces"],
            json!([{ "name": "lo", "mac": "00:00:00:00:00:00", "sandbox": path }])
        );
        assert_eq!(told["ips"][0]["address"], "127.0.0.1/8");
        assert_eq!(told["ips"][1]["address"], "::1/128");
        assert_eq!(call("CHECK", &path, &checked).exit, 0);
        assert_eq!(call("DEL", &path, &conf).exit, 0);
        assert_eq!(call("DEL", "", &conf).exit, 0, "the namespace may be gone");
    }

    #[test]
    fn a_namespace_that_is_not_there_is_refused() {
        let conf = json!({ "cniVersion": "0.3.1", "name": "cni-loopback", "type": CNI_LOOPBACK });
        let reply = call("ADD", "/nowhere", &conf);
        assert_ne!(reply.exit, 0);
        assert!(reply.stdout.contains("CNI_NETNS"), "{reply:?}");
    }
}
