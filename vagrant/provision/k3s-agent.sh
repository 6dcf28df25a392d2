#!/bin/sh
# k3s-agent.sh SHARE ADDRESS SERVER: a k3s agent; Warren comes to it as a DaemonSet, from the image in the bundle.
set -eu
share=$1 address=$2 server=$3
here=$(dirname "$0")
sh "$here/k3s-files.sh" "$share"
mkdir -p /etc/rancher/k3s
(umask 077 && cp "$share/token" /etc/rancher/k3s/token)
rm "$share/token"
sh "$here/service.sh" k3s /usr/local/bin/k3s agent --node-ip "$address" --server "https://$server:6443" \
	--token-file /etc/rancher/k3s/token
