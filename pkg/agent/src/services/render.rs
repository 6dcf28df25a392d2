//! How Services read.

use super::{BalancerView, ProxyView, ServicesReport};
use crate::status::{Cell, Paint, or_dash, table};
use std::fmt::Write as _;
use warren_proxy::explain::{Explanation, Outcome};
use warren_proxy::view::{Does, EndpointView, FrontView, ServiceSummary, ServiceView, State};

const GOOD: &str = "32";
const CARE: &str = "33";
const BAD: &str = "31";
const BOLD: &str = "1";

fn count(hits: Option<u64>) -> String {
    hits.map_or_else(|| "-".into(), |n| n.to_string())
}

fn dash(text: &str) -> Cell {
    if text.is_empty() { "-".into() } else { text.into() }
}

/// The text of `warren service list`.
#[must_use]
pub fn render_list(all: &[ServiceSummary], colour: bool) -> String {
    let mut out = String::new();
    let rows = all
        .iter()
        .map(|s| {
            let endpoints = match s.kind.as_str() {
                "ExternalName" => "-".to_owned(),
                _ => format!("{}/{}", s.ready, s.endpoints),
            };
            let none_ready = s.ready == 0 && !s.cluster_ips.is_empty();
            vec![
                s.namespace.as_str().into(),
                s.name.as_str().into(),
                s.kind.as_str().into(),
                or_dash(&s.cluster_ips).into(),
                or_dash(&s.external).into(),
                or_dash(&s.ports).into(),
                Cell::coloured(endpoints, none_ready.then_some(CARE)),
                count(s.hits).into(),
                Cell::coloured(s.faults.to_string(), (s.faults > 0).then_some(BAD)),
            ]
        })
        .collect();
    let header = ["NAMESPACE", "NAME", "TYPE", "CLUSTER-IP", "EXTERNAL", "PORTS", "READY", "HITS", "FAULTS"];
    table(&mut out, Paint(colour), &header, rows);
    out
}

/// The text of `warren service show`.
#[must_use]
pub fn render_show(s: &ServiceView, colour: bool) -> String {
    let paint = Paint(colour);
    let mut out = String::new();
    let _ = writeln!(out, "{}  {}", paint.wrap(BOLD, &format!("service {}/{}", s.namespace, s.name)), s.kind);
    if s.note.is_empty() {
        mode(&mut out, s);
    } else {
        let _ = writeln!(out, "{}", s.note);
    }
    if !s.fronts.is_empty() {
        out.push('\n');
        let rows = s.fronts.iter().map(front_row).collect();
        table(&mut out, paint, &["FRONT", "PORT", "ORIGIN", "HITS", "NEW CONNECTIONS"], rows);
    }
    out.push('\n');
    if s.endpoints.is_empty() {
        let _ = writeln!(out, "no endpoints");
    } else {
        let rows = s.endpoints.iter().map(endpoint_row).collect();
        table(&mut out, paint, &["ENDPOINT", "FOR", "POD", "NODE", "ZONE", "STATE", "DRAWN HERE"], rows);
    }
    if !s.load_balancer.is_empty() {
        out.push('\n');
        let rows = s
            .load_balancer
            .iter()
            .map(|h| vec![h.address.as_str().into(), h.holder.as_str().into()])
            .collect();
        table(&mut out, paint, &["LOAD BALANCER", "ANSWERED FOR BY"], rows);
    }
    if !s.faults.is_empty() {
        out.push('\n');
    }
    for fault in &s.faults {
        let _ = writeln!(out, "{}  {}: {}", paint.wrap(BAD, "fault"), fault.reason, fault.message);
    }
    out
}

fn mode(out: &mut String, s: &ServiceView) {
    let mode = &s.mode;
    let _ = write!(out, "internal policy {}", mode.internal_policy);
    if let Some(policy) = &mode.external_policy {
        let _ = write!(out, "  external policy {policy}");
    }
    match mode.affinity_seconds {
        Some(seconds) => drop(write!(out, "  affinity ClientIP for {seconds} s")),
        None => out.push_str("  affinity none"),
    }
    if let Some(distribution) = &mode.traffic_distribution {
        let _ = write!(out, "  traffic distribution {distribution}");
    }
    if !mode.source_ranges.is_empty() {
        let _ = write!(out, "  load balancer open to {}", mode.source_ranges.join(","));
    }
    if let Some(port) = mode.health_check_node_port {
        let _ = write!(out, "  health check on port {port}");
    }
    out.push('\n');
}

fn front_row(front: &FrontView) -> Vec<Cell> {
    let address = if front.address.contains(':') {
        format!("[{}]:{}", front.address, front.port)
    } else {
        format!("{}:{}", front.address, front.port)
    };
    let drawn = |n: usize| match n {
        0 => "refused: no endpoint".to_owned(),
        1 => "to 1 endpoint".into(),
        n => format!("to one of {n} endpoints"),
    };
    let (mut text, colour) = match front.does {
        Does::Forwards => (drawn(front.endpoints), None),
        Does::Refuses => ("refused: no endpoint serves anywhere".into(), Some(CARE)),
        Does::Drops => ("dropped: no endpoint on this node".into(), Some(CARE)),
        Does::Taken => ("an older Service has this address and port".into(), Some(BAD)),
    };
    if let Some(inside) = front.endpoints_inside {
        text = format!("{text}; from pods and this node {}", drawn(inside));
    }
    vec![
        address.into(),
        match front.port_name.as_str() {
            "" => front.protocol.as_str().into(),
            name => format!("{} {name}", front.protocol).into(),
        },
        front.origin.as_str().into(),
        count(front.hits).into(),
        Cell::coloured(text, colour),
    ]
}

