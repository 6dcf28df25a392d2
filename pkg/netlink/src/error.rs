//! Errors of kernel requests.

use std::io;

/// A kernel request that failed, naming the object.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetlinkError {
    /// The kernel answered with an errno.
    #[error("{op} {object}: {source}")]
    Kernel {
        /// The verb, for example `add link`.
        op: &'static str,
        /// The object, for example `wrnp0a1b2c3d4e5`.
        object: String,
        /// The errno, with the kernel's own explanation when it gave one ([`KernelAnswer`]).
        source: io::Error,
    },
    /// The object does not exist.
    #[error("{op} {object}: does not exist")]
    NotFound {
        /// The verb.
        op: &'static str,
        /// The object.
        object: String,
    },
    /// The kernel's answer could not be understood, or the socket ended.
    #[error("{op}: {reason}")]
    Protocol {
        /// The verb.
        op: &'static str,
        /// What was wrong.
        reason: String,
    },
}

impl NetlinkError {
    /// The errno, when the kernel gave one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { source, .. } => errno_of(source),
            _ => None,
        }
    }
    /// Whether the object was missing.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

/// The errno inside an I/O error, also when the kernel's explanation travels with it.
fn errno_of(error: &io::Error) -> Option<i32> {
    let answer = || error.get_ref()?.downcast_ref::<KernelAnswer>().map(|a| a.errno);
    error.raw_os_error().or_else(answer)
}

/// An errno together with the text of the kernel's extended acknowledgement; the payload of the `io::Error` in
/// [`NetlinkError::Kernel`] when there is such a text.
#[derive(Debug, thiserror::Error)]
#[error("{} ({text})", io::Error::from_raw_os_error(*errno))]
pub struct KernelAnswer {
    /// The errno, positive.
    pub errno: i32,
    /// What the kernel says about it.
    pub text: String,
}

impl KernelAnswer {
    /// An I/O error of this errno, with the explanation when there is one.
    #[must_use]
    pub fn into_io(errno: i32, text: Option<String>) -> io::Error {
        let plain = io::Error::from_raw_os_error(errno);
        match text {
            Some(text) if !text.is_empty() => io::Error::new(plain.kind(), Self { errno, text }),
            _ => plain,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explained_errno_is_still_an_errno() {
        for text in [None, Some("Invalid prefix for given prefix length".to_owned())] {
            let source = KernelAnswer::into_io(22, text);
            let error = NetlinkError::Kernel { op: "add route", object: "10.0.0.1/8".into(), source };
            assert_eq!(error.errno(), Some(22));
            assert!(error.to_string().starts_with("add route 10.0.0.1/8: Invalid argument"), "{error}");
        }
    }
}
