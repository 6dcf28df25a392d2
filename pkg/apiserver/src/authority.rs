//! The server's certificate authority: its key on disk, the certificates it gives.

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use ring::digest::{SHA256, digest};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;
use warren_types::Secret;

use crate::ServerError;

/// Years until the authority's own certificate ends.
const CA_YEARS: i16 = 30;
/// How long a given certificate lasts. Long: a machine without a clock of its own, or one that was in a cupboard for
/// years, must find its way back.
pub(crate) const LIFE: Duration =
    Duration::from_secs(warren_types::defaults::CERTIFICATE_DAYS as u64 * 24 * 3600);
/// A machine's clock may be wrong when it starts for the first time; no year before this can be right.
const EARLIEST_YEAR: i16 = 2026;
/// Its first second.
const EARLIEST: u64 = 1_767_225_600;

/// The file with the certificate of the authority for ingress.
pub(crate) const INGRESS_CERT: &str = "ingress-ca.crt";

/// The authority.
pub(crate) struct Authority {
    pub(crate) ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
    /// SHA-256 of the SubjectPublicKeyInfo, hex.
    pub(crate) key_hash: String,
    /// How long a given certificate lasts.
    pub(crate) life: Duration,
}

/// A certificate and its key.
pub(crate) struct Identity {
    pub(crate) cert_pem: String,
    pub(crate) cert_der: Vec<u8>,
    pub(crate) key_pem: Secret,
}

/// The certificate that the server shows, with its key.
pub(crate) struct Serving {
    pub(crate) cert: CertificateDer<'static>,
    pub(crate) key: PrivateKeyDer<'static>,
}

/// The moment, since 1970, from which certificates count: now, unless the clock is clearly wrong.
fn issued(now: Timestamp) -> Duration {
    Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0).max(EARLIEST))
}

/// Whether less than a third of its life is left of a certificate that was issued for `life`.
pub(crate) fn renewal_due(cert: &[u8], life: Duration, now: Timestamp) -> bool {
    let Ok((_, cert)) = x509_parser::parse_x509_certificate(cert) else { return true };
    let left = cert.validity().not_after.timestamp() - now.as_second();
    left < i64::try_from(life.as_secs() / 3).unwrap_or(i64::MAX)
}

fn fault(what: &str, reason: impl std::fmt::Display) -> ServerError {
    ServerError::Certificates(format!("{what}: {reason}"))
}

/// Writes a file that only its owner may read, all of it or nothing.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), ServerError> {
    let io = |source| ServerError::Io { path: path.to_owned(), source };
    let directory = path.parent().unwrap_or(Path::new("/"));
    make_private_dir(directory)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = directory.join(name);
    let write = || {
        let _ = fs::remove_file(&temporary);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(directory)?.sync_all()
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&temporary);
        io(e)
    })
}

/// Makes a directory (and those above) that only its owner may enter; one that is there stays as it is.
pub(crate) fn make_private_dir(path: &Path) -> Result<(), ServerError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| ServerError::Io { path: path.to_owned(), source })
}

/// Reads a file that may be missing.
pub(crate) fn read_optional(path: &Path) -> Result<Option<String>, ServerError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ServerError::Io { path: path.to_owned(), source }),
    }
}

/// Reads the certificate and the key of an authority, or makes them; `lost` says what to do when the key is gone.
fn pair(
    cert_path: &Path,
    key_path: &Path,
    lost: &str,
    make: impl FnOnce() -> Result<(String, Secret), ServerError>,
) -> Result<(String, Secret), ServerError> {
    match (read_optional(cert_path)?, read_optional(key_path)?) {
        (Some(cert), Some(key)) => Ok((cert, Secret::new(key))),
        // The key is written first: a certificate alone is of no use and means that the key was lost.
        (None, _) => {
            let (cert, key) = make()?;
            write_private(key_path, key.expose().as_bytes())?;
            write_private(cert_path, cert.as_bytes())?;
            Ok((cert, key))
        }
        (Some(_), None) => {
            Err(fault(&cert_path.display().to_string(), format!("its key is missing; {lost}")))
        }
    }
}

/// The authority for ingress in `directory`, which is made when there is none: another than the cluster's, whose word
/// clients of Ingresses take and this server does not.
pub(crate) fn for_ingress(directory: &Path, now: Timestamp) -> Result<warren_ca::Authority, ServerError> {
    let cert_path = directory.join(INGRESS_CERT);
    let lost = "restore ingress-ca.key, or remove ingress-ca.crt to begin with a new authority (clients must import it again)";
    let make = || warren_ca::Authority::make(now).map_err(|e| fault(INGRESS_CERT, e));
    let (cert, key) = pair(&cert_path, &directory.join("ingress-ca.key"), lost, make)?;
    warren_ca::Authority::from_pem(&cert, &key).map_err(|e| fault(&cert_path.display().to_string(), e))
}

