//! The faults that the test of `warren doctor` plants on nodes, one after another. Files of the kernel and of the host are covered by a mount in the
//! node's own mount namespace.

/// A fault.
pub struct Fault {
    /// The check that must find it, and no other.
    pub check: &'static str,
    /// `failure`, `warning` or `note`; several where it depends on the kernel, with bars between.
    pub status: &'static str,
    /// Script that plants it.
    pub plant: &'static str,
    /// Script that takes it away.
    pub undo: &'static str,
    /// What the finding says.
    pub says: &'static str,
    /// More arguments of `warren doctor`.
    pub args: &'static [&'static str],
    /// Where it is planted; it is looked for on the first node.
    pub node: &'static str,
}

const fn fault(
    check: &'static str,
    status: &'static str,
    plant: &'static str,
    undo: &'static str,
    says: &'static str,
) -> Fault {
    Fault { check, status, plant, undo, says, args: &[], node: "node-1" }
}

/// One that needs more arguments to be seen.
const fn asked(args: &'static [&'static str], fault: Fault) -> Fault {
    Fault { args, ..fault }
}

/// One that is planted on the other node.
const fn elsewhere(fault: Fault) -> Fault {
    Fault { node: "node-2", ..fault }
}

const DROP: &str = "nft delete table inet planted";

const UDP_HOLDER: &str = "python3 -c 'import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((\"\", 7777)); time.sleep(1000)' >/dev/null 2>&1 </dev/null & echo $! > /run/planted.pid";
const TCP_HOLDER: &str = "busybox nc -l -p 7777 >/dev/null 2>&1 </dev/null & echo $! > /run/planted.pid";

