//! The table in the kernel, as `nft` sees it.

use super::support::{fresh, in_fresh, nft, nft_script, rules, source};
use crate::NetNs;
use crate::nft::batch::Batch;
use crate::nft::build::{base, equals, go, rule};
use crate::nft::expr::{Meta, Verdict};
use crate::nft::model::{Chain, Element, FORWARD, Field, Ruleset, Set};
use crate::nft::ruleset::TableFamily;
use crate::nft::{Applied, BaseRules, Drops, Nft, TABLE, ranges, reader, replace_table, source_elements};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

async fn generation(handle: &Nft) -> u32 {
    handle.run("read", |c| Ok(reader::generation(c).unwrap())).await.unwrap()
}

#[test]
fn the_table_reads_as_expected() {
    in_fresh(async |handle| {
        assert!(!handle.table_exists().await?);
        assert!(!handle.base_matches(&rules()).await?);
        assert_eq!(handle.ensure_base(&rules()).await?, Applied::Created);
        handle
            .add_pod_sources(&[
                source("wrnp0123456789a", "10.42.1.5"),
                source("wrnp0123456789a", "fd57:4e00:42:1::5"),
            ])
            .await?;
        let listed = nft("-s list table inet warren");
        let expected = include_str!("expected.nft");
        assert_eq!(listed, expected, "left is the kernel's:\n{listed}");
        assert!(handle.table_exists().await?);
        Ok(())
    });
}

#[test]
fn a_table_that_is_right_is_left_alone() {
    in_fresh(async |handle| {
        handle.ensure_base(&rules()).await?;
        handle.add_pod_sources(&[source("wrnp1", "10.42.1.5")]).await?;
        let before = (generation(&handle).await, nft("-j -a list ruleset"));
        for _ in 0..3 {
            assert_eq!(handle.ensure_base(&rules()).await?, Applied::Unchanged);
        }
        // What overlaps or is said in another order is the same.
        let mut same = rules();
        same.pod_ranges.reverse();
        same.pod_ranges.push("10.42.128.0/17".parse().unwrap());
        assert_eq!(handle.ensure_base(&same).await?, Applied::Unchanged);
        assert!(handle.base_matches(&rules()).await?);
        assert_eq!((generation(&handle).await, nft("-j -a list ruleset")), before);
        Ok(())
    });
}

#[test]
fn another_table_is_made_as_a_whole_and_removed() {
    in_fresh(async |_| {
        let ns = NetNs::current()?;
        for (family, name) in [(TableFamily::Inet, "inet"), (TableFamily::Bridge, "bridge")] {
            let table = |chains: &[&str]| {
                let mut ruleset = Ruleset::default();
                for chain in chains {
                    ruleset.chains.insert((*chain).into(), Chain { base: base("filter", FORWARD, 0) });
                    let v4 = equals(Meta::EtherType, vec![0x08, 0x00]);
                    let rules = vec![rule([v4, go(Verdict::Drop)])];
                    ruleset.rules.insert((*chain).into(), rules);
                }
                ruleset
            };
            replace_table(&ns, family, "other", &table(&["a", "b"])).await?;
            replace_table(&ns, family, "other", &table(&["b", "c"])).await?;
            let listed = nft(&format!("list table {name} other"));
            let rules = listed.matches("drop\n").count();
            assert!(!listed.contains("chain a") && rules == 2, "{listed}");
            // All or nothing.
            let mut wrong = table(&["d"]);
            wrong.rules.insert("nowhere".into(), vec![rule([go(Verdict::Drop)])]);
            let error = replace_table(&ns, family, "other", &wrong).await.unwrap_err();
            assert!(error.to_string().contains("other"), "{error}");
            assert_eq!(nft(&format!("list table {name} other")), listed);
            replace_table(&ns, family, "other", &Ruleset::default()).await?;
            replace_table(&ns, family, "other", &Ruleset::default()).await?;
            assert_eq!(nft("list tables"), "");
        }
        Ok(())
    });
}

#[test]
fn a_handle_from_elsewhere_works_in_its_namespace() {
    let (inside, outside) = (fresh(), fresh());
    let of_inside = inside.try_clone().unwrap();
    outside
        .run(move || {
            super::support::block_on(async {
                let handle = Nft::in_namespace(&of_inside).await.unwrap();
                handle.ensure_base(&rules()).await.unwrap();
                assert_eq!(nft("list tables"), "");
            });
        })
        .unwrap();
    assert_eq!(inside.run(|| nft("list tables")).unwrap(), "table inet warren\n");
}

