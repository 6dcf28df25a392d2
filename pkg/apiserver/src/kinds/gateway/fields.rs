//! The types of the Gateway API, as far as clients of it are told of them: fields, limits and defaults as in its standard
//! channel.

/// What a field holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Of {
    /// Text of so many characters, at least and at most.
    Text(usize, usize),
    /// One of these.
    Word(&'static [&'static str]),
    /// A host, perhaps with a wildcard.
    Host,
    /// A number between these.
    Number(i64, i64),
    /// A point in time.
    Time,
    /// One of the types of the model.
    Type(&'static str),
    /// A list of at least and at most so many.
    List(&'static Of, usize, usize),
    /// Texts by name.
    Texts,
    /// A selector of labels.
    Selector,
    /// Metadata of an object.
    Metadata,
    /// Whatever it is: parts that Warren does not know and keeps.
    Anything,
}

/// A field of a type.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) of: Of,
    pub(super) required: bool,
    /// As JSON.
    pub(super) default: Option<&'static str>,
}

const fn f(name: &'static str, of: Of) -> Field {
    Field { name, of, required: false, default: None }
}

const fn must(name: &'static str, of: Of) -> Field {
    Field { name, of, required: true, default: None }
}

const fn or(name: &'static str, of: Of, default: &'static str) -> Field {
    Field { name, of, required: false, default: Some(default) }
}

use Of::{Anything, Host, List, Metadata, Number, Selector, Text, Texts, Time, Type, Word};

const NAME: Of = Text(1, 253);
const GROUP: Of = Text(0, 253);
const KIND: Of = Text(1, 63);
const LABEL: Of = Text(1, 63);
const PORT: Of = Number(1, 65535);
const PATH: Of = Text(0, 1024);
const VALUE: Of = Text(1, 4096);
const DURATION: Of = Text(2, 40);
const VERSION: Field = f("apiVersion", Text(0, 253));
const OBJECT_KIND: Field = f("kind", Text(0, 63));
const METADATA: Field = f("metadata", Metadata);
const CONDITIONS: Field = f("conditions", List(&Type("Condition"), 0, 8));
const PARENTS: Field = f("parentRefs", List(&Type("ParentReference"), 0, 32));
const HOSTS: Field = f("hostnames", List(&Host, 0, 16));
const GATEWAY_GROUP: &str = "\"gateway.networking.k8s.io\"";
/// Headers and parameters are matched exactly where nothing else is said.
const MATCH_KIND: Field = or("type", Word(&["Exact", "RegularExpression"]), "\"Exact\"");
const EVERY_PATH: &str = r#"{"type": "PathPrefix", "value": "/"}"#;
const EVERY_RULE: &str = r#"[{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}]}]"#;

