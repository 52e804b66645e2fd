//! How many builds of one command are on which node.

use std::cell::RefCell;
use std::collections::BTreeMap;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// The builds on each node.
#[derive(Debug, Default)]
pub struct Slots {
    taken: RefCell<BTreeMap<String, Taken>>,
    freed: Notify,
}

/// What builds have of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    pub builds: u32,
    /// Bytes of memory.
    pub memory: u64,
}

/// One build's place on a node, until it is dropped.
#[derive(Debug)]
pub struct Slot<'s> {
    slots: &'s Slots,
    node: String,
    memory: u64,
}

impl Slots {
    /// What builds have of a node.
    pub fn of(&self, node: &str) -> Taken {
        self.taken.borrow().get(node).copied().unwrap_or_default()
    }

    /// Takes a place on a node.
    pub fn take(&self, node: &str, memory: u64) -> Slot<'_> {
        let mut taken = self.taken.borrow_mut();
        let here = taken.entry(node.to_owned()).or_default();
        here.builds += 1;
        here.memory += memory;
        Slot {
            slots: self,
            node: node.to_owned(),
            memory,
        }
    }

    /// Becomes ready when a place is given back after this call.
    pub fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if let Some(here) = self.slots.taken.borrow_mut().get_mut(&self.node) {
            here.builds -= 1;
            here.memory -= self.memory;
        }
        self.slots.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_place_is_free_again_when_it_is_dropped_and_whoever_waits_is_told() {
        let slots = Slots::default();
        let (first, second) = (slots.take("a", 4), slots.take("a", 2));
        let both = Taken {
            builds: 2,
            memory: 6,
        };
        assert_eq!(slots.of("a"), both);
        assert_eq!(slots.of("b"), Taken::default());
        let freed = slots.freed();
        drop(first);
        freed.await;
        let one = Taken {
            builds: 1,
            memory: 2,
        };
        assert_eq!(slots.of("a"), one);
        drop(second);
        assert_eq!(slots.of("a"), Taken::default());
    }
}
