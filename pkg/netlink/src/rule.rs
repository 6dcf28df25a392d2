//! Routing policy rules.

use crate::address::family_of;
use crate::route::{FAMILIES, Rule};
use crate::{Netlink, NetlinkError, distinct};
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::libc;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

impl Netlink {
    /// Rules of both families with this protocol number.
    pub async fn list_rules(&self, protocol: u8) -> Result<Vec<Rule>, NetlinkError> {
        let mut rules = Vec::new();
        for family in FAMILIES {
            let mut message = RuleMessage::default();
            message.header.family = family;
            let all = match self.dump(RouteNetlinkMessage::GetRule(message)).await {
                // A kernel without IPv6, or without rules.
                Err(f) if matches!(f.errno(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) => continue,
                all => all.map_err(|f| f.named("list", "rules"))?,
            };
            rules.extend(all.iter().filter_map(|m| match m {
                RouteNetlinkMessage::NewRule(m) if m.header.family == family => decode(m),
                _ => None,
            }));
        }
        rules.retain(|rule| rule.protocol == protocol);
        Ok(distinct(rules, Rule::clone))
    }

    /// Adds a rule; present is success.
    pub async fn ensure_rule(&self, rule: &Rule) -> Result<(), NetlinkError> {
        const OP: &str = "add rule";
        let message = || RouteNetlinkMessage::NewRule(encode(rule));
        match self.change(message(), NLM_F_CREATE | NLM_F_EXCL).await {
            Ok(_) => return Ok(()),
            Err(f) if f.errno() == Some(libc::EEXIST) => {}
            Err(f) => return Err(f.named(OP, rule)),
        }
        // A rule without a prefix is "present" to the kernel when one with any prefix is.
        if rule.from.prefix_len() > 0 || self.list_rules(rule.protocol).await?.contains(rule) {
            return Ok(());
        }
        self.change(message(), NLM_F_CREATE).await.map(drop).map_err(|f| f.named(OP, rule))
    }

    /// Removes a rule; missing is success.
    ///
    /// # Errors
    /// Also for a rule without a prefix, when others differ from it in the prefix only: the kernel would take any of
    /// them.
    pub async fn remove_rule(&self, rule: &Rule) -> Result<(), NetlinkError> {
        const OP: &str = "remove rule";
        if rule.from.prefix_len() == 0 {
            let all = self.list_rules(rule.protocol).await?;
            if !all.contains(rule) {
                return Ok(());
            }
            let like = |other: &&Rule| {
                *other != rule
                    && other.from.addr().is_ipv4() == rule.from.addr().is_ipv4()
                    && (other.table, other.priority) == (rule.table, rule.priority)
            };
            if let Some(other) = all.iter().find(like) {
                let reason = format!("the kernel cannot tell it from \"{other}\"; remove that one first");
                let source = io::Error::new(io::ErrorKind::InvalidInput, reason);
                return Err(NetlinkError::Kernel { op: OP, object: rule.to_string(), source });
            }
        }
        match self.change(RouteNetlinkMessage::DelRule(encode(rule)), 0).await {
            Ok(_) => Ok(()),
            Err(f) if matches!(f.errno(), Some(libc::ENOENT | libc::EAFNOSUPPORT)) => Ok(()),
            Err(f) => Err(f.named(OP, rule)),
        }
    }
}

fn encode(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family_of(rule.from.addr());
    message.header.src_len = rule.from.prefix_len();
    message.header.table = u8::try_from(rule.table).unwrap_or(0);
    message.header.action = RuleAction::ToTable;
    if rule.from.prefix_len() > 0 {
        message.attributes.push(RuleAttribute::Source(rule.from.network()));
    }
    message.attributes.push(RuleAttribute::Table(rule.table));
    message.attributes.push(RuleAttribute::Priority(rule.priority));
    message.attributes.push(RuleAttribute::Protocol(RouteProtocol::from(rule.protocol)));
    message
}

/// `None` for rules that say something else than "from SRC lookup TABLE".
fn decode(message: &RuleMessage) -> Option<Rule> {
    let unspecified = match message.header.family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    if message.header.action != RuleAction::ToTable {
        return None;
    }
    let (mut from, mut table, mut priority, mut protocol) =
        (unspecified, u32::from(message.header.table), 0, 0);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Source(addr) => from = *addr,
            RuleAttribute::Table(id) => table = *id,
            RuleAttribute::Priority(number) => priority = *number,
            RuleAttribute::Protocol(number) => protocol = u8::from(*number),
            _ => {}
        }
    }
    Some(Rule { from: IpNet::new(from, message.header.src_len).ok()?, table, priority, protocol })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_rule_survives_its_message(v6: bool, bits: u128, len in 0u8..=128, table: u32, priority: u32, protocol: u8) {
            let from = crate::route::tests::prefix(v6, bits, len);
            let rule = Rule { from, table, priority, protocol };
            prop_assert_eq!(decode(&encode(&rule)), Some(rule));
        }
    }
}
