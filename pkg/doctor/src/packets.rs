//! What becomes of a packet in the rules of other programs: a reading of nftables that knows what it does not know.
//!
//! A packet that is spelled out is led through the chains of a hook, by priority. Each comparison is true, false, or not
//! known. A rule of which something is not known refuses nothing here; but where a chain's policy drops, it may have
//! accepted, and then the refusal is not certain.

use std::net::IpAddr;
use warren_netlink::nft::expr::{Comparison, Connection, Expr, Header, Meta, Verdict};
use warren_netlink::nft::model::{POLICY_ACCEPT, Value};
use warren_netlink::nft::ruleset::{AnyRule, AnyTable, TableFamily};
use warren_types::marks::NFT_TABLE;

/// `NF_INET_LOCAL_IN`.
pub(crate) const INPUT: u32 = 1;
/// `NF_INET_FORWARD`.
pub(crate) const FORWARD: u32 = 2;
/// `NF_INET_LOCAL_OUT`.
pub(crate) const OUTPUT: u32 = 3;
/// `NF_CT_STATE_BIT(IP_CT_NEW)`.
const STATE_NEW: u32 = 8;
/// Jumps that are followed; the kernel follows 16.
const DEEPEST: usize = 16;
const REGISTER_BYTES: usize = 64;

/// The first packet of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) hook: u32,
    /// The link it came by; empty when it was made here.
    pub(crate) from_link: String,
    /// The link it leaves by; empty when it stays.
    pub(crate) to_link: String,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) port: u16,
    pub(crate) mark: u32,
}

/// Whose rules they are, as their names tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    Docker,
    Firewalld,
    Ufw,
    Other,
}

/// Who refuses a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// `table ip filter, chain FORWARD, policy drop`.
    pub(crate) place: String,
    pub(crate) owner: Owner,
    /// False when a rule that cannot be read may accept it before.
    pub(crate) certain: bool,
}

/// The first who refuses the packet, none when all let it pass.
pub(crate) fn refused(tables: &[AnyTable], packet: &Packet) -> Option<Refusal> {
    let family = if packet.source.is_ipv4() { TableFamily::Ip } else { TableFamily::Ip6 };
    let foreign = tables.iter().filter(|t| {
        !t.dormant
            && (t.family == TableFamily::Inet || t.family == family)
            && !(t.family == TableFamily::Inet && t.name == NFT_TABLE)
    });
    let mut hooked: Vec<(i32, &AnyTable, &str, u32)> = foreign
        .flat_map(|t| t.chains.iter().map(move |(name, chain)| (t, name, chain)))
        .filter_map(|(t, name, chain)| {
            let base = chain.base.as_ref().filter(|b| b.hook == packet.hook && b.kind != "nat")?;
            Some((base.priority, t, name.as_str(), base.policy))
        })
        .collect();
    hooked.sort_by_key(|(priority, ..)| *priority);
    hooked.into_iter().find_map(|(_, table, chain, policy)| {
        let mut walk = Walk { table, packet, maybe_accepted: false };
        let place = match walk.chain(chain, 0) {
            Outcome::Drop(place) => place,
            Outcome::Fell if policy != POLICY_ACCEPT => format!("chain {chain}, policy drop"),
            Outcome::Accept | Outcome::Fell | Outcome::Unclear => return None,
        };
        let certain = !walk.maybe_accepted;
        Some(Refusal { place: format!("table {table}, {place}"), owner: owner(table), certain })
    })
}

/// Whose table it is.
pub(crate) fn owner(table: &AnyTable) -> Owner {
    let has = |word: &str| table.chains.keys().any(|name| name.starts_with(word));
    match () {
        () if table.name == "firewalld" => Owner::Firewalld,
        () if has("ufw-") || has("ufw6-") => Owner::Ufw,
        () if has("DOCKER") || table.name.starts_with("docker") => Owner::Docker,
        () => Owner::Other,
    }
}

enum Outcome {
    Accept,
    Drop(String),
    /// The chain ended, or said return.
    Fell,
    /// A jump that may have been taken decides.
    Unclear,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Truth {
    Yes,
    No,
    Maybe,
}

struct Walk<'a> {
    table: &'a AnyTable,
    packet: &'a Packet,
    maybe_accepted: bool,
}

/// What a rule does with the packet.
enum Act {
    Nothing,
    Take(Verdict),
    Refuse,
}

