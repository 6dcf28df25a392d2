//! Addresses at which Ingresses are served, in their status.

use crate::addresses::{Served, Write};
use crate::resource;
use kube::api::ApiResource;
use serde_json::{Value, json};
use std::net::IpAddr;
use warren_types::{Ingress, IngressAddresses};

/// From table `ingress_addresses`.
pub(crate) struct Ingresses;

impl Served for Ingresses {
    const KIND: &'static str = "Ingress";
    type Want = IngressAddresses;
    type Row = Ingress;

    fn resource() -> ApiResource {
        resource::<k8s_openapi::api::networking::v1::Ingress>()
    }

    fn write(want: &IngressAddresses, ingress: &Ingress) -> Option<Write> {
        if want.uid != ingress.uid {
            return None;
        }
        Write::between(&want.uid, &want.addresses, &ingress.published)
    }

    fn entry(ip: &IpAddr) -> Value {
        json!({"ip": ip.to_string()})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addresses::patch;

    #[test]
    fn only_what_differs_is_written_and_never_to_a_namesake() {
        let object: crate::Object = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u"},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}]}}}))
        .unwrap();
        let row = crate::convert::ingress(&object.metadata, &object.data).row.unwrap();
        let written = |uid: &str, addresses: &[&str]| {
            let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
            Ingresses::write(&IngressAddresses { ingress: row.key.clone(), uid: uid.into(), addresses }, &row)
        };
        assert_eq!(written("u", &["2001:db8::1", "192.0.2.1"]), None);
        assert_eq!(written("old", &["192.0.2.2"]), None);
        let one = patch::<Ingresses>(&written("u", &["192.0.2.2"]).unwrap());
        assert_eq!(one["status"]["loadBalancer"]["ingress"], json!([{"ip": "192.0.2.2"}]));
        let none = patch::<Ingresses>(&written("u", &[]).unwrap());
        assert_eq!(none, json!({"metadata": {"uid": "u"}, "status": {"loadBalancer": {"ingress": null}}}));
    }
}
