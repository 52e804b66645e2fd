# shellcheck shell=bash
# What the benchmark scripts have in common. Sourced after deps.sh and phase.sh, from the top folder of the checkout.

# EPOCHREALTIME's decimal point, and the order of sort, depend on the locale.
export LC_ALL=C

bench_say() { printf '%s\n' "$*" >&2; }

# Sets $imgbuild to the binary that is measured: the one in IMGBUILD_BIN, or a release build of this checkout.
bench_binary() {
    if [ -n "${IMGBUILD_BIN:-}" ]; then
        imgbuild=$(realpath -- "$IMGBUILD_BIN")
        [ -x "$imgbuild" ] || {
            bench_say "error: IMGBUILD_BIN: $imgbuild is not a program"
            return 1
        }
    else
        phase 'build imgbuild' cargo build --release --locked
        imgbuild=$(realpath -- "${CARGO_TARGET_DIR:-target}/release/imgbuild")
    fi
}

# Makes the folder $work below out/, on the disk that images are on, and removes it at the end.
bench_workdir() {
    mkdir -p out
    work=$(mktemp -d "$PWD/out/.bench.XXXXXX")
    trap bench_cleanup EXIT
}

bench_child=''
bench_cleanup() {
    phase_stop
    bench_stop
    [ -z "${work:-}" ] || rm -rf "$work"
    # Only if nothing else is in it.
    rmdir out 2>/dev/null || true
}

# Ends a child that still runs, and then whatever it left in its process group.
bench_stop() {
    local i
    [ -n "$bench_child" ] || return 0
    kill -TERM "$bench_child" 2>/dev/null || true
    for ((i = 0; i < 300; i++)); do
        kill -0 "$bench_child" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL -- "-$bench_child" 2>/dev/null || true
    bench_child=''
}

# bench_start FOLDER LOG COMMAND...: starts the command there, in a process group of its own, so that Ctrl-C reaches
# only this script, which ends the child in order. Its process id is $bench_child.
bench_start() {
    local folder=$1 log=$2
    shift 2
    set -m
    (cd "$folder" && exec "$@") </dev/null >"$log" 2>&1 &
    bench_child=$!
    set +m
}

# Waits for the child; returns its exit code. What a failed one left in its process group is ended.
bench_wait() {
    local status=0
    wait "$bench_child" || status=$?
    kill -KILL -- "-$bench_child" 2>/dev/null || true
    bench_child=''
    return "$status"
}

# bench_failed WHAT CODE LOG: tells of a failed run, with its log.
bench_failed() {
    sed 's/^/    /' "$3" >&2
    bench_say "error: $1 failed (exit code $2); its log is above"
}

# Now, in microseconds.
bench_now() { printf '%s\n' "${EPOCHREALTIME/./}"; }

# Microseconds $1 as seconds, with $2 digits after the point (1).
bench_seconds() { awk -v us="$1" -v digits="${2:-1}" 'BEGIN { printf "%.*f\n", digits, us / 1e6 }'; }

# Minimum, median and maximum of whole numbers, on one line.
bench_spread() {
    printf '%s\n' "$@" | sort -n | awk '
        { v[NR] = $1 }
        END { print v[1], (NR % 2) ? v[(NR + 1) / 2] : int((v[NR / 2] + v[NR / 2 + 1]) / 2), v[NR] }'
}
