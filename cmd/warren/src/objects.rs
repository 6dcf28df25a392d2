//! `warren apply`, `warren get`, `warren delete`: the verbs of every day, for machines without kubectl.

use crate::api::{self, Api, ApiArgs, Resource, by_type, by_word};
use crate::failure::UsageError;
use crate::output;
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use http::{Method, header};
use serde_json::{Value, json};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Who owns the fields that `warren apply` sets.
const MANAGER: &str = "warren";
/// Asks for rows instead of objects.
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
/// Largest file that is read.
const FILE_LIMIT: u64 = 64 << 20;

/// Arguments of `warren apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// File with objects, YAML or JSON; `-` is standard input.
    #[arg(long, short, value_name = "FILE")]
    filename: PathBuf,
    /// Namespace of objects that name none.
    #[arg(long, short, value_name = "NAME", default_value = "default")]
    namespace: String,
    /// Take over fields that somebody else has set to another value.
    #[arg(long)]
    force_conflicts: bool,
    #[command(flatten)]
    api: ApiArgs,
}

/// Form of the output of `warren get`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A table with more columns.
    Wide,
    /// The objects as YAML.
    Yaml,
    /// The objects as JSON.
    Json,
}

/// Arguments of `warren get`.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// What to show: pods, node, svc, ...
    #[arg(value_name = "KIND")]
    kind: String,
    /// One object [default: all].
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Namespace to look in.
    #[arg(long, short, value_name = "NAME", default_value = "default")]
    namespace: String,
    /// Look in every namespace.
    #[arg(long, short = 'A', conflicts_with_all = ["namespace", "name"])]
    all_namespaces: bool,
    /// Only objects with these labels.
    #[arg(long, short = 'l', value_name = "SELECTOR", conflicts_with = "name")]
    selector: Option<String>,
    /// Form of the output [default: a table].
    #[arg(long, short, value_enum)]
    output: Option<Form>,
    #[command(flatten)]
    api: ApiArgs,
}

/// Arguments of `warren delete`.
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Kind of the objects.
    #[arg(value_name = "KIND", required_unless_present = "filename", requires = "name")]
    kind: Option<String>,
    /// Names of the objects.
    #[arg(value_name = "NAME")]
    name: Vec<String>,
    /// File with the objects, YAML or JSON; `-` is standard input.
    #[arg(long, short, value_name = "FILE", conflicts_with_all = ["kind", "name"])]
    filename: Option<PathBuf>,
    /// Namespace of objects that name none.
    #[arg(long, short, value_name = "NAME", default_value = "default")]
    namespace: String,
    /// Objects that are not there are no failure.
    #[arg(long)]
    ignore_not_found: bool,
    #[command(flatten)]
    api: ApiArgs,
}

/// The objects in a file; a List gives its items.
fn read(path: &Path) -> anyhow::Result<Vec<Value>> {
    read_up_to(path, FILE_LIMIT)
}

/// As `read`, with a limit of its own.
pub(crate) fn read_up_to(path: &Path, limit: u64) -> anyhow::Result<Vec<Value>> {
    let mut text = String::new();
    let shown = if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(limit + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|f| f.take(limit + 1).read_to_string(&mut text))
    };
    let length = read.map_err(|e| UsageError(format!("{shown}: {e}")))?;
    if u64::try_from(length).is_ok_and(|length| length > limit) {
        return Err(UsageError(format!("{shown} is longer than {} MiB", limit >> 20)).into());
    }
    objects(&text).map_err(|why| UsageError(format!("{shown}: {why}")).into())
}

fn objects(text: &str) -> Result<Vec<Value>, String> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|e| e.to_string())?;
    let mut out = Vec::new();
    for document in documents {
        match document["items"].as_array() {
            Some(items) if document["kind"].as_str().is_some_and(|k| k.ends_with("List")) => {
                out.extend(items.iter().cloned())
            }
            _ => out.push(document),
        }
    }
    for (i, o) in out.iter().enumerate() {
        for field in ["/apiVersion", "/kind", "/metadata/name"] {
            if o.pointer(field).and_then(Value::as_str).is_none_or(str::is_empty) {
                return Err(format!(
                    "object {} has no {}",
                    i + 1,
                    field.trim_start_matches('/').replace('/', ".")
                ));
            }
        }
    }
    if out.is_empty() { Err("there is no object in it".into()) } else { Ok(out) }
}

