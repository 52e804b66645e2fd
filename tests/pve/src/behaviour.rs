//! What is known of Proxmox's behaviour, and so of this server's.

/// One behaviour. A test of the same name shows it.
pub struct Behaviour {
    /// Also the name of its test.
    pub id: &'static str,
    /// Which part of the API it is about.
    pub area: &'static str,
    /// What was seen.
    pub says: &'static str,
}

/// All of them, observed on Proxmox VE 8.4.
pub const BEHAVIOURS: &[Behaviour] = &[];
