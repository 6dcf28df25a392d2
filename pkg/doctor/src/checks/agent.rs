//! The agent, its configuration, and the API.

use super::joined;
use crate::engine::{Check, Finding, Verdict, failure, note, warning};
use crate::facts::Facts;
use warren_types::HealthState;

pub(crate) const CHECKS: &[Check] = &[
    Check {
        id: "configuration",
        about: "the configuration of the agent is valid",
        says: "failure, note",
        run: configuration,
    },
    Check {
        id: "agent-running",
        about: "an agent answers on this node",
        says: "failure, note",
        run: running,
    },
    Check {
        id: "subsystems",
        about: "every subsystem of the agent is well",
        says: "failure, warning",
        run: subsystems,
    },
    Check { id: "api-reachable", about: "the API answers this node", says: "failure, warning", run: api },
    Check {
        id: "api-refusals",
        about: "nothing in the API is refused, and it refuses nothing that the agent writes",
        says: "warning",
        run: refusals,
    },
];

fn configuration(facts: &Facts) -> Verdict {
    let found = |f: &String| {
        failure(
            f.clone(),
            "correct it in the configuration file or the flags; `warren agent --help` explains each key",
        )
    };
    let mut all: Vec<Finding> = facts.settings.faults.iter().map(found).collect();
    if all.is_empty() && !facts.settings.configured && !facts.runs() {
        all.push(note(
            "nothing is configured yet: this is a look at the machine before Warren is installed",
            "`warren agent --server URL --token-file FILE`, or `warren agent --kubeconfig FILE`",
        ));
    }
    Ok(all)
}

fn running(facts: &Facts) -> Verdict {
    let Err(why) = facts.status() else { return Ok(Vec::new()) };
    if !facts.settings.configured {
        return Ok(vec![note("no agent runs yet", "start `warren agent` when the rest is well")]);
    }
    Ok(vec![failure(
        format!("{why}: pods go on as they are, and nothing follows the cluster"),
        "start it: `systemctl start warren-agent`, or `warren agent`; its log says why it ended; --run-dir names another agent's directory",
    )])
}

fn subsystems(facts: &Facts) -> Verdict {
    let status = facts.status()?;
    let mut found = Vec::new();
    for s in &status.subsystems {
        let what = format!("{} is {}: {}", s.name, word(s.state), s.message);
        match s.state {
            HealthState::Failed => found.push(failure(what, "it is started again by itself; `warren status` shows whether it lasts, and the agent's log why")),
            // That the API is away has its own check.
            HealthState::Degraded if s.name != "source" => found.push(warning(what, "`warren status` shows whether it lasts")),
            HealthState::Starting if status.uptime_seconds > 60 && status.source.connected => {
                found.push(warning(what, "`warren status` shows what it waits for"));
            }
            _ => {}
        }
    }
    Ok(found)
}

fn word(state: HealthState) -> &'static str {
    match state {
        HealthState::Ready => "ready",
        HealthState::Starting => "starting",
        HealthState::Degraded => "degraded",
        HealthState::Failed => "failed",
    }
}

fn api(facts: &Facts) -> Verdict {
    let asked = facts.api.as_ref().err();
    if let Ok(status) = facts.status() {
        if status.source.connected {
            return Ok(Vec::new());
        }
        let url = if status.source.api.is_empty() { "the API" } else { &status.source.api };
        let why = if status.source.error.is_empty() {
            asked.map_or("no reason is known", String::as_str)
        } else {
            &status.source.error
        };
        let found = format!("{url} does not answer: {why}; this node works from its store");
        let fix = format!(
            "`curl -k {url}/livez` from here; look at the server, the way to it, and firewalls between"
        );
        return Ok(vec![if status.ready { warning(found, fix) } else { failure(found, fix) }]);
    }
    if !facts.settings.configured {
        return Err("no API is configured".into());
    }
    Ok(asked
        .map(|why| {
            failure(
                format!("the API does not answer: {why}"),
                "look at the server, the way to it, and firewalls between",
            )
        })
        .into_iter()
        .collect())
}

fn refusals(facts: &Facts) -> Verdict {
    let source = &facts.status()?.source;
    let mut found = Vec::new();
    for r in &source.refused {
        found.push(warning(
            format!("{} {}: {}: {}", r.kind, r.object, r.field, r.reason),
            format!(
                "`kubectl edit {} {}`",
                r.kind.to_lowercase(),
                r.object.rsplit('/').next().unwrap_or_default()
            ),
        ));
    }
    if !source.write_errors.is_empty() {
        let all = joined(source.write_errors.iter().map(|(object, error)| format!("{object}: {error}")));
        found.push(warning(
            format!("the API refuses what this node writes: {all}"),
            "give this node's user the rights that the message names",
        ));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Status;
    use crate::testing::{fires, fires_with, healthy, status};

    #[test]
    fn a_bad_configuration_and_none() {
        fires("configuration", Status::Failure, |f| f.settings.faults.push("mtu: 12 is too small".into()));
        let mut facts = healthy();
        facts.settings.configured = false;
        facts.agent.status = Err("no agent answers".into());
        assert_eq!(configuration(&facts).unwrap()[0].status, Status::Note);
        assert_eq!(running(&facts).unwrap()[0].status, Status::Note);
    }

    #[test]
    fn an_agent_that_is_gone_and_one_that_is_unwell() {
        let mut facts = healthy();
        facts.agent.status = Err("no agent answers at /run/warren/admin.sock".into());
        assert_eq!(running(&facts).unwrap()[0].status, Status::Failure);
        fires("subsystems", Status::Failure, |f| status(f).subsystems[0].state = HealthState::Failed);
        fires("subsystems", Status::Warning, |f| status(f).subsystems[0].state = HealthState::Degraded);
    }

    #[test]
    fn an_api_that_is_away_and_one_that_says_no() {
        fires("api-reachable", Status::Warning, |f| status(f).source.connected = false);
        fires_with("api-reachable", Status::Failure, &["agent-running", "port-range"], |f| {
            f.agent.status = Err("gone".into());
            f.api = Err("connection refused".into());
        });
        fires("api-refusals", Status::Warning, |f| {
            status(f).source.write_errors.insert("Node n".into(), "forbidden".into());
        });
    }
}
