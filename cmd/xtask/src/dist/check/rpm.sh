package=$1
rpm="rpm --root=$PWD/root --dbpath=/rpm"
mkdir -p root/bin root/rpm
cp "$(command -v busybox)" root/bin/busybox
for applet in sh rm; do ln -s busybox root/bin/$applet; done
list() { (cd root && find . ! -type d ! -path './rpm/*' | LC_ALL=C sort); }
list >before
$rpm --checksig --nosignature "$package"
# The database of this root knows no package that has /bin/sh.
$rpm --install --nodeps --nosignature "$package"
$rpm --verify --nodeps warren
chroot root /usr/bin/warren --version
$rpm --erase warren
list >after
if ! cmp -s before after; then
  echo "left behind:" >&2
  diff before after >&2
  exit 1
fi
echo "installed, verified, erased: nothing is left"
