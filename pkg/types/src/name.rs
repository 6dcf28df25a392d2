//! Validated names and identifiers.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Why a name was refused; the message names the kind, the value and the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {value:?} is not valid: {rule}")]
pub struct InvalidName {
    /// What the name would have named, for example `node name`.
    pub kind: &'static str,
    /// The refused value, cut to 80 characters.
    pub value: String,
    /// The rule it broke.
    pub rule: &'static str,
}

pub(crate) fn refuse(kind: &'static str, value: &str, rule: &'static str) -> InvalidName {
    InvalidName { kind, value: value.chars().take(80).collect(), rule }
}

/// RFC 1123 label as Kubernetes reads it: lower-case letters, digits and `-`, at most 63, no `-` at an end.
fn is_dns_label(s: &str) -> bool {
    s.len() <= 63 && is_label_of_any_length(s)
}

fn is_label_of_any_length(s: &str) -> bool {
    !s.is_empty()
        && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !s.starts_with('-')
        && !s.ends_with('-')
}

/// RFC 1123 subdomain as Kubernetes reads it: labels joined by dots, at most 253 characters in all. Unlike the RFC it does
/// not limit a single label, and its own controllers make names with longer ones.
pub(crate) fn is_dns_subdomain(s: &str) -> bool {
    s.len() <= 253 && s.split('.').all(is_label_of_any_length)
}

/// Container id of the CNI specification 1.1: a letter or digit, then letters, digits, `_`, `.`, `-`.
/// The length limit is ours (the specification has none): names become file names.
fn is_container_id(s: &str) -> bool {
    s.len() <= 200
        && s.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// Interface name as the kernel's `dev_valid_name` and the CNI specification accept it.
fn is_if_name(s: &str) -> bool {
    !s.is_empty()
        && s.len() <= 15
        && s != "."
        && s != ".."
        && s.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':')
}

fn is_boot_id(s: &str) -> bool {
    s.len() == 36 && s.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

fn is_node_id(s: &str) -> bool {
    s.len() == 32 && s.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:ident, $rule:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Validates `value`.
            ///
            /// # Errors
            /// [`InvalidName`] with the rule that `value` breaks.
            pub fn new(value: impl Into<String>) -> Result<Self, InvalidName> {
                let value = value.into();
                if $check(&value) { Ok(Self(value)) } else { Err(refuse($kind, &value, $rule)) }
            }
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(s: &str) -> Result<Self, InvalidName> {
                Self::new(s)
            }
        }
        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(s: String) -> Result<Self, InvalidName> {
                Self::new(s)
            }
        }
        impl From<$name> for String {
            fn from(n: $name) -> String {
                n.0
            }
        }
    };
}

name_type!(
    /// Name of a node (`Node.metadata.name`, an RFC 1123 subdomain).
    NodeName, "node name", is_dns_subdomain,
    "use lower-case letters, digits, '-' and '.', at most 253 characters"
);
name_type!(
    /// Name of a namespace (an RFC 1123 label).
    Namespace, "namespace", is_dns_label,
    "use lower-case letters, digits and '-', at most 63 characters"
);
name_type!(
    /// Name of a pod (`Pod.metadata.name`, an RFC 1123 subdomain).
    PodName, "pod name", is_dns_subdomain,
    "use lower-case letters, digits, '-' and '.', at most 253 characters"
);
name_type!(
    /// Name of a Service (`Service.metadata.name`, an RFC 1123 label).
    ServiceName, "service name", is_dns_label,
    "use lower-case letters, digits and '-', at most 63 characters"
);
name_type!(
    /// Name of a NetworkPolicy (`NetworkPolicy.metadata.name`, an RFC 1123 subdomain).
    PolicyName, "policy name", is_dns_subdomain,
    "use lower-case letters, digits, '-' and '.', at most 253 characters"
);
name_type!(
    /// Name of an EndpointSlice (`EndpointSlice.metadata.name`, an RFC 1123 subdomain).
    SliceName, "EndpointSlice name", is_dns_subdomain,
    "use lower-case letters, digits, '-' and '.', at most 253 characters"
);
name_type!(
    /// Name of an Ingress (`Ingress.metadata.name`, an RFC 1123 subdomain).
    IngressName, "ingress name", is_dns_subdomain,
    "use lower-case letters, digits, '-' and '.', at most 253 characters"
);
name_type!(
    /// Name of an IngressClass (`IngressClass.metadata.name`, an RFC 1123 subdomain).
    IngressClassName, "ingress class name", is_dns_subdomain,
    "use lower-case letters, digits, '-' and '.', at most 253 characters"
);
name_type!(
    /// Name of a GatewayClass (`GatewayClass.metadata.name`, an RFC 1123 subdomain).
    GatewayClassName, "gateway class name", is_dns_subdomain,
    "use lower-case letters, digits, '-' and '.', at most 253 characters"
);
name_type!(
    /// Name of a Gateway (`Gateway.metadata.name`, an RFC 1123 subdomain).
    GatewayName, "gateway name", is_dns_subdomain,
    "use lower-case letters, digits, '-' and '.', at most 253 characters"
);
name_type!(
    /// Name of an HTTPRoute or GRPCRoute (`metadata.name`, an RFC 1123 subdomain).
    RouteName, "route name", is_dns_subdomain,
    "use lower-case letters, digits, '-' and '.', at most 253 characters"
);
name_type!(
    /// Name of a ReferenceGrant (`ReferenceGrant.metadata.name`, an RFC 1123 subdomain).
    GrantName, "reference grant name", is_dns_subdomain,
    "use lower-case letters, digits, '-' and '.', at most 253 characters"
);
name_type!(
    /// Name of a Secret (`Secret.metadata.name`, an RFC 1123 subdomain).
    SecretName, "secret name", is_dns_subdomain,
    "use lower-case letters, digits, '-' and '.', at most 253 characters"
);
name_type!(
    /// `CNI_CONTAINERID` (CNI specification 1.1, section 2).
    ContainerId, "container id", is_container_id,
    "start with a letter or digit, then letters, digits, '_', '.', '-', at most 200 characters"
);
name_type!(
    /// Name of a network interface (`CNI_IFNAME`, `IFLA_IFNAME`).
    IfName, "interface name", is_if_name,
    "use 1 to 15 printable characters, without '/' and ':', not '.' or '..'"
);
name_type!(
    /// The kernel's boot id (`/proc/sys/kernel/random/boot_id`): changes with each boot.
    BootId, "boot id", is_boot_id, "expected the 36 characters of /proc/sys/kernel/random/boot_id"
);
name_type!(
    /// A node's own random identity: made at first start, kept in the store, independent of name and address.
    NodeId, "node id", is_node_id, "expected 32 lower-case hexadecimal digits"
);

