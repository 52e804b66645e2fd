//! The script that generalises a guest: POSIX sh, for dash and busybox alike, run as root while our SSH session lives.
//!
//! It is one function that is called on the last line, so that a connection cut half-way runs nothing, and no program
//! that it starts can swallow the rest of it from stdin. Programs are few: under emulation each costs 10–20 ms.

use super::Plan;
use super::item::Item;
use super::rules::{ACCOUNTS, BUILD, GROUPS, LOGIN_RECORDS, OF_BUILDER, paths};

/// Units that may write to the disk at any time, with the item whose removal they would undo; all timers as well.
const UNITS: &[(&str, Option<Item>)] = &[
    ("*.timer", None),
    ("apt-daily.service", None),
    ("apt-daily-upgrade.service", None),
    ("unattended-upgrades.service", None),
    // Stopping it saves a seed; once stopped, the shutdown does not save another.
    ("systemd-random-seed.service", Some(Item::RandomSeed)),
    ("syslog.socket", Some(Item::Logs)),
    ("rsyslog.service", Some(Item::Logs)),
    ("syslog-ng.service", Some(Item::Logs)),
    ("wtmpdb-update-boot.service", Some(Item::LoginRecords)),
];

/// The script for this plan. It prints `seal: NAME` before each item and exits with a status other than 0, after
/// `seal: failed: …` on stderr, where something could not be done.
///
/// Run it with `sudo -n sh`, the script on stdin, as the last thing in the guest before ACPI power-off.
pub fn script(plan: &Plan) -> String {
    let kept = |item: &Item| plan.keep.contains(item);
    let units: Vec<&str> = UNITS
        .iter()
        .filter(|(_, item)| !item.as_ref().is_some_and(kept))
        .map(|(unit, _)| *unit)
        .collect();
    let mut body = Body::default();
    body.lines("fail() {\n    echo \"seal: failed: $1\" >&2\n    exit 1\n}");
    body.set("builder", &plan.builder);
    body.set("pattern", &regex_escape(&plan.builder));
    body.set("uid", &plan.builder_uid.to_string());
    body.set("key", &plan.client_key);
    body.set("accounts", &ACCOUNTS.join(" "));
    body.set("groups", &GROUPS.join(" "));
    body.set("units", &units.join(" "));
    body.set("not_logs", &not_logs());
    // `*.timer` is for systemctl to expand, the patterns of `rm` for the shell.
    body.lines("umask 022\nexport LC_ALL=C PATH=\"$PATH:/usr/sbin:/usr/bin:/sbin:/bin\"\ncd / || fail \"entering /\"");
    body.lines(include_str!("script/quiesce.sh"));
    let mut gone = vec![];
    for item in Item::ALL
        .iter()
        .filter(|item| !kept(item) && **item != Item::Trim)
    {
        body.say(item.name());
        body.lines(special(*item));
        let paths = paths(*item);
        gone.extend(paths.gone.iter().map(ToString::to_string));
        for dir in paths.emptied {
            gone.extend(["*", ".[!.]*", "..?*"].map(|names| format!("{dir}/{names}")));
        }
    }
    body.lines("wait");
    body.remove(&gone);
    // The build's user goes last of all that can fail: until then one can still log in and look.
    body.say("builder");
    let quoted = quote(&plan.builder);
    let of_builder = OF_BUILDER.iter().map(|path| path.replace('@', &quoted));
    let gone: Vec<String> = BUILD
        .iter()
        .map(ToString::to_string)
        .chain(of_builder)
        .collect();
    body.remove(&gone);
    body.lines(include_str!("script/builder.sh"));
    if !kept(&Item::Trim) {
        body.say(Item::Trim.name());
        body.lines(include_str!("script/trim.sh"));
    }
    body.lines("sync\necho 'seal: done'");
    body.finish()
}

/// The part of an item that patterns cannot say.
fn special(item: Item) -> &'static str {
    match item {
        Item::MachineId => include_str!("script/machine-id.sh"),
        Item::Hostname => include_str!("script/hostname.sh"),
        Item::DhcpLeases => include_str!("script/dhcp-leases.sh"),
        Item::Logs => include_str!("script/logs.sh"),
        _ => "",
    }
}

/// `find`'s way to say "not one of the login records".
fn not_logs() -> String {
    let names: Vec<String> = LOGIN_RECORDS
        .iter()
        .map(|name| format!("! -name {name}"))
        .collect();
    names.join(" ")
}

#[derive(Default)]
struct Body(String);

impl Body {
    fn lines(&mut self, text: &str) {
        for line in text.lines() {
            self.0.push_str(if line.is_empty() { "" } else { "    " });
            self.0.push_str(line);
            self.0.push('\n');
        }
    }

    fn set(&mut self, name: &str, value: &str) {
        self.lines(&format!("{name}={}", quote(value)));
    }

    fn say(&mut self, name: &str) {
        self.lines(&format!("echo 'seal: {name}'"));
    }

    /// One program for all patterns; it names by itself what it cannot remove.
    fn remove(&mut self, patterns: &[String]) {
        if !patterns.is_empty() {
            let patterns = patterns.join(" \\\n    ");
            self.lines(&format!("rm -rf {patterns} || fail 'removing files'"));
        }
    }

    fn finish(self) -> String {
        format!("seal() {{\n{}}}\nseal </dev/null\n", self.0)
    }
}

