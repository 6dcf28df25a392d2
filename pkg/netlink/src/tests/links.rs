//! Links, addresses, neighbours, namespaces, sysctls, changes.

use super::support::{addr, fresh, in_fresh, ip, net, runtime};
use crate::{LinkChange, NetNs, Netlink, NetlinkError, VethSpec, sysctl};
use nix::libc;
use std::path::Path;
use std::time::Duration;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn veth<'a>(name: &'a str, peer_name: &'a str, peer_ns: Option<&'a NetNs>) -> VethSpec<'a> {
    VethSpec {
        name,
        peer_name,
        peer_ns,
        mtu: 1420,
        macs: Some((MAC, PEER_MAC)),
        alias: "warren:pod:default/web",
    }
}

#[test]
fn a_veth_pair_reaches_into_another_namespace() {
    in_fresh(|host| async move {
        let pod_ns = fresh();
        let pair = host.create_veth(&veth("wrnp0a1b2c3d4e5", "eth0", Some(&pod_ns))).await.unwrap();
        let own = host.get_link("wrnp0a1b2c3d4e5").await.unwrap().unwrap();
        assert_eq!(
            (own.kind.as_str(), own.alias.as_str(), own.mtu),
            ("veth", "warren:pod:default/web", 1420)
        );
        assert_eq!((own.mac.as_slice(), own.up), (&MAC[..], false));
        let pod = Netlink::in_namespace(&pod_ns).await.unwrap();
        assert!(pod.namespace().same(&pod_ns) && !pod.namespace().same(host.namespace()));
        let peer = pod.get_link("eth0").await.unwrap().unwrap();
        assert_eq!((peer.mac.as_slice(), peer.mtu), (&PEER_MAC[..], 1420));
        assert_eq!((own.index, own.peer_index), (pair.index, Some(pair.peer_index)));
        assert_eq!(peer.index, pair.peer_index);
        assert_eq!(pod.get_link_by_index(peer.index).await.unwrap(), Some(peer));

        let told = ip("-j -d link show dev wrnp0a1b2c3d4e5");
        for part in [r#""ifalias":"warren:pod:default/web""#, r#""mtu":1420"#, r#""info_kind":"veth""#] {
            assert!(told.contains(part), "{part} is not in {told}");
        }

        let again = host.add_veth(&veth("wrnp0a1b2c3d4e5", "eth1", Some(&pod_ns))).await.unwrap_err();
        assert_eq!(again.errno(), Some(libc::EEXIST), "{again}");
        assert!(again.to_string().contains("wrnp0a1b2c3d4e5"), "{again}");

        assert!(host.remove_link("wrnp0a1b2c3d4e5").await.unwrap());
        assert!(!host.remove_link("wrnp0a1b2c3d4e5").await.unwrap());
        assert_eq!(pod.get_link("eth0").await.unwrap(), None, "the peer goes too");
    });
}

#[test]
fn properties_change_alone_or_together() {
    in_fresh(|nl| async move {
        nl.add_veth(&VethSpec { alias: "", macs: None, ..veth("a0", "b0", None) }).await.unwrap();
        nl.set_up("a0", true).await.unwrap();
        nl.set_mtu("a0", 1300).await.unwrap();
        nl.set_noarp("a0").await.unwrap();
        nl.set_alias("a0", "one").await.unwrap();
        let link = nl.get_link("a0").await.unwrap().unwrap();
        assert_eq!((link.up, link.mtu, link.alias.as_str()), (true, 1300, "one"));
        assert!(ip("link show dev a0").contains("NOARP"));
        let change = LinkChange { up: Some(false), noarp: Some(false), mtu: Some(1400), alias: Some("two") };
        nl.set_link("a0", &change).await.unwrap();
        let link = nl.get_link("a0").await.unwrap().unwrap();
        assert_eq!((link.up, link.mtu, link.alias.as_str()), (false, 1400, "two"));
        assert!(!ip("link show dev a0").contains("NOARP"));
        nl.set_link_at(link.index, &LinkChange { alias: Some(""), ..LinkChange::default() }).await.unwrap();
        assert_eq!(nl.get_link("a0").await.unwrap().unwrap().alias, "");
    });
}

