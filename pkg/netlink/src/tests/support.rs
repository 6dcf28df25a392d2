//! Namespaces for tests, and what `ip` says about them.

use crate::{NetNs, Netlink};
use std::process::Command;

/// A fresh network namespace, alive as long as the value.
pub(crate) fn fresh() -> NetNs {
    NetNs::fresh().expect("making a network namespace needs root")
}

/// Runs a test inside a fresh namespace, on a thread and a runtime of its own.
pub(crate) fn in_fresh<F: Future<Output = ()>>(test: impl FnOnce(Netlink) -> F + Send + 'static) {
    fresh().run(move || runtime().block_on(async { test(Netlink::current().unwrap()).await })).unwrap();
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// What `ip ARGS` prints in the namespace of the calling thread.
pub(crate) fn ip(args: &str) -> String {
    let out = Command::new("ip").args(args.split_whitespace()).output().expect("iproute2 is needed");
    assert!(out.status.success(), "ip {args}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

pub(crate) fn net(text: &str) -> ipnet::IpNet {
    text.parse().unwrap()
}

pub(crate) fn addr(text: &str) -> std::net::IpAddr {
    text.parse().unwrap()
}
