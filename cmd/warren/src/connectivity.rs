//! `warren connectivity`: who reaches whom, seen from pods of every node, and in which ways.
//!
//! The command asks by one ConfigMap, step by step, and the agents answer in it (`warren_types::connectivity`). What the steps
//! need besides (Services, an Ingress, a policy) it makes in a namespace of its own, and takes away at the end; what a run
//! left that was cut short, the next one takes away first.

mod objects;
mod report;

use crate::api::{self, Api, ApiArgs};
use crate::failure::{EXIT_FAILURE, Hinted, UsageError};
use crate::output;
use crate::status::{Output, print_json};
use anyhow::Context as _;
use clap::Args;
use indicatif::ProgressBar;
use objects::Cluster;
use report::{Part, Report};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use warren_types::NodeName;
use warren_types::connectivity::{
    ConnectivityAnswer, ConnectivityRun, ConnectivityTarget, MOST_NODES, RunPhase, answer_key,
};

/// How often the answers are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// What a step may take besides its questions: words between command, API and agents, and pods that are attached.
const WORDS: Duration = Duration::from_secs(15);

/// Arguments of `warren connectivity`.
#[derive(Debug, Args)]
#[command(after_help = "Exit code 0 when everything held, 1 when something did not, 2 for wrong usage.
It needs an administrator's kubeconfig, makes the namespace warren-connectivity, and takes it away again.")]
pub(crate) struct ConnectivityArgs {
    /// Only between these nodes [default: all; at most 16].
    #[arg(long, value_name = "NODE[,NODE]", value_delimiter = ',')]
    nodes: Vec<String>,
    /// How long one question may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    timeout: u64,
    /// A name outside of the cluster that every node has to resolve.
    #[arg(long, value_name = "NAME")]
    outside: Option<String>,
    /// Form of the output.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    api: ApiArgs,
}

/// Runs it.
pub(crate) fn run(args: ConnectivityArgs) -> anyhow::Result<ExitCode> {
    api::block_on(async {
        let api = args.api.api().await?;
        let progress = output::spinner();
        let cluster = Cluster::new(&api);
        let mut term = signal(SignalKind::terminate()).context("listen for signals")?;
        let outcome = tokio::select! {
            outcome = check(&cluster, &args, &progress) => outcome,
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
            _ = term.recv() => Err(anyhow::anyhow!("interrupted")),
        };
        progress.set_message("taking the probe pods away");
        let swept = cluster.sweep().await;
        progress.finish_and_clear();
        let report = outcome?;
        match args.output {
            Output::Json => print_json(&report)?,
            Output::Table => output::text(&report.render(output::colour())),
        };
        swept.context("what the run made could not be taken away; the next run tries it again")?;
        Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILURE) })
    })
}

/// The nodes that take part, with their own addresses.
async fn nodes(api: &Api, only: &[String]) -> anyhow::Result<BTreeMap<NodeName, ConnectivityTarget>> {
    let list = api.json(http::Method::GET, "/api/v1/nodes", &[], Vec::new()).await?;
    let mut all = BTreeMap::new();
    for node in list["items"].as_array().into_iter().flatten() {
        let name = node["metadata"]["name"].as_str().and_then(|n| NodeName::new(n).ok());
        let addresses = node["status"]["addresses"].as_array().into_iter().flatten();
        let own = addresses.filter(|a| a["type"] == "InternalIP");
        let own: Vec<IpAddr> = own.filter_map(|a| a["address"].as_str()?.parse().ok()).collect();
        all.extend(
            name.map(|name| (name, ConnectivityTarget { node: own, ..ConnectivityTarget::default() })),
        );
    }
    if let Some(odd) = only.iter().find(|name| !all.keys().any(|n| n.as_str() == name.as_str())) {
        return Err(UsageError(format!(
            "there is no node {odd:?}; `warren get nodes` shows those there are"
        ))
        .into());
    }
    let only: BTreeSet<&str> = only.iter().map(String::as_str).collect();
    all.retain(|name, _| only.is_empty() || only.contains(name.as_str()));
    if all.is_empty() {
        return Err(Hinted::new("the cluster has no node", "`warren agent` makes one").into());
    }
    if all.len() > MOST_NODES {
        let text =
            format!("{} nodes are too many for one run; name at most {MOST_NODES} with --nodes", all.len());
        return Err(UsageError(text).into());
    }
    Ok(all)
}

