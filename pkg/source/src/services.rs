//! Addresses of load balancers, in the status of their Services.

use crate::addresses::{Served, Write};
use crate::resource;
use kube::api::ApiResource;
use serde_json::{Value, json};
use std::net::IpAddr;
use warren_types::{LoadBalancerAddresses, Service, ServiceKind};

/// From table `load_balancer_addresses`.
pub(crate) struct Balancers;

impl Served for Balancers {
    const KIND: &'static str = "Service";
    type Want = LoadBalancerAddresses;
    type Row = Service;

    fn resource() -> ApiResource {
        resource::<k8s_openapi::api::core::v1::Service>()
    }

    /// One that is no load balancer (any more) may only be cleared, and one that another implementation takes care of is
    /// left alone.
    fn write(want: &LoadBalancerAddresses, service: &Service) -> Option<Write> {
        let cleared = service.kind != ServiceKind::LoadBalancer && want.addresses.is_empty();
        if want.uid != service.uid || !(service.wants_load_balancer() || cleared) {
            return None;
        }
        Write::between(&want.uid, &want.addresses, &service.load_balancer_ips)
    }

    fn entry(ip: &IpAddr) -> Value {
        json!({"ip": ip.to_string(), "ipMode": "VIP"})
    }
}

#[cfg(test)]
mod tests;
