//! Errors of kernel requests.

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
        /// The errno.
        source: std::io::Error,
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
            Self::Kernel { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
    /// Whether the object was missing.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}
