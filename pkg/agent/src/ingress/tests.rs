use super::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use warren_ingress::compile::{Compiled, Gateways, Served, ServedRoute};
use warren_ingress::route::{
    Action, Backend, Endpoint, Forward, HostMatch, Match, PathMatch, Readiness, Route, RouteTable, Weighted,
};
use warren_ingress::{Listening, explain::Step};
use warren_types::{Fault, IngressKey, RouteKind};

fn text_of(view: Option<&IngressView>) -> String {
    let mut out = String::new();
    lines(&mut out, Paint(false), view);
    out
}

fn served(hosts: &[&str], paths: usize, tls: bool, faults: &[(&str, &str)]) -> Served {
    let fault =
        |(reason, message): &(&str, &str)| Fault { reason: (*reason).into(), message: (*message).into() };
    Served {
        uid: "uid".into(),
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        paths,
        tls,
        faults: faults.iter().map(fault).collect(),
    }
}

/// `shop/web` with an endpoint, `shop/wrong` with a fault and no route.
fn compiled() -> Compiled {
    let endpoint = Endpoint { address: ([10, 42, 0, 1], 8080).into(), readiness: Readiness::Ready };
    let backend =
        Backend { name: "shop/web:80".into(), endpoints: vec![endpoint].into(), ..Backend::default() };
    let backends = vec![Weighted { weight: 1, backend: Arc::new(backend) }];
    let route =
        Route::new("shop/web foo.test /", Action::Forward(Forward { backends, ..Forward::default() }));
    let mut builder = RouteTable::builder();
    builder
        .route(Match::new(HostMatch::from_name("foo.test"), PathMatch::Prefix("/".into())), &Arc::new(route));
    let key = |name: &str| IngressKey::parse(name).unwrap();
    let faults = [("BackendMissing", "no Service shop/gone"), ("AnnotationNotUnderstood", "x: what is it?")];
    Compiled {
        table: Arc::new(builder.build()),
        served: BTreeMap::from([
            (key("shop/web"), served(&["foo.test", "*.foo.test"], 3, true, &[])),
            (key("shop/wrong"), served(&[], 1, false, &faults)),
        ])
        .into(),
        ..Compiled::default()
    }
}

fn desk(at: &[&str], failed: &[&str]) -> IngressDesk {
    let texts = |of: &[&str]| of.iter().map(|text| (*text).to_owned()).collect();
    let listening = Listening { at: texts(at), failed: texts(failed) };
    IngressDesk { status: Some(IngressStatus::of(compiled(), listening)) }
}

const HERE: [&str; 2] = ["http://0.0.0.0:80", "https://0.0.0.0:443"];

#[test]
fn ingresses_are_listed_with_what_is_wrong_first() {
    let list = desk(&HERE, &[]).list().unwrap();
    assert_eq!(
        render_list(&list, false).lines().collect::<Vec<_>>(),
        [
            "KIND     NAMESPACE  NAME   HOSTS                PATHS  TLS  WRONG",
            "Ingress  shop       web    foo.test,*.foo.test  3      yes",
            "Ingress  shop       wrong  *                    1      -    BackendMissing: no Service shop/gone (1 more)",
        ]
    );
    assert_eq!(list[1].faults.len(), 2, "the machine-readable list has all");
    let coloured = render_list(&list, true);
    assert!(coloured.contains("\u{1b}[33mBackendMissing"), "{coloured:?}");
    let json = serde_json::to_string(&list).unwrap();
    assert_eq!(serde_json::from_str::<Vec<IngressSummary>>(&json).unwrap(), list);
}

#[test]
fn a_url_is_explained_from_the_socket_to_the_endpoint() {
    let explained = desk(&HERE, &[]).explain("https://foo.test/x").unwrap();
    assert_eq!(
        render_explain(&explained, false).lines().collect::<Vec<_>>(),
        [
            "https://foo.test/x",
            "  listening    http://0.0.0.0:80, https://0.0.0.0:443",
            "  certificate  the default one, which nobody vouches for: no Ingress names a Secret for this host",
            "  route        Ingress shop/web: host foo.test, path / and below",
            "  backend      Service shop/web:80, by HTTP/1.1",
            "  endpoints    10.42.0.1:8080",
        ]
    );
    let json = serde_json::to_string(&explained).unwrap();
    assert_eq!(serde_json::from_str::<Explained>(&json).unwrap(), explained);
}

