use super::*;

#[test]
fn health_follows_the_api() {
    let (status, health) = (SourceStatus::default(), HealthCell::default());
    status.synced("Node", false);
    say(&status.report(), &health);
    assert_eq!(health.get().state, HealthState::Starting);
    status.lost("connection refused");
    say(&status.report(), &health);
    assert_eq!(health.get().state, HealthState::Degraded);
    status.contact();
    status.synced("Node", true);
    say(&status.report(), &health);
    assert_eq!(health.get().state, HealthState::Ready);
    status.write_result("Node n1", Some("forbidden".into()));
    say(&status.report(), &health);
    assert_eq!(health.get().message, "Node n1: forbidden");
}
