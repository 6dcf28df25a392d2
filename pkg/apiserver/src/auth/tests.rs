use super::*;
use crate::registry::{CONFIG_MAP, ENDPOINT_SLICE, INGRESS_CLASS, LEASE, NAMESPACE};
use serde_json::json;

fn target(kind: KindId, namespace: &str, name: &str, status: bool) -> Target {
    let text = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    Target { kind, namespace: text(namespace), name: text(name), status, finalize: false }
}

#[test]
fn certificates_become_users() {
    let user = |cn, o: &[&str]| User::from_certificate(cn, o);
    assert_eq!(user("system:admin", &[MASTERS]), User::Admin("system:admin".into()));
    assert_eq!(user("system:node:a", &[NODES]), User::Node("a".into()));
    assert_eq!(user("system:node:a", &[]), User::Other("system:node:a".into()));
    assert_eq!(user("system:node:../a", &[NODES]), User::Other("system:node:../a".into()));
    assert_eq!(user("a", &[NODES]), User::Other("a".into()));
    assert_eq!(user("a", &[VIEWERS]), User::Viewer("a".into()));
    assert_eq!(user("system:node:a", &[VIEWERS]), User::Other("system:node:a".into()));
}

#[test]
fn verbs_are_found_by_their_names() {
    for verb in ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"] {
        assert_eq!(Verb::from_name(verb).map(Verb::name), Some(verb));
    }
    assert_eq!(Verb::from_name("*"), None);
}

#[test]
fn a_viewer_reads_and_writes_nothing() {
    let viewer = User::Viewer("v".into());
    for kind in KindId::all() {
        let (t, secret) = (target(kind, "a", "x", false), kind.get().plural == "secrets");
        let may = |verb| authorize(&viewer, verb, &t, |_, _| true).is_ok();
        for verb in [Verb::Get, Verb::List, Verb::Watch] {
            assert_eq!(may(verb), !secret, "{verb:?} {}", kind.get().plural);
        }
        for verb in [Verb::Create, Verb::Update, Verb::Patch, Verb::Delete, Verb::DeleteCollection] {
            assert!(!may(verb), "{verb:?} {}", kind.get().plural);
        }
    }
}

#[test]
fn a_node_reads_what_it_follows_and_only_the_secrets_that_an_ingress_shows() {
    let n1 = User::Node("n1".into());
    for kind in KindId::all() {
        let plural = kind.get().plural;
        let may = |verb, name: &str, shown: bool| {
            authorize(&n1, verb, &target(kind, "a", name, false), |ns, n| shown && (ns, n) == ("a", "x"))
                .is_ok()
        };
        match plural {
            "secrets" => {
                for verb in [Verb::Get, Verb::List, Verb::Watch] {
                    assert!(may(verb, "x", true) && !may(verb, "x", false), "{verb:?}");
                    assert!(!may(verb, "y", true) && !may(verb, "", true), "{verb:?}");
                }
                for verb in [Verb::Create, Verb::Update, Verb::Patch, Verb::Delete, Verb::DeleteCollection] {
                    assert!(!may(verb, "x", true), "{verb:?}");
                }
            }
            _ => assert_eq!(may(Verb::List, "", true), NODE_READS.contains(&plural), "{plural}"),
        }
    }
}

fn policies() -> KindId {
    crate::registry::lookup("networking.k8s.io", "v1", "networkpolicies").unwrap()
}

