//! Whether a backend understood what the reference says, and the client was told no more than that.

use crate::backends::{Entry, NAMES, Read, Request};
use crate::case::{Case, Wanted, of_address};
use std::collections::BTreeMap;

/// An answer as a client saw it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Which request of a backend it is for; none is the ingress's own.
    pub(crate) id: Option<String>,
    /// A backend took what came to it for no request.
    pub(crate) by_backend: bool,
    pub(crate) closes: bool,
}

/// The answers of a connection. What comes behind them is an error.
pub(crate) fn answers(mut bytes: &[u8]) -> Result<Vec<Answer>, String> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").ok_or("half a head")?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        bytes = &bytes[end + 4..];
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status: u16 = status.ok_or_else(|| format!("no answer: {head}"))?;
        if status == 100 {
            continue;
        }
        let field = |name: &str| {
            head.lines()
                .skip(1)
                .filter_map(|line| line.split_once(": "))
                .find(|(n, _)| n.eq_ignore_ascii_case(name))
                .map(|(_, v)| v)
        };
        let length: usize = field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        if length > 0 {
            // Nothing but our own pages has a body, and those close after HEAD.
            bytes = bytes.get(length..).unwrap_or_default();
        }
        answers.push(Answer {
            status,
            id: field("x-id").map(str::to_owned),
            by_backend: field("x-refused").is_some() || field("server").is_some(),
            closes: field("connection").is_some_and(|value| value.contains("close")),
        });
    }
    Ok(answers)
}

/// Of which case an entry is.
pub(crate) fn case_of(entry: &Entry) -> Option<usize> {
    match entry.client.as_slice() {
        [one] => of_address(one),
        [] if !entry.error.is_empty() => {
            let rest = entry.raw.split("x-forwarded-for: ").nth(1)?;
            of_address(rest.split('\r').next()?)
        }
        _ => None,
    }
}

/// What differs, by kind: how often, and where for one.
#[derive(Default)]
pub(crate) struct Differences(pub(crate) BTreeMap<String, (usize, String)>);

impl Differences {
    pub(crate) fn add(&mut self, kind: impl Into<String>, example: impl FnOnce() -> String) {
        let known = self.0.entry(kind.into()).or_insert_with(|| (0, example()));
        known.0 += 1;
    }

    /// Says what is known and why it may be, and fails for the rest.
    pub(crate) fn judge(&self, justified: &[(&str, &str)]) {
        let mut bad = String::new();
        for (kind, (count, example)) in &self.0 {
            match justified.iter().find(|(known, _)| kind.contains(known)) {
                Some((_, why)) => println!("{count} times: {kind}: {why}"),
                None => bad.push_str(&format!("\n{count} times: {kind}\n  as {example}\n")),
            }
        }
        assert!(bad.is_empty(), "{bad}");
    }
}

/// How a connection came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All that the reference reads was served.
    Served,
    /// The ingress refused something.
    Refused,
    /// It waited for more, and gave up.
    Waited,
}

