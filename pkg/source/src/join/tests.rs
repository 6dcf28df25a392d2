use super::*;
use proptest::prelude::*;
use rustls::pki_types::PrivateKeyDer;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

const SECRET: &str = "the-secret-of-the-token";
const PASSWORD: &str = "the-password-of-the-node";

/// A server that answers a join as told, and keeps every byte it was sent.
struct Fake {
    url: String,
    ca: rcgen::CertifiedIssuer<'static, KeyPair>,
    seen: Arc<Mutex<Vec<u8>>>,
    _serving: JoinSet<()>,
}

fn authority() -> rcgen::CertifiedIssuer<'static, KeyPair> {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    rcgen::CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// The answer to the join: a status code, and a body made from the request.
type Answering = fn(&Value, &rcgen::CertifiedIssuer<'static, KeyPair>) -> (u16, Value);

fn sign(request: &Value, ca: &rcgen::CertifiedIssuer<'static, KeyPair>) -> (u16, Value) {
    let csr = rcgen::CertificateSigningRequestParams::from_pem(request["csr"].as_str().unwrap()).unwrap();
    (200, json!({"certificate": csr.signed_by(ca).unwrap().pem(), "ca": ca.pem()}))
}

/// `impostor`: shows the authority's certificate, which anyone can have, and serves with a certificate of another.
async fn fake(answering: Answering, impostor: bool) -> Fake {
    let (ca, other) = (authority(), authority());
    let signer = if impostor { &other } else { &ca };
    let key = KeyPair::generate().unwrap();
    let cert =
        rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, signer).unwrap();
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (acceptor, log, pem) = (TlsAcceptor::from(Arc::new(tls)), seen.clone(), ca.pem());
    let issuer = Arc::new(ca);
    let for_task = issuer.clone();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(tcp).await else { continue };
            let mut request = Vec::new();
            let (head, length) = loop {
                let mut buffer = [0; 4096];
                let n = stream.read(&mut buffer).await.unwrap_or(0);
                log.lock().unwrap().extend_from_slice(&buffer[..n]);
                request.extend_from_slice(&buffer[..n]);
                let text = String::from_utf8_lossy(&request).into_owned();
                let Some(end) = text.find("\r\n\r\n") else { if n == 0 { break (0, 0) } else { continue } };
                let length = text
                    .lines()
                    .find_map(|l| {
                        l.to_lowercase()
                            .strip_prefix("content-length: ")
                            .and_then(|l| l.parse::<usize>().ok())
                    })
                    .unwrap_or(0);
                if request.len() >= end + 4 + length {
                    break (end + 4, length);
                }
            };
            let (code, body) = if request.starts_with(b"GET /cacerts ") {
                (200, pem.clone())
            } else {
                let body: Value = serde_json::from_slice(&request[head..head + length]).unwrap_or_default();
                let (code, body) = answering(&body, &for_task);
                (code, body.to_string())
            };
            let answer = format!("HTTP/1.1 {code} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    let ca = match Arc::try_unwrap(issuer) {
        Ok(ca) => ca,
        Err(shared) => {
            // The task holds it too: rebuild a handle from the same key.
            let key = KeyPair::from_pem(&shared.key().serialize_pem()).unwrap();
            let mut params = rcgen::CertificateParams::default();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            rcgen::CertifiedIssuer::self_signed(params, key).unwrap()
        }
    };
    Fake { url, ca, seen, _serving: serving }
}

fn token(ca: &rcgen::CertifiedIssuer<'static, KeyPair>) -> JoinToken {
    let hash = ring::digest::digest(&ring::digest::SHA256, &ca.key().subject_public_key_info());
    JoinToken::parse(&format!("K10{}::node:{SECRET}\n", hex(hash.as_ref()))).unwrap()
}

async fn try_join(fake: &Fake, token: &JoinToken) -> Result<Identity, JoinError> {
    join(&fake.url, token, &NodeName::new("n1").unwrap(), &Secret::new(PASSWORD)).await
}

impl Fake {
    fn saw(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).contains(text)
    }
}

#[tokio::test]
async fn a_node_joins_and_gets_a_kubeconfig() {
    let server = fake(sign, false).await;
    let identity = try_join(&server, &token(&server.ca)).await.unwrap();
    assert!(server.saw(SECRET) && server.saw(PASSWORD), "the recording works");
    assert!(!server.saw("PRIVATE KEY"));
    assert_eq!(identity.server, server.url);
    assert!(identity.ca_pem.starts_with("-----BEGIN CERTIFICATE-----\n"));
    let kubeconfig = kube::config::Kubeconfig::from_yaml(identity.kubeconfig().expose()).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
    assert_eq!(config.cluster_url.port_u16(), server.url.rsplit(':').next().unwrap().parse().ok());
    kube::Client::try_from(config).unwrap();
    assert!(!format!("{identity:?} {:?}", token(&server.ca)).contains(SECRET));
}

