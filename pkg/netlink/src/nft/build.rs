//! The parts that rules of every section are put together from.

use super::expr::{Comparison, Connection, Expr, Meta, Register, Verdict};
use super::model::{Base, POLICY_ACCEPT, Rule};

/// What hangs a chain in a hook, where packets go on at its end.
#[must_use]
pub fn base(kind: &str, hook: u32, priority: i32) -> Option<Base> {
    Some(Base { kind: kind.into(), hook, priority, policy: POLICY_ACCEPT })
}

/// A rule of these parts, in order.
#[must_use]
pub fn rule<const N: usize>(parts: [Vec<Expr>; N]) -> Rule {
    Rule { exprs: parts.into_iter().flatten().collect(), comment: None }
}

impl Rule {
    /// Gives it a word for people who list the table.
    #[must_use]
    pub fn about(mut self, comment: &str) -> Self {
        self.comment = Some(comment.into());
        self
    }
}

/// Ends a rule.
#[must_use]
pub fn go(verdict: Verdict) -> Vec<Expr> {
    vec![Expr::Verdict(verdict)]
}

/// Goes on when a property of the packet is this. Uses the first words.
#[must_use]
pub fn equals(load: Meta, value: Vec<u8>) -> Vec<Expr> {
    vec![
        Expr::Meta { load, into: Register::FIRST },
        Expr::Compare { from: Register::FIRST, is: Comparison::Equal, value },
    ]
}

/// Goes on when the link's name begins so: comparing fewer bytes than a name has, without its NUL, compares a prefix.
#[must_use]
pub fn link_begins(load: Meta, prefix: &str) -> Vec<Expr> {
    equals(load, prefix.as_bytes().to_vec())
}

/// Goes on when this is the link.
#[must_use]
pub fn link_is(load: Meta, name: &str) -> Vec<Expr> {
    equals(load, super::link_key(name))
}

/// Goes on when the state of the packet's connection is one of these, `STATE_*`. Uses the first word.
#[must_use]
pub fn in_state(states: u32) -> Vec<Expr> {
    let mask = states.to_ne_bytes().to_vec();
    let (from, into) = (Register::FIRST, Register::FIRST);
    vec![
        Expr::Connection { load: Connection::State, into },
        Expr::Mask { from, into, mask, toggle: vec![0; 4] },
        Expr::Compare { from, is: Comparison::NotEqual, value: vec![0; 4] },
    ]
}
