use super::*;
use clap::Parser;
use serde_json::Value;

#[derive(Parser)]
struct Only {
    #[command(flatten)]
    args: ManifestsArgs,
}

fn render(args: &[&str]) -> anyhow::Result<String> {
    Only::try_parse_from([&["x"], args].concat())?.args.render()
}

fn objects(text: &str) -> Vec<Value> {
    text.split("\n---\n").map(|part| serde_saphyr::from_str(part).unwrap()).collect()
}

fn one<'a>(all: &'a [Value], kind: &str, name: &str) -> &'a Value {
    all.iter().find(|o| o["kind"] == kind && o["metadata"]["name"] == name).unwrap()
}

#[test]
fn every_object_is_what_its_type_says() {
    let text = render(&["--k3s", "--set", "mtu=1400", "--set", "dns-stub=a.test=192.0.2.1"]).unwrap();
    assert!(!text.contains("{{"), "a place was left open: {text}");
    let all = objects(&text);
    let kinds: Vec<&str> = all.iter().map(|o| o["kind"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        [
            "ServiceAccount",
            "ClusterRole",
            "ClusterRoleBinding",
            "Role",
            "RoleBinding",
            "ConfigMap",
            "ConfigMap",
            "IngressClass",
            "DaemonSet"
        ]
    );
    fn through<T: serde::Serialize + serde::de::DeserializeOwned>(o: &Value) {
        let typed: T = serde_json::from_value(o.clone()).unwrap();
        assert_eq!(&serde_json::to_value(typed).unwrap(), o, "nothing is lost: every field is known");
    }
    for o in &all {
        match o["kind"].as_str().unwrap() {
            "DaemonSet" => through::<k8s_openapi::api::apps::v1::DaemonSet>(o),
            "ClusterRole" => through::<k8s_openapi::api::rbac::v1::ClusterRole>(o),
            "Role" => through::<k8s_openapi::api::rbac::v1::Role>(o),
            "RoleBinding" => through::<k8s_openapi::api::rbac::v1::RoleBinding>(o),
            "ClusterRoleBinding" => through::<k8s_openapi::api::rbac::v1::ClusterRoleBinding>(o),
            "IngressClass" => through::<k8s_openapi::api::networking::v1::IngressClass>(o),
            "ConfigMap" => through::<k8s_openapi::api::core::v1::ConfigMap>(o),
            _ => through::<k8s_openapi::api::core::v1::ServiceAccount>(o),
        }
    }
    let more = objects(&render(&["--k3s", "--certificates"]).unwrap());
    for o in &more[all.len()..] {
        match o["kind"].as_str().unwrap() {
            "ClusterRole" => through::<k8s_openapi::api::rbac::v1::ClusterRole>(o),
            "Role" => through::<k8s_openapi::api::rbac::v1::Role>(o),
            "RoleBinding" => through::<k8s_openapi::api::rbac::v1::RoleBinding>(o),
            _ => through::<k8s_openapi::api::rbac::v1::ClusterRoleBinding>(o),
        }
    }
    let agent = one(&more, "ConfigMap", "warren-agent")["data"]["config.yaml"].as_str().unwrap();
    assert_eq!((more.len() - all.len(), agent.trim()), (4, "ingress-certificates: \"on\""));
    let cluster = one(&all, "ConfigMap", "warren-cluster")["data"]["config.json"].as_str().unwrap();
    let cluster: ClusterConfig = serde_json::from_str(cluster).unwrap();
    assert_eq!(cluster.cluster_cidrs, ["10.42.0.0/16".parse().unwrap()]);
    let settings = one(&all, "ConfigMap", "warren-agent")["data"]["config.yaml"].as_str().unwrap();
    let settings: Value = serde_saphyr::from_str(settings).unwrap();
    assert_eq!(settings, serde_json::json!({"mtu": "1400", "dns-stub": "a.test=192.0.2.1"}));
    let env = &one(&all, "DaemonSet", "warren")["spec"]["template"]["spec"]["containers"][0]["env"];
    let set = |name: &str| {
        env.as_array().unwrap().iter().find(|one| one["name"] == name).map(|one| one["value"].clone())
    };
    assert_eq!(set("KUBERNETES_SERVICE_HOST"), Some("127.0.0.1".into()));
    assert_eq!(set("KUBERNETES_SERVICE_PORT"), Some("6444".into()));
    // What outlives the pod needs both.
    assert_eq!(set("WARREN_HOST_CGROUPS"), Some("/host/cgroup".into()));
    assert_eq!(one(&all, "DaemonSet", "warren")["spec"]["template"]["spec"]["hostPID"], true);
}

#[test]
fn other_settings_start_the_pods_anew_and_the_same_do_not() {
    let mark = |args: &[&str]| {
        let all = objects(&render(args).unwrap());
        one(&all, "DaemonSet", "warren")["spec"]["template"]["metadata"]["annotations"]["warren.dev/settings"]
            .clone()
    };
    assert_eq!(mark(&["--k3s"]), mark(&["--k3s"]));
    assert_ne!(mark(&["--k3s"]), mark(&["--k3s", "--set", "mtu=1400"]));
}

#[test]
fn the_namespace_is_everywhere_where_it_belongs() {
    let all = objects(&render(&["--k3s", "--namespace", "net", "--default-ingress-class"]).unwrap());
    assert_eq!(one(&all, "DaemonSet", "warren")["metadata"]["namespace"], "net");
    assert_eq!(one(&all, "ConfigMap", "warren-agent")["metadata"]["namespace"], "net");
    assert_eq!(one(&all, "RoleBinding", "warren")["subjects"][0]["namespace"], "net");
    // The agents look for it there, whatever their own namespace.
    assert_eq!(one(&all, "ConfigMap", "warren-cluster")["metadata"]["namespace"], "kube-system");
    let default = "ingressclass.kubernetes.io/is-default-class";
    assert_eq!(one(&all, "IngressClass", "warren")["metadata"]["annotations"][default], "true");
}

#[test]
fn what_would_not_work_is_refused_with_a_reason() {
    let api = ["--api-server", "https://192.0.2.1:6443"];
    for (args, reason) in [
        (vec!["--kubeadm"], "--cluster-cidr"),
        (vec!["--kubeadm", "--cluster-cidr", "10.96.0.0/16"], "overlap"),
        (vec!["--cluster-cidr", "10.1.0.0/16"], "--service-cidr"),
        (vec!["--k3s", "--set", "mtv=1"], "no setting"),
        (vec!["--k3s", "--set", "token=x"], "not for --set"),
        (vec!["--k3s", "--set", "mtu=1\n2"], "control characters"),
        (vec!["--k3s", "--image", "a: b"], "name of an image"),
        (vec!["--k3s", "--namespace", "A"], "lower-case"),
        (vec!["--k3s", "--cni-bin-dir", "opt"], "absolute"),
    ] {
        let error = render(&[&api[..], &args].concat()).unwrap_err();
        assert!(format!("{error:#}").contains(reason), "{args:?}: {error:#}");
    }
}

#[test]
fn urls_of_the_api() {
    let api = |text: &str| text.parse::<Api>().map(|a| (a.host, a.port));
    assert_eq!(api("https://192.0.2.1:6443"), Ok(("192.0.2.1".into(), 6443)));
    assert_eq!(api("https://[2001:db8::1]:6443/"), Ok(("2001:db8::1".into(), 6443)));
    assert_eq!(api("https://[2001:db8::1]"), Ok(("2001:db8::1".into(), 443)));
    assert_eq!(api("https://api.example.org"), Ok(("api.example.org".into(), 443)));
    for bad in [
        "http://192.0.2.1:6443",
        "192.0.2.1",
        "https://a b",
        "https://a:x",
        "https://a/b",
        "https://u@a",
        "https://0.0.0.0:1",
    ] {
        assert!(api(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_api_is_taken_from_a_kubeconfig() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("k");
    let text = "apiVersion: v1\nkind: Config\ncurrent-context: b\ncontexts: [{name: b, context: {cluster: c, user: u}}]\n\
        clusters: [{name: x, cluster: {server: 'https://x:1'}}, {name: c, cluster: {server: 'https://192.0.2.1:6443'}}]\n";
    std::fs::write(&file, text).unwrap();
    assert_eq!(server_of(&file).as_deref(), Some("https://192.0.2.1:6443"));
    assert_eq!(server_of(&dir.path().join("none")), None);
}