macro_rules! key_type {
    ($key:ident, $name:ident, $what:literal) => {
        #[doc = concat!("Namespace and name of ", $what, ".")]
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $key {
            /// The namespace.
            pub namespace: Namespace,
            /// The name in it.
            pub name: $name,
        }

        impl $key {
            /// The inverse of its text, `namespace/name`.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                let (namespace, name) = text.split_once('/')?;
                Some(Self { namespace: Namespace::new(namespace).ok()?, name: $name::new(name).ok()? })
            }
        }

        impl fmt::Display for $key {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", self.namespace, self.name)
            }
        }
    };
}

key_type!(PodKey, PodName, "a pod");
key_type!(ServiceKey, ServiceName, "a Service");
key_type!(SliceKey, SliceName, "an EndpointSlice");
key_type!(PolicyKey, PolicyName, "a NetworkPolicy");
key_type!(IngressKey, IngressName, "an Ingress");
key_type!(GatewayKey, GatewayName, "a Gateway");
key_type!(RouteKey, RouteName, "an HTTPRoute or GRPCRoute");
key_type!(GrantKey, GrantName, "a ReferenceGrant");
key_type!(SecretRef, SecretName, "a Secret");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_kubernetes_accepts_are_accepted() {
        for ok in ["a", "node-1", "n1.example.org", "0"] {
            assert!(NodeName::new(ok).is_ok(), "{ok}");
        }
        assert!(SliceName::new("s".repeat(70)).is_ok());
        assert!(ServiceName::new("s".repeat(64)).is_err());
        assert!(ContainerId::new("A_b.c-1").is_ok());
        assert!(IfName::new("eth0").is_ok());
    }

    #[test]
    fn names_that_could_leave_a_directory_are_refused() {
        for bad in ["", ".", "..", "a/b", "../etc", "-a", "a-", "A", "a..b", "a\0b", "é"] {
            assert!(NodeName::new(bad).is_err(), "{bad:?}");
            assert!(PodName::new(bad).is_err(), "{bad:?}");
        }
        for bad in ["", ".", "..", "../x", "a/b", "_a", "a b", "a\n"] {
            assert!(ContainerId::new(bad).is_err(), "{bad:?}");
        }
        for bad in ["", ".", "..", "a/b", "a:b", "a b", "sixteen-letters-"] {
            assert!(IfName::new(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_name_is_one_safe_path_component(s in "\\PC{0,30}") {
            for ok in [NodeName::new(s.clone()).is_ok(), ContainerId::new(s.clone()).is_ok(), IfName::new(s.clone()).is_ok()] {
                if ok {
                    prop_assert!(!s.contains('/') && s != "." && s != ".." && !s.is_empty());
                }
            }
        }

        #[test]
        fn every_kind_of_name_takes_any_text_and_gives_it_back(s in "[a-z0-9A-Z.:/_-]{0,40}|\\PC{0,300}") {
            let check = |accepted: Result<String, InvalidName>| match accepted {
                Ok(name) => name == s && !s.is_empty() && !s.contains(['/', '\0']),
                Err(e) => e.value.chars().count() <= 80 && e.to_string().contains(e.rule),
            };
            prop_assert!(check(NodeName::new(s.clone()).map(String::from)));
            prop_assert!(check(Namespace::new(s.clone()).map(String::from)));
            prop_assert!(check(PodName::new(s.clone()).map(String::from)));
            prop_assert!(check(ContainerId::new(s.clone()).map(String::from)));
            prop_assert!(check(IfName::new(s.clone()).map(String::from)));
            prop_assert!(check(BootId::new(s.clone()).map(String::from)));
            prop_assert!(check(NodeId::new(s.clone()).map(String::from)));
        }

        #[test]
        fn serde_validates_too(s in "\\PC{0,30}") {
            let json = serde_json::to_string(&s).unwrap();
            prop_assert_eq!(serde_json::from_str::<ContainerId>(&json).is_ok(), ContainerId::new(s).is_ok());
        }
    }
}