#[test]
fn whatever_is_done_to_the_table_is_repaired_and_sources_stay() {
    // What somebody does, and whether the sets survive it.
    let faults = [
        ("flush ruleset", false),
        ("delete table inet warren", false),
        ("flush table inet warren", true),
        ("flush chain inet warren from_pod", true),
        ("insert rule inet warren from_pod accept", true),
        ("add rule inet warren postrouting_masquerade counter", true),
        ("add chain inet warren another { type filter hook input priority 0; policy drop; }", true),
        ("add chain inet warren postrouting_masquerade { policy drop; }", true),
        ("add chain inet warren another; add rule inet warren from_pod jump another", true),
        ("add set inet warren another { type inet_service; }", true),
        ("add map inet warren another { type inet_service : verdict; }", true),
        ("add element inet warren pod_ranges4 { 192.168.0.0/16 }", true),
        ("delete element inet warren pod_ranges4 { 10.99.0.0/24 }", true),
        ("flush set inet warren local6", true),
        ("add table inet warren { flags dormant; }", true),
        ("flush chain inet warren output_raw; delete chain inet warren output_raw", true),
        ("flush chain inet warren from_pod; delete counter inet warren spoofed", true),
        (
            "flush chain inet warren postrouting_guard; delete chain inet warren postrouting_guard; \
             add chain inet warren postrouting_guard { type filter hook postrouting priority 0; }",
            true,
        ),
        (
            "flush chain inet warren postrouting_masquerade; flush set inet warren local4; delete set inet warren local4; \
             add set inet warren local4 { type ipv4_addr; }",
            true,
        ),
    ];
    in_fresh(async move |handle| {
        let sources = [source("wrnp1", "10.42.1.5"), source("wrnp2", "fd57:4e00:42:1::6")];
        handle.ensure_base(&rules()).await?;
        let good = nft("-s -j list table inet warren");
        let without_handles = |text: &str| {
            let words =
                text.split("\"handle\": ").map(|part| part.trim_start_matches(|c: char| c.is_ascii_digit()));
            // A chain that was made anew is listed last; the rules' order is what `base_matches` looks at.
            let mut objects: Vec<String> = words
                .collect::<String>()
                .split("}, {")
                .map(|o| o.trim_end_matches(['}', ']', '\n']).to_owned())
                .collect();
            objects.sort();
            objects
        };
        for (fault, keeps_sets) in faults {
            handle.add_pod_sources(&sources).await?;
            nft_script(fault);
            assert!(!handle.base_matches(&rules()).await?, "{fault} goes unnoticed");
            assert_ne!(handle.ensure_base(&rules()).await?, Applied::Unchanged, "{fault}");
            assert!(handle.base_matches(&rules()).await?, "{fault} is not repaired");
            let listed = handle.list_pod_sources().await?;
            assert_eq!(listed, if keeps_sets { sources.to_vec() } else { Vec::new() }, "{fault}");
            handle.remove_pod_sources(&sources).await?;
            let repaired = nft("-s -j list table inet warren");
            assert_eq!(without_handles(&repaired), without_handles(&good), "{fault}");
        }
        Ok(())
    });
}

#[test]
fn ranges_and_ports_move_without_touching_the_rest() {
    in_fresh(async |handle| {
        handle.ensure_base(&rules()).await?;
        let sources = [source("wrnp1", "10.42.1.5")];
        handle.add_pod_sources(&sources).await?;
        let mut moved = rules();
        // Overlaps with what goes: [10.42/16] becomes [10.42.128/17 .. 10.43/16].
        moved.pod_ranges = vec!["10.42.128.0/17".parse().unwrap(), "10.43.0.0/16".parse().unwrap()];
        moved.local_pod_cidrs = vec!["10.42.200.0/24".parse().unwrap()];
        assert_eq!(handle.ensure_base(&moved).await?, Applied::Updated);
        assert!(nft("list set inet warren pod_ranges4").contains("elements = { 10.42.128.0-10.43.255.255 }"));
        assert!(!nft("list set inet warren pod_ranges6").contains("elements"));
        moved.tunnel_port = 20000;
        assert_eq!(handle.ensure_base(&moved).await?, Applied::Updated);
        assert!(
            nft("list chain inet warren masquerade_as_node")
                .contains("masquerade to :20001-65535 fully-random")
        );
        assert_eq!(handle.list_pod_sources().await?, sources);
        assert_eq!(handle.ensure_base(&moved).await?, Applied::Unchanged);
        Ok(())
    });
}