/// The whole run, but for the taking away.
async fn check(
    cluster: &Cluster<'_>,
    args: &ConnectivityArgs,
    progress: &ProgressBar,
) -> anyhow::Result<Report> {
    progress.set_message("making ready");
    let targets = nodes(cluster.api(), &args.nodes).await?;
    cluster.sweep().await.context("what an earlier run left cannot be taken away")?;
    cluster.ready().await?;
    let timeout = Duration::from_secs(args.timeout);
    let mut run = ConnectivityRun {
        id: format!("{:016x}", random()),
        phase: RunPhase::Hello,
        timeout_ms: args.timeout * 1000,
        outside: args.outside.clone(),
        targets,
    };
    let mut parts: BTreeMap<NodeName, Part> =
        run.targets.keys().map(|n| (n.clone(), Part::default())).collect();
    let steps = [
        (RunPhase::Hello, WORDS, "are the agents there?"),
        (RunPhase::Attach, timeout + WORDS, "attaching probe pods"),
        (RunPhase::Ask, timeout * 3 + WORDS, "asking"),
        (RunPhase::Policy, timeout + WORDS, "asking under a network policy"),
    ];
    for (phase, limit, what) in steps {
        run.phase = phase;
        if parts.values().all(|p| p.absent.is_some()) {
            break;
        }
        if phase == RunPhase::Ask {
            cluster.make_services(&mut run).await?;
        }
        if phase == RunPhase::Policy {
            let askers: Vec<IpAddr> = parts.values().flat_map(|p| p.asker.iter().copied()).collect();
            cluster.make_policy(&askers).await?;
        }
        cluster.say(&run).await?;
        let mut waited: BTreeSet<NodeName> =
            parts.iter().filter(|(_, p)| p.absent.is_none()).map(|(n, _)| n.clone()).collect();
        let (all, end) = (waited.len(), Instant::now() + limit);
        loop {
            progress.set_message(format!("{what} ({} of {all} nodes have answered)", all - waited.len()));
            let map = cluster.answers(&run.id).await?;
            for (node, answer) in answers(&map, &waited, phase)? {
                waited.remove(&node);
                if let Some(target) = run.targets.get_mut(&node) {
                    target.pod.clone_from(&answer.answerer);
                    target.ingress_port = answer.ingress_port;
                }
                if phase == RunPhase::Hello && !answer.registers {
                    let number = run.targets.keys().position(|n| *n == node).unwrap_or_default();
                    cluster.make_pods(number).await?;
                }
                parts.entry(node).or_default().take(answer);
            }
            if waited.is_empty() || Instant::now() >= end {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        for node in waited {
            let seconds = limit.as_secs();
            parts.entry(node).or_default().absent =
                Some(format!("its agent did not answer within {seconds} s ({what})"));
        }
    }
    Ok(Report::new(parts))
}

/// What these nodes have said to this step.
fn answers(
    map: &Value,
    nodes: &BTreeSet<NodeName>,
    phase: RunPhase,
) -> anyhow::Result<Vec<(NodeName, ConnectivityAnswer)>> {
    let mut out = Vec::new();
    for node in nodes {
        let Some(text) = map["data"][answer_key(node)].as_str() else { continue };
        let answer: ConnectivityAnswer = serde_json::from_str(text).with_context(|| {
            format!("the agent of {node} answers in a way that this program does not know")
        })?;
        if answer.phase == phase {
            out.push((node.clone(), answer));
        }
    }
    Ok(out)
}

/// A number that no other run has.
fn random() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::hash::RandomState::new().build_hasher().finish()
}
