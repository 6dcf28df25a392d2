//! Clients that no tool of Debian is: handshakes of TLS that surely are, or surely are not, resumed, and many that are idle.

use anyhow::{Context as _, Result, ensure};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, HandshakeKind, SignatureScheme};
use serde_json::json;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio_rustls::TlsConnector;

/// Connections that are opened at once.
const AT_ONCE: usize = 32;
const ONE: &[u8] = b"GET /hello?x=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
const FIRST: &[u8] = b"GET /hello?x=1 HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// What a client process does.
#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum Client {
    /// A connection of TLS 1.3 with one request, again and again. Says how many there were, and what the slowest took.
    Handshakes {
        /// Of the proxy.
        port: u16,
        /// How long.
        seconds: u64,
        /// By a ticket of the connection before.
        #[arg(long)]
        resume: bool,
    },
    /// Opens connections, has one request served on each, says so, and keeps them until its standard input ends.
    Idle {
        /// Of the proxy.
        port: u16,
        /// How many.
        count: usize,
        /// Whether by TLS.
        #[arg(long)]
        tls: bool,
    },
}

pub(crate) fn run(client: Client) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    match client {
        Client::Handshakes { port, seconds, resume } => {
            local.block_on(&runtime, handshakes(port, Duration::from_secs(seconds), resume))
        }
        Client::Idle { port, count, tls } => local.block_on(&runtime, idle(port, count, tls)),
    }
}

async fn handshakes(port: u16, time: Duration, resume: bool) -> Result<()> {
    let until = Instant::now() + time;
    let took = Rc::new(RefCell::new(Vec::new()));
    let mut tasks = Vec::new();
    for _ in 0..AT_ONCE {
        // Each has tickets of its own, as clients have.
        let (connector, took) = (connector(resume)?, took.clone());
        tasks.push(tokio::task::spawn_local(async move {
            let mut is_first = true;
            while Instant::now() < until {
                let begun = Instant::now();
                let stream = TcpStream::connect(("127.0.0.1", port)).await?;
                stream.set_nodelay(true)?;
                let mut stream = connector.connect(ServerName::try_from("localhost")?, stream).await?;
                let kind = stream.get_ref().1.handshake_kind();
                let wanted = if resume && !is_first { HandshakeKind::Resumed } else { HandshakeKind::Full };
                ensure!(kind == Some(wanted), "a handshake was {kind:?}, not {wanted:?}");
                stream.write_all(ONE).await?;
                let mut answer = Vec::with_capacity(1024);
                // A proxy may close without a word of TLS.
                let end = stream.read_to_end(&mut answer).await;
                ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}: {end:?}", String::from_utf8_lossy(&answer));
                took.borrow_mut().push(begun.elapsed());
                is_first = false;
            }
            Ok(())
        }));
    }
    let begun = Instant::now();
    for task in tasks {
        task.await??;
    }
    let mut took = took.take();
    took.sort_unstable();
    let p99 = took.get(took.len() * 99 / 100).context("no handshake at all")?;
    let said = json!({
        "requests": took.len(),
        "per_second": took.len() as f64 / begun.elapsed().as_secs_f64(),
        "p99_ms": p99.as_secs_f64() * 1e3,
    });
    println!("{said}");
    Ok(())
}

async fn idle(port: u16, count: usize, tls: bool) -> Result<()> {
    let connector = connector(true)?;
    let mut kept: Vec<Box<dyn Stream>> = Vec::with_capacity(count);
    for _ in 0..count {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let mut stream: Box<dyn Stream> = match tls {
            true => Box::new(connector.connect(ServerName::try_from("localhost")?, stream).await?),
            false => Box::new(stream),
        };
        stream.write_all(FIRST).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"backend\n") {
            let read = stream.read_buf(&mut answer).await?;
            ensure!(read > 0, "the proxy closed: {}", String::from_utf8_lossy(&answer));
        }
        kept.push(stream);
    }
    println!("ready");
    let waited = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    waited.await??;
    Ok(())
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

fn connector(resume: bool) -> Result<TlsConnector> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting))
        .with_no_client_auth();
    config.resumption = if resume { Resumption::in_memory_sessions(8) } else { Resumption::disabled() };
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Believes anybody: the client's work is not what is measured.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