impl Authority {
    /// Opens the authority in `directory`, or makes it there.
    pub(crate) fn open(directory: &Path, now: Timestamp, life: Duration) -> Result<Self, ServerError> {
        let year = now.to_zoned(jiff::tz::TimeZone::UTC).year().max(EARLIEST_YEAR);
        let (cert_path, key_path) = (directory.join("ca.crt"), directory.join("ca.key"));
        let lost = "restore ca.key, or remove ca.crt to begin with a new authority (nodes must join again)";
        let (cert, key) = pair(&cert_path, &key_path, lost, || new_ca(year))?;
        let key = KeyPair::from_pem(key.expose()).map_err(|e| fault(&key_path.display().to_string(), e))?;
        let key_hash = hex(digest(&SHA256, &key.subject_public_key_info()).as_ref());
        let der = CertificateDer::from_pem_slice(cert.as_bytes())
            .map_err(|e| fault(&cert_path.display().to_string(), e))?;
        if spki_hash(&der).as_deref() != Some(&key_hash) {
            return Err(fault(&cert_path.display().to_string(), "it does not belong to ca.key"));
        }
        let issuer =
            Issuer::from_ca_cert_der(&der, key).map_err(|e| fault(&cert_path.display().to_string(), e))?;
        Ok(Self { ca_pem: cert, issuer, key_hash, life })
    }

    /// The authority's certificate.
    pub(crate) fn certificate(&self) -> Result<CertificateDer<'static>, ServerError> {
        CertificateDer::from_pem_slice(self.ca_pem.as_bytes()).map_err(|e| fault("ca.crt", e))
    }

    fn params(
        &self,
        name: &str,
        organisation: Option<&str>,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<CertificateParams, ServerError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(name, organisation);
        params.not_before = rcgen::date_time_ymd(1970, 1, 1);
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + issued(Timestamp::now()) + self.life;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial()?);
        Ok(params)
    }

    /// A certificate for a client whose key is made here.
    pub(crate) fn client(&self, name: &str, organisation: &str) -> Result<Identity, ServerError> {
        let key = KeyPair::generate().map_err(|e| fault(name, e))?;
        let params = self.params(name, Some(organisation), ExtendedKeyUsagePurpose::ClientAuth)?;
        let cert = params.signed_by(&key, &self.issuer).map_err(|e| fault(name, e))?;
        Ok(Identity {
            cert_der: cert.der().to_vec(),
            cert_pem: cert.pem(),
            key_pem: Secret::new(key.serialize_pem()),
        })
    }

    /// A certificate for the public key of a signing request; nothing else of the request is used.
    pub(crate) fn sign_request(&self, csr: &str, name: &str, organisation: &str) -> Result<String, String> {
        let request = CertificateSigningRequestParams::from_pem(csr).map_err(|e| e.to_string())?;
        let params = self
            .params(name, Some(organisation), ExtendedKeyUsagePurpose::ClientAuth)
            .map_err(|e| e.to_string())?;
        params.signed_by(&request.public_key, &self.issuer).map(|c| c.pem()).map_err(|e| e.to_string())
    }

    /// A certificate that this server shows; made anew at each start, so that it always has the names wanted now.
    pub(crate) fn server(&self, names: &[String]) -> Result<Serving, ServerError> {
        let key = KeyPair::generate().map_err(|e| fault("server", e))?;
        let mut params = self.params("warren-server", None, ExtendedKeyUsagePurpose::ServerAuth)?;
        for name in names {
            let san = match name.parse::<IpAddr>() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName(
                    name.as_str().try_into().map_err(|e| fault(&format!("--tls-san {name:?}"), e))?,
                ),
            };
            if !params.subject_alt_names.contains(&san) {
                params.subject_alt_names.push(san);
            }
        }
        let cert = params.signed_by(&key, &self.issuer).map_err(|e| fault("server", e))?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|e| fault("server", e))?;
        Ok(Serving { cert: cert.der().clone(), key })
    }
}

fn subject(name: &str, organisation: Option<&str>) -> DistinguishedName {
    let mut dn = DistinguishedName::new();
    if let Some(o) = organisation {
        dn.push(DnType::OrganizationName, o);
    }
    dn.push(DnType::CommonName, name);
    dn
}

fn serial() -> Result<SerialNumber, ServerError> {
    let mut bytes: [u8; 16] = crate::meta::random().map_err(|e| fault("serial number", e.message))?;
    bytes[0] &= 0x7f;
    Ok(SerialNumber::from_slice(&bytes))
}

