//! `warren lab`: whole clusters inside this machine.

mod table;

use crate::failure::{Hinted, UsageError};
use crate::output;
use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use warren_lab::{
    CheckReport, ContainerPort, Families, HostPort, LabConfig, LabError, LabName, LabStatus, NodeStatus,
    PodStatus, Request, Role, Topology, client,
};

/// Arguments of `warren lab`.
#[derive(Debug, Args)]
pub(crate) struct LabArgs {
    /// Name of the lab; labs of different names run side by side.
    #[arg(long, global = true, default_value = "lab", value_name = "NAME")]
    name: LabName,
    /// Form of the result.
    #[arg(long, short, global = true, value_enum, default_value = "table")]
    output: Output,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Bring up a cluster, start sample pods, and check who reaches whom.
    Up(UpArgs),
    /// Show nodes, pods and services.
    Status,
    /// Check who reaches whom: pods, nodes and the outside, by TCP, UDP, HTTP and ICMP. Fails when anything fails.
    Check(CheckArgs),
    /// Start a pod: a program of this machine, or the echo server.
    Run(RunArgs),
    /// Remove a pod.
    Rm {
        /// The pod.
        pod: String,
    },
    /// Run a program in a node, a pod, the `switch`, the `gateway`, the `outside` host, or the `router-N` of a node.
    Exec {
        /// Where.
        target: String,
        /// The program and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "CMD")]
        command: Vec<String>,
    },
    /// Cut a node's power, or kill one of its processes.
    Kill {
        /// The node.
        node: String,
        /// Kill this process only; it is started again.
        #[arg(long, value_enum)]
        process: Option<Service>,
    },
    /// Boot a node that was killed: its disk is as it was, everything else is new. Its pods are started again.
    Start {
        /// The node.
        node: String,
    },
    /// Stop a service of a node until it is started again.
    Service {
        /// The node.
        node: String,
        /// What to do.
        #[arg(value_enum)]
        action: Action,
        /// With which service.
        #[arg(value_enum)]
        service: Service,
    },
    /// Add, remove and move nodes.
    #[command(subcommand)]
    Node(NodeVerb),
    /// Cut two nodes apart at the switch.
    Partition {
        /// One node.
        a: String,
        /// The other.
        b: String,
    },
    /// Join all nodes that were cut apart.
    Heal,
    /// Print a kubeconfig for kubectl on this machine.
    Kubeconfig,
    /// Print what the services of a node have logged, or a pod.
    Logs {
        /// The node or pod.
        target: String,
    },
    /// List the labs of this machine.
    List,
    /// Take the lab down: leaves nothing, in whatever state it was.
    Down {
        /// All labs of this machine.
        #[arg(long)]
        all: bool,
    },
    /// The lab's own processes.
    #[command(hide = true)]
    Internal {
        role: String,
        #[arg(default_value = "")]
        argument: String,
    },
}

#[derive(Debug, Subcommand)]
enum NodeVerb {
    /// One more node joins.
    Add,
    /// A node leaves for good.
    Remove {
        /// The node.
        node: String,
    },
    /// A node gets another address.
    Readdress {
        /// The node.
        node: String,
    },
}

