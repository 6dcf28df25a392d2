//! Paths as a tree of elements: the cost of a look-up is the length of the path, however many routes there are.

use std::borrow::Cow;
use std::collections::HashMap;

/// The elements of a path: what stands between slashes, percent-decoded, without the empty ones.
pub fn elements(path: &[u8]) -> impl Iterator<Item = Cow<'_, [u8]>> {
    path.split(|byte| *byte == b'/').filter(|element| !element.is_empty()).map(decode)
}

/// An element without its percent-encoding. What is no encoding stays as it is.
fn decode(element: &[u8]) -> Cow<'_, [u8]> {
    if !element.contains(&b'%') {
        return Cow::Borrowed(element);
    }
    let digit = |at: usize| element.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(element.len());
    let mut at = 0;
    while let Some(byte) = element.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                decoded.push(*byte);
                at += 1;
            }
        }
    }
    Cow::Owned(decoded)
}

/// Values by path.
#[derive(Debug)]
pub(super) struct Tree<T> {
    /// The first is the root.
    nodes: Vec<Node<T>>,
}

#[derive(Debug)]
struct Node<T> {
    children: HashMap<Box<[u8]>, usize>,
    parent: usize,
    depth: usize,
    /// For exactly this path, and whether it ends with a slash.
    exact: Vec<(bool, T)>,
    /// For this path and those below.
    prefix: Vec<T>,
}

impl<T> Node<T> {
    fn new(parent: usize, depth: usize) -> Self {
        Self { children: HashMap::new(), parent, depth, exact: Vec::new(), prefix: Vec::new() }
    }
}

impl<T> Default for Tree<T> {
    fn default() -> Self {
        Self { nodes: vec![Node::new(0, 0)] }
    }
}

impl<T> Tree<T> {
    pub(super) fn insert_exact(&mut self, path: &[u8], value: T) {
        let node = self.place(path);
        self.nodes[node].exact.push((path.ends_with(b"/"), value));
    }

    pub(super) fn insert_prefix(&mut self, path: &[u8], value: T) {
        let node = self.place(path);
        self.nodes[node].prefix.push(value);
    }

    /// Puts values of one place in order; those of one rank stay as they came.
    pub(super) fn sort_by_key<K: Ord>(&mut self, key: impl Fn(&T) -> K) {
        for node in &mut self.nodes {
            node.exact.sort_by_key(|(_, value)| key(value));
            node.prefix.sort_by_key(&key);
        }
    }

    fn place(&mut self, path: &[u8]) -> usize {
        let mut at = 0;
        for element in elements(path) {
            at = match self.nodes[at].children.get(&*element) {
                Some(child) => *child,
                None => {
                    let child = self.nodes.len();
                    self.nodes.push(Node::new(at, self.nodes[at].depth + 1));
                    self.nodes[at].children.insert(element.into(), child);
                    child
                }
            };
        }
        at
    }

    /// The first value for a path that is accepted, and how many elements of the path it spoke for: values for exactly the
    /// path, then prefixes, the longest first.
    pub(super) fn find(&self, path: &[u8], accept: impl Fn(&T) -> bool) -> Option<(&T, usize)> {
        let mut at = 0;
        let mut whole = true;
        for element in elements(path) {
            match self.nodes[at].children.get(&*element) {
                Some(child) => at = *child,
                None => {
                    whole = false;
                    break;
                }
            }
        }
        if whole {
            let slash = path.ends_with(b"/");
            let node = &self.nodes[at];
            let exact = node.exact.iter().find(|(ends, value)| *ends == slash && accept(value));
            if let Some((_, value)) = exact {
                return Some((value, node.depth));
            }
        }
        loop {
            let node = &self.nodes[at];
            if let Some(value) = node.prefix.iter().find(|value| accept(value)) {
                return Some((value, node.depth));
            }
            if at == 0 {
                return None;
            }
            at = node.parent;
        }
    }
}