#[test]
fn whole_families_and_nothing_are_ranges_too() {
    in_fresh(async |handle| {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        for ranges in
            [nets(&["0.0.0.0/0", "::/0"]), nets(&["255.255.255.255/32", "0.0.0.0/32", "::/128"]), vec![]]
        {
            let rules = BaseRules { pod_ranges: ranges, ..BaseRules::default() };
            handle.ensure_base(&rules).await?;
            assert!(handle.base_matches(&rules).await?, "{rules:?}");
        }
        Ok(())
    });
}

#[test]
fn sources_come_and_go_any_number_of_times() {
    in_fresh(async |handle| {
        let sources = [
            source("wrnp1", "10.42.1.5"),
            source("wrnp1", "fd57:4e00:42:1::5"),
            source("wrnp2", "10.42.1.6"),
        ];
        let missing = handle.add_pod_sources(&sources).await.unwrap_err();
        assert!(
            missing.is_not_found() && missing.to_string().contains("nftables table inet warren"),
            "{missing}"
        );
        assert!(handle.list_pod_sources().await.unwrap_err().is_not_found());
        handle.remove_pod_sources(&sources).await?;
        handle.remove_table().await?;

        handle.ensure_base(&rules()).await?;
        handle.add_pod_sources(&sources[..2]).await?;
        handle.add_pod_sources(&sources).await?;
        handle.add_pod_sources(&[]).await?;
        let mut listed = handle.list_pod_sources().await?;
        listed.sort();
        let mut expected = sources.to_vec();
        expected.sort();
        assert_eq!(listed, expected);
        // One of three is missing, then all are.
        handle
            .remove_pod_sources(&[sources[0].clone(), source("wrnp9", "10.42.1.9"), sources[1].clone()])
            .await?;
        assert_eq!(handle.list_pod_sources().await?, [sources[2].clone()]);
        handle.remove_pod_sources(&sources).await?;
        handle.remove_pod_sources(&sources).await?;
        assert_eq!(handle.list_pod_sources().await?, []);
        for bad in ["", "a-name-of-16-byt", "nul\0l"] {
            let error = handle.add_pod_sources(&[source(bad, "10.42.1.5")]).await.unwrap_err();
            assert!(error.to_string().contains("link name"), "{error}");
        }
        handle.remove_table().await?;
        assert_eq!(nft("list ruleset"), "");
        Ok(())
    });
}

