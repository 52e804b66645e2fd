# Leaves the disk $1 (sda) as it is when it is told to. Told again, it says whether the disk has stayed so. Each answer is a
# line: "still", or why not. The end of this program says nothing: whoever is the last to leave the home that the seal has
# removed frees its inode, and waits for the frozen file system with all of its files still open.
set -f
export PATH="$PATH:/usr/sbin:/usr/bin:/sbin:/bin"
disk=$1

# Whatever programs print is no answer.
exec 3>&1 >&2

fail() {
    # shellcheck disable=SC2086 # on one line, whatever a program said
    set -- $1
    printf '%s\n' "$*" >&3
    exit 1
}

# Requests and sectors that were written to it and discarded from it (Linux, Documentation/block/stat.rst).
changes() {
    read -r x x x x writes x written x x x x discards x discarded x <"/sys/block/$disk/stat"
    echo "$writes $written $discards $discarded"
}

read -r go || exit

for program in fsfreeze blockdev; do
    command -v "$program" >/dev/null || fail "it has no $program (package util-linux)"
done

# Else nothing is counted.
echo 1 >"/sys/block/$disk/queue/iostats" || fail "it does not count what is written to $disk"

# Swapping goes past file systems.
while read -r file x; do
    case $file in
    Filename | /dev/zram*) ;;
    *) said=$(swapoff "$file" 2>&1) || fail "it cannot do without swapping to $file: $said" ;;
    esac
done </proc/swaps

# Those that are mounted on others come after them, and go before them.
seen=' ' mounts=
while read -r x x number x dir x rest; do
    # shellcheck disable=SC2086 # fields of proc_pid_mountinfo(5): type, source, options
    set -- ${rest#*- }
    # Without a block device of its own, a file system is none on a disk; only btrfs hides it.
    case $number,$1,$3 in
    0:*,btrfs,rw | 0:*,btrfs,rw,*) ;;
    0:*) continue ;;
    *,*,rw | *,*,rw,*) ;;
    *) continue ;;
    esac
    case $seen in
    *" $number "*) ;;
    *) seen="$seen$number " mounts="$dir $mounts" ;;
    esac
done </proc/self/mountinfo
sync
for dir in $mounts; do
    dir=$(printf '%b' "$dir")
    # FAT has nothing to freeze.
    fsfreeze -f "$dir" 2>/dev/null || said=$(mount -o remount,ro "$dir" 2>&1) ||
        fail "$dir can neither be frozen nor made read-only: $said"
done

# What was read of the disk as a whole before is what was there then.
said=$(blockdev --flushbufs "/dev/$disk" 2>&1) || fail "what it remembers of the disk cannot be thrown away: $said"
# What is discarded in the background comes to its end.
before=$(changes) left=60
while
    sleep 1
    now=$(changes)
    [ "$now" != "$before" ]
do
    before=$now left=$((left - 1))
    [ "$left" -gt 0 ] || fail "something goes on writing to the disk"
done
echo still >&3

read -r go || exit
[ "$(changes)" = "$before" ] || fail "something was written to the disk while it was read"
echo still >&3
