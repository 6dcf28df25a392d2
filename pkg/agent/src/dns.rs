//! What the admin socket tells of cluster DNS.

use crate::status::{Paint, or_dash};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::net::IpAddr;
use warren_dns::DnsStatus;
use warren_dns::ask::{InquiryError, Told};
use warren_dns::figures::{CODES, Figures, TYPES};
use warren_dns::resolv::{HostResolver, Source};
use warren_dns::upstream::figures::UpstreamFigures;
use warren_source::SourceStatus;
use warren_store::Store;
use warren_store::tables::pod_key;
use warren_types::{Pod, PodKey};

const GOOD: &str = "32";
const CARE: &str = "33";
const BAD: &str = "31";
const BOLD: &str = "1";
/// Codes that answers of upstreams are counted by.
const UPSTREAM_CODES: [&str; 5] = ["NOERROR", "NXDOMAIN", "SERVFAIL", "REFUSED", "other"];
/// The table that tells whether the API has been heard in this life of the agent.
const WITNESS: &str = "Service";

/// The part of `warren status` that is about cluster DNS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DnsView {
    /// Where it is served.
    pub addresses: Vec<String>,
    /// The cluster's domain.
    pub domain: String,
    /// Services that have names.
    pub services: u64,
    /// Whether the cluster is known; else its names are answered with SERVFAIL.
    pub known: bool,
    /// Whether what is known is from an earlier life of the agent: the API has not been heard in this one.
    pub stale: bool,
    /// Whether outside names are denied at once.
    pub offline: bool,
    /// Where the upstreams come from.
    pub source: String,
    /// Who is asked for outside names.
    pub upstreams: Vec<UpstreamView>,
    /// What is named as an upstream and not used, and what could not be read.
    pub notes: Vec<String>,
    /// Answers kept, and their bytes.
    pub cache: (u64, u64),
    /// Sockets taken over from the agent before.
    pub taken_over: u64,
    /// What is counted.
    pub counts: DnsCounts,
}

/// An upstream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpstreamView {
    /// Its address.
    pub address: String,
    /// Whether it is asked.
    pub up: bool,
    /// Its usual time for an answer, in microseconds; none before the first.
    pub latency_micros: Option<u64>,
    /// Attempts.
    pub requests: u64,
    /// Attempts without a reply that can be used.
    pub failures: u64,
    /// Probes that failed.
    pub probe_failures: u64,
    /// Replies by code.
    pub replies: Vec<(String, u64)>,
    /// Replies by time, in the classes of `warren_dns::upstream::figures::DURATION_BOUNDS`.
    pub durations: Vec<u64>,
    /// Microseconds of all replies.
    pub micros: u64,
}

/// What the server counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DnsCounts {
    /// Questions: protocol, family (1 or 2), type, how many.
    pub questions: Vec<(String, String, String, u64)>,
    /// Answers by code.
    pub answers: Vec<(String, u64)>,
    /// Answers by time, in the classes of [`warren_dns::figures::BOUNDS`].
    pub durations: Vec<u64>,
    /// Microseconds of all answers.
    pub micros: u64,
    /// By name: what is counted once.
    pub others: Vec<(String, u64)>,
}

