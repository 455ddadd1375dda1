//! A task's place in the network: addresses of its node's subnet and a row of the backend table.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use crate::{
    ipam::{addresses, numbers},
    model::{Attachment, Node, NodeId, NodeSubnet, Task},
    store::View,
};

/// What is in use. What an ended task had is free, but taken last, as long as its record lives.
pub(super) struct Attachments {
    generation: u32,
    rows: Pool<u32>,
    addresses: BTreeMap<NodeId, Pool<Ipv4Addr>>,
}

struct Pool<T> {
    used: BTreeSet<T>,
    remembered: BTreeSet<T>,
    /// The last one given out and its generation: the search goes on there.
    last: Option<(u32, T)>,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self { used: BTreeSet::new(), remembered: BTreeSet::new(), last: None }
    }
}

impl<T: Ord + Copy> Pool<T> {
    fn note(&mut self, value: T, generation: u32, ended: bool) {
        let set = if ended { &mut self.remembered } else { &mut self.used };
        set.insert(value);
        if self.last.is_none_or(|l| l < (generation, value)) {
            self.last = Some((generation, value));
        }
    }

    /// Prefers what nobody remembers.
    fn take(
        &mut self,
        generation: u32,
        next: impl Fn(Option<T>, &dyn Fn(T) -> bool) -> Option<T>,
    ) -> Option<T> {
        let last = self.last.map(|(_, l)| l);
        let found = next(last, &|v| self.used.contains(&v) || self.remembered.contains(&v))
            .or_else(|| next(last, &|v| self.used.contains(&v)))?;
        self.used.insert(found);
        self.last = Some((generation, found));
        Some(found)
    }
}

impl Attachments {
    /// What the tasks of `view` have. Attachments made from here on have a generation of their
    /// own: the store's next version, which no earlier one had.
    pub(super) fn of(view: &View) -> Self {
        // The store's version passes 2^32 after decades; 0 means "none" in the datapath.
        let generation = u32::try_from((view.version() + 1) % (1 << 32)).unwrap_or(1).max(1);
        let mut this = Self { generation, rows: Pool::default(), addresses: BTreeMap::new() };
        for (task, node, a) in view.tasks().filter_map(|t: &Task| Some((t, t.node?, t.attachment?))) {
            let ended = task.status.state.is_final();
            this.rows.note(a.backend, a.generation, ended);
            this.addresses.entry(node).or_default().note(a.address, a.generation, ended);
        }
        this
    }

    /// Whether the node has an address left.
    pub(super) fn has_room(&self, node: &Node) -> bool {
        let used = self.addresses.get(&node.id).map_or(0, |p| p.used.len());
        node.subnet.is_some_and(|s| used < addresses::capacity(s.v4) as usize)
    }

    /// A place on the node; `None` when addresses or rows are used up.
    pub(super) fn take(&mut self, node: &Node) -> Option<Attachment> {
        let NodeSubnet { v4, v6 } = node.subnet?;
        let pool = self.addresses.entry(node.id).or_default();
        let address = pool.take(self.generation, |last, used| addresses::next(v4, last, used))?;
        let address6 = addresses::twin(v4, v6, address)?;
        let backend =
            self.rows.take(self.generation, |last, used| numbers::next(numbers::DATAPATH, last, used))?;
        Some(Attachment { address, address6, backend, generation: self.generation })
    }
}
