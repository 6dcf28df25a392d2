# A server and a node beside it, of the program in the bundle: what each holds in memory when pods can be attached.
bundle=$1
mkdir bundle cni
tar -C bundle --strip-components=1 -xzf "$bundle"
warren=$PWD/bundle/warren
mount -t tmpfs none /run
ip link set lo up
ip link add lan0 type veth peer name lan1
ip link set lan0 up
ip link set lan1 up
ip address add 192.0.2.1/24 dev lan0
"$warren" server --data-dir "$PWD/data" --advertise-address 192.0.2.1 --write-kubeconfig "$PWD/kubeconfig" \
  >server.log 2>&1 &
server=$!
"$warren" agent --data-dir "$PWD/data" --cni-conf-dir "$PWD/cni" --cni-bin-dir "$PWD/cni" --node-name node-1 \
  --server https://192.0.2.1:6443 --token-file "$PWD/data/server/agent-token" >agent.log 2>&1 &
agent=$!
tries=0
until "$warren" status --output json 2>/dev/null | grep -q '^  "ready": true'; do
  tries=$((tries + 1))
  test $tries -lt 300 || { cat server.log agent.log; exit 1; }
  sleep 0.1
done
for name in agent server; do
  pid=$agent
  test $name = agent || pid=$server
  awk -v name=$name '/^VmRSS/ { all = $2 } /^RssAnon/ { own = $2 }
    END { printf "%s: %.1f MiB resident, %.1f MiB of it anonymous\n", name, all / 1024, own / 1024 }' \
    /proc/$pid/status
done
