# shellcheck shell=bash
# What the scripts that make guest images have in common. Sourced after deps.sh.

image_say() { printf '%s\n' "$*" >&2; }

# Where images are kept that no recipe names by a path of its own.
image_home() {
    printf '%s\n' "${IMGBUILD_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/imgbuild}"
}

# The key of an image: changes when a script, an option or the mirror does.
# Arguments: the files that matter, "--", then the words that matter.
image_key() {
    {
        while [ "$1" != -- ]; do
            sha256sum <"$1"
            shift
        done
        printf '%s\n' "$@"
    } | sha256sum | cut -c1-64
}

# Is the image $1 there, complete, and made with key $2?
image_is_current() {
    [ -s "$1" ] && [ -s "$(dirname "$1")/SHA256SUMS" ] && [ "$(cat "$1.key" 2>/dev/null)" = "$2" ] &&
        grep -F "  $(basename "$1")" "$(dirname "$1")/SHA256SUMS" >/dev/null
}

# Moves the finished image $1 to its place $2 and records its digest and key $3. The image itself comes last but one:
# a crash in between makes the next run build again.
image_publish() {
    local made=$1 output=$2 key=$3 dir name digest sums
    dir=$(dirname "$output")
    name=$(basename "$output")
    mkdir -p "$dir"
    rm -f "$output.key"
    digest=$(sha256sum "$made" | cut -c1-64)
    mv -f "$made" "$output.new"
    chmod 644 "$output.new"
    # Another image may be recorded in the same file, by a script that runs at the same time.
    (
        flock 9
        sums=$(mktemp "$dir/.SHA256SUMS.XXXXXX")
        [ ! -e "$dir/SHA256SUMS" ] || awk -v name="$name" '$2 != name' "$dir/SHA256SUMS" >"$sums"
        printf '%s  %s\n' "$digest" "$name" >>"$sums"
        chmod 644 "$sums"
        mv -f "$output.new" "$output"
        mv -f "$sums" "$dir/SHA256SUMS"
    ) 9>"$dir/.lock"
    printf '%s\n' "$key" >"$output.key"
}

# apt settings of this machine that downloads depend on (proxies, clocks), one per line; nothing of it ends up in the image.
image_apt_options() {
    apt-config dump 2>/dev/null | grep -E '^Acquire::(Check-Valid-Until|Check-Date|https?::Proxy|Retries) "' || true
}

# Makes the folder $work below $1, and removes it at the end. Sets as_root to what runs a command as the owner of a
# guest's files: nothing special for root, else a user namespace.
image_workdir() {
    mkdir -p "$1"
    work=$(mktemp -d "$1/.work.XXXXXX")
    as_root=(env)
    if [ "$(id -u)" -ne 0 ]; then
        as_root=(mmdebstrap --unshare-helper env)
        chmod 711 "$work"
    fi
    trap image_cleanup EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# Whether only root can make an image here: in a container or a chroot, others may not make a user namespace.
image_needs_root() {
    [ "$(id -u)" -ne 0 ] && ! mmdebstrap --unshare-helper true >/dev/null 2>&1
}

# Runs the script $1 as root, with the cache $2 and further options, and gives away the image $3 that it makes.
image_as_root() {
    local script=$1 cache=$2 output=$3
    shift 3
    image_say "  there are no user namespaces for $(id -un) here: as root"
    # Or they would be root's, and nothing else could be written there.
    mkdir -p "$cache" "$(dirname "$output")"
    deps_root "$script" --cache "$cache" --output "$output" "$@"
    deps_root chown "$(id -u):$(id -g)" "$output" "$output.key" "$(dirname "$output")/SHA256SUMS"
}

image_cleanup() {
    rm -rf "$work" 2>/dev/null || "${as_root[@]}" rm -rf "$work"
}

# The guest's sources.list: mirror $1, security mirror $2.
image_sources() {
    printf 'deb %s bookworm main\n' "$1"
    printf 'deb %s bookworm-updates main\n' "$1"
    printf 'deb %s bookworm-security main\n' "$2"
}

# Unpacks Debian 12, variant $1, with the packages $2, into $work/root.tar; more arguments go to mmdebstrap.
# Documentation that nobody reads in a server image is most of the small files; licences stay.
image_bootstrap() {
    local variant=$1 packages=$2 line options=()
    shift 2
    while read -r line; do
        [ -z "$line" ] || options+=("--aptopt=$line")
    done < <(image_apt_options)
    mmdebstrap --quiet --variant="$variant" --include="$packages" \
        ${options[@]+"${options[@]}"} \
        --aptopt='Apt::Install-Recommends "false"' \
        --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-include=/usr/share/locale/locale.alias' \
        --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        "$@" bookworm "$work/root.tar" "$work/sources.list" >"$work/log" 2>&1 || {
        tail -n 40 "$work/log" >&2
        echo "error: mmdebstrap failed; its last lines are above" >&2
        return 1
    }
}

# Makes an ext4 file system of $work/root.tar in the disk image $1, from sector $2, $3 sectors long, labelled $4.
# Files younger than $6 (made by us, not shipped in a package) get the date $5.
image_write_root() {
    cat >"$work/write-root" <<'END'
#!/bin/sh
set -eu
work=$1 disk=$2 start=$3 size=$4 label=$5 epoch=$6 since=$7
mkdir "$work/root"
tar -C "$work/root" --xattrs --xattrs-include='*' --numeric-owner -xf "$work/root.tar"
rm "$work/root.tar"
find "$work/root" -newermt "@$since" -exec touch -h -d "@$epoch" {} +
export SOURCE_DATE_EPOCH="$epoch"
mke2fs -q -F -t ext4 -L "$label" -U 6f8d0c7e-2b61-4f1b-9c42-1b5b6a0e7d01 -m 1 \
    -E "offset=$((start * 512)),hash_seed=6f8d0c7e-2b61-4f1b-9c42-1b5b6a0e7d02,nodiscard,lazy_itable_init=0" \
    -d "$work/root" "$disk" "$((size / 2))k"
rm -rf "$work/root"
END
    "${as_root[@]}" sh "$work/write-root" "$work" "$@"
}

# A number as eight bytes, the lowest first.
image_le64() {
    local n=$1 bytes=''
    while [ ${#bytes} -lt 32 ]; do
        bytes+=$(printf '\\x%02x' $((n & 255)))
        n=$((n >> 8))
    done
    printf '%b' "$bytes"
}

# Puts GRUB for BIOS on the disk image $1: boot.img into the first sector (not over the partition table), pointing at
# core.img in its own partition at sector $2 ($3 sectors); core.img's first sector points at its second. Both from $4.
image_write_grub() {
    local disk=$1 start=$2 size=$3 from=$4
    if [ "$(stat -c %s "$from/core.img")" -gt $((size * 512)) ]; then
        echo "error: GRUB's core.img does not fit its partition" >&2
        return 1
    fi
    dd if="$from/boot.img" of="$disk" bs=1 count=440 conv=notrunc status=none
    image_le64 "$start" | dd of="$disk" bs=1 seek=$((0x5c)) conv=notrunc status=none
    printf '\x90\x90' | dd of="$disk" bs=1 seek=$((0x66)) conv=notrunc status=none
    dd if="$from/core.img" of="$disk" bs=512 seek="$start" conv=notrunc status=none
    image_le64 $((start + 1)) | dd of="$disk" bs=1 seek=$((start * 512 + 0x1f4)) conv=notrunc status=none
}