/// Every type, with its fields.
pub(super) const TYPES: &[(&str, &[Field])] = &[
    (
        "GatewayClass",
        &[
            VERSION,
            OBJECT_KIND,
            METADATA,
            must("spec", Type("GatewayClassSpec")),
            f("status", Type("GatewayClassStatus")),
        ],
    ),
    (
        "GatewayClassSpec",
        &[
            must("controllerName", NAME),
            f("description", Text(0, 64)),
            f("parametersRef", Type("ParametersReference")),
        ],
    ),
    (
        "ParametersReference",
        &[must("group", GROUP), must("kind", KIND), must("name", NAME), f("namespace", LABEL)],
    ),
    ("GatewayClassStatus", &[CONDITIONS, f("supportedFeatures", List(&Anything, 0, 64))]),
    (
        "Condition",
        &[
            must("type", Text(1, 316)),
            must("status", Word(&["True", "False", "Unknown"])),
            must("reason", Text(1, 1024)),
            must("message", Text(0, 32768)),
            must("lastTransitionTime", Time),
            f("observedGeneration", Number(0, i64::MAX)),
        ],
    ),
    (
        "Gateway",
        &[
            VERSION,
            OBJECT_KIND,
            METADATA,
            must("spec", Type("GatewaySpec")),
            f("status", Type("GatewayStatus")),
        ],
    ),
    (
        "GatewaySpec",
        &[
            must("gatewayClassName", NAME),
            must("listeners", List(&Type("Listener"), 1, 64)),
            f("addresses", List(&Type("GatewayAddress"), 0, 16)),
            f("infrastructure", Anything),
            f("allowedListeners", Anything),
            f("tls", Anything),
        ],
    ),
    ("GatewayAddress", &[or("type", KIND, "\"IPAddress\""), f("value", NAME)]),
    (
        "Listener",
        &[
            must("name", NAME),
            f("hostname", Host),
            must("port", PORT),
            must("protocol", Text(1, 255)),
            f("tls", Type("ListenerTLSConfig")),
            or("allowedRoutes", Type("AllowedRoutes"), r#"{"namespaces": {"from": "Same"}}"#),
        ],
    ),
    (
        "ListenerTLSConfig",
        &[
            or("mode", Word(&["Terminate", "Passthrough"]), "\"Terminate\""),
            f("certificateRefs", List(&Type("SecretObjectReference"), 0, 64)),
            f("options", Texts),
        ],
    ),
    (
        "SecretObjectReference",
        &[
            or("group", GROUP, "\"\""),
            or("kind", KIND, "\"Secret\""),
            must("name", NAME),
            f("namespace", LABEL),
        ],
    ),
    (
        "AllowedRoutes",
        &[
            or("namespaces", Type("RouteNamespaces"), r#"{"from": "Same"}"#),
            f("kinds", List(&Type("RouteGroupKind"), 0, 8)),
        ],
    ),
    (
        "RouteNamespaces",
        &[or("from", Word(&["All", "Selector", "Same"]), "\"Same\""), f("selector", Selector)],
    ),
    ("RouteGroupKind", &[or("group", GROUP, GATEWAY_GROUP), must("kind", KIND)]),
    (
        "GatewayStatus",
        &[
            f("addresses", List(&Type("GatewayStatusAddress"), 0, 16)),
            CONDITIONS,
            f("listeners", List(&Type("ListenerStatus"), 0, 64)),
        ],
    ),
    ("GatewayStatusAddress", &[or("type", KIND, "\"IPAddress\""), must("value", NAME)]),
    (
        "ListenerStatus",
        &[
            must("name", NAME),
            f("supportedKinds", List(&Type("RouteGroupKind"), 0, 8)),
            must("attachedRoutes", Number(0, i32::MAX as i64)),
            f("conditions", List(&Type("Condition"), 0, 8)),
        ],
    ),
    (
        "HTTPRoute",
        &[
            VERSION,
            OBJECT_KIND,
            METADATA,
            must("spec", Type("HTTPRouteSpec")),
            f("status", Type("RouteStatus")),
        ],
    ),
    ("HTTPRouteSpec", &[PARENTS, HOSTS, or("rules", List(&Type("HTTPRouteRule"), 1, 16), EVERY_RULE)]),
    (
        "ParentReference",
        &[
            or("group", GROUP, GATEWAY_GROUP),
            or("kind", KIND, "\"Gateway\""),
            f("namespace", LABEL),
            must("name", NAME),
            f("sectionName", NAME),
            f("port", PORT),
        ],
    ),
    (
        "HTTPRouteRule",
        &[
            f("name", NAME),
            or(
                "matches",
                List(&Type("HTTPRouteMatch"), 0, 64),
                r#"[{"path": {"type": "PathPrefix", "value": "/"}}]"#,
            ),
            f("filters", List(&Type("HTTPRouteFilter"), 0, 16)),
            f("backendRefs", List(&Type("HTTPBackendRef"), 0, 16)),
            f("timeouts", Type("HTTPRouteTimeouts")),
            f("retry", Anything),
            f("sessionPersistence", Anything),
        ],
    ),
    (
        "HTTPRouteMatch",
        &[
            or("path", Type("HTTPPathMatch"), EVERY_PATH),
            f("headers", List(&Type("HTTPHeaderMatch"), 0, 16)),
            f("queryParams", List(&Type("HTTPQueryParamMatch"), 0, 16)),
            f(
                "method",
                Word(&["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"]),
            ),
        ],
    ),
    (
        "HTTPPathMatch",
        &[
            or("type", Word(&["Exact", "PathPrefix", "RegularExpression"]), "\"PathPrefix\""),
            or("value", PATH, "\"/\""),
        ],
    ),
    ("HTTPHeaderMatch", &[MATCH_KIND, must("name", Text(1, 256)), must("value", VALUE)]),
    ("HTTPQueryParamMatch", &[MATCH_KIND, must("name", Text(1, 256)), must("value", Text(1, 1024))]),
    (
        "HTTPRouteFilter",
        &[
            must(
                "type",
                Word(&[
                    "RequestHeaderModifier",
                    "ResponseHeaderModifier",
                    "RequestMirror",
                    "RequestRedirect",
                    "URLRewrite",
                    "ExtensionRef",
                    "CORS",
                ]),
            ),
            f("requestHeaderModifier", Type("HTTPHeaderFilter")),
            f("responseHeaderModifier", Type("HTTPHeaderFilter")),
            f("requestMirror", Anything),
            f("requestRedirect", Type("HTTPRequestRedirectFilter")),
            f("urlRewrite", Type("HTTPURLRewriteFilter")),
            f("cors", Anything),
            f("extensionRef", Anything),
        ],
    ),
    (
        "HTTPHeaderFilter",
        &[
            f("set", List(&Type("HTTPHeader"), 0, 16)),
            f("add", List(&Type("HTTPHeader"), 0, 16)),
            f("remove", List(&Text(1, 256), 0, 16)),
        ],
    ),
    ("HTTPHeader", &[must("name", Text(1, 256)), must("value", VALUE)]),
    (
        "HTTPRequestRedirectFilter",
        &[
            f("scheme", Word(&["http", "https"])),
            f("hostname", Host),
            f("path", Type("HTTPPathModifier")),
            f("port", PORT),
            or("statusCode", Number(301, 308), "302"),
        ],
    ),
    (
        "HTTPPathModifier",
        &[
            must("type", Word(&["ReplaceFullPath", "ReplacePrefixMatch"])),
            f("replaceFullPath", PATH),
            f("replacePrefixMatch", PATH),
        ],
    ),
    ("HTTPURLRewriteFilter", &[f("hostname", Host), f("path", Type("HTTPPathModifier"))]),
    (
        "HTTPBackendRef",
        &[
            or("group", GROUP, "\"\""),
            or("kind", KIND, "\"Service\""),
            must("name", NAME),
            f("namespace", LABEL),
            f("port", PORT),
            or("weight", Number(0, 1_000_000), "1"),
            f("filters", List(&Type("HTTPRouteFilter"), 0, 16)),
        ],
    ),
    ("HTTPRouteTimeouts", &[f("request", DURATION), f("backendRequest", DURATION)]),
    ("RouteStatus", &[must("parents", List(&Type("RouteParentStatus"), 0, 32))]),
    (
        "RouteParentStatus",
        &[
            must("parentRef", Type("ParentReference")),
            must("controllerName", NAME),
            f("conditions", List(&Type("Condition"), 0, 8)),
        ],
    ),
    (
        "GRPCRoute",
        &[VERSION, OBJECT_KIND, METADATA, f("spec", Type("GRPCRouteSpec")), f("status", Type("RouteStatus"))],
    ),
    ("GRPCRouteSpec", &[PARENTS, HOSTS, f("rules", List(&Type("GRPCRouteRule"), 0, 16))]),
    (
        "GRPCRouteRule",
        &[
            f("name", NAME),
            f("matches", List(&Type("GRPCRouteMatch"), 0, 64)),
            f("filters", List(&Type("HTTPRouteFilter"), 0, 16)),
            f("backendRefs", List(&Type("HTTPBackendRef"), 0, 16)),
            f("sessionPersistence", Anything),
        ],
    ),
    (
        "GRPCRouteMatch",
        &[f("method", Type("GRPCMethodMatch")), f("headers", List(&Type("HTTPHeaderMatch"), 0, 16))],
    ),
    ("GRPCMethodMatch", &[MATCH_KIND, f("service", Text(0, 1024)), f("method", Text(0, 1024))]),
    ("ReferenceGrant", &[VERSION, OBJECT_KIND, METADATA, must("spec", Type("ReferenceGrantSpec"))]),
    (
        "ReferenceGrantSpec",
        &[
            must("from", List(&Type("ReferenceGrantFrom"), 1, 16)),
            must("to", List(&Type("ReferenceGrantTo"), 1, 16)),
        ],
    ),
    ("ReferenceGrantFrom", &[must("group", GROUP), must("kind", KIND), must("namespace", LABEL)]),
    ("ReferenceGrantTo", &[must("group", GROUP), must("kind", KIND), f("name", NAME)]),
];
