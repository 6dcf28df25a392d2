//! The server as clients see it: over TLS on loopback.

mod access;
mod applying;
mod backups;
mod connections;
mod controllers;
mod deleting;
mod gateways;
mod harness;
mod hostile;
mod ingresses;
mod joining;
mod kubectl;
mod operators;
mod policies;
mod python;
mod services;
mod tools;
mod transcript;
mod verbs;
mod watch_model;
mod watches;
