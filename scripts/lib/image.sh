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
