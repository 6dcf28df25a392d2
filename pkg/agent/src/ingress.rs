//! What the admin socket tells of ingress.

use crate::status::{Cell, Paint, table};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use warren_ingress::Figures;
use warren_ingress::IngressStatus;
use warren_ingress::explain::{Explained, InvalidUrl};

const CARE: &str = "33";
const BAD: &str = "31";
const BOLD: &str = "1";

/// The part of `warren status` that is about ingress.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressView {
    /// Where it listens.
    pub listening: Vec<String>,
    /// Why it does not listen everywhere.
    pub failed: Vec<String>,
    /// Ingresses that are served.
    pub ingresses: u64,
    /// Of these, with something wrong.
    pub faulty: u64,
    /// Routes of the Gateway API that are attached.
    #[serde(skip_serializing_if = "is_zero")]
    pub gateway_routes: u64,
    /// Routes.
    pub routes: u64,
    /// Connections of clients, now.
    pub connections: u64,
    /// Answers, by hundred of their status, from 1xx.
    pub answers: [u64; 5],
    /// The same for each route.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub by_route: Vec<(String, [u64; 5])>,
    /// Requests that were refused since they were malformed or ambiguous.
    pub malformed: u64,
    /// Connections that were turned away since there were too many.
    pub turned_away: u64,
    /// Handshakes of TLS that came to nothing.
    pub handshakes_failed: u64,
    /// Lines of the access log that were dropped; none while there is no such log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unlogged: Option<u64>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// An Ingress, or a route of the Gateway API, that is served.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressSummary {
    /// `Ingress`, `HTTPRoute` or `GRPCRoute`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The hosts of its rules.
    pub hosts: Vec<String>,
    /// How many paths, or matches, it has.
    pub paths: u64,
    /// Whether it has TLS.
    pub tls: bool,
    /// What is wrong with it.
    pub faults: Vec<String>,
}

