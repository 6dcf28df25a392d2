use super::*;
use crate::answer::tests::{packet, read};
use crate::answer::{Client, Settings, answer};
use crate::wire::{Data, Record, Transport};
use crate::zone::{Knowledge, Zone};
use proptest::prelude::*;
use std::collections::BTreeMap;
use warren_types::{Service, ServiceKey};

/// What the upstream servers know of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outside {
    Address,
    NoData,
    Missing,
    Failure,
    Silence,
}

#[derive(Debug)]
struct World {
    zone: Zone,
    settings: Settings,
    outside: BTreeMap<String, Outside>,
    asked: std::cell::RefCell<Vec<String>>,
}

impl World {
    fn new(services: &[&str], outside: &[(&str, Outside)]) -> Self {
        let mut zone = Zone::new(&"cluster.local".parse().unwrap()).unwrap();
        for (n, key) in services.iter().enumerate() {
            let mut service = Service::new(ServiceKey::parse(key).unwrap());
            service.cluster_ips.push([10, 43, 0, u8::try_from(n).unwrap()].into());
            zone.set_service(&service.key, Some(&service));
        }
        zone.set_knowledge(Knowledge::Current);
        let outside = outside.iter().map(|(n, o)| ((*n).to_owned(), *o)).collect();
        Self { zone, settings: Settings::default(), outside, asked: std::cell::RefCell::default() }
    }

    fn upstream(&self, asked: &Asked) -> Option<(Rcode, Vec<Record>)> {
        let name = asked.name.to_string().trim_end_matches('.').to_ascii_lowercase();
        self.asked.borrow_mut().push(name.clone());
        let known = self.outside.get(&name).copied().unwrap_or(Outside::Missing);
        let rcode = match known {
            Outside::Address | Outside::NoData => Rcode::NO_ERROR,
            Outside::Missing => Rcode::NX_DOMAIN,
            Outside::Failure => Rcode::SERV_FAIL,
            Outside::Silence => return None,
        };
        let record = Record {
            owner: asked.name.clone(),
            rtype: Type::A,
            ttl: 60,
            data: Data::Address([192, 0, 2, 1].into()),
        };
        let answers = if known == Outside::Address { vec![record] } else { Vec::new() };
        Some((rcode, answers))
    }

    /// Asks as a client, and does what the server would do. The code, and the last name of the answer with its address.
    fn ask(&self, client: Client<'_>, name: &str, qtype: Type) -> (u16, String, Vec<String>) {
        let bytes = packet(name, qtype, Some(1232));
        let query = Query::read(&bytes).unwrap();
        let context =
            Context { zone: &self.zone, settings: &self.settings, transport: Transport::Udp, random: 1 };
        let mut out = Vec::new();
        let mut outcome = answer(context, client, &query, &mut out);
        loop {
            outcome = match outcome {
                Outcome::Answered => break,
                Outcome::WalkSearch(walk) => {
                    let reply = self.upstream(&walk.asked());
                    walk.next(context, &query, reply.as_ref().map(said), &mut out)
                }
                Outcome::Forward(asked) => {
                    match self.upstream(&asked) {
                        Some(reply) => crate::answer::relay(&query, said(&reply), Transport::Udp, &mut out),
                        None => drop(fail(context, &query, Rcode::SERV_FAIL, &mut out)),
                    }
                    break;
                }
                Outcome::ForwardThen(chain) => {
                    let reply = self.upstream(&chain.asked());
                    complete(
                        &self.settings,
                        &query,
                        &chain,
                        reply.as_ref().map(said),
                        Transport::Udp,
                        &mut out,
                    );
                    break;
                }
            };
        }
        let message = read(&out);
        let mut at = name.to_owned();
        let mut addresses = Vec::new();
        for record in &message.answers {
            // A chain without gaps.
            assert_eq!(record.name.to_string().trim_end_matches('.'), at);
            match &record.data {
                hickory_proto::rr::RData::CNAME(target) => {
                    at = target.0.to_string().trim_end_matches('.').to_owned()
                }
                data => addresses.push(data.to_string()),
            }
        }
        (message.metadata.response_code.into(), at.to_ascii_lowercase(), addresses)
    }

    /// A resolver that walks its search path as glibc and Go do: it ends at the first name with records.
    fn resolve_on(
        &self,
        client: Client<'_>,
        path: &[Name],
        short: &str,
        qtype: Type,
    ) -> Option<(String, Vec<String>)> {
        let names = path.iter().map(|domain| format!("{short}.{domain}")).chain([short.to_owned()]);
        names
            .map(|name| self.ask(client, name.trim_end_matches('.'), qtype))
            .find(|(_, _, addresses)| !addresses.is_empty())
            .map(|(_, name, addresses)| (name, addresses))
    }