#[test]
fn bridges_take_ports() {
    in_fresh(|nl| async move {
        nl.add_bridge("br0").await.unwrap();
        nl.add_veth(&veth("a0", "b0", None)).await.unwrap();
        nl.set_master("a0", "br0").await.unwrap();
        let bridge = nl.get_link("br0").await.unwrap().unwrap();
        assert_eq!(bridge.kind, "bridge");
        assert_eq!(nl.get_link("a0").await.unwrap().unwrap().master, Some(bridge.index));
        let mut names: Vec<String> = nl.list_links().await.unwrap().into_iter().map(|l| l.name).collect();
        names.sort();
        assert_eq!(names, ["a0", "b0", "br0", "lo"]);
        let error = nl.set_master("a0", "br1").await.unwrap_err();
        assert!(error.is_not_found() && error.to_string().contains("br1"), "{error}");
    });
}

#[test]
fn wireguard_is_made_or_its_absence_is_told() {
    in_fresh(|nl| async move {
        match nl.add_wireguard("wrn-wg", 1420, "warren:tunnel").await {
            Ok(()) => {
                let link = nl.get_link("wrn-wg").await.unwrap().unwrap();
                assert_eq!(
                    (link.kind.as_str(), link.alias.as_str(), link.mtu),
                    ("wireguard", "warren:tunnel", 1420)
                );
                assert!(link.mac.is_empty());
            }
            Err(e) => {
                println!("{e}");
                assert_eq!(e.errno(), Some(libc::EOPNOTSUPP), "{e}");
                assert_eq!(nl.get_link("wrn-wg").await.unwrap(), None);
            }
        }
    });
}

#[test]
fn a_link_moves_to_another_namespace() {
    in_fresh(|nl| async move {
        let other_ns = fresh();
        nl.add_veth(&veth("d0", "d1", None)).await.unwrap();
        nl.move_link("d0", &other_ns).await.unwrap();
        assert_eq!(nl.get_link("d0").await.unwrap(), None);
        let other = Netlink::in_namespace(&other_ns).await.unwrap();
        assert!(other.get_link("d0").await.unwrap().is_some());
    });
}

#[test]
fn errors_name_the_link_and_the_reason() {
    in_fresh(|nl| async move {
        let gone = nl.set_up("eth9", true).await.unwrap_err();
        assert!(matches!(&gone, NetlinkError::NotFound { object, .. } if object == "eth9"), "{gone}");
        assert_eq!(gone.to_string(), "set up link eth9: does not exist");
        for name in ["", "sixteen-letters-", "a/b", "a b", ".."] {
            let error = nl.add_bridge(name).await.unwrap_err();
            assert!(error.to_string().contains("not a link name"), "{error}");
            assert_eq!(nl.get_link(name).await.unwrap(), None);
            assert!(!nl.remove_link(name).await.unwrap());
        }
        nl.add_bridge("d0").await.unwrap();
        let mtu = nl.set_mtu("d0", 10).await.unwrap_err();
        assert_eq!(mtu.errno(), Some(libc::EINVAL));
        assert!(
            mtu.to_string().contains("d0") && mtu.to_string().contains("mtu"),
            "the kernel's words: {mtu}"
        );
    });
}

