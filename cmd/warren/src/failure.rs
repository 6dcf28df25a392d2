//! How a failure reaches the person at the keyboard: `error: ...`, its causes, a `hint:` line, an exit code.

use std::fmt;
use std::process::ExitCode;

/// Exit code of a failed run.
pub(crate) const EXIT_FAILURE: u8 = 1;
/// Exit code of wrong usage or configuration.
pub(crate) const EXIT_USAGE: u8 = 2;

/// A marker in an error's chain: it is the configuration that is wrong, so the exit code is 2.
#[derive(Debug)]
pub(crate) struct UsageError(pub(crate) String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for UsageError {}

/// An error with a line that says what to do about it.
#[derive(Debug)]
pub(crate) struct Hinted {
    what: String,
    hint: String,
}

impl Hinted {
    /// An error that says `what` is wrong, with a `hint` what to do.
    pub(crate) fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into() }
    }
}
impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}
impl std::error::Error for Hinted {}

/// The text of `error`, and its exit code.
pub(crate) fn describe(error: &anyhow::Error) -> (String, u8) {
    let mut text = format!("error: {error}\n");
    let mut last = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // Errors that already carry their cause's text in their own are not repeated.
        if !last.contains(&cause) {
            text.push_str(&format!("  caused by: {cause}\n"));
            last = cause;
        }
    }
    if let Some(hint) = error.chain().find_map(|e| e.downcast_ref::<Hinted>()) {
        text.push_str(&format!("hint: {}\n", hint.hint));
    }
    let usage = error.chain().any(|e| e.is::<UsageError>());
    (text, if usage { EXIT_USAGE } else { EXIT_FAILURE })
}

/// Prints `error` to stderr and gives its exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let (text, code) = describe(error);
    crate::output::stderr(&text);
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn causes_and_hints_are_shown_once_each() {
        let error = anyhow::Error::new(Hinted::new("no agent answers", "start it")).context("warren status");
        assert_eq!(
            describe(&error),
            ("error: warren status\n  caused by: no agent answers\nhint: start it\n".into(), EXIT_FAILURE)
        );
        let repeated =
            Err::<(), _>(std::io::Error::other("disk full")).context("write x: disk full").unwrap_err();
        assert_eq!(describe(&repeated).0, "error: write x: disk full\n");
    }

    #[test]
    fn configuration_faults_exit_with_2() {
        assert_eq!(describe(&anyhow::Error::new(UsageError("bad".into()))).1, EXIT_USAGE);
    }
}