#[test]
fn foreign_tables_stay_byte_for_byte() {
    in_fresh(async |handle| {
        nft_script(
            "table inet warrens { set pod_src4 { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 }; };
                chain input { type filter hook input priority 0; policy drop; ct state established accept; \
                    tcp dport { 22, 80 } limit rate 5/second accept; log prefix \"x\" drop; }; };
             table ip warren { map m { type ipv4_addr . inet_service : verdict; }; chain c { numgen random mod 7 vmap { 0 : drop }; }; };
             table bridge warren { chain c { type filter hook forward priority 0; }; };
             table ip nat { chain postrouting { type nat hook postrouting priority 100; masquerade persistent; }; };",
        );
        let before = nft("-a list ruleset");
        handle.ensure_base(&rules()).await?;
        handle.add_pod_sources(&[source("wrnp1", "10.42.1.5")]).await?;
        handle.ensure_base(&BaseRules::default()).await?;
        nft("flush chain inet warren from_pod");
        nft("add chain inet warren foreign");
        handle.ensure_base(&rules()).await?;
        handle.remove_table().await?;
        assert_eq!(nft("-a list ruleset"), before);
        Ok(())
    });
}

#[test]
fn a_refused_operation_is_named_and_undoes_the_others() {
    in_fresh(async |handle| {
        handle.ensure_base(&rules()).await?;
        let before = generation(&handle).await;
        let error = handle
            .run("test", |connection| {
                let mut batch = Batch::new(TABLE);
                batch.add_counter("one_more");
                batch.flush_set("missing");
                batch.add_counter("and_another");
                let failure = connection.commit(&batch, None).unwrap_err();
                Err::<(), _>(failure.named("test", "table", Some(&batch)))
            })
            .await
            .unwrap_err();
        assert!(error.to_string().contains("table: set missing: No such file"), "{error}");
        assert_eq!(error.errno(), Some(nix::libc::ENOENT));
        assert_eq!(generation(&handle).await, before);
        assert!(!nft("list counters").contains("one_more"));
        Ok(())
    });
}

#[test]
fn a_stale_generation_is_refused() {
    in_fresh(async |handle| {
        let old = generation(&handle).await;
        nft("add table ip other");
        let failure = handle
            .run("test", move |connection| {
                let mut batch = Batch::new(TABLE);
                batch.add_table();
                Ok(connection.commit(&batch, Some(old)))
            })
            .await?;
        assert!(matches!(failure, Err(crate::nft::Failure::Stale)), "{failure:?}");
        assert!(!handle.table_exists().await?);
        Ok(())
    });
}

/// Handles of different sockets at once: sources must survive rebuilds and each other.
#[test]
fn concurrent_callers_lose_nothing() {
    fresh()
        .run(|| {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
            let handles: Vec<Nft> = {
                let _context = runtime.enter();
                (0..4).map(|_| Nft::current().unwrap()).collect()
            };
            runtime.block_on(async move {
                handles[0].ensure_base(&rules()).await.unwrap();
                let mut tasks = JoinSet::new();
                for worker in 0..16usize {
                    let handle = handles[worker % 4].clone();
                    tasks.spawn(async move {
                        for i in 0..20 {
                            let own = source(&format!("wrnp{worker}"), &format!("10.42.1.{}", i + 1));
                            let passing = source(&format!("wrnp{worker}"), &format!("10.42.2.{}", i + 1));
                            handle.add_pod_sources(&[own, passing.clone()]).await.unwrap();
                            handle.remove_pod_sources(&[passing]).await.unwrap();
                        }
                    });
                }
                for handle in &handles {
                    let handle = handle.clone();
                    tasks.spawn(async move {
                        for port in 1..12 {
                            handle
                                .ensure_base(&BaseRules { tunnel_port: port * 7, ..rules() })
                                .await
                                .unwrap();
                        }
                    });
                }
                while let Some(outcome) = tasks.join_next().await {
                    outcome.unwrap();
                }
                let listed = handles[0].list_pod_sources().await.unwrap();
                assert_eq!(listed.len(), 16 * 20);
                assert_eq!(listed.iter().collect::<BTreeSet<_>>().len(), 16 * 20);
            });
        })
        .unwrap();
}

/// While one thread takes the table down and up again in one transaction, a reader never finds part of it.
#[test]
fn nobody_sees_half_a_table() {
    in_fresh(async |handle| {
        handle.ensure_base(&rules()).await?;
        let reader = Nft::current()?;
        let done = Arc::<AtomicBool>::default();
        let stop = done.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut readings = 0u32;
            while !stop.load(Ordering::Relaxed) {
                assert!(reader.base_matches(&rules()).await.unwrap());
                readings += 1;
            }
            readings
        });
        for _ in 0..100 {
            // Rebuilt by hand, since a table in order is left alone.
            handle
                .run("test", |connection| {
                    let mut batch = Batch::new(TABLE);
                    batch.delete_table();
                    batch.add_table();
                    batch.add_ruleset(&crate::nft::base::compile(&rules()));
                    connection.commit(&batch, None).map_err(|f| f.named("test", "table", Some(&batch)))
                })
                .await?;
        }
        done.store(true, Ordering::Relaxed);
        let readings = tasks.join_next().await.unwrap().unwrap();
        assert!(readings > 0);
        Ok(())
    });
}

/// Commits of a few microseconds follow one another for half a second, so no reading fits between two of them: it is made
/// when they end, and so is a transaction.
#[test]
fn whoever_meets_a_storm_of_changes_waits_for_its_end() {
    in_fresh(async |handle| {
        handle.ensure_base(&rules()).await?;
        let (begun, storm) = tokio::sync::oneshot::channel();
        let writer = Nft::current()?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let storm = writer.run("test", |connection| {
                let pair = source("wrnp1", "10.42.1.5");
                let (set, element) = source_elements("test", &[pair])?.remove(0);
                let (mut add, mut remove) = (Batch::new(TABLE), Batch::new(TABLE));
                add.add_elements(set, [&element]);
                remove.delete_elements(set, [&element]);
                begun.send(()).unwrap();
                let begin = Instant::now();
                while begin.elapsed() < Duration::from_millis(500) {
                    for batch in [&add, &remove] {
                        connection.commit(batch, None).map_err(|f| f.named("test", "table", Some(batch)))?;
                    }
                }
                Ok(())
            });
            storm.await
        });
        storm.await.unwrap();
        assert!(handle.base_matches(&rules()).await?);
        assert_eq!(handle.drops().await?, Drops::default());
        let other = BaseRules { tunnel_port: 7, ..rules() };
        assert_eq!(handle.ensure_base(&other).await?, Applied::Updated);
        tasks.join_next().await.unwrap().unwrap()
    });
}

