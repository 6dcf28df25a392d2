//! The plugin against the engine, over the real socket, in namespaces made for the test.

mod crash;
mod flow;
mod many;
mod support;