#[test]
fn what_a_node_may() {
    use Verb::*;
    let n1 = User::Node("n1".into());
    let table: &[(Verb, KindId, &str, &str, bool)] = &[
        (List, NODE, "", "", true),
        (Watch, POD, "", "", true),
        (Get, POD, "a", "p", true),
        (Get, NAMESPACE, "", "a", true),
        (Watch, LEASE, "a", "", true),
        (List, CONFIG_MAP, "kube-system", "", true),
        (Watch, CONFIG_MAP, "kube-system", "", true),
        (List, CONFIG_MAP, "", "", false),
        (Get, CONFIG_MAP, "default", "c", false),
        (Patch, CONFIG_MAP, "kube-system", "warren-cluster", false),
        (Patch, CONFIG_MAP, "kube-system", "warren-connectivity", true),
        (Patch, CONFIG_MAP, "default", "warren-connectivity", false),
        (Update, CONFIG_MAP, "kube-system", "warren-connectivity", false),
        (Create, NAMESPACE, "", "", false),
        (Delete, NAMESPACE, "", "a", false),
        (Create, NODE, "", "", true),
        (Patch, NODE, "", "n1", true),
        (Update, NODE, "", "n1", true),
        (Delete, NODE, "", "n1", true),
        (Patch, NODE, "", "n2", false),
        (Delete, NODE, "", "n2", false),
        (DeleteCollection, NODE, "", "", false),
        (DeleteCollection, POD, "a", "", false),
        (Create, POD, "a", "", true),
        (Patch, POD, "a", "p", true),
        (Create, LEASE, "kube-node-lease", "", true),
        (Patch, LEASE, "kube-node-lease", "n1", true),
        (Patch, LEASE, "kube-node-lease", "n2", false),
        (Patch, LEASE, "kube-system", "n1", false),
        (Create, LEASE, "kube-system", "", false),
        (DeleteCollection, LEASE, "kube-node-lease", "", false),
        (List, SERVICE, "", "", true),
        (Watch, SERVICE, "", "", true),
        (Create, SERVICE, "a", "", false),
        (Update, SERVICE, "a", "s", false),
        (Delete, SERVICE, "a", "s", false),
        (List, ENDPOINT_SLICE, "", "", true),
        (Watch, ENDPOINT_SLICE, "", "", true),
        (Create, ENDPOINT_SLICE, "a", "", false),
        (Patch, ENDPOINT_SLICE, "a", "s", false),
        (List, NAMESPACE, "", "", true),
        (Watch, NAMESPACE, "", "", true),
        (List, policies(), "", "", true),
        (Watch, policies(), "", "", true),
        (Create, policies(), "a", "", false),
        (Patch, policies(), "a", "p", false),
        (Delete, policies(), "a", "p", false),
        (List, INGRESS, "", "", true),
        (Watch, INGRESS, "", "", true),
        (Create, INGRESS, "a", "", false),
        (Update, INGRESS, "a", "i", false),
        (Delete, INGRESS, "a", "i", false),
        (List, INGRESS_CLASS, "", "", true),
        (Watch, INGRESS_CLASS, "", "", true),
        (Create, INGRESS_CLASS, "", "", false),
        (Patch, INGRESS_CLASS, "", "c", false),
        (Delete, INGRESS_CLASS, "", "c", false),
        (Get, EVENT, "a", "e", false),
        (Update, EVENT, "a", "e", false),
        (Delete, EVENT, "a", "e", false),
        (DeleteCollection, EVENT, "a", "", false),
    ];
    for (verb, kind, ns, name, may) in table {
        for status in [false, true] {
            let allowed = authorize(&n1, *verb, &target(*kind, ns, name, status), |_, _| true).is_ok();
            assert_eq!(allowed, *may, "{verb:?} {} {ns}/{name}", kind.get().plural);
        }
    }
}

#[test]
fn a_node_writes_the_status_of_services_and_ingresses_and_events_and_nothing_else_of_them() {
    let may = |verb, kind, status| {
        authorize(&User::Node("n1".into()), verb, &target(kind, "a", "x", status), |_, _| true).is_ok()
    };
    assert!(may(Verb::Patch, SERVICE, true) && !may(Verb::Patch, SERVICE, false));
    assert!(may(Verb::Patch, INGRESS, true) && !may(Verb::Patch, INGRESS, false));
    assert!(!may(Verb::Update, INGRESS, true));
    assert!(may(Verb::Patch, EVENT, false) && may(Verb::Create, EVENT, false));
    assert!(!may(Verb::Patch, EVENT, true) && !may(Verb::Update, SERVICE, true));
}

#[test]
fn only_administrators_may_everything() {
    for kind in KindId::all() {
        for verb in [Verb::Get, Verb::Create, Verb::DeleteCollection] {
            let t = target(kind, "", "x", false);
            assert!(authorize(&User::Admin("a".into()), verb, &t, |_, _| true).is_ok());
            assert!(authorize(&User::Anonymous, verb, &t, |_, _| true).is_err());
            assert!(authorize(&User::Other("o".into()), verb, &t, |_, _| true).is_err());
        }
    }
}

