//! Figures, not tests: `cargo test -p warren-netlink nft_timing -- --ignored --nocapture`.

use super::support::{in_fresh, rules, source};
use std::time::Instant;

#[test]
#[ignore = "prints figures"]
fn nft_timing() {
    in_fresh(async |handle| {
        let median = |mut samples: Vec<u128>| {
            samples.sort_unstable();
            let at = |part: usize| samples[samples.len() * part / 100] as f64 / 1000.0;
            format!("p50 {:.0} us, p99 {:.0} us", at(50), at(99))
        };
        let (mut cold, mut idle) = (Vec::new(), Vec::new());
        for _ in 0..50 {
            handle.remove_table().await?;
            let start = Instant::now();
            handle.ensure_base(&rules()).await?;
            cold.push(start.elapsed().as_nanos());
            let start = Instant::now();
            handle.ensure_base(&rules()).await?;
            idle.push(start.elapsed().as_nanos());
        }
        println!("ensure_base, no table: {}", median(cold));
        println!("ensure_base, nothing to do: {}", median(idle));
        for present in [0u32, 1_000, 10_000] {
            let many: Vec<_> = (0..present)
                .map(|i| (format!("wrnp{i:x}"), std::net::IpAddr::from((0x0a2a_0000 + i).to_be_bytes())))
                .collect();
            handle.add_pod_sources(&many).await?;
            let (mut adds, mut removes) = (Vec::new(), Vec::new());
            for _ in 0..200 {
                let one = [source("wrnpff", "10.44.1.5"), source("wrnpff", "fd00::5")];
                let start = Instant::now();
                handle.add_pod_sources(&one).await?;
                adds.push(start.elapsed().as_nanos());
                let start = Instant::now();
                handle.remove_pod_sources(&one).await?;
                removes.push(start.elapsed().as_nanos());
            }
            println!("add a pod's two sources beside {present}: {}", median(adds));
            println!("remove them: {}", median(removes));
            let start = Instant::now();
            handle.ensure_base(&rules()).await?;
            println!("ensure_base, nothing to do, beside {present}: {} us", start.elapsed().as_micros());
        }
        Ok(())
    });
}
