//! What the API says when it says no: `metav1.Status`, with the reason and code that clients act on.

use axum::body::Body;
use http::{Response, StatusCode, header};
use serde_json::{Value, json};

use crate::registry::Kind;

/// One field that is wrong (`StatusCause`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cause {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) field: String,
}

/// Collects the faults of an object, so that all are told at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Causes(pub(crate) Vec<Cause>);

impl Causes {
    fn add(&mut self, reason: &'static str, field: impl Into<String>, message: String) {
        self.0.push(Cause { reason, message, field: field.into() });
    }
    /// The value breaks a rule.
    pub(crate) fn invalid(
        &mut self,
        field: &str,
        value: impl std::fmt::Display,
        rule: impl std::fmt::Display,
    ) {
        let value: String = value.to_string().chars().take(100).collect();
        self.add("FieldValueInvalid", field, format!("Invalid value: {value:?}: {rule}"));
    }
    /// The value, as JSON, breaks a rule.
    pub(crate) fn invalid_value(&mut self, field: &str, value: &Value, rule: impl std::fmt::Display) {
        let value: String = value.to_string().chars().take(200).collect();
        self.add("FieldValueInvalid", field, format!("Invalid value: {value}: {rule}"));
    }
    /// The list is too long.
    pub(crate) fn too_many(&mut self, field: &str, count: usize, limit: usize) {
        self.add("FieldValueTooMany", field, format!("Too many: {count}: must have at most {limit} items"));
    }
    /// The field must be there.
    pub(crate) fn required(&mut self, field: &str, rule: &str) {
        let message =
            if rule.is_empty() { "Required value".into() } else { format!("Required value: {rule}") };
        self.add("FieldValueRequired", field, message);
    }
    /// The field may not be set or changed.
    pub(crate) fn forbidden(&mut self, field: &str, rule: impl std::fmt::Display) {
        self.add("FieldValueForbidden", field, format!("Forbidden: {rule}"));
    }
    /// Two entries share what must be unique.
    pub(crate) fn duplicate(&mut self, field: &str, value: impl std::fmt::Display) {
        self.add("FieldValueDuplicate", field, format!("Duplicate value: {:?}", value.to_string()));
    }
    /// Two entries share a value that is no text.
    pub(crate) fn duplicate_value(&mut self, field: &str, value: &Value) {
        self.add("FieldValueDuplicate", field, format!("Duplicate value: {value}"));
    }
    /// The value is not one of those known.
    pub(crate) fn unsupported(&mut self, field: &str, value: &str, known: &[&str]) {
        let known: Vec<String> = known.iter().map(|k| format!("{k:?}")).collect();
        let message = format!("Unsupported value: {value:?}: supported values: {}", known.join(", "));
        self.add("FieldValueNotSupported", field, message);
    }
    /// The value is too long.
    pub(crate) fn too_long(&mut self, field: &str, limit: usize) {
        self.add("FieldValueTooLong", field, format!("Too long: may not be more than {limit} bytes"));
    }
}

/// An error of the API.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub(crate) code: StatusCode,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    details: Option<Box<Details>>,
}

#[derive(Debug, Clone, Default)]
struct Details {
    name: String,
    group: &'static str,
    kind: String,
    causes: Vec<Cause>,
    retry_after_seconds: u32,
}

/// The outcome of most of this crate.
pub(crate) type ApiResult<T> = Result<T, ApiError>;

/// Longest message.
const MESSAGE_LIMIT: usize = 8 << 10;
/// Longest name in the details; no valid one is longer.
const NAME_LIMIT: usize = 1024;
/// Most faults that one answer names.
const CAUSES_LIMIT: usize = 100;

