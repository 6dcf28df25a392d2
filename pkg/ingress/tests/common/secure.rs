//! Clients of TLS and HTTP/2.

use super::*;
use bytes::Bytes;
use h2::{RecvStream, client};
use http::HeaderMap;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use warren_ingress::tls::{Certificates, certified};

/// A certificate for names, and what it looks like.
pub(crate) fn certificate(names: &[&str]) -> (Arc<rustls::sign::CertifiedKey>, CertificateDer<'static>) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let key = certified(made.cert.pem().as_bytes(), made.signing_key.serialize_pem().as_bytes()).unwrap();
    (key, made.cert.der().clone())
}

/// Everything to one backend, shown with certificates.
pub(crate) fn secure(backend: Backend, certificates: Certificates) -> RouteTable {
    let mut builder = RouteTable::builder();
    let route = Arc::new(Route::new("route", Action::Forward(forward(backend))));
    builder.route(Match::new(HostMatch::Any, PathMatch::Prefix("/".into())), &route);
    builder.certificates(certificates);
    builder.build()
}

pub(crate) async fn handshake(
    address: SocketAddr,
    name: &str,
    alpn: &[&str],
    trusted: &CertificateDer<'static>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// A client of HTTP/2, whose connection lives in the set.
pub(crate) async fn h2_client(
    front: &Front,
    trusted: &CertificateDer<'static>,
    tasks: &mut JoinSet<()>,
) -> client::SendRequest<Bytes> {
    let stream = handshake(front.tls, "example.org", &["h2"], trusted).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    // One stream that is not read leaves room for others, as in browsers.
    let handshake = client::Builder::new().initial_connection_window_size(1 << 20).handshake(stream);
    let (send, connection) = handshake.await.unwrap();
    tasks.spawn(async move {
        let _ = connection.await;
    });
    send
}

pub(crate) async fn whole(mut body: RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        all.extend_from_slice(&data);
    }
    (all, body.trailers().await.unwrap())
}

pub(crate) async fn send(stream: &mut h2::SendStream<Bytes>, mut data: Bytes) {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
        stream.send_data(data.split_to(room.min(data.len())), false).unwrap();
    }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