#[test]
fn what_is_not_served_is_said_so() {
    let unheard = desk(&[], &[]).explain("foo.test").unwrap();
    assert!(!unheard.served, "nothing listens");
    let text = render_explain(&unheard, false);
    assert!(
        text.contains("  listening  nowhere on this node\n") && text.ends_with("\nnot served\n"),
        "{text}"
    );
    let nobody = desk(&HERE, &[]).explain("bar.test").unwrap();
    assert!(render_explain(&nobody, true).ends_with("\u{1b}[31mnot served\u{1b}[0m\n"));
    let bare = Explained { url: "u".into(), served: true, steps: Vec::<Step>::new() };
    assert_eq!(render_explain(&bare, false), "u\n");
}

#[test]
fn who_cannot_answer_says_why() {
    let off = IngressDesk { status: None };
    assert!(matches!(off.list(), Err(NoIngressAnswer::Off)));
    assert!(off.explain("foo.test").unwrap_err().to_string().contains("--ingress=off"));
    assert_eq!(off.report(), None);
    let early = IngressDesk { status: Some(IngressStatus::default()) };
    assert!(early.list().unwrap_err().to_string().contains("warren status"));
    assert!(matches!(early.explain("foo.test"), Err(NoIngressAnswer::NotLoaded)));
    assert_eq!(early.report(), None);
    let error = desk(&HERE, &[]).explain("ftp://foo.test").unwrap_err().to_string();
    assert!(error.contains("https://example.org/path"), "{error}");
}

#[test]
fn the_report_counts_what_is_served() {
    let view = desk(&HERE, &["http://[::]:80 cannot be listened on"]).report().unwrap();
    assert_eq!((view.ingresses, view.faulty, view.routes), (2, 1, 1));
    assert_eq!((view.connections, view.answers, view.unlogged), (0, [0; 5], None));
    assert_eq!((view.listening.len(), view.failed.len()), (2, 1));
    let json = serde_json::to_string(&view).unwrap();
    assert!(!json.contains("unlogged") && !json.contains("byRoute"), "{json}");
    assert_eq!(serde_json::from_str::<IngressView>(&json).unwrap(), view);
}

#[test]
fn the_line_of_the_status_says_what_matters() {
    assert_eq!(text_of(None), "INGRESS  off, or not known yet\n");
    assert_eq!(
        text_of(Some(&IngressView::default())),
        "INGRESS  0 served by 0 routes at nowhere  connections 0  answers 2xx 0 3xx 0 4xx 0 5xx 0\n"
    );
    let view = IngressView {
        listening: HERE.map(str::to_owned).to_vec(),
        failed: vec!["http://[::]:80 cannot be listened on: in use".into()],
        ingresses: 2,
        faulty: 1,
        routes: 5,
        connections: 7,
        answers: [0, 1, 2, 3, 4],
        unlogged: Some(9),
        ..IngressView::default()
    };
    assert_eq!(
        text_of(Some(&view)),
        "INGRESS  2 served by 5 routes at http://0.0.0.0:80 https://0.0.0.0:443  connections 7  \
         answers 2xx 1 3xx 2 4xx 3 5xx 4  1 with something wrong  9 lines of the access log dropped\n  \
         http://[::]:80 cannot be listened on: in use\n"
    );
    let quiet = IngressView { unlogged: Some(0), failed: Vec::new(), faulty: 0, ..view };
    assert!(text_of(Some(&quiet)).ends_with("5xx 4\n"), "what is well needs no word");
}

#[test]
fn figures_of_routes_leave_out_what_is_no_answer() {
    let figures = Figures { answers: vec![("shop/web".into(), [9, 1, 2, 3, 4, 5])], ..Figures::default() };
    assert_eq!(by_route(&figures), [("shop/web".to_owned(), [1, 2, 3, 4, 5])]);
}

#[test]
fn routes_of_gateways_are_listed_after_ingresses() {
    let mut gateways = Gateways::default();
    gateways.routes.push(ServedRoute {
        kind: RouteKind::Http,
        namespace: "shop".into(),
        name: "web".into(),
        hosts: vec!["foo.test".into()],
        matches: 2,
        tls: true,
        faults: vec!["BackendNotFound: there is no Service gone".into()],
    });
    let compiled = Compiled { gateways: Arc::new(gateways), ..compiled() };
    let desk = IngressDesk { status: Some(IngressStatus::of(compiled, Listening::default())) };
    let list = desk.list().unwrap();
    let text = render_list(&list, false);
    assert_eq!(
        text.lines().last(),
        Some(
            "HTTPRoute  shop       web    foo.test             2      yes  BackendNotFound: there is no Service gone"
        )
    );
    let view = desk.report().unwrap();
    assert_eq!((view.ingresses, view.gateway_routes, view.faulty), (2, 1, 2));
    assert!(text_of(Some(&view)).contains("at nowhere  1 of Gateways  connections"));
}
