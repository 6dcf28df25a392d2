//! Ingresses as the cluster sees them, what they need besides, and what this node has to say of them.

use crate::name::{InvalidName, is_dns_subdomain, refuse};
use crate::{Fault, IngressClassName, IngressKey, SecretBytes, SecretName, SecretRef, ServiceName};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

/// `spec.controller` of IngressClasses that Warren serves.
pub const INGRESS_CONTROLLER: &str = "warren.dev/ingress";
/// The name of the IngressClass that Warren makes.
pub const INGRESS_CLASS_NAME: &str = "warren";
/// Annotation on a Node: comma-separated ports on which it really serves ingress.
pub const ANNOTATION_INGRESS: &str = "warren.dev/ingress";
/// Annotation on an Ingress, from before `spec.ingressClassName`: the class.
pub const ANNOTATION_INGRESS_CLASS: &str = "kubernetes.io/ingress.class";
/// Annotation on an IngressClass: `true` makes it the class of Ingresses that name none.
pub const ANNOTATION_DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";
/// Annotations of an Ingress that begin like this are options of Warren.
pub const PREFIX_OPTIONS: &str = "ingress.warren.dev/";
/// Annotations of an Ingress that begin like this are options of ingress-nginx.
pub const PREFIX_NGINX: &str = "nginx.ingress.kubernetes.io/";
/// Annotation on an Ingress: [`CERTIFICATE_PRIVATE`] asks for certificates of Warren's own authority.
pub const ANNOTATION_CERTIFICATE: &str = "ingress.warren.dev/certificate";
/// The value of [`ANNOTATION_CERTIFICATE`].
pub const CERTIFICATE_PRIVATE: &str = "private";
/// Namespace and name of the Secret with the certificate of hosts that have none of their own.
pub const DEFAULT_CERTIFICATE: (&str, &str) = ("kube-system", "warren-ingress-default");
/// Annotation on a Secret whose certificate Warren's authority issued: the SHA-256 of that entry.
pub const ANNOTATION_ISSUED: &str = "warren.dev/issued";
/// Namespace and name of the ConfigMap with the certificate of Warren's authority, in the entry `ca.crt`.
pub const AUTHORITY_CONFIG_MAP: (&str, &str) = ("kube-system", "warren-ca");
/// Namespace and name of the Secret with that authority's certificate and key, where agents issue certificates.
pub const AUTHORITY_SECRET: (&str, &str) = ("kube-system", "warren-ca-key");
/// Options, without their prefix, that name a Secret: `name`, or `namespace/name` with the Ingress' own namespace. Besides
/// those of `spec.tls` these are all that a node may read.
pub const SECRET_OPTIONS: [&str; 2] = ["auth-secret", "auth-tls-secret"];
/// The entries of a Secret that are ever read: certificate, key, authorities of clients, and passwords.
pub const SECRET_ENTRIES: [&str; 4] = ["tls.crt", "tls.key", "ca.crt", "auth"];

/// An Ingress (networking.k8s.io/v1). Table `ingresses`, written by `source`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ingress {
    /// Namespace and name.
    pub key: IngressKey,
    /// `metadata.uid`, as opaque text.
    pub uid: String,
    /// `metadata.creationTimestamp` in seconds since 1970; only ever compared with another's, to find the older.
    pub created: i64,
    /// `spec.ingressClassName`, or else annotation [`ANNOTATION_INGRESS_CLASS`].
    pub class: Option<String>,
    /// Annotations that begin with [`PREFIX_OPTIONS`] or [`PREFIX_NGINX`], whole names and values as they were written.
    pub options: BTreeMap<String, String>,
    /// `spec.defaultBackend`: what no rule matches.
    pub default_backend: Option<IngressBackend>,
    /// `spec.rules`.
    pub rules: Vec<IngressRule>,
    /// `spec.tls`.
    pub tls: Vec<IngressTls>,
    /// `status.loadBalancer.ingress`: addresses.
    pub published: Vec<IpAddr>,
}

/// One of `spec.rules`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressRule {
    /// `host`; none: every host.
    pub host: Option<HostPattern>,
    /// `http.paths`; empty: everything of that host goes to the default backend.
    pub paths: Vec<IngressPath>,
}

/// One of `http.paths`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressPath {
    /// `path`: begins with `/`, no control characters. For the other kinds than `ImplementationSpecific` it holds no
    /// `//`, no element `.` or `..`, and no encoded slash.
    pub path: String,
    /// `pathType`.
    pub kind: PathKind,
    /// Where to.
    pub backend: IngressBackend,
}

