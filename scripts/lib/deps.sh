# shellcheck shell=bash
# Finds out which system packages are missing and installs just those, on Debian and Ubuntu.
# Sourced by the other scripts. Nothing is run, and nobody is asked for a password, when nothing is missing.
#
#   deps_install run build     install what these groups need: run, build, test, image
#   deps_mirror                print the URI of the Debian mirror this machine uses

# Tools such as mke2fs and sfdisk live here, and an ordinary user's PATH may lack it.
case ":$PATH:" in
*:/usr/sbin:*) ;;
*) PATH=$PATH:/usr/sbin:/sbin ;;
esac
export PATH

DEPS_RUST_MIN=1.89

# One line per package: group, package, and what proves that it is there (a command, or an absolute path).
deps_table() {
    cat <<'TABLE'
run   qemu-system-x86          qemu-system-x86_64
run   qemu-utils               qemu-img
run   ovmf                     /usr/share/OVMF/OVMF_CODE_4M.fd
run   openssh-client           ssh
run   ca-certificates          /etc/ssl/certs/ca-certificates.crt
build gcc                      cc
build libc6-dev                /usr/include/stdlib.h
build pkg-config               pkg-config
build libssl-dev               /usr/include/openssl/ssl.h
image mmdebstrap               mmdebstrap
image debian-archive-keyring   /usr/share/keyrings/debian-archive-keyring.gpg
image qemu-utils               qemu-img
image e2fsprogs                mke2fs
image fdisk                    sfdisk
image dosfstools               mkfs.vfat
image mtools                   mcopy
image cpio                     cpio
image zstd                     zstd
image uidmap                   newuidmap
test  nix-bin                  nix
test  git                      git
test  python3-venv             /usr/share/doc/python3-venv
test  nodejs                   node
test  npm                      npm
test  openssl                  openssl
test  swtpm                    swtpm
test  rpm                      rpmbuild
TABLE
}

deps_say() { printf '%s\n' "$*" >&2; }

deps_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        deps_say "error: need root to run: $*"
        deps_say "hint: run this as root, or install sudo"
        return 1
    fi
}

# Is version $1 at least version $2?
deps_version_ge() {
    [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n1)" = "$2" ]
}

# The codename of this machine's distribution, for instance "bookworm".
deps_codename() (
    # shellcheck disable=SC1091
    . /etc/os-release
    printf '%s\n' "${VERSION_CODENAME:-}"
)

deps_is_debian() (
    # shellcheck disable=SC1091
    . /etc/os-release
    [ "${ID:-}" = debian ]
)

# Every "URI suite" pair of this machine's apt sources.
deps_sources() {
    command -v apt-get >/dev/null || return 0
    apt-get update --print-uris 2>/dev/null | sed -nE "s#^'([^']*)/dists/([^']*)/InRelease'.*#\1 \2#p"
}

# The Debian mirror that this machine uses for the suite $1 (any release will do when it has not that one);
# with none in its sources (Ubuntu, say), the public one. $2 is "security" for the security archive.
deps_mirror() {
    local suite=${1:-bookworm} kind=${2:-main} found='' any='' uri dist default=http://deb.debian.org/debian
    [ "$kind" = security ] && default=http://deb.debian.org/debian-security
    while read -r uri dist; do
        case "$kind $uri" in
        *@*) continue ;; # credentials in the URI must not get into an image
        "security "*debian-security* | "main "*debian-security*)
            [ "$kind" = security ] || continue
            ;;
        "main "*/debian | "main "*/debian/) ;;
        *) continue ;;
        esac
        any=${any:-$uri}
        case $dist in
        "$suite" | "$suite-security") found=${found:-$uri} ;;
        esac
    done < <(deps_sources)
    uri=${found:-${any:-$default}}
    printf '%s\n' "${uri%/}"
}

# The keyring that the machine's own Debian source is signed by.
deps_keyring() {
    local keyring
    keyring=$(sed -nE 's/^Signed-By:[[:space:]]*(\/[^[:space:]]+).*/\1/p; s/^deb .*\[.*signed-by=(\/[^] ]+).*/\1/p' \
        /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null |
        grep -m1 debian) || keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    printf '%s\n' "$keyring"
}