/// What is asked of `/dns/query`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DnsQuestion {
    /// The name.
    pub name: String,
    /// The type.
    #[serde(rename = "type")]
    pub rtype: String,
    /// `NAMESPACE/POD`, an address, or nothing for the node.
    pub from: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoDnsAnswer {
    /// As the server says.
    #[error(transparent)]
    Inquiry(#[from] InquiryError),
    /// No such pod.
    #[error("there is no pod {0} with an address")]
    NoPod(String),
}

/// Everything that is needed to tell of cluster DNS.
#[derive(Clone)]
pub struct DnsDesk {
    /// The server; none when it is off.
    pub status: Option<DnsStatus>,
    /// Pods.
    pub store: Store,
    /// Whether the API was heard.
    pub source: SourceStatus,
}

impl DnsDesk {
    /// For `warren status` and the metrics; none when it is off, or does not serve yet.
    #[must_use]
    pub fn report(&self) -> Option<DnsView> {
        let status = self.status.as_ref()?;
        let now = status.get()?;
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let synced = self.source.report().synced.get(WITNESS).copied().unwrap_or(false);
        let (entries, bytes, _) = now.forward.cache;
        Some(DnsView {
            addresses: now.addresses.iter().map(ToString::to_string).collect(),
            domain: now.domain,
            services: count(now.services),
            known: now.known,
            stale: now.known && !synced,
            offline: now.forward.offline,
            source: now.resolver.as_ref().map(|r| source(&r.source)).unwrap_or_default(),
            upstreams: now
                .forward
                .upstreams
                .iter()
                .map(|(address, health, figures)| UpstreamView {
                    address: address.to_string(),
                    up: !health.is_down(),
                    latency_micros: health.latency.map(|l| u64::try_from(l.as_micros()).unwrap_or(u64::MAX)),
                    ..upstream(figures)
                })
                .collect(),
            notes: now.resolver.as_ref().map(notes).unwrap_or_default(),
            cache: (count(entries), count(bytes)),
            taken_over: count(now.taken_over),
            counts: status.count(counts).unwrap_or_default(),
        })
    }

    /// Asks as somebody would.
    ///
    /// # Errors
    /// [`NoDnsAnswer`].
    pub async fn ask(&self, question: &DnsQuestion) -> Result<Told, NoDnsAnswer> {
        let status = self.status.as_ref().ok_or(InquiryError::NotServing)?;
        let from = match &question.from {
            None => IpAddr::from(std::net::Ipv4Addr::LOCALHOST),
            Some(text) => match text.parse() {
                Ok(address) => address,
                Err(_) => self.address_of(text).ok_or_else(|| NoDnsAnswer::NoPod(text.clone()))?,
            },
        };
        Ok(status.ask(&question.name, &question.rtype, from).await?)
    }

    fn address_of(&self, pod: &str) -> Option<IpAddr> {
        let row = self.store.table::<Pod>().get(&pod_key(&PodKey::parse(pod)?))?;
        row.ips.first().copied()
    }
}

fn source(source: &Source) -> String {
    match source {
        Source::Configured => "the configuration".into(),
        Source::File(path) => path.display().to_string(),
        Source::None => String::new(),
    }
}

fn notes(resolver: &HostResolver) -> Vec<String> {
    let left_out = resolver.left_out.iter().map(ToString::to_string);
    left_out.chain(resolver.problems.iter().cloned()).collect()
}

fn upstream(figures: &UpstreamFigures) -> UpstreamView {
    let codes = UPSTREAM_CODES.iter().zip(&figures.responses);
    UpstreamView {
        requests: figures.requests.get(),
        failures: figures.failures.get(),
        probe_failures: figures.probe_failures.get(),
        replies: codes.map(|(code, n)| ((*code).to_owned(), n.get())).collect(),
        durations: figures.duration.iter().map(|n| n.get()).collect(),
        micros: figures.duration_sum.load(std::sync::atomic::Ordering::Relaxed),
        ..UpstreamView::default()
    }
}

fn counts(server: &Figures, forward: &warren_dns::upstream::figures::ForwardFigures) -> DnsCounts {
    let mut questions = Vec::new();
    for (protocol, of_protocol) in ["udp", "tcp"].iter().zip(&server.requests) {
        for (family, of_family) in ["1", "2"].iter().zip(of_protocol) {
            let types = TYPES.iter().map(|(_, name)| *name).chain(["other"]);
            for (rtype, n) in types.zip(of_family).filter(|(_, n)| n.get() > 0) {
                questions.push(((*protocol).into(), (*family).into(), rtype.into(), n.get()));
            }
        }
    }
    let codes = CODES.iter().copied().chain(["other"]).zip(&server.responses);
    let others = [
        ("unreadable", &server.unreadable),
        ("limited", &server.limited),
        ("dropped", &server.dropped),
        ("cache_hits", &forward.hits),
        ("cache_denials", &forward.denial_hits),
        ("cache_misses", &forward.misses),
        ("cache_prefetches", &forward.prefetches),
        ("cache_stale", &forward.stale),
        ("forward_joined", &forward.joined),
        ("forward_rejected", &forward.rejected),
        ("forward_broken", &forward.broken),
        ("overridden", &forward.overridden),
        ("offline", &forward.offline),
    ];
    DnsCounts {
        questions,
        answers: codes.filter(|(_, n)| n.get() > 0).map(|(code, n)| (code.into(), n.get())).collect(),
        durations: server.durations.iter().map(|n| n.get()).collect(),
        micros: server.duration_micros.load(std::sync::atomic::Ordering::Relaxed),
        others: others.map(|(name, n)| (name.into(), n.get())).into(),
    }
}

/// The lines of `warren status`.
pub(crate) fn lines(out: &mut String, paint: Paint, view: Option<&DnsView>) {
    let title = paint.wrap(BOLD, "DNS");
    let Some(view) = view else {
        let _ = writeln!(out, "{title}  not served here");
        return;
    };
    let asked: u64 = view.counts.questions.iter().map(|(.., n)| n).sum();
    let _ = writeln!(
        out,
        "{title}  {}  domain {}  {} Services  {asked} questions  {} answers of others kept",
        or_dash(&view.addresses),
        view.domain,
        view.services,
        view.cache.0
    );
    if !view.known {
        let _ = writeln!(
            out,
            "{}  nothing is known of the cluster yet: its names are answered with SERVFAIL",
            paint.wrap(CARE, "unknown")
        );
    } else if view.stale {
        let _ = writeln!(
            out,
            "{}  last known names are served: the API has not been heard since the agent started",
            paint.wrap(CARE, "stale")
        );
    }
    match (view.offline, view.upstreams.is_empty()) {
        (true, _) => out.push_str("upstreams  off: outside names are denied at once (--dns-offline)\n"),
        (false, true) => {
            let _ = writeln!(
                out,
                "upstreams  {}; outside names are answered with SERVFAIL; --dns-upstream names one",
                paint.wrap(BAD, "none")
            );
        }
        (false, false) => {
            let one = |u: &UpstreamView| {
                let state = if u.up { paint.wrap(GOOD, "up") } else { paint.wrap(BAD, "down") };
                let latency = u.latency_micros.map(|m| format!(", {}.{} ms", m / 1_000, m / 100 % 10));
                format!("{} ({state}{})", u.address, latency.unwrap_or_default())
            };
            let all: Vec<String> = view.upstreams.iter().map(one).collect();
            let _ = writeln!(out, "upstreams  {}  from {}", all.join(", "), view.source);
        }
    }
    for note in &view.notes {
        let _ = writeln!(out, "{}  {note}", paint.wrap(CARE, "note"));
    }
}

/// The text of `warren dns query`.
#[must_use]
pub fn render_told(told: &Told, colour: bool) -> String {
    let paint = Paint(colour);
    let mut out = String::new();
    let _ = writeln!(out, "{} {}  asked by {}", paint.wrap(BOLD, &told.name), told.rtype, told.client);
    let rows = told
        .steps
        .iter()
        .zip(1..)
        .map(|(step, number)| {
            let took = format!("{}.{:02} ms", step.micros / 1_000, step.micros / 10 % 100);
            vec![
                number.to_string().into(),
                step.name.as_str().into(),
                step.code.as_str().into(),
                took.into(),
                step.sources.join("; ").into(),
            ]
        })
        .collect();
    crate::status::table(&mut out, paint, &["STEP", "NAME", "ANSWER", "TOOK", "FROM"], rows);
    out.push('\n');
    let good = if told.code == "NOERROR" && !told.answers.is_empty() { GOOD } else { CARE };
    let what = match (told.code.as_str(), told.answers.is_empty()) {
        ("NOERROR", true) => ": the name exists, without records of this type",
        ("NXDOMAIN", _) => ": there is no such name",
        ("SERVFAIL", _) => ": nobody can say now",
        ("REFUSED", _) => ": not answered to this client, or not this type",
        _ => "",
    };
    let _ = writeln!(out, "{}{what}", paint.wrap(good, &told.code));
    for record in told.answers.iter().chain(&told.authority) {
        let _ = writeln!(out, "  {record}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use warren_dns::ask::Step;

    #[test]
    fn status_says_what_is_wrong_and_what_to_do() {
        let mut out = String::new();
        let view = DnsView {
            addresses: vec!["10.43.0.10".into()],
            domain: "cluster.local.".into(),
            known: true,
            stale: true,
            notes: vec!["127.0.0.53 is the stub of systemd-resolved".into()],
            ..DnsView::default()
        };
        lines(&mut out, Paint(false), Some(&view));
        for part in ["DNS  10.43.0.10", "stale  last known", "--dns-upstream", "note  127.0.0.53"] {
            assert!(out.contains(part), "{part} is not in {out}");
        }
        out.clear();
        lines(&mut out, Paint(false), None);
        assert_eq!(out, "DNS  not served here\n");
    }

    #[test]
    fn an_answer_reads_step_by_step() {
        let step = Step {
            name: "web.default.svc.cluster.local.".into(),
            sources: vec!["Service default/web, by its cluster addresses".into()],
            code: "NOERROR".into(),
            micros: 1_230,
        };
        let told = Told {
            name: "web".into(),
            rtype: "A".into(),
            client: "10.42.0.2".into(),
            steps: vec![step],
            code: "NOERROR".into(),
            answers: vec!["web. 5 IN A 10.43.0.9".into()],
            ..Told::default()
        };
        let text = render_told(&told, false);
        for part in ["web A  asked by 10.42.0.2", "1.23 ms", "Service default/web", "  web. 5 IN A 10.43.0.9"]
        {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}
