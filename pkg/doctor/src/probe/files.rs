//! Files: CNI's, the runtime's, kubelet's, the data directory, the resolvers.

use super::Asked;
use crate::facts::{CniFacts, CniFile, Disk, Entry, Facts, Known, Resolvers};
use nix::sys::statvfs::{FsFlags, statvfs};
use serde_json::Value;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use warren_agent::config::Mode;
use warren_dns::resolv::{Paths, ResolvConf};
use warren_types::defaults::CNI_PLUGIN;

/// Where containerd is told of CNI: on its own, by k3s, by RKE2.
const CONTAINERD: [&str; 3] = [
    "/etc/containerd/config.toml",
    "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
    "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
];
/// Where kubelet is told of cluster DNS, and the key: on its own, by k3s, by RKE2.
const KUBELET: [(&str, &str); 3] = [
    ("/var/lib/kubelet/config.yaml", "clusterDNS"),
    ("/etc/rancher/k3s/config.yaml", "cluster-dns"),
    ("/etc/rancher/rke2/config.yaml", "cluster-dns"),
];
/// Files that are looked at in the data directory, and how deep.
const MOST_FILES: usize = 4096;
const DEEPEST: usize = 3;

pub(super) fn gather(asked: &Asked, facts: &mut Facts) {
    let config = &asked.config;
    facts.settings.announces_on = announces_on(asked, facts);
    facts.resolvers = Ok(resolvers());
    facts.cni = cni(asked, facts.status().ok().map(|s| s.pid));
    facts.runtime_conf_dirs = CONTAINERD.iter().filter_map(|file| conf_dir(Path::new(file))).collect();
    facts.kubelet_dns = KUBELET.iter().find_map(|(file, key)| cluster_dns(Path::new(file), key));
    facts.disk = disk(&config.data_dir);
    facts.data = match config.data_dir.is_dir() {
        true => Ok(secrets(&config.data_dir)),
        false => Err(format!("there is no {}", config.data_dir.display())),
    };
}

/// The link of an address pool: the one given, else that of this node's address.
fn announces_on(asked: &Asked, facts: &Facts) -> Option<String> {
    let services = &asked.config.services;
    if !matches!(services.load_balancer, Mode::Pool(_)) {
        return None;
    }
    let given = services.load_balancer_interface.as_ref().map(ToString::to_string);
    given.or_else(|| facts.own_addresses().first().and_then(|a| facts.link_of(*a)).map(str::to_owned))
}

fn resolvers() -> Resolvers {
    let paths = Paths::default();
    let read =
        |path: &Path| std::fs::read_to_string(path).map(|text| ResolvConf::parse(&text)).unwrap_or_default();
    let (etc, behind) = (read(&paths.etc), read(&paths.resolved));
    Resolvers {
        named: etc.nameservers.iter().map(|n| n.ip).collect(),
        search: etc.search.iter().map(ToString::to_string).collect(),
        behind_stub: !behind.nameservers.is_empty(),
    }
}

