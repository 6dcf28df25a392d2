//! Routes, rules and lookups.

use super::support::{addr, in_fresh, ip, net};
use crate::{Netlink, Route, RouteTarget, Rule, VethSpec};
use nix::libc;

const OURS: u8 = 87;

fn via_link(dst: &str, link: &str) -> Route {
    Route {
        dst: net(dst),
        target: RouteTarget::Link { link: link.into(), gateway: None, onlink: false },
        src: None,
        scope_link: false,
        metric: 0,
        table: 254,
        protocol: OURS,
        mtu: None,
    }
}

fn guard(dst: &str, target: RouteTarget) -> Route {
    Route { target, metric: 0x7fff_0000, ..via_link(dst, "") }
}

fn gateway(link: &str, via: &str) -> RouteTarget {
    RouteTarget::Link { link: link.into(), gateway: Some(addr(via)), onlink: true }
}

/// What the kernel shows for a wish.
fn shown(route: &Route) -> Route {
    Route { metric: route.kernel_metric(), ..route.clone() }
}

async fn with_links(nl: &Netlink) {
    for (link, v4, v6) in [("d0", "10.0.0.1/24", "fd00::1/64"), ("d1", "10.0.1.1/24", "fd00:0:0:1::1/64")] {
        let peer = &format!("{link}p");
        let spec = VethSpec { name: link, peer_name: peer, peer_ns: None, mtu: 1500, macs: None, alias: "" };
        nl.add_veth(&spec).await.unwrap();
        nl.set_up(peer, true).await.unwrap();
        nl.set_up(link, true).await.unwrap();
        nl.ensure_address(link, net(v4)).await.unwrap();
        nl.ensure_address(link, net(v6)).await.unwrap();
    }
}

fn assortment() -> Vec<Route> {
    vec![
        via_link("10.244.1.0/24", "d0"),
        via_link("fd00:244:1::/64", "d0"),
        Route { src: Some(addr("10.0.0.1")), mtu: Some(1400), ..via_link("10.244.2.0/24", "d0") },
        Route { src: Some(addr("fd00::1")), mtu: Some(1400), ..via_link("fd00:244:2::/64", "d0") },
        Route { scope_link: true, ..via_link("169.254.1.1/32", "d0") },
        Route { target: gateway("d0", "169.254.1.1"), ..via_link("0.0.0.0/0", "d0") },
        Route { target: gateway("d0", "fe80::1"), ..via_link("::/0", "d0") },
        Route { table: 8700, ..via_link("10.9.0.1/32", "d0") },
        Route { table: 8700, ..via_link("fd00:9::1/128", "d0") },
        Route { metric: 50, table: 100, ..via_link("10.9.0.2/32", "d0") },
        guard("10.244.0.0/16", RouteTarget::Unreachable),
        guard("fd00:244::/48", RouteTarget::Unreachable),
        guard("10.245.0.0/16", RouteTarget::Blackhole),
        guard("fd00:245::/48", RouteTarget::Blackhole),
    ]
}

/// A socket at an address that no link has.
fn free_bind(address: std::net::IpAddr) -> std::net::UdpSocket {
    let domain = if address.is_ipv4() { socket2::Domain::IPV4 } else { socket2::Domain::IPV6 };
    let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, None).unwrap();
    if address.is_ipv4() { socket.set_freebind_v4(true) } else { socket.set_freebind_v6(true) }.unwrap();
    socket.bind(&std::net::SocketAddr::new(address, 0).into()).unwrap();
    socket.into()
}

#[test]
fn an_address_of_no_link_is_taken_for_the_hosts_own() {
    in_fresh(|nl| async move {
        nl.set_up("lo", true).await.unwrap();
        let routes = ["10.43.0.10", "fd43::a"].map(|address| Route::local(addr(address), OURS));
        assert_eq!(nl.list_local_routes(OURS).await.unwrap(), []);
        for route in &routes {
            let (server, client) = (free_bind(route.dst.addr()), free_bind(route.dst.addr()));
            let target = server.local_addr().unwrap();
            client.send_to(b"x", target).unwrap_err();
            for _ in 0..2 {
                nl.ensure_route(route).await.unwrap();
            }
            client.send_to(b"x", target).unwrap();
            assert_eq!(server.recv_from(&mut [0; 8]).unwrap().1, client.local_addr().unwrap());
        }
        assert_eq!(nl.list_local_routes(OURS).await.unwrap(), routes.each_ref().map(shown));
        assert_eq!(nl.list_routes(Some(OURS)).await.unwrap(), []);
        for route in &routes {
            for _ in 0..2 {
                nl.remove_route(route).await.unwrap();
            }
        }
        assert_eq!(nl.list_local_routes(OURS).await.unwrap(), []);
    });
}

