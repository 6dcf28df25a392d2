use super::*;
use warren_proxy::explain::{Outcome, Path, Step};
use warren_proxy::view::{Does, EndpointView, FrontView, ModeView, State};

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

#[test]
fn the_list_is_aligned_and_tells_what_is_not_counted() {
    let web = ServiceSummary {
        namespace: "default".into(),
        name: "web".into(),
        kind: "ClusterIP".into(),
        cluster_ips: vec!["10.43.0.1".into(), "fd43::1".into()],
        ports: vec!["80/TCP".into()],
        ready: 1,
        endpoints: 2,
        hits: Some(7),
        ..ServiceSummary::default()
    };
    let abroad =
        ServiceSummary { name: "abroad".into(), kind: "ExternalName".into(), ..ServiceSummary::default() };
    let text = render_list(&[web, abroad], false);
    assert_eq!(
        lines(&text),
        [
            "NAMESPACE  NAME    TYPE          CLUSTER-IP         EXTERNAL  PORTS   READY  HITS  FAULTS",
            "default    web     ClusterIP     10.43.0.1,fd43::1  -         80/TCP  1/2    7     0",
            "           abroad  ExternalName  -                  -         -       -      -     0",
        ]
    );
}

#[test]
fn a_service_says_where_it_leads_and_why_not_elsewhere() {
    let front = |address: &str, does, endpoints, endpoints_inside| FrontView {
        address: address.into(),
        port: 80,
        protocol: "TCP".into(),
        port_name: "http".into(),
        origin: "LoadBalancer".into(),
        does,
        endpoints,
        endpoints_inside,
        hits: None,
    };
    let endpoint = |chosen, chosen_outside, why: &str| EndpointView {
        address: "fd42::5".into(),
        port: 8080,
        service_port: "80/TCP".into(),
        node: Some("a".into()),
        local: true,
        state: State::Serving,
        chosen,
        chosen_outside,
        why: why.into(),
        ..EndpointView::default()
    };
    let view = ServiceView {
        namespace: "default".into(),
        name: "web".into(),
        kind: "LoadBalancer".into(),
        mode: ModeView {
            internal_policy: "Cluster".into(),
            external_policy: Some("Local".into()),
            affinity_seconds: Some(60),
            source_ranges: vec!["10.0.0.0/8".into()],
            traffic_distribution: Some("PreferSameZone".into()),
            health_check_node_port: Some(30000),
        },
        fronts: vec![
            front("192.0.2.1", Does::Drops, 0, Some(2)),
            front("192.0.2.2", Does::Refuses, 0, None),
            front("fd00::1", Does::Forwards, 1, None),
            front("192.0.2.3", Does::Taken, 0, None),
        ],
        endpoints: vec![
            endpoint(true, None, ""),
            endpoint(true, Some(false), "far"),
            endpoint(false, Some(true), "near"),
            endpoint(false, None, "sick"),
        ],
        load_balancer: vec![HolderView { address: "192.0.2.1".into(), holder: "this node, for 3s".into() }],
        faults: vec![FaultView { reason: "AddressInUse".into(), message: "another has it".into() }],
        ..ServiceView::default()
    };
    assert_eq!(
        lines(&render_show(&view, false)),
        [
            "service default/web  LoadBalancer",
            "internal policy Cluster  external policy Local  affinity ClientIP for 60 s  traffic distribution \
             PreferSameZone  load balancer open to 10.0.0.0/8  health check on port 30000",
            "",
            "FRONT         PORT      ORIGIN        HITS  NEW CONNECTIONS",
            "192.0.2.1:80  TCP http  LoadBalancer  -     dropped: no endpoint on this node; from pods and this node to one of 2 endpoints",
            "192.0.2.2:80  TCP http  LoadBalancer  -     refused: no endpoint serves anywhere",
            "[fd00::1]:80  TCP http  LoadBalancer  -     to 1 endpoint",
            "192.0.2.3:80  TCP http  LoadBalancer  -     an older Service has this address and port",
            "",
            "ENDPOINT        FOR     POD  NODE           ZONE  STATE    DRAWN HERE",
            "[fd42::5]:8080  80/TCP  -    a (this node)  -     serving  yes",
            "[fd42::5]:8080  80/TCP  -    a (this node)  -     serving  from inside; not from outside: far",
            "[fd42::5]:8080  80/TCP  -    a (this node)  -     serving  from outside; not by the cluster address: near",
            "[fd42::5]:8080  80/TCP  -    a (this node)  -     serving  no: sick",
            "",
            "LOAD BALANCER  ANSWERED FOR BY",
            "192.0.2.1      this node, for 3s",
            "",
            "fault  AddressInUse: another has it",
        ]
    );
}

#[test]
fn an_explanation_reads_as_a_list_with_its_end_and_what_to_do() {
    let step = |about: &str, text: &str| Step { about: about.into(), text: text.into() };
    let answer = Explanation {
        from: "pod default/a".into(),
        to: "svc/default/web:80".into(),
        paths: vec![Path {
            destination: "10.43.0.1:80 TCP".into(),
            steps: vec![step("source", "it sends"), step("policy", "is Local")],
            outcome: Outcome::Dropped,
            end: "nobody is here".into(),
            advice: Some("go there".into()),
        }],
    };
    assert_eq!(
        lines(&render_explanation(&answer, false)),
        [
            "pod default/a -> svc/default/web:80",
            "",
            "to 10.43.0.1:80 TCP",
            "   1  source  it sends",
            "   2  policy  is Local",
            "  =>  dropped: nobody is here",
            "      to do: go there",
        ]
    );
}

#[test]
fn status_has_a_line_for_each() {
    let report = ServicesReport {
        proxy: Some(ProxyView { services: 3, changes: 2, last_change_micros: 4_560, ..ProxyView::default() }),
        load_balancer: Some(BalancerView {
            mode: "pool".into(),
            held: vec!["192.0.2.1".into()],
            refused: vec!["192.0.2.9: no link".into()],
            ..BalancerView::default()
        }),
    };
    let text = |report: &ServicesReport| {
        let mut out = String::new();
        super::lines(&mut out, crate::status::Paint(false), report);
        out
    };
    assert_eq!(
        lines(&text(&report)),
        [
            "SERVICES  3 translated  changes 2, the last in 4.5 ms  repairs 0  UDP flows ended 0",
            "LOAD BALANCER  mode pool  held here 192.0.2.1  held by others -",
            "not announced  192.0.2.9: no link",
        ]
    );
    assert_eq!(
        lines(&text(&ServicesReport::default())),
        ["SERVICES  left to another proxy", "LOAD BALANCER  off"]
    );
}
