old=
[ -r /etc/hostname ] && read -r old </etc/hostname
case $old in
'' | localhost) ;;
*)
    echo localhost >/etc/hostname || fail "writing /etc/hostname"
    # The line that Debian's convention (and cloud-init) gives the host name.
    case $old in
    *[!A-Za-z0-9.-]*) ;;
    *) sed -i -e "/^127\.0\.1\.1[[:space:]].*$old/d" /etc/hosts || fail "editing /etc/hosts" ;;
    esac
    ;;
esac
