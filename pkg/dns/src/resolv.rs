//! The resolvers that the node itself uses.
//!
//! They are named in `/etc/resolv.conf`, or behind it: when that names the stub of systemd-resolved, the real ones are in
//! resolved's own file. The stub would answer too, but it may ask us for the cluster's names, and then a question would go
//! round. Any other resolver on loopback (dnsmasq, unbound) is one that somebody chose, and it is asked: the agent lives in
//! the node's network namespace and reaches it. Our own addresses are never upstreams, wherever they are named.
//!
//! Nothing here fails: a file that is missing or makes no sense leaves fewer resolvers, and the result says why.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::upstream::address::{Address, Transport};
use crate::wire::Name;

/// Where systemd-resolved listens: its stub, and the one without DNSSEC and local names.
const STUBS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54))];
/// Most resolvers that are taken; libc takes three.
const MOST_UPSTREAMS: usize = 8;
/// Most search domains that are taken; those of kubelet and libc stay below.
const MOST_SEARCH: usize = 32;
/// So much of a file is read.
const LONGEST: usize = 64 << 10;
/// How often files are looked at for changes: three calls of stat.
const EVERY: Duration = Duration::from_secs(2);

/// Where the files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// What libc reads.
    pub etc: PathBuf,
    /// What systemd-resolved asks.
    pub resolved: PathBuf,
    /// What NetworkManager knows when it runs a stub of its own.
    pub network_manager: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            etc: "/etc/resolv.conf".into(),
            resolved: "/run/systemd/resolve/resolv.conf".into(),
            network_manager: "/run/NetworkManager/no-stub-resolv.conf".into(),
        }
    }
}

impl Paths {
    fn all(&self) -> [&Path; 3] {
        [&self.etc, &self.resolved, &self.network_manager]
    }
}

/// What a file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// Its resolvers, each once.
    pub nameservers: Vec<Address>,
    /// Its search domains; the last line that has any counts.
    pub search: Vec<Name>,
    /// What could not be read, with the reason.
    pub refused: Vec<String>,
}

impl ResolvConf {
    /// Reads the text as libc does. What makes no sense is passed over.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => conf.nameserver(words.next().unwrap_or_default()),
                Some("search" | "domain") => {
                    let names = words.filter(|word| *word != ".").take(MOST_SEARCH);
                    let (names, refused): (Vec<_>, Vec<_>) =
                        names.map(str::parse::<Name>).partition(Result::is_ok);
                    conf.search = names.into_iter().flatten().collect();
                    conf.refused
                        .extend(refused.into_iter().filter_map(Result::err).map(|error| error.to_string()));
                }
                _ => {}
            }
        }
        conf
    }

    fn nameserver(&mut self, word: &str) {
        match word.parse::<Address>() {
            // Ports and the like are ours; libc would not read them.
            Ok(address)
                if address.port == 53 && address.transport == Transport::Plain && !word.contains('[') =>
            {
                if !self.nameservers.contains(&address) && self.nameservers.len() < MOST_UPSTREAMS {
                    self.nameservers.push(address);
                }
            }
            Ok(_) => self.refused.push(format!("nameserver {word:?} is more than an address")),
            Err(error) => self.refused.push(error.to_string()),
        }
    }
}

/// Where upstreams come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// From Warren's configuration.
    Configured,
    /// From this file.
    File(PathBuf),
    /// There are none.
    None,
}

/// A resolver that is named and not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Which.
    pub address: Address,
    /// Why.
    pub why: Why,
}

/// Why a resolver is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// It is our own address: a question would come back for ever.
    Ourselves,
    /// It is the stub of systemd-resolved, in place of which stands what it asks itself.
    Stub(PathBuf),
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Why::Ourselves => write!(f, "{} is Warren's own DNS address", self.address),
            Why::Stub(path) => {
                write!(f, "{} is the stub of systemd-resolved; {} is used", self.address, path.display())
            }
        }
    }
}

/// The node's resolvers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostResolver {
    /// Whom to ask. With none, outside names get SERVFAIL.
    pub upstreams: Vec<Address>,
    /// The node's search domains, which pods have behind those of the cluster.
    pub search: Vec<Name>,
    /// Where the upstreams come from.
    pub source: Source,
    /// What is named and not used, and why.
    pub left_out: Vec<LeftOut>,
    /// What could not be read: files, and lines of them.
    pub problems: Vec<String>,
}

