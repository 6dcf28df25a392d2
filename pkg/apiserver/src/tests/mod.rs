//! The server as clients see it: over TLS on loopback.

mod access;
mod backups;
mod connections;
mod harness;
mod hostile;
mod joining;
mod kubectl;
mod verbs;
mod watches;
