# No link is up, not even lo: whatever wants a network fails.
bundle=$1
mkdir bundle root
tar -C bundle --strip-components=1 -xzf "$bundle"
bundle/install.sh --root "$PWD/root" --k3s
chroot root /usr/local/bin/warren --version
bundle/install.sh --root "$PWD/root" --uninstall
left=$(find root ! -type d)
test -z "$left" || { echo "left behind: $left" >&2; exit 1; }
mkdir tree
bundle/install.sh --root "$PWD/tree" agent --server https://192.0.2.1:6443 --token-file /etc/warren/token
cmp bundle/warren tree/usr/local/bin/warren
grep -q '^server: "https://192.0.2.1:6443"' tree/etc/warren/config.yaml
printf x >>bundle/warren
if bundle/install.sh --root "$PWD/root" 2>/dev/null; then
  echo "a damaged bundle was installed" >&2
  exit 1
fi
test -z "$(find root ! -type d)"
echo "installed without a network, alone and as a node; removed, refused when damaged: nothing is left"
