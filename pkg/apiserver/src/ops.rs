//! The verbs that change objects, for every kind alike.

use jiff::Timestamp;
use serde_json::Value;
use std::sync::Arc;

use crate::apply::{self, Manager};
use crate::auth::{self, User};
use crate::decode;
use crate::deletion::{self, DeleteOptions, Plan, check_preconditions};
use crate::error::{ApiError, ApiResult};
use crate::meta;
use crate::patch::Patch;
use crate::query::{FieldValidation, Target};
use crate::registry::{Kind, KindId, NAMESPACE};
use crate::storage::{Cache, Object, Op, Refused, Writer, object_key};
use crate::table::{list, text};
use warren_types::gateway::GATEWAY_GROUP;

/// Tries when others change the same object at the same moment.
const TRIES: usize = 50;
/// Namespaces that cannot be deleted.
const KEPT_NAMESPACES: [&str; 3] = ["default", "kube-public", "kube-system"];

/// The objects, for verbs.
#[derive(Clone)]
pub(crate) struct Objects {
    pub(crate) cache: Arc<Cache>,
    pub(crate) writer: Writer,
}

/// How a write is to be done.
#[derive(Debug, Clone)]
pub(crate) struct WriteOptions {
    pub(crate) user: User,
    /// The name under which the written fields are owned.
    pub(crate) manager: String,
    pub(crate) dry_run: bool,
    pub(crate) validation: FieldValidation,
    pub(crate) now: Timestamp,
}

/// The object after a write, and what the client should be told.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) object: Arc<Object>,
    pub(crate) warnings: Vec<String>,
}

fn refusal(kind: &Kind, name: &str, refused: Refused) -> ApiError {
    match refused {
        Refused::Exists => ApiError::already_exists(kind, name),
        Refused::Missing => ApiError::not_found(kind, name),
        Refused::Changed => ApiError::changed(kind, name),
        Refused::NoNamespace(ns) => ApiError::not_found(NAMESPACE.get(), &ns),
        Refused::NamespaceEnds(ns) => ApiError::namespace_ends(kind, name, &ns),
        Refused::Invalid(causes) => ApiError::invalid(kind, name, causes),
        Refused::Full(why) => ApiError::internal(why),
        Refused::PodCidr(why) => ApiError::forbidden_object(kind, name, &why),
        Refused::Failed(why) => ApiError::unavailable(format!("the object could not be stored: {why}")),
    }
}

/// Fields that only the server writes, taken from the stored object.
fn keep_server_fields(new: &mut Value, old: &Value) {
    let old = old["metadata"].as_object().cloned().unwrap_or_default();
    let new = meta::of(new);
    for key in [
        "uid",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "namespace",
        "name",
        "generateName",
    ] {
        match old.get(key) {
            Some(v) => new.insert(key.into(), v.clone()),
            None => new.shift_remove(key),
        };
    }
    new.shift_remove("selfLink");
}

/// The manager of a write, for [`apply`].
fn manager(target: &Target, options: &WriteOptions, applies: bool) -> Manager {
    Manager {
        name: options.manager.clone(),
        applies,
        api_version: target.kind.get().api_version(),
        subresource: if target.status { "status" } else { "" },
    }
}

fn seconds(now: Timestamp) -> String {
    meta::time(now).as_str().unwrap_or_default().to_owned()
}

fn set_field(o: &mut Value, key: &str, value: Option<Value>) {
    if let Value::Object(map) = o {
        match value {
            Some(v) => map.insert(key.into(), v),
            None => map.shift_remove(key),
        };
    }
}

impl Objects {
    /// One object.
    pub(crate) fn get(&self, kind: KindId, namespace: Option<&str>, name: &str) -> ApiResult<Arc<Object>> {
        self.cache
            .get(kind, &object_key(namespace.unwrap_or_default(), name))
            .ok_or_else(|| ApiError::not_found(kind.get(), name))
    }

    /// Makes an object.
    pub(crate) async fn create(
        &self,
        target: &Target,
        body: Value,
        options: &WriteOptions,
    ) -> ApiResult<Written> {
        self.make(target, body, options, true).await
    }