#[test]
fn every_kind_of_route_comes_back_as_it_was_wished_and_goes() {
    in_fresh(|nl| async move {
        with_links(&nl).await;
        ip("route add 10.77.0.0/16 dev d0 proto static");
        ip("-6 route add fd00:77::/48 dev d0 proto static");
        let foreign = |all: Vec<Route>| all.into_iter().filter(|r| r.protocol != OURS).collect::<Vec<_>>();
        let before = foreign(nl.list_routes(None).await.unwrap());
        assert!(before.iter().any(|r| r.dst == net("10.77.0.0/16")), "{before:?}");
        assert!(before.iter().all(|r| r.table != 255));
        assert_eq!(nl.list_routes(Some(OURS)).await.unwrap(), []);

        for route in assortment() {
            for _ in 0..2 {
                nl.ensure_route(&route).await.unwrap();
            }
        }
        let mut found = nl.list_routes(Some(OURS)).await.unwrap();
        let mut wished: Vec<Route> = assortment().iter().map(shown).collect();
        found.sort();
        wished.sort();
        assert_eq!(found, wished);
        assert_eq!(foreign(nl.list_routes(None).await.unwrap()), before);

        let told = ip("-j route show table all proto 87");
        for part in [
            r#""dst":"10.244.2.0/24","dev":"d0""#,
            r#""mtu":1400"#,
            r#""type":"unreachable","dst":"10.244.0.0/16""#,
        ] {
            assert!(told.contains(part), "{part} is not in {told}");
        }
        assert!(ip("-6 route show table 8700").contains("fd00:9::1 dev d0 proto 87 metric 1024"));

        for route in assortment() {
            for _ in 0..2 {
                nl.remove_route(&route).await.unwrap();
            }
        }
        assert_eq!(nl.list_routes(Some(OURS)).await.unwrap(), []);
        assert_eq!(foreign(nl.list_routes(None).await.unwrap()), before);
    });
}

#[test]
fn a_route_is_replaced_whatever_it_did_before() {
    in_fresh(|nl| async move {
        with_links(&nl).await;
        for (dst, via) in [("10.244.1.0/24", "10.0.1.9"), ("fd00:244:1::/64", "fd00:0:0:1::9")] {
            let plain = via_link(dst, "d0");
            let through = Route { target: gateway("d1", via), ..plain.clone() };
            let targets = [
                plain.clone(),
                through.clone(),
                Route { target: RouteTarget::Unreachable, ..plain.clone() },
                through,
                Route { mtu: Some(1300), ..via_link(dst, "d1") },
                Route { target: RouteTarget::Blackhole, ..plain.clone() },
                plain,
            ];
            for route in targets {
                nl.ensure_route(&route).await.unwrap();
                let all = nl.list_routes(Some(OURS)).await.unwrap();
                let here: Vec<&Route> = all.iter().filter(|r| r.dst == route.dst).collect();
                assert_eq!(here, [&shown(&route)], "{}", ip("route show table all proto 87"));
            }
        }
    });
}

#[test]
fn removal_takes_the_named_route_only() {
    in_fresh(|nl| async move {
        with_links(&nl).await;
        for dst in ["10.244.1.0/24", "fd00:244:1::/64"] {
            let kept = Route { metric: 2000, ..via_link(dst, "d0") };
            nl.ensure_route(&kept).await.unwrap();
            nl.remove_route(&via_link(dst, "d0")).await.unwrap();
            nl.remove_route(&Route { protocol: 4, ..kept.clone() }).await.unwrap();
            nl.remove_route(&Route { target: RouteTarget::Unreachable, ..kept.clone() }).await.unwrap();
            nl.remove_route(&Route { table: 8700, ..kept.clone() }).await.unwrap();
            nl.remove_route(&Route { metric: 2000, ..via_link(dst, "d1") }).await.unwrap();
            nl.remove_route(&via_link(dst, "gone")).await.unwrap();
            assert!(nl.list_routes(Some(OURS)).await.unwrap().contains(&kept), "{dst}");
            nl.remove_route(&kept).await.unwrap();
            assert!(!nl.list_routes(Some(OURS)).await.unwrap().contains(&kept), "{dst}");
        }
    });
}

