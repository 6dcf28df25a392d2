//! The address families of a Service: rules, and defaults that follow from the cluster's Service ranges.

use serde_json::{Value, json};
use std::net::IpAddr;
use warren_types::Family;

use super::{NONE, has_selector, is_external_name, is_headless, texts};
use crate::error::Causes;
use crate::kinds::{object, rules};
use crate::table::text;

const SINGLE: &str = "SingleStack";
const PREFER: &str = "PreferDualStack";
const REQUIRE: &str = "RequireDualStack";

/// `IPv4`, `IPv6`.
pub(crate) fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn other(family: &str) -> &'static str {
    if family == "IPv4" { "IPv6" } else { "IPv4" }
}

/// Whether `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy` fit each other.
pub(super) fn validate(o: &Value, causes: &mut Causes) {
    let (ips, families) = (texts(o, "/spec/clusterIPs"), texts(o, "/spec/ipFamilies"));
    let (ip, policy) = (text(o, "/spec/clusterIP"), text(o, "/spec/ipFamilyPolicy"));
    if is_external_name(o) {
        for (key, set) in [
            ("clusterIPs", !ips.is_empty() || !ip.is_empty()),
            ("ipFamilies", !families.is_empty()),
            ("ipFamilyPolicy", !policy.is_empty()),
        ] {
            if set {
                causes.forbidden(&format!("spec.{key}"), "may not be set for ExternalName services");
            }
        }
        return;
    }
    match (ip, ips.first()) {
        ("", Some(_)) => causes.invalid_value(
            "spec.clusterIPs",
            &json!(ips),
            "must be empty when `clusterIP` is not specified",
        ),
        (ip, None) if !ip.is_empty() => {
            causes.required("spec.clusterIPs", "must be set when `clusterIP` is specified");
        }
        (ip, Some(first)) if ip != *first => {
            causes.invalid_value("spec.clusterIPs", &json!(ips), "first value must match `clusterIP`");
        }
        _ => {}
    }
    if !policy.is_empty() {
        rules::one_of("spec.ipFamilyPolicy", policy, &[PREFER, REQUIRE, SINGLE], causes);
    }
    for (i, family) in families.iter().enumerate() {
        let at = format!("spec.ipFamilies[{i}]");
        rules::one_of(&at, family, &["IPv4", "IPv6"], causes);
        if families[..i].contains(family) {
            causes.duplicate(&at, family);
        }
    }
    if families.len() > 2 {
        causes.invalid_value("spec.ipFamilies", &json!(families), "may only hold up to 2 values");
    }
    validate_ips(&ips, &families, causes);
}

fn validate_ips(ips: &[&str], families: &[&str], causes: &mut Causes) {
    if ips.len() > 2 {
        causes.invalid_value("spec.clusterIPs", &json!(ips), "may only hold up to 2 values");
    }
    let mut found: Vec<Family> = Vec::new();
    for (i, ip) in ips.iter().enumerate() {
        let at = format!("spec.clusterIPs[{i}]");
        if *ip == NONE {
            if ips.len() > 1 {
                causes.invalid_value(&at, &json!(ip), "'None' must be the first and only value");
                return;
            }
            continue;
        }
        let Some(address) = rules::address(&at, ip, causes) else { return };
        let family = Family::of(address);
        if let Some(expected) = families.get(i).filter(|f| **f != name(family)) {
            let rule = format!("expected an {expected} value as indicated by `ipFamilies[{i}]`");
            causes.invalid(&at, ip, rule);
        }
        if found.contains(&family) {
            let rule = "may specify no more than one IP for each IP family";
            causes.invalid_value("spec.clusterIPs", &json!(ips), rule);
        }
        found.push(family);
    }
}

fn set(o: &mut Value, key: &str, value: impl Into<Value>) {
    object(o, "spec").insert(key.into(), value.into());
}

/// Whether an update leaves a Service that prefers both families as it is: a changed cluster does not change it.
fn settled(o: &Value, old: Option<&Value>) -> bool {
    let Some(old) = old.filter(|old| !is_external_name(old)) else { return false };
    let same = |key: &str| o["spec"].get(key) == old["spec"].get(key);
    text(o, "/spec/ipFamilyPolicy") == PREFER
        && same("ipFamilyPolicy")
        && same("clusterIPs")
        && same("ipFamilies")
        && !texts(o, "/spec/ipFamilies").is_empty()
}

