//! The rules in a kernel: they are taken, read back as they were meant, and `nft` can list them. Needs root.

use nix::sched::{CloneFlags, unshare};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;
use warren_netlink::nft::{Nft, Section};
use warren_policy::{Direction, Item, Verdict, ruleset};

fn items() -> BTreeSet<Item> {
    let mut items = BTreeSet::new();
    let v4 = [2, 200].map(|last| IpAddr::from([10, 42, 0, last]));
    let v6 = [2, 200].map(|last| IpAddr::from([0xfd42, 0, 0, 0, 0, 0, 0, last]));
    for [address, other] in [v4, v6] {
        items.insert(Item::Loop { address });
        for (class, direction) in [(1, Direction::Ingress), (2, Direction::Egress)] {
            items.insert(Item::Local { direction, address, class });
            items.insert(Item::Block {
                class,
                addresses: (address, other),
                protocols: (6, 6),
                ports: (80, 90),
                verdict: Verdict::Accept,
            });
        }
        items.insert(Item::Identity { address: other, identity: 7 });
    }
    let peer =
        |identity, ports, verdict| Item::Peer { class: 1, identity, protocols: (0, 255), ports, verdict };
    items.extend([peer(7, (0, 65535), Verdict::Accept), peer(8, (1, 9), Verdict::Deny)]);
    items.extend([Item::Closed { class: 1 }, Item::Closed { class: 2 }]);
    items
}

#[test]
fn the_kernel_takes_the_rules_and_nft_lists_them() {
    unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let nft = Nft::current().unwrap();
        let wanted = Arc::new(ruleset::ruleset(&items()));
        nft.ensure_section(Section::Policy, wanted.clone()).await.unwrap();
        assert!(nft.section_matches(Section::Policy, wanted).await.unwrap());
        let change = ruleset::change(&BTreeSet::new(), &items());
        nft.change_section(change).await.unwrap();
        let empty = Arc::new(ruleset::ruleset(&BTreeSet::new()));
        assert!(nft.section_matches(Section::Policy, empty).await.unwrap());
    });
    let listed = Command::new("nft").args(["list", "table", "inet", "warren"]).output().unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    println!("{}", String::from_utf8_lossy(&listed.stdout));
}
