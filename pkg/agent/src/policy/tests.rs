use super::*;
use warren_policy::{Engine, Held, Kept, Settings, Subject, Unknown};
use warren_store::Durability;
use warren_types::{
    Endpoint, EndpointPort, EndpointSlice, Family, Labels, NamedPort, Namespace, NamespaceState,
    NetworkPolicy, Node, Pod, PodCidrs, PodKey, PolicyPeer, PolicyPort, PolicyRule, PortMatch, Requirement,
    Selector, Service, ServiceKey, ServicePort, SliceKey,
};

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

fn labels(text: &str) -> Labels {
    text.split(',').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
}

fn selector(text: &str) -> Selector {
    Selector::new(labels(text).into_iter().map(|(key, value)| Requirement::In(key, [value].into())))
}

fn pod(name: &str, node: &str, ip: &str, of: &str) -> Pod {
    Pod {
        key: PodKey::parse(&format!("shop/{name}")).unwrap(),
        uid: name.into(),
        node: Some(NodeName::new(node).unwrap()),
        ips: vec![ip.parse().unwrap()],
        host_network: false,
        labels: labels(of),
        finished: false,
        named_ports: vec![NamedPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }],
    }
}

fn policy(name: &str, pods: &str, ingress: Vec<PolicyRule>) -> NetworkPolicy {
    NetworkPolicy {
        key: PolicyKey::parse(&format!("shop/{name}")).unwrap(),
        uid: name.into(),
        pods: selector(pods),
        ingress: Some(ingress),
        egress: None,
    }
}

fn from_clients() -> PolicyRule {
    PolicyRule {
        peers: vec![PolicyPeer::Pods { namespaces: None, pods: selector("role=client") }],
        ports: vec![PolicyPort { protocol: Protocol::Tcp, ports: PortMatch::Named("http".into()) }],
    }
}

fn node(name: &str, ip: &str, cidr: &str) -> Node {
    Node {
        name: NodeName::new(name).unwrap(),
        uid: String::new(),
        node_id: None,
        public_key: None,
        endpoints: Vec::new(),
        observed: Default::default(),
        held_ports: Vec::new(),
        ingress: Vec::new(),
        internal_ips: vec![ip.parse().unwrap()],
        served_ips: Vec::new(),
        pod_cidrs: PodCidrs::parse([cidr]).unwrap(),
        labels: Labels::new(),
        ready: true,
    }
}

/// Node `a` with pods `web` (isolated) and `other`, node `b` with pod `client`.
fn engine() -> Engine {
    let here = NodeName::new("a").unwrap();
    let mut engine = Engine::new(Settings { unknown: Unknown::Closed, node: Some(here) });
    let name = Namespace::new("shop").unwrap();
    let row = NamespaceState { name: name.clone(), labels: Labels::new(), terminating: false };
    engine.set_namespace(&name, Some(row.into()));
    let pods = [
        pod("web", "a", "10.42.0.2", "app=web"),
        pod("other", "a", "10.42.0.3", ""),
        pod("client", "b", "10.42.1.2", "role=client"),
    ];
    for row in pods {
        if row.node.as_ref().unwrap().as_str() == "a" {
            let subject = Subject {
                pod: row.key.clone(),
                uid: Some(row.uid.clone()),
                addresses: row.ips.clone(),
                labels: None,
            };
            engine.set_subject(&format!("{}-eth0", row.uid), Some(subject));
        }
        engine.set_pod(&row.key.clone(), Some(row.into()));
    }
    let row = policy("web", "app=web", vec![from_clients()]);
    engine.set_policy(&row.key.clone(), Some(row.into()));
    engine.commit();
    engine
}

struct Desk {
    desk: PolicyDesk,
    _dir: tempfile::TempDir,
}

async fn desk(engine: Engine) -> Desk {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap().store;
    let nodes = vec![node("a", "192.0.2.1", "10.42.0.0/24"), node("b", "192.0.2.2", "10.42.1.0/24")];
    store.table().replace(nodes, Durability::Cached).await.unwrap();
    store.table().replace(vec![pod("web", "a", "10.42.0.2", "app=web")], Durability::Cached).await.unwrap();
    let status = Some(PolicyStatus::of(engine));
    let node = NodeName::new("a").unwrap();
    Desk { desk: PolicyDesk { status, dns: None, nft: Nft::current().unwrap(), store, node }, _dir: dir }
}

fn query(from: &str, to: &str, port: Option<&str>) -> CheckQuery {
    let end = |text: &str| match text.parse() {
        Ok(address) => End::Address(address),
        Err(_) => End::Pod(PodKey::parse(&format!("shop/{text}")).unwrap()),
    };
    let port = port.map(|port| PortAsked { port: port.into(), protocol: None });
    CheckQuery { from: end(from), to: end(to), port, proposed: None }
}

