//! Tests of the whole store, with a reference model and with failing engines.

mod faults;
mod model;
mod power;
mod watching;

use serde::{Deserialize, Serialize};

use crate::{Record, Store};

/// A row for tests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Item {
    name: String,
    value: u32,
    #[serde(default)]
    text: String,
}

impl Record for Item {
    const TABLE: &'static str = "items";
    fn key(&self) -> String {
        self.name.clone()
    }
}

/// Another table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Other(u32);

impl Record for Other {
    const TABLE: &'static str = "others";
    fn key(&self) -> String {
        self.0.to_string()
    }
}

fn item(name: &str, value: u32) -> Item {
    Item { name: name.into(), value, text: String::new() }
}

fn open(dir: &std::path::Path) -> Store {
    let opened = Store::open(dir).unwrap();
    assert!(opened.set_aside.is_none(), "{:?}", opened.set_aside);
    opened.store
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
