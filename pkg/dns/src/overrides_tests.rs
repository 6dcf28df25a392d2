//! Stub domains, hosts and rewrites.

use super::*;
use crate::upstream::testing::name;
use proptest::prelude::*;

fn overrides(stubs: &[&str], hosts: &[&str], rewrites: &[&str]) -> Overrides {
    Overrides::new(
        stubs.iter().map(|text| text.parse().unwrap()),
        hosts.iter().map(|text| text.parse().unwrap()),
        rewrites.iter().map(|text| text.parse().unwrap()),
    )
    .unwrap()
}

#[test]
fn the_longest_domain_decides_label_by_label() {
    let all = overrides(
        &[
            "corp.example=10.0.0.1",
            "lab.corp.example=10.0.0.2,tls://10.0.0.54#ns.corp.example",
            "example=10.0.0.3",
        ],
        &[],
        &[],
    );
    let of = |text: &str| all.stubs.find(&name(text)).map(|(upstreams, _)| upstreams[0].to_string());
    assert_eq!(of("a.CORP.example").as_deref(), Some("10.0.0.1"));
    assert_eq!(of("corp.example").as_deref(), Some("10.0.0.1"));
    assert_eq!(of("x.y.lab.corp.example").as_deref(), Some("10.0.0.2"));
    assert_eq!(of("evilcorp.example").as_deref(), Some("10.0.0.3"));
    assert_eq!(of("corp.example.org"), None);
    assert_eq!(of("."), None);
}

#[test]
fn a_host_has_its_addresses_its_name_and_nothing_else() {
    let all = overrides(&[], &["nas.home=192.168.1.5, fd00::5"], &[]);
    let data = |text: &str, rtype| {
        all.host(&name(text), rtype)
            .map(|(answers, soa)| (answers.into_iter().map(|r| r.data).collect::<Vec<_>>(), soa.is_some()))
    };
    let ip = |text: &str| Data::Address(text.parse().unwrap());
    assert_eq!(data("NAS.home", Type::A), Some((vec![ip("192.168.1.5")], false)));
    assert_eq!(data("nas.home", Type::AAAA), Some((vec![ip("fd00::5")], false)));
    assert_eq!(data("nas.home", Type::TXT), Some((vec![], true)));
    assert_eq!(data("x.nas.home", Type::A), None);
    let here = Data::Name(name("nas.home"));
    assert_eq!(data("5.1.168.192.in-addr.arpa", Type::PTR), Some((vec![here.clone()], false)));
    assert_eq!(data("5.1.168.192.in-addr.arpa", Type::A), Some((vec![], true)));
    let v6 = format!("5.{}0.0.d.f.IP6.ARPA", "0.".repeat(27));
    assert_eq!(data(&v6, Type::PTR), Some((vec![here], false)));
    assert_eq!(data("6.1.168.192.in-addr.arpa", Type::PTR), None);
    assert_eq!(data("+5.1.168.192.in-addr.arpa", Type::PTR), None);
}

#[test]
fn a_rewrite_is_exact_or_below_and_applied_once() {
    let all = overrides(
        &[],
        &[],
        &["a.example=b.example", "b.example=a.example", "*.old.example=*.new.example.with.more.labels"],
    );
    assert_eq!(all.rewrite(&name("A.example")), Some(name("b.example")));
    assert_eq!(all.rewrite(&name("b.example")), Some(name("a.example")));
    assert_eq!(all.rewrite(&name("x.a.example")), None);
    assert_eq!(all.rewrite(&name("x.y.old.EXAMPLE")), Some(name("x.y.new.example.with.more.labels")));
    assert_eq!(all.rewrite(&name("old.example")), None);
    assert_eq!(all.rewrite(&name("x.bold.example")), None);
    let long = format!("{}.old.example", vec!["a".repeat(58); 4].join("."));
    assert_eq!(all.rewrite(&name(&long)), None, "it would be too long");
}

#[test]
fn what_is_wrong_is_said_with_what_would_be_right() {
    let stub = |text: &str| text.parse::<StubDomain>().unwrap_err().to_string();
    let host = |text: &str| text.parse::<HostEntry>().unwrap_err().to_string();
    let rewrite = |text: &str| text.parse::<Rewrite>().unwrap_err().to_string();
    for (error, text, why) in [
        (stub("corp.example"), "corp.example", "both sides"),
        (stub("corp.example=dns.corp"), "dns.corp", "not an IP address"),
        (stub(".=10.0.0.1"), ".=10.0.0.1", "root"),
        (stub("co rp=10.0.0.1"), "co rp", "characters"),
        (host("nas.home="), "nas.home=", "both sides"),
        (host("nas.home=1.2.3"), "1.2.3", "not an IP address"),
        (host("a..b=1.2.3.4"), "a..b", "not a domain name"),
        (rewrite("a=a."), "a=a.", "the same"),
        (rewrite("*.a=b"), "*.a=b", "one side"),
        (rewrite("a.*.b=c"), "a.*.b", "characters"),
    ] {
        assert!(error.contains(text) && error.contains(why) && error.contains("Give it as"), "{error}");
    }
    let twice = Overrides::new([], ["a=1.2.3.4".parse().unwrap(), "A.=1.2.3.5".parse().unwrap()], []);
    assert!(matches!(twice, Err(OverrideError::Twice { what: "host", .. })));
}

proptest! {
    #[test]
    fn any_text_is_read_without_harm(text in ".{0,60}") {
        let _ = (text.parse::<StubDomain>(), text.parse::<HostEntry>(), text.parse::<Rewrite>());
    }

    /// Against the plain reading of "longest suffix".
    #[test]
    fn domains_are_found_as_a_list_would(
        domains in prop::collection::hash_set("[ab]{1,2}(\\.[ab]{1,2}){0,3}", 0..12),
        asked in "[abAB]{1,2}(\\.[abAB]{1,2}){0,5}",
    ) {
        let asked = name(&asked);
        let mut map = Domains::default();
        domains.iter().for_each(|domain| drop(map.insert(&name(domain), name(domain))));
        let longest = domains.iter().map(String::as_str).map(name).filter(|domain| asked.lies_in(domain)).max_by_key(|d| d.wire().len());
        let found = map.find(&asked).map(|(domain, before)| (domain.clone(), before.to_vec()));
        let wanted = longest.map(|domain| { let before = asked.above(&domain).unwrap().to_vec(); (domain, before) });
        prop_assert_eq!(found, wanted);
    }

    #[test]
    fn addresses_are_read_from_their_reverse_names(bits in any::<u128>()) {
        let v4 = std::net::Ipv4Addr::from(bits as u32);
        let [a, b, c, d] = v4.octets();
        prop_assert_eq!(reverse(&name(&format!("{d}.{c}.{b}.{a}.in-addr.arpa"))), Some(v4.into()));
        let nibbles: Vec<_> = (0..32).map(|n| format!("{:x}", bits >> (4 * n) & 0xf)).collect();
        prop_assert_eq!(reverse(&name(&format!("{}.ip6.arpa", nibbles.join(".")))), Some(Ipv6Addr::from(bits).into()));
    }
}
