//! Generalisation of the guest, and the audit of the sealed disk.

/// stand-in until the seal branch lands
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    MachineId,
}
impl Item {
    pub const ALL: &[Item] = &[Item::MachineId];
    pub fn name(self) -> &'static str {
        "machine-id"
    }
    pub fn named(name: &str) -> Option<Item> {
        Item::ALL.iter().copied().find(|i| i.name() == name)
    }
}
