dir= gid=$uid
while IFS=: read -r name x x x x home x; do
    [ "$name" = "$builder" ] && dir=$home
done </etc/passwd
# Only a group of the user's own goes with it, not one that it happens to have as its primary group.
while IFS=: read -r name x id x; do
    [ "$name" = "$builder" ] && gid=$id
done </etc/group
case $dir in
*/*/"$builder" | /*/"$builder") rm -rf "$dir" || fail "removing $dir" ;;
esac

# By hand, because userdel refuses while the user is logged in, and busybox has another one. The backups may be kept.
set --
for name in $accounts; do
    for file in "/etc/$name" "/etc/$name-" "/var/backups/$name.bak"; do
        [ -f "$file" ] && set -- "$@" "$file"
    done
done
sed -i -e "/^$pattern:/d" "$@" || fail "removing $builder from $*"
set --
for name in $groups; do
    for file in "/etc/$name" "/etc/$name-" "/var/backups/$name.bak"; do
        [ -f "$file" ] && set -- "$@" "$file"
    done
done
sed -i -e "/^$pattern:/d" -e "s/,$pattern\([,:]\)/\1/g" -e "s/,$pattern\$//" \
    -e "s/:$pattern,/:/g" -e "s/:$pattern:/::/g" -e "s/:$pattern\$/:/" "$@" || fail "removing $builder from $*"

# cloud-init keeps one file for all its users: the lines of others stay.
for file in $(grep -lsE "^(# User rules for )?$pattern([[:space:]]|\$)" /etc/sudoers /etc/sudoers.d/*); do
    sed -i -e "/^# User rules for $pattern\$/d" -e "/^$pattern[[:space:]]/d" "$file" || fail "editing $file"
    case $file in
    /etc/sudoers.d/*) grep -q -e '^[^#]' -e '^#include' "$file" || rm -f "$file" ;;
    esac
done

# Other accounts that cloud-init gave the build's key, and root's "Please login as the user …" lines.
if [ -n "$key" ]; then
    for file in $(grep -lsF -e "$key" /root/.ssh/* /home/*/.ssh/*); do
        sed -i -e "\\,$key,d" "$file" || fail "editing $file"
        [ -s "$file" ] || rm -f "$file"
    done
fi

# A step may have left files of the build's user anywhere; its uid must not pass to somebody else. Looking through all
# of /usr takes seconds under emulation, and nothing there should be a user's: that is left to the audit.
set --
for dir in /*; do
    case $dir in
    /proc | /sys | /dev | /run | /usr | /boot | /lost+found | /nix) ;;
    *) [ -d "$dir" ] && [ ! -L "$dir" ] && set -- "$@" "$dir" ;;
    esac
done
[ -d /usr/local ] && set -- "$@" /usr/local
find "$@" -xdev \( -user "$uid" -o -group "$gid" \) -exec chown -h 0:0 {} + || fail "finding the files of $builder"
