//! How network policies read.

use super::{Check, DenialView, FlowView, PolicyDetail, PolicySummary, PolicyView, SideView};
use crate::status::{Cell, Paint, table};
use std::fmt::Write as _;

const GOOD: &str = "32";
const CARE: &str = "33";
const BAD: &str = "31";
const BOLD: &str = "1";

/// Rules of a direction; a dash where the policy does not isolate.
fn rules(n: Option<u64>) -> Cell {
    n.map_or_else(|| "-".into(), |n| n.to_string().into())
}

/// The text of `warren policy list`.
#[must_use]
pub fn render_list(all: &[PolicySummary], colour: bool) -> String {
    let mut out = String::new();
    let rows = all
        .iter()
        .map(|p| {
            vec![
                p.namespace.as_str().into(),
                p.name.as_str().into(),
                p.pods.to_string().into(),
                rules(p.ingress_rules),
                rules(p.egress_rules),
                Cell::coloured(p.denied.to_string(), (p.denied > 0).then_some(CARE)),
                match p {
                    PolicySummary { refused: true, .. } => {
                        Cell::coloured("refused by the kernel, allows nothing".into(), Some(BAD))
                    }
                    PolicySummary { held: true, .. } => Cell::coloured("deleted, held".into(), Some(CARE)),
                    _ => "".into(),
                },
            ]
        })
        .collect();
    let header = ["NAMESPACE", "NAME", "PODS HERE", "INGRESS RULES", "EGRESS RULES", "DENIED", ""];
    table(&mut out, Paint(colour), &header, rows);
    out
}

/// The text of `warren policy show`.
#[must_use]
pub fn render_show(policy: &PolicyDetail, colour: bool) -> String {
    let paint = Paint(colour);
    let mut out = String::new();
    let PolicySummary { namespace, name, denied, held, refused, .. } = &policy.summary;
    let _ = writeln!(out, "{}", paint.wrap(BOLD, &format!("NetworkPolicy {namespace}/{name}")));
    if *held {
        let _ = writeln!(
            out,
            "{}  its object is gone; it stays in force for the pods of its namespace that are still there",
            paint.wrap(CARE, "held")
        );
    }
    if *refused {
        let _ = writeln!(
            out,
            "{}  the kernel of this node refuses it (see the agent's log): it isolates, and allows nothing until it changes",
            paint.wrap(BAD, "refused")
        );
    }
    let _ = writeln!(out, "selects {}", policy.selector);
    let _ = match policy.selected.as_slice() {
        [] => writeln!(out, "on this node: none, so it costs nothing here"),
        some => writeln!(out, "on this node: {}", some.join(", ")),
    };
    for (title, rules) in [("ingress", &policy.ingress), ("egress", &policy.egress)] {
        out.push('\n');
        match rules.as_deref() {
            None => drop(writeln!(out, "{}  not isolated by this policy", paint.wrap(BOLD, title))),
            Some([]) => {
                let _ = writeln!(out, "{}  isolated; this policy allows nothing", paint.wrap(BOLD, title));
            }
            Some(rules) => {
                let _ = writeln!(out, "{}  isolated, but allowed", paint.wrap(BOLD, title));
                for (number, rule) in (1..).zip(rules) {
                    let _ = writeln!(out, "{number:4}  {rule}");
                }
            }
        }
    }
    let _ = writeln!(
        out,
        "\nin the kernel: part of {} classes of pods with {} elements  packets denied to its pods: {denied}",
        policy.classes, policy.elements
    );
    out
}

fn verdict(paint: Paint, allowed: bool) -> String {
    if allowed { paint.wrap(GOOD, "allowed") } else { paint.wrap(BAD, "denied") }
}

/// The text of `warren policy check`.
#[must_use]
pub fn render_check(check: &Check, colour: bool) -> String {
    let paint = Paint(colour);
    let mut out = String::new();
    for (number, flow) in check.flows.iter().enumerate() {
        if number > 0 {
            out.push('\n');
        }
        one(&mut out, paint, flow);
    }
    if check.flows.len() > 1 {
        let allowed = check.flows.iter().filter(|flow| flow.allowed).count();
        let _ = writeln!(out, "\n{allowed} of {} allowed", check.flows.len());
    }
    let icmp = |flow: &FlowView| flow.port.is_none() && !flow.allowed;
    if check.flows.iter().any(icmp) {
        let _ = writeln!(
            out,
            "\nno port was named, so ICMP was judged, which rules with ports do not allow: TO:PORT[/PROTOCOL] asks for one"
        );
    }
    out
}

