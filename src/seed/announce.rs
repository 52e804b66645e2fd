//! A guest that tells its addresses on its serial console, for whoever can read that and nothing else of it.
//!
//! It is a command in `bootcmd`, so it runs in each boot with the seed, and nothing of it is on the disk. What it tells is a hint
//! of where to try: that it is the guest which answers there is proven by its host key.

use std::net::IpAddr;

use serde_json::{Value, json};

/// What a line with addresses begins with. What follows are the id of the guest's seed and its addresses, with spaces between
/// them: `imgbuild-address ID 192.0.2.10 2001:db8::a`.
const WORD: &str = "imgbuild-address";

/// More addresses than this are not taken from a line: a guest that lies should not have us knock everywhere.
const MOST: usize = 16;

/// Says it once a second until a step of the build is seen, or for an hour. Whoever reads the console may miss lines (nobody
/// keeps them while nobody reads), and addresses come one after the other. The device is opened anew for each line, since getty
/// hangs up whoever has it open.
const SCRIPT: &str = r#"(
    n=0
    until [ -e /run/imgbuild ] || [ "$n" -ge 3600 ]; do
        told=$(ip -o addr show scope global | while read -r _ _ family address _; do
            case $family in inet | inet6) printf ' %s' "${address%%/*}" ;; esac
        done)
        for port in /dev/ttyS0 /dev/ttyAMA0; do
            [ -z "$told" ] || [ ! -c "$port" ] || printf '\n%s %s%s\n' "$0" "$1" "$told" >"$port"
        done
        n=$((n + 1))
        sleep 1
    done
) </dev/null >/dev/null 2>&1 &"#;

/// The command of a guest whose seed has this id.
pub fn command(id: &str) -> Value {
    json!(["sh", "-c", SCRIPT, WORD, id])
}

/// Whether a line of a console is such a one, of any guest.
pub fn is_announcement(line: &str) -> bool {
    line.contains(WORD)
}

/// The addresses that a line of a console tells for the guest with this id; none if it is no such line. The line may begin with
/// something else: a prompt that waits for a login.
pub fn addresses(line: &str, id: &str) -> Vec<IpAddr> {
    let Some((_, told)) = line.split_once(WORD) else {
        return vec![];
    };
    let mut words = told.split_whitespace();
    if !told.starts_with(' ') || words.next() != Some(id) {
        return vec![];
    }
    let addresses = words.map_while(|word| word.parse().ok());
    addresses.take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn only_the_guest_s_own_lines_tell_addresses() {
        let told = |line: &str| addresses(line, "imgbuild-a");
        let both: Vec<IpAddr> = vec![
            "192.0.2.10".parse().unwrap(),
            "2001:db8::a".parse().unwrap(),
        ];
        let line = "imgbuild-address imgbuild-a 192.0.2.10 2001:db8::a";
        assert_eq!(told(line), both);
        assert_eq!(told(&format!("web login: {line}\r")), both);
        for line in [
            "",
            "imgbuild-address",
            "imgbuild-address ",
            "imgbuild-address imgbuild-b 192.0.2.10",
            "imgbuild-addressimgbuild-a 192.0.2.10",
            "imgbuild-address imgbuild-a [ 3.1] usb 1-1: new device",
            "imgbuild-a 192.0.2.10",
        ] {
            assert_eq!(told(line), Vec::<IpAddr>::new(), "{line}");
        }
    }

    #[test]
    fn what_stands_behind_the_addresses_is_not_taken_nor_too_many_of_them() {
        let line = "imgbuild-address a 192.0.2.1 [ 3.1] usb 192.0.2.2";
        assert_eq!(addresses(line, "a").len(), 1);
        let many = "imgbuild-address a".to_owned() + &" 192.0.2.1".repeat(1000);
        assert_eq!(addresses(&many, "a").len(), MOST);
    }

    #[test]
    fn the_script_is_one_that_a_shell_takes_and_does_not_wait_for() {
        let command = command("a");
        let words: Vec<&str> = command.as_array().unwrap()[2..]
            .iter()
            .map(|word| word.as_str().unwrap())
            .collect();
        let ended = Command::new("sh")
            .args(["-n", "-c"])
            .args(words)
            .output()
            .unwrap();
        assert!(
            ended.status.success() && ended.stderr.is_empty(),
            "{ended:?}"
        );
        assert!(SCRIPT.ends_with('&'));
    }
}
