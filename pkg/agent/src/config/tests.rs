use super::*;
use proptest::prelude::*;
use serde_json::json;

/// A token of the right form.
const TOKEN: &str = "K100000000000000000000000000000000000000000000000000000000000000000::node:hunter2";

fn facts() -> Facts {
    Facts { hostname: "Node-A".into(), in_cluster: false, has_identity: |d| d == Path::new("/joined") }
}

fn raw(pairs: &[(&str, &str)]) -> RawConfig {
    let mut r = RawConfig::default();
    for (k, v) in pairs {
        r.say(k, Origin::Flag, vec![(*v).to_owned()]);
    }
    r
}

fn faults(r: RawConfig) -> Vec<String> {
    r.validate(&facts()).unwrap_err().0.into_iter().map(|f| format!("{}: {}", f.key, f.reason)).collect()
}

#[test]
fn defaults_are_filled_in() {
    let c = raw(&[("kubeconfig", "/etc/k")]).validate(&facts()).unwrap();
    assert_eq!(c.node_name.as_str(), "node-a");
    assert!(!c.register_node);
    assert_eq!(c.health_address.to_string(), "127.0.0.1:9457");
    assert_eq!((c.tunnel_port, c.data_dir.to_str()), (51840, Some("/var/lib/warren")));
    let joined = raw(&[("server", "192.0.2.1"), ("token", TOKEN)]).validate(&facts()).unwrap();
    assert!(joined.register_node);
    assert!(matches!(joined.api, ApiChoice::Join { server: Some(s), .. } if s == "https://192.0.2.1:6443"));
}

#[test]
fn every_fault_is_listed_at_once() {
    let all = faults(raw(&[
        ("server", "http://x"),
        ("kubeconfig", "/k"),
        ("node-name", "Bad_Name"),
        ("node-ip", "127.0.0.1,hello"),
        ("cluster-cidr", "10.42.0.1/16"),
        ("service-cidr", "nonsense"),
        ("tunnel-port", "0"),
        ("tunnel-backend", "magic"),
        ("register-node", "perhaps"),
        ("health-address", "0.0.0.0:9457"),
        ("mtu", "12"),
        ("data-dir", "relative"),
    ]));
    for key in [
        "kubeconfig",
        "node-name",
        "node-ip",
        "cluster-cidr",
        "service-cidr",
        "tunnel-port",
        "tunnel-backend",
        "register-node",
        "health-address",
        "mtu",
        "data-dir",
    ] {
        assert!(all.iter().any(|f| f.starts_with(&format!("--{key}: "))), "{key} missing in {all:#?}");
    }
    assert_eq!(all.iter().filter(|f| f.starts_with("--node-ip")).count(), 2);
}

#[test]
fn the_file_is_judged_with_the_flags_and_loses_to_them() {
    let mut r = raw(&[("node-name", "from-flag"), ("kubeconfig", "/k")]);
    r.say_file(
        &json!({"node-name": "from-file", "cluster-cidr": ["10.42.0.0/16", "fd00::/56"], "tunnel-port": 4000,
        "register-node": true, "listen": "server's own"}),
    );
    let c = r.validate(&facts()).unwrap();
    assert_eq!((c.node_name.as_str(), c.tunnel_port, c.register_node), ("from-flag", 4000, true));
    assert_eq!(c.cluster_cidrs.len(), 2);

    let mut r = raw(&[("kubeconfig", "/k")]);
    r.say_file(&json!({"node-nam": "a", "xyzzy-plugh": 1, "mtu": ["1", "2"], "node-ip": {"a": 1}}));
    let all = faults(r);
    assert!(all.contains(&"node-nam: there is no such key; did you mean node-name?".into()), "{all:#?}");
    assert!(all.contains(&"xyzzy-plugh: there is no such key".into()));
    assert!(all.contains(&"mtu: must be one value".into()) && all.iter().any(|f| f.starts_with("node-ip:")));
    let mut r = raw(&[("kubeconfig", "/k")]);
    r.say_file(&json!(["a"]));
    assert_eq!(faults(r).len(), 1);
}

#[test]
fn where_the_api_is_must_be_said_once() {
    assert!(faults(raw(&[])).iter().any(|f| f.starts_with("--server")));
    assert!(
        faults(raw(&[("server", "a"), ("kubeconfig", "/k"), ("token", TOKEN)]))[0]
            .starts_with("--kubeconfig")
    );
    assert!(faults(raw(&[("server", "a")]))[0].starts_with("--token"));
    assert!(
        faults(raw(&[("server", "a"), ("token", TOKEN), ("token-file", "/t")]))[0]
            .starts_with("--token-file")
    );
    let known = raw(&[("data-dir", "/joined")]).validate(&facts()).unwrap();
    assert!(matches!(known.api, ApiChoice::Join { server: None, token: None }));
    assert!(raw(&[("data-dir", "/joined"), ("server", "a")]).validate(&facts()).is_ok());
    let inside = Facts { in_cluster: true, ..facts() };
    assert_eq!(raw(&[]).validate(&inside).unwrap().api, ApiChoice::InCluster);
}

