//! Warren on a machine: installed, upgraded, and taken away again.
//!
//! Job: put program, configuration, completions and services in place; exchange the program under a running node and take
//! it back when the node is not as well as before; remove everything by its marks and prove it.
//! Inputs: flags; what is on the disk and in the kernel; what a running agent says of itself. Outputs: files, running
//! services, reports.
//! Owns: `/usr/local/bin/warren` and `warren.previous` beside it, the services `warren-agent` and `warren-server`, completion
//! scripts, a configuration file that begins with its mark, `install.json` and `upgrade.json` in the data directory. The
//! plugin and the conflist are the agent's: it writes them when pods can be attached, and keeps them.
//! Ordering: a program is in place before what names it; the journal of an upgrade is on disk before the program changes;
//! removal begins with the conflist and ends with the data directory.
//! Failure modes: each file is replaced by a rename, so a power cut leaves the old or the new one; an upgrade that nobody
//! confirmed is taken back before the next start. Files that somebody changed are named, never overwritten unasked.

pub mod config;
pub mod disk;
mod error;
pub mod install;
mod observe;
pub mod places;
pub mod service;
pub mod uninstall;
pub mod upgrade;

pub use error::InstallError;