fn new_ca(year: i16) -> Result<(String, Secret), ServerError> {
    let key = KeyPair::generate().map_err(|e| fault("ca.key", e))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = subject("warren-ca", None);
    params.not_before = rcgen::date_time_ymd(1970, 1, 1);
    params.not_after = rcgen::date_time_ymd(i32::from(year + CA_YEARS), 1, 1);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params.serial_number = Some(serial()?);
    let cert = params.self_signed(&key).map_err(|e| fault("ca.crt", e))?;
    Ok((cert.pem(), Secret::new(key.serialize_pem())))
}

/// SHA-256 of a certificate's SubjectPublicKeyInfo, hex.
pub(crate) fn spki_hash(der: &[u8]) -> Option<String> {
    let (_, cert) = x509_parser::parse_x509_certificate(der).ok()?;
    Some(hex(digest(&SHA256, cert.public_key().raw).as_ref()))
}

/// Common name and organisations of a verified certificate.
pub(crate) fn subject_of(der: &[u8]) -> Option<(String, Vec<String>)> {
    let (_, cert) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = cert.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect();
    Some((name, groups))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::UnixTime;
    use rustls::server::WebPkiClientVerifier;
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::Arc;

    #[test]
    fn the_authority_is_kept_private_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let tls = dir.path().join("a/tls");
        let first = Authority::open(&tls, Timestamp::UNIX_EPOCH, LIFE).unwrap();
        let again = Authority::open(&tls, Timestamp::now(), LIFE).unwrap();
        assert_eq!(first.key_hash, again.key_hash);
        assert_eq!(fs::metadata(tls.join("ca.key")).unwrap().permissions().mode() & 0o777, 0o600);
        let (_, cert) = x509_parser::parse_x509_certificate(&first.certificate().unwrap())
            .map(|(r, c)| (r.len(), c.validity().clone()))
            .unwrap();
        assert_eq!(cert.not_before.timestamp(), 0);
        assert!(cert.not_after.timestamp() > 2_600_000_000, "a wrong clock must not end it early");
        fs::remove_file(tls.join("ca.key")).unwrap();
        assert!(Authority::open(&tls, Timestamp::now(), LIFE).is_err());
    }

    #[test]
    fn the_authority_for_ingress_is_another_and_nobody_gets_in_by_it() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        let cluster = Authority::open(dir.path(), now, LIFE).unwrap();
        // A data directory from before there was one gets one.
        let ingress = for_ingress(dir.path(), now).unwrap();
        assert_eq!(for_ingress(dir.path(), now).unwrap().root(), ingress.root());
        assert_eq!(
            fs::metadata(dir.path().join("ingress-ca.key")).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let mut roots = rustls::RootCertStore::empty();
        roots.add(cluster.certificate().unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
        let shown = |pem: &str| {
            let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
            let now = u64::try_from(now.as_second()).unwrap();
            verifier
                .verify_client_cert(&der, &[], UnixTime::since_unix_epoch(Duration::from_secs(now)))
                .is_ok()
        };
        let admin = warren_types::HostPattern::new("system.admin").unwrap();
        let leaf = ingress.issue(&[warren_ca::Name::Host(admin)].into(), now).unwrap();
        assert!(!shown(&leaf.cert_pem) && !shown(&ingress.root().pem));
        assert!(shown(&cluster.client("system:admin", "system:masters").unwrap().cert_pem));
        fs::remove_file(dir.path().join("ingress-ca.key")).unwrap();
        let error = for_ingress(dir.path(), now).unwrap_err().to_string();
        assert!(error.contains("restore ingress-ca.key"), "{error}");
    }

    #[test]
    fn a_signing_request_gives_only_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Authority::open(dir.path(), Timestamp::now(), LIFE).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["kubernetes".to_owned()]).unwrap();
        params.distinguished_name = subject("system:admin", Some("system:masters"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let csr = params.serialize_request(&key).unwrap().pem().unwrap();
        let pem = ca.sign_request(&csr, "system:node:a", "system:nodes").unwrap();
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        assert_eq!(subject_of(&der), Some(("system:node:a".into(), vec!["system:nodes".into()])));
        let (_, cert) = x509_parser::parse_x509_certificate(&der).unwrap();
        assert!(!cert.is_ca() && cert.subject_alternative_name().unwrap().is_none());
        assert!(ca.sign_request("nonsense", "a", "b").is_err());
    }

    #[test]
    fn a_certificate_is_due_when_a_third_of_its_life_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let life = Duration::from_secs(3000);
        let ca = Authority::open(dir.path(), Timestamp::now(), life).unwrap();
        let cert = ca.server(&["localhost".into()]).unwrap().cert;
        let after = |s: i64| Timestamp::now() + jiff::SignedDuration::from_secs(s);
        assert!(!renewal_due(&cert, life, after(0)) && !renewal_due(&cert, life, after(1900)));
        assert!(renewal_due(&cert, life, after(2100)) && renewal_due(&cert, life, after(9000)));
        assert!(renewal_due(b"no certificate", life, after(0)));
    }
}
