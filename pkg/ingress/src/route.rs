//! The route table: which request goes where, and what happens to it on the way.
//!
//! All of it is typed data, valid when made; nothing becomes text that is read again. The table is not shaped by any API: an
//! Ingress and an HTTPRoute of the Gateway API compile into the same matches, filters and weighted backends.

mod action;
mod matching;
mod table;
#[cfg(test)]
mod tests;
mod tree;

pub use action::{
    Action, Backend, BasicAuth, Cors, Ejection, Endpoint, Endpoints, Forward, HeaderEdits, Limits, PathEdit,
    Protocol, ProxyHeader, Rate, Readiness, Redirect, Retry, Route, SameSite, Scheme, SourceRanges, Sticky,
    Timeouts, Weighted,
};
pub use matching::{HeaderFields, HostMatch, Match, PathMatch, RequestLine, ValueMatch};
pub use table::{Matched, RouteTable, RouteTableBuilder};
pub use tree::elements;
