//! NetworkPolicy: who reaches whom in the lab is what the API documentation says, for policies from data files and for random
//! ones. The expected table is computed by `naive`, never written down.

mod case;
mod fleet;
mod naive;
mod prober;
mod random;

use anyhow::{Context as _, Result, ensure};
use case::{Case, cases};
use fleet::Fleet;
use random::Dice;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// As many random sets of policies are tried; `WARREN_BATTERY_POLICY_COUNT` says another number.
const RANDOM: u64 = 5;

/// A number from the environment.
fn number(name: &str) -> Result<Option<u64>> {
    let Ok(text) = std::env::var(name) else { return Ok(None) };
    Ok(Some(text.parse().with_context(|| format!("{name}={text} is no number"))?))
}

/// Tries all cases in one lab. `WARREN_BATTERY_POLICY_CASE` tries those alone whose name contains it, and
/// `WARREN_BATTERY_POLICY_SEED` repeats the random ones of an earlier run. `whoami` is the program of this name.
///
/// # Errors
/// The names of all cases in which somebody reached whom he must not, or did not reach whom he may.
pub fn truth_tables(whoami: &str) -> Result<()> {
    let begun = Instant::now();
    let only = std::env::var("WARREN_BATTERY_POLICY_CASE").unwrap_or_default();
    let mut fleet = Fleet::up("policy", whoami)?;
    let ready = begun.elapsed();

    let mut all = cases(fleet.addresses())?;
    let seed = match number("WARREN_BATTERY_POLICY_SEED")? {
        Some(seed) => seed,
        None => u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?,
    };
    println!("policy: WARREN_BATTERY_POLICY_SEED={seed}");
    for n in 0..number("WARREN_BATTERY_POLICY_COUNT")?.unwrap_or(RANDOM) {
        // Each has a seed of its own, so that one alone can be repeated.
        all.push(
            Dice::new(seed.wrapping_add(n))
                .case(format!("random, seed {}", seed.wrapping_add(n)), fleet.cluster()),
        );
    }
    let (mut tried, mut failed) = (0, Vec::new());
    for case in all.iter().filter(|c| c.case.contains(&only)) {
        tried += 1;
        if let Err(error) = attempt(&mut fleet, case) {
            eprintln!("policy: {}: FAILED: {error:#}", case.case);
            failed.push(case.case.as_str());
        }
        fleet.reset()?;
    }
    fleet.compare().context("after the last policy was deleted")?;
    let cost = fleet.cost();
    println!(
        "policy: {tried} cases, {} tables, {} questions, {:.1} s, {:.1} s of them to begin with",
        cost.tables,
        cost.questions,
        begun.elapsed().as_secs_f64(),
        ready.as_secs_f64()
    );
    ensure!(failed.is_empty(), "{} of {tried} cases failed: {}", failed.len(), failed.join("; "));
    fleet.done()
}

fn attempt(fleet: &mut Fleet, case: &Case) -> Result<()> {
    for (n, stage) in std::iter::once(&case.first).chain(&case.then).enumerate() {
        fleet.apply(stage)?;
        let (took, denied) = fleet.compare().with_context(|| format!("stage {}", n + 1))?;
        println!(
            "policy: {}, stage {}: {denied} denied, ok in {:.2} s",
            case.case,
            n + 1,
            took.as_secs_f64()
        );
    }
    Ok(())
}