/// `text` as one word of sh.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// `text` as a basic and extended regular expression that matches just it, also between `/` delimiters.
fn regex_escape(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '-' | '_' => c.to_string(),
            c if c.is_ascii_alphanumeric() => c.to_string(),
            '^' => r"\^".to_owned(),
            '/' | '\\' => format!("\\{c}"),
            c => format!("[{c}]"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    fn plan(keep: &[Item]) -> Plan {
        Plan {
            builder: "imgbuild".into(),
            builder_uid: 60999,
            client_key: "AAAAC3Nza+/x".into(),
            keep: keep.iter().copied().collect(),
        }
    }

    /// Gives `text` to a shell and returns its output.
    fn sh(args: &[&str], text: &str) -> String {
        let mut child = Command::new("sh")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success());
        String::from_utf8(out.stdout).unwrap()
    }

    #[test]
    fn every_script_is_valid_sh() {
        sh(&["-n"], &script(&plan(&[])));
        sh(&["-n"], &script(&plan(Item::ALL)));
        for item in Item::ALL {
            sh(&["-n"], &script(&plan(&[*item])));
        }
    }

    #[test]
    fn a_kept_item_is_not_in_the_script_and_the_others_are() {
        for kept in Item::ALL {
            let text = script(&plan(&[*kept]));
            for item in Item::ALL {
                let there = text.contains(&format!("echo 'seal: {item}'"));
                assert_eq!(there, item != kept, "{item} with {kept} kept");
            }
            let words: Vec<&str> = text.split_ascii_whitespace().collect();
            for pattern in paths(*kept).gone {
                assert!(!words.contains(pattern), "{pattern} with {kept} kept");
            }
            for dir in paths(*kept).emptied {
                assert!(
                    !words.contains(&&*format!("{dir}/*")),
                    "{dir} with {kept} kept"
                );
            }
        }
        let text = script(&plan(&[Item::RandomSeed, Item::Logs]));
        assert!(!text.contains("systemd-random-seed") && !text.contains("rsyslog.service"));
    }

    #[test]
    fn the_builder_always_goes() {
        let text = script(&plan(Item::ALL));
        assert!(text.contains("echo 'seal: builder'") && text.contains("/home/'imgbuild'"));
        assert!(text.ends_with("seal </dev/null\n"));
    }

    #[test]
    fn a_cut_connection_runs_nothing() {
        let text = script(&plan(&[]));
        let cut = text.rfind("seal </dev/null").unwrap();
        assert_eq!(sh(&[], &text[..cut]), "");
    }

    #[test]
    fn names_are_quoted_and_escaped() {
        assert_eq!(quote("a'b"), r"'a'\''b'");
        assert_eq!(regex_escape("a.b-c$/^"), r"a[.]b-c[$]\/\^");
    }

    /// The part that edits accounts, on files of its own: lines of others must survive.
    #[test]
    fn only_the_builder_leaves_the_account_files() {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("etc");
        std::fs::create_dir_all(etc.join("sudoers.d")).unwrap();
        std::fs::create_dir_all(dir.path().join("home/dev/.ssh")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap_or_default();
        write(
            "etc/passwd",
            "root:x:0:0::/root:/bin/sh\nimgbuild:x:60999:1000::/nowhere/x:/bin/sh\nimgbuilder:x:1:1::/:/x\n",
        );
        write("etc/shadow", "root:*\nimgbuild:!\n");
        write("etc/subuid", "imgbuild:1:1\n");
        write("etc/subgid", "");
        write(
            "etc/group",
            "adm:x:4:imgbuild,dev\na:x:5:dev,imgbuild\nb:x:6:imgbuild\nc:x:7:a,imgbuild,imgbuilder\nimgbuild:x:1000:\n",
        );
        write("etc/gshadow", "adm:*:imgbuild:dev,imgbuild\nimgbuild:!::\n");
        write("etc/sudoers", "root ALL=(ALL) ALL\n");
        write(
            "etc/sudoers.d/90-cloud-init-users",
            "# Created by cloud-init\n\n# User rules for imgbuild\nimgbuild ALL=(ALL) NOPASSWD:ALL\n\n# User rules for dev\ndev ALL=ALL\n",
        );
        write("etc/sudoers.d/own", "# only ours\nimgbuild ALL=ALL\n");
        write(
            "home/dev/.ssh/authorized_keys",
            "ssh-ed25519 AAAAC3Nza+/x build\nssh-ed25519 AAAAother dev\n",
        );
        let at = |path: &str| dir.path().join(path).display().to_string();
        let part = include_str!("script/builder.sh")
            .replace("/etc/", &format!("{}/", at("etc")))
            .replace("/root/", &format!("{}/", at("root")))
            .replace("/home/", &format!("{}/", at("home")));
        let (edits, _) = part.split_once("# A step may have left").unwrap();
        let head = "fail() { exit 1; }\nbuilder=imgbuild pattern=imgbuild uid=60999 key='AAAAC3Nza+/x'\n\
                    accounts='passwd shadow subuid subgid' groups='group gshadow'\n";
        sh(&[], &format!("{head}{edits}"));
        assert_eq!(
            read("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nimgbuilder:x:1:1::/:/x\n"
        );
        assert_eq!(read("etc/shadow"), "root:*\n");
        assert_eq!(read("etc/subuid"), "");
        assert_eq!(
            read("etc/group"),
            "adm:x:4:dev\na:x:5:dev\nb:x:6:\nc:x:7:a,imgbuilder\n"
        );
        assert_eq!(read("etc/gshadow"), "adm:*::dev\n");
        let sudoers = read("etc/sudoers.d/90-cloud-init-users");
        assert!(
            !sudoers.contains("imgbuild")
                && sudoers.ends_with("# User rules for dev\ndev ALL=ALL\n")
        );
        assert!(!etc.join("sudoers.d/own").exists());
        assert_eq!(
            read("home/dev/.ssh/authorized_keys"),
            "ssh-ed25519 AAAAother dev\n"
        );
    }
}
