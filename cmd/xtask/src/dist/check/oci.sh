# containerd with every place it writes to in this directory, or in a memory disk of this mount namespace.
image=$1
mount -t tmpfs none /run
mkdir -p /run/containerd root
mount -t tmpfs none root
printf 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n' >config.toml
containerd --config config.toml --root "$PWD/root" --state /run/containerd \
  --address /run/containerd/containerd.sock >log 2>&1 &
ctr="ctr --address /run/containerd/containerd.sock"
tries=0
until $ctr version >/dev/null 2>&1; do
  tries=$((tries + 1))
  test $tries -lt 100 || { cat log; exit 1; }
  sleep 0.1
done
$ctr image import --snapshotter native "$image"
name=$($ctr image list -q)
# Without a cgroup: those are the machine's.
said=$($ctr run --rm --cgroup "" --snapshotter native "$name" check /usr/bin/warren --version)
echo "$name says: $said"
case $said in "warren "*) ;; *) exit 1 ;; esac
