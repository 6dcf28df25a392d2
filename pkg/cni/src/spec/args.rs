//! `CNI_ARGS`: `KEY=value;KEY=value`.

use super::{Code, Refusal};
use warren_types::{Namespace, PodKey, PodName};

/// What Warren reads in `CNI_ARGS`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) pod: Option<PodKey>,
    pub(crate) pod_uid: Option<String>,
}

fn invalid(why: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::InvalidEnvironment, format!("CNI_ARGS is not valid: {why}"))
}

impl Args {
    /// Unknown keys are an error unless `IgnoreUnknown` is true, as in the plugins of the CNI project.
    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        let (mut namespace, mut name, mut uid) = (None, None, None);
        let mut ignore_unknown = false;
        let mut unknown = Vec::new();
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| invalid(format_args!("{:?} is not KEY=value", cut(pair))))?;
            let given = || Some(value).filter(|v| !v.is_empty());
            match key {
                "IgnoreUnknown" => {
                    ignore_unknown = match value.to_ascii_lowercase().as_str() {
                        "1" | "true" => true,
                        "0" | "false" => false,
                        _ => return Err(invalid("IgnoreUnknown is true, false, 1 or 0")),
                    }
                }
                "K8S_POD_NAMESPACE" => namespace = given(),
                "K8S_POD_NAME" => name = given(),
                "K8S_POD_UID" => uid = given(),
                "K8S_POD_INFRA_CONTAINER_ID" => {}
                _ => unknown.push(cut(key)),
            }
        }
        if !unknown.is_empty() && !ignore_unknown {
            return Err(invalid(format_args!(
                "unknown keys {}; say IgnoreUnknown=1 to have them ignored",
                unknown.join(", ")
            )));
        }
        let pod = match (namespace, name) {
            (None, None) => None,
            (Some(namespace), Some(name)) => Some(PodKey {
                namespace: Namespace::new(namespace)
                    .map_err(|e| invalid(format_args!("K8S_POD_NAMESPACE: {e}")))?,
                name: PodName::new(name).map_err(|e| invalid(format_args!("K8S_POD_NAME: {e}")))?,
            }),
            _ => return Err(invalid("K8S_POD_NAMESPACE and K8S_POD_NAME go together")),
        };
        let printable = |s: &str| s.len() <= 128 && s.bytes().all(|b| b.is_ascii_graphic());
        if uid.is_some_and(|uid| !printable(uid)) {
            return Err(invalid("K8S_POD_UID: at most 128 printable characters"));
        }
        Ok(Self { pod, pod_uid: uid.map(str::to_owned) })
    }
}

/// Words of others, cut to a length that fits into a message.
pub(crate) fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}
