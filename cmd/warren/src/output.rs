//! Writing to a person: a closed pipe (`warren status | head`) is no failure and never a panic.

use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};

/// Writes a line to stdout.
pub(crate) fn line(text: impl Display) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Writes text as it is to stdout; false when nobody reads any more.
pub(crate) fn text(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

/// Writes text as it is to stderr.
pub(crate) fn stderr(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Whether stdout is a terminal that wants colour (`NO_COLOR` and `TERM=dumb` say no).
pub(crate) fn colour() -> bool {
    std::io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
        && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
}
