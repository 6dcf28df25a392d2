//! Against the encoder's own reader, against a naive oracle, and against the kernel.

mod codec;
mod kernel;
mod packets;
mod ruleset;
mod sections;
mod support;
