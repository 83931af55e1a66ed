#!/bin/bash
# A systemd of its own that ends with the script of a test: tests/system/test_systemd.py.
#
#     boot_systemd.sh SHARE UNITS PREFIX READABLE...
#
# It sees the files of this machine, and whatever it writes lands in memory. SHARE is the one folder that both
# see (/mnt/share there); SHARE/trial.sh is run when it is up, its output goes to SHARE/trial.log. UNITS holds
# the units to install, PREFIX becomes /opt/apbmm; units may read READABLE.
set -e
if [ "$1" != inside ]; then
    # The control groups below it are all that is left of the trial, until the test removes them.
    for tree in /sys/fs/cgroup /sys/fs/cgroup/*; do
        [ -w "$tree/cgroup.procs" ] && mkdir "$tree/apbmm-trial" || continue
        # A group of CPUs has none of its own at first, and admits nobody.
        for own in cpuset.cpus cpuset.mems; do
            [ -e "$tree/$own" ] && cat "$tree/$own" > "$tree/apbmm-trial/$own"
        done
        echo $$ > "$tree/apbmm-trial/cgroup.procs"
    done
    exec unshare --pid --fork --kill-child --mount --cgroup --uts --ipc --net bash "$0" inside "$@"
fi
share=$2 units=$3 prefix=$4
shift 4

mount --make-rprivate /
memory=$share/memory
mkdir -p "$memory" && mount -t tmpfs memory "$memory"
root=$memory/root
mkdir -p "$memory"/{upper,work} "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$memory/upper,workdir=$memory/work" "$root"

mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount --bind /sys "$root/sys"
mount -t tmpfs cgroup "$root/sys/fs/cgroup"
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
else
    mkdir "$root"/sys/fs/cgroup/{systemd,unified}
    mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup/unified"
fi
mount -t tmpfs run "$root/run"
mount -t tmpfs dev "$root/dev"
for device in null:3 zero:5 full:7 random:8 urandom:9; do
    mknod -m 666 "$root/dev/${device%:*}" c 1 "${device#*:}"
done
mknod -m 666 "$root/dev/tty" c 5 0
mknod -m 600 "$root/dev/console" c 5 1
mkdir "$root"/dev/{shm,pts}
mount -t tmpfs shm "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for number in 0:stdin 1:stdout 2:stderr; do
    ln -s "fd/${number%:*}" "$root/dev/${number#*:}"
done
mkdir -p "$root/mnt/share" && mount --bind "$share" "$root/mnt/share"

# What an administrator does, as the README says.
chroot "$root" useradd --system --home-dir /var/lib/apbmm apbmm
rm -rf "$root/opt/apbmm" && ln -s "$prefix" "$root/opt/apbmm"
cp "$units"/*.service "$units"/*.target "$root/etc/systemd/system/"
install -D -m 644 "$units/apbmm.env.example" "$root/etc/apbmm/apbmm.env"
cp "$share/run.toml" "$root/etc/apbmm/run.toml"
chown -R 0:0 "$root/etc/apbmm"

# What only this trial needs: a service without rights reads an installation in somebody's home or in /tmp.
for path in "$@"; do
    readable=$path
    while [ "$readable" != / ]; do
        chmod o+rx "$root$readable"
        readable=$(dirname "$readable")
    done
    for unit in apbmm-master apbmm-worker@; do
        mkdir -p "$root/etc/systemd/system/$unit.service.d"
        printf '[Service]\nBindReadOnlyPaths=%s\n' "$path" \
            >> "$root/etc/systemd/system/$unit.service.d/trial.conf"
    done
done
for unit in apbmm-master apbmm-worker@; do
    cat "$share/timings.conf" >> "$root/etc/systemd/system/$unit.service.d/trial.conf"
done
# An installation in /tmp would be hidden by the one, emptied by the other.
ln -s /dev/null "$root/etc/systemd/system/tmp.mount"
mkdir -p "$root/etc/tmpfiles.d" && ln -sf /dev/null "$root/etc/tmpfiles.d/tmp.conf"
rm -f "$root"/etc/systemd/system/*.wants/*
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
cat > "$root/etc/systemd/system/trial.service" <<'UNIT'
[Service]
Type=oneshot
ExecStart=/bin/bash /mnt/share/trial.sh
StandardOutput=append:/mnt/share/trial.log
StandardError=inherit
TimeoutStartSec=900
ExecStopPost=/bin/systemctl --force --force poweroff
UNIT
ln -s ../trial.service "$root/etc/systemd/system/multi-user.target.wants/trial.service"
ln -sf /lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"

cd "$root"
mkdir -p former && pivot_root . former
umount -l /former
export container=trial
exec /lib/systemd/systemd --system --log-target=console --log-level=notice < /dev/null