pub(crate) fn case(
    case: &Case,
    read: &Read,
    seen: &[&Entry],
    said: &[u8],
    into: &mut Differences,
) -> Outcome {
    let show = |what: &dyn std::fmt::Debug| {
        format!(
            "{}: {}\n    reference: {read:?}\n    backend: {seen:?}\n    {what:?}",
            case.name,
            case.bytes.escape_ascii()
        )
    };
    let answers = match answers(said) {
        Ok(answers) => answers,
        Err(error) => {
            into.add(format!("the client is told nonsense: {error}"), || {
                show(&said.escape_ascii().to_string())
            });
            return Outcome::Waited;
        }
    };
    // Each request of the backend is answered, in its place, and nothing else is.
    let told: Vec<&str> = answers.iter().filter_map(|answer| answer.id.as_deref()).collect();
    let done: Vec<&str> = seen.iter().filter(|entry| entry.complete).map(|entry| &*entry.id).collect();
    if told != done {
        into.add("answers are not those of the requests that the backend saw", || show(&answers));
    }
    // The asterisk is no path of anybody's: it is answered here.
    let nginx = case.backend == NAMES.len() - 1;
    let wanted: Vec<&Request> = read
        .requests
        .iter()
        .filter(|request| request.target != "*")
        // nginx refuses those before it reads from whom they are.
        .filter(|request| !nginx || !is_beyond_nginx(request))
        .collect();
    let own = |answer: &&Answer| answer.id.is_none() && !answer.by_backend;
    let refused = answers.iter().find(|answer| own(answer) && answer.status != 404);
    // It takes what is said of lengths in trailers for an error; the ingress leaves it out, as RFC 9110, 6.5.1 says.
    let trailers = wanted
        .iter()
        .position(|request| !request.complete)
        .filter(|_| ["Content-Length", "Transfer-Encoding"].iter().any(|name| read.error.contains(name)));
    for (at, entry) in seen.iter().enumerate() {
        // It calls a request malformed, too, whose body the ingress broke off.
        let broken_off = nginx && entry.error == "status 400" && at + 1 == seen.len() && refused.is_some();
        if !entry.error.is_empty() && !broken_off {
            into.add(format!("{} refuses: {}", entry.backend, entry.error), || show(&answers));
        } else if trailers.is_some_and(|from| at >= from) {
            into.add("the reference refuses lengths in trailers", || show(&answers));
        } else if let Some(wanted) = wanted.get(at) {
            for difference in compare(entry, wanted) {
                into.add(format!("{}: {difference}", entry.backend), || show(&answers));
            }
        } else {
            into.add(format!("the reference refuses: {}", read.error), || show(&answers));
        }
    }
    if let Some(refused) = refused {
        let last = answers.last().is_some_and(|last| std::ptr::eq(last, refused));
        if !last || !refused.closes {
            into.add("the connection goes on after a refusal", || show(&answers));
        }
        if !matches!(refused.status, 400 | 408 | 413 | 431 | 505) {
            into.add(format!("the ingress says {}", refused.status), || show(&answers));
        }
    }
    let complete = wanted.iter().filter(|request| request.complete).count();
    let outcome = match refused.map(|answer| answer.status) {
        Some(408) => Outcome::Waited,
        Some(_) => Outcome::Refused,
        None if answers.last().is_some_and(|answer| answer.closes) => Outcome::Served,
        None => Outcome::Waited,
    };
    let all_by_backend =
        seen.iter().all(|entry| entry.error.is_empty()) && answers.iter().all(|answer| answer.status == 200);
    if outcome == Outcome::Served && done.len() < complete && all_by_backend {
        into.add("a request is lost", || show(&answers));
    }
    let right = match case.wanted {
        Wanted::Any => true,
        Wanted::Refused => outcome == Outcome::Refused && done.is_empty(),
        Wanted::Served => outcome == Outcome::Served && done.len() == complete && complete > 1,
    };
    if !right {
        into.add(format!("not {:?}", case.wanted), || show(&answers));
    }
    outcome
}

