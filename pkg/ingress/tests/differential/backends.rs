//! Backends of other make, and the reference: Python with h11, llhttp (httptools), waitress and h2, and nginx.

use serde::{Deserialize, de::DeserializeOwned};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The backends, in the order of their addresses.
pub(crate) const NAMES: [&str; 4] = ["h11", "llhttp", "waitress", "nginx"];

pub(crate) type Headers = Vec<(String, String)>;

/// A request as a backend understood it; bytes are Latin-1.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Entry {
    pub(crate) id: String,
    pub(crate) backend: String,
    pub(crate) method: String,
    pub(crate) target: String,
    /// What it says of headers, when it says that of all of them.
    pub(crate) headers: Option<Headers>,
    pub(crate) body: String,
    pub(crate) trailers: Headers,
    pub(crate) complete: bool,
    /// Why it took the request for none.
    pub(crate) error: String,
    /// Each `X-Forwarded-For`.
    pub(crate) client: Vec<String>,
    /// Bytes that came, when it took them for no request.
    pub(crate) raw: String,
}

/// What the reference makes of a connection.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Read {
    pub(crate) requests: Vec<Request>,
    /// Why there are no more.
    pub(crate) error: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Headers,
    pub(crate) body: String,
    pub(crate) trailers: Headers,
    pub(crate) complete: bool,
}

fn python() -> Command {
    // With a target of its own, cargo puts what it builds one deeper.
    let mut dirs = Path::new(env!("CARGO_TARGET_TMPDIR")).ancestors();
    let program = dirs.find_map(|dir| Some(dir.join("tools/python/bin/python")).filter(|path| path.exists()));
    let program = program.expect("there is no target/tools/python: run .ci/tools, which fetches it");
    let mut python = Command::new(program);
    python.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/differential/parsers.py"));
    python
}

/// The backends while they run.
pub(crate) struct Backends {
    pub(crate) addresses: Vec<SocketAddr>,
    dir: tempfile::TempDir,
    python: Child,
    says: BufReader<ChildStdout>,
    told: ChildStdin,
    nginx: Child,
}

impl Backends {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut python = python().arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut says = BufReader::new(python.stdout.take().unwrap());
        let told = python.stdin.take().unwrap();
        let ports: HashMap<String, u16> =
            serde_json::from_str(&line(&mut says)).expect("the ports of the backends");
        let mut addresses: Vec<SocketAddr> = NAMES
            .iter()
            .filter_map(|name| ports.get(*name))
            .map(|port| (Ipv4Addr::LOCALHOST, *port).into())
            .collect();
        let (nginx, address) = nginx(dir.path());
        addresses.push(address);
        Self { addresses, dir, python, says, told, nginx }
    }

    /// All that they saw, in the order in which each of them saw it.
    pub(crate) fn seen(&mut self) -> Vec<Entry> {
        let path = self.dir.path().join("seen.json");
        writeln!(self.told, "{}", path.display()).unwrap();
        assert_eq!(line(&mut self.says), "written\n");
        let mut seen: Vec<Entry> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let log = std::fs::read(self.dir.path().join("access.log")).unwrap();
        let log: String = log.into_iter().map(char::from).collect();
        seen.extend(log.lines().map(|line| of_nginx(line).unwrap_or_else(|| panic!("{line}"))));
        seen
    }
}

impl Drop for Backends {
    fn drop(&mut self) {
        for child in [&mut self.python, &mut self.nginx] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn line(from: &mut impl BufRead) -> String {
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    line
}

/// nginx, which hands requests on to itself so that it reads their bodies, and logs them.
fn nginx(dir: &Path) -> (Child, SocketAddr) {
    // Of an address that no other backend binds, so that nobody takes the port until nginx does.
    let address = TcpListener::bind("127.0.0.2:0").unwrap().local_addr().unwrap();
    let config = include_str!("nginx.conf");
    let config = config.replace("@dir@", dir.to_str().unwrap()).replace("@address@", &address.to_string());
    let path = dir.join("nginx.conf");
    std::fs::write(&path, config).unwrap();
    let child = Command::new("nginx")
        .arg("-c")
        .arg(path)
        .arg("-e")
        .arg(dir.join("error.log"))
        .spawn()
        .expect("nginx, of the package nginx-light");
    let begun = std::time::Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(begun.elapsed().as_secs() < 10, "nginx does not listen");
        std::thread::yield_now();
    }
    (child, address)
}

fn of_nginx(line: &str) -> Option<Entry> {
    #[derive(Deserialize)]
    struct Logged {
        id: String,
        client: String,
        request: String,
        status: String,
        body: String,
    }
    let logged: Logged = serde_json::from_str(line).ok()?;
    let (method, rest) = logged.request.split_once(' ').unwrap_or((&logged.request, ""));
    let (target, _) = rest.rsplit_once(' ').unwrap_or((rest, ""));
    let complete = logged.status == "200";
    let error = match &*logged.status {
        "200" | "499" => String::new(),
        status => format!("status {status}"),
    };
    Some(Entry {
        id: logged.id,
        backend: "nginx".to_owned(),
        method: method.to_owned(),
        target: target.to_owned(),
        body: logged.body,
        complete,
        error,
        client: vec![logged.client],
        raw: logged.request.clone(),
        ..Entry::default()
    })
}

/// What the reference makes of connections: each what was sent, and what came when that matters. Two processes share the work.
pub(crate) fn reference<T: DeserializeOwned>(connections: &[Vec<&[u8]>]) -> Vec<T> {
    let dir = tempfile::tempdir().unwrap();
    let half = connections.len().div_ceil(2).max(1);
    let running: Vec<(PathBuf, Child)> = connections
        .chunks(half)
        .enumerate()
        .map(|(at, part)| {
            let mut text = String::new();
            for connection in part {
                for (at, bytes) in connection.iter().enumerate() {
                    // The point stands for no bytes.
                    text.push_str(if at == 0 { "." } else { " ." });
                    bytes.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
                }
                text.push('\n');
            }
            let (input, output) = (dir.path().join(format!("in{at}")), dir.path().join(format!("out{at}")));
            std::fs::write(&input, text).unwrap();
            let out = std::fs::File::create(&output).unwrap();
            (output, python().arg("read").arg(input).stdout(out).spawn().unwrap())
        })
        .collect();
    let mut all = Vec::new();
    for (output, mut child) in running {
        assert!(child.wait().unwrap().success(), "the reference failed");
        let text = std::fs::read_to_string(output).unwrap();
        all.extend(text.lines().map(|line| serde_json::from_str::<T>(line).unwrap()));
    }
    assert_eq!(all.len(), connections.len());
    all
}
