//! The same Services, written whole by `nft -f`.

use anyhow::{Context as _, Result, ensure};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long it takes to write a table of so many Services.
pub(crate) fn write(size: usize) -> Result<Duration> {
    let script = script(size)?;
    let begun = Instant::now();
    run(&script)?;
    Ok(begun.elapsed())
}

fn run(script: &str) -> Result<()> {
    let mut child =
        Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().context("nft is needed")?;
    child.stdin.take().context("stdin")?.write_all(script.as_bytes())?;
    ensure!(child.wait()?.success(), "nft refused the peer's rules");
    Ok(())
}

fn script(size: usize) -> Result<String> {
    let mut all = String::from("table ip peer {\n");
    let mut map = String::new();
    for service in 0..size {
        let number = u32::try_from(service)?;
        let address = Ipv4Addr::from(0x0a2b_0000 + 10 + number);
        for end in 0..2 {
            let to = Ipv4Addr::from(0x0a2a_0000 + (2 * number + end) % 60_000);
            writeln!(
                all,
                " chain end-{service}-{end} {{\n  ip saddr {to} meta mark set 1\n  meta l4proto tcp dnat to {to}:8080\n }}"
            )?;
        }
        writeln!(
            all,
            " chain service-{service} {{\n  ip saddr != 10.42.0.0/16 meta mark set 1\n  numgen random mod 2 vmap {{ 0 : goto \
             end-{service}-0, 1 : goto end-{service}-1 }}\n }}"
        )?;
        writeln!(map, "   {address} . tcp . 80 : goto service-{service},")?;
    }
    writeln!(
        all,
        " map services {{\n  type ipv4_addr . inet_proto . inet_service : verdict\n  elements = {{\n{map}  }}\n }}\n chain \
         prerouting {{\n  type nat hook prerouting priority -90\n  ip daddr . meta l4proto . th dport vmap @services\n }}\n}}"
    )?;
    Ok(all)
}