/// Who tells of ingress.
#[derive(Clone)]
pub struct IngressDesk {
    /// None when Ingresses are left to somebody else.
    pub(crate) status: Option<IngressStatus>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoIngressAnswer {
    /// Somebody else serves them.
    #[error("Ingresses are left to somebody else; this agent runs with --ingress=off")]
    Off,
    /// The agent starts.
    #[error("the cluster's Ingresses are not known yet; `warren status` says what is waited for")]
    NotLoaded,
    /// It is no URL.
    #[error(transparent)]
    Url(#[from] InvalidUrl),
}

impl IngressDesk {
    fn snapshot(&self) -> Result<warren_ingress::StatusSnapshot, NoIngressAnswer> {
        self.status.as_ref().ok_or(NoIngressAnswer::Off)?.get().ok_or(NoIngressAnswer::NotLoaded)
    }

    /// For `warren status`.
    #[must_use]
    pub fn report(&self) -> Option<IngressView> {
        let snapshot = self.snapshot().ok()?;
        let (served, attached) = (&snapshot.compiled.served, &snapshot.compiled.gateways.routes);
        let figures = snapshot.figures.unwrap_or_default();
        let sum = |hundred: usize| figures.answers.iter().map(|(_, counts)| counts[hundred]).sum();
        Some(IngressView {
            listening: snapshot.listening.at,
            failed: snapshot.listening.failed,
            ingresses: served.len() as u64,
            faulty: served.values().filter(|served| !served.faults.is_empty()).count() as u64
                + attached.iter().filter(|route| !route.faults.is_empty()).count() as u64,
            gateway_routes: attached.len() as u64,
            routes: snapshot.compiled.table.routes().len() as u64,
            connections: figures.connections as u64,
            answers: [sum(1), sum(2), sum(3), sum(4), sum(5)],
            by_route: by_route(&figures),
            malformed: figures.malformed,
            turned_away: figures.turned_away,
            handshakes_failed: figures.handshakes_failed,
            unlogged: snapshot.unlogged,
        })
    }

    /// All Ingresses that are served, and all routes that are attached to Gateways.
    ///
    /// # Errors
    /// When none can be.
    pub fn list(&self) -> Result<Vec<IngressSummary>, NoIngressAnswer> {
        let snapshot = self.snapshot()?;
        let summary =
            |(key, served): (&warren_types::IngressKey, &warren_ingress::compile::Served)| IngressSummary {
                kind: "Ingress".into(),
                namespace: key.namespace.to_string(),
                name: key.name.to_string(),
                hosts: served.hosts.clone(),
                paths: served.paths as u64,
                tls: served.tls,
                faults: served
                    .faults
                    .iter()
                    .map(|fault| format!("{}: {}", fault.reason, fault.message))
                    .collect(),
            };
        let attached = snapshot.compiled.gateways.routes.iter().map(|route| IngressSummary {
            kind: route.kind.to_string(),
            namespace: route.namespace.clone(),
            name: route.name.clone(),
            hosts: route.hosts.clone(),
            paths: route.matches as u64,
            tls: route.tls,
            faults: route.faults.clone(),
        });
        Ok(snapshot.compiled.served.iter().map(summary).chain(attached).collect())
    }

    /// What would become of a URL.
    ///
    /// # Errors
    /// When it is none, or nothing is served.
    pub fn explain(&self, url: &str) -> Result<Explained, NoIngressAnswer> {
        let snapshot = self.snapshot()?;
        let mut explained = warren_ingress::explain::explain(&snapshot.compiled, url)?;
        let listening = match snapshot.listening.at.as_slice() {
            [] => {
                explained.served = false;
                "nowhere on this node".to_owned()
            }
            some => some.join(", "),
        };
        let step = warren_ingress::explain::Step { about: "listening".into(), says: listening };
        explained.steps.insert(0, step);
        Ok(explained)
    }
}

fn by_route(figures: &Figures) -> Vec<(String, [u64; 5])> {
    let answers = figures.answers.iter();
    answers.map(|(route, [_, rest @ ..])| (route.to_string(), *rest)).collect()
}

/// The text of `warren ingress list`.
#[must_use]
pub fn render_list(all: &[IngressSummary], colour: bool) -> String {
    let mut out = String::new();
    let rows = all
        .iter()
        .map(|ingress| {
            let hosts = if ingress.hosts.is_empty() { "*".to_owned() } else { ingress.hosts.join(",") };
            vec![
                ingress.kind.as_str().into(),
                ingress.namespace.as_str().into(),
                ingress.name.as_str().into(),
                hosts.into(),
                ingress.paths.to_string().into(),
                if ingress.tls { "yes".into() } else { "-".into() },
                Cell::coloured(wrong(&ingress.faults), (!ingress.faults.is_empty()).then_some(CARE)),
            ]
        })
        .collect();
    table(&mut out, Paint(colour), &["KIND", "NAMESPACE", "NAME", "HOSTS", "PATHS", "TLS", "WRONG"], rows);
    out
}

/// The first fault, and how many there are besides.
fn wrong(faults: &[String]) -> String {
    match faults {
        [] => String::new(),
        [one] => one.clone(),
        [first, more @ ..] => format!("{first} ({} more)", more.len()),
    }
}

/// The text of `warren ingress explain`.
#[must_use]
pub fn render_explain(explained: &Explained, colour: bool) -> String {
    let paint = Paint(colour);
    let mut out = String::new();
    let _ = writeln!(out, "{}", paint.wrap(BOLD, &explained.url));
    let width = explained.steps.iter().map(|step| step.about.len()).max().unwrap_or_default();
    for step in &explained.steps {
        let _ = writeln!(out, "  {:width$}  {}", step.about, step.says);
    }
    if !explained.served {
        let _ = writeln!(out, "{}", paint.wrap(BAD, "not served"));
    }
    out
}

/// The line of `warren status`.
pub(crate) fn lines(out: &mut String, paint: Paint, view: Option<&IngressView>) {
    let title = paint.wrap(BOLD, "INGRESS");
    let Some(view) = view else {
        let _ = writeln!(out, "{title}  off, or not known yet");
        return;
    };
    let at = if view.listening.is_empty() { "nowhere".to_owned() } else { view.listening.join(" ") };
    let [_, ok, moved, wrong, failed] = view.answers;
    let _ = write!(out, "{title}  {} served by {} routes at {at}", view.ingresses, view.routes);
    if view.gateway_routes > 0 {
        let _ = write!(out, "  {} of Gateways", view.gateway_routes);
    }
    let _ = write!(
        out,
        "  connections {}  answers 2xx {ok} 3xx {moved} 4xx {wrong} 5xx {failed}",
        view.connections
    );
    if view.faulty > 0 {
        let _ = write!(out, "  {}", paint.wrap(CARE, &format!("{} with something wrong", view.faulty)));
    }
    if let Some(lines) = view.unlogged.filter(|lines| *lines > 0) {
        let _ = write!(out, "  {}", paint.wrap(CARE, &format!("{lines} lines of the access log dropped")));
    }
    out.push('\n');
    for why in &view.failed {
        let _ = writeln!(out, "  {}", paint.wrap(CARE, why));
    }
}

#[cfg(test)]
mod tests;
