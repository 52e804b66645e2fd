# Runs for each boot as the first process of a new process namespace, with the host's files: mounts what a kernel would show, of
# which nothing can change the host, and goes into the root file system for good.
set -eu
cd "$FOLDER/layer/root"

read -r boot_id </proc/sys/kernel/random/uuid
# Read-only as a whole: most of what is under /proc/sys is the host's, and so is /proc/sysrq-trigger.
mount -t proc -o ro,nosuid,nodev,noexec proc proc
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
mount -t tmpfs -o mode=755,nosuid,nodev run run
mount -t tmpfs -o mode=755,nosuid dev dev
echo "$boot_id" >run/boot-id
mount --bind run/boot-id proc/sys/kernel/random/boot_id

mkdir -p dev/pts dev/disk/by-id dev/virtio-ports run/sshd run/lock
mkdir -m 1777 dev/shm
cd /dev
cp -a fd stdin stdout stderr null zero full random urandom tty ptmx "$OLDPWD/dev/"
cd "$OLDPWD"
ln -s /proc/1/fd/1 dev/ttyS0
mount -t devpts -o newinstance,nosuid,noexec,gid=5,mode=620,ptmxmode=666 devpts dev/pts
mount -o bind,ro "$FOLDER/disks" dev/disk/by-id
# What a kernel says of its disks, and where it has them. A link to one that is not there is as good as none.
mount -o bind,ro "$FOLDER/block" sys/block
for n in $(seq 0 30); do
    ln -s "disk/by-id/scsi-0QEMU_QEMU_HARDDISK_drive-scsi$n" "dev/scsi$n"
done
mount --bind "$FOLDER/ports" dev/virtio-ports
cp -r "$FOLDER/seed" run/

pivot_root . mnt
exec chroot . /bin/sh -c "$INSIDE" tiny-boot
