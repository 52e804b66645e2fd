if [ -n "$systemd" ] && [ -d /var/log/journal ]; then
    # From here on the journal is in memory. A journald that cannot do that (before systemd 243) is stopped instead.
    journalctl --relinquish-var 2>/dev/null || systemctl stop \
        systemd-journald.socket systemd-journald-dev-log.socket systemd-journald-audit.socket systemd-journald.service
fi
pid=
[ -r /run/auditd.pid ] && read -r pid </run/auditd.pid
[ -n "$pid" ] && kill "$pid" 2>/dev/null
if [ -d /var/log ]; then
    # Programs may rely on their file's owner and mode: a current log is emptied, not deleted.
    find /var/log -xdev -type f ! -size 0 $not_logs \( \
        \( -name '*.gz' -o -name '*.xz' -o -name '*.bz2' -o -name '*.zst' -o -name '*.old' -o -name '*.[0-9]' \
        -o -name '*.[0-9][0-9]' -o -name '*-20[0-9][0-9][0-9][0-9][0-9][0-9]' \) -exec rm -f {} + \
        -o -exec sh -c 'for file; do true >"$file" || exit 1; done' sh {} + \) || fail "clearing /var/log"
fi