    /// Makes an object; `track` says whether its fields get an owner here.
    async fn make(
        &self,
        target: &Target,
        body: Value,
        options: &WriteOptions,
        track: bool,
    ) -> ApiResult<Written> {
        let kind = target.kind.get();
        let (mut o, warnings) = decode::typed(kind, body, options.validation)?;
        let metadata = meta::of(&mut o);
        if metadata.get("resourceVersion").and_then(Value::as_str).is_some_and(|v| !v.is_empty()) {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        match (&target.namespace, metadata.get("namespace").and_then(Value::as_str).unwrap_or_default()) {
            (Some(ns), given) if given.is_empty() || given == ns => {
                metadata.insert("namespace".into(), ns.clone().into());
            }
            (None, "") => {}
            (Some(_), _) => {
                return Err(ApiError::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
            (None, _) => {
                return Err(ApiError::bad_request("namespace may not be set on a cluster-scoped object"));
            }
        }
        for key in
            ["selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion", "generation"]
        {
            metadata.shift_remove(key);
        }
        metadata.insert("uid".into(), meta::new_uid()?.into());
        metadata.insert("creationTimestamp".into(), meta::time(options.now));
        if kind.generation {
            metadata.insert("generation".into(), 1.into());
        }
        let prefix = metadata.get("generateName").and_then(Value::as_str).unwrap_or_default().to_owned();
        let generate =
            !prefix.is_empty() && metadata.get("name").and_then(Value::as_str).unwrap_or_default().is_empty();
        for _ in 0..8 {
            let mut o = o.clone();
            if generate {
                meta::of(&mut o).insert("name".into(), meta::generated(&prefix)?.into());
            }
            (kind.default)(&mut o);
            if track {
                apply::update(
                    kind,
                    &Value::Null,
                    &mut o,
                    &manager(target, options, false),
                    &seconds(options.now),
                );
            }
            crate::ingress::admit(&self.cache, target.kind, &mut o);
            (kind.create)(&mut o);
            decode::validate(kind, &o, None)?;
            decode::refuse_large(&o)?;
            self.authorize_write(options, target.kind, None, Some(&o))?;
            let name = text(&o, "/metadata/name").to_owned();
            match self.write(Op::Create { kind: target.kind, value: o }, options.dry_run).await {
                Ok(object) => return Ok(Written { object, warnings }),
                Err(Refused::Exists) if generate => {}
                Err(refused) => return Err(refusal(kind, &name, refused)),
            }
        }
        Err(ApiError::conflict(kind, &prefix, "no free name was found for generateName; try again"))
    }

    fn authorize_write(
        &self,
        options: &WriteOptions,
        kind: KindId,
        old: Option<&Value>,
        new: Option<&Value>,
    ) -> ApiResult<()> {
        let served = |object: &Value| match kind.get().group {
            GATEWAY_GROUP => crate::gateway::is_served(&self.cache, kind, object),
            _ => crate::ingress::is_served(&self.cache, object),
        };
        auth::authorize_write(&options.user, kind, old, new, served)
    }

    /// Does a write. Done dry, the answer is what it would give, with the version of what is stored.
    async fn write(&self, op: Op, dry_run: bool) -> Result<Arc<Object>, Refused> {
        if !dry_run {
            return self.writer.write(op).await;
        }
        let stored = match &op {
            Op::Replace { expect, .. } => *expect,
            _ => 0,
        };
        let object = self.writer.write(Op::Dry(Box::new(op))).await?;
        Ok(dry(object.kind, object.full(), stored))
    }

    /// Puts an object in place of the stored one.
    pub(crate) async fn update(
        &self,
        target: &Target,
        name: &str,
        body: Value,
        options: &WriteOptions,
    ) -> ApiResult<Written> {
        let kind = target.kind.get();
        let given = text(&body, "/metadata/name").to_owned();
        if given != name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({name})"
            )));
        }
        let namespace = text(&body, "/metadata/namespace");
        if !namespace.is_empty() && Some(namespace) != target.namespace.as_deref() {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        if !kind.unconditional_update && text(&body, "/metadata/resourceVersion").is_empty() {
            let mut causes = crate::error::Causes::default();
            causes.invalid("metadata.resourceVersion", "", "must be specified for an update");
            return Err(ApiError::invalid(kind, name, causes));
        }
        self.change(target, name, options, true, |_| Ok(body.clone())).await
    }

