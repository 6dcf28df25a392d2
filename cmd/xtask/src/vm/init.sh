#!/bin/sh
# First process of the test machine.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mkdir -p /dev/net /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo /sbin/modprobe > /proc/sys/kernel/modprobe
[ -e /dev/net/tun ] || { modprobe tun; mknod /dev/net/tun c 10 200 2>/dev/null; }
role=$(sed -n 's/.*warren\.role=\([a-z]*\).*/\1/p' /proc/cmdline)
modules="wireguard veth nf_tables nft_chain_nat nft_masq nft_ct nft_fib_inet nft_reject_inet sch_netem"
case $role in
  tests) test=machine modules="$modules bridge" ;;
  *) test=two_machines modules="$modules virtio_pci virtio_net" ;;
esac
for m in $modules; do
  modprobe "$m" || echo "no module $m"
done
ip link set lo up
code=0
export WARREN_BIN=/usr/bin/warren WARREN_SLOWNESS=10
"/tests/$test" --include-ignored --test-threads=1 --nocapture || code=$?
[ "$code" = 0 ] || [ "$role" = tests ] || tail -n 100 /tmp/*.log
echo "WARREN-VM-EXIT $code"
poweroff -f