#[test]
fn a_batch_larger_than_any_default_buffer_is_one_transaction() {
    in_fresh(async |handle| {
        handle.ensure_base(&rules()).await?;
        let many: Vec<_> = (0..20_000u32)
            .map(|i| (format!("wrnp{i:x}"), std::net::IpAddr::from((0x0a2a_0000 + i).to_be_bytes())))
            .collect();
        let before = generation(&handle).await;
        handle.add_pod_sources(&many).await?;
        assert_eq!(generation(&handle).await, before + 1);
        assert_eq!(handle.list_pod_sources().await?.len(), many.len());
        handle.remove_pod_sources(&many).await?;
        assert_eq!(handle.list_pod_sources().await?, []);
        Ok(())
    });
}

/// The kernel's own reading of random interval sets, element by element.
#[test]
fn the_kernel_keeps_ranges_as_they_are_written() {
    in_fresh(async |handle| {
        let prefixes: Vec<ipnet::IpNet> = (0..200u32)
            .map(|i| format!("10.{}.{}.0/{}", i % 7, i * 37 % 256, 17 + i % 12).parse().unwrap())
            .collect();
        let ranges = ranges::merge(&prefixes, ranges::Family::V4);
        let elements: BTreeSet<Element> = ranges::keys(&ranges, ranges::Family::V4)
            .map(|(key, end)| Element { end, ..Element::exact(key) })
            .collect();
        let mut ruleset = Ruleset::default();
        ruleset.sets.insert("ranges".into(), Set::of_ranges(Field::Ipv4));
        ruleset.elements.insert("ranges".into(), elements.clone());
        let read = handle
            .run("test", move |connection| {
                let mut batch = Batch::new(TABLE);
                batch.add_table();
                batch.add_ruleset(&ruleset);
                connection.commit(&batch, None).map_err(|f| f.named("test", "table", Some(&batch)))?;
                Ok(reader::elements(connection, TABLE, "ranges").unwrap())
            })
            .await?;
        assert_eq!(read, elements);
        for prefix in &prefixes {
            nft(&format!("get element inet warren ranges {{ {}-{} }}", prefix.network(), prefix.broadcast()));
        }
        Ok(())
    });
}

#[test]
fn changes_by_others_are_told_and_own_ones_are_not() {
    in_fresh(async |handle| {
        let mut changes = handle.changes().await?;
        let patience = Duration::from_millis(300);
        handle.ensure_base(&rules()).await?;
        handle.clone().add_pod_sources(&[source("wrnp1", "10.42.1.5")]).await?;
        // Another subsystem's handle: what it does to its own section is no news, but the end of the table is.
        let another = Nft::current()?;
        another.add_pod_sources(&[source("wrnp2", "10.42.1.6")]).await?;
        another.remove_pod_sources(&[source("wrnp2", "10.42.1.6")]).await?;
        nft("add table inet another");
        nft("delete table inet another");
        assert!(tokio::time::timeout(patience, changes.changed()).await.is_err(), "own changes are told");
        another.remove_table().await?;
        tokio::time::timeout(Duration::from_secs(30), changes.changed())
            .await
            .expect("the end of the table")
            .unwrap();
        while tokio::time::timeout(Duration::from_millis(50), changes.changed()).await.is_ok() {}
        handle.ensure_base(&rules()).await?;
        for fault in [
            "flush set inet warren pod_src4",
            "flush ruleset",
            "add chain inet warren foreign",
            "flush chain inet warren from_pod",
        ] {
            another.add_pod_sources(&[source("wrnp2", "10.42.1.6")]).await?;
            nft(fault);
            tokio::time::timeout(Duration::from_secs(30), changes.changed()).await.expect(fault).unwrap();
            changes.mark_unchanged();
            handle.ensure_base(&rules()).await?;
            while tokio::time::timeout(Duration::from_millis(50), changes.changed()).await.is_ok() {}
        }
        drop(handle);
        assert!(tokio::time::timeout(Duration::from_secs(30), changes.changed()).await.unwrap().is_err());
        Ok(())
    });
}