/// All of them.
pub const FAULTS: &[Fault] = &[
    fault(
        "ip-forward",
        "failure",
        "sysctl -qw net.ipv4.ip_forward=0",
        "sysctl -qw net.ipv4.ip_forward=1",
        "ip_forward is 0",
    ),
    fault(
        "rp-filter",
        "failure",
        "sysctl -qw net.ipv4.conf.wrn-wg.rp_filter=1",
        "sysctl -qw net.ipv4.conf.wrn-wg.rp_filter=2",
        "wrn-wg",
    ),
    fault(
        "route-localnet",
        "warning",
        "sysctl -qw net.ipv4.conf.all.route_localnet=1",
        "sysctl -qw net.ipv4.conf.all.route_localnet=0",
        "127.0.0.1",
    ),
    fault(
        "port-range",
        "warning",
        "sysctl -qw net.ipv4.ip_local_port_range='1024 60999'",
        "sysctl -qw net.ipv4.ip_local_port_range='32768 60999'",
        "30000 to 32767",
    ),
    fault(
        "conntrack-size",
        "warning",
        "echo 4096 > /run/max; mount --bind /run/max /proc/sys/net/netfilter/nf_conntrack_max",
        "umount /proc/sys/net/netfilter/nf_conntrack_max",
        "at most 4096",
    ),
    fault(
        "inotify-limits",
        "warning",
        "echo 8 > /run/max; mount --bind /run/max /proc/sys/fs/inotify/max_user_instances",
        "umount /proc/sys/fs/inotify/max_user_instances",
        "max_user_instances is 8",
    ),
    fault(
        "firewall-forward",
        "failure",
        "nft 'add table inet planted; add chain inet planted passing { type filter hook forward priority 0; policy drop; }'",
        DROP,
        "table inet planted, chain passing, policy drop",
    ),
    fault(
        "firewall-docker",
        "failure",
        "nft 'add table ip filter; add chain ip filter DOCKER-USER; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }; add rule ip filter FORWARD jump DOCKER-USER'",
        "nft delete table ip filter",
        "DOCKER-USER",
    ),
    fault(
        "firewall-ufw",
        "failure",
        "nft 'add table ip filter; add chain ip filter ufw-before-forward; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'",
        "nft delete table ip filter",
        "ufw route allow",
    ),
    fault(
        "firewall-firewalld",
        "failure",
        "nft 'add table inet firewalld; add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; }; add rule inet firewalld filter_FORWARD ct state established,related accept; add rule inet firewalld filter_FORWARD reject with icmpx admin-prohibited'",
        "nft delete table inet firewalld",
        "rule handle",
    ),
    fault(
        "firewall-tunnel-port",
        "failure",
        "nft 'add table inet planted; add chain inet planted in { type filter hook input priority 0; }; add rule inet planted in iifname \"eth0\" ct state new udp dport 51840 drop'",
        DROP,
        "chain in, rule handle",
    ),
    fault(
        "firewall-pods-to-host",
        "failure",
        "nft 'add table inet planted; add chain inet planted in { type filter hook input priority 0; }; add rule inet planted in iifname \"wrnp*\" udp dport 53 reject'",
        DROP,
        "cluster DNS",
    ),
    fault(
        "cni-conf-dir",
        "failure",
        "mkdir -p /var/lib/rancher/k3s/agent/etc/containerd; echo 'conf_dir = \"/etc/cni/other.d\"' > /var/lib/rancher/k3s/agent/etc/containerd/config.toml",
        "rm -r /var/lib/rancher",
        "conf_dir = /etc/cni/other.d",
    ),
    fault("cni-other-links", "warning", "ip link add cni0 type bridge", "ip link del cni0", "cni0"),
    fault(
        "cni-other-running",
        "warning",
        "cp /bin/sleep /run/flanneld; /run/flanneld 1000 >/dev/null 2>&1 </dev/null & echo $! > /run/planted.pid",
        "kill $(cat /run/planted.pid)",
        "flanneld (pid",
    ),
    fault(
        "other-dns",
        "warning",
        "cp /bin/sleep /run/coredns; /run/coredns 1000 >/dev/null 2>&1 </dev/null & echo $! > /run/planted.pid",
        "kill $(cat /run/planted.pid)",
        "coredns",
    ),
    fault(
        "kube-proxy",
        "warning",
        "nft 'add table ip kube-proxy; add chain ip kube-proxy services'",
        "nft delete table ip kube-proxy",
        "table ip kube-proxy",
    ),
    fault(
        "kube-router",
        "warning",
        "nft 'add table ip filter; add chain ip filter KUBE-ROUTER-INPUT'",
        "nft delete table ip filter",
        "KUBE-ROUTER-INPUT",
    ),
    fault(
        "portmap",
        "warning",
        "nft 'add table ip nat; add chain ip nat CNI-HOSTPORT-DNAT'",
        "nft delete table ip nat",
        "portmap",
    ),
    fault(
        "cni-other-first",
        "failure",
        "echo '{\"name\": \"cbr0\", \"plugins\": [{\"type\": \"flannel\"}]}' > /etc/cni/net.d/05-flannel.conflist",
        "rm /etc/cni/net.d/05-flannel.conflist",
        "05-flannel.conflist is for flannel",
    ),
    asked(
        &["--cni-conf-dir", "/run/empty.d"],
        fault(
            "cni-conflist",
            "failure",
            // containerd, where this machine has it, looks elsewhere too then, which is a fault of its own.
            "mkdir -p /run/empty.d; if [ -e /etc/containerd/config.toml ]; then : > /run/c; mount --bind /run/c /etc/containerd/config.toml; fi",
            "umount /etc/containerd/config.toml || true",
            "/run/empty.d/10-warren.conflist is missing",
        ),
    ),
    asked(
        &["--cni-bin-dir", "/run/bin.d"],
        fault(
            "cni-plugin",
            "failure",
            "mkdir -p /run/bin.d; echo x > /run/bin.d/warren",
            "true",
            "cannot be executed",
        ),
    ),
    fault(
        "cidr-overlap-addresses",
        "failure",
        "ip link add lan7 type bridge; ip link set lan7 up; ip address add 10.42.200.1/24 dev lan7",
        "ip link del lan7",
        "10.42.200.1/24 on lan7",
    ),
    fault(
        "cidr-overlap-routes",
        "failure",
        "ip link add vpn7 type bridge; ip link set vpn7 up; ip route add 10.43.128.0/20 dev vpn7 proto static",
        "ip link del vpn7",
        "10.43.128.0/20 dev vpn7",
    ),
    fault(
        "kubelet-dns",
        "failure",
        "mkdir -p /var/lib/kubelet; printf 'kind: KubeletConfiguration\\nclusterDNS:\\n- 10.96.0.10\\n' > /var/lib/kubelet/config.yaml",
        "rm -r /var/lib/kubelet",
        "10.96.0.10",
    ),
    fault(
        "resolv-loop",
        "warning",
        "printf 'nameserver 10.43.0.10\\nnameserver 203.0.113.10\\n' > /run/r; mount --bind /run/r /etc/resolv.conf",
        "umount /etc/resolv.conf",
        "10.43.0.10",
    ),
    fault(
        "resolv-stub",
        "failure",
        "echo nameserver 127.0.0.53 > /run/r; mount --bind /run/r /etc/resolv.conf",
        "umount /etc/resolv.conf",
        "127.0.0.53",
    ),
    fault(
        "resolv-upstream",
        "warning",
        ": > /run/r; mount --bind /run/r /etc/resolv.conf",
        "umount /etc/resolv.conf",
        "no resolver",
    ),
    fault(
        "resolv-nameservers",
        "warning",
        "for n in 1 2 3 4; do echo nameserver 203.0.113.$n; done > /run/r; mount --bind /run/r /etc/resolv.conf",
        "umount /etc/resolv.conf",
        "4 resolvers",
    ),
    fault(
        "resolv-search",
        "warning",
        "{ echo nameserver 203.0.113.10; printf search; for n in $(seq 40); do printf ' d%s.example' $n; done; echo; } > /run/r; mount --bind /run/r /etc/resolv.conf",
        "umount /etc/resolv.conf",
        "search domains",
    ),
    fault(
        "data-dir-permissions",
        "failure",
        "chmod 755 /var/lib/warren",
        "chmod 700 /var/lib/warren",
        "/var/lib/warren (755)",
    ),
    asked(
        &["--data-dir", "/run/ro"],
        fault(
            "data-dir-writable",
            "failure",
            "mkdir -p -m 700 /run/ro; mount -t tmpfs -o ro,mode=700 ro /run/ro",
            "umount /run/ro",
            "read-only",
        ),
    ),
    fault(
        "default-route",
        "note",
        "ip route show default > /run/default; ip route del default",
        "ip route add $(cat /run/default)",
        "no default route",
    ),
    fault(
        "kernel-tun",
        "failure|note",
        "mount --bind /dev/null /dev/net/tun",
        "umount /dev/net/tun",
        "no TUN link",
    ),
    asked(
        &["--data-dir", "/run/small"],
        fault(
            "disk-space",
            "warning",
            "mkdir -p -m 700 /run/small; mount -t tmpfs -o size=4m,mode=700 small /run/small",
            "umount /run/small",
            "are free where /run/small is",
        ),
    ),
    asked(&["--run-dir", "/run/none"], fault("agent-running", "failure", "true", "true", "no agent answers")),
    asked(&["--mtu", "12"], fault("configuration", "failure", "true", "true", "not an MTU")),
    asked(
        &["--tunnel-port", "7777"],
        fault(
            "port-tunnel",
            "failure",
            UDP_HOLDER,
            "kill $(cat /run/planted.pid)",
            "UDP 7777, the tunnel's, is held by others",
        ),
    ),
    asked(
        &["--health-address", "127.0.0.1:7777"],
        fault("port-health", "warning", TCP_HOLDER, "kill $(cat /run/planted.pid)", "port 7777 of health"),
    ),
    asked(
        &["--ingress-http-port", "7777"],
        fault(
            "port-ingress",
            "warning",
            TCP_HOLDER,
            "kill $(cat /run/planted.pid)",
            "serves no Ingress there",
        ),
    ),
    elsewhere(fault(
        "tunnel-mtu",
        "failure",
        "ip link set eth0 mtu 1330",
        "ip link set eth0 mtu 1500",
        "do not reach node-2",
    )),
    elsewhere(fault(
        "tunnel-answers",
        "failure",
        "nft 'add table inet planted; add chain inet planted in { type filter hook input priority -400; }; add rule inet planted in udp dport 51840 drop'",
        DROP,
        "node-2 does not answer across its tunnel",
    )),
];
