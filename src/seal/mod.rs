//! Generalisation of the guest, and the audit of the sealed disk.
