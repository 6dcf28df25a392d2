//! The ruleset of other programs, as `nft` has made it.

use super::support::{block_on, fresh, nft_script};
use crate::nft::Nft;
use crate::nft::expr::{Expr, Refusal, Verdict};

#[test]
fn tables_of_other_programs_are_read_with_handles_and_elements() {
    let ns = fresh();
    let rules = r#"
table ip filter {
    set lan { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.0.2.7 }; }
    chain FORWARD {
        type filter hook forward priority 0; policy drop;
        ip saddr @lan counter accept comment "lan"
    }
}
table ip6 sleeping { flags dormant; }
table inet web {
    chain in {
        type filter hook input priority 5;
        tcp dport { 80, 443 } accept
        reject
    }
}"#;
    let tables = ns
        .run(move || {
            nft_script(rules);
            block_on(async { Nft::current().unwrap().list_all().await.unwrap() })
        })
        .unwrap();
    let named: Vec<String> = tables.iter().map(ToString::to_string).collect();
    assert_eq!(named, ["inet web", "ip filter", "ip6 sleeping"]);
    assert!(tables[2].dormant && !tables[1].dormant);
    let forward = &tables[1].chains["FORWARD"];
    assert_eq!(forward.base.as_ref().map(|b| (b.hook, b.policy)), Some((2, 0)));
    assert!(forward.rules[0].handle > 0);
    assert_eq!(forward.rules[0].comment.as_deref(), Some("lan"));
    assert!(forward.rules[0].exprs.contains(&Expr::Verdict(Verdict::Accept)));
    let lan = &tables[1].sets["lan"];
    assert!(lan.find(&[10, 1, 2, 3]).unwrap().is_some() && lan.find(&[192, 0, 2, 7]).unwrap().is_some());
    assert!(lan.find(&[11, 0, 0, 0]).unwrap().is_none() && lan.find(&[9, 255, 255, 255]).unwrap().is_none());
    let input = &tables[0].chains["in"].rules;
    let anonymous = &tables[0].sets["__set0"];
    assert!(anonymous.find(&443u16.to_be_bytes()).unwrap().is_some());
    assert!(anonymous.find(&22u16.to_be_bytes()).unwrap().is_none());
    assert!(input[1].exprs.contains(&Expr::Reject(Refusal::PortUnreachable)));
}
