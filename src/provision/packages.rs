//! `packages`: by whatever package manager the guest has.

use crate::proc::quote;

/// The package manager's lock may be held by something that runs at boot; waiting is bounded by the step's timeout.
/// Lists are fetched once in a boot (the mark is in /run). apt waits for dpkg's lock by itself but not for that of its
/// lists.
const INSTALL: &str = r#"
if command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    if [ ! -e /run/imgbuild/apt-updated ]; then
        until apt-get -q update 2>/run/imgbuild/apt-errors; do
            if ! grep -q 'Could not get lock' /run/imgbuild/apt-errors; then
                cat /run/imgbuild/apt-errors >&2
                exit 1
            fi
            sleep 1
        done
        cat /run/imgbuild/apt-errors >&2
        : >/run/imgbuild/apt-updated
    fi
    apt-get -q -y -o DPkg::Lock::Timeout=-1 -o Dpkg::Use-Pty=0 install "$@"
elif command -v dnf >/dev/null; then
    dnf -q -y install "$@"
elif command -v apk >/dev/null; then
    apk add --wait 3600 "$@"
elif [ -e /etc/NIXOS ]; then
    echo 'NixOS has its packages in its configuration: put them into environment.systemPackages of a file in /etc/nixos' >&2
    echo '(steps `file` or `upload`), and run `nixos-rebuild switch` in a step after that' >&2
    exit 1
else
    echo 'this guest has none of apt-get, dnf and apk' >&2
    exit 1
fi
"#;

/// A shell script that installs these packages.
pub(super) fn script(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| quote(name)).collect();
    format!("set -- {}\n{INSTALL}", names.join(" "))
}
