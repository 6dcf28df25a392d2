//! The battery of service tests: one lab, one scenario after the other. `WARREN_BATTERY_DATA_PLANE` chooses who programs
//! the Services; see `warren_e2e::battery`.

use anyhow::Result;
use warren_e2e::Battery;
use warren_e2e::scenario::services;

const WHOAMI: &str = env!("CARGO_BIN_EXE_whoami");

#[test]
fn the_fleet_answers() -> Result<()> {
    let battery = Battery::up("svc-fleet", WHOAMI, &[])?;
    services::fleet_answers(&battery)?;
    battery.done()
}