impl Walk<'_> {
    fn chain(&mut self, name: &str, depth: usize) -> Outcome {
        let Some(chain) = self.table.chains.get(name).filter(|_| depth < DEEPEST) else {
            return Outcome::Unclear;
        };
        for rule in &chain.rules {
            let (truth, act) = self.rule(rule);
            if truth == Truth::No {
                continue;
            }
            let at = || format!("chain {name}, rule handle {}{}", rule.handle, said(rule));
            let outcome = match act {
                Act::Nothing => continue,
                Act::Refuse | Act::Take(Verdict::Drop) => Outcome::Drop(at()),
                Act::Take(Verdict::Accept) => Outcome::Accept,
                Act::Take(Verdict::Return) => Outcome::Fell,
                Act::Take(Verdict::Jump(target)) => match self.chain(&target, depth + 1) {
                    Outcome::Fell => continue,
                    outcome => outcome,
                },
                Act::Take(Verdict::Goto(target)) => self.chain(&target, depth + 1),
            };
            match (truth, outcome) {
                (Truth::Yes, outcome) => return outcome,
                (_, Outcome::Accept | Outcome::Unclear) => self.maybe_accepted = true,
                _ => {}
            }
        }
        Outcome::Fell
    }

    fn rule(&self, rule: &AnyRule) -> (Truth, Act) {
        let mut registers: [Option<u8>; REGISTER_BYTES] = [None; REGISTER_BYTES];
        let mut truth = Truth::Yes;
        for expr in &rule.exprs {
            let step = match expr {
                Expr::Meta { load, into } => {
                    put(&mut registers, into.index(), self.meta(*load));
                    Truth::Yes
                }
                Expr::Payload { header, offset, length, into } => {
                    put(&mut registers, into.index(), self.payload(*header, *offset, *length));
                    Truth::Yes
                }
                Expr::Connection { load, into } => {
                    let value = match load {
                        Connection::State => Some(STATE_NEW.to_ne_bytes().to_vec()),
                        Connection::Mark => Some(vec![0; 4]),
                    };
                    put(&mut registers, into.index(), value);
                    Truth::Yes
                }
                Expr::Constant { into, value } => {
                    put(&mut registers, into.index(), Some(value.clone()));
                    Truth::Yes
                }
                Expr::Mask { from, into, mask, toggle } => {
                    let value = get(&registers, from.index(), mask.len());
                    let masked = value
                        .map(|v| v.iter().zip(mask).zip(toggle).map(|((v, m), t)| (v & m) ^ t).collect());
                    put(&mut registers, into.index(), masked);
                    Truth::Yes
                }
                Expr::Compare { from, is, value } => match get(&registers, from.index(), value.len()) {
                    Some(have) => truth_of(compares(&have, *is, value)),
                    None => Truth::Maybe,
                },
                Expr::Lookup { set, from, inverted } => match self.find(&registers, set, from.index()) {
                    Some(found) => truth_of(found.is_some() != *inverted),
                    None => Truth::Maybe,
                },
                Expr::VerdictMap { map, from } => match self.find(&registers, map, from.index()) {
                    Some(Some(Value::Verdict(verdict))) => return (truth, Act::Take(verdict)),
                    Some(_) => Truth::No,
                    None => Truth::Maybe,
                },
                Expr::Verdict(verdict) => return (truth, Act::Take(verdict.clone())),
                Expr::Reject(_) => return (truth, Act::Refuse),
                Expr::DestinationType { into } => {
                    put(&mut registers, into.index(), None);
                    Truth::Yes
                }
                Expr::Unknown { name, .. } => match (name.as_str(), expr.xtables_name().as_deref()) {
                    ("reject", _) | (_, Some("REJECT")) => return (truth, Act::Refuse),
                    ("counter" | "log" | "quota" | "last", _) | ("match", Some("comment")) => Truth::Yes,
                    // Nearly always "of a known connection", which the first packet is not.
                    ("match", Some("conntrack" | "state")) => Truth::No,
                    ("target", _) => Truth::Yes,
                    _ => {
                        registers = [None; REGISTER_BYTES];
                        Truth::Maybe
                    }
                },
                _ => Truth::Yes,
            };
            match step {
                Truth::Yes => {}
                Truth::No => return (Truth::No, Act::Nothing),
                Truth::Maybe => truth = Truth::Maybe,
            }
        }
        (truth, Act::Nothing)
    }

    fn meta(&self, load: Meta) -> Option<Vec<u8>> {
        let p = self.packet;
        let link = |name: &str| {
            let mut bytes = name.as_bytes().to_vec();
            bytes.resize(16, 0);
            Some(bytes)
        };
        match load {
            Meta::EtherType => Some(if p.source.is_ipv4() { vec![0x08, 0x00] } else { vec![0x86, 0xdd] }),
            Meta::Mark => Some(p.mark.to_ne_bytes().to_vec()),
            Meta::InName => link(&p.from_link),
            Meta::OutName => link(&p.to_link),
            Meta::Family => Some(vec![if p.source.is_ipv4() { 2 } else { 10 }]),
            Meta::Protocol => Some(vec![p.protocol]),
        }
    }

    fn payload(&self, header: Header, offset: u32, length: u32) -> Option<Vec<u8>> {
        let p = self.packet;
        let mut bytes: Vec<Option<u8>> = vec![None; 40];
        let mut write = |at: usize, value: &[u8]| {
            bytes.iter_mut().skip(at).zip(value).for_each(|(to, from)| *to = Some(*from));
        };
        match (header, p.source, p.destination) {
            (Header::Transport, ..) => write(2, &p.port.to_be_bytes()),
            (Header::Network, IpAddr::V4(source), IpAddr::V4(destination)) => {
                write(9, &[p.protocol]);
                write(12, &source.octets());
                write(16, &destination.octets());
            }
            (Header::Network, IpAddr::V6(source), IpAddr::V6(destination)) => {
                write(6, &[p.protocol]);
                write(8, &source.octets());
                write(24, &destination.octets());
            }
            _ => {}
        }
        let (start, length) = (offset as usize, length as usize);
        bytes.get(start..start + length)?.iter().copied().collect()
    }

    /// What a set or map says of the value in a register; `None` when that is not known.
    fn find(&self, registers: &[Option<u8>], set: &str, register: u8) -> Option<Option<Value>> {
        let set = self.table.sets.get(set)?;
        let key = get(registers, register, set.key_length())?;
        let found = set.find(&key)?;
        // A set of which an element has no value: any value tells that it is there.
        Some(found.map(|element| element.value.clone().unwrap_or(Value::Bytes(Vec::new()))))
    }
}