#[derive(Debug, Args)]
struct UpArgs {
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_name = "N")]
    nodes: u16,
    /// How they are wired: one LAN; all but the first behind masquerading routers; two LANs with a router between.
    #[arg(long, value_enum, default_value = "lan")]
    topology: TopologyArg,
    /// IPv6 alone, for nodes and pods.
    #[arg(long, conflicts_with = "dual_stack")]
    ipv6: bool,
    /// IPv4 and IPv6, for nodes and pods.
    #[arg(long)]
    dual_stack: bool,
    /// Sample pods on every node.
    #[arg(long, default_value_t = 2, value_name = "K")]
    pods: u16,
    /// Do not check who reaches whom.
    #[arg(long)]
    no_check: bool,
    /// Prefix length of a node's IPv4 podCIDR.
    #[arg(long, value_name = "BITS")]
    node_prefix_v4: Option<u8>,
    /// Prefix length of a node's IPv6 podCIDR.
    #[arg(long, value_name = "BITS")]
    node_prefix_v6: Option<u8>,
    /// What server and agents log, as `--log` takes it.
    #[arg(long, default_value = "info", value_name = "FILTER")]
    service_log: String,
    /// One more argument for every agent, such as `--agent-arg=--tunnel-backend=userspace`.
    #[arg(long = "agent-arg", value_name = "ARG", allow_hyphen_values = true)]
    agent_args: Vec<String>,
    /// Namespaces, links and node processes alone.
    #[arg(long, hide = true)]
    bare: bool,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// How long one probe may take, in milliseconds.
    #[arg(long, default_value_t = 2000, value_name = "MS")]
    timeout: u64,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Name of the pod.
    pod: String,
    /// Its node, by name or number.
    #[arg(long, default_value = "node-1", value_name = "N")]
    node: String,
    /// Its labels.
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Its namespace; `warren apply` makes it.
    #[arg(long, default_value = "default", value_name = "NAMESPACE")]
    namespace: String,
    /// One of its ports that has a name, which a NetworkPolicy can say.
    #[arg(long = "port", value_name = "NAME=PORT[/PROTOCOL]")]
    ports: Vec<ContainerPort>,
    /// A port of its node that leads to it (hostPort).
    #[arg(long = "host-port", value_name = "[ADDRESS:]PORT:PORT[/PROTOCOL]")]
    host_ports: Vec<HostPort>,
    /// The program and its arguments; none: the echo server.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    command: Vec<String>,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("a label is KEY=VALUE".into()),
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TopologyArg {
    Lan,
    Nat,
    Sites,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Service {
    Server,
    Agent,
    Echo,
}

impl From<Service> for warren_lab::Service {
    fn from(service: Service) -> Self {
        match service {
            Service::Server => Self::Server,
            Service::Agent => Self::Agent,
            Service::Echo => Self::Echo,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Action {
    Stop,
    Start,
}

impl From<Action> for warren_lab::ServiceAction {
    fn from(action: Action) -> Self {
        match action {
            Action::Stop => Self::Stop,
            Action::Start => Self::Start,
        }
    }
}

/// What is being done: a spinner on a terminal, plain lines elsewhere.
struct Steps {
    spinner: Option<ProgressBar>,
    begin: Instant,
}

impl Steps {
    fn new(output: Output) -> Self {
        let terminal = std::io::stderr().is_terminal() && output == Output::Table;
        let spinner = terminal.then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>4} {msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { spinner, begin: Instant::now() }
    }

    fn say(&self, text: String) {
        match &self.spinner {
            Some(spinner) => spinner.set_message(text),
            None => output::stderr(&format!("{:6.1} s  {text}\n", self.begin.elapsed().as_secs_f64())),
        }
    }

    fn finish(&self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: LabArgs) -> anyhow::Result<ExitCode> {
    if let Verb::Internal { role, argument } = &args.verb {
        let role = Role::from_word(role).with_context(|| format!("{role:?} is no process of a lab"))?;
        return Ok(warren_lab::run_role(role, argument)?);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.context("start the runtime")?.block_on(dispatch(args))
}

async fn dispatch(args: LabArgs) -> anyhow::Result<ExitCode> {
    let (name, output) = (args.name, args.output);
    let steps = Steps::new(output);
    let done = Ok(ExitCode::SUCCESS);
    // A request that answers nothing but that it was carried out.
    let plain = async |request: Request, said: String| -> anyhow::Result<ExitCode> {
        let result = client::request::<serde_json::Value>(&name, &request, |text| steps.say(text)).await;
        steps.finish();
        result?;
        say(output, &said);
        Ok(ExitCode::SUCCESS)
    };
    match args.verb {
        Verb::Up(up_args) => up(name, output, up_args).await,
        Verb::Status => {
            let status: LabStatus = client::request(&name, &Request::Status, |_| {}).await?;
            show(output, &status, table::status)?;
            done
        }
        Verb::Check(CheckArgs { timeout }) => {
            steps.say("checking who reaches whom".into());
            let report = client::request(&name, &Request::Check { timeout_ms: timeout }, |_| {}).await;
            steps.finish();
            check_result(output, &report?)
        }
        Verb::Run(RunArgs { pod, node, labels, namespace, ports, host_ports, command }) => {
            let labels: BTreeMap<String, String> = labels.into_iter().collect();
            let request = Request::Run { name: pod, node, labels, namespace, host_ports, ports, command };
            let pod: PodStatus = client::request(&name, &request, |_| {}).await?;
            show(output, &pod, |pod| {
                let ips: Vec<String> = pod.ips.iter().map(ToString::to_string).collect();
                format!("{} runs on {} with {}\n", pod.name, pod.node, ips.join(", "))
            })?;
            done
        }
        Verb::Rm { pod } => plain(Request::Rm { name: pod.clone() }, format!("{pod} is gone")).await,
        Verb::Exec { target, command } => Ok(warren_lab::exec(&name, &target, &command).await?),
        Verb::Kill { node, process } => {
            let said = match process {
                None => format!("{node} has no power; `warren lab start {node}` boots it"),
                Some(_) => format!("killed a process of {node}; it is started again"),
            };
            plain(Request::Kill { node, process: process.map(Into::into) }, said).await
        }
        Verb::Start { node } => plain(Request::Start { node: node.clone() }, format!("{node} is on")).await,
        Verb::Service { node, action, service } => {
            let said = format!("done: {action:?} {service:?} on {node}").to_lowercase();
            plain(Request::Service { node, action: action.into(), service: service.into() }, said).await
        }
        Verb::Node(NodeVerb::Remove { node }) => {
            client::remove_node(&name, &node, |text| steps.say(text)).await?;
            say(output, &format!("{node} is gone"));
            done
        }
        Verb::Node(verb) => {
            let request = match verb {
                NodeVerb::Readdress { node } => Request::Readdress { node },
                _ => Request::NodeAdd,
            };
            let node = client::request::<NodeStatus>(&name, &request, |text| steps.say(text)).await;
            steps.finish();
            show(output, &node?, |node| {
                let ips: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
                format!("{} has {}\n", node.name, ips.join(", "))
            })?;
            done
        }
        Verb::Partition { a, b } => {
            let said = format!("{a} and {b} are cut apart; `warren lab heal` joins them");
            plain(Request::Partition { a, b }, said).await
        }
        Verb::Heal => plain(Request::Heal, "all nodes are joined".into()).await,
        Verb::Kubeconfig => {
            let text: String = client::request(&name, &Request::Kubeconfig, |_| {}).await?;
            output::text(&text);
            done
        }
        Verb::Logs { target } => logs(&name, &target),
        Verb::List => {
            show(output, &client::list()?, |labs| table::list(labs))?;
            done
        }
        Verb::Down { all } => down(&name, output, all).await,
        Verb::Internal { .. } => done,
    }
}

fn say(output: Output, text: &str) {
    if output == Output::Table {
        output::line(text);
    }
}

fn show<T: Serialize>(output: Output, value: &T, table: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
    match output {
        Output::Table => output::text(&table(value)),
        Output::Json => output::text(&(serde_json::to_string_pretty(value)? + "\n")),
    };
    Ok(())
}

/// What `up --output json` prints.
#[derive(Serialize)]
struct UpReport {
    seconds: f64,
    lab: LabStatus,
    check: Option<CheckReport>,
}

async fn up(name: LabName, output: Output, args: UpArgs) -> anyhow::Result<ExitCode> {
    let families = match (args.ipv6, args.dual_stack) {
        (true, _) => Families::V6,
        (_, true) => Families::Dual,
        _ => Families::V4,
    };
    let topology = match args.topology {
        TopologyArg::Lan => Topology::Lan,
        TopologyArg::Nat => Topology::Nat,
        TopologyArg::Sites => Topology::Sites,
    };
    let config = LabConfig {
        name: name.clone(),
        nodes: args.nodes,
        topology,
        families,
        pods: if args.bare { 0 } else { args.pods },
        bare: args.bare,
        node_prefix_v4: args.node_prefix_v4,
        node_prefix_v6: args.node_prefix_v6,
        log: args.service_log,
        agent_args: args.agent_args,
    };
    config.validate().map_err(|e| UsageError(e.to_string()))?;
    let steps = Steps::new(output);
    let lab = client::up(&config, |text| steps.say(text)).await;
    let lab = match lab {
        Ok(lab) => lab,
        Err(error) => {
            steps.finish();
            let exists = matches!(error, LabError::Exists(_));
            let what = format!("the lab {name:?} did not come up", name = name.as_str());
            return Err(if exists { error.into() } else { anyhow::Error::from(error).context(what) });
        }
    };
    let mut check: Option<CheckReport> = None;
    if !args.no_check && !args.bare && config.pods > 0 {
        // Tunnels need a moment for their first handshake; what fails is asked once more.
        for _ in 0..5 {
            steps.say("checking who reaches whom".into());
            let report: CheckReport =
                client::request(&name, &Request::Check { timeout_ms: 2000 }, |_| {}).await?;
            let complete = report.passed == report.total;
            check = Some(report);
            if complete {
                break;
            }
        }
    }
    let seconds = steps.begin.elapsed().as_secs_f64();
    steps.finish();
    let failed = check.as_ref().is_some_and(|c| c.passed < c.total);
    show(output, &UpReport { seconds, lab, check }, table::up)?;
    if failed {
        let hint = format!(
            "the lab is up; `warren lab logs node-1 --name {name}` and `warren lab check --name {name}`"
        );
        return Err(Hinted::new("some checks failed", hint).into());
    }
    Ok(ExitCode::SUCCESS)
}

fn check_result(output: Output, report: &CheckReport) -> anyhow::Result<ExitCode> {
    show(output, report, table::check)?;
    Ok(if report.passed == report.total { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn logs(name: &LabName, target: &str) -> anyhow::Result<ExitCode> {
    let dir = warren_lab::LabDir::of(name).logs();
    let read = std::fs::read_dir(&dir).map_err(|_| LabError::NoLab(name.to_string()))?;
    let full = if target.parse::<u16>().is_ok() { format!("node-{target}") } else { target.to_owned() };
    let wanted = |file: &str| {
        let stem = file.strip_suffix(".log").unwrap_or(file);
        let of_node = stem.strip_prefix(&full).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
        of_node || stem.ends_with(&format!("-pod-{full}"))
    };
    let mut files: Vec<_> = read.flatten().filter(|e| e.file_name().to_str().is_some_and(wanted)).collect();
    files.sort_by_key(std::fs::DirEntry::file_name);
    if files.is_empty() {
        let hint = format!(
            "`warren lab status --name {name}` shows nodes and pods; all logs are in {}",
            dir.display()
        );
        return Err(Hinted::new(format!("{target:?} has logged nothing"), hint).into());
    }
    for file in files {
        let text = std::fs::read(file.path()).with_context(|| format!("read {}", file.path().display()))?;
        let shown = format!("==> {} <==\n{}\n", file.path().display(), String::from_utf8_lossy(&text));
        if !output::text(&shown) {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn down(name: &LabName, output: Output, all: bool) -> anyhow::Result<ExitCode> {
    let names = if all {
        let labs = client::list()?.into_iter().map(|lab| LabName::new(lab.name));
        labs.collect::<Result<Vec<_>, _>>()?
    } else {
        vec![name.clone()]
    };
    for name in names {
        client::down(&name).await?;
        say(output, &format!("the lab {name} is gone"));
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Harness {
        #[command(flatten)]
        lab: LabArgs,
    }

    fn parse(words: &str) -> Result<LabArgs, clap::Error> {
        Harness::try_parse_from(["lab"].into_iter().chain(words.split(' '))).map(|h| h.lab)
    }

    #[test]
    fn a_command_keeps_its_own_flags() {
        let args = parse("exec --name two pod-1-1 -- ping -c 1 --name x").unwrap();
        assert_eq!(args.name.as_str(), "two");
        assert!(
            matches!(args.verb, Verb::Exec { command, .. } if command == ["ping", "-c", "1", "--name", "x"])
        );
        let args = parse("run --name two web --node 2 --label app=web -l a=b=c -- sleep 9").unwrap();
        let Verb::Run(run) = args.verb else { panic!("{args:?}") };
        assert_eq!(run.labels, [("app".into(), "web".into()), ("a".into(), "b=c".into())]);
        assert_eq!((run.node.as_str(), run.command.len()), ("2", 2));
        assert_eq!((run.namespace.as_str(), run.ports.len()), ("default", 0));
        let args = parse("run web --namespace x --port http=8080 --port dns=53/udp").unwrap();
        let Verb::Run(run) = args.verb else { panic!("{args:?}") };
        assert_eq!((run.namespace.as_str(), run.ports[1].protocol.as_str()), ("x", "UDP"));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            "up --ipv6 --dual-stack",
            "up --name ../x",
            "up --topology ring",
            "run",
            "run web --label nonsense",
            "exec node-1",
            "service node-1 explode agent",
            "kill",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
