//! Ports that programs of this host hold, so that no Service may take them.

use crate::addresses::{HeldPorts, is_ours};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use warren_netlink::listeners::{self, Listener, Process};
use warren_netlink::{NetNs, NetlinkError};
use warren_types::{Protocol, Service};

/// Listeners below this port are told whether or not a Service wants it: the node that gives addresses is to know them
/// before such a Service comes, or a Service on port 22 would cut off everyone's shell. From here on are the ports of
/// nodes and of clients, which come and go.
const ALWAYS_BELOW: u16 = 30_000;
/// Ports that are told at most. What Services want comes first.
const MOST: usize = 256;
/// What holds a port that no process has open.
const KERNEL: &str = "the kernel";

/// A port.
pub(crate) type Port = (Protocol, u16);

/// Ports of Services that want nodes' addresses, and those of them that this node is serving already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct WantedPorts {
    pub(crate) wanted: BTreeSet<Port>,
    pub(crate) served: BTreeSet<Port>,
}

impl WantedPorts {
    /// `own` are this node's addresses.
    pub(crate) fn of<'a>(services: impl IntoIterator<Item = &'a Service>, own: &[IpAddr]) -> Self {
        let mut ports = Self::default();
        for service in services.into_iter().filter(|service| is_ours(service)) {
            let all = service.ports.iter().map(|port| (port.protocol, port.port));
            if service.load_balancer_ips.iter().any(|ip| own.contains(ip)) {
                ports.served.extend(all.clone());
            }
            ports.wanted.extend(all);
        }
        ports
    }

    /// Leaves as served only what was served already when listeners were read `last`. A listener that is met together
    /// with a Service's address may have been there before it: the node that gives addresses cannot know a port that was
    /// taken a moment ago, so the Service must not win by being told first.
    pub(crate) fn since(&self, last: Option<&Self>) -> Self {
        let mut ports = self.clone();
        if let Some(last) = last {
            ports.served.retain(|port| last.served.contains(port));
        }
        ports
    }
}

/// Which ports programs hold: those with a listener on one of the node's addresses or on all.
///
/// A port that a Service is being served on is not taken from it by a program that comes to listen there; but one that was
/// held before stays held while the program listens, however fast the Service got its address.
pub(crate) fn held<'a>(
    listeners: &'a [Listener],
    own: &[IpAddr],
    ports: &WantedPorts,
    before: &HeldPorts,
) -> BTreeMap<Port, &'a Listener> {
    let mut held = BTreeMap::new();
    for listener in listeners.iter().filter(|listener| own.iter().any(|ip| listener.takes(*ip))) {
        let Some(protocol) = Protocol::from_number(listener.protocol) else { continue };
        let port = (protocol, listener.address.port());
        let matters = port.1 < ALWAYS_BELOW || ports.wanted.contains(&port);
        if matters && (before.contains_key(&port) || !ports.served.contains(&port)) {
            held.entry(port).or_insert(listener);
        }
    }
    let more = held.len().saturating_sub(MOST);
    let others = held.keys().rev().filter(|port| !ports.wanted.contains(port));
    for port in others.take(more).copied().collect::<Vec<_>>() {
        held.remove(&port);
    }
    held
}

/// The holder's name as one word and its number, without what separates the entries of a list.
fn name(process: &Process) -> String {
    let Process { pid, name } = process;
    let word: String =
        name.chars().map(|c| if c.is_ascii_graphic() && !",=".contains(c) { c } else { '_' }).collect();
    format!("{word} (pid {pid})")
}

/// Asks the kernel who listens, and names the holders. Names of ports whose listener has not changed are kept.
pub(crate) struct Holders {
    namespace: NetNs,
    /// The listener of each port that has a name.
    known: BTreeMap<Port, u64>,
}

impl Holders {
    pub(crate) fn new(namespace: NetNs) -> Self {
        Self { namespace, known: BTreeMap::new() }
    }

