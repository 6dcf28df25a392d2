//! The types of the API: their OpenAPI definitions, and a compact form that says how each field is merged.

pub(crate) mod rules;

use k8s_openapi::api::{apps, coordination, core, discovery, networking, rbac};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use crate::registry::Kind;
use rules::{ListRule, PatchRule};

/// Where definitions refer to each other.
pub(crate) const REFERENCE: &str = "#/components/schemas/";

/// The name of a kind's definition.
pub(crate) fn definition_name(kind: &Kind) -> String {
    let package = match kind.group {
        "" => "core",
        group => group.split('.').next().unwrap_or_default(),
    };
    format!("io.k8s.api.{package}.{}.{}", kind.version, kind.kind)
}

/// Every type of the API by name, as JSON schemas with descriptions. Made anew at each call: they are large, and seldom
/// asked for.
pub(crate) fn definitions() -> Map<String, Value> {
    let settings = SchemaSettings::draft07().with(|s| {
        s.definitions_path = "/components/schemas".into();
        s.meta_schema = None;
        s.transforms.clear();
    });
    let mut generator = settings.into_generator();
    fn add<T: JsonSchema>(generator: &mut SchemaGenerator) {
        generator.subschema_for::<T>();
    }
    for kind in [
        add::<core::v1::Namespace>,
        add::<core::v1::Node>,
        add::<core::v1::Pod>,
        add::<core::v1::ConfigMap>,
        add::<core::v1::Event>,
        add::<core::v1::Service>,
        add::<core::v1::Secret>,
        add::<core::v1::ServiceAccount>,
        add::<core::v1::Endpoints>,
        add::<coordination::v1::Lease>,
        add::<discovery::v1::EndpointSlice>,
        add::<networking::v1::NetworkPolicy>,
        add::<networking::v1::Ingress>,
        add::<networking::v1::IngressClass>,
        add::<apps::v1::DaemonSet>,
        add::<rbac::v1::ClusterRole>,
        add::<rbac::v1::Role>,
        add::<rbac::v1::ClusterRoleBinding>,
        add::<rbac::v1::RoleBinding>,
        add::<k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions>,
        add::<k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta>,
        add::<k8s_openapi::apimachinery::pkg::apis::meta::v1::Status>,
    ] {
        kind(&mut generator);
    }
    let mut definitions = generator.take_definitions(false);
    definitions.extend(crate::kinds::gateway::definitions());
    definitions
}

/// What a field holds, as far as merging cares.
#[derive(Debug, Clone)]
pub(crate) enum Shape {
    /// A plain value, or one that is owned as a whole.
    Leaf,
    /// An object with known fields.
    Struct(String),
    /// An object with keys of its owners' choice.
    Map(Box<Shape>),
    /// A list.
    List(ListRule, Box<Shape>),
}

/// A field of a type.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) shape: Shape,
    pub(crate) patch: Option<PatchRule>,
    /// The type of the field, of its elements or of its values, also where apply takes them as a whole.
    pub(crate) inner: Option<String>,
}

/// A type with named fields.
#[derive(Debug, Default)]
pub(crate) struct Struct {
    pub(crate) fields: BTreeMap<String, Field>,
}

static STRUCTS: LazyLock<HashMap<String, Struct>> = LazyLock::new(|| {
    let definitions = definitions();
    definitions.iter().map(|(name, d)| (name.clone(), Struct::read(name, d, &definitions))).collect()
});

/// The type of this name, if it is known and has fields.
pub(crate) fn lookup(name: &str) -> Option<&'static Struct> {
    STRUCTS.get(name)
}

/// The type that a schema refers to, if it has fields.
fn referred(schema: &Value, definitions: &Map<String, Value>) -> Option<String> {
    let name = schema.get("$ref")?.as_str()?.strip_prefix(REFERENCE)?;
    definitions.get(name)?.get("properties").map(|_| name.to_owned())
}

impl Struct {
    fn read(name: &str, definition: &Value, definitions: &Map<String, Value>) -> Self {
        let properties = definition.get("properties").and_then(Value::as_object).into_iter().flatten();
        let field = |(field, schema): (&String, &Value)| {
            let part = |key: &str| schema.get(key).filter(|s| s.is_object());
            let (items, values) = (part("items"), part("additionalProperties"));
            let inner = referred(items.or(values).unwrap_or(schema), definitions);
            let plain = |of: &Option<String>| match of {
                Some(name) if !rules::atomic_type(name) => Shape::Struct(name.clone()),
                _ => Shape::Leaf,
            };
            let shape = if items.is_some() {
                Shape::List(rules::list(name, field), Box::new(plain(&inner)))
            } else if values.is_some() && !rules::atomic_map(name, field) {
                Shape::Map(Box::new(plain(&inner)))
            } else if values.is_some() {
                Shape::Leaf
            } else {
                plain(&inner)
            };
            (field.clone(), Field { shape, patch: rules::patch(name, field), inner })
        };
        Self { fields: properties.map(field).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::KINDS;

    #[test]
    fn every_kind_has_a_definition() {
        let definitions = definitions();
        for kind in KINDS {
            assert!(definitions.contains_key(&definition_name(kind)), "{}", kind.kind);
        }
    }

    #[test]
    fn shapes_of_fields() {
        let field = |of: &str, name: &str| &lookup(&format!("io.k8s.api.core.v1.{of}")).unwrap().fields[name];
        assert!(matches!(&field("Pod", "spec").shape, Shape::Struct(n) if n.ends_with("PodSpec")));
        assert!(matches!(&field("PodSpec", "containers").shape, Shape::List(ListRule::Keyed(_), _)));
        assert!(matches!(&field("PodSpec", "tolerations").shape, Shape::List(ListRule::Atomic, _)));
        assert!(matches!(&field("PodSpec", "nodeSelector").shape, Shape::Leaf));
        assert!(matches!(&field("ConfigMap", "data").shape, Shape::Map(_)));
        assert!(matches!(&field("ServicePort", "targetPort").shape, Shape::Leaf));
        assert_eq!(field("ServiceSpec", "ports").patch.unwrap().key, Some("port"));
        assert!(field("Endpoints", "subsets").patch.is_none());
    }
}
