//! Changes that the kernel makes at once, or not at all.

use super::model::{Chain, Counted, Counts, Element, Rule, Ruleset, Set};
use super::ruleset::TableFamily;
use super::wire::{Writer, message};

const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;
const APPEND: u16 = 0x800;
/// Bytes of elements in one message; its list has a 16-bit length.
const ELEMENT_BYTES: usize = 32 * 1024;
const OBJECT_COUNTER: u32 = 1;

/// One message of a batch.
pub(super) struct Operation {
    pub(super) message: u8,
    pub(super) flags: u16,
    pub(super) attributes: Vec<u8>,
    /// Whether every attribute fits its length.
    pub(super) fits: bool,
    /// What it is about, for people.
    pub(super) object: String,
}

/// Operations on one table, in order.
pub(crate) struct Batch {
    family: TableFamily,
    table: &'static str,
    operations: Vec<Operation>,
}

impl Batch {
    /// On a table of the family `inet`.
    pub(super) fn new(table: &'static str) -> Self {
        Self::of(TableFamily::Inet, table)
    }

    pub(super) fn of(family: TableFamily, table: &'static str) -> Self {
        Self { family, table, operations: Vec::new() }
    }

    pub(super) fn family(&self) -> TableFamily {
        self.family
    }

    pub(super) fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.operations.len()
    }

    pub(super) fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.operations.iter()
    }

    /// The operation's object.
    pub(super) fn describe(&self, index: usize) -> Option<&str> {
        Some(&self.operations.get(index)?.object)
    }

    fn push(&mut self, message: u8, flags: u16, object: String, fill: impl FnOnce(&mut Writer)) {
        let mut attributes = Writer::default();
        fill(&mut attributes);
        let (attributes, fits) = attributes.finish();
        self.operations.push(Operation { message, flags, attributes, fits, object });
    }

    pub(super) fn delete_table(&mut self) {
        let table = self.table;
        self.push(message::DEL_TABLE, 0, "table".into(), |w| w.text(1, table));
    }

    /// Adds the table, or wakes it up.
    pub(super) fn add_table(&mut self) {
        let table = self.table;
        self.push(message::NEW_TABLE, CREATE, "table".into(), |w| {
            w.text(1, table);
            w.u32(2, 0);
        });
    }

    pub(super) fn add_counter(&mut self, name: &str) {
        let table = self.table;
        self.push(message::NEW_OBJECT, CREATE | EXCLUSIVE, format!("counter {name}"), |w| {
            w.text(1, table);
            w.text(2, name);
            w.u32(3, OBJECT_COUNTER);
            w.nest(4, |w| Counted::default().encode(w));
        });
    }

    pub(super) fn add_set(&mut self, name: &str, set: &Set) {
        let (table, id) = (self.table, u32::try_from(self.operations.len() + 1).unwrap_or(u32::MAX));
        self.push(message::NEW_SET, CREATE | EXCLUSIVE, format!("set {name}"), |w| {
            set.encode(table, name, id, w);
        });
    }

    /// Adds elements; those that are there already are left alone.
    pub(super) fn add_elements<'a>(&mut self, set: &str, elements: impl IntoIterator<Item = &'a Element>) {
        self.add_counting_elements(set, elements, &Counts::new());
    }

    /// As [`Batch::add_elements`]; elements with these keys go on from what they counted.
    pub(super) fn add_counting_elements<'a>(
        &mut self,
        set: &str,
        elements: impl IntoIterator<Item = &'a Element>,
        counts: &Counts,
    ) {
        self.change_elements((message::NEW_ELEMENTS, CREATE), set, elements, counts);
    }

    fn change_elements<'a>(
        &mut self,
        (message, flags): (u8, u16),
        set: &str,
        elements: impl IntoIterator<Item = &'a Element>,
        counts: &Counts,
    ) {
        let mut elements = elements.into_iter().peekable();
        while elements.peek().is_some() {
            let table = self.table;
            self.push(message, flags, format!("elements of set {set}"), |w| {
                w.text(1, table);
                w.text(2, set);
                w.nest(3, |w| {
                    let start = w.len();
                    while let Some(element) = elements.next_if(|_| w.len() - start < ELEMENT_BYTES) {
                        element.encode(counts.get(&element.key).copied(), w);
                    }
                });
            });
        }
    }

    /// Deletes one element, which must be there.
    pub(super) fn delete_element(&mut self, set: &str, element: &Element) {
        self.delete_elements(set, [element]);
    }

    /// Deletes elements, which must be there.
    pub(super) fn delete_elements<'a>(&mut self, set: &str, elements: impl IntoIterator<Item = &'a Element>) {
        self.change_elements((message::DEL_ELEMENTS, 0), set, elements, &Counts::new());
    }

    /// Deletes all elements.
    pub(super) fn flush_set(&mut self, set: &str) {
        let table = self.table;
        self.push(message::DEL_ELEMENTS, 0, format!("set {set}"), |w| {
            w.text(1, table);
            w.text(2, set);
        });
    }

    pub(super) fn add_chain(&mut self, name: &str, chain: &Chain) {
        let table = self.table;
        self.push(message::NEW_CHAIN, CREATE | EXCLUSIVE, format!("chain {name}"), |w| {
            chain.encode(table, name, w);
        });
    }

    /// Deletes a set, which nothing may refer to.
    pub(super) fn delete_set(&mut self, name: &str) {
        let table = self.table;
        self.push(message::DEL_SET, 0, format!("set {name}"), |w| {
            w.text(1, table);
            w.text(2, name);
        });
    }

    /// Deletes a counter, which nothing may refer to.
    pub(super) fn delete_counter(&mut self, name: &str) {
        let table = self.table;
        self.push(message::DEL_OBJECT, 0, format!("counter {name}"), |w| {
            w.text(1, table);
            w.text(2, name);
            w.u32(3, OBJECT_COUNTER);
        });
    }

    /// Deletes a chain, which nothing may refer to.
    pub(super) fn delete_chain(&mut self, name: &str) {
        let table = self.table;
        self.push(message::DEL_CHAIN, 0, format!("chain {name}"), |w| {
            w.text(1, table);
            w.text(3, name);
        });
    }

    /// Adds a chain that is reached from others, unless it is there.
    pub(super) fn ensure_chain(&mut self, name: &str) {
        let table = self.table;
        self.push(message::NEW_CHAIN, CREATE, format!("chain {name}"), |w| {
            Chain::default().encode(table, name, w);
        });
    }

    /// Deletes all rules of a chain.
    pub(super) fn flush_chain(&mut self, name: &str) {
        let table = self.table;
        self.push(message::DEL_RULE, 0, format!("chain {name}"), |w| {
            w.text(1, table);
            w.text(2, name);
        });
    }

    /// Adds rules at the end of a chain.
    pub(super) fn add_rules(&mut self, chain: &str, rules: &[Rule]) {
        let table = self.table;
        for (index, rule) in rules.iter().enumerate() {
            let object = format!("rule {} of chain {chain}", index + 1);
            self.push(message::NEW_RULE, CREATE | APPEND, object, |w| rule.encode(table, chain, w));
        }
    }

    /// Adds everything to the table. What is referred to comes before what refers to it.
    pub(super) fn add_ruleset(&mut self, ruleset: &Ruleset) {
        for counter in &ruleset.counters {
            self.add_counter(counter);
        }
        for (name, set) in &ruleset.sets {
            self.add_set(name, set);
        }
        for (name, chain) in &ruleset.chains {
            self.add_chain(name, chain);
        }
        for (set, elements) in &ruleset.elements {
            self.add_elements(set, elements);
        }
        for (chain, rules) in &ruleset.rules {
            self.add_rules(chain, rules);
        }
    }
}