    /// What this host holds now; `before` is what it held when asked last, also in an earlier life.
    pub(crate) async fn read(
        &mut self,
        own: &[IpAddr],
        ports: &WantedPorts,
        before: &HeldPorts,
    ) -> Result<HeldPorts, NetlinkError> {
        let all = listeners::in_namespace(&self.namespace).await?;
        let held = held(&all, own, ports, before);
        let inodes: BTreeMap<Port, u64> =
            held.iter().map(|(port, listener)| (*port, listener.inode)).collect();
        let named =
            |port: &Port, inode: &u64| self.known.get(port) == Some(inode) && before.contains_key(port);
        let unnamed: BTreeSet<u64> =
            inodes.iter().filter(|(port, inode)| !named(port, inode)).map(|(_, inode)| *inode).collect();
        let found = match unnamed.is_empty() {
            true => BTreeMap::new(),
            // A search through all processes; the runtime has other things to do.
            false => tokio::task::spawn_blocking(move || listeners::processes_of(&unnamed))
                .await
                .unwrap_or_default(),
        };
        let entry = |(port, inode): (&Port, &u64)| {
            let holder = match before.get(port).filter(|_| named(port, inode)) {
                Some(holder) => holder.clone(),
                None => found.get(inode).map_or_else(|| KERNEL.to_owned(), name),
            };
            (*port, holder)
        };
        let result = inodes.iter().map(entry).collect();
        self.known = inodes;
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: u8 = 6;
    const UDP: u8 = 17;

    fn listener(protocol: u8, address: &str) -> Listener {
        Listener { protocol, address: address.parse().unwrap(), inode: 1 }
    }

    fn ports(held: &BTreeMap<Port, &Listener>) -> Vec<(Protocol, u16)> {
        held.keys().copied().collect()
    }

    #[test]
    fn listeners_that_outsiders_reach_hold_their_ports() {
        let own: [IpAddr; 1] = ["192.0.2.1".parse().unwrap()];
        let all = [
            listener(TCP, "0.0.0.0:22"),
            listener(TCP, "127.0.0.1:631"),
            listener(TCP, "192.0.2.1:80"),
            listener(TCP, "192.0.2.7:81"),
            listener(UDP, "[::]:53"),
            listener(UDP, "0.0.0.0:40000"),
            listener(TCP, "0.0.0.0:40001"),
        ];
        let wanted = WantedPorts { wanted: [(Protocol::Tcp, 40001)].into(), served: BTreeSet::new() };
        let found = held(&all, &own, &wanted, &HeldPorts::new());
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        assert_eq!(ports(&found), [(tcp, 22), (tcp, 80), (tcp, 40001), (udp, 53)]);
    }

    #[test]
    fn a_program_does_not_take_a_port_from_a_service_nor_a_service_from_a_program() {
        let own: [IpAddr; 1] = ["192.0.2.1".parse().unwrap()];
        let all = [listener(TCP, "0.0.0.0:80")];
        let port = (Protocol::Tcp, 80);
        let served = WantedPorts { wanted: [port].into(), served: [port].into() };
        // The Service was first.
        assert!(held(&all, &own, &served, &HeldPorts::new()).is_empty());
        // The program was first.
        let before = HeldPorts::from([(port, "nginx".to_owned())]);
        assert_eq!(ports(&held(&all, &own, &served, &before)), [port]);
        // The program has gone.
        assert!(held(&[], &own, &served, &before).is_empty());
    }

    #[test]
    fn a_service_that_got_its_address_since_the_last_reading_was_not_first() {
        let own: [IpAddr; 1] = ["192.0.2.1".parse().unwrap()];
        let all = [listener(TCP, "0.0.0.0:80")];
        let port = (Protocol::Tcp, 80);
        let wanted = WantedPorts { wanted: [port].into(), served: BTreeSet::new() };
        let served = WantedPorts { served: [port].into(), ..wanted.clone() };
        let seen = |last| ports(&held(&all, &own, &served.since(last), &HeldPorts::new()));
        assert_eq!(seen(Some(&wanted)), [port]);
        assert!(seen(Some(&served)).is_empty());
        // After the agent's start there is no last reading; what an earlier life told is what counts.
        assert!(seen(None).is_empty());
    }

    #[test]
    fn what_services_want_is_told_however_many_ports_are_held() {
        let own: [IpAddr; 1] = ["192.0.2.1".parse().unwrap()];
        let all: Vec<Listener> = (1..=1000).map(|port| listener(TCP, &format!("0.0.0.0:{port}"))).collect();
        let wanted = WantedPorts { wanted: [(Protocol::Tcp, 900)].into(), served: BTreeSet::new() };
        let found = ports(&held(&all, &own, &wanted, &HeldPorts::new()));
        assert_eq!(found.len(), MOST);
        assert_eq!(found[MOST - 2..], [(Protocol::Tcp, 255), (Protocol::Tcp, 900)]);
    }

    #[test]
    fn a_strange_name_does_not_break_the_list() {
        let process = Process { pid: 7, name: "a,b=c d\u{e9}".into() };
        assert_eq!(name(&process), "a_b_c_d_ (pid 7)");
    }

    #[test]
    fn a_holder_is_named_by_its_process() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let port = (Protocol::Tcp, socket.local_addr().unwrap().port());
            let own = ["127.0.0.1".parse().unwrap()];
            let wanted = WantedPorts { wanted: [port].into(), served: BTreeSet::new() };
            let mut holders = Holders::new(NetNs::current().unwrap());
            let first = holders.read(&own, &wanted, &HeldPorts::new()).await.unwrap();
            let pid = std::process::id();
            assert!(first[&port].ends_with(&format!("(pid {pid})")), "{first:?}");
            assert_eq!(holders.read(&own, &wanted, &first).await.unwrap()[&port], first[&port]);
            // A name from an earlier life is not believed unchecked.
            let mut anew = Holders::new(NetNs::current().unwrap());
            let stale = HeldPorts::from([(port, "somebody (pid 1)".to_owned())]);
            assert_eq!(anew.read(&own, &wanted, &stale).await.unwrap()[&port], first[&port]);
            drop(socket);
            assert!(!holders.read(&own, &wanted, &first).await.unwrap().contains_key(&port));
        });
    }
}
