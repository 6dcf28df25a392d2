//! `dig`, and what it understood of an answer: the oracle for what goes over the wire.

use crate::Battery;
use anyhow::{Context as _, Result, bail, ensure};
use std::net::IpAddr;

/// How to ask.
#[derive(Debug, Clone, Copy)]
pub struct Dig<'a> {
    /// Where.
    pub from: &'a str,
    /// Whom.
    pub server: IpAddr,
    /// By TCP.
    pub tcp: bool,
    /// Seconds for each question, which is asked once.
    pub patience: u32,
}

/// An answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// `NOERROR`, `NXDOMAIN`; `TIMEOUT` when there was none, `NO TRANSFER` when a zone was not given away.
    pub rcode: String,
    /// `qr`, `aa`, `tc`.
    pub flags: Vec<String>,
    /// Name and type of the question, as it came back.
    pub question: String,
    /// Section, owner, type and data of each record.
    pub records: Vec<String>,
    /// The TTL of each record.
    pub ttls: Vec<u32>,
}

impl Reply {
    /// Whether the server speaks of its own.
    #[must_use]
    pub fn authoritative(&self) -> bool {
        self.flags.iter().any(|flag| flag == "aa")
    }

    /// The data of the answers of a type.
    #[must_use]
    pub fn data(&self, kind: &str) -> Vec<&str> {
        let parts = self.records.iter().map(|record| record.splitn(4, ' ').collect::<Vec<_>>());
        let wanted = parts.filter_map(|parts| match parts[..] {
            ["answer", _, of, data] if of == kind => Some(data),
            _ => None,
        });
        wanted.collect()
    }
}

impl<'a> Dig<'a> {
    /// By UDP.
    #[must_use]
    pub fn new(from: &'a str, server: IpAddr) -> Self {
        Self { from, server, tcp: false, patience: 2 }
    }

    /// One question.
    ///
    /// # Errors
    /// When dig could not be run.
    pub fn ask(&self, b: &Battery, name: &str, kind: &str) -> Result<Reply> {
        self.ask_all(b, &[(name, kind)])?.pop().context("dig says nothing")
    }

    /// Names and types, one after the other.
    ///
    /// # Errors
    /// When dig could not be run, or cannot be understood.
    pub fn ask_all(&self, b: &Battery, questions: &[(&str, &str)]) -> Result<Vec<Reply>> {
        let file = tempfile::NamedTempFile::new()?;
        let lines: Vec<String> = questions.iter().map(|(name, kind)| format!("{name} {kind}\n")).collect();
        std::fs::write(file.path(), lines.concat())?;
        let (at, patience) = (format!("@{}", self.server), format!("+time={}", self.patience));
        let path = file.path().to_string_lossy();
        let by = if self.tcp { "+tcp" } else { "+notcp" };
        let words = ["dig", &at, by, &patience, "+tries=1", "+nocmd", "+nostats", "+nosearch", "-f", &path];
        // Its status is that of the last question.
        let out = b.lab().try_exec(self.from, &words)?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let replies = parse(&text)?;
        ensure!(
            replies.len() == questions.len(),
            "{} questions, {} answers: {text}{}",
            questions.len(),
            replies.len(),
            String::from_utf8_lossy(&out.stderr)
        );
        for (reply, (name, kind)) in replies.iter().zip(questions) {
            let asked = format!("{}. {kind}", name.trim_end_matches('.'));
            let echoed = reply.question.is_empty() || reply.question == asked;
            ensure!(echoed, "asked for {asked:?}, answered for {:?}", reply.question);
        }
        Ok(replies)
    }
}

fn parse(text: &str) -> Result<Vec<Reply>> {
    let (mut replies, mut section) = (Vec::<Reply>::new(), "");
    for line in text.lines() {
        let alone = |rcode: &str| Reply { rcode: rcode.into(), ..Reply::default() };
        if let Some((_, rest)) = line.split_once("->>HEADER<<-") {
            let rcode = rest.split("status: ").nth(1).and_then(|r| r.split(',').next());
            replies.push(alone(rcode.context("no status")?));
            section = "";
            continue;
        }
        if line.contains("Transfer failed") {
            replies.push(alone("NO TRANSFER"));
        } else if line.contains("no servers could be reached") {
            replies.push(alone("TIMEOUT"));
        }
        let Some(reply) = replies.last_mut() else { continue };
        match line {
            ";; QUESTION SECTION:" => section = "question",
            ";; ANSWER SECTION:" => section = "answer",
            ";; AUTHORITY SECTION:" => section = "authority",
            ";; ADDITIONAL SECTION:" => section = "additional",
            _ if line.starts_with(";; flags:") => {
                let flags = line.trim_start_matches(";; flags:").split(';').next().unwrap_or_default();
                reply.flags = flags.split_whitespace().map(str::to_owned).collect();
            }
            _ if section == "question" && line.starts_with(';') => {
                let mut words = line.trim_start_matches(';').split_whitespace();
                let parts = (words.next(), words.next(), words.next());
                let (Some(name), Some(_), Some(kind)) = parts else { bail!("a question {line:?}") };
                reply.question = format!("{name} {kind}");
            }
            "" => section = "",
            _ if section.is_empty() || line.starts_with(';') => {}
            _ => {
                let words: Vec<&str> = line.split_whitespace().collect();
                let [owner, ttl, "IN", kind, data @ ..] = &words[..] else { bail!("a record {line:?}") };
                reply.ttls.push(ttl.parse().with_context(|| line.to_owned())?);
                reply.records.push(format!("{section} {owner} {kind} {}", data.join(" ")));
            }
        }
    }
    Ok(replies)
}