fn field<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The resource and path of an object that was read from a file.
fn place<'a>(all: &'a [Resource], object: &Value, namespace: &str) -> anyhow::Result<(&'a Resource, String)> {
    let resource = by_type(all, field(object, "/apiVersion"), field(object, "/kind"))?;
    let namespace = match field(object, "/metadata/namespace") {
        "" => namespace,
        own => own,
    };
    Ok((resource, resource.path(Some(namespace), Some(field(object, "/metadata/name")))))
}

/// Goes on after a failure, and fails at the end with the first one, so that one bad object stops no other.
struct Outcome(Option<anyhow::Error>);

impl Outcome {
    fn note(&mut self, result: anyhow::Result<()>) {
        if let Err(error) = result {
            match &self.0 {
                None => self.0 = Some(error),
                Some(_) => output::stderr(&crate::failure::describe(&error).0),
            }
        }
    }
    fn end(self) -> anyhow::Result<ExitCode> {
        self.0.map_or(Ok(ExitCode::SUCCESS), Err)
    }
}

/// Runs `warren apply`.
pub(crate) fn apply(args: ApplyArgs) -> anyhow::Result<ExitCode> {
    let objects = read(&args.filename)?;
    api::block_on(async {
        let api = args.api.api().await?;
        let all = api.resources().await?;
        let mut outcome = Outcome(None);
        for object in &objects {
            outcome.note(apply_one(&api, &all, object, &args).await);
        }
        outcome.end()
    })
}

async fn apply_one(api: &Api, all: &[Resource], object: &Value, args: &ApplyArgs) -> anyhow::Result<()> {
    let (resource, path) = place(all, object, &args.namespace)?;
    let shown = format!("{}/{}", resource.shown(), field(object, "/metadata/name"));
    let path = format!("{path}?fieldManager={MANAGER}&force={}", args.force_conflicts);
    let media = [(header::CONTENT_TYPE, "application/apply-patch+yaml")];
    let answer = api
        .send(Method::PATCH, &path, &media, object.to_string().into_bytes())
        .await
        .with_context(|| format!("{shown} was not applied"))?;
    let done = if answer.status().as_u16() == 201 { "created" } else { "applied" };
    output::line(format_args!("{shown} {done}"));
    Ok(())
}