    /// A resolver that walks its search path as musl does: it ends at the first name that exists, or cannot be known.
    fn resolve(
        &self,
        client: Client<'_>,
        path: &[Name],
        short: &str,
        qtype: Type,
    ) -> (u16, String, Vec<String>) {
        for domain in path {
            let name = format!("{short}.{domain}");
            let got = self.ask(client, name.trim_end_matches('.'), qtype);
            if got.0 != 3 {
                return got;
            }
        }
        self.ask(client, short, qtype)
    }
}

fn path(domains: &[&str]) -> Vec<Name> {
    domains.iter().map(|d| d.parse().unwrap()).collect()
}

fn pod_path() -> Vec<Name> {
    super::pod_path(&"cluster.local".parse().unwrap(), &"a".parse().unwrap(), &path(&["corp.example"]))
}

fn said((rcode, answers): &(Rcode, Vec<Record>)) -> Reply<'_> {
    Reply { rcode: *rcode, answers, soa: None, ttl: 60 }
}

#[test]
fn a_pods_path_is_as_kubelet_writes_it() {
    let written = path(&["a.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"]);
    assert_eq!(pod_path(), written);
}

#[test]
fn the_first_name_that_exists_is_answered_at_once() {
    let world = World::new(
        &["a/web", "b/db"],
        &[("www.example.org", Outside::Address), ("in.tra.corp.example", Outside::Address)],
    );
    let path = pod_path();
    let ask =
        |short: &str, qtype| world.ask(Client::Pod(&path), &format!("{short}.a.svc.cluster.local"), qtype);
    assert_eq!(ask("web", Type::A).1, "web.a.svc.cluster.local");
    assert_eq!(ask("db.b", Type::A), (0, "db.b.svc.cluster.local".into(), vec!["10.43.0.1".into()]));
    assert_eq!(ask("db.b", Type::AAAA), (0, "db.b.svc.cluster.local".into(), vec![]), "both families agree");
    assert_eq!(ask("db.b.svc", Type::A).1, "db.b.svc.cluster.local");
    assert!(world.asked.borrow().is_empty(), "nothing of the cluster is asked upstream");
    assert_eq!(ask("db.b.svc.cluster.local", Type::A).1, "db.b.svc.cluster.local");
    assert_eq!(
        world.asked.borrow_mut().drain(..).collect::<Vec<_>>(),
        ["db.b.svc.cluster.local.corp.example"]
    );
    assert_eq!(ask("www.example.org", Type::A).1, "www.example.org");
    assert_eq!(*world.asked.borrow(), ["www.example.org.corp.example", "www.example.org"]);
    assert_eq!(ask("in.tra", Type::A), (0, "in.tra.corp.example".into(), vec!["192.0.2.1".into()]));
}

#[test]
fn what_is_not_found_is_the_name_that_was_asked_for() {
    let path = pod_path();
    for trouble in [Outside::Failure, Outside::Silence, Outside::Missing] {
        let world = World::new(&["a/web"], &[("x.example.org.corp.example", trouble)]);
        let (code, name, _) = world.ask(Client::Pod(&path), "x.example.org.a.svc.cluster.local", Type::A);
        assert_eq!((code, &name[..]), (3, "x.example.org.a.svc.cluster.local"));
        let asked = if trouble == Outside::Missing { 2 } else { 1 };
        assert_eq!(world.asked.borrow().len(), asked, "after {trouble:?} nothing more is asked");
    }
}

#[test]
fn what_may_be_a_service_that_is_gone_is_not_looked_for_elsewhere() {
    let elsewhere = ["db.corp.example", "x.web.corp.example", "com"].map(|name| (name, Outside::Address));
    let world = World::new(&["a/web"], &elsewhere);
    let path = pod_path();
    for name in ["db", "x.web", "X.WEB", "com"] {
        let (code, _, _) = world.ask(Client::Pod(&path), &format!("{name}.a.svc.cluster.local"), Type::A);
        assert_eq!(code, 3, "{name}");
    }
    assert!(world.asked.borrow().is_empty());
    let resolve = |name| world.resolve(Client::Pod(&path), &path, name, Type::A);
    assert_eq!(resolve("db.a").0, 3);
    assert_eq!(resolve("db").1, "db.corp.example", "the client goes there itself");
    assert_eq!(resolve("com").1, "com");
}

