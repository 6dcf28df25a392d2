//! The software bill of materials: CycloneDX 1.6, JSON.

use super::components::{Components, Id};
use super::licenses::canonical;
use super::release::date;
use anyhow::Result;
use serde_json::{Value, json};

/// The document.
pub(super) fn cyclonedx(components: &Components, epoch: u64) -> Result<Vec<u8>> {
    let mut list = Vec::new();
    let mut dependencies = Vec::new();
    for (id, component) in &components.packages {
        let mut uses: Vec<String> = component.uses.iter().map(reference).collect();
        if id.name == "warren" {
            uses.extend(components.runtime.iter().map(|r| generic(r.name, &r.version)));
        }
        dependencies.push(json!({"ref": reference(id), "dependsOn": uses}));
        if id.name == "warren" {
            continue;
        }
        let mut entry = entry(&id.name, &id.version, &reference(id), &canonical(&component.license)?);
        if let Some(checksum) = &component.checksum {
            entry["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
            entry["purl"] = json!(reference(id));
        }
        list.push(entry);
    }
    for runtime in &components.runtime {
        let purl = generic(runtime.name, &runtime.version);
        let mut entry = entry(runtime.name, &runtime.version, &purl, runtime.license);
        entry["purl"] = json!(purl);
        list.push(entry);
    }
    let warren = Id { name: "warren".into(), version: components.version.clone() };
    let mut subject = entry(&warren.name, &warren.version, &reference(&warren), "Apache-2.0");
    subject["type"] = json!("application");
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": date(epoch)?.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "component": subject,
        },
        "components": list,
        "dependencies": dependencies,
    });
    let mut text = serde_json::to_vec_pretty(&document)?;
    text.push(b'\n');
    Ok(text)
}

/// Also the package URL (purl-spec, type cargo).
fn reference(id: &Id) -> String {
    format!("pkg:cargo/{}@{}", id.name, id.version.replace('+', "%2B"))
}

fn generic(name: &str, version: &str) -> String {
    format!("pkg:generic/{name}@{}", version.replace('+', "%2B"))
}

fn entry(name: &str, version: &str, reference: &str, license: &str) -> Value {
    json!({
        "type": "library",
        "bom-ref": reference,
        "name": name,
        "version": version,
        "licenses": [{"expression": license}],
    })
}