/// Runs `warren get`.
pub(crate) fn get(args: GetArgs) -> anyhow::Result<ExitCode> {
    api::block_on(async {
        let api = args.api.api().await?;
        let all = api.resources().await?;
        let resource = by_word(&all, &args.kind)?;
        let namespace = (!args.all_namespaces).then_some(args.namespace.as_str());
        let mut path = resource.path(namespace, args.name.as_deref());
        if let Some(selector) = &args.selector {
            path.push_str(&format!("?labelSelector={}", query(selector)));
        }
        match args.output {
            Some(form @ (Form::Yaml | Form::Json)) => {
                let mut found = api.json(Method::GET, &path, &[], Vec::new()).await?;
                as_kubectl(&mut found);
                print(&found, form)
            }
            wide => {
                let found = api.json(Method::GET, &path, &[(header::ACCEPT, TABLE)], Vec::new()).await?;
                let with_namespace = args.all_namespaces && resource.namespaced;
                let rows = rows(&found, wide.is_some(), with_namespace);
                if rows.len() > 1 {
                    output::text(&output::table(&rows));
                } else if resource.namespaced && !args.all_namespaces {
                    output::stderr(&format!("No resources found in {} namespace.\n", args.namespace));
                } else {
                    output::stderr("No resources found.\n");
                }
                Ok(())
            }
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Percent-encodes a query value.
fn query(value: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    value.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// A list as a List whose items say what they are, so that it can be applied again; no object shows who set which
/// field.
fn as_kubectl(found: &mut Value) {
    let of =
        (field(found, "/apiVersion").to_owned(), field(found, "/kind").trim_end_matches("List").to_owned());
    let Some(items) = found.get_mut("items").and_then(Value::as_array_mut) else {
        return without_managers(found);
    };
    for item in items.iter_mut() {
        let mut whole = json!({ "apiVersion": of.0, "kind": of.1 });
        if let (Value::Object(whole), Value::Object(item)) = (&mut whole, item.take()) {
            whole.extend(item);
        }
        without_managers(&mut whole);
        *item = whole;
    }
    let items = items.clone();
    *found =
        json!({ "apiVersion": "v1", "kind": "List", "metadata": { "resourceVersion": "" }, "items": items });
}

fn without_managers(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

fn print(value: &Value, form: Form) -> anyhow::Result<()> {
    let text = match form {
        Form::Yaml => serde_saphyr::to_string(value).context("write YAML")?,
        Form::Json | Form::Wide => format!("{value:#}\n"),
    };
    output::text(&text);
    Ok(())
}

/// Head and rows of a Table.
fn rows(table: &Value, wide: bool, with_namespace: bool) -> Vec<Vec<String>> {
    let list = |v: &Value, key: &str| v[key].as_array().cloned().unwrap_or_default();
    let columns = list(table, "columnDefinitions");
    let shown: Vec<usize> =
        (0..columns.len()).filter(|c| wide || columns[*c]["priority"].as_i64().unwrap_or(0) == 0).collect();
    let namespace = |text: &str| with_namespace.then(|| text.to_owned());
    let head = shown.iter().map(|c| columns[*c]["name"].as_str().unwrap_or_default().to_uppercase());
    let mut out = vec![namespace("NAMESPACE").into_iter().chain(head).collect::<Vec<_>>()];
    for row in list(table, "rows") {
        let cells = list(&row, "cells");
        let cell = |c: &usize| match cells.get(*c) {
            None | Some(Value::Null) => "<none>".to_owned(),
            Some(Value::String(s)) => s.clone(),
            Some(other) => other.to_string(),
        };
        let own = namespace(field(&row, "/object/metadata/namespace"));
        out.push(own.into_iter().chain(shown.iter().map(cell)).collect());
    }
    out
}

/// Runs `warren delete`.
pub(crate) fn delete(args: DeleteArgs) -> anyhow::Result<ExitCode> {
    let objects = args.filename.as_deref().map(read).transpose()?.unwrap_or_default();
    api::block_on(async {
        let api = args.api.api().await?;
        let all = api.resources().await?;
        let mut outcome = Outcome(None);
        if let Some(kind) = &args.kind {
            let resource = by_word(&all, kind)?;
            for name in &args.name {
                let path = resource.path(Some(&args.namespace), Some(name));
                outcome.note(delete_one(&api, resource, name, &path, args.ignore_not_found).await);
            }
        }
        // What was made last is deleted first: a namespace after what is in it.
        for object in objects.iter().rev() {
            let done = match place(&all, object, &args.namespace) {
                Ok((resource, path)) => {
                    let name = field(object, "/metadata/name");
                    delete_one(&api, resource, name, &path, args.ignore_not_found).await
                }
                Err(e) => Err(e),
            };
            outcome.note(done);
        }
        outcome.end()
    })
}

async fn delete_one(
    api: &Api,
    resource: &Resource,
    name: &str,
    path: &str,
    missing_is_fine: bool,
) -> anyhow::Result<()> {
    let shown = format!("{}/{name}", resource.shown());
    match api.send(Method::DELETE, path, &[], Vec::new()).await {
        Ok(_) => output::line(format_args!("{shown} deleted")),
        Err(e) if missing_is_fine && api::is_missing(&e) => {}
        Err(e) => return Err(e.context(format!("{shown} was not deleted"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_hold_documents_and_lists() {
        let text = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n\
             {\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"p\"}}]}\n---\n";
        let found = objects(text).unwrap();
        assert_eq!(found.iter().map(|o| field(o, "/kind")).collect::<Vec<_>>(), ["Namespace", "Pod"]);
        for (bad, why) in [
            ("", "no object"),
            ("a: [", ""),
            ("kind: Pod", "no apiVersion"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {}", "no metadata.name"),
        ] {
            let error = objects(bad).unwrap_err();
            assert!(error.contains(why), "{bad:?}: {error}");
        }
    }

    #[test]
    fn tables_show_what_was_asked_for() {
        let table = json!({"columnDefinitions": [{"name": "Name", "priority": 0}, {"name": "IP", "priority": 1}],
            "rows": [{"cells": ["p", null], "object": {"metadata": {"namespace": "d"}}}]});
        assert_eq!(rows(&table, false, false), [["NAME"], ["p"]]);
        assert_eq!(rows(&table, true, true), [["NAMESPACE", "NAME", "IP"], ["d", "p", "<none>"]]);
    }

    #[test]
    fn what_get_prints_can_be_applied() {
        let mut list = json!({"apiVersion": "v1", "kind": "PodList", "metadata": {},
            "items": [{"metadata": {"name": "p", "managedFields": []}}]});
        as_kubectl(&mut list);
        let text = serde_saphyr::to_string(&list).unwrap();
        assert_eq!(
            objects(&text).unwrap(),
            [json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}})]
        );
    }
}
