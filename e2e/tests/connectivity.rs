//! Every topology and family, end to end.

use anyhow::Result;
use warren_e2e::{Lab, scenario};

fn check(test: &str, args: &[&str]) -> Result<()> {
    let lab = Lab::up(test, args)?;
    scenario::connectivity(&lab)?;
    scenario::sources_are_kept(&lab)?;
    lab.done()
}

#[test]
fn dual_stack_pods_on_one_lan() -> Result<()> {
    check("lan-dual", &["--dual-stack"])
}

#[test]
fn ipv6_pods_over_an_ipv6_lan() -> Result<()> {
    check("lan-v6", &["--ipv6"])
}

#[test]
fn nodes_behind_masquerading_routers_of_their_own() -> Result<()> {
    check("nat", &["--topology", "nat"])
}

#[test]
fn nodes_on_two_sites() -> Result<()> {
    check("sites", &["--topology", "sites", "--nodes", "4", "--dual-stack"])
}

#[test]
fn two_labs_side_by_side() -> Result<()> {
    let (one, two) = (Lab::up("side-a", &["--nodes", "2"])?, Lab::up("side-b", &["--nodes", "2"])?);
    scenario::connectivity(&one)?;
    scenario::connectivity(&two)?;
    one.done()?;
    scenario::connectivity(&two)?;
    two.done()
}
