//! Clients of TLS that come again with a ticket.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

mod common;

use common::secure::certificate;
use common::*;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned, SupportedProtocolVersion,
};
use std::io::BufReader;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use warren_ingress::route::*;
use warren_ingress::tls::Certificates;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];

/// A table that shows certificates by name; `host` alone goes to the origin when it is said, else everything.
fn table(origin: &Origin, host: Option<&str>, certificates: &[(&str, &Certified)]) -> RouteTable {
    let mut all = Certificates::default();
    for (name, (key, _)) in certificates {
        all.add(name, key.clone());
    }
    let mut builder = RouteTable::builder();
    let route = Route::new("route", Action::Forward(forward(backend(&[origin.address]))));
    let host = host.map_or(HostMatch::Any, HostMatch::from_name);
    builder.route(Match::new(host, PathMatch::Prefix("/".into())), &Arc::new(route));
    builder.certificates(all);
    builder.build()
}

type Certified = (Arc<rustls::sign::CertifiedKey>, CertificateDer<'static>);

fn client(version: &'static SupportedProtocolVersion, trusted: &[&Certified]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for (_, der) in trusted {
        roots.add(der.clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

/// A request on a connection of its own for `name`; how that began, and the status.
fn ask(front: &Front, config: &Arc<ClientConfig>, name: &str) -> std::io::Result<(HandshakeKind, String)> {
    let name_of = ServerName::try_from(name.to_owned()).unwrap();
    let connection = ClientConnection::new(config.clone(), name_of).unwrap();
    let mut stream = StreamOwned::new(connection, TcpStream::connect(front.tls)?);
    write!(stream, "GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n")?;
    let answer = read_message(&mut BufReader::new(&mut stream)).ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let kind = stream.conn.handshake_kind().unwrap();
    Ok((kind, answer.line.split(' ').nth(1).unwrap().to_owned()))
}

fn asked(front: &Front, config: &Arc<ClientConfig>, name: &str) -> (HandshakeKind, String) {
    ask(front, config, name).unwrap()
}

fn full(status: &str) -> (HandshakeKind, String) {
    (HandshakeKind::Full, status.to_owned())
}

fn resumed(status: &str) -> (HandshakeKind, String) {
    (HandshakeKind::Resumed, status.to_owned())
}

#[test]
fn a_client_that_comes_again_resumes_also_after_what_is_none_of_its_certificates() {
    let origin = Origin::hello();
    let (own, other) = (certificate(&["foo.test"]), certificate(&["bar.test"]));
    let front = Front::start(config(), table(&origin, None, &[("foo.test", &own)]));
    for version in VERSIONS {
        let config = client(version, &[&own]);
        assert_eq!(asked(&front, &config, "foo.test"), full("200"));
        assert_eq!(asked(&front, &config, "foo.test"), resumed("200"));
        front.ingress.swap(Arc::new(table(&origin, None, &[("foo.test", &own), ("bar.test", &other)])));
        assert_eq!(asked(&front, &config, "foo.test"), resumed("200"));
        front.ingress.swap(Arc::new(table(&origin, None, &[("foo.test", &own), ("bar.test", &other)])));
        assert_eq!(asked(&front, &config, "foo.test"), resumed("200"));
        // For the other version. Here a certificate goes, so that all begin anew.
        front.ingress.swap(Arc::new(table(&origin, None, &[("foo.test", &own)])));
        assert_eq!(asked(&front, &config, "foo.test"), full("200"));
    }
}

#[test]
fn a_certificate_that_was_replaced_is_shown_to_those_with_tickets_too() {
    let origin = Origin::hello();
    let (old, new) = (certificate(&["foo.test"]), certificate(&["foo.test"]));
    for version in VERSIONS {
        let front = Front::start(config(), table(&origin, None, &[("foo.test", &old)]));
        let (both, of_old) = (client(version, &[&old, &new]), client(version, &[&old]));
        for config in [&both, &of_old] {
            assert_eq!(asked(&front, config, "foo.test"), full("200"));
            assert_eq!(asked(&front, config, "foo.test"), resumed("200"));
        }
        front.ingress.swap(Arc::new(table(&origin, None, &[("foo.test", &new)])));
        assert_eq!(asked(&front, &both, "foo.test"), full("200"));
        assert!(ask(&front, &of_old, "foo.test").is_err(), "it does not trust what holds now");
        assert_eq!(asked(&front, &both, "foo.test"), resumed("200"));
    }
}

#[test]
fn an_exact_certificate_takes_the_place_of_the_wildcard_also_for_those_with_tickets() {
    let origin = Origin::hello();
    let (wild, exact) = (certificate(&["*.shop.test"]), certificate(&["foo.shop.test"]));
    for version in VERSIONS {
        let front = Front::start(config(), table(&origin, None, &[("*.shop.test", &wild)]));
        let config = client(version, &[&wild, &exact]);
        assert_eq!(asked(&front, &config, "foo.shop.test"), full("200"));
        front.ingress.swap(Arc::new(table(
            &origin,
            None,
            &[("*.shop.test", &wild), ("foo.shop.test", &exact)],
        )));
        assert_eq!(asked(&front, &config, "foo.shop.test"), full("200"));
    }
}

#[test]
fn what_was_withdrawn_is_withdrawn_for_those_with_tickets_too() {
    let origin = Origin::hello();
    let own = certificate(&["foo.test"]);
    for version in VERSIONS {
        let front = Front::start(config(), table(&origin, Some("foo.test"), &[("foo.test", &own)]));
        let config = client(version, &[&own]);
        assert_eq!(asked(&front, &config, "foo.test"), full("200"));
        let before = origin.count();
        // The route goes, and the certificate stays: for another host of it, say.
        front.ingress.swap(Arc::new(table(&origin, Some("bar.test"), &[("foo.test", &own)])));
        assert_eq!(asked(&front, &config, "foo.test"), resumed("404"));
        // The certificate goes too: there is none for this name, so no connection either.
        front.ingress.swap(Arc::new(table(&origin, Some("bar.test"), &[])));
        assert!(ask(&front, &config, "foo.test").is_err());
        assert_eq!(origin.count(), before);
    }
}