#[test]
fn ranges_may_not_overlap() {
    let all = faults(raw(&[
        ("kubeconfig", "/k"),
        ("cluster-cidr", "10.42.0.0/16"),
        ("service-cidr", "10.42.128.0/20"),
    ]));
    assert_eq!(all, ["--service-cidr: 10.42.128.0/20 overlaps the pod network 10.42.0.0/16"]);
}

#[test]
fn server_urls_are_completed_or_refused() {
    for (given, want) in [
        ("192.0.2.1", "https://192.0.2.1:6443"),
        ("https://host:7000/", "https://host:7000"),
        ("https://[2001:db8::1]", "https://[2001:db8::1]:6443"),
        ("https://[2001:db8::1]:7000", "https://[2001:db8::1]:7000"),
        ("2001:db8::1", "https://[2001:db8::1]:6443"),
    ] {
        assert_eq!(server_url(given).as_deref(), Ok(want));
    }
    for bad in ["http://a", "https://", "https://a/b", "a:0", "a:99999", "https://u@h"] {
        assert!(server_url(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_secret_in_the_configuration_does_not_print() {
    let c = raw(&[("server", "a"), ("token", TOKEN)]).validate(&facts()).unwrap();
    assert!(!format!("{c:?}").contains("hunter2"));
}

#[test]
fn a_token_that_cannot_be_one_is_refused_before_anything_starts() {
    assert!(faults(raw(&[("server", "a"), ("token", "nonsense")]))[0].starts_with("--token"));
}

/// Values that often fit a key, and often do not.
fn any_value() -> impl Strategy<Value = String> {
    let known = vec![
        "192.0.2.1",
        "fd00::1",
        "10.42.0.0/16",
        "10.43.0.0/16",
        "fd00::/48",
        "::/0",
        "true",
        "51840",
        "65536",
        "-1",
        "1400",
        "auto",
        "kernel",
        "/a/b",
        "a/b",
        "/",
        "https://[::1]:6443",
        "https://",
        "[",
        "]",
        "[::1",
        "::1:x",
        ":",
        "127.0.0.1:1",
        "0.0.0.0:1",
        "node-a",
        "",
        " ",
        ",",
    ];
    let known = prop::sample::select(known).prop_map(str::to_owned);
    prop_oneof![4 => known, 1 => "\\PC{0,20}", 1 => "(https://)?[\\[\\]:0-9a-f.]{0,20}"]
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        any_value().prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Into::into),
            prop::collection::btree_map("[a-z-]{0,12}", inner, 0..3).prop_map(|m| m.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn any_configuration_is_valid_or_every_fault_of_it_has_a_reason(
        flags in prop::collection::vec((prop::sample::select(KEYS.to_vec()), prop::collection::vec(any_value(), 0..3)), 0..8),
        keys in prop::collection::vec((prop::option::weighted(0.9, prop::sample::select(KEYS.to_vec())), "\\PC{0,20}", any_json()), 0..8),
        whole in any_json(), hostname in "\\PC{0,20}|[a-z0-9-]{1,20}\\n", token: bool,
    ) {
        let file = keys.into_iter().map(|(known, other, value)| (known.map_or(other, str::to_owned), value)).collect();
        for file in [file, whole] {
            let mut raw = RawConfig::default();
            if token {
                raw.say("token", Origin::Flag, vec![TOKEN.to_owned()]);
            }
            for (key, values) in &flags {
                raw.say(key, Origin::Flag, values.clone());
            }
            raw.say_file(&file);
            match raw.validate(&Facts { hostname: hostname.clone(), ..facts() }) {
                Ok(config) => {
                    prop_assert!(config.data_dir.is_absolute() && config.health_address.ip().is_loopback());
                    prop_assert!(config.cluster_cidrs.iter().all(|c| config.service_cidrs.iter().all(|s| !overlap(*c, *s))));
                    if let ApiChoice::Join { server: Some(server), .. } = &config.api {
                        // What is accepted here is an address to those who connect.
                        prop_assert!(server.parse::<http::Uri>().is_ok(), "{}", server);
                    }
                }
                Err(faults) => {
                    prop_assert!(!faults.0.is_empty());
                    prop_assert!(faults.0.iter().all(|f| !f.reason.is_empty()));
                    prop_assert!(!faults.to_string().contains("hunter2"), "a secret is told");
                }
            }
        }
    }
}
