//! The authority, and what it issues.

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType, SerialNumber,
};
use ring::digest::{SHA256, digest};
use ring::rand::SecureRandom as _;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;
use warren_types::{HostPattern, Secret};
use x509_parser::extensions::ParsedExtension;

/// Years until the authority's own certificate ends.
const ROOT_YEARS: i32 = 30;
/// How long a certificate lasts; it is made anew when two thirds are over.
pub const LIFE: Duration = Duration::from_secs(90 * DAY);
const DAY: u64 = 24 * 3600;
/// So long before its issue a certificate begins to count, for clients whose clock is behind. Together with [`LIFE`] it
/// stays within the 398 days that some clients take, whoever the issuer is.
const BACKDATED: Duration = Duration::from_secs(300 * DAY);
/// A machine's clock may be wrong when it starts for the first time; no year before this can be right.
const EARLIEST_YEAR: i32 = 2026;
/// Its first second.
const EARLIEST: u64 = 1_767_225_600;
/// When to look again while the clock is plainly wrong.
const CLOCK: Duration = Duration::from_secs(60);
/// Longest common name (RFC 5280).
const LONGEST_NAME: usize = 64;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The certificate of the authority cannot be read.
    #[error("the certificate of the authority cannot be read: {0}")]
    Certificate(String),
    /// The key of the authority cannot be read.
    #[error("the key of the authority cannot be read: {0}")]
    Key(rcgen::Error),
    /// They do not belong together.
    #[error("the certificate of the authority does not belong to its key")]
    Pair,
    /// A certificate cannot be made.
    #[error("a certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
    /// There is no randomness.
    #[error("the system gives no random numbers")]
    Random,
}

/// What a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    /// A host, or all with one label more.
    Host(HostPattern),
    /// An address.
    Address(IpAddr),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => host.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// A certificate, and the key that belongs to it.
#[derive(Debug)]
pub struct Leaf {
    /// The certificate, PEM.
    pub cert_pem: String,
    /// Its key, PEM.
    pub key_pem: Secret,
}

/// The certificate of an authority: what clients import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// It, PEM.
    pub pem: String,
    /// What its certificates name as the key of their issuer.
    pub key_id: Vec<u8>,
}

/// An authority.
pub struct Authority {
    root: Root,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Root {
    /// Reads one.
    ///
    /// # Errors
    /// [`CaError::Certificate`].
    pub fn from_pem(pem: &str) -> Result<Self, CaError> {
        let fault = |why: &dyn fmt::Display| CaError::Certificate(why.to_string());
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| fault(&e))?;
        let (_, cert) = x509_parser::parse_x509_certificate(&der).map_err(|e| fault(&e))?;
        let key_id = cert.extensions().iter().find_map(|e| match e.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        match key_id.filter(|_| cert.is_ca()) {
            Some(key_id) => Ok(Self { pem: pem.to_owned(), key_id }),
            None => Err(fault(&"it is not that of an authority")),
        }
    }
}

impl Authority {
    /// Makes the certificate and the key of a new authority.
    ///
    /// # Errors
    /// [`CaError::Make`], [`CaError::Random`].
    pub fn make(now: Timestamp) -> Result<(String, Secret), CaError> {
        let year = i32::from(now.to_zoned(jiff::tz::TimeZone::UTC).year()).max(EARLIEST_YEAR);
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        // Some clients take two authorities of one name for the same.
        let hash = digest(&SHA256, &key.subject_public_key_info());
        let id: String = hash.as_ref().iter().take(4).map(|b| format!("{b:02x}")).collect();
        params.distinguished_name = subject(&format!("Warren CA {id}"));
        params.not_before = rcgen::date_time_ymd(1970, 1, 1);
        params.not_after = rcgen::date_time_ymd(year + ROOT_YEARS, 1, 1);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(serial()?);
        let cert = params.self_signed(&key)?;
        Ok((cert.pem(), Secret::new(key.serialize_pem())))
    }

    /// The authority with this certificate and key.
    ///
    /// # Errors
    /// [`CaError`] when one of them cannot be read, or they do not belong together.
    pub fn from_pem(cert: &str, key: &Secret) -> Result<Self, CaError> {
        let root = Root::from_pem(cert)?;
        let key = KeyPair::from_pem(key.expose()).map_err(CaError::Key)?;
        let der = CertificateDer::from_pem_slice(cert.as_bytes())
            .map_err(|e| CaError::Certificate(e.to_string()))?;
        if !belongs(&der, &key) {
            return Err(CaError::Pair);
        }
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|e| CaError::Certificate(e.to_string()))?;
        Ok(Self { root, issuer })
    }

