# Runs in the root file system, in the place of the image's own /sbin/tiny-boot: applies the seed as that does, and becomes init.
# There is no network to set up: it is the host's.
set -eu
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
umount -l /mnt

# What logins, sudo and package managers need. CAP_SYS_BOOT concerns this process namespace. There is none to mount, to make
# devices, to set the clock, to load modules, to see or change the network.
keep=-all,+chown,+dac_override,+dac_read_search,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+sys_chroot,+audit_write
keep=$keep,+sys_boot,+sys_resource
if [ -e /run/seed/user-data ]; then
    setpriv --bounding-set="$keep" /sbin/tiny-seed /run/seed
else
    echo "tiny: no volume labelled CIDATA"
fi
rm -r /run/seed
[ -s /etc/machine-id ] || tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id
hostname -F /etc/hostname
ls /etc/ssh/ssh_host_*_key >/dev/null 2>&1 || ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key

# It would write what the whole host has not written yet, and nothing of the sandbox goes to a disk.
ln -sf true /bin/sync
# The number of who logged in is written to /proc, which is read-only.
sed -i /pam_loginuid/d /etc/pam.d/sshd

cat >/sbin/tiny-halt <<HALT
#!/bin/sh
# Does \$1 (poweroff, reboot or halt) once the SSH session that asked for it has ended. All processes end with init.
/bin/busybox usleep 100000
exec /bin/busybox "\$1" -n -f
HALT
cat >/sbin/power-button <<BUTTON
#!/bin/sh
read -r pressed </dev/virtio-ports/button
exec /sbin/poweroff
BUTTON
chmod 755 /sbin/power-button
cat >/etc/inittab <<TABLE
::once:/usr/sbin/sshd -D -e -o ListenAddress=$ADDRESS -o Port=$PORT
::once:/sbin/power-button
::ctrlaltdel:/sbin/reboot
TABLE
# It ends when somebody hangs up on it with its answer unread.
[ -z "$AGENT" ] ||
    echo "::respawn:/usr/sbin/qemu-ga --method unix-listen --path /dev/virtio-ports/org.qemu.guest_agent.0" >>/etc/inittab

exec setpriv --bounding-set="$keep" /sbin/init
