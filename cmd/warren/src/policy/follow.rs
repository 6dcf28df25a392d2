//! `warren policy denials --follow`: what is denied, as it happens.

use super::{answered, failure, is_of};
use crate::output;
use crate::status::Target;
use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::unix::pipe::Sender;
use warren_agent::client::ask;
use warren_agent::policy::{DenialView, render_denials};

/// How often the agent is asked.
const EVERY: Duration = Duration::from_secs(1);

/// Prints until it is interrupted, or nobody reads any more. An agent that is away is waited for.
pub(super) fn run(target: &Target, namespace: Option<&str>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut seen = Seen::default();
        let mut away = false;
        let gone = nobody_reads();
        tokio::pin!(gone);
        loop {
            match ask(&target.socket(), "/policy/denials").await {
                Ok(answer) => {
                    let mut all: Vec<DenialView> = if away { answered(answer) } else { answer.answer };
                    away = false;
                    all.retain(|denial| is_of(denial, namespace));
                    let text = text(&seen.untold(all), target.json())?;
                    if !text.is_empty() && !output::text(&text) {
                        break;
                    }
                }
                Err(_) if away => {}
                Err(error) => {
                    away = true;
                    output::stderr(&crate::failure::describe(&failure(error)).0);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = &mut gone => break,
                _ = tokio::signal::ctrl_c() => break,
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Ends when stdout is a pipe or terminal whose other end is gone.
async fn nobody_reads() {
    let stdout = std::io::stdout().as_fd().try_clone_to_owned();
    // It is only watched, never written to, so it may stay blocking. A file cannot be watched, and always takes more.
    match stdout.and_then(Sender::from_owned_fd_unchecked) {
        Ok(stdout) => drop(stdout.ready(Interest::ERROR).await),
        Err(_) => std::future::pending().await,
    }
}

fn text(all: &[DenialView], json: bool) -> anyhow::Result<String> {
    if !json {
        return Ok(render_denials(all, output::colour()));
    }
    let mut out = String::new();
    for denial in all {
        out.push_str(&serde_json::to_string(denial)?);
        out.push('\n');
    }
    Ok(out)
}

/// What was told before, by kind.
#[derive(Debug, Default)]
pub(super) struct Seen(BTreeMap<String, u64>);

impl Seen {
    /// What is new: each kind with the packets that were not told of.
    pub(super) fn untold(&mut self, all: Vec<DenialView>) -> Vec<DenialView> {
        let before = std::mem::take(&mut self.0);
        let mut out = Vec::new();
        for mut denial in all {
            let kind = DenialView { packets: 0, policies: Vec::new(), ..denial.clone() };
            let kind = format!("{kind:?}");
            // One that counts less has been forgotten meanwhile, and came again.
            let told = before.get(&kind).filter(|told| **told <= denial.packets).unwrap_or(&0);
            self.0.insert(kind, denial.packets);
            denial.packets -= told;
            if denial.packets > 0 {
                out.push(denial);
            }
        }
        out
    }
}
