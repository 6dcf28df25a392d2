//! Warren's data path in a process of its own.

use crate::proxies::{BACKEND, Who};
use anyhow::Result;
use std::net::TcpListener;
use std::sync::Arc;
use warren_ingress::route::*;
use warren_ingress::tls::{Certificates, certified};
use warren_ingress::{Bounds, Ingress, Listener, Serving};

/// Serves by so many routes until it is killed: plain on its port, by TLS on the port a hundred above.
pub(crate) fn serve(routes: usize) -> Result<()> {
    let endpoint = Endpoint { address: BACKEND.parse()?, readiness: Readiness::Ready };
    let backend = Backend { name: "backend".into(), endpoints: vec![endpoint], ..Backend::default() };
    let backends = vec![Weighted { weight: 1, backend: Arc::new(backend) }];
    let forward = Forward { backends, ..Forward::default() };
    let route = Arc::new(Route::new("route", Action::Forward(forward)));
    let mut table = RouteTable::builder();
    table.route(Match::new(HostMatch::Any, PathMatch::Prefix("/".into())), &route);
    for at in 1..routes {
        let host = HostMatch::from_name(&format!("host-{at}.example.org"));
        table.route(Match::new(host, PathMatch::Prefix(format!("/path/{at}").into())), &route);
    }
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let mut certificates = Certificates::default();
    let key = made.signing_key.serialize_pem();
    certificates.set_default(certified(made.cert.pem().as_bytes(), key.as_bytes())?);
    table.certificates(certificates);
    let listen = |scheme, port| -> Result<Listener> {
        let socket = TcpListener::bind(("127.0.0.1", port))?;
        Ok(Listener { socket, scheme, proxy_from: Vec::new() })
    };
    let plain = Who::Warren.port();
    let listeners = vec![listen(Scheme::Http, plain)?, listen(Scheme::Https, plain + 100)?];
    // All clients have one address here.
    let bounds = Bounds { client_connections: Bounds::default().connections, ..Bounds::default() };
    let config = Serving { threads: 1, bounds, ..Serving::default() };
    let _ingress = Ingress::start(config, listeners, Arc::new(table.build()))?;
    loop {
        std::thread::park();
    }
}