/// In what a request that the backend saw is not the one that was sent.
pub(crate) fn compare(entry: &Entry, wanted: &Request) -> Vec<String> {
    let mut differences = Vec::new();
    let mut differ = |what: &str, same: bool| {
        if !same {
            differences.push(format!("another {what}"));
        }
    };
    differ("method", entry.method == wanted.method);
    differ("target", entry.target == origin_form(&wanted.target));
    if entry.complete {
        differ("body", wanted.complete && entry.body == wanted.body);
    } else {
        let (one, other) = (&entry.body, &wanted.body);
        differ("beginning of the body", one.starts_with(&**other) || other.starts_with(&**one));
    }
    if let Some(headers) = &entry.headers {
        // Who says none, by HTTP/1.0, asks the address that the request came to.
        let host = values(headers, "host");
        differ(
            "host",
            host.len() == 1
                && (values(&wanted.headers, "host").is_empty() || host == values(&wanted.headers, "host")),
        );
        differ("header", kept(headers, &[]) == kept(&wanted.headers, &wanted.headers));
        let te = values(&wanted.headers, "te").iter().any(|value| {
            value.to_ascii_lowercase().split(',').any(|token| token.trim_matches([' ', '\t']) == "trailers")
        });
        let more = ["connection", "transfer-encoding", "upgrade", "proxy-connection", "keep-alive"];
        let mut own = more.iter().filter(|name| !values(headers, name).is_empty());
        let upgraded = values(&wanted.headers, "upgrade").len() == 1;
        let fine = own.all(|name| match *name {
            "transfer-encoding" => {
                values(headers, name) == ["chunked"] && values(headers, "content-length").is_empty()
            }
            "connection" => {
                let wanted = match (te, upgraded) {
                    (true, true) => vec!["upgrade", "te"],
                    (true, false) => vec!["te"],
                    (false, true) => vec!["upgrade"],
                    (false, false) => vec![],
                };
                values(headers, name).join(",").split(',').all(|token| wanted.contains(&token.trim()))
            }
            "upgrade" => upgraded,
            _ => false,
        });
        differ("header between neighbours", fine);
        differ("TE", values(headers, "te") == if te { vec!["trailers"] } else { vec![] });
        if entry.complete {
            // What says who asks is no trailer.
            let mut wanted = kept(&wanted.trailers, &[]);
            wanted.retain(|(name, _)| !FIXED.contains(name));
            differ("trailer", kept(&entry.trailers, &[]) == wanted);
        }
    }
    differences
}

fn values<'a>(headers: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    headers
        .iter()
        .filter(|(found, _)| found == name)
        .map(|(_, value)| value.trim_matches([' ', '\t']))
        .collect()
}

/// What `Connection` cannot take away.
const FIXED: [&str; 3] = ["authorization", "cookie", "origin"];

/// What is neither between neighbours nor the ingress's own to say.
fn kept<'a>(headers: &'a [(String, String)], connection: &[(String, String)]) -> Vec<(&'a str, &'a str)> {
    const OWN: &[&str] = &[
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "proxy-authenticate",
        "te",
        "transfer-encoding",
        "upgrade",
        "content-length",
        "expect",
        "host",
        "forwarded",
        "x-real-ip",
    ];
    let named: Vec<String> = values(connection, "connection")
        .join(",")
        .split(',')
        .map(|token| token.trim_matches([' ', '\t']).to_ascii_lowercase())
        .collect();
    let mut kept: Vec<(&str, &str)> = headers
        .iter()
        .filter(|(name, _)| {
            // Some backends take an underscore for a dash.
            let name = name.replace('_', "-");
            !OWN.contains(&&*name) && !name.starts_with("x-forwarded-")
        })
        .filter(|(name, _)| FIXED.contains(&&**name) || !named.contains(name))
        .map(|(name, value)| (&**name, value.trim_matches([' ', '\t'])))
        .collect();
    kept.sort_by_key(|(name, _)| *name);
    kept
}

/// Path and query of a target.
fn origin_form(target: &str) -> String {
    let Some((_, rest)) = target.split_once("://").filter(|_| !target.starts_with('/')) else {
        return target.to_owned();
    };
    match rest.find(['/', '?']).map(|at| &rest[at..]) {
        Some(path) if path.starts_with('/') => path.to_owned(),
        Some(query) => format!("/{query}"),
        None => "/".to_owned(),
    }
}

/// Whether nginx refuses such a request at once: it knows upper-case methods alone, and one `Authorization`.
pub(crate) fn is_beyond_nginx(request: &Request) -> bool {
    let known = request.method.bytes().all(|byte| byte.is_ascii_uppercase() || matches!(byte, b'_' | b'-'));
    !known || values(&request.headers, "authorization").len() > 1
}
