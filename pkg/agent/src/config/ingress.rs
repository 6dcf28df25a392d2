//! The part of the configuration that is about ingress.

use super::services::on_off;
use super::{RawConfig, port};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use warren_ingress::{AccessLogConfig, AccessLogFormat, IngressConfig};
use warren_types::ingress::INGRESS_CLASS_NAME;
use warren_types::{IngressClassName, NodeName, Requirement, Selector};

/// How long requests that are under way may take when the agent stops: less than the agent gives its subsystems.
const DRAIN: Duration = Duration::from_secs(4);

impl RawConfig {
    /// None when somebody else serves Ingresses.
    pub(super) fn ingress(&mut self, node_name: &NodeName) -> Option<IngressConfig> {
        let on = self.parse("ingress", on_off).unwrap_or(true);
        let class = self.parse("ingress-class", |v| IngressClassName::new(v).map_err(|e| e.to_string()));
        let shown = self.shown("ingress-nodes");
        let mut nodes = Vec::new();
        for text in self.list("ingress-nodes") {
            match requirement(&text) {
                Ok(requirement) => nodes.push(requirement),
                Err(reason) => self.fault(&shown, reason),
            }
        }
        let (http_port, https_port) = (
            self.parse("ingress-http-port", port).unwrap_or(80),
            self.parse("ingress-https-port", port).unwrap_or(443),
        );
        if http_port == https_port {
            self.fault("--ingress-https-port", "HTTP and HTTPS need a port each");
        }
        let config = IngressConfig {
            node_name: node_name.clone(),
            http_port,
            https_port,
            class: class.unwrap_or_else(usual_class),
            nodes: Selector::new(nodes),
            external_names: self.parse("ingress-external-names", on_off).unwrap_or(false),
            trusted: self.prefixes("ingress-trusted"),
            proxy_from: self.prefixes("ingress-proxy-protocol"),
            access_log: self.access_log(),
            drain: DRAIN,
        };
        on.then_some(config)
    }

    /// Whether certificates are issued by the agents of a cluster whose API does not.
    pub(super) fn issue_certificates(&mut self, joins: bool) -> bool {
        let on = self.parse("ingress-certificates", on_off).unwrap_or(false);
        if on && joins {
            let shown = self.shown("ingress-certificates");
            self.fault(&shown, "`warren server` issues them itself; this is for the API of a Kubernetes");
        }
        on
    }

    fn access_log(&mut self) -> Option<AccessLogConfig> {
        let format = self.parse("ingress-access-log", |v| match v {
            "off" => Ok(None),
            "common" => Ok(Some(AccessLogFormat::Common)),
            "json" => Ok(Some(AccessLogFormat::Json)),
            _ => Err(format!("{v:?} is neither off, common nor json")),
        });
        let file = self.parse("ingress-access-log-file", absolute);
        let is_off = !matches!(format, Some(Some(_)));
        if is_off && file.is_some() && self.one("ingress-access-log").is_none() {
            let shown = self.shown("ingress-access-log-file");
            self.fault(&shown, "the access log is off; say --ingress-access-log common or json too");
        }
        format.flatten().map(|format| AccessLogConfig { format, file })
    }
}

fn usual_class() -> IngressClassName {
    #[expect(clippy::expect_used, reason = "a constant that the type accepts")]
    IngressClassName::new(INGRESS_CLASS_NAME).expect("a valid constant")
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err(format!("{text:?} is not an absolute path")) }
}

/// `KEY` or `KEY=VALUE`.
fn requirement(text: &str) -> Result<Requirement, String> {
    let (key, value) = match text.split_once('=') {
        None => (text, None),
        Some((key, value)) => (key, Some(value)),
    };
    if key.is_empty() || key.contains(|c: char| c.is_whitespace() || "!(),".contains(c)) {
        return Err(format!("{text:?} is no label such as warren.dev/ingress=true"));
    }
    Ok(match value {
        None => Requirement::Exists(key.to_owned()),
        Some(value) => Requirement::In(key.to_owned(), BTreeSet::from([value.to_owned()])),
    })
}

#[cfg(test)]
mod tests {
    use super::super::Origin;
    use super::*;

