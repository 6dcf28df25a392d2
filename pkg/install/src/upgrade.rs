//! Exchanging the program under a running node, and taking it back when the node is not as well as before.
//!
//! The way: look at the new program, ask the agent how the node is, keep the old program beside, note in the journal what is
//! under way, exchange the program, start the agent anew, wait until everything that was well is well again and stays so,
//! and close the journal: that is the confirmation. Whatever fails after the journal was written ends with the old program.

mod health;
mod journal;
mod program;
mod restart;

pub use health::Health;
pub use journal::{Journal, Lock, recover};
pub use program::VersionReport;

use crate::disk::RealDisk;
use crate::error::InstallError;
use crate::places::{Places, previous};
use crate::service::Init;
use restart::Way;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use warren_agent::client::ask;
use warren_agent::status::StatusReport;
use warren_types::defaults;

/// How often the agent is asked.
const LOOK: Duration = Duration::from_millis(200);
/// How long it must be well without a break.
const STEADY: Duration = Duration::from_secs(2);
/// How long an agent may be silent after its start.
const SILENCE: Duration = Duration::from_secs(15);

/// What is to be upgraded.
#[derive(Debug, Clone)]
pub struct Upgrade {
    /// The new program.
    pub new: PathBuf,
    /// The program that is replaced.
    pub program: PathBuf,
    /// Data directory of the agent.
    pub data_dir: PathBuf,
    /// Run directory of the agent.
    pub run_dir: PathBuf,
    /// How long the node may take to be as well as before.
    pub timeout: Duration,
    /// Look and ask, change nothing.
    pub dry_run: bool,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The program is that one already.
    Same,
    /// It could be done.
    Possible(VersionReport),
    /// It is done, after so long.
    Done(VersionReport, Duration),
}

impl Upgrade {
    async fn status(&self) -> Option<StatusReport> {
        ask(&self.run_dir.join(defaults::ADMIN_SOCKET), "/status").await.ok()
    }