fn one(out: &mut String, paint: Paint, flow: &FlowView) {
    let title = paint.wrap(BOLD, &format!("{} -> {} {}", flow.from, flow.to, flow.protocol));
    let by = flow.by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
    let now = verdict(paint, flow.allowed);
    let _ = match flow.allowed_before {
        None => writeln!(out, "{title}{by}: {now}"),
        Some(before) if before == flow.allowed => writeln!(out, "{title}{by}: {now}, as before"),
        Some(before) => writeln!(out, "{title}{by}: {now}, {} before", verdict(paint, before)),
    };
    let mut sides = vec![("egress", &flow.egress), ("ingress", &flow.ingress)];
    if let Some((egress, ingress)) = &flow.before {
        sides.extend([("egress before", egress), ("ingress before", ingress)]);
    }
    let place = |side: &SideView| match &side.node {
        Some(node) => format!("{} on {node}", side.at),
        None => side.at.clone(),
    };
    let name = sides.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let at = sides.iter().map(|(_, side)| place(side).chars().count()).max().unwrap_or(0);
    for (title, side) in sides {
        let padding = if side.allowed { "" } else { " " };
        let word = verdict(paint, side.allowed);
        let _ = writeln!(out, "  {title:name$}  {:at$}  {word}{padding}  {}", place(side), side.why);
    }
}

/// The text of `warren policy denials`: a table with a header, or one more line of a stream.
#[must_use]
pub fn render_denials(all: &[DenialView], colour: bool) -> String {
    let paint = Paint(colour);
    let mut out = String::new();
    for denial in all {
        let end = |pod: &Option<String>, address: &str| match pod {
            Some(pod) => format!("{pod} ({address})"),
            None => address.to_owned(),
        };
        let port = denial.port.map(|port| format!(" {port}")).unwrap_or_default();
        let why = match denial.policies.is_empty() {
            true => "nothing is known of the pod yet".to_owned(),
            false => format!("isolated by {}", denial.policies.join(", ")),
        };
        let _ = writeln!(
            out,
            "{}  {} -> {}  {}{port}  {}: {why}",
            paint.wrap(BAD, &format!("{:>6}", denial.packets)),
            end(&denial.source_pod, &denial.source),
            end(&denial.destination_pod, &denial.destination),
            denial.protocol,
            denial.direction,
        );
    }
    out
}

/// The lines of `warren status`.
pub(crate) fn lines(out: &mut String, paint: Paint, view: Option<&PolicyView>) {
    let title = paint.wrap(BOLD, "POLICY");
    let Some(view) = view else {
        let _ = writeln!(out, "{title}  left to somebody else");
        return;
    };
    if !view.loaded {
        let _ = writeln!(
            out,
            "{title}  {}  the cluster's policies are not known yet; what was in the kernel serves",
            paint.wrap(CARE, "unknown")
        );
        return;
    }
    let PolicyView { policies, isolated, denied_packets, flows_ended, repairs, .. } = view;
    let tenths = view.last_change_micros / 100;
    let last = match view.changes {
        0 => "none yet".to_owned(),
        n => format!("{n}, the last in {}.{} ms", tenths / 10, tenths % 10),
    };
    let _ = write!(out, "{title}  {policies} in force  isolated pods {isolated}  changes {last}");
    let _ =
        write!(out, "  repairs {repairs}  connections ended {flows_ended}  packets denied {denied_packets}");
    for (n, what) in [
        (view.held, "held after their deletion"),
        (view.refused, "refused by the kernel (warren policy list)"),
        (view.unknown, "pods not known yet"),
    ] {
        if n > 0 {
            let _ = write!(out, "  {}", paint.wrap(CARE, &format!("{n} {what}")));
        }
    }
    out.push('\n');
}
