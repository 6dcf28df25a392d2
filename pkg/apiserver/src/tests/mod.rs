//! The server as clients see it: over TLS on loopback.

mod connections;
mod harness;
mod joining;
mod kubectl;
mod services;
mod verbs;
mod watches;