    /// Applies a configuration (server-side apply). The flag says whether the object is new.
    pub(crate) async fn apply(
        &self,
        target: &Target,
        name: &str,
        mut config: Value,
        force: bool,
        options: &WriteOptions,
    ) -> ApiResult<(Written, bool)> {
        let kind = target.kind.get();
        for (key, expected) in
            [("/metadata/name", Some(name)), ("/metadata/namespace", target.namespace.as_deref())]
        {
            let given = text(&config, key);
            if !given.is_empty() && Some(given) != expected {
                let field = key.trim_start_matches('/').replace('/', ".");
                return Err(ApiError::bad_request(format!(
                    "{field} of the applied configuration ({given}) does not match the request"
                )));
            }
        }
        if config.pointer("/metadata/managedFields").is_some_and(|m| !m.is_null()) {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        // Types and unknown fields are judged here; what is merged is what the client wrote.
        let (_, warnings) = decode::typed(kind, config.clone(), options.validation)?;
        if let Value::Object(map) = &mut config {
            map.entry("apiVersion").or_insert_with(|| kind.api_version().into());
            map.entry("kind").or_insert_with(|| kind.kind.into());
        }
        meta::of(&mut config).insert("name".into(), name.into());
        let (manager, now) = (manager(target, options, true), seconds(options.now));
        let refused = |refused| match refused {
            apply::Refused::Malformed(why) => ApiError::bad_request(format!(
                "failed to create typed patch object ({}; {}, Kind={}): {why}",
                object_key(target.namespace.as_deref().unwrap_or_default(), name),
                kind.api_version(),
                kind.kind
            )),
            apply::Refused::Conflicts(conflicts) => ApiError::apply_conflict(&conflicts),
        };
        for _ in 0..TRIES {
            let key = object_key(target.namespace.as_deref().unwrap_or_default(), name);
            if self.cache.get(target.kind, &key).is_some() || target.status {
                let written = self
                    .change(target, name, options, false, |current| {
                        apply::apply(kind, current, &config, &manager, force, &now).map_err(refused)
                    })
                    .await;
                match written {
                    Err(e) if e.code == http::StatusCode::NOT_FOUND && !target.status => continue,
                    other => {
                        return other.map(|mut w| {
                            w.warnings.extend(warnings);
                            (w, false)
                        });
                    }
                }
            }
            if !text(&config, "/metadata/uid").is_empty() {
                let why = format!(
                    "uid mismatch: the provided object specified uid {}, and no existing object was found",
                    text(&config, "/metadata/uid")
                );
                return Err(ApiError::conflict(kind, name, &why));
            }
            let new = apply::apply(kind, &Value::Null, &config, &manager, force, &now).map_err(refused)?;
            match self.make(target, new, options, false).await {
                Err(ApiError { reason: "AlreadyExists", .. }) => {}
                other => {
                    return other.map(|mut w| {
                        w.warnings.extend(warnings);
                        (w, true)
                    });
                }
            }
        }
        Err(ApiError::changed(kind, name))
    }

    /// Patches the stored object.
    pub(crate) async fn patch(
        &self,
        target: &Target,
        name: &str,
        patch: &Patch,
        options: &WriteOptions,
    ) -> ApiResult<Written> {
        let kind = target.kind.get();
        self.change(target, name, options, true, |current| {
            let mut patched = patch.apply(kind, current)?;
            // The stored resourceVersion is no precondition; one that the patch itself brings is.
            let (new, old) =
                (text(&patched, "/metadata/resourceVersion"), text(current, "/metadata/resourceVersion"));
            if new == old {
                meta::of(&mut patched).shift_remove("resourceVersion");
            }
            for key in ["/metadata/name", "/metadata/namespace"] {
                if text(&patched, key) != text(current, key) {
                    return Err(ApiError::bad_request(format!(
                        "{} may not be changed",
                        key.trim_start_matches('/').replace('/', ".")
                    )));
                }
            }
            Ok(patched)
        })
        .await
    }

    /// Reads, changes and writes back until nobody came between.
    pub(crate) async fn change(
        &self,
        target: &Target,
        name: &str,
        options: &WriteOptions,
        track: bool,
        make: impl Fn(&Value) -> ApiResult<Value>,
    ) -> ApiResult<Written> {
        let kind = target.kind.get();
        for _ in 0..TRIES {
            let current = self.get(target.kind, target.namespace.as_deref(), name)?;
            let live = current.full();
            self.authorize_write(options, target.kind, Some(&live), None)?;
            let (new, warnings) = decode::typed(kind, make(&live)?, options.validation)?;
            let precondition = text(&new, "/metadata/resourceVersion").to_owned();
            if !precondition.is_empty() && precondition != current.revision.to_string() {
                return Err(ApiError::changed(kind, name));
            }
            let uid = text(&new, "/metadata/uid");
            if !uid.is_empty() && uid != current.uid() {
                let why = format!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                    current.uid()
                );
                return Err(ApiError::conflict(kind, name, &why));
            }
            let mut new = self.prepare(target, new, &live);
            if track {
                apply::update(kind, &live, &mut new, &manager(target, options, false), &seconds(options.now));
            }
            decode::validate(kind, &new, Some(&live))?;
            decode::refuse_large(&new)?;
            self.authorize_write(options, target.kind, Some(&live), Some(&new))?;
            // A dry run shows the object as it would be at its end.
            let op = if deletion::is_over(target.kind, &new) && !options.dry_run {
                Op::Delete { kind: target.kind, key: current.key(), expect: current.revision }
            } else {
                Op::Replace { kind: target.kind, expect: current.revision, value: new }
            };
            match self.write(op, options.dry_run).await {
                Ok(object) => return Ok(Written { object, warnings }),
                Err(Refused::Changed) if precondition.is_empty() => {}
                Err(refused) => return Err(refusal(kind, name, refused)),
            }
        }
        Err(ApiError::changed(kind, name))
    }

