# Runs as the first process of new mount, process, host name and IPC namespaces, with the host's files: makes the sandbox's root
# file system, and boots it until it does not want to be booted again. All mounts are of these namespaces and go with them.
set -eu

# The host's /proc is still there, so this is our number on the host.
read -r pid rest </proc/self/stat

cd "$FOLDER"
mount -t tmpfs -o mode=755,size=1g layer layer
cd layer
mkdir image upper work root
mount -t ext4 -o "loop,ro,noload,offset=$OFFSET" "$IMAGE" image
mount -t overlay -o lowerdir=image,upperdir=upper,workdir=work overlay root

# The sandbox's /dev. The disks are there already, and more may come.
cd /dev
cp -a fd stdin stdout stderr null zero full random urandom tty ptmx "$FOLDER/dev/"
cd "$FOLDER/dev"
ln -s /proc/1/fd/1 ttyS0
mkdir pts
mkdir -m 1777 shm
mkfifo virtio-ports/button

echo "$pid"
# From here on both are the console.
exec 2>&1

# In a process namespace of its own, reboot(2) ends just that one: by SIGHUP for a reboot, by SIGINT for power-off.
hangup=129 status=$hangup
while [ "$status" = "$hangup" ]; do
    status=0
    unshare --mount --pid --fork sh -c "$BOOT" sandbox || status=$?
done
