//! Warren's data path in a process of its own.

use crate::proxies::{BACKEND, HOSTS, PATHS, Setup, Who};
use anyhow::Result;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use warren_ingress::route::*;
use warren_ingress::tls::{Certificates, certified};
use warren_ingress::{
    AccessLog, AccessLogConfig, AccessLogFormat, Bounds, Ingress, Listener, Observer, Serving,
};

/// Serves on one thread until it is killed: plain on its port, by TLS on the port a hundred above.
pub(crate) fn serve(dir: &Path, setup: Setup) -> Result<()> {
    let endpoint = Endpoint { address: BACKEND.parse()?, readiness: Readiness::Ready };
    let backend = Backend { name: "backend".into(), endpoints: vec![endpoint].into(), ..Backend::default() };
    let backend = Arc::new(backend);
    let route = |name: String| {
        let backends = vec![Weighted { weight: 1, backend: backend.clone() }];
        Arc::new(Route::new(name, Action::Forward(Forward { backends, ..Forward::default() })))
    };
    let mut table = RouteTable::builder();
    if setup == Setup::Routes {
        for host in 0..HOSTS {
            for path in 0..PATHS {
                let name = HostMatch::from_name(&format!("host-{host}.example.org"));
                let prefix = PathMatch::Prefix(format!("/path-{path}").into());
                table.route(Match::new(name, prefix), &route(format!("route-{host}-{path}")));
            }
        }
    } else {
        table.route(Match::new(HostMatch::Any, PathMatch::Prefix("/".into())), &route("route".into()));
    }
    let mut certificates = Certificates::default();
    let read = |name: &str| std::fs::read(dir.join(name));
    certificates.set_default(certified(&read("cert.pem")?, &read("key.pem")?)?);
    table.certificates(certificates);
    let listen = |scheme, port| -> Result<Listener> {
        let socket = TcpListener::bind(("127.0.0.1", port))?;
        // std's own backlog is short, and the agent's sockets have this one.
        socket2::SockRef::from(&socket).listen(4_096)?;
        Ok(Listener { socket, scheme, proxy_from: Vec::new() })
    };
    let plain = Who::Warren.port();
    let listeners = vec![listen(Scheme::Http, plain)?, listen(Scheme::Https, plain + 100)?];
    // All clients have one address here.
    let bounds = Bounds { client_connections: Bounds::default().connections, ..Bounds::default() };
    let log = (setup == Setup::AccessLog).then(|| {
        let file = Some(dir.join("warren.log"));
        AccessLog::start(&AccessLogConfig { format: AccessLogFormat::Common, file })
    });
    let observer = log.transpose()?.map(|log| Arc::new(log) as Arc<dyn Observer>);
    let config = Serving { threads: 1, bounds, observer, ..Serving::default() };
    let _ingress = Ingress::start(config, listeners, Arc::new(table.build()))?;
    loop {
        std::thread::park();
    }
}