    /// What of `new` this write may bring, the rest from `old`.
    fn prepare(&self, target: &Target, mut new: Value, old: &Value) -> Value {
        let kind = target.kind.get();
        if target.finalize {
            let finalizers = list(&new, "/spec/finalizers").to_vec();
            new = old.clone();
            crate::kinds::object(&mut new, "spec").insert("finalizers".into(), finalizers.into());
            return new;
        }
        if target.status {
            let (status, managers) =
                (new.get("status").cloned(), new["metadata"].get("managedFields").cloned());
            new = old.clone();
            set_field(&mut new, "status", status);
            if let Some(managers) = managers {
                meta::of(&mut new).insert("managedFields".into(), managers);
            }
            return new;
        }
        keep_server_fields(&mut new, old);
        if kind.status {
            set_field(&mut new, "status", old.get("status").cloned());
        }
        if target.kind == NAMESPACE {
            // Only the finalize subresource writes them.
            let finalizers = list(old, "/spec/finalizers").to_vec();
            crate::kinds::object(&mut new, "spec").insert("finalizers".into(), finalizers.into());
        }
        (kind.default)(&mut new);
        (kind.carry)(&mut new, old);
        if kind.generation && desired(&new) != desired(old) {
            let generation = old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(1);
            meta::of(&mut new).insert("generation".into(), (generation + 1).into());
        }
        new
    }

    /// Deletes an object, or marks it for deletion when finalizers hold it. The flag says whether it is gone.
    pub(crate) async fn delete(
        &self,
        target: &Target,
        name: &str,
        delete: &DeleteOptions,
        options: &WriteOptions,
    ) -> ApiResult<(Arc<Object>, bool)> {
        let kind = target.kind.get();
        delete.check()?;
        if target.kind == NAMESPACE && KEPT_NAMESPACES.contains(&name) {
            return Err(ApiError::forbidden_object(kind, name, "this namespace may not be deleted"));
        }
        for _ in 0..TRIES {
            let current = self.get(target.kind, target.namespace.as_deref(), name)?;
            self.authorize_write(options, target.kind, Some(&current.value), None)?;
            check_preconditions(kind, &current, &delete.preconditions)?;
            let (op, gone) = match deletion::plan(target.kind, &current.value, delete, options.now) {
                Plan::Nothing => return Ok((current, false)),
                Plan::Remove => {
                    (Op::Delete { kind: target.kind, key: current.key(), expect: current.revision }, true)
                }
                Plan::Mark(value) => {
                    (Op::Replace { kind: target.kind, expect: current.revision, value }, false)
                }
            };
            if options.dry_run || delete.dry_run.iter().any(|d| d == "All") {
                return Ok((current, gone));
            }
            match self.writer.write(op).await {
                Ok(object) => return Ok((object, gone)),
                Err(Refused::Changed) => {}
                Err(refused) => return Err(refusal(kind, name, refused)),
            }
        }
        Err(ApiError::changed(kind, name))
    }
}

/// What `metadata.generation` counts the changes of: all but metadata and status.
fn desired(o: &Value) -> Vec<(&String, &Value)> {
    let parts = o.as_object().into_iter().flatten();
    let mut parts: Vec<_> = parts.filter(|(k, _)| !matches!(k.as_str(), "metadata" | "status")).collect();
    parts.sort_unstable_by_key(|(k, _)| *k);
    parts
}

/// The object as a dry run answers it: with the revision that it has, none when it is new.
fn dry(kind: KindId, value: Value, revision: u64) -> Arc<Object> {
    let mut object = Object::new(kind, value, revision);
    if revision == 0 {
        let mut full = object.full();
        meta::of(&mut full).shift_remove("resourceVersion");
        object.json = full.to_string().into();
        meta::of(&mut object.value).shift_remove("resourceVersion");
    }
    Arc::new(object)
}