#[tokio::test]
async fn a_check_names_the_policy_and_the_rule_or_the_default() {
    let d = desk(engine()).await;
    let text = |from: &str, to: &str, port| {
        let check = d.desk.check(&query(from, to, port)).unwrap();
        (check.allowed, render_check(&check, false))
    };
    let (allowed, told) = text("client", "web", Some("http"));
    assert!(allowed);
    assert_eq!(
        lines(&told),
        [
            "shop/client (10.42.1.2) -> shop/web (10.42.0.2:8080) TCP: allowed",
            "  egress   shop/client on b  allowed  by default: no policy isolates it for egress",
            "  ingress  shop/web on a     allowed  NetworkPolicy shop/web, ingress rule 1: from pods role=client in namespace \
             shop: TCP http",
        ]
    );
    let (allowed, told) = text("other", "web", Some("8080"));
    assert!(!allowed);
    assert_eq!(
        lines(&told)[2],
        "  ingress  shop/web on a    denied   isolated by NetworkPolicy shop/web, of which no ingress rule allows this"
    );
    let (allowed, told) = text("client", "web", None);
    assert!(!allowed && told.contains("10.42.0.2) ICMP: denied") && told.contains("TO:PORT"), "{told}");
    // The node's own addresses, by its link and in its podCIDR; those of another node are judged.
    for (from, expected) in
        [("192.0.2.1", true), ("10.42.0.1", true), ("192.0.2.2", false), ("10.42.1.1", false)]
    {
        assert_eq!(text(from, "web", Some("8080")).0, expected, "{from}");
    }
    assert!(text("web", "192.0.2.1", Some("22")).1.contains("own node"));
    // An address that is a pod's is that pod.
    assert!(
        text("10.42.1.2", "10.42.0.2", Some("8080")).1.starts_with("shop/client (10.42.1.2) -> shop/web")
    );
}

#[tokio::test]
async fn what_is_not_there_says_what_to_type() {
    let d = desk(engine()).await;
    let error = |query: &CheckQuery| d.desk.check(query).unwrap_err().to_string();
    assert!(error(&query("nobody", "web", None)).contains("warren get pods -A"));
    assert!(error(&query("client", "web", Some("ftp"))).contains("there are http"));
    assert!(error(&query("client", "192.0.2.9", Some("ftp"))).contains("give its number"));
    assert!(error(&query("client", "fd00::1", None)).contains("same family"));
    let mut gone = query("client", "web", None);
    gone.proposed =
        Some(Proposed { delete: vec![PolicyKey::parse("shop/x").unwrap()], ..Proposed::default() });
    assert!(error(&gone).contains("warren policy list"));
    let mut service = query("client", "web", None);
    service.to = End::Service(ServiceKey::parse("shop/web").unwrap());
    assert!(error(&service).contains("warren service list"));
    assert!(matches!(d.desk.show("shop", "x"), Err(NoPolicyAnswer::NoPolicy(_))));
    let desk = PolicyDesk { status: Some(PolicyStatus::default()), ..d.desk.clone() };
    assert!(matches!(desk.list(), Err(NoPolicyAnswer::NotLoaded)));
    assert_eq!(desk.report().map(|view| view.loaded), Some(false));
    let desk = PolicyDesk { status: None, ..d.desk.clone() };
    assert!(matches!(desk.denials().await, Err(NoPolicyAnswer::Off)));
    assert_eq!(desk.report(), None);
}

#[tokio::test]
async fn what_would_be_is_told_beside_what_is() {
    let d = desk(engine()).await;
    let mut asked = query("client", "web", Some("8080"));
    let deny = policy("web", "app=web", Vec::new());
    asked.proposed = Some(Proposed { put: vec![deny], delete: Vec::new() });
    let check = d.desk.check(&asked).unwrap();
    assert!(!check.allowed && check.flows[0].allowed_before == Some(true));
    let told = render_check(&check, false);
    assert!(lines(&told)[0].ends_with("TCP: denied, allowed before"), "{told}");
    assert!(lines(&told)[4].starts_with("  ingress before  shop/web on a     allowed  "), "{told}");

    asked = query("other", "web", Some("8080"));
    let web = PolicyKey::parse("shop/web").unwrap();
    asked.proposed = Some(Proposed { put: Vec::new(), delete: vec![web] });
    let check = d.desk.check(&asked).unwrap();
    assert!(check.allowed && check.flows[0].allowed_before == Some(false));
    // It was only asked.
    assert!(!d.desk.check(&query("other", "web", Some("8080"))).unwrap().allowed);
}

