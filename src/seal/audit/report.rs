//! What an audit found, as it goes into the build's record.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::seal::Item;

/// The result of an audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The partition with the guest's root file system (`disk` where there is no table); `None` if none could be read.
    pub root: Option<String>,
    /// How many checks were made.
    pub checks: usize,
    /// Files and directories that the guest's file systems have.
    pub files: usize,
    /// What the script promised and the disk does not keep.
    pub findings: Vec<Finding>,
    /// What could not be looked into.
    pub unread: Vec<Unread>,
    /// What was not checked, because the recipe keeps it.
    pub kept: Vec<Item>,
}

impl Report {
    /// Whether everything could be read and nothing was found.
    pub fn is_clean(&self) -> bool {
        self.root.is_some() && self.findings.is_empty() && self.unread.is_empty()
    }
}

/// One violation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The rule that is broken.
    pub item: Subject,
    /// Where: a path in the guest, or a partition.
    pub path: String,
    /// What is wrong there.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.item, self.path, self.what)
    }
}

/// A part of the disk that the audit cannot look into; whether that matters is the caller's decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unread {
    /// `partition 1`, or `disk`.
    pub partition: String,
    /// What lies there, as far as it could be recognised: `xfs`, `LVM`, `swap`, …
    pub kind: String,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Something that a recipe may keep, but this one does not.
    Item(Item),
    /// The build's user, keys and records.
    Builder,
    /// The file system itself.
    FileSystem,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Item(item) => item.fmt(f),
            Subject::Builder => f.write_str("builder"),
            Subject::FileSystem => f.write_str("file-system"),
        }
    }
}

impl Serialize for Subject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
