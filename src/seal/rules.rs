//! What must not be in a sealed image, as path patterns: the script that seals and the audit that checks are both made
//! from this one table, so that neither promises what the other does not do.
//!
//! A pattern is an absolute path in which `*` stands for any run of characters within one name and, as in a shell,
//! does not match a leading dot.

use super::item::Item;

/// The rules of one item that need nothing but patterns.
pub(super) struct Paths {
    /// Nothing may match these.
    pub gone: &'static [&'static str],
    /// These directories may exist, with nothing in them.
    pub emptied: &'static [&'static str],
}

/// Names under each home directory that hold histories.
const HISTORIES: &[&str] = &[
    "/root/.*_history",
    "/home/*/.*_history",
    "/root/.lesshst",
    "/home/*/.lesshst",
    "/root/.viminfo",
    "/home/*/.viminfo",
    "/root/.wget-hsts",
    "/home/*/.wget-hsts",
    "/root/.local/share/fish/fish_history",
    "/home/*/.local/share/fish/fish_history",
    "/root/.local/share/nano/search_history",
    "/home/*/.local/share/nano/search_history",
];

/// The patterns of an item.
pub(super) fn paths(item: Item) -> Paths {
    let (gone, emptied): (&[&str], &[&str]) = match item {
        Item::SshHostKeys => (
            &["/etc/ssh/ssh_host_*", "/etc/dropbear/dropbear_*_host_key"],
            &[],
        ),
        Item::CloudInit => (
            &[
                "/etc/ssh/sshd_config.d/50-cloud-init.conf",
                "/etc/netplan/50-cloud-init.yaml",
                "/etc/network/interfaces.d/50-cloud-init",
                "/etc/network/interfaces.d/50-cloud-init.cfg",
                "/etc/systemd/network/10-cloud-init-*",
                "/etc/NetworkManager/system-connections/cloud-init-*",
                "/etc/NetworkManager/conf.d/99-cloud-init.conf",
                "/etc/NetworkManager/conf.d/30-cloud-init-ip6-addr-gen-mode.conf",
                "/var/lib/cloud/seed",
            ],
            &[],
        ),
        Item::DhcpLeases => (
            &[
                "/var/lib/dhcp/*.lease*",
                "/var/lib/dhclient/*.lease*",
                "/var/lib/dhcpcd/*",
                "/var/lib/NetworkManager/*.lease",
                "/var/lib/NetworkManager/secret_key",
                "/etc/dhcpcd.duid",
            ],
            &[],
        ),
        Item::UdevNet => (&["/etc/udev/rules.d/70-persistent-net.rules"], &[]),
        Item::RandomSeed => (
            &[
                "/var/lib/systemd/random-seed",
                "/var/lib/systemd/credential.secret",
                "/var/lib/urandom/random-seed",
                "/var/lib/random-seed",
                "/var/lib/seedrng/*",
            ],
            &[],
        ),
        Item::Logs => (&["/var/log/cloud-init*"], &["/var/log/journal"]),
        Item::LoginRecords => (
            &[
                "/var/log/wtmp*",
                "/var/log/btmp*",
                "/var/log/lastlog*",
                "/var/lib/wtmpdb/*",
                "/var/lib/lastlog/*",
            ],
            &[],
        ),
        Item::CrashData => (
            &[],
            &[
                "/var/crash",
                "/var/lib/systemd/coredump",
                "/var/lib/systemd/pstore",
            ],
        ),
        Item::ShellHistory => (HISTORIES, &[]),
        Item::MailSpool => (&["/var/mail/*"], &["/var/spool/mail"]),
        Item::AtJobs => (
            &["/var/spool/cron/atjobs/a*", "/var/spool/at/a*"],
            &["/var/spool/cron/atspool"],
        ),
        Item::TimerStamps => (&["/var/lib/systemd/timers/stamp-*"], &[]),
        Item::PasswdBackups => (
            &[
                "/etc/passwd-",
                "/etc/shadow-",
                "/etc/group-",
                "/etc/gshadow-",
                "/etc/subuid-",
                "/etc/subgid-",
                // Debian's daily copies.
                "/var/backups/passwd.bak",
                "/var/backups/shadow.bak",
                "/var/backups/group.bak",
                "/var/backups/gshadow.bak",
                "/var/backups/subuid.bak",
                "/var/backups/subgid.bak",
            ],
            &[],
        ),
        Item::PackageCache => (
            &[
                "/var/cache/apt/*.bin",
                "/var/cache/apt/archives/*.deb",
                "/var/cache/apt/archives/partial/*",
                "/var/cache/zypp/packages/*",
                "/var/cache/pacman/pkg/*",
            ],
            &[
                "/var/cache/dnf",
                "/var/cache/yum",
                "/var/cache/libdnf5",
                "/var/cache/apk",
            ],
        ),
        Item::PackageLists => (&[], &["/var/lib/apt/lists"]),
        Item::Tmp => (&[], &["/tmp", "/var/tmp"]),
        Item::MachineId | Item::Hostname | Item::Trim => (&[], &[]),
    };
    Paths { gone, emptied }
}

/// What the build's own instance leaves, whatever a recipe keeps: cloud-init's record of it holds the build's
/// host key, and would make a clone look as if it had been set up already. Scripts that a recipe put under
/// `/var/lib/cloud/scripts` are not in here.
pub(super) const BUILD: &[&str] = &[
    "/run/imgbuild",
    "/var/lib/cloud/instance",
    "/var/lib/cloud/instances",
    "/var/lib/cloud/data",
    "/var/lib/cloud/sem",
];

/// What is named after the build's user, apart from its home; `@` stands for the name.
pub(super) const OF_BUILDER: &[&str] = &[
    "/home/@",
    "/var/mail/@",
    "/var/spool/mail/@",
    "/var/spool/cron/crontabs/@",
    "/var/spool/cron/@",
    "/var/lib/systemd/linger/@",
    "/var/lib/sudo/lectured/@",
    "/var/lib/sudo/ts/@",
    "/var/lib/AccountsService/users/@",
];

/// The account files, in the order in which they are edited.
pub(super) const ACCOUNTS: &[&str] = &["passwd", "shadow", "subuid", "subgid"];

/// The account files whose lines also list members.
pub(super) const GROUPS: &[&str] = &["group", "gshadow"];

/// Names under `/var/log` that belong to [`Item::LoginRecords`], not to [`Item::Logs`].
pub(super) const LOGIN_RECORDS: &[&str] = &["wtmp", "btmp", "lastlog"];
