//! `warren install ROLE`: put Warren on this machine, or into the tree of an image.

use crate::agent::{AgentArgs, judge};
use crate::failure::Hinted;
use crate::output;
use crate::server::ServerArgs;
use anyhow::Context as _;
use clap::builder::Resettable;
use clap::{Arg, ArgAction, ArgMatches, Args as _, Command, FromArgMatches};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use warren_agent::client::ask;
use warren_agent::status::StatusReport;
use warren_install::InstallError;
use warren_install::config::Settings;
use warren_install::disk::RealDisk;
use warren_install::install::{COMPLETIONS, Change, Role, Spec, Step, apply, plan};
use warren_install::places::Places;
use warren_install::service::{Daemon, Init};
use warren_types::{HealthState, defaults};

/// Roles, and what each is.
const ROLES: [(Role, &str); 3] = [
    (Role::Server, "Control plane, and a node of its own cluster"),
    (Role::Agent, "A node that joins a server: --server and --token or --token-file"),
    (Role::Kubernetes, "A node of a cluster that has an API of its own: --kubeconfig"),
];
/// How long a node may take to be ready.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// The server's own URL for the agent beside it.
const OWN_SERVER: &str = "https://127.0.0.1:6443";

/// Where and how, for every role.
#[derive(Debug, Clone, clap::Args)]
struct HowArgs {
    /// Install into this directory tree, and start nothing.
    #[arg(long, value_name = "DIR", default_value = "/", help_heading = "Installation")]
    root: PathBuf,
    /// Do not start the services.
    #[arg(long, help_heading = "Installation")]
    no_start: bool,
    /// Say what would be done, and do nothing.
    #[arg(long, help_heading = "Installation")]
    dry_run: bool,
    /// Write files anew that somebody changed; the old ones are kept as FILE.old.
    #[arg(long, help_heading = "Installation")]
    replace: bool,
    /// Who starts services [default: who is found].
    #[arg(long, value_enum, value_name = "WHO", help_heading = "Installation")]
    init: Option<InitChoice>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum InitChoice {
    /// systemd.
    Systemd,
    /// OpenRC.
    Openrc,
    /// Nobody: no service is made.
    None,
}

/// Arguments of `warren install`: a role, the flags of its daemons as settings, and how.
#[derive(Debug)]
pub(crate) struct InstallArgs {
    role: Role,
    settings: Settings,
    how: HowArgs,
}

/// The flags of the daemons of a role, without defaults and environment: only what is said is written down.
fn flags(role: Role) -> Vec<Arg> {
    let mut all = Vec::new();
    let mut daemons = vec![AgentArgs::augment_args(Command::new("agent"))];
    if role == Role::Server {
        daemons.insert(0, ServerArgs::augment_args(Command::new("server")));
    }
    // The agent of a server joins by the token that the server makes.
    let own: &[&str] = match role {
        Role::Server => &["kubeconfig", "server", "token", "token-file"],
        Role::Agent => &["kubeconfig"],
        Role::Kubernetes => &["server", "token", "token-file"],
    };
    for arg in daemons.iter().flat_map(Command::get_arguments) {
        let Some(long) = arg.get_long() else { continue };
        let known = all.iter().any(|a: &Arg| a.get_long() == Some(long));
        if known || own.contains(&long) || ["config", "print-token", "help"].contains(&long) {
            continue;
        }
        let bare =
            !arg.get_action().takes_values() || arg.get_num_args().is_some_and(|n| n.min_values() == 0);
        let mut flag = arg.clone().action(ArgAction::Append).value_parser(clap::value_parser!(String));
        flag = flag.env(Resettable::Reset).default_value(Resettable::Reset);
        if bare {
            flag = flag.num_args(0..=1).default_missing_value("true").value_name("BOOL");
        }
        let server = arg.get_help_heading().is_none();
        all.push(if server { flag.help_heading("Server") } else { flag });
    }
    all
}

impl clap::Args for InstallArgs {
    fn augment_args(command: Command) -> Command {
        let roles = ROLES.map(|(role, about)| {
            let command = Command::new(role.word()).args(flags(role));
            HowArgs::augment_args(command).about(about).long_about(about)
        });
        command.subcommand_required(true).arg_required_else_help(true).subcommands(roles)
    }
    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for InstallArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let missing = || clap::Error::new(clap::error::ErrorKind::MissingSubcommand);
        let (word, matches) = matches.subcommand().ok_or_else(missing)?;
        let (role, _) = ROLES.into_iter().find(|(role, _)| role.word() == word).ok_or_else(missing)?;
        let said = |arg: Arg| {
            let values = matches.get_many::<String>(arg.get_id().as_str())?;
            Some((
                arg.get_long()?.to_owned(),
                values.flat_map(|v| v.split(',')).map(|v| v.trim().to_owned()).collect(),
            ))
        };
        let settings = flags(role).into_iter().filter_map(said).collect();
        Ok(Self { role, settings, how: HowArgs::from_arg_matches(matches)? })
    }
    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn hinted(error: InstallError) -> anyhow::Error {
    match error.hint() {
        Some(hint) => Hinted::new(error.to_string(), hint).into(),
        None => error.into(),
    }
}

/// Installs; `tree` is the tree of commands, for the completion scripts.
pub(crate) fn run(args: InstallArgs, tree: &Command) -> anyhow::Result<ExitCode> {
    let InstallArgs { role, settings, how } = args;
    let places = Places::below(&how.root);
    let init = match how.init {
        Some(InitChoice::Systemd) => Init::Systemd,
        Some(InitChoice::Openrc) => Init::Openrc,
        Some(InitChoice::None) => Init::None,
        None => Init::detect(&places),
    };
    let settings = complete(role, settings, &places)?;
    let scripts = crate::completion::scripts(tree);
    let spec = Spec {
        role,
        init,
        program: own_program()?,
        settings,
        completions: COMPLETIONS.into_iter().zip(scripts).collect(),
        replace: how.replace,
        places,
    };
    let steps = plan(&spec).map_err(hinted)?;
    show(&steps, how.dry_run);
    if how.dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    apply(&spec, &steps, &RealDisk).map_err(hinted)?;
    let changed = steps.iter().any(|s| s.change != Change::Unchanged);
    if !spec.places.is_live() || how.no_start {
        output::line("nothing was started");
        return Ok(ExitCode::SUCCESS);
    }
    if init == Init::None {
        output::line("no service manager was found here; start these yourself, in this order:");
        for daemon in role.daemons() {
            output::line(match daemon {
                Daemon::Server => "  warren server --config /etc/warren/config.yaml",
                Daemon::Agent => "  warren agent",
            });
        }
        return Ok(ExitCode::SUCCESS);
    }
    start(&spec, changed).map_err(hinted)?;
    let run_dir =
        spec.settings.iter().find(|(key, _)| key == "run-dir").and_then(|(_, values)| values.first());
    wait_until_ready(Path::new(run_dir.map_or(defaults::RUN_DIR, String::as_str)))
}

/// What the flags leave open: a role that an earlier installation configured needs no flags at all.
fn complete(role: Role, mut settings: Settings, places: &Places) -> anyhow::Result<Settings> {
    let there = places.config().exists();
    if role == Role::Server && !(there && settings.is_empty()) {
        let mut own = |key: &str, value: String| settings.push((key.into(), vec![value]));
        own("server", OWN_SERVER.into());
        own("token-file", format!("{}/server/agent-token", defaults::DATA_DIR));
    }
    if there {
        return Ok(settings);
    }
    // The agent's own judgement, before anything is written: every fault at once.
    let node: Settings = settings
        .iter()
        .filter(|(key, _)| warren_agent::config::KEYS.contains(&key.as_str()))
        .cloned()
        .collect();
    judge(node)?;
    Ok(settings)
}

fn own_program() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe().context("find this program")?;
    // Replaced while it runs, its name leads to another file.
    Ok(if path.exists() { path } else { "/proc/self/exe".into() })
}

