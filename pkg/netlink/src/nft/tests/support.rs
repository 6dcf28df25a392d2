//! Namespaces, and what other programs say about them.

use crate::nft::{BaseRules, Nft};
use crate::{NetNs, NetlinkError};
use std::io::Write;
use std::process::{Command, Stdio};

/// A fresh network namespace, alive as long as the value.
pub(super) fn fresh() -> NetNs {
    NetNs::fresh().expect("making a network namespace needs root")
}

/// Runs a test inside a fresh namespace, on a thread and a runtime of its own.
pub(super) fn in_fresh<F: Future<Output = Result<(), NetlinkError>>>(
    test: impl FnOnce(Nft) -> F + Send + 'static,
) {
    fresh().run(move || block_on(async { test(Nft::current().unwrap()).await })).unwrap().unwrap();
}

pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// What a program prints, started in the namespace of the calling thread.
pub(super) fn run(program: &str, args: &str) -> String {
    let out = Command::new(program).args(args.split_whitespace()).output();
    let out = out.unwrap_or_else(|e| panic!("{program} is needed: {e}"));
    assert!(out.status.success(), "{program} {args}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

pub(super) fn nft(args: &str) -> String {
    run("nft", args)
}

/// Gives `nft` a script.
pub(super) fn nft_script(script: &str) {
    let mut child =
        Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft is needed");
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{script}");
}

/// The rules that most tests use.
pub(super) fn rules() -> BaseRules {
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    BaseRules {
        pod_ranges: nets(&["10.42.0.0/16", "10.42.7.0/24", "10.99.0.0/24", "fd57:4e00:42::/56"]),
        local_pod_cidrs: nets(&["10.42.1.0/24", "fd57:4e00:42:1::/64"]),
        service_ranges: nets(&["10.43.0.0/16", "fd57:4e00:43::/112"]),
        tunnel_port: 51840,
    }
}

pub(super) fn source(link: &str, address: &str) -> (String, std::net::IpAddr) {
    (link.to_owned(), address.parse().unwrap())
}