/// `pathType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PathKind {
    /// The whole path, byte by byte.
    Exact,
    /// The first elements of the path.
    Prefix,
    /// What the controller makes of it.
    ImplementationSpecific,
}

impl fmt::Display for PathKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Exact => "Exact",
            Self::Prefix => "Prefix",
            Self::ImplementationSpecific => "ImplementationSpecific",
        })
    }
}

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IngressBackend {
    /// A port of a Service of the same namespace.
    Service {
        /// The Service.
        name: ServiceName,
        /// Its port.
        port: BackendPort,
    },
    /// Another kind of object, as `kind.group/name`, which cannot be served.
    Resource(String),
    /// What could not be read. Its path stays, lest its requests go to the backend of a shorter one.
    Unreadable,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum BackendPort {
    /// By number, 1 to 65535.
    Number(u16),
    /// By name.
    Name(String),
}

impl fmt::Display for BackendPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => fmt::Display::fmt(number, f),
            Self::Name(name) => f.pad(name),
        }
    }
}

/// One of `spec.tls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressTls {
    /// `hosts`; empty: whatever the certificate is for.
    pub hosts: Vec<HostPattern>,
    /// `secretName`; none: the controller's own certificate.
    pub secret: Option<SecretName>,
}

/// Which hosts are meant: one DNS name, or with a `*` for its first label all names with just one label there. Lower
/// case; never an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern(String);

impl HostPattern {
    /// Validates `value`.
    ///
    /// # Errors
    /// [`InvalidName`] with the rule that `value` breaks.
    pub fn new(value: impl Into<String>) -> Result<Self, InvalidName> {
        let value = value.into();
        let name = value.strip_prefix("*.").unwrap_or(&value);
        if !is_dns_subdomain(name) {
            let rule = "use a lower-case DNS name, or '*.' and a lower-case DNS name";
            return Err(refuse("host", &value, rule));
        }
        // Whatever ends in a number is read as an address by some client (WHATWG URL, "ends in a number").
        if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
            return Err(refuse("host", &value, "use a DNS name, not an address"));
        }
        Ok(Self(value))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What follows `*.`; none for an exact name.
    #[must_use]
    pub fn wildcard(&self) -> Option<&str> {
        self.0.strip_prefix("*.")
    }

    /// Whether it means `host`: lower case, without port and without a dot at its end.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self.wildcard() {
            None => self.0 == host,
            Some(rest) => {
                host.split_once('.').is_some_and(|(first, others)| !first.is_empty() && others == rest)
            }
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}
impl AsRef<str> for HostPattern {
    fn as_ref(&self) -> &str {
        &self.0
    }
}
impl std::str::FromStr for HostPattern {
    type Err = InvalidName;
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        Self::new(s)
    }
}
impl TryFrom<String> for HostPattern {
    type Error = InvalidName;
    fn try_from(s: String) -> Result<Self, InvalidName> {
        Self::new(s)
    }
}
impl From<HostPattern> for String {
    fn from(host: HostPattern) -> String {
        host.0
    }
}

/// An IngressClass (networking.k8s.io/v1). Table `ingress_classes`, written by `source`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressClass {
    /// Its name.
    pub name: IngressClassName,
    /// `spec.controller`; [`INGRESS_CONTROLLER`] is ours. Empty when it has none that could be read.
    pub controller: String,
    /// Whether [`ANNOTATION_DEFAULT_CLASS`] is `true`.
    pub is_default: bool,
    /// `metadata.creationTimestamp` in seconds since 1970; of several default classes the newest counts.
    pub created: i64,
}

/// What the API last said of a Secret that is wanted. Table `secrets`, written by `source`: a row is there when the API
/// has answered, until nobody wants the Secret any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretObject {
    /// Namespace and name.
    pub key: SecretRef,
    /// The Secret; none: there is no such Secret.
    pub content: Option<SecretContent>,
}

/// What is kept of a Secret. Does not print its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretContent {
    /// `type`, for example `kubernetes.io/tls`.
    pub kind: String,
    /// `data`: of it the entries of [`SECRET_ENTRIES`].
    pub data: BTreeMap<String, SecretBytes>,
}

