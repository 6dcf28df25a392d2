//! `warren doctor`: what is wrong with this node, and what to do about it.

use crate::agent::{self, AgentArgs};
use crate::failure::{EXIT_FAILURE, Hinted, UsageError};
use crate::output;
use crate::status::{Output, print_json};
use anyhow::Context as _;
use clap::{ArgMatches, Args, Command, FromArgMatches, Parser};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use warren_agent::config::{AgentConfig, Origin, RawConfig};
use warren_agent::status::StatusReport;
use warren_doctor::{Asked, catalogue, diagnose, gather, list, render};

/// Flags of the agent that `warren doctor --help` shows; it takes all.
const SHOWN: [&str; 5] = ["config", "data_dir", "run_dir", "cni_conf_dir", "cni_bin_dir"];
/// Stands for a configuration that says nothing of the API: there is none to be asked then.
const NO_KUBECONFIG: &str = "/nonexistent";

/// Arguments of `warren doctor`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code 0 when nothing has failed (there may be warnings), 1 when something has, 2 for wrong usage.
All flags of `warren agent` are understood; those of the agent that runs here are known by themselves."
)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    agent: Hidden,
    /// Only these checks.
    #[arg(long, value_name = "ID[,ID]", value_delimiter = ',')]
    check: Vec<String>,
    /// Name all checks, and look at nothing.
    #[arg(long, conflicts_with_all = ["check", "bundle"])]
    list: bool,
    /// Show what is well, and what was skipped, too.
    #[arg(long)]
    all: bool,
    /// Write an archive for those who help: what was found, the state of agent and kernel, without secrets.
    #[arg(long, value_name = "FILE.tar.gz")]
    bundle: Option<PathBuf>,
    /// Form of the output.
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

/// The agent's flags, most of them not shown.
#[derive(Debug)]
struct Hidden(AgentArgs);