impl HostResolver {
    /// Finds them: those configured, else those of the node. `own` are our own DNS addresses.
    #[must_use]
    pub fn find(configured: &[Address], own: &[IpAddr], paths: &Paths) -> Self {
        Self::find_with(configured, own, paths, |path| {
            use io::Read as _;
            let mut bytes = Vec::new();
            std::fs::File::open(path)?.take(LONGEST as u64).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        })
    }

    /// As [`HostResolver::find`], with files read by `read`.
    #[must_use]
    pub fn find_with(
        configured: &[Address],
        own: &[IpAddr],
        paths: &Paths,
        read: impl Fn(&Path) -> io::Result<String>,
    ) -> Self {
        let mut found = Self {
            upstreams: vec![],
            search: vec![],
            source: Source::None,
            left_out: vec![],
            problems: vec![],
        };
        let etc = found.read(&paths.etc, true, &read);
        let stub = etc.nameservers.iter().find(|server| STUBS.contains(&server.ip));
        found.search.clone_from(&etc.search);
        if !configured.is_empty() {
            if found.take(configured, own) {
                found.source = Source::Configured;
            }
            return found;
        }
        let mut files = vec![(&paths.etc, etc.clone())];
        if let Some(stub) = stub {
            let behind = found.read(&paths.resolved, true, &read);
            if found.search.is_empty() {
                found.search.clone_from(&behind.search);
            }
            // An empty file says that resolved knows nobody yet; then the stub would know nobody either, but may later.
            if !behind.nameservers.is_empty() {
                let why = Why::Stub(paths.resolved.clone());
                found.left_out.push(LeftOut { address: stub.clone(), why });
                files[0].1.nameservers.retain(|server| !STUBS.contains(&server.ip));
                files.insert(0, (&paths.resolved, behind));
            }
        }
        for (path, conf) in &files {
            if found.take(&conf.nameservers, own) {
                found.source = Source::File((*path).clone());
                return found;
            }
        }
        let others = found.read(&paths.network_manager, false, &read);
        if found.take(&others.nameservers, own) {
            found.source = Source::File(paths.network_manager.clone());
        }
        found
    }

    fn read(&mut self, path: &Path, needed: bool, read: &impl Fn(&Path) -> io::Result<String>) -> ResolvConf {
        match read(path) {
            Ok(text) => {
                let conf = ResolvConf::parse(&text);
                self.problems.extend(conf.refused.iter().map(|why| format!("{}: {why}", path.display())));
                conf
            }
            Err(error) => {
                if needed {
                    self.problems.push(format!("{} can not be read: {error}", path.display()));
                }
                ResolvConf::default()
            }
        }
    }

    /// Takes those that are not ourselves; says whether there are any.
    fn take(&mut self, servers: &[Address], own: &[IpAddr]) -> bool {
        for server in servers {
            if own.contains(&server.ip) {
                let left_out = LeftOut { address: server.clone(), why: Why::Ourselves };
                if !self.left_out.contains(&left_out) {
                    self.left_out.push(left_out);
                }
            } else if !self.upstreams.contains(server) {
                self.upstreams.push(server.clone());
            }
        }
        !self.upstreams.is_empty()
    }
}

/// Looks whether the files change.
///
/// By asking for their times every two seconds rather than by inotify: the files are links into directories that come and
/// go with the programs that write them, and a watch of what is not there yet hears nothing.
#[derive(Debug)]
pub struct Watch {
    paths: Paths,
    seen: [Option<Stamp>; 3],
}

/// What of a file changes when it does: device, inode, size, and time in seconds and nanoseconds.
type Stamp = (u64, u64, u64, i64, i64);

impl Watch {
    /// Changes from now on.
    #[must_use]
    pub fn new(paths: Paths) -> Self {
        let seen = stamps(&paths);
        Self { paths, seen }
    }

    /// Whether a file changed since this was last asked.
    pub fn look(&mut self) -> bool {
        let now = stamps(&self.paths);
        std::mem::replace(&mut self.seen, now) != now
    }

    /// Waits until a file changes. Nothing is lost when the wait is given up.
    pub async fn changed(&mut self) {
        while !self.look() {
            tokio::time::sleep(EVERY).await;
        }
    }
}

fn stamps(paths: &Paths) -> [Option<Stamp>; 3] {
    paths.all().map(|path| {
        let file = std::fs::metadata(path).ok()?;
        Some((file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
    })
}

#[cfg(test)]
#[path = "resolv_tests.rs"]
mod tests;
