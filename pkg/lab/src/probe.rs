//! The prober: asks many targets at once from where it runs, and says what each answered.

use crate::LabError;
use crate::wire::{CheckResult, Method, ProbeOrder, ProbeTarget};
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use warren_connectivity::ask::{self, Answer};
use warren_connectivity::echo::{HTTP_PORT, PORT};

/// Probes under way at once.
const AT_ONCE: usize = 64;

/// Runs the probes of the order on stdin, and prints the results.
pub(crate) fn main() -> Result<ExitCode, LabError> {
    let mut order = String::new();
    io::stdin().read_to_string(&mut order).map_err(LabError::io("read the order to probe"))?;
    let order: ProbeOrder = serde_json::from_str(&order).map_err(LabError::message("the order to probe"))?;
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().map_err(LabError::io("start the runtime"))?;
    let results = runtime.block_on(run(order));
    let text = serde_json::to_vec(&results).map_err(LabError::message("the results"))?;
    io::Write::write_all(&mut io::stdout(), &text).map_err(LabError::io("print the results"))?;
    Ok(ExitCode::SUCCESS)
}

async fn run(order: ProbeOrder) -> Vec<CheckResult> {
    let limit = Duration::from_millis(order.timeout_ms);
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let mut probes = JoinSet::new();
    for (place, target) in order.targets.into_iter().enumerate() {
        let (source, slots) = (order.source.clone(), Arc::clone(&slots));
        probes.spawn(async move {
            let _slot = slots.acquire().await;
            (place, probe(source, target, limit).await)
        });
    }
    let mut results = probes.join_all().await;
    results.sort_by_key(|(place, _)| *place);
    results.into_iter().map(|(_, result)| result).collect()
}

async fn probe(source: String, target: ProbeTarget, limit: Duration) -> CheckResult {
    let begin = Instant::now();
    let at = |port| SocketAddr::new(target.address, port);
    let asked = async {
        match target.method {
            Method::Tcp => ask::tcp(at(PORT)).await.map(Some),
            Method::Udp => ask::udp(at(PORT)).await.map(Some),
            Method::Http => ask::http(at(HTTP_PORT), &at(HTTP_PORT).to_string()).await.map(Some),
            Method::Icmp => ask::ping(target.address).await.map(|()| None),
        }
    };
    let error = match tokio::time::timeout(limit, asked).await {
        Err(_) => "no answer".into(),
        Ok(Err(e)) => e.to_string(),
        Ok(Ok(None)) => String::new(),
        Ok(Ok(Some(answer))) => judge(&answer, &target),
    };
    CheckResult {
        source,
        target: target.name,
        address: target.address,
        method: target.method,
        ok: error.is_empty(),
        ms: begin.elapsed().as_secs_f64() * 1000.0,
        error,
    }
}

/// What is wrong with an answer; nothing: empty.
fn judge(answer: &Answer, target: &ProbeTarget) -> String {
    let Answer { name, seen, own } = answer;
    if *name != target.name {
        return format!("{name} answered instead");
    }
    let right = if target.seen_as.is_empty() { seen == own } else { target.seen_as.contains(seen) };
    if right { String::new() } else { format!("seen as {seen} instead of {own}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(seen_as: &[&str]) -> ProbeTarget {
        ProbeTarget {
            name: "b".into(),
            address: "10.42.1.2".parse().unwrap(),
            method: Method::Tcp,
            seen_as: seen_as.iter().map(|s| s.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn an_address_that_was_changed_on_the_way_is_told() {
        let own = "10.42.0.2".parse().unwrap();
        let answer = |text: &str| ask::parse(text, own).unwrap();
        assert_eq!(judge(&answer("b 10.42.0.2 probe"), &target(&[])), "");
        assert_eq!(
            judge(&answer("b 10.42.0.1 probe"), &target(&[])),
            "seen as 10.42.0.1 instead of 10.42.0.2"
        );
        assert_eq!(judge(&answer("c 10.42.0.2 probe"), &target(&[])), "c answered instead");
        assert_eq!(judge(&answer("b 192.168.57.11"), &target(&["192.168.57.11"])), "");
        assert!(!judge(&answer("b 10.42.0.2"), &target(&["192.168.57.11"])).is_empty());
    }
}