#[test]
fn addresses_come_and_go_any_number_of_times() {
    in_fresh(|nl| async move {
        nl.add_bridge("d0").await.unwrap();
        nl.set_up("d0", true).await.unwrap();
        let index = nl.link_index("d0").await.unwrap();
        for text in ["10.1.0.1/32", "10.2.0.1/24", "fd00:1::1/128", "fd00:2::1/64"] {
            for _ in 0..2 {
                nl.ensure_address("d0", net(text)).await.unwrap();
            }
            assert!(nl.list_addresses(Some("d0")).await.unwrap().contains(&(index, net(text))));
            assert!(nl.list_addresses(None).await.unwrap().contains(&(index, net(text))));
        }
        let told = ip("-j addr show dev d0");
        assert!(told.contains(r#""local":"10.1.0.1","prefixlen":32"#), "{told}");
        let tentative = ip("-6 addr show dev d0 scope global tentative");
        assert_eq!(tentative, "", "no duplicate address detection");

        let other_length = nl.ensure_address("d0", net("fd00:1::1/64")).await.unwrap_err();
        assert_eq!(other_length.errno(), Some(libc::EEXIST), "{other_length}");

        for text in ["10.1.0.1/32", "fd00:1::1/128"] {
            for _ in 0..2 {
                nl.remove_address("d0", net(text)).await.unwrap();
            }
        }
        nl.remove_address("gone", net("10.1.0.1/32")).await.unwrap();
        let left = nl.list_addresses(Some("d0")).await.unwrap();
        assert!(left.contains(&(index, net("10.2.0.1/24"))), "{left:?}");
        assert!(
            !left.iter().any(|(_, a)| *a == net("10.1.0.1/32") || *a == net("fd00:1::1/128")),
            "{left:?}"
        );
        let error = nl.ensure_address_at(4242, net("10.1.0.1/32")).await.unwrap_err();
        assert_eq!(error.to_string(), "add address 10.1.0.1/32 on link number 4242: does not exist");
        let error = nl.ensure_address("gone", net("10.1.0.1/32")).await.unwrap_err();
        assert!(error.is_not_found() && error.to_string().contains("gone"), "{error}");
    });
}

#[test]
fn neighbours_are_permanent_and_replaced() {
    in_fresh(|nl| async move {
        nl.add_veth(&veth("a0", "b0", None)).await.unwrap();
        nl.set_up("a0", true).await.unwrap();
        for text in ["169.254.1.1", "fe80::1"] {
            nl.ensure_neighbour("a0", addr(text), MAC).await.unwrap();
            nl.ensure_neighbour("a0", addr(text), PEER_MAC).await.unwrap();
            let all = nl.list_neighbours(Some("a0")).await.unwrap();
            let found = all.iter().find(|n| n.addr == addr(text)).unwrap();
            assert_eq!((found.mac.as_slice(), found.permanent), (&PEER_MAC[..], true));
        }
        let told = ip("neigh show dev a0");
        assert!(told.contains("169.254.1.1 lladdr 02:00:00:00:00:02 PERMANENT"), "{told}");
        for _ in 0..2 {
            nl.remove_neighbour("a0", addr("fe80::1")).await.unwrap();
        }
        assert!(!ip("neigh show dev a0").contains("fe80::1 "));
    });
}

#[test]
fn only_network_namespaces_are_opened() {
    let missing = NetNs::open(Path::new("/run/no/such/netns")).unwrap_err();
    assert!(missing.is_not_found() && missing.to_string().contains("/run/no/such/netns"), "{missing}");
    for path in ["/proc/self/ns/mnt", "/proc/self/status", "/dev/null", "/proc"] {
        let error = NetNs::open(Path::new(path)).unwrap_err();
        assert!(
            error.to_string().contains(path) && error.to_string().contains("not a network namespace"),
            "{error}"
        );
    }
    let ns = fresh();
    let inside = ns.run(|| NetNs::current().unwrap()).unwrap();
    assert!(ns.same(&inside) && ns.same(&ns.try_clone().unwrap()) && !ns.same(&NetNs::current().unwrap()));
    let panic = ns.run(|| panic!("on purpose")).unwrap_err();
    assert!(panic.to_string().contains("on purpose"), "{panic}");
}

#[test]
fn sysctls_belong_to_the_namespace() {
    let ns = fresh();
    ns.run(|| {
        let key = "net/ipv4/ip_forward";
        let before = sysctl::get(key).unwrap().unwrap();
        assert_eq!(sysctl::set(key, &before).unwrap(), sysctl::SysctlOutcome::Unchanged);
        let other = if before == "1" { "0" } else { "1" };
        assert_eq!(sysctl::set(key, other).unwrap(), sysctl::SysctlOutcome::Changed(before));
        assert_eq!(sysctl::get("net.ipv4.ip_forward").unwrap().as_deref(), Some(other));
        let wrong = sysctl::set("net/ipv4/conf/all/rp_filter", "many").unwrap_err();
        assert!(wrong.to_string().contains("net/ipv4/conf/all/rp_filter"), "{wrong}");
    })
    .unwrap();
}

#[test]
fn changes_are_told_and_end_with_the_handle() {
    let ns = fresh();
    runtime().block_on(async {
        let nl = Netlink::in_namespace(&ns).await.unwrap();
        let mut changes = nl.changes().await.unwrap();
        let next = async |changes: &mut tokio::sync::watch::Receiver<u64>| {
            tokio::time::timeout(Duration::from_secs(30), changes.changed())
                .await
                .expect("no change was told")
        };
        nl.add_bridge("d0").await.unwrap();
        next(&mut changes).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        changes.mark_unchanged();
        nl.ensure_address("d0", net("10.0.0.1/32")).await.unwrap();
        next(&mut changes).await.unwrap();
        // More than the queue holds: the loss is a change too, and the stream goes on.
        for i in 0..3000u32 {
            nl.set_alias("d0", &format!("{i}-{}", "x".repeat(200))).await.unwrap();
        }
        next(&mut changes).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        changes.mark_unchanged();
        nl.remove_link("d0").await.unwrap();
        next(&mut changes).await.unwrap();
        drop(nl);
        while next(&mut changes).await.is_ok() {}
    });
}

#[test]
fn listings_are_whole_while_links_come_and_go() {
    const STEADY: usize = 120;
    let ns = fresh();
    runtime().block_on(async {
        let nl = Netlink::in_namespace(&ns).await.unwrap();
        for i in 0..STEADY {
            nl.add_bridge(&format!("s{i}")).await.unwrap();
        }
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = stop.clone();
        let other_ns = ns.try_clone().unwrap();
        let churn = std::thread::spawn(move || {
            runtime().block_on(async {
                let nl = Netlink::in_namespace(&other_ns).await.unwrap();
                let mut rounds = 0;
                while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                    nl.add_veth(&veth("x0", "x1", None)).await.unwrap();
                    nl.remove_link("x0").await.unwrap();
                    rounds += 1;
                }
                rounds
            })
        });
        for _ in 0..40 {
            let mut names: Vec<String> = nl.list_links().await.unwrap().into_iter().map(|l| l.name).collect();
            names.retain(|name| name.starts_with('s'));
            names.sort();
            let all = names.len();
            names.dedup();
            assert_eq!((names.len(), all), (STEADY, STEADY));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(churn.join().unwrap() > 0);
    });
}

#[test]
fn a_socket_that_another_opened_works_in_its_namespace() {
    let (inside, elsewhere) = (fresh(), fresh());
    let (before, visitor) = (NetNs::current().unwrap(), std::thread::current().id());
    let socket = inside.route_socket().unwrap();
    assert_eq!(visitor, std::thread::current().id());
    assert!(before.same(&NetNs::current().unwrap()), "the thread came back");
    let again = socket.try_clone().unwrap();
    let refused = Netlink::over_socket(again, elsewhere.try_clone().unwrap()).unwrap_err();
    assert!(refused.to_string().contains("no netlink socket of that network namespace"), "{refused}");
    let (other, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    Netlink::over_socket(other.into(), inside.try_clone().unwrap()).unwrap_err();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let netlink = Netlink::over_socket(socket, inside.try_clone().unwrap()).unwrap();
        netlink.add_bridge("visited").await.unwrap();
        let own = Netlink::in_namespace(&inside).await.unwrap();
        assert!(own.get_link("visited").await.unwrap().is_some());
        // Lists open sockets of their own, there too.
        assert!(netlink.list_links().await.unwrap().iter().any(|l| l.name == "visited"));
    });
}
