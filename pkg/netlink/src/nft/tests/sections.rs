//! Two sections in one table.

use super::support::{in_fresh, nft, nft_script, rules};
use crate::NetlinkError;
use crate::nft::expr::{Expr, Register, Verdict};
use crate::nft::model::{Chain, Element, Field, Rule, Ruleset, Set, Value};
use crate::nft::{Applied, Change, Nft, Section};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const MAP: &str = "svc_map";

fn to(port: u16, chain: &str) -> Element {
    Element::exact(port.to_be_bytes().to_vec()).to(Value::Verdict(Verdict::Goto(chain.into())))
}

fn drops() -> Vec<Rule> {
    vec![Rule { exprs: vec![Expr::Verdict(Verdict::Drop)], comment: Some("why".into()) }]
}

/// A map of ports to chains.
fn services(ports: &[(u16, &str)]) -> Ruleset {
    let mut all = Ruleset::default();
    all.sets.insert(MAP.into(), Set::of(Field::Port).mapping_to_verdicts().counted());
    all.elements.insert(MAP.into(), ports.iter().map(|(port, chain)| to(*port, chain)).collect());
    let lookup = Expr::VerdictMap { map: MAP.into(), from: Register::FIRST };
    let load = Expr::Constant { into: Register::FIRST, value: vec![0, 80] };
    all.chains.insert("svc_entry".into(), Chain::default());
    all.rules.insert("svc_entry".into(), vec![Rule { exprs: vec![load, lookup], comment: None }]);
    for (_, chain) in ports {
        all.chains.insert((*chain).into(), Chain::default());
        all.rules.insert((*chain).into(), drops());
    }
    all
}

fn one(element: Element) -> BTreeMap<String, Vec<Element>> {
    BTreeMap::from([(MAP.to_owned(), vec![element])])
}

#[test]
fn each_section_is_made_and_mended_while_the_other_stays() {
    in_fresh(async |handle| {
        let wanted = Arc::new(services(&[(80, "svc_a"), (443, "svc_b")]));
        let another = Nft::current()?;
        assert_eq!(another.ensure_section(Section::Services, wanted.clone()).await?, Applied::Created);
        assert_ne!(handle.ensure_base(&rules()).await?, Applied::Unchanged);
        assert_eq!(another.ensure_section(Section::Services, wanted.clone()).await?, Applied::Unchanged);
        for fault in [
            "add chain inet warren postrouting_masquerade { policy drop; }",
            "flush map inet warren svc_map",
            "delete element inet warren svc_map { 443 }",
            "add chain inet warren svc_foreign; add rule inet warren svc_entry jump svc_foreign",
            "flush chain inet warren svc_a",
            "add set inet warren svc_foreign { type inet_service; }",
        ] {
            nft_script(fault);
            let of_base = !handle.base_matches(&rules()).await?;
            let of_services = !another.section_matches(Section::Services, wanted.clone()).await?;
            assert_ne!(of_base, of_services, "{fault}");
            handle.ensure_base(&rules()).await?;
            another.ensure_section(Section::Services, wanted.clone()).await?;
            assert!(handle.base_matches(&rules()).await?, "{fault}");
            assert!(another.section_matches(Section::Services, wanted.clone()).await?, "{fault}");
        }
        assert_eq!(
            handle.ensure_section(Section::Services, Arc::default()).await?,
            Applied::Updated,
            "a section can go"
        );
        assert!(!nft("list table inet warren").contains("svc_"));
        assert!(handle.base_matches(&rules()).await?);
        Ok(())
    });
}

#[test]
fn a_change_is_made_as_a_whole_and_only_from_what_is_there() {
    in_fresh(async |handle| {
        handle.ensure_section(Section::Services, Arc::new(services(&[(80, "svc_a")]))).await?;
        let chains = BTreeMap::from([("svc_b".to_owned(), drops())]);
        // The same key leads elsewhere, to a chain that comes with it.
        let (remove, add) = (one(to(80, "svc_a")), one(to(80, "svc_b")));
        let change = Change { chains, remove, add, ..Change::default() };
        handle.change_section(change).await?;
        let mut wanted = services(&[(80, "svc_b")]);
        wanted.chains.insert("svc_a".into(), Chain::default());
        wanted.rules.insert("svc_a".into(), drops());
        assert!(handle.section_matches(Section::Services, Arc::new(wanted.clone())).await?);
        // What is removed must be there; else nothing of the change happens.
        let missing =
            Change { remove: one(to(443, "svc_a")), add: one(to(81, "svc_a")), ..Change::default() };
        handle.change_section(missing).await.unwrap_err();
        assert!(handle.section_matches(Section::Services, Arc::new(wanted)).await?);
        let counts = handle.element_counts(MAP).await?;
        assert_eq!(counts, BTreeMap::from([(80u16.to_be_bytes().to_vec(), 0)]));
        Ok(())
    });
}

#[test]
fn an_element_that_is_replaced_goes_on_counting() {
    in_fresh(async |handle| {
        let ports = [(80, "svc_a"), (81, "svc_b")];
        handle.ensure_section(Section::Services, Arc::new(services(&ports))).await?;
        let count = |port: u16, to: &str, packets: u32| {
            nft_script(&format!(
                "delete element inet warren {MAP} {{ {port} }}
                 add element inet warren {MAP} {{ {port} counter packets {packets} bytes 99 : goto {to} }}"
            ));
        };
        count(80, "svc_a", 7);
        let counted = async |port: u16| -> Result<u64, NetlinkError> {
            Ok(handle.element_counts(MAP).await?.get(&port.to_be_bytes()[..]).copied().unwrap_or_default())
        };
        assert_eq!(counted(80).await?, 7);
        // By a small change, for those that it names.
        let counting = BTreeMap::from([(MAP.to_owned(), BTreeSet::from([80u16.to_be_bytes().to_vec()]))]);
        let (remove, add) = (one(to(80, "svc_a")), one(to(80, "svc_b")));
        let change = Change { remove, add, counting: counting.clone(), ..Change::default() };
        handle.change_section(change).await?;
        assert_eq!(counted(80).await?, 7);
        assert!(nft("list map inet warren svc_map").contains("packets 7 bytes 99"));
        // By a comparison, for all whose keys stay.
        handle.ensure_section(Section::Services, Arc::new(services(&ports))).await?;
        assert_eq!(counted(80).await?, 7);
        // Not for one that is new, though it has the key of another.
        let change = Change { remove: one(to(80, "svc_a")), add: one(to(80, "svc_b")), ..Change::default() };
        handle.change_section(change).await?;
        assert_eq!(counted(80).await?, 0);
        // What is not there does not stop the reading; the change fails for it.
        handle.change_section(Change { remove: one(to(80, "svc_b")), ..Change::default() }).await?;
        let missing = Change { remove: one(to(80, "svc_b")), counting, ..Change::default() };
        handle.change_section(missing).await.unwrap_err();
        // Many at once.
        let many: Vec<(u16, &str)> = (1000..1200).map(|port| (port, "svc_a")).collect();
        handle.ensure_section(Section::Services, Arc::new(services(&many))).await?;
        count(1100, "svc_a", 3);
        let others: Vec<(u16, &str)> = (1000..1200).map(|port| (port, "svc_b")).collect();
        handle.ensure_section(Section::Services, Arc::new(services(&others))).await?;
        assert_eq!(counted(1100).await?, 3);
        Ok(())
    });
}