    /// Its certificate.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// A certificate for a server of these names, and a new key.
    ///
    /// # Errors
    /// [`CaError::Make`], [`CaError::Random`].
    pub fn issue(&self, names: &BTreeSet<Name>, now: Timestamp) -> Result<Leaf, CaError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        let first = names.iter().map(ToString::to_string).find(|name| name.len() <= LONGEST_NAME);
        params.distinguished_name = subject(first.as_deref().unwrap_or("Warren ingress"));
        for name in names {
            params.subject_alt_names.push(match name {
                Name::Host(host) => SanType::DnsName(host.as_str().try_into()?),
                Name::Address(address) => SanType::IpAddress(*address),
            });
        }
        let issued = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0).max(EARLIEST));
        params.not_before = rcgen::date_time_ymd(1970, 1, 1) + issued.saturating_sub(BACKDATED);
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + issued + LIFE;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Only for servers: nobody can show one of these as a client.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial()?);
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Leaf { cert_pem: cert.pem(), key_pem: Secret::new(key.serialize_pem()) })
    }
}

/// What a certificate that was issued says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Issued {
    pub(crate) names: BTreeSet<Name>,
    not_before: Timestamp,
    not_after: Timestamp,
    issuer: Vec<u8>,
}

impl Issued {
    /// Reads a certificate whose key this is; none when it is none, or the key is another's.
    pub(crate) fn read(cert_pem: &[u8], key_pem: &str) -> Option<Self> {
        let der = CertificateDer::from_pem_slice(cert_pem).ok()?;
        if !belongs(&der, &KeyPair::from_pem(key_pem).ok()?) {
            return None;
        }
        let (_, cert) = x509_parser::parse_x509_certificate(&der).ok()?;
        let (mut names, mut issuer) = (BTreeSet::new(), Vec::new());
        for extension in cert.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(all) => {
                    names = all.general_names.iter().map(name).collect::<Option<_>>()?;
                }
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    issuer = id.key_identifier.as_ref()?.0.to_vec();
                }
                _ => {}
            }
        }
        let time = |t: x509_parser::time::ASN1Time| Timestamp::from_second(t.timestamp()).ok();
        let validity = cert.validity();
        Some(Self {
            names,
            not_before: time(validity.not_before)?,
            not_after: time(validity.not_after)?,
            issuer,
        })
    }

    /// How long it is good still, before it is to be made anew; none when it is to be now.
    pub(crate) fn rests(&self, root: &Root, now: Timestamp) -> Option<Duration> {
        // By a clock that is plainly wrong nothing that is there is judged.
        if self.issuer == root.key_id && now.as_second() < EARLIEST.cast_signed() {
            return Some(CLOCK);
        }
        let third = SignedDuration::try_from(LIFE / 3).unwrap_or(SignedDuration::ZERO);
        let due = self.not_after.checked_sub(third).ok()?;
        // One from before its time was issued by a clock that was wrong.
        let holds = self.issuer == root.key_id && self.not_before <= now;
        Duration::try_from(due.duration_since(now)).ok().filter(|left| holds && !left.is_zero())
    }
}

fn name(of: &x509_parser::extensions::GeneralName<'_>) -> Option<Name> {
    use x509_parser::extensions::GeneralName;
    match of {
        GeneralName::DNSName(host) => HostPattern::new(*host).ok().map(Name::Host),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            address.ok().map(Name::Address)
        }
        _ => None,
    }
}

/// Whether a certificate is for this key.
fn belongs(der: &CertificateDer<'_>, key: &KeyPair) -> bool {
    x509_parser::parse_x509_certificate(der)
        .is_ok_and(|(_, cert)| cert.public_key().raw == key.subject_public_key_info())
}

fn subject(name: &str) -> DistinguishedName {
    let mut dn = DistinguishedName::new();
    dn.push(DnType::OrganizationName, "Warren");
    dn.push(DnType::CommonName, name);
    dn
}

