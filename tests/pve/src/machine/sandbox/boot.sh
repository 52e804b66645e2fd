# Runs for each boot as the first process of a new process namespace, with the host's files: mounts what a kernel would show, of
# which nothing can change the host, and goes into the root file system for good.
set -eu
cd "$FOLDER/layer/root"

read -r boot_id </proc/sys/kernel/random/uuid
# Read-only as a whole: most of what is under /proc/sys is the host's, and so is /proc/sysrq-trigger.
mount -t proc -o ro,nosuid,nodev,noexec proc proc
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
mount -t tmpfs -o mode=755,nosuid,nodev run run
echo "$boot_id" >run/boot-id
mkdir run/sshd run/lock
mount --bind run/boot-id proc/sys/kernel/random/boot_id
# The host's disks are none of its own.
mount -o bind,ro "$FOLDER/block" sys/block
# Where temporary files are, devices may be out of use.
mount -o bind,dev,nosuid "$FOLDER/dev" dev
mount -t devpts -o newinstance,nosuid,noexec,gid=5,mode=620,ptmxmode=666 devpts dev/pts
cp -r "$FOLDER/seed" run/

pivot_root . mnt
exec chroot . /bin/sh -c "$INSIDE" tiny-boot
