//! A kubelet's side of CRI, as far as the tests need it: sandboxes and containers of a container runtime, over its socket.
//!
//! The messages are few and small, so they are written and read by hand (`runtime.v1` of the Kubernetes project).

use anyhow::{Context as _, Result, bail, ensure};
use http::Request;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

/// How long one call may take: a sandbox waits for its network.
const LIMIT: Duration = Duration::from_secs(60);

/// Fields of a protobuf message, written.
#[derive(Debug, Clone, Default)]
struct Message(Vec<u8>);

impl Message {
    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(u8::try_from(value & 0x7f).unwrap_or_default() | 0x80);
            value >>= 7;
        }
        self.0.push(u8::try_from(value).unwrap_or_default());
    }
    fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        self.number(field << 3 | 2);
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }
    fn text(self, field: u64, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }
    fn texts(self, field: u64, texts: &[&str]) -> Self {
        texts.iter().fold(self, |message, text| message.text(field, text))
    }
    fn part(self, field: u64, part: &Message) -> Self {
        self.bytes(field, &part.0)
    }
    fn value(mut self, field: u64, value: u64) -> Self {
        self.number(field << 3);
        self.number(value);
        self
    }
}

/// Fields of a protobuf message, read: numbers, and what has a length.
#[derive(Debug, Default)]
struct Fields(Vec<(u64, u64, Vec<u8>)>);

fn number(bytes: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().context("the message is cut off")?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    bail!("a number is too long")
}

impl Fields {
    fn read(mut bytes: &[u8]) -> Result<Self> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let head = number(&mut bytes)?;
            match head & 7 {
                0 => all.push((head >> 3, number(&mut bytes)?, Vec::new())),
                2 => {
                    let length = usize::try_from(number(&mut bytes)?)?;
                    let (value, rest) = bytes.split_at_checked(length).context("the message is cut off")?;
                    bytes = rest;
                    all.push((head >> 3, 0, value.to_vec()));
                }
                other => bail!("a field of type {other}"),
            }
        }
        Ok(Self(all))
    }
    fn all(&self, field: u64) -> impl Iterator<Item = &[u8]> {
        self.0.iter().filter(move |(f, ..)| *f == field).map(|(_, _, bytes)| bytes.as_slice())
    }
    fn text(&self, field: u64) -> String {
        self.all(field).last().map(|b| String::from_utf8_lossy(b).into_owned()).unwrap_or_default()
    }
    fn value(&self, field: u64) -> u64 {
        self.0.iter().rfind(|(f, ..)| *f == field).map(|(_, value, _)| *value).unwrap_or_default()
    }
}

/// A pod, as a kubelet tells a runtime of it.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// `metadata.uid` of its object.
    pub uid: String,
    /// Address of cluster DNS.
    pub dns: String,
}

impl Sandbox {
    fn config(&self) -> Message {
        let metadata = Message::default().text(1, &self.name).text(2, &self.uid).text(3, &self.namespace);
        let search = format!("{}.svc.cluster.local", self.namespace);
        let dns = Message::default()
            .text(1, &self.dns)
            .texts(2, &[&search, "svc.cluster.local"])
            .text(3, "ndots:5");
        // An empty message for Linux: without one the runtime looks into nothing.
        Message::default().part(1, &metadata).text(2, &self.name).part(4, &dns).part(8, &Message::default())
    }
}

/// What a program in a container came to.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its exit code.
    pub code: u64,
    /// What it printed.
    pub out: String,
    /// What it complained of.
    pub err: String,
}

/// A runtime.
pub struct Cri {
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Cri {
    /// The runtime behind `socket`; nothing is asked yet.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn at(socket: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { socket: socket.to_owned(), runtime })
    }

    fn call(&self, method: &str, message: &Message) -> Result<Fields> {
        let asked = async { tokio::time::timeout(LIMIT, ask(&self.socket, method, &message.0)).await? };
        Fields::read(&self.runtime.block_on(asked).with_context(|| method.to_owned())?)
    }

    /// Waits for nothing: whether the runtime and its network say that they are ready.
    ///
    /// # Errors
    /// What they say instead.
    pub fn is_ready(&self) -> Result<()> {
        let status =
            Fields::read(self.call("Status", &Message::default())?.all(1).next().context("no status")?)?;
        for condition in status.all(1) {
            let condition = Fields::read(condition)?;
            ensure!(condition.value(2) == 1, "{}: {}", condition.text(1), condition.text(4));
        }
        Ok(())
    }

