if [ -n "$systemd" ]; then
    # Empty, not missing: a missing file makes systemd treat the boot as the very first and reset its unit presets.
    true >/etc/machine-id || fail "emptying /etc/machine-id"
else
    rm -f /etc/machine-id || fail "removing /etc/machine-id"
fi
if [ -f /var/lib/dbus/machine-id ] && [ ! -L /var/lib/dbus/machine-id ]; then
    rm -f /var/lib/dbus/machine-id || fail "removing /var/lib/dbus/machine-id"
    [ -n "$systemd" ] && ln -s /etc/machine-id /var/lib/dbus/machine-id
fi
