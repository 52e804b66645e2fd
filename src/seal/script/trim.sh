# ext4 trims only what its journal has committed as free.
sync
seen=' '
while read -r device dir type x; do
    case $type in
    ext[234] | xfs | btrfs | f2fs | vfat)
        case $seen in
        *" $device "*) ;;
        *)
            seen="$seen$device "
            # A disk without discard is no failure: the conversion drops zeroed blocks anyway.
            fstrim "$dir" 2>/dev/null
            ;;
        esac
        ;;
    esac
done </proc/mounts
