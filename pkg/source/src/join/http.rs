//! One request over one TLS connection.

use ::http::{Method, Request, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use warren_types::{Secret, defaults};

use super::{ANSWER_LIMIT, JoinError};

/// Longest a whole request may take.
const DEADLINE: Duration = Duration::from_secs(15);

/// A server's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Name or address, without brackets.
    host: String,
    port: u16,
}

/// Whom a connection may be with.
pub(super) enum Trust {
    /// Anyone: nothing secret may be sent.
    Anyone,
    /// Who has a certificate of this authority for the address.
    Only(CertificateDer<'static>),
    /// The same, and this side shows a certificate of its own.
    Mutual { authority: CertificateDer<'static>, cert: CertificateDer<'static>, key: PrivateKeyDer<'static> },
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) code: u16,
    pub(super) body: Vec<u8>,
}

impl Endpoint {
    /// Reads `https://HOST[:PORT]`; the scheme may be left out.
    pub(super) fn parse(server: &str) -> Result<Self, JoinError> {
        let refuse = |reason: &str| JoinError::Address {
            server: server.chars().take(200).collect(),
            reason: reason.into(),
        };
        let text = server.trim();
        let full = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        let uri: Uri = full.parse().map_err(|_| refuse("it is not a URL"))?;
        if uri.scheme_str() != Some("https") {
            return Err(refuse("the scheme must be https"));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(refuse("it must not have a path"));
        }
        let authority = uri.authority().ok_or_else(|| refuse("the host is missing"))?;
        if authority.as_str().contains('@') {
            return Err(refuse("it must not hold a user"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if ServerName::try_from(host.clone()).is_err() {
            return Err(refuse("the host is neither a name nor an address"));
        }
        Ok(Self { host, port: authority.port_u16().unwrap_or(defaults::API_PORT) })
    }

    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
    /// The URL, always with its port.
    pub(super) fn url(&self) -> String {
        format!("https://{}", self.authority())
    }

    fn unreachable(&self, reason: impl std::fmt::Display) -> JoinError {
        JoinError::Unreachable { server: self.url(), reason: reason.to_string() }
    }

    /// A request that carries nothing.
    pub(super) async fn get(&self, path: &str, trust: Trust) -> Result<Answer, JoinError> {
        let request = Request::builder().method(Method::GET).uri(path);
        self.send(request, Vec::new(), trust).await
    }

    /// A request with a JSON body, and with a secret where there is one.
    pub(super) async fn post(
        &self,
        path: &str,
        trust: Trust,
        secret: Option<&Secret>,
        body: &Value,
    ) -> Result<Answer, JoinError> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(secret) = secret {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", secret.expose()));
        }
        self.send(request, body.to_string().into_bytes(), trust).await
    }

    async fn send(
        &self,
        request: ::http::request::Builder,
        body: Vec<u8>,
        trust: Trust,
    ) -> Result<Answer, JoinError> {
        let request = request
            .header(header::HOST, self.authority())
            .body(Full::new(bytes::Bytes::from(body)))
            .map_err(|e| self.unreachable(e))?;
        tokio::time::timeout(DEADLINE, self.exchange(request, trust))
            .await
            .map_err(|_| self.unreachable("no answer in time"))?
    }

    async fn exchange(
        &self,
        request: Request<Full<bytes::Bytes>>,
        trust: Trust,
    ) -> Result<Answer, JoinError> {
        let config = client_config(trust).map_err(|e| self.unreachable(e))?;
        let name = ServerName::try_from(self.host.clone()).map_err(|e| self.unreachable(e))?;
        let tcp =
            TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|e| self.unreachable(e))?;
        let tls =
            TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(|e| self.unreachable(e))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls))
            .await
            .map_err(|e| self.unreachable(e))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|e| self.unreachable(e))?;
            let code = response.status().as_u16();
            let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
            let body = body.map_err(|e| self.unreachable(e))?.to_bytes().to_vec();
            Ok(Answer { code, body })
        };
        let mut exchange = std::pin::pin!(exchange);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            answer = exchange.as_mut() => return answer,
            ended = connection.as_mut() => if let Err(e) = ended {
                return Err(self.unreachable(e));
            }
        }
        // The connection has ended in good order; what it brought is still to be read.
        exchange.await
    }
}

fn client_config(trust: Trust) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    Ok(match trust {
        Trust::Anyone => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth(),
        Trust::Only(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add(ca)?;
            builder.with_root_certificates(roots).with_no_client_auth()
        }
        Trust::Mutual { authority, cert, key } => {
            let mut roots = RootCertStore::empty();
            roots.add(authority)?;
            builder.with_root_certificates(roots).with_client_auth_cert(vec![cert], key)?
        }
    })
}

/// Accepts every certificate, for the one request that asks for the authority's.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_servers() {
        let url = |s: &str| Endpoint::parse(s).map(|e| e.url()).unwrap_or_default();
        assert_eq!(url("https://192.0.2.1:6443"), "https://192.0.2.1:6443");
        assert_eq!(url("192.0.2.1"), "https://192.0.2.1:6443");
        assert_eq!(url("https://[2001:db8::1]"), "https://[2001:db8::1]:6443");
        assert_eq!(url("https://server.example:7000/"), "https://server.example:7000");
        for bad in ["", "http://a", "https://", "https://a/b", "https://u:p@a", "https://a b", "ftp://a"] {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_address_is_refused_or_read_as_its_url(
            s in "(https://)?(\\[[0-9a-f:.%]{0,20}\\]|[a-z0-9.-]{0,20}|[0-9.]{0,16})(:[0-9]{0,6})?/?", noise in "\\PC{0,40}",
        ) {
            for text in [&s, &noise] {
                match Endpoint::parse(text) {
                    Ok(e) => proptest::prop_assert_eq!(Endpoint::parse(&e.url()).ok(), Some(e)),
                    Err(JoinError::Address { .. }) => {}
                    Err(e) => panic!("{e}"),
                }
            }
        }
    }
}
