//! The closed list of things that sealing removes and a recipe may keep.

use std::fmt;

use serde::{Serialize, Serializer};

/// One thing that sealing removes unless `[seal] keep` names it.
///
/// What belongs to the build itself (its user, keys, sudo line, files under `/run`, cloud-init's record of the build's
/// instance) is not in this list: it always goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Item {
    MachineId,
    SshHostKeys,
    Hostname,
    CloudInit,
    DhcpLeases,
    UdevNet,
    RandomSeed,
    Logs,
    LoginRecords,
    CrashData,
    ShellHistory,
    MailSpool,
    AtJobs,
    TimerStamps,
    PasswdBackups,
    PackageCache,
    PackageLists,
    Tmp,
    Trim,
}

impl Item {
    /// Every item, in the order in which the guest's script goes through them.
    pub const ALL: &[Item] = &[
        Item::MachineId,
        Item::SshHostKeys,
        Item::Hostname,
        Item::CloudInit,
        Item::DhcpLeases,
        Item::UdevNet,
        Item::RandomSeed,
        Item::Logs,
        Item::LoginRecords,
        Item::CrashData,
        Item::ShellHistory,
        Item::MailSpool,
        Item::AtJobs,
        Item::TimerStamps,
        Item::PasswdBackups,
        Item::PackageCache,
        Item::PackageLists,
        Item::Tmp,
        Item::Trim,
    ];

    /// The name as `[seal] keep` and every output spell it.
    pub fn name(self) -> &'static str {
        match self {
            Item::MachineId => "machine-id",
            Item::SshHostKeys => "ssh-host-keys",
            Item::Hostname => "hostname",
            Item::CloudInit => "cloud-init",
            Item::DhcpLeases => "dhcp-leases",
            Item::UdevNet => "udev-net",
            Item::RandomSeed => "random-seed",
            Item::Logs => "logs",
            Item::LoginRecords => "login-records",
            Item::CrashData => "crash-data",
            Item::ShellHistory => "shell-history",
            Item::MailSpool => "mail-spool",
            Item::AtJobs => "at-jobs",
            Item::TimerStamps => "timer-stamps",
            Item::PasswdBackups => "passwd-backups",
            Item::PackageCache => "package-cache",
            Item::PackageLists => "package-lists",
            Item::Tmp => "tmp",
            Item::Trim => "trim",
        }
    }

    /// What sealing does about it, in one line.
    pub fn description(self) -> &'static str {
        match self {
            Item::MachineId => {
                "empties /etc/machine-id, so that each clone gets its own at first boot"
            }
            Item::SshHostKeys => "removes the SSH server's host keys; each clone makes its own",
            Item::Hostname => "sets the host name back to localhost",
            Item::CloudInit => {
                "removes what cloud-init rendered for the build: network configuration, sshd snippet, seed"
            }
            Item::DhcpLeases => "removes leases and identifiers of DHCP clients",
            Item::UdevNet => {
                "removes udev's rules that bind interface names to the build's network card"
            }
            Item::RandomSeed => "removes saved random seeds and systemd's credential secret",
            Item::Logs => {
                "deletes the journal, rotated logs and cloud-init's, empties other files under /var/log"
            }
            Item::LoginRecords => "removes wtmp, btmp, lastlog and their successors",
            Item::CrashData => "removes core dumps, crash reports and saved kernel logs",
            Item::ShellHistory => {
                "removes histories of shells, editors and clients from root's and users' homes"
            }
            Item::MailSpool => "removes delivered mail",
            Item::AtJobs => "removes queued one-time jobs (crontabs stay)",
            Item::TimerStamps => "removes the times at which systemd's timers last fired",
            Item::PasswdBackups => "removes the backups of passwd, shadow, group and their kin",
            Item::PackageCache => "removes downloaded packages (apt, dnf, zypper, pacman, apk)",
            Item::PackageLists => "removes apt's package lists",
            Item::Tmp => "empties /tmp and /var/tmp",
            Item::Trim => "hands free blocks back to the disk (fstrim)",
        }
    }

    /// The item of this name.
    pub fn parse(name: &str) -> Option<Item> {
        Item::ALL.iter().copied().find(|item| item.name() == name)
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Item {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kebab_case_unique_and_parse_back() {
        for (at, item) in Item::ALL.iter().enumerate() {
            let name = item.name();
            assert!(
                name.chars().all(|c| c == '-' || c.is_ascii_lowercase()),
                "{name}"
            );
            assert_eq!(Item::parse(name), Some(*item));
            assert!(!Item::ALL[..at].contains(item));
            assert!(!item.description().contains('\n') && !item.description().ends_with('.'));
        }
        assert_eq!(Item::parse("builder"), None);
    }
}
