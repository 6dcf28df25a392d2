//! Error objects.

use super::SpecVersion;
use serde_json::{Value, json};
use std::fmt;

/// Error codes: those of the specification, and from 100 on Warren's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// 1: a `cniVersion` that is not supported, or a verb that it does not have.
    IncompatibleVersion,
    /// 2: a field of the network configuration that is not supported; the message names it with its value.
    UnsupportedField,
    /// 3: no such container, and nothing to clean up.
    UnknownContainer,
    /// 4: environment variables are missing or not valid; the message names them.
    InvalidEnvironment,
    /// 5: an I/O failure.
    Io,
    /// 6: something that cannot be decoded.
    Decode,
    /// 7: a network configuration that is not valid.
    InvalidConfig,
    /// 11: a condition that will pass.
    TryAgain,
    /// 50 (STATUS): ADD cannot be served.
    NotAvailable,
    /// 51 (STATUS): ADD cannot be served, and existing containers have limited connectivity.
    LimitedConnectivity,
    /// 100: the kernel or the store refused.
    Failed,
    /// 101: the attachment or the interface exists already.
    Exists,
    /// 102: a requested address cannot be given.
    AddressUnavailable,
    /// 103 (CHECK): what is there differs from what ADD made.
    Differs,
    /// 104: another pod has a host port that was asked for.
    HostPortTaken,
}

impl Code {
    /// The number.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::IncompatibleVersion => 1,
            Self::UnsupportedField => 2,
            Self::UnknownContainer => 3,
            Self::InvalidEnvironment => 4,
            Self::Io => 5,
            Self::Decode => 6,
            Self::InvalidConfig => 7,
            Self::TryAgain => 11,
            Self::NotAvailable => 50,
            Self::LimitedConnectivity => 51,
            Self::Failed => 100,
            Self::Exists => 101,
            Self::AddressUnavailable => 102,
            Self::Differs => 103,
            Self::HostPortTaken => 104,
        }
    }
}

/// Why a request was not carried out: what the runtime gets, and through it a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Kind of the error.
    pub code: Code,
    /// What is wrong, in one line.
    pub msg: String,
    /// More, and what to do; may be empty.
    pub details: String,
}

impl Refusal {
    /// Without details.
    #[must_use]
    pub fn new(code: Code, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    /// With details.
    #[must_use]
    pub fn with(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// The error object.
    #[must_use]
    pub fn render(&self, version: SpecVersion) -> Value {
        let mut object = json!({
            "cniVersion": version.as_str(),
            "code": self.code.number(),
            "msg": self.msg,
        });
        if !self.details.is_empty() {
            object["details"] = self.details.clone().into();
        }
        object
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.msg, self.code.number())?;
        if self.details.is_empty() { Ok(()) } else { write!(f, ": {}", self.details) }
    }
}

impl std::error::Error for Refusal {}
