#!/bin/sh
# Installs Warren from the directory that this script is in: no network is needed, nothing is downloaded.
set -eu

usage() {
	cat <<'END'
usage: install.sh [--root DIR] [--k3s] [ROLE [FLAGS]]
       install.sh [--root DIR] --uninstall

Checks the files of this bundle, then installs:

  usr/local/bin/warren                              the program
  usr/local/share/doc/warren/                       licences, list of components
  var/lib/rancher/k3s/agent/images/                 the container image, with --k3s

With a ROLE, `warren install` makes services of it, starts them, and waits until pods can be attached:

  server [--advertise-address IP]                   control plane, and a node of its own cluster
  agent --server URL --token-file FILE              a node that joins it
  kubernetes --kubeconfig FILE                      a node of a cluster that has an API of its own

  --root DIR    install below DIR instead of /, and start nothing
  --k3s         put the container image, and the manifests when the bundle has them, where k3s finds them
  --uninstall   remove what this script installed, after `warren uninstall`
END
}

fail() {
	echo "install.sh: $1" >&2
	exit 1
}

root=
k3s=
uninstall=
while [ $# -gt 0 ]; do
	case $1 in
	--root)
		[ $# -gt 1 ] || fail "--root needs a directory"
		root=${2%/}
		shift
		;;
	--k3s) k3s=yes ;;
	--uninstall) uninstall=yes ;;
	-h | --help)
		usage
		exit 0
		;;
	server | agent | kubernetes) break ;;
	*)
		usage >&2
		fail "what is $1?"
		;;
	esac
	shift
done

cd "$(dirname "$0")"
bin=$root/usr/local/bin
doc=$root/usr/local/share/doc/warren
images=$root/var/lib/rancher/k3s/agent/images
manifests=$root/var/lib/rancher/k3s/server/manifests

# A machine that loses its power sees the old file or the new one.
put() {
	mkdir -p "$3"
	cp "$2" "$3/.$2.new"
	chmod "$1" "$3/.$2.new"
	mv "$3/.$2.new" "$3/$2"
	echo "installed $3/$2"
}

if [ -n "$uninstall" ]; then
	for file in "$bin/warren" "$doc" "$images"/warren-*-image-linux-*.tar "$manifests/warren.yaml"; do
		if [ -e "$file" ]; then
			rm -r "$file"
			echo "removed $file"
		fi
	done
	exit 0
fi

sha256sum --check --quiet SHA256SUMS || fail "the bundle is damaged; copy it anew"
[ -z "$root" ] || [ -d "$root" ] || fail "$root is no directory"
[ -n "$root" ] || [ "$(id -u)" = 0 ] || fail "run it as root"
./warren --version >/dev/null || fail "this bundle is not for a machine of type $(uname -m)"

if [ $# -eq 0 ]; then
	put 755 warren "$bin"
fi
for file in LICENSE licenses.txt sbom.cdx.json; do
	put 644 "$file" "$doc"
done
if [ -n "$k3s" ]; then
	for image in warren-*-image-linux-*.tar; do
		put 644 "$image" "$images"
	done
	if [ -e warren.yaml ]; then
		put 644 warren.yaml "$manifests"
	fi
fi
if [ $# -gt 0 ]; then
	role=$1
	shift
	exec ./warren install "$role" --root "$root/" "$@"
fi
echo "type now: warren install --help"