    fn read(said: &[(&str, &[&str])]) -> (Option<IngressConfig>, Vec<super::super::Fault>) {
        let mut raw = RawConfig::default();
        for (key, values) in said {
            raw.say(key, Origin::Flag, values.iter().map(|v| (*v).to_owned()).collect());
        }
        let config = raw.ingress(&NodeName::new("n1").unwrap());
        (config, raw.faults)
    }

    #[test]
    fn what_is_not_said_has_the_customary_value() {
        let (config, faults) = read(&[]);
        let config = config.unwrap();
        assert_eq!(faults, []);
        assert_eq!((config.http_port, config.https_port, config.class.as_ref()), (80, 443, "warren"));
        assert_eq!((config.access_log, config.external_names), (None, false));
        assert!(config.nodes.is_everything() && config.trusted.is_empty() && config.proxy_from.is_empty());
        assert!(read(&[("ingress", &["off"])]).0.is_none());
    }

    #[test]
    fn everything_can_be_said() {
        let (config, faults) = read(&[
            ("ingress", &["on"]),
            ("ingress-http-port", &["8080"]),
            ("ingress-https-port", &["8443"]),
            ("ingress-class", &["edge"]),
            ("ingress-nodes", &["warren.dev/ingress=true,zone"]),
            ("ingress-external-names", &["on"]),
            ("ingress-trusted", &["10.0.0.0/8"]),
            ("ingress-proxy-protocol", &["192.168.1.5/32"]),
            ("ingress-access-log", &["json"]),
            ("ingress-access-log-file", &["/var/log/access"]),
        ]);
        assert_eq!(faults, []);
        let config = config.unwrap();
        assert_eq!((config.http_port, config.https_port, config.class.as_ref()), (8080, 8443, "edge"));
        assert_eq!(config.nodes.to_string(), "warren.dev/ingress=true,zone");
        let log = AccessLogConfig { format: AccessLogFormat::Json, file: Some("/var/log/access".into()) };
        assert_eq!(config.access_log, Some(log));
        assert_eq!((config.trusted.len(), config.proxy_from.len()), (1, 1));
        assert!(config.external_names);
    }

    #[test]
    fn each_fault_is_named() {
        let (_, faults) = read(&[
            ("ingress", &["maybe"]),
            ("ingress-http-port", &["0"]),
            ("ingress-https-port", &["80"]),
            ("ingress-class", &["A_B"]),
            ("ingress-nodes", &["a b"]),
            ("ingress-external-names", &["some"]),
            ("ingress-trusted", &["x"]),
            ("ingress-proxy-protocol", &["y"]),
            ("ingress-access-log", &["xml"]),
            ("ingress-access-log-file", &["access.log"]),
        ]);
        let keys: Vec<&str> = faults.iter().map(|f| f.key.as_str()).collect();
        for key in [
            "ingress",
            "ingress-http-port",
            "ingress-https-port",
            "ingress-class",
            "ingress-nodes",
            "ingress-external-names",
            "ingress-trusted",
            "ingress-proxy-protocol",
            "ingress-access-log",
            "ingress-access-log-file",
        ] {
            assert!(keys.contains(&format!("--{key}").as_str()), "{key}: {faults:?}");
        }
    }

    #[test]
    fn agents_issue_certificates_where_they_are_told_to_and_no_server_does() {
        let of = |said: Option<&str>, joins| {
            let mut raw = RawConfig::default();
            if let Some(said) = said {
                raw.say("ingress-certificates", Origin::Flag, vec![said.to_owned()]);
            }
            (raw.issue_certificates(joins), raw.faults.len())
        };
        assert_eq!(
            (of(None, false), of(Some("on"), false), of(Some("off"), true)),
            ((false, 0), (true, 0), (false, 0))
        );
        assert_eq!((of(Some("on"), true).1, of(Some("some"), false)), (1, (false, 1)));
    }

    #[test]
    fn a_file_for_a_log_that_nobody_asked_for_is_a_fault() {
        let (_, faults) = read(&[("ingress-access-log-file", &["/var/log/access"])]);
        assert_eq!(faults.len(), 1, "{faults:?}");
        let (config, faults) =
            read(&[("ingress-access-log-file", &["/var/log/access"]), ("ingress-access-log", &["off"])]);
        assert_eq!((config.unwrap().access_log, faults), (None, Vec::new()));
    }
}