fn cni(asked: &Asked, agent: Option<u32>) -> Known<CniFacts> {
    let mut files = Vec::new();
    match std::fs::read_dir(&asked.config.cni_conf_dir) {
        Ok(entries) => files.extend(entries.flatten().filter_map(|e| cni_file(&e.path()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(format!("{}: {e}", asked.config.cni_conf_dir.display())),
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let plugin = asked.config.cni_bin_dir.join(CNI_PLUGIN);
    let mode = std::fs::metadata(&plugin).ok().map(|m| m.permissions().mode());
    let same =
        |pid: u32| warren_agent::files::same_content(Path::new(&format!("/proc/{pid}/exe")), &plugin).ok();
    Ok(CniFacts {
        files,
        plugin_mode: mode,
        // One that cannot be executed is told of as such.
        plugin_is_agents: agent.filter(|_| mode.is_some_and(|m| m & 0o111 != 0)).and_then(same),
    })
}

/// A file that runtimes read as CNI configuration.
fn cni_file(path: &Path) -> Option<CniFile> {
    let kind = path.extension()?.to_str()?;
    if !["conf", "conflist", "json"].contains(&kind) {
        return None;
    }
    let value: Value =
        std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let kind = |v: &Value| v["type"].as_str().map(str::to_owned);
    let plugins = match value["plugins"].as_array() {
        Some(list) => list.iter().filter_map(kind).collect(),
        None => kind(&value).into_iter().collect(),
    };
    Some(CniFile { name: path.file_name()?.to_string_lossy().into_owned(), plugins })
}

/// The value of `conf_dir` in containerd's configuration.
fn conf_dir(file: &Path) -> Option<(PathBuf, PathBuf)> {
    let text = std::fs::read_to_string(file).ok()?;
    let value = text.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        let value = value.split('#').next()?.trim().trim_matches(['"', '\'']);
        (key.trim() == "conf_dir" && !value.is_empty()).then(|| PathBuf::from(value))
    })?;
    Some((file.to_owned(), value))
}

fn cluster_dns(file: &Path, key: &str) -> Option<(PathBuf, Vec<IpAddr>)> {
    let text = std::fs::read_to_string(file).ok()?;
    let value: Value = serde_saphyr::from_str(&text).ok()?;
    let words: Vec<&str> = match &value[key] {
        Value::String(text) => text.split(',').collect(),
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        _ => return None,
    };
    Some((file.to_owned(), words.iter().filter_map(|w| w.trim().parse().ok()).collect()))
}

/// The file system of a directory, or of what is above it.
#[allow(clippy::useless_conversion, reason = "on 32-bit machines these counts are narrower")]
fn disk(dir: &Path) -> Known<Disk> {
    let there = dir.ancestors().find(|d| d.exists()).unwrap_or(Path::new("/"));
    let stat = statvfs(there).map_err(|e| format!("{}: {e}", there.display()))?;
    let bytes = |blocks: u64| blocks * u64::from(stat.fragment_size());
    Ok(Disk {
        total: bytes(stat.blocks().into()),
        free: bytes(stat.blocks_available().into()),
        read_only: stat.flags().contains(FsFlags::ST_RDONLY),
    })
}

/// What only root may enter or read: the directories, and the files that hold keys and tokens. The store's own files are
/// behind such a directory.
fn secrets(dir: &Path) -> Vec<Entry> {
    let mut found = Vec::new();
    let mut todo = vec![(dir.to_owned(), 0)];
    let mut seen = 0;
    while let Some((path, depth)) = todo.pop() {
        let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let entry = Entry { path: path.clone(), mode: meta.permissions().mode(), is_dir: meta.is_dir() };
        let is_secret = ["kubeconfig", "token", ".key", "-key"].iter().any(|w| name.contains(w));
        if meta.is_dir() {
            // What is below a directory that nobody else enters is behind it.
            if depth <= 1 && (depth == 0 || ["agent", "server"].contains(&name.as_str())) {
                found.push(entry);
            }
            let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
            if depth < DEEPEST && seen < MOST_FILES {
                todo.extend(entries.map(|e| (e.path(), depth + 1)));
            }
        } else if meta.is_file() && is_secret {
            found.push(entry);
        }
        seen += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_others_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name)
        };
        let toml = write(
            "config.toml",
            "[plugins.\"x\".cni]\n  bin_dir = \"/a\"\n  conf_dir = \"/etc/cni/b\" # here\n",
        );
        assert_eq!(conf_dir(&toml).unwrap().1, Path::new("/etc/cni/b"));
        let kubelet = write("kubelet.yaml", "kind: KubeletConfiguration\nclusterDNS:\n- 10.96.0.10\n");
        assert_eq!(cluster_dns(&kubelet, "clusterDNS").unwrap().1, [IpAddr::from([10, 96, 0, 10])]);
        let k3s = write("k3s.yaml", "cluster-dns: 10.43.0.10,fd00::a\n");
        assert_eq!(cluster_dns(&k3s, "cluster-dns").unwrap().1.len(), 2);
        let list = write("10-x.conflist", r#"{"plugins": [{"type": "bridge"}, {"type": "portmap"}]}"#);
        assert_eq!(cni_file(&list).unwrap().plugins, ["bridge", "portmap"]);
        assert_eq!(cni_file(&write("torn.conf", "{")).unwrap().plugins, [""; 0]);
        assert_eq!(cni_file(&write("notes.txt", "")), None);
    }

    #[test]
    fn secrets_are_found_by_name_and_directories_by_depth() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("agent/store")).unwrap();
        for (name, mode) in
            [("agent/kubeconfig", 0o644), ("agent/store/db", 0o644), ("agent/sysctls.json", 0o600)]
        {
            let path = dir.path().join(name);
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let mut found: Vec<_> = secrets(dir.path()).into_iter().map(|e| (e.path, e.is_dir)).collect();
        found.sort();
        let at = |name: &str| dir.path().join(name);
        assert_eq!(
            found,
            [(dir.path().to_owned(), true), (at("agent"), true), (at("agent/kubeconfig"), false)]
        );
    }
}