#[test]
fn a_walk_goes_on_through_names_that_stand_for_others() {
    let mut world = World::new(&["a/web"], &[("www.example.org", Outside::Address)]);
    let mut service = Service::new(ServiceKey::parse("b/out").unwrap());
    service.kind = warren_types::ServiceKind::ExternalName;
    service.external_name = Some("www.example.org".into());
    world.zone.set_service(&service.key, Some(&service));
    let path = pod_path();
    let found = world.ask(Client::Pod(&path), "out.b.a.svc.cluster.local", Type::A);
    assert_eq!(found, (0, "www.example.org".into(), vec!["192.0.2.1".into()]));
    assert_eq!(*world.asked.borrow(), ["www.example.org"]);
}

#[test]
fn only_the_first_step_of_a_pods_own_walk_is_walked() {
    let mut world = World::new(&["a/web"], &[("www.example.org", Outside::Address)]);
    let (path, other) = (pod_path(), path(&["b.svc.cluster.local", "svc.cluster.local", "cluster.local"]));
    let name = "www.example.org.a.svc.cluster.local";
    assert_eq!(world.ask(Client::Other, name, Type::A).0, 3);
    assert_eq!(world.ask(Client::Pod(&other), name, Type::A).0, 3, "a pod of another namespace");
    assert_eq!(world.ask(Client::Pod(&path), "www.example.org.svc.cluster.local", Type::A).0, 3);
    assert!(world.asked.borrow().is_empty());
    world.settings.search = false;
    assert_eq!(world.ask(Client::Pod(&path), name, Type::A).0, 3);
    world.settings.search = true;
    world.zone.set_knowledge(Knowledge::Nothing);
    assert_eq!(world.ask(Client::Pod(&path), name, Type::A).0, 2);
}

fn world() -> impl Strategy<Value = World> {
    let known = prop::sample::select(vec![
        Outside::Address,
        Outside::NoData,
        Outside::Missing,
        Outside::Failure,
        Outside::Silence,
    ]);
    let service = prop::sample::select(vec!["a/web", "b/web", "example/www", "web/b", "org/example"]);
    let name = prop::sample::select(vec![
        "web",
        "web.b",
        "www.example",
        "www.example.org",
        "web.corp.example",
        "web.b.corp.example",
        "www.example.corp.example",
        "www.example.org.corp.example",
        "web.b.svc",
        "p.web.corp.example",
    ]);
    let rows = prop::collection::btree_map(name, known, 0..9);
    (prop::collection::btree_set(service, 0..4), rows).prop_map(|(services, rows)| {
        let services: Vec<&str> = services.into_iter().collect();
        let rows: Vec<(&str, Outside)> = rows.into_iter().collect();
        World::new(&services, &rows)
    })
}

proptest! {
    #[test]
    fn a_walk_ends_where_the_clients_own_would(
        world in world(),
        short in prop::sample::select(vec!["web", "web.b", "www.example", "www.example.org", "web.b.svc", "p.web.b", "svc", "b", "none"]),
        qtype in prop::sample::select(vec![Type::A, Type::AAAA]), ours in prop::sample::select(vec!["a", "b", "web"]),
        believed in prop::sample::select(vec!["a", "b"]), host in any::<bool>(),
    ) {
        let of = |namespace: &str| {
            let first = format!("{namespace}.svc.cluster.local");
            let mut domains = vec![&first[..], "svc.cluster.local", "cluster.local"];
            if host {
                domains.push("corp.example");
            }
            path(&domains)
        };
        // What cannot be told apart (see the module): a name of two labels or more in the pod's own namespace.
        let in_service = ["", ".svc", ".svc.cluster.local"].iter().any(|tail| {
            short.strip_suffix(&format!(".{believed}{tail}")).is_some_and(|name| name.contains('.'))
        });
        if in_service {
            return Ok(());
        }
        let (path, belief) = (of(ours), of(believed));
        let plain = world.resolve(Client::Other, &path, short, qtype);
        // Also when the pod is taken for one of another namespace.
        let walked = world.resolve(Client::Pod(&belief), &path, short, qtype);
        prop_assert_eq!(walked, plain);
        let plain = world.resolve_on(Client::Other, &path, short, qtype);
        prop_assert_eq!(world.resolve_on(Client::Pod(&belief), &path, short, qtype), plain);
    }
}