fn endpoint_row(endpoint: &EndpointView) -> Vec<Cell> {
    let (state, colour) = match endpoint.state {
        State::Ready => ("ready", GOOD),
        State::Serving => ("serving", CARE),
        State::Terminating => ("terminating", CARE),
        State::NotReady => ("not ready", BAD),
    };
    let why = &endpoint.why;
    let drawn = match (endpoint.chosen, endpoint.chosen_outside) {
        (true, None | Some(true)) => "yes".to_owned(),
        (true, Some(false)) => format!("from inside; not from outside: {why}"),
        (false, Some(true)) => format!("from outside; not by the cluster address: {why}"),
        (false, _) if why.is_empty() => "-".into(),
        (false, _) => format!("no: {why}"),
    };
    let address = if endpoint.address.contains(':') {
        format!("[{}]:{}", endpoint.address, endpoint.port)
    } else {
        format!("{}:{}", endpoint.address, endpoint.port)
    };
    let node = endpoint.node.as_deref().unwrap_or("-");
    vec![
        address.into(),
        port_of(endpoint),
        dash(endpoint.pod.as_deref().unwrap_or_default()),
        if endpoint.local { format!("{node} (this node)").into() } else { node.into() },
        dash(endpoint.zone.as_deref().unwrap_or_default()),
        Cell::coloured(state.into(), Some(colour)),
        drawn.into(),
    ]
}

fn port_of(endpoint: &EndpointView) -> Cell {
    match endpoint.port_name.as_str() {
        "" => endpoint.service_port.as_str().into(),
        name => format!("{} {name}", endpoint.service_port).into(),
    }
}

/// The text of `warren explain`.
#[must_use]
pub fn render_explanation(e: &Explanation, colour: bool) -> String {
    let paint = Paint(colour);
    let mut out = String::new();
    let _ = writeln!(out, "{}", paint.wrap(BOLD, &format!("{} -> {}", e.from, e.to)));
    for path in &e.paths {
        out.push('\n');
        if !path.destination.is_empty() {
            let _ = writeln!(out, "to {}", path.destination);
        }
        let width = path.steps.iter().map(|step| step.about.len()).max().unwrap_or(0);
        for (number, step) in (1..).zip(&path.steps) {
            let _ = writeln!(out, "{number:4}  {:width$}  {}", step.about, step.text);
        }
        let (word, code) = match path.outcome {
            Outcome::Delivered => ("delivered", GOOD),
            Outcome::Refused => ("refused", BAD),
            Outcome::Dropped => ("dropped", BAD),
            Outcome::Untouched => ("not translated", CARE),
            Outcome::Elsewhere => ("elsewhere", CARE),
        };
        let _ = writeln!(out, "  =>  {}: {}", paint.wrap(code, word), path.end);
        if let Some(advice) = &path.advice {
            let _ = writeln!(out, "      to do: {advice}");
        }
    }
    out
}

/// The lines of `warren status`.
pub(crate) fn lines(out: &mut String, paint: Paint, report: &ServicesReport) {
    let title = paint.wrap(BOLD, "SERVICES");
    match &report.proxy {
        None => drop(writeln!(out, "{title}  left to another proxy")),
        Some(proxy) => proxy_line(out, &title, proxy),
    }
    let title = paint.wrap(BOLD, "LOAD BALANCER");
    match &report.load_balancer {
        None => drop(writeln!(out, "{title}  off")),
        Some(view) => balancer_lines(out, paint, &title, view),
    }
}

fn proxy_line(out: &mut String, title: &str, proxy: &ProxyView) {
    let ProxyView { services, changes, repairs, flows_ended, .. } = proxy;
    let tenths = proxy.last_change_micros / 100;
    let last = match changes {
        0 => "none yet".to_owned(),
        n => format!("{n}, the last in {}.{} ms", tenths / 10, tenths % 10),
    };
    let _ = writeln!(
        out,
        "{title}  {services} translated  changes {last}  repairs {repairs}  UDP flows ended {flows_ended}"
    );
}

fn balancer_lines(out: &mut String, paint: Paint, title: &str, view: &BalancerView) {
    let _ = write!(out, "{title}  mode {}", view.mode);
    if view.writer {
        out.push_str("  this node writes addresses");
    }
    if view.mode == "pool" {
        let _ = write!(out, "  held here {}", or_dash(&view.held));
        let _ = write!(out, "  held by others {}", or_dash(&view.backed_up));
    }
    if !view.listening.is_empty() {
        let _ = write!(out, "  listening for {}", view.listening.join(","));
    }
    out.push('\n');
    for refused in &view.refused {
        let _ = writeln!(out, "{}  {refused}", paint.wrap(CARE, "not announced"));
    }
}
