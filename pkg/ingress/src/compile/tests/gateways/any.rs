//! Whatever the rows say, compiling ends, and says the same again.

use super::*;

fn any_host() -> impl Strategy<Value = String> {
    "(\\*\\.)?([ab]\\.){0,2}(test|example)"
}

fn any_listener() -> impl Strategy<Value = Listener> {
    let protocol = prop_oneof![Just("HTTP"), Just("HTTPS"), Just("TCP")];
    let port = prop_oneof![Just(80u16), Just(443), Just(81)];
    let from = prop_oneof![
        Just(AllowedNamespaces::Same),
        Just(AllowedNamespaces::All),
        Just(AllowedNamespaces::None),
    ];
    ("[abc]", prop::option::of(any_host()), protocol, port, from, any::<bool>()).prop_map(
        |(name, of, protocol, port, from, refused)| Listener {
            name,
            host: of.map(|of| host(&of)),
            protocol: protocol.into(),
            port,
            certificates: if protocol == "HTTPS" { vec![reference("Secret", NS, "tls")] } else { Vec::new() },
            from,
            kinds: Vec::new(),
            refused: refused.then(|| "no".to_owned()),
        },
    )
}

fn any_rule() -> impl Strategy<Value = RouteRule> {
    let matches = ("=?(/[ab]{0,2}){1,3}", prop::option::of("(GET|POST|ba d)"), "[a-z !]{1,3}").prop_map(
        |(path, method, header)| RouteMatch {
            method,
            headers: vec![(header, "1".into())],
            ..super::matching(&path)
        },
    );
    let backend = ("[abcx]", prop_oneof![Just(NS), Just("store")], prop::option::of(79u16..82), 0u32..3)
        .prop_map(|(name, namespace, port, weight)| RouteBackend {
            target: reference("Service", namespace, &name),
            port,
            weight,
        });
    let (matches, backends) = (prop::collection::vec(matches, 0..3), prop::collection::vec(backend, 0..3));
    (matches, backends, any::<bool>(), prop::option::of(0u16..600)).prop_map(
        |(matches, backends, unsupported, redirect)| {
            let mut rule = RouteRule { matches, backends, ..RouteRule::default() };
            rule.unsupported = unsupported.then(|| "no".to_owned());
            rule.filters.request.set = vec![("x y".into(), "\u{1}".into())];
            if let Some(status) = redirect {
                rule.filters.request.set.clear();
                rule.filters.redirect =
                    Some(RouteRedirect { https: None, host: None, path: None, port: Some(0), status });
            }
            rule
        },
    )
}

fn any_route() -> impl Strategy<Value = GatewayRoute> {
    let (hosts, rules) = (prop::collection::vec(any_host(), 0..3), prop::collection::vec(any_rule(), 0..3));
    let sections = prop::collection::vec(prop::option::of("[abc]"), 0..3);
    ("[abc]", hosts, rules, sections, 0i64..3).prop_map(|(name, hosts, rules, sections, created)| {
        let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        let parents = sections.iter().map(|section| parent("gw", section.as_deref())).collect();
        GatewayRoute { parents, rules, created, ..http(&name, &hosts, &[]) }
    })
}

proptest! {
    #[test]
    fn compiling_ends_and_does_not_depend_on_the_order_of_rows(
        listeners in prop::collection::vec(any_listener(), 0..4),
        routes in prop::collection::vec(any_route(), 0..4),
        granted in any::<bool>(),
        host in any_host(),
        path in "(/[ab]{0,2}){1,3}",
    ) {
        let build = |routes: &[GatewayRoute]| {
            let mut world = World::with_gateway(listeners.clone());
            if granted {
                world.grant("HTTPRoute", "Service", "store");
            }
            routes.iter().for_each(|route| world.http(route.clone()));
            world.compile()
        };
        // Of one name there is one row: the last of the first order is the first of the other.
        let mut kept: Vec<GatewayRoute> = Vec::new();
        for route in &routes {
            kept.retain(|known| known.key != route.key);
            kept.push(route.clone());
        }
        let forth = build(&kept);
        kept.reverse();
        let back = build(&kept);
        prop_assert_eq!(&forth.gateways, &back.gateways);
        prop_assert_eq!(to(&forth, &host, &path), to(&back, &host, &path));
        let entries = |compiled: &Compiled| -> Vec<String> {
            compiled.table.entries().map(|(matching, route)| format!("{matching:?} {}", route.name)).collect()
        };
        prop_assert_eq!(entries(&forth), entries(&back));
    }
}
