# shellcheck shell=bash
# Says what a script does, and how long each part took.

phase_started=$SECONDS

# phase NAME COMMAND...: runs the command, then prints how long it took. Stops the script when it fails.
phase() {
    local name=$1 since=$SECONDS status=0
    shift
    printf '==> %s\n' "$name" >&2
    "$@" || status=$?
    if [ "$status" -ne 0 ]; then
        printf '==> %s: failed after %d s (exit code %d)\n' "$name" $((SECONDS - since)) "$status" >&2
        exit "$status"
    fi
    printf '==> %s: %d s\n' "$name" $((SECONDS - since)) >&2
}

# background NAME COMMAND...: the same beside what follows; phase_wait waits for all of them.
phase_names=() phase_pids=()
background() {
    local name=$1
    phase "$@" &
    phase_names+=("$name")
    phase_pids+=($!)
}

phase_wait() {
    local i status=0
    for i in ${phase_pids[@]+"${!phase_pids[@]}"}; do
        wait "${phase_pids[$i]}" || status=$?
    done
    phase_pids=() phase_names=()
    [ "$status" -eq 0 ] || exit "$status"
}

# Whatever still runs beside a script that ends early must not outlive it.
phase_stop() {
    local pid
    for pid in ${phase_pids[@]+"${phase_pids[@]}"}; do
        pkill -TERM -P "$pid" 2>/dev/null || true
        kill "$pid" 2>/dev/null || true
    done
}
trap phase_stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

phase_total() {
    printf '==> all done in %d s\n' $((SECONDS - phase_started)) >&2
}