fn show(steps: &[Step], dry: bool) {
    let changes: Vec<&Step> = steps.iter().filter(|s| s.change != Change::Unchanged).collect();
    for step in &changes {
        let what = match (step.change, dry) {
            (Change::New, true) => "would make",
            (Change::New, false) => "made",
            (_, true) => "would replace",
            (_, false) => "replaced",
        };
        output::line(format_args!("{what} {}", step.path.display()));
    }
    if changes.is_empty() {
        output::line("everything is in place already: no file was changed");
    }
}

fn start(spec: &Spec, changed: bool) -> Result<(), InstallError> {
    if changed {
        spec.init.reload()?;
    }
    for daemon in spec.role.daemons() {
        let active = spec.init.is_active(*daemon);
        if active && !changed {
            continue;
        }
        let verb = if active { "restart" } else { "start" };
        output::line(format_args!("{verb} {}", daemon.service()));
        spec.init.act(verb, *daemon)?;
    }
    Ok(())
}

/// Waits until pods can be attached, and says meanwhile what is missing.
fn wait_until_ready(run_dir: &Path) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let socket = run_dir.join(defaults::ADMIN_SOCKET);
    let begin = Instant::now();
    let mut said = String::new();
    loop {
        let missing = match runtime.block_on(ask::<StatusReport>(&socket, "/status")) {
            Ok(report) if report.ready => {
                output::line(format_args!("node {} is ready: pods can be attached", report.node.name));
                return Ok(ExitCode::SUCCESS);
            }
            Ok(report) => report
                .subsystems
                .iter()
                .find(|s| s.state != HealthState::Ready && !s.message.is_empty())
                .map_or_else(|| "the agent starts".to_owned(), |s| format!("{}: {}", s.name, s.message)),
            Err(error) => error.to_string(),
        };
        if said != missing && begin.elapsed() > Duration::from_secs(2) {
            output::line(format_args!("waiting: {missing}"));
            said.clone_from(&missing);
        }
        if begin.elapsed() > PATIENCE {
            let what = format!("installed and started, but the node is not ready yet: {missing}");
            return Err(
                Hinted::new(what, "`warren status` shows what is missing; it goes on by itself").into()
            );
        }
        runtime.block_on(tokio::time::sleep(LOOK));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        args: InstallArgs,
    }

    #[test]
    fn the_flags_of_a_role_become_settings() {
        let words = "x agent --server https://a --token-file /t --node-ip 10.0.0.1,fd00::1 --root /tree --dns-offline";
        let args = Only::try_parse_from(words.split(' ')).unwrap().args;
        assert_eq!((args.role, args.how.root.as_path()), (Role::Agent, Path::new("/tree")));
        let value = |key: &str| args.settings.iter().find(|(k, _)| k == key).map(|(_, v)| v.join("+"));
        assert_eq!(value("node-ip").as_deref(), Some("10.0.0.1+fd00::1"));
        assert_eq!((value("dns-offline").as_deref(), value("proxy")), (Some("true"), None));
        let server = Only::try_parse_from([
            "x",
            "server",
            "--advertise-address",
            "10.0.0.1",
            "--default-ingress-class",
        ]);
        assert_eq!(server.unwrap().args.settings.len(), 2);
        for wrong in
            [vec!["x"], vec!["x", "kubernetes", "--token", "t"], vec!["x", "server", "--server", "a"]]
        {
            assert!(Only::try_parse_from(&wrong).is_err(), "{wrong:?}");
        }
    }
}