deps_have() {
    case $1 in
    /*) [ -e "$1" ] ;;
    *) command -v "$1" >/dev/null ;;
    esac
}

deps_update_done=''
deps_update() {
    [ -n "$deps_update_done" ] && return 0
    deps_say "  apt-get update"
    deps_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update
    deps_update_done=1
}

deps_apt() {
    deps_say "  apt-get install $*"
    deps_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o Dpkg::Use-Pty=0 \
        install --no-remove --no-install-recommends "$@" >/dev/null
}

# Adds the distribution's backports suite, on the mirror and keyring that the machine already uses.
deps_add_backports() {
    local suite file=/etc/apt/sources.list.d/imgbuild-backports.sources
    suite=$(deps_codename)-backports
    if deps_sources | grep " $suite\$" >/dev/null; then
        return 0
    fi
    deps_say "  adding $suite to apt's sources ($file)"
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n' \
        "$(deps_mirror "$(deps_codename)")" "$suite" "$(deps_keyring)" | deps_root tee "$file" >/dev/null
    deps_update_done=''
}

# QEMU's packages must all be of one version: prints the version that is installed when it came from backports, so
# that the others come from there as well.
deps_qemu_backport() {
    local installed
    # dpkg-query fails when it does not know one of the names, and still prints the others.
    installed=$({
        dpkg-query -W -f '${Package} ${db:Status-Abbrev} ${Version}\n' \
            qemu-utils qemu-system-common qemu-system-x86 2>/dev/null || true
    } | awk '$2 ~ /^.i/ && !v {v = $3} END {print v}')
    case $installed in
    *~bpo*)
        deps_is_debian || return 0
        printf '%s\n' "$installed"
        ;;
    esac
}

deps_rust_ok() {
    local have
    command -v cargo >/dev/null && command -v rustc >/dev/null || return 1
    have=$(rustc --version 2>/dev/null | awk '{print $2}') || return 1
    [ -n "$have" ] && deps_version_ge "$have" "$DEPS_RUST_MIN" || return 1
    if [ "${1:-}" = test ]; then
        cargo clippy --version >/dev/null 2>&1 && cargo fmt --version >/dev/null 2>&1
    fi
}

# A versioned toolchain (Ubuntu's rustc-1.xx) lives outside PATH: put the newest one on it.
deps_rust_path() {
    local dir before=$PATH
    deps_rust_ok "${1:-}" && return 0
    for dir in /usr/bin $(printf '%s\n' /usr/lib/rust-*/bin | sort -rV); do
        [ -x "$dir/rustc" ] || continue
        PATH=$dir:$before
        if deps_rust_ok "${1:-}"; then
            return 0
        fi
        PATH=$before
    done
    return 1
}

deps_candidate() {
    apt-cache policy "$1" 2>/dev/null | awk '$1 == "Candidate:" && $2 != "(none)" {print $2}'
}

# The names of the packages that make up a new enough toolchain in this distribution.
deps_rust_packages() {
    local candidate version
    candidate=$(deps_candidate rustc)
    if [ -n "$candidate" ] && deps_version_ge "$candidate" "$DEPS_RUST_MIN"; then
        echo rustc cargo rust-clippy rustfmt
        return 0
    fi
    candidate=$(deps_candidate rustc-web)
    if [ -n "$candidate" ] && deps_version_ge "$candidate" "$DEPS_RUST_MIN"; then
        echo rustc-web cargo-web rust-web-clippy rustfmt-web
        return 0
    fi
    version=$(apt-cache pkgnames rustc-1. | sed -nE 's/^rustc-([0-9]+\.[0-9]+)$/\1/p' | sort -rV | head -n1)
    if [ -n "$version" ] && deps_version_ge "$version" "$DEPS_RUST_MIN"; then
        echo "rustc-$version cargo-$version rust-$version-clippy rustfmt-$version"
        return 0
    fi
    return 1
}

deps_install() {
    local group package probe missing=() rust='' bpo='' packages=() qemu=()
    while read -r group package probe; do
        case " $* " in
        *" $group "*) ;;
        *) continue ;;
        esac
        deps_have "$probe" && continue
        case " ${missing[*]-} " in
        *" $package "*) ;;
        *) missing+=("$package") ;;
        esac
    done < <(deps_table)
    case " $* " in
    *" test "*) deps_rust_path test || rust='test' ;;
    *" build "*) deps_rust_path || rust='build' ;;
    esac
    if [ "${#missing[@]}" -eq 0 ] && [ -z "$rust" ]; then
        return 0
    fi
    if ! command -v apt-get >/dev/null; then
        deps_say "error: missing: ${missing[*]-} ${rust:+a Rust toolchain >= $DEPS_RUST_MIN}"
        deps_say "hint: this machine has no apt-get; install their equivalents by hand"
        return 1
    fi
    deps_say "installing: ${missing[*]-} ${rust:+a Rust toolchain}"

    for package in ${missing[@]+"${missing[@]}"}; do
        case $package in
        qemu-*) qemu+=("$package") ;;
        *) packages+=("$package") ;;
        esac
    done
    if [ "${#qemu[@]}" -gt 0 ]; then
        bpo=$(deps_qemu_backport)
        [ -z "$bpo" ] || deps_add_backports || return 1
    fi
    deps_update || return 1
    if [ -n "$rust" ]; then
        # shellcheck disable=SC2207
        packages+=($(deps_rust_packages)) || {
            deps_say "error: this distribution has no Rust toolchain >= $DEPS_RUST_MIN"
            deps_say "hint: install one from https://rustup.rs, then run this again"
            return 1
        }
    fi
    if [ "${#qemu[@]}" -gt 0 ]; then
        if [ -z "$bpo" ]; then
            packages+=("${qemu[@]}")
        else
            deps_qemu_from_backports "$bpo" "${qemu[@]}" || return 1
        fi
    fi
    [ "${#packages[@]}" -eq 0 ] || deps_apt "${packages[@]}" || return 1
    if [ -n "$rust" ]; then
        deps_rust_path "$rust" || {
            deps_say "error: still no Rust toolchain >= $DEPS_RUST_MIN on PATH after installing one"
            return 1
        }
    fi
}

# Installs QEMU packages of exactly the version $1; when the mirror has moved on, of the newest in backports.
deps_qemu_from_backports() {
    local version=$1 suite package exact=()
    shift
    suite=$(deps_codename)-backports
    if apt-cache madison qemu-system-x86 | grep -F "$version" >/dev/null; then
        for package in "$@"; do exact+=("$package=$version"); done
        for package in qemu-system-common qemu-system-data; do exact+=("$package=$version"); done
        if deps_apt "${exact[@]}"; then return 0; fi
    fi
    deps_apt -t "$suite" qemu-utils "$@"
}
