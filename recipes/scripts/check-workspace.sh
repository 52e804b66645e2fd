#!/bin/sh -eu
# What a workspace must have, as its user sees it.
user=$WORKSPACE_USER

for program in curl git jq rg unzip node npm code-server; do
    if ! runuser -l "$user" -c "command -v $program" >/dev/null; then
        echo "$user has no $program" >&2
        exit 1
    fi
done
runuser -l "$user" -c 'node --version; npm --version'
test "$(runuser -l "$user" -c 'sudo -n id -u')" = 0
. /etc/imgbuild-release
case $NAME in
coder-workspace*) ;;
*) echo "this is $NAME" >&2; exit 1 ;;
esac
test -s /usr/share/imgbuild/inputs.json
systemctl is-enabled qemu-guest-agent.service >/dev/null 2>&1 || test -e /usr/sbin/qemu-ga
