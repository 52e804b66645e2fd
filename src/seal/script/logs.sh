if [ -n "$systemd" ] && [ -d /var/log/journal ]; then
    # From here on the journal is in memory. A journald that cannot do that (before systemd 243) is stopped instead.
    journalctl --relinquish-var 2>/dev/null || systemctl stop \
        systemd-journald.socket systemd-journald-dev-log.socket systemd-journald-audit.socket systemd-journald.service
fi
pid=
[ -r /run/auditd.pid ] && read -r pid </run/auditd.pid
[ -n "$pid" ] && kill "$pid" 2>/dev/null
wait
if [ -d /var/log ]; then
    # Programs may rely on their file's owner and mode: a current log is emptied, not deleted. busybox's find cannot
    # do two kinds of `-exec … +`, so telling them apart is left to the shell; what remains in "$@" is rotated.
    find /var/log -xdev -type f ! -size 0c $not_logs -exec sh -c '
        for file; do
            shift
            case $file in
            *.gz | *.xz | *.bz2 | *.zst | *.old | *.[0-9] | *.[0-9][0-9] | *-20[0-9][0-9][0-9][0-9][0-9][0-9])
                set -- "$@" "$file" ;;
            *) true >"$file" || exit 1 ;;
            esac
        done
        [ $# = 0 ] || rm -f "$@"' sh {} + || fail "clearing /var/log"
fi
