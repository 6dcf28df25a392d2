//! Rules in words.

use std::fmt::Write as _;
use warren_policy::rules::{Action, Direction, PodSelector, RulePeer, Scope, TierRule};
use warren_types::{PolicyPort, PortMatch};

/// A rule; lists are cut after `most` entries.
pub(super) fn rule(direction: Direction, rule: &TierRule, most: usize) -> String {
    let mut out = String::from(match rule.action {
        Action::Accept => "",
        Action::Deny => "deny ",
        Action::Pass => "leave to the next tier ",
    });
    out.push_str(match direction {
        Direction::Ingress => "from ",
        Direction::Egress => "to ",
    });
    match rule.peers.is_empty() {
        true => out.push_str("anyone"),
        false => out.push_str(&list(rule.peers.iter().map(peer), most, " or ")),
    }
    out.push_str(": ");
    match rule.ports.is_empty() {
        true => out.push_str("everything"),
        false => out.push_str(&list(rule.ports.iter().map(port), most, ", ")),
    }
    out
}

/// Which pods: `pods app=web in namespace shop`.
pub(super) fn pods(selector: &PodSelector) -> String {
    let mut out = match selector.pods.is_everything() {
        true => "all pods".to_owned(),
        false => format!("pods {}", selector.pods),
    };
    let _ = match &selector.namespaces {
        Scope::Namespace(name) => write!(out, " in namespace {name}"),
        Scope::Matching(labels) if labels.is_everything() => write!(out, " in all namespaces"),
        Scope::Matching(labels) => write!(out, " in namespaces {labels}"),
    };
    out
}

fn peer(peer: &RulePeer) -> String {
    match peer {
        RulePeer::Pods(selector) => pods(selector),
        RulePeer::Block(block) if block.except.is_empty() => block.cidr.to_string(),
        RulePeer::Block(block) => {
            format!("{} except {}", block.cidr, list(block.except.iter().map(ToString::to_string), 8, ", "))
        }
    }
}

fn port(port: &PolicyPort) -> String {
    let PolicyPort { protocol, ports } = port;
    match ports {
        PortMatch::Any => protocol.to_string(),
        PortMatch::Range(first, last) if first == last => format!("{protocol} {first}"),
        PortMatch::Range(first, last) => format!("{protocol} {first}-{last}"),
        PortMatch::Named(name) => format!("{protocol} {name}"),
    }
}

fn list(all: impl ExactSizeIterator<Item = String>, most: usize, between: &str) -> String {
    let more = all.len().saturating_sub(most);
    let mut out = all.take(most).collect::<Vec<_>>().join(between);
    if more > 0 {
        let _ = write!(out, "{between}{more} more");
    }
    out
}
