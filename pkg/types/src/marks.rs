//! Ownership marks: how a Warren with no memory recognises every kernel object that Warren made.
//!
//! What has none of these marks is never changed or removed. ARCHITECTURE.md lists them for people; this
//! module is the one place in code.

/// The one nftables table, family `inet`. Everything inside it is Warren's.
pub const NFT_TABLE: &str = "warren";
/// Route protocol number (`rtm_protocol`) of every route and rule that Warren adds. Unused in
/// `/etc/iproute2/rt_protos` and by the routing daemons that register there.
pub const ROUTE_PROTOCOL: u8 = 87;
/// Routing table that sends pods' traffic for other nodes' own addresses into the tunnel.
pub const ROUTE_TABLE_NODES: u32 = 8700;
/// Priority of the `ip rule` that selects [`ROUTE_TABLE_NODES`] for packets from local pods.
pub const RULE_PRIORITY_NODES: u32 = 8700;
/// Metric of the unreachable guard routes: any tunnel route (metric 0 or unset) wins over them.
pub const GUARD_METRIC: u32 = 0x7fff_0000;
/// Every link of Warren's begins with this.
pub const LINK_PREFIX: &str = "wrn";
/// Host side of a pod's veth pair: this and eleven hex digits (15 characters, the kernel's limit).
pub const POD_LINK_PREFIX: &str = "wrnp";
/// The WireGuard link.
pub const TUNNEL_LINK: &str = "wrn-wg";
/// Every link of Warren's carries an alias (`IFLA_IFALIAS`) that begins with this.
pub const LINK_ALIAS_PREFIX: &str = "warren:";
/// Firewall mark of the tunnel's own (outer) packets, so that they never match Warren's rules for pods.
pub const TUNNEL_FWMARK: u32 = 0x5700_0000;
/// Bits of the packet and conntrack mark that Warren may set; all others belong to the host.
pub const MARK_MASK: u32 = 0xff00_0000;
/// Bit of the packet and conntrack mark of connections that Warren's proxy translated.
pub const SERVICE_MARK: u32 = 0x0100_0000;
