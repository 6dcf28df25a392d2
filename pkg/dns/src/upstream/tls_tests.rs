//! Upstreams over TLS, with certificates made for the test.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::cache::Bounds;
use crate::upstream::fake::{Fake, Query, Replies};
use crate::upstream::testing::{Answer, a, asked, name};
use crate::upstream::{Address, Config, Forwarder, Resolved};
use crate::wire::{Data, Rcode, Type};

fn at_once(query: Query<'_>) -> Replies {
    let records = vec![a(&asked(query.bytes).0.to_string(), 60, "192.0.2.1")];
    vec![(Duration::ZERO, Answer::of(records).reply(query.bytes))]
}

async fn resolve(forwarder: &Arc<Forwarder>, text: &str) -> Resolved {
    forwarder.resolve(&name(text), Type::A).await
}

fn right(resolved: &Resolved) -> bool {
    resolved.entry.answers().iter().any(|r| r.data == Data::Address(IpAddr::from([192, 0, 2, 1])))
}

fn authority(names: &[&str]) -> (rustls::ServerConfig, Roots) {
    let key =
        rcgen::generate_simple_self_signed(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
            .unwrap();
    let mut store = RootCertStore::empty();
    store.add(key.cert.der().clone()).unwrap();
    let private = rustls::pki_types::PrivatePkcs8KeyDer::from(key.signing_key.serialize_der());
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![key.cert.der().clone()], private.into())
            .unwrap();
    (config, Roots::given(store))
}

#[tokio::test]
async fn over_tls_the_name_is_checked_and_the_connection_used_again() {
    let (config, roots) = authority(&["ns.corp.example"]);
    let connections = Arc::<AtomicUsize>::default();
    let fake = Fake::start_tls(config, Arc::clone(&connections), at_once).await;
    let over = |server: &str| Config {
        upstreams: vec![format!("tls://{}#{server}", fake.address).parse().unwrap()],
        roots: roots.clone(),
        ..Config::default()
    };
    let forwarder = Forwarder::new(over("ns.corp.example"), Bounds::default());
    for n in 0..5 {
        assert!(right(&resolve(&forwarder, &format!("n{n}.example")).await));
    }
    assert_eq!((connections.load(Ordering::SeqCst), fake.count()), (1, 5));
    let other = Forwarder::new(over("ns.evil.example"), Bounds::default());
    let refused = resolve(&other, "a.example").await;
    assert_eq!(refused.entry.rcode(), Rcode::SERV_FAIL);
    assert!(format!("{:?}", refused.origin).contains("ns.evil.example"), "{:?}", refused.origin);
    assert_eq!(fake.count(), 5, "nothing is asked of whom the name is not");
}

#[tokio::test]
async fn over_tls_without_a_name_the_certificate_is_for_the_address() {
    let (config, roots) = authority(&["127.0.0.1"]);
    let connections = Arc::<AtomicUsize>::default();
    let fake = Fake::start_tls(config, Arc::clone(&connections), at_once).await;
    let upstream: Address = format!("tls://{}", fake.address).parse().unwrap();
    let config = Config { upstreams: vec![upstream], roots, ..Config::default() };
    let forwarder = Forwarder::new(config, Bounds::default());
    let all = futures::future::join_all((0..20).map(|n| {
        let (forwarder, name) = (Arc::clone(&forwarder), name(&format!("n{n}.example")));
        async move { forwarder.resolve(&name, Type::A).await }
    }))
    .await;
    assert!(all.iter().all(right));
}

#[tokio::test]
async fn over_tls_a_connection_that_was_closed_is_made_anew() {
    let (config, roots) = authority(&["127.0.0.1"]);
    let connections = Arc::<AtomicUsize>::default();
    let closes = |query: Query<'_>| if query.nth == 1 { vec![] } else { at_once(query) };
    let fake = Fake::start_tls(config, Arc::clone(&connections), closes).await;
    let upstream: Address = format!("tls://{}", fake.address).parse().unwrap();
    let config = Config { upstreams: vec![upstream], roots, ..Config::default() };
    let forwarder = Forwarder::new(config, Bounds::default());
    assert!(right(&resolve(&forwarder, "a.example").await));
    assert!(right(&resolve(&forwarder, "b.example").await));
    assert_eq!(connections.load(Ordering::SeqCst), 2);
    assert_eq!(forwarder.status().upstreams[0].1.failures, 0);
}