/// The Secrets that ingress needs. Table `wanted_secrets`, one row, written by `ingress`: no other Secret is ever read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedSecrets {
    /// Their names.
    pub secrets: BTreeSet<SecretRef>,
}

/// What of an Ingress cannot be served. Table `ingress_faults`, written by `ingress`; `source` makes Events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressFaults {
    /// The Ingress.
    pub ingress: IngressKey,
    /// Its `metadata.uid`.
    pub uid: String,
    /// Sorted; never empty.
    pub faults: Vec<Fault>,
}

/// The addresses at which an Ingress is served. Table `ingress_addresses`, written by `ingress` on the node whose turn it
/// is; `source` brings it to `status.loadBalancer`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressAddresses {
    /// The Ingress.
    pub ingress: IngressKey,
    /// Its `metadata.uid`.
    pub uid: String,
    /// The addresses, sorted; none: its status is to be empty.
    pub addresses: Vec<IpAddr>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn host(s: &str) -> HostPattern {
        HostPattern::new(s).unwrap()
    }

    #[test]
    fn hosts_are_names_or_wildcards_of_one_label() {
        for ok in ["foo.com", "localhost", "*.foo.com", "*.com", "a-b.c1.x", "1.example", &"a".repeat(253)] {
            assert_eq!(host(ok).as_str(), ok);
        }
        let bad = [
            "",
            "*",
            "*.",
            ".",
            "a.",
            ".a",
            "*foo.com",
            "a.*.com",
            "*.*.com",
            "Foo.com",
            "foo_bar.com",
            "a..b",
            "foo.com:80",
            "192.0.2.1",
            "*.192.0.2.1",
            "1",
            "a.1",
            "2001:db8::1",
            "[::1]",
            "foo.com/",
            "é.com",
            "a b",
            "a\0",
        ];
        for bad in bad.into_iter().chain([&*"a".repeat(254)]) {
            assert!(HostPattern::new(bad).is_err(), "{bad:?}");
        }
    }

    /// The table of the Ingress documentation, "Hostname wildcards".
    #[test]
    fn a_wildcard_stands_for_just_one_label() {
        let foo = host("*.foo.com");
        assert!(foo.matches("bar.foo.com"));
        assert!(!foo.matches("baz.bar.foo.com"));
        assert!(!foo.matches("foo.com"));
        assert!(!foo.matches(".foo.com"));
        assert!(!foo.matches("bar.foo.com."));
        assert!(!foo.matches("xfoo.com"));
        assert!(host("foo.com").matches("foo.com"));
        assert!(!host("foo.com").matches("bar.foo.com"));
        assert_eq!((foo.wildcard(), host("foo.com").wildcard()), (Some("foo.com"), None));
    }

    #[test]
    fn rows_of_secrets_do_not_print_their_bytes() {
        let row = SecretObject {
            key: SecretRef::parse("shop/tls").unwrap(),
            content: Some(SecretContent {
                kind: "kubernetes.io/tls".into(),
                data: [("tls.key".to_owned(), SecretBytes::new(b"hunter2".to_vec()))].into(),
            }),
        };
        let text = format!("{row:?} {row:#?}");
        assert!(text.contains("tls.key") && !text.contains("hunter2"), "{text}");
        let stored = serde_json::to_string(&row).unwrap();
        assert_eq!(serde_json::from_str::<SecretObject>(&stored).unwrap(), row);
    }

    proptest! {
        #[test]
        fn any_text_is_a_host_that_matches_itself_or_is_refused(s in "(\\*\\.)?[a-z0-9.*-]{0,12}|\\PC{0,40}") {
            match HostPattern::new(s.clone()) {
                Err(e) => prop_assert!(e.to_string().contains(e.rule)),
                Ok(pattern) => {
                    prop_assert_eq!(pattern.as_str(), &s);
                    prop_assert!(s.parse::<IpAddr>().is_err() && !s.contains(['/', ':', '%', '\0']));
                    match pattern.wildcard() {
                        None => prop_assert!(pattern.matches(&s)),
                        Some(rest) => {
                            let one = format!("x.{}", rest);
                            let two = format!("y.x.{}", rest);
                            prop_assert!(pattern.matches(&one) && !pattern.matches(&two) && !pattern.matches(rest));
                        }
                    }
                }
            }
            let json = serde_json::to_string(&s).unwrap();
            prop_assert_eq!(serde_json::from_str::<HostPattern>(&json).is_ok(), HostPattern::new(s).is_ok());
        }
    }
}