impl ApiError {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        let mut message = message.into();
        // What a client sent may be in it; it is not sent back in megabytes.
        if message.len() > MESSAGE_LIMIT {
            message.truncate(message.floor_char_boundary(MESSAGE_LIMIT));
            message.push_str("...");
        }
        Self { code, reason, message, details: None }
    }
    fn about(mut self, kind: &Kind, name: &str) -> Self {
        self.details = Some(Box::new(Details {
            name: name[..name.floor_char_boundary(NAME_LIMIT)].into(),
            group: kind.group,
            kind: kind.plural.into(),
            ..Details::default()
        }));
        self
    }
    fn retry_after(mut self, seconds: u32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }
    pub(crate) fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", message)
    }
    /// A refusal that concerns no object.
    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message)
    }
    pub(crate) fn forbidden_object(kind: &Kind, name: &str, why: &str) -> Self {
        let message = if name.is_empty() {
            format!("{} is forbidden: {why}", kind.qualified())
        } else {
            format!("{} {name:?} is forbidden: {why}", kind.qualified())
        };
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).about(kind, name)
    }
    /// Nothing new comes into a namespace that is being deleted.
    pub(crate) fn namespace_ends(kind: &Kind, name: &str, namespace: &str) -> Self {
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut error = Self::forbidden_object(kind, name, &why);
        error.details.get_or_insert_default().causes.push(Cause {
            reason: "NamespaceTerminating",
            message: format!("namespace {namespace} is being terminated"),
            field: "metadata.namespace".into(),
        });
        error
    }
    pub(crate) fn no_such_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource")
    }
    /// Something that is no object is not there.
    pub(crate) fn missing(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }
    pub(crate) fn not_found(kind: &Kind, name: &str) -> Self {
        let message = format!("{} {name:?} not found", kind.qualified());
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(kind, name)
    }
    pub(crate) fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }
    pub(crate) fn not_acceptable() -> Self {
        Self::new(
            StatusCode::NOT_ACCEPTABLE,
            "NotAcceptable",
            "only the following media types are accepted: application/json",
        )
    }
    pub(crate) fn already_exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", kind.qualified());
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(kind, name)
    }
    pub(crate) fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", kind.qualified());
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(kind, name)
    }
    /// A configuration would change fields that others own.
    pub(crate) fn apply_conflict(conflicts: &[crate::apply::Conflict]) -> Self {
        let message = match conflicts {
            [one] => format!("Apply failed with 1 conflict: conflict with {}: {}", one.manager, one.field),
            many => {
                let mut managers: Vec<&str> = many.iter().map(|c| c.manager.as_str()).collect();
                managers.dedup();
                let of = |m: &str| {
                    let fields: Vec<String> =
                        many.iter().filter(|c| c.manager == m).map(|c| format!("- {}", c.field)).collect();
                    format!("conflicts with {m}:\n{}", fields.join("\n"))
                };
                let list: Vec<String> = managers.into_iter().map(of).collect();
                format!("Apply failed with {} conflicts: {}", many.len(), list.join("\n"))
            }
        };
        let mut error = Self::new(StatusCode::CONFLICT, "Conflict", message);
        error.details.get_or_insert_default().causes = conflicts
            .iter()
            .map(|c| Cause {
                reason: "FieldManagerConflict",
                message: format!("conflict with {}", c.manager),
                field: c.field.clone(),
            })
            .collect();
        error
    }
    pub(crate) fn changed(kind: &Kind, name: &str) -> Self {
        Self::conflict(
            kind,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }
    /// Too old a resourceVersion or continue token: list again.
    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }
    pub(crate) fn version_too_large(asked: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let mut error = Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message).retry_after(1);
        error.details.get_or_insert_default().causes.push(Cause {
            reason: "ResourceVersionTooLarge",
            message: "Too large resource version".into(),
            field: String::new(),
        });
        error
    }
    pub(crate) fn request_timeout(message: &str) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "Timeout", message)
    }
    pub(crate) fn too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {limit} bytes"),
        )
    }
    pub(crate) fn unsupported_media_type(known: &[&str]) -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: {}",
                known.join(", ")
            ),
        )
    }
    pub(crate) fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
    }
    /// The object breaks rules; each is named.
    pub(crate) fn invalid(kind: &Kind, name: &str, mut causes: Causes) -> Self {
        causes.0.truncate(CAUSES_LIMIT);
        let list: Vec<String> = causes.0.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        let text = if list.len() == 1 { list.concat() } else { format!("[{}]", list.join(", ")) };
        let qualified = if kind.group.is_empty() {
            kind.kind.to_owned()
        } else {
            format!("{}.{}", kind.kind, kind.group)
        };
        let mut error = Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid",
            format!("{qualified} {name:?} is invalid: {text}"),
        )
        .about(kind, name);
        let details = error.details.get_or_insert_default();
        details.kind = kind.kind.into();
        details.causes = causes.0;
        error
    }
    pub(crate) fn too_many_requests(message: impl Into<String>, seconds: u32) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message).retry_after(seconds)
    }
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message).retry_after(1)
    }
    pub(crate) fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalError",
            format!("Internal error occurred: {message}"),
        )
    }

    /// The Status object.
    pub(crate) fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason,
        });
        if let Some(d) = &self.details {
            let mut details = serde_json::Map::new();
            for (key, text) in [("name", d.name.as_str()), ("group", d.group), ("kind", d.kind.as_str())] {
                if !text.is_empty() {
                    details.insert(key.into(), text.into());
                }
            }
            if !d.causes.is_empty() {
                let cause = |c: &Cause| {
                    if c.field.is_empty() {
                        json!({ "reason": c.reason, "message": c.message })
                    } else {
                        json!({ "reason": c.reason, "message": c.message, "field": c.field })
                    }
                };
                details.insert("causes".into(), d.causes.iter().map(cause).collect());
            }
            if d.retry_after_seconds > 0 {
                details.insert("retryAfterSeconds".into(), d.retry_after_seconds.into());
            }
            status["details"] = details.into();
        } else {
            status["details"] = json!({});
        }
        status["code"] = self.code.as_u16().into();
        status
    }

    /// The HTTP answer.
    pub(crate) fn response(&self) -> Response<Body> {
        let mut response = crate::reply::json(self.code, &self.status());
        if let Some(seconds) = self.details.as_ref().map(|d| d.retry_after_seconds).filter(|s| *s > 0) {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
