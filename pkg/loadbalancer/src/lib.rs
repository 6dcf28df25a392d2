//! Addresses for Services of type LoadBalancer: which they get, and who answers for them on the LAN.
//!
//! Job: give each such Service the addresses of the nodes that can serve it, or one per family from a pool; make exactly
//! one healthy node answer ARP and neighbour discovery for each address of the pool.
//! Inputs: tables `services`, `endpoint_slices`, `nodes`, `local_node`; what each host's programs listen on; whether this
//! node's data plane works; frames of the LAN. Outputs: table `load_balancer_addresses`, on the node whose turn it is;
//! the ports that this host's programs hold; frames; [`LoadBalancerStatus`].
//! Owns: nothing in the kernel. No address is put on any link: packets to one meet the proxy's rules at the door.
//! Ordering: nothing is given or announced before every table has been loaded once; an address is announced only after
//! it is in its Service's status, and by its holder at least every 0.5 s.
//! Failure modes: without the API the addresses stay as they are, and their announcements move on all the same; a node
//! that dies or stops falls silent, and the next takes its addresses over after 2 s of silence; in a parted LAN each part
//! has a holder, and when it heals the better rank stays. A foreign host that claims an address of the pool cannot be told
//! from a node of the cluster: keep the pool out of what DHCP gives.
//!
//! [`addresses`] and [`announce`] decide from values alone; `held` and `speaker` ask the kernel; `runner` wires them.

pub mod addresses;
pub mod announce;
mod config;
mod error;
mod held;
mod link;
mod pool;
mod runner;
mod speaker;
mod status;

pub use addresses::HeldPorts;
pub use config::{Deps, LoadBalancerConfig, Mode, Tables};
pub use error::LoadBalancerError;
pub use pool::{InvalidRange, Pool, PoolRange};
pub use runner::run;
pub use status::{AddressState, AddressStatus, LoadBalancerStatus, StatusSnapshot};
