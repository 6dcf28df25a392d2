//! A question of a person, answered step by step.

use crate::answer::{self, Asked, Client, Context, Outcome};
use crate::desk::{Desk, go_on, wanted};
use crate::status::DnsStatus;
use crate::wire::{InvalidName, Name, Query, Transport, Type};
use crate::zone::Source;
use hickory_proto::op::Message;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::time::Instant;

/// Names with fewer dots are first looked for in the search path (`ndots` in what kubelet writes).
const NDOTS: usize = 5;

/// A name for what can be asked, or a number.
const TYPES: [(&str, Type); 10] = [
    ("A", Type::A),
    ("AAAA", Type::AAAA),
    ("SRV", Type::SRV),
    ("PTR", Type::PTR),
    ("TXT", Type::TXT),
    ("CNAME", Type::CNAME),
    ("SOA", Type::SOA),
    ("NS", Type::NS),
    ("MX", Type(15)),
    ("HTTPS", Type(65)),
];

/// Why a question cannot be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InquiryError {
    /// The name.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The type.
    #[error("{0:?} is no type of records; A, AAAA, SRV, PTR, TXT, CNAME, SOA, NS, MX, HTTPS or a number are")]
    Type(String),
    /// There is no server.
    #[error("cluster DNS of this node does not serve yet, or is off (--dns=off); `warren status` says which")]
    NotServing,
}

/// What came of a question.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Told {
    /// The name as it was given.
    pub name: String,
    /// The type.
    pub rtype: String,
    /// Who asked, to the server.
    pub client: String,
    /// The names that were tried, in order.
    pub steps: Vec<Step>,
    /// The code of the last answer.
    pub code: String,
    /// Its records.
    pub answers: Vec<String>,
    /// What stands for those that are not there.
    pub authority: Vec<String>,
}

/// One name that was tried.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Step {
    /// The name.
    pub name: String,
    /// Where its answer came from, in order.
    pub sources: Vec<String>,
    /// The code of the answer.
    pub code: String,
    /// Microseconds that it took.
    pub micros: u64,
}

fn parse_type(text: &str) -> Result<Type, InquiryError> {
    let known = TYPES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, rtype)| *rtype);
    let number = || text.parse().ok().map(Type);
    known.or_else(number).ok_or_else(|| InquiryError::Type(text.into()))
}

/// The names that a resolver with this search path tries, in order.
fn candidates(text: &str, path: &[Name]) -> Result<Vec<Name>, InvalidName> {
    let whole: Name = text.parse()?;
    if text.ends_with('.') {
        return Ok(vec![whole]);
    }
    let below = |domain: &Name| Name::from_labels(whole.labels().chain(domain.labels())).ok();
    let mut all: Vec<Name> = path.iter().filter_map(below).collect();
    let at = if text.matches('.').count() < NDOTS { all.len() } else { 0 };
    all.insert(at, whole);
    Ok(all)
}

/// A question as a client sends it.
fn packet(name: &Name, rtype: Type) -> Vec<u8> {
    let mut packet = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    packet.extend_from_slice(name.wire());
    packet.extend_from_slice(&rtype.0.to_be_bytes());
    packet.extend_from_slice(&1_u16.to_be_bytes());
    packet
}

