//! The administrator's kubeconfig.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use warren_types::Secret;

use crate::authority::Identity;

/// A kubeconfig with everything embedded. JSON, which is YAML too.
pub(crate) fn render(server: &str, ca_pem: &str, identity: &Identity) -> Secret {
    let encode = |s: &str| STANDARD.encode(s);
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "warren", "preferences": {},
        "clusters": [{ "name": "warren", "cluster": { "server": server, "certificate-authority-data": encode(ca_pem) } }],
        "users": [{ "name": "warren-admin", "user": {
            "client-certificate-data": encode(&identity.cert_pem), "client-key-data": encode(identity.key_pem.expose()),
        } }],
        "contexts": [{ "name": "warren", "context": { "cluster": "warren", "user": "warren-admin" } }],
    });
    Secret::new(format!("{config:#}\n"))
}
