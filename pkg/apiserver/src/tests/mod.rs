//! The server as clients see it: over TLS on loopback.

mod connections;
mod controllers;
mod harness;
mod joining;
mod kubectl;
mod verbs;
mod watch_model;
mod watches;
