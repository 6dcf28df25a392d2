# A root with a shell and nothing else; scripts of the package run inside it.
package=$1
mkdir -p root/bin root/dpkg/info root/dpkg/updates
cp "$(command -v busybox)" root/bin/busybox
for applet in sh rm; do ln -s busybox root/bin/$applet; done
: >root/dpkg/status
list() { (cd root && find . -path ./dpkg -prune -o -print | LC_ALL=C sort); }
list >before
dpkg="dpkg --root=$PWD/root --admindir=$PWD/root/dpkg --log=/dev/null"
$dpkg --install "$package" >log 2>&1 || { cat log; exit 1; }
$dpkg --verify warren
chroot root /usr/bin/warren --version
# What the node made later, and only purging removes.
mkdir -p root/etc/warren root/var/lib/warren
: >root/etc/warren/config.yaml
: >root/var/lib/warren/identity
$dpkg --install "$package" >log 2>&1 || { cat log; exit 1; }
test -e root/etc/warren/config.yaml
$dpkg --remove warren >log 2>&1 || { cat log; exit 1; }
test ! -e root/usr/bin/warren
test -e root/var/lib/warren/identity
$dpkg --purge warren >log 2>&1 || { cat log; exit 1; }
list | grep -vx -e ./etc -e ./var -e ./var/lib >after
if ! cmp -s before after; then
  echo "left behind:" >&2
  diff before after >&2
  exit 1
fi
echo "installed, installed again, removed, purged: nothing is left"
