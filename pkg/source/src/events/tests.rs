use super::*;
use proptest::prelude::*;

fn key() -> ServiceKey {
    ServiceKey::parse("shop/web").unwrap()
}

fn subject(n: usize) -> Subject {
    Subject::new(&key(), "u", &Fault { reason: "PortTaken".into(), message: format!("port {n}") })
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

#[test]
fn a_name_is_the_same_for_the_same_fault_and_no_other() {
    let name = subject(1).name(&node("a"));
    assert!(name.starts_with("web.") && name.len() == "web.".len() + 16, "{name}");
    assert_eq!(name, subject(1).name(&node("a")));
    assert_ne!(name, subject(1).name(&node("b")));
    assert_ne!(name, subject(2).name(&node("a")));
    assert_ne!(name, Subject { uid: "other".into(), ..subject(1) }.name(&node("a")));
}

#[test]
fn a_name_fits_and_stays_a_name_however_long_the_objects_is() {
    for long in [
        "a".repeat(253),
        format!("{}.b", "a".repeat(199)),
        format!("{}-.b", "a".repeat(198)).replace("-.", "-x."),
    ] {
        let key = IngressKey::parse(&format!("shop/{long}")).unwrap();
        let fault = Fault { reason: "NoSecret".into(), message: String::new() };
        let s = Subject::new(&key, "u", &fault);
        let name = s.name(&node("a"));
        assert!(name.len() <= 253 && warren_types::IngressName::new(name.clone()).is_ok(), "{name}");
        let body = s.body(&node("a"), "2026-01-01T00:00:00Z");
        assert_eq!(body["involvedObject"]["apiVersion"], "networking.k8s.io/v1");
        assert_eq!(
            (&body["involvedObject"]["kind"], &body["involvedObject"]["name"]),
            (&json!("Ingress"), &json!(long))
        );
    }
}

#[test]
fn a_fault_is_told_once_then_renewed_while_it_stays() {
    let (mut memory, start) = (Memory::default(), Instant::now());
    assert_eq!(memory.take([subject(1)], start), [(subject(1), 0)]);
    memory.told(&subject(1), Some(1), start);
    let after = |s| start + Duration::from_secs(s);
    assert_eq!(memory.take([subject(1)], after(299)), []);
    // It goes and comes back: not told again before its time.
    assert_eq!(memory.take([], after(299)), []);
    assert_eq!(memory.take([subject(1)], after(299)), []);
    assert_eq!(memory.take([subject(1)], after(300)), [(subject(1), 1)]);
    memory.told(&subject(1), None, after(300));
    assert_eq!(memory.take([subject(1)], after(300)), [], "a failure is followed by a wait");
    assert_eq!(memory.take([subject(1)], after(302)), [(subject(1), 1)]);
    memory.told(&subject(1), Some(2), after(302));
    memory.take([], after(1000));
    assert!(memory.0.is_empty(), "what is gone is forgotten");
}

#[test]
fn memory_is_bounded_and_room_is_given_again() {
    let (mut memory, now) = (Memory::default(), Instant::now());
    assert_eq!(memory.take((0..MAX_FAULTS + 500).map(subject), now).len(), MAX_FAULTS);
    assert_eq!(memory.0.len(), MAX_FAULTS);
    assert_eq!(memory.take([subject(MAX_FAULTS + 1)], now).len(), 0, "room is found at the next look");
    assert_eq!(memory.take([subject(MAX_FAULTS + 1)], now), [(subject(MAX_FAULTS + 1), 0)]);
}

proptest! {
    #[test]
    fn any_fault_fits_into_an_event(reason in "\\PC{0,300}", message in "\\PC{0,2000}") {
        let fault = Fault { reason, message };
        let s = Subject::new(&key(), "u", &fault);
        prop_assert!(s.fault.reason.len() <= MAX_REASON && s.fault.message.len() <= MAX_MESSAGE);
        prop_assert!(fault.message.starts_with(&s.fault.message));
        let body = s.body(&node("n1"), "2026-01-01T00:00:00Z");
        prop_assert_eq!(&body["involvedObject"]["uid"], "u");
    }
}
