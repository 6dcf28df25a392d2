//! Users and passwords of basic authentication.

use std::collections::HashMap;

/// Users, and the hashes of their passwords as `htpasswd` writes them.
#[derive(Default)]
pub struct Users {
    hashes: HashMap<Box<[u8]>, Box<str>>,
}

impl std::fmt::Debug for Users {
    /// How many, never who.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} users", self.hashes.len())
    }
}

impl Users {
    /// Reads a file as `htpasswd` writes it.
    pub fn parse(_: &[u8]) -> Result<Self, String> {
        Ok(Self::default())
    }
}