    /// Makes a sandbox, with its network; its id.
    ///
    /// # Errors
    /// What the runtime, or its plugin, says.
    pub fn run_sandbox(&self, sandbox: &Sandbox) -> Result<String> {
        Ok(self.call("RunPodSandbox", &Message::default().part(1, &sandbox.config()))?.text(1))
    }

    /// The addresses of a sandbox, as the runtime had them from its plugin.
    ///
    /// # Errors
    /// When the runtime does not know it.
    pub fn addresses(&self, sandbox: &str) -> Result<Vec<String>> {
        let answer = self.call("PodSandboxStatus", &Message::default().text(1, sandbox))?;
        let status = Fields::read(answer.all(1).next().context("no status")?)?;
        let network = Fields::read(status.all(5).next().context("no network")?)?;
        let mut all = vec![network.text(1)];
        for more in network.all(2) {
            all.push(Fields::read(more)?.text(1));
        }
        Ok(all)
    }

    /// Makes and starts a container of this image in a sandbox; its id.
    ///
    /// # Errors
    /// What the runtime says.
    pub fn start(&self, sandbox: &str, of: &Sandbox, image: &str, command: &[&str]) -> Result<String> {
        let config = Message::default()
            .part(1, &Message::default().text(1, "main"))
            .part(2, &Message::default().text(1, image))
            .texts(3, command)
            .part(15, &Message::default());
        let create = Message::default().text(1, sandbox).part(2, &config).part(3, &of.config());
        let id = self.call("CreateContainer", &create)?.text(1);
        self.call("StartContainer", &Message::default().text(1, &id))?;
        Ok(id)
    }

    /// Runs a program in a container, whatever comes of it.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn exec(&self, container: &str, command: &[&str]) -> Result<Output> {
        let message = Message::default().text(1, container).texts(2, command).value(3, 20);
        let answer = self.call("ExecSync", &message)?;
        Ok(Output { code: answer.value(3), out: answer.text(1), err: answer.text(2) })
    }

    /// Stops a sandbox with all that is in it, and removes it.
    ///
    /// # Errors
    /// What the runtime, or its plugin, says.
    pub fn remove(&self, sandbox: &str) -> Result<()> {
        let message = Message::default().text(1, sandbox);
        self.call("StopPodSandbox", &message)?;
        self.call("RemovePodSandbox", &message).map(drop)
    }
}

/// One call of gRPC, on a connection of its own.
async fn ask(socket: &Path, method: &str, message: &[u8]) -> Result<Vec<u8>> {
    let stream = UnixStream::connect(socket).await.with_context(|| socket.display().to_string())?;
    let (client, connection) = h2::client::handshake(stream).await?;
    let mut driven = JoinSet::new();
    driven.spawn(connection);
    let mut client = client.ready().await?;
    let request = Request::post(format!("http://localhost/runtime.v1.RuntimeService/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let (answer, mut body) = client.send_request(request, false)?;
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len())?.to_be_bytes());
    frame.extend_from_slice(message);
    body.send_data(frame.into(), true)?;
    let answer = answer.await?;
    let mut fields = answer.headers().clone();
    let (mut stream, mut bytes) = (answer.into_body(), Vec::new());
    while let Some(chunk) = stream.data().await {
        let chunk = chunk?;
        stream.flow_control().release_capacity(chunk.len())?;
        bytes.extend_from_slice(&chunk);
    }
    fields.extend(stream.trailers().await?.unwrap_or_default());
    let said = |name: &str| fields.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    ensure!(said("grpc-status") == "0", "{} (code {})", said("grpc-message"), said("grpc-status"));
    Ok(bytes.get(5..).unwrap_or_default().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let inner = Message::default().text(1, "a").value(3, 300);
        let bytes = Message::default().part(2, &inner).texts(5, &["x", "y"]).0;
        let fields = Fields::read(&bytes).unwrap();
        let part = Fields::read(fields.all(2).next().unwrap()).unwrap();
        assert_eq!((part.text(1), part.value(3)), ("a".to_owned(), 300));
        assert_eq!(fields.all(5).count(), 2);
        assert!(Fields::read(&bytes[..bytes.len() - 1]).is_err());
    }
}