#[test]
fn objects_of_others_are_refused_by_what_they_hold() {
    let n1 = User::Node("n1".into());
    let pod = |node: &str| json!({"metadata": {"name": "p"}, "spec": {"nodeName": node}});
    let node = |name: &str, cidr: &str| json!({"metadata": {"name": name}, "spec": {"podCIDR": cidr, "podCIDRs": [cidr]}});
    let bare = json!({"metadata": {"name": "n1"}});
    let ok = |kind, old: Option<&Value>, new: Option<&Value>| {
        authorize_write(&n1, kind, old, new, |o| o["ours"] == true).is_ok()
    };
    assert!(ok(POD, None, Some(&pod("n1"))));
    assert!(!ok(POD, None, Some(&pod("n2"))));
    assert!(!ok(POD, None, Some(&json!({"metadata": {"name": "p"}}))));
    assert!(!ok(POD, Some(&pod("n2")), Some(&pod("n1"))));
    assert!(!ok(POD, Some(&pod("n2")), None));
    assert!(ok(POD, Some(&pod("n1")), None));
    assert!(ok(NODE, None, Some(&bare)));
    assert!(!ok(NODE, None, Some(&json!({"metadata": {"name": "n2"}}))));
    assert!(!ok(NODE, None, Some(&node("n1", "10.0.0.0/24"))));
    assert!(!ok(NODE, Some(&bare), Some(&node("n1", "10.0.0.0/24"))));
    let (a, b) = (node("n1", "10.0.0.0/24"), node("n1", "10.0.1.0/24"));
    assert!(
        ok(NODE, Some(&a), Some(&a)) && !ok(NODE, Some(&a), Some(&b)) && !ok(NODE, Some(&a), Some(&bare))
    );
    assert!(!ok(LEASE, None, Some(&json!({"metadata": {"name": "n2"}}))));
    let service = |of: &str, class: &str| json!({"metadata": {"name": "s"}, "spec": {"type": of, "loadBalancerClass": class}});
    let bare = json!({"metadata": {"name": "s"}, "spec": {"type": "LoadBalancer"}});
    let (ours, foreign) =
        (service("LoadBalancer", "warren.dev/load-balancer"), service("LoadBalancer", "x.org/lb"));
    assert!(ok(SERVICE, Some(&bare), Some(&bare)) && ok(SERVICE, Some(&ours), Some(&ours)));
    assert!(!ok(SERVICE, Some(&foreign), None) && !ok(SERVICE, Some(&service("NodePort", "")), None));
    assert!(!ok(SERVICE, Some(&foreign), Some(&ours)));
    let event = |component: &str, host: &str, kind: &str| {
        json!({"metadata": {"name": "e"}, "source": {"component": component, "host": host},
            "involvedObject": {"kind": kind}})
    };
    let mine = event("warren", "n1", "Service");
    assert!(ok(EVENT, None, Some(&mine)) && ok(EVENT, Some(&mine), Some(&mine)));
    assert!(ok(EVENT, None, Some(&event("warren", "n1", "Ingress"))));
    let ingress = |ours: bool| json!({"metadata": {"name": "i"}, "ours": ours});
    assert!(ok(INGRESS, Some(&ingress(true)), Some(&ingress(true))));
    assert!(
        !ok(INGRESS, Some(&ingress(false)), None)
            && !ok(INGRESS, Some(&ingress(false)), Some(&ingress(true)))
    );
    let answers = |own: &str, other: &str| json!({"metadata": {"name": "warren-connectivity"}, "data": {"run": "r", "node.n1": own, "node.n2": other}});
    let run = json!({"metadata": {"name": "warren-connectivity"}, "data": {"run": "r", "node.n2": "x"}});
    assert!(ok(CONFIG_MAP, Some(&run), None) && ok(CONFIG_MAP, Some(&run), Some(&answers("a", "x"))));
    assert!(!ok(CONFIG_MAP, Some(&run), Some(&answers("a", "y"))));
    assert!(!ok(CONFIG_MAP, Some(&run), Some(&json!({"data": {"node.n2": "x", "node.n1": "a"}}))));
    for other in
        [event("warren", "n2", "Service"), event("x", "n1", "Service"), event("warren", "n1", "Node")]
    {
        assert!(!ok(EVENT, None, Some(&other)) && !ok(EVENT, Some(&other), Some(&mine)), "{other}");
    }
    assert!(!ok(EVENT, None, Some(&json!({"metadata": {"name": "n1"}}))));
    assert!(authorize_write(&User::Admin("a".into()), NODE, None, Some(&a), |_| false).is_ok());
}