impl DnsStatus {
    /// Asks as the client with this address would, and says what came of it and from where. Nothing of it is counted.
    ///
    /// # Errors
    /// For what is no question, and when nobody serves.
    pub async fn ask(&self, name: &str, rtype: &str, from: IpAddr) -> Result<Told, InquiryError> {
        let rtype_number = parse_type(rtype)?;
        let desk = self.desk().ok_or(InquiryError::NotServing)?;
        let (names, client) = {
            let world = desk.world();
            let (path, client) = match world.clients.find(from) {
                Client::Pod(path) => {
                    let namespace =
                        world.clients.namespace(from).map(ToString::to_string).unwrap_or_default();
                    (path, format!("{from}, a pod of this node in namespace {namespace}"))
                }
                Client::Other => (&[][..], format!("{from}, of the cluster")),
                Client::Stranger => (&[][..], format!("{from}, not of the cluster: refused")),
            };
            (candidates(name, path)?, client)
        };
        let mut told =
            Told { name: name.into(), rtype: rtype.to_ascii_uppercase(), client, ..Told::default() };
        for name in names {
            let (step, answer) = desk.try_one(&name, rtype_number, from).await;
            let found = step.code == "NOERROR";
            told.steps.push(step);
            let texts =
                |records: &[hickory_proto::rr::Record]| records.iter().map(ToString::to_string).collect();
            (told.code, told.answers, told.authority) = match &answer {
                Some(message) => (code(message), texts(&message.answers), texts(&message.authorities)),
                None => (String::new(), Vec::new(), Vec::new()),
            };
            if found {
                break;
            }
        }
        Ok(told)
    }
}

fn code(message: &Message) -> String {
    let number = usize::from(message.response_code.low());
    let known = crate::figures::CODES.get(number);
    known.map_or_else(|| format!("code {number}"), |name| (*name).to_owned())
}

impl Desk {
    async fn try_one(&self, name: &Name, rtype: Type, from: IpAddr) -> (Step, Option<Message>) {
        let since = Instant::now();
        let packet = packet(name, rtype);
        let mut step = Step { name: name.to_string(), ..Step::default() };
        let mut out = Vec::new();
        let Ok(query) = Query::read(&packet) else { return (step, None) };
        let mut outcome = {
            let world = self.world();
            let client = world.clients.find(from);
            let context = Context {
                zone: &world.zone,
                settings: &world.settings,
                transport: Transport::Tcp,
                random: 0,
            };
            match self.rewritten(&query, client) {
                Some(target) => {
                    step.sources.push(format!("asked as {target} by a rewrite"));
                    step.sources.push(world.zone.explain(&target, world.settings.pods).to_string());
                    answer::alias(context, &query, target, &mut out)
                }
                None => {
                    step.sources.push(world.zone.explain(name, world.settings.pods).to_string());
                    answer::answer(context, client, &query, &mut out)
                }
            }
        };
        while let Some(Asked { name, qtype }) = wanted(&outcome) {
            if let Outcome::WalkSearch(_) = outcome {
                step.sources.push(format!("in its place {name} of the search path"));
            }
            let resolved = self.forwarder.resolve(&name, qtype).await;
            step.sources.push(format!("{name} from {}", resolved.origin));
            let world = self.world();
            let context = Context {
                zone: &world.zone,
                settings: &world.settings,
                transport: Transport::Tcp,
                random: 0,
            };
            outcome = go_on(context, &query, outcome, &resolved, &mut out);
        }
        let message = Message::from_vec(&out).ok();
        let own = self.world().zone.explain(name, self.world().settings.pods);
        if own == Source::Missing
            && step.sources.len() == 1
            && message.as_ref().is_some_and(|m| !m.answers.is_empty())
        {
            step.sources.push("answered by another name of its search path".into());
        }
        step.code = message.as_ref().map(code).unwrap_or_default();
        step.micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        (step, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_tried_as_a_resolver_tries_them() {
        let path: Vec<Name> = ["shop.svc.cluster.local", "lan"].map(|n| n.parse().unwrap()).into();
        let tried = |text: &str| -> Vec<String> {
            candidates(text, &path).unwrap().iter().map(ToString::to_string).collect()
        };
        assert_eq!(tried("db"), ["db.shop.svc.cluster.local.", "db.lan.", "db."]);
        assert_eq!(tried("db."), ["db."]);
        assert_eq!(tried("a.b.c.d.e.f").first().unwrap(), "a.b.c.d.e.f.");
        assert!(candidates("a..b", &path).is_err());
    }

    #[test]
    fn types_are_names_or_numbers() {
        assert_eq!(parse_type("aaaa").unwrap(), Type::AAAA);
        assert_eq!(parse_type("99").unwrap(), Type(99));
        assert!(parse_type("x").is_err());
    }
}
