use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};
use warren_types::{HostPort, NamedPort, Protocol};

fn conf(version: &str) -> Value {
    json!({ "cniVersion": version, "name": "warren", "type": "warren" })
}

fn call(command: &str, config: &Value) -> Call {
    Call {
        command: command.into(),
        container_id: "c1".into(),
        if_name: "eth0".into(),
        netns: "/run/netns/c1".into(),
        args: String::new(),
        config: config.to_string(),
    }
}

fn with(mut config: Value, name: &str, value: Value) -> Value {
    config[name] = value;
    config
}

fn refused(call: &Call) -> (u32, String) {
    let (_, refusal) = call.parse().unwrap_err();
    (refusal.code.number(), refusal.to_string())
}

#[test]
fn every_verb_is_understood() {
    let prev = json!({ "cniVersion": "1.1.0", "ips": [{ "address": "10.0.0.2/32" }] });
    for (verb, config) in [
        ("ADD", conf("1.1.0")),
        ("DEL", conf("1.1.0")),
        ("CHECK", with(conf("1.1.0"), "prevResult", prev)),
        ("GC", with(conf("1.1.0"), "cni.dev/valid-attachments", json!([]))),
        ("STATUS", conf("1.1.0")),
        ("VERSION", json!({ "cniVersion": "1.1.0" })),
    ] {
        let parsed = call(verb, &config).parse();
        assert!(parsed.is_ok(), "{verb}: {parsed:?}");
    }
}

#[test]
fn verbs_need_no_more_of_the_environment_than_the_specification_says() {
    let bare = |command: &str, config: &Value| Call {
        command: command.into(),
        config: config.to_string(),
        ..Call::default()
    };
    assert!(bare("STATUS", &conf("1.1.0")).parse().is_ok());
    assert!(bare("GC", &with(conf("1.1.0"), "cni.dev/valid-attachments", json!([]))).parse().is_ok());
    assert!(Call { command: "VERSION".into(), ..Call::default() }.parse().is_ok());
    let del = Call { netns: String::new(), ..call("DEL", &conf("1.0.0")) };
    assert!(del.parse().is_ok());
    // Everything that is missing is told at once.
    let (code, text) = refused(&bare("ADD", &conf("1.1.0")));
    assert_eq!(code, 4);
    for name in ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"] {
        assert!(text.contains(name), "{text}");
    }
    assert_eq!(refused(&bare("", &conf("1.1.0"))).0, 4);
    assert_eq!(refused(&bare("add", &conf("1.1.0"))).0, 4);
}

