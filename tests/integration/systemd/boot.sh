#!/bin/sh
# Boot systemd as process 1 of a Debian root: boot.sh DIRECTORY ARCHIVE EXECUTABLE.
# Runs in fresh mount, pid, cgroup, uts, ipc and network namespaces, which take everything along.
set -eu
root=$1 archive=$2 executable=$3
mount --make-rprivate /
mount -t tmpfs -o mode=755 root "$root"
tar -xf "$archive" -C "$root"
install -m 755 "$executable" "$root/usr/local/bin/kowabunga"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 dev "$root/dev"
for device in null zero full random urandom tty; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm" "$root/.old"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs run "$root/run"
cd "$root"
pivot_root . .old
umount -l .old
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --log-target=null
