//! NetworkPolicy, as the pods of a cluster meet it: truth tables of who reaches whom.

use anyhow::Result;
use warren_e2e::scenario::policy;

#[test]
fn pods_reach_whom_policies_allow() -> Result<()> {
    policy::truth_tables(env!("CARGO_BIN_EXE_whoami"))
}
