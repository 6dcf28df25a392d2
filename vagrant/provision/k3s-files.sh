#!/bin/sh
# k3s-files.sh SHARE: installs the bundle, and from SHARE/k3s the program k3s and archives of images.
set -eu
share=$1
here=$(dirname "$0")
sh "$here/bundle.sh" "$share" --k3s
mkdir -p /var/lib/rancher/k3s/agent/images
for file in "$share"/k3s/*; do
	case $file in
	*/k3s) install -m 755 "$file" /usr/local/bin/k3s ;;
	*.tar | *.tar.*) cp "$file" /var/lib/rancher/k3s/agent/images/ ;;
	esac
done
