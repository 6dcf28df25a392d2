use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::*;
use super::harness::{TestServer, request};

async fn back_up(s: &TestServer, file: &Path) -> Result<(), ServerError> {
    let get = ::http::Request::get(backup::PATH).body(kube::client::Body::empty()).unwrap();
    let mut body = s.client.send(get).await.unwrap().into_body();
    write_backup(file, s.directory.path(), async || match body.frame().await {
        Some(frame) => Ok(Some(frame.unwrap().into_data().unwrap())),
        None => Ok(None),
    })
    .await
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// What a writer was told: name, revision, value (none: deleted).
type Told = Vec<(String, u64, Option<u64>)>;

/// Creates, changes and deletes until told to stop.
async fn load(client: kube::Client, writer: usize, stop: &AtomicBool) -> Told {
    let mut told = Told::new();
    for round in 0.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let name = format!("w{writer}-{}", round % 20);
        let path = format!("{MAPS}/{name}");
        let object = json!({"metadata": {"name": name}, "data": {"round": round.to_string()}});
        let exists = told.iter().rev().find(|(n, ..)| *n == name).is_some_and(|(.., v)| v.is_some());
        let (method, path, deletes) = match (exists, round % 7) {
            (false, _) => ("POST", MAPS, false),
            (true, 0) => ("DELETE", path.as_str(), true),
            (true, _) => ("PUT", path.as_str(), false),
        };
        let answer = request(&client, method, path, &[], object).await;
        assert!(answer.code < 300, "{}", answer.body);
        let revision = answer.body["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok());
        told.push((name, revision.unwrap_or(0), (!deletes).then_some(round)));
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_restores_the_state_of_one_moment() {
    let s = TestServer::start().await;
    let made = s.create("/v1-warren/tokens", json!({"role": "admin"})).await;
    let file = s.directory.path().join("backup");
    let stop = AtomicBool::new(false);
    let begun = s.get(MAPS).await["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let (_, told) = tokio::join!(
        async {
            // In the middle of the load, not before and not after it.
            while s.get(MAPS).await["items"].as_array().unwrap().len() < 30 {}
            back_up(&s, &file).await.unwrap();
            stop.store(true, Ordering::Release);
        },
        futures::future::join_all((0..4).map(|w| load(s.client.clone(), w, &stop)))
    );
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    // The history of the live server, up to the revision of the backup, is what must be there.
    let text = std::fs::read_to_string(&file).unwrap();
    let row = |key: &str| {
        text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()).find(|l| l["object"]["key"] == key)
    };
    let revision = row(storage::REVISION_ROW).unwrap()["object"]["revision"].as_u64().unwrap();
    assert!(revision > begun.parse().unwrap());
    let uri = format!("{MAPS}?watch=1&timeoutSeconds=1&resourceVersion={begun}");
    let events =
        s.client.send(::http::Request::get(uri).body(kube::client::Body::empty()).unwrap()).await.unwrap();
    let events = events.into_body().collect().await.unwrap().to_bytes();
    let mut wanted: BTreeMap<String, Value> = BTreeMap::new();
    for line in events.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        let event: Value = serde_json::from_slice(line).unwrap();
        let object = &event["object"];
        let at: u64 = object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        match event["type"].as_str().unwrap() {
            _ if at > revision => {}
            "DELETED" => drop(wanted.remove(&name)),
            _ => drop(wanted.insert(name, object.clone())),
        }
    }
    // Every write that was acknowledged with a revision up to that of the backup is in that history.
    for (name, at, value) in told.iter().flatten().filter(|(_, at, v)| *at <= revision && v.is_some()) {
        let kept =
            wanted.get(name).and_then(|o| o["metadata"]["resourceVersion"].as_str()?.parse::<u64>().ok());
        let later = told.iter().flatten().any(|(n, l, v)| n == name && (*l > *at || v.is_none()));
        assert!(kept == Some(*at) || later, "{name} at {at} with {value:?}");
    }
    let before: u64 = s.get(MAPS).await["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    let (old_ca, directory) = (s.ca_pem.clone(), s.stop().await);

    let elsewhere = tempfile::tempdir().unwrap();
    let restored = restore(&file, elsewhere.path(), false).await.unwrap();
    assert!(restored.set_aside.is_none() && restored.revision > before);
    let s = TestServer::start_in(elsewhere).await;
    assert_eq!(s.ca_pem, old_ca);
    let list = s.get(MAPS).await;
    let found: BTreeMap<String, Value> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| (o["metadata"]["name"].as_str().unwrap().to_owned(), o.clone()))
        // Every namespace has it, also when it came after the backup.
        .filter(|(name, _)| name != "kube-root-ca.crt")
        .collect();
    wanted.remove("kube-root-ca.crt");
    assert_eq!(found, wanted);
    let tokens = s.get("/v1-warren/tokens").await;
    assert_eq!(tokens["tokens"][0]["id"], made["id"]);
    // Whoever followed the lost state lists again.
    let gone =
        s.ask("GET", &format!("{MAPS}?watch=1&timeoutSeconds=1&resourceVersion={before}"), Value::Null).await;
    assert!(gone.code == 410 || gone.body["object"]["code"] == 410, "{}", gone.body);
    let new = s.create(MAPS, json!({"metadata": {"name": "after"}})).await;
    assert!(new["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > before);

    // State that is there is neither overwritten nor lost.
    let live = restore(&file, s.directory.path(), true).await.unwrap_err().to_string();
    assert!(live.contains("is running"), "{live}");
    let refused = restore(&file, directory.path(), false).await.unwrap_err().to_string();
    assert!(refused.contains("--force"), "{refused}");
    let forced = restore(&file, directory.path(), true).await.unwrap();
    assert!(forced.set_aside.unwrap().join("tls/ca.key").exists());
    let again = TestServer::start_in(directory).await;
    let list = again.get(MAPS).await;
    let names = list["items"].as_array().unwrap().iter().map(|o| o["metadata"]["name"].as_str().unwrap());
    assert!(names.filter(|n| *n != "kube-root-ca.crt").eq(wanted.keys()));
}

#[tokio::test]
async fn a_damaged_backup_is_refused_and_changes_nothing() {
    let s = TestServer::start().await;
    let file = s.directory.path().join("backup");
    back_up(&s, &file).await.unwrap();
    let good = std::fs::read(&file).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let bad = elsewhere.path().join("bad");
    let target = elsewhere.path().join("data");
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for content in [
        &good[..good.len() - 1],
        &good[..good.len() / 2],
        &flipped,
        b"",
        b"x",
        &[good.as_slice(), b"\n"].concat(),
    ] {
        std::fs::write(&bad, content).unwrap();
        let error = restore(&bad, &target, false).await.unwrap_err().to_string();
        assert!(error.contains("backup"), "{error}");
        assert!(!target.exists());
    }
    // A server that stops sending in the middle leaves no file.
    let mut first = true;
    let cut = write_backup(&bad, s.directory.path(), async || {
        Ok(std::mem::take(&mut first)
            .then(|| bytes::Bytes::from_static(b"{\"end\":{\"rows\":7,\"revision\":1}}\n")))
    });
    assert!(cut.await.unwrap_err().to_string().contains("all of its rows"));
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 1);
    std::fs::write(&bad, &good).unwrap();
    assert!(restore(&bad, &target, false).await.unwrap().objects > 0);
}

/// One from before there was an authority for ingress: the server makes it when it starts.
#[tokio::test]
async fn a_backup_of_the_format_before_is_restored() {
    let s = TestServer::start().await;
    let file = s.directory.path().join("backup");
    back_up(&s, &file).await.unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.matches("tls/ingress-ca.").count(), 2);
    let old: String = text
        .lines()
        .filter(|line| !line.contains("tls/ingress-ca.") && !line.starts_with("{\"sha256\""))
        .map(|line| line.replacen("\"format\":2", "\"format\":1", 1) + "\n")
        .collect();
    let sum = crate::authority::hex(ring::digest::digest(&ring::digest::SHA256, old.as_bytes()).as_ref());
    std::fs::write(&file, format!("{old}{{\"sha256\":\"{sum}\"}}\n")).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    restore(&file, elsewhere.path(), false).await.unwrap();
    let restored = TestServer::start_in(elsewhere).await;
    assert_eq!(restored.ca_pem, s.ca_pem);
    assert!(crate::ingress_root(restored.directory.path()).unwrap().contains("BEGIN CERTIFICATE"));
}
