//! What the agent says, and what the API says to this node.

use super::Asked;
use crate::facts::{ApiFacts, ApiNode, Facts, Known};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::config::Kubeconfig;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use warren_agent::client::ask;
use warren_agent::config::ApiChoice;
use warren_agent::status::CheckReport;
use warren_source::client::chain;
use warren_source::{ApiAccess, SourceStatus};

/// How long the API may take.
const API_LIMIT: Duration = Duration::from_secs(6);

pub(super) async fn gather(asked: &Asked, facts: &mut Facts) {
    let socket = asked.socket();
    facts.agent.status = ask(&socket, "/status").await.map_err(|e| e.to_string());
    let Ok(status) = &facts.agent.status else { return };
    facts.agent.open_files = open_files(status.pid);
    let checked = ask::<CheckReport>(&socket, "/ipam/check").await;
    facts.agent.leaks = checked.map(|report| report.findings).map_err(|e| e.to_string());
}

/// The soft limit of open files.
fn open_files(pid: u32) -> Option<u64> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|l| l.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// How this node reaches the API.
fn access(asked: &Asked) -> Option<ApiAccess> {
    match &asked.config.api {
        ApiChoice::Kubeconfig(path) => Some(ApiAccess::Kubeconfig(path.clone())),
        ApiChoice::InCluster => ApiAccess::in_cluster(),
        ApiChoice::Join { .. } => {
            Some(asked.config.identity_path()).filter(|p| p.exists()).map(ApiAccess::Kubeconfig)
        }
    }
}

pub(super) async fn ask_api(asked: &Asked, facts: &mut Facts) {
    let Some(access) = access(asked).filter(|_| asked.configured) else {
        facts.api = Err("no API is configured, or this node has not joined yet".into());
        facts.certificate = Err("this node has no certificate yet".into());
        return;
    };
    if let ApiAccess::Kubeconfig(path) = &access {
        facts.certificate = certificate(path);
    }
    facts.api = match tokio::time::timeout(API_LIMIT, nodes(&access)).await {
        Ok(answer) => answer,
        Err(_) => Err("no answer within 6 s".into()),
    };
}

async fn nodes(access: &ApiAccess) -> Known<ApiFacts> {
    let api = access.client(&SourceStatus::default()).await.map_err(|e| chain(&e))?;
    let request = http::Request::get("/api/v1/nodes").body(Body::empty()).map_err(|e| e.to_string())?;
    let answer = api.client.send(request).await.map_err(|e| chain(&e))?;
    let now = jiff::Timestamp::now().as_second();
    let date = answer.headers().get(http::header::DATE).and_then(|d| d.to_str().ok());
    let told = date.and_then(|d| jiff::fmt::rfc2822::parse(d).ok()).map(|d| d.timestamp().as_second());
    let (skew, code) = (told.map(|then| now - then), answer.status());
    let body = answer.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
    if !code.is_success() {
        return Err(format!("it answers {code} to a list of Nodes"));
    }
    let list: Value = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(ApiFacts { nodes: items.iter().map(node).collect(), skew })
}

fn node(object: &Value) -> ApiNode {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    ApiNode { name: text("/metadata/name"), machine_id: text("/status/nodeInfo/machineID") }
}

/// From when to when the client certificate of a kubeconfig counts.
fn certificate(path: &Path) -> Known<(i64, i64)> {
    let file = Kubeconfig::read_from(path).map_err(|e| e.to_string())?;
    let user = file.auth_infos.into_iter().find_map(|u| u.auth_info).ok_or("the kubeconfig names no user")?;
    let pem = match (user.client_certificate_data, user.client_certificate) {
        (Some(data), _) => STANDARD.decode(data.trim()).map_err(|e| e.to_string())?,
        (None, Some(file)) => {
            let file = path.parent().map_or_else(|| PathBuf::from(&file), |dir| dir.join(&file));
            std::fs::read(&file).map_err(|e| format!("{}: {e}", file.display()))?
        }
        (None, None) => return Err("the kubeconfig has no client certificate".into()),
    };
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).map_err(|e| e.to_string())?;
    let validity = pem.parse_x509().map_err(|e| e.to_string())?.validity().clone();
    Ok((validity.not_before.timestamp(), validity.not_after.timestamp()))
}