    /// Upgrades; `tell` hears each step.
    ///
    /// # Errors
    /// [`InstallError`]: the program from before is in place and runs, but for [`InstallError::Unhealthy`].
    pub async fn run(&self, tell: &mut dyn FnMut(&str)) -> Result<Outcome, InstallError> {
        let managed = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].map(Path::new);
        if self.program.parent().is_some_and(|dir| managed.contains(&dir)) {
            return Err(InstallError::Packaged(self.program.clone()));
        }
        let said = program::judge(&self.new).await?;
        let report = self.status().await;
        let report =
            report.ok_or_else(|| InstallError::NoAgent(self.run_dir.join(defaults::ADMIN_SOCKET)))?;
        let running = restart::program_of(report.pid)?;
        if running != self.program {
            let why = format!("the running agent is {}; --program names it", running.display());
            return Err(InstallError::Program { path: self.program.clone(), why });
        }
        if same(&self.new, &self.program)
            && same(&self.program, Path::new(&format!("/proc/{}/exe", report.pid)))
        {
            return Ok(Outcome::Same);
        }
        if self.dry_run {
            return Ok(Outcome::Possible(said));
        }
        let _lock = Lock::take(&self.data_dir)?;
        let journal = Journal {
            program: self.program.clone(),
            from: report.version.clone(),
            to: said.version.clone(),
            timeout_seconds: self.timeout.as_secs(),
            boot_id: warren_netlink::host::boot_id().unwrap_or_default(),
            began_seconds: warren_netlink::host::boottime().unwrap_or_default().as_secs(),
            before: Health::of(&report),
        };
        let init = Init::detect(&Places::below(Path::new("/")));
        let mut way = Way::of(init, report.pid, &self.program)?;
        tell(&format!(
            "upgrading {} to {}; {} is kept",
            journal.from,
            said.version,
            previous(&self.program).display()
        ));
        let begin = Instant::now();
        let why = match self.forward(&journal, &mut way, tell).await {
            Ok(()) => {
                Journal::close(&self.data_dir, &RealDisk)?;
                return Ok(Outcome::Done(said, begin.elapsed()));
            }
            Err(error) => error,
        };
        tell(&format!("taking it back: {why}"));
        self.back(&journal, &mut way, why, tell).await
    }

    async fn forward(
        &self,
        journal: &Journal,
        way: &mut Way,
        tell: &mut dyn FnMut(&str),
    ) -> Result<(), String> {
        journal.exchange(&self.data_dir, &self.new, &RealDisk).map_err(|e| e.to_string())?;
        tell("the program is in place; starting the agent anew");
        way.restart().await.map_err(|e| e.to_string())?;
        self.well_again(&journal.before, way, tell).await
    }

    async fn back(
        &self,
        journal: &Journal,
        way: &mut Way,
        why: String,
        tell: &mut dyn FnMut(&str),
    ) -> Result<Outcome, InstallError> {
        journal.take_back(&RealDisk)?;
        let restarted = way.restart().await.map_err(|e| e.to_string());
        let then = match restarted {
            Ok(()) => self.well_again(&journal.before, way, tell).await,
            Err(error) => Err(error),
        };
        Journal::close(&self.data_dir, &RealDisk)?;
        Err(match then {
            Ok(()) => InstallError::TakenBack(why),
            Err(then) => InstallError::Unhealthy { why, then },
        })
    }

    /// Waits until the node is as well as before, and stays so.
    async fn well_again(
        &self,
        before: &Health,
        way: &mut Way,
        tell: &mut dyn FnMut(&str),
    ) -> Result<(), String> {
        let begin = Instant::now();
        let (mut said, mut answered, mut well) = (String::new(), false, None::<Instant>);
        loop {
            let missing = match self.status().await {
                Some(report) => {
                    answered = true;
                    before.missing(&report).join("; ")
                }
                None => "the agent does not answer".to_owned(),
            };
            if let Some(end) = way.ended() {
                return Err(end);
            }
            if missing.is_empty() {
                let since = *well.get_or_insert_with(Instant::now);
                if since.elapsed() >= STEADY.min(self.timeout) {
                    return Ok(());
                }
            } else {
                well = None;
                let silent = !answered && begin.elapsed() > SILENCE.min(self.timeout);
                if silent || begin.elapsed() > self.timeout {
                    return Err(format!("after {} s {missing}", begin.elapsed().as_secs()));
                }
                // The first is what the others wait for, more often than not.
                let first = missing.split("; ").next().unwrap_or_default();
                if said != first && begin.elapsed() > Duration::from_secs(2) {
                    tell(&format!("waiting: {first}"));
                    said = first.to_owned();
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn same(a: &Path, b: &Path) -> bool {
    matches!((std::fs::read(a), std::fs::read(b)), (Ok(a), Ok(b)) if a == b)
}

/// As an agent with an upgrade that is not confirmed: ends when its time is over, nobody works on it any more, and the node is
/// not as well as before. One that is as well is confirmed. Never ends where there is no such upgrade.
pub async fn watch(data_dir: &Path, run_dir: &Path) -> String {
    let socket = run_dir.join(defaults::ADMIN_SOCKET);
    while let Some(journal) = Journal::load(data_dir) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let Ok(_lock) = Lock::take(data_dir) else { continue };
        if Journal::load(data_dir).as_ref() != Some(&journal) {
            continue;
        }
        let missing = match ask::<StatusReport>(&socket, "/status").await {
            Ok(report) => journal.before.missing(&report).join("; "),
            Err(error) => error.to_string(),
        };
        if missing.is_empty() {
            match Journal::close(data_dir, &RealDisk) {
                Ok(()) => tracing::info!(
                    from = journal.from,
                    to = journal.to,
                    "confirmed an upgrade that was cut off"
                ),
                Err(error) => tracing::warn!(%error, "cannot confirm an upgrade; trying again"),
            }
        } else if journal.is_late() {
            return missing;
        }
    }
    std::future::pending().await
}