impl Args for Hidden {
    fn augment_args(command: Command) -> Command {
        let all = AgentArgs::augment_args(Command::new("agent"));
        let hide = |arg: &clap::Arg| {
            let shown = SHOWN.contains(&arg.get_id().as_str());
            arg.clone().hide(!shown)
        };
        command.args(all.get_arguments().map(hide).collect::<Vec<_>>())
    }
    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Hidden {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        AgentArgs::from_arg_matches(matches).map(Self)
    }
    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

/// The command line of an agent.
#[derive(Parser)]
struct AgentLine {
    #[command(flatten)]
    logging: crate::logging::LogArgs,
    #[command(subcommand)]
    command: AgentCommand,
}

#[derive(clap::Subcommand)]
enum AgentCommand {
    Agent(Box<AgentArgs>),
}

/// Looks, prints, and says by the exit code whether something has failed.
pub(crate) fn run(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    if args.list {
        match args.output {
            Output::Json => print_json(&listed())?,
            Output::Table => output::text(&list()),
        };
        return Ok(ExitCode::SUCCESS);
    }
    let known = |id: &String| catalogue().iter().flat_map(|g| g.checks).any(|c| c.id == id);
    if let Some(odd) = args.check.iter().find(|id| !known(id)) {
        let text = format!("there is no check {odd:?}; `warren doctor --list` names all");
        return Err(UsageError(text).into());
    }
    if std::fs::metadata("/proc/self").map(|m| m.uid()).unwrap_or(0) != 0 {
        return Err(Hinted::new("a look at the kernel needs root", "run it with sudo").into());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = runtime.block_on(asked(args.agent.0))?;
    let progress = output::spinner();
    let facts = runtime.block_on(gather(&asked, |what| progress.set_message(format!("looking at {what}"))));
    progress.finish_and_clear();
    let report = diagnose(&facts, &args.check);
    match args.output {
        Output::Json => print_json(&report)?,
        Output::Table => output::text(&render(&report, args.all, output::colour())),
    };
    if let Some(file) = &args.bundle {
        let written = runtime.block_on(warren_doctor::bundle::write(file, &asked, &facts, &report));
        written.with_context(|| format!("write {}", file.display()))?;
        output::stderr(&format!("wrote {}; look into it before you give it away\n", file.display()));
    }
    Ok(if report.summary.failure > 0 { ExitCode::from(EXIT_FAILURE) } else { ExitCode::SUCCESS })
}

fn listed() -> Vec<serde_json::Value> {
    let all = catalogue().iter().flat_map(|g| g.checks.iter().map(move |c| (g, c)));
    all.map(|(g, c)| serde_json::json!({"id": c.id, "group": g.name, "about": c.about, "says": c.says}))
        .collect()
}

/// The configuration: these flags, then those of the agent that runs, then the file.
async fn asked(flags: AgentArgs) -> anyhow::Result<Asked> {
    let mut raw = RawConfig::default();
    let mut file = flags.say(&mut raw);
    let running = raw.clone();
    if let Some(line) = line_of_agent(&judge(running)).await {
        let named = line.say(&mut raw);
        file = file.or(named);
    }
    let value = agent::read_file(file.as_deref())?;
    if let Some(value) = &value {
        raw.say_file(value);
    }
    let said = raw.clone();
    Ok(match said.validate(&agent::facts()) {
        Ok(config) => Asked { config, faults: Vec::new(), configured: true },
        Err(faults) => {
            let faults: Vec<String> = faults.0.iter().map(|f| format!("{}: {}", f.key, f.reason)).collect();
            // Without a word of an API nothing is configured, which is no fault here.
            let only_api = faults.iter().all(|f| f.starts_with("--server:"));
            let configured = value.is_some() || !only_api;
            Asked { config: judge(raw), faults: if configured { faults } else { Vec::new() }, configured }
        }
    })
}

/// What is said, with defaults in place of what is wrong.
fn judge(mut raw: RawConfig) -> AgentConfig {
    if let Ok(config) = raw.clone().validate(&agent::facts()) {
        return config;
    }
    raw.say("kubeconfig", Origin::File, vec![NO_KUBECONFIG.into()]);
    match raw.validate(&agent::facts()) {
        Ok(config) => config,
        Err(_) => defaults(),
    }
}

/// The defaults, of a node without an API.
fn defaults() -> AgentConfig {
    let mut raw = RawConfig::default();
    raw.say("kubeconfig", Origin::Flag, vec![NO_KUBECONFIG.into()]);
    raw.say("node-name", Origin::Flag, vec!["unnamed".into()]);
    #[expect(clippy::expect_used, reason = "two constants that are valid; a test says so")]
    raw.validate(&agent::facts()).expect("valid constants")
}

/// The flags of the agent that runs here.
async fn line_of_agent(config: &AgentConfig) -> Option<AgentArgs> {
    let socket = config.run_dir.join(warren_types::defaults::ADMIN_SOCKET);
    let status: StatusReport = warren_agent::client::ask(&socket, "/status").await.ok()?;
    let line = std::fs::read(format!("/proc/{}/cmdline", status.pid)).ok()?;
    let words: Vec<String> = line
        .split(|b| *b == 0)
        .filter(|w| !w.is_empty())
        .map(|w| String::from_utf8_lossy(w).into_owned())
        .collect();
    let AgentLine { command: AgentCommand::Agent(args), .. } = AgentLine::try_parse_from(words).ok()?;
    Some(*args)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_said_is_judged_by_defaults() {
        assert_eq!(judge(RawConfig::default()).tunnel_port, defaults().tunnel_port);
        let mut odd = RawConfig::default();
        odd.say("mtu", Origin::Flag, vec!["12".into()]);
        assert_eq!(judge(odd).mtu, None);
        let mut some = RawConfig::default();
        some.say("data-dir", Origin::Flag, vec!["/x".into()]);
        assert_eq!(judge(some).data_dir, std::path::Path::new("/x"));
    }

    #[test]
    fn the_command_line_of_an_agent_is_understood() {
        let line = ["warren", "agent", "--server", "https://192.0.2.1:6443", "--tunnel-port", "51900"];
        let AgentCommand::Agent(args) = AgentLine::try_parse_from(line).ok().unwrap().command;
        let mut raw = RawConfig::default();
        args.say(&mut raw);
        raw.say("token-file", Origin::Flag, vec!["/t".into()]);
        assert_eq!(judge(raw).tunnel_port, 51900);
    }
}
