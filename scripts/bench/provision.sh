#!/bin/sh -eu
# What both tools run in the guest, as root: trivial on purpose, so that the tools' own time is what is measured.
test "$(id -u)" = 0
mkdir -p /srv/app/data
cat >/etc/app.conf <<'END'
listen = 8080
data = /srv/app/data
END
chmod 640 /etc/app.conf
uname -sr >/srv/app/built-with
df -h / >>/srv/app/built-with
dd if=/dev/zero of=/srv/app/data/blob bs=1M count=8 status=none
sha256sum /srv/app/data/blob >/srv/app/data/blob.sha256
sha256sum --quiet -c /srv/app/data/blob.sha256
# Written by cloud-init: the user-data has been carried out when this script runs.
grep -q '^written by cloud-init$' /etc/app-release
