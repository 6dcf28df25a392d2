//! Reading a table back from the kernel: that table only, whatever else is in the ruleset.

use super::model::{Chain, Counted, Counts, Element, Rule, Ruleset, Set};
use super::socket::{Connection, Failure};
use super::wire::{self, Writer, message};
use std::collections::{BTreeMap, BTreeSet};

const OBJECT_COUNTER: u32 = 1;
/// So many elements are asked for one by one; for more, the set is listed.
const ONE_BY_ONE: usize = 64;

/// The number of the ruleset's state; every commit in the namespace moves it on.
pub(super) fn generation(connection: &mut Connection) -> Result<u32, Failure> {
    let answer = connection.get(message::GET_GENERATION, Writer::default())?;
    wire::find_u32(&answer, 1).ok_or_else(|| Failure::Broken("a generation without a number".into()))
}

/// Whether the table exists.
pub(super) fn table_exists(connection: &mut Connection, table: &str) -> Result<bool, Failure> {
    Ok(table_flags(connection, table)?.is_some())
}

/// What `mine` picks of the table, as of one generation; `None` when there is no such table. Reads the elements of the
/// sets that `with_elements` picks. [`Failure::Stale`] when changes come into it.
pub(super) fn observe(
    connection: &mut Connection,
    table: &str,
    mine: impl Fn(&str) -> bool,
    with_elements: impl Fn(&str) -> bool,
) -> Result<(u32, Option<Ruleset>), Failure> {
    let before = generation(connection)?;
    match read(connection, table, &mine, &with_elements) {
        Ok(ruleset) if generation(connection)? == before => Ok((before, ruleset)),
        Ok(_) => Err(Failure::Stale),
        // Whatever it was, it is gone: a change.
        Err(failure) if failure.is_not_found() && generation(connection)? != before => Err(Failure::Stale),
        Err(failure) => Err(failure),
    }
}

/// The elements of a set. Fails with "not found" when there is no such set.
pub(super) fn elements(
    connection: &mut Connection,
    table: &str,
    set: &str,
) -> Result<BTreeSet<Element>, Failure> {
    counted_elements(connection, table, set).map(|found| found.into_keys().collect())
}

/// The elements of a set, each with what it counted.
pub(super) fn counted_elements(
    connection: &mut Connection,
    table: &str,
    set: &str,
) -> Result<BTreeMap<Element, Counted>, Failure> {
    let mut request = Writer::default();
    request.text(1, table);
    request.text(2, set);
    let mut found = BTreeMap::new();
    connection.dump(message::GET_ELEMENTS, request, |attributes| {
        found.extend(Element::decode(attributes));
    })?;
    Ok(found)
}

/// What elements of a set with these keys have counted; a key that is not there is left out. Few are asked for one by one.
pub(super) fn counts(
    connection: &mut Connection,
    table: &str,
    set: &str,
    keys: &BTreeSet<Vec<u8>>,
) -> Result<Counts, Failure> {
    if keys.len() > ONE_BY_ONE {
        let all = counted_elements(connection, table, set)?.into_iter();
        return Ok(all.map(|(e, counted)| (e.key, counted)).filter(|(key, _)| keys.contains(key)).collect());
    }
    let mut found = Counts::new();
    for key in keys {
        let mut request = Writer::default();
        request.text(1, table);
        request.text(2, set);
        request.nest(3, |w| Element::exact(key.clone()).encode(None, w));
        match connection.get(message::GET_ELEMENTS, request) {
            Ok(answer) => found.extend(Element::decode(&answer).map(|(e, counted)| (e.key, counted))),
            Err(failure) if failure.is_not_found() => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(found)
}

/// The counters of the table by name.
pub(super) fn counters(
    connection: &mut Connection,
    table: &str,
) -> Result<BTreeMap<String, Counted>, Failure> {
    let mut request = Writer::default();
    request.text(1, table);
    request.u32(3, OBJECT_COUNTER);
    let mut found = BTreeMap::new();
    connection.dump(message::GET_OBJECT, request, |attributes| {
        if !belongs(attributes, table) || wire::find_u32(attributes, 3) != Some(OBJECT_COUNTER) {
            return;
        }
        let Some(name) = wire::find_text(attributes, 2) else { return };
        found.insert(name, wire::find(attributes, 4).map(Counted::decode).unwrap_or_default());
    })?;
    Ok(found)
}

fn read(
    connection: &mut Connection,
    table: &str,
    mine: &impl Fn(&str) -> bool,
    with_elements: &impl Fn(&str) -> bool,
) -> Result<Option<Ruleset>, Failure> {
    let Some(flags) = table_flags(connection, table)? else { return Ok(None) };
    let mut ruleset = Ruleset { flags, ..Ruleset::default() };
    let of_table = || {
        let mut request = Writer::default();
        request.text(1, table);
        request
    };
    ruleset.counters = counters(connection, table)?.into_keys().filter(|name| mine(name)).collect();
    connection.dump(message::GET_SET, of_table(), |attributes| {
        if belongs(attributes, table) {
            ruleset.sets.extend(Set::decode(attributes).filter(|(name, _)| mine(name)));
        }
    })?;
    for name in ruleset.sets.keys().filter(|name| with_elements(name)) {
        ruleset.elements.insert(name.clone(), elements(connection, table, name)?);
    }
    connection.dump(message::GET_CHAIN, of_table(), |attributes| {
        if !belongs(attributes, table) {
            return;
        }
        let unknown = || Some((wire::find_text(attributes, 3)?, unknown_chain()));
        ruleset.chains.extend(Chain::decode(attributes).or_else(unknown).filter(|(name, _)| mine(name)));
    })?;
    ruleset.rules = ruleset.chains.keys().map(|chain| (chain.clone(), Vec::new())).collect();
    connection.dump(message::GET_RULE, of_table(), |attributes| {
        if belongs(attributes, table)
            && let Some((chain, rule)) = Rule::decode(attributes)
            && mine(&chain)
        {
            ruleset.rules.entry(chain).or_default().push(rule);
        }
    })?;
    Ok(Some(ruleset))
}

/// Stands for a chain that the model cannot say: equals none that Warren wants.
fn unknown_chain() -> Chain {
    Chain { base: Some(super::model::Base { kind: String::new(), hook: 0, priority: 0, policy: 0 }) }
}

fn table_flags(connection: &mut Connection, table: &str) -> Result<Option<u32>, Failure> {
    let mut request = Writer::default();
    request.text(1, table);
    match connection.get(message::GET_TABLE, request) {
        Ok(attributes) => Ok(Some(wire::find_u32(&attributes, 2).unwrap_or(0))),
        Err(failure) if failure.is_not_found() => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Whether an object is of this table. Kernels differ in what they filter a dump by.
fn belongs(attributes: &[u8], table: &str) -> bool {
    wire::find(attributes, 1).is_some_and(|name| wire::as_text(name) == table)
}
