//! The clock, and what goes by it.

use crate::engine::{Check, Verdict, failure, note, warning};
use crate::facts::Facts;
use warren_agent::status::age;

/// The first of January 2024: no clock that is right says less.
const EARLIEST: i64 = 1_704_067_200;
const DAY: i64 = 86_400;
/// Seconds beside the API's clock: from the first on certificates of tokens and pods fail now and then, from the second most.
const SKEW: (i64, i64) = (30, 300);
const SET: &str =
    "`timedatectl set-ntp true`, or without a network: `date -s 'YYYY-MM-DD HH:MM'` and `hwclock -w`";

pub(crate) const CHECKS: &[Check] = &[
    Check { id: "clock-past", about: "the clock is not before 2024", says: "failure", run: past },
    Check { id: "clock-skew", about: "the clock agrees with the API's", says: "failure, warning", run: skew },
    Check {
        id: "clock-sync",
        about: "whether a program keeps the clock right (NTP)",
        says: "note",
        run: sync,
    },
    Check {
        id: "certificate",
        about: "this node's client certificate is valid now, and for two weeks more",
        says: "failure, warning",
        run: certificate,
    },
];

fn past(facts: &Facts) -> Verdict {
    Ok((facts.now > 0 && facts.now < EARLIEST)
        .then(|| failure("the clock is before 2024: certificates are refused, and kernel WireGuard peers that have seen a later one refuse handshakes", SET))
        .into_iter()
        .collect())
}

fn skew(facts: &Facts) -> Verdict {
    let api = facts.api.as_ref().map_err(Clone::clone)?;
    let skew = api.skew.ok_or("the API does not say its time")?;
    let (distance, side) = (skew.abs(), if skew > 0 { "ahead of" } else { "behind" });
    let found = format!("the clock is {} {side} the API's", age(distance.unsigned_abs()));
    Ok(match distance {
        d if d > SKEW.1 => vec![failure(found, SET)],
        d if d > SKEW.0 => vec![warning(found, SET)],
        _ => Vec::new(),
    })
}

fn sync(facts: &Facts) -> Verdict {
    let kept = facts.clock_kept.as_ref().map_err(Clone::clone)?;
    Ok((!kept)
        .then(|| {
            note(
                "no program has set the clock since the machine booted (NTP, chrony)",
                "nothing has to be done while the clock is right; `timedatectl set-ntp true` keeps it so",
            )
        })
        .into_iter()
        .collect())
}

fn certificate(facts: &Facts) -> Verdict {
    let (from, to) = *facts.certificate.as_ref().map_err(Clone::clone)?;
    let renew = "it is renewed by itself while the API answers; else join again: `warren agent --server URL --token-file FILE` (kubeadm: `kubeadm certs renew all`)";
    let left = to - facts.now;
    Ok(if facts.now < from {
        vec![failure(
            format!(
                "this node's certificate counts from {} from now: the clock is wrong",
                age((from - facts.now).unsigned_abs())
            ),
            SET,
        )]
    } else if left <= 0 {
        vec![failure(format!("this node's certificate expired {} ago", age(left.unsigned_abs())), renew)]
    } else if left < 14 * DAY {
        vec![warning(format!("this node's certificate expires in {}", age(left.unsigned_abs())), renew)]
    } else {
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Status;
    use crate::testing::{fires, fires_with};

    #[test]
    fn a_clock_that_is_wrong() {
        fires_with("clock-past", Status::Failure, &["certificate"], |f| f.now = 1000);
        fires("clock-skew", Status::Warning, |f| f.api.as_mut().unwrap().skew = Some(-40));
        let found = fires("clock-skew", Status::Failure, |f| f.api.as_mut().unwrap().skew = Some(4000));
        assert!(found.finding.contains("1h06m ahead"), "{found:?}");
        fires("clock-sync", Status::Note, |f| f.clock_kept = Ok(false));
    }

    #[test]
    fn a_certificate_and_its_days() {
        fires("certificate", Status::Failure, |f| f.certificate = Ok((0, f.now - 5)));
        fires("certificate", Status::Warning, |f| f.certificate = Ok((0, f.now + 5 * DAY)));
        fires("certificate", Status::Failure, |f| f.certificate = Ok((f.now + DAY, f.now + 400 * DAY)));
    }
}