#[tokio::test]
async fn another_authority_is_noticed_before_any_secret_is_sent() {
    let server = fake(sign, false).await;
    let error = try_join(&server, &token(&authority())).await.unwrap_err();
    assert!(matches!(error, JoinError::WrongAuthority { .. }), "{error}");
    assert!(
        server.saw("GET /cacerts") && !server.saw("POST") && !server.saw(SECRET) && !server.saw(PASSWORD)
    );
}

#[tokio::test]
async fn an_impostor_with_a_copied_authority_gets_no_secret() {
    let server = fake(sign, true).await;
    let error = try_join(&server, &token(&server.ca)).await.unwrap_err();
    assert!(matches!(error, JoinError::Unreachable { .. }), "{error}");
    assert!(server.saw("GET /cacerts") && !server.saw("POST") && !server.saw(SECRET));
}

#[tokio::test]
async fn refusals_have_their_own_errors() {
    let refused = async |answering: Answering| {
        let server = fake(answering, false).await;
        try_join(&server, &token(&server.ca)).await.unwrap_err()
    };
    assert!(
        matches!(refused(|_, _| (401, json!({"message": "m"}))).await, JoinError::WrongToken { message, .. } if message == "m")
    );
    assert!(matches!(refused(|_, _| (403, json!({}))).await, JoinError::NameTaken { .. }));
    let busy = refused(|_, _| (429, json!({}))).await;
    assert!(matches!(busy, JoinError::Refused { code: 429, .. }) && busy.is_temporary());
    assert!(matches!(refused(|_, _| (200, json!({}))).await, JoinError::Answer { .. }));
    let foreign = refused(|_, ca| (200, json!({"certificate": ca.pem()}))).await;
    assert!(foreign.to_string().contains("another key"), "{foreign}");
    let nobody = join(
        "https://127.0.0.1:1",
        &token(&authority()),
        &NodeName::new("n").unwrap(),
        &Secret::new(PASSWORD),
    )
    .await;
    assert!(nobody.unwrap_err().is_temporary());
}

#[test]
fn tokens_are_read_whole_or_refused() {
    let hash = "ab".repeat(32);
    assert!(JoinToken::parse(&format!(" K10{hash}::server:x ")).is_ok());
    for (bad, why) in [
        (String::new(), InvalidToken::Empty),
        ("just-a-secret".into(), InvalidToken::NoHash),
        (format!("K10{hash}"), InvalidToken::Hash),
        (format!("K10{}::node:x", &hash[1..]), InvalidToken::Hash),
        (format!("K10{hash}::nodex"), InvalidToken::Shape),
        (format!("K10{hash}::node:"), InvalidToken::Shape),
        (format!("K10{hash}::root:x"), InvalidToken::User),
    ] {
        assert_eq!(JoinToken::parse(&bad), Err(why), "{bad}");
    }
}

proptest! {
    #[test]
    fn a_token_is_read_as_it_was_written_and_a_mutated_one_is_told_from_it(
        hash: [u8; 32], secret in "[!-~]{1,40}", user in "node|server", at: prop::sample::Index, other in "\\PC",
    ) {
        let text = format!("K10{}::{user}:{secret}", hex(&hash));
        let token = JoinToken::parse(&text).unwrap();
        prop_assert_eq!((token.key_hash, token.secret.expose()), (hash, secret.as_str()));
        let at = at.index(text.len());
        let mut mutated = text.clone();
        mutated.replace_range(at..=at, &other);
        if let Ok(read) = JoinToken::parse(&mutated) {
            // The case of a digit and the user say nothing; all else makes another token.
            prop_assert!(read != token || mutated.eq_ignore_ascii_case(&text), "{}", mutated);
        }
        for end in 0..text.len() - secret.len() {
            prop_assert!(JoinToken::parse(&text[..end]).is_err());
        }
    }

    #[test]
    fn no_token_panics(s in "\\PC{0,100}", hash in "[0-9a-f]{60,66}", tail in "[a-z:]{0,20}") {
        let _ = JoinToken::parse(&s);
        let _ = JoinToken::parse(&format!("K10{hash}{tail}"));
    }
}