/// What the rule says of itself.
fn said(rule: &AnyRule) -> String {
    rule.comment.as_ref().map(|c| format!(" ({c:?})")).unwrap_or_default()
}

fn truth_of(yes: bool) -> Truth {
    if yes { Truth::Yes } else { Truth::No }
}

fn put(registers: &mut [Option<u8>], word: u8, value: Option<Vec<u8>>) {
    let start = usize::from(word) * 4;
    match value {
        Some(value) => {
            registers.iter_mut().skip(start).zip(value).for_each(|(to, from)| *to = Some(from));
        }
        None => registers.iter_mut().skip(start).take(16).for_each(|byte| *byte = None),
    }
}

fn get(registers: &[Option<u8>], word: u8, length: usize) -> Option<Vec<u8>> {
    let start = usize::from(word) * 4;
    registers.get(start..start + length)?.iter().copied().collect()
}

fn compares(have: &[u8], is: Comparison, value: &[u8]) -> bool {
    match is {
        Comparison::Equal => have == value,
        Comparison::NotEqual => have != value,
        Comparison::AtMost => have <= value,
        Comparison::AtLeast => have >= value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{nft, pod_to_pod};

    fn first(script: &str) -> Option<Refusal> {
        refused(&nft(script), &pod_to_pod())
    }

    #[test]
    fn a_policy_that_drops_is_named() {
        let found =
            first("table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }")
                .unwrap();
        assert_eq!(found.place, "table ip filter, chain FORWARD, policy drop");
        assert!(found.certain && found.owner == Owner::Other);
    }

    #[test]
    fn what_is_accepted_is_not_refused() {
        for accept in [
            "ip saddr 10.42.0.0/16 accept",
            "iifname \"wrnp*\" accept",
            "iifname { \"eth7\", \"wrnp0a1b2c3d4e5\" } accept",
            "tcp dport { 80, 8080-8090 } accept",
            "jump more",
            "iifname vmap { \"wrnp0a1b2c3d4e5\" : jump more }",
            "ct state new accept",
            "meta l4proto tcp goto more",
        ] {
            let script = format!(
                "table inet f {{ chain more {{ ip daddr 10.42.2.0/24 accept; }}
                 chain passing {{ type filter hook forward priority 0; policy drop; {accept}; }}; }}"
            );
            assert_eq!(first(&script), None, "{accept}");
        }
    }

    #[test]
    fn the_rule_that_refuses_is_named_by_its_handle() {
        for refuse in [
            "drop",
            "reject",
            "reject with tcp reset",
            "reject with icmpx admin-prohibited",
            "ct state new drop",
        ] {
            let script = format!(
                "table inet firewalld {{ chain filter_FORWARD {{ type filter hook forward priority 10;
                 ct state established,related accept; iifname \"lo\" accept; udp dport 53 drop; {refuse} comment \"no more\"; }}; }}"
            );
            let found = first(&script).unwrap();
            assert!(
                found.place.starts_with("table inet firewalld, chain filter_FORWARD, rule handle "),
                "{}",
                found.place
            );
            assert!(found.place.ends_with("(\"no more\")"), "{}", found.place);
            assert!(found.certain && found.owner == Owner::Firewalld);
        }
    }

    #[test]
    fn what_cannot_be_read_makes_a_policy_uncertain_and_refuses_nothing() {
        let script = "table ip filter { chain DOCKER-USER { }
            chain FORWARD { type filter hook forward priority 0; policy drop; meta skuid 7 accept; }; }";
        let found = first(script).unwrap();
        assert!(!found.certain && found.owner == Owner::Docker);
        let script = "table ip f { chain c { type filter hook forward priority 0; meta skuid 7 drop; }; }";
        assert_eq!(first(script), None);
    }

    #[test]
    fn other_hooks_families_dormant_tables_and_our_own_say_nothing() {
        for script in [
            "table ip6 f { chain c { type filter hook forward priority 0; policy drop; }; }",
            "table ip f { chain c { type filter hook input priority 0; policy drop; }; }",
            "table ip f { flags dormant; chain c { type filter hook forward priority 0; policy drop; }; }",
            "table inet warren { chain c { type filter hook forward priority 0; policy drop; }; }",
        ] {
            assert_eq!(first(script), None, "{script}");
        }
    }
}