#[test]
fn errors_of_routes_name_them() {
    in_fresh(|nl| async move {
        with_links(&nl).await;
        let gone = nl.ensure_route(&via_link("10.1.0.0/16", "gone")).await.unwrap_err();
        assert!(gone.is_not_found() && gone.to_string().contains("gone"), "{gone}");
        let via = RouteTarget::Link { link: "d0".into(), gateway: Some(addr("192.0.2.1")), onlink: false };
        let error =
            nl.ensure_route(&Route { target: via, ..via_link("10.1.0.0/16", "d0") }).await.unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENETUNREACH));
        assert!(error.to_string().contains("10.1.0.0/16 via 192.0.2.1 dev d0"), "{error}");
        assert!(error.to_string().contains("Nexthop has invalid gateway"), "the kernel's words: {error}");
    });
}

#[test]
fn rules_come_and_go_and_others_are_not_seen() {
    in_fresh(|nl| async move {
        ip("rule add from 10.9.0.0/16 lookup 100 priority 500");
        let before = (ip("rule show"), ip("-6 rule show"));
        let rules: Vec<Rule> = ["10.244.0.0/24", "fd00:244::/64", "0.0.0.0/0"]
            .map(|from| Rule { from: net(from), table: 8700, priority: 8700, protocol: OURS })
            .into();
        for rule in &rules {
            for _ in 0..2 {
                nl.ensure_rule(rule).await.unwrap();
            }
        }
        let mut found = nl.list_rules(OURS).await.unwrap();
        let mut wished = rules.clone();
        found.sort();
        wished.sort();
        assert_eq!(found, wished);
        assert!(
            ip("rule show").contains("8700:\tfrom 10.244.0.0/24 lookup 8700 proto 87"),
            "{}",
            ip("rule show")
        );
        for rule in &rules {
            for _ in 0..2 {
                nl.remove_rule(rule).await.unwrap();
            }
        }
        assert_eq!(nl.list_rules(OURS).await.unwrap(), []);
        assert_eq!((ip("rule show"), ip("-6 rule show")), before);

        // To the kernel "from all" without a prefix means "whatever from".
        nl.ensure_rule(&rules[0]).await.unwrap();
        nl.remove_rule(&rules[2]).await.unwrap();
        assert_eq!(nl.list_rules(OURS).await.unwrap(), rules[..1]);
        nl.ensure_rule(&rules[2]).await.unwrap();
        let error = nl.remove_rule(&rules[2]).await.unwrap_err();
        assert!(error.to_string().contains("10.244.0.0/24"), "{error}");
        nl.remove_rule(&rules[0]).await.unwrap();
        nl.remove_rule(&rules[2]).await.unwrap();
        assert_eq!((ip("rule show"), ip("-6 rule show")), before);
    });
}

#[test]
fn lookups_find_link_source_gateway_and_mtu() {
    in_fresh(|nl| async move {
        with_links(&nl).await;
        let d0 = nl.link_index("d0").await.unwrap();
        for (inside, outside, via, dst) in [
            ("10.0.0.9", "192.0.2.1", "10.0.0.254", "0.0.0.0/0"),
            ("fd00::9", "2001:db8::1", "fd00::fe", "::/0"),
        ] {
            let near = nl.route_to(addr(inside)).await.unwrap();
            assert_eq!((near.link_index, near.gateway), (d0, None));
            assert_eq!(nl.path_mtu(addr(inside)).await.unwrap(), 1500);
            let error = nl.route_to(addr(outside)).await.unwrap_err();
            assert_eq!(error.errno(), Some(libc::ENETUNREACH), "{error}");
            assert!(error.to_string().contains(outside), "{error}");
            let route = Route { target: gateway("d0", via), mtu: Some(1280), ..via_link(dst, "d0") };
            nl.ensure_route(&route).await.unwrap();
            let far = nl.route_to(addr(outside)).await.unwrap();
            assert_eq!((far.link_index, far.gateway, far.mtu), (d0, Some(addr(via)), Some(1280)));
            assert!(far.src.is_some());
            assert_eq!(nl.path_mtu(addr(outside)).await.unwrap(), 1280);
        }
    });
}

#[test]
fn a_removed_link_takes_its_routes_and_frees_its_name() {
    in_fresh(|nl| async move {
        for _ in 0..20 {
            with_links(&nl).await;
            nl.ensure_route(&via_link("10.244.1.0/24", "d0")).await.unwrap();
            nl.ensure_route(&via_link("fd00:244:1::/64", "d0")).await.unwrap();
            assert_eq!(nl.list_routes(Some(OURS)).await.unwrap().len(), 2);
            assert!(nl.remove_link("d0").await.unwrap());
            assert_eq!(nl.list_routes(Some(OURS)).await.unwrap(), []);
            assert_eq!(nl.get_link("d0p").await.unwrap(), None, "the peer goes too");
            assert!(nl.remove_link("d1").await.unwrap());
        }
    });
}