fn serial() -> Result<SerialNumber, CaError> {
    let mut bytes = [0; 16];
    ring::rand::SystemRandom::new().fill(&mut bytes).map_err(|_| CaError::Random)?;
    // A positive number, of always the same length.
    bytes[0] = bytes[0] & 0x3f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[&str]) -> BTreeSet<Name> {
        let name = |text: &&str| match text.parse() {
            Ok(address) => Name::Address(address),
            Err(_) => Name::Host(HostPattern::new(*text).unwrap()),
        };
        all.iter().map(name).collect()
    }

    fn authority(now: Timestamp) -> Authority {
        let (cert, key) = Authority::make(now).unwrap();
        Authority::from_pem(&cert, &key).unwrap()
    }

    #[test]
    fn what_is_issued_verifies_for_its_names_alone() {
        use rustls::client::WebPkiServerVerifier;
        use rustls::client::danger::ServerCertVerifier as _;
        use rustls::pki_types::{ServerName, UnixTime};
        let now: Timestamp = "2027-03-01T00:00:00Z".parse().unwrap();
        let ca = authority(now);
        let wanted = names(&["a.test", "*.b.test", "192.0.2.1", "2001:db8::1"]);
        let leaf = ca.issue(&wanted, now).unwrap();
        let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(der(&ca.root().pem)).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
        let at = |day: u64| UnixTime::since_unix_epoch(Duration::from_secs(1_803_859_200 + day * DAY));
        let holds = |name: &str, time| {
            let name = ServerName::try_from(name.to_owned()).unwrap();
            verifier.verify_server_cert(&der(&leaf.cert_pem), &[], &name, &[], time).is_ok()
        };
        for good in ["a.test", "x.b.test", "192.0.2.1", "2001:db8::1"] {
            assert!(holds(good, at(0)), "{good}");
        }
        for bad in ["b.test", "x.x.b.test", "c.test", "192.0.2.2"] {
            assert!(!holds(bad, at(0)), "{bad}");
        }
        assert!(holds("a.test", at(89)) && !holds("a.test", at(91)));
        let read = Issued::read(leaf.cert_pem.as_bytes(), leaf.key_pem.expose()).unwrap();
        assert_eq!(read.names, wanted);
        let span = read.not_after.duration_since(read.not_before).as_hours() / 24;
        assert!(span <= 398, "{span} days: some clients take no more");
        let later = |days: i64| now + SignedDuration::from_hours(24 * days);
        assert!(read.rests(ca.root(), later(59)).is_some() && read.rests(ca.root(), later(60)).is_none());
        assert!(read.rests(ca.root(), later(-301)).is_none(), "it counts from later on");
        assert_eq!(read.rests(ca.root(), Timestamp::UNIX_EPOCH), Some(CLOCK));
        assert!(read.rests(authority(now).root(), now).is_none(), "another authority's");
        let other = ca.issue(&wanted, now).unwrap();
        assert!(Issued::read(leaf.cert_pem.as_bytes(), other.key_pem.expose()).is_none(), "another's key");
    }

    #[test]
    fn a_clock_of_1970_makes_nothing_that_ended_long_ago() {
        let ca = authority(Timestamp::UNIX_EPOCH);
        let leaf = ca.issue(&names(&["a.test"]), Timestamp::UNIX_EPOCH).unwrap();
        let read = Issued::read(leaf.cert_pem.as_bytes(), leaf.key_pem.expose()).unwrap();
        assert!(read.not_after > "2026-03-01T00:00:00Z".parse().unwrap());
    }

    #[test]
    fn certificate_and_key_of_two_authorities_are_none() {
        let now = Timestamp::UNIX_EPOCH;
        let (a, b) = (Authority::make(now).unwrap(), Authority::make(now).unwrap());
        assert!(matches!(Authority::from_pem(&a.0, &b.1), Err(CaError::Pair)));
        assert!(matches!(Authority::from_pem("nonsense", &b.1), Err(CaError::Certificate(_))));
        assert!(matches!(Authority::from_pem(&a.0, &Secret::new("nonsense")), Err(CaError::Key(_))));
        let ca = authority(now);
        let leaf = ca.issue(&names(&["a.test"]), now).unwrap();
        assert!(Root::from_pem(&leaf.cert_pem).is_err(), "no authority");
        let subject = |pem: &str| {
            let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
            x509_parser::parse_x509_certificate(&der).unwrap().1.subject().to_string()
        };
        assert_ne!(subject(&a.0), subject(&b.0), "clients tell them apart by name");
    }
}
