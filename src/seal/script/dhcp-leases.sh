# ifupdown would release the lease at shutdown, and dhclient would write that down.
[ -e /run/network/ifstate ] && true >/run/network/ifstate
for file in /run/dhclient*.pid; do
    pid=
    [ -r "$file" ] && read -r pid <"$file"
    [ -n "$pid" ] && kill -9 "$pid" 2>/dev/null
done