#[test]
fn bad_calls_have_the_codes_of_the_specification() {
    let raw = |config: &str| Call { config: config.into(), ..call("ADD", &Value::Null) };
    let add = |config: Value| call("ADD", &config);
    let v = || conf("1.1.0");
    let ports = |list: Value| with(v(), "runtimeConfig", json!({ "portMappings": list }));
    let table: Vec<(u32, &str, Call)> = vec![
        (6, "not JSON", raw("")),
        (6, "not JSON", raw("{")),
        (6, "not JSON", raw("\u{0}")),
        (6, "object", raw("[]")),
        (6, "object", raw("null")),
        (6, "not JSON", raw(&"[".repeat(100_000))),
        (7, "larger than", raw(&" ".repeat(MAX_CONFIG + 1))),
        (1, "no cniVersion", raw("{}")),
        (6, "cniVersion", add(with(v(), "cniVersion", json!(1)))),
        (1, "0.2.0", add(conf("0.2.0"))),
        (1, "1.2.0", add(conf("1.2.0"))),
        (1, "supported versions: 0.3.1", add(conf(""))),
        (1, "has no CHECK", call("CHECK", &conf("0.3.1"))),
        (1, "has no GC", call("GC", &conf("1.0.0"))),
        (1, "has no STATUS", call("STATUS", &conf("1.0.0"))),
        (7, "no name", raw(r#"{"cniVersion":"1.1.0","type":"warren"}"#)),
        (7, "name", add(with(v(), "name", json!("a/b")))),
        (7, "name", add(with(v(), "name", json!("")))),
        (6, "name", add(with(v(), "name", json!(7)))),
        (7, "no type", raw(r#"{"cniVersion":"1.1.0","name":"warren"}"#)),
        (7, "type", add(with(v(), "type", json!("../../bin/sh")))),
        (7, "type", add(with(v(), "type", json!("..")))),
        (7, "socket", add(with(v(), "socket", json!("run/x.sock")))),
        (7, "socket", add(with(v(), "socket", json!("/run/../etc/x.sock")))),
        (7, "socket", add(with(v(), "socket", json!(format!("/{}", "x".repeat(200)))))),
        (7, "queueDir", add(with(v(), "queueDir", json!("/")))),
        (4, "CNI_CONTAINERID", Call { container_id: "../../etc".into(), ..add(v()) }),
        (4, "CNI_CONTAINERID", Call { container_id: ".".into(), ..add(v()) }),
        (4, "CNI_IFNAME", Call { if_name: "eth/0".into(), ..add(v()) }),
        (4, "CNI_IFNAME", Call { if_name: "..".into(), ..add(v()) }),
        (4, "CNI_IFNAME", Call { if_name: "a-very-long-name".into(), ..add(v()) }),
        (
            4,
            "CNI_CONTAINERID",
            Call { container_id: "a b".into(), if_name: "a b".into(), ..call("DEL", &v()) },
        ),
        (4, "CNI_NETNS", Call { netns: "netns/x".into(), ..add(v()) }),
        (4, "CNI_NETNS", Call { netns: "/run/\0".into(), ..add(v()) }),
        (4, "CNI_ARGS", Call { args: "nonsense".into(), ..add(v()) }),
        (4, "FOO", Call { args: "FOO=1".into(), ..add(v()) }),
        (4, "IgnoreUnknown", Call { args: "IgnoreUnknown=maybe".into(), ..add(v()) }),
        (4, "go together", Call { args: "K8S_POD_NAME=a".into(), ..add(v()) }),
        (4, "K8S_POD_NAME", Call { args: "K8S_POD_NAME=../x;K8S_POD_NAMESPACE=a".into(), ..add(v()) }),
        (4, "K8S_POD_NAMESPACE", Call { args: "K8S_POD_NAME=x;K8S_POD_NAMESPACE=a.b".into(), ..add(v()) }),
        (4, "K8S_POD_UID", Call { args: "K8S_POD_UID=\u{7}".into(), ..add(v()) }),
        (7, "containerPort null", add(ports(json!([{ "hostPort": 80 }])))),
        (7, "containerPort 0", add(ports(json!([{ "hostPort": 80, "containerPort": 0 }])))),
        (7, "containerPort 65536", add(ports(json!([{ "hostPort": 80, "containerPort": 65536 }])))),
        (7, "hostPort -1", add(ports(json!([{ "hostPort": -1, "containerPort": 80 }])))),
        (7, "hostPort 70000", add(ports(json!([{ "hostPort": 70000, "containerPort": 80 }])))),
        (7, "hostPort \"80\"", add(ports(json!([{ "hostPort": "80", "containerPort": 80 }])))),
        (
            7,
            "protocol \"icmp\"",
            add(ports(json!([{ "hostPort": 80, "containerPort": 80, "protocol": "icmp" }]))),
        ),
        (
            7,
            "hostIP \"here\"",
            add(ports(json!([{ "hostPort": 80, "containerPort": 80, "hostIP": "here" }]))),
        ),
        (
            7,
            "both container port 1 and 2",
            add(ports(
                json!([{ "hostPort": 80, "containerPort": 1 }, { "hostPort": 80, "containerPort": 2 }]),
            )),
        ),
        (7, "more than 4096", add(ports(json!(vec![json!({}); 4097])))),
        (7, "entry 7", add(ports(json!([7])))),
        (6, "portMappings is not a list", add(ports(json!({ "a": 1 })))),
        (2, "mac", add(with(v(), "runtimeConfig", json!({ "mac": "02:00:00:00:00:01" })))),
        (6, "runtimeConfig", add(with(v(), "runtimeConfig", json!([])))),
        (7, "ips", add(with(v(), "runtimeConfig", json!({ "ips": ["10.0.0.300"] })))),
        (
            7,
            "one address a family",
            add(with(v(), "runtimeConfig", json!({ "ips": ["10.0.0.3", "10.0.0.4"] }))),
        ),
        (6, "ips", add(with(v(), "args", json!({ "cni": { "ips": "10.0.0.3" } })))),
        (7, "label", add(with(v(), "args", json!({ "cni": { "labels": [{ "key": "a" }] } })))),
        (7, "label", add(with(v(), "args", json!({ "cni": { "labels": [{ "key": "-", "value": "" }] } })))),
        (
            7,
            "label",
            add(with(v(), "args", json!({ "cni": { "labels": [{ "key": "a/b/c", "value": "" }] } }))),
        ),
        (6, "ports", add(with(v(), "args", json!({ "cni": { "ports": {} } })))),
        (7, "args.cni.ports", add(with(v(), "args", json!({ "cni": { "ports": [7] } })))),
        (7, "more than 256", add(with(v(), "args", json!({ "cni": { "ports": vec![7; 257] } })))),
        (
            7,
            "args.cni.ports",
            add(with(v(), "args", json!({ "cni": { "ports": [{ "name": "80", "containerPort": 80 }] } }))),
        ),
        (
            7,
            "args.cni.ports",
            add(with(v(), "args", json!({ "cni": { "ports": [{ "name": "http", "containerPort": 0 }] } }))),
        ),
        (
            7,
            "two ports are named",
            add(with(
                v(),
                "args",
                json!({ "cni": { "ports": vec![json!({ "name": "http", "containerPort": 1 }); 2] } }),
            )),
        ),
        (6, "prevResult", add(with(v(), "prevResult", json!("x")))),
        (7, "prevResult", call("CHECK", &v())),
        (6, "prevResult", call("CHECK", &with(v(), "prevResult", json!({ "ips": [{ "address": "x" }] })))),
        (7, "GC needs", call("GC", &v())),
        (7, "not a list", call("GC", &with(v(), "cni.dev/valid-attachments", json!({})))),
        (7, "nothing was removed", call("GC", &with(v(), "cni.dev/valid-attachments", json!([{}])))),
        (
            7,
            "container id",
            call(
                "GC",
                &with(v(), "cni.dev/valid-attachments", json!([{ "containerID": "../x", "ifname": "eth0" }])),
            ),
        ),
        (6, "cniVersion", call("VERSION", &json!({ "cniVersion": { "a": 1 } }))),
        (6, "not JSON", Call { command: "VERSION".into(), config: "x".into(), ..Call::default() }),
    ];
    for (code, part, call) in table {
        let (found, text) = refused(&call);
        let shown = Call { config: call.config.chars().take(120).collect(), ..call };
        assert_eq!(found, code, "{shown:?}: {text}");
        assert!(text.contains(part), "{shown:?}: {text}");
        assert!(text.len() < 600, "a message of {} bytes", text.len());
    }
}

#[test]
fn what_is_not_understood_is_left_alone() {
    let config = json!({
        "cniVersion": "1.0.0", "name": "warren", "type": "warren", "ipam": {}, "ipMasq": true, "future": [1, 2],
        "args": { "cni": { "labels": null, "other": 1 }, "more": "x" },
        "runtimeConfig": { "portMappings": [], "io.kubernetes.cri.pod-annotations": { "a": "b" } },
    });
    let args =
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=c1;X=y;";
    let parsed = Call { args: args.into(), ..call("ADD", &config) }.parse().unwrap();
    let Request::Add(add) = parsed.request else { panic!("{parsed:?}") };
    assert_eq!(add.pod.unwrap().to_string(), "default/web-0");
    assert_eq!((add.pod_uid, parsed.settings), (None, Settings::default()));
}

#[test]
fn a_pod_is_told_with_labels_and_addresses() {
    let config = json!({
        "cniVersion": "1.1.0", "name": "warren", "type": "warren", "socket": "/tmp/w.sock", "queueDir": "/tmp/q",
        "args": { "cni": {
            "labels": [{ "key": "app", "value": "web" }, { "key": "example.org/tier", "value": "" }],
            "ips": ["10.42.0.9", "fd00::9/128"],
            "ports": [{ "name": "http", "containerPort": 8080 },
                      { "name": "dns", "containerPort": 53, "protocol": "UDP" }],
        } },
    });
    let args = "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b.c;K8S_POD_UID=5a3c";
    let parsed = Call { args: args.into(), ..call("ADD", &config) }.parse().unwrap();
    assert_eq!(parsed.settings.socket.to_str(), Some("/tmp/w.sock"));
    let Request::Add(add) = parsed.request else { panic!() };
    assert_eq!(add.labels.get("app").map(String::as_str), Some("web"));
    assert_eq!(add.labels.len(), 2);
    let port = |name: &str, protocol, port| NamedPort { name: name.into(), protocol, port };
    assert_eq!(add.named_ports, [port("http", Protocol::Tcp, 8080), port("dns", Protocol::Udp, 53)]);
    assert_eq!(add.requested, ["10.42.0.9", "fd00::9"].map(|a| a.parse::<std::net::IpAddr>().unwrap()));
    assert_eq!(add.pod_uid.as_deref(), Some("5a3c"));
}

#[test]
fn host_ports_are_told_as_the_reference_plugin_reads_them() {
    let list = json!([
        { "hostPort": 8080, "containerPort": 80, "protocol": "tcp" },
        { "hostPort": 8080, "containerPort": 80, "protocol": "TCP", "hostIP": "0.0.0.0" },
        { "hostPort": 53, "containerPort": 5353, "protocol": "UDP", "hostIP": "192.0.2.1" },
        { "hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "::ffff:192.0.2.2" },
        { "hostPort": 9, "containerPort": 9, "protocol": "sctp", "hostIP": "::" },
        { "hostPort": 7, "containerPort": 7, "hostIP": "" },
        { "hostPort": 0, "containerPort": 90, "protocol": "tcp" },
        { "containerPort": 91 },
        { "HostPort": 8443, "ContainerPort": 443, "Protocol": "tcp", "HostIP": "127.0.0.1" },
    ]);
    let config = with(conf("1.1.0"), "runtimeConfig", json!({ "portMappings": list }));
    let Request::Add(add) = call("ADD", &config).parse().unwrap().request else { panic!() };
    let port = |protocol, host_port, container_port, host_ip: Option<&str>| HostPort {
        protocol,
        host_port,
        container_port,
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
    };
    let want = [
        port(Protocol::Tcp, 7, 7, None),
        port(Protocol::Tcp, 8080, 80, None),
        port(Protocol::Tcp, 8443, 443, Some("127.0.0.1")),
        port(Protocol::Udp, 53, 5353, Some("192.0.2.1")),
        port(Protocol::Udp, 53, 5353, Some("192.0.2.2")),
        port(Protocol::Sctp, 9, 9, None),
    ];
    assert_eq!(add.host_ports, want);
}

#[test]
fn del_asks_for_nothing_but_the_key() {
    let config = with(with(conf("0.4.0"), "prevResult", json!(7)), "runtimeConfig", json!(7));
    let call = Call { args: "garbage".into(), netns: "garbage".into(), ..call("DEL", &config) };
    assert!(matches!(call.parse().unwrap().request, Request::Del(_)));
}

#[test]
fn gc_takes_both_names_of_the_list() {
    let one = |id: &str| json!([{ "containerID": id, "ifname": "eth0" }]);
    let config = with(conf("1.1.0"), "cni.dev/valid-attachments", one("a"));
    let config = with(config, "cni.dev/attachments", one("b"));
    let Request::Gc(gc) = call("GC", &config).parse().unwrap().request else { panic!() };
    assert_eq!(gc.valid.len(), 2);
}

#[test]
fn version_answers_in_the_version_asked() {
    let parsed = call("VERSION", &json!({ "cniVersion": "0.2.0" })).parse().unwrap();
    assert_eq!(parsed.request, Request::Version(Some("0.2.0".into())));
    let report = SpecVersion::report(Some("0.2.0"));
    assert_eq!(report["cniVersion"], "0.2.0");
    assert_eq!(report["supportedVersions"], json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
}

fn result() -> AddResult {
    AddResult {
        interfaces: vec![
            Interface {
                name: "wrnp0".into(),
                mac: "02:00:00:00:00:01".into(),
                sandbox: String::new(),
                mtu: Some(1420),
            },
            Interface {
                name: "eth0".into(),
                mac: "02:00:00:00:00:02".into(),
                sandbox: "/run/netns/a".into(),
                mtu: Some(1420),
            },
        ],
        ips: vec![IpEntry {
            address: "10.0.0.2/32".parse().unwrap(),
            gateway: Some("169.254.1.1".parse().unwrap()),
            interface: Some(1),
        }],
        routes: vec![RouteEntry {
            dst: "0.0.0.0/0".parse().unwrap(),
            gw: Some("169.254.1.1".parse().unwrap()),
        }],
        dns: serde_json::Map::new(),
    }
}

#[test]
fn results_have_the_format_of_their_version() {
    let old = result().render(SpecVersion::V0_4_0, None);
    assert_eq!(
        old,
        json!({
            "cniVersion": "0.4.0",
            "interfaces": [
                { "name": "wrnp0", "mac": "02:00:00:00:00:01" },
                { "name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/run/netns/a" },
            ],
            "ips": [{ "version": "4", "interface": 1, "address": "10.0.0.2/32", "gateway": "169.254.1.1" }],
            "routes": [{ "dst": "0.0.0.0/0", "gw": "169.254.1.1" }],
            "dns": {},
        })
    );
    let new = result().render(SpecVersion::V1_1_0, None);
    assert_eq!(new["ips"][0].get("version"), None);
    assert_eq!(new["interfaces"][1]["mtu"], 1420);
    assert_eq!(result().render(SpecVersion::V1_0_0, None)["interfaces"][1].get("mtu"), None);
    for version in SpecVersion::ALL {
        let rendered = result().render(version, None);
        let Value::Object(fields) = rendered else { panic!() };
        let parsed = AddResult::parse(&fields).unwrap();
        assert_eq!((parsed.ips, parsed.routes), (result().ips, result().routes));
    }
}

#[test]
fn the_result_of_the_plugin_before_is_kept() {
    let prev = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{ "name": "x0", "socketPath": "/run/x" }],
        "ips": [{ "address": "192.0.2.1/24", "interface": 0 }],
        "dns": { "nameservers": ["192.0.2.53"] },
    });
    let Value::Object(prev) = prev else { panic!() };
    let out = result().render(SpecVersion::V1_1_0, Some(&prev));
    assert_eq!(out["interfaces"][0]["socketPath"], "/run/x");
    assert_eq!(out["interfaces"].as_array().unwrap().len(), 3);
    assert_eq!(out["ips"][1]["interface"], 2);
    assert_eq!(out["dns"]["nameservers"][0], "192.0.2.53");
}

#[test]
fn an_error_object_has_its_four_fields() {
    let refusal = Refusal::new(Code::TryAgain, "later").with("start the agent");
    assert_eq!(
        refusal.render(SpecVersion::V1_0_0),
        json!({ "cniVersion": "1.0.0", "code": 11, "msg": "later", "details": "start the agent" })
    );
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        prop::sample::select(vec!["10.0.0.1", "fd00::1/64", "1.1.0", "../x", "eth0"]).prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let names = prop::sample::select(vec![
            "cni",
            "labels",
            "portMappings",
            "hostPort",
            "ips",
            "key",
            "value",
            "address",
            "interfaces",
            "routes",
            "containerID",
            "ifname",
            "dst",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((names, inner), 0..4)
                .prop_map(|pairs| Value::Object(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

fn is_specified(code: u32) -> bool {
    matches!(code, 1 | 2 | 4 | 6 | 7)
}

proptest! {
    #[test]
    fn a_mutated_call_is_understood_or_refused(
        flips in prop::collection::vec((any::<prop::sample::Index>(), "\\PC|[\"{}:,\\[\\]\\\\0]"), 1..4), cut: prop::sample::Index,
        command in prop::sample::select(vec!["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"]),
        args in prop::option::of("(IgnoreUnknown=1;|K8S_POD_NAME=|K8S_POD_NAMESPACE=|a|=|;|/|\\.){0,8}"),
    ) {
        let config = json!({
            "cniVersion": "1.1.0", "name": "warren", "type": "warren",
            "args": {"labels": [{"key": "a", "value": "b"}]}, "runtimeConfig": {},
            "prevResult": {"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "/run/netns/c1"}],
                "ips": [{"address": "10.0.0.2/32", "gateway": "169.254.1.1", "interface": 0}], "routes": [{"dst": "0.0.0.0/0"}]},
            "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}],
        });
        let valid = call(command, &config);
        prop_assert!(valid.parse().is_ok(), "{:?}", valid.parse());
        let mut mutated: Vec<char> = valid.config.chars().collect();
        for (at, other) in flips {
            let at = at.index(mutated.len());
            mutated.splice(at..=at, other.chars());
        }
        let cut = valid.config.chars().take(cut.index(mutated.len())).collect();
        let args = args.unwrap_or_default();
        for config in [mutated.into_iter().collect(), cut] {
            let call = Call { config, args: args.clone(), ..valid.clone() };
            match call.parse() {
                Ok(Parsed { request: Request::Add(add), .. }) => {
                    let _ = result().render(SpecVersion::V1_1_0, add.prev_result.as_ref());
                }
                Ok(_) => {}
                Err((_, refusal)) => prop_assert!(is_specified(refusal.code.number()), "{}", refusal),
            }
        }
    }

    #[test]
    fn any_text_is_refused_with_a_code(
        config in "\\PC{0,60}", args in "\\PC{0,30}", id in "\\PC{0,20}", name in "\\PC{0,20}", netns in "\\PC{0,20}",
        command in prop::sample::select(vec!["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION", "x"]),
    ) {
        let call = Call { command: command.into(), container_id: id, if_name: name, netns, args, config };
        if let Err((_, refusal)) = call.parse() {
            prop_assert!(is_specified(refusal.code.number()), "{}", refusal);
            prop_assert!(!refusal.msg.is_empty());
        }
    }

    #[test]
    fn any_json_is_understood_or_refused(
        field in prop::sample::select(vec![
            "args", "runtimeConfig", "prevResult", "name", "type", "socket", "queueDir", "dns", "cniVersion",
            "cni.dev/valid-attachments", "cni.dev/attachments",
        ]),
        value in json_value(),
        command in prop::sample::select(vec!["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"]),
    ) {
        let call = call(command, &with(conf("1.1.0"), field, value));
        match call.parse() {
            Ok(Parsed { request: Request::Add(add), .. }) => {
                let _ = result().render(SpecVersion::V1_1_0, add.prev_result.as_ref());
            }
            Ok(_) => {}
            Err((_, refusal)) => prop_assert!(is_specified(refusal.code.number()), "{}", refusal),
        }
    }
}