#[tokio::test]
async fn a_service_is_judged_at_each_endpoint() {
    let d = desk(engine()).await;
    let key = ServiceKey::parse("shop/web").unwrap();
    let port = ServicePort {
        name: "web".into(),
        protocol: Protocol::Tcp,
        port: 80,
        node_port: None,
        target: "http".into(),
        app_protocol: None,
    };
    let cluster_ips = vec!["10.43.0.5".parse().unwrap()];
    let service = Service { cluster_ips, ports: vec![port], ..Service::new(key.clone()) };
    let endpoint = |ip: &str, pod: Option<&str>| Endpoint {
        pod: pod.map(|pod| PodKey::parse(pod).unwrap()),
        ..Endpoint::ready(ip.parse().unwrap())
    };
    let slice = EndpointSlice {
        key: SliceKey::parse("shop/web-x").unwrap(),
        service: key.clone(),
        family: Family::V4,
        ports: vec![EndpointPort { name: "web".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: vec![endpoint("10.42.0.2", Some("shop/web")), endpoint("192.0.2.77", None)],
        foreign_proxy: false,
    };
    d.desk.store.table().replace(vec![service], Durability::Cached).await.unwrap();
    d.desk.store.table().replace(vec![slice], Durability::Cached).await.unwrap();
    let mut asked = query("other", "10.43.0.5", Some("80"));
    let by_address = d.desk.check(&asked).unwrap();
    asked.to = End::Service(key);
    assert_eq!(d.desk.check(&asked).unwrap(), by_address);
    let told = render_check(&by_address, false);
    assert!(!by_address.allowed && told.ends_with("1 of 2 allowed\n"), "{told}");
    assert!(told.contains("shop/web (10.42.0.2:8080) TCP by svc/shop/web:80: denied"), "{told}");
    assert!(told.contains("192.0.2.77:8080 TCP by svc/shop/web:80: allowed"), "{told}");
    asked.port = Some(PortAsked { port: "81".into(), protocol: None });
    assert!(d.desk.check(&asked).unwrap_err().to_string().contains("80/TCP web"));
}

#[tokio::test]
async fn policies_are_listed_and_shown_in_words() {
    let mut engine = engine();
    let left = policy("left", "app=web", Vec::new());
    let subjects = ["web-eth0".to_owned()].into();
    let held = Held { policy: left.clone(), subjects, undecided: false };
    engine.set_kept(Kept { policies: vec![(left.key, Some(held))], ..Kept::default() });
    engine.commit();
    let d = desk(engine).await;
    let list = d.desk.list().unwrap();
    assert_eq!(
        lines(&render_list(&list, false)),
        [
            "NAMESPACE  NAME  PODS HERE  INGRESS RULES  EGRESS RULES  DENIED",
            "shop       left  1          0              -             0       deleted, held",
            "shop       web   1          1              -             0",
        ]
    );
    let shown = d.desk.show("shop", "web").unwrap();
    let text = render_show(&shown, false);
    assert_eq!(
        lines(&text)[..8],
        [
            "NetworkPolicy shop/web",
            "selects pods app=web in namespace shop",
            "on this node: shop/web",
            "",
            "ingress  isolated, but allowed",
            "   1  from pods role=client in namespace shop: TCP http",
            "",
            "egress  not isolated by this policy",
        ]
    );
    assert_eq!(shown.classes, 1);
    assert!(shown.elements > 0);
    let text = render_show(&d.desk.show("shop", "left").unwrap(), false);
    assert!(text.contains("held  its object is gone") && text.contains("allows nothing"), "{text}");
    let report = d.desk.report().unwrap();
    assert_eq!((report.policies, report.held, report.isolated), (2, 1, 1));
    let json = serde_json::to_string(&shown).unwrap();
    assert_eq!(serde_json::from_str::<PolicyDetail>(&json).unwrap(), shown);
}

#[tokio::test]
async fn a_policy_that_the_kernel_refuses_is_shown_as_such() {
    let mut engine = engine();
    let suspects = [PolicyId::of(&PolicyKey::parse("shop/web").unwrap())].into();
    engine.quarantine(&suspects, &suspects);
    engine.commit();
    let d = desk(engine).await;
    let list = render_list(&d.desk.list().unwrap(), false);
    let web = "shop       web   1          1              -             0       refused by the kernel, allows nothing";
    assert!(lines(&list).contains(&web), "{list}");
    let text = render_show(&d.desk.show("shop", "web").unwrap(), false);
    assert!(text.contains("refused  the kernel of this node refuses it"), "{text}");
    assert!(text.contains("from pods role=client"), "its rules are shown as they were written: {text}");
    assert_eq!(d.desk.report().unwrap().refused, 1);
}

#[test]
fn denials_read_as_lines() {
    let denial = DenialView {
        source: "10.42.0.3".into(),
        source_pod: Some("shop/other".into()),
        destination: "10.42.0.2".into(),
        protocol: "TCP".into(),
        port: Some(8080),
        direction: "ingress".into(),
        policies: vec!["shop/web".into(), "shop/deny".into()],
        packets: 12,
        ..DenialView::default()
    };
    let ping = DenialView { protocol: "ICMP".into(), port: None, policies: Vec::new(), ..denial.clone() };
    assert_eq!(
        lines(&render_denials(&[denial, ping], false)),
        [
            "    12  shop/other (10.42.0.3) -> 10.42.0.2  TCP 8080  ingress: isolated by shop/web, shop/deny",
            "    12  shop/other (10.42.0.3) -> 10.42.0.2  ICMP  ingress: nothing is known of the pod yet",
        ]
    );
}

#[test]
fn status_says_when_policies_are_not_known_or_left_to_others() {
    let text = |view: Option<&PolicyView>| {
        let mut out = String::new();
        super::lines(&mut out, crate::status::Paint(false), view);
        out
    };
    assert_eq!(text(None), "POLICY  left to somebody else\n");
    assert!(text(Some(&PolicyView::default())).contains("not known yet"));
}
