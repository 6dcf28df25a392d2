//! What controllers do to objects, on the same verbs as clients use.

use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;

use crate::auth::User;
use crate::deletion::DeleteOptions;
use crate::error::{ApiError, ApiResult};
use crate::meta;
use crate::ops::{Objects, WriteOptions};
use crate::query::{FieldValidation, Target};
use crate::registry::KindId;
use crate::storage::{Cache, Object};

/// Which part of an object is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All but the status.
    Main,
    /// The status.
    Status,
    /// `spec.finalizers` of a namespace.
    Finalize,
}

/// The objects, for controllers.
#[derive(Clone)]
pub(crate) struct Api {
    objects: Objects,
}

/// What a change of an object came to: it is well when the object is gone, or another has its name.
pub(crate) fn gone_is_well(changed: ApiResult<Arc<Object>>) -> ApiResult<()> {
    match changed {
        Err(ApiError { reason: "NotFound" | "Conflict", .. }) => Ok(()),
        other => other.map(drop),
    }
}

fn options() -> WriteOptions {
    WriteOptions {
        user: User::Admin("system:controller".into()),
        manager: "warren-controller".into(),
        dry_run: false,
        validation: FieldValidation::Ignore,
        now: Timestamp::now(),
    }
}

fn target(kind: KindId, namespace: &str, part: Part) -> Target {
    Target {
        status: part == Part::Status,
        finalize: part == Part::Finalize,
        ..Target::all(kind, Some(namespace).filter(|n| !n.is_empty()))
    }
}

impl Api {
    pub(crate) fn new(objects: Objects) -> Self {
        Self { objects }
    }
    /// The committed state.
    pub(crate) fn cache(&self) -> &Arc<Cache> {
        &self.objects.cache
    }
    /// Makes an object.
    pub(crate) async fn create(&self, kind: KindId, namespace: &str, body: Value) -> ApiResult<Arc<Object>> {
        let written = self.objects.create(&target(kind, namespace, Part::Main), body, &options()).await?;
        Ok(written.object)
    }
    /// Changes the object that has the name and uid of `object`, whatever it has become; an object that came in its
    /// place is a conflict.
    pub(crate) async fn change(
        &self,
        object: &Object,
        part: Part,
        make: impl Fn(&mut Value),
    ) -> ApiResult<Arc<Object>> {
        let uid = object.uid().to_owned();
        let changed = |current: &Value| {
            let mut new = current.clone();
            make(&mut new);
            let metadata = meta::of(&mut new);
            metadata.shift_remove("resourceVersion");
            metadata.insert("uid".into(), uid.clone().into());
            Ok(new)
        };
        let target = target(object.kind, &object.namespace, part);
        Ok(self.objects.change(&target, &object.name, &options(), true, changed).await?.object)
    }
    /// Puts `new` in place of `object`, if that is still the state.
    pub(crate) async fn replace(&self, object: &Object, mut new: Value) -> ApiResult<Arc<Object>> {
        meta::of(&mut new).insert("resourceVersion".into(), object.revision.to_string().into());
        let target = target(object.kind, &object.namespace, Part::Main);
        Ok(self.objects.update(&target, &object.name, new, &options()).await?.object)
    }
    /// Deletes the object that has the name and uid of `object`. It is well when it is gone already.
    pub(crate) async fn delete(&self, object: &Object) -> ApiResult<()> {
        self.delete_with(object, json!({})).await
    }
    /// Deletes it without giving it time: nobody is there to use it.
    pub(crate) async fn delete_now(&self, object: &Object) -> ApiResult<()> {
        self.delete_with(object, json!({ "gracePeriodSeconds": 0 })).await
    }
    async fn delete_with(&self, object: &Object, mut options: Value) -> ApiResult<()> {
        options["preconditions"] = json!({ "uid": object.uid() });
        let delete: DeleteOptions =
            serde_json::from_value(options).map_err(crate::error::ApiError::internal)?;
        let target = target(object.kind, &object.namespace, Part::Main);
        match self.objects.delete(&target, &object.name, &delete, &self::options()).await {
            Err(e) if e.reason == "NotFound" => Ok(()),
            // Another object has the name now.
            Err(e) if e.reason == "Conflict" && self.gone(object) => Ok(()),
            other => other.map(drop),
        }
    }
    /// Whether the object no longer exists.
    pub(crate) fn gone(&self, object: &Object) -> bool {
        self.cache().get(object.kind, &object.key()).is_none_or(|o| o.uid() != object.uid())
    }
}