/// Fills `ipFamilyPolicy` and `ipFamilies` from the cluster's families, the first of which is the default.
pub(crate) fn fill(o: &mut Value, old: Option<&Value>, cluster: &[Family]) -> Result<(), Causes> {
    if is_external_name(o) || settled(o, old) {
        return Ok(());
    }
    let bare = is_headless(o) && !has_selector(o);
    if text(o, "/spec/ipFamilyPolicy").is_empty() {
        set(o, "ipFamilyPolicy", if bare { REQUIRE } else { SINGLE });
    }
    let mut causes = Causes::default();
    validate(o, &mut causes);
    faultless(&mut causes)?;

    let single = text(o, "/spec/ipFamilyPolicy") == SINGLE;
    if let Some(old) = old {
        release_second(o, old, single, &mut causes);
    }
    let policy = |causes: &mut Causes, o: &Value, rule: &str| {
        causes.invalid("spec.ipFamilyPolicy", text(o, "/spec/ipFamilyPolicy"), rule);
    };
    let mut families: Vec<String> = texts(o, "/spec/ipFamilies").into_iter().map(str::to_owned).collect();
    let ips: Vec<String> = texts(o, "/spec/clusterIPs").into_iter().map(str::to_owned).collect();
    if single && ips.len() == 2 {
        let rule = "must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified";
        policy(&mut causes, o, rule);
    }
    if single && families.len() == 2 {
        let rule = "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified";
        policy(&mut causes, o, rule);
    }
    for (i, ip) in ips.iter().enumerate().skip(families.len()) {
        let Ok(address) = ip.parse::<IpAddr>() else { break };
        let family = Family::of(address);
        if cluster.contains(&family) {
            families.push(name(family).into());
        } else {
            let rule = format!("{} is not configured on this cluster", name(family));
            causes.invalid_value(&format!("spec.clusterIPs[{i}]"), &json!(ips), rule);
        }
    }
    faultless(&mut causes)?;

    let default = cluster.first().map_or("IPv4", |f| name(*f)).to_owned();
    if bare {
        // Nothing is allocated, and its endpoints may be of families that the Service ranges lack.
        let first = families.first().cloned().unwrap_or(default);
        if families.len() < 2 && !single {
            families = vec![first.clone(), other(&first).to_owned()];
        } else if families.is_empty() {
            families = vec![first];
        }
        set(o, "ipFamilies", families);
        return Ok(());
    }
    if text(o, "/spec/ipFamilyPolicy") == REQUIRE && cluster.len() < 2 {
        policy(&mut causes, o, "this cluster is not configured for dual-stack services");
    }
    for (i, family) in families.iter().enumerate() {
        if !cluster.iter().any(|c| name(*c) == family) {
            causes.invalid(&format!("spec.ipFamilies[{i}]"), family, "not configured on this cluster");
        }
    }
    faultless(&mut causes)?;
    if families.is_empty() {
        families.push(default);
    }
    if !single && families.len() == 1 && cluster.len() == 2 {
        families.push(other(&families[0]).to_owned());
    }
    set(o, "ipFamilies", families);
    Ok(())
}

/// A second family goes when the policy says so, and only then.
fn release_second(o: &mut Value, old: &Value, single: bool, causes: &mut Causes) {
    for (key, what) in [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")] {
        let pointer = format!("/spec/{key}");
        let (now, before) = (texts(o, &pointer), texts(old, &pointer));
        if single && now == before && now.len() > 1 {
            let first = now[0].to_owned();
            set(o, key, json!([first]));
        } else if !single && before.len() == 2 && now.len() == 1 {
            let rule = format!("must be 'SingleStack' to release the secondary {what}");
            causes.invalid("spec.ipFamilyPolicy", text(o, "/spec/ipFamilyPolicy"), rule);
        }
    }
}

fn faultless(causes: &mut Causes) -> Result<(), Causes> {
    if causes.0.is_empty() { Ok(()) } else { Err(std::mem::take(causes)) }
}
